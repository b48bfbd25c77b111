package flow

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emiago/sipgo/sip"
	"golang.org/x/time/rate"

	"ringfence/internal/task"
)

// Listen is one listener.
type Listen struct {
	Transport string         // "TCP", "TLS" or "UDP"
	Addr      netip.AddrPort // port 0 takes a free one; an unspecified IPv6 address takes IPv4 as well
	// Legacy lets TLS 1.0 and the CBC suites of 7900 series phones in on this listener (libraries.md "PKI and legacy TLS").
	Legacy bool
}

// Options configure a Manager. Zero limits take the default named beside them.
type Options struct {
	Listen []Listen
	Log    *slog.Logger

	// OnMessage gets every well-formed message, in order per flow, in the goroutine that reads the flow. OnOpen comes before
	// the first, OnClose after the last. None of them may block. OnOpen and OnClose may be nil.
	OnMessage func(f Flow, m sip.Message)
	OnOpen    func(f Flow)
	OnClose   func(f Flow, reason error)
	// Trace sees every message as it is handed up or queued, with its bytes, which are valid during the call; nil costs nothing.
	Trace func(f Flow, out bool, m sip.Message, wire []byte)

	// Certificate is the server's certificate for the TLS listeners, asked for at each handshake.
	Certificate func() (*tls.Certificate, error)
	// VerifyClient judges the certificate that a TLS client presented, at each handshake, resumed ones included. An error
	// refuses the connection; an empty device accepts it without an identity. When nil no certificate is asked for.
	VerifyClient func(cert *x509.Certificate, chain []*x509.Certificate) (device string, err error)

	MaxMessage     int           // 65536 bytes
	MaxFlows       int           // 20000; those that nobody keeps may be half of them
	MaxPerSource   int           // 2000
	MaxQueue       int           // 256 messages waiting to be written to one flow (512 KiB at most)
	Handshake      time.Duration // 10 s
	Unregistered   time.Duration // 30 s a connection may live before somebody keeps it
	MessageTime    time.Duration // 10 s for the rest of a message begun
	WriteTime      time.Duration // 10 s for a message to be taken by the peer
	UDPIdle        time.Duration // 60 s a UDP pseudo-flow lives without a message when nobody keeps it
	TCPUserTimeout time.Duration // 30 s unacknowledged data may stand before the kernel gives a connection up
}

func (o *Options) setDefaults() error {
	if o.OnMessage == nil {
		return errors.New("flow: OnMessage is required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		v   *int
		def int
	}{{&o.MaxMessage, 65536}, {&o.MaxFlows, 20000}, {&o.MaxPerSource, 2000}, {&o.MaxQueue, 256}} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&o.Handshake, 10 * time.Second}, {&o.Unregistered, 30 * time.Second}, {&o.MessageTime, 10 * time.Second},
		{&o.WriteTime, 10 * time.Second}, {&o.UDPIdle, time.Minute}, {&o.TCPUserTimeout, 30 * time.Second},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	for _, l := range o.Listen {
		switch {
		case l.Transport == "TLS" && o.Certificate == nil:
			return errors.New("flow: a TLS listener needs Certificate")
		case l.Transport != "TCP" && l.Transport != "TLS" && l.Transport != "UDP":
			return fmt.Errorf("flow: unknown transport %q", l.Transport)
		}
	}
	return nil
}

// maxQueueBytes bounds what waits to be written to one flow.
const maxQueueBytes = 512 << 10

// Manager owns listeners and flows.
type Manager struct {
	opt    Options
	parser *sip.Parser
	tasks  *task.Group
	ids    atomic.Uint64

	streams []*streamListener
	packets []*packetListener

	mu       sync.Mutex
	started  bool
	stopped  bool
	flows    map[string]closer
	bySource map[netip.Prefix]int
	total    int // connections counted in bySource, those in a handshake included

	kept atomic.Int64 // flows that somebody keeps

	refused   atomic.Uint64
	malformed atomic.Uint64

	complaints *rate.Limiter
	unsaid     atomic.Uint64
}

// complain logs what a peer did wrong, a bounded number per second: strangers must not fill the log.
func (m *Manager) complain(msg string, attrs ...any) {
	if !m.complaints.Allow() {
		m.unsaid.Add(1)
		return
	}
	if n := m.unsaid.Swap(0); n > 0 {
		attrs = append(attrs, "suppressed", n)
	}
	m.opt.Log.Info(msg, attrs...)
}

