package e2e

import (
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// watchful is house with a group whose members want to be told different things about its calls; ada no sooner than seconds after the last time.
func watchful(cleo, seconds string) string {
	return strings.NewReplacer(
		`phone: SEP001122AA0001, index: 1, park_lot: default, pickup: {`, `phone: SEP001122AA0001, index: 1, park_lot: default, pickup: {notify: [from, to, beep], notify_seconds: `+seconds+`, `,
		`phone: SEP001122AA0003, index: 1, pickup: {`, `phone: SEP001122AA0003, index: 1, pickup: {notify: [`+cleo+`], notify_seconds: 1, `,
		`pickup: {member_of: [2], may_pick: [2], other: [1]}`, `pickup: {member_of: [1], may_pick: [1], notify: [beep], notify_seconds: 1}`,
	).Replace(house) + "services: {codes: {hide_number: \"*67\"}}\n"
}

// notices are the texts and tones that the server has pushed to a phone since a mark, and for how long the texts are shown.
func notices(p *phone.Phone, from int) (texts, seconds []string, tones int) {
	cut := func(s, tag string) string {
		_, s, _ = strings.Cut(s, "<"+tag+">")
		s, _, _ = strings.Cut(s, "</"+tag+">")
		return s
	}
	for _, m := range p.Received(from) {
		if m.Method() != "REFER" {
			continue
		}
		if strings.Contains(m.Body(), "<statuslineupdatereq>") {
			texts, seconds = append(texts, cut(m.Body(), "statustext")), append(seconds, cut(m.Body(), "displaytimeout"))
		}
		if strings.Contains(m.Body(), "<playtonereq>") {
			tones++
		}
	}
	return texts, seconds, tones
}

func TestPickupNotices(t *testing.T) {
	feature.Proves(t, "PKN-3", "PKN-4", "PKN-5", "PKN-6")
	adaWaits := "40" // until changed, longer than the calls below take
	d := newDaemon(t, watchful("from", adaWaits))
	ada, ben, cleo, dan := four(t, d)
	all := []*phone.Phone{ada, ben, cleo, dan}
	ctx := within(t, 120*time.Second)
	// rings lets a phone call ben, and checks what the others are told meanwhile: "TEXT" or "TEXT+" with a tone, "" for nothing.
	rings := func(from *phone.Phone, number string, want map[*phone.Phone]string) {
		t.Helper()
		marks := map[*phone.Phone]int{}
		for _, p := range all {
			marks[p] = p.Mark()
		}
		c, err := from.Call(ctx, number)
		if err != nil {
			t.Fatal(err)
		}
		in, err := ben.WaitIncoming(ctx)
		if err == nil {
			err = c.WaitState(ctx, phone.RingOut)
		}
		if err != nil {
			t.Fatal(err)
		}
		told := func(p *phone.Phone) string {
			texts, seconds, tones := notices(p, marks[p])
			s := strings.Join(texts, "|")
			if tones > 0 {
				s += strings.Repeat("+", tones)
			}
			for _, x := range seconds {
				if want := map[*phone.Phone]string{ada: adaWaits, cleo: "1"}[p]; x != want {
					t.Errorf("%s shows it for %s s, want %s", p.Device(), x, want)
				}
			}
			return s
		}
		for p, text := range want {
			if text != "" {
				eventually(t, 5*time.Second, p.Device()+" is told "+text, func() bool { return told(p) == text })
			}
		}
		d.json(&[]any{}, "call", "list") // whoever is told, is told before the caller hears it ring
		for _, p := range all {
			if got := told(p); got != want[p] {
				t.Errorf("%s is told %q, want %q", p.Device(), got, want[p])
			}
		}
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, c, in)
		d.quiet()
	}
	rings(dan, "302", map[*phone.Phone]string{ada: "From 304 to 302+", cleo: "From 304"})
	pause(ctx, 1100*time.Millisecond) // cleo's time is over, ada's is not
	rings(ada, "302", map[*phone.Phone]string{cleo: "From 301", dan: "+"})
	pause(ctx, 1100*time.Millisecond)
	if err := cleo.SetDND(ctx, true); err != nil {
		t.Fatal(err)
	}
	rings(dan, "302", map[*phone.Phone]string{}) // ada: within the time; cleo: not to be disturbed
	if err := cleo.SetDND(ctx, false); err != nil {
		t.Fatal(err)
	}
	adaWaits = "1"
	d.write(watchful("from", adaWaits))
	d.verb("config", "reload")
	pause(ctx, 1100*time.Millisecond)
	rings(dan, "*67302", map[*phone.Phone]string{ada: "To 302+"}) // withheld: who wants to know the caller alone is told nothing
	// A phone that rings, and one that is in a call.
	pause(ctx, 1100*time.Millisecond)
	ca, cc := func() (a, b *phone.Call) {
		a, err := ada.Call(ctx, "303")
		if err == nil {
			b, err = cleo.WaitIncoming(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	}()
	pause(ctx, 1100*time.Millisecond)
	mark := map[*phone.Phone]int{ada: ada.Mark(), cleo: cleo.Mark()}
	cd, err := dan.Call(ctx, "302")
	if err != nil {
		t.Fatal(err)
	}
	cb, err := ben.WaitIncoming(ctx)
	if err == nil {
		err = cd.WaitState(ctx, phone.RingOut)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.json(&[]any{}, "call", "list")
	for p, from := range mark {
		if texts, _, tones := notices(p, from); len(texts) > 0 || tones > 0 {
			t.Errorf("%s is told %q and %d tones though it rings or is in a call", p.Device(), texts, tones)
		}
	}
	for _, c := range []*phone.Call{cd, ca} {
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
	}
	over(t, ca, cb, cc, cd)
	d.quiet()
	// Who is called alone, and nothing at all.
	for cleoWants, text := range map[string]string{"to": "To 302", "": ""} {
		d.write(watchful(cleoWants, adaWaits))
		d.verb("config", "reload")
		pause(ctx, 1100*time.Millisecond)
		rings(dan, "302", map[*phone.Phone]string{ada: "From 304 to 302+", cleo: text})
	}
	unharmed(t, all...)
}
