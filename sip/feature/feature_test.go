package feature_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/config"
	"ringfence/media"
	"ringfence/sip/call"
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

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// diverts sends what 302 diverts to 303.
func diverts(d *config.Document, _ *call.Options) {
	for i := range d.Lines {
		if d.Lines[i].Number == "302" {
			d.Lines[i].OnIDivert, d.Lines[i].OnBusy = "extension:303", "extension:303"
		}
	}
}

// TestTortureDivert: iDivert while it rings and in a call, with every message of it lost, doubled, late or refused once.
func TestTortureDivert(t *testing.T) {
	for _, answered := range []bool{false, true} {
		t.Run(fmt.Sprint("answered ", answered), func(t *testing.T) {
			calltest.Torture(t, engine, "TCP", func(w *calltest.World) {
				ada := w.Phone("301", "TCP")
				ben := w.Phone("302", "TCP", func(p *calltest.Phone) {
					if !answered {
						p.Answer = 0
					}
				})
				w.Phone("303", "TCP")
				ada.Call("302")
				after(4 * time.Second)
				if list := ben.Talks(); len(list) > 0 && list[0].Get().Ended == "" {
					ben.Press("IDivert", list[0])
				}
				after(6 * time.Second)
			}, diverts)
		})
	}
}

// TestTortureJoin: select and join of two calls, likewise.
func TestTortureJoin(t *testing.T) {
	calltest.Torture(t, engine, "TCP", func(w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP")
		w.Phone("303", "TCP")
		x := ada.Call("302")
		after(4 * time.Second)
		x.Hold("")
		after(2 * time.Second)
		y := ada.Call("303")
		after(4 * time.Second)
		if x.Get().Status == 200 && y.Get().Status == 200 {
			ada.Press("Select", x)
			after(2 * time.Second)
			ada.Press("Join", y)
		}
		after(6 * time.Second)
	})
}

// TestBothHangUp: both ends hang up at the same instant; every BYE is answered and nothing is left.
func TestBothHangUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := calltest.New(t, engine)
		ada, ben := w.Phone("301", "TCP"), w.Phone("302", "TCP")
		rounds := 100
		if !testing.Short() {
			rounds = 10000
		}
		for range rounds {
			x := ada.Call("302")
			after(3 * time.Second)
			y := ben.Last()
			go x.Bye()
			go y.Bye()
			after(3 * time.Second)
		}
		for _, phone := range []string{"301", "302"} {
			// A BYE that was sent after the answer to ours finds no dialog any more.
			sent, answered := len(w.Find(phone+" > BYE")), len(w.Find(phone+" < 200 BYE"))+len(w.Find(phone+" < 481 BYE"))
			if sent < rounds/2 || answered != sent {
				t.Errorf("%s sent %d BYEs and had %d answers", phone, sent, answered)
			}
		}
		after(64 * time.Second)
		if left := w.Left(); left != "" {
			t.Errorf("left over: %s", left)
		}
		w.Close()
		synctest.Wait()
	})
}

