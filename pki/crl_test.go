package pki

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	foreign "golang.org/x/crypto/ocsp"

	"ringfence/pki/ocsp"
)

// allCRLs writes the lists of every publisher as PEM.
func (f *fixture) allCRLs(t *testing.T) string {
	t.Helper()
	var b []byte
	lists, err := f.CRLs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, der := range lists {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})...)
	}
	path := filepath.Join(t.TempDir(), "crls.pem")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// OpenSSL verifies every chain of an installation whose issuing CA has changed, with the revocation list of every CA in it.
func TestOpenSSLChecksEveryChainAndCRL(t *testing.T) {
	f := open(t, func(o *Options) { o.Phones = func(Role) []string { return nil } })
	first, gone := f.install(t, "SEP0011223344EE", ecKey(t)), f.install(t, "SEP0011223344EF", ecKey(t))
	if _, err := f.RevokeDevice(t.Context(), "SEP0011223344EF", "stolen"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Rotate(t.Context(), RoleCAPF, "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Advance(t.Context(), f.clock.Now(), nil); err != nil {
		t.Fatal(err)
	}
	if n := len(f.Issuers()); n != 2 {
		t.Fatalf("%d issuing CAs, want 2", n)
	}
	second := f.install(t, phone, ecKey(t))
	if string(first.AuthorityKeyId) == string(second.AuthorityKeyId) {
		t.Fatal("issued by the same key")
	}
	lost := f.install(t, "SEP0011223344F0", ecKey(t))
	if _, err := f.RevokeDevice(t.Context(), "SEP0011223344F0", "stolen"); err != nil {
		t.Fatal(err)
	}
	crls, roots, middle := f.allCRLs(t), writePEM(t, "root.pem", f.Roots()...), writePEM(t, "issuers.pem", f.Issuers()...)
	check := func(c *x509.Certificate) (string, error) {
		return openssl(t, "verify", "-attime", fmt.Sprint(f.clock.Now().Add(time.Minute).Unix()), "-crl_check_all", "-CRLfile", crls,
			"-CAfile", roots, "-untrusted", middle, writePEM(t, "c.pem", c))
	}
	certs := map[string]*x509.Certificate{"LSC of the first CA": first, "LSC of the second CA": second}
	for i, ca := range f.Issuers() {
		certs[fmt.Sprintf("issuing CA %d", i)] = ca
	}
	for _, r := range Roles() {
		id, err := f.Identity(r)
		if err != nil {
			t.Fatal(err)
		}
		certs[string(r)] = id.Leaf
	}
	for name, c := range certs {
		if out, err := check(c); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	for name, c := range map[string]*x509.Certificate{"first CA": gone, "second CA": lost} {
		if out, err := check(c); err == nil || !strings.Contains(out, "revoked") {
			t.Errorf("revoked LSC of the %s: %v\n%s", name, err, out)
		}
	}
}

func TestRootCRLOutlivesTheRootKey(t *testing.T) {
	f := open(t)
	root := f.Roots()[0]
	der, err := f.CRLOf(t.Context(), KeyID(root))
	if err != nil {
		t.Fatal(err)
	}
	l, err := x509.ParseRevocationList(der)
	if err != nil || l.CheckSignatureFrom(root) != nil {
		t.Fatalf("%v, %v", err, l.CheckSignatureFrom(root))
	}
	f.clock.Add(200 * 24 * time.Hour)
	der, err = f.CRLOf(t.Context(), KeyID(root))
	if err != nil {
		t.Fatal(err)
	}
	newer, err := x509.ParseRevocationList(der)
	if err != nil || !newer.NextUpdate.After(l.NextUpdate) || newer.Number.Cmp(l.Number) <= 0 {
		t.Errorf("after half its life: %v, until %v", err, newer.NextUpdate)
	}
	if _, err := f.CRLOf(t.Context(), "00ff"); !errors.Is(err, ErrUnknown) {
		t.Errorf("unknown CA: %v", err)
	}
}

func TestOCSPAnswers(t *testing.T) {
	f := open(t)
	cert := f.install(t, phone, ecKey(t))
	issuer := f.Issuers()[0]
	ask := func(serialOf *x509.Certificate, by *x509.Certificate) (*foreign.Response, error) {
		t.Helper()
		req, err := foreign.CreateRequest(serialOf, by, nil)
		if err != nil {
			t.Fatal(err)
		}
		der, refused := f.OCSP(req)
		if refused != nil {
			return nil, refused
		}
		return foreign.ParseResponseForCert(der, serialOf, issuer)
	}
	if r, err := ask(cert, issuer); err != nil || r.Status != foreign.Good {
		t.Fatalf("%+v, %v; want good", r, err)
	}
	if err := f.Revoke(t.Context(), serialText(cert.SerialNumber), "key compromise"); err != nil {
		t.Fatal(err)
	}
	if r, err := ask(cert, issuer); err != nil || r.Status != foreign.Revoked || r.RevocationReason != foreign.KeyCompromise {
		t.Fatalf("%+v, %v; want revoked at once", r, err)
	}
	if r, err := ask(&x509.Certificate{SerialNumber: f.serial()}, issuer); err != nil || r.Status != foreign.Unknown {
		t.Errorf("never issued: %+v, %v; want unknown", r, err)
	}
	stranger, _ := readPEM(t, "issuer.pem")
	if _, err := ask(cert, stranger); !errors.Is(err, ocsp.Unauthorized) {
		t.Errorf("another CA's: %v", err)
	}
	if _, err := ask(issuer, f.Roots()[0]); !errors.Is(err, ocsp.Unauthorized) {
		t.Errorf("the root's: %v", err)
	}
	if der, err := f.OCSP([]byte("junk")); !errors.Is(err, ocsp.Malformed) || string(der) != string(ocsp.Malformed.Marshal()) {
		t.Errorf("junk: %x, %v", der, err)
	}
	f.clock.Add(-365 * 24 * time.Hour)
	if _, err := ask(cert, issuer); !errors.Is(err, ocsp.TryLater) {
		t.Errorf("with an impossible clock: %v", err)
	}
}

// Where to ask is written into certificates when it is configured, and only then.
func TestPublishedAddresses(t *testing.T) {
	f := open(t)
	plain := f.install(t, phone, ecKey(t))
	if len(plain.CRLDistributionPoints)+len(plain.OCSPServer)+len(plain.IssuingCertificateURL) != 0 {
		t.Error("addresses that nobody configured")
	}
	f.o.PublishURL = "http://192.0.2.1:6974/"
	f.reopen(t)
	cert, id := f.install(t, phone, ecKey(t)), KeyID(f.Issuers()[0])
	got := fmt.Sprint(cert.CRLDistributionPoints, cert.OCSPServer, cert.IssuingCertificateURL)
	if want := fmt.Sprintf("[http://192.0.2.1:6974/crl/%s.crl] [http://192.0.2.1:6974/ocsp] [http://192.0.2.1:6974/ca/%s.cer]", id, id); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if _, err := f.VerifyDevice(cert, nil, phone); err != nil {
		t.Error(err)
	}
}
