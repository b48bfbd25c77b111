package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/pki/capf"
)

// someRSA is a key that tests share: making one is dear.
var someRSA = sync.OnceValue(func() crypto.Signer {
	k, err := capf.GenerateKey(capf.RSA2048)
	if err != nil {
		panic(err)
	}
	return k
})

// outsider makes a certificate; parent nil is self-signed.
func outsider(t testing.TB, name string, pub crypto.Signer, parent *x509.Certificate, by crypto.Signer, change ...func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{SerialNumber: new(big.Int).SetBytes([]byte("x" + name)), Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true,
		NotBefore: testTime.Add(-time.Hour), NotAfter: testTime.Add(year), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, DNSNames: []string{name}}
	for _, f := range change {
		f(c)
	}
	if parent == nil {
		parent, by = c, pub
	}
	cert, err := sign(c, parent, pub.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// authorityOf makes a template a CA's with a pathlen; below 0 there is none.
func authorityOf(pathLen int) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.IsCA, c.ExtKeyUsage, c.MaxPathLen, c.MaxPathLenZero = true, nil, max(pathLen, 0), pathLen == 0
		c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	}
}

func pemOf(t testing.TB, key crypto.Signer, certs ...*x509.Certificate) []byte {
	t.Helper()
	var b []byte
	if key != nil {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		b = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

// Files as OpenSSL writes them are read: every form of key, in the clear and encrypted, and PKCS #12 of new and old.
func TestBundlesOfOpenSSL(t *testing.T) {
	caKey := ecKey(t)
	ca := outsider(t, "CA", caKey, nil, nil, authorityOf(0))
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const secret = "correct horse"
	for name, key := range map[string]crypto.Signer{"rsa": someRSA(), "ec": ecKey(t)} {
		leaf := outsider(t, "vpn.example.net", key, ca, caKey)
		in := write("in.pem", pemOf(t, key, leaf, ca))
		keyIn := write("key.pem", pemOf(t, key))
		certs := pemOf(t, nil, ca, leaf) // in the wrong order
		make := func(args ...string) []byte {
			t.Helper()
			out := filepath.Join(dir, "out")
			if text, err := openssl(t, append(args, "-out", out)...); err != nil {
				t.Fatalf("%v: %v\n%s", args, err, text)
			}
			b, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		traditional := []string{"rsa", "-traditional"}
		if name == "ec" {
			traditional = []string{"ec"}
		}
		for _, tc := range []struct {
			name   string
			b      []byte
			secret string
		}{
			{"PKCS #8", append(pemOf(t, key), certs...), ""},
			{"traditional", append(make(append(traditional, "-in", keyIn)...), certs...), ""},
			{"traditional, encrypted", append(make(append(traditional, "-in", keyIn, "-aes128", "-passout", "pass:"+secret)...), certs...), secret},
			{"PKCS #8, encrypted", append(make("pkcs8", "-topk8", "-in", keyIn, "-passout", "pass:"+secret), certs...), secret},
			{"PKCS #12", make("pkcs12", "-export", "-in", in, "-passout", "pass:"+secret), secret},
			{"PKCS #12 of before", make("pkcs12", "-export", "-legacy", "-in", in, "-passout", "pass:"+secret), secret},
		} {
			b, err := ParseBundle(tc.b, tc.secret)
			if err != nil {
				t.Errorf("%s, %s: %v", name, tc.name, err)
				continue
			}
			if !b.Cert.Equal(leaf) || !belongs(b.Key, leaf) || len(b.Chain) != 1 || !b.Chain[0].Equal(ca) {
				t.Errorf("%s, %s: read %v with %d above", name, tc.name, b.Cert.Subject, len(b.Chain))
			}
			if tc.secret == "" {
				continue
			}
			for _, wrong := range []string{"", "wrong"} {
				if _, err := ParseBundle(tc.b, wrong); err == nil || !strings.Contains(err.Error(), "passphrase") {
					t.Errorf("%s, %s with %q: %v", name, tc.name, wrong, err)
				}
			}
		}
	}
}

func TestBundlesThatAreRefused(t *testing.T) {
	leaf := outsider(t, "x", someRSA(), nil, nil)
	for name, tc := range map[string]struct {
		b    []byte
		want string
	}{
		"nothing":        {nil, "neither PEM"},
		"noise":          {bytes.Repeat([]byte{7}, 300), "neither PEM"},
		"no certificate": {pemOf(t, someRSA()), "no certificate"},
		"other key":      {pemOf(t, ecKey(t), leaf), "does not belong"},
		"two keys":       {append(pemOf(t, someRSA()), pemOf(t, ecKey(t), leaf)...), "two private keys"},
		"too large":      {make([]byte, maxBundle+1), "more than"},
	} {
		if _, err := ParseBundle(tc.b, ""); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// FuzzBundle: whatever an administrator picks by mistake is refused in words.
func FuzzBundle(f *testing.F) {
	key := ecKey(f)
	f.Add(pemOf(f, key, outsider(f, "x", key, nil, nil)), "")
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "x")
	f.Add([]byte{0x30, 0x80, 2, 1, 3}, "x")
	f.Fuzz(func(t *testing.T, b []byte, passphrase string) {
		if got, err := ParseBundle(b, passphrase); err == nil && got.Cert == nil {
			t.Fatal("read without certificate")
		}
	})
}

func TestImportOfARole(t *testing.T) {
	f := openRotating(t)
	caKey := ecKey(t)
	root := outsider(t, "Example Root", caKey, nil, nil, authorityOf(-1))
	middleKey := ecKey(t)
	middle := outsider(t, "Example Issuing CA", middleKey, root, caKey, authorityOf(0))
	leaf := outsider(t, "vpn.example.com", someRSA(), middle, middleKey)
	b, err := ParseBundle(pemOf(t, someRSA(), leaf, middle), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Import(t.Context(), RoleVPN, b, []*x509.Certificate{root}, "alice"); err != nil {
		t.Fatal(err)
	}
	before, next, _ := f.serials(t, RoleVPN)
	if next != serialText(leaf.SerialNumber) || before == next {
		t.Fatalf("next is %s", next)
	}
	f.advance(t, all)
	f.reopen(t)
	id, err := f.Identity(RoleVPN)
	if err != nil {
		t.Fatal(err)
	}
	if !id.Leaf.Equal(leaf) || len(id.Certificate) != 2 || !bytes.Equal(id.Certificate[1], middle.Raw) {
		t.Errorf("in use is %s with %d certificates", id.Leaf.Subject, len(id.Certificate))
	}
	if got, err := f.ChainPEM(RoleVPN); err != nil || bytes.Count(got, []byte("BEGIN")) != 2 {
		t.Errorf("exported %s, %v", got, err)
	}
	if got, err := f.ChainPEM(RoleCCM); err != nil || bytes.Count(got, []byte("BEGIN")) != 3 {
		t.Errorf("exported %s, %v", got, err)
	}
	// It is somebody's to replace, until it is late.
	f.clock.Add(year - year/4)
	if slices.Contains(f.DueRotations(f.clock.Now()), RoleVPN) {
		t.Error("replaced early")
	}
	if !slices.ContainsFunc(f.Warnings(), func(s string) bool { return strings.Contains(s, "import its successor") }) {
		t.Errorf("warnings %q", f.Warnings())
	}
	f.clock.Add(year / 8)
	if !slices.Contains(f.DueRotations(f.clock.Now()), RoleVPN) {
		t.Error("left to end")
	}
}

func TestImportIsChecked(t *testing.T) {
	f := openRotating(t)
	caKey := ecKey(t)
	root := outsider(t, "Root", caKey, nil, nil, authorityOf(-1))
	short := outsider(t, "Short", caKey, nil, nil, authorityOf(0))
	other := outsider(t, "Other", ecKey(t), nil, nil, authorityOf(-1))
	rsaKey, ec := someRSA(), ecKey(t)
	late := func(c *x509.Certificate) { c.NotAfter = testTime.Add(-time.Minute) }
	for _, tc := range []struct {
		name  string
		role  Role
		b     *Bundle
		roots []*x509.Certificate
		want  string
	}{
		{"SAST", RoleSAST, &Bundle{Cert: outsider(t, "a", rsaKey, nil, nil), Key: rsaKey}, nil, "import it as SAST-RECOVERY"},
		{"root", RoleRoot, &Bundle{Cert: root, Key: caKey}, nil, "as CAPF"},
		{"no such role", "WEB", &Bundle{Cert: root, Key: caKey}, nil, ErrUnknown.Error()},
		{"no key", RoleVPN, &Bundle{Cert: outsider(t, "a", rsaKey, nil, nil)}, nil, "no private key"},
		{"other key", RoleVPN, &Bundle{Cert: outsider(t, "a", rsaKey, nil, nil), Key: ec}, nil, "does not belong"},
		{"EC where phones know RSA", RoleCCM, &Bundle{Cert: outsider(t, "a", ec, nil, nil), Key: ec}, nil, "wants an RSA key"},
		{"RSA where phones want EC", RoleTFTPEC, &Bundle{Cert: outsider(t, "a", rsaKey, nil, nil), Key: rsaKey}, nil, "wants an EC key"},
		{"ended", RoleVPN, &Bundle{Cert: outsider(t, "a", rsaKey, nil, nil, late), Key: rsaKey}, nil, "ended on"},
		{"not begun", RoleVPN, &Bundle{Cert: outsider(t, "a", rsaKey, nil, nil, func(c *x509.Certificate) { c.NotBefore = testTime.Add(time.Hour) }), Key: rsaKey}, nil, "begins on"},
		{"beyond 2049", RoleVPN, &Bundle{Cert: outsider(t, "a", rsaKey, nil, nil, func(c *x509.Certificate) { c.NotAfter = testTime.Add(40 * year) }), Key: rsaKey}, nil, "after 2049"},
		{"usage", RoleVPN, &Bundle{Cert: outsider(t, "a", rsaKey, nil, nil, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }), Key: rsaKey}, nil, "digitalSignature"},
		{"client only", RoleVPN, &Bundle{Cert: outsider(t, "a", rsaKey, nil, nil, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), Key: rsaKey}, nil, "serverAuth"},
		{"CAPF that is no CA", RoleCAPF, &Bundle{Cert: outsider(t, "a", rsaKey, nil, nil), Key: rsaKey}, nil, "CA:TRUE"},
		{"CAPF that may not sign", RoleCAPF, &Bundle{Cert: outsider(t, "a", rsaKey, nil, nil, authorityOf(0), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), Key: rsaKey}, nil, "keyCertSign"},
		{"CAPF without lists", RoleCAPF, &Bundle{Cert: outsider(t, "a", rsaKey, nil, nil, authorityOf(0), func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }), Key: rsaKey}, nil, "cRLSign"},
		{"CAPF below pathlen 0", RoleCAPF, &Bundle{Cert: outsider(t, "a", rsaKey, short, caKey, authorityOf(0)), Key: rsaKey, Chain: []*x509.Certificate{short}}, nil, "pathlen:0 and may have no CA below"},
		{"CAPF below a root of pathlen 0", RoleCAPF, &Bundle{Cert: outsider(t, "a", rsaKey, short, caKey, authorityOf(0)), Key: rsaKey}, []*x509.Certificate{short}, "too little"},
		{"CAPF without its root", RoleCAPF, &Bundle{Cert: outsider(t, "a", rsaKey, root, caKey, authorityOf(0)), Key: rsaKey}, nil, "whose issuer CN=Root is not in the file"},
		{"another root", RoleVPN, &Bundle{Cert: outsider(t, "a", rsaKey, root, caKey), Key: rsaKey}, []*x509.Certificate{other}, "none of the given roots"},
		{"no CA above", RoleVPN, &Bundle{Cert: outsider(t, "a", rsaKey, root, caKey), Key: rsaKey, Chain: []*x509.Certificate{outsider(t, "Root", caKey, nil, nil)}}, nil, "is no CA"},
	} {
		if _, err := f.Import(t.Context(), tc.role, tc.b, tc.roots, "test"); err == nil || !errors.Is(err, ErrImport) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
	if f.state.groups != 0 {
		t.Errorf("%d groups were written", f.state.groups)
	}
	if _, err := f.Import(t.Context(), RoleVPN, &Bundle{Cert: outsider(t, "a", rsaKey, root, caKey), Key: rsaKey}, []*x509.Certificate{root}, "test"); err != nil {
		t.Error(err)
	}
	if _, err := f.Import(t.Context(), RoleAdmin, &Bundle{Cert: outsider(t, "a", rsaKey, nil, nil), Key: rsaKey}, nil, "test"); err == nil || !strings.Contains(err.Error(), "serial number") {
		t.Errorf("two certificates of one serial number: %v", err)
	}
}

// An issuing CA from elsewhere comes into use by a rotation, with its revocation list, and phones of before stay known.
func TestImportOfAnIssuingCA(t *testing.T) {
	f := openRotating(t)
	before := f.install(t, otherPhone, ecKey(t))
	caKey := ecKey(t)
	root := outsider(t, "Company Root", caKey, nil, nil, authorityOf(-1))
	issuing := outsider(t, "Company Phones", someRSA(), root, caKey, authorityOf(0))
	b, err := ParseBundle(pemOf(t, someRSA(), issuing, root), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Import(t.Context(), RoleCAPF, b, nil, "alice"); err != nil {
		t.Fatal(err)
	}
	f.advance(t, all)
	f.clock.Add(time.Minute)
	lsc := f.install(t, phone, ecKey(t))
	if !bytes.Equal(lsc.RawIssuer, issuing.RawSubject) {
		t.Errorf("issued by %s", lsc.Issuer)
	}
	for device, c := range map[string]*x509.Certificate{phone: lsc, otherPhone: before} {
		if _, err := f.VerifyDevice(c, nil, device); err != nil {
			t.Error(err)
		}
	}
	out, err := openssl(t, "verify", "-attime", "1796126520", "-crl_check", "-CRLfile", f.allCRLs(t), "-CAfile", writePEM(t, "r.pem", root), "-untrusted",
		writePEM(t, "i.pem", issuing), writePEM(t, "c.pem", lsc))
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
