// Package netlimit bounds what strangers can hold open: a listener with a limit of connections in all and per source
// address (design §1 rule 7).
package netlimit

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Limits of a listener. Zero values mean 1024 in all and 256 per source: many phones can sit behind one address.
type Limits struct {
	Total     int
	PerSource int
}

// Listener accepts connections up to its limits; those beyond are closed at once. Failing accepts (no file descriptors
// left) are retried with back-off instead of spinning. It is a net.Listener.
type Listener struct {
	net.Listener
	limits Limits

	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	total    int
	sources  map[netip.Addr]int
	refused  uint64
	accepted uint64
}

// Listen binds addr (TCP) with limits.
func Listen(addr string, l Limits) (*Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return New(ln, l), nil
}

// New puts limits on ln.
func New(ln net.Listener, l Limits) *Listener {
	if l.Total <= 0 {
		l.Total = 1024
	}
	if l.PerSource <= 0 {
		l.PerSource = 256
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Listener{Listener: ln, limits: l, ctx: ctx, cancel: cancel, sources: make(map[netip.Addr]int)}
}

// Accept waits for a connection within the limits.
func (l *Listener) Accept() (net.Conn, error) {
	wait := 5 * time.Millisecond
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || l.ctx.Err() != nil {
				return nil, err
			}
			var temporary interface{ Temporary() bool }
			if !errors.As(err, &temporary) || !temporary.Temporary() {
				return nil, err
			}
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-l.ctx.Done():
				t.Stop()
				return nil, net.ErrClosed
			}
			wait = min(2*wait, time.Second)
			continue
		}
		wait = 5 * time.Millisecond
		source := Source(c.RemoteAddr())
		if !l.enter(source) {
			c.Close()
			continue
		}
		return &conn{Conn: c, leave: sync.OnceFunc(func() { l.leave(source) })}, nil
	}
}

// Close ends the listener; connections stay.
func (l *Listener) Close() error {
	l.cancel()
	return l.Listener.Close()
}

// Counts returns how many connections are open, and how many were accepted and refused so far.
func (l *Listener) Counts() (open int, accepted, refused uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total, l.accepted, l.refused
}

func (l *Listener) enter(source netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.limits.Total || l.sources[source] >= l.limits.PerSource {
		l.refused++
		return false
	}
	l.total++
	l.accepted++
	l.sources[source]++
	return true
}

func (l *Listener) leave(source netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.sources[source]--; l.sources[source] <= 0 {
		delete(l.sources, source)
	}
}

type conn struct {
	net.Conn
	leave func()
}

func (c *conn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// Source returns the IP of an address, without zone and IPv4-in-IPv6 form; the zero Addr if it has none.
func Source(a net.Addr) netip.Addr {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap().WithZone("")
}
