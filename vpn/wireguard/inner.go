package wireguard

import (
	"net/netip"
	"os"
	"sync"
	"time"

	wgtun "golang.zx2c4.com/wireguard/tun"

	"ringfence/vpn/tunnel"
)

// queued is how many packets to peers wait at most, voice and the rest apart; what comes on top is dropped and counted.
const queued = 512

// inner is the library's inner side: no device of the kernel, but the sessions.
type inner struct {
	peerOf func(netip.Addr) *peer // by inner source address
	write  func(*tunnel.Batch)

	voice, bulk chan *packet
	bufs        sync.Pool
	events      chan wgtun.Event
	gone        chan struct{}
	once        sync.Once
}

// packet is one on its way to a peer.
type packet struct {
	n int
	b [tunnel.MaxPacket]byte
}

func newInner() *inner {
	d := &inner{voice: make(chan *packet, queued), bulk: make(chan *packet, queued), events: make(chan wgtun.Event, 1), gone: make(chan struct{})}
	d.bufs.New = func() any { return new(packet) }
	d.events <- wgtun.EventUp
	return d
}

// put queues a packet to a peer; it reports false when there is no room.
func (d *inner) put(pkt []byte, voice bool) bool {
	p := d.bufs.Get().(*packet)
	p.n = copy(p.b[:], pkt)
	to := d.bulk
	if voice {
		to = d.voice
	}
	select {
	case to <- p:
		return true
	default:
		d.bufs.Put(p)
		return false
	}
}

// Read implements tun.Device: packets to peers, voice first.
func (d *inner) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	var p *packet
	select {
	case p = <-d.voice:
	default:
		select {
		case <-d.gone:
			return 0, os.ErrClosed
		case p = <-d.voice:
		case p = <-d.bulk:
		}
	}
	n := 0
	for {
		sizes[n] = copy(bufs[n][offset:], p.b[:p.n])
		n++
		d.bufs.Put(p)
		if n == len(bufs) {
			return n, nil
		}
		select {
		case p = <-d.voice:
			continue
		default:
		}
		select {
		case p = <-d.bulk:
		default:
			return n, nil
		}
	}
}

// Write implements tun.Device: packets from peers. The library has checked that each comes from an address of its peer.
func (d *inner) Write(bufs [][]byte, offset int) (int, error) {
	b := tunnel.NewBatch()
	defer b.Free()
	now := time.Now()
	var last *peer
	for _, buf := range bufs {
		pkt := buf[offset:]
		p := d.peerOf(source(pkt))
		if p == nil {
			continue
		}
		if last != nil && p != last {
			d.write(b)
		}
		last = p
		p.heard(now)
		p.session.FromClient(b, pkt, now)
	}
	d.write(b)
	return len(bufs), nil
}

// source is the source address of a packet.
func source(b []byte) netip.Addr {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(b[12:16]))
	case len(b) >= 40 && b[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(b[8:24]))
	}
	return netip.Addr{}
}

// Close implements tun.Device.
func (d *inner) Close() error {
	d.once.Do(func() {
		close(d.gone)
		close(d.events)
	})
	return nil
}

// File implements tun.Device.
func (d *inner) File() *os.File { return nil }

// MTU implements tun.Device.
func (d *inner) MTU() (int, error) { return tunnel.MaxPacket, nil }

// Name implements tun.Device.
func (d *inner) Name() (string, error) { return "sessions", nil }

// Events implements tun.Device.
func (d *inner) Events() <-chan wgtun.Event { return d.events }

// BatchSize implements tun.Device.
func (d *inner) BatchSize() int { return burst }
