package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// memory is a State in memory. Its hook sees every group before it is written, and can refuse it.
type memory struct {
	mu     sync.Mutex
	m      map[string][]byte
	groups int
	hook   func(set map[string][]byte, del []string) error
}

func newMemory() *memory { return &memory{m: make(map[string][]byte)} }

func (s *memory) Get(key string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.m[key]
	return bytes.Clone(v), ok
}

func (s *memory) Scan(prefix string, fn func(string, []byte) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for k := range s.m {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if !fn(k, bytes.Clone(s.m[k])) {
			return
		}
	}
}

func (s *memory) Write(ctx context.Context, set map[string][]byte, del ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hook != nil {
		if err := s.hook(set, del); err != nil {
			return err
		}
	}
	if err := storable(set, del); err != nil {
		return err
	}
	for k, v := range set {
		s.m[k] = bytes.Clone(v)
	}
	for _, k := range del {
		delete(s.m, k)
	}
	s.groups++
	return nil
}

// storable has the rules of the appliance's store.
func storable(set map[string][]byte, del []string) error {
	for k, v := range set {
		if !strings.HasPrefix(k, "pki/") || len(k) > 256 || strings.Contains(k, "//") || strings.HasSuffix(k, "/") || len(v) > 64<<10 {
			return fmt.Errorf("field %q with %d bytes cannot be stored", k, len(v))
		}
	}
	for _, k := range del {
		if _, both := set[k]; both {
			return fmt.Errorf("field %q is both set and deleted", k)
		}
	}
	return nil
}

func (s *memory) copy() *memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &memory{m: maps.Clone(s.m)}
}

// clock is the time of a test's authority.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// testTime lies in the life of the recorded certificates.
var testTime = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// firstStart makes one authority for all tests, which get copies: keys are expensive.
var firstStart = sync.OnceValues(func() (*memory, error) {
	dir, err := os.MkdirTemp("", "pki")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	state := newMemory()
	o := testOptions(state, filepath.Join(dir, "pki.key"), &clock{t: testTime})
	if _, err := Open(context.Background(), o); err != nil {
		return nil, err
	}
	testKeyFile, err = os.ReadFile(o.KeyFile)
	return state, err
})

var testKeyFile []byte

func testOptions(s State, keyFile string, c *clock) Options {
	return Options{
		State: s, KeyFile: keyFile, Node: "alpha", Organization: "Example Org", Now: c.Now,
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Names: []string{"alpha.example.net"},
		VPNHosts: []string{"vpn.example.com:443", "198.51.100.7", "[2001:db8::1]:443"},
	}
}

// fixture is an authority of a test, with its state, clock and options.
type fixture struct {
	*Authority
	state *memory
	clock *clock
	o     Options
}

func open(t testing.TB, change ...func(*Options)) *fixture {
	t.Helper()
	first, err := firstStart()
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{state: first.copy(), clock: &clock{t: testTime}}
	f.o = testOptions(f.state, filepath.Join(t.TempDir(), "pki.key"), f.clock)
	for _, c := range change {
		c(&f.o)
	}
	if err := os.WriteFile(f.o.KeyFile, testKeyFile, 0o600); err != nil {
		t.Fatal(err)
	}
	f.reopen(t)
	return f
}

// reopen does what a restart does.
func (f *fixture) reopen(t testing.TB) {
	t.Helper()
	a, err := Open(context.Background(), f.o)
	if err != nil {
		t.Fatal(err)
	}
	f.Authority = a
}

// install issues and confirms a certificate for a device with a key.
func (f *fixture) install(t testing.TB, device string, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, serial, err := f.IssueLSC(t.Context(), device, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.ConfirmLSC(t.Context(), device, serial); err != nil {
		t.Fatal(err)
	}
	return parse(t, der)
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// readPEM reads a certificate and the private key of a vector file.
func readPEM(t testing.TB, name string) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("capf", "testdata", "keys", name))
	if err != nil {
		t.Fatal(err)
	}
	var cert *x509.Certificate
	var key crypto.Signer
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			cert = parse(t, block.Bytes)
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			key = k.(crypto.Signer)
		}
	}
	return cert, key
}

// writePEM writes certificates for OpenSSL.
func writePEM(t testing.TB, name string, certs ...*x509.Certificate) string {
	t.Helper()
	var b []byte
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// openssl runs OpenSSL and returns what it says.
func openssl(t testing.TB, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "openssl", args...).CombinedOutput()
	return string(out), err
}
