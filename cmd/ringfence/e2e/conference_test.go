package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// house is grouped with two more phones.
var house = strings.NewReplacer("  - {id: cleo, name: Cleo}\n", `  - {id: cleo, name: Cleo}
  - {id: dan, name: "Dan & \"D\""}
`, "lines:\n", `  - device: SEP001122AA0004
    model: "7841"
    security: nonsecure
    password: "`+cleoPassword+`"
lines:
  - {number: "304", user: dan, phone: SEP001122AA0004, index: 1, pickup: {member_of: [2], may_pick: [2], other: [1]}}
`).Replace(grouped)

// four are the phones of house.
func four(t *testing.T, d *daemon, change ...func(*phone.Options)) (ada, ben, cleo, dan *phone.Phone) {
	t.Helper()
	ada, ben = d.newPhone("SEP001122AA0001", "8851", 1, change...), d.newPhone("SEP001122AA0002", "8841", 2, change...)
	cleo, dan = d.newPhone("SEP001122AA0003", "7965", 3, change...), d.newPhone("SEP001122AA0004", "7841", 4, change...)
	for _, p := range []*phone.Phone{ada, ben, cleo, dan} {
		d.ready(p)
	}
	return
}

// answer takes the call that rings at p.
func answer(t *testing.T, p *phone.Phone) *phone.Call {
	t.Helper()
	ctx := within(t, 15*time.Second)
	c, err := p.WaitIncoming(ctx)
	if err == nil {
		err = c.Answer(ctx)
	}
	if err != nil {
		t.Fatalf("%s: %v", p.Device(), err)
	}
	return c
}

// consult makes the second call of a conference or transfer, which p answers.
func consult(t *testing.T, c *phone.Call, purpose, number string, p *phone.Phone) (here, there *phone.Call) {
	t.Helper()
	ctx := within(t, 20*time.Second)
	here, err := c.ConsultFor(ctx, purpose, number)
	if err != nil {
		t.Fatal(err)
	}
	there = answer(t, p)
	if err := here.WaitState(ctx, phone.Connected); err != nil {
		t.Fatal(err)
	}
	return here, there
}

// meeting checks that everybody hears everybody: each speaks alone for a moment.
func meeting(t *testing.T, calls ...*phone.Call) {
	t.Helper()
	ctx := within(t, 60*time.Second)
	for _, c := range calls {
		c.SetTone(0)
	}
	for i, c := range calls {
		hz := 500 + 200*float64(i)
		c.SetTone(hz)
		for _, o := range calls {
			if o == c {
				continue
			}
			if err := o.WaitStrongest(ctx, hz); err != nil {
				t.Fatalf("a guest does not hear guest %d: %v", i, err)
			}
		}
		c.SetTone(0)
	}
}

// conference presses Conference and waits for the report.
func conference(t *testing.T, p *phone.Phone, call, second *phone.Call) *phone.Press {
	t.Helper()
	ctx := within(t, 15*time.Second)
	k, err := p.Press(ctx, "Conference", call, second)
	if err != nil {
		t.Fatal(err)
	}
	if code, err := k.WaitCode(ctx); err != nil || code != 200 {
		t.Fatalf("conference: %d, %v", code, err)
	}
	if r := k.Reports(); len(r) != 2 || r[0].State != "active;expires=60" || r[1].State != "terminated;reason=noresource" {
		t.Errorf("reports %+v", r)
	}
	if err := call.WaitState(ctx, phone.Connected); err != nil {
		t.Fatalf("the phone was not told to resume: %v", err)
	}
	return k
}

const conferenceName = "\x804"

