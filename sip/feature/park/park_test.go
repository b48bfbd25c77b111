package park_test

import (
	"encoding/xml"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/config"
	"ringfence/media"
	"ringfence/sip/call"
	"ringfence/sip/cisco"
	"ringfence/sip/internal/calltest"
)

var engine *media.Engine

func TestMain(m *testing.M) {
	e, stop := calltest.NewEngine()
	engine = e
	code := m.Run()
	stop()
	os.Exit(code)
}

type edit = func(*config.Document, *call.Options)

// lot is that of the examples: two slots, 60 s, reminder at 50 s, back to the parker for 15 s, then 304.
func lot(d *config.Document, _ *call.Options) {
	d.Parking = []config.ParkLot{{ID: "default", Slots: "381-382", Seconds: 60, Reminder: 50, Order: "first",
		Comeback: config.Comeback{ToParker: true, Seconds: 15, Then: "extension:304"}}}
}

func scene(t *testing.T, f func(t *testing.T, w *calltest.World), edits ...edit) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := calltest.New(t, engine, append([]edit{lot}, edits...)...)
		f(t, w)
		after(64 * time.Second)
		if left := w.Left(); left != "" {
			t.Errorf("left over: %s\n%s", left, strings.Join(w.Ladder(), "\n"))
		}
		for _, n := range []string{"381", "382"} {
			if busy, known := w.Slot(n); busy || !known {
				t.Errorf("lamp of %s: busy %v, known %v", n, busy, known)
			}
		}
		w.Close()
		synctest.Wait()
	})
}

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// cast is 301 Ada, who parks, and 302 Ben, who is parked; they talk.
func cast(t *testing.T, w *calltest.World, edit ...func(*calltest.Phone)) (ada, ben *calltest.Phone, x *calltest.Talk) {
	t.Helper()
	ada, ben = w.Phone("301", "TCP", edit...), w.Phone("302", "TCP")
	x = ada.Call("302")
	after(3 * time.Second)
	return
}

func shows(t *testing.T, p *calltest.Phone, want string) {
	t.Helper()
	if got := p.Last().Get().Shows; got != want {
		t.Errorf("%s sees %s, want %s", p.Number, got, want)
	}
}

// TestPark is the picture of "sip-calls" §9.
func TestPark(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, x := cast(t, w)
		k := ada.Press("Park", x)
		after(time.Second)
		if status, reports := ada.Told(k); status != 202 || len(reports) != 1 || !strings.Contains(reports[0], "<code>200</code>") {
			t.Errorf("%d, %q", status, reports)
		}
		// The text names the call, so the call must still be there when it comes.
		pushed, alive := ada.Pushed()
		if len(pushed) != 1 || !strings.Contains(pushed[0], "<statustext>\x80! 381</statustext>") || !strings.Contains(pushed[0], `encoding="iso-8859-1"`) ||
			!strings.Contains(pushed[0], "<callid>"+x.Get().D.CallID+"</callid>") || alive[0] != 1 {
			t.Errorf("pushed %q with %v calls", pushed, alive)
		}
		if x.Get().Ended != "BYE" {
			t.Errorf("the parker's call: %q", x.Get().Ended)
		}
		shows(t, ben, "\"\x805\" <sip:381@192.0.2.10>;party=calling;privacy=off;screen=yes")
		if busy, _ := w.Slot("381"); !busy {
			t.Error("the lamp of the slot is off")
		}
		if i := w.Manager.Snapshot(); len(i) != 1 || i[0].State != "parked" || len(i[0].Legs) != 1 {
			t.Errorf("%+v", i)
		}
		after(10 * time.Second)

		cleo := w.Phone("303", "TCP")
		y := cleo.Call("381")
		after(time.Second)
		if y.Get().Status != 200 {
			t.Fatalf("retrieval got %d", y.Get().Status)
		}
		shows(t, cleo, `"Ben" <sip:302@192.0.2.10>;party=called;privacy=off;screen=yes`)
		shows(t, ben, `"Cleo" <sip:303@192.0.2.10>;party=calling;privacy=off;screen=yes`)
		if busy, _ := w.Slot("381"); busy {
			t.Error("the lamp of the slot is still on")
		}
		y.Bye()
		after(time.Second)
		if ben.Alive() != 0 {
			t.Error("ben is left alone")
		}
	})
}

