package capf

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a server with its backend.
type bench struct {
	*Server
	fake *fake
}

func install(kind KeyKind) Device { return Device{Operation: Install, Key: kind} }

// serverIdentity is the recordings' CAPF certificate.
func serverIdentity() (*tls.Certificate, error) {
	b, err := os.ReadFile("testdata/keys/capf.pem")
	if err != nil {
		return nil, err
	}
	c, err := tls.X509KeyPair(b, b)
	return &c, err
}

func serve(t testing.TB, dev Device, change ...func(*Options)) *bench {
	t.Helper()
	b := &bench{fake: &fake{dev: dev}}
	o := Options{Address: "127.0.0.1:0", Certificate: serverIdentity, Backend: b.fake}
	for _, c := range change {
		c(&o)
	}
	var err error
	if b.Server, err = New(o); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.Run(context.Background()) }() // ends with Stop
	t.Cleanup(func() {
		b.Stop()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	return b
}

func (b *bench) connect(ctx context.Context) (*tls.Conn, error) {
	c, err := Dial(ctx, b.Addr().String(), func(*x509.Certificate) error { return nil }, 0)
	if err != nil {
		return nil, err
	}
	return c.(*tls.Conn), nil
}

func (b *bench) dial(t testing.TB) *tls.Conn {
	t.Helper()
	c, err := b.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// settled waits until no session is open.
func (b *bench) settled(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); b.Stats().Open > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a session does not end")
		}
	}
}

func TestServerCertificateIsChecked(t *testing.T) {
	b := serve(t, install(P256))
	wrong := errors.New("not in the trust list")
	if c, err := Dial(t.Context(), b.Addr().String(), func(*x509.Certificate) error { return wrong }, 0); !errors.Is(err, wrong) {
		t.Errorf("got %v, %v; want %v", c, err, wrong)
	}
}

// records counts the TLS records of application data that come from a server.
type records struct {
	net.Conn
	mu   sync.Mutex
	buf  []byte
	data int
}

func (r *records) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buf = append(r.buf, p[:n]...)
	for len(r.buf) >= 5 {
		size := 5 + int(binary.BigEndian.Uint16(r.buf[3:]))
		if len(r.buf) < size {
			break
		}
		if r.buf[0] == 23 {
			r.data++
		}
		r.buf = r.buf[size:]
	}
	return n, err
}

// Phones stall when a message comes in two records (§1): an installation is four messages of the server, so four records,
// also when the certificate is larger than a segment.
func TestOneRecordPerMessage(t *testing.T) {
	key, err := GenerateKey(RSA4096)
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []*tls.Config{
		{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12},
		{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}},
	} {
		t.Run(tls.VersionName(cfg.MaxVersion), func(t *testing.T) {
			b := serve(t, install(RSA4096), func(o *Options) { o.Legacy = true })
			b.fake.cert = make([]byte, 1400) // more than a segment holds
			raw, err := net.Dial("tcp", b.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			rec := &records{Conn: raw}
			c := tls.Client(rec, cfg)
			client := &Client{Device: phone, GenerateKey: func(KeyKind) (crypto.Signer, error) { return key, nil }}
			res, err := client.Run(t.Context(), c)
			if err != nil || res.Reason != ReasonDone {
				t.Fatalf("%+v, %v", res, err)
			}
			if rec.data != 4 {
				t.Errorf("%d records, want 4", rec.data)
			}
		})
	}
}

// dribble writes one byte at a time, each as a record of its own.
type dribble struct{ *tls.Conn }

func (d dribble) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := d.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

func TestOneBytePerRecordIsRead(t *testing.T) {
	b := serve(t, install(P256))
	res, err := (&Client{Device: phone, Progress: 3}).Run(t.Context(), dribble{b.dial(t)})
	if err != nil || res.Reason != ReasonDone {
		t.Errorf("%+v, %v", res, err)
	}
}

