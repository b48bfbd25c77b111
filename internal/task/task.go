// Package task starts goroutines. Every goroutine of the product starts through a Group, so that each has a name and an
// owner who waits for it, and a panic ends one call, flow or session, says so, and nothing else (design §1 rule 1).
package task

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

var panics atomic.Uint64

// Panics counts the panics recovered since the process started.
func Panics() uint64 { return panics.Load() }

// Group is a set of goroutines with one owner. Stop is idempotent and may be called from any goroutine outside the group.
type Group struct {
	ctx    context.Context
	cancel context.CancelFunc
	log    *slog.Logger
	wg     sync.WaitGroup

	mu      sync.Mutex
	stopped bool
}

// NewGroup returns a group whose context ends with ctx or with Stop.
func NewGroup(ctx context.Context, log *slog.Logger) *Group {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c, cancel := context.WithCancel(ctx)
	return &Group{ctx: c, cancel: cancel, log: log}
}

// Context ends when the group is to stop.
func (g *Group) Context() context.Context { return g.ctx }

// Go runs f in a goroutine named name. A panic in f is recovered, counted, logged with its stack and handed as an error to
// the cleanup functions, which also run (with nil) when f returns; there the owner ends the one call, flow or session.
// After Stop nothing is started and the cleanup functions run at once with context.Canceled.
func (g *Group) Go(name string, f func(ctx context.Context), cleanup ...func(err error)) {
	g.mu.Lock()
	if g.stopped {
		g.mu.Unlock()
		for _, c := range cleanup {
			c(context.Canceled)
		}
		return
	}
	g.wg.Add(1)
	g.mu.Unlock()
	go func() {
		defer g.wg.Done()
		err := Guard(g.log, name, func() { f(g.ctx) })
		for _, c := range cleanup {
			_ = Guard(g.log, name+" cleanup", func() { c(err) })
		}
	}()
}

// Guard calls f and turns a panic into an error, counted and logged. It is for callbacks into foreign or risky code inside a
// goroutine that must live on.
func Guard(log *slog.Logger, name string, f func()) (err error) {
	defer func() {
		if v := recover(); v != nil {
			panics.Add(1)
			err = fmt.Errorf("%s: panic: %v", name, v)
			log.Error("recovered panic", "task", name, "err", err, "stack", string(debug.Stack()))
		}
	}()
	f()
	return nil
}

// Stop cancels the group's context and waits until every goroutine and cleanup has returned.
func (g *Group) Stop() {
	g.mu.Lock()
	g.stopped = true
	g.mu.Unlock()
	g.cancel()
	g.wg.Wait()
}

// Wait waits until every goroutine has returned, without asking them to.
func (g *Group) Wait() { g.wg.Wait() }
