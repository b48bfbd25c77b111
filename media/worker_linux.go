package media

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ringfence/internal/task"
)

// worker relays the packets of some sessions. It waits in Go's own poller, so that no thread blocks in a system call that the
// scheduler has to watch, and reads what is there without blocking.
//
// Its sockets are in an epoll set that nobody ever blocks on. What the poller watches is a second set:
//
//	Go's poller -- gate (edge) --+-- sockets (edge; eager only) -- every socket of a session (level)
//	                             +-- timer   (edge; a report is due, or the beat of mode steady)
//	                             +-- wake    (edge)
//
// Eager, a worker is woken by each packet. Once so many come that this costs more than the work itself, it is steady: the sockets
// make no wake-ups, and a timer lets it look for packets in fixed short beats, which adds less than a beat to their delay.
//
// A socket is read once per event: it holds one packet every 20 ms, so a second read would nearly always be wasted.
type worker struct {
	engine  *Engine
	sockets int      // epoll set of the sockets
	gate    *os.File // epoll set of what wakes the worker
	wait    syscall.RawConn
	gateFD  int
	timer   int
	wake    int // eventfd
	packets atomic.Uint64
	relayed atomic.Uint64
	steady  atomic.Bool // changed by run alone
	mem     *scratch
	now     int64 // of the events at hand
	events  []unix.EpollEvent
	// batching is held while descriptors are in use without a session's lock.
	batching           sync.Mutex
	batch              *batch // nil: none, or none yet
	noBatch            bool   // the kernel does not want
	oneOfBatch         func()
	haveRead, haveSent func(i uint64, res int32)

	// Of run.
	idle   bool // no session, no timer
	parked bool // the poller was asked once
	count  int  // packets since the mode was looked at
	since  int64
	buf    [256]unix.EpollEvent
	got    int

	mu       sync.Mutex
	sessions map[*Session]struct{}
	list     []*Session // of tick, kept for its memory
	stopping bool
	closed   bool
}

const (
	// tickEvery is how often a worker looks for sessions whose report is due.
	tickEvery = 250 * time.Millisecond
	// beat is how often a steady worker looks for packets.
	beat = 700 * time.Microsecond
	// A worker looks at its mode so often, and changes it at these packets per second.
	modeEvery   = 50 * time.Millisecond
	becomeBusy  = 2500
	becomeQuiet = 1500
	// workerShare is how many sessions a worker gets before the next one gets any: one that has much to do at once is cheaper
	// than two that are woken for little.
	workerShare = 800
)

func newWorker(e *Engine) (*worker, error) {
	w := &worker{engine: e, mem: new(scratch), sessions: make(map[*Session]struct{}), sockets: -1, timer: -1, wake: -1}
	w.oneOfBatch, w.haveRead, w.haveSent = w.workOnOne, w.noteRead, w.noteSent
	if err := w.open(); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *worker) open() (err error) {
	if w.sockets, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	if w.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return fmt.Errorf("timerfd: %w", err)
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	if w.gateFD, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	// The file is what the poller takes; it owns the descriptor.
	if err := unix.SetNonblock(w.gateFD, true); err != nil {
		_ = unix.Close(w.gateFD)
		return fmt.Errorf("epoll: %w", err)
	}
	w.gate = os.NewFile(uintptr(w.gateFD), "media")
	if w.wait, err = w.gate.SyscallConn(); err != nil {
		return fmt.Errorf("poller: %w", err)
	}
	for _, x := range []struct {
		fd     int
		events uint32
	}{
		{w.timer, unix.EPOLLIN | unix.EPOLLET}, {w.wake, unix.EPOLLIN | unix.EPOLLET}, {w.sockets, unix.EPOLLIN | unix.EPOLLET},
	} {
		ev := unix.EpollEvent{Events: x.events, Fd: int32(x.fd)}
		if err := unix.EpollCtl(w.gateFD, unix.EPOLL_CTL_ADD, x.fd, &ev); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
	}
	return nil
}

