package e2e

import (
	"context"
	"encoding/json"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// newPhone makes a simulated phone in the office of d; made again, it finds its flash memory as it left it; what happens to it is logged when the test fails.
func (d *daemon) newPhone(device, model string, i int, change ...func(*phone.Options)) *phone.Phone {
	d.t.Helper()
	return d.newPhoneAt(filepath.Dir(d.config), device, model, i, change...)
}

// newPhoneAt is newPhone with the folder that holds the flash memories.
func (d *daemon) newPhoneAt(dir, device, model string, i int, change ...func(*phone.Options)) *phone.Phone {
	d.t.Helper()
	o := phone.Options{
		Device: device, Model: model, Server: netip.MustParseAddr(d.site.Address), Dir: filepath.Join(dir, device), Local: d.site.phoneAddress(i), StayDown: true,
	}
	var mu sync.Mutex
	var events []string
	o.Events = func(e phone.Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e.String())
	}
	for _, c := range change {
		c(&o)
	}
	p, err := phone.New(o)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		p.Stop()
		if d.t.Failed() {
			mu.Lock()
			defer mu.Unlock()
			for _, e := range events {
				d.t.Logf("%s: %s", device, e)
			}
		}
	})
	return p
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// ready boots and registers a phone and waits for its initial state.
func (d *daemon) ready(p *phone.Phone) {
	d.t.Helper()
	ctx := within(d.t, 60*time.Second)
	if err := p.Boot(ctx); err != nil {
		d.t.Fatalf("%s: boot: %v", p.Device(), err)
	}
	if err := p.Register(ctx); err != nil {
		d.t.Fatalf("%s: register: %v", p.Device(), err)
	}
	if err := p.WaitReady(ctx); err != nil {
		d.t.Fatalf("%s: initial state: %v", p.Device(), err)
	}
}

// unharmed checks that a phone met nothing that it had to refuse or wonder at.
func unharmed(t testing.TB, phones ...*phone.Phone) {
	t.Helper()
	for _, p := range phones {
		if r := p.Refusals(); len(r) > 0 {
			t.Errorf("%s refused %v", p.Device(), r)
		}
		for _, r := range p.Remarks() {
			t.Errorf("%s remarks: %s", p.Device(), r)
		}
	}
}

// connect calls from one phone to a number of the other and waits until both hear the other's tone.
func connect(t testing.TB, a, b *phone.Phone, number string) (ca, cb *phone.Call) {
	t.Helper()
	ctx := within(t, 20*time.Second)
	ca, err := a.Call(ctx, number)
	if err != nil {
		t.Fatal(err)
	}
	cb, err = b.WaitIncoming(ctx)
	if err != nil {
		t.Fatalf("%s does not ring: %v (caller is %v, %d %s)", b.Device(), err, ca.State(), ca.Code(), ca.Reason())
	}
	if err := ca.WaitState(ctx, phone.RingOut); err != nil {
		t.Fatalf("caller hears no ringing: %v", err)
	}
	if err := cb.Answer(ctx); err != nil {
		t.Fatal(err)
	}
	if err := ca.WaitState(ctx, phone.Connected); err != nil {
		t.Fatal(err)
	}
	return ca, cb
}

// hear gives each side a tone of its own and waits until the other hears it.
func hear(t testing.TB, ca, cb *phone.Call) {
	t.Helper()
	ctx := within(t, 10*time.Second)
	ca.SetTone(600)
	cb.SetTone(1500)
	if err := cb.WaitTone(ctx, 600); err != nil {
		t.Fatalf("callee does not hear the caller: %v (%v)", err, cb.Audio())
	}
	if err := ca.WaitTone(ctx, 1500); err != nil {
		t.Fatalf("caller does not hear the callee: %v (%v)", err, ca.Audio())
	}
}

func over(t testing.TB, calls ...*phone.Call) {
	t.Helper()
	for _, c := range calls {
		if err := c.WaitState(within(t, 10*time.Second), phone.Ended); err != nil {
			t.Fatalf("a call goes on: %v", err)
		}
	}
}

// TestMorning leads two phones in encrypted mode through the whole first morning: lists, files, certificate, registration with
// two lines, lamps, and a call with SRTP on both legs.
func TestMorning(t *testing.T) {
	feature.Proves(t, "SEC-1", "SEC-2", "SEC-3", "CER-1", "TRV-1", "MLN-1", "BLF-1", "BLF-2", "CAL-1")
	d := newDaemon(t, morning)
	ada, ben := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2)
	d.ready(ben)
	d.ready(ada)
	if ada.LSC() == nil || ada.TrustList() == nil || ada.Config().Security != 3 {
		t.Fatalf("ada has certificate %v, list %v, security %d", ada.LSC() != nil, ada.TrustList() != nil, ada.Config().Security)
	}
	eventually(t, 10*time.Second, "both lamps are idle", func() bool { return ada.BLF("302") == phone.LampIdle && ben.BLF("301") == phone.LampIdle })

	ca, cb := connect(t, ada, ben, "302")
	hear(t, ca, cb)
	if got := ca.Audio().Suite; got == "" {
		t.Error("ada's leg is not encrypted")
	}
	if got := cb.Remote(); got.Number != "301" || got.Name != "Ada" {
		t.Errorf("ben sees %+v, want Ada at 301", got)
	}
	if got := ca.Remote(); got.Number != "302" || got.Name != "Ben <&> Söhne" {
		t.Errorf("ada sees %+v, want Ben <&> Söhne at 302", got)
	}
	if got := ca.CallInfo("security"); got != "Encrypted" {
		t.Errorf("security shown to ada is %q, want Encrypted", got)
	}
	eventually(t, 5*time.Second, "ben's lamp of 301 is busy", func() bool { return ben.BLF("301") == phone.LampBusy })
	if err := ca.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	eventually(t, 5*time.Second, "ben's lamp of 301 is idle again", func() bool { return ben.BLF("301") == phone.LampIdle })
	unharmed(t, ada, ben)

	var info struct {
		State string `json:"state"`
		LSC   *struct {
			Serial string `json:"serial"`
		} `json:"lsc"`
		Lines        []json.RawMessage `json:"lines"`
		Registration *struct {
			Transport string `json:"transport"`
		} `json:"registration"`
	}
	d.json(&info, "phone", "show", "SEP001122AA0001")
	if info.State != "registered" || info.LSC == nil || len(info.Lines) != 2 || info.Registration == nil || info.Registration.Transport != "TLS" {
		t.Errorf("phone show says %+v", info)
	}
	var calls []json.RawMessage
	d.json(&calls, "call", "list")
	if len(calls) != 0 {
		t.Errorf("call list still shows %s", calls)
	}
}
