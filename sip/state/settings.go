package state

import (
	"context"
	"fmt"
	"strings"

	"ringfence/sip/cisco"
	"ringfence/sip/registrar"
)

// Keys of durable settings: one per field, so that two fields changed at two appliances both live.
func dndKey(device string) string   { return "dnd/" + device }
func forwardKey(line string) string { return "fwd/" + line + "/all" }
func huntKey(device string) string  { return "hunt/" + device }
func switchKey(name string) string  { return "switch/" + name }

// loadLocked takes one durable value; present false: it was deleted. It returns what changed. s.mu is held, or nobody else
// knows s yet.
func (s *State) loadLocked(key string, value []byte, present bool) (Change, bool) {
	kind, rest, _ := strings.Cut(key, "/")
	v := string(value)
	switch kind {
	case "dnd":
		on := present && v == "yes"
		if s.dnd[rest] == on {
			return Change{}, false
		}
		if delete(s.dnd, rest); on {
			s.dnd[rest] = true
		}
		return Change{Kind: DNDChanged, Device: rest, Origin: ByPeer}, true
	case "hunt":
		was, had := s.hunt[rest]
		if had == present && was == (v == "yes") {
			return Change{}, false
		}
		if delete(s.hunt, rest); present {
			s.hunt[rest] = v == "yes"
		}
		return Change{Kind: HuntChanged, Device: rest, Origin: ByPeer}, true
	case "privacy":
		on := present && v == "yes"
		if s.privacy[rest] == on {
			return Change{}, false
		}
		if delete(s.privacy, rest); on {
			s.privacy[rest] = true
		}
		return Change{Kind: PrivacyChanged, Device: rest, Origin: ByPeer}, true
	case "switch":
		was, had := s.switches[rest]
		if had == present && was == (v == "yes") {
			return Change{}, false
		}
		if delete(s.switches, rest); present {
			s.switches[rest] = v == "yes"
		}
		return Change{Kind: SwitchChanged, Line: rest, Origin: ByPeer}, true
	case "fwd":
		line, ok := strings.CutSuffix(rest, "/all")
		if !ok {
			return Change{}, false
		}
		was, had := s.forward[line]
		if had == present && was == v {
			return Change{}, false
		}
		if delete(s.forward, line); present {
			s.forward[line] = v
		}
		return Change{Kind: ForwardChanged, Line: line, Origin: ByPeer}, true
	}
	return Change{}, false
}

// Replicated takes a durable value that somebody else has written to the store, the other appliance say.
func (s *State) Replicated(key string, value []byte, present bool) {
	s.mu.Lock()
	c, changed := s.loadLocked(key, value, present)
	if changed {
		s.settingLocked(c)
	}
	s.mu.Unlock()
	if changed {
		s.show(c)
	}
}

// DND tells whether a device does not want to be disturbed.
func (s *State) DND(device string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dnd[device]
}

// DNDReject tells whether do-not-disturb of a device refuses calls; else they are shown silently.
func (s *State) DNDReject(device string) bool {
	d, ok := s.opt.Accounts.Device(device)
	return !ok || d.DNDReject
}

// HuntLogin tells whether a device takes calls of hunt groups.
func (s *State) HuntLogin(device string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.huntLocked(device)
}

func (s *State) huntLocked(device string) bool {
	if on, ok := s.hunt[device]; ok {
		return on
	}
	if d, ok := s.opt.Accounts.Device(device); ok {
		return d.HuntLogin
	}
	return true
}

// Forward returns where all calls of a line go, or "".
func (s *State) Forward(line string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forwardLocked(line)
}

func (s *State) forwardLocked(line string) string {
	if target, ok := s.forward[line]; ok {
		return target
	}
	a, _ := s.opt.Accounts.Line(line)
	return a.Forward
}

// write makes a value durable. "" as value deletes the key.
func (s *State) write(ctx context.Context, key string, value string, del bool) error {
	var err error
	if del {
		err = s.opt.Store.Write(ctx, nil, key)
	} else {
		err = s.opt.Store.Write(ctx, map[string][]byte{key: []byte(value)})
	}
	if err != nil {
		err = fmt.Errorf("keep %s: %w", key, err)
		s.opt.Log.Error("setting not kept", "err", err)
	}
	return err
}

func yes(on bool) string {
	if on {
		return "yes"
	}
	return "no"
}

// SetDND sets do-not-disturb of a device, for all its lines. It is durable when SetDND returns.
func (s *State) SetDND(ctx context.Context, device string, on bool, by Origin) error {
	if len(s.linesOf(device)) == 0 {
		return ErrUnknownDevice
	}
	return s.set(ctx, dndKey(device), yes(on), Change{Kind: DNDChanged, Device: device, Origin: by})
}

