package state

import (
	"ringfence/sip/cisco"
)

// SetLeg reports the phase of one leg of a call at a line; Idle ends it.
func (s *State) SetLeg(line, leg string, p Phase) {
	s.mu.Lock()
	defer s.mu.Unlock()
	legs := s.legs[line]
	if p == Idle {
		if _, ok := legs[leg]; !ok {
			return
		}
		if delete(legs, leg); len(legs) == 0 {
			delete(s.legs, line)
		}
	} else {
		if legs == nil {
			legs = make(map[string]Phase)
			s.legs[line] = legs
		}
		if legs[leg] == p {
			return
		}
		legs[leg] = p
	}
	s.changedLocked(Change{Kind: LineChanged, Line: line}, "p/"+line)
}

// SetSlot shows a number that is no line, a park slot say, as free or busy.
func (s *State) SetSlot(number string, busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if was, ok := s.slots[number]; !ok || was != busy {
		s.slots[number] = busy
		s.changedLocked(Change{Kind: LineChanged, Line: number}, "p/"+number)
	}
}

// RemoveSlot forgets a number that SetSlot made known.
func (s *State) RemoveSlot(number string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.slots[number]; ok {
		delete(s.slots, number)
		s.changedLocked(Change{Kind: LineChanged, Line: number}, "p/"+number)
	}
}

// SetMessages reports the contents of a line's mailbox.
func (s *State) SetMessages(line string, unheard, heard int) {
	s.mu.Lock()
	if s.messages[line] == [2]int{unheard, heard} {
		s.mu.Unlock()
		return
	}
	s.messages[line] = [2]int{unheard, heard}
	s.changedLocked(Change{Kind: MessagesChanged, Line: line}, "m/"+line)
	s.mu.Unlock()
	s.pushMessages(line)
}

// Messages returns the contents of a line's mailbox.
func (s *State) Messages(line string) (unheard, heard int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.messages[line]
	return m[0], m[1]
}

// LineState is a snapshot of a line.
type LineState struct {
	Number, Device string
	Known          bool // a line or a slot
	Registered     bool
	OffHook        bool
	Calls          int // legs
	Ringing, Held  int // of these
	DND            bool
	Forward        string
	HuntLogin      bool
	New, Old       int // messages
	Shows          string
}

// Line returns what is known about a number.
func (s *State) Line(number string) LineState {
	device := s.DeviceOf(number)
	_, known := s.opt.Accounts.Line(number)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, slot := s.slots[number]
	if !slot {
		_, slot = s.switches[number]
	}
	l := LineState{
		Number: number, Device: device, Known: known || slot, Registered: s.present[number], OffHook: s.hook[number] > 0,
		Calls: len(s.legs[number]), DND: s.dnd[device], Forward: s.forwardLocked(number), HuntLogin: s.huntLocked(device),
		New: s.messages[number][0], Old: s.messages[number][1],
	}
	for _, p := range s.legs[number] {
		switch p {
		case Ringing:
			l.Ringing++
		case Held:
			l.Held++
		}
	}
	p := s.presenceLocked(number, device, known)
	l.Shows = p.Activity.String()
	if !p.Open {
		l.Shows = "closed"
	}
	return l
}

// InCall tells whether any line of a device has a call.
func (s *State) InCall(device string) bool {
	lines := s.linesOf(device)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range lines {
		if len(s.legs[l.Number]) > 0 {
			return true
		}
	}
	return false
}

// OffHook tells whether the receiver of any line of a device is lifted, with or without a call.
func (s *State) OffHook(device string) bool {
	lines := s.linesOf(device)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range lines {
		if s.hook[l.Number] > 0 {
			return true
		}
	}
	return false
}

// presence computes what a watched number shows (sip-state.md §1, first match wins).
func (s *State) presence(number string) cisco.Presence {
	device := s.DeviceOf(number)
	_, known := s.opt.Accounts.Line(number)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.presenceLocked(number, device, known)
}

func (s *State) presenceLocked(number, device string, known bool) cisco.Presence {
	busy, ok := s.slots[number]
	if !ok {
		busy, ok = s.switches[number]
	}
	if ok && !known {
		if busy {
			return cisco.Presence{Activity: cisco.OnThePhone, Open: true}
		}
		return cisco.Presence{Open: true}
	}
	inUse := s.hook[number] > 0
	for _, p := range s.legs[number] {
		if p == Ringing {
			return cisco.Presence{Activity: cisco.Alerting, Open: true}
		}
		inUse = true
	}
	switch {
	case inUse:
		return cisco.Presence{Activity: cisco.OnThePhone, Open: true}
	case !known || !s.present[number]:
		return cisco.Presence{}
	case s.dnd[device]:
		return cisco.Presence{Activity: cisco.DoNotDisturb, Open: true}
	}
	return cisco.Presence{Open: true}
}
