package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/beevik/ntp"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// trio is an appliance with three phones: two in encrypted mode and a 7900 in the clear.
func trio(t *testing.T) (d *daemon, ada, ben, cleo *phone.Phone) {
	t.Helper()
	d = newDaemon(t, three)
	ada, ben, cleo = d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2), d.newPhone("SEP001122AA0003", "7965", 3)
	for _, p := range []*phone.Phone{ada, ben, cleo} {
		d.ready(p)
	}
	return d, ada, ben, cleo
}

// quiet checks that nothing is left of any call.
func (d *daemon) quiet() {
	d.t.Helper()
	eventually(d.t, 10*time.Second, "no call is left", func() bool {
		var calls []any
		d.json(&calls, "call", "list")
		return len(calls) == 0
	})
}

func TestNonsecurePhone(t *testing.T) {
	feature.Proves(t, "SEC-5", "SEC-7", "CAL-6")
	d, ada, _, cleo := trio(t)
	ca, cc := connect(t, ada, cleo, "303")
	hear(t, ca, cc)
	if ca.Audio().Suite == "" || cc.Audio().Suite != "" {
		t.Errorf("suites are %q and %q, want SRTP towards ada alone", ca.Audio().Suite, cc.Audio().Suite)
	}
	// The icon is that of the weakest leg.
	for _, c := range []*phone.Call{ca, cc} {
		if got := c.CallInfo("security"); got != "NotAuthenticated" {
			t.Errorf("security shown is %q, want NotAuthenticated", got)
		}
	}
	if err := cc.Hangup(within(t, 10*time.Second)); err != nil { // BYE from the called side
		t.Fatal(err)
	}
	over(t, ca, cc)
	d.quiet()
	unharmed(t, ada, cleo)
	var info struct {
		Warnings []string `json:"warnings"`
	}
	d.json(&info, "phone", "show", "SEP001122AA0003")
	if len(info.Warnings) == 0 {
		t.Error("phone show says nothing about the password in clear")
	}
	// A device file without declared time servers names the appliance, so there a phone must get the time.
	r, err := ntp.QueryWithOptions(d.site.Address, ntp.QueryOptions{Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Validate(); err != nil || r.ClockOffset.Abs() > 5*time.Second {
		t.Errorf("time for phones: offset %v, %v", r.ClockOffset, err)
	}
}

func TestHoldAndResume(t *testing.T) {
	feature.Proves(t, "CAL-2", "BLF-4")
	d, ada, ben, _ := trio(t)
	ca, cb := connect(t, ada, ben, "302")
	hear(t, ca, cb)
	ctx := within(t, 30*time.Second)
	for _, side := range []struct{ holder, held *phone.Call }{{ca, cb}, {cb, ca}} {
		if err := side.holder.Hold(ctx); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, "the lamp stays busy on hold", func() bool { return ben.BLF("301") == phone.LampBusy })
		if err := side.holder.Resume(ctx); err != nil {
			t.Fatal(err)
		}
		hear(t, ca, cb) // with new keys
	}
	if err := ca.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	d.quiet()
	unharmed(t, ada, ben)
}

func TestBusyNoAnswerAndUnknown(t *testing.T) {
	feature.Proves(t, "CAL-3", "DNS-1", "DNS-2", "DNS-6", "BLF-3", "BLF-5")
	d, ada, ben, cleo := trio(t)
	ctx := within(t, 60*time.Second)
	refused := func(number string, code int) {
		t.Helper()
		c, err := ada.Call(ctx, number)
		if err != nil {
			t.Fatal(err)
		}
		over(t, c)
		if c.Code() != code {
			t.Errorf("call to %s ended with %d %s, want %d", number, c.Code(), c.Reason(), code)
		}
	}
	refused("399", 404)

	// Ring time over: 480, and the phone has a missed call.
	c, err := ada.Call(ctx, "302")
	if err != nil {
		t.Fatal(err)
	}
	in, err := ben.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "cleo's lamp of 302 flashes", func() bool { return cleo.BLF("302") == phone.LampAlerting })
	over(t, c, in)
	if c.Code() != 480 {
		t.Errorf("no answer ended with %d, want 480", c.Code())
	}
	if ben.Missed() != 1 {
		t.Errorf("ben has %d missed calls, want 1", ben.Missed())
	}

	// Rejected by hand.
	if c, err = ada.Call(ctx, "302"); err != nil {
		t.Fatal(err)
	}
	if in, err = ben.WaitIncoming(ctx); err != nil {
		t.Fatal(err)
	}
	if err := in.Reject(ctx, 486); err != nil {
		t.Fatal(err)
	}
	over(t, c)
	if c.Code() != 486 {
		t.Errorf("rejected call ended with %d, want 486", c.Code())
	}

	// Do not disturb.
	if err := ben.SetDND(ctx, true); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "ada's lamp shows do not disturb", func() bool { return ada.BLF("302") == phone.LampDND })
	refused("302", 486)
	if err := ben.SetDND(ctx, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "ada's lamp is idle", func() bool { return ada.BLF("302") == phone.LampIdle })

	// The caller gives up.
	if c, err = ada.Call(ctx, "302"); err != nil {
		t.Fatal(err)
	}
	if in, err = ben.WaitIncoming(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, c, in)

	// Busy: the line takes two calls.
	ca, cb := connect(t, ada, ben, "302")
	c2, err := cleo.Call(ctx, "302")
	if err != nil {
		t.Fatal(err)
	}
	in2, err := ben.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c3, err := cleo.Call(ctx, "302")
	if err != nil {
		t.Fatal(err)
	}
	over(t, c3)
	if c3.Code() != 486 {
		t.Errorf("third call ended with %d, want 486", c3.Code())
	}
	for _, c := range []*phone.Call{c2, ca} {
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
	}
	over(t, ca, cb, c2, in2)
	d.quiet()
	unharmed(t, ada, ben, cleo)
}

