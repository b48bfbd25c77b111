package pki

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRevokeAndCRLWithOpenSSL(t *testing.T) {
	f := open(t)
	good, bad := f.install(t, phone, ecKey(t)), f.install(t, "SEP0011223344EE", ecKey(t))
	serial := serialText(bad.SerialNumber)
	if err := f.Revoke(t.Context(), strings.ToUpper(serial), "key compromise"); err != nil {
		t.Fatal(err)
	}
	if !f.IsRevoked(serial) {
		t.Error("not revoked")
	}
	groups := f.state.groups
	if err := f.Revoke(t.Context(), serial, "again"); err != nil || f.state.groups != groups {
		t.Errorf("revoked twice: %v, %d writes", err, f.state.groups-groups)
	}
	der, err := f.CRL(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	crl := filepath.Join(t.TempDir(), "crl.der")
	if err := os.WriteFile(crl, der, 0o600); err != nil {
		t.Fatal(err)
	}
	issuer := writePEM(t, "issuer.pem", f.Issuers()...)
	chain := writePEM(t, "chain.pem", append(f.Roots(), f.Issuers()...)...)
	out, err := openssl(t, "crl", "-inform", "DER", "-in", crl, "-CAfile", issuer, "-noout", "-text")
	if err != nil || !strings.Contains(out, "verify OK") || !strings.Contains(out, strings.ToUpper(serial)) || !strings.Contains(out, "Key Compromise") {
		t.Errorf("OpenSSL on the CRL: %v\n%s", err, out)
	}
	check := func(c *x509.Certificate) (string, error) {
		return openssl(t, "verify", "-attime", fmt.Sprint(f.clock.Now().Add(time.Minute).Unix()), "-crl_check", "-CRLfile", crl,
			"-CAfile", chain, writePEM(t, "c.pem", c))
	}
	if out, err := check(good); err != nil {
		t.Errorf("good certificate: %v\n%s", err, out)
	}
	if out, err := check(bad); err == nil || !strings.Contains(out, "revoked") {
		t.Errorf("revoked certificate: %v\n%s", err, out)
	}
}

func TestCRLIsMadeWhenNeeded(t *testing.T) {
	f := open(t)
	crl := func() *x509.RevocationList {
		t.Helper()
		der, err := f.CRL(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		l, err := x509.ParseRevocationList(der)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := crl()
	if again := crl(); !bytes.Equal(first.Raw, again.Raw) {
		t.Error("made anew without a reason")
	}
	cert := f.install(t, phone, ecKey(t))
	if n, err := f.RevokeDevice(t.Context(), phone, "stolen"); err != nil || n != 1 {
		t.Fatalf("revoked %d, %v; want 1", n, err)
	}
	second := crl()
	if second.Number.Cmp(first.Number) <= 0 || len(second.RevokedCertificateEntries) != 1 ||
		second.RevokedCertificateEntries[0].SerialNumber.Cmp(cert.SerialNumber) != 0 {
		t.Errorf("after a revocation: number %v, entries %v", second.Number, second.RevokedCertificateEntries)
	}
	f.reopen(t)
	if again := crl(); again.Number.Cmp(second.Number) <= 0 || len(again.RevokedCertificateEntries) != 1 {
		t.Errorf("after a restart: number %v, entries %v", again.Number, again.RevokedCertificateEntries)
	}
	f.clock.Add(crlLife/2 + time.Minute)
	third := crl()
	if third.Number.Cmp(second.Number) <= 0 || !third.NextUpdate.After(second.NextUpdate) {
		t.Errorf("after half its life: number %v, until %v", third.Number, third.NextUpdate)
	}
	f.clock.Add(366 * 24 * time.Hour)
	if l := crl(); len(l.RevokedCertificateEntries) != 0 {
		t.Errorf("lists %d certificates that have ended", len(l.RevokedCertificateEntries))
	}
}

func TestRevokeRefuses(t *testing.T) {
	f := open(t)
	for _, s := range []string{"", "zz", "1234"} {
		if err := f.Revoke(t.Context(), s, ""); !errors.Is(err, ErrUnknown) {
			t.Errorf("serial %q: got %v, want %v", s, err, ErrUnknown)
		}
	}
	for _, r := range []Role{RoleRoot, RoleCAPF, RoleSAST, RoleCCM} {
		serial, _ := f.current(r)
		if err := f.Revoke(t.Context(), serial, ""); err == nil || f.IsRevoked(serial) {
			t.Errorf("%s was revoked while in use (%v)", r, err)
		}
	}
}

func TestRevocationIsInOneGroup(t *testing.T) {
	f := open(t)
	cert := f.install(t, phone, ecKey(t))
	killed := errors.New("killed")
	f.state.hook = func(map[string][]byte, []string) error { return killed }
	if err := f.Revoke(t.Context(), serialText(cert.SerialNumber), "stolen"); err == nil {
		t.Error("a revocation that was not written is reported as done")
	}
	f.state.hook = nil
	if _, err := f.VerifyDevice(cert, nil, phone); err != nil {
		t.Errorf("half revoked: %v", err)
	}
}

func TestServerCertificateCanBeRevoked(t *testing.T) {
	f := open(t)
	c, err := f.NewServerCertificate(t.Context(), ecKey(t), "wifi.example.net", []string{"wifi.example.net"}, 90*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	r, ok := f.Find(c.Leaf.Raw)
	if !ok || r.State != Current || r.Role != RoleServer {
		t.Errorf("record %+v, %v", r, ok)
	}
	if err := f.Revoke(t.Context(), r.Serial, "superseded"); err != nil {
		t.Fatal(err)
	}
	if r, _ := f.Find(c.Leaf.Raw); r.State != Revoked || r.Reason != "superseded" || r.RevokedAt.IsZero() {
		t.Errorf("record %+v", r)
	}
}
