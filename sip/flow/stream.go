package flow

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/internal/legacytls"
	"ringfence/internal/task"
)

// maxMalformed is how many malformed messages one connection may send before it is closed.
const maxMalformed = 5

var writeBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// stream is a TCP or TLS connection. One goroutine reads it. Writes are done by whoever finds the queue without a writer: the
// reader after handling what it read, else a goroutine that lives until the queue is empty. So an idle phone costs one
// goroutine and no buffer.
type stream struct {
	m         *Manager
	id        string
	transport string
	conn      net.Conn // what is read and written: the TCP connection or the TLS one above it
	local     netip.AddrPort
	remote    netip.AddrPort
	opened    time.Time
	cert      *x509.Certificate
	device    string
	raw       syscall.RawConn // of the TCP connection, to wait for data without holding a buffer; nil: conn is read blocking
	step      *doorstep       // under crypto/tls

	done chan struct{}
	once sync.Once

	mu      sync.Mutex
	closed  bool
	reason  error
	queue   []*bytes.Buffer
	bytes   int
	writing bool      // somebody drains the queue, or the reader is about to
	until   time.Time // read deadline while no message is begun
	kept    bool

	// of the reader
	part      []byte  // the beginning of a message, nil when none
	pooled    *[]byte // what part lies in, unless it has grown
	blank     int     // line ends since the last message, for the keep-alive of RFC 5626 §4.4.1
	corked    bool
	malformed int
	since     time.Time // when the incomplete message began
}

func (m *Manager) newStream(transport string, conn, under net.Conn) *stream {
	s := &stream{
		m: m, id: fmt.Sprintf("%s-%d", transport, m.ids.Add(1)), transport: transport, conn: conn,
		local: addrPort(under.LocalAddr()), remote: addrPort(under.RemoteAddr()), opened: time.Now(), done: make(chan struct{}),
	}
	s.until = s.opened.Add(m.opt.Unregistered)
	switch c := conn.(type) {
	case *net.TCPConn:
		s.raw, _ = c.SyscallConn()
	case legacytls.TLSConn: // crypto/tls, or of a phone that knows nothing newer than TLS 1.0
		if step, ok := under.(*doorstep); ok {
			s.raw, s.step = step.raw, step
		}
	}
	return s
}

func (s *stream) ID() string                     { return s.id }
func (s *stream) Transport() string              { return s.transport }
func (s *stream) Local() netip.AddrPort          { return s.local }
func (s *stream) Remote() netip.AddrPort         { return s.remote }
func (s *stream) Secure() bool                   { return s.transport == "TLS" }
func (s *stream) Certificate() *x509.Certificate { return s.cert }
func (s *stream) Device() string                 { return s.device }
func (s *stream) Done() <-chan struct{}          { return s.done }
func (s *stream) Opened() time.Time              { return s.opened }

// Keep lets the connection be silent until then, and counts it as a phone's.
func (s *stream) Keep(until time.Time) {
	s.mu.Lock()
	if !s.kept && !s.closed {
		s.kept = true
		s.m.kept.Add(1)
	}
	s.mu.Unlock()
	s.Allow(until)
}

// Allow lets the connection be silent until then.
func (s *stream) Allow(until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if until.After(s.until) {
		s.until = until
		_ = s.conn.SetReadDeadline(until)
	}
}

// Send queues msg as one write, which on TLS is one record: phones want it so.
func (s *stream) Send(msg sip.Message) error {
	b := writeBuffers.Get().(*bytes.Buffer)
	b.Reset()
	msg.StringWrite(b)
	if t := s.m.opt.Trace; t != nil {
		t(s, true, msg, b.Bytes())
	}
	return s.enqueue(b)
}

func (s *stream) enqueue(b *bytes.Buffer) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		writeBuffers.Put(b)
		return ErrClosed
	}
	if len(s.queue) >= s.m.opt.MaxQueue || s.bytes+b.Len() > maxQueueBytes {
		s.mu.Unlock()
		writeBuffers.Put(b)
		s.Close(ErrFull)
		return ErrFull
	}
	s.queue = append(s.queue, b)
	s.bytes += b.Len()
	start := !s.writing
	s.writing = true
	s.mu.Unlock()
	if start {
		s.m.tasks.Go("sip write", func(context.Context) { s.drain() }, s.ifPanicked)
	}
	return nil
}

