package transfer_test

import (
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
	"ringfence/sip/internal/calltest"
	"ringfence/sip/sdp"
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

func scene(t *testing.T, f func(t *testing.T, w *calltest.World), edits ...edit) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := calltest.New(t, engine, edits...)
		f(t, w)
		after(64 * time.Second)
		if left := w.Left(); left != "" {
			t.Errorf("left over: %s\n%s", left, strings.Join(w.Ladder(), "\n"))
		}
		w.Close()
		synctest.Wait()
	})
}

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func from(ladder []string, phone string) []string {
	var out []string
	for _, s := range ladder {
		if strings.HasPrefix(s, phone) {
			out = append(out, s)
		}
	}
	return out
}

// cast is 301 Ada, who transfers, 302 Ben, whom she talks with, and 303 Cleo.
func cast(t *testing.T, w *calltest.World, edit ...func(*calltest.Phone)) (ada, ben, cleo *calltest.Phone, x *calltest.Talk) {
	t.Helper()
	ada, ben, cleo = w.Phone("301", "TCP"), w.Phone("302", "TCP"), w.Phone("303", "TCP", edit...)
	x = ada.Call("302")
	after(3 * time.Second)
	return
}

func wantReport(t *testing.T, x *calltest.Talk, code string) {
	t.Helper()
	got := x.Get().Reports
	if len(got) != 1 || !strings.HasPrefix(got[0], "refer;id=") || !strings.Contains(got[0], "terminated;reason=noresource SIP/2.0 "+code) {
		t.Errorf("reports %q, want one with %s", got, code)
	}
}

// talking checks who talks with whom, by the server's listing.
func talking(t *testing.T, w *calltest.World, want ...string) {
	t.Helper()
	var got []string
	for _, i := range w.Manager.Snapshot() {
		s := i.State
		for _, l := range i.Legs {
			if l.State != "down" {
				s += " " + l.Line
			}
		}
		got = append(got, s)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("calls: %s", d)
	}
}

// TestBlind is the picture of "sip-calls" §4.1 (TRF-1, TRF-5b).
func TestBlind(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, cleo, x := cast(t, w)
		x.Hold("transfer")
		after(time.Second)
		x.Refer("303")
		after(time.Second)
		wantReport(t, x, "200 OK")
		if x.Get().Ended != "hung up" {
			t.Errorf("the phone's call is %q", x.Get().Ended)
		}
		// At once: the transferor is free, the transferred party sees whom it is sent to, the target whom it will get.
		if got := ben.Last().Get().Shows; got != `"Cleo" <sip:303@192.0.2.10>;party=calling;privacy=off;screen=yes` {
			t.Errorf("ben sees %s", got)
		}
		if got := cleo.Last().Get().Shows; got != `"Ben" <sip:302@192.0.2.10>;party=calling;privacy=off;screen=yes` {
			t.Errorf("cleo sees %s", got)
		}
		again := ada.Call("304")
		after(time.Second)
		if got := again.Get().Status; got != 480 {
			t.Errorf("the transferor's next call: %d, want 480 of an absent line and not its limit", got)
		}
		after(3 * time.Second)
		talking(t, w, "talking 302 303")
		want := []string{"301 > REFER", "301 < 202 REFER", "301 < NOTIFY", "301 > 200 NOTIFY", "301 > BYE", "301 < 200 BYE"}
		if d := cmp.Diff(want, from(w.Ladder(), "301")[7:13]); d != "" {
			t.Error(d)
		}
		cleo.Last().Bye()
		after(time.Second)
		if ben.Alive() != 0 {
			t.Error("ben is left alone")
		}
	})
}

