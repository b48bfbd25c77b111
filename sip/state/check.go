package state

import (
	"time"

	"ringfence/sip/registrar"
)

// Times of the self-check.
const (
	checkEvery  = 15 * time.Second
	retryAfter  = 20 * time.Second // before a refused or lost NOTIFY is tried again
	offHookMost = 10 * time.Minute // a phone's dial tone has ended long before
)

// Check compares what phones show with the truth and repairs the difference. It runs by itself every checkEvery.
//
// The truth is taken from its sources, not from the watchers' memory: registrations from the registrar, legs from the owner of
// calls (Options.HasLeg). A leg that has no owner any more is believed gone when it is missed twice, so that one that is just
// being made is left alone. What counts as shown is what a phone has acknowledged.
func (s *State) Check() {
	s.checking.Lock()
	defer s.checking.Unlock()
	s.checkRegistrations()
	s.checkLegs()
	s.checkHooks()
	s.checkLamps()
}

func (s *State) checkRegistrations() {
	there := make(map[string][]*registrar.Binding)
	for _, b := range s.opt.Registrar.All() {
		there[b.Line] = append(there[b.Line], b)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range s.present {
		if len(there[line]) == 0 {
			s.repairedLocked("registered", line)
			delete(s.present, line)
		}
	}
	for line, bindings := range there {
		for _, b := range bindings {
			if !s.present[line] && b.Reachable() {
				s.repairedLocked("not registered", line)
				s.present[line] = true
			}
		}
	}
}

func (s *State) checkLegs() {
	if s.opt.HasLeg == nil {
		return
	}
	type leg struct{ line, id string }
	var all []leg
	s.mu.Lock()
	for line, legs := range s.legs {
		for id := range legs {
			all = append(all, leg{line, id})
		}
	}
	s.mu.Unlock()
	missing := make(map[string]bool)
	for _, l := range all {
		if s.opt.HasLeg(l.line, l.id) {
			continue
		}
		key := l.line + "/" + l.id
		missing[key] = true
		if s.missing[key] {
			s.mu.Lock()
			s.repairedLocked("in a call", l.line)
			s.mu.Unlock()
			s.SetLeg(l.line, l.id, Idle)
		}
	}
	s.missing = missing
}

// checkHooks puts down receivers of phones that never said so.
func (s *State) checkHooks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for line, since := range s.hookSince {
		if _, off := s.hook[line]; !off {
			delete(s.hookSince, line)
		} else if time.Since(since) > offHookMost {
			delete(s.hook, line)
			delete(s.hookSince, line)
			s.repairedLocked("off-hook", line)
		}
	}
}

// checkLamps sends again what a phone has not acknowledged as it is now.
func (s *State) checkLamps() {
	s.mu.Lock()
	var all []*dialog
	for _, t := range s.topics {
		for d := range t {
			all = append(all, d)
		}
	}
	s.mu.Unlock()
	for _, d := range all {
		d.mu.Lock()
		due := !d.outstanding && !d.tried.IsZero() && time.Since(d.tried) > retryAfter && d.failures < maxTries
		if due {
			key, _, _ := s.render(d)
			due = key != d.acked
		}
		d.mu.Unlock()
		if due {
			s.opt.Log.Info("lamp repaired", "line", d.watcher, "number", d.number, "event", d.event)
			s.refresh(d, true)
		}
	}
}

// repairedLocked notes that the model said something about a line that was not true. s.mu is held.
func (s *State) repairedLocked(said, line string) {
	s.opt.Log.Error("state repaired", "line", line, "said", said)
	s.changedLocked(Change{Kind: LineChanged, Line: line}, "p/"+line)
}
