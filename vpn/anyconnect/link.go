package anyconnect

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/vpn/cstp"
	"ringfence/vpn/session"
	"ringfence/vpn/tunnel"
)

// link is the CSTP channel of a session: frames, one to a TLS record.
//
// Sending never waits: packets are sealed and given to the socket by whoever has them. Only when the socket is full a
// goroutine waits for it, and packets queue up, expedited ones (voice) before the others, each queue bounded.
type link struct {
	c     *conn
	s     *session.Session
	tail  []byte // of a frame that is not whole yet; the reader's
	data  bool   // packets came in this burst; the reader's
	about string

	mu       sync.Mutex // guards all below, and the order of frames
	closed   bool
	draining bool
	queue    queue
	scratch  []byte
}

const (
	drainTime = 60 * time.Second // a socket that takes nothing for so long is dead
	// notSent bounds what the kernel holds unsent of a channel, so that voice waits behind little.
	notSent = 64 << 10
)

func newLink(c *conn, s *session.Session, early []byte) *link {
	l := &link{c: c, s: s, tail: early}
	st := c.tls.ConnectionState()
	l.about = tls.VersionName(st.Version) + " " + tls.CipherSuiteName(st.CipherSuite)
	c.wire.hold()
	_ = c.wire.raw.Control(func(fd uintptr) { // without it voice waits longer; nothing else depends on it
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
	})
	return l
}

// Describe implements session.Link.
func (l *link) Describe() string { return l.about }

// Remote implements session.Link.
func (l *link) Remote() netip.AddrPort { return l.c.peer }

// Seen implements session.Link; a TCP connection does not move.
func (l *link) Seen(netip.Addr) {}

// Deliver implements session.Link. The frame header is written in front of each packet in place.
func (l *link) Deliver(pkts []tunnel.Packet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	for _, p := range pkts {
		frame := p.Buf[tunnel.Headroom-cstp.HeaderLen : tunnel.Headroom+p.Len]
		cstp.PutHeader(frame, cstp.Data, p.Len)
		if l.draining {
			l.queue.push(frame)
			continue
		}
		l.sealLocked(frame)
	}
	if l.queue.dropped > 0 {
		l.s.Congested(l.queue.dropped)
		l.queue.dropped = 0
	}
	l.flushLocked()
}

// sealLocked makes a record of the frame. l.mu is held.
func (l *link) sealLocked(frame []byte) {
	// The wire takes everything; a lost connection shows when the records are sent.
	_, _ = l.c.tls.Write(frame)
}

// flushLocked gives the records to the socket, and starts the goroutine that waits for it when it is full. l.mu is held.
func (l *link) flushLocked() {
	if l.draining || l.closed {
		return
	}
	more, err := l.c.wire.flush()
	switch {
	case err != nil:
		l.c.close() // the reader sees it and ends the link
	case more:
		l.draining = true
		l.c.s.group.Go("vpn channel drain", func(context.Context) { l.drain() }, func(err error) {
			if err != nil {
				l.c.close()
			}
		})
	}
}

// drain waits for the socket until nothing is left.
func (l *link) drain() {
	for {
		l.c.wire.SetWriteDeadline(time.Now().Add(drainTime))
		err := l.c.wire.drain()
		l.mu.Lock()
		if err != nil || l.closed && l.queue.empty() {
			l.draining = false
			l.queue = queue{}
			l.mu.Unlock()
			l.c.close()
			return
		}
		if l.queue.empty() {
			l.c.wire.SetWriteDeadline(time.Time{})
			l.draining = false
			l.mu.Unlock()
			return
		}
		for n := 0; n < notSent/4; {
			frame := l.queue.pop()
			if frame == nil {
				break
			}
			n += len(frame)
			l.sealLocked(frame)
		}
		l.mu.Unlock()
	}
}

// control sends a frame that is not data, before all packets that wait.
func (l *link) control(t cstp.Type, payload []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.scratch = cstp.Frame{Type: t, Payload: payload}.Append(l.scratch[:0])
	if l.draining {
		l.queue.pushFront(l.scratch)
		return
	}
	l.sealLocked(l.scratch)
	l.flushLocked()
}

// Probe implements session.Link.
func (l *link) Probe() { l.control(cstp.DPDRequest, nil) }

// Close implements session.Link. A client that is put out for good is told so, and the connection ends when it has hung up or
// some seconds later; else the connection just ends, and the client comes back.
func (l *link) Close(bye session.Farewell) {
	if bye.Final {
		l.control(cstp.Disconnect, append([]byte{0}, bye.Text...))
	}
	l.mu.Lock()
	closed := l.closed
	l.closed = true
	draining := l.draining
	l.queue.voice, l.queue.bulk = nil, nil
	l.mu.Unlock()
	if closed {
		return
	}
	if !bye.Final {
		l.c.close()
		return
	}
	l.c.wire.SetReadDeadline(time.Now().Add(farewellTime))
	if t, ok := l.c.wire.Conn.(*net.TCPConn); ok && !draining {
		_ = t.CloseWrite() // sends the farewell although unread bytes may be here, which Close would answer with a reset
	}
}