// events are the notices that Park Monitor got, "event state subscription version".
func events(t *testing.T, reports []string) []string {
	t.Helper()
	var out []string
	for _, r := range reports {
		subscription, body, _ := strings.Cut(r, " <")
		var doc struct {
			Version string `xml:"version,attr"`
			Entity  string `xml:"entity,attr"`
			Dialog  struct {
				ID    string `xml:"id,attr"`
				State string `xml:"state"`
				Park  struct {
					Event string `xml:"event"`
				} `xml:"park"`
			} `xml:"dialog"`
		}
		if err := xml.Unmarshal([]byte("<"+body), &doc); err != nil {
			t.Fatalf("%q: %v", r, err)
		}
		if doc.Entity != doc.Dialog.ID+"@192.0.2.10" || !strings.Contains(body, `xmlns="urn:ietf:parmams:xml:ns:dialog-info"`) {
			t.Errorf("document %s", body)
		}
		out = append(out, fmt.Sprintf("%s %s %s %s", doc.Dialog.Park.Event, doc.Dialog.State, subscription, doc.Version))
	}
	return out
}

func TestParkMonitor(t *testing.T) {
	const (
		active = "active;expires=60"
		over   = "terminated;reason=noresource"
	)
	for _, tc := range []struct {
		name string
		play func(t *testing.T, w *calltest.World, ben *calltest.Phone)
		want []string
	}{
		{"retrieved", func(t *testing.T, w *calltest.World, ben *calltest.Phone) {
			after(5 * time.Second)
			y := w.Phone("303", "TCP").Call("381")
			after(time.Second)
			y.Bye()
		}, []string{"parked confirmed " + active + " 1", "retrieved terminated " + over + " 2"}},
		{"abandoned after the reminder", func(t *testing.T, w *calltest.World, ben *calltest.Phone) {
			after(52 * time.Second)
			ben.Last().Bye()
		}, []string{"parked confirmed " + active + " 1", "reminder confirmed " + active + " 2", "abandoned terminated " + over + " 3"}},
		{"forwarded", func(t *testing.T, w *calltest.World, ben *calltest.Phone) {
			after(70 * time.Second) // the parker is rung again, and answers
			shows(t, ben, `"Ada" <sip:301@192.0.2.10>;party=calling;privacy=off;screen=yes`)
			ben.Last().Bye()
		}, []string{"parked confirmed " + active + " 1", "reminder confirmed " + active + " 2", "forwarded terminated " + over + " 3"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				ada, ben, x := cast(t, w)
				k := ada.Press("ParkMonitor", x)
				after(time.Second)
				if x.Get().Ended != "BYE" {
					t.Errorf("the parker's call: %q", x.Get().Ended)
				}
				tc.play(t, w, ben)
				after(2 * time.Second)
				status, reports := ada.Told(k)
				if d := cmp.Diff(tc.want, events(t, reports)); status != 202 || d != "" {
					t.Errorf("%d, %s", status, d)
				}
			})
		})
	}
}

// TestComeBack is DP-19: rings the parker for 15 s, then goes on.
func TestComeBack(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, x := cast(t, w, func(p *calltest.Phone) { p.Answer = 0 })
		dan := w.Phone("304", "TCP")
		ada.Press("Park", x)
		after(62 * time.Second)
		back := ada.Last()
		if got := back.Get(); got.Ended != "" || got.Shows != `"Ben" <sip:302@192.0.2.10>;party=calling;privacy=off;screen=yes` {
			t.Errorf("the parker is called: %q %s", got.Ended, got.Shows)
		}
		if busy, _ := w.Slot("381"); busy {
			t.Error("the slot is still taken")
		}
		after(20 * time.Second)
		if got := back.Get().Ended; got != "CANCEL " {
			t.Errorf("the parker's phone: %q", got)
		}
		if dan.Alive() != 1 || !strings.Contains(ben.Last().Get().Shows, "304") {
			t.Errorf("dan has %d calls, ben sees %s", dan.Alive(), ben.Last().Get().Shows)
		}
		ben.Last().Bye()
		after(time.Second)
	})
}

