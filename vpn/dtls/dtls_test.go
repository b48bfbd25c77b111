package dtls

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"

	piondtls "github.com/pion/dtls/v2"

	"ringfence/vpn/tunnel"
)

// handler answers as the gateway does: probes are echoed, the rest is remembered.
type handler struct {
	up    chan *Conn
	down  chan string
	data  chan []byte
	place chan bool // whether the payload stood where the batch wants it
}

func newHandler() *handler {
	return &handler{up: make(chan *Conn, 16), down: make(chan string, 16), data: make(chan []byte, 1024), place: make(chan bool, 1024)}
}

func (h *handler) Up(c *Conn)               { h.up <- c }
func (h *handler) Down(_ *Conn, why string) { h.down <- why }
func (h *handler) Payload(c *Conn, b *tunnel.Batch, p []byte, _ time.Time) {
	if p[0] == 3 {
		c.Control(4, p[1:])
		return
	}
	h.place <- &p[0] == &b.SpaceBehind(1)[0]
	h.data <- bytes.Clone(p)
}

func endpoint(t testing.TB) *Endpoint {
	t.Helper()
	e, err := New(Options{Listen: "127.0.0.1:0", Write: func(*tunnel.Batch) {}})
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	t.Cleanup(e.Stop)
	return e
}

func agreement(k Kind, suite uint16, n int) (*Agreement, *handler) {
	h := newHandler()
	ag := &Agreement{Kind: k, Suite: suite, Secret: make([]byte, n), Handler: h}
	rand.Read(ag.ID[:])
	rand.Read(ag.Secret)
	return ag, h
}

func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

// store gives pion the session to resume.
type store struct{ s piondtls.Session }

func (s store) Set([]byte, piondtls.Session) error   { return nil }
func (s store) Get([]byte) (piondtls.Session, error) { return s.s, nil }
func (s store) Del([]byte) error                     { return nil }

var rsaLike = sync.OnceValue(func() tls.Certificate {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour)}
	der, _ := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// pion dials with the independent client. The PSK handshake names its session by the session id that the store gives.
func pion(t testing.TB, e *Endpoint, ag *Agreement, suite piondtls.CipherSuiteID) *piondtls.Conn {
	t.Helper()
	c, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), e.Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	cfg := &piondtls.Config{CipherSuites: []piondtls.CipherSuiteID{suite}, InsecureSkipVerify: true, SessionStore: store{piondtls.Session{ID: ag.ID[:], Secret: ag.Secret}},
		ExtendedMasterSecret: piondtls.DisableExtendedMasterSecret, Certificates: []tls.Certificate{rsaLike()}}
	if ag.Kind == PSK {
		cfg.Certificates = nil
		cfg.PSK = func([]byte) ([]byte, error) { return ag.Secret, nil }
		cfg.PSKIdentityHint = []byte("psk")
	}
	p, err := piondtls.Client(c, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestResumeWithPion(t *testing.T) {
	for _, suite := range []piondtls.CipherSuiteID{piondtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, piondtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384} {
		t.Run(suite.String(), func(t *testing.T) {
			e := endpoint(t)
			ag, h := agreement(Resume, uint16(suite), 48)
			e.Agree(ag)
			p := pion(t, e, ag, suite)
			c := wait(t, h.up, "channel")
			exchange(t, e, p, c, h)
			if s := e.Stats(); s.Channels != 1 || s.Pending != 0 || s.Handshakes != 1 || s.Bad != 0 {
				t.Errorf("stats %+v", s)
			}
		})
	}
}

// exchange sends data both ways and probes.
func exchange(t testing.TB, e *Endpoint, p net.Conn, c *Conn, h *handler) {
	t.Helper()
	p.SetDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 4096)
	for _, n := range []int{1, 2, 15, 16, 17, 200, 1400} {
		want := append([]byte{0}, bytes.Repeat([]byte{byte(n)}, n)...)
		if _, err := p.Write(want); err != nil {
			t.Fatal(err)
		}
		if got := wait(t, h.data, "payload"); !bytes.Equal(got, want) {
			t.Fatalf("payload of %d: got %d bytes", n, len(got))
		}
		<-h.place
		var pkts []tunnel.Packet
		for i := range 3 {
			b := make([]byte, tunnel.Headroom+1500+tunnel.Tailroom)
			b[tunnel.Headroom] = 0x45
			b[tunnel.Headroom+2] = byte(i)
			pkts = append(pkts, tunnel.Packet{Buf: b, Len: max(20, n)})
		}
		c.Deliver(pkts)
		e.Flush()
		for i := range 3 {
			k, err := p.Read(buf)
			if err != nil || k != max(20, n)+1 || buf[0] != 0 || buf[3] != byte(i) {
				t.Fatalf("packet %d of %d bytes: got %d, %v: %x", i, n, k, err, buf[:k])
			}
		}
		probe := append([]byte{3}, bytes.Repeat([]byte{9}, n)...)
		p.Write(probe)
		k, err := p.Read(buf)
		if err != nil || buf[0] != 4 || !bytes.Equal(buf[1:k], probe[1:]) {
			t.Fatalf("probe of %d: got %d bytes, %v", n, k, err)
		}
	}
}

func TestPSKWithPion(t *testing.T) {
	for name, suite := range map[string]piondtls.CipherSuiteID{"GCM": piondtls.TLS_PSK_WITH_AES_128_GCM_SHA256} {
		t.Run(name, func(t *testing.T) {
			e := endpoint(t)
			ag, h := agreement(PSK, 0, 32)
			e.Agree(ag)
			p := pion(t, e, ag, suite)
			conn := wait(t, h.up, "channel")
			exchange(t, e, p, conn, h)
			wrong := *ag
			wrong.Secret = make([]byte, 32)
			c, _ := net.Dial("udp", p.RemoteAddr().String())
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if x, err := piondtls.ClientWithContext(ctx, c, &piondtls.Config{CipherSuites: []piondtls.CipherSuiteID{suite}, PSK: func([]byte) ([]byte, error) { return wrong.Secret, nil },
				PSKIdentityHint: []byte("psk"), SessionStore: store{piondtls.Session{ID: ag.ID[:], Secret: wrong.Secret}}}); err == nil {
				t.Error("a client with another key got a channel")
				x.Close()
			}
			exchange(t, e, p, conn, h)
		})
	}
}

func TestUnknownHelloIsDropped(t *testing.T) {
	e := endpoint(t)
	ag, _ := agreement(Resume, 0xc02f, 48)
	c, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), e.Port()).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 50 {
		c.Write(helloDatagram(ag, Version12, 0xc02f))
	}
	for end := time.Now().Add(5 * time.Second); e.Stats().Unknown < 50 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if s := e.Stats(); s.Unknown != 50 || s.Pending != 0 {
		t.Errorf("stats %+v", s)
	}
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 100)); err == nil {
		t.Errorf("a stranger got %d bytes", n)
	}
}
