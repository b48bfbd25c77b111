package flow

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// packetListener is a UDP socket. Its peers are pseudo-flows, keyed by their address: a phone on UDP is whoever sends from
// the address and port that registered (design §1 rule 6).
type packetListener struct {
	m     *Manager
	conn  *net.UDPConn
	local netip.AddrPort
	v6    bool

	mu    sync.Mutex
	peers map[netip.AddrPort]*packet
}

func (m *Manager) bindPacket(l Listen) error {
	network := "udp"
	if l.Addr.Addr().Is4() {
		network = "udp4"
	}
	conn, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(l.Addr))
	if err != nil {
		return err
	}
	setReceiveBuffer(conn, 4<<20)
	p := &packetListener{m: m, conn: conn, local: addrPort(conn.LocalAddr()), v6: !l.Addr.Addr().Is4(), peers: make(map[netip.AddrPort]*packet)}
	// On an unspecified address the kernel tells with each datagram which of ours it was sent to; the answer leaves from it.
	if l.Addr.Addr().IsUnspecified() {
		if p.v6 {
			err = ipv6.NewPacketConn(conn).SetControlMessage(ipv6.FlagDst, true)
		} else {
			err = ipv4.NewPacketConn(conn).SetControlMessage(ipv4.FlagDst, true)
		}
		if err != nil {
			conn.Close()
			return err
		}
	}
	m.packets = append(m.packets, p)
	return nil
}

// setReceiveBuffer makes room for the REGISTERs of many phones at once, as much as the kernel allows us.
func setReceiveBuffer(conn *net.UDPConn, n int) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, n) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, n)
		}
	})
}

func (p *packetListener) ended(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		p.m.opt.Log.Error("listener failed", "listener", "UDP "+p.local.String(), "err", err)
	}
}

// read takes datagrams until the socket is closed.
func (p *packetListener) read(ctx context.Context) {
	buf := make([]byte, 1<<16)
	oob := make([]byte, 256)
	failures := 0
	for {
		n, on, _, from, err := p.conn.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
				return
			}
			// ICMP errors of earlier sends come up here; they are no reason to stop.
			if failures++; failures > 1000 {
				time.Sleep(10 * time.Millisecond)
			}
			continue
		}
		failures = 0
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		p.datagram(buf[:n], from, p.destination(oob[:on]))
	}
}

// destination is the address of ours that a datagram was sent to.
func (p *packetListener) destination(oob []byte) netip.AddrPort {
	if len(oob) == 0 {
		return p.local
	}
	var dst net.IP
	if p.v6 {
		var cm ipv6.ControlMessage
		if cm.Parse(oob) == nil {
			dst = cm.Dst
		}
	}
	if dst == nil {
		var cm ipv4.ControlMessage
		if cm.Parse(oob) == nil {
			dst = cm.Dst
		}
	}
	if a, ok := netip.AddrFromSlice(dst); ok {
		return netip.AddrPortFrom(a.Unmap(), p.local.Port())
	}
	return p.local
}

// datagram handles one datagram. Nothing is kept for a sender until a message of his was understood.
func (p *packetListener) datagram(b []byte, from, to netip.AddrPort) {
	if len(bytes.Trim(b, "\r\n\x00 ")) == 0 {
		// Keep-alive. RFC 5626 wants an answer to CRLF CRLF on streams only; on UDP it would be a reflector.
		p.mu.Lock()
		if f := p.peers[from]; f != nil {
			f.touch()
		}
		p.mu.Unlock()
		return
	}
	// RFC 3261 §18.3: bytes beyond Content-Length are to be ignored, a shorter body is an error; the parser does both.
	if len(b) > p.m.opt.MaxMessage {
		return
	}
	msg, err := decode(p.m.parser, bytes.TrimLeft(b, "\r\n"))
	if err != nil {
		p.m.malformed.Add(1)
		p.m.complain("malformed message", "peer", from.String(), "err", err, "bytes", fmt.Sprintf("%.200q", b))
		// One answer no longer than what was sent: nothing to gain by a forged source.
		if answer := badRequest(b, 400, "Bad Request"); answer != nil && len(answer) <= len(b)+64 {
			p.write(answer, from, to)
		}
		return
	}
	f := p.flow(from, to)
	if f == nil {
		return
	}
	if err := p.m.deliver(f, msg, b); err != nil {
		f.Close(err)
	}
}

// flow returns the pseudo-flow of a peer, made if there is room.
func (p *packetListener) flow(from, to netip.AddrPort) *packet {
	p.mu.Lock()
	f := p.peers[from]
	p.mu.Unlock()
	if f != nil {
		f.touch()
		return f
	}
	if !p.m.reserve(from.Addr()) {
		return nil
	}
	f = &packet{
		p: p, id: fmt.Sprintf("UDP-%d", p.m.ids.Add(1)), local: to, remote: from, opened: time.Now(), done: make(chan struct{}),
	}
	f.touch()
	if !p.m.add(f) {
		p.m.release(from.Addr())
		return nil
	}
	p.mu.Lock()
	p.peers[from] = f
	p.mu.Unlock()
	if open := p.m.opt.OnOpen; open != nil {
		open(f)
	}
	return f
}

