package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// mailboxes is three with mailboxes: Ben's takes what he does not, Ada's asks for a PIN.
var mailboxes = strings.NewReplacer(
	`{id: ada, name: Ada,`, `{id: ada, name: Ada, pin: "4711",`,
	`number: "302", user: ben, phone: SEP001122AA0002, index: 1, ring_seconds: 4`,
	`number: "302", user: ben, phone: SEP001122AA0002, index: 1, ring_seconds: 2, on_no_answer: "voicemail:302", on_busy: "voicemail:302", on_unreachable: "voicemail:302"`,
	`number: "301", user: ada, phone: SEP001122AA0001, index: 1`, `number: "301", user: ada, phone: SEP001122AA0001, index: 1, on_unreachable: "voicemail:301"`,
).Replace(three) + `services: {voicemail: "399", echo_test: "398"}
`

type message struct {
	ID      string  `json:"id"`
	Box     string  `json:"box"`
	From    string  `json:"from"`
	Seconds float64 `json:"seconds"`
	Heard   bool    `json:"heard"`
}

func (d *daemon) messages(number string, ok func([]message) bool) (list []message) {
	d.t.Helper()
	eventually(d.t, 10*time.Second, "mailbox of "+number, func() bool {
		d.json(&list, "voicemail", "list", number)
		return ok(list)
	})
	return list
}

// hearTone waits until a tenth of a second that a phone hears is a tone.
func hearTone(t *testing.T, ctx context.Context, c *phone.Call, what string, hz float64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	c.ResetAudio()
	tick := time.NewTicker(20 * time.Millisecond) // of the sound: a frame
	defer tick.Stop()
	for c.State() != phone.Ended && ctx.Err() == nil {
		if phone.ToneShare(c.Samples(100*time.Millisecond), hz) > 0.8 {
			return
		}
		<-tick.C
	}
	t.Fatalf("%s is not heard (%v, %s)", what, c.Audio(), c.State())
}

func leave(t *testing.T, ctx context.Context, c *phone.Call, chime, hz float64) {
	t.Helper()
	if err := c.WaitState(ctx, phone.Connected); err != nil {
		t.Fatal(err)
	}
	hearTone(t, ctx, c, "greeting", chime)
	hearTone(t, ctx, c, "beep", 1000)
	c.SetTone(hz)
	c.ResetAudio()
	pause(ctx, 2*time.Second) // of speech
}

// pause lets a party speak for a while.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func TestVoicemail(t *testing.T) {
	feature.Proves(t, "DP-02", "DP-06", "CFS-7", "VML-3")
	d := newDaemon(t, mailboxes)
	ada, ben := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2)
	for _, p := range []*phone.Phone{ada, ben} {
		d.ready(p)
	}
	ctx := within(t, 90*time.Second)

	// Nobody answers: the rising chime, the beep, a message, and the lamp.
	c, err := ada.Call(ctx, "302")
	if err != nil {
		t.Fatal(err)
	}
	in, err := ben.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	over(t, in)
	leave(t, ctx, c, 440, 1700)
	if err := c.Press("#"); err != nil {
		t.Fatal(err)
	}
	over(t, c)
	list := d.messages("302", func(l []message) bool { return len(l) == 1 })
	if m := list[0]; m.From != "301" || m.Seconds < 1.5 || m.Seconds > 10 || m.Heard {
		t.Errorf("%+v", m)
	}
	eventually(t, 5*time.Second, "ben's lamp is lit", func() bool { return ben.Line(1).New == 1 })

	// The messages key, and the voice that was left.
	c, err = ben.Call(ctx, "399")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WaitState(ctx, phone.Connected); err != nil {
		t.Fatal(err)
	}
	if r := c.Remote(); r.Name != "Voice Mail" {
		t.Errorf("the display says %+v", r)
	}
	hearTone(t, ctx, c, "message", 1700)
	eventually(t, 10*time.Second, "the message is heard", func() bool { return ben.Line(1).New == 0 && ben.Line(1).Old == 1 })
	if n := ben.Notices(); len(n) == 0 || !strings.Contains(n[len(n)-1], "1/1 from 301") {
		t.Errorf("the status line says %q", n)
	}
	if err := c.Press("3"); err != nil {
		t.Fatal(err)
	}
	d.messages("302", func(l []message) bool { return len(l) == 0 })
	// A greeting of the user's own for callers who find him busy.
	for _, k := range []string{"0", "2"} {
		if err := c.Press(k); err != nil {
			t.Fatal(err)
		}
		if k == "0" {
			hearTone(t, ctx, c, "asked for a greeting", 900)
		}
	}
	hearTone(t, ctx, c, "beep", 1000)
	c.SetTone(2100)
	pause(ctx, 2*time.Second)
	if err := c.Press("#"); err != nil {
		t.Fatal(err)
	}
	hearTone(t, ctx, c, "greeting is kept", 900)
	if err := c.Press("#"); err != nil {
		t.Fatal(err)
	}
	over(t, c)

	// A forward to the messages number is one to the mailbox, with the greeting for busy, and is shown as such.
	if err := ben.SetForward(ctx, 1, "399"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "ben's phone shows the forward to voicemail", func() bool { return ben.Line(1).ToVoicemail })
	if c, err = ada.Call(ctx, "302"); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitState(ctx, phone.Connected); err != nil {
		t.Fatal(err)
	}
	hearTone(t, ctx, c, "greeting of his own", 2100)
	if err := c.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, c)
	if err := ben.SetForward(ctx, 1, ""); err != nil {
		t.Fatal(err)
	}
	if l := d.messages("302", func([]message) bool { return true }); len(l) != 0 {
		t.Errorf("a caller who said nothing left %+v", l)
	}
	d.quiet()
	unharmed(t, ada, ben)
}

