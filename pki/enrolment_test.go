package pki_test

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ringfence/pki"
	"ringfence/pki/capf"
)

func TestEveryKeyKind(t *testing.T) {
	kinds := []capf.KeyKind{capf.RSA2048, capf.RSA3072, capf.RSA4096, capf.P256, capf.P384, capf.P521}
	policy := make(map[string]pki.DevicePolicy)
	for i, k := range kinds {
		policy[fmt.Sprintf("SEP00112233440%d", i)] = pki.DevicePolicy{Key: k}
	}
	b := serve(t, policy)
	for device, p := range policy {
		res, err := (&capf.Client{Device: device}).Run(t.Context(), b.dial(t))
		if err != nil || res.Reason != capf.ReasonDone || res.Operation != capf.Install {
			t.Errorf("%s: %+v, %v", p.Key, res, err)
			continue
		}
		cert, ok := b.CurrentLSC(device)
		if !ok || !bytes.Equal(cert.Raw, res.Certificate) || capf.KindOf(cert.PublicKey) != p.Key {
			t.Errorf("%s: current certificate differs from the phone's", p.Key)
		}
		// What phones do at every start from now on.
		res, err = (&capf.Client{Device: device}).Run(t.Context(), b.dial(t))
		if err != nil || res.Reason != capf.ReasonNothing || res.Operation != capf.None {
			t.Errorf("%s again: %+v, %v", p.Key, res, err)
		}
	}
	b.settled(t)
	if s := b.Stats(); s.Installed != 6 || s.Idle != 6 || s.Refused != 0 || s.Lost != 0 {
		t.Errorf("counters %+v", s)
	}
}

func TestWrongCodesAreThrottled(t *testing.T) {
	b := serve(t, map[string]pki.DevicePolicy{phone: {Auth: capf.AuthCode, Code: "123456", Key: capf.P256}})
	try := func(code string) capf.Reason {
		t.Helper()
		res, err := (&capf.Client{Device: phone, Password: code}).Run(t.Context(), b.dial(t))
		if err != nil {
			t.Fatal(err)
		}
		return res.Reason
	}
	for range 7 {
		if got := try(""); got != capf.ReasonRefused {
			t.Fatalf("no code: reason %d", got)
		}
	}
	for range 5 {
		if got := try("111111"); got != capf.ReasonRefused {
			t.Fatalf("wrong code: reason %d", got)
		}
	}
	if got := try("123456"); got != capf.ReasonRefused {
		t.Errorf("right code after five wrong ones: reason %d", got)
	}
	b.settled(t)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.ContainsFunc(b.notes, func(n string) bool { return strings.Contains(n, "too many wrong codes") }) {
		t.Errorf("the boot record says %q", b.notes)
	}
	for _, n := range b.notes {
		if strings.Contains(n, "123456") || strings.Contains(n, "111111") {
			t.Errorf("the boot record holds a code: %q", n)
		}
	}
}

func TestCodeIsSpentOnSuccess(t *testing.T) {
	policy := map[string]pki.DevicePolicy{phone: {Auth: capf.AuthCode, Code: "123456", Key: capf.P256}}
	b := serve(t, policy)
	try := func(code string) capf.Reason {
		t.Helper()
		res, err := (&capf.Client{Device: phone, Password: code}).Run(t.Context(), b.dial(t))
		if err != nil {
			t.Fatal(err)
		}
		return res.Reason
	}
	// A phone that fails to store has not spent it.
	client := &capf.Client{Device: phone, Password: "123456", Store: func([]byte, crypto.Signer) error { return errors.New("no room") }}
	if res, err := client.Run(t.Context(), b.dial(t)); err != nil || res.Reason != capf.ReasonRefused {
		t.Fatalf("%+v, %v", res, err)
	}
	if got := try("123456"); got != capf.ReasonDone {
		t.Fatalf("reason %d", got)
	}
	if err := b.Schedule(t.Context(), phone, capf.Install, "test"); err != nil {
		t.Fatal(err)
	}
	if got := try("123456"); got != capf.ReasonRefused {
		t.Errorf("the code enrolled twice: reason %d", got)
	}
	b.mu.Lock()
	policy[phone] = pki.DevicePolicy{Auth: capf.AuthCode, Code: "654321", Key: capf.P256}
	b.mu.Unlock()
	if got := try("654321"); got != capf.ReasonDone {
		t.Errorf("a new code: reason %d", got)
	}
}

