package pki

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/pki/capf"
)

const otherPhone = "SEP001122334466"

var none = func(Role, string) bool { return false }
var all = func(Role, string) bool { return true }

// openRotating is an authority that knows two phones.
func openRotating(t testing.TB) *fixture {
	t.Helper()
	return open(t, func(o *Options) {
		o.Phones = func(r Role) []string {
			if r == RoleAdmin || r == RolePeering {
				return nil
			}
			return []string{"SEP001122334455", otherPhone}
		}
	})
}

func (f *fixture) serials(t testing.TB, r Role) (current, next, previous string) {
	t.Helper()
	c, n, p, err := f.Identities(r)
	if err != nil {
		t.Fatal(err)
	}
	current = serialText(c.Leaf.SerialNumber)
	if n != nil {
		next = serialText(n.Leaf.SerialNumber)
	}
	if p != nil {
		previous = serialText(p.Leaf.SerialNumber)
	}
	return current, next, previous
}

func (f *fixture) advance(t testing.TB, fetched Fetched) []Change {
	t.Helper()
	c, err := f.Advance(t.Context(), f.clock.Now(), fetched)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Every role goes through its stages, one at a time as phones follow, over restarts.
func TestRotation(t *testing.T) {
	for _, r := range []Role{RoleCCM, RoleTFTP, RoleTFTPEC, RoleTVS, RoleAppServer, RoleVPN, RoleCAPF} {
		t.Run(string(r), func(t *testing.T) {
			f := openRotating(t)
			old, _, _ := f.serials(t, r)
			dry, devices, err := f.PlanRotation(r, nil)
			if err != nil || len(devices) != 2 || dry.Stage != "" || len(dry.Steps) == 0 || dry.Steps[0].Done {
				t.Fatalf("%+v, %v", dry, err)
			}
			if f.Stage(r) != "" {
				t.Fatal("a dry run began a rotation")
			}
			p, err := f.Rotate(t.Context(), r, "alice")
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Steps) != len(dry.Steps) || !p.Steps[0].Done || p.Steps[1].Done || p.Stage != StagePublish || p.By != "alice" {
				t.Fatalf("plan %+v", p)
			}
			if _, err := f.Rotate(t.Context(), r, "bob"); !errors.Is(err, ErrRotating) {
				t.Errorf("rotated twice at once: %v", err)
			}
			current, next, previous := f.serials(t, r)
			if current != old || next == "" || previous != "" || !f.RollingOver() {
				t.Fatalf("published: current %s, next %s, previous %s", current, next, previous)
			}
			if rec, _ := f.Find(f.mustCert(t, next)); rec.State != Next || rec.Role != r {
				t.Errorf("inventory says %s %s", rec.Role, rec.State)
			}
			half := func(_ Role, d string) bool { return d == otherPhone }
			if c := f.advance(t, half); c != nil {
				t.Fatalf("went on without a phone: %v", c)
			}
			if now := f.Rotations(half); len(now) != 1 || !slices.Equal(now[0].Missing, []string{"SEP001122334455"}) {
				t.Errorf("plans %+v", now)
			}
			f.reopen(t)
			f.advanceOne(t, r)
			made := next
			current, next, previous = f.serials(t, r)
			if current != made || next != "" || previous != old || f.Stage(r) != StageSettle {
				t.Fatalf("switched: current %s, next %s, previous %s", current, next, previous)
			}
			if rec, _ := f.Find(f.mustCert(t, old)); rec.State != Previous {
				t.Errorf("inventory says %s", rec.State)
			}
			f.reopen(t)
			f.advanceOne(t, r)
			if _, _, previous = f.serials(t, r); previous != old || f.Stage(r) != StageRetire || f.RollingOver() {
				t.Fatalf("retiring: previous %s", previous)
			}
			f.reopen(t)
			f.advanceOne(t, r)
			current, next, previous = f.serials(t, r)
			if current != made || next != "" || previous != "" || f.Stage(r) != "" {
				t.Fatalf("ended: current %s, next %s, previous %s", current, next, previous)
			}
			if rec, _ := f.Find(f.mustCert(t, old)); rec.State != Superseded {
				t.Errorf("inventory says %s", rec.State)
			}
			if f.hasKey(old) != (r == RoleCAPF) {
				t.Errorf("old key is there: %v", f.hasKey(old))
			}
			for k := range f.state.m {
				if strings.HasPrefix(k, "pki/rotate/") {
					t.Errorf("left behind: %s", k)
				}
			}
		})
	}
}

