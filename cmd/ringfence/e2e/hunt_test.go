package e2e

import (
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// hunting is three with hunt groups, feature codes and a night switch.
var hunting = three + `groups:
  - {number: "370", name: Ring All, members: ["301", "302"], on_empty: congestion}
  - {number: "371", name: In Turn, strategy: ordered, members: ["302", "301"], member_seconds: 2, on_no_answer: busy}
services:
  codes: {hide_number: "*67", last_caller: "*69", intercom: "*80", forward_on: "*72", forward_off: "*73", dnd_toggle: "*78", hunt_toggle: "*45"}
schedules:
  - {id: open, weekly: "mon-fri 08:30-17:30", except: ["2026-12-24..2027-01-01"], override: "388"}
routes_in:
  - {number: "+15550300", when: open, to: "group:370", else: "extension:303"}
`

func TestHuntGroups(t *testing.T) {
	feature.Proves(t, "HLG-1", "HLG-2", "HLG-3", "HLG-5", "HLG-6", "HLG-7", "CAL-10")
	d := newDaemon(t, hunting)
	ada, ben, cleo := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2), d.newPhone("SEP001122AA0003", "7965", 3)
	for _, p := range []*phone.Phone{ada, ben, cleo} {
		d.ready(p)
		if in, known := p.HuntLogin(); !in || !known {
			t.Errorf("%s was not told that it is logged in", p.Device())
		}
	}
	ctx := within(t, 60*time.Second)

	// Both members ring with the pilot; one answers, the other has no missed call.
	c, err := cleo.Call(ctx, "370")
	if err != nil {
		t.Fatal(err)
	}
	var in []*phone.Call
	for _, p := range []*phone.Phone{ada, ben} {
		i, err := p.WaitIncoming(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got := i.CallInfo("huntpiloturi"); !strings.HasPrefix(got, "%22Ring%20All%22 <sip:370@") {
			t.Errorf("%s sees the pilot %q", p.Device(), got)
		}
		in = append(in, i)
	}
	if err := c.WaitRemote(ctx, "370"); err != nil {
		t.Errorf("cleo sees %+v: %v", c.Remote(), err)
	}
	if err := in[1].Answer(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, in[0])
	hear(t, c, in[1])
	if ada.Missed() != 0 {
		t.Error("a call that was answered elsewhere counts as missed")
	}
	if err := c.WaitRemote(ctx, "302"); err != nil {
		t.Errorf("cleo sees %+v: %v", c.Remote(), err)
	}
	if err := c.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, c, in[1])

	// The key logs a phone out, and it rings no more; so does the administrator.
	if err := ada.HLog(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "ada's phone shows that it is logged out", func() bool { in, _ := ada.HuntLogin(); return !in })
	if c, err = cleo.Call(ctx, "370"); err != nil {
		t.Fatal(err)
	}
	i, err := ben.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, c, i)
	if len(ada.Calls()) != 0 {
		t.Error("ada rings although she is logged out")
	}
	d.verb("phone", "hunt", "SEP001122AA0002", "off")
	eventually(t, 5*time.Second, "ben's phone shows that it is logged out", func() bool { in, _ := ben.HuntLogin(); return !in })
	if c, err = cleo.Call(ctx, "370"); err != nil {
		t.Fatal(err)
	}
	over(t, c)
	if c.Code() != 503 {
		t.Errorf("a group without anybody answers %d, want 503", c.Code())
	}

	// It survives a power cut.
	for _, p := range []*phone.Phone{ada, ben, cleo} {
		p.Stop()
	}
	d.kill()
	d.start()
	ada = d.newPhone("SEP001122AA0001", "8851", 1)
	d.ready(ada)
	if in, known := ada.HuntLogin(); in || !known {
		t.Errorf("after the power cut ada is logged in %v, told %v", in, known)
	}
	unharmed(t, ada, ben, cleo)
}

func TestHuntInTurn(t *testing.T) {
	feature.Proves(t, "DP-11", "DP-12")
	d := newDaemon(t, hunting)
	ada, ben, cleo := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2), d.newPhone("SEP001122AA0003", "7965", 3)
	for _, p := range []*phone.Phone{ada, ben, cleo} {
		d.ready(p)
	}
	ctx := within(t, 60*time.Second)
	c, err := cleo.Call(ctx, "371")
	if err != nil {
		t.Fatal(err)
	}
	in, err := ben.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(ada.Calls()) != 0 {
		t.Error("the second member rings with the first")
	}
	over(t, in)
	if ben.Missed() != 1 {
		t.Errorf("ben has %d missed calls, want 1", ben.Missed())
	}
	second, err := ada.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Answer(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitState(ctx, phone.Connected); err != nil {
		t.Fatal(err)
	}
	hear(t, c, second)
	if err := second.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, c, second)
	d.quiet()
	unharmed(t, ada, ben, cleo)
}

