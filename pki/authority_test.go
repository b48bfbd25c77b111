package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/pki/capf"
)

// The first start is killed before its write and repeated: nothing is left over from the first, all is there after the second.
func TestFirstStartMakesEverythingInOneGroup(t *testing.T) {
	state, c := newMemory(), &clock{t: testTime}
	o := testOptions(state, filepath.Join(t.TempDir(), "pki.key"), c)
	killed := errors.New("killed")
	state.hook = func(map[string][]byte, []string) error { return killed }
	if _, err := Open(t.Context(), o); !errors.Is(err, killed) || len(state.m) != 0 {
		t.Fatalf("got %v and %d fields, want %v and none", err, len(state.m), killed)
	}
	state.hook = nil
	a, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if state.groups != 1 {
		t.Errorf("first start wrote %d groups, want 1", state.groups)
	}
	if fi, err := os.Stat(o.KeyFile); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, mode %v; want 0600", err, fi.Mode())
	}
	kinds := map[Role]capf.KeyKind{RoleTFTPEC: capf.P256, RolePeering: capf.P256}
	serials := map[string]bool{}
	for _, r := range Roles() {
		id, err := a.Identity(r)
		if err != nil {
			t.Errorf("%s: %v", r, err)
			continue
		}
		want := kinds[r]
		if want == "" {
			want = capf.RSA2048
		}
		if got := capf.KindOf(id.Leaf.PublicKey); got != want {
			t.Errorf("%s: key %s, want %s", r, got, want)
		}
		if !id.PrivateKey.(crypto.Signer).Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(id.Leaf.PublicKey) {
			t.Errorf("%s: key does not belong to the certificate", r)
		}
		if id.Leaf.SignatureAlgorithm != x509.SHA256WithRSA {
			t.Errorf("%s: signed with %s", r, id.Leaf.SignatureAlgorithm)
		}
		if got, want := len(id.Certificate), 2; r != RoleCAPF && got != want {
			t.Errorf("%s: chain of %d, want %d", r, got, want)
		}
		if id.Leaf.NotAfter.Year() >= 2050 {
			t.Errorf("%s: ends %s, after the two-digit years", r, id.Leaf.NotAfter)
		}
		s := serialText(id.Leaf.SerialNumber)
		if serials[s] || len(s) != 32 || s[0] > '7' {
			t.Errorf("%s: serial %s is repeated, short or has its top bit set", r, s)
		}
		serials[s] = true
	}
	capfID, err := a.Identity(RoleCAPF)
	if err != nil {
		t.Fatal(err)
	}
	ca := capfID.Leaf
	if !ca.IsCA || ca.MaxPathLen != 0 || !ca.MaxPathLenZero {
		t.Errorf("issuing CA: CA %v, pathlen %d (%v); want CA:TRUE, pathlen:0", ca.IsCA, ca.MaxPathLen, ca.MaxPathLenZero)
	}
	if want := x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign; ca.KeyUsage&want != want {
		t.Errorf("issuing CA: key usage %b lacks one of %b", ca.KeyUsage, want)
	}
	if err := ca.CheckSignatureFrom(a.Roots()[0]); err != nil {
		t.Errorf("issuing CA is not signed by the root: %v", err)
	}
	if _, err := a.Identity(RoleRoot); err == nil {
		t.Error("the root has an identity")
	}
}

func TestReopenKeepsEverything(t *testing.T) {
	f := open(t)
	before := map[Role][]byte{}
	for _, r := range Roles() {
		id, err := f.Identity(r)
		if err != nil {
			t.Fatal(err)
		}
		before[r] = id.Leaf.Raw
	}
	f.reopen(t)
	for _, r := range Roles() {
		id, err := f.Identity(r)
		if err != nil || !bytes.Equal(id.Leaf.Raw, before[r]) {
			t.Errorf("%s changed over a restart (%v)", r, err)
		}
	}
	if f.state.groups != 0 {
		t.Errorf("opening wrote %d groups, want none", f.state.groups)
	}
}

// The daemon has 300 ms to be ready; this package may take a small part of it, also with many certificates.
func TestOpenIsFast(t *testing.T) {
	f := open(t)
	key := ecKey(t)
	for i := range 200 {
		f.install(t, fmt.Sprintf("SEP%012X", i), key)
	}
	best := time.Hour
	for range 5 {
		start := time.Now()
		f.reopen(t)
		for _, r := range []Role{RoleSAST, RoleCCM, RoleTFTP, RoleTFTPEC, RoleCAPF, RoleTVS, RoleVPN} {
			if _, err := f.Identity(r); err != nil {
				t.Fatal(err)
			}
		}
		best = min(best, time.Since(start))
	}
	t.Logf("open with seven identities: %v", best)
	if best > 100*time.Millisecond {
		t.Errorf("open took %v, want under 100 ms", best)
	}
}

func TestKeyFileFaults(t *testing.T) {
	other := newSealKey(t)
	for _, tc := range []struct {
		name  string
		spoil func(path string) error
		want  string
	}{
		{"missing", os.Remove, "is missing"},
		{"another appliance's", func(p string) error { return os.WriteFile(p, other, 0o600) }, "another appliance's"},
		{"readable by others", func(p string) error { return os.Chmod(p, 0o644) }, "chmod 600"},
		{"cut short", func(p string) error { return os.Truncate(p, 40) }, "64 hexadecimal digits"},
		{"something else", func(p string) error { return os.WriteFile(p, []byte("hello\n"), 0o600) }, "does not start with"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := open(t)
			before := f.state.copy()
			if err := tc.spoil(f.o.KeyFile); err != nil {
				t.Fatal(err)
			}
			_, err := Open(t.Context(), f.o)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want it to say %q", err, tc.want)
			}
			if len(before.m) != len(f.state.m) || f.state.groups != 0 {
				t.Error("state was changed")
			}
		})
	}
}

