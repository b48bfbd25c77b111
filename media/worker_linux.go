package media

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ringfence/internal/task"
)

// worker is one thread with one epoll set. Sockets are watched level-triggered and read once per event: a leg's socket holds
// one packet every 20 ms, so a second read would nearly always be wasted.
type worker struct {
	engine  *Engine
	epoll   int
	wake    int // eventfd
	tid     atomic.Int64
	packets atomic.Uint64
	relayed atomic.Uint64
	mem     *scratch
	now     int64 // of the events at hand
	events  []unix.EpollEvent

	mu       sync.Mutex
	sessions map[*Session]struct{}
	list     []*Session // of tick, kept for its memory
	stopping bool
	closed   bool
}

// tickEvery is how often a worker looks for sessions whose report is due.
const tickEvery = 250 * time.Millisecond

func newWorker(e *Engine) (*worker, error) {
	w := &worker{engine: e, mem: new(scratch), sessions: make(map[*Session]struct{})}
	var err error
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(w.epoll)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1}
	if err = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, w.wake, &ev); err != nil {
		_ = unix.Close(w.epoll)
		_ = unix.Close(w.wake)
		return nil, fmt.Errorf("watch eventfd: %w", err)
	}
	return w, nil
}

// run is the worker's loop. The goroutine keeps its thread, so that the kernel sees one task that does nothing else.
func (w *worker) run(context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w.tid.Store(int64(unix.Gettid()))
	defer w.tid.Store(0)
	buf := make([]unix.EpollEvent, 256)
	next := w.engine.now() + int64(tickEvery)
	serve := w.serve // made once: a closure per batch would be an allocation per packet
	for {
		timeout, stopping := w.wait(next)
		if stopping {
			return
		}
		n, err := unix.EpollWait(w.epoll, buf, timeout)
		if err != nil && err != unix.EINTR {
			w.engine.log.Error("media worker stops", "err", err)
			return
		}
		w.now, w.events = w.engine.now(), buf[:max(n, 0)]
		for len(w.events) > 0 {
			_ = task.Guard(w.engine.log, "media packet", serve)
		}
		if w.now >= next {
			next = w.now + int64(tickEvery)
			w.tick(w.now)
		}
	}
}

// wait returns how long epoll may take in milliseconds: until the next tick, or for ever if there is nothing to look after.
func (w *worker) wait(next int64) (timeout int, stopping bool) {
	w.mu.Lock()
	idle, stopping := len(w.sessions) == 0, w.stopping
	w.mu.Unlock()
	if idle {
		return -1, stopping
	}
	return int(max(0, (next-w.engine.now())/int64(time.Millisecond)+1)), stopping
}

// serve handles the events that are left. A panic costs the event it happens in.
func (w *worker) serve() {
	for len(w.events) > 0 {
		port := w.events[0].Fd
		w.events = w.events[1:]
		if port < 0 {
			var b [8]byte
			_, _ = unix.Read(w.wake, b[:])
			continue
		}
		// The event names a port, not a socket: if the port changed hands since, the read finds nothing and does no harm.
		ep := w.engine.socks[port].Load()
		switch {
		case ep == nil || ep.worker != w:
		case ep.control:
			ep.session.readControl(w, w.now)
		default:
			ep.session.readData(w, w.now)
		}
	}
}

func (w *worker) tick(now int64) {
	w.mu.Lock()
	w.list = w.list[:0]
	for s := range w.sessions {
		w.list = append(w.list, s)
	}
	w.mu.Unlock()
	for _, s := range w.list {
		_ = task.Guard(w.engine.log, "media report", func() { s.tick(w, now) })
	}
	clear(w.list)
}

// add watches the sockets of a session.
func (w *worker) add(s *Session) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return ErrClosed
	}
	first := int32(s.port - w.engine.opts.First)
	w.engine.socks[first].Store(&s.data)
	w.engine.socks[first+1].Store(&s.ctrl)
	for i, fd := range []int{s.data.fd, s.ctrl.fd} {
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: first + int32(i)}
		if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			w.engine.socks[first].Store(nil)
			w.engine.socks[first+1].Store(nil)
			return err
		}
	}
	w.sessions[s] = struct{}{}
	if len(w.sessions) == 1 {
		w.poke()
	}
	return nil
}

