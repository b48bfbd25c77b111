package scep

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	message "github.com/smallstep/scep"
	"github.com/smallstep/scep/x509util"
)

// keys are shared: making one is dear.
var keys = sync.OnceValue(func() [2]*rsa.PrivateKey {
	var out [2]*rsa.PrivateKey
	for i := range out {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		out[i] = k
	}
	return out
})

func certificate(t testing.TB, name string, pub crypto.PublicKey, key crypto.Signer, parent *x509.Certificate) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment}
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

type world struct {
	t      testing.TB
	s      *Server
	ra     *x509.Certificate
	issued []string
	holder map[string]string // serial to name, of certificates in force
	now    time.Time
}

func newWorld(t testing.TB) *world {
	raKey := keys()[0]
	w := &world{t: t, holder: map[string]string{}, now: time.Now()}
	w.ra = certificate(t, "RA", raKey.Public(), raKey, nil)
	var err error
	w.s, err = New(Options{
		Names: []string{"*.wifi.example.net"}, Challenge: "shared-word", Clients: []Client{{"desk.wifi.example.net", "own-word"}, {"badge", "badge-word"}},
		Registrar: func(context.Context) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{w.ra.Raw}, PrivateKey: raKey, Leaf: w.ra}, nil
		},
		CAs: func() ([]*x509.Certificate, error) { return []*x509.Certificate{w.ra}, nil },
		Issue: func(_ context.Context, pub crypto.PublicKey, name string, names []string) (*x509.Certificate, error) {
			c := certificate(t, name, pub, raKey, w.ra)
			w.issued = append(w.issued, name)
			w.holder[c.SerialNumber.String()] = name
			return c, nil
		},
		Current: func(c *x509.Certificate) string { return w.holder[c.SerialNumber.String()] },
		Now:     func() time.Time { return w.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// request makes a message that asks for a name.
func (w *world) request(kind message.MessageType, name, challenge string, dns []string, signer *x509.Certificate) []byte {
	w.t.Helper()
	key := keys()[1]
	t := &x509util.CertificateRequest{CertificateRequest: x509.CertificateRequest{Subject: pkix.Name{CommonName: name}, DNSNames: dns,
		SignatureAlgorithm: x509.SHA256WithRSA}, ChallengePassword: challenge}
	der, err := x509util.CreateCertificateRequest(rand.Reader, t, key)
	if err != nil {
		w.t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		w.t.Fatal(err)
	}
	if signer == nil {
		signer = certificate(w.t, name, key.Public(), key, nil)
	}
	msg, err := message.NewCSRRequest(csr, &message.PKIMessage{MessageType: kind, Recipients: []*x509.Certificate{w.ra}, SignerKey: key, SignerCert: signer})
	if err != nil {
		w.t.Fatal(err)
	}
	return msg.Raw
}

// send sends a message and returns the certificate that came back.
func (w *world) send(raw []byte, get bool) (*x509.Certificate, error) {
	w.t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/scep?operation=PKIOperation", bytes.NewReader(raw))
	if get {
		r = httptest.NewRequest(http.MethodGet, "/scep?operation=PKIOperation&message="+url.QueryEscape(base64.StdEncoding.EncodeToString(raw)), nil)
	}
	rec := httptest.NewRecorder()
	w.s.ServeHTTP(rec, r)
	if rec.Code != http.StatusOK {
		return nil, errors.New(http.StatusText(rec.Code))
	}
	answer, err := message.ParsePKIMessage(rec.Body.Bytes(), message.WithCACerts([]*x509.Certificate{w.ra}))
	if err != nil {
		return nil, err
	}
	if answer.PKIStatus != message.SUCCESS {
		return nil, errors.New(answer.FailInfo.String())
	}
	key := keys()[1]
	if err := answer.DecryptPKIEnvelope(certificate(w.t, "x", key.Public(), key, nil), key); err == nil {
		return answer.Certificate, nil
	}
	return nil, nil // encrypted for another certificate of the key, which the library insists on
}

func TestWhoGetsACertificate(t *testing.T) {
	for _, tc := range []struct {
		name, cn, challenge string
		dns                 []string
		get, want           bool
	}{
		{"own challenge", "desk.wifi.example.net", "own-word", nil, false, true},
		{"own challenge by GET", "desk.wifi.example.net", "own-word", []string{"desk.wifi.example.net"}, true, true},
		{"shared challenge", "any.wifi.example.net", "shared-word", nil, false, true},
		{"shared for one with its own", "desk.wifi.example.net", "shared-word", nil, false, false},
		{"shared for another domain", "any.example.net", "shared-word", nil, false, false},
		{"shared for the domain itself", "wifi.example.net", "shared-word", nil, false, false},
		{"another's", "badge", "own-word", nil, false, false},
		{"a name without dots", "badge", "badge-word", nil, false, true},
		{"none", "badge", "", nil, false, false},
		{"unknown", "nobody", "badge-word", nil, false, false},
		{"further names", "badge", "badge-word", []string{"mail.example.net"}, false, false},
		{"a name that is none", "<b>.wifi.example.net", "shared-word", nil, false, false},
	} {
		w := newWorld(t)
		_, err := w.send(w.request(message.PKCSReq, tc.cn, tc.challenge, tc.dns, nil), tc.get)
		if (err == nil) != tc.want || (len(w.issued) == 1) != tc.want {
			t.Errorf("%s: %v, issued %q", tc.name, err, w.issued)
		}
	}
}

func TestRenewalByTheCertificateOfBefore(t *testing.T) {
	w := newWorld(t)
	key := keys()[1]
	mine := certificate(t, "badge", key.Public(), keys()[0], w.ra)
	if _, err := w.send(w.request(message.RenewalReq, "badge", "", nil, mine), false); err == nil {
		t.Error("renewed by a certificate that is not in force")
	}
	w.holder[mine.SerialNumber.String()] = "badge"
	if _, err := w.send(w.request(message.RenewalReq, "badge", "", nil, mine), false); err != nil {
		t.Error(err)
	}
	if _, err := w.send(w.request(message.RenewalReq, "desk.wifi.example.net", "", nil, mine), false); err == nil {
		t.Error("took another's name")
	}
	w.holder[mine.SerialNumber.String()] = "gone.example.net"
	if _, err := w.send(w.request(message.RenewalReq, "gone.example.net", "", nil, mine), false); err == nil {
		t.Error("renewed for a name that is declared no more")
	}
}

// A source that guesses is shut out for a while, and others are not.
func TestGuessing(t *testing.T) {
	w := newWorld(t)
	guess, right := w.request(message.PKCSReq, "badge", "guess-word", nil, nil), w.request(message.PKCSReq, "badge", "badge-word", nil, nil)
	for range maxFailures {
		if _, err := w.send(guess, false); err == nil {
			t.Fatal("guessed")
		}
	}
	if _, err := w.send(right, false); err == nil || err.Error() != http.StatusText(http.StatusTooManyRequests) {
		t.Errorf("after so many guesses: %v", err)
	}
	w.now = w.now.Add(failureTime + time.Second)
	if _, err := w.send(right, false); err != nil {
		t.Errorf("after a while: %v", err)
	}
}

func TestOperations(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		method, target string
		code           int
		want           string
	}{
		{"GET", "/scep?operation=GetCACaps", 200, "POSTPKIOperation"},
		{"GET", "/scep?operation=GetCACert", 200, string(w.ra.Raw)},
		{"GET", "/scep", 400, ""},
		{"GET", "/scep?operation=PKIOperation&message=!!", 400, ""},
		{"POST", "/scep?operation=PKIOperation", 400, ""},
	} {
		rec := httptest.NewRecorder()
		w.s.ServeHTTP(rec, httptest.NewRequest(tc.method, tc.target, nil))
		b, err := io.ReadAll(rec.Body)
		if err != nil || rec.Code != tc.code || !bytes.Contains(b, []byte(tc.want)) {
			t.Errorf("%s: %d %q, %v", tc.target, rec.Code, b, err)
		}
	}
}

// FuzzMessage: whatever a stranger sends is refused, and nothing breaks.
func FuzzMessage(f *testing.F) {
	w := newWorld(f)
	f.Add(w.request(message.PKCSReq, "badge", "guess-word", nil, nil))
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		msg, signer, err := parse(b)
		if err != nil {
			return
		}
		ra := &tls.Certificate{Certificate: [][]byte{w.ra.Raw}, PrivateKey: keys()[0], Leaf: w.ra}
		_, _ = w.s.answer(t.Context(), msg, signer, ra)
		if len(w.issued) != 0 {
			t.Fatal("issued to a stranger")
		}
	})
}