// Open returns the pseudo-flow of a UDP peer that has not sent anything to this process: after a restart a phone that is still
// registered is reached where it was. local is the address of ours that it knew, or the zero value.
func (m *Manager) Open(remote, local netip.AddrPort) (Flow, error) {
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	for _, p := range m.packets {
		if p.v6 != remote.Addr().Is6() && !(p.v6 && p.local.Addr().IsUnspecified()) || local.IsValid() && local.Port() != p.local.Port() {
			continue
		}
		if !local.IsValid() || local.Addr().Is6() != remote.Addr().Is6() {
			local = p.local
		}
		if f := p.flow(remote, local); f != nil {
			return f, nil
		}
		return nil, fmt.Errorf("open %s: too many connections", remote)
	}
	return nil, fmt.Errorf("open %s: no UDP listener for it", remote)
}

// expire ends pseudo-flows that nobody keeps.
func (p *packetListener) expire(ctx context.Context) {
	tick := time.NewTicker(max(p.m.opt.UDPIdle/8, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			var idle []*packet
			p.mu.Lock()
			for _, f := range p.peers {
				if f.expired(now) {
					idle = append(idle, f)
				}
			}
			p.mu.Unlock()
			for _, f := range idle {
				f.Close(ErrIdle)
			}
		}
	}
}

func (p *packetListener) write(b []byte, to, src netip.AddrPort) {
	var oob []byte
	if p.local.Addr().IsUnspecified() && !src.Addr().IsUnspecified() {
		if p.v6 {
			ip := src.Addr().As16()
			oob = (&ipv6.ControlMessage{Src: ip[:]}).Marshal()
		} else {
			oob = (&ipv4.ControlMessage{Src: src.Addr().AsSlice()}).Marshal()
		}
	}
	if _, _, err := p.conn.WriteMsgUDPAddrPort(b, oob, to); err != nil && !errors.Is(err, net.ErrClosed) {
		p.m.opt.Log.Debug("send", "peer", to.String(), "err", err)
	}
}

// packet is the pseudo-flow of one peer on UDP.
type packet struct {
	p      *packetListener
	id     string
	local  netip.AddrPort
	remote netip.AddrPort
	opened time.Time
	done   chan struct{}
	once   sync.Once

	mu     sync.Mutex
	until  time.Time
	kept   bool
	closed bool
}

func (f *packet) ID() string                     { return f.id }
func (f *packet) Transport() string              { return "UDP" }
func (f *packet) Local() netip.AddrPort          { return f.local }
func (f *packet) Remote() netip.AddrPort         { return f.remote }
func (f *packet) Secure() bool                   { return false }
func (f *packet) Certificate() *x509.Certificate { return nil }
func (f *packet) Device() string                 { return "" }
func (f *packet) Done() <-chan struct{}          { return f.done }
func (f *packet) Opened() time.Time              { return f.opened }

// Send writes one datagram. The kernel's buffer is the queue; what does not fit is lost, as UDP may.
func (f *packet) Send(msg sip.Message) error {
	select {
	case <-f.done:
		return ErrClosed
	default:
	}
	b := writeBuffers.Get().(*bytes.Buffer)
	b.Reset()
	msg.StringWrite(b)
	if t := f.p.m.opt.Trace; t != nil {
		t(f, true, msg, b.Bytes())
	}
	f.p.write(b.Bytes(), f.remote, f.local)
	if b.Cap() <= 1<<16 {
		writeBuffers.Put(b)
	}
	return nil
}

// Close forgets the peer; its next message makes a new flow.
func (f *packet) Close(reason error) {
	f.once.Do(func() {
		close(f.done)
		f.mu.Lock()
		f.closed = true
		if f.kept {
			f.p.m.kept.Add(-1)
		}
		f.mu.Unlock()
		f.p.mu.Lock()
		if f.p.peers[f.remote] == f {
			delete(f.p.peers, f.remote)
		}
		f.p.mu.Unlock()
		f.p.m.remove(f)
		if c := f.p.m.opt.OnClose; c != nil {
			// Apart from the caller, who may hold locks that the handler wants.
			f.p.m.tasks.Go("flow closed", func(context.Context) { c(f, reason) }, func(err error) {
				if errors.Is(err, context.Canceled) {
					c(f, reason)
				}
			})
		}
	})
}

func (f *packet) shutdown(reason error) { f.Close(reason) }

func (f *packet) touch() { f.Allow(time.Now().Add(f.p.m.opt.UDPIdle)) }

// Keep lets the pseudo-flow be silent until then, and counts it as a phone's.
func (f *packet) Keep(until time.Time) {
	f.mu.Lock()
	if !f.kept && !f.closed {
		f.kept = true
		f.p.m.kept.Add(1)
	}
	f.mu.Unlock()
	f.Allow(until)
}

// Allow lets the pseudo-flow be silent until then.
func (f *packet) Allow(until time.Time) {
	f.mu.Lock()
	if until.After(f.until) {
		f.until = until
	}
	f.mu.Unlock()
}

func (f *packet) expired(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return now.After(f.until)
}