// 200 clients that stall in every way there is; a phone is served as if they were not there.
func TestStalledClientsHoldNobodyUp(t *testing.T) {
	b := serve(t, install(P256), func(o *Options) {
		o.MaxConnsPerAddress = 1000
		o.Timeouts.Handshake = time.Minute // the stalled stay stalled on a slow machine too
		o.Timeouts.Auth = time.Minute
	})
	key, err := GenerateKey(P256)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		raw, err := net.Dial("tcp", b.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		switch i % 5 {
		case 0: // silent
		case 1: // half a TLS record
			raw.Write([]byte{22, 3, 1, 2, 0, 1, 0})
		default:
			c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
			c.SetDeadline(time.Now().Add(20 * time.Second))
			if err := c.Handshake(); err != nil {
				t.Fatal(err)
			}
			switch i % 5 {
			case 3: // half a header
				c.Write([]byte{0x55, 2, 0})
			case 4: // named, and then silent while the key is awaited
				m, err := ReadMessage(c)
				if err != nil {
					t.Fatal(err)
				}
				WriteMessage(c, Message{Session: m.Session, Body: &AuthResponse{Reason: 1, Version: 3, DeviceName: phone}})
			}
		}
	}
	if open := b.Stats().Open; open < 200 {
		t.Errorf("%d connections are open, want 200", open)
	}
	start := time.Now()
	for range 20 {
		client := &Client{Device: phone, GenerateKey: func(KeyKind) (crypto.Signer, error) { return key, nil }}
		if res, err := client.Run(t.Context(), b.dial(t)); err != nil || res.Reason != ReasonDone {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	t.Logf("20 enrolments beside 200 stalled clients: %v", time.Since(start))
}

func TestSilenceEnds(t *testing.T) {
	// Only what is awaited is short, so that a slow machine does not end the session earlier.
	for _, tc := range []struct {
		name     string
		timeouts Timeouts
		do       func(t *testing.T, b *bench) net.Conn
	}{
		{"before TLS", Timeouts{Handshake: 200 * time.Millisecond}, func(t *testing.T, b *bench) net.Conn {
			c, err := net.Dial("tcp", b.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			return c
		}},
		{"before the name", Timeouts{Auth: 200 * time.Millisecond}, func(t *testing.T, b *bench) net.Conn { return b.dial(t) }},
		{"before the key, alive", Timeouts{Key: 400 * time.Millisecond}, func(t *testing.T, b *bench) net.Conn {
			c := b.dial(t)
			m, err := ReadMessage(c)
			if err != nil {
				t.Fatal(err)
			}
			for _, body := range []Body{&AuthResponse{Reason: 1, Version: 3, DeviceName: phone}, &InProgress{}, &InProgress{}} {
				if err := WriteMessage(c, Message{Session: m.Session, Body: body}); err != nil {
					t.Fatal(err)
				}
			}
			return c
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := serve(t, install(P256), func(o *Options) { o.Timeouts = tc.timeouts })
			c := tc.do(t, b)
			defer c.Close()
			c.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.Copy(io.Discard, c); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
				t.Errorf("the server goes on waiting: %v", err)
			}
			b.settled(t)
			if s := b.Stats(); s.Lost != 1 || s.Open != 0 {
				t.Errorf("counters %+v", s)
			}
		})
	}
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

func TestConnectionLimits(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Options)
		want   int
	}{
		{"in all", func(o *Options) { o.MaxConns = 3 }, 3},
		{"of one address", func(o *Options) { o.MaxConnsPerAddress = 2 }, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := serve(t, install(P256), tc.change)
			var held []*tls.Conn
			for range tc.want {
				held = append(held, b.dial(t))
			}
			if c, err := b.connect(t.Context()); err == nil {
				c.Close()
				t.Error("one more was served")
			}
			if got := b.Stats().Turned; got != 1 {
				t.Errorf("%d turned away, want 1", got)
			}
			for _, c := range held {
				c.Close()
			}
			b.settled(t)
			if c, err := b.connect(t.Context()); err != nil {
				t.Errorf("afterwards: %v", err)
			} else {
				c.Close()
			}
		})
	}
}

