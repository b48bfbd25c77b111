package call_test

import (
	"strings"
	"testing"
	"time"

	"ringfence/config"
	"ringfence/sip/call"
	"ringfence/sip/feature/autoanswer"
	"ringfence/sip/internal/calltest"
)

// group declares hunt group 370 of 302, 303 and 304.
func group(edits ...func(*config.Group)) edit {
	return func(d *config.Document, _ *call.Options) {
		g := config.Group{
			Number: "370", Name: "Ring All", Strategy: "all", Members: []config.Digits{"302", "303", "304"}, LoginRequired: true,
			RingSeconds: 20, MemberSeconds: 8, ShowPilot: true, OnNoAnswer: "hangup", OnEmpty: "congestion",
		}
		for _, f := range edits {
			f(&g)
		}
		d.Groups = append(d.Groups, g)
	}
}

func silent(p *calltest.Phone) { p.Answer = 0 }

// TestGroupRingsAll is DP-12, with the pilot of "sip-calls" §19.
func TestGroupRingsAll(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP", func(p *calltest.Phone) { p.Answer = 3 * time.Second })
		cleo := w.Phone("303", "TCP", silent)
		dan := w.Phone("304", "TCP", silent)
		_ = w.SetHuntLogin(t.Context(), "304", false, "phone")
		c := ada.Call("370")
		after(time.Second)
		header(t, w, "301 < 180 INVITE", "Remote-Party-ID", `"Ring All" <sip:370@192.0.2.10>;party=called;privacy=off;screen=yes`)
		after(3 * time.Second)
		status(t, c, 200)
		for _, n := range []string{"302", "303"} {
			header(t, w, n+" < INVITE", "Call-Info", `<urn:x-cisco-remotecc:callinfo>; orientation=from; security=NotAuthenticated; huntpiloturi="%22Ring%20All%22 <sip:370@192.0.2.10>"`)
		}
		header(t, w, "301 < 200 INVITE", "Remote-Party-ID", `"Ben" <sip:302@192.0.2.10>;party=called;privacy=off;screen=yes`)
		if got := cleo.Last().Get().Ended; !strings.Contains(got, "Call completed elsewhere") {
			t.Errorf("the other member's call ended with %q", got)
		}
		if len(dan.Talks()) != 0 {
			t.Error("a member who is logged out rang")
		}
		c.Bye()
		settle()
	}, group())
}

func TestGroupNobody(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP")
		_ = w.SetHuntLogin(t.Context(), "SEP001122AA0002", false, "phone")
		c := ada.Call("370")
		after(time.Second)
		status(t, c, 503) // DP-13
	}, group())
}

func TestGroupNoAnswer(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP", silent)
		w.Phone("303", "TCP", func(p *calltest.Phone) { p.Refuse = 486 })
		dan := w.Phone("304", "TCP")
		c := ada.Call("370")
		after(21 * time.Second)
		header(t, w, "304 < INVITE", "Diversion", `"Ring All" <sip:370@192.0.2.10>;reason=no-answer`)
		after(5 * time.Second)
		status(t, c, 200)
		if dan.Alive() != 1 {
			t.Error("the overflow does not talk")
		}
		if got := w.Last("302 < CANCEL").Header("Reason"); got != "" {
			t.Errorf("a missed call is withdrawn with %q", got)
		}
		c.Bye()
		settle()
	}, group(func(g *config.Group) { g.Members, g.OnNoAnswer = []config.Digits{"302", "303"}, "extension:304" }))
}

