package state

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"ringfence/sip/cisco"
	"ringfence/sip/registrar"
)

// Shared lines ("sip-calls" §26): every Cisco phone that shows a shared line is told what the line's other phones do with it, by
// unsolicited NOTIFYs with the dialogs of RFC 4235. Each names a call as the phone that has it sees it, which is how a phone names
// it when it wants to step in or to take it back. A phone whose user has switched privacy on is not told about.

// Appearance is what one phone does with a shared line.
type Appearance struct {
	Line, Leg, Device string
	Placed            bool   // by the phone; else it has received the call
	Phase             string // "" over, early, confirmed
	Held              bool
	Dialog            cisco.DialogID
	Name, Number      string // of the other party; "" if it withholds them
}

func privacyKey(device string) string { return "privacy/" + device }

// SetAppearance takes what a phone does with a shared line now. It does not block.
func (s *State) SetAppearance(a Appearance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	legs := s.appear[a.Line]
	if a.Phase == "" {
		if _, ok := legs[a.Leg]; !ok {
			return
		}
		if delete(legs, a.Leg); len(legs) == 0 {
			delete(s.appear, a.Line)
		}
	} else {
		if legs == nil {
			legs = make(map[string]Appearance)
			s.appear[a.Line] = legs
		}
		if legs[a.Leg] == a {
			return
		}
		legs[a.Leg] = a
	}
	s.dirtyLocked("s/" + a.Line)
}

// dirtyLocked lets those who watch a topic look again. s.mu is held.
func (s *State) dirtyLocked(topic string) {
	if len(s.topics[topic]) == 0 {
		return
	}
	s.dirty[topic] = true
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Privacy tells whether the user of a phone hides its calls from other phones of its lines.
func (s *State) Privacy(device string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.privacy[device]
}

// SetPrivacy switches that. It is durable when SetPrivacy returns.
func (s *State) SetPrivacy(ctx context.Context, device string, on bool, by Origin) error {
	if len(s.linesOf(device)) == 0 {
		return ErrUnknownDevice
	}
	return s.set(ctx, privacyKey(device), yes(on), Change{Kind: PrivacyChanged, Device: device, Origin: by})
}

// sharedLines are the numbers of a device that other phones show too.
func (s *State) sharedLines(info registrar.DeviceInfo) []string {
	var out []string
	for _, l := range info.Lines {
		if l.Shared {
			out = append(out, l.Number)
		}
	}
	return out
}

// remoteUse lists what the other phones of a shared line do with it, the oldest first.
func (s *State) remoteUse(line, device string) []Appearance {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Appearance
	for _, a := range s.appear[line] {
		if a.Device != device && !s.privacy[a.Device] {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b Appearance) int {
		if n := len(a.Leg) - len(b.Leg); n != 0 {
			return n
		}
		return strings.Compare(a.Leg, b.Leg)
	})
	return out
}

// renderShared is render for a shared line. A call that has ended is told as terminated once. d.mu is held.
func (s *State) renderShared(d *dialog) (key, contentType string, body []byte) {
	here := host(d.f)
	info := &cisco.DialogInfo{Version: d.version, Full: true, Entity: "sip:" + d.number + "@" + here}
	now := map[string]cisco.Dialog{}
	for _, a := range s.remoteUse(d.number, d.dev.name) {
		x := cisco.Dialog{
			ID: a.Leg, CallID: a.Dialog.CallID, LocalTag: a.Dialog.LocalTag, RemoteTag: a.Dialog.RemoteTag, State: a.Phase,
			Direction: "recipient", Local: &cisco.Participant{URI: info.Entity, Held: a.Held}, Remote: &cisco.Participant{Name: a.Name},
		}
		if a.Placed {
			x.Direction = "initiator"
		}
		if a.Number != "" {
			x.Remote.URI = "sip:" + a.Number + "@" + here
		}
		now[x.ID] = x
		info.Dialogs = append(info.Dialogs, x)
		key += fmt.Sprintln(a)
	}
	if key == d.shown {
		return key, cisco.TypeDialogInfo, info.Marshal()
	}
	for id, x := range d.listed {
		if _, still := now[id]; !still {
			x.State, x.Remote = "terminated", nil
			info.Dialogs = append(info.Dialogs, x)
		}
	}
	d.listed = now
	return key, cisco.TypeDialogInfo, info.Marshal()
}