func TestConference(t *testing.T) {
	feature.Proves(t, "CNF-1", "CNF-2", "CNF-3", "CNF-4", "CNF-5", "CNF-9", "CNF-10", "CNF-13", "CNF-14")
	d := newDaemon(t, house)
	ada, ben, cleo, dan := four(t, d)
	ctx := within(t, 60*time.Second)
	ca, cb := connect(t, ada, ben, "302")
	if got := ca.CallInfo("security"); got != "Encrypted" {
		t.Errorf("security before is %q", got)
	}
	second, cc := consult(t, ca, "conference", "303", cleo)
	conference(t, ada, ca, second)
	over(t, second)
	if !strings.Contains(second.Reason(), "other side") {
		t.Errorf("the consulting call ended by %q, not by BYE of the server", second.Reason())
	}
	meeting(t, ca, cb, cc)
	for _, c := range []*phone.Call{ca, cb, cc} {
		if got := c.Audio().Codec; got != "G722" {
			t.Errorf("a guest has %s, want wideband", got)
		}
	}
	// Everybody is administrator, so each phone shows the conference in its own language, and the open padlock of cleo's leg.
	for _, c := range []*phone.Call{ca, cb, cc} {
		eventually(t, 5*time.Second, "the phone shows a conference", func() bool { return c.Remote().Name == conferenceName && c.Remote().Number == "" })
		eventually(t, 5*time.Second, "the padlock is open", func() bool { return c.CallInfo("security") == "NotAuthenticated" })
	}
	// A fourth party, by an administrator that has not made the conference.
	third, cd := consult(t, cb, "conference", "304", dan)
	conference(t, ben, cb, third)
	over(t, third)
	meeting(t, ca, cb, cc, cd)
	// The last administrator's leaving releases everybody: with everyone_admin the last two talk directly before.
	for _, c := range []*phone.Call{cd, ca} {
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
	}
	over(t, cd, ca)
	hear(t, cb, cc)
	if err := cb.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, cb, cc)
	d.quiet()
	unharmed(t, ada, ben, cleo, dan)

	// The refusal: no second call.
	ca, cb = connect(t, ada, ben, "302")
	k, err := ada.Press(ctx, "Conference", ca, nil)
	if err != nil {
		t.Fatal(err)
	}
	if code, err := k.WaitCode(ctx); err != nil || code != 500 {
		t.Errorf("conference of one call: %d, %v", code, err)
	}
	eventually(t, 5*time.Second, "the text says that it failed", func() bool {
		return slices.ContainsFunc(ada.Notices(), func(s string) bool { return strings.Contains(s, "\u0080&") })
	})
	hear(t, ca, cb)
	if err := ca.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	d.quiet()
	unharmed(t, ada, ben)
}

// oneAdmin is house where only the one that makes a conference administers it.
var oneAdmin = house + "features:\n  conference: {everyone_admin: false}\n"

