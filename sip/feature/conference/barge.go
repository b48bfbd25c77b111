package conference

import (
	"slices"

	"ringfence/sip/call"
)

// Enter is call.Options.Join: a phone of a shared line does something with a call that another phone of the line has ("sip-calls"
// §26). 603 tells it that it may not: the user of the other phone wants privacy, has marked the call by Select, or the line has
// it switched off.
//
//	Barge    a third party comes in; a fourth makes a conference of it
//	CBarge   a conference, in which both phones of the line are administrators
//	Resume   the phone takes the held call over
//
// When somebody leaves, the others go on.
func (a *Rooms) Enter(c *call.Call, target *call.Leg, feature string) {
	private := a.Private != nil && a.Private(target.Device)
	switch {
	case private, feature != call.Resume && target.Line.Barge == "off", feature == call.Resume && a.isMarked(target):
		a.log.Info("call of another phone is private", "line", target.Line.Number, "phone", target.Device)
		c.Refuse(603)
		return
	case feature == call.Resume:
		c.TakeOver(target)
		return
	}
	plain := feature == call.Barge && target.Line.Barge != "cbarge"
	a.mu.Lock()
	r := &room{all: a, opt: a.opt, choice: map[string]string{}, shown: map[string]*call.Leg{}, plain: plain}
	a.mu.Unlock()
	r.opt.Keep = true
	var shows call.Identity // of a barge: the party of the other phone
	if !plain {
		shows = name()
	}
	made := func(m *call.Room, first, last *call.Leg) {
		r.Room, r.admins = m, []*call.Leg{first, last}
		a.number(r)
	}
	c.StepInto(target, shows, r.hooks, made, func(_ *call.Room, l *call.Leg) bool { return a.widen(target, l) })
}

// widen makes a place in the room of target for another phone of its line. It runs in the room's goroutine.
func (a *Rooms) widen(target, l *call.Leg) bool {
	a.mu.Lock()
	r := a.rooms[a.guests[target.ID].room]
	a.mu.Unlock()
	if r == nil || len(r.Guests()) >= r.opt.MaxGuests {
		return false
	}
	r.admins = append(r.admins, l)
	if r.plain {
		r.plain = false
		for _, g := range r.Guests() {
			r.admit(g)
		}
	}
	return true
}

// isMarked tells whether the user of the phone has marked a call, which keeps other phones from taking it over.
func (a *Rooms) isMarked(l *call.Leg) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Contains(a.selected[l.Device], l)
}
