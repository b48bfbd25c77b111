package pickup_test

import (
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
		w := calltest.New(t, engine, append([]edit{groups}, edits...)...)
		f(t, w)
		after(64 * time.Second)
		if left := w.Left(); left != "" {
			t.Errorf("left over: %s\n%s", left, strings.Join(w.Ladder(), "\n"))
		}
		if n := len(w.Manager.Alerts()); n != 0 {
			t.Errorf("%d alerts are left", n)
		}
		w.Close()
		synctest.Wait()
	})
}

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// groups: 302 and 303 are in group 1, 304 in group 2; 301 and 303 may pick from 1, 303's other group is 2.
func groups(d *config.Document, _ *call.Options) {
	for number, p := range map[string]config.Pickup{
		"301": {MayPick: []int{1}}, "302": {MemberOf: []int{1}, MayPick: []int{1}},
		"303": {MemberOf: []int{1}, MayPick: []int{1}, Other: []int{2}}, "304": {MemberOf: []int{2}},
	} {
		for i := range d.Lines {
			if string(d.Lines[i].Number) == number {
				d.Lines[i].Pickup = p
			}
		}
	}
}

func silent(p *calltest.Phone) { p.Answer = 0 }

// TestPickup is the picture of "sip-calls" §12 (DP-15).
func TestPickup(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, cleo := w.Phone("301", "TCP"), w.Phone("302", "TCP", silent), w.Phone("303", "TCP")
		a := ada.Call("302")
		after(2 * time.Second)
		c := cleo.Call("x-cisco-serviceuri-pickup")
		after(time.Second)
		if got := [2]int{a.Get().Status, c.Get().Status}; got != [2]int{200, 200} {
			t.Fatalf("%v\n%s", got, strings.Join(w.Ladder(), "\n"))
		}
		if got := ben.Last().Get().Ended; got != `CANCEL SIP;cause=200;text="Call completed elsewhere"` {
			t.Errorf("the phone that rang: %q", got)
		}
		// The picker sees the caller and not the feature, the caller sees the picker.
		if got := c.Get().Shows; got != `"Ada" <sip:301@192.0.2.10>;party=called;privacy=off;screen=yes` {
			t.Errorf("the picker sees %s", got)
		}
		if got := a.Get().Shows; got != `"Cleo" <sip:303@192.0.2.10>;party=called;privacy=off;screen=yes` {
			t.Errorf("the caller sees %s", got)
		}
		i := w.Manager.Snapshot()
		if len(i) != 1 || i[0].State != "talking" || i[0].Dialled != "302" {
			t.Errorf("%+v", i)
		}
		want := []string{"302 ringing", "302 idle"}
		var got []string
		for _, p := range w.Phases() {
			if strings.HasPrefix(p, "302") {
				got = append(got, p)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		c.Bye()
		after(time.Second)
		if ada.Alive() != 0 {
			t.Error("the caller is left alone")
		}
	})
}

func TestWhoMayPickWhat(t *testing.T) {
	for _, tc := range []struct {
		name, picker, rings, dial string
		want                      int
	}{
		{"own group", "303", "302", "pickup", 200},
		{"nothing in the own group", "303", "304", "pickup", 503},
		{"other group", "303", "304", "opickup", 200},
		{"no other group", "301", "304", "opickup", 503},
		{"by extension", "303", "302", "gpickup-302", 200},
		{"by group", "303", "302", "gpickup-1", 200},
		{"by a group that is not allowed", "301", "304", "gpickup-2", 503},
		{"DP-18 neither", "303", "302", "gpickup-77", 503},
		{"no number", "303", "302", "gpickup-", 503},
		{"lamp key", "301", "302", "blfpickup-302", 200},
		{"lamp key of a line that is not allowed", "301", "304", "blfpickup-304", 503},
		{"lamp key of a line that does not ring", "303", "304", "blfpickup-302", 503},
	} {
		t.Run(tc.name, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				phones := map[string]*calltest.Phone{}
				for _, n := range []string{"301", "302", "303", "304"} {
					phones[n] = w.Phone(n, "TCP", silent)
				}
				caller := "301"
				if tc.picker == "301" {
					caller = "303"
				}
				a := phones[caller].Call(tc.rings)
				after(2 * time.Second)
				c := phones[tc.picker].Call("x-cisco-serviceuri-" + tc.dial)
				after(time.Second)
				if got := c.Get().Status; got != tc.want {
					t.Errorf("got %d, want %d", got, tc.want)
				}
				if tc.want == 200 {
					c.Bye()
				} else {
					a.Cancel()
				}
				after(time.Second)
			})
		})
	}
}

