package state

import (
	"fmt"
	"slices"
	"time"

	"ringfence/sip/registrar"
)

// Times of the self-check.
const (
	checkEvery  = 15 * time.Second
	retryAfter  = 20 * time.Second // before a refused or lost NOTIFY is tried again
	offHookMost = 10 * time.Minute // a phone's dial tone has ended long before
)

// Report is what a Check has found.
type Report struct {
	At    time.Time `json:"at"`
	Lines int       `json:"lines"` // registered
	Legs  int       `json:"legs"`
	Lamps int       `json:"lamps"` // series of NOTIFYs that were compared
	// Repaired says what the model said wrongly, and which lamps were sent again.
	Repaired []string `json:"repaired"`
	// Unsure are lamps that the phone has not acknowledged as they are now: just sent, refused, or sent in vain.
	Unsure []string `json:"unsure"`
}

// Check compares what phones show with the truth and repairs the difference. It runs by itself every checkEvery.
//
// The truth is taken from its sources, not from the watchers' memory: registrations from the registrar, legs from the dialogs
// that exist (Options.Legs). A leg that is told otherwise there counts when two looks agree, so that one that is just changing
// is left alone. What counts as shown is what a phone has acknowledged.
func (s *State) Check() Report {
	s.checking.Lock()
	defer s.checking.Unlock()
	r := Report{At: time.Now(), Repaired: []string{}, Unsure: []string{}}
	s.checkRegistrations(&r)
	s.checkLegs(&r)
	s.checkHooks(&r)
	s.checkLamps(&r)
	return r
}

func (s *State) checkRegistrations(r *Report) {
	there := make(map[string][]*registrar.Binding)
	for _, b := range s.opt.Registrar.All() {
		there[b.Line] = append(there[b.Line], b)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Lines = len(there)
	for line := range s.present {
		if len(there[line]) == 0 {
			s.repairedLocked(r, "registered", line)
			delete(s.present, line)
		}
	}
	for line, bindings := range there {
		for _, b := range bindings {
			if !s.present[line] && b.Reachable() {
				s.repairedLocked(r, "not registered", line)
				s.present[line] = true
			}
		}
	}
}

// checkLegs compares in both directions: lamps of calls that nobody has any more, and calls that no lamp shows.
func (s *State) checkLegs(r *Report) {
	if s.opt.Legs == nil {
		return
	}
	truth := s.opt.Legs()
	r.Legs = len(truth)
	differ := make(map[Leg]Phase) // what the dialogs say
	s.mu.Lock()
	for line, legs := range s.legs {
		for id, p := range legs {
			if l := (Leg{line, id}); truth[l] != p {
				differ[l] = truth[l]
			}
		}
	}
	for l, p := range truth {
		if _, ok := s.legs[l.Line][l.ID]; !ok && p != Idle {
			differ[l] = p
		}
	}
	s.mu.Unlock()
	for l, p := range differ {
		was, before := s.doubted[l]
		if !before || was != p {
			continue
		}
		delete(differ, l)
		s.mu.Lock()
		said := "in no call"
		if now, ok := s.legs[l.Line][l.ID]; ok {
			said = "in a call, " + now.String()
		}
		s.repairedLocked(r, said, l.Line)
		s.mu.Unlock()
		s.SetLeg(l.Line, l.ID, p)
	}
	s.doubted = differ
}

// checkHooks puts down receivers of phones that never said so.
func (s *State) checkHooks(r *Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for line, since := range s.hookSince {
		if _, off := s.hook[line]; !off {
			delete(s.hookSince, line)
		} else if time.Since(since) > offHookMost {
			delete(s.hook, line)
			delete(s.hookSince, line)
			s.repairedLocked(r, "off-hook", line)
		}
	}
}

// checkLamps sends again what a phone has not acknowledged as it is now.
func (s *State) checkLamps(r *Report) {
	s.mu.Lock()
	var all []*dialog
	for _, t := range s.topics {
		for d := range t {
			all = append(all, d)
		}
	}
	s.mu.Unlock()
	r.Lamps = len(all)
	for _, d := range all {
		d.mu.Lock()
		due := !d.outstanding && !d.tried.IsZero() && time.Since(d.tried) > retryAfter && d.failures < maxTries
		key := s.shows(d)
		differs := !d.tried.IsZero() && key != d.acked
		d.mu.Unlock()
		if !differs {
			continue
		}
		name := fmt.Sprintf("%s of %s at %s", d.event, d.number, d.watcher)
		if !due {
			r.Unsure = append(r.Unsure, name)
			continue
		}
		r.Repaired = append(r.Repaired, name+" was sent again")
		s.opt.Log.Info("lamp repaired", "line", d.watcher, "number", d.number, "event", d.event)
		s.refresh(d, true)
	}
	slices.Sort(r.Unsure)
}

// repairedLocked notes that the model said something about a line that was not true. s.mu is held.
func (s *State) repairedLocked(r *Report, said, line string) {
	r.Repaired = append(r.Repaired, fmt.Sprintf("line %s was said to be %s", line, said))
	s.opt.Log.Error("state repaired", "line", line, "said", said)
	s.changedLocked(Change{Kind: LineChanged, Line: line}, "p/"+line)
}
