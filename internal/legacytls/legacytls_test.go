package legacytls

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestGoClient(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12} {
		for _, suite := range []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_256_CBC_SHA} {
			for _, auth := range []bool{false, true} {
				name := tls.VersionName(version) + " " + tls.CipherSuiteName(suite)
				if auth {
					name += " with certificate"
				}
				t.Run(name, func(t *testing.T) {
					modern, client := modernConfig(), clientConfig(version, suite)
					client.ServerName = "pbx.example.net"
					client.NextProtos = []string{"http/1.1"} // ignored
					if auth {
						modern.ClientAuth = tls.RequireAnyClientCert
						client.Certificates = []tls.Certificate{phoneIdentity()}
					}
					l := newLab(t, modern, &Config{}) // everything from the other configuration
					c := tls.Client(l.dial(t), client)
					echo(t, c, "a message")
					echo(t, c, strings.Repeat("0123456789", 6000))
					s, ours := c.ConnectionState(), await(t, l.states, "handshake")
					if s.Version != version || s.CipherSuite != suite || ours.Version != version || ours.CipherSuite != suite || ours.ServerName != "pbx.example.net" {
						t.Errorf("client %+v\nserver %+v", s, ours)
					}
					if got := len(ours.PeerCertificates) == 1 && ours.PeerCertificates[0].Equal(phoneIdentity().Leaf); got != auth {
						t.Errorf("client's certificate: %v", ours.PeerCertificates)
					}
					if err := c.CloseWrite(); err != nil {
						t.Error(err)
					}
					if n, err := c.Read(make([]byte, 1)); err != io.EOF {
						t.Errorf("after the end: %d, %v", n, err)
					}
				})
			}
		}
	}
}

// A Write of up to 16384 bytes is one record and one write below. This is what the package is there for.
func TestOneWriteIsOneRecord(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12} {
		for _, tc := range []struct{ size, records int }{{1, 1}, {2, 1}, {100, 1}, {1290, 1}, {16383, 1}, {16384, 1}, {16385, 2}, {40000, 3}} {
			ours, theirs := net.Pipe()
			tap := &wireTap{Conn: ours}
			srv := Server(tap, serverConfig())
			client := tls.Client(theirs, clientConfig(version, tls.TLS_RSA_WITH_AES_128_CBC_SHA))
			hands := make(chan error, 1)
			go func() { hands <- client.Handshake() }()
			if err := srv.HandshakeContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-hands; err != nil {
				t.Fatal(err)
			}
			want := bytes.Repeat([]byte{7}, tc.size)
			go func() {
				_, err := srv.Write(want)
				hands <- err
			}()
			got := make([]byte, tc.size)
			if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, want) {
				t.Fatal(err)
			}
			if err := <-hands; err != nil {
				t.Fatal(err)
			}
			if n := tap.seen(); len(n) != tc.records {
				t.Errorf("%s: %d bytes make records of %v, want %d", tls.VersionName(version), tc.size, n, tc.records)
			}
			ours.Close()
			theirs.Close()
		}
	}
}

// When this fails, crypto/tls no longer splits, and this package may not be needed.
func TestCryptoTLSSplits(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	tap := &wireTap{Conn: ours}
	srv := tls.Server(tap, &tls.Config{
		Certificates: []tls.Certificate{serverIdentity()}, MinVersion: tls.VersionTLS10, DynamicRecordSizingDisabled: true,
		CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA},
	})
	client := tls.Client(theirs, clientConfig(tls.VersionTLS10, tls.TLS_RSA_WITH_AES_128_CBC_SHA))
	done := make(chan error, 1)
	go func() {
		_, err := srv.Write(make([]byte, 100))
		done <- err
	}()
	if _, err := io.ReadFull(client, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := tap.seen(); len(n) != 2 {
		t.Errorf("records of %v", n)
	}
}

