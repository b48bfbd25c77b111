package dtls

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"ringfence/vpn/tunnel"
)

// Handler is told of a channel. Its methods are called from the endpoint's goroutine, must not wait, and must not call back
// into the endpoint with locks held that Send callers hold.
type Handler interface {
	// Up says that the handshake is done: the client proved that it knows the secret.
	Up(c *Conn)
	// Payload takes what a record held. When it begins at b.SpaceBehind(1) its packet already stands where b wants it.
	Payload(c *Conn, b *tunnel.Batch, payload []byte, now time.Time)
	// Down says that the client closed the channel.
	Down(c *Conn, why string)
}

// Agreement is what CONNECT settled for a channel.
type Agreement struct {
	Kind    Kind
	Suite   uint16     // not for PSK
	ID      [32]byte   // X-DTLS-Session-ID or X-DTLS-App-ID
	Secret  []byte     // master secret, or pre-shared key
	Peer    netip.Addr // the client's address on TCP: where a channel that moved is looked for
	Handler Handler

	hellos *rate.Limiter
}

// Conn is a channel to one client, from its first hello on.
type Conn struct {
	e  *Endpoint
	ag *Agreement

	// The receiver's, guarded by e.mu where handshakes are concerned.
	hs    *handshake
	win   window
	in    protection
	since time.Time // of the handshake
	last  time.Time // when the flight was sent
	tries int
	up    bool
	spots []netip.Addr // where Endpoint.places has it

	closed atomic.Bool
	got    atomic.Uint64 // records that were accepted
	top    atomic.Uint64 // that the client has sent, as far as its numbers tell

	mu     sync.Mutex // guards all below
	remote netip.AddrPort
	local  netip.Addr
	out    protection
	epoch0 uint64 // next sequence numbers
	epoch1 uint64
}

// Remote is the client's address now; it may move.
func (c *Conn) Remote() netip.AddrPort {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.remote
}

// LossIn is the part of the client's records that did not arrive.
func (c *Conn) LossIn() float64 {
	got, sent := c.got.Load(), c.top.Load()
	if sent <= got {
		return 0
	}
	return 1 - float64(got)/float64(sent)
}

// Describe names kind and cipher.
func (c *Conn) Describe() string { return c.ag.Kind.String() + " " + c.hs.suite.name }

// maxSeq is where a channel ends rather than repeat a sequence number; no client gets there.
const maxSeq = 1<<48 - 1<<16

// Deliver seals packets and queues them for Endpoint.Flush, which the same goroutine calls before the buffers change hands.
func (c *Conn) Deliver(pkts []tunnel.Packet) {
	e := c.e
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out == nil || c.closed.Load() || c.epoch1 > maxSeq {
		return
	}
	for _, p := range pkts {
		tos := class(p.Bytes())
		p.Buf[tunnel.Headroom-1] = 0
		rec, err := c.out.seal(p.Buf, tunnel.Headroom-1, p.Len+1, typeData, c.hs.version(), 1, c.epoch1)
		if err != nil {
			continue
		}
		c.epoch1++
		e.queue.add(c.remote, c.local, tos, rec)
	}
}

// class is the traffic class of an inner packet without its ECN bits; the outer packet gets the same.
func class(p []byte) byte {
	if p[0]>>4 == 6 {
		return (p[0]<<4 | p[1]>>4) &^ 3
	}
	return p[1] &^ 3
}

// Control sends one record with a type byte and payload that is no packet.
func (c *Conn) Control(typ byte, payload []byte) {
	c.sealed(typeData, append([]byte{typ}, payload...))
}

// sealed sends one protected record.
func (c *Conn) sealed(typ byte, payload []byte) {
	c.mu.Lock()
	if c.out == nil || c.epoch1 > maxSeq {
		c.mu.Unlock()
		return
	}
	rec := c.sealLocked(typ, payload)
	o := outbound{to: c.remote, local: c.local, segs: [][]byte{rec}}
	c.mu.Unlock()
	if rec != nil {
		c.e.sock.send(&c.e.control, []outbound{o})
	}
}

// sealLocked makes a protected record in a buffer of its own. c.mu is held.
func (c *Conn) sealLocked(typ byte, payload []byte) []byte {
	front, back := c.out.room()
	buf := make([]byte, headerLen+front+len(payload)+back)
	copy(buf[headerLen+front:], payload)
	rec, err := c.out.seal(buf, headerLen+front, len(payload), typ, c.hs.version(), 1, c.epoch1)
	if err != nil {
		return nil
	}
	c.epoch1++
	return rec
}

// sendFlight sends the handshake's latest flight in one datagram, with fresh sequence numbers.
func (c *Conn) sendFlight(now time.Time) {
	c.mu.Lock()
	var d []byte
	for _, p := range c.hs.flight {
		if p.epoch == 0 {
			n := len(d)
			d = append(d, make([]byte, headerLen)...)
			putHeader(d[n:], p.typ, c.hs.version(), 0, c.epoch0, len(p.body))
			d = append(d, p.body...)
			c.epoch0++
			continue
		}
		c.out = c.hs.out
		d = append(d, c.sealLocked(p.typ, p.body)...)
	}
	o := outbound{to: c.remote, local: c.local, segs: [][]byte{d}}
	c.mu.Unlock()
	c.last = now
	if len(d) > 0 {
		c.e.sock.send(&c.e.control, []outbound{o})
	}
}

// Close ends the channel and tells the client.
func (c *Conn) Close() {
	if c.closed.Swap(true) {
		return
	}
	c.sealed(typeAlert, []byte{1, 0}) // warning, close notify
	c.e.forget(c)
}

// Drop ends the channel without a word: a newer one has taken its place.
func (c *Conn) Drop() {
	if !c.closed.Swap(true) {
		c.e.forget(c)
	}
}
