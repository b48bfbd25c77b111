package calltest

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/config"
	"ringfence/media"
	"ringfence/sip/call"
	"ringfence/sip/state"
)

// Fault is what happens to one message on the way.
type Fault int

// Faults.
const (
	Lost Fault = iota
	Duplicated
	Delayed // by 4 s, so that later ones overtake it
	Failed  // a final answer becomes a 500
	Denied  // a final answer becomes a 403
	faults
)

func (f Fault) String() string {
	return [...]string{"lost", "duplicated", "delayed", "failed", "denied"}[f]
}

// faulty is the message that a fault happens to.
type faulty struct {
	fault Fault
	index int
}

// apply does to a message what was planned for it. It returns the text to deliver at once, or "".
func (w *World) apply(n int, text string, later func(string)) string {
	f := w.fault
	if f == nil || f.index != n {
		return text
	}
	switch f.fault {
	case Lost:
		return ""
	case Duplicated:
		later(text)
	case Delayed:
		time.AfterFunc(4*time.Second, func() { later(text) })
		return ""
	case Failed, Denied:
		status, rest, _ := strings.Cut(text, "\r\n")
		if strings.HasPrefix(status, "SIP/2.0 ") && status[8] >= '2' {
			head, _, _ := strings.Cut(rest, "\r\n\r\n")
			var keep []string
			for line := range strings.SplitSeq(head, "\r\n") {
				if !strings.HasPrefix(line, "Content-") && !strings.HasPrefix(line, "Contact") {
					keep = append(keep, line)
				}
			}
			first := "SIP/2.0 500 Server Internal Error\r\n"
			if f.fault == Denied {
				first = "SIP/2.0 403 Forbidden\r\n"
			}
			return first + strings.Join(keep, "\r\n") + "\r\nContent-Length: 0\r\n\r\n"
		}
	}
	return text
}

// Torture plays a scenario without fault to count its messages, and then once for each message and each fault. 64 s later
// everything must be quiet: every leg that the server has is a call that its phone knows, no party is alone, and once all
// users have hung up nothing is left. In short mode each message suffers two of the faults, in turn.
func Torture(t *testing.T, e *media.Engine, transport string, play func(w *World), edits ...func(*config.Document, *call.Options)) {
	t.Helper()
	n := 0
	run := func(t *testing.T, f *faulty) {
		synctest.Test(t, func(t *testing.T) {
			w := New(t, e, edits...)
			w.fault, w.forgiving = f, true
			play(w)
			after(70 * time.Second)
			check(t, w)
			for _, p := range w.all() {
				for _, talk := range p.Talks() {
					talk.user()
				}
			}
			after(64 * time.Second)
			w.Empty()
			n = len(w.Wire())
			if len(w.Ended()) == 0 && f == nil {
				t.Error("no call ended")
			}
			w.Close()
			synctest.Wait()
		})
	}
	if !t.Run("no fault", func(t *testing.T) { run(t, nil) }) {
		return
	}
	for i := range n {
		for f := Lost; f < faults; f++ {
			if testing.Short() && (int(f)+2*i)%int(faults) > 1 {
				continue
			}
			t.Run(fmt.Sprintf("%d %s", i, f), func(t *testing.T) { run(t, &faulty{f, i}) })
		}
	}
}

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *World) all() []*Phone {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []*Phone
	for _, p := range w.phones {
		list = append(list, p...)
	}
	return list
}

// Rounds is how many random rounds a test plays: few in short mode, ten times as many otherwise, and RINGFENCE_ROUNDS when that is set.
func Rounds(t *testing.T, few int) int {
	if n, err := strconv.Atoi(os.Getenv("RINGFENCE_ROUNDS")); err == nil && n > 0 {
		return n
	}
	if !testing.Short() {
		few *= 10
	}
	return few
}

// Quiescent checks a world in which nothing happens any more: every leg has a phone that knows it, nobody is alone, lamps tell the
// truth, and displays say what parties hear.
func (w *World) Quiescent() {
	w.T.Helper()
	check(w.T, w)
	w.Heard()
}

// Empty checks a world in which everybody has hung up.
func (w *World) Empty() {
	w.T.Helper()
	if left := w.Left(); left != "" {
		w.T.Errorf("left over: %s\n%s", left, strings.Join(w.Ladder(), "\n"))
	}
	w.Balanced()
}

