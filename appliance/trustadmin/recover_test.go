package trustadmin

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/config"
	"ringfence/pki"
	"ringfence/trust"
)

// settled makes a phone that trusts w, and returns its flash.
func (w *world) settled(device, model string) (flash string) {
	w.t.Helper()
	flash = w.t.TempDir()
	p := w.phone(device, model, flash)
	w.content(p)
	p.Stop()
	return flash
}

// system is a world as another system sees it: its signer with its key, and its list.
func (w *world) system() oldSystem {
	w.t.Helper()
	id, err := w.ca.Identity(pki.RoleSAST)
	if err != nil {
		w.t.Fatal(err)
	}
	signers, err := w.keep.signers(pki.RoleSAST)
	if err != nil {
		w.t.Fatal(err)
	}
	list, _, err := w.files.List(desk)
	if err != nil {
		w.t.Fatal(err)
	}
	return oldSystem{sast: id.Leaf, key: signers[0].Key, list: list}
}

// Phones of two other systems come over without anybody at the phone, because the administrator has the systems' keys; what
// the phone holds is found out by trying, or told by a copy of its list.
func TestMigrationWithTheOldKey(t *testing.T) {
	if testing.Short() {
		t.Skip("making keys takes the race detector long; make test-e2e runs it without")
	}
	first, second, w := newWorld(t), newWorld(t), newWorld(t)
	a, b := first.system(), second.system()
	flash, flash2 := second.settled(desk, "8851"), first.settled(hall, "8841")
	run := w.verbs()
	verb := func(want string, args ...string) string {
		t.Helper()
		code, out, errs := run(args...)
		if code != 0 || !strings.Contains(out, want) {
			t.Fatalf("%s: exit %d, %s%s; want %q", strings.Join(args, " "), code, out, errs, want)
		}
		return out
	}
	copyOf := write(t, "ITLFile.tlv", b.list, 0o644)

	p := w.phone(desk, "8851", flash)
	w.boot(p)
	if p.Refusals()[phone.ListContinuity] != 1 || !p.Stale() {
		t.Fatalf("refusals %v: it should hold the other system's list", p.Refusals())
	}
	if out := verb("whether it took it, phones do not say", "trust", "recover", desk); !strings.Contains(out, "no certificate of this appliance") || !strings.Contains(out, "**#") ||
		strings.Contains(out, "up to") {
		t.Errorf("without keys: %s", out)
	}
	verb("if you have the private key of "+b.sast.Subject.CommonName, "trust", "recover", desk, "--list", copyOf)

	w.trusted(config.TrustedCertificates{Name: "first", Files: []string{write(t, "a.pem", a.pem(t, true, a.sast), 0o600)}, Roles: []string{"SAST"}},
		config.TrustedCertificates{Name: "second", Files: []string{write(t, "b.pem", b.pem(t, true, b.sast), 0o600)}, Roles: []string{"SAST"}})
	if len(w.keep.Warnings()) != 0 {
		t.Fatal(w.keep.Warnings())
	}
	verb("restart the phone: it gets a list signed by "+b.sast.Subject.CommonName+" (second)", "trust", "recover", desk, "--list", copyOf)
	verb("led over by", "trust", "show", desk)
	w.boot(p)
	if p.Refusals()[phone.ListContinuity] != 1 || p.Stale() {
		t.Fatalf("not led over: refusals %v, stale %v", p.Refusals(), p.Stale())
	}
	signer := func(p *phone.Phone) string {
		t.Helper()
		c, err := p.TrustList().Signer()
		if err != nil {
			t.Fatal(err)
		}
		return string(c.Raw)
	}
	own, err := w.ca.Identity(pki.RoleSAST)
	if err != nil {
		t.Fatal(err)
	}
	w.boot(p)
	if signer(p) != string(own.Leaf.Raw) || p.Refusals()[phone.ListContinuity] != 1 {
		t.Errorf("did not arrive: refusals %v", p.Refusals())
	}
	if n := len(p.TrustList().Certificates(trust.SAST)); n != 2 || slices.ContainsFunc(p.Listed(trust.SAST), b.sast.Equal) {
		t.Error("the phone still trusts the other system's signer")
	}
	verb("restart the phone: it takes this appliance's list", "trust", "recover", desk, "--list", write(t, "own.tlv", w.system().list, 0o644))

	// Nobody knows what the other phone holds: the keys are tried in turn.
	other := w.phone(hall, "8841", flash2)
	w.boot(other)
	w.boot(other)
	w.boot(other)
	if other.Stale() || signer(other) != string(own.Leaf.Raw) {
		t.Errorf("the second phone: refusals %v, stale %v", other.Refusals(), other.Stale())
	}

	// A phone that trusts this appliance is not bothered; one that came back from elsewhere is, when somebody says so.
	if c := w.files.Led(desk); c != nil {
		t.Errorf("a phone that has come is still led by %s", c.Subject)
	}
	verb("its next list is signed by", "trust", "recover", desk)
	if w.files.Led(desk) == nil {
		t.Error("not led though somebody said so")
	}
	for range 3 {
		w.boot(p)
	}
	if p.Stale() || signer(p) != string(own.Leaf.Raw) {
		t.Error("leading a phone that needed none did harm")
	}
}