// TestGroupInTurn: each member for its time, whoever refuses is not asked again, and the round begins anew while there is time.
func TestGroupInTurn(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		ben := w.Phone("302", "TCP", silent)
		cleo := w.Phone("303", "TCP", func(p *calltest.Phone) { p.Refuse = 603 })
		dan := w.Phone("304", "TCP", silent)
		c := ada.Call("370")
		after(7 * time.Second)
		if ben.Alive() != 1 || dan.Alive() != 0 {
			t.Errorf("in the beginning %d and %d calls ring", ben.Alive(), dan.Alive())
		}
		after(2 * time.Second) // 9 s
		if ben.Alive() != 0 || dan.Alive() != 1 {
			t.Errorf("then %d and %d calls ring", ben.Alive(), dan.Alive())
		}
		after(8 * time.Second) // 17 s
		if ben.Alive() != 1 || dan.Alive() != 0 {
			t.Errorf("in the second round %d and %d calls ring", ben.Alive(), dan.Alive())
		}
		after(4 * time.Second) // 21 s
		status(t, c, 480)
		if n := len(w.Find("303 < INVITE")); n != 1 {
			t.Errorf("who refused was asked %d times", n)
		}
		_ = cleo
	}, group(func(g *config.Group) { g.Strategy = "ordered" }))
}

func TestGroupRoundRobin(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		for _, n := range []string{"302", "303", "304"} {
			w.Phone(n, "TCP")
		}
		for _, want := range []string{"302", "303", "304", "302"} {
			before := len(w.Find(want + " < INVITE"))
			c := ada.Call("370")
			after(4 * time.Second)
			status(t, c, 200)
			if len(w.Find(want+" < INVITE")) != before+1 {
				t.Errorf("not %s's turn\n%s", want, strings.Join(w.Ladder(), "\n"))
			}
			c.Bye()
			after(time.Second)
		}
	}, group(func(g *config.Group) { g.Strategy = "round_robin" }))
}

// TestGroupLongestIdle: whoever has not talked for longest is first.
func TestGroupLongestIdle(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		for _, n := range []string{"302", "303"} {
			w.Phone(n, "TCP")
		}
		c := ada.Call("302")
		after(4 * time.Second)
		c.Bye()
		after(time.Second)
		c = ada.Call("370")
		after(4 * time.Second)
		status(t, c, 200)
		w.Last("303 < INVITE")
		c.Bye()
		after(time.Second)
	}, group(func(g *config.Group) { g.Strategy = "longest_idle" }))
}

// TestTransferToGroup: a blind transfer reaches a group, and the transferred party sees its name until somebody answers.
func TestTransferToGroup(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP")
		cleo := w.Phone("303", "TCP")
		c := ada.Call("302")
		after(4 * time.Second)
		w.Last("302 < INVITE")
		c.Refer("371")
		after(5 * time.Second)
		if cleo.Alive() != 1 {
			t.Fatalf("the group does not talk\n%s", strings.Join(w.Ladder(), "\n"))
		}
		cleo.Last().Bye()
		after(time.Second)
	}, group(func(g *config.Group) { g.Number, g.Members = "371", []config.Digits{"303", "304"} }))
}

// TestPickupFromGroup: the call of a group can be picked up from any of its members.
func TestPickupFromGroup(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP", silent)
		w.Phone("303", "TCP", silent)
		dan := w.Phone("304", "TCP")
		c := ada.Call("370")
		after(2 * time.Second)
		p := dan.Call("x-cisco-serviceuri-blfpickup-303")
		after(2 * time.Second)
		status(t, p, 200)
		status(t, c, 200)
		p.Bye()
		after(time.Second)
	}, group(func(g *config.Group) { g.Members = []config.Digits{"302", "303"} }))
}

