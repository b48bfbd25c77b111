package state

import (
	"strings"
	"testing"
	"time"

	"ringfence/sip/cisco"
	"ringfence/sip/registrar"
)

// sharing is accounts with 2001 as the second line of the other phone too.
type sharing struct{ accounts }

func (a sharing) Line(n string) (registrar.Account, bool) {
	l, ok := a.accounts.Line(n)
	l.Shared = n == "2001"
	return l, ok
}

func (a sharing) Device(n string) (registrar.DeviceInfo, bool) {
	d, ok := a.accounts.Device(n)
	for i := range d.Lines {
		d.Lines[i].Shared = d.Lines[i].Number == "2001"
	}
	if n == "SEP02AA11BB22C2" {
		d.Lines = append(d.Lines, registrar.Account{Number: "2001", Device: n, Index: 2, Shared: true})
	}
	return d, ok
}

func TestRemoteInUse(t *testing.T) {
	run(t, func(o *Options) { o.Accounts = sharing{} }, func(t *testing.T, b *bench) {
		one, two := b.client("2001"), b.client("2002")
		one.register("")
		two.register("")
		time.Sleep(time.Minute)
		if got := strings.Join(two.got(), "\n"); !strings.Contains(got, "privacy{On:false}") || strings.Contains(got, "NOTIFY 2001 dialog") {
			t.Errorf("initial state: %s", got)
		}
		one.got()
		a := Appearance{Line: "2001", Leg: "L1", Device: phone, Phase: "confirmed", Dialog: cisco.DialogID{CallID: "c", LocalTag: "p", RemoteTag: "s"}, Name: "Cy", Number: "2003"}
		b.s.SetAppearance(a)
		two.expect("a call of the other phone", "NOTIFY 2001 dialog L1 confirmed c p s 2003")
		one.expect("its own call")
		b.s.SetAppearance(a) // nothing new
		two.expect("the same again")
		a.Held = true
		b.s.SetAppearance(a)
		two.expect("hold", "NOTIFY 2001 dialog L1 confirmed c p s 2003 held")
		if err := b.s.SetPrivacy(t.Context(), phone, true, ByPhone); err != nil {
			t.Fatal(err)
		}
		two.expect("private", "NOTIFY 2001 dialog L1 terminated c p s")
		one.expect("private", "REFER 2001 privacy{On:true}")
		if err := b.s.SetPrivacy(t.Context(), phone, false, ByAdmin); err != nil {
			t.Fatal(err)
		}
		two.expect("public again", "NOTIFY 2001 dialog L1 confirmed c p s 2003 held")
		one.expect("public again", "REFER 2001 privacy{On:false}")
		a.Phase = ""
		b.s.SetAppearance(a)
		two.expect("over", "NOTIFY 2001 dialog L1 terminated c p s")
		if n := len(b.s.appear); n != 0 {
			t.Errorf("%d lines are remembered", n)
		}
		// A phone that goes leaves the line to the other.
		b.s.Registration(registrar.Event{Kind: registrar.Gone, Device: phone, Bindings: b.r.Device(phone)})
		if l := b.s.Line("2001"); !l.Registered {
			t.Error("the line is gone with one of its phones")
		}
		if err := b.s.SetPrivacy(t.Context(), "SEP000000000000", true, ByAdmin); err != ErrUnknownDevice {
			t.Errorf("unknown device: %v", err)
		}
	})
}
