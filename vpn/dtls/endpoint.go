// Package dtls is the server side of the UDP channels that AnyConnect clients and phones use (AnyConnect page §7): resumption
// of the pre-standard version 0x0100, resumption in DTLS 1.2, and openconnect's PSK handshake, on one UDP socket for all
// sessions. It is no DTLS library: there is no certificate, no full key exchange besides PSK, no renegotiation and no client.
//
// A ClientHello names its session by a secret of 256 bits that was sent over TLS, so unknown ones are dropped in silence, and
// no cookie exchange is needed. Records that do not authenticate are dropped without any sign. A record that authenticates
// from a new address moves the channel there.
//
// Left out: DTLS 1.3, extended master secret (sessions that are resumed never had it), cipher changes after the handshake.
package dtls

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"ringfence/internal/task"
	"ringfence/vpn/beat"
	"ringfence/vpn/tunnel"
)

const (
	maxPending    = 4096                   // handshakes at once
	perAgreement  = 4                      // of one agreement: its id can be overheard and used from elsewhere
	handshakeLife = 30 * time.Second       // then a handshake is given up
	resendAfter   = 500 * time.Millisecond // doubled each time
	resendMax     = 5                      // times
	tickEvery     = 250 * time.Millisecond // of the resend clock, which runs only while handshakes wait
	resendGap     = 100 * time.Millisecond // between answers to a client's repetition
	lastFlight    = 60 * time.Second       // how long a finished PSK handshake answers repetitions
	maxRoamTries  = 16                     // channels tried for a record from an unknown address
	roamRate      = 1000                   // tries per second in all
	maxSpots      = 4                      // addresses under which a channel is looked for
	helloRate     = 5                      // handshakes per second of one agreement
)

// Options of an endpoint.
type Options struct {
	Log    *slog.Logger
	Listen string
	Write  func(*tunnel.Batch) // writes what clients sent to the kernel
}

// Stats counts.
type Stats struct {
	Datagrams  uint64
	Unknown    uint64 // hellos without an agreement, records of no channel
	Bad        uint64 // malformed, replayed or not authentic
	Handshakes uint64
	Roamed     uint64
	Channels   int
	Pending    int
}

// Endpoint serves all channels.
type Endpoint struct {
	o       Options
	log     *slog.Logger
	sock    *socket
	queue   queue  // of the TUN goroutine
	burst   sender // its system calls
	control sender // of everything else
	group   *task.Group
	wake    chan struct{}
	roam    *rate.Limiter
	parts   partials

	mu      sync.RWMutex // guards all below, and the handshakes of all channels
	waiter  *beat.Waiter // nil before Start
	agreed  map[[32]byte]*Agreement
	peers   map[netip.AddrPort]*Conn
	pending map[netip.AddrPort]*Conn
	places  map[netip.Addr]map[*Conn]struct{} // by last address, and by the client's address on TCP

	datagrams, unknown, bad, handshakes, roamed atomic.Uint64
}

// New opens the socket. Start serves.
func New(o Options) (*Endpoint, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s, err := listen(o.Listen)
	if err != nil {
		return nil, err
	}
	return &Endpoint{o: o, log: o.Log, sock: s, group: task.NewGroup(context.Background(), o.Log), wake: make(chan struct{}, 1), roam: rate.NewLimiter(roamRate, roamRate),
		agreed: make(map[[32]byte]*Agreement), peers: make(map[netip.AddrPort]*Conn), pending: make(map[netip.AddrPort]*Conn),
		places: make(map[netip.Addr]map[*Conn]struct{})}, nil
}

// Port is the UDP port.
func (e *Endpoint) Port() uint16 { return e.sock.addr.Port() }

// Start serves until Stop. The goroutine that receives also serves beside, whose packets mostly are what the endpoint sends: one
// wake-up does for both directions.
func (e *Endpoint) Start(beside ...beat.Source) error {
	w, err := beat.New(append([]beat.Source{e.source()}, beside...)...)
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.waiter = w
	e.mu.Unlock()
	e.group.Go("vpn packets", func(context.Context) {
		w.Run(func(err error) {
			if !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) {
				e.log.Error("VPN packet path", "err", err)
			}
		})
	})
	e.group.Go("vpn udp clock", e.clock)
	return nil
}