func TestEmptyRecords(t *testing.T) {
	cfg := serverConfig()
	cfg.EmptyRecords = true
	for _, tc := range []struct {
		version uint16
		records int
	}{{tls.VersionTLS10, 2}, {tls.VersionTLS11, 1}} {
		var tap *wireTap
		l := newLab(t, modernConfig(), cfg, func(l *lab) { l.wrap = func(c net.Conn) net.Conn { tap = &wireTap{Conn: c}; return tap } })
		c := tls.Client(l.dial(t), clientConfig(tc.version, tls.TLS_RSA_WITH_AES_256_CBC_SHA))
		echo(t, c, "x") // one byte, which Go's client does not split
		if n := tap.seen(); len(n) != tc.records {
			t.Errorf("%s: records of %v, want %d", tls.VersionName(tc.version), n, tc.records)
		}
	}
}

// Everybody who can do better is served by crypto/tls on the same port, at its best.
func TestModernClientsOnTheSamePort(t *testing.T) {
	for _, tc := range []struct {
		name    string
		client  *tls.Config
		version uint16
	}{
		{"TLS 1.3", &tls.Config{}, tls.VersionTLS13},
		{"TLS 1.2", &tls.Config{MaxVersion: tls.VersionTLS12}, tls.VersionTLS12},
		{"TLS 1.2, and old suites as well", &tls.Config{MaxVersion: tls.VersionTLS12, MinVersion: tls.VersionTLS10, CipherSuites: []uint16{
			tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}, tls.VersionTLS12},
	} {
		t.Run(tc.name, func(t *testing.T) {
			modern := modernConfig()
			modern.NextProtos = []string{"http/1.1"}
			l := newLab(t, modern, &Config{})
			tc.client.InsecureSkipVerify, tc.client.NextProtos = true, modern.NextProtos
			c := tls.Client(l.dial(t), tc.client)
			echo(t, c, "a message")
			s := await(t, l.states, "handshake")
			if s.Version != tc.version || strings.Contains(tls.CipherSuiteName(s.CipherSuite), "TLS_RSA") || s.NegotiatedProtocol != "http/1.1" {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestAcceptChooses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		legacy *Config
		client *tls.Config
		ours   bool
		err    string
	}{
		{"old client", &Config{}, clientConfig(tls.VersionTLS10, tls.TLS_RSA_WITH_AES_128_CBC_SHA), true, ""},
		{"old client, switched off", nil, clientConfig(tls.VersionTLS10, tls.TLS_RSA_WITH_AES_128_CBC_SHA), false, "unsupported versions"},
		{"new client", &Config{}, &tls.Config{InsecureSkipVerify: true}, false, ""},
		{"old client without RSA key exchange", &Config{}, clientConfig(tls.VersionTLS10, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA), true, "no suite in common"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			client := tls.Client(theirs, tc.client)
			hands := make(chan error, 1)
			go func() { hands <- client.Handshake() }()
			c, err := Accept(t.Context(), ours, modernConfig(), tc.legacy)
			if clientErr := <-hands; (clientErr == nil) != (tc.err == "") {
				t.Errorf("client: %v", clientErr)
			}
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("got %v, want %q", err, tc.err)
				}
				if _, err := theirs.Write([]byte{1}); !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("connection not closed: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, got := c.(*Conn); got != tc.ours {
				t.Errorf("served by %T", c)
			}
			ours.Close()
			theirs.Close()
		})
	}
}

// What would be passed over silently is refused aloud.
func TestConfigurationsThatDoNotFit(t *testing.T) {
	for _, tc := range []struct {
		name   string
		modern *tls.Config
		want   string
	}{
		{"chains to be verified", &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven}, "ClientAuth VerifyClientCertIfGiven is not supported"},
		{"other hook", &tls.Config{VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error { return nil }}, "VerifyPeerCertificate is not supported"},
	} {
		ours, theirs := net.Pipe()
		if c, err := Accept(t.Context(), ours, tc.modern, &Config{}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, %v", tc.name, c, err)
		}
		theirs.Close()
	}
	for _, tc := range []struct {
		name  string
		cfg   Config
		alert byte
	}{
		{"EC key alone", Config{Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { c := ecServerIdentity(); return &c, nil }}, alertHandshakeFailure},
		{"no certificate", Config{Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none") }}, alertInternalError},
		{"nil certificate", Config{Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }}, alertInternalError},
		{"nothing", Config{}, alertInternalError},
	} {
		p, s := newPipe(t, &tc.cfg)
		if err := p.handshake(); err != fatal(tc.alert) {
			t.Errorf("%s: %v", tc.name, err)
		}
		if err := <-s.hands; err == nil {
			t.Errorf("%s: no error", tc.name)
		}
	}
}

// Of several certificates the RSA one is taken.
func TestCertificateForOldPhones(t *testing.T) {
	l := newLab(t, &tls.Config{Certificates: []tls.Certificate{ecServerIdentity(), serverIdentity()}}, &Config{})
	c := tls.Client(l.dial(t), clientConfig(tls.VersionTLS10, tls.TLS_RSA_WITH_AES_128_CBC_SHA))
	echo(t, c, "a message")
	if got := c.ConnectionState().PeerCertificates[0]; !got.Equal(serverIdentity().Leaf) {
		t.Errorf("served with the certificate of %v", got.Subject)
	}
}

func TestVerifyConnection(t *testing.T) {
	stranger := errors.New("not a phone of ours")
	modern := modernConfig()
	modern.ClientAuth = tls.RequestClientCert
	asked := make(chan tls.ConnectionState, 10)
	var refuse bool
	modern.VerifyConnection = func(cs tls.ConnectionState) error {
		asked <- cs
		if refuse {
			return stranger
		}
		return nil
	}
	l := newLab(t, modern, &Config{Sessions: NewSessions(10, time.Minute)})
	p := &puppet{Conn: l.dial(t), t: t}
	id := phoneIdentity()
	p.cert = &id
	if err := p.handshake(); err != nil {
		t.Fatal(err)
	}
	if cs := await(t, asked, "question"); len(cs.PeerCertificates) != 1 || cs.HandshakeComplete || cs.DidResume || cs.Version != tls.VersionTLS10 {
		t.Errorf("asked about %+v", cs)
	}
	await(t, l.states, "handshake")
	p.Close()

	refuse = true // as after a revocation
	for _, resume := range []*session{p.session(), nil} {
		q := &puppet{Conn: l.dial(t), t: t, cert: &id, resume: resume}
		if err := q.handshake(); err != fatal(alertBadCertificate) {
			t.Errorf("resumed %v: %v", resume != nil, err)
		}
		if cs := await(t, asked, "question"); cs.DidResume != (resume != nil) || len(cs.PeerCertificates) != 1 {
			t.Errorf("asked about %+v", cs)
		}
		if err := await(t, l.errs, "error"); !errors.Is(err, stranger) {
			t.Errorf("got %v", err)
		}
	}
	refuse = false
	q := &puppet{Conn: l.dial(t), t: t, cert: &id, resume: p.session()}
	if err := q.handshake(); err != nil {
		t.Fatal(err)
	}
	if await(t, l.states, "handshake").DidResume {
		t.Error("a session that was refused lives on")
	}
}

func TestReadDeadlineLosesNothing(t *testing.T) {
	ours, theirs := socketPair(t)
	defer ours.Close()
	defer theirs.Close()
	srv := Server(ours, serverConfig())
	q := &puppet{Conn: theirs, t: t}
	hands := make(chan error, 1)
	go func() { hands <- q.handshake() }()
	if err := srv.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-hands; err != nil {
		t.Fatal(err)
	}
	const text = "one message of 20 by"
	record := append([]byte{typeApplication, 3, 1, 0, 48}, q.sealer.Seal(nil, headerOf(q), []byte(text))...)
	got := make([]byte, 100)
	for i := range record {
		if _, err := theirs.Write(record[i : i+1]); err != nil {
			t.Fatal(err)
		}
		last := i == len(record)-1
		srv.SetReadDeadline(time.Now().Add(time.Millisecond))
		if last {
			srv.SetReadDeadline(time.Now().Add(labTime))
		}
		n, err := srv.Read(got)
		if !last && !errors.Is(err, os.ErrDeadlineExceeded) || last && (err != nil || string(got[:n]) != text) {
			t.Fatalf("byte %d: %q, %v", i, got[:n], err)
		}
	}
}

func TestEndings(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(p *puppet)
		want error
	}{
		{"close_notify", func(p *puppet) { p.record(typeAlert, []byte{levelWarning, alertCloseNotify}) }, nil},
		{"end between records", func(p *puppet) { p.Close() }, nil},
		{"end in a header", func(p *puppet) { p.Conn.Write([]byte{typeApplication, 3}); p.Close() }, io.ErrUnexpectedEOF},
		{"end in a body", func(p *puppet) { p.Conn.Write([]byte{typeApplication, 3, 1, 0, 32, 1, 2, 3}); p.Close() }, io.ErrUnexpectedEOF},
		{"fatal alert", func(p *puppet) { p.record(typeAlert, []byte{levelFatal, alertDecodeError}) }, tls.AlertError(alertDecodeError)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := serverConfig()
			cfg.Sessions = NewSessions(10, time.Minute)
			p, s := newPipe(t, cfg)
			if err := p.handshake(); err != nil {
				t.Fatal(err)
			}
			go io.Copy(io.Discard, p.Conn)
			tc.end(p)
			if err := await(t, s.end, "end"); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if kept := cfg.Sessions.Len() == 1; kept == (tc.name == "fatal alert") {
				t.Errorf("session kept: %v", kept)
			}
		})
	}
}