// TestNothingRings is DP-16.
func TestNothingRings(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		c := w.Phone("303", "TCP").Call("x-cisco-serviceuri-pickup")
		after(time.Second)
		if got := c.Get().Status; got != 503 {
			t.Errorf("got %d", got)
		}
	})
}

// TestOldestFirst is DP-17; of two who press at once one gets the call, the other nothing.
func TestOldestFirst(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, cleo, dan := w.Phone("301", "TCP"), w.Phone("302", "TCP", silent), w.Phone("303", "TCP"), w.Phone("304", "TCP")
		first := dan.Call("302")
		after(time.Second)
		second := ada.Call("302")
		after(time.Second)
		third := cleo.Call("302") // finds the line busy, and rings nobody
		after(time.Second)
		if got := third.Get().Status; got != 486 {
			t.Errorf("third caller got %d", got)
		}
		picks := []*calltest.Talk{cleo.Call("x-cisco-serviceuri-pickup")}
		after(time.Second)
		if first.Get().Status != 200 || second.Get().Status != 180 {
			t.Errorf("callers got %d and %d", first.Get().Status, second.Get().Status)
		}
		for range 2 {
			picks = append(picks, cleo.Call("x-cisco-serviceuri-pickup"))
		}
		after(time.Second)
		if first.Get().Status != 200 || second.Get().Status != 200 {
			t.Errorf("callers got %d and %d", first.Get().Status, second.Get().Status)
		}
		codes := map[int]int{}
		for _, p := range picks {
			codes[p.Get().Status]++
		}
		if codes[200] != 2 || codes[503] != 1 {
			t.Errorf("pickers got %v", codes)
		}
		if !strings.Contains(picks[0].Get().Shows, "304") {
			t.Errorf("the first picker got %s, the oldest call is 304's", picks[0].Get().Shows)
		}
		_ = ben
		first.Bye()
		second.Bye()
		after(time.Second)
	})
}

// TestCallerGone: the caller gives up in the moment of the pick-up.
func TestCallerGone(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, cleo := w.Phone("301", "TCP"), w.Phone("303", "TCP")
		w.Phone("302", "TCP", silent)
		a := ada.Call("302")
		after(2 * time.Second)
		a.Cancel()
		c := cleo.Call("x-cisco-serviceuri-pickup")
		after(2 * time.Second)
		switch {
		case c.Get().Status == 503:
		case c.Get().Status == 200 && ada.Alive() == 1: // the pick-up was first
			a.Bye()
			after(time.Second)
		default:
			t.Errorf("picker got %d, caller has %d calls", c.Get().Status, ada.Alive())
		}
		if cleo.Alive() != 0 {
			t.Error("the picker is left alone")
		}
	})
}

func TestNoCommonCodec(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP", silent)
		cleo := w.Phone("303", "TCP", func(p *calltest.Phone) { p.Codecs = []sdp.Codec{sdp.Opus} })
		a := ada.Call("302")
		after(2 * time.Second)
		c := cleo.Call("x-cisco-serviceuri-pickup")
		after(time.Second)
		if c.Get().Status != 503 || a.Get().Status != 180 {
			t.Errorf("picker got %d, caller %d", c.Get().Status, a.Get().Status)
		}
		a.Cancel()
		after(time.Second)
	})
}

// TestTransferredCallIsPickedUp: the caller talks already, since it was passed on.
func TestTransferredCallIsPickedUp(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, dan, cleo := w.Phone("301", "TCP"), w.Phone("304", "TCP"), w.Phone("303", "TCP")
		w.Phone("302", "TCP", silent)
		x := ada.Call("304")
		after(3 * time.Second)
		x.Refer("302")
		after(2 * time.Second)
		c := cleo.Call("x-cisco-serviceuri-pickup")
		after(2 * time.Second)
		if c.Get().Status != 200 || !strings.Contains(c.Get().Shows, "304") || !strings.Contains(dan.Last().Get().Shows, "303") {
			t.Errorf("picker got %d and sees %s, the other sees %s", c.Get().Status, c.Get().Shows, dan.Last().Get().Shows)
		}
		c.Bye()
		after(time.Second)
		if dan.Alive() != 0 {
			t.Error("dan is left alone")
		}
	})
}

func TestTorturePickup(t *testing.T) {
	calltest.Torture(t, engine, "TCP", func(w *calltest.World) {
		ada, cleo := w.Phone("301", "TCP"), w.Phone("303", "TCP")
		w.Phone("302", "TCP", silent)
		ada.Call("302")
		after(2 * time.Second)
		cleo.Call("x-cisco-serviceuri-pickup")
		after(4 * time.Second)
	}, groups)
}
