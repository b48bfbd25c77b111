package e2e

import (
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// sharing is house with the number 302 on three phones: the first line of two, and the second of a 7900.
var sharing = strings.NewReplacer("lines:\n", `  - device: SEP001122AA0005
    model: "8851"
    security: nonsecure
    password: "`+vpnPassword+`"
lines:
`, `number: "302", user: ben, phone: SEP001122AA0002, index: 1,`, `number: "302", user: ben, phone: SEP001122AA0002, index: 1, busy_at: 1, barge: barge,
     shared: [{phone: SEP001122AA0003, index: 2}, {phone: SEP001122AA0005, index: 1}],`).Replace(house) + "services:\n  codes: {privacy_toggle: \"*46\"}\n"

func TestSharedLine(t *testing.T) {
	feature.Proves(t, "SHL-1", "SHL-2", "SHL-3", "SHL-4")
	d := newDaemon(t, sharing)
	ada, ben, cleo, dan := four(t, d)
	eve := d.newPhone("SEP001122AA0005", "8851", 5)
	d.ready(eve)
	ctx := within(t, 120*time.Second)

	// A call rings on all three; one takes it, and the others see what it does.
	ca, err := ada.Call(ctx, "302")
	if err != nil {
		t.Fatal(err)
	}
	rb, err := ben.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	rc, err := cleo.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if rc.Line() != 2 {
		t.Errorf("the 7900 rings on line %d, want 2", rc.Line())
	}
	ce := answer(t, eve)
	over(t, rb, rc)
	if err := ca.WaitState(ctx, phone.Connected); err != nil {
		t.Fatal(err)
	}
	hear(t, ca, ce)
	if n := cleo.Missed(); n != 0 {
		t.Errorf("%d missed calls at a phone whose line was answered elsewhere", n)
	}
	shows := func(p *phone.Phone, index int, what string, ok func(phone.RemoteCall) bool) phone.RemoteCall {
		t.Helper()
		c, err := p.WaitRemoteCall(within(t, 15*time.Second), index, ok)
		if err != nil {
			t.Fatalf("%s: remote in use is not %s: %v", p.Device(), what, err)
		}
		return c
	}
	gone := func(p *phone.Phone, index int) {
		t.Helper()
		eventually(t, 15*time.Second, p.Device()+" shows no call of another phone", func() bool { return len(p.RemoteCalls(index)) == 0 })
	}
	talking := func(c phone.RemoteCall) bool {
		return c.State == "confirmed" && !c.Held && !c.Placed && c.Number == "301" && c.Name == "Ada"
	}
	for p, index := range map[*phone.Phone]int{ben: 1, cleo: 2} {
		if c := shows(p, index, "eve's call", talking); c.CallID != ce.ID() {
			t.Errorf("%s names call %s, eve has %s", p.Device(), c.CallID, ce.ID())
		}
	}
	if n := len(eve.RemoteCalls(1)); n != 0 {
		t.Errorf("eve is told about %d calls of her own", n)
	}
	// Call waiting is each phone's own: the line takes a second call, at the two that are free.
	cd, err := dan.Call(ctx, "302")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*phone.Phone{ben, cleo} {
		if _, err := p.WaitIncoming(ctx); err != nil {
			t.Fatalf("%s does not ring for a second call: %v", p.Device(), err)
		}
	}
	if n := len(eve.Calls()); n != 1 {
		t.Errorf("the phone that is busy has %d calls", n)
	}
	if err := cd.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, cd)

	// Hold is seen everywhere; another phone takes the call back.
	if err := ce.Hold(ctx); err != nil {
		t.Fatal(err)
	}
	held := func(c phone.RemoteCall) bool { return c.State == "confirmed" && c.Held }
	shows(cleo, 2, "held", held)
	handle := shows(ben, 1, "held", held)
	cb, err := ben.Retrieve(ctx, 1, handle)
	if err != nil {
		t.Fatal(err)
	}
	if err := cb.WaitState(ctx, phone.Connected); err != nil {
		t.Fatalf("resume elsewhere: %v", err)
	}
	over(t, ce)
	hear(t, ca, cb)
	if got := cb.Remote().Number; got != "301" {
		t.Errorf("the phone that took the call over shows %q", got)
	}
	gone(ben, 1)
	ofBen := func(c phone.RemoteCall) bool { return talking2(c) && c.CallID == cb.ID() }
	shows(eve, 1, "ben's call", ofBen)
	handle = shows(cleo, 2, "ben's call", ofBen)
	// Only a call that is on hold can be taken over.
	refused := func(c *phone.Call, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		over(t, c)
		if c.Code() != 603 {
			t.Errorf("ended with %d %s, want 603", c.Code(), c.Reason())
		}
	}
	refused(cleo.Retrieve(ctx, 2, handle))

	// Privacy hides the call and keeps the others out of it.
	if err := ben.SoftKey(ctx, "Privacy", nil, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "ben's phone shows privacy", ben.Privacy)
	gone(cleo, 2)
	gone(eve, 1)
	refused(cleo.Barge(ctx, 2, handle, "barge"))
	hear(t, ca, cb)
	if err := ben.SoftKey(ctx, "Privacy", cb, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "ben's phone shows no privacy", func() bool { return !ben.Privacy() })
	for _, on := range []bool{true, false} { // the same by its code
		c, err := eve.Call(ctx, "*46")
		if err != nil {
			t.Fatal(err)
		}
		over(t, c)
		eventually(t, 10*time.Second, "eve's phone follows the code", func() bool { return eve.Privacy() == on })
	}
	if err := ada.SoftKey(ctx, "Privacy", nil, nil); err == nil || !strings.Contains(err.Error(), "603") {
		t.Errorf("Privacy of a phone without a shared line: %v, want 603", err)
	}

	// Barge: a third party, who sees whom it talks with; a fourth makes it a conference.
	handle = shows(cleo, 2, "ben's call", ofBen)
	cc, err := cleo.Barge(ctx, 2, handle, "barge")
	if err != nil {
		t.Fatal(err)
	}
	if err := cc.WaitState(ctx, phone.Connected); err != nil {
		t.Fatalf("barge: %v", err)
	}
	meeting(t, ca, cb, cc)
	if cc.Remote().Number != "301" || cb.Remote().Number != "301" {
		t.Errorf("a barge shows %v and %v", cc.Remote(), cb.Remote())
	}
	var ofB phone.RemoteCall
	eventually(t, 10*time.Second, "eve sees both", func() bool {
		for _, c := range eve.RemoteCalls(1) {
			if c.CallID == cb.ID() {
				ofB = c
			}
		}
		return ofB.ID != "" && len(eve.RemoteCalls(1)) == 2
	})
	ce, err = eve.Barge(ctx, 1, ofB, "cbarge")
	if err != nil {
		t.Fatal(err)
	}
	if err := ce.WaitState(ctx, phone.Connected); err != nil {
		t.Fatalf("cBarge: %v", err)
	}
	meeting(t, ca, cb, cc, ce)
	for _, c := range []*phone.Call{cb, cc, ce} {
		eventually(t, 5*time.Second, "the phones of the line show a conference", func() bool { return c.Remote().Name == conferenceName })
	}
	// Whoever leaves, the others go on.
	for _, c := range []*phone.Call{ce, cb} {
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
	}
	over(t, ce, cb)
	hear(t, ca, cc)
	if err := ca.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cc)
	gone(ben, 1)
	gone(eve, 1)

	// What is set at one phone is shown at all.
	if err := ben.SetForward(ctx, 1, "304"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "all phones show the forward", func() bool {
		return ben.Forward(1) == "304" && cleo.Forward(2) == "304" && eve.Forward(1) == "304"
	})
	if err := eve.SetForward(ctx, 1, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "no phone shows the forward", func() bool {
		return ben.Forward(1) == "" && cleo.Forward(2) == "" && eve.Forward(1) == ""
	})
	// Do-not-disturb is each phone's own.
	if err := eve.SetDND(ctx, true); err != nil {
		t.Fatal(err)
	}
	ca, cb = connect(t, ada, ben, "302")
	if n := len(eve.Calls()); n != 0 {
		t.Errorf("a phone in do-not-disturb has %d calls", n)
	}
	if err := cb.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	d.quiet()
	unharmed(t, ada, ben, cleo, dan, eve)
}

func talking2(c phone.RemoteCall) bool { return c.State == "confirmed" && !c.Held && c.Number == "301" }