// Sessions of many phones at once, as after a power cut.
func TestManyPhonesAtOnce(t *testing.T) {
	const n = 100
	key, err := capf.GenerateKey(capf.P256)
	if err != nil {
		t.Fatal(err)
	}
	policy := make(map[string]pki.DevicePolicy)
	for i := range n {
		policy[fmt.Sprintf("SEP%012X", i)] = pki.DevicePolicy{Key: capf.P256}
	}
	b := serve(t, policy)
	var wg sync.WaitGroup
	var failed atomic.Int32
	for device := range policy {
		wg.Go(func() {
			c, err := b.connect(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			client := &capf.Client{Device: device, GenerateKey: func(capf.KeyKind) (crypto.Signer, error) { return key, nil }}
			if res, err := client.Run(t.Context(), c); err != nil || res.Reason != capf.ReasonDone {
				failed.Add(1)
			}
		})
	}
	wg.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d failed", failed.Load(), n)
	}
	for device := range policy {
		if _, ok := b.CurrentLSC(device); !ok {
			t.Errorf("%s has no certificate", device)
		}
	}
}

func TestDue(t *testing.T) {
	b := serve(t, map[string]pki.DevicePolicy{phone: {Key: capf.P256}})
	check := func(step string, key capf.KeyKind, want capf.Operation, why string) {
		t.Helper()
		if op, text := b.Due(phone, key); op != want || !strings.Contains(text, why) {
			t.Errorf("%s: %s because %q, want %s because %q", step, op, text, want, why)
		}
	}
	var proof *capf.Identity
	enrolNow := func() {
		t.Helper()
		res, err := (&capf.Client{Device: phone, Proof: proof}).Run(t.Context(), b.dial(t))
		if err != nil || res.Reason != capf.ReasonDone {
			t.Fatalf("%+v, %v", res, err)
		}
		proof = &capf.Identity{Certificate: res.Certificate, Key: res.Key}
	}
	check("new phone", capf.P256, capf.Install, "no certificate")
	enrolNow()
	check("enrolled", capf.P256, capf.None, "good until")
	check("enrolled, no key kind wanted", "", capf.None, "good until")
	check("another key kind declared", capf.RSA2048, capf.Install, "key is p256")
	b.advance(242 * 24 * time.Hour)
	check("before two thirds", capf.P256, capf.None, "good until")
	b.advance(32 * 24 * time.Hour)
	check("after three quarters", capf.P256, capf.Install, "two thirds")
	enrolNow()
	check("renewed", capf.P256, capf.None, "good until")
	for _, op := range []capf.Operation{capf.Install, capf.Fetch, capf.Delete} {
		if err := b.Schedule(t.Context(), phone, op, "alice"); err != nil {
			t.Fatal(err)
		}
		check("scheduled", capf.P256, op, "by alice")
	}
	if err := b.Schedule(t.Context(), phone, capf.None, "alice"); err != nil {
		t.Fatal(err)
	}
	check("taken back", capf.P256, capf.None, "good until")
	if _, err := b.RevokeDevice(t.Context(), phone, "stolen"); err != nil {
		t.Fatal(err)
	}
	check("revoked", capf.P256, capf.Install, "no certificate")
	if err := b.Schedule(t.Context(), "a/b", capf.Install, "alice"); err == nil {
		t.Error("scheduled for a device that cannot be")
	}
}

