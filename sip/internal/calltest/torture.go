package calltest

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/config"
	"ringfence/media"
	"ringfence/sip/call"
)

// Fault is what happens to one message on the way.
type Fault int

// Faults.
const (
	Lost Fault = iota
	Duplicated
	Delayed  // by 4 s, so that later ones overtake it
	Replaced // a final answer of a phone becomes a 500
)

func (f Fault) String() string { return [...]string{"lost", "duplicated", "delayed", "replaced"}[f] }

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
	case Replaced:
		status, rest, _ := strings.Cut(text, "\r\n")
		if strings.HasPrefix(status, "SIP/2.0 ") && status[8] >= '2' {
			head, _, _ := strings.Cut(rest, "\r\n\r\n")
			var keep []string
			for line := range strings.SplitSeq(head, "\r\n") {
				if !strings.HasPrefix(line, "Content-") && !strings.HasPrefix(line, "Contact") {
					keep = append(keep, line)
				}
			}
			return "SIP/2.0 500 Server Internal Error\r\n" + strings.Join(keep, "\r\n") + "\r\nContent-Length: 0\r\n\r\n"
		}
	}
	return text
}

// Torture plays a scenario without fault to count its messages, and then once for each message and each fault. 64 s later
// everything must be quiet: every leg that the server has is a call that its phone knows, no party is alone, and once all
// users have hung up nothing is left.
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
			if left := w.Left(); left != "" {
				t.Errorf("left over: %s\n%s", left, strings.Join(w.Ladder(), "\n"))
			}
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
		for f := Lost; f <= Replaced; f++ {
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

// check compares the server's legs with what the phones know.
func check(t *testing.T, w *World) {
	t.Helper()
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
