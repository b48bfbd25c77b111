package media

import (
	"testing"
	"time"
)

// TestWorkerChangesItsMode: many packets make a worker look for them in beats, few make it wait for each; none is lost either way.
func TestWorkerChangesItsMode(t *testing.T) {
	e := engine(t, func(o *Options) { o.Workers = 1 })
	_, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	send := func() { pa.say(0, "x"); pb.expect(0, "x") }
	for end := time.Now().Add(10 * time.Second); e.Totals().Steady == 0; {
		if time.Now().After(end) {
			t.Fatal("the worker waits for each packet still")
		}
		for range 20 {
			pa.say(0, "x")
		}
		for range 20 {
			pb.expect(0, "x")
		}
	}
	for range 10 {
		send()
	}
	wait(t, "the worker is woken by packets again", func() bool { return e.Totals().Steady == 0 })
	for range 10 {
		send()
	}
}

// TestWorkersFillUp: sessions go to one worker until it has its share.
func TestWorkersFillUp(t *testing.T) {
	e := engine(t, func(o *Options) { o.Workers = 3 })
	for range 5 {
		session(t, e)
	}
	if n := e.workers[0].load(); n != 5 {
		t.Errorf("first worker has %d of 5 sessions", n)
	}
	e.workers[0].mu.Lock()
	for range workerShare {
		e.workers[0].sessions[&Session{engine: e}] = struct{}{}
	}
	e.workers[0].mu.Unlock()
	if got := e.pick(); got != e.workers[1] {
		t.Error("a full worker got another session")
	}
	e.workers[0].mu.Lock()
	for s := range e.workers[0].sessions {
		if s.port == 0 {
			delete(e.workers[0].sessions, s)
		}
	}
	e.workers[0].mu.Unlock()
}