// Balanced checks the records once everything is over: each leg that a lamp was lit for stands in one of them, once.
func (w *World) Balanced() {
	w.T.Helper()
	count := map[string]int{}
	for _, i := range w.Ended() {
		for _, l := range i.Legs {
			count[l.ID]++
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for leg := range w.lit {
		if count[leg] != 1 {
			w.T.Errorf("leg %s stands in %d records", leg, count[leg])
		}
	}
}

// lamps compares what the lamps show with what the legs do.
func lamps(t testing.TB, w *World) {
	t.Helper()
	truth := map[string]map[string]state.Phase{}
	for l, p := range w.Manager.Legs() {
		if truth[l.Line] == nil {
			truth[l.Line] = map[string]state.Phase{}
		}
		truth[l.Line][l.ID] = p
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for line, legs := range w.legs {
		if !maps.Equal(legs, truth[line]) {
			t.Errorf("lamps of %s show %v, its legs are %v", line, legs, truth[line])
		}
		delete(truth, line)
	}
	for line, legs := range truth {
		t.Errorf("lamps of %s show nothing, its legs are %v", line, legs)
	}
}

// Heard compares what the displays of phones say with what their parties hear, once everything is quiet: a phone that talks, shows a
// number and has a partner who holds nothing hears that partner, who shows it in turn.
func (w *World) Heard() {
	w.T.Helper()
	hearing := w.Manager.Hearing()
	for _, i := range w.Manager.Snapshot() {
		var live []call.LegInfo
		held := false
		for _, l := range i.Legs {
			if l.State == "up" {
				live = append(live, l)
				held = held || l.Held
			}
		}
		switch {
		case i.State == "talking" && len(live) != 2, i.State == "conference" && len(live) < 2:
			w.T.Errorf("%s call %s has %d parties\n%s", i.State, i.ID, len(live), strings.Join(w.Ladder(), "\n"))
		case i.State == "talking" && !held:
			a, b := live[0], live[1]
			if !slices.Equal(hearing[a.ID], []string{b.ID}) || !slices.Equal(hearing[b.ID], []string{a.ID}) {
				w.T.Errorf("%s and %s talk, but hear %v and %v\n%s", a.Line, b.Line, hearing[a.ID], hearing[b.ID], strings.Join(w.Ladder(), "\n"))
			}
			w.shows(a, b.Line)
			w.shows(b, a.Line)
		case i.State == "conference":
			for _, a := range live {
				if len(hearing[a.ID]) != len(live)-1 {
					w.T.Errorf("%s hears %v in a conference of %d\n%s", a.Line, hearing[a.ID], len(live), strings.Join(w.Ladder(), "\n"))
				}
			}
		}
	}
}

// shows checks that the phone of a leg displays a number.
func (w *World) shows(l call.LegInfo, number string) {
	w.T.Helper()
	for _, p := range w.all() {
		for _, t := range p.Talks() {
			if x := t.Get(); p.Number == l.Line && x.D.CallID == l.CallID && !strings.Contains(x.Shows, "<sip:"+number+"@") {
				w.T.Errorf("%s talks with %s and shows %s\n%s", l.Line, number, x.Shows, strings.Join(w.Ladder(), "\n"))
			}
		}
	}
}

// check compares the server's legs with what the phones know.
func check(t testing.TB, w *World) {
	t.Helper()
	lamps(t, w)
	known := map[string]int{}
	for _, p := range w.all() {
		known[p.Number] += p.Alive()
	}
	for _, i := range w.Manager.Snapshot() {
		alive := 0
		for _, l := range i.Legs {
			if l.State == "down" {
				continue
			}
			alive++
			if known[l.Line]--; known[l.Line] < 0 {
				t.Errorf("leg %s of %s is %s, but its phone knows no call\n%s", l.ID, l.Line, l.State, strings.Join(w.Ladder(), "\n"))
			}
		}
		if alive == 1 && i.State == "talking" || alive == 0 {
			t.Errorf("call %+v has %d legs\n%s", i, alive, strings.Join(w.Ladder(), "\n"))
		}
	}
}

// Forgive lets phones see what the rules forbid without complaint.
func (w *World) Forgive() { w.forgiving = true }

// HangUp ends the call as a user does, in whatever state it is.
func (t *Talk) HangUp() { t.user() }

// user hangs up, in whatever state the call is.
func (t *Talk) user() {
	x := t.Get()
	switch {
	case x.Ended != "":
	case x.client != nil && x.Status < 200:
		x.client.Cancel()
	case x.server != nil && x.Status < 200:
		t.end("refused")
		x.server.Answer(486)
	default:
		t.Bye()
	}
}