func TestClose(t *testing.T) {
	p, s := newPipe(t, serverConfig())
	if err := p.handshake(); err != nil {
		t.Fatal(err)
	}
	<-s.hands
	closed := make(chan error, 1)
	go func() {
		if err := s.server.CloseWrite(); err != nil {
			t.Error(err)
		}
		if _, err := s.server.Write([]byte{1}); err == nil {
			t.Error("written after CloseWrite")
		}
		s.server.Close()
		closed <- s.server.Close() // and again
	}()
	if err := p.ending(); err != (errAlert{levelWarning, alertCloseNotify}) {
		t.Errorf("got %v", err)
	}
	<-closed
	if err := Server(nil, serverConfig()).CloseWrite(); err == nil {
		t.Error("CloseWrite before the handshake")
	}
}

// Close does not wait for a writer whose peer takes nothing.
func TestCloseWhileWriting(t *testing.T) {
	p, s := newPipe(t, serverConfig())
	if err := p.handshake(); err != nil {
		t.Fatal(err)
	}
	<-s.hands
	written := make(chan error, 1)
	go func() {
		for {
			if _, err := s.server.Write(make([]byte, 100)); err != nil {
				written <- err
				return
			}
		}
	}()
	if _, _, err := p.receive(); err != nil { // it writes, and will hang
		t.Fatal(err)
	}
	start := time.Now()
	s.server.Close()
	if took := time.Since(start); took > labTime/2 {
		t.Errorf("took %v", took)
	}
	if err := await(t, written, "end of writing"); err == nil {
		t.Error("no error")
	}
}

