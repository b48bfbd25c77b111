package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"ringfence/internal/task"
	"ringfence/vpn/beat"
	"ringfence/vpn/policy"
)

const (
	// Headroom is the room in front of each packet that Deliver hands over and that Batch leaves: for the header of a record
	// towards the client, or of the TUN device towards the kernel (10 bytes).
	Headroom = 64
	// Tailroom is the room behind each packet that Deliver hands over, for padding and MAC.
	Tailroom = 64
	// MaxPacket is the largest packet that is carried.
	MaxPacket = 1500

	bufSize = Headroom + MaxPacket + Tailroom
)

// Peer is a session as the packet path sees it.
type Peer interface {
	// Deliver takes packets for the client. Their buffers belong to the tunnel again when it returns. It is called from one
	// goroutine and must not wait.
	Deliver(pkts []Packet)
}

// Packet is an inner packet on its way to a client: Buf has Headroom bytes in front of it and at least Tailroom behind.
type Packet struct {
	Buf []byte
	Len int
}

// Bytes is the packet itself.
func (p Packet) Bytes() []byte { return p.Buf[Headroom : Headroom+p.Len] }

// Stats counts what the tunnel did.
type Stats struct {
	ToClients, FromClients uint64 // packets
	NoSession              uint64 // dropped: nobody has the destination address
	WriteErrors            uint64
}

// Tunnel moves packets between the device and sessions.
type Tunnel struct {
	dev   Output
	log   *slog.Logger
	burst func()

	// Of the goroutine that reads.
	bufs, views [][]byte
	sizes       []int
	run         []Packet
	got         int
	err         error
	failures    int

	mu    sync.RWMutex // guards peers
	peers map[netip.Addr]Peer

	toClients, fromClients, noSession, writeErrors atomic.Uint64
}

// New makes a tunnel over a device, which is a Device, or what Create made. Run serves it, or who runs its Source. After each burst of packets burst is called, before their buffers are used
// again; it may be nil.
func New(dev Output, log *slog.Logger, burst func()) *Tunnel {
	if burst == nil {
		burst = func() {}
	}
	t := &Tunnel{dev: dev, log: log, burst: burst, peers: make(map[netip.Addr]Peer)}
	n := max(1, dev.BatchSize())
	t.bufs, t.views, t.sizes, t.run = make([][]byte, n), make([][]byte, n), make([]int, n), make([]Packet, 0, n)
	for i := range t.bufs {
		t.bufs[i] = make([]byte, bufSize)
		t.views[i] = t.bufs[i][:bufSize-Tailroom]
	}
	return t
}

// Attach gives an inner address to a session, taking it from another one.
func (t *Tunnel) Attach(a netip.Addr, p Peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.peers[a] = p
}

// Detach takes the address from p, if p still has it.
func (t *Tunnel) Detach(a netip.Addr, p Peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.peers[a] == p {
		delete(t.peers, a)
	}
}

// Stats returns the counters.
func (t *Tunnel) Stats() Stats {
	return Stats{t.toClients.Load(), t.fromClients.Load(), t.noSession.Load(), t.writeErrors.Load()}
}

// Source is the device as a source of package beat, for the goroutine that also waits for others; nil when the device can only be
// read.
func (t *Tunnel) Source() beat.Source {
	if d, ok := t.dev.(pollable); ok {
		return &source{t, d}
	}
	return nil
}

// source implements beat.Source.
type source struct {
	t   *Tunnel
	dev pollable
}

func (s *source) FD() int { return s.dev.FD() }

func (s *source) Look() (n int, more bool) {
	t := s.t
	t.got, more, t.err = s.dev.Look(t.views, t.sizes, Headroom)
	if t.err != nil {
		return -1, more
	}
	return t.got, more
}

func (s *source) Serve() error { return s.t.serve() }

// Run serves the device until it is closed or ctx ends.
func (t *Tunnel) Run(ctx context.Context) error {
	if s := t.Source(); s != nil {
		w, err := beat.New(s)
		if err != nil {
			return err
		}
		defer context.AfterFunc(ctx, w.Close)()
		defer w.Close()
		w.Run(func(e error) { err = e })
		return t.ended(err)
	}
	d, ok := t.dev.(Device)
	if !ok {
		return errors.New("the TUN device cannot be read")
	}
	defer context.AfterFunc(ctx, func() { t.dev.Close() })()
	for {
		t.got, t.err = d.Read(t.views, t.sizes, Headroom)
		if err := t.serve(); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return t.ended(err)
		}
	}
}

