package provision

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// Limits of the guard. A site with more new phones than this behind one address waits ten minutes for the rest of them.
const (
	guardUnknown = 64 // different unknown devices that one source may ask for
	guardWindow  = 10 * time.Minute
	guardKnown   = 1024 // devices remembered per source
	guardSources = 4096 // sources remembered; the one longest silent makes room
)

// guard slows those who guess device names (SEP and every MAC in turn) to find device files. A source that asked for too
// many devices that do not exist is answered "not found" for every device, except those that it asked for before: real
// phones behind the same address go on. Sources are kept apart by transport, since UDP addresses can be forged and must
// not lock out the HTTP of their owner.
type guard struct {
	mu      sync.Mutex
	sources map[guardKey]*list.Element // of *source
	order   *list.List                 // longest silent first
}

type guardKey struct {
	transport Transport
	addr      netip.Addr
}

type source struct {
	key     guardKey
	since   time.Time // of the window
	unknown map[string]struct{}
	known   map[string]struct{}
}

func newGuard() *guard {
	return &guard{sources: make(map[guardKey]*list.Element), order: list.New()}
}

// admit tells whether a request of this source for a device is to be looked at; exists says whether the device is
// declared. first is true when the source has just reached its limit.
func (g *guard) admit(key guardKey, device string, exists bool, now time.Time) (ok, first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.sources[key]
	if e == nil {
		if len(g.sources) >= guardSources {
			oldest := g.order.Front()
			delete(g.sources, oldest.Value.(*source).key)
			g.order.Remove(oldest)
		}
		e = g.order.PushBack(&source{key: key, since: now, unknown: make(map[string]struct{}), known: make(map[string]struct{})})
		g.sources[key] = e
	}
	g.order.MoveToBack(e)
	s := e.Value.(*source)
	if age := now.Sub(s.since); age > guardWindow || age < 0 {
		s.since = now
		clear(s.unknown)
	}
	blocked := len(s.unknown) >= guardUnknown
	if exists {
		if _, ok := s.known[device]; ok {
			return true, false
		}
		if blocked {
			return false, false
		}
		if len(s.known) < guardKnown {
			s.known[device] = struct{}{}
		}
		return true, false
	}
	if blocked {
		return false, false
	}
	s.unknown[device] = struct{}{}
	return true, len(s.unknown) == guardUnknown
}
