package feature_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"math/rand/v2"

	"ringfence/config"
	"ringfence/sip/call"
	"ringfence/sip/internal/calltest"
)

// talking returns the newest call of a phone if it talks.
func talking(p *calltest.Phone) *calltest.Talk {
	list := p.Talks()
	if len(list) == 0 {
		return nil
	}
	if t := list[len(list)-1]; t.Get().Ended == "" && t.Get().Status == 200 {
		return t
	}
	return nil
}

// TestTortureKeys drives the keys that have no torture test of their own.
func TestTortureKeys(t *testing.T) {
	inCall := func(key string) func(w *calltest.World) {
		return func(w *calltest.World) {
			ada := w.Phone("301", "TCP")
			w.Phone("302", "TCP")
			ada.Call("302")
			after(4 * time.Second)
			if x := talking(ada); x != nil {
				ada.Press(key, x)
			}
			after(6 * time.Second)
		}
	}
	for name, tc := range map[string]struct {
		play func(w *calltest.World)
		edit func(*config.Document, *call.Options)
	}{
		"malicious call": {play: inCall("MCID")},
		"quality report": {play: inCall("QRT")},
		"call back": {play: func(w *calltest.World) {
			ada, cleo := w.Phone("301", "TCP"), w.Phone("303", "TCP")
			ben := w.Phone("302", "TCP", func(p *calltest.Phone) { p.Answer = time.Second })
			cleo.Call("302")
			after(3 * time.Second)
			ben.Answer = 0
			x := ada.Call("302")
			after(2 * time.Second)
			if g := x.Get(); g.Ended == "" {
				ada.Press("CallBack", x)
			}
			after(2 * time.Second)
			for _, y := range cleo.Talks() {
				y.HangUp()
			}
			after(4 * time.Second)
			ada.Choose(2, 0, "Dial")
			after(2 * time.Second)
		}},
		"pickup notice": {edit: func(d *config.Document, _ *call.Options) {
			for i := range d.Lines {
				d.Lines[i].Pickup = config.Pickup{MemberOf: []int{1}, MayPick: []int{1}, Notify: []string{"from", "to", "beep"}, Seconds: 5}
			}
		}, play: func(w *calltest.World) {
			ada := w.Phone("301", "TCP")
			w.Phone("302", "TCP", func(p *calltest.Phone) { p.Answer = 0 })
			cleo := w.Phone("303", "TCP")
			ada.Call("302")
			after(3 * time.Second)
			cleo.Call("x-cisco-serviceuri-pickup")
			after(4 * time.Second)
		}},
		"page": {edit: func(d *config.Document, _ *call.Options) {
			d.Paging = []config.PageGroup{{Number: "350", Name: "all", Members: []config.Digits{"302", "303"}, Mode: "unicast", Port: 20480, Codec: "G.722"}}
		}, play: func(w *calltest.World) {
			ada := w.Phone("301", "TCP")
			w.Phone("302", "TCP")
			w.Phone("303", "TCP")
			x := ada.Call("350")
			after(6 * time.Second)
			x.HangUp()
		}},
		"automatic answer": {edit: func(d *config.Document, _ *call.Options) { d.Lines[1].AutoAnswer = []config.Digits{"301"} }, play: func(w *calltest.World) {
			ada := w.Phone("301", "TCP")
			w.Phone("302", "TCP")
			ada.Call("302")
			after(5 * time.Second)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			edit := tc.edit
			if edit == nil {
				edit = func(*config.Document, *call.Options) {}
			}
			calltest.Torture(t, engine, "TCP", tc.play, edit)
		})
	}
}

