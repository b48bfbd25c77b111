package dtls

import (
	"net/netip"
	"time"
)

// partials joins fragments of handshake messages. Clients' messages fit one datagram on every sane link; this serves the
// others, within narrow bounds: fragments in order, one message per address, 64 addresses, some seconds.
type partials struct {
	list []partial
}

type partial struct {
	from netip.AddrPort
	f    fragment // of the whole; body grows
	till time.Time
}

const (
	maxPartials = 64
	partialLife = 5 * time.Second
)

// add takes a fragment and returns the message when it is whole.
func (p *partials) add(from netip.AddrPort, f *fragment, now time.Time) (fragment, bool) {
	keep := p.list[:0]
	var mine *partial
	for _, x := range p.list {
		if now.Before(x.till) && !(x.from == from && f.offset == 0) {
			keep = append(keep, x)
		}
	}
	p.list = keep
	for i := range p.list {
		if p.list[i].from == from {
			mine = &p.list[i]
		}
	}
	if mine == nil {
		if f.offset != 0 || len(p.list) >= maxPartials {
			return fragment{}, false
		}
		p.list = append(p.list, partial{from, fragment{typ: f.typ, length: f.length, seq: f.seq, body: append([]byte(nil), f.body...)}, now.Add(partialLife)})
		return fragment{}, false
	}
	if f.typ != mine.f.typ || f.seq != mine.f.seq || f.length != mine.f.length || f.offset != len(mine.f.body) {
		return fragment{}, false
	}
	mine.f.body = append(mine.f.body, f.body...)
	if len(mine.f.body) < mine.f.length {
		return fragment{}, false
	}
	whole := mine.f
	mine.till = now // done: the next call forgets it
	return whole, true
}
