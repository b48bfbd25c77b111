package state

import (
	"time"

	"ringfence/internal/task"
	"ringfence/sip/flow"
	"ringfence/sip/registrar"
)

// Registration takes what the registrar reports. It is registrar.Options.OnChange.
func (s *State) Registration(e registrar.Event) {
	name := e.Device
	if name == "" {
		name = e.Bindings[0].Line
	}
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return
	}
	if t := s.graces[name]; t != nil {
		t.Stop()
		delete(s.graces, name)
	}
	switch e.Kind {
	case registrar.Refreshed:
		s.presentLocked(e.Bindings, here)
	case registrar.Fresh:
		for _, b := range e.Bindings {
			delete(s.hook, b.Line) // sip-state.md §3: zeroed by a registration from a new address
		}
		s.presentLocked(e.Bindings, here)
	case registrar.Gone:
		for _, b := range e.Bindings {
			delete(s.hook, b.Line)
		}
		s.dropDeviceLocked(e.Device)
		s.presentLocked(e.Bindings, s.elsewhere(e))
	case registrar.Lost:
		s.graces[name] = time.AfterFunc(s.opt.Grace, func() {
			_ = task.Guard(s.opt.Log, "lost phone", func() { s.lost(name, e) })
		})
	}
	s.mu.Unlock()
	if e.Kind == registrar.Fresh && e.Device != "" {
		s.burst(e)
	}
}

// elsewhere returns which of the lines of an event are still registered from another place: one without device, or one that
// several phones share.
func (s *State) elsewhere(e registrar.Event) func(line string) bool {
	still := make(map[string]bool)
	for _, x := range e.Bindings {
		for _, b := range s.opt.Registrar.Lookup(x.Line) {
			if b.Reachable() && (e.Device == "" || b.Device != e.Device) {
				still[x.Line] = true
			}
		}
	}
	return func(line string) bool { return still[line] }
}

func here(string) bool { return true }

// lost ends the grace of a phone whose connection broke.
func (s *State) lost(name string, e registrar.Event) {
	still := s.elsewhere(e)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.graces, name)
	for _, b := range e.Bindings {
		delete(s.hook, b.Line)
	}
	s.presentLocked(e.Bindings, still)
}

// presentLocked sets whether lines are registered. s.mu is held.
func (s *State) presentLocked(bindings []*registrar.Binding, is func(line string) bool) {
	for _, b := range bindings {
		present := is(b.Line)
		if s.present[b.Line] == present {
			s.changedLocked(Change{Kind: LineChanged, Line: b.Line}, "p/"+b.Line) // hook may have changed
			continue
		}
		if present {
			s.present[b.Line] = true
		} else {
			delete(s.present, b.Line)
		}
		s.changedLocked(Change{Kind: LineChanged, Line: b.Line}, "p/"+b.Line)
	}
}

// FlowClosed ends the subscriptions that came over f.
func (s *State) FlowClosed(f flow.Flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := range s.byFlow[f.ID()] {
		s.dropLocked(d)
	}
	delete(s.byFlow, f.ID())
}
