package dtls

import (
	"context"
	"time"
)

// plain takes a record without protection: it can only belong to a handshake.
func (e *Endpoint) plain(r *record, d inbound, now time.Time) {
	if r.typ != typeHandshake || r.version != VersionLegacy && r.version>>8 != 0xfe {
		if r.typ != typeCCS && r.typ != typeAlert { // these say nothing: keys change with what authenticates
			e.bad.Add(1)
		}
		return
	}
	for rest := r.body; len(rest) > 0; {
		var f fragment
		var err error
		if f, rest, err = nextFragment(rest); err != nil {
			e.bad.Add(1)
			return
		}
		if !f.whole() {
			whole, ok := e.parts.add(d.from, &f, now)
			if !ok {
				continue
			}
			f = whole
		}
		if f.typ == msgClientHello {
			e.hello(&f, d, now)
		} else {
			e.continues(&f, d, now)
		}
	}
}

// hello takes a ClientHello: a new handshake, or a repetition of one.
func (e *Endpoint) hello(f *fragment, d inbound, now time.Time) {
	var hello clientHello
	if err := hello.Unmarshal(f.body); err != nil {
		e.bad.Add(1)
		return
	}
	id, ok := hello.id()
	if !ok {
		e.unknown.Add(1)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	ag := e.agreed[id]
	if ag == nil {
		e.unknown.Add(1)
		return
	}
	if c := e.pending[d.from]; c != nil && c.ag == ag && c.hs.random == hello.random {
		if now.Sub(c.last) >= resendGap {
			c.sendFlight(now)
		}
		return
	}
	if c := e.peers[d.from]; c != nil && c.hs.random == hello.random {
		return // a late copy
	}
	if !ag.hellos.Allow() {
		e.unknown.Add(1)
		return
	}
	hs, err := newHandshake(ag, f.seq, &hello, f.body)
	if err != nil {
		e.bad.Add(1)
		e.log.Debug("VPN datagram handshake", "peer", d.from, "err", err)
		return
	}
	e.roomLocked(ag)
	c := &Conn{e: e, ag: ag, hs: hs, in: hs.in, since: now, remote: d.from, local: d.local}
	e.pending[d.from] = c
	c.sendFlight(now)
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// roomLocked makes room for a handshake: of the same agreement the oldest goes, and if there are too many in all the oldest
// of all. e.mu is held.
func (e *Endpoint) roomLocked(ag *Agreement) {
	var mine, all *Conn
	n := 0
	for _, c := range e.pending {
		if all == nil || c.since.Before(all.since) {
			all = c
		}
		if c.ag == ag {
			n++
			if mine == nil || c.since.Before(mine.since) {
				mine = c
			}
		}
	}
	if n >= perAgreement {
		delete(e.pending, mine.Remote())
	} else if len(e.pending) >= maxPending {
		delete(e.pending, all.Remote())
	}
}

// continues takes a further message without protection: the client's key exchange, or a repetition of it.
func (e *Endpoint) continues(f *fragment, d inbound, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.pending[d.from]; c != nil && c.hs.state == hsWaiting {
		if _, err := c.hs.message(f, false); err != nil {
			e.bad.Add(1)
			return
		}
		c.in = c.hs.in
		return
	}
	e.repeatLocked(d, now)
}

// repeatLocked answers a client that repeats its last flight because ours was lost. e.mu is held.
func (e *Endpoint) repeatLocked(d inbound, now time.Time) {
	if c := e.peers[d.from]; c != nil && len(c.hs.flight) > 0 && now.Sub(c.since) < lastFlight && now.Sub(c.last) >= resendGap {
		c.sendFlight(now)
	}
}

// finishing takes a handshake record under keys: the client's Finished.
func (e *Endpoint) finishing(r *record, d inbound, now time.Time) {
	e.mu.Lock()
	c := e.pending[d.from]
	if c == nil || c.in == nil {
		e.repeatLocked(d, now)
		e.mu.Unlock()
		return
	}
	done, err := c.finished(r, now)
	if err != nil {
		e.mu.Unlock()
		e.bad.Add(1)
		return
	}
	if !done {
		e.mu.Unlock()
		return
	}
	delete(e.pending, d.from)
	old := e.peers[d.from]
	if old != nil {
		e.forgetLocked(old)
	}
	c.up, c.since = true, now
	e.peers[d.from] = c
	e.placeLocked(c, d.from.Addr())
	e.placeLocked(c, c.ag.Peer)
	e.handshakes.Add(1)
	e.mu.Unlock()
	if old != nil && !old.closed.Swap(true) && old.ag.Handler != c.ag.Handler {
		old.ag.Handler.Down(old, "another channel has its address")
	}
	c.ag.Handler.Up(c)
}

// finished checks the client's Finished. e.mu is held.
func (c *Conn) finished(r *record, now time.Time) (done bool, err error) {
	body, err := c.open(nil, r)
	if err != nil {
		return false, err
	}
	f, rest, err := nextFragment(body)
	if err != nil || len(rest) > 0 || !f.whole() {
		return false, errMessage
	}
	flight, err := c.hs.message(&f, true)
	if err != nil {
		return false, err
	}
	if flight {
		c.sendFlight(now)
	} else {
		c.mu.Lock()
		c.out = c.hs.out
		c.mu.Unlock()
	}
	return true, nil
}

// clock sends flights again while handshakes wait.
func (e *Endpoint) clock(ctx context.Context) {
	t := time.NewTimer(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.wake:
		}
		for e.tick(time.Now()) {
			t.Reset(tickEvery)
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
	}
}

// tick repeats and gives up handshakes; it tells whether some still wait.
func (e *Endpoint) tick(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for at, c := range e.pending {
		switch {
		case now.Sub(c.since) >= handshakeLife:
			delete(e.pending, at)
		case c.tries < resendMax && now.Sub(c.last) >= resendAfter<<c.tries:
			c.tries++
			c.sendFlight(now)
		}
	}
	return len(e.pending) > 0
}
