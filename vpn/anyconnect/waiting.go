package anyconnect

import (
	"container/list"
	"net/netip"
	"sync"
)

// waiting is the connections that have no tunnel: half-open TLS, log-in, kept alive. It is bounded in all and per source.
// When a bound is reached the oldest goes, of the source or of all: half-open connections are old, clients that log in are
// young, so a flood disturbs itself first.
type waiting struct {
	max, perSource int

	mu      sync.Mutex // guards all below
	all     *list.List // of *conn, oldest first
	sources map[netip.Addr]*list.List
	evicted uint64
	closed  bool
}

// place is where a connection stands in both lists.
type place struct {
	all, source *list.Element
}

func newWaiting(limit, perSource int) *waiting {
	return &waiting{max: limit, perSource: perSource, all: list.New(), sources: make(map[netip.Addr]*list.List)}
}

func (w *waiting) add(c *conn) {
	w.mu.Lock()
	src := w.sources[c.peer.Addr()]
	if src == nil {
		src = list.New()
		w.sources[c.peer.Addr()] = src
	}
	var victim *conn
	if src.Len() >= w.perSource {
		victim = src.Front().Value.(*conn)
	} else if w.all.Len() >= w.max {
		victim = w.all.Front().Value.(*conn)
	}
	c.place = place{w.all.PushBack(c), src.PushBack(c)}
	if victim != nil {
		w.evicted++
		w.removeLocked(victim)
	}
	closed := w.closed
	w.mu.Unlock()
	if victim != nil {
		victim.close()
	}
	if closed {
		c.close()
	}
}

func (w *waiting) remove(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.removeLocked(c)
}

// removeLocked is idempotent. w.mu is held.
func (w *waiting) removeLocked(c *conn) {
	if c.place.all == nil {
		return
	}
	w.all.Remove(c.place.all)
	src := w.sources[c.peer.Addr()]
	src.Remove(c.place.source)
	if src.Len() == 0 {
		delete(w.sources, c.peer.Addr())
	}
	c.place = place{}
}

func (w *waiting) stats() (n int, evicted uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.Len(), w.evicted
}

// closeAll closes all connections, and those that are added later.
func (w *waiting) closeAll() {
	w.mu.Lock()
	w.closed = true
	var all []*conn
	for e := w.all.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*conn))
	}
	w.mu.Unlock()
	for _, c := range all {
		c.close()
	}
}
