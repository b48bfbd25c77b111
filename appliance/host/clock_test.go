package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/appliance/netsvc"
)

// hands are the hands of a clock that is none of the machine's.
type hands struct {
	now     time.Time
	slewed  time.Duration
	stepped int
	err     error
}

func (h *hands) Slew(by time.Duration) error { h.slewed += by; return h.err }
func (h *hands) Step(to time.Time) error {
	if h.err == nil {
		h.now = to
		h.stepped++
	}
	return h.err
}

func TestClockFollows(t *testing.T) {
	built := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	start := built.Add(30 * 24 * time.Hour)
	ms := func(n int) Answer { return Answer{Offset: time.Duration(n) * time.Millisecond} }
	day := func(n int) Answer { return Answer{Offset: time.Duration(n) * 24 * time.Hour} }
	for _, c := range []struct {
		name    string
		answers []any // Answer or error
		newest  time.Time
		err     error
		slewed  time.Duration
		moved   time.Duration // by a step
		problem string
	}{
		{"a little behind", []any{ms(120)}, time.Time{}, nil, 120 * time.Millisecond, 0, ""},
		{"a little ahead", []any{ms(-120)}, start, nil, -120 * time.Millisecond, 0, ""},
		{"behind", []any{ms(90_000)}, start, nil, 0, 90 * time.Second, ""},
		{"a year behind", []any{day(365), day(365)}, start, nil, 0, 365 * 24 * time.Hour, ""},
		{"ahead, nothing issued", []any{ms(-90_000)}, time.Time{}, nil, 0, -90 * time.Second, ""},
		{"ahead, issued long ago", []any{ms(-90_000)}, start.Add(-time.Hour), nil, 0, -90 * time.Second, ""},
		{"ahead, issued meanwhile", []any{ms(-90_000)}, start.Add(-time.Minute), nil, 0, 0, "stays so"},
		{"before the release", []any{day(-60)}, time.Time{}, nil, 0, 0, "cannot be"},
		{"absurdly late", []any{day(20 * 365)}, time.Time{}, nil, 0, 0, "cannot be"},
		{"one of three lies", []any{ms(100), day(30), ms(110)}, time.Time{}, nil, 110 * time.Millisecond, 0, ""},
		{"two that disagree", []any{ms(100), day(30)}, time.Time{}, nil, 0, 0, "disagree"},
		{"one silent", []any{errors.New("silence"), ms(40)}, time.Time{}, nil, 40 * time.Millisecond, 0, ""},
		{"all silent", []any{errors.New("silence")}, time.Time{}, nil, 0, 0, "no time server answers (0: silence)"},
		{"no right", []any{ms(90_000)}, time.Time{}, unix.EPERM, 0, 0, "CAP_SYS_TIME"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &hands{now: start, err: c.err}
			var servers []string
			for i := range c.answers {
				servers = append(servers, string(rune('0'+i)))
			}
			k := NewClock(ClockOptions{Servers: func(context.Context) []string { return servers }, Newest: func() time.Time { return c.newest }, Built: built,
				Now: func() time.Time { return h.now }, Adjust: h,
				Query: func(s string) (Answer, error) {
					a := c.answers[s[0]-'0']
					if err, ok := a.(error); ok {
						return Answer{}, err
					}
					return a.(Answer), nil
				}})
			ok := k.Round(bg)
			if v := k.View(); ok != (c.problem == "") || v.Synced != ok || !strings.Contains(v.Problem, c.problem) {
				t.Errorf("%v, %+v, want problem %q", ok, v, c.problem)
			}
			if h.slewed != c.slewed || h.now.Sub(start) != c.moved {
				t.Errorf("slewed %s, moved %s; want %s, %s", h.slewed, h.now.Sub(start), c.slewed, c.moved)
			}
		})
	}
}

// TestClockOnTheWire asks a server that speaks the protocol, 3 s ahead.
func TestClockOnTheWire(t *testing.T) {
	s, err := netsvc.NewNTP(netsvc.NTPOptions{Address: "127.0.0.1:0", Now: func() time.Time { return time.Now().Add(3 * time.Second) }, Synced: func() bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(bg)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	dir := t.TempDir()
	h := &hands{now: time.Now()}
	k := NewClock(ClockOptions{Servers: func(context.Context) []string { return []string{s.Addr().String()} }, Built: time.Now().Add(-time.Hour), Adjust: h, Dir: dir})
	running, stop := context.WithCancel(bg)
	ended := make(chan error, 1)
	go func() { ended <- k.Run(running) }()
	eventually(t, "the last known time", func() bool { _, err := os.Stat(filepath.Join(dir, ClockFile)); return err == nil })
	stop()
	<-ended
	if v := k.View(); !v.Synced || v.Offset < 2900*time.Millisecond || v.Offset > 3100*time.Millisecond || h.stepped != 1 {
		t.Errorf("%+v, stepped %d times", v, h.stepped)
	}
}
