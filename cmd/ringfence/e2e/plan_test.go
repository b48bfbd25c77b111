package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// planned is house with rules of every kind and a line whose softphone is never there.
var planned = strings.NewReplacer("lines:\n", `lines:
  - {number: "305", password: "`+vpnPassword+`"}
`, `number: "302", user: ben,`, `number: "302", user: ben, busy_at: 1, on_busy: "extension:304", on_no_answer: "extension:303",`,
	`ring_seconds: 20`, `ring_seconds: 3`,
	"  - device: SEP001122AA0004\n", "  - device: SEP001122AA0004\n    dnd: silent\n").Replace(house) + `schedules:
  - {id: day, weekly: "mon-fri 08:30-17:30", except: ["2026-12-24..2027-01-01"]}
  - {id: always, weekly: "mon-sun 00:00-24:00", override: "*28"}
groups:
  - {number: "370", name: All, members: ["301", "302"], on_empty: "extension:304"}
services:
  codes: {forward_on: "*72"}
rules:
  - {match: "310", unless: always, to: "extension:303"}
  - {match: "310", to: "extension:302"}
  - {match: "311", when: day, to: "extension:302"}
  - {match: "311", to: "extension:303"}
  - {match: "312", if: {huntgroup: "no"}, to: "extension:304"}
  - {match: "312", set: {huntgroup: "no"}, to: busy}
  - match: "313"
    script: |
      # A call to 313 goes to whoever is free of do-not-disturb; it also forwards line 305.
      def route(call):
          set("callforward", call.line, line = "305")
          for line in ["302", "303"]:
              if field("donotdisturb", line) == "no":
                  return "extension:" + line
          return "busy"
`