// TestInterleavings lets four phones press keys, hang up, hold and resume at random moments. Whatever comes of it, nobody is
// alone, and once all users have hung up nothing is left.
func TestInterleavings(t *testing.T) {
	rounds := 100
	if testing.Short() {
		rounds = 25
	}
	for seed := range rounds {
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := calltest.New(t, engine, diverts, func(d *config.Document, _ *call.Options) {
					d.Parking = []config.ParkLot{{ID: "default", Slots: "381-383", Seconds: 20}}
					d.Features.TransferRecall = 10
				})
				w.Forgive()
				r := rand.New(rand.NewPCG(uint64(seed), 1))
				phones := []*calltest.Phone{w.Phone("301", "TCP"), w.Phone("302", "TCP"), w.Phone("303", "TCP"), w.Phone("304", "TCP")}
				x := phones[0].Call("302")
				after(3 * time.Second)
				x.Hold("conference")
				after(time.Second)
				phones[0].Call("303")
				after(3 * time.Second)
				for range 6 {
					p := phones[r.IntN(3)]
					var alive []*calltest.Talk
					for _, talk := range p.Talks() {
						if g := talk.Get(); g.Ended == "" && g.Status == 200 {
							alive = append(alive, talk)
						}
					}
					if len(alive) == 0 {
						continue
					}
					talk := alive[r.IntN(len(alive))]
					switch r.IntN(9) {
					case 0:
						talk.Bye()
					case 1:
						talk.Hold("")
					case 2:
						talk.Resume()
					case 3:
						talk.Refer("304")
					case 4:
						talk.ReferTo(alive[r.IntN(len(alive))])
					case 5:
						p.Press([]string{"Park", "ParkMonitor", "IDivert"}[r.IntN(3)], talk)
					case 6:
						p.Press([]string{"Select", "Join", "RmLastConf", "ConfList"}[r.IntN(4)], talk)
					default:
						p.PressTwo("Conference", talk, alive[r.IntN(len(alive))])
					}
					if r.IntN(2) == 0 {
						after(time.Duration(r.IntN(30)) * time.Millisecond)
					}
				}
				after(70 * time.Second)
				for _, i := range w.Manager.Snapshot() {
					n := 0
					for _, l := range i.Legs {
						if l.State != "down" {
							n++
						}
					}
					if n == 1 && i.State != "parked" && i.State != "ringing" {
						t.Errorf("%s in %s is alone\n%s", i.Legs[0].Line, i.State, strings.Join(w.Ladder(), "\n"))
					}
				}
				for _, p := range phones {
					for _, talk := range p.Talks() {
						talk.HangUp()
					}
				}
				after(90 * time.Second)
				if left := w.Left(); left != "" {
					t.Errorf("left over: %s\n%s", left, strings.Join(w.Ladder(), "\n"))
				}
				w.Close()
				synctest.Wait()
			})
		})
		if !ok {
			return
		}
	}
}

// TestDivertTellsWho is "sip-calls" §14: whoever gets a diverted call is told whose it was and why, so that a mailbox can tell.
func TestDivertTellsWho(t *testing.T) {
	for answered, reason := range map[bool]string{false: "user-busy", true: "deflection"} {
		synctest.Test(t, func(t *testing.T) {
			w := calltest.New(t, engine, diverts)
			ada := w.Phone("301", "TCP")
			ben := w.Phone("302", "TCP", func(p *calltest.Phone) {
				if !answered {
					p.Answer = 0
				}
			})
			w.Phone("303", "TCP")
			x := ada.Call("302")
			after(3 * time.Second)
			ben.Press("IDivert", ben.Last())
			after(3 * time.Second)
			got := w.Last("303 < INVITE").Header("Diversion")
			if !strings.Contains(got, "302@") || !strings.Contains(got, "reason="+reason) {
				t.Errorf("answered %v: Diversion %q, want 302 and %s", answered, got, reason)
			}
			if cancel := w.Find("302 < CANCEL"); !answered && (len(cancel) != 1 || cancel[0].Header("Reason") != "") {
				t.Errorf("%d CANCELs, want one without Reason", len(cancel))
			}
			if ben.Alive() != 0 {
				t.Error("ben still has the call")
			}
			x.Bye()
			after(64 * time.Second)
			if left := w.Left(); left != "" {
				t.Errorf("left over: %s", left)
			}
			w.Close()
			synctest.Wait()
		})
	}
}

// TestConferenceIsKept is CNF-8: with keep the others go on when the last administrator has left.
func TestConferenceIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := calltest.New(t, engine, func(d *config.Document, _ *call.Options) { d.Features.Conference.Keep = true })
		ada, ben, cleo, dan := w.Phone("301", "TCP"), w.Phone("302", "TCP"), w.Phone("303", "TCP"), w.Phone("304", "TCP")
		x := ada.Call("302")
		after(3 * time.Second)
		for _, number := range []string{"303", "304"} {
			x.Hold("conference")
			after(time.Second)
			y := ada.Call(number)
			after(3 * time.Second)
			ada.PressTwo("Conference", x, y)
			after(2 * time.Second)
		}
		x.Bye()
		after(2 * time.Second)
		if n := ben.Alive() + cleo.Alive() + dan.Alive(); n != 3 {
			t.Errorf("%d of three go on", n)
		}
		for _, p := range []*calltest.Phone{ben, cleo} {
			p.Last().Bye()
			after(time.Second)
		}
		if dan.Alive() != 0 {
			t.Error("dan is left alone")
		}
		after(64 * time.Second)
		if left := w.Left(); left != "" {
			t.Errorf("left over: %s", left)
		}
		w.Close()
		synctest.Wait()
	})
}
