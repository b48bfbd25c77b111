package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// keyed is house with what the keys need: ben's calls are diverted to dan, dan's phone answers cleo by itself, and 301 is told
// about calls of its pickup group.
var keyed = strings.NewReplacer(
	`index: 1, ring_seconds: 20, pickup:`, `index: 1, ring_seconds: 20, on_idivert: "extension:304", on_busy: "extension:304", pickup:`,
	`phone: SEP001122AA0004, index: 1,`, `phone: SEP001122AA0004, index: 1, auto_answer: ["303"],`,
	`park_lot: default, pickup: {member_of: [1], may_pick: [1]}`, `park_lot: default, pickup: {member_of: [1], may_pick: [1], notify: [from, to, beep], notify_seconds: 1}`,
).Replace(house) + `services: {codes: {hide_number: "*67"}}
features:
  quality_url: http://192.0.2.1/quality-report?lang=en
`

// notified waits for a text in the status line of a phone.
func notified(t *testing.T, p *phone.Phone, text string) {
	t.Helper()
	eventually(t, 5*time.Second, fmt.Sprintf("%s shows %q", p.Device(), text), func() bool { return slices.Contains(p.Notices(), text) })
}

// escape is how a phrase of the phone's own looks after its charset was read.
func escape(c string) string { return "\u0080" + c }

