// Package beat waits for packets from a few descriptors: a TUN device, a socket that many clients send to.
//
// Being woken for each packet of voice costs more than the packet itself. So a waiter is eager while little happens, and woken by
// each packet; once it is woken too often it is steady: packets make no wake-ups any more, and a timer lets it look for them in
// fixed short beats, which adds less than a beat to their delay and finds several at once.
//
// Waiting is the runtime poller's, so that no thread blocks in a system call that the scheduler has to watch. What the poller
// knows are not the descriptors, which would wake it always, but an epoll set around them that nobody blocks on:
//
//	Go's poller -- gate (edge) --+-- descriptors (edge; eager only)
//	                             +-- timer       (edge; steady only)
//
// The media engine's workers wait in the same manner, for many sockets each.
package beat

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// Every is how often a steady waiter looks for packets.
	Every = 400 * time.Microsecond
	// A waiter that was woken so often within modeEvery becomes steady, and eager again when it found fewer packets.
	modeEvery   = 50 * time.Millisecond
	becomeBusy  = 125
	becomeQuiet = 75
)

// Source is a descriptor with what is done with its packets. Both methods are called from the goroutine that runs the waiter.
type Source interface {
	// FD is the descriptor. It must not block, and must stay open until the waiter is closed or Serve has failed.
	FD() int
	// Look takes packets that are there, as many as it has room for, never waiting, and tells how many it took; more says that
	// there may be others. A negative number is for Serve to explain.
	Look() (n int, more bool)
	// Serve works on what the latest Look took. With an error the source has ended.
	Serve() error
}

// Waiter waits for some sources. Run belongs to one goroutine; Close may be called from any.
type Waiter struct {
	sources []Source
	gate    *os.File // owns the epoll set
	raw     syscall.RawConn
	gateFD  int
	timer   *os.File // never waited for
	clock   syscall.RawConn
	look    func(uintptr) bool
	read    func(uintptr)
	steady  atomic.Bool // changed by Run's goroutine
	closed  atomic.Bool // the files may be gone

	// Of Run.
	found   []int // by source
	parked  bool  // the poller was asked once
	more    bool  // the last look left some
	wakes   int   // eager: since the mode was looked at
	packets int   // steady: likewise
	beats   int
	expired int // by read
	since   time.Time
}

// New makes a waiter.
func New(sources ...Source) (*Waiter, error) {
	w := &Waiter{sources: sources, found: make([]int, len(sources)), since: time.Now()}
	w.look, w.read = w.looking, w.readTimer
	if err := w.open(); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func (w *Waiter) open() (err error) {
	if w.gateFD, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	if err := unix.SetNonblock(w.gateFD, true); err != nil { // else the file is not the poller's
		_ = unix.Close(w.gateFD)
		return fmt.Errorf("epoll: %w", err)
	}
	w.gate = os.NewFile(uintptr(w.gateFD), "gate")
	if w.raw, err = w.gate.SyscallConn(); err != nil {
		return fmt.Errorf("poller: %w", err)
	}
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC) // blocking while it becomes a file: not the poller's
	if err != nil {
		return fmt.Errorf("timerfd: %w", err)
	}
	w.timer = os.NewFile(uintptr(fd), "timer")
	if w.clock, err = w.timer.SyscallConn(); err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err == nil {
		err = w.watch(unix.EPOLL_CTL_ADD, fd, arrivals)
	}
	for _, s := range w.sources {
		if err == nil {
			err = w.watch(unix.EPOLL_CTL_ADD, s.FD(), arrivals)
		}
	}
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	return nil
}

// arrivals is what wakes: packets that come, not those that are there.
const arrivals = unix.EPOLLIN | unix.EPOLLET

func (w *Waiter) watch(op, fd int, events uint32) error {
	return unix.EpollCtl(w.gateFD, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// Close ends Run. It may be called more than once.
func (w *Waiter) Close() {
	w.closed.Store(true)
	for _, f := range []*os.File{w.gate, w.timer} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// Steady tells whether packets are looked for in beats.
func (w *Waiter) Steady() bool { return w.steady.Load() }

// Run waits and serves until the waiter is closed or all sources have ended. ended is told how each of them did.
func (w *Waiter) Run(ended func(error)) {
	live := len(w.sources)
	for live > 0 {
		w.parked = false
		clear(w.found)
		if err := w.raw.Read(w.look); err != nil {
			if !w.closed.Load() {
				ended(fmt.Errorf("wait for packets: %w", err))
			}
			return
		}
		for i, s := range w.sources {
			if s == nil || w.found[i] == 0 {
				continue
			}
			if err := s.Serve(); err != nil {
				w.sources[i] = nil
				live--
				ended(err)
			}
		}
	}
}

// looking is called by the poller: before it waits, and whenever something has woken it. False is to wait.
//
// What woke the poller before it was asked is forgotten by it, so the timer, or the descriptor where packets wake it, is looked
// at once more.
func (w *Waiter) looking(uintptr) bool {
	steady := w.steady.Load()
	if steady {
		w.expired = 0
		if w.clock.Control(w.read) != nil {
			return true // closed; the gate says so
		}
		if w.beats += w.expired; w.expired == 0 && !w.more {
			w.parked = true
			return false
		}
	}
	n, any := w.lookAll()
	switch {
	case steady:
		w.packets += n
		if w.beats >= int(modeEvery/Every) {
			if w.packets < becomeQuiet {
				w.set(false)
			}
			w.packets, w.beats = 0, 0
		}
	case any && w.parked:
		if w.wakes++; w.wakes >= becomeBusy {
			now := time.Now()
			if now.Sub(w.since) <= modeEvery {
				w.set(true)
			}
			w.wakes, w.since = 0, now
		}
	}
	w.parked = true
	return any
}

// lookAll looks at all sources and counts the packets.
func (w *Waiter) lookAll() (n int, any bool) {
	w.more = false
	for i, s := range w.sources {
		w.found[i] = 0
		if s == nil {
			continue
		}
		k, more := s.Look()
		w.found[i] = k
		n += max(k, 0)
		any = any || k != 0
		w.more = w.more || more
	}
	return n, any
}

// set changes the mode. Packets that are there wake a waiter that becomes eager.
func (w *Waiter) set(steady bool) {
	w.steady.Store(steady)
	events, every := uint32(0), Every
	if !steady {
		events, every = arrivals, 0
	}
	w.packets, w.beats, w.wakes, w.since = 0, 0, 0, time.Now()
	t := unix.NsecToTimespec(int64(every))
	_ = w.clock.Control(func(timer uintptr) {
		_ = unix.TimerfdSettime(int(timer), 0, &unix.ItimerSpec{Interval: t, Value: t}, nil)
	})
	for _, s := range w.sources {
		if s != nil {
			_ = w.watch(unix.EPOLL_CTL_MOD, s.FD(), events)
		}
	}
}

// readTimer reads the timer, without which it would not go on, and notes how many beats have passed.
func (w *Waiter) readTimer(fd uintptr) {
	var b [8]byte
	n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno == 0 && n == 8 {
		w.expired = int(binary.NativeEndian.Uint64(b[:]))
	}
}