// TestBlindByTheCalledParty: the party that was called transfers the caller.
func TestBlindByTheCalledParty(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, ben, cleo, x := cast(t, w)
		ben.Last().Refer("303")
		after(4 * time.Second)
		wantReport(t, ben.Talks()[0], "200 OK")
		talking(t, w, "talking 301 303")
		if got := x.Get().Shows; got != `"Cleo" <sip:303@192.0.2.10>;party=called;privacy=off;screen=yes` {
			t.Errorf("ada sees %s", got)
		}
		x.Bye()
		after(time.Second)
		if cleo.Alive() != 0 {
			t.Error("cleo is left alone")
		}
	})
}

// TestServerHangsUp: a phone that does not end what it has transferred.
func TestServerHangsUp(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, _, cleo, x := cast(t, w)
		ada.Stay = true
		x.Refer("303")
		after(3 * time.Second)
		if x.Get().Ended != "" {
			t.Errorf("ended at once: %q", x.Get().Ended)
		}
		after(3 * time.Second)
		if x.Get().Ended != "BYE" {
			t.Errorf("the transferor's call is %q", x.Get().Ended)
		}
		talking(t, w, "talking 302 303")
		cleo.Last().Bye()
		after(time.Second)
	})
}

// TestBlindToWhatCannotBeCalled: the call stays, held and usable (TRF-4, TRF-5c).
func TestBlindToWhatCannotBeCalled(t *testing.T) {
	for number, want := range map[string]string{"355": "404 Not Found", "304": "480 ", "x-cisco-serviceuri-pickup": "403 Forbidden", "301": "486 "} {
		t.Run(number, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				_, ben, _, x := cast(t, w)
				x.Hold("transfer")
				after(time.Second)
				x.Refer(number)
				after(time.Second)
				wantReport(t, x, want)
				x.Resume()
				after(time.Second)
				talking(t, w, "talking 301 302")
				x.Bye()
				after(time.Second)
				if ben.Alive() != 0 {
					t.Error("ben is left alone")
				}
			}, func(d *config.Document, _ *call.Options) { d.Lines[0].BusyAt = 1 })
		})
	}
}

// TestBlindRefused: nobody answers the transferred call, so the transferred party is released.
func TestBlindRefused(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, ben, _, x := cast(t, w, func(p *calltest.Phone) { p.Refuse = 486 })
		x.Refer("303")
		after(2 * time.Second)
		wantReport(t, x, "200 OK")
		if ben.Alive() != 0 {
			t.Error("ben is left alone")
		}
	})
}

// consult makes the second call of an attended transfer.
func consult(x *calltest.Talk, number string, wait time.Duration) *calltest.Talk {
	x.Hold("transfer")
	after(time.Second)
	y := x.P.Call(number)
	after(wait)
	return y
}

// TestAttended is the picture of "sip-calls" §4.2 (TRF-2, TRF-5b).
func TestAttended(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, ben, cleo, x := cast(t, w)
		y := consult(x, "303", 3*time.Second)
		talking(t, w, "talking 301 302", "talking 301 303")
		x.ReferTo(y)
		after(time.Second)
		wantReport(t, x, "200 OK")
		if x.Get().Ended != "hung up" || y.Get().Ended != "BYE" {
			t.Errorf("first call %q, second %q", x.Get().Ended, y.Get().Ended)
		}
		talking(t, w, "talking 302 303")
		for phone, want := range map[*calltest.Phone]string{
			ben:  `"Cleo" <sip:303@192.0.2.10>;party=calling;privacy=off;screen=yes`,
			cleo: `"Ben" <sip:302@192.0.2.10>;party=calling;privacy=off;screen=yes`,
		} {
			if got := phone.Last().Get().Shows; got != want {
				t.Errorf("%s sees %s", phone.Number, got)
			}
		}
		for _, m := range w.Wire() {
			if m.From == "server" && (m.Header("Replaces") != "" || strings.HasSuffix(m.Short(), "< REFER")) {
				t.Errorf("a phone got\n%s", m.Text)
			}
		}
		ben.Last().Bye()
		after(time.Second)
		if cleo.Alive() != 0 {
			t.Error("cleo is left alone")
		}
	})
}

