package appliance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/config"
	"ringfence/vpn/totp"
)

const vpnDocument = `node: {address: 192.0.2.10}
vpn:
  hosts: [vpn.example.net]
  user_roots: [ca.pem]
  policies:
    - {id: phones, pool: 100.64.77.0/24, auth: [password, certificate]}
    - {id: people, pool: 100.64.78.0/24, second_factor: true}
users:
  - {id: ada, vpn: people, email: ada@example.net, password: "abcdefgh-1", totp: "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ"}
  - {id: ben, password: "abcdefgh-2"}
phones:
  - {device: SEP001122AA0001, model: "8851", vpn: phones, vpn_password: "kitchen door"}
  - {device: SEP001122AA0002, model: "8851", vpn: phones, vpn_password: "cellar door"}
  - {device: SEP001122AA0003, model: "8851", vpn: phones, vpn_password: "cellar door"}
  - {device: SEP001122AA0004, model: "8851", vpn_password: "attic window"}
  - {device: SEP001122AA0005, model: "8851", vpn: phones}
lines:
  - {number: "301", user: ada, phone: SEP001122AA0001}
  - {number: "302", phone: SEP001122AA0002}
`

// keys is a store in memory.
type keys struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (k *keys) Get(key string) ([]byte, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	v, ok := k.m[key]
	return v, ok
}

func (k *keys) Write(_ context.Context, set map[string][]byte, del ...string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, v := range set {
		k.m[key] = v
	}
	for _, key := range del {
		delete(k.m, key)
	}
	return nil
}

func vpnDoc(t *testing.T) func() *config.Document {
	t.Helper()
	doc, _, err := config.Parse("test.yaml", []byte(vpnDocument))
	if err != nil {
		t.Fatal(err)
	}
	return func() *config.Document { return doc }
}

func TestVPNPasswords(t *testing.T) {
	p := &passwords{doc: vpnDoc(t), state: &keys{m: map[string][]byte{}}}
	for _, c := range []struct {
		name, who, password, policy string
	}{
		{"person", "ada", "abcdefgh-1", "people"},
		{"wrong", "ada", "abcdefgh-2", ""},
		{"person without policy", "ben", "abcdefgh-2", ""},
		{"phone", "SEP001122AA0001", "kitchen door", "phones"},
		{"phone without policy", "SEP001122AA0004", "attic window", ""},
		{"phone without password", "SEP001122AA0005", "", ""},
		{"nobody", "eve", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			policy, ok := p.vpn(c.who, c.password)
			if ok != (c.policy != "") || ok && policy != c.policy {
				t.Errorf("got %q %v, want %q", policy, ok, c.policy)
			}
		})
	}
	for password, want := range map[string]string{"kitchen door": "SEP001122AA0001", "cellar door": "", "attic window": "", "": "", "abcdefgh-1": ""} {
		if got, ok := p.vpnOwner(password); got != want || ok != (want != "") {
			t.Errorf("owner of %q is %q %v, want %q", password, got, ok, want)
		}
	}
}

func TestOneTimePasswordIsGoodOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &keys{m: map[string][]byte{}}
		people := func() *people { return &people{doc: vpnDoc(t), state: state, log: slog.New(slog.DiscardHandler)} }
		p := people()
		code := rfc6238(t, time.Now())
		if p.code("ben", code) || p.code("eve", code) || p.code("ada", "000000") {
			t.Error("a code is good for somebody else, or a wrong one for ada")
		}
		if !p.code("ada", code) {
			t.Fatal("ada's code is refused")
		}
		if p.code("ada", code) || people().code("ada", code) {
			t.Error("the code is good twice")
		}
		time.Sleep(time.Minute)
		if code = rfc6238(t, time.Now()); !people().code("ada", code) {
			t.Error("the next code is refused")
		}
	})
}

// rfc6238 is what an authenticator with the secret of ada shows.
func rfc6238(t *testing.T, at time.Time) string {
	t.Helper()
	secret, err := totp.ParseText("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")
	if err != nil {
		t.Fatal(err)
	}
	return totp.Code(secret, at)
}

func TestPeopleByCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(subject string, mail string, usage x509.ExtKeyUsage, ca *x509.Certificate) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: subject}, NotBefore: time.Now().Add(-time.Hour),
			NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{usage}, BasicConstraintsValid: true}
		if mail != "" {
			c.EmailAddresses = []string{mail}
		}
		if ca == nil {
			ca, c.IsCA, c.ExtKeyUsage, c.KeyUsage = c, true, nil, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
		}
		der, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		c, err = x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ours, theirs := issue("our people", "", 0, nil), issue("other people", "", 0, nil)
	list := filepath.Join(t.TempDir(), "people.crl")
	revoke := func(ca *x509.Certificate, serials ...*big.Int) {
		t.Helper()
		crl := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
		for _, s := range serials {
			crl.RevokedCertificateEntries = append(crl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: time.Now()})
		}
		der, err := x509.CreateRevocationList(rand.Reader, crl, ca, key)
		if err == nil {
			err = os.WriteFile(list, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	revoke(ours)
	p := &people{doc: vpnDoc(t), roots: []*x509.Certificate{ours}, log: slog.New(slog.DiscardHandler)}
	p.revoked = newRevocations([]string{list}, p.roots, p.log)
	for _, c := range []struct {
		name string
		cert *x509.Certificate
		user string
	}{
		{"by name", issue("ada", "", x509.ExtKeyUsageClientAuth, ours), "ada"},
		{"by address", issue("Ada L.", "Ada@example.net", x509.ExtKeyUsageClientAuth, ours), "ada"},
		{"person without policy", issue("ben", "", x509.ExtKeyUsageClientAuth, ours), ""},
		{"for servers", issue("ada", "", x509.ExtKeyUsageServerAuth, ours), ""},
		{"of another authority", issue("ada", "", x509.ExtKeyUsageClientAuth, theirs), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			user, policy, err := p.certificate(c.cert, nil)
			if user != c.user || (err == nil) != (c.user != "") || err == nil && policy != "people" {
				t.Errorf("got %q %q %v, want %q", user, policy, err, c.user)
			}
		})
	}
	t.Run("revoked", func(t *testing.T) {
		lost, kept := issue("ada", "", x509.ExtKeyUsageClientAuth, ours), issue("ada", "", x509.ExtKeyUsageClientAuth, ours)
		takes := func(c *x509.Certificate) bool { _, _, err := p.certificate(c, nil); return err == nil }
		if !takes(lost) || !takes(kept) {
			t.Fatal("certificates that are not revoked are refused")
		}
		live := func(string) bool { return true }
		revoke(theirs, kept.SerialNumber, lost.SerialNumber) // by an authority that is none of ours
		if ended := p.revoked.ended(live); len(ended) != 0 || !takes(kept) {
			t.Errorf("a list of strangers ends the sessions of %v", ended)
		}
		revoke(ours, lost.SerialNumber)
		if takes(lost) || !takes(kept) {
			t.Error("the revoked certificate is taken, or the other one is not")
		}
		if ended := p.revoked.ended(live); len(ended) != 1 || ended[0] != "ada" {
			t.Errorf("sessions that end: %v, want ada's", ended)
		}
		if ended := p.revoked.ended(live); len(ended) != 0 {
			t.Errorf("they end again: %v", ended)
		}
		if err := os.Remove(list); err != nil {
			t.Fatal(err)
		}
		if takes(lost) || !takes(kept) {
			t.Error("a list that is gone is not in force any more")
		}
		p.revoked = newRevocations([]string{list}, p.roots, p.log)
		if takes(kept) {
			t.Error("a certificate is taken although no list was ever read")
		}
		p.revoked = newRevocations(nil, nil, p.log)
	})
	p.roots = nil
	if _, _, err := p.certificate(issue("ada", "", x509.ExtKeyUsageClientAuth, ours), nil); err == nil || !strings.Contains(err.Error(), "vpn.user_roots") {
		t.Errorf("without roots: %v", err)
	}
	if !p.mayUse("ada", "SEP001122AA0001") || p.mayUse("ada", "SEP001122AA0002") || p.mayUse("", "SEP001122AA0002") {
		t.Error("phones are for the persons of their lines")
	}
}