// ended is the error of a device that was not closed.
func (t *Tunnel) ended(err error) error {
	if errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// maxFailures is how many reads in a row may fail.
const maxFailures = 100

// serve hands over the packets that were read.
func (t *Tunnel) serve() error {
	switch {
	case t.err == nil:
		t.failures = 0
	case errors.Is(t.err, os.ErrClosed) || errors.Is(t.err, net.ErrClosed):
		return t.err
	default:
		if t.failures++; t.failures > maxFailures {
			return fmt.Errorf("read TUN device: %w", t.err)
		}
		t.log.Info("packet from the TUN device was unreadable", "err", t.err)
	}
	t.dispatch(t.bufs[:t.got], t.sizes[:t.got], t.run)
	t.burst()
	return nil
}

// dispatch hands runs of packets with the same destination to their session in one call.
func (t *Tunnel) dispatch(bufs [][]byte, sizes []int, run []Packet) {
	var last netip.Addr
	var peer Peer
	flush := func() {
		if len(run) > 0 && peer != nil {
			t.toClients.Add(uint64(len(run)))
			_ = task.Guard(t.log, "vpn deliver", func() { peer.Deliver(run) })
		}
		run = run[:0]
	}
	for i, b := range bufs {
		dst, ok := destination(b[Headroom : Headroom+sizes[i]])
		if !ok {
			t.noSession.Add(1)
			continue
		}
		if dst != last {
			flush()
			t.mu.RLock()
			peer = t.peers[dst]
			t.mu.RUnlock()
			last = dst
		}
		if peer == nil {
			t.noSession.Add(1)
			continue
		}
		run = append(run, Packet{Buf: b, Len: sizes[i]})
	}
	flush()
}

// destination is the destination address of a packet.
func destination(b []byte) (netip.Addr, bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(b[16:20])), true
	case len(b) >= 40 && b[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(b[24:40])), true
	}
	return netip.Addr{}, false
}

// Write sends the packets of a batch to the kernel and empties it.
func (t *Tunnel) Write(b *Batch) {
	if b.n == 0 {
		return
	}
	t.fromClients.Add(uint64(b.n))
	if _, err := t.dev.Write(b.bufs[:b.n], Headroom); err != nil {
		t.writeErrors.Add(1)
		t.log.Debug("write to the TUN device", "err", err)
	}
	b.n = 0
}

// TooBig answers a packet that does not fit a session with ICMP, so that its sender makes smaller ones.
func (t *Tunnel) TooBig(pkt []byte, from netip.Addr, mtu int) {
	b := NewBatch()
	defer b.Free()
	if n := policy.TooBig(b.Space(), pkt, from, mtu); n > 0 {
		b.Add(n)
		t.Write(b)
	}
}

// Batch collects packets on their way to the kernel.
type Batch struct {
	n    int
	bufs [batchLen][]byte
	room [batchLen][]byte
}

const batchLen = 64

var batches = sync.Pool{New: func() any {
	b := new(Batch)
	for i := range b.room {
		b.room[i] = make([]byte, bufSize)
	}
	return b
}}

// NewBatch takes an empty batch from the pool.
func NewBatch() *Batch { return batches.Get().(*Batch) }

// Free gives the batch back.
func (b *Batch) Free() {
	b.n = 0
	batches.Put(b)
}

// Full tells that Write is due.
func (b *Batch) Full() bool { return b.n == batchLen }

// Len is the number of packets.
func (b *Batch) Len() int { return b.n }

// Space is where the next packet of at most MaxPacket bytes is put, before Add.
func (b *Batch) Space() []byte { return b.room[b.n][Headroom : Headroom+MaxPacket] }

// SpaceBehind is Space with the n bytes of headroom in front of it, and one byte more at the end, so that a record that is too
// long shows.
func (b *Batch) SpaceBehind(n int) []byte { return b.room[b.n][Headroom-n : Headroom+MaxPacket+1] }

// Add takes the n bytes at Space as a packet.
func (b *Batch) Add(n int) {
	b.bufs[b.n] = b.room[b.n][:Headroom+n]
	b.n++
}
