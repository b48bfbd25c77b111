package boot

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The watchdog starts the machine again when init stalls: it is fed from a goroutine of its own that looks at the beat of the
// main loop, and closed without its magic byte, so that nothing but feeding keeps it quiet.
const (
	watchdogTimeout = 30 // seconds
	watchdogFeed    = 5 * time.Second
	beatMost        = 20 * time.Second
)

// startWatchdog opens the machine's watchdog, or the kernel's timer where the machine has none.
func (s *system) startWatchdog() {
	f, err := os.OpenFile("/dev/watchdog", os.O_WRONLY, 0)
	kind := "hardware"
	if err != nil {
		kind = "software"
		if err := s.loader.Load("softdog"); err != nil {
			s.log.Error("no watchdog", "err", err)
			return
		}
		if f, err = os.OpenFile("/dev/watchdog", os.O_WRONLY, 0); err != nil {
			s.log.Error("no watchdog", "err", err)
			return
		}
	}
	timeout := watchdogTimeout
	if s.args["watchdog"] == "10" {
		timeout = 10 // for tests
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, timeout); err != nil {
		s.log.Info("watchdog keeps its timeout", "err", err)
	}
	s.log.Info("watchdog", "kind", kind, "timeout", timeout)
	s.view.set(func(v *Status) { v.Watchdog = kind })
	s.beat.Store(int64(time.Since(s.began)))
	starting := time.Now()
	s.tasks.Go("watchdog", func(ctx context.Context) {
		tick := time.NewTicker(watchdogFeed / time.Duration(1+30/timeout/2))
		defer tick.Stop()
		for {
			_, looping := s.beating()
			if looping || time.Since(starting) < startMost && s.view.get().Phase == "starting" {
				_, _ = f.Write([]byte{0})
			}
			<-tick.C
		}
	})
}

// startMost bounds the time until the main loop begins to beat.
const startMost = 3 * time.Minute

// beating tells when the main loop last came round, and whether that is recent.
func (s *system) beating() (time.Duration, bool) {
	age := time.Since(s.began) - time.Duration(s.beat.Load()) // of the monotonic clock: the other one may be set meanwhile
	return age, age < beatMost
}
