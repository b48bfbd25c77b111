package flow

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync"

	"ringfence/internal/task"
)

// hands do what needs a deep stack: handshakes, decryption, and all that follows from a message. Each connection has a goroutine
// of its own that waits, and lets a hand do the work when there is some. A stack that has grown shrinks only when garbage is
// collected, by half each time; ten thousand idle phones would keep theirs after every refresh.
//
// The order within a connection is kept, for its goroutine waits until the hand is done.
type hands struct {
	tasks *task.Group
	log   *slog.Logger

	mu   sync.Mutex
	idle []*hand // the one used last at the end: its stack is warm
}

// maxIdleHands is how many stay when nothing is to be done. There are as many as handlers at work at one time.
func maxIdleHands() int { return 4 * runtime.GOMAXPROCS(0) }

type hand struct {
	jobs chan func() error // holds one
	done chan error
}

// do runs f in a hand and returns what f does. A panic is an error.
func (h *hands) do(f func() error) error {
	w := h.take()
	if w == nil {
		return context.Canceled
	}
	w.jobs <- f
	err := <-w.done
	h.mu.Lock()
	keep := len(h.idle) < maxIdleHands() && h.tasks.Context().Err() == nil // the hand has looked for itself in vain if that is over
	if keep {
		h.idle = append(h.idle, w)
	}
	h.mu.Unlock()
	if !keep {
		close(w.jobs)
	}
	return err
}

// take returns a hand that nobody else uses, or nil when everything has stopped.
func (h *hands) take() *hand {
	h.mu.Lock()
	if n := len(h.idle); n > 0 {
		w := h.idle[n-1]
		h.idle[n-1] = nil
		h.idle = h.idle[:n-1]
		h.mu.Unlock()
		return w
	}
	h.mu.Unlock()
	w := &hand{jobs: make(chan func() error, 1), done: make(chan error, 1)}
	h.tasks.Go("sip hand", func(ctx context.Context) { h.work(ctx, w) }, func(err error) {
		if errors.Is(err, context.Canceled) { // nothing is started any more; this runs before Go returns
			w = nil
		}
	})
	return w
}

// leave takes an idle hand out; false: somebody has it.
func (h *hands) leave(w *hand) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.Index(h.idle, w)
	if i >= 0 {
		h.idle = slices.Delete(h.idle, i, i+1)
	}
	return i >= 0
}

// work serves one hand until it is dismissed or everything stops.
func (h *hands) work(ctx context.Context, w *hand) {
	for {
		select {
		case f, ok := <-w.jobs:
			if !ok {
				return
			}
			w.run(h, f)
		case <-ctx.Done():
			if h.leave(w) {
				return
			}
			f, ok := <-w.jobs // somebody has taken it
			if !ok {
				return
			}
			w.run(h, f)
		}
	}
}

func (w *hand) run(h *hands, f func() error) {
	var err error
	if p := task.Guard(h.log, "sip hand", func() { err = f() }); p != nil {
		err = p
	}
	w.done <- err
}