func TestLotFull(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, x := cast(t, w)
		k := ada.Press("Park", x)
		after(time.Second)
		if status, reports := ada.Told(k); status != 202 || !strings.Contains(fmt.Sprint(reports), "500") {
			t.Errorf("%d %q", status, reports)
		}
		if pushed, _ := ada.Pushed(); len(pushed) != 1 || !strings.Contains(pushed[0], "<statustext>\x80^</statustext>") {
			t.Errorf("pushed %q", pushed)
		}
		m := ada.Press("ParkMonitor", x)
		after(time.Second)
		if _, reports := ada.Told(m); len(reports) != 1 || events(t, reports)[0] != "error terminated terminated;reason=noresource 1" {
			t.Errorf("%q", reports)
		}
		if x.Get().Ended != "" || ben.Alive() != 1 {
			t.Error("the call did not stay with the parker")
		}
		x.Bye()
		after(time.Second)
	}, func(d *config.Document, _ *call.Options) { d.Lines[0].ParkLot = "no such lot" })
}

// TestDirectedPark is "sip-calls" §11, DP-20: exactly that slot, or the transfer fails and the call stays.
func TestDirectedPark(t *testing.T) {
	for _, tc := range []struct {
		slot   string
		taken  bool
		report string
	}{{"382", false, "200 OK"}, {"382", true, "486 Busy"}, {"999", false, "404 Not"}} {
		t.Run(fmt.Sprint(tc), func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				ada, ben, x := cast(t, w)
				var y *calltest.Talk
				cleo := w.Phone("303", "TCP")
				if tc.taken {
					dan := w.Phone("304", "TCP")
					y = cleo.Call("304")
					after(3 * time.Second)
					y.Refer("x-cisco-serviceuri-dpark-" + tc.slot)
					after(time.Second)
					defer func() { dan.Last().Bye(); after(time.Second) }()
				}
				x.Refer("x-cisco-serviceuri-dpark-" + tc.slot)
				after(time.Second)
				if got := x.Get().Reports; len(got) != 1 || !strings.Contains(got[0], tc.report) {
					t.Errorf("reports %q", got)
				}
				if parked := ada.Alive() == 0; parked != (tc.report == "200 OK") {
					t.Errorf("parker has %d calls", ada.Alive())
				}
				ben.Last().Bye()
				after(time.Second)
			})
		})
	}
}

// TestEmptySlot is DP-22: refused before it is answered.
func TestEmptySlot(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		c := w.Phone("303", "TCP").Call("381")
		after(time.Second)
		if c.Get().Status != 404 || len(w.Find("303 < 200 INVITE")) != 0 {
			t.Errorf("got %d", c.Get().Status)
		}
	})
}

// TestTwoRetrieve: one gets the call, the other an empty slot.
func TestTwoRetrieve(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, x := cast(t, w)
		cleo, dan := w.Phone("303", "TCP"), w.Phone("304", "TCP")
		ada.Press("Park", x)
		after(time.Second)
		a, b := cleo.Call("381"), dan.Call("381")
		after(time.Second)
		if a.Get().Status+b.Get().Status != 604 {
			t.Errorf("got %d and %d", a.Get().Status, b.Get().Status)
		}
		ben.Last().Bye()
		after(time.Second)
		if cleo.Alive()+dan.Alive() != 0 {
			t.Error("somebody is left alone")
		}
	})
}

// TestRetrieverGone: who dials the slot gives up in the same moment; the party stays parked, or is released with him.
func TestRetrieverGone(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, x := cast(t, w)
		cleo := w.Phone("303", "TCP")
		ada.Press("Park", x)
		after(time.Second)
		c := cleo.Call("381")
		c.Cancel()
		after(time.Second)
		if busy, _ := w.Slot("381"); busy != (ben.Alive() == 1 && cleo.Alive() == 0) {
			t.Errorf("slot busy %v, ben has %d, cleo %d", busy, ben.Alive(), cleo.Alive())
		}
		if ben.Alive() == 1 {
			ben.Last().Bye()
			after(time.Second)
		}
	})
}