// TestAttendedOtherWays: either call may have been placed by the other side, and the REFER may come in either.
func TestAttendedOtherWays(t *testing.T) {
	for _, tc := range []struct {
		name   string
		second func(w *calltest.World, x *calltest.Talk, cleo *calltest.Phone) *calltest.Talk
		swap   bool
	}{
		{"consulted party had called", func(w *calltest.World, x *calltest.Talk, cleo *calltest.Phone) *calltest.Talk {
			x.Hold("")
			after(time.Second)
			cleo.Call("301")
			after(3 * time.Second)
			return x.P.Last()
		}, false},
		{"REFER in the second call", func(w *calltest.World, x *calltest.Talk, cleo *calltest.Phone) *calltest.Talk {
			return consult(x, "303", 3*time.Second)
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				ada, ben, cleo, x := cast(t, w)
				y := tc.second(w, x, cleo)
				if tc.swap {
					x, y = y, x
				}
				x.ReferTo(y)
				after(time.Second)
				wantReport(t, x, "200 OK")
				talking(t, w, "talking 302 303")
				if ada.Alive() != 0 {
					t.Error("ada still has a call")
				}
				ben.Last().Bye()
				after(time.Second)
			})
		})
	}
}

// TestSemiAttended: the target still rings ("sip-calls" §4.3, TRF-3).
func TestSemiAttended(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, ben, cleo, x := cast(t, w, func(p *calltest.Phone) { p.Answer = 10 * time.Second })
		y := consult(x, "303", 2*time.Second)
		x.ReferTo(y)
		after(time.Second)
		wantReport(t, x, "200 OK")
		if y.Get().Status != 500 {
			t.Errorf("the early INVITE ended with %d, want 500", y.Get().Status)
		}
		// Both remaining parties are told, also the one that still rings.
		if got := ben.Last().Get().Shows; !strings.HasPrefix(got, `"Cleo" <sip:303@`) {
			t.Errorf("ben sees %s", got)
		}
		if got := cleo.Last().Get().Shows; !strings.HasPrefix(got, `"Ben" <sip:302@`) {
			t.Errorf("cleo sees %s", got)
		}
		after(10 * time.Second)
		talking(t, w, "talking 302 303")
		cleo.Last().Bye()
		after(time.Second)
		if ben.Alive() != 0 {
			t.Error("ben is left alone")
		}
	})
}

func TestSemiAttendedNotAnswered(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, ben, cleo, x := cast(t, w, func(p *calltest.Phone) { p.Answer = 0 })
		y := consult(x, "303", 2*time.Second)
		x.ReferTo(y)
		after(40 * time.Second)
		if ben.Alive() != 0 || cleo.Alive() != 0 {
			t.Errorf("ben has %d, cleo %d calls", ben.Alive(), cleo.Alive())
		}
	})
}

func TestSemiAttendedTransfereeGivesUp(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, ben, cleo, x := cast(t, w, func(p *calltest.Phone) { p.Answer = 0 })
		y := consult(x, "303", 2*time.Second)
		x.ReferTo(y)
		after(time.Second)
		ben.Last().Bye()
		after(time.Second)
		if got := cleo.Last().Get().Ended; got != "CANCEL " {
			t.Errorf("cleo's phone: %q", got)
		}
	})
}