func TestTLSVersions(t *testing.T) {
	for _, tc := range []struct {
		name   string
		legacy bool
		client *tls.Config
		want   bool
	}{
		{"1.3", false, &tls.Config{}, true},
		{"1.2", false, &tls.Config{MaxVersion: tls.VersionTLS12}, true},
		{"1.1", false, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		{"1.0", false, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10,
			CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}}, false},
		{"1.0, legacy", true, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10,
			CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}}, true},
		{"1.2, RSA alone, legacy", true, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_256_CBC_SHA}}, true},
		{"1.2, legacy", true, &tls.Config{MaxVersion: tls.VersionTLS12}, true},
		{"1.3, legacy", true, &tls.Config{}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := serve(t, install(P256), func(o *Options) { o.Legacy = tc.legacy })
			raw, err := net.Dial("tcp", b.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			tc.client.InsecureSkipVerify = true
			res, err := (&Client{Device: phone}).Run(t.Context(), tls.Client(raw, tc.client))
			if (err == nil) != tc.want || tc.want && res.Reason != ReasonDone {
				t.Errorf("%+v, %v; want served %v", res, err, tc.want)
			}
		})
	}
}

func TestStopEndsOpenSessions(t *testing.T) {
	b := serve(t, install(P256))
	c := b.dial(t)
	if _, err := ReadMessage(c); err != nil {
		t.Fatal(err)
	}
	b.Stop()
	b.Stop()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("got %v, want the end of the connection", err)
	}
}

// A refusal arrives although the message that caused it was not read to its end.
func TestRefusalOfAnOverlongMessageArrives(t *testing.T) {
	b := serve(t, install(P256))
	c := b.dial(t)
	m, err := ReadMessage(c)
	if err != nil {
		t.Fatal(err)
	}
	long := make([]byte, 8+20000)
	copy(long, []byte{0x55, 2, 0, 0, 0, 0, 20000 >> 8, 20000 & 0xff})
	binary.BigEndian.PutUint32(long[2:], m.Session)
	if _, err := c.Write(long); err != nil {
		t.Fatal(err)
	}
	m, err = ReadMessage(c)
	if end, ok := m.Body.(*EndSession); err != nil || !ok || end.Reason != ReasonRefused {
		t.Errorf("got %+v, %v; want END_SESSION 7", m.Body, err)
	}
}

func TestStopBeforeRun(t *testing.T) {
	s, err := New(Options{Address: "127.0.0.1:0", Certificate: serverIdentity, Backend: &fake{}})
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if err := s.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

// A refusal is logged once, with the device and the reason, and without what was typed.
func TestRefusalIsLoggedOnce(t *testing.T) {
	var buf lockedBuffer
	dev := Device{Operation: Install, Key: P256, Auth: AuthCode, Code: func(s string) bool { return s == "918273" }}
	b := serve(t, dev, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&buf, nil)) })
	if res, err := (&Client{Device: phone, Password: "564738"}).Run(t.Context(), b.dial(t)); err != nil || res.Reason != ReasonRefused {
		t.Fatalf("%+v, %v", res, err)
	}
	b.settled(t)
	lines := strings.Split(strings.TrimSpace(buf.String()), "\n")
	if len(lines) != 1 {
		t.Fatalf("%d lines:\n%s", len(lines), buf.String())
	}
	for _, want := range []string{"level=INFO", "phone=" + phone, "wrong code", "peer=127.0.0.1", "took="} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("the line lacks %q: %s", want, lines[0])
		}
	}
	if strings.Contains(lines[0], "564738") || strings.Contains(lines[0], "918273") {
		t.Errorf("the line holds a code: %s", lines[0])
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
