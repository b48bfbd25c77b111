package conference

import (
	"slices"

	"ringfence/sip/call"
	"ringfence/sip/cisco"
)

// Select and Join of 7900s ("sip-calls" §8): the user marks calls, on any line of the phone, and Join makes one conference of
// the marked ones and of the one that it was pressed in. The marks are the device's, in their order; they go with Join and with
// their calls.

const maxSelected = 32

// Select marks a call, Unselect takes the mark away.
func (a *Rooms) Select(l *call.Leg, k *call.Key) {
	a.mu.Lock()
	list := slices.DeleteFunc(a.selected[l.Device], func(x *call.Leg) bool { return x == l })
	if k.Event.Event == "Select" && len(list) < maxSelected {
		list = append(list, l)
	}
	a.setSelectedLocked(l.Device, list)
	a.mu.Unlock()
	k.Done(200)
}

func (a *Rooms) setSelectedLocked(device string, list []*call.Leg) {
	if len(list) == 0 {
		delete(a.selected, device)
		return
	}
	a.selected[device] = list
}

// Down forgets a leg that is over.
func (a *Rooms) Down(l *call.Leg) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if list := a.selected[l.Device]; slices.Contains(list, l) {
		a.setSelectedLocked(l.Device, slices.DeleteFunc(list, func(x *call.Leg) bool { return x == l }))
	}
}

// marked takes the marked calls of a device, without the one that Join was pressed in.
func (a *Rooms) marked(l *call.Leg) []*call.Leg {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := slices.DeleteFunc(a.selected[l.Device], func(x *call.Leg) bool { return x == l })
	delete(a.selected, l.Device)
	return list
}

// Cancel is the key by which a user gives a feature up: marks and a pending choice go.
func (a *Rooms) Cancel(k *call.Key) bool {
	a.mu.Lock()
	delete(a.selected, k.Identity.Device)
	a.mu.Unlock()
	k.Accept()
	k.Done(200)
	return true
}

// Join is the key in a call of two.
func (a *Rooms) Join(c *call.Call, l *call.Leg, k *call.Key) {
	list := a.marked(l)
	if len(list) == 0 || c.Other(l) == nil {
		a.notJoined(l, k)
		return
	}
	a.joinFirst(c, l, k, list)
}

// joinFirst makes the room with the first marked call that is still there.
func (a *Rooms) joinFirst(c *call.Call, l *call.Leg, k *call.Key, list []*call.Leg) {
	a.gather(c, l, list[0], func(r *room, err error) {
		switch {
		case err == nil:
			r.Release(list[0])
			r.joinNext(l, k, list[1:])
		case len(list) > 1 && c.Other(l) != nil:
			a.joinFirst(c, l, k, list[1:]) // a marked call that has vanished is left out
		default:
			a.notJoined(l, k)
		}
	})
}

// joinNext adds the others, one after the other.
func (r *room) joinNext(l *call.Leg, k *call.Key, list []*call.Leg) {
	if len(list) == 0 {
		r.joined(l, k)
		return
	}
	if len(r.Guests()) >= r.opt.MaxGuests {
		r.all.notJoined(l, k)
		return
	}
	r.Add(list[0], func(err error) {
		if err == nil {
			r.Release(list[0])
		}
		r.joinNext(l, k, list[1:])
	})
}

func (r *room) joined(l *call.Leg, k *call.Key) {
	k.Done(200)
	if !l.Talking() {
		return
	}
	if l.Held() { // the phone keeps its hold by itself ("sip-calls" §3)
		l.Push(nil, cisco.Request{HoldRetrieve: &cisco.HoldRetrieve{Dialog: k.Dialog()}})
	}
	l.Push(nil, cisco.Request{Notify: &cisco.NotifyReq{Dialog: k.Dialog(), Feature: "Join", Status: "Complete"}})
}

func (a *Rooms) notJoined(l *call.Leg, k *call.Key) {
	k.Done(500)
	if l.Talking() {
		l.Push(nil, cisco.Request{StatusLine: &cisco.StatusLine{Dialog: k.Dialog(), Text: cisco.Phrase('S'), Seconds: 10, Priority: 1}})
	}
}
