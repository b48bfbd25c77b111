package flow

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// readSize is what one read takes at most; most messages of a phone are shorter.
const readSize = 4096

var readBuffers = sync.Pool{New: func() any { b := make([]byte, readSize); return &b }}

// doorstep lies between crypto/tls and the connection of a phone. After the handshake TLS gets what was read for it and is then
// told that there is no more yet, instead of waiting with its deep stack: the goroutine of the connection waits, in a few
// small functions, and reads as much at once as there is.
type doorstep struct {
	net.Conn
	raw    syscall.RawConn
	have   []byte  // read and not yet given to TLS
	pooled *[]byte // what have lies in
	served bool    // the handshake is over
}

// errNotYet is temporary: crypto/tls goes on where it was at the next Read.
var errNotYet net.Error = notYet{}

type notYet struct{}

func (notYet) Error() string   { return "nothing to read yet" }
func (notYet) Timeout() bool   { return true }
func (notYet) Temporary() bool { return true }

func (d *doorstep) Read(b []byte) (int, error) {
	if len(d.have) > 0 {
		n := copy(b, d.have)
		d.have = d.have[n:]
		return n, nil
	}
	if d.served {
		return 0, errNotYet
	}
	return d.Conn.Read(b)
}

// release gives the buffer back; TLS has taken all of it.
func (d *doorstep) release() {
	if d.pooled != nil {
		readBuffers.Put(d.pooled)
		d.pooled, d.have = nil, nil
	}
}

// readLoop cuts the stream into messages. Waiting is what a connection does nearly all the time: that is done in two small
// functions, so that the stack can shrink again, and without a buffer unless a message is incomplete.
func (s *stream) readLoop() error {
	defer s.release()
	if s.step != nil { // what came right behind the handshake lies in TLS already
		if err := s.handle(); err != nil {
			return err
		}
	}
	for {
		var err error
		switch {
		case s.raw == nil:
			err = s.waitBlocking()
		case s.step != nil:
			err = s.wait(&s.step.have, &s.step.pooled)
		default:
			err = s.wait(&s.part, &s.pooled)
		}
		if err != nil {
			return readError(err, len(s.part) > 0)
		}
		if err := s.handle(); err != nil {
			return err
		}
		select {
		case <-s.done:
			return nil
		default:
		}
	}
}

// release gives the buffer of a message back.
func (s *stream) release() {
	if s.pooled != nil {
		readBuffers.Put(s.pooled)
		s.pooled = nil
	}
	s.part = nil
	if s.step != nil {
		s.step.release()
	}
}

// wait waits for data, takes a buffer only then unless there is one, and reads behind what is in it.
func (s *stream) wait(have *[]byte, pooled **[]byte) error {
	var n int
	var err error
	werr := s.raw.Read(func(fd uintptr) bool {
		if *have == nil {
			*pooled = readBuffers.Get().(*[]byte)
			*have = (**pooled)[:0]
		}
		b := *have
		for {
			if n, err = syscall.Read(int(fd), b[len(b):cap(b)]); err != syscall.EINTR {
				break
			}
		}
		if n > 0 {
			*have = b[:len(b)+n]
		} else if len(b) == 0 && *pooled != nil {
			readBuffers.Put(*pooled)
			*pooled, *have = nil, nil
		}
		return err != syscall.EAGAIN
	})
	if werr == nil && err == nil && n <= 0 {
		err = io.EOF
	}
	if werr != nil {
		return werr
	}
	return err
}

// waitBlocking reads a connection that cannot tell whether data waits. Reading one byte does: a first byte other than a line end
// cannot complete a message, so nothing is delayed by waiting for the rest, which came in the same record.
func (s *stream) waitBlocking() error {
	if s.part == nil {
		var one [1]byte
		if _, err := io.ReadFull(s.conn, one[:]); err != nil {
			return err
		}
		s.room()
		s.part = append(s.part, one[0])
		if one[0] == '\r' || one[0] == '\n' {
			return nil
		}
	}
	n, err := s.conn.Read(s.part[len(s.part):cap(s.part)])
	s.part = s.part[:len(s.part)+n]
	return err
}

// room makes sure that there is room behind part, up to the largest message.
func (s *stream) room() {
	switch {
	case s.part == nil:
		s.pooled = readBuffers.Get().(*[]byte)
		s.part = (*s.pooled)[:0]
	case len(s.part) == cap(s.part):
		bigger := make([]byte, len(s.part), min(2*cap(s.part), s.m.opt.MaxMessage+readSize))
		copy(bigger, s.part)
		s.part = bigger
		if s.pooled != nil {
			readBuffers.Put(s.pooled)
			s.pooled = nil
		}
	}
}

// handle does what is to be done about what has come.
func (s *stream) handle() error {
	if s.step == nil {
		return s.took()
	}
	for {
		s.room()
		n, err := s.conn.Read(s.part[len(s.part):cap(s.part)])
		s.part = s.part[:len(s.part)+n]
		if n > 0 {
			if err := s.took(); err != nil {
				return err
			}
		}
		switch {
		case err == errNotYet:
			s.step.release()
			if len(s.part) == 0 {
				s.release()
			}
			return nil
		case err != nil:
			return readError(err, len(s.part) > 0)
		}
		select {
		case <-s.done:
			return nil
		default:
		}
	}
}

// took hands up the whole messages in part and keeps the rest.
func (s *stream) took() error {
	s.cork()
	used, err := s.consume(s.part)
	s.uncork()
	if err != nil {
		return err
	}
	if used > 0 {
		s.begun(false)
	}
	if used == len(s.part) {
		if s.step != nil {
			s.part = s.part[:0]
		} else {
			s.release()
		}
		return nil
	}
	s.part = s.part[:copy(s.part, s.part[used:])]
	s.begun(true)
	if s.step == nil {
		s.room()
	}
	return nil
}

// readError turns the end of reading into a reason.
func readError(err error, inMessage bool) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return ErrRemote
	case errors.Is(err, net.ErrClosed):
		return ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded) && inMessage:
		return fmt.Errorf("%w in the middle of a message", ErrIdle)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ErrIdle
	}
	return fmt.Errorf("read: %w", err)
}

// begun sets the read deadline: while a message is incomplete a time after its beginning, so that bytes that drip do not
// prolong it, else as kept.
func (s *stream) begun(partial bool) {
	if !partial {
		s.since = time.Time{}
	} else if s.since.IsZero() {
		s.since = time.Now()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	until := s.until
	if partial {
		if limit := s.since.Add(s.m.opt.MessageTime); limit.Before(until) {
			until = limit
		}
	}
	_ = s.conn.SetReadDeadline(until)
}
