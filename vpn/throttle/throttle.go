// Package throttle slows the guessing of passwords (AnyConnect page §9): points per source address, per name, and per name at
// a source; at a limit the password is not even looked at for some minutes.
//
// Phones behind one address translation share their source. Hence a name that has logged in from a source before is judged by
// its own wrong passwords there alone: neither a guesser beside it nor one elsewhere locks it out. Sources with a live
// certificate session gather no points of their own (the caller says so); the names guessed at from there still do.
//
// Every table is bounded. A full table gives up what has expired, then the entry with the fewest points.
package throttle

import (
	"net/netip"
	"sync"
	"time"
)

// Limits says how many points are too many. The zero value is the page's: 10 for a wrong password, banned at 80 for 300 s,
// forgotten after 1200 s.
type Limits struct {
	Wrong, Ban     int
	Reset, BanTime time.Duration
	Entries        int // of each table, 4096 when 0
}

// knownFor is how long a name that logged in from a source is known there.
const knownFor = 30 * 24 * time.Hour

// Guard counts. It is safe for concurrent use.
type Guard struct {
	l Limits

	mu      sync.Mutex // guards all below
	sources table[netip.Prefix]
	names   table[string]
	pairs   table[pair]
	known   table[pair] // points stay 0
	refused uint64
}

type pair struct {
	source netip.Prefix
	name   string
}

type entry struct {
	points      int
	reset, free time.Time // when points are forgotten; until when banned
}

type table[K comparable] map[K]entry

// New makes a guard.
func New(l Limits) *Guard {
	if l.Wrong == 0 {
		l.Wrong = 10
	}
	if l.Ban == 0 {
		l.Ban = 80
	}
	if l.Reset == 0 {
		l.Reset = 1200 * time.Second
	}
	if l.BanTime == 0 {
		l.BanTime = 300 * time.Second
	}
	if l.Entries == 0 {
		l.Entries = 4096
	}
	return &Guard{l: l, sources: table[netip.Prefix]{}, names: table[string]{}, pairs: table[pair]{}, known: table[pair]{}}
}

// source is what counts as one source: an IPv4 address, an IPv6 /64.
func source(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		p, _ := a.Prefix(64)
		return p
	}
	return netip.PrefixFrom(a, a.BitLen())
}

// bound keeps names that strangers choose short.
func bound(name string) string {
	if len(name) > 64 {
		return name[:64]
	}
	return name
}

// Allowed tells whether a password of name from a may be looked at.
func (g *Guard) Allowed(a netip.Addr, name string, now time.Time) bool {
	src, name := source(a), bound(name)
	at := pair{src, name}
	g.mu.Lock()
	defer g.mu.Unlock()
	ok := !g.pairs.banned(at, now)
	if _, known := g.known.live(at, now); ok && !known {
		ok = !g.sources.banned(src, now) && !g.names.banned(name, now)
	}
	if !ok {
		g.refused++
	}
	return ok
}

// Wrong counts a wrong password. When exempt, the source itself gets no points.
func (g *Guard) Wrong(a netip.Addr, name string, exempt bool, now time.Time) {
	src, name := source(a), bound(name)
	g.mu.Lock()
	defer g.mu.Unlock()
	add(g, g.pairs, pair{src, name}, now)
	if _, known := g.known.live(pair{src, name}, now); known {
		return // the user mistypes: that is no attack on others of the source
	}
	add(g, g.names, name, now)
	if !exempt {
		add(g, g.sources, src, now)
	}
}

// Right says that name gave its password: it is known at this source from now on.
func (g *Guard) Right(a netip.Addr, name string, now time.Time) {
	at := pair{source(a), bound(name)}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.pairs, at)
	if _, ok := g.known[at]; !ok {
		g.known.room(g.l.Entries, now)
	}
	g.known[at] = entry{reset: now.Add(knownFor)}
}

// Refused counts passwords that were not looked at.
func (g *Guard) Refused() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused
}

func add[K comparable](g *Guard, t table[K], k K, now time.Time) {
	e, ok := t.live(k, now)
	if !ok {
		if _, stale := t[k]; !stale {
			t.room(g.l.Entries, now)
		}
		e = entry{reset: now.Add(g.l.Reset)}
	}
	if e.points += g.l.Wrong; e.points >= g.l.Ban {
		e.free, e.points = now.Add(g.l.BanTime), g.l.Ban-g.l.Wrong // one more after the ban bans again
		if e.reset.Before(e.free) {
			e.reset = e.free
		}
	}
	t[k] = e
}

// live returns the entry unless it has expired.
func (t table[K]) live(k K, now time.Time) (entry, bool) {
	e, ok := t[k]
	return e, ok && now.Before(e.reset)
}

func (t table[K]) banned(k K, now time.Time) bool {
	e, ok := t.live(k, now)
	return ok && now.Before(e.free)
}

// room makes room for one entry.
func (t table[K]) room(limit int, now time.Time) {
	if len(t) < limit {
		return
	}
	var least K
	first, low := true, entry{}
	for k, e := range t {
		if !now.Before(e.reset) {
			delete(t, k)
			continue
		}
		if first || e.points < low.points || e.points == low.points && e.reset.Before(low.reset) {
			first, least, low = false, k, e
		}
	}
	if len(t) >= limit {
		delete(t, least)
	}
}