func TestFeatureCodes(t *testing.T) {
	feature.Proves(t, "AAN-1", "AAN-2", "AAN-3")
	d := newDaemon(t, hunting)
	ada, ben, cleo := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2), d.newPhone("SEP001122AA0003", "7965", 3)
	for _, p := range []*phone.Phone{ada, ben, cleo} {
		d.ready(p)
	}
	ctx := within(t, 60*time.Second)
	c, err := ada.Call(ctx, "*67302")
	if err != nil {
		t.Fatal(err)
	}
	in, err := ben.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if r := in.Remote(); strings.Contains(r.Name+r.Number, "301") || strings.Contains(r.Name, "Ada") {
		t.Errorf("ben sees a hidden caller as %+v", r)
	}
	if err := c.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, c, in)

	// The phone that is called by intercom answers by itself.
	if c, err = ada.Call(ctx, "*80303"); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitState(ctx, phone.Connected); err != nil {
		t.Fatal(err)
	}
	if in, err = cleo.WaitIncoming(ctx); err != nil {
		t.Fatal(err)
	}
	hear(t, c, in)
	// In a call it does not.
	c2, err := ben.Call(ctx, "*80303")
	if err != nil {
		t.Fatal(err)
	}
	in2, err := cleo.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := c2.WaitState(ctx, phone.RingOut); err != nil {
		t.Fatal(err)
	}
	if err := c.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, c, in)
	if s := in2.State(); s == phone.Connected {
		t.Error("a phone in a call answers by itself")
	}
	if err := c2.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, c2, in2)

	// Codes do what keys do, and the phone's display follows.
	dial := func(number string) {
		t.Helper()
		c, err := ben.Call(ctx, number)
		if err != nil {
			t.Fatal(err)
		}
		over(t, c)
		if c.Code() >= 300 {
			t.Errorf("%s ended with %d", number, c.Code())
		}
	}
	dial("*78")
	eventually(t, 5*time.Second, "do-not-disturb is shown", func() bool { on, _ := ben.DND(); return on })
	dial("*78")
	eventually(t, 5*time.Second, "do-not-disturb is gone", func() bool { on, _ := ben.DND(); return !on })
	dial("*72303")
	eventually(t, 5*time.Second, "the forward is shown", func() bool { return ben.Forward(1) == "303" })
	dial("*73")
	eventually(t, 5*time.Second, "the forward is gone", func() bool { return ben.Forward(1) == "" })
	dial("*45")
	eventually(t, 5*time.Second, "the log-out is shown", func() bool { in, _ := ben.HuntLogin(); return !in })
	d.quiet()
	unharmed(t, ada, ben, cleo)
}

func TestPlanExplain(t *testing.T) {
	d := newDaemon(t, hunting)
	explain := func(args ...string) string { return d.verb(append([]string{"plan", "explain"}, args...)...) }
	if got := explain("--from", "303", "--dial", "371"); !strings.Contains(got, "nobody of 371 is there") || !strings.Contains(got, "result: 503") {
		t.Error(got)
	}
	open := explain("--trunk", "main", "--dial", "+15550300", "--at", "2026-12-23T10:00")
	if !strings.Contains(open, "open is open: Wed 10:00 is within the hours") {
		t.Error(open)
	}
	closed := explain("--trunk", "main", "--dial", "+15550300", "--at", "2026-12-24T10:00")
	if !strings.Contains(closed, "open is closed: 2026-12-24 is excepted") || !strings.Contains(closed, "303 is the line") && !strings.Contains(closed, "extension:303") {
		t.Error(closed)
	}
	d.verb("switch", "set", "388", "on")
	if got := explain("--trunk", "main", "--dial", "+15550300", "--at", "2026-12-23T10:00"); !strings.Contains(got, "open is closed: the switch 388 is on") {
		t.Error(got)
	}
	if out, code := d.try("plan", "explain", "--dial", "301", "--at", "tomorrow"); code != 2 || !strings.Contains(out, "is no time") {
		t.Errorf("%d %s", code, out)
	}
}