// remove ends the watch; the caller closes the sockets next, which takes them out of the epoll set.
func (w *worker) remove(s *Session) {
	first := s.port - w.engine.opts.First
	w.engine.socks[first].Store(nil)
	w.engine.socks[first+1].Store(nil)
	w.mu.Lock()
	delete(w.sessions, s)
	w.mu.Unlock()
}

// poke ends a wait of the worker.
func (w *worker) poke() {
	_, _ = unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// stop ends run.
func (w *worker) stop() {
	w.mu.Lock()
	w.stopping = true
	w.mu.Unlock()
	w.poke()
}

func (w *worker) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.closed = true
	_ = unix.Close(w.epoll)
	_ = unix.Close(w.wake)
}

// cpu is the time the worker's thread has run, from the scheduler's own count.
func (w *worker) cpu() time.Duration {
	tid := w.tid.Load()
	if tid == 0 {
		return 0
	}
	b, err := os.ReadFile("/proc/self/task/" + strconv.FormatInt(tid, 10) + "/schedstat")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	ns, _ := strconv.ParseInt(first, 10, 64)
	return time.Duration(ns)
}

// sockaddr is a socket address in the kernel's form, so that sending needs no conversion.
type sockaddr struct {
	raw unix.RawSockaddrInet6 // large enough for both families
	len uint32                // 0: none
}

func (a *sockaddr) set(p netip.AddrPort) {
	switch {
	case !p.IsValid() || p.Port() == 0 || p.Addr().IsUnspecified():
		// "0.0.0.0" is the old way to say hold (RFC 3264 §8.4): there is nowhere to send to.
		a.len = 0
	case p.Addr().Is4():
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.raw))
		*v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: swap(p.Port()), Addr: p.Addr().As4()}
		a.len = unix.SizeofSockaddrInet4
	default:
		a.raw = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: swap(p.Port()), Addr: p.Addr().As16()}
		a.len = unix.SizeofSockaddrInet6
	}
}

func (a *sockaddr) addrPort() netip.AddrPort {
	if a.raw.Family == unix.AF_INET {
		v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.raw))
		return netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), swap(v4.Port))
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a.raw.Addr).Unmap(), swap(a.raw.Port))
}

// swap turns a port from host to network order and back, on the little-endian machines that Linux runs these days; on
// others it would have to do nothing.
func swap(p uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&p))
	return uint16(b[0])<<8 | uint16(b[1])
}

// bindUDP opens a non-blocking socket, marked for voice.
func bindUDP(at netip.AddrPort) (int, error) {
	family := unix.AF_INET
	if at.Addr().Is6() && !at.Addr().Is4In6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	if family == unix.AF_INET {
		sa = &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().Unmap().As4()}
		// Not being allowed to mark packets is no reason to be silent.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, dscpVoice)
	} else {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, dscpVoice)
	}
	if err := unix.Bind(fd, sa); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("bind %s: %w", at, err)
	}
	return fd, nil
}

// dscpVoice is expedited forwarding, 46, in its place in the traffic class octet ("sip-calls" §27.1).
const dscpVoice = 46 << 2

func closeFD(fd int) { _ = unix.Close(fd) }

// recvFrom and sendTo bypass the runtime's poller and its allocations. The sockets never block, so the scheduler need not be
// told about the calls.

func recvFrom(fd int, b []byte, from *sockaddr) (int, bool) {
	from.len = unix.SizeofSockaddrInet6
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&from.raw)), uintptr(unsafe.Pointer(&from.len)))
	return int(n), errno == 0
}

func sendTo(fd int, b []byte, to *sockaddr) bool {
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, uintptr(unsafe.Pointer(&to.raw)), uintptr(to.len))
	return errno == 0
}