func newSealKey(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "k")
	if _, err := makeKeyFile(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPrivateKeysAreSealed(t *testing.T) {
	f := open(t)
	n := 0
	for _, r := range append(Roles(), RoleRoot) {
		serial, ok := f.current(r)
		if !ok {
			t.Fatalf("%s has no certificate", r)
		}
		key, err := f.privateKey(serial)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		// Any stretch of the key, in any field.
		probe := der[len(der)/2 : len(der)/2+16]
		for k, v := range f.state.m {
			if bytes.Contains(v, probe) {
				t.Errorf("%s holds the key of %s in clear", k, r)
			}
		}
		n++
	}
	if n != 12 {
		t.Errorf("looked at %d keys, want 12", n)
	}
	// A sealed key does not open under another name.
	ccm, _ := f.current(RoleCCM)
	vpn, _ := f.current(RoleVPN)
	f.state.m[f.keyKey(vpn)] = f.state.m[f.keyKey(ccm)]
	if _, err := f.privateKey(vpn); !errors.Is(err, ErrKeyFile) {
		t.Errorf("a key moved to another certificate: got %v, want %v", err, ErrKeyFile)
	}
}

func TestNewRoleIsMadeOnUpgrade(t *testing.T) {
	f := open(t)
	delete(f.state.m, f.roleKey(RoleAdmin))
	before, err := f.Identity(RoleCCM)
	if err != nil {
		t.Fatal(err)
	}
	f.reopen(t)
	if _, err := f.Identity(RoleAdmin); err != nil {
		t.Error(err)
	}
	after, err := f.Identity(RoleCCM)
	if err != nil || !bytes.Equal(before.Leaf.Raw, after.Leaf.Raw) {
		t.Errorf("CCM changed (%v)", err)
	}
	if f.state.groups != 1 {
		t.Errorf("%d groups, want 1", f.state.groups)
	}
}

func TestNamesInServerCertificates(t *testing.T) {
	f := open(t)
	for _, tc := range []struct {
		role Role
		name string
		want bool
	}{
		{RoleVPN, "vpn.example.com", true},
		{RoleVPN, "198.51.100.7", true},
		{RoleVPN, "2001:db8::1", true},
		{RoleVPN, "192.0.2.1", true},
		{RoleVPN, "alpha", true},
		{RoleCCM, "192.0.2.1", true},
		{RoleCCM, "alpha.example.net", true},
		{RoleCCM, "vpn.example.com", false},
		{RoleSAST, "192.0.2.1", false},
	} {
		id, err := f.Identity(tc.role)
		if err != nil {
			t.Fatal(err)
		}
		if got := id.Leaf.VerifyHostname(tc.name) == nil; got != tc.want {
			t.Errorf("%s names %s: %v, want %v", tc.role, tc.name, got, tc.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	f := open(t)
	got := f.Warnings()
	if len(got) != 2 || !strings.Contains(got[0], "without a passphrase") || !strings.Contains(got[1], "recovery key") {
		t.Errorf("fresh authority warns %q, want root and recovery key alone", got)
	}
	f.o.VPNHosts = append(f.o.VPNHosts, "new.example.com")
	f.reopen(t)
	if got := f.Warnings(); !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "VPN does not name new.example.com") }) {
		t.Errorf("a new host: warns %q", got)
	}
}

func TestOpenSSLVerifiesEveryChain(t *testing.T) {
	f := open(t)
	root := writePEM(t, "root.pem", f.Roots()...)
	issuers := writePEM(t, "issuers.pem", f.Issuers()...)
	check := func(name string, cert *x509.Certificate, purpose string) {
		t.Helper()
		args := []string{"verify", "-x509_strict", "-attime", fmt.Sprint(f.clock.Now().Add(time.Hour).Unix()), "-CAfile", root}
		if purpose != "" {
			args = append(args, "-purpose", purpose)
		}
		if !cert.IsCA {
			args = append(args, "-untrusted", issuers)
		}
		if out, err := openssl(t, append(args, writePEM(t, "leaf.pem", cert))...); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	for _, r := range Roles() {
		id, err := f.Identity(r)
		if err != nil {
			t.Fatal(err)
		}
		purpose := ""
		if profiles[r].names {
			purpose = "sslserver"
		}
		check(string(r), id.Leaf, purpose)
	}
	for _, kind := range []capf.KeyKind{capf.RSA2048, capf.P256, capf.P384, capf.P521} {
		key, err := capf.GenerateKey(kind)
		if err != nil {
			t.Fatal(err)
		}
		check("LSC "+string(kind), f.install(t, "SEP001122334455", key), "sslclient")
	}
	server, err := f.NewServerCertificate(t.Context(), ecKey(t), "other.example.net", []string{"other.example.net", "192.0.2.9"}, 90*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	check("server", server.Leaf, "sslserver")
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{
		{}, {State: newMemory()}, {State: newMemory(), KeyFile: "x", LSCDays: 3561}, {State: newMemory(), KeyFile: "x", LSCDays: -1},
	} {
		if _, err := Open(context.Background(), o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}
