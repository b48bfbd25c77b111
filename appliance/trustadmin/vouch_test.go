package trustadmin

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/config"
	"ringfence/pki"
	"ringfence/trust"
	"ringfence/trust/tlv"
)

// old is another system: its keys and its trust list.
type oldSystem struct {
	sast, ccm *x509.Certificate
	key       crypto.Signer
	list      []byte
}

func newOldSystem(t testing.TB, until time.Time) oldSystem {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	cert := func(name string) *x509.Certificate {
		tpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until}
		der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	o := oldSystem{sast: cert("old SAST"), ccm: cert("old CCM"), key: key}
	o.list, err = tlv.Build(tlv.List{Digest: trust.SHA1, Filename: tlv.ITLFile, Time: time.Now(), Entries: []trust.Entry{
		{Cert: o.sast, Role: trust.SAST}, {Cert: o.ccm, Role: trust.CCM}, {Cert: o.ccm, Role: trust.TFTP},
	}}, trust.Signer{Cert: o.sast, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (o oldSystem) pem(t testing.TB, withKey bool, certs ...*x509.Certificate) []byte {
	t.Helper()
	var b []byte
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if withKey {
		der, err := x509.MarshalPKCS8PrivateKey(o.key)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	}
	return b
}

func write(t testing.TB, name string, b []byte, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// trusted makes a document's copy with other systems, and has the keeper read it.
func (w *world) trusted(t ...config.TrustedCertificates) {
	w.t.Helper()
	d := *w.doc
	d.PKI.Trusted = t
	w.setDoc(&d)
	w.keep.Reload(&d)
}

func TestOtherSystemsCertificates(t *testing.T) {
	w := newWorld(t)
	o, ended := newOldSystem(t, time.Now().Add(time.Hour*24*365)), newOldSystem(t, time.Now().Add(-time.Minute))
	list := write(t, "ITLFile.tlv", o.list, 0o644)
	lookup := func(c *x509.Certificate) (roles []trust.Role, ttl time.Duration, ok bool) {
		t.Helper()
		return w.keep.Lookup(c.Raw)
	}
	if _, _, ok := lookup(o.ccm); ok {
		t.Fatal("vouches for a stranger")
	}
	w.trusted(config.TrustedCertificates{Name: "old", Files: []string{list}, TTL: config.Duration(time.Hour)},
		config.TrustedCertificates{Name: "ended", Files: []string{write(t, "ended.pem", ended.pem(t, false, ended.ccm), 0o644)}, Roles: []string{"CCM"}, TTL: config.Duration(time.Hour)})
	if roles, ttl, ok := lookup(o.ccm); !ok || !slices.Equal(roles, []trust.Role{trust.CCM, trust.TFTP}) || ttl != time.Hour {
		t.Errorf("from a trust list: %v, %v, %v", roles, ttl, ok)
	}
	if roles, _, ok := lookup(o.sast); !ok || !slices.Equal(roles, []trust.Role{trust.SAST}) {
		t.Errorf("its SAST: %v, %v", roles, ok)
	}
	if _, _, ok := lookup(ended.ccm); ok {
		t.Error("vouches for a certificate past its end")
	}
	entries, err := w.keep.Entries()
	if err != nil {
		t.Fatal(err)
	}
	has := func(c *x509.Certificate) bool {
		return slices.ContainsFunc(entries, func(e trust.Entry) bool { return e.Cert.Equal(c) })
	}
	if has(o.ccm) || has(o.sast) {
		t.Error("in trust lists though nobody asked for it")
	}
	w.trusted(config.TrustedCertificates{Name: "old", Files: []string{write(t, "old.pem", o.pem(t, false, o.ccm, o.sast), 0o644)}, Roles: []string{"APP-SERVER", "SAST"}, TTL: config.Duration(time.Minute), Listed: true})
	if roles, ttl, ok := lookup(o.ccm); !ok || !slices.Equal(roles, []trust.Role{trust.AppServer, trust.SAST}) || ttl != time.Minute {
		t.Errorf("from a PEM file: %v, %v, %v", roles, ttl, ok)
	}
	if entries, err = w.keep.Entries(); err != nil || !has(o.ccm) {
		t.Errorf("not in trust lists: %v", err)
	}
	if n := len(slices.DeleteFunc(slices.Clone(entries), func(e trust.Entry) bool { return e.Role != trust.SAST })); n != 2 {
		t.Errorf("%d SAST entries", n)
	}
	p := w.phone(desk, "8851", t.TempDir())
	w.content(p)
	if roles := p.TrustList().Roles(o.ccm); !slices.Equal(roles, []trust.Role{trust.AppServer}) {
		t.Errorf("a phone's list names it as %v", roles)
	}
	if len(w.keep.Warnings()) != 0 {
		t.Errorf("warnings %v", w.keep.Warnings())
	}
	w.trusted()
	if _, _, ok := lookup(o.ccm); ok {
		t.Error("vouches for what is no longer named")
	}
	for name, tc := range map[string]struct {
		file  string
		roles []string
		want  string
	}{
		"missing":             {filepath.Join(t.TempDir(), "none"), []string{"CCM"}, "no such file"},
		"empty":               {write(t, "empty", nil, 0o644), []string{"CCM"}, "neither"},
		"folder":              {t.TempDir(), []string{"CCM"}, "no file"},
		"damaged list":        {write(t, "x.tlv", o.list[:len(o.list)-1], 0o644), nil, "trust list"},
		"key others can read": {write(t, "k.pem", o.pem(t, true, o.sast), 0o640), []string{"SAST"}, "chmod 600"},
		"key of no SAST":      {write(t, "k.pem", o.pem(t, true, o.ccm), 0o600), []string{"CCM"}, "take it out"},
		"key of another":      {write(t, "k.pem", o.pem(t, true, ended.sast), 0o600), []string{"SAST"}, "belongs to none"},
		"two keys":            {write(t, "k.pem", append(o.pem(t, true, o.sast), o.pem(t, true)...), 0o600), []string{"SAST"}, "more than one"},
		"damaged certificate": {write(t, "c.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.ccm.Raw[:40]}), 0o644), []string{"CCM"}, "x509"},
		"unreadable key":      {write(t, "k.pem", append(o.pem(t, false, o.sast), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})...), 0o600), []string{"SAST"}, "cannot be read"},
	} {
		w.trusted(config.TrustedCertificates{Name: "old", Files: []string{tc.file}, Roles: tc.roles})
		if got := strings.Join(w.keep.Warnings(), "\n"); !strings.Contains(got, tc.want) || !strings.Contains(got, "pki.trusted old") {
			t.Errorf("%s: warnings %q, want %q", name, got, tc.want)
		}
		if _, _, ok := lookup(o.ccm); ok {
			t.Errorf("%s: vouches all the same", name)
		}
	}
}

// What the other appliance of a pair has written into the common state is in lists and known to TVS here, at the latest after
// a second.
func TestOtherAppliancesCertificates(t *testing.T) {
	if testing.Short() {
		t.Skip("making keys takes the race detector long; make test-e2e runs it without")
	}
	w := newWorld(t)
	if _, err := w.keep.Entries(); err != nil {
		t.Fatal(err)
	}
	beta, err := pki.Open(t.Context(), pki.Options{State: part{w.store}, KeyFile: filepath.Join(t.TempDir(), "pki.key"), Node: "beta", Now: w.now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := beta.Rotate(t.Context(), pki.RoleCCM, "test"); err == nil {
		t.Fatal("rotates without phones")
	}
	ccm, err := beta.Identity(pki.RoleCCM)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		if roles, _, ok := w.keep.Lookup(ccm.Leaf.Raw); ok && slices.Equal(roles, []trust.Role{trust.CCM}) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("TVS does not know the other appliance's certificate")
		}
		time.Sleep(10 * time.Millisecond)
	}
	entries, err := w.keep.Entries()
	if err != nil {
		t.Fatal(err)
	}
	count := map[trust.Role]int{}
	for _, e := range entries {
		count[e.Role]++
	}
	if count[trust.SAST] != 2 || count[trust.CCM] != 2 || count[trust.TFTP] != 4 || count[trust.TVS] != 2 || count[trust.CAPF] != 2 {
		t.Errorf("entries by role: %v", count)
	}
	p := w.phone(desk, "8851", t.TempDir())
	w.content(p)
	if roles := p.TrustList().Roles(ccm.Leaf); !slices.Equal(roles, []trust.Role{trust.CCM}) {
		t.Errorf("a phone's list names the other appliance as %v", roles)
	}
}

// part hides the private keys of another appliance, so that a second one can begin in the same state.
type part struct{ pki.State }

func (p part) Scan(prefix string, fn func(string, []byte) bool) {
	if prefix == "pki/key/" {
		return
	}
	p.State.Scan(prefix, fn)
}

// A rotation that somebody orders goes to its end by itself, because registered phones are told to fetch: not those in a call,
// and each once per stage.
func TestRotationsAdvanceByThemselves(t *testing.T) {
	w := newWorld(t)
	p, late := w.phone(desk, "8851", t.TempDir()), w.phone(hall, "8841", t.TempDir())
	w.content(p)
	w.content(late)
	var mu sync.Mutex
	told, busy := map[string]int{}, 2
	w.keep.o.Registered = func(string) bool { return true }
	w.keep.o.Restart = func(ctx context.Context, device string) error {
		mu.Lock()
		defer mu.Unlock()
		told[device]++
		if device == hall && busy > 0 {
			busy--
			return context.DeadlineExceeded // in a call
		}
		return map[string]*phone.Phone{desk: p, hall: late}[device].Boot(ctx)
	}
	w.rotate(pki.RoleCCM)
	w.rotate(pki.RoleSAST)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- w.keep.Run(ctx) }()
	for w.ca.Stage(pki.RoleCCM) != "" || w.ca.Stage(pki.RoleSAST) != "" {
		select {
		case <-ctx.Done():
			t.Fatalf("stages %q and %q, told %v", w.ca.Stage(pki.RoleCCM), w.ca.Stage(pki.RoleSAST), told)
		case <-time.After(20 * time.Millisecond):
			w.keep.Nudge() // in place of the minute that a phone in a call waits
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	// Once for the new certificate, once for the list without the old one; two times more the phone in a call.
	if told[desk] < 2 || told[desk] > 4 || told[hall] < told[desk]+1 || told[hall] > told[desk]+3 {
		t.Errorf("told %v", told)
	}
	for _, p := range []*phone.Phone{p, late} {
		if r := p.Refusals(); len(r) != 0 || p.Stale() {
			t.Errorf("phone %s refused %v", p.Device(), r)
		}
	}
}

// A renewal that begins by itself restarts phones at night, unless it is told otherwise.
func TestRenewalsRestartPhonesAtNight(t *testing.T) {
	w := newWorld(t)
	w.hold(desk)
	w.hold(hall)
	zone, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	w.keep.o.Registered = func(d string) bool { return d == desk }
	w.keep.o.Restart = func(_ context.Context, device string) error {
		if told++; device != desk {
			t.Errorf("told %s, which is not registered", device)
		}
		return nil
	}
	at := time.Now().In(zone).AddDate(3, 6, 0)
	w.travel(at.AddDate(-1, -9, 0)) // no clock is believed that jumps by more
	w.tick()
	for i, tc := range []struct {
		policy string
		hour   int
		want   int
	}{{"at_night", 12, 0}, {"at_night", 0, 0}, {"at_night", 5, 0}, {"at_night", 1, 1}, {"at_night", 4, 1}, {"at_once", 12, 1}, {"never", 3, 0}} {
		d := *w.document()
		d.PKI.RestartPhones, d.Site.TimeZone = tc.policy, zone.String()
		w.setDoc(&d)
		w.travel(time.Date(at.Year(), at.Month(), at.Day()+i, tc.hour, 30, 0, 0, zone))
		w.tick()
		if plans := w.ca.Rotations(w.keep.Fetched); len(plans) == 0 || plans[0].By != pki.ByRenewal || len(plans[0].Missing) == 0 {
			t.Fatalf("no renewal waits for phones: %+v", plans)
		}
		clear(w.keep.told)
		told = 0
		w.keep.push(t.Context())
		w.keep.push(t.Context())
		if told != tc.want {
			t.Errorf("%s at %d o'clock: told %d times, want %d", tc.policy, tc.hour, told, tc.want)
		}
		// One that was told and does not come is told again, where the hour is right still.
		w.keep.told[desk] = w.keep.told[desk].Add(-pushAgain)
		if w.keep.push(t.Context()); told != 2*tc.want {
			t.Errorf("%s at %d o'clock, hours later: told %d times", tc.policy, tc.hour, told)
		}
	}
}