type closer interface {
	Flow
	shutdown(reason error)
}

// New binds every listener of o.
func New(o Options) (*Manager, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	m := &Manager{
		opt: o, parser: newParser(o.MaxMessage), tasks: task.NewGroup(context.Background(), o.Log),
		flows: make(map[string]closer), bySource: make(map[netip.Prefix]int), complaints: rate.NewLimiter(10, 50),
	}
	for _, l := range o.Listen {
		var err error
		if l.Transport == "UDP" {
			err = m.bindPacket(l)
		} else {
			err = m.bindStream(l)
		}
		if err != nil {
			m.Stop()
			return nil, fmt.Errorf("listen on %s %s: %w", l.Transport, l.Addr, err)
		}
	}
	return m, nil
}

// Start serves the listeners. It is idempotent.
func (m *Manager) Start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.started || m.stopped {
		return
	}
	m.started = true
	for _, l := range m.streams {
		m.tasks.Go("sip accept "+l.transport, l.accept, l.ended)
	}
	for _, l := range m.packets {
		m.tasks.Go("sip read UDP", l.read, l.ended)
		m.tasks.Go("sip expire UDP", l.expire)
	}
}

// Stop closes listeners and flows and returns when every handler has ended. It is idempotent.
func (m *Manager) Stop() {
	m.mu.Lock()
	m.stopped = true
	open := make([]closer, 0, len(m.flows))
	for _, f := range m.flows {
		open = append(open, f)
	}
	m.mu.Unlock()
	for _, l := range m.streams {
		l.Close()
	}
	for _, f := range open {
		f.shutdown(ErrStopped)
	}
	for _, l := range m.packets {
		l.conn.Close()
	}
	m.tasks.Stop()
}

// Addr returns where the first listener of a transport listens, or the zero value.
func (m *Manager) Addr(transport string) netip.AddrPort {
	if a := m.Addrs(transport); len(a) > 0 {
		return a[0]
	}
	return netip.AddrPort{}
}

// Addrs returns where the listeners of a transport listen, in the order of Options.Listen.
func (m *Manager) Addrs(transport string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, l := range m.streams {
		if l.transport == transport {
			out = append(out, addrPort(l.Addr()))
		}
	}
	for _, l := range m.packets {
		if transport == "UDP" {
			out = append(out, l.local)
		}
	}
	return out
}

// Stats are counters since the start.
type Stats struct {
	Flows     int    // open now
	Refused   uint64 // connections closed at once for a limit
	Malformed uint64 // messages not understood
}

// Stats returns the counters.
func (m *Manager) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Stats{Flows: len(m.flows), Refused: m.refused.Load(), Malformed: m.malformed.Load()}
}

// source is what per-source limits count: an IPv4 address, an IPv6 /64.
func source(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	if a.Is6() {
		p, _ := a.Prefix(64)
		return p
	}
	return netip.PrefixFrom(a, 32)
}

// reserve counts a new connection against the limits, before anything is spent on it.
func (m *Manager) reserve(from netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	src := source(from)
	// Those that nobody keeps may take half of the room: strangers cannot lock phones out that have registered.
	strangers := m.total - int(m.kept.Load())
	if m.stopped || m.total >= m.opt.MaxFlows || strangers >= (m.opt.MaxFlows+1)/2 || m.bySource[src] >= m.opt.MaxPerSource {
		m.refused.Add(1)
		if !m.stopped {
			m.complain("connection refused, limit reached", "peer", from.String(), "flows", len(m.flows))
		}
		return false
	}
	m.bySource[src]++
	m.total++
	return true
}

// release gives back what reserve counted for a connection that never became a flow.
func (m *Manager) release(from netip.Addr) {
	m.mu.Lock()
	m.releaseLocked(from)
	m.mu.Unlock()
}

// releaseLocked needs m.mu.
func (m *Manager) releaseLocked(from netip.Addr) {
	src := source(from)
	m.total--
	if m.bySource[src]--; m.bySource[src] <= 0 {
		delete(m.bySource, src)
	}
}

func (m *Manager) add(f closer) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return false
	}
	m.flows[f.ID()] = f
	return true
}

func (m *Manager) remove(f closer) {
	m.mu.Lock()
	if _, ok := m.flows[f.ID()]; ok {
		delete(m.flows, f.ID())
		m.releaseLocked(f.Remote().Addr())
	}
	m.mu.Unlock()
}

func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	case *net.UDPAddr:
		ap := a.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
