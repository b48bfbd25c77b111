package state

import (
	"context"
	"maps"
	"slices"
)

// A switch is a state that somebody sets by hand: night service, the manual override of a schedule. It has a name and is on or
// off, it is durable, and its name is a number that keys can watch, on being shown as busy.

// Switch tells whether a switch is on; one that nobody has set is off.
func (s *State) Switch(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.switches[name]
}

// Switches lists the switches that exist: those declared (DeclareSwitches) and those somebody has set.
func (s *State) Switches() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.switches))
}

// DeclareSwitches makes names known, so that they can be watched before anybody has set them. Names that are no longer declared
// stay as they were set.
func (s *State) DeclareSwitches(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		if _, ok := s.switches[name]; !ok && name != "" {
			s.switches[name] = false
			s.changedLocked(Change{Kind: SwitchChanged, Line: name, Origin: ByDevice}, "p/"+name)
		}
	}
}

// SetSwitch turns a switch on or off. It is durable when SetSwitch returns.
func (s *State) SetSwitch(ctx context.Context, name string, on bool, by Origin) error {
	s.mu.Lock()
	_, ok := s.switches[name]
	s.mu.Unlock()
	if !ok {
		return ErrUnknownSwitch
	}
	return s.set(ctx, switchKey(name), yes(on), Change{Kind: SwitchChanged, Line: name, Origin: by})
}