// SetHuntLogin logs a device in to or out of hunt groups.
func (s *State) SetHuntLogin(ctx context.Context, device string, on bool, by Origin) error {
	if len(s.linesOf(device)) == 0 {
		return ErrUnknownDevice
	}
	return s.set(ctx, huntKey(device), yes(on), Change{Kind: HuntChanged, Device: device, Origin: by})
}

// SetForward sends all calls of a line to target; "" ends that, also where a target is declared.
func (s *State) SetForward(ctx context.Context, line, target string, by Origin) error {
	if _, ok := s.opt.Accounts.Line(line); !ok {
		return ErrUnknownLine
	}
	if target == line {
		return ErrForwardLoop
	}
	return s.set(ctx, forwardKey(line), target, Change{Kind: ForwardChanged, Line: line, Origin: by})
}

// ResetForward returns a line to what is declared.
func (s *State) ResetForward(ctx context.Context, line string, by Origin) error {
	if _, ok := s.opt.Accounts.Line(line); !ok {
		return ErrUnknownLine
	}
	if err := s.write(ctx, forwardKey(line), "", true); err != nil {
		return err
	}
	c := Change{Kind: ForwardChanged, Line: line, Origin: by}
	s.mu.Lock()
	_, _ = s.loadLocked(forwardKey(line), nil, false)
	s.settingLocked(c)
	s.mu.Unlock()
	s.show(c)
	return nil
}

// set writes a value, then makes it count, then shows it. A value that is there already is only shown again.
func (s *State) set(ctx context.Context, key, value string, c Change) error {
	if old, ok := s.opt.Store.Get(key); !ok || string(old) != value {
		if err := s.write(ctx, key, value, false); err != nil {
			return err
		}
	}
	s.mu.Lock()
	if _, changed := s.loadLocked(key, []byte(value), true); changed {
		s.settingLocked(c)
	}
	s.mu.Unlock()
	s.show(c)
	return nil
}

// settingLocked marks what depends on a changed setting. s.mu is held.
func (s *State) settingLocked(c Change) {
	var topics []string
	switch c.Kind {
	case DNDChanged:
		for _, l := range s.linesOf(c.Device) {
			topics = append(topics, "p/"+l.Number, "f/"+l.Number)
		}
	case ForwardChanged:
		topics = append(topics, "f/"+c.Line)
	case SwitchChanged:
		topics = append(topics, "p/"+c.Line)
	case PrivacyChanged:
		for _, l := range s.linesOf(c.Device) {
			topics = append(topics, "s/"+l.Number)
		}
	}
	s.changedLocked(c, topics...)
}

// show tells the phone itself about a setting. A DND that the phone has published is not echoed (sip-state.md §4.1); a
// forward that it has asked for is, its lamp hangs on that (§5).
func (s *State) show(c Change) {
	switch c.Kind {
	case DNDChanged:
		if c.Origin != ByPhone {
			s.toDevice(c.Device, cisco.Request{DND: s.dndUpdate(c.Device)})
		}
	case PrivacyChanged:
		s.toDevice(c.Device, cisco.Request{Privacy: &cisco.PrivacyUpdate{On: s.Privacy(c.Device)}})
	case HuntChanged:
		s.toDevice(c.Device, cisco.Request{HuntLogin: &cisco.HuntLoginUpdate{On: s.HuntLogin(c.Device)}})
	case ForwardChanged:
		a, ok := s.opt.Accounts.Line(c.Line)
		if !ok || a.Device == "" {
			return
		}
		for _, b := range s.opt.Registrar.Lookup(c.Line) {
			if b.Cisco && b.Reachable() {
				target := s.Forward(c.Line)
				s.Push(b, nil, cisco.Request{Forward: &cisco.ForwardUpdate{
					Line: b.Index, Target: target, ToVoicemail: target != "" && target == a.Voicemail,
				}})
			}
		}
	}
}

func (s *State) dndUpdate(device string) *cisco.DNDUpdate {
	return &cisco.DNDUpdate{On: s.DND(device), Reject: s.DNDReject(device)}
}

// toDevice pushes to the primary line of a Cisco phone, if it is there.
func (s *State) toDevice(device string, r ...cisco.Request) {
	if b := s.primary(device); b != nil {
		s.Push(b, nil, r...)
	}
}

// primary returns the binding of a device's first line if it can be reached.
func (s *State) primary(device string) *registrar.Binding {
	if all := s.opt.Registrar.Device(device); len(all) > 0 && all[0].Reachable() {
		return all[0]
	}
	return nil
}