// What a phone gives back heals a record that missed its confirmation, and is not believed further than that.
func TestFetchedCertificates(t *testing.T) {
	b := serve(t, map[string]pki.DevicePolicy{phone: {Key: capf.P256}})
	key, err := capf.GenerateKey(capf.P256)
	if err != nil {
		t.Fatal(err)
	}
	fetch := func(der []byte) {
		t.Helper()
		if err := b.Schedule(t.Context(), phone, capf.Fetch, "test"); err != nil {
			t.Fatal(err)
		}
		res, err := (&capf.Client{Device: phone, Installed: der}).Run(t.Context(), b.dial(t))
		if err != nil || res.Operation != capf.Fetch || res.Reason != capf.ReasonNothing {
			t.Fatalf("%+v, %v", res, err)
		}
		if op, due := b.Scheduled(phone); due {
			t.Errorf("%+v is still scheduled", op)
		}
	}
	issue := func() (der []byte, serial string) {
		t.Helper()
		b.advance(time.Minute)
		der, serial, err := b.IssueLSC(t.Context(), phone, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return der, serial
	}
	first, s1 := issue()
	if err := b.ConfirmLSC(t.Context(), phone, s1); err != nil {
		t.Fatal(err)
	}
	second, s2 := issue()
	fetch(second)
	if got := serialOf(b, phone); got != s2 {
		t.Errorf("current %s, want the unconfirmed one that the phone showed, %s", got, s2)
	}
	fetch(first)
	if got := serialOf(b, phone); got != s2 {
		t.Errorf("a superseded certificate became current: %s", got)
	}
	foreign, _, err := readPEM("capf.pem")
	if err != nil {
		t.Fatal(err)
	}
	fetch(foreign.Raw)
	if got := serialOf(b, phone); got != s2 {
		t.Errorf("a foreign certificate changed what is current: %s", got)
	}
	fetch(nil)
	if got := serialOf(b, phone); got != "" {
		t.Errorf("current %s, but the phone has none", got)
	}
}

func TestAuthMode(t *testing.T) {
	policy := map[string]pki.DevicePolicy{}
	b := serve(t, policy)
	e := pki.NewEnrolment(b.Authority, func(d string) (pki.DevicePolicy, bool) { p, ok := policy[d]; return p, ok })
	for _, tc := range []struct {
		auth string
		want int
	}{{"null_string", 2}, {"code", 1}, {"lsc", 3}, {"mic", 4}} {
		auth, err := capf.ParseAuth(tc.auth)
		if err != nil {
			t.Fatal(err)
		}
		policy[phone] = pki.DevicePolicy{Auth: auth, Code: "123456", Key: capf.P256}
		if got := e.AuthMode(phone); got != tc.want {
			t.Errorf("%s: mode %d, want %d", tc.auth, got, tc.want)
		}
	}
	if _, err := capf.ParseAuth("none"); err == nil {
		t.Error("an unknown policy was read")
	}
	// Enrolled by code, the phone renews with its certificate until a new code is set.
	policy[phone] = pki.DevicePolicy{Auth: capf.AuthCodeOrCertificate, Code: "123456", Key: capf.P256}
	if res, err := (&capf.Client{Device: phone, Password: "123456"}).Run(t.Context(), b.dial(t)); err != nil || res.Reason != capf.ReasonDone {
		t.Fatalf("%+v, %v", res, err)
	}
	if got := e.AuthMode(phone); got != 3 {
		t.Errorf("enrolled: mode %d, want 3", got)
	}
	policy[phone] = pki.DevicePolicy{Auth: capf.AuthCodeOrCertificate, Code: "7777", Key: capf.P256}
	if got := e.AuthMode(phone); got != 1 {
		t.Errorf("new code: mode %d, want 1", got)
	}
}

func TestSessionProofCanBeWaived(t *testing.T) {
	lsc, key, err := readPEM("lsc-" + phone + "-rsa2048.pem")
	if err != nil {
		t.Fatal(err)
	}
	for _, waive := range []bool{false, true} {
		b := serve(t, map[string]pki.DevicePolicy{phone: {Key: capf.P256, Auth: capf.AuthCertificate, WaiveSession: waive}})
		if _, err := b.ImportLSC(t.Context(), lsc); err != nil {
			t.Fatal(err)
		}
		client := &capf.Client{Device: phone, Proof: &capf.Identity{Certificate: lsc.Raw, Key: key}}
		res, err := client.Run(t.Context(), b.dial(t))
		want := capf.ReasonRefused
		if waive {
			want = capf.ReasonDone
		}
		if err != nil || res.Reason != want {
			t.Errorf("waived %v: %+v, %v; want %s", waive, res, err, want)
		}
	}
}

// Holes of other implementations that no recording shows: a revoked and a superseded certificate as proof.
func TestProofMustBeCurrent(t *testing.T) {
	lsc, key, err := readPEM("lsc-" + phone + "-rsa2048.pem")
	if err != nil {
		t.Fatal(err)
	}
	mic, micKey, err := readPEM("mic-" + phone + ".pem")
	if err != nil {
		t.Fatal(err)
	}
	client := &capf.Client{
		Device: phone, Proof: &capf.Identity{Certificate: lsc.Raw, Key: key}, SUDI: &capf.Identity{Certificate: mic.Raw, Key: micKey},
	}
	for _, tc := range []struct {
		name  string
		spoil func(b *bench) error
		want  capf.Reason
		note  string
	}{
		{"current", func(*bench) error { return nil }, capf.ReasonDone, ""},
		{"revoked", func(b *bench) error { _, err := b.RevokeDevice(t.Context(), phone, "stolen"); return err }, capf.ReasonRefused, "is revoked"},
		{"superseded", func(b *bench) error {
			_, serial, err := b.IssueLSC(t.Context(), phone, key.Public())
			return errors.Join(err, b.ConfirmLSC(t.Context(), phone, serial))
		}, capf.ReasonRefused, "is superseded"},
		{"ended", func(b *bench) error { b.advance(400 * 24 * time.Hour); return nil }, capf.ReasonRefused, "ended on"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := serve(t, map[string]pki.DevicePolicy{phone: {Key: capf.P256, Auth: capf.AuthCertificate}})
			if _, err := b.ImportLSC(t.Context(), lsc); err != nil {
				t.Fatal(err)
			}
			if err := tc.spoil(b); err != nil {
				t.Fatal(err)
			}
			res, err := client.Run(t.Context(), b.dial(t))
			if err != nil || res.Reason != tc.want {
				t.Errorf("%+v, %v; want %s", res, err, tc.want)
			}
			b.settled(t)
			b.mu.Lock()
			defer b.mu.Unlock()
			if len(b.notes) != 1 || !strings.Contains(b.notes[0], tc.note) {
				t.Errorf("boot record %q, want %q", b.notes, tc.note)
			}
		})
	}
}