func TestContextEndsHandshake(t *testing.T) {
	for _, accept := range []bool{false, true} {
		ours, theirs := net.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			var err error
			if accept {
				_, err = Accept(ctx, ours, modernConfig(), serverConfig())
			} else {
				err = Server(ours, serverConfig()).HandshakeContext(ctx)
			}
			done <- err
		}()
		theirs.Write([]byte{typeHandshake, 3}) // it reads
		cancel()
		if err := await(t, done, "end"); !errors.Is(err, context.Canceled) {
			t.Errorf("accept %v: %v", accept, err)
		}
		theirs.Close()
	}
}

// In the middle somebody makes a client that knows TLS 1.2 look like one that does not. The mark in the server's random tells it.
func TestDowngradeIsNoticed(t *testing.T) {
	l := newLab(t, modernConfig(), &Config{})
	mid := &forger{Conn: l.dial(t)}
	c := tls.Client(mid, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}})
	if err := c.Handshake(); err == nil || !strings.Contains(err.Error(), "downgrade attempt detected") {
		t.Errorf("got %v", err)
	}
	if !mid.done {
		t.Error("nothing was changed on the way")
	}
}

// forger rewrites a ClientHello of Go's client: TLS 1.0, and no list of versions.
type forger struct {
	net.Conn
	done bool
}

func (f *forger) Write(b []byte) (int, error) {
	if !f.done {
		out := slices.Clone(b)
		copy(out[headerSize+messageHeader:], []byte{3, 1})
		if i := bytes.Index(out, []byte{0, extSupportedVersions, 0, 7, 6}); i > 0 {
			out[i], f.done = 0x7f, true
		}
		b = out
	}
	return f.Conn.Write(b)
}