func TestKeys(t *testing.T) {
	d := newDaemon(t, keyed)
	ada, ben, cleo, dan := four(t, d, func(o *phone.Options) { o.StayDown = false })
	all := []*phone.Phone{ada, ben, cleo, dan}
	ctx := within(t, 200*time.Second)
	run := func(name string, f func(t *testing.T)) {
		ctx = within(t, 40*time.Second)
		if !t.Failed() { // a call that is left over would make all the others fail
			t.Run(name, f)
		}
	}
	hangup := func(t *testing.T, c *phone.Call, others ...*phone.Call) {
		t.Helper()
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, append(others, c)...)
		d.quiet()
		unharmed(t, all...)
	}
	ringing := func(t *testing.T, from *phone.Phone, number string, at *phone.Phone) (c, in *phone.Call) {
		t.Helper()
		c, err := from.Call(ctx, number)
		if err == nil {
			in, err = at.WaitIncoming(ctx)
		}
		if err == nil {
			err = c.WaitState(ctx, phone.RingOut)
		}
		if err != nil {
			t.Fatal(err)
		}
		return c, in
	}

	run("divert", func(t *testing.T) {
		feature.Proves(t, "IDV-1", "IDV-2", "IDV-3", "IDV-5", "IDV-6")
		// It rings at ben: the caller follows his busy rule.
		ca, cb := ringing(t, ada, "302", ben)
		if err := ben.SoftKey(ctx, "IDivert", cb, nil); err != nil {
			t.Fatal(err)
		}
		over(t, cb)
		cd := answer(t, dan)
		diverted := func(reason string) {
			t.Helper()
			got := ""
			for _, m := range dan.Received(0) {
				if m.Method() == "INVITE" && m.Get("Diversion") != "" {
					got = m.Get("Diversion")
				}
			}
			if !strings.Contains(got, "<sip:302@") || !strings.Contains(got, ";reason="+reason+";") {
				t.Errorf("Diversion is %q, want 302, %s", got, reason)
			}
		}
		diverted("user-busy")
		hear(t, ca, cd)
		hangup(t, ca, cd)
		// Connected, and held.
		for _, held := range []bool{false, true} {
			ca, cb = connect(t, ada, ben, "302")
			if held {
				if err := cb.Hold(ctx); err != nil {
					t.Fatal(err)
				}
			}
			if err := ben.SoftKey(ctx, "IDivert", cb, nil); err != nil {
				t.Fatal(err)
			}
			over(t, cb)
			if !strings.Contains(cb.Reason(), "other side") {
				t.Errorf("ben's call ended by %q, want BYE of the server", cb.Reason())
			}
			cd = answer(t, dan)
			diverted("deflection")
			hear(t, ca, cd)
			hangup(t, ca, cd)
		}
		// No destination is declared for 301: the call stays, with a text.
		cb, ca = connect(t, ben, ada, "301")
		if err := ada.SoftKey(ctx, "IDivert", ca, nil); err != nil {
			t.Fatal(err)
		}
		notified(t, ada, escape("-"))
		hear(t, cb, ca)
		hangup(t, ca, cb)
		if err := ada.SoftKey(ctx, "IDivert", ca, nil); err == nil || !strings.Contains(err.Error(), "603") {
			t.Errorf("divert of a call that is over: %v, want 603", err)
		}
	})

	run("malicious call", func(t *testing.T) {
		feature.Proves(t, "MCD-1", "MCD-4")
		cb, ca := connect(t, ben, ada, "*67301")
		if r := ca.Remote(); r.Number == "302" || r.Name != "Anonymous" {
			t.Errorf("ada sees %+v of a caller who withholds it", r)
		}
		for range 2 {
			if err := ada.SoftKey(ctx, "MCID", ca, nil); err != nil {
				t.Fatal(err)
			}
		}
		notified(t, ada, escape("T"))
		eventually(t, 5*time.Second, "the phone beeps", func() bool { return slices.Contains(ada.Tones(), "DtZipZip") })
		var records []struct {
			Line, Party string
			Withheld    bool
			CallIDs     []string `json:"call_ids"`
		}
		d.json(&records, "call", "malicious")
		if len(records) != 1 || records[0].Line != "301" || records[0].Party != "302" || !records[0].Withheld || len(records[0].CallIDs) != 2 || records[0].CallIDs[0] != ca.ID() {
			t.Errorf("records %+v, want one of 301 about 302", records)
		}
		hangup(t, cb, ca)
		if err := ada.SoftKey(ctx, "MCID", nil, nil); err == nil || !strings.Contains(err.Error(), "603") {
			t.Errorf("without a call: %v, want 603", err)
		}
	})

	run("quality", func(t *testing.T) {
		feature.Proves(t, "QRT-1", "QRT-2", "QRT-3", "QRT-4", "QRT-5", "QRT-6")
		const page = "http://192.0.2.1/quality-report?lang=en&name=SEP001122AA000"
		if err := ada.SoftKey(ctx, "QRT", nil, nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, "the questionnaire opens", func() bool { return slices.Contains(ada.Executed(), page+"1") })
		// The phone hangs up, and the server does: the figures come in BYE, and in the answer to it.
		ca, cb := connect(t, ada, ben, "302")
		for _, x := range []struct {
			p *phone.Phone
			c *phone.Call
		}{{ada, ca}, {ben, cb}} {
			if err := x.p.SoftKey(ctx, "QRT", x.c, nil); err != nil {
				t.Fatal(err)
			}
			notified(t, x.p, "Quality Reporting Tool is active")
		}
		hear(t, ca, cb)
		hangup(t, ca, cb)
		eventually(t, 5*time.Second, "both questionnaires open", func() bool {
			return len(ada.Executed()) == 2 && slices.Contains(ben.Executed(), page+"2")
		})
		var reports []struct {
			Device string
			Phone  bool
			Rx     string
		}
		eventually(t, 5*time.Second, "two reports", func() bool { d.json(&reports, "call", "quality"); return len(reports) == 2 })
		for _, r := range reports {
			if !r.Phone || !strings.Contains(r.Rx, "Pkt=") || strings.Contains(r.Rx, ",Pkt=0,") {
				t.Errorf("report %+v has no figures", r)
			}
		}
	})

	run("call back", func(t *testing.T) {
		feature.Proves(t, "CBK-1", "CBK-1b", "CBK-2", "CBK-3", "CBK-4", "CBK-5", "CBK-6", "CBK-7", "CBK-8")
		screen := func(p *phone.Phone, text string) *phone.Screen {
			t.Helper()
			s, err := p.WaitScreen(ctx, func(s *phone.Screen) bool { return strings.Contains(s.Text, text) })
			if err != nil {
				t.Fatalf("want %q: %v", text, err)
			}
			return s
		}
		places := func(s *phone.Screen) string {
			out := make([]string, 4)
			for _, k := range s.Keys {
				out[k.Position] = k.Name
			}
			return strings.Join(out[1:], ",")
		}
		if err := cleo.SoftKey(ctx, "CallBack", nil, nil); err != nil {
			t.Fatal(err)
		}
		screen(cleo, "not activated")
		// It rings and nobody answers: the wish waits until ada has been busy once.
		cc, ca := ringing(t, cleo, "301", ada)
		if err := cleo.SoftKey(ctx, "CallBack", cc, nil); err != nil {
			t.Fatal(err)
		}
		if s := screen(cleo, "activated on 301"); places(s) != ",Cancel,Exit" {
			t.Errorf("keys of a 7900 are %q", places(s))
		}
		over(t, cc, ca)
		if cc.Code() != 500 {
			t.Errorf("the call ended with %d, want 500", cc.Code())
		}
		// A second wish replaces the first; do-not-disturb is busy, and the refused call can still be named.
		if err := dan.SetDND(ctx, true); err != nil {
			t.Fatal(err)
		}
		cc, err := cleo.Call(ctx, "304")
		if err != nil {
			t.Fatal(err)
		}
		over(t, cc)
		if cc.Code() != 486 {
			t.Fatalf("a call to do-not-disturb ended with %d", cc.Code())
		}
		if err := cleo.SoftKey(ctx, "CallBack", cc, nil); err != nil {
			t.Fatal(err)
		}
		screen(cleo, "activated on 304")
		if err := cleo.ScreenKey(ctx, "Exit", 0); err != nil {
			t.Fatal(err)
		}
		// It outlives the daemon.
		d.kill()
		d.start()
		eventually(t, 30*time.Second, "all phones are back", func() bool {
			return ada.Registered() && ben.Registered() && cleo.Registered() && dan.Registered() && !strings.Contains(d.verb("phone", "list"), "unreachable")
		})
		if err := cleo.SoftKey(ctx, "CallBack", nil, nil); err != nil {
			t.Fatal(err)
		}
		screen(cleo, "activated on 304")
		if err := dan.SetDND(ctx, false); err != nil {
			t.Fatal(err)
		}
		if s := screen(cleo, "304 is now available"); places(s) != "Dial,Cancel,Exit" {
			t.Errorf("keys of a 7900 are %q", places(s))
		}
		if !slices.Contains(cleo.Tones(), "Play:Callback.raw") {
			t.Errorf("no sound, but %q", cleo.Tones())
		}
		// Exit keeps it: announced again at the next change, and then dialled.
		if err := cleo.ScreenKey(ctx, "Exit", 0); err != nil {
			t.Fatal(err)
		}
		cb, cd := connect(t, ben, dan, "304")
		hangup(t, cb, cd)
		screen(cleo, "304 is now available")
		if err := cleo.ScreenKey(ctx, "Dial", 0); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, "cleo's phone dials", func() bool { return len(cleo.Calls()) == 1 })
		cc = cleo.Calls()[0]
		if cleo.Screen() != nil {
			t.Error("the screen was not closed")
		}
		// 304 answers 303 by itself, see below.
		if err := cc.WaitState(ctx, phone.Connected); err != nil {
			t.Fatal(err)
		}
		if cd, err = dan.WaitIncoming(ctx); err != nil {
			t.Fatal(err)
		}
		hangup(t, cc, cd)
		// On an 8800: ben is refused since ada's line is busy; Cancel ends the wish.
		ca, cc = connect(t, ada, cleo, "303")
		cb, err = ben.Call(ctx, "5550100")
		if err != nil {
			t.Fatal(err)
		}
		over(t, cb)
		cb, ca2 := ringing(t, ben, "301", ada)
		if err := ben.SoftKey(ctx, "CallBack", cb, nil); err != nil {
			t.Fatal(err)
		}
		if s := screen(ben, "activated on 301"); places(s) != "Exit,Cancel," {
			t.Errorf("keys of an 8800 are %q", places(s))
		}
		over(t, cb, ca2)
		hangup(t, ca, cc)
		screen(ben, "301 is now available")
		if err := ben.ScreenKey(ctx, "Cancel", 0); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, "the screen is closed", func() bool { return ben.Screen() == nil })
		if err := ben.SoftKey(ctx, "CallBack", nil, nil); err != nil {
			t.Fatal(err)
		}
		screen(ben, "not activated")
		d.quiet()
		unharmed(t, all...)
	})

	run("auto answer", func(t *testing.T) {
		feature.Proves(t, "AAN-1", "AAN-3")
		c, err := cleo.Call(ctx, "304")
		if err != nil {
			t.Fatal(err)
		}
		in, err := dan.WaitIncoming(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.WaitState(ctx, phone.Connected); err != nil {
			t.Fatal(err)
		}
		hear(t, c, in)
		// Somebody else's call rings, and so does cleo's while dan is in a call.
		hangup(t, c, in)
		cb, cd := connect(t, ben, dan, "304")
		c, in = ringing(t, cleo, "304", dan)
		d.json(&[]any{}, "call", "list") // the daemon has had the time
		if in.State() != phone.RingIn {
			t.Errorf("the second call is %v", in.State())
		}
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		hangup(t, cb, cd, c, in)
	})

	run("select and join", func(t *testing.T) {
		feature.Proves(t, "SNJ-1", "SNJ-2", "SNJ-3", "SNJ-4")
		// Cleo's 7900 has three calls; two are on hold.
		c1, cb := connect(t, cleo, ben, "302")
		if err := cleo.SoftKey(ctx, "Join", c1, nil); err != nil {
			t.Fatal(err)
		}
		notified(t, cleo, escape("S"))
		if err := c1.Hold(ctx); err != nil {
			t.Fatal(err)
		}
		c2, ca := connect(t, cleo, ada, "301")
		if err := c2.Hold(ctx); err != nil {
			t.Fatal(err)
		}
		c3, err := cleo.Call(ctx, "304")
		if err != nil {
			t.Fatal(err)
		}
		cd, err := dan.WaitIncoming(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := c3.WaitState(ctx, phone.Connected); err != nil {
			t.Fatal(err)
		}
		for _, k := range []struct {
			key  string
			call *phone.Call
		}{{"Select", c1}, {"Select", c2}, {"Unselect", c1}, {"Select", c1}, {"Join", c3}} {
			if err := cleo.SoftKey(ctx, k.key, k.call, nil); err != nil {
				t.Fatal(err)
			}
		}
		over(t, c1, c2)
		eventually(t, 5*time.Second, "the phone is told that it is done", func() bool { return slices.Contains(cleo.Finished(), "Join Complete") })
		meeting(t, c3, ca, cb, cd)
		eventually(t, 5*time.Second, "the phone shows a conference", func() bool { return c3.Remote().Name == conferenceName })
		for _, c := range []*phone.Call{ca, cb} {
			if err := c.Hangup(ctx); err != nil {
				t.Fatal(err)
			}
		}
		hangup(t, c3, ca, cb, cd)
	})

	run("pickup notice", func(t *testing.T) {
		feature.Proves(t, "PKN-1", "PKN-2")
		ada.SoftKey(ctx, "Cancel", nil, nil)
		beeps := len(ada.Tones())
		c, in := ringing(t, dan, "302", ben)
		notified(t, ada, "From 304 to 302")
		eventually(t, 5*time.Second, "the phone beeps", func() bool { return len(ada.Tones()) == beeps+1 })
		if slices.ContainsFunc(cleo.Notices(), func(s string) bool { return strings.HasPrefix(s, "From") }) {
			t.Error("a phone without that option has a notice")
		}
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, c, in)
		// Not while in a call.
		ca, cc := connect(t, ada, cleo, "303")
		before := len(ada.Notices())
		c, in = ringing(t, dan, "302", ben)
		if n := len(ada.Notices()); n != before {
			t.Errorf("a phone in a call has %d notices more", n-before)
		}
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		hangup(t, ca, cc, c, in)
	})
}
