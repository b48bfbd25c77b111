package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// rooms is house with meet-me rooms, speed dials and conferences that outlive their only administrator.
var rooms = strings.Replace(house, `{id: ben, name: "Ben <&> Söhne"}`, `{id: ben, name: "Ben <&> Söhne", speed_dials: {1: "303", 2: "95550100"}}`, 1) + `rooms:
  - {range: 360-362}
  - {range: 363-363, host: anyone}
features:
  conference: {everyone_admin: false, keep: true}
routes_out:
  - {match: "9NXXXXXX", strip: 1, via: [main], right: local}
`

// dial calls a number and waits until it is answered, or tells the code of the refusal.
func dial(t *testing.T, p *phone.Phone, number string) (*phone.Call, int) {
	t.Helper()
	ctx := within(t, 20*time.Second)
	c, err := p.Call(ctx, number)
	if err != nil {
		t.Fatal(err)
	}
	err = p.Wait(ctx, func() bool { s := c.State(); return s == phone.Connected || s == phone.Ended })
	if err != nil {
		t.Fatalf("call to %s is %s: %v", number, c.State(), err)
	}
	return c, c.Code()
}

func TestMeetMeAndSpeedDials(t *testing.T) {
	feature.Proves(t, "CAL-12", "DP-23", "DP-24")
	d := newDaemon(t, rooms)
	ada, ben, cleo, dan := four(t, d)
	ctx := within(t, 90*time.Second)
	refused := func(p *phone.Phone, number string, want int) {
		t.Helper()
		if c, code := dial(t, p, number); code != want {
			t.Errorf("%s is answered %d (%s), want %d", number, code, c.State(), want)
		}
	}
	const key = "x-cisco-serviceuri-meetme-"
	refused(ben, "361", 404)
	refused(ben, key+"302", 404)
	host, code := dial(t, ada, key+"361")
	if code != 0 {
		t.Fatalf("the host is refused with %d", code)
	}
	if got := host.Remote(); got.Name != "MeetMe 361" || got.Number != "361" {
		t.Errorf("the host is shown %+v", got)
	}
	refused(cleo, key+"361", 503)
	cb, _ := dial(t, ben, "361")
	cc, _ := dial(t, cleo, "361")
	meeting(t, host, cb, cc)
	if err := cc.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, cc)
	hear(t, host, cb) // two do not end it
	cc, _ = dial(t, cleo, "361")
	meeting(t, host, cb, cc)
	// A guest may not use the list, the host may.
	if err := ben.SoftKey(ctx, "ConfDetails", cb, nil); err == nil {
		t.Error("a guest may list")
	}
	if err := ada.SoftKey(ctx, "ConfDetails", host, nil); err != nil {
		t.Error(err)
	}
	if err := host.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, host, cb, cc)
	d.quiet()
	refused(ben, "361", 404)

	// A room that is anybody's: whoever comes first is alone in it.
	cd, _ := dial(t, dan, "363")
	cb, _ = dial(t, ben, "363")
	hear(t, cd, cb)
	if err := cd.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, cd)
	cd, _ = dial(t, dan, "363")
	hear(t, cd, cb)
	for _, c := range []*phone.Call{cd, cb} {
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
	}
	over(t, cd, cb)
	d.quiet()

	// The user's list: a number of the house, one without the right, one that is not there; a key that dials its digits.
	for _, number := range []string{"x-cisco-serviceuri-abbrdial-1", "303"} {
		cb, cc := connect(t, ben, cleo, number)
		if err := cb.WaitRemote(ctx, "303"); err != nil {
			t.Error(err)
		}
		if err := cb.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, cb, cc)
	}
	refused(ben, "x-cisco-serviceuri-abbrdial-2", 403)
	refused(ben, "x-cisco-serviceuri-abbrdial-3", 404)
	refused(ada, "x-cisco-serviceuri-abbrdial-1", 404)
	d.quiet()
	unharmed(t, ada, ben, cleo, dan)
}

// The tones of coming and going, as they are documented.
const joinHz, leaveHz = 880, 440

