package flow_test

import (
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
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"ringfence/sip/flow"
	"ringfence/sip/internal/siptest"
)

func TestHalfOpenConnectionsCount(t *testing.T) {
	m, _ := serve(t, tlsOptions(t, flow.Options{MaxFlows: 4}))
	var open []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", m.Addr("TLS").String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	// The third is closed at once: two strangers in a handshake are half of four.
	_ = open[2].SetReadDeadline(time.Now().Add(siptest.Wait))
	if _, err := open[2].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
}

// certificate makes a self-signed certificate.
func certificate(t *testing.T, name string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func tlsOptions(t *testing.T, o flow.Options) flow.Options {
	cert := certificate(t, "pbx.example.com")
	o.Listen = []flow.Listen{{Transport: "TLS", Addr: netip.MustParseAddrPort("127.0.0.1:0")}}
	o.Certificate = func() (*tls.Certificate, error) { return cert, nil }
	return o
}

func TestTLS(t *testing.T) {
	verify := func(c *x509.Certificate, _ []*x509.Certificate) (string, error) {
		switch c.Subject.CommonName {
		case "SEP001122AA0001":
			return c.Subject.CommonName, nil
		case "other":
			return "", nil
		}
		return "", errors.New("expired")
	}
	m, e := serve(t, tlsOptions(t, flow.Options{VerifyClient: verify}))
	addr := m.Addr("TLS").String()
	cfg := &tls.Config{InsecureSkipVerify: true, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	for _, tt := range []struct {
		name, cn, device string
		refused          bool
	}{
		{"no certificate", "", "", false},
		{"a phone's", "SEP001122AA0001", "SEP001122AA0001", false},
		{"a phone's, resumed", "SEP001122AA0001", "SEP001122AA0001", false},
		{"a stranger's that the hook lets in", "other", "", false},
		{"refused by the hook", "SEP001122AA0002", "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := cfg.Clone()
			if tt.cn != "" {
				c.Certificates = []tls.Certificate{*certificate(t, tt.cn)}
			}
			if !strings.Contains(tt.name, "resumed") && tt.name != "a phone's" {
				c.ClientSessionCache = nil
			}
			conn := siptest.Dial(t, "tcp", addr, c)
			if tt.refused {
				conn.Closed()
				return
			}
			conn.Write(options(1, ""))
			conn.Response()
			f := e.only(t)
			if f.Device() != tt.device || !f.Secure() || f.Transport() != "TLS" || (f.Certificate() != nil) != (tt.device != "") {
				t.Errorf("flow: device %q, secure %v, certificate %v", f.Device(), f.Secure(), f.Certificate() != nil)
			}
			if want := strings.Contains(tt.name, "resumed"); conn.Net.(*tls.Conn).ConnectionState().DidResume != want {
				t.Errorf("resumed %v, want %v", !want, want)
			}
			conn.Close()
			e.reason(t)
			e.mu.Lock()
			clear(e.flows)
			e.mu.Unlock()
		})
	}
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.mu.Lock()
	r.read.Write(b[:n])
	r.mu.Unlock()
	return n, err
}

func TestOneMessageIsOneRecord(t *testing.T) {
	m, e := serve(t, tlsOptions(t, flow.Options{}))
	raw, err := net.Dial("tcp", m.Addr("TLS").String())
	if err != nil {
		t.Fatal(err)
	}
	rec := &recorder{Conn: raw}
	c := tls.Client(rec, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	defer c.Close()
	fmt.Fprint(c, options(1, ""))
	buf := make([]byte, 1<<16)
	if _, err := c.Read(buf); err != nil {
		t.Fatal(err)
	}
	rec.mu.Lock()
	rec.read.Reset()
	rec.mu.Unlock()
	big := siptest.Request(t, options(2, "Content-Type: text/plain\n\n"+strings.Repeat("x", 12000)))
	f := e.only(t)
	for range 3 {
		if err := f.Send(big); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.ReadFull(c, buf[:3*len(big.String())]); err != nil {
		t.Fatal(err)
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	records := 0
	for b := rec.read.Bytes(); len(b) >= 5; records++ {
		b = b[5+int(b[3])<<8+int(b[4]):]
	}
	if records != 3 {
		t.Errorf("3 messages came in %d records", records)
	}
}
