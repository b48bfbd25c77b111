package phoneclient

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/vpn/cstp"
)

var certificate = sync.OnceValue(func() tls.Certificate {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vpn.example.org"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// script is what a made-up gateway answers.
type script struct {
	get, post, connect string
	after              func(c *tls.Conn) // behind the tunnel answer
}

const (
	goodGet     = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: webvpn=; expires=Thu, 01 Jan 1970 22:00:00 GMT; path=/; secure\r\nSet-Cookie: webvpnlogin=1; secure\r\nX-Transcend-Version: 1\r\n\r\n"
	goodPost    = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: webvpn=TOKEN; secure\r\nX-Transcend-Version: 1\r\n\r\n"
	goodConnect = "HTTP/1.1 200 CONNECTED\r\nX-CSTP-Version: 1\r\nX-CSTP-Address: 10.9.0.5\r\nX-CSTP-Netmask: 255.255.255.0\r\nX-CSTP-MTU: 1290\r\nX-CSTP-DPD: 30\r\n\r\n"
)

// gateway serves the script and returns options for it.
func gateway(t *testing.T, s script) Options {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate()}, DynamicRecordSizingDisabled: true})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(c.(*tls.Conn), s) })
		}
	})
	return Options{URL: "https://" + ln.Addr().String() + "/svc", CertHashes: []string{"x", Hash(certificate().Certificate[0])}, Auth: PasswordOnly,
		Device: "SEP001122AA0001", Password: "p&w", Timeout: 5 * time.Second}
}

func serve(c *tls.Conn, s script) {
	defer c.Close()
	br := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		body, _ := io.ReadAll(req.Body)
		switch {
		case req.Method == http.MethodGet:
			io.WriteString(c, s.get)
		case req.Method == http.MethodPost && string(body) != "Login=Login&password=p%26w&username=SEP001122AA0001":
			fmt.Fprintf(c, "HTTP/1.1 400 %q\r\n\r\n", body)
		case req.Method == http.MethodPost:
			io.WriteString(c, s.post)
		case req.Method == http.MethodConnect:
			io.WriteString(c, s.connect)
			if s.after != nil {
				s.after(c)
			}
			io.Copy(io.Discard, c)
			return
		}
	}
}

