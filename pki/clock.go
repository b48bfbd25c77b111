package pki

import (
	"context"
	"fmt"
	"time"
)

// An appliance without a battery-backed clock starts in 1970, or in the year of its firmware, and a broken one may start ten
// years ahead. Certificates made then are refused by phones until the date they claim, or keep them locked out when they are
// renewed too late; so nothing is issued at a time that cannot be.

// firstTime is before the first release.
var firstTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const (
	clockBack  = 10 * time.Minute         // the clock may be set back by this much after something was issued
	clockAhead = 2 * 365 * 24 * time.Hour // an appliance may have been switched off for this long
	clockWrite = 24 * time.Hour           // how often the time is recorded
)

// clockBuilt reports that a time is before this program was made.
func (a *Authority) clockBuilt(now time.Time) error {
	built := a.opts.Built
	if built.Before(firstTime) {
		built = firstTime
	}
	if now.Before(built) {
		return fmt.Errorf("%w: it says %s, but this program was made after %s", ErrClock, day(now), day(built))
	}
	return nil
}

// clockFit reports why nothing can be issued at a time, or nil.
func (a *Authority) clockFit(now time.Time) error {
	if err := a.clockBuilt(now); err != nil {
		return err
	}
	if a.seal == nil {
		return nil // first start: nothing was recorded
	}
	last, ok := a.lastTime()
	switch {
	case !ok:
		return nil
	case now.Before(last.Add(-clockBack)):
		return fmt.Errorf("%w: it says %s, but it was later already, on %s; if it is right now: ringfence cert clock --accept", ErrClock, now.Format(time.RFC3339), last.Format(time.RFC3339))
	case now.After(last.Add(clockAhead)):
		return fmt.Errorf("%w: it says %s, more than two years after %s when it was last seen to be right; if it is right, accept it: ringfence cert clock --accept",
			ErrClock, day(now), day(last))
	}
	return nil
}

func day(t time.Time) string { return t.Format(time.DateOnly) }

func (a *Authority) clockKey() string { return "pki/clock/" + a.seal.node() }

// lastTime is the latest time that was believed.
func (a *Authority) lastTime() (time.Time, bool) {
	v, ok := a.opts.State.Get(a.clockKey())
	if !ok {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, string(v))
	return t, err == nil
}

// Moment is the time by which certificates are judged: the clock's while it can be right, else the latest that was believed. An
// appliance that starts in 1970 goes on knowing its phones until somebody tells it the time.
func (a *Authority) Moment() time.Time {
	now := a.now()
	if a.clockFit(now) == nil {
		return now
	}
	if last, ok := a.lastTime(); ok {
		return last
	}
	return now
}

// stampClock adds the present time to a group that issues something.
func (a *Authority) stampClock(b *batch) {
	now := a.now()
	if last, ok := a.lastTime(); !ok || now.After(last.Add(time.Minute)) {
		b.set[a.clockKey()] = []byte(now.Format(time.RFC3339))
	}
}

// CheckClock reports why certificates are not issued at present, or nil. It also remembers, once a day, that the clock was
// right, so that a later jump is noticed; call it now and then.
func (a *Authority) CheckClock(ctx context.Context) error {
	now := a.now()
	if err := a.clockFit(now); err != nil {
		return err
	}
	if last, ok := a.lastTime(); ok && now.Before(last.Add(clockWrite)) {
		return nil
	}
	return a.AcceptClock(ctx)
}

// AcceptClock takes the present time as right: an administrator says so after a jump. A time before this program was made is
// not accepted.
func (a *Authority) AcceptClock(ctx context.Context) error {
	if err := a.clockBuilt(a.now()); err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	err := a.opts.State.Write(ctx, map[string][]byte{a.clockKey(): []byte(a.now().Format(time.RFC3339))})
	if err != nil {
		return fmt.Errorf("pki: record the time: %w", err)
	}
	return nil
}
