package pki

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const rootSecret = "correct horse battery"

func (f *fixture) rootIs(t *testing.T, want string) {
	t.Helper()
	if i, err := f.Root(); err != nil || i.Key != want {
		t.Fatalf("the root's key is %s (%v), want %s", i.Key, err, want)
	}
}

// openSecond is another appliance, which knows one phone.
func openSecond(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{state: newMemory(), clock: &clock{t: testTime}}
	f.o = testOptions(f.state, filepath.Join(t.TempDir(), "pki.key"), f.clock)
	f.o.Phones = func(Role) []string { return []string{otherPhone} }
	f.reopen(t)
	return f
}

// The root's key goes from open to locked to away and back, and what only it can sign asks for the passphrase.
func TestPlacesOfTheRootKey(t *testing.T) {
	f := openRotating(t)
	scrypt(t)
	warns := func() bool {
		return slices.ContainsFunc(f.Warnings(), func(s string) bool { return strings.Contains(s, "without a passphrase") })
	}
	f.rootIs(t, RootOpen)
	if !warns() {
		t.Error("nobody is told that the root lies open")
	}
	if err := f.ProtectRoot(t.Context(), "short"); err == nil {
		t.Error("locked with a short passphrase")
	}
	if err := f.ProtectRoot(t.Context(), rootSecret); err != nil {
		t.Fatal(err)
	}
	f.reopen(t)
	f.rootIs(t, RootLocked)
	if warns() {
		t.Error("still warned of")
	}
	serial, _ := f.current(RoleRoot)
	if f.hasKey(serial) {
		t.Fatal("the open key is still there")
	}
	if _, err := f.Rotate(t.Context(), RoleCAPF, "alice"); !errors.Is(err, ErrRootLocked) {
		t.Errorf("rotated without the passphrase: %v", err)
	}
	if _, err := f.RotateIssuer(t.Context(), "alice", "wrong passphrase"); err == nil || errors.Is(err, ErrRootLocked) {
		t.Errorf("rotated with a wrong passphrase: %v", err)
	}
	if _, _, err := f.PlanRotation(RoleCAPF, nil); err != nil {
		t.Errorf("not even planned: %v", err)
	}
	old, _, _ := f.serials(t, RoleCAPF)
	if _, err := f.RotateIssuer(t.Context(), "alice", rootSecret); err != nil {
		t.Fatal(err)
	}
	f.advance(t, all)
	if now, _, _ := f.serials(t, RoleCAPF); now == old {
		t.Error("no new issuing CA")
	}
	// The root's list is good while nobody opens it.
	for range 3 {
		f.clock.Add(year)
		if err := f.CheckClock(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	der, err := f.CRLOf(t.Context(), KeyID(f.Roots()[0]))
	if err != nil {
		t.Fatal(err)
	}
	if l, err := x509.ParseRevocationList(der); err != nil || f.clock.Now().After(l.NextUpdate) {
		t.Errorf("list until %v, %v", l.NextUpdate, err)
	}
	if err := f.RemoveRootKey(t.Context()); err == nil {
		t.Error("removed, and nobody else has it")
	}
	if _, err := f.ExportRoot(t.Context(), "another passphrase"); err == nil {
		t.Error("exported without the passphrase of the lock")
	}
	file, err := f.ExportRoot(t.Context(), rootSecret)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.RemoveRootKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.rootIs(t, RootAway)
	if _, err := f.RotateIssuer(t.Context(), "alice", rootSecret); !errors.Is(err, ErrRootKey) {
		t.Errorf("rotated without the key: %v", err)
	}
	if _, err := f.CRLOf(t.Context(), KeyID(f.Roots()[0])); err != nil {
		t.Errorf("root's list without its key: %v", err)
	}
	if err := f.RestoreRoot(t.Context(), file, "wrong passphrase"); err == nil {
		t.Error("restored with a wrong passphrase")
	}
	if err := f.RestoreRoot(t.Context(), file, rootSecret); err != nil {
		t.Fatal(err)
	}
	f.rootIs(t, RootLocked)
	if err := f.UnprotectRoot(t.Context(), rootSecret); err != nil {
		t.Fatal(err)
	}
	f.rootIs(t, RootOpen)
	if _, err := f.Rotate(t.Context(), RoleCAPF, "alice"); err != nil {
		t.Errorf("opened, yet: %v", err)
	}
}

// An administrator is told in time that the issuing CA needs the locked root.
func TestDueIssuerWithLockedRoot(t *testing.T) {
	f := openRotating(t)
	scrypt(t)
	if err := f.ProtectRoot(t.Context(), rootSecret); err != nil {
		t.Fatal(err)
	}
	for range 11 {
		f.clock.Add(year)
		if err := f.CheckClock(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if slices.Contains(f.DueRotations(f.clock.Now()), RoleCAPF) {
		t.Error("is to be renewed without the root")
	}
	if !slices.ContainsFunc(f.Warnings(), func(s string) bool { return strings.Contains(s, "the issuing CA ends on") }) {
		t.Errorf("warnings %q", f.Warnings())
	}
}

// A second appliance gets its issuing CA from the root of the first.
func TestIssuingCAOfASecondAppliance(t *testing.T) {
	first, second := openRotating(t), openSecond(t)
	scrypt(t)
	if err := first.ProtectRoot(t.Context(), rootSecret); err != nil {
		t.Fatal(err)
	}
	request, err := second.RequestIssuer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.SignIssuer(t.Context(), request, ""); !errors.Is(err, ErrRootLocked) {
		t.Errorf("signed without the passphrase: %v", err)
	}
	for name, b := range map[string][]byte{"noise": []byte("x"), "no request": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{1}})} {
		if _, err := first.SignIssuer(t.Context(), b, rootSecret); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	own, err := first.RequestIssuer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.SignIssuer(t.Context(), own, rootSecret); err == nil || !strings.Contains(err.Error(), "name of its own") {
		t.Errorf("two CAs of one name: %v", err)
	}
	file, err := first.SignIssuer(t.Context(), request, rootSecret)
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseBundle(file, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.InstallIssuer(t.Context(), b, nil, "alice"); !errors.Is(err, ErrImport) {
		t.Errorf("installed at the wrong appliance: %v", err)
	}
	if _, err := second.InstallIssuer(t.Context(), b, first.Roots(), "alice"); err != nil {
		t.Fatal(err)
	}
	second.advance(t, all)
	if _, err := second.InstallIssuer(t.Context(), b, nil, "alice"); !errors.Is(err, ErrUnknown) {
		t.Errorf("installed twice: %v", err)
	}
	second.clock.Add(time.Minute)
	lsc := second.install(t, phone, ecKey(t))
	out, err := openssl(t, "verify", "-attime", "1796126520", "-crl_check", "-CRLfile", second.allCRLs(t), "-CAfile", writePEM(t, "r.pem", first.Roots()...),
		"-untrusted", writePEM(t, "i.pem", b.Cert), writePEM(t, "c.pem", lsc))
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if !slices.ContainsFunc(first.Issuers(), b.Cert.Equal) {
		t.Error("the first appliance does not know the CA that it signed")
	}
	serial := serialText(b.Cert.SerialNumber)
	if err := first.Revoke(t.Context(), serial, "given away"); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(first.Issuers(), b.Cert.Equal) {
		t.Error("revoked, yet an issuer")
	}
}

// kill -9 before or after any write of an import: the role has a certificate that fits its key, and it can be done again.
func TestImportCutAtEveryWrite(t *testing.T) {
	errKilled := errors.New("killed")
	leaf := outsider(t, "vpn.example.com", someRSA(), nil, nil)
	for _, applied := range []bool{false, true} {
		for n := 1; ; n++ {
			f := openRotating(t)
			writes := 0
			var after *memory
			f.state.hook = func(set map[string][]byte, del []string) error {
				if writes++; writes < n {
					return nil
				}
				if applied && after == nil {
					after = &memory{m: make(map[string][]byte)}
					for k, v := range f.state.m {
						after.m[k] = v
					}
					for k, v := range set {
						after.m[k] = v
					}
					for _, k := range del {
						delete(after.m, k)
					}
				}
				return errKilled
			}
			b := &Bundle{Cert: leaf, Key: someRSA()}
			_, err := f.Import(t.Context(), RoleVPN, b, nil, "test")
			if err == nil {
				_, err = f.Advance(t.Context(), f.clock.Now(), all)
			}
			finished := err == nil
			f.state.hook = nil
			if after != nil {
				f.state, f.o.State = after, after
			}
			f.reopen(t)
			checkRoles(t, f, "cut")
			if c, next, _ := f.serials(t, RoleVPN); c != serialText(leaf.SerialNumber) && next == "" {
				if _, err := f.Import(t.Context(), RoleVPN, b, nil, "test"); err != nil {
					t.Fatalf("write %d, applied %v: again: %v", n, applied, err)
				}
			}
			f.advance(t, all)
			if id, err := f.Identity(RoleVPN); err != nil || !id.Leaf.Equal(leaf) || f.Stage(RoleVPN) != "" {
				t.Fatalf("write %d, applied %v: %v, stage %q", n, applied, err, f.Stage(RoleVPN))
			}
			if finished {
				if n < 3 {
					t.Fatalf("only %d writes were cut", n)
				}
				break
			}
		}
	}
}
