package call

import (
	"slices"
	"time"

	"ringfence/sip/cisco"
	"ringfence/sip/plan"
)

// hunt is a call to a group that has not been answered ("sip-calls" §19). All members ring at once, or one after the other:
//
//	next member --answers--> talking
//	     ^  |----no answer, refused, not there--> next; who has refused is not asked again
//	     |--round again while there is time; then the group's rule
type hunt struct {
	group   *plan.HuntGroup
	members []*plan.Line // who may still be asked, in order
	next    int
	until   time.Time
	pilot   []cisco.Param
}

// hunt begins to ring the members of a group.
func (c *Call) startHunt(d plan.Decision) {
	g := d.Group
	c.m.turned(g.Number)
	c.hunt = &hunt{group: g, members: slices.Clone(d.Members), until: time.Now().Add(g.Ring)}
	if g.ShowPilot {
		host := c.caller.host()
		c.hunt.pilot = []cisco.Param{{Name: "huntpiloturi", Value: cisco.HuntPilot(g.Name, g.Number, host.String())}}
	}
	if !g.InTurn() {
		c.ring(c.hunt.members, g.Ring)
		return
	}
	c.ringNext()
}

// ringNext rings the next member that is free.
func (c *Call) ringNext() {
	h := c.hunt
	left := time.Until(h.until)
	now := moment{c.m}
	for range h.members {
		l := h.members[h.next%len(h.members)]
		h.next++
		if left <= 0 {
			break
		}
		if now.Calls(l.Number) == 0 && !l.Rejects(now) && now.Registered(l.Number) {
			c.ring([]*plan.Line{l}, min(h.group.Each, left))
			return
		}
	}
	c.hunt = nil
	cause := plan.NoAnswer
	if len(h.members) == 0 {
		cause = plan.Busy
	}
	c.apply(c.plan.Next(c.decision, cause, now))
}

// device is whose do-not-disturb and log-in count for a line.
func device(l *plan.Line) string {
	if l.Device != "" {
		return l.Device
	}
	return l.Number
}

// huntOn follows when those who rang for a group did not take the call.
func (c *Call) huntOn(f failure) {
	h := c.hunt
	if !h.group.InTurn() {
		c.hunt = nil
		c.apply(c.plan.Next(c.decision, f.cause, moment{c.m}))
		return
	}
	if f.cause != plan.NoAnswer || f.code != 0 {
		h.next-- // who said no, or is not there, is not asked again
		h.members = slices.Delete(h.members, h.next%len(h.members), h.next%len(h.members)+1)
	}
	c.ringNext()
}
