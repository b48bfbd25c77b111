package phone

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"sync"
	"testing"
	"time"

	"ringfence/pki/capf"
	"ringfence/trust"
	"ringfence/trust/tvs"
)

// fakeCAPF enrols whoever comes.
type fakeCAPF struct {
	port int
	w    *world

	mu       sync.Mutex
	key      capf.KeyKind
	op       capf.Operation
	issued   *x509.Certificate
	sessions int
	split    bool             // each message in two records
	wrongKey crypto.PublicKey // issue for this key
	onIssued func()
	auth     *capf.AuthResponse // the last one
}

func newFakeCAPF(t *testing.T, w *world) *fakeCAPF {
	f := &fakeCAPF{w: w, key: capf.RSA2048, op: capf.Install}
	f.port = listenTLS(t, w.capfID, false, f.serve)
	return f
}

func (f *fakeCAPF) serve(c *tls.Conn) {
	f.mu.Lock()
	f.sessions++
	session := uint32(0x1000 + f.sessions)
	split, op, key, wrong := f.split, f.op, f.key, f.wrongKey
	f.mu.Unlock()
	send := func(b capf.Body) {
		out, err := capf.Message{Session: session, Body: b}.Marshal()
		if err != nil {
			f.w.t.Errorf("capf: %v", err)
		}
		if split {
			_, _ = c.Write(out[:8])
			out = out[8:]
		}
		_, _ = c.Write(out)
	}
	read := func() capf.Body {
		for {
			m, err := capf.ReadMessage(c)
			if err != nil {
				return nil
			}
			if _, ok := m.Body.(*capf.InProgress); !ok {
				return m.Body
			}
		}
	}
	send(&capf.AuthRequest{Version: 3})
	auth, ok := read().(*capf.AuthResponse)
	if !ok || auth.DeviceName != device {
		return
	}
	f.mu.Lock()
	f.auth = auth
	f.mu.Unlock()
	if op == capf.None {
		send(&capf.EndSession{Reason: capf.ReasonNothing})
		return
	}
	send(&capf.KeyGenerateRequest{Key: key})
	gen, ok := read().(*capf.KeyGenerateResponse)
	if !ok || len(gen.PublicKey) == 0 {
		send(&capf.EndSession{Reason: capf.ReasonRefused})
		return
	}
	pub, err := x509.ParsePKIXPublicKey(gen.PublicKey)
	if err != nil {
		return
	}
	if wrong != nil {
		pub = wrong
	}
	cert := issueLSC(f.w.t, pub)
	send(&capf.StoreRequest{Type: capf.TypeLSC, Certificate: cert.Raw})
	stored, ok := read().(*capf.StoreResponse)
	if !ok || stored.Reason != capf.ReasonDone {
		send(&capf.EndSession{Reason: capf.ReasonRefused})
		return
	}
	f.mu.Lock()
	f.issued = cert
	done := f.onIssued
	f.mu.Unlock()
	if done != nil {
		done()
	}
	send(&capf.EndSession{Reason: capf.ReasonDone})
}

func issueLSC(t testing.TB, pub crypto.PublicKey) *x509.Certificate {
	issuer := signer(t, "issuer")
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	tmpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: device},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer.Cert, pub, issuer.Key)
	if err != nil {
		t.Errorf("issue: %v", err)
		return nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Errorf("issue: %v", err)
	}
	return cert
}

// giveLSC puts a certificate into the phone's flash and into the fake's book, so that a test may begin after enrolment.
func (w *world) giveLSC() {
	w.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		w.t.Fatal(err)
	}
	cert := issueLSC(w.t, key.Public())
	if err := w.phone().flash.storeLSC(cert.Raw, key); err != nil {
		w.t.Fatal(err)
	}
	w.capf.issued = cert
}

// fakeTVS vouches for the certificates that it was given.
type fakeTVS struct {
	port int

	mu      sync.Mutex
	roles   map[string][]trust.Role
	ttl     time.Duration
	split   bool
	queries int
}

func newFakeTVS(t *testing.T, w *world) *fakeTVS {
	f := &fakeTVS{roles: make(map[string][]trust.Role), ttl: time.Hour}
	f.port = listenTLS(t, w.tvsID, false, func(c *tls.Conn) {
		b, err := tvs.ReadMessage(c)
		if err != nil {
			return
		}
		var q tvs.Request
		if err := q.Unmarshal(b); err != nil {
			t.Errorf("tvs: %v", err)
			return
		}
		if q.Device != "CP-8851-"+device {
			t.Errorf("tvs: device %q", q.Device)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.queries++
		roles, ok := f.roles[string(q.Certificate)]
		r := tvs.Response{Session: q.Session, Valid: ok, Roles: roles, TTL: f.ttl}
		out, err := r.Marshal()
		if err != nil {
			t.Errorf("tvs: %v", err)
		}
		if f.split {
			_, _ = c.Write(out[:10])
			out = out[10:]
		}
		_, _ = c.Write(out)
		_, _ = io.Copy(io.Discard, c)
	})
	return f
}

func (f *fakeTVS) vouch(cert *x509.Certificate, roles ...trust.Role) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.roles[string(cert.Raw)] = roles
}
