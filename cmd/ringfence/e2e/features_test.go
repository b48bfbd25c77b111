package e2e

import (
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// grouped is three with all lines in one pickup group and a parking lot.
var grouped = strings.NewReplacer(
	`number: "301", user: ada, phone: SEP001122AA0001, index: 1`, `number: "301", user: ada, phone: SEP001122AA0001, index: 1, park_lot: default, pickup: {member_of: [1], may_pick: [1]}`,
	`number: "302", user: ben, phone: SEP001122AA0002, index: 1, ring_seconds: 4`, `number: "302", user: ben, phone: SEP001122AA0002, index: 1, ring_seconds: 20, pickup: {member_of: [1], may_pick: [1]}`,
	`number: "303", user: cleo, phone: SEP001122AA0003, index: 1`, `number: "303", user: cleo, phone: SEP001122AA0003, index: 1, pickup: {member_of: [1], may_pick: [1]}`,
).Replace(three) + `parking:
  - {id: default, slots: "381-383"}
`

func TestPickup(t *testing.T) {
	feature.Proves(t, "PKU-1", "PKU-4", "DP-15", "DP-16")
	d := newDaemon(t, grouped)
	ada, ben, cleo := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2), d.newPhone("SEP001122AA0003", "7965", 3)
	for _, p := range []*phone.Phone{ada, ben, cleo} {
		d.ready(p)
	}
	ctx := within(t, 40*time.Second)
	none, err := cleo.Call(ctx, "x-cisco-serviceuri-pickup")
	if err != nil {
		t.Fatal(err)
	}
	over(t, none)
	if none.Code() != 503 {
		t.Errorf("pickup of nothing ended with %d, want 503", none.Code())
	}
	ca, err := ada.Call(ctx, "302")
	if err != nil {
		t.Fatal(err)
	}
	cb, err := ben.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// A younger call rings as well, and goes on ringing: the oldest is taken.
	younger, err := ada.CallFrom(ctx, 2, "302")
	if err != nil {
		t.Fatal(err)
	}
	second, err := ben.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cc, err := cleo.Call(ctx, "x-cisco-serviceuri-pickup")
	if err != nil {
		t.Fatal(err)
	}
	if err := cc.WaitState(ctx, phone.Connected); err != nil {
		t.Fatal(err)
	}
	over(t, cb)
	if younger.State() != phone.RingOut || second.State() != phone.RingIn {
		t.Errorf("the younger call is %v, and %v at ben", younger.State(), second.State())
	}
	if err := younger.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, younger, second)
	hear(t, ca, cc)
	if err := cc.WaitRemote(ctx, "301"); err != nil {
		t.Errorf("cleo sees %+v: %v", cc.Remote(), err)
	}
	if err := ca.WaitRemote(ctx, "303"); err != nil {
		t.Errorf("ada sees %+v: %v", ca.Remote(), err)
	}
	if err := cc.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cc)
	d.quiet()
	unharmed(t, ada, ben, cleo)
}

func TestPark(t *testing.T) {
	feature.Proves(t, "PRK-1", "PRK-8", "PRK-8b")
	d := newDaemon(t, grouped)
	ada, ben, cleo := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2), d.newPhone("SEP001122AA0003", "7965", 3)
	for _, p := range []*phone.Phone{ada, ben, cleo} {
		d.ready(p)
	}
	ctx := within(t, 40*time.Second)
	empty, err := cleo.Call(ctx, "381")
	if err != nil {
		t.Fatal(err)
	}
	over(t, empty)
	if empty.Code() != 404 {
		t.Errorf("an empty slot answers %d, want 404", empty.Code())
	}
	ca, cb := connect(t, ada, ben, "302")
	hear(t, ca, cb)
	if err := ada.SoftKey(ctx, "Park", ca, nil); err != nil {
		t.Fatal(err)
	}
	over(t, ca)
	if n := ada.Notices(); len(n) == 0 || !strings.Contains(n[len(n)-1], "381") {
		t.Errorf("ada's status line says %q, want the slot 381", n)
	}
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
	unharmed(t, ada, ben, cleo)
}