func TestForward(t *testing.T) {
	feature.Proves(t, "CFS-1", "CFS-2", "CFS-6", "CFS-8", "MLN-2", "MLN-3")
	d, ada, ben, cleo := trio(t)
	ctx := within(t, 60*time.Second)
	if err := ben.SetForward(ctx, 1, "303"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "ben's phone shows the forward", func() bool { return ben.Forward(1) == "303" })

	ca, cc := connect(t, ada, cleo, "302")
	hear(t, ca, cc)
	if err := ca.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cc)

	// It is state: a power cut of the appliance does not lose it, and it works while the phone is away.
	d.verb("line", "messages", "303", "2", "1") // told by a mailbox elsewhere, once
	ben.Stop()
	d.kill()
	d.start()
	if out := d.verb("line", "messages", "303"); !strings.Contains(out, "2/1") {
		t.Errorf("messages of 303 after a power cut: %s", out)
	}
	ada.Stop()
	cleo.Stop()
	ada2, cleo2 := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0003", "7965", 3)
	d.ready(ada2)
	d.ready(cleo2)
	c, err := ada2.CallFrom(ctx, 2, "302") // from line 2, with the credentials of line 1
	if err != nil {
		t.Fatal(err)
	}
	in, err := cleo2.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := in.Remote().Number; got != "311" {
		t.Errorf("cleo sees a call from %q, want 311", got)
	}
	if err := c.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, c, in)

	// A call to line 2 rings on line 2.
	c, err = cleo2.Call(ctx, "311")
	if err != nil {
		t.Fatal(err)
	}
	if in, err = ada2.WaitIncoming(ctx); err != nil {
		t.Fatal(err)
	}
	if in.Line() != 2 {
		t.Errorf("rings on line %d, want 2", in.Line())
	}
	if err := c.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, c, in)
	unharmed(t, ada2, cleo2)
}

func TestTransfers(t *testing.T) {
	feature.Proves(t, "TRF-1", "TRF-2", "TRF-3", "TRF-5b", "TRF-5c")
	d, ada, ben, cleo := trio(t)
	ctx := within(t, 90*time.Second)

	t.Run("blind", func(t *testing.T) {
		ca, cb := connect(t, ada, ben, "302")
		hear(t, ca, cb)
		if err := ca.BlindTransfer(ctx, "303"); err != nil {
			t.Fatal(err)
		}
		cc, err := cleo.WaitIncoming(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := cc.Answer(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, ca)
		hear(t, cb, cc)
		if err := cb.WaitRemote(ctx, "303"); err != nil {
			t.Errorf("ben sees %+v: %v", cb.Remote(), err)
		}
		if err := cc.WaitRemote(ctx, "302"); err != nil {
			t.Errorf("cleo sees %+v: %v", cc.Remote(), err)
		}
		if err := cb.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, cb, cc)
		d.quiet()
	})
	t.Run("blind to nobody", func(t *testing.T) {
		ca, cb := connect(t, ada, ben, "302")
		if err := ca.BlindTransfer(ctx, "399"); err == nil {
			t.Error("the transfer to an unknown number is reported as done")
		}
		if got := ca.TransferResult(); got != "SIP/2.0 404 Not Found" {
			t.Errorf("reported %q, want SIP/2.0 404 Not Found", got)
		}
		if err := ca.Resume(ctx); err != nil {
			t.Fatalf("the call cannot be resumed: %v", err)
		}
		hear(t, ca, cb)
		if err := ca.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, ca, cb)
		d.quiet()
	})
	for _, early := range []bool{false, true} {
		name := map[bool]string{false: "attended", true: "while it rings"}[early]
		t.Run(name, func(t *testing.T) {
			ca, cb := connect(t, ada, ben, "302")
			consult, err := ca.Consult(ctx, "303")
			if err != nil {
				t.Fatal(err)
			}
			cc, err := cleo.WaitIncoming(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if early {
				if err := consult.WaitState(ctx, phone.RingOut); err != nil {
					t.Fatal(err)
				}
			} else {
				if err := cc.Answer(ctx); err != nil {
					t.Fatal(err)
				}
				if err := consult.WaitState(ctx, phone.Connected); err != nil {
					t.Fatal(err)
				}
				hear(t, consult, cc)
			}
			if err := ca.Transfer(ctx, consult); err != nil {
				t.Fatal(err)
			}
			if early {
				if err := cc.Answer(ctx); err != nil {
					t.Fatal(err)
				}
			}
			over(t, ca, consult)
			// Who ends what: the server the second call, 500 while it rings still and BYE later; the phone the one that carried its REFER.
			if early && consult.Code() != 500 || !early && !strings.Contains(consult.Reason(), "other side") || ca.Reason() != "transferred" {
				t.Errorf("the second call ended with %d, %s, the first: %s", consult.Code(), consult.Reason(), ca.Reason())
			}
			hear(t, cb, cc)
			if err := cb.WaitRemote(ctx, "303"); err != nil {
				t.Errorf("ben sees %+v: %v", cb.Remote(), err)
			}
			if err := cc.Hangup(ctx); err != nil {
				t.Fatal(err)
			}
			over(t, cb, cc)
			d.quiet()
		})
	}
	unharmed(t, ada, ben, cleo)
}
