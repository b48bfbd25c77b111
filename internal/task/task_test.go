package task

import (
	"context"
	"strings"
	"testing"
)

func TestPanicEndsOneTaskOnly(t *testing.T) {
	g := NewGroup(t.Context(), nil)
	before := Panics()
	failed := make(chan error, 1)
	alive := make(chan struct{})
	g.Go("survivor", func(ctx context.Context) { <-ctx.Done(); close(alive) })
	g.Go("victim", func(context.Context) { panic("boom") }, func(err error) { failed <- err })
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "victim: panic: boom") {
		t.Errorf("cleanup got %v, want the panic", err)
	}
	if got := Panics() - before; got != 1 {
		t.Errorf("counted %d panics, want 1", got)
	}
	select {
	case <-alive:
		t.Error("the other task ended too")
	default:
	}
	g.Stop()
	<-alive
}

func TestGoAfterStopRunsCleanupOnly(t *testing.T) {
	g := NewGroup(t.Context(), nil)
	g.Stop()
	ran, cleaned := false, error(nil)
	g.Go("late", func(context.Context) { ran = true }, func(err error) { cleaned = err })
	g.Stop()
	if ran || cleaned != context.Canceled {
		t.Errorf("ran %v, cleanup %v; want false, %v", ran, cleaned, context.Canceled)
	}
}