// Stop ends all channels and waits. It may be called once.
func (e *Endpoint) Stop() {
	e.mu.Lock()
	w := e.waiter
	e.mu.Unlock()
	if w != nil {
		w.Close()
	}
	e.sock.close()
	e.group.Stop()
}

// Stats returns the counters.
func (e *Endpoint) Stats() Stats {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return Stats{e.datagrams.Load(), e.unknown.Load(), e.bad.Load(), e.handshakes.Load(), e.roamed.Load(), len(e.peers), len(e.pending)}
}

// Agree makes hellos that name ag acceptable.
func (e *Endpoint) Agree(ag *Agreement) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ag.hellos = rate.NewLimiter(helloRate, 2*helloRate)
	e.agreed[ag.ID] = ag
}

// Revoke ends that. A channel that came of it stays.
func (e *Endpoint) Revoke(ag *Agreement) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.agreed[ag.ID] == ag {
		delete(e.agreed, ag.ID)
	}
	for at, c := range e.pending {
		if c.ag == ag {
			delete(e.pending, at)
		}
	}
}

// source is everything that arrives, as a source of package beat.
type source struct {
	e        *Endpoint
	batch    *tunnel.Batch
	now      time.Time
	each     func(inbound)
	failures int
}

func (e *Endpoint) source() *source {
	s := &source{e: e, batch: tunnel.NewBatch()}
	s.each = func(d inbound) {
		e.datagrams.Add(1)
		_ = task.Guard(e.log, "vpn datagram", func() { e.datagram(d, s.batch, s.now) })
	}
	return s
}

// FD implements beat.Source.
func (s *source) FD() int { return s.e.sock.fd }

// Look implements beat.Source.
func (s *source) Look() (n int, more bool) { return s.e.sock.look() }

// Serve implements beat.Source.
func (s *source) Serve() error {
	s.now = time.Now()
	err := s.e.sock.received(s.each)
	if s.batch.Len() > 0 {
		s.e.o.Write(s.batch)
	}
	switch {
	case errors.Is(err, net.ErrClosed):
		return err
	case err != nil: // errors of earlier sends show here; a socket that only fails does not spin
		if s.failures++; s.failures > 10 {
			time.Sleep(10 * time.Millisecond)
		}
	default:
		s.failures = 0
	}
	return nil
}

// datagram takes the records of one datagram.
func (e *Endpoint) datagram(d inbound, b *tunnel.Batch, now time.Time) {
	for rest := d.b; len(rest) > 0; {
		var r record
		var err error
		if r, rest, err = nextRecord(rest); err != nil {
			e.bad.Add(1)
			return
		}
		if r.epoch == 0 {
			e.plain(&r, d, now)
		} else {
			e.sealed(&r, d, b, now)
		}
	}
}

// sealed takes a record under keys.
func (e *Endpoint) sealed(r *record, d inbound, b *tunnel.Batch, now time.Time) {
	if r.epoch != 1 {
		e.bad.Add(1)
		return
	}
	if r.typ == typeHandshake {
		e.finishing(r, d, now)
		return
	}
	e.mu.RLock()
	c := e.peers[d.from]
	e.mu.RUnlock()
	if c == nil {
		e.roams(r, d, b, now)
		return
	}
	payload, err := c.open(b.SpaceBehind(1), r)
	if err != nil {
		e.bad.Add(1)
		return
	}
	e.dispatch(c, r, payload, b, now)
}

// open checks a record with the channel's keys.
func (c *Conn) open(dst []byte, r *record) (payload []byte, err error) {
	if !c.win.fresh(r.seq) || r.version != c.hs.version() {
		return nil, errBad
	}
	if payload, err = c.in.open(dst, r); err == nil {
		c.win.see(r.seq)
		c.got.Add(1)
		c.top.Store(c.win.top)
	}
	return payload, err
}

