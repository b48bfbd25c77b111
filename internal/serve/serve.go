// Package serve is the life of a bound socket: bound when its server is made, served until it is stopped or fails, and bound anew
// at the same address when a supervisor runs it again.
//
//	New --bound--> Run --serves--> stopped: nil
//	                ^ |--fails--> error ----.
//	                '---- bound anew -------'
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"ringfence/internal/task"
)

// Options of a Life.
type Options[L any] struct {
	Name  string // before errors, and of its goroutines: "tvs"
	Log   *slog.Logger
	Bind  func() (L, error) // again, at the address it had
	Close func(L)           // makes what serves it return; of one that was never served too; may be called twice
}

// Life is that of one socket of type L. Its methods may be called at any time, from anywhere.
type Life[L any] struct {
	o Options[L]

	mu      sync.Mutex
	socket  L
	bound   bool
	group   *task.Group // while it runs
	done    chan struct{}
	stopped bool
}

// New makes the Life of a socket that is bound.
func New[L any](socket L, o Options[L]) *Life[L] { return &Life[L]{o: o, socket: socket, bound: true} }

// Run calls serve with the socket and a group for its goroutines, which have ended when Run returns. It returns nil when ctx ended
// or Stop was called, and otherwise why serve returned; it may be called again then. serve must return when the socket is closed.
func (l *Life[L]) Run(ctx context.Context, serve func(L, *task.Group) error) error {
	l.mu.Lock()
	switch {
	case l.stopped:
		l.mu.Unlock()
		return nil
	case l.group != nil:
		l.mu.Unlock()
		return fmt.Errorf("%s: runs already", l.o.Name)
	case !l.bound:
		socket, err := l.o.Bind()
		if err != nil {
			l.mu.Unlock()
			return fmt.Errorf("%s: %w", l.o.Name, err)
		}
		l.socket, l.bound = socket, true
	}
	socket, group, done := l.socket, task.NewGroup(ctx, l.o.Log), make(chan struct{})
	l.group, l.done = group, done
	l.mu.Unlock()

	l.o.Log.Info("started")
	group.Go(l.o.Name+" stop", func(ctx context.Context) { <-ctx.Done(); l.o.Close(socket) })
	err := serve(socket, group)
	stopping := group.Context().Err() != nil
	group.Stop() // closes the socket

	l.mu.Lock()
	var none L
	l.socket, l.bound, l.group = none, false, nil
	l.mu.Unlock()
	close(done)
	if stopping {
		l.o.Log.Info("stopped")
		return nil
	}
	if err == nil {
		err = errors.New("ended by itself")
	}
	return fmt.Errorf("%s: %w", l.o.Name, err)
}

// Stop ends Run for good and waits for it.
func (l *Life[L]) Stop() {
	l.mu.Lock()
	first := !l.stopped
	l.stopped = true
	socket, bound, group, done := l.socket, l.bound, l.group, l.done
	l.mu.Unlock()
	if group == nil {
		if bound && first {
			l.o.Close(socket)
		}
		return
	}
	group.Stop()
	<-done
}
