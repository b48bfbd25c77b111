package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// The number that call lists keep and dial is another one than the display shows, where the line says so.
func TestCallBackNumber(t *testing.T) {
	feature.Proves(t, "CBN-1", "CBN-2", "CBN-3")
	d := newDaemon(t, strings.Replace(three, `number: "301", user: ada,`, `number: "301", caller_id: {call_back: "311"}, user: ada,`, 1))
	ada, ben, cleo := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2), d.newPhone("SEP001122AA0003", "7965", 3)
	for _, p := range []*phone.Phone{ada, ben, cleo} {
		d.ready(p)
	}
	ctx := within(t, 60*time.Second)
	rpid := func() (last string) {
		for _, m := range ben.Received(0) {
			if m.Method() == "INVITE" {
				last = m.Get("Remote-Party-ID")
			}
		}
		return last
	}
	for _, x := range []struct {
		from    *phone.Phone
		answer  bool
		want    phone.Entry
		carries string
	}{
		{ada, false, phone.Entry{List: "missed", Name: "Ada", Shown: "301", Number: "311"}, ";x-cisco-callback-number=311>;party=calling;"},
		{ada, true, phone.Entry{List: "received", Name: "Ada", Shown: "301", Number: "311"}, ";x-cisco-callback-number=311>;party=calling;"},
		{cleo, false, phone.Entry{List: "missed", Name: "Cleo", Shown: "303", Number: "303"}, ""},
		{cleo, true, phone.Entry{List: "received", Name: "Cleo", Shown: "303", Number: "303"}, ""},
	} {
		c, err := x.from.Call(ctx, "302")
		if err != nil {
			t.Fatal(err)
		}
		in, err := ben.WaitIncoming(ctx)
		if err == nil {
			err = c.WaitState(ctx, phone.RingOut)
		}
		if err == nil && x.answer {
			if err = in.Answer(ctx); err == nil {
				err = c.WaitState(ctx, phone.Connected)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := rpid(); x.carries != "" && !strings.Contains(got, x.carries) || x.carries == "" && strings.Contains(got, "callback-number") {
			t.Errorf("Remote-Party-ID is %s, want %q in it", got, x.carries)
		}
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, c, in)
		d.quiet()
		l := ben.Lists()
		if len(l) == 0 || l[len(l)-1] != x.want {
			t.Errorf("lists %+v, want %+v", l, x.want)
		}
	}
	l := ben.Lists()
	i := slices.IndexFunc(l, func(e phone.Entry) bool { return e.Shown == "301" })
	if i < 0 {
		t.Fatalf("lists %+v", l)
	}
	c, err := ben.Call(ctx, l[i].Number)
	if err != nil {
		t.Fatal(err)
	}
	in, err := ada.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if in.Line() != 2 {
		t.Errorf("the call from the list rings on line %d, want 2, which is 311", in.Line())
	}
	if err := c.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, c, in)
	d.quiet()
	unharmed(t, ada, ben, cleo)
}