// dispatch gives the payload of a record to the handler.
func (e *Endpoint) dispatch(c *Conn, r *record, payload []byte, b *tunnel.Batch, now time.Time) {
	switch {
	case c.closed.Load():
	case r.typ == typeData && len(payload) > 0:
		c.ag.Handler.Payload(c, b, payload, now)
		if b.Full() {
			e.o.Write(b)
		}
	case r.typ == typeAlert && len(payload) == 2 && (payload[0] == 2 || payload[1] == 0):
		c.closed.Store(true)
		e.forget(c)
		c.ag.Handler.Down(c, "client closed the channel")
	}
}

// roams looks for the channel of a record that came from an unknown address: one last seen at the same IP address on another
// port, or whose client has this address on TCP (§7). The record must authenticate and be new.
func (e *Endpoint) roams(r *record, d inbound, b *tunnel.Batch, now time.Time) {
	var tries []*Conn
	e.mu.RLock()
	for c := range e.places[d.from.Addr()] {
		if c.up && len(tries) < maxRoamTries {
			tries = append(tries, c)
		}
	}
	e.mu.RUnlock()
	body := append([]byte(nil), r.body...)
	for _, c := range tries {
		if !e.roam.Allow() {
			break
		}
		copy(r.body, body)     // opening may have overwritten it
		if r.seq < c.win.top { // only what is newer than all before moves a channel
			continue
		}
		if payload, err := c.open(b.SpaceBehind(1), r); err == nil {
			e.move(c, d)
			e.dispatch(c, r, payload, b, now)
			return
		}
	}
	e.unknown.Add(1)
}

// move gives a channel its new address.
func (e *Endpoint) move(c *Conn, d inbound) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c.mu.Lock()
	old := c.remote
	c.remote, c.local = d.from, d.local
	c.mu.Unlock()
	if e.peers[old] != c {
		return // it has ended meanwhile
	}
	delete(e.peers, old)
	e.peers[d.from] = c
	e.placeLocked(c, d.from.Addr())
	e.roamed.Add(1)
	e.log.Debug("VPN channel moved", "from", old, "peer", d.from)
}

// placeLocked notes where c may be looked for. e.mu is held.
func (e *Endpoint) placeLocked(c *Conn, a netip.Addr) {
	if !a.IsValid() {
		return
	}
	if e.places[a] == nil {
		e.places[a] = make(map[*Conn]struct{})
	}
	if _, ok := e.places[a][c]; !ok {
		e.places[a][c] = struct{}{}
		c.spots = append(c.spots, a)
	}
	if len(c.spots) > maxSpots {
		e.unplaceLocked(c, 1)
	}
}

// unplaceLocked takes the oldest n places of c away. e.mu is held.
func (e *Endpoint) unplaceLocked(c *Conn, n int) {
	for _, a := range c.spots[:n] {
		if delete(e.places[a], c); len(e.places[a]) == 0 {
			delete(e.places, a)
		}
	}
	c.spots = c.spots[n:]
}

// forget takes c out of all tables.
func (e *Endpoint) forget(c *Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forgetLocked(c)
}

func (e *Endpoint) forgetLocked(c *Conn) {
	at := c.Remote()
	if e.peers[at] == c {
		delete(e.peers, at)
	}
	if e.pending[at] == c {
		delete(e.pending, at)
	}
	e.unplaceLocked(c, len(c.spots))
}

// Seen adds an address at which the channel's client was seen by other means, to look for the channel there when it moves.
func (c *Conn) Seen(a netip.Addr) {
	e := c.e
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.up && e.peers[c.Remote()] == c {
		e.placeLocked(c, a)
	}
}

// Flush sends what Deliver has queued. It belongs to the goroutine that calls Deliver.
func (e *Endpoint) Flush() {
	if out := e.queue.messages(!e.sock.noGSO.Load()); len(out) > 0 {
		e.sock.send(&e.burst, out)
	}
	e.queue.reset()
}