func TestConferenceOfOneAdministrator(t *testing.T) {
	feature.Proves(t, "CNF-7", "CNF-11", "CNF-12", "CFL-1", "CFL-3", "CFL-4", "CFL-5", "CFL-6", "CFL-7", "CFL-8", "CFL-9", "CFL-10", "CFL-11", "CFL-12")
	d := newDaemon(t, oneAdmin)
	ada, ben, cleo, dan := four(t, d)
	ctx := within(t, 90*time.Second)

	// While the third party rings (CNF-11): the others talk at once, it comes when it answers.
	cc, cd := connect(t, cleo, dan, "304")
	second, err := cc.ConsultFor(ctx, "conference", "302")
	if err != nil {
		t.Fatal(err)
	}
	cb, err := ben.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.WaitState(ctx, phone.RingOut); err != nil {
		t.Fatal(err)
	}
	conference(t, cleo, cc, second)
	over(t, second)
	meeting(t, cc, cd)
	if err := cb.Answer(ctx); err != nil {
		t.Fatal(err)
	}
	meeting(t, cc, cd, cb)
	if cb.Remote().Name == conferenceName {
		t.Error("a guest without rights is shown the conference")
	}

	// The list, at a 7900: newest first, names escaped, keys in the order of that series.
	list := func(p *phone.Phone, c *phone.Call, key string) *phone.Screen {
		t.Helper()
		if err := p.SoftKey(ctx, key, c, nil); err != nil {
			t.Fatal(err)
		}
		s, err := p.WaitScreen(ctx, func(s *phone.Screen) bool { return s.Kind == "CiscoIPPhoneMenu" })
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	plain := func(s *phone.Screen) string {
		var out []string
		for _, n := range s.Names() {
			out = append(out, strings.TrimPrefix(n, "+ ")) // whoever makes a sound
		}
		return strings.Join(out, "; ")
	}
	s := list(cleo, cc, "ConfList")
	if got := plain(s); got != `Ben <&> Söhne; Dan & "D"; Cleo` {
		t.Errorf("list shows %q", got)
	}
	keys := map[string]int{}
	for _, k := range s.Keys {
		keys[k.Name] = k.Position
	}
	if keys["Remove"] != 1 || keys["Mute"] != 2 || keys["Exit"] != 3 || keys["Update"] != 4 {
		t.Errorf("keys of a 7900 are at %v", keys)
	}
	shows := func(want string) {
		t.Helper()
		if _, err := cleo.WaitScreen(ctx, func(s *phone.Screen) bool { return plain(s) == want }); err != nil {
			t.Fatalf("want %q: %v", want, err)
		}
	}
	// Mute and unmute Dan.
	if err := cleo.ScreenKey(ctx, "Mute", 1); err != nil {
		t.Fatal(err)
	}
	shows(`Ben <&> Söhne; - Dan & "D"; Cleo`)
	cd.SetTone(700)
	cb.SetTone(1100)
	cc.SetTone(0)
	if err := cc.WaitStrongest(ctx, 1100); err != nil { // Ben's alone, not Dan's
		t.Fatal(err)
	}
	if err := cleo.ScreenKey(ctx, "Mute", 1); err != nil {
		t.Fatal(err)
	}
	shows(`Ben <&> Söhne; Dan & "D"; Cleo`)
	meeting(t, cc, cd, cb)
	// A guest may neither list nor choose.
	if err := dan.SoftKey(ctx, "ConfDetails", cd, nil); err == nil || !strings.Contains(err.Error(), "603") {
		t.Errorf("a guest's list: %v, want 603", err)
	}
	if err := cleo.ScreenKey(ctx, "Update", 0); err != nil {
		t.Fatal(err)
	}
	shows(`Ben <&> Söhne; Dan & "D"; Cleo`)
	// Remove whoever came last, by the key; then a fourth by the list.
	third, ca := consult(t, cc, "conference", "301", ada)
	conference(t, cleo, cc, third)
	over(t, third)
	if err := cleo.SoftKey(ctx, "RmLastConf", cc, nil); err != nil {
		t.Fatal(err)
	}
	over(t, ca)
	list(cleo, cc, "ConfList")
	shows(`Ben <&> Söhne; Dan & "D"; Cleo`)
	if err := cleo.ScreenKey(ctx, "Remove", 0); err != nil {
		t.Fatal(err)
	}
	over(t, cb)
	// Two are left and talk directly; the list is closed, a choice in it is refused.
	hear(t, cc, cd)
	eventually(t, 5*time.Second, "the list is closed", func() bool { return cleo.Screen() == nil })
	if err := cc.WaitRemote(ctx, "304"); err != nil {
		t.Error(err)
	}
	if err := cleo.SoftKey(ctx, "ConfList", cc, nil); err == nil || !strings.Contains(err.Error(), "603") {
		t.Errorf("list without conference: %v, want 603", err)
	}
	if err := cc.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, cc, cd)
	d.quiet()

	// The only administrator leaves: everybody is released. On an 8800 the keys have other places.
	ca, cb = connect(t, ada, ben, "302")
	second, cd = consult(t, ca, "conference", "304", dan)
	conference(t, ada, ca, second)
	s = list(ada, ca, "ConfDetails")
	clear(keys)
	for _, k := range s.Keys {
		keys[k.Name] = k.Position
	}
	if keys["Exit"] != 1 || keys["Remove"] != 2 || keys["Mute"] != 3 || keys["Update"] != 4 {
		t.Errorf("keys of an 8800 are at %v", keys)
	}
	if err := ada.ScreenKey(ctx, "Exit", 0); err != nil || ada.Screen() != nil {
		t.Errorf("exit: %v", err)
	}
	if err := ca.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb, cd)
	d.quiet()
	unharmed(t, ada, ben, cleo, dan)
}

// TestConferenceWhileItHangsUp: the first party hangs up in the moment in which the key is pressed.
func TestConferenceWhileItHangsUp(t *testing.T) {
	d := newDaemon(t, house)
	ada, ben, cleo, _ := four(t, d)
	for range 3 {
		ctx := within(t, 30*time.Second)
		ca, cb := connect(t, ada, ben, "302")
		second, cc := consult(t, ca, "conference", "303", cleo)
		gone := make(chan error, 1)
		go func(ctx context.Context) { gone <- cb.Hangup(ctx) }(ctx)
		if k, err := ada.Press(ctx, "Conference", ca, second); err == nil {
			if _, err := k.WaitCode(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-gone; err != nil {
			t.Fatal(err)
		}
		// Whoever was faster, ada talks with cleo now, on one of her two calls.
		eventually(t, 10*time.Second, "one call of ada's and one of cleo's are left", func() bool { return len(ada.Calls()) == 1 && len(cleo.Calls()) == 1 })
		left := ada.Calls()[0]
		eventually(t, 10*time.Second, "that call is active", func() bool { return left.State() == phone.Connected })
		hear(t, left, cc)
		if err := left.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, ca, second, cb, cc)
		d.quiet()
	}
}
