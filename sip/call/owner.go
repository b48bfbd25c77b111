package call

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"ringfence/internal/task"
)

// owner is the goroutine that a call belongs to. Everything that happens to its legs, and everything that other owners ask of
// it, is done there, one thing after the other.
//
// Its inbox is bounded without ever making anyone wait: events are kept by the leg that they happened to, at most maxEvents
// each, and the owner knows only which of its legs have some; messages of other owners are at most maxMail. A leg whose queue
// is full ends its call; a message that finds no room is refused, and whoever sent it keeps what it was about.
//
// A leg moves to another owner as a value: release freezes it (its events wait in its own queue), a message carries it, adopt
// makes the new owner read the queue. Whatever happens to the leg meanwhile arrives there, in order.
type owner struct {
	m   *Manager
	id  string
	log *slog.Logger
	h   handler

	mu     sync.Mutex
	ready  []*Leg
	mail   []message
	closed bool
	wake   chan struct{}

	// Of the goroutine.
	legs    map[*Leg]struct{}
	past    []LegInfo // of those that ended here
	began   bool      // was told to Options.Began
	waiting int       // legs lent to another owner, which may come back
}

const maxPast = 100

// maxThrough bounds how many owners of a leg are remembered.
const maxThrough = 20

// remember keeps what a leg was, for the record.
func (o *owner) remember(l *Leg) {
	delete(o.legs, l)
	if len(o.past) < maxPast {
		o.past = append(o.past, l.describe())
	}
}

// list describes the legs that ended here and those that are here.
func (o *owner) list() []LegInfo {
	list := slices.Clone(o.past)
	for l := range o.legs {
		list = append(list, l.describe())
	}
	slices.SortFunc(list, func(a, b LegInfo) int {
		if n := len(a.ID) - len(b.ID); n != 0 {
			return n
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

// message is something another owner wants done. Exactly one of run and drop is called, drop when the owner has ended.
type message struct{ run, drop func() }

// Bounds of the inbox.
const (
	maxMail   = 32
	maxEvents = 64
)

// handler is what an owner does with its legs: a call, a room, a parking place. All methods are called in the owner's goroutine.
// answered, refer and key may give the leg away: whoever calls them does not touch it afterwards.
type handler interface {
	ringing(l *Leg, code int)  // an outgoing leg's phone was reached; code is 180 to 183
	answered(l *Leg)           // an outgoing leg was answered and its media agreed
	failed(l *Leg, f failure)  // an outgoing leg came to nothing
	canceled(l *Leg)           // the caller of an incoming leg has given up; the leg is over
	ended(l *Leg)              // the phone hung up, or is lost; the leg is over or will be
	agreed(l *Leg)             // the media of a leg was agreed anew
	held(l *Leg)               // the phone has put the call on hold, or taken it back
	refer(l *Leg, r *Referral) // the phone wants the call transferred
	key(l *Leg, k *Key)        // a softkey was pressed
	down(l *Leg)               // the leg is gone and no longer the owner's
	info() Info                // for listings
	stop()                     // the server stops, or the owner has failed: end everything
}

var errOwnerFull = errors.New("the call's inbox is full")

func newOwner(m *Manager, id string, h handler) *owner {
	return &owner{
		m: m, id: id, h: h, log: m.log.With("call", id), wake: make(chan struct{}, 1), legs: make(map[*Leg]struct{}),
	}
}

// poke wakes the goroutine.
func (o *owner) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// enqueue notes that a leg has events; false if the owner has ended.
func (o *owner) enqueue(l *Leg) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.ready = append(o.ready, l)
	o.poke()
	return true
}

// send gives the owner a message; an error means that it was not taken.
func (o *owner) send(m message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
		return errGone
	case len(o.mail) >= maxMail:
		return errOwnerFull
	}
	o.mail = append(o.mail, m)
	o.poke()
	return nil
}

// insist is send for an answer that must arrive: while the inbox is full it is tried again, and if the owner has ended, drop is
// called.
func (o *owner) insist(m message) {
	switch err := o.send(m); {
	case errors.Is(err, errOwnerFull):
		time.AfterFunc(100*time.Millisecond, func() { o.insist(m) })
	case err != nil && m.drop != nil:
		m.drop()
	}
}

// run is the goroutine. It ends when no leg is left.
func (o *owner) run(ctx context.Context) {
	for {
		for {
			l, msg, ok := o.next()
			if !ok {
				break
			}
			err := task.Guard(o.log, "call", func() {
				if l != nil {
					l.drain(o)
				} else {
					msg.run()
				}
			})
			if err != nil {
				return // the cleanup of the goroutine ends the call
			}
		}
		if o.finish() {
			return
		}
		if task.Guard(o.log, "call", o.settled) != nil {
			return
		}
		o.m.publish(o)
		select {
		case <-o.wake:
		case <-ctx.Done():
			return
		}
	}
}

func (o *owner) next() (*Leg, message, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.ready) > 0 {
		l := o.ready[0]
		o.ready = o.ready[1:]
		return l, message{}, true
	}
	if len(o.mail) > 0 {
		m := o.mail[0]
		o.mail = o.mail[1:]
		return nil, m, true
	}
	return nil, message{}, false
}

// finish closes the inbox if nothing is left to own.
func (o *owner) finish() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.legs) > 0 || o.waiting > 0 || len(o.ready) > 0 || len(o.mail) > 0 {
		return false
	}
	o.closed = true
	return true
}

