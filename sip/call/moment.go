package call

import (
	"slices"
	"time"

	"ringfence/sip/plan"
	"ringfence/sip/registrar"
)

// moment is the plan's view of now.
type moment struct{ m *Manager }

// past is what the plan asks about calls that are over. It is forgotten at a restart, and bounded by the numbers of the plan.
type past struct {
	turns   map[string]int       // calls of a group
	last    map[string]time.Time // when a line's last call ended
	callers map[string]string    // who called a line last
}

func (v moment) Forward(line string) string { return v.m.opt.State.Forward(line) }

func (v moment) Rejects(device string) bool {
	return v.m.opt.State.DND(device) && v.m.opt.State.DNDReject(device)
}

func (v moment) Calls(line string) int {
	if l, ok := v.m.opt.Plan().Line(line); ok && l.Shared() {
		return v.m.sharedCalls(l)
	}
	v.m.mu.RLock()
	defer v.m.mu.RUnlock()
	return v.m.lines[line]
}

func (v moment) Registered(line string) bool {
	return slices.ContainsFunc(v.m.opt.Bindings.Lookup(line), (*registrar.Binding).Reachable)
}

func (v moment) LoggedIn(device string) bool { return v.m.opt.State.HuntLogin(device) }

func (v moment) Switch(name string) bool { return v.m.opt.State.Switch(name) }

// Field implements plan.Fields.
func (v moment) Field(line, name string) (string, bool) {
	if f := v.m.opt.Field; f != nil {
		return f(line, name)
	}
	return "", false
}

func (v moment) Now() time.Time { return time.Now() }

func (v moment) Turn(group string) int {
	v.m.mu.RLock()
	defer v.m.mu.RUnlock()
	return v.m.past.turns[group]
}

func (v moment) LastCall(line string) time.Time {
	v.m.mu.RLock()
	defer v.m.mu.RUnlock()
	return v.m.past.last[line]
}

func (v moment) LastCaller(line string) string {
	v.m.mu.RLock()
	defer v.m.mu.RUnlock()
	return v.m.past.callers[line]
}

// turned counts a call of a group.
func (m *Manager) turned(group string) {
	m.mu.Lock()
	m.past.turns[group]++
	m.mu.Unlock()
}

// called remembers who rang a line, unless the caller does not want to be known.
func (m *Manager) called(line *plan.Line, caller Identity) {
	if caller.Restricted || caller.Number == "" {
		return
	}
	m.mu.Lock()
	m.past.callers[line.Number] = caller.Number
	m.mu.Unlock()
}
