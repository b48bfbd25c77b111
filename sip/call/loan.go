package call

// loan is the far end of a call, under way to a room. The call it comes from waits until it is settled.
//
//	far end talks:  it moves at once, frozen; settle keeps it and ends the phone's leg, or takes it back
//	far end rings:  nothing moves; settle says which room the phone that answers shall come to
type loan struct {
	far   *Leg   // nil if it rings still
	owner *owner // it comes from
	// settle ends the loan: into a room, or back with nil. It may be called in any goroutine, once.
	settle func(into *Room)
}

// borrow begs the owner of target for its far end. Either got is called in the goroutine of to, or refused in any goroutine.
func borrow(target *Leg, to *owner, got func(*loan), refused func(error)) {
	target.mu.Lock()
	o := target.owner
	target.mu.Unlock()
	no := func() { refused(ErrNotReplaceable{481}) }
	if o == nil || o == to {
		no()
		return
	}
	err := o.send(message{drop: no, run: func() {
		c, ok := o.h.(*Call)
		if _, mine := o.legs[target]; !ok || !mine || c.Moving() {
			no()
			return
		}
		var l *loan
		switch far := c.Other(target); {
		case far != nil && target.talking():
			l = c.lend(target, far)
		case target == c.caller && target.waiting() && len(c.branches) > 0:
			l = c.promise(target)
		default:
			refused(ErrNotReplaceable{503})
			return
		}
		to.insist(message{run: func() { got(l) }, drop: func() { l.settle(nil); no() }})
	}})
	if err != nil {
		no()
	}
}

// lend gives the party that target talks with away, until the loan is settled.
func (c *Call) lend(target, far *Leg) *loan {
	place := &c.callee
	if c.caller == far {
		place = &c.caller
	}
	*place, c.lent = nil, far
	c.release(far)
	c.waiting++
	end := func(kept bool) {
		c.waiting--
		c.lent = nil
		here := c.caller == target || c.callee == target
		switch {
		case kept && here:
			c.leave(target)
			target.Hangup()
		case !kept:
			c.adopt(far)
			if here {
				*place = far
				c.audio()
			} else {
				far.Hangup() // the phone has hung up meanwhile
			}
		}
	}
	return &loan{far: far, owner: c.owner, settle: func(into *Room) {
		drop := func() {}
		if into == nil {
			drop = far.abandon
		}
		c.insist(message{run: func() { end(into != nil) }, drop: drop})
	}}
}

// promise holds a call whose far end rings, until the loan is settled. The phone's early call then ends as in a transfer
// ("sip-calls" §4.3, §5), and whoever answers goes to the room.
func (c *Call) promise(target *Leg) *loan {
	c.waiting++
	return &loan{owner: c.owner, settle: func(into *Room) {
		c.insist(message{run: func() { c.waiting--; c.fulfil(target, into) }})
	}}
}

func (c *Call) fulfil(target *Leg, into *Room) {
	if into == nil {
		return
	}
	send := func(l *Leg) { // nil: nobody comes
		drop := func() {}
		if l != nil {
			c.release(l)
			drop = l.abandon
		}
		into.insist(message{run: func() { into.arrive(c.owner, l) }, drop: drop})
	}
	switch {
	case c.caller != target: // it has given up meanwhile
		send(nil)
	case target.waiting() && len(c.branches) > 0:
		c.caller = nil
		target.h = departing{c}
		c.divert = send
		target.reject(500)
	case c.Other(target) != nil && target.talking(): // it was answered meanwhile
		far := c.callee
		c.callee = nil
		send(far)
		c.leave(target)
		target.Hangup()
	default:
		send(nil)
		if target.waiting() {
			target.reject(500)
		}
	}
}

// arrive is the end of waiting for a party that rang: l has answered, or nobody has.
func (r *Room) arrive(from *owner, l *Leg) {
	delete(r.coming, from)
	switch {
	case l == nil:
		r.settle()
	case r.isOver:
		r.adopt(l)
		l.Hangup()
	default:
		r.adopt(l)
		r.enter(l)
	}
}