const farewellTime = 2 * time.Second

// run reads frames until the channel ends. bye tells that the user said goodbye.
func (l *link) run() (bye bool, why string) {
	w := l.c.wire
	for {
		if len(l.tail) == 0 || !l.more() {
			if err := w.wait(); err != nil {
				return false, endReason(err)
			}
		}
		now := time.Now()
		bye, why = l.burst(now)
		if why != "" {
			return bye, why
		}
		l.s.Heard(l, now, l.data)
		l.data = false
	}
}

// more tells whether the tail holds a whole frame.
func (l *link) more() bool {
	_, _, err := cstp.Next(l.tail)
	return !errors.Is(err, cstp.ErrShort)
}

// burst takes all records that are there. Packets go to the kernel together.
func (l *link) burst(now time.Time) (bye bool, why string) {
	b := tunnel.NewBatch()
	defer b.Free()
	defer l.s.Flush(b)
	if len(l.tail) > 0 {
		if bye, why = l.frames(b, now); why != "" {
			return bye, why
		}
	}
	for l.c.wire.ready() {
		space := b.SpaceBehind(cstp.HeaderLen)
		n, err := l.c.tls.Read(space)
		if n > 0 {
			if bye, why = l.record(b, space[:n], now); why != "" {
				return bye, why
			}
			for n == len(space) && len(l.tail) > 0 && err == nil { // a record larger than any packet: take the rest of it
				l.s.Flush(b)
				space = b.SpaceBehind(cstp.HeaderLen)
				if n, err = l.c.tls.Read(space); n > 0 {
					l.tail = append(l.tail, space[:n]...)
					if bye, why = l.frames(b, now); why != "" {
						return bye, why
					}
				}
			}
		}
		if err != nil {
			return false, endReason(err)
		}
	}
	l.answerTLS()
	return false, ""
}

// answerTLS sends what crypto/tls itself wrote while reading: answers to key updates.
func (l *link) answerTLS() {
	l.c.wire.mu.Lock()
	pending := len(l.c.wire.out) > 0
	l.c.wire.mu.Unlock()
	if pending {
		l.mu.Lock()
		l.flushLocked()
		l.mu.Unlock()
	}
}

// record takes one record. The usual one is one data frame, whose packet already stands where the batch wants it.
func (l *link) record(b *tunnel.Batch, rec []byte, now time.Time) (bye bool, why string) {
	if len(l.tail) == 0 {
		f, rest, err := cstp.Next(rec)
		if err == nil && len(rest) == 0 {
			if f.Type == cstp.Data && len(f.Payload) <= tunnel.MaxPacket {
				l.data = true
				l.s.FromClientInPlace(b, len(f.Payload), now)
				return false, ""
			}
			return l.frame(b, f, now)
		}
	}
	l.tail = append(l.tail, rec...)
	return l.frames(b, now)
}

// frames takes the whole frames of the tail: clients put one frame into one record, but the length field decides (§6).
func (l *link) frames(b *tunnel.Batch, now time.Time) (bye bool, why string) {
	rest := l.tail
	for len(rest) > 0 {
		var f cstp.Frame
		var err error
		f, rest, err = cstp.Next(rest)
		if errors.Is(err, cstp.ErrShort) {
			break
		}
		if err != nil {
			return false, "client broke the protocol: " + err.Error()
		}
		if bye, why = l.frame(b, f, now); why != "" {
			return bye, why
		}
	}
	if l.tail = l.tail[:copy(l.tail, rest)]; len(l.tail) == 0 {
		l.tail = nil
	}
	return false, ""
}

// frame acts on one frame.
func (l *link) frame(b *tunnel.Batch, f cstp.Frame, now time.Time) (bye bool, why string) {
	switch f.Type {
	case cstp.Data:
		l.data = true
		l.s.FromClient(b, f.Payload, now)
	case cstp.DPDRequest:
		l.control(cstp.DPDResponse, f.Payload)
	case cstp.DPDResponse:
		l.s.Answered(l, now)
	case cstp.Keepalive:
	case cstp.Disconnect:
		code, text := cstp.DisconnectReason(f.Payload)
		return code == cstp.UserWish, fmt.Sprintf("client said goodbye (%#02x): %s", code, text)
	case cstp.Compressed:
		return false, "client broke the protocol: compression was never agreed"
	default:
		return false, "client broke the protocol: frame of " + f.Type.String()
	}
	return false, ""
}

// endReason is the end of a connection in words.
func endReason(err error) string {
	var ne net.Error
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "client hung up"
	case errors.Is(err, net.ErrClosed):
		return "closed"
	case errors.As(err, &ne) && ne.Timeout():
		return "closed after farewell"
	}
	return err.Error()
}