func TestPlan(t *testing.T) {
	feature.Proves(t, "TIM-1", "TIM-2", "DP-01", "DP-03", "DP-04", "DP-05", "DP-07", "DP-08", "DP-09", "DP-10", "DP-13", "DP-22", "CFS-9", "CFS-11", "CFS-12")
	d := newDaemon(t, strings.ReplaceAll(planned, `{blf: "302", label: Ben}`, `{blf: "302", label: Ben}, {blf: "*28", label: Night}`))
	ada, ben, cleo, dan := four(t, d)
	ctx := within(t, 120*time.Second)
	// rings calls and expects one phone to ring; it returns what the phone was sent.
	rings := func(from *phone.Phone, number string, at *phone.Phone) phone.WireMessage {
		t.Helper()
		mark := at.Mark()
		all := func() (n int) {
			for _, p := range []*phone.Phone{ada, ben, cleo, dan} {
				if p != from && p != at {
					n += len(p.Calls())
				}
			}
			return n
		}
		others := all()
		c, err := from.Call(ctx, number)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := at.WaitIncoming(within(t, 15*time.Second)); err != nil {
			t.Fatalf("%s does not ring for %s: %v (%s)", at.Device(), number, err, c.Reason())
		}
		if n := all(); n != others {
			t.Errorf("%d other phones ring for %s too", n-others, number)
		}
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, c)
		eventually(t, 10*time.Second, "the phone is quiet again", func() bool { return len(at.Calls()) == 0 })
		for _, m := range at.Received(mark) {
			if m.Method() == "INVITE" {
				return m
			}
		}
		t.Fatal("no INVITE")
		return phone.WireMessage{}
	}
	refused := func(from *phone.Phone, number string, want int) {
		t.Helper()
		if _, code := dial(t, from, number); code != want {
			t.Errorf("%s is answered %d, want %d", number, code, want)
		}
	}
	if m := rings(ada, "302", ben); m.Count("Diversion") != 0 || !strings.Contains(m.Get("Remote-Party-ID"), `"Ada"`) {
		t.Errorf("a plain call has %q and shows %q", m.Get("Diversion"), m.Get("Remote-Party-ID"))
	}
	refused(ada, "305", 480)
	refused(ada, "381", 404)

	// Forward all, of a line whose phone is there, and of one that is not; then a circle.
	if err := ben.SetForward(ctx, 1, "303"); err != nil {
		t.Fatal(err)
	}
	want := "<sip:302@" + d.site.Address + ">;reason=unconditional;privacy=off;screen=yes"
	if got := rings(ada, "302", cleo).Get("Diversion"); !strings.HasSuffix(got, want) {
		t.Errorf("Diversion %q, want %q", got, want)
	}
	d.verb("line", "forward", "305", "303")
	if got := rings(ada, "305", cleo).Get("Diversion"); !strings.Contains(got, "sip:305@") {
		t.Errorf("Diversion %q", got)
	}
	if err := ben.SetForward(ctx, 1, "301"); err != nil {
		t.Fatal(err)
	}
	if err := ada.SetForward(ctx, 1, "302"); err != nil {
		t.Fatal(err)
	}
	refused(cleo, "301", 486)
	for _, p := range []*phone.Phone{ada, ben} {
		if err := p.SetForward(ctx, 1, ""); err != nil {
			t.Fatal(err)
		}
	}

	// Do-not-disturb that refuses follows the busy rule, the silent one is shown.
	if err := ben.SetDND(ctx, true); err != nil {
		t.Fatal(err)
	}
	if err := dan.SetDND(ctx, true); err != nil {
		t.Fatal(err)
	}
	mark := ben.Mark()
	if got := rings(ada, "302", dan).Get("Diversion"); !strings.Contains(got, "reason=do-not-disturb") {
		t.Errorf("Diversion %q", got)
	}
	if slices.ContainsFunc(ben.Received(mark), func(m phone.WireMessage) bool { return m.Method() == "INVITE" }) {
		t.Error("a phone in do-not-disturb was called")
	}
	// The script looks at that, and sets a field of another line.
	rings(ada, "313", cleo)
	eventually(t, 10*time.Second, "the script has forwarded 305", func() bool { return strings.TrimSpace(d.verb("line", "get", "305", "callforward")) == "301" })
	for _, p := range []*phone.Phone{ben, dan} {
		if err := p.SetDND(ctx, false); err != nil {
			t.Fatal(err)
		}
	}
	rings(ada, "313", ben)

	// The busy limit, and nobody who answers.
	ca, cb := connect(t, ada, ben, "302")
	if got := rings(cleo, "302", dan).Get("Diversion"); !strings.Contains(got, "reason=user-busy") {
		t.Errorf("Diversion %q", got)
	}
	if err := ca.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	ca, err := ada.Call(ctx, "302")
	if err != nil {
		t.Fatal(err)
	}
	mark = cleo.Mark()
	if cb, err = ben.WaitIncoming(ctx); err != nil {
		t.Fatal(err)
	}
	cc := answer(t, cleo)
	over(t, cb)
	hear(t, ca, cc)
	for _, m := range cleo.Received(mark) {
		if m.Method() == "INVITE" && !strings.Contains(m.Get("Diversion"), "reason=no-answer") {
			t.Errorf("Diversion %q", m.Get("Diversion"))
		}
	}
	if err := ca.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cc)

	// A group that nobody is logged in to.
	for _, device := range []string{"SEP001122AA0001", "SEP001122AA0002"} {
		d.verb("phone", "hunt", device, "off")
	}
	rings(cleo, "370", dan)

	// Fields of the caller: the first call sets one, the second finds it so.
	refused(cleo, "312", 486)
	eventually(t, 10*time.Second, "the rule has logged cleo out", func() bool { in, _ := cleo.HuntLogin(); return !in })
	rings(cleo, "312", dan)

	// Hours in the site's zone, in winter and in summer, a holiday; and the switch with its lamp, turned by dialling it.
	for at, want := range map[string]string{
		"2026-12-23T08:29": "303 rings", "2026-12-23T08:30": "302 rings", "2026-12-23T17:29": "302 rings", "2026-12-23T17:30": "303 rings",
		"2026-12-24T12:00": "303 rings", "2026-12-26T12:00": "303 rings", "2027-01-04T12:00": "302 rings",
		"2026-07-01T06:29:00Z": "303 rings", "2026-07-01T06:30:00Z": "302 rings", "2026-12-23T06:30:00Z": "303 rings", "2026-12-23T07:30:00Z": "302 rings",
	} {
		if out := d.verb("plan", "explain", "--from", "301", "--dial", "311", "--at", at); !strings.Contains(out, "result: "+want) || !strings.Contains(out, "rules[") {
			t.Errorf("at %s, want %s:\n%s", at, want, out)
		}
	}
	rings(ada, "310", ben)
	for _, night := range []bool{true, false} {
		if _, code := dial(t, ada, "*28"); code != 0 {
			t.Errorf("the switch answers %d", code)
		}
		lamp, at := phone.LampIdle, ben
		if night {
			lamp, at = phone.LampBusy, cleo
		}
		eventually(t, 10*time.Second, "the lamp of the switch follows", func() bool { return cleo.BLF("*28") == lamp })
		rings(ada, "310", at)
	}
	if out := d.verb("plan", "explain", "--from", "301", "--dial", "313"); !strings.Contains(out, `callforward of 305 is set to "301"`) || !strings.Contains(out, "the script sends the call to extension:302") {
		t.Errorf("explain:\n%s", out)
	}
	d.quiet()
	unharmed(t, ada, ben, cleo, dan)

	// A reload with a fault in the script: the old plan stays, and the line of the file is named.
	bad := strings.Replace(planned, `return "busy"`, `return bussy`, 1)
	d.write(bad)
	out, code := d.try("config", "reload")
	if code != 1 || !strings.Contains(out, "undefined: bussy") || !strings.Contains(out, "nothing was changed") {
		t.Errorf("status %d\n%s", code, out)
	}
	rings(ada, "313", ben)
}