// cleanup runs after the goroutine: after a panic, or when the server stops, it ends what is left.
func (o *owner) cleanup(error) {
	if len(o.legs) > 0 {
		_ = task.Guard(o.log, "call end", o.h.stop)
	}
	for l := range o.legs {
		_ = task.Guard(o.log, "call end", l.abandon)
	}
	clear(o.legs)
	o.mu.Lock()
	o.closed = true
	mail := o.mail
	o.mail, o.ready = nil, nil
	o.mu.Unlock()
	for _, m := range mail {
		if m.drop != nil {
			_ = task.Guard(o.log, "call end", m.drop)
		}
	}
	o.m.gone(o)
	// One record per owner; one that has given all its legs away has none.
	if i := o.h.info(); o.m.opt.Ended != nil && len(i.Legs) > 0 {
		_ = task.Guard(o.log, "call record", func() { o.m.opt.Ended(i) })
	}
}

// adopt makes o the owner of a leg; its waiting events come next.
func (o *owner) adopt(l *Leg) {
	o.legs[l] = struct{}{}
	if n := len(l.through); l.last != "" && l.last != o.id && n < maxThrough {
		l.through = append(l.through[:n:n], l.last)
	}
	l.last = o.id
	l.mu.Lock()
	l.owner = o
	pending := len(l.queue) > 0
	l.queued = pending
	l.mu.Unlock()
	l.log = o.log.With("line", l.Line.Number)
	l.h = o.h
	if pending {
		o.enqueue(l)
	}
}

// release freezes a leg and gives it away.
func (o *owner) release(l *Leg) {
	delete(o.legs, l)
	l.mu.Lock()
	l.owner = nil
	l.mu.Unlock()
	l.h = frozen{}
}

// post adds an event to a leg's queue. It never blocks. f runs in the goroutine of whoever owns the leg then; false if the leg
// is gone.
func (l *Leg) post(f func()) bool {
	l.mu.Lock()
	if l.gone {
		l.mu.Unlock()
		return false
	}
	if len(l.queue) < maxEvents {
		l.queue = append(l.queue, f)
	} else {
		l.flooded = true
	}
	o := l.owner
	wake := o != nil && !l.queued
	if wake {
		l.queued = true
	}
	l.mu.Unlock()
	for wake && !o.enqueue(l) {
		// The owner has ended; it can only be that the leg has moved on meanwhile.
		l.mu.Lock()
		o, wake = l.owner, l.owner != nil && l.owner != o
		l.mu.Unlock()
	}
	return true
}

// drain runs the events of a leg, if o owns it still; else they go to the one who does.
func (l *Leg) drain(o *owner) {
	for {
		l.mu.Lock()
		if l.owner != o {
			other := l.owner
			l.queued = other != nil
			l.mu.Unlock()
			if other != nil {
				other.enqueue(l)
			}
			return
		}
		if l.flooded && !l.gone {
			l.flooded, l.queue = false, nil
			l.queued = false
			l.mu.Unlock()
			l.log.Info("leg ends: its phone sends more than the call can take")
			l.overrun()
			return
		}
		if len(l.queue) == 0 {
			l.queued = false
			l.mu.Unlock()
			return
		}
		f := l.queue[0]
		l.queue = l.queue[1:]
		l.mu.Unlock()
		f()
	}
}

// frozen is the handler of a leg under way between owners: nothing can happen to it, since nobody runs its events.
type frozen struct{}

func (frozen) ringing(*Leg, int)     {}
func (frozen) answered(*Leg)         {}
func (frozen) failed(*Leg, failure)  {}
func (frozen) canceled(*Leg)         {}
func (frozen) ended(*Leg)            {}
func (frozen) agreed(*Leg)           {}
func (frozen) held(*Leg)             {}
func (frozen) refer(*Leg, *Referral) {}
func (frozen) key(*Leg, *Key)        {}
func (frozen) down(*Leg)             {}
func (frozen) info() Info            { return Info{} }
func (frozen) stop()                 {}
