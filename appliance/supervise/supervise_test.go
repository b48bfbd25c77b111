package supervise

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// journal notes what happened in which order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := j.lines
	j.lines = nil
	return out
}

func (j *journal) service(name string) Service {
	return Service{
		Name:  name,
		Start: func(context.Context) error { j.add("start " + name); return nil },
		Run:   func(ctx context.Context) error { <-ctx.Done(); j.add("ended " + name); return ctx.Err() },
		Stop:  func(context.Context) error { j.add("stop " + name); return nil },
	}
}

func TestOrderedStartAndStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := new(journal)
		s := New(nil)
		for _, name := range []string{"a", "b", "c"} {
			s.Add(j.service(name))
		}
		if s.Up() {
			t.Error("up before start")
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !s.Up() {
			t.Errorf("not up after start: %+v", s.Health())
		}
		if err := s.Start(t.Context()); err == nil {
			t.Error("second start succeeded")
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Errorf("stop: %v", err)
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Errorf("second stop: %v", err)
		}
		want := []string{"start a", "start b", "start c", "stop c", "ended c", "stop b", "ended b", "stop a", "ended a"}
		if got := j.take(); !slices.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
		for _, h := range s.Health() {
			if h.State != Stopped || h.Up || h.Err != nil {
				t.Errorf("after stop: %+v", h)
			}
		}
	})
}

func TestFailedServiceIsRestartedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := new(journal)
		s := New(nil)
		s.Add(j.service("steady"))
		runs := 0
		s.Add(Service{
			Name:  "shaky",
			Start: func(context.Context) error { j.add("start shaky"); return nil },
			Stop:  func(context.Context) error { j.add("stop shaky"); return nil },
			Run: func(ctx context.Context) error {
				switch runs++; runs {
				case 1:
					return errors.New("listener closed")
				case 2:
					panic("boom")
				case 3:
					return nil
				}
				<-ctx.Done()
				return nil
			},
		})
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{"listener closed", "panic: boom", "ended by itself"} {
			synctest.Wait()
			h := s.Health()[1]
			if h.State != Failed || h.Up || h.Err == nil || !strings.Contains(h.Err.Error(), want) || h.Restarts != uint64(i+1) {
				t.Errorf("failure %d: %+v, want %q", i+1, h, want)
			}
			if !s.Health()[0].Up {
				t.Error("the other service suffers")
			}
			time.Sleep(firstPause << i)
		}
		synctest.Wait()
		if h := s.Health()[1]; !h.Up || h.Restarts != 3 {
			t.Errorf("after three restarts: %+v", h)
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		want := []string{"start steady", "start shaky", "stop shaky", "start shaky", "stop shaky", "start shaky", "stop shaky", "start shaky",
			"stop shaky", "stop steady", "ended steady"}
		if got := j.take(); !slices.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	})
}

func TestPausesGrowToABoundAndStartAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(nil)
		var at []time.Time
		s.Add(Service{Name: "x", Run: func(ctx context.Context) error {
			if at = append(at, time.Now()); len(at) == 14 {
				select {
				case <-time.After(2 * calm):
				case <-ctx.Done():
				}
			}
			return errors.New("no")
		}})
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if got := at[1].Sub(at[0]); got != firstPause {
			t.Errorf("first pause %v", got)
		}
		if got := at[12].Sub(at[11]); got != lastPause {
			t.Errorf("twelfth pause %v, want the bound %v", got, lastPause)
		}
		if got := at[14].Sub(at[13]) - 2*calm; got != firstPause {
			t.Errorf("pause after a calm run %v, want %v", got, firstPause)
		}
	})
}

func TestRequiredServiceThatCannotStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := new(journal)
		s := New(nil)
		s.Add(j.service("first"))
		s.Add(Service{Name: "sip", Required: true, Start: func(context.Context) error { return errors.New("port 5060 is taken") }})
		s.Add(j.service("never"))
		err := s.Start(t.Context())
		if err == nil || err.Error() != "start sip: port 5060 is taken" {
			t.Errorf("got %v", err)
		}
		if got, want := j.take(), []string{"start first", "stop first", "ended first"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestOptionalServiceThatCannotStartYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := new(journal)
		tries := 0
		s := New(nil)
		s.Add(Service{Name: "vpn", Start: func(context.Context) error {
			if tries++; tries < 3 {
				return errors.New("no TUN device")
			}
			return nil
		}, Run: func(ctx context.Context) error { <-ctx.Done(); return nil }})
		s.Add(j.service("sip"))
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if h := s.Health(); h[0].State != Failed || h[0].Err.Error() != "no TUN device" || !h[1].Up {
			t.Errorf("at first: %+v", h)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if !s.Up() {
			t.Errorf("later: %+v", s.Health())
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestHealthOfARunningService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sick error
		s := New(nil)
		s.Add(Service{Name: "store", Health: func() error { return sick }})
		s.Add(Service{Name: "odd", Health: func() error { panic("in health") }})
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if h := s.Health(); !h[0].Up || h[1].Up || h[1].Err == nil {
			t.Errorf("healthy: %+v", h)
		}
		sick = errors.New("disk")
		if h := s.Health()[0]; h.Up || h.Err != sick || h.State != Running {
			t.Errorf("sick: %+v", h)
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestStopIsBoundedAndNamesWhoDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		j := new(journal)
		s := New(nil)
		s.Add(j.service("first"))
		s.Add(Service{Name: "deaf", Grace: 2 * time.Second, Run: func(context.Context) error { <-release; return nil }})
		s.Add(Service{Name: "slow", Grace: time.Second, Stop: func(context.Context) error { <-release; return nil }})
		s.Add(Service{Name: "cross", Run: func(ctx context.Context) error { <-ctx.Done(); return errors.New("unsaved") },
			Stop: func(context.Context) error { return errors.New("no") }})
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		began := time.Now()
		err := s.Stop(t.Context())
		if took := time.Since(began); took != 2500*time.Millisecond {
			t.Errorf("stopping took %v, want 2.5s", took)
		}
		text := ""
		if err != nil {
			text = err.Error()
		}
		for _, want := range []string{"stop deaf: still running after 2s", "stop slow: context deadline exceeded", "stop cross: no\nunsaved"} {
			if !strings.Contains(text, want) {
				t.Errorf("error lacks %q:\n%s", want, text)
			}
		}
		if got := j.take(); !slices.Equal(got, []string{"start first", "stop first", "ended first"}) {
			t.Errorf("the well-behaved one: %v", got)
		}
		close(release)
		synctest.Wait()
	})
}

// A server whose Stop ends its Run, as most do, stops without being called a failure.
func TestStopThatEndsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := New(slog.New(slog.NewTextHandler(&log, nil)))
		stops := 0
		closed := make(chan struct{})
		s.Add(Service{Name: "http", Run: func(context.Context) error { <-closed; return nil },
			Stop: func(context.Context) error {
				if stops++; stops == 1 {
					close(closed)
					time.Sleep(time.Millisecond) // Run returns first
				}
				return nil
			}})
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := s.Stop(t.Context()); err != nil {
			t.Errorf("stop: %v", err)
		}
		if h := s.Health()[0]; h.State != Stopped || h.Restarts != 0 || stops != 1 {
			t.Errorf("%+v, stopped %d times", h, stops)
		}
		if strings.Contains(log.String(), "failed") {
			t.Errorf("log: %s", log.String())
		}
	})
}

func TestStopDuringRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(nil)
		s.Add(Service{Name: "x", Run: func(context.Context) error { return errors.New("no") }})
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		if err := s.Stop(t.Context()); err != nil {
			t.Errorf("stop of a failed service: %v", err)
		}
		if h := s.Health()[0]; h.State != Stopped {
			t.Errorf("%+v", h)
		}
	})
}
