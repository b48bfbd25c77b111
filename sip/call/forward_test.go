package call_test

import (
	"testing"
	"time"

	"ringfence/config"
	"ringfence/sip/internal/calltest"
)

func TestNoAnswerGoesOn(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		ben := w.Phone("302", "TCP", func(p *calltest.Phone) { p.Answer = 0 })
		w.Phone("303", "TCP")
		c := ada.Call("302")
		after(20*time.Second + 100*time.Millisecond)
		if got := ben.Last().Get().Ended; got != "CANCEL " {
			t.Errorf("first phone %q", got)
		}
		header(t, w, "301 < 181 INVITE", "Diversion", `"Ben" <sip:302@192.0.2.10>;reason=no-answer;privacy=off;screen=yes`)
		header(t, w, "303 < INVITE", "Diversion", `"Ben" <sip:302@192.0.2.10>;reason=no-answer;privacy=off;screen=yes`)
		after(5 * time.Second)
		status(t, c, 200)
		header(t, w, "301 < 200 INVITE", "Remote-Party-ID", `"Cleo" <sip:303@192.0.2.10>;party=called;privacy=off;screen=yes`)
		c.Bye()
		settle()
	}, line("302", func(l *config.Line) { l.RingSeconds, l.OnNoAnswer = 20, "extension:303" }))
}

// TestForwardAll is "sip-calls" §22.2.
func TestForwardAll(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP")
		w.Phone("303", "TCP")
		_ = w.SetForward(t.Context(), "302", "303", "phone")
		c := ada.Call("302")
		after(5 * time.Second)
		status(t, c, 200)
		if len(w.Find("302 < INVITE")) != 0 {
			t.Error("the forwarding phone rang")
		}
		header(t, w, "301 < 181 INVITE", "Diversion", `"Ben" <sip:302@192.0.2.10>;reason=unconditional;privacy=off;screen=yes`)
		header(t, w, "303 < INVITE", "Diversion", `"Ben" <sip:302@192.0.2.10>;reason=unconditional;privacy=off;screen=yes`)
		header(t, w, "303 < INVITE", "Remote-Party-ID", `"Ada" <sip:301@192.0.2.10>;party=calling;privacy=off;screen=yes`)
		c.Bye()
		settle()
	})
}

// TestPhoneForwards: a 302 of the phone is followed.
func TestPhoneForwards(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP", func(p *calltest.Phone) { p.Refuse = 486 })
		w.Phone("303", "TCP")
		dan := w.Phone("304", "TCP", func(p *calltest.Phone) { p.Redirect = "<sip:303@192.0.2.10>" })
		c := ada.Call("304")
		after(5 * time.Second)
		status(t, c, 200)
		header(t, w, "303 < INVITE", "Diversion", `"Dan \"D\" <&>" <sip:304@192.0.2.10>;reason=deflection;privacy=off;screen=yes`)
		c.Bye()
		settle()
		_ = dan
	})
}

func TestBusyLimit(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, cleo, dan := w.Phone("301", "TCP"), w.Phone("303", "TCP"), w.Phone("304", "TCP")
		w.Phone("302", "TCP")
		var calls []*calltest.Talk
		for _, p := range []*calltest.Phone{ada, cleo, dan} {
			calls = append(calls, p.Call("302"))
			after(3 * time.Second)
		}
		status(t, calls[0], 200)
		status(t, calls[1], 200)
		status(t, calls[2], 486)
		calls[0].Bye()
		settle()
		again := dan.Call("302")
		after(3 * time.Second)
		status(t, again, 200)
		again.Bye()
		calls[1].Bye()
		settle()
	})
}

// TestAnsweredElsewhere: a line registered at two places rings at both ("sip-calls" §2.4).
func TestAnsweredElsewhere(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		slow := w.Phone("304", "TCP", func(p *calltest.Phone) { p.Answer = 0 })
		fast := w.Phone("304", "TCP")
		c := ada.Call("304")
		after(5 * time.Second)
		status(t, c, 200)
		if got := slow.Last().Get().Ended; got != `CANCEL SIP;cause=200;text="Call completed elsewhere"` {
			t.Errorf("other phone: %q", got)
		}
		if fast.Alive() != 1 {
			t.Error("the one that answered has no call")
		}
		c.Bye()
		settle()
	})
}

// TestBothPlacesAnswer: the second answer is acknowledged and hung up.
func TestBothPlacesAnswer(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		a, b := w.Phone("304", "TCP"), w.Phone("304", "TCP")
		c := ada.Call("304")
		after(5 * time.Second)
		status(t, c, 200)
		if a.Alive()+b.Alive() != 1 {
			t.Errorf("%d and %d calls", a.Alive(), b.Alive())
		}
		c.Bye()
		settle()
		if a.Alive()+b.Alive() != 0 {
			t.Error("a phone is left alone")
		}
	})
}

func TestForkFailsAsAWhole(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("304", "TCP", func(p *calltest.Phone) { p.Refuse = 500 })
		w.Phone("304", "TCP", func(p *calltest.Phone) { p.Refuse = 486 })
		c := ada.Call("304")
		after(time.Second)
		status(t, c, 486) // busy beats unreachable: a person said so
	})
}

func TestForwardKey(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		c := ada.Call("x-cisco-serviceuri-cfwdall-302")
		after(time.Second)
		ladder(t, w, "301 > INVITE", "301 < 200 INVITE", "301 > ACK", "301 < BYE", "301 > 200 BYE")
		if w.Forward("301") != "302" || c.Get().Ended != "BYE" {
			t.Errorf("forward %q, call %q", w.Forward("301"), c.Get().Ended)
		}
		for _, bad := range []string{"355", "301", "95550100"} {
			c = ada.Call("x-cisco-serviceuri-cfwdall-" + bad)
			after(time.Second)
			status(t, c, 503)
		}
		if w.Forward("301") != "302" {
			t.Error("a refused target was stored")
		}
		c = ada.Call("x-cisco-serviceuri-cfwdall")
		after(time.Second)
		if w.Forward("301") != "" {
			t.Error("not cleared")
		}
		status(t, c, 200)
	})
}