func TestConferenceIsKept(t *testing.T) {
	feature.Proves(t, "CNF-6", "CNF-8", "CFL-2")
	d := newDaemon(t, rooms)
	ada, ben, cleo, dan := four(t, d)
	ctx := within(t, 90*time.Second)
	ca, cb := connect(t, ada, ben, "302")
	second, cc := consult(t, ca, "conference", "303", cleo)
	for _, c := range []*phone.Call{ca, cb, cc} {
		c.SetTone(0)
	}
	conference(t, ada, ca, second)
	over(t, second)
	meeting(t, ca, cb, cc)

	// Somebody speaks, somebody is muted.
	marks := func(want ...string) {
		t.Helper()
		if err := ada.SoftKey(ctx, "ConfDetails", ca, nil); err != nil {
			t.Fatal(err)
		}
		var got []string
		if _, err := ada.WaitScreen(within(t, 10*time.Second), func(s *phone.Screen) bool {
			got = s.Names()
			if !slices.Equal(got, want) {
				_ = ada.ScreenKey(ctx, "Update", 0)
				return false
			}
			return true
		}); err != nil {
			t.Fatalf("the list shows %q, want %q: %v", got, want, err)
		}
	}
	cb.SetTone(700)
	marks("Cleo", "+ Ben <&> Söhne", "Ada")
	if err := ada.ScreenKey(ctx, "Mute", 0); err != nil {
		t.Fatal(err)
	}
	marks("- Cleo", "+ Ben <&> Söhne", "Ada")
	if err := ada.ScreenKey(ctx, "Mute", 0); err != nil {
		t.Fatal(err)
	}
	cb.SetTone(0)
	marks("Cleo", "Ben <&> Söhne", "Ada")

	// The others hear who comes and who goes.
	third, cd := consult(t, ca, "conference", "304", dan)
	for _, c := range []*phone.Call{third, cd} {
		c.SetTone(0)
	}
	joined := listen(t, cb, joinHz)
	conference(t, ada, ca, third)
	over(t, third)
	joined()
	left := listen(t, cc, leaveHz)
	// The one who has made it leaves: the rest goes on.
	if err := ca.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, ca)
	left()
	meeting(t, cb, cc, cd)
	for _, c := range []*phone.Call{cb, cc} {
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
	}
	over(t, cb, cc, cd)
	d.quiet()
	unharmed(t, ada, ben, cleo, dan)
}

// listen begins to wait for a short tone; what it returns ends that.
func listen(t *testing.T, c *phone.Call, hz float64) (heard func()) {
	c.ResetAudio()
	found := make(chan bool, 1)
	ctx := within(t, 20*time.Second)
	go func() {
		tick := time.NewTicker(10 * time.Millisecond) // of the sound
		defer tick.Stop()
		for ctx.Err() == nil {
			if phone.ToneShare(c.Samples(80*time.Millisecond), hz) > 0.6 {
				found <- true
				return
			}
			<-tick.C
		}
		found <- false
	}()
	return func() {
		t.Helper()
		if !<-found {
			t.Errorf("no tone of %v Hz was heard", hz)
		}
	}
}

// TestJoinAcrossLines: a 7900 marks a call of its first line and joins it to one of its second.
func TestJoinAcrossLines(t *testing.T) {
	feature.Proves(t, "SNJ-5")
	d := newDaemon(t, strings.Replace(house, "lines:\n", "lines:\n"+`  - {number: "313", user: cleo, phone: SEP001122AA0003, index: 2}`+"\n", 1))
	ada, ben, cleo, dan := four(t, d)
	ctx := within(t, 60*time.Second)
	first, cb := connect(t, cleo, ben, "302")
	if err := first.Hold(ctx); err != nil {
		t.Fatal(err)
	}
	second, err := cleo.CallFrom(ctx, 2, "304")
	if err != nil {
		t.Fatal(err)
	}
	cd := answer(t, dan)
	if err := second.WaitState(ctx, phone.Connected); err != nil {
		t.Fatal(err)
	}
	if first.Line() != 1 || second.Line() != 2 {
		t.Fatalf("calls are on lines %d and %d", first.Line(), second.Line())
	}
	if err := cleo.SoftKey(ctx, "Select", first, nil); err != nil {
		t.Fatal(err)
	}
	if err := cleo.SoftKey(ctx, "Join", second, nil); err != nil {
		t.Fatal(err)
	}
	over(t, first)
	eventually(t, 10*time.Second, "the phone is told that the join is complete", func() bool {
		return slices.Contains(cleo.Finished(), "Join Complete")
	})
	meeting(t, second, cb, cd)
	if err := second.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*phone.Call{cb, cd} {
		_ = c.Hangup(ctx)
	}
	over(t, second, cb, cd)
	d.quiet()
	unharmed(t, ada, ben, cleo, dan)
}
