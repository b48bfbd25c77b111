package legacytls

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// identity makes a self-signed certificate.
func identity(name string, key crypto.Signer) tls.Certificate {
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert}
}

func rsaKey() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
}

func ecKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

// Identities are made once: RSA keys take their time.
var (
	serverIdentity   = sync.OnceValue(func() tls.Certificate { return identity("CAPF", rsaKey()) })
	ecServerIdentity = sync.OnceValue(func() tls.Certificate { return identity("TFTP-EC", ecKey()) })
	phoneIdentity    = sync.OnceValue(func() tls.Certificate { return identity("SEP001122AA0001", rsaKey()) })
	ecPhoneIdentity  = sync.OnceValue(func() tls.Certificate { return identity("SEP001122AA0002", ecKey()) })
)

func serverConfig() *Config {
	return &Config{Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c := serverIdentity()
		return &c, nil
	}}
}

func modernConfig() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{serverIdentity()}, MinVersion: tls.VersionTLS12}
}

// clientConfig is that of a Go client that speaks one version with RSA key exchange.
func clientConfig(version, suite uint16) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, CipherSuites: []uint16{suite}, SessionTicketsDisabled: true,
	}
}

// lab is a server that answers what it reads by the same, each read by one write.
type lab struct {
	net.Listener
	states chan tls.ConnectionState // of handshakes that succeeded
	errs   chan error               // of those that failed, and of reads
	wrap   func(net.Conn) net.Conn  // of accepted connections
	wg     sync.WaitGroup
	mu     sync.Mutex
	open   map[net.Conn]bool
}

// labTime bounds everything that a test waits for.
const labTime = 20 * time.Second

func newLab(t testing.TB, modern *tls.Config, legacy *Config, change ...func(*lab)) *lab {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{Listener: ln, states: make(chan tls.ConnectionState, 1000), errs: make(chan error, 1000), wrap: func(c net.Conn) net.Conn { return c }, open: map[net.Conn]bool{}}
	for _, c := range change {
		c(l)
	}
	l.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			l.wg.Go(func() { l.serve(c, modern, legacy) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		l.mu.Lock()
		for c := range l.open {
			c.Close()
		}
		l.mu.Unlock()
		l.wg.Wait()
	})
	return l
}

func (l *lab) serve(raw net.Conn, modern *tls.Config, legacy *Config) {
	l.mu.Lock()
	l.open[raw] = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.open, raw)
		l.mu.Unlock()
	}()
	raw.SetDeadline(time.Now().Add(labTime))
	c, err := Accept(context.Background(), l.wrap(raw), modern, legacy)
	if err != nil {
		l.errs <- err
		return
	}
	defer c.Close()
	l.states <- c.ConnectionState()
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				l.errs <- err
			}
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			l.errs <- err
			return
		}
	}
}

func (l *lab) dial(t testing.TB) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(labTime))
	return c
}

func await[T any](t testing.TB, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(labTime):
		t.Fatalf("no %s", what)
	}
	return v
}

// echo sends a text and wants it back.
func echo(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("got %.40q, %v", got, err)
	}
}

// wireTap counts the records of application data that a server sends, and how many writes carried them.
type wireTap struct {
	net.Conn
	mu      sync.Mutex
	buf     []byte
	records []int // their sizes
	alerts  int
}

func (w *wireTap) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf, b...)
	for len(w.buf) >= headerSize {
		n := int(w.buf[3])<<8 | int(w.buf[4])
		if len(w.buf) < headerSize+n {
			break
		}
		switch w.buf[0] {
		case typeApplication:
			w.records = append(w.records, n)
		case typeAlert:
			w.alerts++
		}
		w.buf = w.buf[headerSize+n:]
	}
	return w.Conn.Write(b)
}

func (w *wireTap) seen() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]int(nil), w.records...)
}

// pemFiles writes certificate and key for programs.
func pemFiles(t testing.TB, c tls.Certificate) (cert, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}
