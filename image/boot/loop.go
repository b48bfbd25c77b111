package boot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"ringfence/image/slot"
)

// Intervals of the main loop.
const (
	roundTime   = time.Second
	startRound  = 250 * time.Millisecond // until the daemon answers
	askTime     = 5 * time.Second
	silentMost  = 60 * time.Second // of a daemon that answered before
	silentStart = 4 * time.Minute  // of one that is starting, which makes keys the first time
	clockEvery  = time.Hour
)

// loop keeps the daemon running and the slot judged. It is the heart that the watchdog looks at.
func (s *system) loop() {
	id := make([]byte, 8)
	_, _ = rand.Read(id)
	s.view.set(func(v *Status) { v.Phase, v.Boot = "running", hex.EncodeToString(id) })
	g := s.newGate()
	s.publish() // the daemon reads there that this is the image
	answered, clockKept := time.Now(), time.Now()
	everAnswered := false
	for {
		s.beat.Store(int64(time.Since(s.began)))
		if s.ending.Load() || s.resting.Load() {
			time.Sleep(roundTime)
			continue
		}
		var ended chan struct{}
		if s.view.get().Data == "" {
			var running bool
			if ended, running = s.daemonRunning(); !running {
				if !s.keepDaemon(ended != nil, g.trial) {
					continue
				}
				answered, everAnswered = time.Now(), false
				ended, _ = s.daemonRunning()
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), askTime)
		st, err := s.Ask(ctx, DaemonSock)
		cancel()
		silence := time.Since(answered)
		switch {
		case err == nil:
			if !everAnswered {
				s.log.Info("the daemon answers", "took", time.Since(s.began).Round(time.Millisecond))
			}
			if len(st.Down) == 0 && s.view.get().Ready == 0 {
				s.log.Info("every service is up", "took", time.Since(s.began).Round(time.Millisecond))
				s.view.set(func(v *Status) { v.Ready = time.Since(s.began).Seconds() })
			}
			answered, everAnswered = time.Now(), true
			s.view.setDaemon(st)
			s.view.set(func(v *Status) { v.Daemon = "" })
		case everAnswered && silence > silentMost, silence > silentStart:
			s.log.Error("the daemon does not answer; it is ended", "took", silence, "err", err)
			s.killDaemon()
		default:
			s.view.set(func(v *Status) { v.Daemon = "does not answer" })
		}
		s.judge(g, st, err)
		if time.Since(clockKept) > clockEvery {
			clockKept = time.Now()
			s.keepClock()
		}
		s.publish()
		pause := roundTime
		if !everAnswered {
			pause = startRound
		}
		select {
		case <-ended: // nil, which is never, while there is no daemon
		case <-time.After(pause):
		}
	}
}

// keepDaemon starts the daemon, again after a crash, or gives the machine up when that has not helped.
func (s *system) keepDaemon(crashed, trial bool) bool {
	if crashed {
		n, often, pause := s.daemon.crashed(time.Now(), trial)
		s.view.set(func(v *Status) {
			v.Crashes, v.Daemon = n, "ended; it is started again"
			if s.daemon.output != nil {
				if last := s.daemon.output.tail(1); len(last) > 0 {
					v.Daemon = last[0]
				}
			}
		})
		if often && !s.recovery {
			s.log.Error("starting the daemon again does not help; the machine starts again", "crashes", n)
			s.reboot("the daemon crashes")
			return false
		}
		s.publish()
		s.rest(pause)
	}
	if err := s.startDaemon(); err != nil {
		s.log.Error("daemon", "err", err)
		time.Sleep(crashPause)
		return false
	}
	s.view.set(func(v *Status) { v.Started = s.daemon.starts })
	return true
}

// rest waits without the watchdog taking it for a stall.
func (s *system) rest(pause time.Duration) {
	for until := time.Now().Add(pause); time.Now().Before(until) && !s.ending.Load(); {
		s.beat.Store(int64(time.Since(s.began)))
		time.Sleep(min(roundTime, pause))
	}
}

