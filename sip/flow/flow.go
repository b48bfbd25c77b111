// Package flow owns the connections that SIP arrives on: listeners for TCP, TLS and UDP, one Flow per connection of a phone.
//
// A flow is a phone's identity (design §1 rule 6): everything a phone sends comes in on it in arrival order, everything it is
// sent goes out on it, the server never dials back (sip-overview.md §2). The package decodes bytes once, with sipgo's parser,
// behind its own framing; what it hands up are typed messages. It knows nothing of transactions, digests or lines.
//
// # API
//
//	m, err := flow.New(flow.Options{Listen: ..., OnMessage: ..., OnClose: ...})   // binds, so that port 0 works
//	m.Addr("TCP"); m.Start(); m.Stop()
//	f.Send(msg)                       // ordered, bounded, never blocks
//	flow.Keep(f, until)               // a registration (or a standby's keep-alive) lets a connection live on
//	f, err := m.Dial(ctx, "TCP", addr, nil)   // outgoing connections (trunks, tests)
//
// OnMessage runs in the goroutine that reads the connection: messages of one flow come one after the other, a handler that
// blocks stops that flow only. A handler's panic closes that flow only.
//
// # Limits
//
// Connections in all and per source address (IPv6: per /64), size of a message, time for a TLS handshake, for the rest of a
// message begun, and until the first registration; write queue in messages and bytes, write deadline. A UDP pseudo-flow exists
// only after a well-formed message from that address, and ends when idle. Malformed messages whose extent is certain are
// answered with 400 (when they are requests) and skipped, a few times per connection; otherwise the connection is closed.
//
// Of sipgo only the parser and its types are used: its process-wide variables (UDPMTUSize, the timers, the idle mode of
// connections) have no effect here.
//
// Left out: WebSocket, SCTP.
package flow

import (
	"crypto/x509"
	"errors"
	"net/netip"
	"time"

	"github.com/emiago/sipgo/sip"
)

// Flow is one connection of a phone. A phone whose connection the other appliance of a pair holds can satisfy it as well.
// All methods may be called from any goroutine.
type Flow interface {
	ID() string             // unique among the flows of this process
	Transport() string      // "TCP", "TLS" or "UDP", as in a Via
	Local() netip.AddrPort  // the address that the phone reached
	Remote() netip.AddrPort // where the phone is
	Secure() bool           // TLS
	// Certificate is the client certificate that VerifyClient accepted, or nil; Device is the name it proved, or "".
	Certificate() *x509.Certificate
	Device() string
	// Send queues msg. It never blocks; ErrClosed when the flow has ended, ErrFull when the peer does not read (the flow is
	// closed then). Messages leave in the order of the calls. msg must not be changed afterwards.
	Send(msg sip.Message) error
	Close(reason error)
	Done() <-chan struct{}
	Opened() time.Time
}

// Errors of flows, given to OnClose or returned by Send.
var (
	ErrClosed  = errors.New("flow closed")
	ErrFull    = errors.New("peer does not read: write queue full")
	ErrIdle    = errors.New("idle for too long")
	ErrStopped = errors.New("server stopped")
	ErrRemote  = errors.New("closed by peer")
	ErrBadData = errors.New("malformed SIP")
)

// Allow lets f live until then without traffic, as Keep does, but the connection stays a stranger's in the limits.
func Allow(f Flow, until time.Time) {
	if k, ok := f.(interface{ Allow(time.Time) }); ok {
		k.Allow(until)
	}
}

// Keep lets f, on which somebody has authenticated, live until then without traffic. A connection that nobody keeps ends when
// the time for its first registration is over.
func Keep(f Flow, until time.Time) {
	if k, ok := f.(interface{ Keep(time.Time) }); ok {
		k.Keep(until)
	}
}
