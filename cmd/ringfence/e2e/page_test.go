package e2e

import (
	"math"
	"os/exec"
	"slices"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// paging is three with two paging groups.
var paging = three + `
paging:
  - {number: "391", name: Floor, members: ["301", "302", "303"], codec: G.711, volume: 75, text: "{group.name}: {caller.name}"}
  - {number: "392", name: Yard, members: ["302", "303"], mode: multicast, group: 239.255.3.9, port: 20490, beep: false}
`

// TestPage pages two phones by unicast: each shows the text, beeps, and hears the caller on its speaker at the volume ordered; a second
// page of the group is busy meanwhile, and a phone in a call is left alone. When the caller hangs up all are told to stop.
func TestPage(t *testing.T) {
	feature.Proves(t, "STR-1", "STR-3", "STR-4", "STR-5", "STR-6", "STR-11")
	d := newDaemon(t, paging)
	ada, ben, cleo := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2), d.newPhone("SEP001122AA0003", "7965", 3)
	for _, p := range []*phone.Phone{ada, ben, cleo} {
		d.ready(p)
	}
	ctx := within(t, 90*time.Second)
	c := pages(t, ada, "391")
	hearsPage(t, "ben", ben, 600)
	hearsPage(t, "cleo", cleo, 600)
	for name, p := range map[string]*phone.Phone{"ben": ben, "cleo": cleo} {
		s := p.Stream()
		if s.Codec != "G.711" || s.Volume != 75 || s.Port != 20480 || s.Address != d.site.Address || s.Foreign+s.OtherPT > 0 {
			t.Errorf("%s plays %+v", name, s)
		}
		if !slices.Contains(p.Notices(), "Floor: Ada") || !slices.Contains(p.Tones(), "DtZipZip") {
			t.Errorf("%s shows %q and hears %q", name, p.Notices(), p.Tones())
		}
	}
	if ada.Stream().Starts != 0 {
		t.Error("the caller is paged")
	}
	second, err := cleo.Call(ctx, "391")
	if err != nil {
		t.Fatal(err)
	}
	over(t, second)
	if second.Code() != 486 {
		t.Errorf("a second page of the group ended with %d, want 486", second.Code())
	}
	if err := c.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "both streams have ended", func() bool {
		return !ben.Stream().Running && !cleo.Stream().Running && ben.Stream().Stops == 1 && cleo.Stream().Stops == 1
	})
	d.quiet()

	// A phone in a call is not paged; where nobody is left, the caller hears busy.
	cb, cc := connect(t, ben, cleo, "303")
	if c, err = ada.Call(ctx, "391"); err != nil {
		t.Fatal(err)
	}
	over(t, c)
	if c.Code() != 486 || ben.Stream().Starts != 1 || cleo.Stream().Starts != 1 {
		t.Errorf("page of phones in a call ended with %d, starts %d and %d", c.Code(), ben.Stream().Starts, cleo.Stream().Starts)
	}
	if err := cb.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, cb, cc)
	d.quiet()
	unharmed(t, ada, ben, cleo)
}

// TestPageByMulticast pages two phones with one stream of G.722 to a group, which both join.
func TestPageByMulticast(t *testing.T) {
	feature.Proves(t, "STR-2")
	for _, cmd := range [][]string{{"ip", "link", "set", "lo", "multicast", "on"}, {"ip", "route", "replace", "239.0.0.0/8", "dev", "lo"}} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
	}
	d := newDaemon(t, paging)
	ada, ben, cleo := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2), d.newPhone("SEP001122AA0003", "7965", 3)
	for _, p := range []*phone.Phone{ada, ben, cleo} {
		d.ready(p)
	}
	c := pages(t, ada, "392")
	hearsPage(t, "ben", ben, 600)
	hearsPage(t, "cleo", cleo, 600)
	for name, p := range map[string]*phone.Phone{"ben": ben, "cleo": cleo} {
		if s := p.Stream(); s.Codec != "G.722" || s.Volume != 0 || s.Port != 20490 || s.Address != "239.255.3.9" || s.OtherPT > 0 || len(p.Tones()) > 0 {
			t.Errorf("%s plays %+v and hears %q", name, s, p.Tones())
		}
	}
	if err := c.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "both streams have ended", func() bool { return !ben.Stream().Running && !cleo.Stream().Running })
	d.quiet()
	unharmed(t, ada, ben, cleo)
}

// pages dials a group and says a tone of 600 Hz.
func pages(t *testing.T, p *phone.Phone, number string) *phone.Call {
	t.Helper()
	c, err := p.Call(within(t, 10*time.Second), number)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WaitState(within(t, 20*time.Second), phone.Connected); err != nil {
		t.Fatalf("page: %v (%d %s)", err, c.Code(), c.Reason())
	}
	c.SetTone(600)
	return c
}

func hearsPage(t *testing.T, name string, p *phone.Phone, hz float64) {
	t.Helper()
	eventually(t, 20*time.Second, name+" hears the page", func() bool {
		s := p.Stream()
		return s.Running && math.Abs(s.Hz-hz) < hz/100 && s.Share > 0.6
	})
}