func TestRefusesWrongGateways(t *testing.T) {
	good := script{get: goodGet, post: goodPost, connect: goodConnect}
	for _, c := range []struct {
		name string
		edit func(*script, *Options)
		want error
	}{
		{"nothing is wrong", func(*script, *Options) {}, nil},
		{"unknown certificate", func(_ *script, o *Options) { o.CertHashes = o.CertHashes[:1] }, ErrCertHash},
		{"certificate of another host, when asked to look", func(_ *script, o *Options) { o.HostIDCheck = true }, ErrCertHash},
		{"webvpn cookie without expiry", func(s *script, _ *Options) {
			s.get = strings.Replace(s.get, "expires=Thu, 01 Jan 1970 22:00:00 GMT; ", "", 1)
		}, ErrLogin},
		{"empty webvpnlogin", func(s *script, _ *Options) { s.get = strings.Replace(s.get, "webvpnlogin=1", "webvpnlogin=", 1) }, ErrLogin},
		{"no such path", func(s *script, _ *Options) { s.get = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n" }, ErrLogin},
		{"wrong password", func(s *script, _ *Options) {
			s.post = "HTTP/1.1 401 Authentication failed\r\nContent-Length: 0\r\n\r\n"
		}, ErrAuth},
		{"no cookie", func(s *script, _ *Options) { s.post = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" }, ErrLogin},
		{"cookie refused", func(s *script, _ *Options) { s.connect = "HTTP/1.1 401 Unauthorized\r\n\r\n" }, ErrAuth},
		{"tunnel refused", func(s *script, _ *Options) { s.connect = "HTTP/1.1 503 Full\r\nX-Reason: no address\r\n\r\n" }, ErrRefused},
		{"no address", func(s *script, _ *Options) { s.connect = strings.Replace(s.connect, "X-CSTP-Address", "X-Other", 1) }, ErrNoAddress},
		{"no netmask", func(s *script, _ *Options) { s.connect = strings.Replace(s.connect, "X-CSTP-Netmask", "X-Other", 1) }, ErrNoAddress},
		{"no MTU", func(s *script, _ *Options) { s.connect = strings.Replace(s.connect, "X-CSTP-MTU", "X-Other", 1) }, ErrNoMTU},
		{"header name in another case", func(s *script, _ *Options) { s.connect = strings.Replace(s.connect, "X-CSTP-MTU", "X-Cstp-Mtu", 1) }, ErrNoMTU},
		{"compression chosen", func(s *script, _ *Options) {
			s.connect = strings.Replace(s.connect, "X-CSTP-MTU", "X-CSTP-Content-Encoding: lzs\r\nX-CSTP-MTU", 1)
		}, ErrRefused},
		{"a frame in the record of the answer", func(s *script, _ *Options) { s.connect += "STF\x01\x00\x00\x07\x00" }, ErrRecord},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := good
			o := gateway(t, s)
			c.edit(&s, &o)
			hashes, check := o.CertHashes, o.HostIDCheck
			o = gateway(t, s)
			o.CertHashes, o.HostIDCheck = hashes, check
			conn, err := Dial(t.Context(), o)
			if conn != nil {
				defer conn.Drop()
			}
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

func TestEndsTunnelOnWrongRecords(t *testing.T) {
	data := cstp.Frame{Type: cstp.Data, Payload: bytes.Repeat([]byte{0x45}, 40)}.Append(nil)
	for _, c := range []struct {
		name    string
		records [][]byte
		want    error
	}{
		{"two frames in one record", [][]byte{append(bytes.Clone(data), data...)}, ErrRecord},
		{"one frame in two records", [][]byte{data[:20], data[20:]}, ErrRecord},
		{"no frame", [][]byte{[]byte("hello, phone")}, cstp.ErrMagic},
		{"larger than the MTU", [][]byte{cstp.Frame{Type: cstp.Data, Payload: make([]byte, 1291)}.Append(nil)}, ErrTooBig},
		{"put out", [][]byte{cstp.Frame{Type: cstp.Disconnect, Payload: []byte("\x00idle for too long")}.Append(nil)}, ErrPutOut},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := gateway(t, script{goodGet, goodPost, goodConnect, func(s *tls.Conn) {
				s.Write(data) // a good one first
				for _, r := range c.records {
					s.Write(r)
				}
			}})
			conn, err := Dial(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Drop()
			buf := make([]byte, 2000)
			if n, err := conn.ReadPacket(buf); err != nil || n != 40 {
				t.Fatalf("good packet: %d bytes, %v", n, err)
			}
			<-conn.Done()
			if !errors.Is(conn.Err(), c.want) {
				t.Errorf("%v, want %v", conn.Err(), c.want)
			}
			if _, err := conn.ReadPacket(buf); !errors.Is(err, c.want) {
				t.Errorf("reading later: %v, want %v", err, c.want)
			}
			if err := conn.WritePacket(data[8:]); !errors.Is(err, c.want) {
				t.Errorf("writing later: %v, want %v", err, c.want)
			}
		})
	}
}

func TestAnswersProbesAndKeepsAlive(t *testing.T) {
	got := make(chan cstp.Frame, 16)
	o := gateway(t, script{goodGet, goodPost, strings.Replace(goodConnect, "X-CSTP-DPD: 30", "X-CSTP-DPD: 1\r\nX-CSTP-Keepalive: 1", 1), func(s *tls.Conn) {
		s.Write(cstp.Frame{Type: cstp.DPDRequest, Payload: []byte("are you there")}.Append(nil))
		buf := make([]byte, 4096)
		for {
			n, err := s.Read(buf)
			if err != nil {
				return
			}
			f, _, _ := cstp.Next(buf[:n])
			got <- cstp.Frame{Type: f.Type, Payload: bytes.Clone(f.Payload)}
		}
	}})
	conn, err := Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Drop()
	if f := <-got; f.Type != cstp.DPDResponse || string(f.Payload) != "are you there" {
		t.Errorf("answer to the probe: %v %q", f.Type, f.Payload)
	}
	seen := map[cstp.Type]bool{}
	for !seen[cstp.Keepalive] || !seen[cstp.DPDRequest] {
		seen[(<-got).Type] = true
	}
	<-conn.Done()
	if !errors.Is(conn.Err(), ErrDead) {
		t.Errorf("a server that answers nothing: %v, want %v", conn.Err(), ErrDead)
	}
}

func TestReconnectWantsTheSameAddress(t *testing.T) {
	o := gateway(t, script{get: goodGet, post: goodPost, connect: goodConnect})
	c, err := Reconnect(t.Context(), o, "TOKEN", netip.MustParseAddr("10.9.0.5"))
	if err != nil {
		t.Fatal(err)
	}
	c.Drop()
	if _, err := Reconnect(t.Context(), o, "TOKEN", netip.MustParseAddr("10.9.0.6")); !errors.Is(err, ErrNoAddress) {
		t.Errorf("another address: %v", err)
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Options
	}{
		{"http", Options{URL: "http://x/svc", CertHashes: []string{"a"}}},
		{"URL over 255 characters", Options{URL: "https://x/" + strings.Repeat("a", 255), CertHashes: []string{"a"}}},
		{"no hash", Options{URL: "https://x/svc"}},
		{"eleven hashes", Options{URL: "https://x/svc", CertHashes: make([]string, 11)}},
		{"certificate missing", Options{URL: "https://x/svc", CertHashes: []string{"a"}, Auth: Certificate}},
		{"unknown method", Options{URL: "https://x/svc", CertHashes: []string{"a"}, Auth: 3}},
	} {
		if _, err := c.o.validate(); err == nil {
			t.Errorf("%s: accepted", c.name)
		}
	}
}

func TestHash(t *testing.T) {
	der, err := os.ReadFile("testdata/vpn.der")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := Hash(der), "YDXfSng5J7WqmKttrChP2npBKvY="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzGrant(f *testing.F) {
	f.Add(strings.TrimSuffix(goodConnect, "\r\n\r\n"))
	f.Add("HTTP/1.1 200 \r\nX-CSTP-Address: ::1\r\nX-CSTP-Netmask: 255.0.255.0\r\nX-CSTP-MTU: 99999999999")
	f.Fuzz(func(t *testing.T, head string) {
		g, err := parseGrant(head)
		if err == nil && (!g.Address.IsValid() || !g.Address.Addr().Is4() || g.MTU < 256 || g.MTU > 1500) {
			t.Fatalf("accepted %+v", g)
		}
	})
}