func TestHiddenByCode(t *testing.T) {
	codes := func(d *config.Document, o *call.Options) {
		o.Rang = autoanswer.Rang
		d.Services.Codes = map[string]string{"hide_number": "*67", "show_number": "*82", "last_caller": "*69", "intercom": "*80", "dnd_toggle": "*78", "hunt_toggle": "*45", "forward_on": "*72", "forward_off": "*73"}
	}
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		ben := w.Phone("302", "TCP")
		dan := w.Phone("304", "UDP", func(p *calltest.Phone) { p.Extra = []string{"Privacy: id"} })
		c := ada.Call("*67302")
		after(4 * time.Second)
		status(t, c, 200)
		header(t, w, "302 < INVITE", "Remote-Party-ID", `"Anonymous" <sip:anonymous@192.0.2.10>;party=calling;privacy=full;screen=yes`)
		c.Bye()
		after(time.Second)
		// A number that was hidden is not called back.
		c = ben.Call("*69")
		after(time.Second)
		status(t, c, 404)
		c = dan.Call("*82302")
		after(4 * time.Second)
		header(t, w, "302 < INVITE", "Remote-Party-ID", `"Dan \"D\" <&>" <sip:304@192.0.2.10>;party=calling;privacy=off;screen=yes`)
		c.Bye()
		after(time.Second)
		c = ben.Call("*69")
		after(4 * time.Second)
		status(t, c, 200)
		w.Last("304 < INVITE")
		c.Bye()
		after(time.Second)

		for _, tc := range []struct {
			dial string
			ok   func() bool
		}{
			{"*78", func() bool { return w.DND("SEP001122AA0002") }}, {"*78", func() bool { return !w.DND("SEP001122AA0002") }},
			{"*45", func() bool { return !w.HuntLogin("SEP001122AA0002") }}, {"*45", func() bool { return w.HuntLogin("SEP001122AA0002") }},
			{"*72303", func() bool { return w.Forward("302") == "303" }}, {"*73", func() bool { return w.Forward("302") == "" }},
		} {
			c := ben.Call(tc.dial)
			after(time.Second)
			status(t, c, 200)
			if !tc.ok() {
				t.Errorf("%s did nothing", tc.dial)
			}
		}
	}, codes)
	// The phone that is called by intercom answers by itself, but not while it is in a call.
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		ben := w.Phone("302", "TCP", silent)
		w.Phone("303", "TCP")
		c := ada.Call("*80302")
		after(time.Second)
		pushed, _ := ben.Pushed()
		if len(pushed) != 1 || !strings.Contains(pushed[0], "<answercallreq>") {
			t.Fatalf("pushed %q", pushed)
		}
		b := ben.Last().Get()
		for _, want := range []string{"<callid>" + b.D.CallID + "</callid>", "<localtag>" + b.D.Local.Tag + "</localtag>", "<remotetag>" + b.D.Remote.Tag + "</remotetag>"} {
			if !strings.Contains(pushed[0], want) {
				t.Errorf("no %s in %s", want, pushed[0])
			}
		}
		c.Cancel()
		after(time.Second)
		busy := ben.Call("303")
		after(4 * time.Second)
		c = ada.Call("*80302")
		after(time.Second)
		if again, _ := ben.Pushed(); len(again) != 1 {
			t.Errorf("the phone was told to answer in a call: %q", again)
		}
		c.Cancel()
		busy.Bye()
		after(time.Second)
	}, codes)
}

func TestNightSwitch(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		for _, want := range []bool{true, false} {
			c := ada.Call("388")
			after(time.Second)
			status(t, c, 200)
			if got := w.Switch("388"); got != want {
				t.Errorf("the switch is on %v, want %v", got, want)
			}
		}
	}, func(d *config.Document, _ *call.Options) {
		d.Schedules = []config.Schedule{{ID: "open", Weekly: "mon-fri 08:30-17:30", Override: "388"}}
	})
}

func TestTortureGroup(t *testing.T) {
	for _, strategy := range []string{"all", "ordered"} {
		t.Run(strategy, func(t *testing.T) {
			calltest.Torture(t, engine, "TCP", func(w *calltest.World) {
				ada := w.Phone("301", "TCP")
				w.Phone("302", "TCP", silent)
				w.Phone("303", "UDP", func(p *calltest.Phone) { p.Answer = 3 * time.Second })
				ada.Call("370")
				after(14 * time.Second)
			}, group(func(g *config.Group) { g.Strategy = strategy }))
		})
	}
}