// TestWrongDialogs: tags swapped or invented, or somebody else's call: 603 and nothing happens ("sip-calls" §36).
func TestWrongDialogs(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, x := cast(t, w)
		cleo := w.Phone("303", "TCP")
		d := x.Get().D
		right := cisco.DialogID{CallID: d.CallID, LocalTag: d.Local.Tag, RemoteTag: d.Remote.Tag}
		for name, id := range map[string]cisco.DialogID{
			"swapped": {CallID: right.CallID, LocalTag: right.RemoteTag, RemoteTag: right.LocalTag}, "invented": {CallID: right.CallID, LocalTag: "x", RemoteTag: "y"},
			"no such call": {CallID: "nobody", LocalTag: right.LocalTag, RemoteTag: right.RemoteTag}, "empty": {},
		} {
			k := ada.PressDialog("Park", id)
			after(time.Second)
			if status, _ := ada.Told(k); status != 603 {
				t.Errorf("%s: %d", name, status)
			}
		}
		k := cleo.PressDialog("Park", right)
		after(time.Second)
		if status, _ := cleo.Told(k); status != 603 {
			t.Errorf("another phone: %d", status)
		}
		k = ada.PressDialog("Fly", right)
		after(time.Second)
		if status, _ := ada.Told(k); status != 603 {
			t.Errorf("unknown key: %d", status)
		}
		if x.Get().Ended != "" || ben.Alive() != 1 {
			t.Error("the call has changed")
		}
		x.Bye()
		after(time.Second)
	})
}

// TestNothingToPark: the far end rings still.
func TestNothingToPark(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP", func(p *calltest.Phone) { p.Answer = 0 })
		x := ada.Call("302")
		after(2 * time.Second)
		k := ada.Press("Park", x)
		after(time.Second)
		if status, reports := ada.Told(k); status != 202 || !strings.Contains(fmt.Sprint(reports), "<code>500</code>") {
			t.Errorf("%d %q", status, reports)
		}
		if x.Get().Ended != "" {
			t.Errorf("the call ended with %q", x.Get().Ended)
		}
		x.Cancel()
		after(time.Second)
	})
}

// TestPartyGoneMeanwhile: it hangs up in the moment in which it is parked. Nothing is parked for long.
func TestPartyGoneMeanwhile(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, x := cast(t, w)
		ben.Last().Bye()
		ada.Press("Park", x)
		after(5 * time.Second)
		if busy, _ := w.Slot("381"); busy || ada.Alive()+ben.Alive() != 0 {
			t.Errorf("slot busy %v, %d and %d calls", busy, ada.Alive(), ben.Alive())
		}
	})
}

// TestDeafPhone: the phone refuses the text; the call is parked all the same.
func TestDeafPhone(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, x := cast(t, w, func(p *calltest.Phone) { p.Deaf = true })
		ada.Press("Park", x, "Require: norefersub")
		after(time.Second)
		if busy, _ := w.Slot("381"); !busy || x.Get().Ended != "BYE" {
			t.Errorf("slot busy %v, call %q", busy, x.Get().Ended)
		}
		ben.Last().Bye()
		after(time.Second)
	})
}

func TestOrderOfSlots(t *testing.T) {
	for order, want := range map[string][]string{"first": {"381", "381", "381"}, "rotating": {"381", "382", "381"}} {
		t.Run(order, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				ada, ben := w.Phone("301", "TCP"), w.Phone("302", "TCP")
				var got []string
				for range want {
					x := ada.Call("302")
					after(3 * time.Second)
					ada.Press("Park", x)
					after(time.Second)
					for _, n := range []string{"381", "382"} {
						if busy, _ := w.Slot(n); busy {
							got = append(got, n)
						}
					}
					ben.Last().Bye()
					after(time.Second)
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Error(d)
				}
			}, func(d *config.Document, _ *call.Options) { d.Parking[0].Order = order })
		})
	}
}

func TestTorturePark(t *testing.T) {
	for _, key := range []string{"Park", "ParkMonitor"} {
		t.Run(key, func(t *testing.T) {
			calltest.Torture(t, engine, "TCP", func(w *calltest.World) {
				ada := w.Phone("301", "TCP")
				w.Phone("302", "TCP")
				cleo := w.Phone("303", "TCP")
				x := ada.Call("302")
				after(4 * time.Second)
				if x.Get().Status == 200 {
					ada.Press(key, x)
				}
				after(6 * time.Second)
				cleo.Call("381")
				after(4 * time.Second)
			}, lot)
		})
	}
}

func TestTortureComeBack(t *testing.T) {
	calltest.Torture(t, engine, "TCP", func(w *calltest.World) {
		ada := w.Phone("301", "TCP", func(p *calltest.Phone) { p.Answer = 0 })
		w.Phone("302", "TCP")
		w.Phone("304", "TCP")
		x := ada.Call("302")
		after(4 * time.Second)
		if x.Get().Status == 200 {
			ada.Press("ParkMonitor", x)
		}
		after(90 * time.Second)
	}, lot)
}