// newGate begins to judge this start.
func (s *system) newGate() *gate {
	g := &gate{}
	var o Outcome
	if err := readJSON(updateFile, &o); err == nil && s.disk != nil {
		switch {
		case o.State == onTrial && o.Slot == s.slot:
			g.trial, g.phones, g.had = true, o.Phones, true
		case o.State == onTrial:
			s.log.Error("the update did not prove itself; this is the release before it", "version", o.Version)
			o.State, o.At = Returned, time.Now().UTC()
			s.keepOutcome(o)
		}
		s.view.set(func(v *Status) { v.Update = &o })
	}
	if s.disk != nil {
		if st, err := s.disk.slots(); err != nil {
			s.log.Error("state of the slots", "err", err)
			s.view.set(func(v *Status) { v.Notes = append(v.Notes, "the state of the slots cannot be read: "+err.Error()) })
		} else {
			s.view.set(func(v *Status) { v.Slots = st.String() })
		}
	}
	limit := gateDeadline
	if len(g.phones) > 0 {
		limit = gatePhones
	}
	if seconds, err := strconv.Atoi(s.args["deadline"]); err == nil && seconds > 0 {
		limit = time.Duration(seconds) * time.Second
	}
	g.deadline = time.Now().Add(limit)
	return g
}

// judge lets the gate look at a round, and acts.
func (s *system) judge(g *gate, st DaemonStatus, asked error) {
	if g.done || s.disk == nil {
		return
	}
	o := observation{answers: asked == nil, down: st.Down, phones: st.Registered}
	o.link, o.address = s.network.state()
	if o.answers && g.trial {
		o.readable = s.writable()
	}
	what, lack := g.round(time.Now(), o)
	s.view.set(func(v *Status) { v.Gate = lack })
	switch what {
	case gateCommit:
		// The state goes to the disk before anybody is told.
		state, err := s.disk.setSlots(func(st slot.State) slot.State { return st.Set(s.slot, slot.Full) })
		if err != nil {
			s.log.Error("commit", "err", err)
			g.done, g.good = false, 0
			return
		}
		s.keepFloor()
		if g.trial {
			done := *s.view.get().Update
			done.State, done.At = committed, time.Now().UTC()
			s.keepOutcome(done)
			s.view.set(func(v *Status) { v.Update = &done })
		}
		s.view.set(func(v *Status) { v.Committed, v.Slots = true, state.String() })
		s.log.Info("this slot has proven itself", "slot", s.slot, "took", time.Since(s.began).Round(time.Millisecond))
	case gateGiveUp:
		s.log.Error("this release does not prove itself; the machine goes back", "lacks", lack)
		s.reboot("the update does not prove itself: " + lack)
	}
}

// States of an Outcome.
const (
	onTrial   = "on trial"
	committed = "committed"
	Returned  = "returned"
)

// Files of init.
var (
	updateFile = filepath.Join(ownDir, "update.json")
	floorFile  = filepath.Join(ownDir, "floor.json")
	clockFile  = filepath.Join(ownDir, "clock.json")
	seedFile   = filepath.Join(ownDir, "entropy")
	configFile = filepath.Join(ownDir, "config.json")
	staticFile = filepath.Join(ownDir, "network.json")
)

func (s *system) keepOutcome(o Outcome) {
	if err := writeJSON(updateFile, o); err != nil {
		s.log.Error("outcome of the update", "err", err)
	}
}

// floor is the least serial that may be installed: that of this release, or a higher one that was committed here once.
func (s *system) floor() int64 {
	var kept int64
	if err := readJSON(floorFile, &kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Error("floor", "err", err)
	}
	return max(kept, s.about.Floor)
}

func (s *system) keepFloor() {
	var kept int64
	_ = readJSON(floorFile, &kept)
	if s.about.Floor > kept {
		if err := writeJSON(floorFile, s.about.Floor); err != nil {
			s.log.Error("floor", "err", err)
		}
	}
}

func readJSON(name string, v any) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

func writeJSON(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeFile(name, b)
}