// run is the worker's loop.
func (w *worker) run(context.Context) {
	defer w.setTimer(0)
	serve, look := w.serve, w.look // made once: a closure per batch would be an allocation per packet
	next := w.engine.now()
	w.since, w.idle = next, true
	for {
		idle, stopping := w.state()
		if stopping {
			return
		}
		if idle != w.idle {
			w.idle = idle
			if idle {
				w.setMode(false, 0)
			} else {
				w.setMode(false, tickEvery)
			}
		}
		w.parked = false
		if err := w.wait.Read(look); err != nil {
			w.engine.log.Error("media worker stops", "err", err)
			return
		}
		w.now = w.engine.now()
		for w.got > 0 {
			w.count += w.got
			w.events = w.buf[:w.got]
			for len(w.events) > 0 {
				_ = task.Guard(w.engine.log, "media packet", serve)
			}
			if w.got < len(w.buf) {
				break
			}
			w.now = w.engine.now()
			w.got = epollNow(w.sockets, w.buf[:])
		}
		if w.now-w.since >= int64(modeEvery) {
			w.choose()
		}
		if w.now >= next {
			next = w.now + int64(tickEvery)
			w.tick(w.now)
		}
	}
}

// look is called by the poller: before it waits, and whenever something has woken it. False is to wait.
//
// What woke the poller before it was asked is forgotten by it, so everything that may have is looked at once more: the timer, the
// sockets where they wake it, and what other goroutines want.
func (w *worker) look(uintptr) bool {
	expired := w.clearTimer()
	steady := w.steady.Load()
	if first := !w.parked; first && steady && !expired {
		w.parked, w.got = true, 0
		return false
	}
	w.got = epollNow(w.sockets, w.buf[:])
	if w.parked || w.got > 0 || expired {
		return true
	}
	w.parked = true
	idle, stopping := w.state()
	return stopping || idle != w.idle
}

// choose looks whether the mode fits what there is to do.
func (w *worker) choose() {
	rate := int64(w.count) * int64(time.Second) / (w.now - w.since)
	w.count, w.since = 0, w.now
	switch steady := w.steady.Load(); {
	case !steady && rate > becomeBusy:
		w.setMode(true, beat)
	case steady && rate < becomeQuiet:
		w.setMode(false, tickEvery)
	}
}

// setMode decides whether packets wake the worker, and how often the timer does.
func (w *worker) setMode(steady bool, every time.Duration) {
	w.steady.Store(steady)
	if steady && w.batch == nil && !w.noBatch {
		var err error
		if w.batch, err = newBatch(); err != nil {
			w.noBatch = true
			w.engine.log.Info("media worker sends packets one by one", "err", err)
		}
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(w.sockets)}
	if steady {
		ev.Events = 0
	}
	_ = unix.EpollCtl(w.gateFD, unix.EPOLL_CTL_MOD, w.sockets, &ev)
	w.setTimer(every)
}

// setTimer makes the timer wake the worker every so often; 0 stops it.
func (w *worker) setTimer(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	_ = unix.TimerfdSettime(w.timer, 0, &unix.ItimerSpec{Interval: t, Value: t}, nil)
}

// clearTimer reads the timer, without which it would not go on, and tells whether it had expired.
func (w *worker) clearTimer() (expired bool) {
	var b [8]byte
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(w.timer), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return errno == 0 && n == 8
}

// state tells whether there is nothing to look after, and whether run is to end.
func (w *worker) state() (idle, stopping bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sessions) == 0, w.stopping
}

// load is how many sessions the worker has.
func (w *worker) load() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sessions)
}

// pick chooses the worker of a new session.
func (e *Engine) pick() *worker {
	best, least := e.workers[0], -1
	for _, w := range e.workers {
		n := w.load()
		if n < workerShare {
			return w
		}
		if least < 0 || n < least {
			best, least = w, n
		}
	}
	return best
}

// serve handles the events that are left. A panic costs the event it happens in.
func (w *worker) serve() {
	for len(w.events) > 0 {
		if w.batch != nil && len(w.events) >= batchLeast && w.serveBatch() {
			continue
		}
		port := w.events[0].Fd
		w.events = w.events[1:]
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
		if err := unix.EpollCtl(w.sockets, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
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

// stop ends run.
func (w *worker) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopping = true
	if !w.closed {
		w.poke()
	}
}

// poke ends a wait of the worker.
func (w *worker) poke() { _, _ = unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

func (w *worker) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.closed = true
	if w.batch != nil {
		w.batch.ring.close()
	}
	if w.gate != nil {
		_ = w.gate.Close()
	}
	for _, fd := range []int{w.sockets, w.timer, w.wake} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
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

// notRead is scratch.got before there is anything.
const notRead = -1

// receive reads a datagram, or takes the one that the batch has read.
func (m *scratch) receive(fd int) (n int, ok bool) {
	if m.later != nil {
		return m.got, m.got >= 0
	}
	return recvFrom(fd, m.in[:], &m.from)
}

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

// epollNow asks a set without waiting.
func epollNow(set int, buf []unix.EpollEvent) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(set), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}