// operations are what users do at random moments, by feature. Each is given a phone, one of its calls that talks, and another one or the same.
var operations = map[string]func(r *rand.Rand, p *calltest.Phone, a, b *calltest.Talk){
	"basic": func(*rand.Rand, *calltest.Phone, *calltest.Talk, *calltest.Talk) {},
	"transfer": func(r *rand.Rand, _ *calltest.Phone, a, b *calltest.Talk) {
		if a == b {
			a.Refer(fmt.Sprint(301 + r.IntN(4)))
			return
		}
		a.ReferTo(b)
	},
	"conference": func(_ *rand.Rand, p *calltest.Phone, a, b *calltest.Talk) { p.PressTwo("Conference", a, b) },
	"join": func(r *rand.Rand, p *calltest.Phone, a, _ *calltest.Talk) {
		p.Press([]string{"Select", "Unselect", "Join"}[r.IntN(3)], a)
	},
	"list": func(r *rand.Rand, p *calltest.Phone, a, b *calltest.Talk) {
		if r.IntN(2) == 0 {
			p.PressTwo("Conference", a, b)
			return
		}
		p.Press([]string{"ConfList", "RmLastConf"}[r.IntN(2)], a)
	},
	"park": func(r *rand.Rand, p *calltest.Phone, a, _ *calltest.Talk) {
		switch r.IntN(3) {
		case 0:
			p.Press([]string{"Park", "ParkMonitor"}[r.IntN(2)], a)
		case 1:
			p.Call(fmt.Sprint(381 + r.IntN(2)))
		default:
			a.Refer("x-cisco-serviceuri-dpark-382")
		}
	},
	"divert": func(_ *rand.Rand, p *calltest.Phone, a, _ *calltest.Talk) { p.Press("IDivert", a) },
	"pickup": func(r *rand.Rand, p *calltest.Phone, _, _ *calltest.Talk) {
		p.Call([]string{"x-cisco-serviceuri-pickup", "x-cisco-serviceuri-gpickup-302", "x-cisco-serviceuri-blfpickup-303"}[r.IntN(3)])
	},
	"hunt": func(_ *rand.Rand, p *calltest.Phone, _, _ *calltest.Talk) { p.Call("370") },
	"marks": func(r *rand.Rand, p *calltest.Phone, a, _ *calltest.Talk) {
		p.Press([]string{"MCID", "QRT", "CallBack"}[r.IntN(3)], a)
	},
	"direct media": func(*rand.Rand, *calltest.Phone, *calltest.Talk, *calltest.Talk) {},
}

// TestRandomInterleavings plays each feature into calls that begin, hold, resume and end at random moments, often the same. When all is
// quiet, what displays say is what parties hear, lamps tell the truth, and after everybody has hung up nothing is left and each leg
// stands in one record. The subtest's name is the seed.
func TestRandomInterleavings(t *testing.T) {
	for name, operation := range operations {
		t.Run(name, func(t *testing.T) {
			for seed := range calltest.Rounds(t, 12) {
				if !t.Run(fmt.Sprint(seed), func(t *testing.T) { interleave(t, name, seed, operation) }) {
					return
				}
			}
		})
	}
}

func interleave(t *testing.T, name string, seed int, operation func(*rand.Rand, *calltest.Phone, *calltest.Talk, *calltest.Talk)) {
	synctest.Test(t, func(t *testing.T) {
		w := calltest.New(t, engine, diverts, func(d *config.Document, _ *call.Options) {
			d.Parking = []config.ParkLot{{ID: "default", Slots: "381-382", Seconds: 20}}
			d.Features.TransferRecall = 10
			d.Groups = []config.Group{{Number: "370", Name: "All", Strategy: "all", Members: []config.Digits{"302", "303", "304"}, RingSeconds: 10, ShowPilot: true, OnNoAnswer: "hangup", OnEmpty: "congestion"}}
			d.SIP.DirectMedia = name == "direct media"
			for i := range d.Lines {
				d.Lines[i].Pickup = config.Pickup{MemberOf: []int{1}, MayPick: []int{1}, Other: []int{1}}
			}
		})
		w.Forgive()
		r := rand.New(rand.NewPCG(uint64(seed), 7))
		wait := func() {
			after([]time.Duration{0, time.Millisecond, 12 * time.Millisecond, 300 * time.Millisecond, 3 * time.Second}[r.IntN(5)])
		}
		var phones []*calltest.Phone
		for i := range 4 {
			phones = append(phones, w.Phone(fmt.Sprint(301+i), []string{"TCP", "UDP"}[r.IntN(2)], func(p *calltest.Phone) {
				p.Answer = time.Duration(1+r.IntN(4)) * time.Second
			}))
		}
		for range 14 {
			p := phones[r.IntN(len(phones))]
			var alive []*calltest.Talk
			for _, talk := range p.Talks() {
				if g := talk.Get(); g.Ended == "" && g.Status == 200 {
					alive = append(alive, talk)
				}
			}
			if len(alive) == 0 || r.IntN(4) == 0 && len(alive) < 3 {
				p.Call(fmt.Sprint(301 + r.IntN(4)))
				wait()
				continue
			}
			a, b := alive[r.IntN(len(alive))], alive[r.IntN(len(alive))]
			switch r.IntN(6) {
			case 0:
				if len(alive) > 1 || r.IntN(2) == 0 {
					a.HangUp()
				}
			case 1:
				a.Hold([]string{"", "transfer", "conference"}[r.IntN(3)])
			case 2:
				a.Resume()
			default:
				operation(r, p, a, b)
			}
			wait()
		}
		after(70 * time.Second)
		w.Quiescent()
		for _, p := range phones {
			for _, talk := range p.Talks() {
				talk.HangUp()
			}
		}
		after(90 * time.Second)
		w.Empty()
		w.Close()
		synctest.Wait()
	})
}