func (f *fixture) mustCert(t testing.TB, serial string) []byte {
	t.Helper()
	c, err := f.certificate(serial)
	if err != nil {
		t.Fatal(err)
	}
	return c.Raw
}

// advanceOne lets every phone fetch what the present stage has published, and nothing that comes after.
func (f *fixture) advanceOne(t testing.TB, r Role) {
	t.Helper()
	stage := f.Stage(r)
	f.advance(t, func(Role, string) bool { return f.Stage(r) == stage })
	if f.Stage(r) == stage {
		t.Fatalf("stage %s did not end", stage)
	}
}

// The two steps of tlv.md §8: {old, recovery} signed by old, then {recovery, new} signed by recovery.
func TestSASTTakesTheRecoveryKey(t *testing.T) {
	f := openRotating(t)
	old, _, _ := f.serials(t, RoleSAST)
	recovery, _, _ := f.serials(t, RoleSASTRecovery)
	if _, err := f.Rotate(t.Context(), RoleSAST, "alice"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Rotate(t.Context(), RoleSASTRecovery, "alice"); !errors.Is(err, ErrRotating) {
		t.Errorf("both slots at once: %v", err)
	}
	if c, n, _ := f.serials(t, RoleSAST); c != old || n != recovery {
		t.Fatalf("current %s, next %s", c, n)
	}
	// No deadline: a phone that has no list with the recovery key would be locked out.
	f.clock.Add(300 * 24 * time.Hour)
	if c := f.advance(t, none); c != nil {
		t.Fatalf("switched without the phones: %v", c)
	}
	f.advanceOne(t, RoleSAST)
	c, _, p := f.serials(t, RoleSAST)
	fresh, _, _ := f.serials(t, RoleSASTRecovery)
	if c != recovery || p != old || fresh == recovery || fresh == old {
		t.Fatalf("current %s, previous %s, recovery %s", c, p, fresh)
	}
	if rec, _ := f.Find(f.mustCert(t, recovery)); rec.Role != RoleSAST || rec.State != Current {
		t.Errorf("inventory says %s %s", rec.Role, rec.State)
	}
	if rec, _ := f.Find(f.mustCert(t, old)); rec.Role != RoleSAST || rec.State != Previous || !f.hasKey(old) {
		t.Errorf("inventory says %s %s", rec.Role, rec.State)
	}
	if !slices.ContainsFunc(f.Warnings(), func(w string) bool { return strings.Contains(w, "recovery key") }) {
		t.Error("nobody is told to export the new recovery key")
	}
	f.advance(t, all)
	if f.Stage(RoleSAST) != "" || f.hasKey(old) || !f.hasKey(recovery) {
		t.Error("the rotation did not end well")
	}
	// And once more, with the recovery key alone.
	if _, err := f.Rotate(t.Context(), RoleSASTRecovery, "alice"); err != nil {
		t.Fatal(err)
	}
	if c, _, _ := f.serials(t, RoleSAST); c != recovery {
		t.Error("the signer changed with the recovery key")
	}
	if c, _, p := f.serials(t, RoleSASTRecovery); c == fresh || p != fresh {
		t.Errorf("current %s, previous %s", c, p)
	}
	f.advance(t, all)
	if f.Stage(RoleSASTRecovery) != "" || f.hasKey(fresh) {
		t.Error("the rotation did not end well")
	}
}

func TestForcedRotation(t *testing.T) {
	f := openRotating(t)
	if err := f.Force(t.Context(), RoleSAST, "alice", "lost"); !errors.Is(err, ErrUnknown) {
		t.Errorf("nothing to force: %v", err)
	}
	if _, err := f.Rotate(t.Context(), RoleSAST, "alice"); err != nil {
		t.Fatal(err)
	}
	if err := f.Force(t.Context(), RoleSAST, "alice", " "); err == nil {
		t.Error("forced without a reason")
	}
	if err := f.Force(t.Context(), RoleSAST, "alice", "key was stolen"); err != nil {
		t.Fatal(err)
	}
	c := f.advance(t, none)
	if len(c) != 1 || c[0].Text != "forced by alice: key was stolen" || f.Stage(RoleSAST) != StageRetire {
		t.Errorf("changes %v", c)
	}
	if c := f.advance(t, none); c != nil {
		t.Errorf("force went on to the next stage: %v", c)
	}
}

// Deadlines carry all roles but SAST and VPN past phones that do not come.
func TestRotationGoesOnWithoutAbsentPhones(t *testing.T) {
	f := openRotating(t)
	for _, r := range []Role{RoleCCM, RoleVPN} {
		if _, err := f.Rotate(t.Context(), r, "alice"); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []struct {
		days  int
		stage Stage
	}{{13, StagePublish}, {2, StageSettle}, {13, StageSettle}, {2, StageRetire}, {89, StageRetire}, {2, ""}} {
		f.clock.Add(time.Duration(want.days) * 24 * time.Hour)
		f.advance(t, none)
		if got := f.Stage(RoleCCM); got != want.stage {
			t.Fatalf("stage %q, want %q", got, want.stage)
		}
	}
	if got := f.Stage(RoleVPN); got != StagePublish {
		t.Errorf("VPN is in stage %q: phones outside would be locked out", got)
	}
	id, _ := f.Identity(RoleVPN)
	f.clock.Add(id.Leaf.NotAfter.Sub(f.clock.Now()) - vpnBeforeEnd + time.Hour)
	f.advance(t, none)
	if got := f.Stage(RoleVPN); got != StageSettle {
		t.Errorf("VPN is in stage %q shortly before its certificate ends", got)
	}
}

func TestRenewalBeginsByItself(t *testing.T) {
	f := openRotating(t)
	if due := f.DueRotations(f.clock.Now()); len(due) != 0 {
		t.Errorf("due at once: %v", due)
	}
	f.clock.Add(2 * year * 2 / 3)
	if due := f.DueRotations(f.clock.Now()); !slices.Contains(due, RoleVPN) || !slices.Contains(due, RoleAdmin) || slices.Contains(due, RoleCCM) {
		t.Errorf("due: %v", due)
	}
	old, _, _ := f.serials(t, RoleAdmin)
	c := f.advance(t, none)
	if now, _, _ := f.serials(t, RoleAdmin); now == old || f.Stage(RoleAdmin) != "" {
		t.Errorf("the pages' certificate, which no phone waits for, was not renewed: %v", c)
	}
	if _, next, _ := f.serials(t, RoleVPN); next == "" {
		t.Error("the renewal of the VPN's certificate did not begin")
	}
	if due := f.DueRotations(f.clock.Now()); len(due) != 0 {
		t.Errorf("still due: %v", due)
	}
	// Everything that the issuing CA signs ends with it, so it is first, alone.
	f = openRotating(t)
	if due := f.DueRotations(f.clock.Now().Add(11 * year)); !slices.Equal(due, []Role{RoleCAPF}) {
		t.Errorf("due: %v", due)
	}
}

func TestIssuingCANeedsTheRootKey(t *testing.T) {
	f := openRotating(t)
	scrypt(t)
	exported, err := f.Export(t.Context(), RoleRoot, "correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.RemoveRootKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Rotate(t.Context(), RoleCAPF, "alice"); !errors.Is(err, ErrRootKey) {
		t.Errorf("rotated without the root: %v", err)
	}
	if _, _, err := f.PlanRotation(RoleCAPF, nil); !errors.Is(err, ErrRootKey) {
		t.Errorf("planned without the root: %v", err)
	}
	if err := f.RestoreRootKey(t.Context(), exported, "correct horse batterz"); err == nil {
		t.Error("restored with a wrong passphrase")
	}
	if err := f.RestoreRootKey(t.Context(), exported, "correct horse battery"); err != nil {
		t.Fatal(err)
	}
	key := ecKey(t)
	before := f.install(t, otherPhone, key)
	if _, err := f.Rotate(t.Context(), RoleCAPF, "alice"); err != nil {
		t.Fatal(err)
	}
	f.advance(t, all)
	if _, err := f.VerifyDevice(before, nil, otherPhone); err != nil {
		t.Errorf("a certificate of the CA before: %v", err)
	}
	f.clock.Add(time.Minute)
	if _, err := f.VerifyDevice(f.install(t, otherPhone, key), nil, otherPhone); err != nil {
		t.Errorf("a certificate of the new CA: %v", err)
	}
}

// A new appliance takes over the phones of one that was lost: their lists hold its recovery key.
func TestRestoreSAST(t *testing.T) {
	lost, fresh := openRotating(t), openRotating(t)
	scrypt(t)
	recovery, _, _ := lost.serials(t, RoleSASTRecovery)
	exported, err := lost.Export(t.Context(), RoleSASTRecovery, "correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	if err := lost.RestoreSAST(t.Context(), exported, "correct horse battery"); err == nil {
		t.Error("an appliance restored what it has")
	}
	// The two fixtures begin as copies: give the fresh one keys of its own.
	for range 2 {
		if _, err := fresh.Rotate(t.Context(), RoleSAST, "test"); err != nil {
			t.Fatal(err)
		}
		fresh.advance(t, all)
	}
	own, _, _ := fresh.serials(t, RoleSASTRecovery)
	if err := fresh.RestoreSAST(t.Context(), exported, "correct horse battery"); err != nil {
		t.Fatal(err)
	}
	fresh.reopen(t)
	if c, _, _ := fresh.serials(t, RoleSAST); c != recovery {
		t.Errorf("signer %s, want the lost appliance's recovery key", c)
	}
	if c, _, _ := fresh.serials(t, RoleSASTRecovery); c != own {
		t.Errorf("recovery key %s, want this appliance's own", c)
	}
	if rec, _ := fresh.Find(fresh.mustCert(t, recovery)); rec.Role != RoleSAST || rec.State != Current {
		t.Errorf("inventory says %s %s", rec.Role, rec.State)
	}
}

func scrypt(t *testing.T) {
	t.Helper()
	old := scryptWork
	scryptWork = 10
	t.Cleanup(func() { scryptWork = old })
}

// kill -9 before or after any write of a rotation: whatever stands then is consistent, and the rotation goes on from there.
func TestRotationCutAtEveryWrite(t *testing.T) {
	errKilled := errors.New("killed")
	for _, r := range []Role{RoleSAST, RoleSASTRecovery, RoleTFTPEC, RoleCAPF} {
		for _, applied := range []bool{false, true} {
			for n := 1; ; n++ {
				f := openRotating(t)
				old, _, _ := f.serials(t, r)
				writes := 0
				inner := f.state
				var after *memory
				inner.hook = func(set map[string][]byte, del []string) error {
					if writes++; writes != n {
						if writes > n {
							return errKilled
						}
						return nil
					}
					if !applied {
						return errKilled
					}
					after = &memory{m: make(map[string][]byte)}
					for k, v := range inner.m {
						after.m[k] = v
					}
					for k, v := range set {
						after.m[k] = v
					}
					for _, k := range del {
						delete(after.m, k)
					}
					return errKilled
				}
				_, err := f.Rotate(t.Context(), r, "test")
				if err == nil {
					_, err = f.Advance(t.Context(), f.clock.Now(), all)
				}
				if err != nil && !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
				finished := err == nil
				inner.hook = nil
				if after != nil {
					f.state = after
					f.o.State = after
				}
				f.reopen(t)
				name := fmt.Sprintf("%s, write %d, applied %v", r, n, applied)
				checkRoles(t, f, name)
				if f.Stage(r) == "" {
					if c, _, _ := f.serials(t, r); c == old {
						if _, err := f.Rotate(t.Context(), r, "test"); err != nil {
							t.Fatalf("%s: %v", name, err)
						}
					}
				}
				f.advance(t, all)
				checkRoles(t, f, name)
				if c, next, previous := f.serials(t, r); c == old || next != "" || previous != "" || f.Stage(r) != "" {
					t.Fatalf("%s: rotation did not end: stage %q, next %q, previous %q, changed %v", name, f.Stage(r), next, previous, c != old)
				}
				if finished {
					if n < 3 {
						t.Fatalf("%s: only %d writes were cut", r, n)
					}
					break
				}
			}
		}
	}
}

// checkRoles checks that every role has a certificate and a key that fits it.
func checkRoles(t *testing.T, f *fixture, name string) {
	t.Helper()
	for _, r := range Roles() {
		c, n, p, err := f.Identities(r)
		if err != nil {
			t.Fatalf("%s: role %s: %v", name, r, err)
		}
		if n != nil && p != nil {
			t.Fatalf("%s: role %s has both a next and a previous certificate", name, r)
		}
		pub := c.PrivateKey.(crypto.Signer).Public().(interface{ Equal(crypto.PublicKey) bool })
		if !pub.Equal(c.Leaf.PublicKey) {
			t.Fatalf("%s: role %s: key and certificate do not belong together", name, r)
		}
	}
}

func TestNoRotationAtAnImpossibleTime(t *testing.T) {
	f := openRotating(t)
	if _, err := f.Rotate(t.Context(), RoleCCM, "alice"); err != nil {
		t.Fatal(err)
	}
	f.clock.Add(10 * year)
	if _, err := f.Advance(t.Context(), f.clock.Now(), none); !errors.Is(err, ErrClock) || f.Stage(RoleCCM) != StagePublish {
		t.Errorf("a clock that jumped let deadlines pass: %v", err)
	}
	if _, err := f.Rotate(t.Context(), RoleTVS, "alice"); !errors.Is(err, ErrClock) {
		t.Errorf("%v", err)
	}
	g := open(t)
	if _, err := g.Rotate(context.Background(), RoleCCM, "alice"); err == nil {
		t.Error("rotated without knowing which phones there are")
	}
}

// Renewals of phones that were enrolled on one day are spread.
func TestRenewalsAreSpread(t *testing.T) {
	f := open(t)
	key := ecKey(t)
	days := map[int]int{}
	for i := range 60 {
		device := fmt.Sprintf("SEP0011223355%02d", i)
		cert := f.install(t, device, key)
		at := renewAt(device, cert)
		if again := renewAt(device, cert); !again.Equal(at) {
			t.Fatal("renewal moves")
		}
		d := int(at.Sub(cert.NotBefore).Hours() / 24)
		if d < 243 || d > 273 {
			t.Errorf("renewal on day %d of 365", d)
		}
		days[d]++
	}
	if len(days) < 15 {
		t.Errorf("60 renewals fall on %d days", len(days))
	}
}

// A phone that was enrolled for nothing is re-enrolled by its certificate, or by an administrator's word.
func TestStrangerCannotRenew(t *testing.T) {
	f := open(t)
	e := NewEnrolment(f.Authority, func(string) (DevicePolicy, bool) { return DevicePolicy{Key: capf.P256}, true })
	check := func(step string, op capf.Operation, auth capf.Auth, mode int) {
		t.Helper()
		d, _ := e.Device(otherPhone)
		if d.Operation != op || d.Auth != auth || e.AuthMode(otherPhone) != mode || d.WaiveSession != (auth == capf.AuthCertificate) {
			t.Errorf("%s: %s with proof %d and mode %d, want %s with %d and %d", step, d.Operation, d.Auth, e.AuthMode(otherPhone), op, auth, mode)
		}
	}
	check("new", capf.Install, capf.AuthNone, 2)
	cert := f.install(t, otherPhone, ecKey(t))
	check("enrolled", capf.None, capf.AuthNone, 3)
	f.clock.Add(300 * 24 * time.Hour)
	check("due", capf.Install, capf.AuthCertificate, 3)
	if err := f.ScheduleRenewal(t.Context(), otherPhone, "alice"); err != nil {
		t.Fatal(err)
	}
	check("scheduled with all others", capf.Install, capf.AuthCertificate, 3)
	f.clock.Add(100 * 24 * time.Hour)
	if kind, err := e.VerifyDevice(cert, otherPhone); err != nil || kind != capf.KindLSC {
		t.Errorf("a certificate that ended renews no more: %v", err)
	}
	if err := f.Schedule(t.Context(), otherPhone, capf.Install, "alice"); err != nil {
		t.Fatal(err)
	}
	check("scheduled by name", capf.Install, capf.AuthNone, 2)
	if err := f.Schedule(t.Context(), otherPhone, capf.None, "alice"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.RevokeDevice(t.Context(), otherPhone, "stolen"); err != nil {
		t.Fatal(err)
	}
	check("revoked", capf.Install, capf.AuthCertificate, 3)
	if _, err := e.VerifyDevice(cert, otherPhone); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("a stolen phone enrols again: %v", err)
	}
}
