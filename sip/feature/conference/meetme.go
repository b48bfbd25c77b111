package conference

import (
	"maps"
	"slices"

	"ringfence/config"
	"ringfence/sip/call"
	"ringfence/sip/plan"
)

// Meet-me rooms ("sip-calls" §20, "dialplan" DP-23) are conferences with a number. The MeetMe key opens one:
//
//	closed --MeetMe key: the host is in--> open --host leaves--> everybody is released, closed
//	   number dialled: 404                  number dialled: joined; MeetMe key: 503
//
// A room that is anybody's is opened by whoever calls it first, and closed when nobody is left.

// openTo tells for each number of a room whether anybody may open it.
func openTo(d *config.Document) map[string]bool {
	out := map[string]bool{}
	for _, r := range d.Rooms {
		numbers, err := config.NumberRange(r.Range)
		if err != nil {
			continue // the document's checks have refused it
		}
		for _, n := range numbers {
			out[string(n)] = r.Host == "anyone"
		}
	}
	return out
}

func meetMe(number string) call.Identity {
	return call.Identity{Name: "MeetMe " + number, Number: number}
}

// MeetMe is the service of the key.
func (a *Rooms) MeetMe(c *call.Call, number string) {
	a.mu.Lock()
	anybody, known := a.opt.Numbers[number]
	_, open := a.meetings[number]
	a.mu.Unlock()
	switch {
	case !known:
		c.Refuse(404)
	case open && !anybody:
		c.Refuse(503)
	case open:
		a.Dialled(c, plan.Object{Number: number})
	default:
		a.open(c, number, anybody)
	}
}

// Dialled lets a caller into a room by its number.
func (a *Rooms) Dialled(c *call.Call, o plan.Object) {
	a.mu.Lock()
	anybody := a.opt.Numbers[o.Number]
	r := a.meetings[o.Number]
	var room *call.Room
	if r != nil {
		room = r.Room
	}
	a.mu.Unlock()
	switch {
	case room != nil:
		c.EnterRoom(room, meetMe(o.Number), func(*call.Leg) bool { return len(r.Guests()) < r.opt.MaxGuests }, 503)
	case r == nil && anybody:
		a.open(c, o.Number, true)
	default:
		c.Refuse(404)
	}
}

func (a *Rooms) open(c *call.Call, number string, anybody bool) {
	a.mu.Lock()
	if a.meetings[number] != nil {
		a.mu.Unlock()
		c.Refuse(503)
		return
	}
	r := &room{all: a, opt: a.opt, choice: map[string]string{}, shown: map[string]*call.Leg{}, number: number}
	r.opt.Keep = true
	a.meetings[number] = r
	a.mu.Unlock()
	err := c.OpenRoom(meetMe(number), r.hooks(), func(m *call.Room, first *call.Leg) {
		a.mu.Lock()
		r.Room = m
		a.mu.Unlock()
		if !anybody {
			r.host = first
		}
		a.number(r)
	})
	if err != nil {
		a.log.Info("room cannot be opened", "dialled", number, "err", err)
		a.mu.Lock()
		delete(a.meetings, number)
		a.mu.Unlock()
	}
}

// Open lists the numbers of the rooms that are open.
func (a *Rooms) Open() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.meetings))
}
