package media

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file speaks io_uring(7) without a library: many socket calls in one system call. A system call costs a microsecond and more
// where kernel and program are kept apart with care, or in a virtual machine; a busy relay pays that three times in a beat instead of
// twice for each packet. Nothing here waits: every request says MSG_DONTWAIT, so all of them are done when the call returns.
//
// Kernels and containers that refuse io_uring_setup leave the worker with one call per packet, which is the only difference.

// The parts of linux/io_uring.h that are used.
const (
	ringOpSendmsg  = 9
	ringOpRecvmsg  = 10
	ringOffSQEs    = 0x10000000
	ringSingleMmap = 1 << 0
	ringNoDrop     = 1 << 1
	ringSubmitAll  = 1 << 7 // IORING_SETUP_SUBMIT_ALL, Linux 5.18: one refused request does not hold up those behind it
	ringGetEvents  = 1 << 0
)

type ringParams struct {
	sqEntries, cqEntries, flags, threadCPU, threadIdle, features, wq uint32
	_                                                                [3]uint32
	sq                                                               struct{ head, tail, mask, entries, flags, dropped, array, _, _, _ uint32 }
	cq                                                               struct{ head, tail, mask, entries, overflow, cqes, flags, _, _, _ uint32 }
}

type ringRequest struct {
	op, flags uint8
	priority  uint16
	fd        int32
	offset    uint64
	address   uint64
	length    uint32
	msgFlags  uint32
	data      uint64
	_         [3]uint64
}

type ringResult struct {
	data  uint64
	res   int32
	flags uint32
}

// message is struct msghdr with the addresses as numbers, and its one part. What they point to is kept alive by the ring's owner.
type message struct {
	name    uint64
	nameLen uint32
	_       uint32
	parts   uint64
	count   uint64
	control uint64
	_       uint64
	flags   int32
	_       int32
	part    struct{ base, length uint64 }
}

// point makes m a message of one part; it must not be copied afterwards.
func (m *message) point(name *sockaddr, nameLen uint32, b []byte) {
	m.name, m.nameLen = uint64(uintptr(unsafe.Pointer(&name.raw))), nameLen
	m.part.base, m.part.length = uint64(uintptr(unsafe.Pointer(&b[0]))), uint64(len(b))
	m.parts, m.count = uint64(uintptr(unsafe.Pointer(&m.part))), 1
}

// ring is one io_uring, used by one goroutine at a time.
type ring struct {
	fd            int
	rings, memory []byte // as mapped
	requests      []ringRequest
	results       []ringResult
	sqTail        *uint32
	sqMask        uint32
	cqHead        *uint32
	cqTail        *uint32
	cqMask        uint32
	waiting       uint32 // requests that were put, not submitted
}

// newRing opens a ring for so many requests at once, a power of two.
func newRing(entries uint32) (*ring, error) {
	p := ringParams{flags: ringSubmitAll}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	r := &ring{fd: int(fd)}
	if p.features&(ringSingleMmap|ringNoDrop) != ringSingleMmap|ringNoDrop {
		r.close()
		return nil, errors.New("io_uring of an old kernel")
	}
	unix.CloseOnExec(r.fd)
	size := max(p.sq.array+p.sqEntries*4, p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(ringResult{})))
	var err error
	if r.rings, err = unix.Mmap(r.fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		r.close()
		return nil, fmt.Errorf("map ring: %w", err)
	}
	bytes := int(p.sqEntries) * int(unsafe.Sizeof(ringRequest{}))
	if r.memory, err = unix.Mmap(r.fd, ringOffSQEs, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		r.close()
		return nil, fmt.Errorf("map ring: %w", err)
	}
	word := func(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.rings[offset])) }
	r.requests = unsafe.Slice((*ringRequest)(unsafe.Pointer(&r.memory[0])), p.sqEntries)
	r.results = unsafe.Slice((*ringResult)(unsafe.Pointer(&r.rings[p.cq.cqes])), p.cqEntries)
	r.sqTail, r.sqMask = word(p.sq.tail), *word(p.sq.mask)
	r.cqHead, r.cqTail, r.cqMask = word(p.cq.head), word(p.cq.tail), *word(p.cq.mask)
	for i := range p.sqEntries { // requests are always used in their order
		*word(p.sq.array + 4*i) = i
	}
	return r, nil
}

// put adds a request; submit starts it. There must be room: not more than the ring's entries between two submits.
func (r *ring) put(op uint8, fd int, m *message, flags uint32, data uint64) {
	r.requests[(*r.sqTail+r.waiting)&r.sqMask] = ringRequest{op: op, fd: int32(fd), address: uint64(uintptr(unsafe.Pointer(m))), length: 1, msgFlags: flags, data: data}
	r.waiting++
}

// submit performs all requests and tells done of each. After an error the ring must not be used again: nobody knows what the kernel
// has taken of it.
func (r *ring) submit(done func(data uint64, res int32)) error {
	all := r.waiting
	r.waiting = 0
	atomic.StoreUint32(r.sqTail, *r.sqTail+all)
	seen := uint32(0)
	for left, tries := all, 0; seen < all; tries++ {
		took, _, errno := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(left), uintptr(all-seen), ringGetEvents, 0, 0)
		if errno != 0 && errno != unix.EINTR || tries == ringTries {
			return fmt.Errorf("io_uring_enter: %w", errno)
		}
		if errno == 0 {
			left -= min(left, uint32(took))
		}
		seen += r.reap(done)
	}
	return nil
}

// ringTries bounds how often a submission that the kernel took in part is repeated.
const ringTries = 8

// reap hands over what is done.
func (r *ring) reap(done func(data uint64, res int32)) (n uint32) {
	head, tail := *r.cqHead, atomic.LoadUint32(r.cqTail)
	for ; head != tail; head++ {
		x := &r.results[head&r.cqMask]
		done(x.data, x.res)
		n++
	}
	atomic.StoreUint32(r.cqHead, head)
	return n
}

func (r *ring) close() {
	if r.memory != nil {
		_ = unix.Munmap(r.memory)
	}
	if r.rings != nil {
		_ = unix.Munmap(r.rings)
	}
	_ = unix.Close(r.fd)
}
