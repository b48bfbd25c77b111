package vpn_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"ringfence/vpn"
	"ringfence/vpn/anyconnect/phoneclient"
	"ringfence/vpn/policy"
)

// authority is a CA for tests; keys are made once for all tests.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pool *x509.CertPool
}

var testCA = sync.OnceValue(func() *authority { return newAuthority("Lab CA") })

func newAuthority(name string) *authority {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		panic(err)
	}
	a := &authority{key: key, pool: x509.NewCertPool()}
	a.cert, _ = x509.ParseCertificate(der)
	a.pool.AddCert(a.cert)
	return a
}

// issue makes a certificate; key nil makes a P-256 one.
func (a *authority) issue(cn string, key crypto.Signer, until time.Duration) *tls.Certificate {
	if key == nil {
		key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(until),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, DNSNames: []string{cn}}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		panic(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

var serverCert = sync.OnceValue(func() *tls.Certificate {
	key, _ := rsa.GenerateKey(rand.Reader, 2048)
	return testCA().issue("vpn.example.org", key, 24*time.Hour)
})

// oldCert is an LSC with an RSA key: old phones have no other.
var oldCert = sync.OnceValue(func() *tls.Certificate {
	key, _ := rsa.GenerateKey(rand.Reader, 2048)
	return testCA().issue(phone, key, 24*time.Hour)
})

// pemFile writes certificate and key for openconnect.
func pemFile(t *testing.T, c *tls.Certificate) string {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "client.pem")
	b := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// device is a TUN device made of channels.
type device struct {
	toClients   chan []byte // what the kernel would route into the tunnel
	fromClients chan []byte
	closed      chan struct{}
	once        sync.Once
}

func newDevice() *device {
	return &device{toClients: make(chan []byte, 4096), fromClients: make(chan []byte, 4096), closed: make(chan struct{})}
}

func (d *device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case p := <-d.toClients:
		n := 0
		for {
			sizes[n] = copy(bufs[n][offset:], p)
			if n++; n == len(bufs) {
				return n, nil
			}
			select {
			case p = <-d.toClients:
			default:
				return n, nil
			}
		}
	case <-d.closed:
		return 0, os.ErrClosed
	}
}

func (d *device) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		select {
		case d.fromClients <- bytes.Clone(b[offset:]):
		default:
		}
	}
	return len(bufs), nil
}

func (d *device) BatchSize() int { return 16 }
func (d *device) Close() error   { d.once.Do(func() { close(d.closed) }); return nil }

// next is the next packet that a client sent.
func (d *device) next(t *testing.T) []byte {
	t.Helper()
	select {
	case p := <-d.fromClients:
		return p
	case <-time.After(10 * time.Second):
		t.Fatal("no packet from the tunnel")
		return nil
	}
}

// notes collects boot records.
type notes struct {
	mu    sync.Mutex
	lines []string
}

func (n *notes) add(device, step, text string, failed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	mark := " ok "
	if failed {
		mark = " failed "
	}
	n.lines = append(n.lines, device+" "+step+mark+text)
}

func (n *notes) has(want string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.lines, func(l string) bool { return bytes.Contains([]byte(l), []byte(want)) })
}

// memory is a vpn.State.
type memory struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (s *memory) Get(key string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.m[key]
	return v, ok
}

func (s *memory) Scan(prefix string, fn func(string, []byte) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range s.m {
		if len(k) >= len(prefix) && k[:len(prefix)] == prefix && !fn(k, v) {
			return
		}
	}
}

func (s *memory) Write(_ context.Context, set map[string][]byte, del ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range set {
		s.m[k] = v
	}
	for _, k := range del {
		delete(s.m, k)
	}
	return nil
}

// lab is a gateway with a fake device.
type lab struct {
	*vpn.Gateway
	dev     *device
	notes   *notes
	options vpn.Options
}

const phone = "SEP001122AA0001"