// A phone that is given away takes another system's list, which it refused before.
func TestReleasedPhone(t *testing.T) {
	w, next := newWorld(t), newWorld(t)
	run := w.verbs()
	flash := w.settled(desk, "8851")
	var told []string
	w.keep.o.Registered = func(string) bool { return true }
	w.keep.o.Restart = func(_ context.Context, d string) error { told = append(told, d); return nil }
	for _, args := range [][]string{{"trust", "release"}, {"trust", "release", desk}, {"trust", "release", desk, "--all", "--reason", "x"}} {
		if code, _, _ := run(args...); code != 2 {
			t.Errorf("%v: exit %d", args, code)
		}
	}
	if code, out, errs := run("trust", "release", desk, "--reason", "sold"); code != 0 || !strings.Contains(out, "given away") || len(told) != 1 {
		t.Fatalf("exit %d, %s%s, told %v", code, out, errs, told)
	}
	if code, out, _ := run("trust", "show"); code != 0 || !strings.Contains(out, "given away") {
		t.Errorf("exit %d, %s", code, out)
	}
	p := w.phone(desk, "8851", flash)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_ = p.Boot(ctx) // it has no working configuration here any more
	if l := p.TrustList(); len(l.Entries) != 2 || len(l.Certificates(trust.SAST)) != 2 || p.Refusals()[phone.ListContinuity] != 0 {
		t.Fatalf("list of %d entries, refusals %v", len(l.Entries), p.Refusals())
	}
	p.Stop()
	// It holds no rotation up.
	w.rotate(pki.RoleCCM)
	w.hold(hall)
	w.tick()
	if s := w.ca.Stage(pki.RoleCCM); s == pki.StagePublish {
		t.Error("a rotation waits for a phone that was given away")
	}
	moved := next.phone(desk, "8851", flash)
	next.boot(moved)
	if moved.Refusals()[phone.ListContinuity] != 0 || moved.Stale() || len(moved.TrustList().Entries) < 8 {
		t.Errorf("at the next system: refusals %v, stale %v", moved.Refusals(), moved.Stale())
	}

	if code, out, _ := run("trust", "release", "--all", "--undo", "--json"); code != 0 {
		t.Errorf("exit %d, %s", code, out)
	} else {
		var i ReleasedInfo
		if err := json.Unmarshal([]byte(out), &i); err != nil || !slices.Equal(i.Devices, []string{desk}) || !i.Undone {
			t.Errorf("%+v, %v", i, err)
		}
	}
	if b, _, err := w.files.List(desk); err != nil || len(b) < 4000 {
		t.Errorf("taken back, but the list has %d bytes: %v", len(b), err)
	}
}

// What somebody has to do at the phone depends on its model.
func TestByHand(t *testing.T) {
	for model, want := range map[string]string{"8851": "ITL File", "7965": "term65.default.loads", "8945": "no entry for the list alone", "6921": "no entry for the list alone"} {
		p := &config.Phone{Device: desk, Model: model}
		if got := strings.Join(byHand(p), "\n"); !strings.Contains(got, want) || !strings.Contains(got, "123456789*0#") {
			t.Errorf("%s: %s", model, got)
		}
	}
}
