package serve

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"ringfence/internal/task"
)

var quiet = slog.New(slog.DiscardHandler)

// life is that of a TCP listener; the address stays.
func life(t *testing.T) (*Life[net.Listener], string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	return New(ln, Options[net.Listener]{Name: "test", Log: quiet,
		Bind: func() (net.Listener, error) { return net.Listen("tcp", addr) }, Close: func(ln net.Listener) { ln.Close() }}), addr
}

// accept greets connections, and fails after a connection that says x.
func accept(ln net.Listener, _ *task.Group) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		io.WriteString(c, "hello")
		b, _ := io.ReadAll(c)
		c.Close()
		if string(b) == "x" {
			return errors.New("broken")
		}
	}
}

func greet(t *testing.T, addr, say string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("%q, %v", b, err)
	}
	io.WriteString(c, say)
}

func closed(t *testing.T, addr string) {
	t.Helper()
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Errorf("%s is still bound", addr)
	}
}

func TestFailureAndAgain(t *testing.T) {
	l, addr := life(t)
	ended := make(chan error, 1)
	run := func() { ended <- l.Run(context.Background(), accept) }
	for range 3 {
		go run()
		// Bound again before Run returns to serving: dialling may come too early for a second Run.
		greetEventually(t, addr, "x")
		if err := <-ended; err == nil || err.Error() != "test: broken" {
			t.Fatalf("%v", err)
		}
		closed(t, addr)
	}
	l.Stop()
	if err := l.Run(context.Background(), accept); err != nil {
		t.Errorf("after Stop: %v", err)
	}
	closed(t, addr)
}

// greetEventually waits for the second life of a socket, which nothing announces.
func greetEventually(t *testing.T, addr, say string) {
	t.Helper()
	for range 100000 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			greet(t, addr, say)
			return
		}
	}
	t.Fatal("not bound again")
}

func TestStop(t *testing.T) {
	t.Run("before Run", func(t *testing.T) {
		l, addr := life(t)
		l.Stop()
		l.Stop()
		closed(t, addr)
	})
	t.Run("by the context", func(t *testing.T) {
		l, addr := life(t)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx, accept) }()
		greet(t, addr, "")
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		closed(t, addr)
	})
	t.Run("by many, with goroutines under way", func(t *testing.T) {
		l, addr := life(t)
		ended, gone := make(chan error, 1), make(chan struct{})
		go func() {
			ended <- l.Run(context.Background(), func(ln net.Listener, g *task.Group) error {
				g.Go("other", func(ctx context.Context) { <-ctx.Done(); close(gone) })
				return accept(ln, g)
			})
		}()
		greet(t, addr, "")
		if err := l.Run(context.Background(), accept); err == nil || !strings.Contains(err.Error(), "runs already") {
			t.Errorf("a second Run: %v", err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(l.Stop)
		}
		wg.Wait()
		select {
		case <-gone:
		default:
			t.Error("Stop did not wait for a goroutine")
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestReturnWithoutReason(t *testing.T) {
	l, _ := life(t)
	if err := l.Run(context.Background(), func(net.Listener, *task.Group) error { return nil }); err == nil {
		t.Error("a server that ended by itself has not failed")
	}
	l.Stop()
}

// What is being answered when a server stops may end.
func TestHTTPDrains(t *testing.T) {
	l, addr := life(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-answer
		io.WriteString(w, "whole")
	})}
	ended := make(chan error, 1)
	go func() {
		ended <- l.Run(context.Background(), func(ln net.Listener, g *task.Group) error { return HTTP(srv, ln, g) })
	}()
	body := make(chan string, 1)
	go func() {
		res, err := http.Get("http://" + addr)
		if err != nil {
			body <- err.Error()
			return
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		body <- string(b)
	}()
	<-asked
	stopped := make(chan struct{})
	go func() { l.Stop(); close(stopped) }()
	close(answer)
	if b := <-body; b != "whole" {
		t.Errorf("the answer under way: %q", b)
	}
	<-stopped
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