// TestDialogsThatCannotBeReplaced: invented names, swapped tags, somebody else's call: 481, and the call stays.
func TestDialogsThatCannotBeReplaced(t *testing.T) {
	for name, replaces := range map[string]func(y calltest.Talk, foreign calltest.Talk) string{
		"invented Call-ID": func(y, _ calltest.Talk) string { return rep("nobody", y.D.Remote.Tag, y.D.Local.Tag) },
		"invented to-tag":  func(y, _ calltest.Talk) string { return rep(y.D.CallID, "nobody", y.D.Local.Tag) },
		"invented from-tag": func(y, _ calltest.Talk) string {
			return rep(y.D.CallID, y.D.Remote.Tag, "nobody")
		},
		"another phone's call": func(_, f calltest.Talk) string { return rep(f.D.CallID, f.D.Remote.Tag, f.D.Local.Tag) },
	} {
		t.Run(name, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				_, ben, _, x := cast(t, w)
				y := consult(x, "303", 3*time.Second)
				dan := w.Phone("304", "TCP")
				f := dan.Call("302")
				after(3 * time.Second)
				x.ReferRaw("<sip:303@192.0.2.10?Replaces=" + replaces(y.Get(), f.Get()) + ">")
				after(time.Second)
				wantReport(t, x, "481 Call")
				if x.Get().Ended != "" || y.Get().Ended != "" || ben.Alive() != 2 {
					t.Errorf("first %q, second %q, ben has %d calls", x.Get().Ended, y.Get().Ended, ben.Alive())
				}
				x.Bye()
				y.Bye()
				f.Bye()
				after(time.Second)
			})
		})
	}
}

func rep(callID, to, from string) string {
	return strings.NewReplacer("@", "%40").Replace(callID) + "%3Bto-tag%3D" + to + "%3Bfrom-tag%3D" + from
}

func TestRefusedReferrals(t *testing.T) {
	for target, want := range map[string]int{"<>": 400, "<cid:1234@192.0.2.51>": 603, "<tel:303>": 603, "<sip:303@x?Replaces=nonsense>": 603, "<sip:>": 603} {
		t.Run(target, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				_, _, _, x := cast(t, w)
				x.ReferRaw(target)
				after(time.Second)
				if got := x.Get().Status; got != want {
					t.Errorf("got %d, want %d", got, want)
				}
				x.Bye()
				after(time.Second)
			})
		})
	}
}

func TestSecondReferralWhileOneRuns(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, _, cleo, x := cast(t, w)
		ada.Stay = true
		x.Refer("303")
		after(time.Second)
		x.Refer("304")
		after(time.Second)
		if got := x.Get().Status; got != 491 {
			t.Errorf("got %d, want 491", got)
		}
		after(5 * time.Second)
		talking(t, w, "talking 302 303")
		cleo.Last().Bye()
		after(time.Second)
	})
}

func TestNoReportWhereNoneIsWanted(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, ben, _, x := cast(t, w)
		x.Refer("303", "Require: norefersub")
		after(3 * time.Second)
		if got := x.Get(); got.Status != 202 || len(got.Reports) != 0 {
			t.Errorf("status %d, reports %q", got.Status, got.Reports)
		}
		ben.Last().Bye()
		after(time.Second)
	})
}

// TestTransfereeHangsUpMeanwhile: the party hangs up in the moment in which it is handed over.
func TestTransfereeHangsUpMeanwhile(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, cleo, x := cast(t, w)
		y := consult(x, "303", 3*time.Second)
		x.ReferTo(y)
		ben.Last().Bye()
		after(5 * time.Second)
		if ada.Alive()+ben.Alive()+cleo.Alive() != 0 {
			// Whoever came first: if the BYE did, ada still has her call with cleo.
			if ada.Alive() != 1 || cleo.Alive() != 1 {
				t.Errorf("%d, %d, %d", ada.Alive(), ben.Alive(), cleo.Alive())
			}
			y.Bye()
			after(time.Second)
		}
	})
}

// TestTransferorHangsUpMeanwhile: so does the one who transfers.
func TestTransferorHangsUpMeanwhile(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, cleo, x := cast(t, w)
		ada.Stay = true
		y := consult(x, "303", 3*time.Second)
		x.ReferTo(y)
		x.Bye()
		y.Bye()
		after(5 * time.Second)
		if ada.Alive() != 0 || ben.Alive() != cleo.Alive() {
			t.Errorf("%d, %d, %d", ada.Alive(), ben.Alive(), cleo.Alive())
		}
		for _, p := range []*calltest.Phone{ben, cleo} {
			if p.Alive() == 1 {
				p.Last().Bye()
				after(time.Second)
			}
		}
	})
}

