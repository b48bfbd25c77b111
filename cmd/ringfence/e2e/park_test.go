package e2e

import (
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// parking is house with two slots of short times, a lamp key of one of them, and a line that rings for a short time.
var parking = strings.NewReplacer(
	`- {id: default, slots: "381-383"}`, `- {id: default, slots: "381-382", seconds: 6, reminder_seconds: 2, comeback: {to_parker: true, seconds: 20}}`,
	`phone: SEP001122AA0004, index: 1,`, `phone: SEP001122AA0004, index: 1, ring_seconds: 2,`,
	`keys: [{blf: "301", label: Ada}]`, `keys: [{blf: "301", label: Ada}, {park: "382"}]`,
).Replace(house)

func TestParkMonitor(t *testing.T) {
	d := newDaemon(t, parking)
	ada, ben, cleo, dan := four(t, d)
	all := []*phone.Phone{ada, ben, cleo, dan}
	ctx := within(t, 60*time.Second)
	run := func(name string, f func(t *testing.T)) {
		ctx = within(t, 60*time.Second)
		if !t.Failed() {
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
	park := func(t *testing.T) (k *phone.Press, slot string, cb *phone.Call) {
		t.Helper()
		ca, cb := connect(t, ada, ben, "302")
		k, err := ada.Press(ctx, "ParkMonitor", ca, nil)
		if err != nil {
			t.Fatal(err)
		}
		if slot, err = k.WaitPark(ctx, "parked"); err != nil {
			t.Fatal(err)
		}
		if r := k.Reports()[0]; r.State != "active;expires=6" {
			t.Errorf("parked with %q", r.State)
		}
		over(t, ca)
		return k, slot, cb
	}
	event := func(t *testing.T, k *phone.Press, name, slot string) {
		t.Helper()
		if got, err := k.WaitPark(ctx, name); err != nil || got != slot {
			t.Fatalf("slot %q: %v", got, err)
		}
	}

	run("retrieved", func(t *testing.T) {
		feature.Proves(t, "PRK-2", "PRK-4", "PRK-10")
		k, slot, cb := park(t)
		if slot != "381" {
			t.Errorf("slot %s", slot)
		}
		eventually(t, 5*time.Second, "the parked phone shows the slot", func() bool { return cb.Remote() == phone.Party{Name: "\x805", Number: "381"} })
		cc, err := cleo.Call(ctx, slot)
		if err != nil {
			t.Fatal(err)
		}
		if err := cc.WaitState(ctx, phone.Connected); err != nil {
			t.Fatal(err)
		}
		event(t, k, "retrieved", slot)
		hear(t, cb, cc)
		if err := cb.WaitRemote(ctx, "303"); err != nil {
			t.Error(err)
		}
		if err := cc.WaitRemote(ctx, "302"); err != nil {
			t.Error(err)
		}
		hangup(t, cc, cb)
	})
	run("reminder and come-back", func(t *testing.T) {
		feature.Proves(t, "PRK-3", "PRK-5")
		k, slot, cb := park(t)
		event(t, k, "reminder", slot)
		event(t, k, "forwarded", slot)
		ca := answer(t, ada)
		if err := ca.WaitRemote(ctx, "302"); err != nil {
			t.Error(err)
		}
		hear(t, ca, cb)
		hangup(t, ca, cb)
	})
	run("abandoned", func(t *testing.T) {
		feature.Proves(t, "PRK-6")
		k, slot, cb := park(t)
		if err := cb.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		event(t, k, "abandoned", slot)
		d.quiet()
	})
	run("directed, and a full lot", func(t *testing.T) {
		feature.Proves(t, "PRK-7", "PRK-9", "BLF-11", "DP-20", "DP-21")
		ca, cb := connect(t, ada, ben, "302")
		if err := ca.BlindTransfer(ctx, "x-cisco-serviceuri-dpark-382"); err != nil {
			t.Fatal(err)
		}
		over(t, ca)
		eventually(t, 5*time.Second, "the slot's lamp is on", func() bool { return ben.BLF("382") == phone.LampBusy })
		// The same slot again, and then a lot that is full: the calls stay.
		cc, cd := connect(t, cleo, dan, "304")
		if err := cc.BlindTransfer(ctx, "x-cisco-serviceuri-dpark-382"); err == nil || !strings.Contains(err.Error(), "486") {
			t.Errorf("a taken slot: %v, want 486", err)
		}
		if err := cc.BlindTransfer(ctx, "x-cisco-serviceuri-dpark-381"); err != nil {
			t.Fatal(err)
		}
		over(t, cc)
		c, in := connect(t, cleo, ada, "301")
		k, err := ada.Press(ctx, "ParkMonitor", in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.WaitPark(ctx, "error"); err != nil {
			t.Fatal(err)
		}
		notified(t, ada, escape("^"))
		hear(t, c, in)
		for _, x := range []*phone.Call{cb, cd} {
			if err := x.Hangup(ctx); err != nil {
				t.Fatal(err)
			}
		}
		hangup(t, c, in, cb, cd)
		eventually(t, 5*time.Second, "the slot's lamp is off", func() bool { return ben.BLF("382") == phone.LampIdle })
	})
	run("transfer", func(t *testing.T) {
		feature.Proves(t, "TRF-4", "TRF-5", "TRF-6")
		// Direct transfer of two calls that were made by themselves.
		c1, cb := connect(t, ada, ben, "302")
		if err := c1.Hold(ctx); err != nil {
			t.Fatal(err)
		}
		c2, cc := connect(t, ada, cleo, "303")
		if err := c2.Transfer(ctx, c1); err != nil {
			t.Fatal(err)
		}
		over(t, c1, c2)
		hear(t, cb, cc)
		hangup(t, cb, cc)
		// A busy target: the call stays held, and usable.
		if err := cleo.SetDND(ctx, true); err != nil {
			t.Fatal(err)
		}
		c1, cb = connect(t, ada, ben, "302")
		if err := c1.BlindTransfer(ctx, "303"); err == nil || !strings.Contains(err.Error(), "486") {
			t.Errorf("transfer to somebody busy: %v, want 486", err)
		}
		if err := cleo.SetDND(ctx, false); err != nil {
			t.Fatal(err)
		}
		if err := c1.Resume(ctx); err != nil {
			t.Fatal(err)
		}
		hear(t, c1, cb)
		// Nobody answers: it comes back.
		if err := c1.BlindTransfer(ctx, "304"); err != nil {
			t.Fatal(err)
		}
		cd, err := dan.WaitIncoming(ctx)
		if err != nil {
			t.Fatal(err)
		}
		over(t, cd)
		ca := answer(t, ada)
		if err := ca.WaitRemote(ctx, "302"); err != nil {
			t.Error(err)
		}
		hear(t, ca, cb)
		hangup(t, ca, cb)
	})
	run("pickup", func(t *testing.T) {
		feature.Proves(t, "PKU-2", "PKU-3", "PKU-5", "PKU-6", "BLF-13")
		pick := func(p *phone.Phone, dial string) {
			t.Helper()
			ca, err := ada.Call(ctx, "302")
			if err != nil {
				t.Fatal(err)
			}
			cb, err := ben.WaitIncoming(ctx)
			if err != nil {
				t.Fatal(err)
			}
			c, err := p.Call(ctx, dial)
			if err == nil {
				err = c.WaitState(ctx, phone.Connected)
			}
			if err != nil {
				t.Fatalf("%s: %v", dial, err)
			}
			over(t, cb)
			if err := c.WaitRemote(ctx, "301"); err != nil {
				t.Errorf("%s: %v", dial, err)
			}
			hear(t, ca, c)
			hangup(t, c, ca, cb)
		}
		pick(cleo, "x-cisco-serviceuri-gpickup-302")
		pick(cleo, "x-cisco-serviceuri-gpickup-1")
		pick(dan, "x-cisco-serviceuri-opickup")
		pick(cleo, "x-cisco-serviceuri-blfpickup-302")
		// Two at once: one has it, the other is told that there is nothing.
		ca, err := ada.Call(ctx, "302")
		if err != nil {
			t.Fatal(err)
		}
		cb, err := ben.WaitIncoming(ctx)
		if err != nil {
			t.Fatal(err)
		}
		c1, err := cleo.Call(ctx, "x-cisco-serviceuri-pickup")
		if err != nil {
			t.Fatal(err)
		}
		c2, err := dan.Call(ctx, "x-cisco-serviceuri-opickup")
		if err != nil {
			t.Fatal(err)
		}
		over(t, cb)
		settled := func(c *phone.Call) bool { return c.State() == phone.Connected || c.State() == phone.Ended }
		eventually(t, 10*time.Second, "both are answered", func() bool { return settled(c1) && settled(c2) })
		winner, loser := c1, c2
		if c2.State() == phone.Connected {
			winner, loser = c2, c1
		}
		if winner.State() != phone.Connected || loser.Code() != 503 {
			t.Errorf("one is %v, the other ended with %d, want connected and 503", winner.State(), loser.Code())
		}
		hear(t, ca, winner)
		hangup(t, ca, winner, loser)
	})
}

// A phone without a Park key transfers to a code, and is told the slot.
func TestParkByCode(t *testing.T) {
	d := newDaemon(t, house+"services: {codes: {park: \"*7\"}}\n")
	ada, ben, cleo, dan := four(t, d)
	ctx := within(t, 60*time.Second)
	ca, cb := connect(t, ada, ben, "302")
	mark := ada.Mark()
	if err := ca.BlindTransfer(ctx, "*7"); err != nil {
		t.Fatal(err)
	}
	over(t, ca)
	eventually(t, 5*time.Second, "ada is told the slot", func() bool {
		for _, m := range ada.Received(mark) {
			if strings.Contains(m.Body(), "<statustext>") && strings.Contains(m.Body(), " 381<") {
				return true
			}
		}
		return false
	})
	cc, err := cleo.Call(ctx, "381")
	if err != nil {
		t.Fatal(err)
	}
	if err := cc.WaitState(ctx, phone.Connected); err != nil {
		t.Fatal(err)
	}
	hear(t, cb, cc)
	if err := cc.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, cb, cc)
	d.quiet()
	unharmed(t, ada, ben, cleo, dan)
}
