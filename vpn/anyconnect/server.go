// Package anyconnect is the TCP side of the AnyConnect-compatible gateway: TLS on one port for all clients, log-in by the
// phones' form flow, by XML aggregate authentication and by the plain form (AnyConnect page §2 to §4), CONNECT (§5) and the
// CSTP channel (§6, §8).
//
// A connection is one goroutine: it serves HTTP/1.1 requests one after another and becomes the channel's reader at CONNECT.
// HTTP is read by http.ReadRequest behind bounds and written by hand, since clients compare header names letter by letter.
//
// Left out: SSO, the multiple-certificate exchange, compression (never announced), TLS renegotiation (impossible in Go, never
// announced).
package anyconnect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"ringfence/internal/task"
	"ringfence/vpn/dtls"
	"ringfence/vpn/session"
	"ringfence/vpn/throttle"
)

// Options of a server. Sessions and Certificate are required.
type Options struct {
	Log      *slog.Logger
	Sessions *session.Table
	Guard    *throttle.Guard // made with the page's limits when nil
	Legacy   bool
	UDP      *dtls.Endpoint // nil: tunnels stay on TCP

	Certificate   func() *tls.Certificate
	VerifyDevice  func(*x509.Certificate, []*x509.Certificate) (device string, err error)
	VerifyUser    func(*x509.Certificate, []*x509.Certificate) (user, policy string, err error)
	PolicyOf      func(device string) (policy string, ok bool)
	CheckPassword func(user, password string) (policy string, ok bool)
	UserOf        func(password string) (user string, ok bool)
	MayUse        func(user, device string) bool
	CheckCode     func(user, code string) bool
	Note          func(device, step, text string, failed bool)

	Checks         int // password checks at once, 2 when 0: each may cost 64 MiB
	MaxConnections int // without a tunnel, 4096 when 0
	PerSource      int // of one source without a tunnel, 256 when 0
}

// Stats counts.
type Stats struct {
	Connections   uint64 // accepted
	Pending       int    // without a tunnel, now
	Evicted       uint64 // closed to make room for newer ones
	Handshakes    uint64 // TLS handshakes done
	LoginsOK      uint64
	LoginsRefused uint64
	Throttled     uint64 // passwords not looked at
	Busy          uint64 // password checks refused because too many wait
	Connects      uint64 // tunnels made
}

// Server is the TCP side.
type Server struct {
	o      Options
	log    *slog.Logger
	ln     net.Listener
	group  *task.Group
	hello  *hello
	guard  *throttle.Guard
	wait   *waiting
	states *states
	checks chan struct{}
	queued atomic.Int64
	noisy  *rate.Limiter // of log lines that strangers cause

	connections, handshakes, ok, refused, busy, connects atomic.Uint64
}

// New makes a server on a listener, which it owns from now on. Start serves.
func New(ln net.Listener, o Options) (*Server, error) {
	if o.Sessions == nil || o.Certificate == nil {
		return nil, errors.New("anyconnect: needs sessions and a certificate")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Guard == nil {
		o.Guard = throttle.New(throttle.Limits{})
	}
	if o.Checks <= 0 {
		o.Checks = 2
	}
	if o.MaxConnections <= 0 {
		o.MaxConnections = 4096
	}
	if o.PerSource <= 0 {
		o.PerSource = 256
	}
	s := &Server{o: o, log: o.Log, ln: ln, guard: o.Guard, wait: newWaiting(o.MaxConnections, o.PerSource), states: newStates(),
		checks: make(chan struct{}, o.Checks), noisy: rate.NewLimiter(2, 50)}
	s.hello = newHello(o.Certificate, o.Legacy, s.oldPhone)
	s.group = task.NewGroup(context.Background(), o.Log)
	return s, nil
}

// Start accepts connections until Stop.
func (s *Server) Start() {
	s.group.Go("vpn accept", s.accept)
}

// Stop closes the listener and all connections and waits for them. It may be called more than once.
func (s *Server) Stop() {
	s.ln.Close()
	s.wait.closeAll()
	s.group.Stop()
}

// Tick forgets log-in conversations that went stale; it is called once a second.
func (s *Server) Tick(now time.Time) { s.states.expire(now) }

// Stats returns the counters.
func (s *Server) Stats() Stats {
	pending, evicted := s.wait.stats()
	return Stats{s.connections.Load(), pending, evicted, s.handshakes.Load(), s.ok.Load(), s.refused.Load(), s.guard.Refused(), s.busy.Load(), s.connects.Load()}
}

func (s *Server) accept(ctx context.Context) {
	pause := time.Duration(0)
	for {
		c, err := s.ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
				return
			}
			// Out of descriptors: wait for some to be closed instead of spinning.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.log.Error("VPN listener", "listener", s.ln.Addr(), "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		s.connections.Add(1)
		tc, ok := c.(*net.TCPConn)
		if !ok {
			c.Close()
			continue
		}
		s.open(tc)
	}
}

// open starts a connection.
func (s *Server) open(tc *net.TCPConn) {
	w, err := newWire(tc)
	if err != nil {
		tc.Close()
		return
	}
	c := &conn{s: s, wire: w, peer: addrPort(tc.RemoteAddr())}
	s.wait.add(c)
	s.group.Go("vpn connection", c.serve, func(error) {
		s.wait.remove(c)
		c.close()
	})
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// oldPhone is told of clients that could only be served with Legacy.
func (s *Server) oldPhone(peer net.Addr) {
	if s.noisy.Allow() {
		s.log.Info("VPN client offers only old TLS: it is refused because legacy is off", "peer", peer)
	}
}

// note writes the boot record.
func (s *Server) note(device, text string, failed bool) {
	if s.o.Note != nil && device != "" {
		s.o.Note(device, "vpn", text, failed)
	}
}