// TestCodecAfterTransfer: the two parties agreed on different codecs with the one between them.
func TestCodecAfterTransfer(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, ben, cleo, x := cast(t, w, func(p *calltest.Phone) { p.Codecs = []sdp.Codec{sdp.PCMA} })
		y := consult(x, "303", 3*time.Second)
		x.ReferTo(y)
		after(2 * time.Second)
		i := w.Manager.Snapshot()
		if len(i) != 1 {
			t.Fatalf("%+v", i)
		}
		for _, l := range i[0].Legs {
			if l.State == "up" && l.Codec != "PCMA" {
				t.Errorf("%s has %s", l.Line, l.Codec)
			}
		}
		ben.Last().Bye()
		after(time.Second)
		_ = cleo
	})
}

// TestTransferAgain: who was transferred may be transferred once more, by the other one.
func TestTransferAgain(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, ben, cleo, x := cast(t, w)
		dan := w.Phone("304", "TCP")
		y := consult(x, "303", 3*time.Second)
		x.ReferTo(y)
		after(2 * time.Second)
		cleo.Last().Refer("304")
		after(5 * time.Second)
		talking(t, w, "talking 302 304")
		if cleo.Alive() != 0 {
			t.Error("cleo still has a call")
		}
		ben.Last().Bye()
		after(time.Second)
		if dan.Alive() != 0 {
			t.Error("dan is left alone")
		}
	})
}

// TestTwoTransfersCross: both sides of one call transfer at once; nobody deadlocks and nobody is left alone.
func TestTwoTransfersCross(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, cleo, x := cast(t, w)
		dan := w.Phone("304", "TCP")
		y := consult(x, "303", 3*time.Second)
		b := ben.Last()
		z := consult(b, "304", 3*time.Second)
		x.ReferTo(y)
		b.ReferTo(z)
		after(10 * time.Second)
		alive := fmt.Sprint(ada.Alive(), ben.Alive(), cleo.Alive(), dan.Alive())
		for _, p := range []*calltest.Phone{ada, ben, cleo, dan} {
			for _, t := range p.Talks() {
				if t.Get().Ended == "" {
					t.Bye()
					after(time.Second)
				}
			}
		}
		t.Log(alive)
	})
}

// TestRecall: a transfer that nobody answers comes back to whoever has made it (TRF-6), blind or while it rings, and only once.
func TestRecall(t *testing.T) {
	declared := func(d *config.Document, _ *call.Options) { d.Features.TransferRecall = 20 }
	for _, early := range []bool{false, true} {
		for _, answers := range []bool{true, false} {
			t.Run(fmt.Sprint("early ", early, " answers ", answers), func(t *testing.T) {
				scene(t, func(t *testing.T, w *calltest.World) {
					ada, ben, cleo, x := cast(t, w, func(p *calltest.Phone) { p.Answer = 0 })
					if !answers {
						ada.Answer = 0
					}
					x.Hold("transfer")
					after(time.Second)
					if early {
						y := ada.Call("303")
						after(time.Second)
						x.ReferTo(y)
					} else {
						x.Refer("303")
					}
					after(31 * time.Second)
					if cleo.Alive() != 0 {
						t.Error("cleo rings still")
					}
					if got := ada.Alive(); got != 1 {
						t.Fatalf("ada has %d calls, want the one that comes back", got)
					}
					if got := ada.Last().Get().Shows; !strings.Contains(got, "302") {
						t.Errorf("ada sees %s", got)
					}
					if answers {
						after(3 * time.Second)
						talking(t, w, "talking 302 301")
						ada.Last().Bye()
						after(time.Second)
					} else {
						after(25 * time.Second)
					}
					if ada.Alive()+ben.Alive() != 0 {
						t.Error("somebody is left")
					}
				}, declared)
			})
		}
	}
}
