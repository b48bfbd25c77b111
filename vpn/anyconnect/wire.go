package anyconnect

import (
	"io"
	"net"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// wire stands between crypto/tls and the TCP connection.
//
// Reading, it takes as much as the socket has in one system call and hands it to crypto/tls record by record, never past the
// end of one: so it knows whether another whole record is there, and a burst of packets can be collected before it is written
// to the TUN device. It holds a buffer only while bytes are in it: an idle session costs none.
//
// Writing, it keeps records back once the tunnel is up, so that a burst of packets leaves in one system call, and never waits
// unless asked to.
type wire struct {
	net.Conn
	raw syscall.RawConn

	in        []byte // from bufs, nil when empty
	r, w      int    // unread bytes are in[r:w]
	rest      int    // of the record that is being handed out
	readOnce  func(fd uintptr) bool
	readN     int
	readErr   error
	mu        sync.Mutex // guards all below
	keep      bool       // records are kept back
	out       []byte
	writeOnce func(fd uintptr) bool
	writeErr  error
}

const (
	wireBuffer   = 64 << 10
	recordHeader = 5
	recordMax    = recordHeader + 1<<14 + 2048
)

// outs are buffers for records that wait for the socket; a burst of the TUN device fits.
var outs = sync.Pool{New: func() any { b := make([]byte, 0, 3*wireBuffer); return &b }}

var bufs = sync.Pool{New: func() any { b := make([]byte, wireBuffer); return &b }}

func newWire(c *net.TCPConn) (*wire, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: c, raw: raw}
	w.readOnce = func(fd uintptr) bool {
		if w.in == nil {
			w.in = *bufs.Get().(*[]byte)
		}
		w.readN, w.readErr = call(unix.SYS_READ, fd, w.in[w.w:], shortCall)
		if w.readErr == unix.EAGAIN {
			if w.r == w.w {
				w.release()
			}
			return false
		}
		return true
	}
	w.writeOnce = func(fd uintptr) bool {
		w.send(fd)
		return true
	}
	return w, nil
}

// shortCall is up to how many bytes a system call that does not wait is made without telling the scheduler, whose bookkeeping
// costs more than such a call.
const shortCall = 8 << 10

// call reads or writes b without waiting.
func call(trap, fd uintptr, b []byte, size int) (int, error) {
	f := unix.Syscall
	if size <= shortCall {
		f = unix.RawSyscall
	}
	for {
		n, _, errno := f(trap, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// release gives the empty buffer back.
func (w *wire) release() {
	if w.in != nil {
		b := w.in
		w.in, w.r, w.w = nil, 0, 0
		bufs.Put(&b)
	}
}

// fill waits for bytes behind those that are there.
func (w *wire) fill() error {
	if w.r > 0 && (w.r == w.w || w.w == len(w.in)) {
		w.w = copy(w.in, w.in[w.r:w.w])
		w.r = 0
	}
	if err := w.raw.Read(w.readOnce); err != nil {
		return err
	}
	switch {
	case w.readErr != nil:
		return &net.OpError{Op: "read", Net: "tcp", Addr: w.RemoteAddr(), Err: w.readErr}
	case w.readN == 0:
		return io.EOF
	}
	w.w += w.readN
	return nil
}

// record is the length of the record at in[r:], with its header; 0 while the header is not whole.
func (w *wire) record() int {
	if w.w-w.r < recordHeader {
		return 0
	}
	return recordHeader + int(w.in[w.r+3])<<8 + int(w.in[w.r+4])
}

// Read gives bytes of the current record only.
func (w *wire) Read(p []byte) (int, error) {
	if w.rest == 0 {
		for w.record() == 0 {
			if err := w.fill(); err != nil {
				return 0, err
			}
		}
		w.rest = w.record()
	}
	for w.r == w.w {
		if err := w.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.in[w.r:min(w.w, w.r+w.rest)])
	w.r += n
	w.rest -= n
	return n, nil
}

// ready tells whether a whole record can be read without waiting. A record too long for TLS counts as whole: it is refused
// when it is read.
func (w *wire) ready() bool {
	n := w.rest
	if n == 0 {
		n = w.record()
	}
	return n > 0 && (w.w-w.r >= n || n > recordMax)
}

// wait returns when ready is true.
func (w *wire) wait() error {
	for !w.ready() {
		if err := w.fill(); err != nil {
			return err
		}
	}
	return nil
}

// Write sends p, or keeps it back.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	if w.keep {
		defer w.mu.Unlock()
		if w.writeErr != nil {
			return 0, w.writeErr
		}
		if w.out == nil {
			w.out = (*outs.Get().(*[]byte))[:0]
		}
		w.out = append(w.out, p...)
		return len(p), nil
	}
	w.mu.Unlock()
	return w.Conn.Write(p)
}

// hold makes Write keep records back from now on.
func (w *wire) hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keep = true
}

// send writes what is kept back, as far as the socket takes it; more tells that some is left. w.mu is held.
func (w *wire) send(fd uintptr) (more bool) {
	for len(w.out) > 0 && w.writeErr == nil {
		n, err := call(unix.SYS_WRITE, fd, w.out, len(w.out))
		if err == unix.EAGAIN {
			return true
		}
		if err != nil {
			w.writeErr = &net.OpError{Op: "write", Net: "tcp", Addr: w.RemoteAddr(), Err: err}
			return false
		}
		w.out = w.out[:copy(w.out, w.out[n:])]
	}
	w.freeLocked()
	return false
}

// freeLocked gives the empty output buffer back. w.mu is held.
func (w *wire) freeLocked() {
	if len(w.out) == 0 && cap(w.out) > 0 {
		b := w.out
		w.out = nil
		outs.Put(&b)
	}
}

// flush sends without waiting; more tells that some is left, which is for drain. It must not be called while drain runs.
func (w *wire) flush() (more bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.raw.Write(w.writeOnce); err != nil && w.writeErr == nil {
		w.writeErr = err
	}
	return len(w.out) > 0, w.writeErr
}

// drain sends, waiting until all has left or the write deadline passes. Nobody else writes meanwhile.
func (w *wire) drain() error {
	w.mu.Lock()
	pending := w.out
	w.out = nil
	w.mu.Unlock()
	_, err := w.Conn.Write(pending)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && w.writeErr == nil {
		w.writeErr = err
	}
	outs.Put(&pending)
	return w.writeErr
}
