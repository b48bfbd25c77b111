package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// desks is office with a page, intercom by code, and a chain of lines for calls that are sent on and on.
var desks = func() string {
	chain := ""
	for i := 20; i <= 33; i++ {
		chain += fmt.Sprintf("  - {number: \"3%d\", password: \"%s\"}\n", i, softPassword)
	}
	return strings.Replace(office, "parking:\n", chain+"parking:\n", 1) + `paging:
  - {number: "391", name: Floor, members: ["302", "303"], codec: G.711, text: "{group.name}"}
services:
  codes: {intercom: "*80"}
`
}()

// desksReady starts the appliance with three phones; cleo's 7900 has a key that stays dark, so that it is never quite ready.
func desksReady(t *testing.T) (d *daemon, ada, ben, cleo *phone.Phone) {
	t.Helper()
	d = newDaemon(t, desks)
	ada, ben, cleo = d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2), d.newPhone("SEP001122AA0003", "7965", 3)
	d.ready(ada)
	d.ready(ben)
	if err := cleo.Boot(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := cleo.Register(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "ben sees cleo", func() bool { return ben.BLF("303") == phone.LampIdle })
	return d, ada, ben, cleo
}

// TestOffHookIsLeftAlone: a phone whose receiver is lifted is neither paged nor made to answer by itself.
func TestOffHookIsLeftAlone(t *testing.T) {
	feature.Proves(t, "OHN-6")
	d, ada, ben, cleo := desksReady(t)
	ctx := within(t, 90*time.Second)
	if err := ben.OffHook(ctx, 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "ada sees ben off-hook", func() bool { return ada.BLF("302") == phone.LampBusy })
	mark := ben.Mark()
	c := pages(t, ada, "391")
	hearsPage(t, "cleo", cleo, 600)
	if err := c.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the stream has ended", func() bool { return !cleo.Stream().Running })
	// By intercom it rings like any call; there is no order to answer.
	if c, err := ada.Call(ctx, "*80302"); err != nil {
		t.Fatal(err)
	} else {
		in, err := ben.WaitIncoming(ctx)
		if err != nil {
			t.Fatal(err)
		}
		d.verb("call", "list") // the daemon has had its time
		if in.State() != phone.RingIn {
			t.Errorf("the call to a phone off-hook is %v", in.State())
		}
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, c, in)
	}
	if m, ok := last(ben, mark, func(m phone.WireMessage) bool { return m.Method() == "REFER" }); ok {
		t.Errorf("ben, off-hook, is sent\n%s", m.Body())
	}
	if ben.Stream().Starts != 0 {
		t.Error("ben was paged")
	}
	// On-hook again it is reached both ways.
	if err := ben.OnHook(ctx, 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "ada sees ben on-hook", func() bool { return ada.BLF("302") == phone.LampIdle })
	c = pages(t, ada, "391")
	wire(t, ben, mark, "page", referWith("<startMedia>"))
	if err := c.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the streams have ended", func() bool { return !cleo.Stream().Running && !ben.Stream().Running })
	if c, err := ada.Call(ctx, "*80302"); err != nil {
		t.Fatal(err)
	} else if err := c.WaitState(ctx, phone.Connected); err != nil {
		t.Errorf("on-hook the phone does not answer by itself: %v", err)
	} else if err := c.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	d.quiet()
	unharmed(t, ada, ben, cleo)
}

// TestSentOn is about calls that are forwarded: who the target is told that has sent them on, in circles, and too often.
func TestSentOn(t *testing.T) {
	feature.Proves(t, "CFS-9", "CFS-11", "DP-04", "DP-05", "DP-07")
	d, ada, ben, cleo := desksReady(t)
	ctx := within(t, 90*time.Second)
	d.verb("line", "forward", "302", "303")
	sentOn := func(what string) {
		t.Helper()
		toCleo, toAda, toBen := cleo.Mark(), ada.Mark(), ben.Mark()
		c, err := ada.Call(ctx, "302")
		if err != nil {
			t.Fatal(err)
		}
		in, err := cleo.WaitIncoming(ctx)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		m := wire(t, cleo, toCleo, "INVITE", func(m phone.WireMessage) bool { return m.Method() == "INVITE" })
		v := m.Get("Diversion")
		for _, part := range []string{"<sip:302@" + d.site.Address + ">", ";reason=unconditional", ";privacy=off", ";screen="} {
			if !strings.Contains(v, part) {
				t.Errorf("%s: the target's Diversion %q lacks %s", what, v, part)
			}
		}
		var told phone.WireMessage
		err = ada.Wait(within(t, 10*time.Second), func() bool {
			for _, m := range ada.Received(toAda) {
				if m.Status() == 181 {
					told = m
					return true
				}
			}
			return false
		})
		if err != nil {
			t.Fatalf("%s: the caller is not told that the call is forwarded", what)
		}
		if v := told.Get("Diversion"); !strings.Contains(v, "sip:302@") || !strings.Contains(v, "reason=unconditional") {
			t.Errorf("%s: the caller's 181 has Diversion %q", what, v)
		}
		if m, ok := last(ben, toBen, func(m phone.WireMessage) bool { return m.Method() == "INVITE" }); ok {
			t.Errorf("%s: the phone that forwards rings:\n%s", what, m.Body())
		}
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, c, in)
	}
	sentOn("registered")
	if err := ben.Unregister(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "ben is gone", func() bool { return ada.BLF("302") == phone.LampUnknown })
	sentOn("unregistered")

	refused := func(from *phone.Phone, number string, want int) {
		t.Helper()
		c, err := from.Call(ctx, number)
		if err != nil {
			t.Fatal(err)
		}
		over(t, c)
		if c.Code() != want {
			t.Errorf("a call to %s ends with %d, want %d", number, c.Code(), want)
		}
	}
	// In a circle: the caller gets what the first does when it is busy.
	d.verb("line", "forward", "302", "301")
	d.verb("line", "forward", "301", "302")
	mark := ada.Mark()
	refused(cleo, "301", 486)
	refused(cleo, "302", 486)
	if _, ok := last(ada, mark, func(m phone.WireMessage) bool { return m.Method() == "INVITE" }); ok {
		t.Error("a call in a circle rings")
	}
	d.verb("line", "forward", "302", "off")
	d.verb("line", "forward", "301", "off")
	// From one to the next: the tenth time is the last.
	for i := 20; i < 33; i++ {
		d.verb("line", "forward", fmt.Sprint(300+i), fmt.Sprint(301+i))
	}
	d.verb("line", "forward", "333", "303")
	refused(ada, "320", 486)
	c, err := ada.Call(ctx, "330")
	if err != nil {
		t.Fatal(err)
	}
	in, err := cleo.WaitIncoming(ctx)
	if err != nil {
		t.Fatalf("a call that is sent on four times does not arrive: %v", err)
	}
	if err := c.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, c, in)
	d.quiet()
	unharmed(t, ada, cleo)
}