// drain writes until the queue is empty. The caller has set writing.
func (s *stream) drain() {
	for first := true; ; first = false {
		s.mu.Lock()
		if s.closed || len(s.queue) == 0 {
			s.queue, s.bytes, s.writing = nil, 0, false
			s.mu.Unlock()
			return
		}
		b := s.queue[0]
		s.queue = s.queue[1:]
		s.bytes -= b.Len()
		s.mu.Unlock()
		if first {
			_ = s.conn.SetWriteDeadline(time.Now().Add(s.m.opt.WriteTime))
		}
		_, err := s.conn.Write(b.Bytes())
		if b.Cap() <= 1<<16 {
			writeBuffers.Put(b)
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = ErrFull
			}
			s.Close(fmt.Errorf("write: %w", err))
		}
	}
}

// Close ends the flow with reason; only the first call counts. What is queued is lost.
func (s *stream) Close(reason error) {
	s.once.Do(func() {
		s.mu.Lock()
		s.closed, s.reason = true, reason
		if s.kept {
			s.m.kept.Add(-1)
		}
		s.mu.Unlock()
		close(s.done)
		if s.transport != "TLS" {
			s.conn.Close()
			return
		}
		// Closing TLS writes an alert and may wait for the peer; a caller of Close must not.
		s.m.tasks.Go("sip close", func(context.Context) { s.conn.Close() },
			func(err error) {
				if err != nil {
					s.conn.Close()
				}
			})
	})
}

func (s *stream) shutdown(reason error) { s.Close(reason) }

func (s *stream) ifPanicked(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		s.Close(err)
	}
}

// serve reads until the connection ends. The flow is already in the manager's table.
func (s *stream) serve() {
	log := s.m.opt.Log
	defer func() {
		s.Close(ErrClosed) // no effect when closed before
		s.m.remove(s)
		s.mu.Lock()
		reason := s.reason
		s.mu.Unlock()
		if f := s.m.opt.OnClose; f != nil {
			_ = task.Guard(log, "flow closed", func() { f(s, reason) })
		}
	}()
	if f := s.m.opt.OnOpen; f != nil {
		if err := task.Guard(log, "flow opened", func() { f(s) }); err != nil {
			s.Close(err)
			return
		}
	}
	if err := s.readLoop(); err != nil {
		s.Close(err)
	}
}

// consume hands up the whole messages at the start of b and returns how many bytes that were.
func (s *stream) consume(b []byte) (int, error) {
	used := 0
	for used < len(b) {
		switch c := b[used]; {
		case c == '\r':
			used++
			continue
		case c == '\n':
			used++
			if s.blank++; s.blank == 2 {
				s.blank = 0
				pong := writeBuffers.Get().(*bytes.Buffer)
				pong.Reset()
				pong.WriteString("\r\n")
				if err := s.enqueue(pong); err != nil {
					return used, err
				}
			}
			continue
		}
		s.blank = 0
		n, err := frame(b[used:], s.m.opt.MaxMessage)
		if err != nil {
			s.reject(b[used:], err)
			return used, fmt.Errorf("%w: %w", ErrBadData, err)
		}
		if n == 0 {
			return used, nil
		}
		msg, err := decode(s.m.parser, b[used:used+n])
		if err != nil {
			s.reject(b[used:used+n], err)
			if s.malformed++; s.malformed > maxMalformed {
				return used, fmt.Errorf("%w: %w", ErrBadData, err)
			}
			used += n
			continue
		}
		wire := b[used : used+n]
		used += n
		if err := s.m.deliver(s, msg, wire); err != nil {
			return used, err
		}
		select {
		case <-s.done:
			return used, nil
		default:
		}
	}
	return used, nil
}

// deliver hands m up; a panic in the handler is the flow's end.
func (m *Manager) deliver(f Flow, msg sip.Message, wire []byte) error {
	if req, ok := msg.(*sip.Request); ok {
		received(req, f.Remote())
	}
	if t := m.opt.Trace; t != nil {
		t(f, false, msg, wire)
	}
	return task.Guard(m.opt.Log, "sip message", func() { m.opt.OnMessage(f, msg) })
}

// reject logs the start of what was malformed and answers 400 if that is possible.
func (s *stream) reject(b []byte, why error) {
	s.m.malformed.Add(1)
	s.m.complain("malformed message", "peer", s.remote.String(), "phone", s.device, "err", why, "bytes", fmt.Sprintf("%.200q", b))
	if answer := badRequest(b, 400, "Bad Request"); answer != nil {
		out := writeBuffers.Get().(*bytes.Buffer)
		out.Reset()
		out.Write(answer)
		_ = s.enqueue(out)
	}
}

// cork makes the reader the writer of what its handlers send; uncork writes it. Without this each answer would start a
// goroutine.
func (s *stream) cork() {
	s.mu.Lock()
	if !s.writing {
		s.writing, s.corked = true, true
	}
	s.mu.Unlock()
}

func (s *stream) uncork() {
	if s.corked {
		s.corked = false
		s.drain()
	}
}