func TestVoicemailSurvivesPowerCut(t *testing.T) {
	d := newDaemon(t, mailboxes)
	ben := d.newPhone("SEP001122AA0002", "8841", 2)
	d.ready(ben)
	ctx := within(t, 90*time.Second)
	c, err := ben.Call(ctx, "301") // who is not registered
	if err != nil {
		t.Fatal(err)
	}
	leave(t, ctx, c, 880, 1700)
	pause(ctx, 2*time.Second)
	ben.Stop()
	d.kill()
	d.start()
	list := d.messages("301", func(l []message) bool { return len(l) == 1 })
	if m := list[0]; m.From != "302" || m.Seconds < 1 {
		t.Errorf("%+v", m)
	}
	// It is lit on the phone that comes, and asks for the PIN.
	ada := d.newPhone("SEP001122AA0001", "8851", 1)
	d.ready(ada)
	eventually(t, 5*time.Second, "ada's lamp is lit", func() bool { return ada.Line(1).New == 1 })
	if c, err = ada.Call(ctx, "399"); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitState(ctx, phone.Connected); err != nil {
		t.Fatal(err)
	}
	hearTone(t, ctx, c, "asked for the PIN", 900)
	if err := c.Press("1234#"); err != nil {
		t.Fatal(err)
	}
	hearTone(t, ctx, c, "wrong PIN", 300)
	if err := c.Press("4711#"); err != nil {
		t.Fatal(err)
	}
	hearTone(t, ctx, c, "message", 1700)
	if err := c.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, c)
	d.quiet()
	unharmed(t, ada)
}

func TestEcho(t *testing.T) {
	feature.Proves(t, "DP-33")
	d := newDaemon(t, mailboxes)
	ada := d.newPhone("SEP001122AA0001", "8851", 1)
	d.ready(ada)
	ctx := within(t, 30*time.Second)
	c, err := ada.Call(ctx, "398")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WaitState(ctx, phone.Connected); err != nil {
		t.Fatal(err)
	}
	c.SetTone(1300)
	hearTone(t, ctx, c, "own voice", 1300)
	if err := c.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, c)
	d.quiet()
	unharmed(t, ada)
}

// Whoever presses iDivert has the message in his own mailbox, with his greeting for busy, even where the call was for somebody else.
func TestDivertToMailbox(t *testing.T) {
	feature.Proves(t, "IDV-4")
	d := newDaemon(t, strings.NewReplacer(
		`ring_seconds: 2, on_no_answer`, `ring_seconds: 20, on_idivert: "voicemail:302", on_no_answer`,
		`number: "301", user: ada,`, `number: "301", forward: "302", user: ada,`,
	).Replace(mailboxes))
	ben, cleo := d.newPhone("SEP001122AA0002", "8841", 2), d.newPhone("SEP001122AA0003", "7965", 3)
	d.ready(ben)
	d.ready(cleo)
	ctx := within(t, 90*time.Second)
	for i, answered := range []bool{false, true} {
		c, err := cleo.Call(ctx, "301")
		if err != nil {
			t.Fatal(err)
		}
		in, err := ben.WaitIncoming(ctx)
		if err == nil && answered {
			if err = in.Answer(ctx); err == nil {
				err = c.WaitState(ctx, phone.Connected)
			}
		}
		if err == nil && !answered {
			err = c.WaitState(ctx, phone.RingOut)
		}
		if err == nil {
			err = ben.SoftKey(ctx, "IDivert", in, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		over(t, in)
		leave(t, ctx, c, 880, 1700) // the falling chime: busy
		if err := c.Press("#"); err != nil {
			t.Fatal(err)
		}
		over(t, c)
		list := d.messages("302", func(l []message) bool { return len(l) == i+1 })
		if list[i].From != "303" {
			t.Errorf("%+v", list[i])
		}
	}
	if l := d.messages("301", func([]message) bool { return true }); len(l) != 0 {
		t.Errorf("mailbox of the line that was called: %+v", l)
	}
	eventually(t, 5*time.Second, "ben's lamp is lit", func() bool { return ben.Line(1).New == 2 })
	d.quiet()
	unharmed(t, ben, cleo)
}
