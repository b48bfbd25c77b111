package media

import "net/netip"

// latch decides from which address packets are taken, and where ours go. Phones behind address translation send from
// elsewhere than they say, and anyone may send into an open port.
//
//	           from the named address        from elsewhere (allowed once)
//	unset ──────────────► named      unset ──────────────► elsewhere
//	elsewhere ──── from the named address ────► named
//	named, elsewhere: anything else is a third party: ignored and counted
//
// A packet that SRTP has authenticated is proof enough: it moves the latch at any time. A description that names another
// address starts over; one that repeats the address changes nothing.
type latch struct {
	named  netip.AddrPort // from the description; unset means that nothing is known yet
	origin netip.Addr     // where the party's signalling comes from; limits what "elsewhere" may be
	strict bool           // take the named address only
	at     netip.AddrPort // latched
	state  latchState
}

type latchState uint8

const (
	latchUnset latchState = iota
	latchElsewhere
	latchNamed
)

// describe takes the address of a new description.
func (l *latch) describe(named netip.AddrPort, origin netip.Addr, strict bool) {
	if l.named == named && l.origin == origin && l.strict == strict {
		return
	}
	*l = latch{named: named, origin: origin, strict: strict}
}

// admits tells whether a packet from an address may be looked at; authenticated packets are asked for again with accept.
func (l *latch) admits(from netip.AddrPort, secure bool) bool {
	switch {
	case l.state != latchUnset && from == l.at:
		return true
	case from == l.named:
		// Our view of "named" is the strongest claim, but only until it has been seen once.
		return l.state != latchNamed
	case l.strict:
		return false
	case secure:
		return true
	case l.state != latchUnset:
		return false
	case !l.named.IsValid():
		return false
	case l.origin.IsValid():
		// Only the party's own translator: the host that its signalling comes from, or the host it named.
		return from.Addr() == l.origin || from.Addr() == l.named.Addr()
	}
	return true
}

// accept records the source of a packet that was found good, and tells whether the destination changed.
func (l *latch) accept(from netip.AddrPort) bool {
	if l.state != latchUnset && from == l.at {
		return false
	}
	before := l.target()
	l.at = from
	if from == l.named {
		l.state = latchNamed
	} else {
		l.state = latchElsewhere
	}
	return before != from
}

// target is where our packets go; the zero value when nowhere yet.
func (l *latch) target() netip.AddrPort {
	if l.state != latchUnset {
		return l.at
	}
	return l.named
}