// labOptions has a policy for phones and one for people, and users alice (password "correct horse") and the phone's own name.
func labOptions() vpn.Options {
	return vpn.Options{
		Log:    slog.New(slog.DiscardHandler),
		Listen: "127.0.0.1:0",
		Policies: []vpn.Policy{
			{ID: "phones", Pool: netip.MustParsePrefix("10.77.0.0/24"), Certificate: true, Password: true, MTU: 1290, DPD: 30 * time.Second, Keepalive: 20 * time.Second},
			{ID: "staff", Pool: netip.MustParsePrefix("10.78.0.0/24"), Pool6: netip.MustParsePrefix("2001:db8:78::/64"), Password: true, Certificate: true, MTU: 1400, MaxSessions: 2,
				Routes: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, DNS: []netip.Addr{netip.MustParseAddr("10.78.0.1")}, Banner: "Be kind"},
		},
		Own:         []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Services:    []vpn.Rule{{Proto: policy.TCP, First: 5060, Last: 5061}, {Proto: policy.UDP, First: 16384, Last: 32767}},
		State:       &memory{m: make(map[string][]byte)},
		Certificate: serverCert,
		VerifyDevice: func(cert *x509.Certificate, _ []*x509.Certificate) (string, error) {
			if _, err := cert.Verify(x509.VerifyOptions{Roots: testCA().pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
				return "", err
			}
			if len(cert.Subject.CommonName) != len(phone) {
				return "", errors.New("names no device")
			}
			return cert.Subject.CommonName, nil
		},
		VerifyUser: func(cert *x509.Certificate, _ []*x509.Certificate) (string, string, error) {
			if _, err := cert.Verify(x509.VerifyOptions{Roots: testCA().pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
				return "", "", err
			}
			return cert.Subject.CommonName, "staff", nil
		},
		PolicyOf: func(device string) (string, bool) { return "phones", device != "SEP00000000DEAD" },
		CheckPassword: func(user, password string) (string, bool) {
			switch {
			case user == "alice" && password == "correct horse":
				return "staff", true
			case user == phone && password == "phone&word":
				return "phones", true
			}
			return "", false
		},
	}
}

func newLab(t testing.TB, change ...func(*vpn.Options)) *lab {
	t.Helper()
	l := &lab{dev: newDevice(), notes: &notes{}, options: labOptions()}
	l.options.Device, l.options.Note = l.dev, l.notes.add
	for _, c := range change {
		c(&l.options)
	}
	g, err := vpn.New(l.options)
	if err != nil {
		t.Fatal(err)
	}
	l.Gateway = g
	t.Cleanup(g.Stop)
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	return l
}

// phone is the options of a simulated phone with an LSC.
func (l *lab) phone(name string) phoneclient.Options {
	return phoneclient.Options{URL: "https://" + l.Addr().String() + "/svc", CertHashes: []string{phoneclient.Hash(serverCert().Certificate[0])},
		Auth: phoneclient.Certificate, Device: name, Certificate: testCA().issue(name, nil, time.Hour), Timeout: 10 * time.Second}
}

// dial makes a tunnel that ends with the test.
func dial(t testing.TB, o phoneclient.Options) *phoneclient.Conn {
	t.Helper()
	c, err := phoneclient.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Drop)
	return c
}

// until waits for something that happens in another goroutine.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("not within 10 s: %s", what)
}

// udp4 is an IPv4 packet with a UDP header and n bytes behind.
func udp4(src, dst string, sport, dport uint16, n int) []byte {
	b := make([]byte, 28+n)
	b[0], b[8], b[9] = 0x45, 64, 17
	b[2], b[3] = byte(len(b)>>8), byte(len(b))
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	b[20], b[21], b[22], b[23] = byte(sport>>8), byte(sport), byte(dport>>8), byte(dport)
	b[24], b[25] = byte((8+n)>>8), byte(8+n)
	for i := range n {
		b[28+i] = byte(i)
	}
	return b
}

// pin is how openconnect knows a certificate.
func pin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}
