package store

import (
	"context"
	"strings"
	"sync"
)

// Change is one field after a commit.
type Change struct {
	Key     string
	Value   []byte // shared by all readers: not to be changed
	Deleted bool
	Version Version
}

// Event is what a Watch hands out: the changes of one atomic group, or the mark that some were lost.
type Event struct {
	Changes []Change
	// Lagged: the reader was too slow and events were dropped. It must Scan again; what follows happened after the mark.
	Lagged bool
}

// Bounds of what waits for one slow reader. When exceeded, all of it is dropped and the mark takes its place.
const (
	watchChanges = 4096
	watchBytes   = 4 << 20
)

type event struct{ changes []Change }

type watches struct {
	mu     sync.Mutex
	set    map[*Watch]struct{}
	closed bool
}

// Watch is a change feed of the keys with one prefix, in the order of commits, from the moment it was made. Events come
// after the fsync and before the writer is answered. It never holds back a writer.
type Watch struct {
	prefix string
	owner  *watches
	wake   chan struct{} // capacity 1

	mu      sync.Mutex // guards the rest
	events  []Event
	changes int
	bytes   int
	lagged  bool
	closed  bool
}

// Watch starts a change feed; the prefix is a plain string of bytes, empty for everything. To follow a state from its
// beginning, start the Watch first and Scan then.
func (s *Store) Watch(prefix string) *Watch {
	w := &Watch{prefix: prefix, owner: &s.watches, wake: make(chan struct{}, 1)}
	s.watches.mu.Lock()
	defer s.watches.mu.Unlock()
	if s.watches.closed {
		w.closed = true
		return w
	}
	if s.watches.set == nil {
		s.watches.set = map[*Watch]struct{}{}
	}
	s.watches.set[w] = struct{}{}
	return w
}

// Next returns the next event and waits for it. It fails with ctx's error, or with ErrClosed after Close of the watch or the
// store once everything was handed out. One goroutine at a time may call it.
func (w *Watch) Next(ctx context.Context) (Event, error) {
	for {
		if e, ok, closed := w.take(); ok {
			return e, nil
		} else if closed {
			return Event{}, ErrClosed
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

func (w *Watch) take() (e Event, ok, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lagged {
		w.lagged = false
		return Event{Lagged: true}, true, false
	}
	if len(w.events) == 0 {
		return Event{}, false, w.closed
	}
	e = w.events[0]
	w.events[0] = Event{}
	w.events = w.events[1:]
	w.changes -= len(e.Changes)
	w.bytes -= size(e.Changes)
	return e, true, false
}

// Close ends the feed. It may be called again.
func (w *Watch) Close() {
	w.owner.mu.Lock()
	delete(w.owner.set, w)
	w.owner.mu.Unlock()
	w.end()
}

func (w *Watch) end() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.signal()
}

func (w *Watch) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (ws *watches) publish(e event) {
	ws.mu.Lock()
	readers := make([]*Watch, 0, len(ws.set))
	for w := range ws.set {
		readers = append(readers, w)
	}
	ws.mu.Unlock()
	for _, w := range readers {
		w.offer(e.changes)
	}
}

func (ws *watches) close() {
	ws.mu.Lock()
	set := ws.set
	ws.set, ws.closed = nil, true
	ws.mu.Unlock()
	for w := range set {
		w.end()
	}
}

func (w *Watch) offer(changes []Change) {
	mine := changes
	if w.prefix != "" {
		mine = nil
		for _, c := range changes {
			if strings.HasPrefix(c.Key, w.prefix) {
				mine = append(mine, c)
			}
		}
	}
	if len(mine) == 0 {
		return
	}
	w.mu.Lock()
	if w.changes+len(mine) > watchChanges || w.bytes+size(mine) > watchBytes {
		w.events, w.changes, w.bytes, w.lagged = nil, 0, 0, true
	}
	if !w.lagged {
		w.events = append(w.events, Event{Changes: mine})
		w.changes += len(mine)
		w.bytes += size(mine)
	}
	w.mu.Unlock()
	w.signal()
}

func size(changes []Change) (n int) {
	for _, c := range changes {
		n += len(c.Key) + len(c.Value)
	}
	return n
}
