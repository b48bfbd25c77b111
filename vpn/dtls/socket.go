package dtls

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	recvBatch = 32
	recvSize  = 1 << 16 // with UDP_GRO the kernel hands over many datagrams of one size as one
	sendBatch = 64
	maxSegs   = 64      // datagrams in one send with UDP_SEGMENT
	maxGSO    = 64000   // bytes in one
	sockBuf   = 4 << 20 // of the kernel, asked for
	ctlSize   = 128
)

// mmsg is struct mmsghdr.
type mmsg struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// socket is one UDP socket with batched system calls. Waiting is for somebody else; short calls are made without telling
// the scheduler, whose bookkeeping costs more than they do at the rate of voice. Local addresses are kept, so that an answer leaves
// from where the question came to. Datagrams are not fragmented: what is too large for the path is lost, which is how clients find
// the MTU (§7).
type socket struct {
	file  *os.File // not the poller's
	raw   syscall.RawConn
	fd    int
	v6    bool
	addr  netip.AddrPort
	noGSO atomic.Bool

	recv   func(fd uintptr)
	n      int // results of look
	errno  unix.Errno
	closed bool
	msgs   [recvBatch]mmsg
	iovs   [recvBatch]unix.Iovec
	names  [recvBatch]unix.RawSockaddrInet6
	ctls   [recvBatch][ctlSize]byte
	bufs   [recvBatch][]byte
}

// listen opens a socket at address; IPv6 unspecified serves both families.
func listen(address string) (*socket, error) {
	a, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		return nil, err
	}
	ap := a.AddrPort()
	s := &socket{v6: !ap.Addr().Is4()}
	if a.IP == nil {
		ap = netip.AddrPortFrom(netip.IPv6Unspecified(), ap.Port())
	}
	if ap.Addr().Is4In6() {
		ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
		s.v6 = false
	}
	family := unix.AF_INET
	if s.v6 {
		family = unix.AF_INET6
	}
	const kind = unix.SOCK_DGRAM | unix.SOCK_CLOEXEC
	fd, err := unix.Socket(family, kind, 0)
	if err != nil && s.v6 && ap.Addr().IsUnspecified() {
		s.v6, ap = false, netip.AddrPortFrom(netip.IPv4Unspecified(), ap.Port()) // a kernel without IPv6
		fd, err = unix.Socket(unix.AF_INET, kind, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("UDP socket: %w", err)
	}
	if err := s.setup(fd, ap); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("UDP socket %s: %w", address, err)
	}
	for i := range s.bufs {
		s.bufs[i] = make([]byte, recvSize)
	}
	s.recv = s.receiveSome
	s.fd, s.file = fd, os.NewFile(uintptr(fd), "udp")
	if err = unix.SetNonblock(fd, true); err == nil { // after it has become a file, which the poller would have to know else
		s.raw, err = s.file.SyscallConn()
	}
	if err != nil {
		s.file.Close()
		return nil, fmt.Errorf("UDP socket %s: %w", address, err)
	}
	return s, nil
}

func (s *socket) setup(fd int, ap netip.AddrPort) error {
	set := func(level, opt, v int) error { return unix.SetsockoptInt(fd, level, opt, v) }
	// What a kernel may lack is tried only.
	if set(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, sockBuf) != nil {
		_ = set(unix.SOL_SOCKET, unix.SO_RCVBUF, sockBuf)
	}
	if set(unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sockBuf) != nil {
		_ = set(unix.SOL_SOCKET, unix.SO_SNDBUF, sockBuf)
	}
	_ = set(unix.SOL_UDP, unix.UDP_GRO, 1)
	if err := set(unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE); err != nil {
		return err
	}
	if s.v6 {
		if err := errors.Join(set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0), set(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1),
			set(unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)); err != nil {
			return err
		}
	} else if err := set(unix.IPPROTO_IP, unix.IP_PKTINFO, 1); err != nil {
		return err
	}
	var sa unix.Sockaddr
	if s.v6 {
		sa = &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
	} else {
		sa = &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	if err := unix.Bind(fd, sa); err != nil {
		return err
	}
	got, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	switch g := got.(type) {
	case *unix.SockaddrInet4:
		s.addr = netip.AddrPortFrom(netip.AddrFrom4(g.Addr), uint16(g.Port))
	case *unix.SockaddrInet6:
		s.addr = netip.AddrPortFrom(netip.AddrFrom16(g.Addr), uint16(g.Port))
	}
	return nil
}

func (s *socket) close() { s.file.Close() }

// inbound is one received datagram.
type inbound struct {
	b     []byte
	from  netip.AddrPort
	local netip.Addr
}

// look takes datagrams that are there, for received.
func (s *socket) look() (n int, more bool) {
	for i := range s.msgs {
		s.iovs[i].Base = &s.bufs[i][0]
		s.iovs[i].SetLen(recvSize)
		h := &s.msgs[i].hdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&s.names[i])), unix.SizeofSockaddrInet6
		h.Iov = &s.iovs[i]
		h.SetIovlen(1)
		h.Control = &s.ctls[i][0]
		h.SetControllen(ctlSize)
	}
	s.n, s.errno, s.closed = 0, 0, false
	if s.raw.Control(s.recv) != nil {
		s.closed = true
	}
	if s.closed || s.errno != 0 {
		return -1, s.errno != 0
	}
	return s.n, s.n == recvBatch
}

// received calls f for each datagram that look took. The buffers are valid until the next look.
func (s *socket) received(f func(inbound)) error {
	if s.closed {
		return net.ErrClosed
	}
	if s.errno != 0 {
		return s.errno
	}
	for i := range s.n {
		m := &s.msgs[i]
		d := inbound{b: s.bufs[i][:m.n], from: sockaddr(&s.names[i])}
		size := s.control(&d, s.ctls[i][:m.hdr.Controllen])
		whole := d.b
		if size <= 0 {
			size = len(whole)
		}
		for len(whole) > 0 {
			k := min(size, len(whole))
			d.b, whole = whole[:k:k], whole[k:]
			f(d)
		}
	}
	return nil
}

// receiveSome takes what is there.
func (s *socket) receiveSome(fd uintptr) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&s.msgs[0])), recvBatch, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case unix.EINTR:
		case unix.EAGAIN:
			return
		default:
			s.n, s.errno = int(n), errno
			return
		}
	}
}

func sockaddr(r *unix.RawSockaddrInet6) netip.AddrPort {
	port := func(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }
	if r.Family == unix.AF_INET {
		r4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(r))
		return netip.AddrPortFrom(netip.AddrFrom4(r4.Addr), port(&r4.Port))
	}
	return netip.AddrPortFrom(netip.AddrFrom16(r.Addr).Unmap(), port(&r.Port))
}

// control reads the local address and, with UDP_GRO, the size of the joined datagrams.
func (s *socket) control(d *inbound, b []byte) (size int) {
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		n := int(h.Len)
		if n < unix.SizeofCmsghdr || n > len(b) {
			break
		}
		data := b[unix.CmsgLen(0):n]
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= 12:
			d.local = netip.AddrFrom4([4]byte(data[8:12])) // interface 4, address to answer from 4, destination 4
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= 16:
			d.local = netip.AddrFrom16([16]byte(data[:16])).Unmap()
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			size = int(binary.NativeEndian.Uint32(data))
		}
		next := unix.CmsgSpace(n - unix.CmsgLen(0))
		if next > len(b) {
			break
		}
		b = b[next:]
	}
	return size
}

// outbound is datagrams to one peer, all of the size of the first but the last, which may be shorter.
type outbound struct {
	to    netip.AddrPort
	local netip.Addr
	tos   byte
	segs  [][]byte
}

// sender holds what one sendmmsg needs.
type sender struct {
	mu    sync.Mutex // guards all below
	msgs  [sendBatch]mmsg
	names [sendBatch]unix.RawSockaddrInet6
	ctls  [sendBatch][ctlSize]byte
	iovs  []unix.Iovec
	some  func(fd uintptr) // sendNow, made once
	out   []outbound       // its argument
	total int              // datagrams in it
	done  int              // its result
}

// send sends all; what a peer or the network refuses is lost, as datagrams are.
func (s *socket) send(w *sender, all []outbound) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.some == nil {
		w.some = func(fd uintptr) { s.sendNow(fd, w) }
	}
	for len(all) > 0 {
		n := min(len(all), sendBatch)
		s.sendSome(w, all[:n])
		all = all[n:]
	}
}

// sendSome sends at most sendBatch messages. w.mu is held.
func (s *socket) sendSome(w *sender, out []outbound) {
	total := 0
	for _, o := range out {
		total += len(o.segs)
	}
	if cap(w.iovs) < total {
		w.iovs = make([]unix.Iovec, total, 2*total)
	}
	iovs := w.iovs[:total]
	for i := range out {
		o, h := &out[i], &w.msgs[i].hdr
		for j, seg := range o.segs {
			iovs[j].Base = &seg[0]
			iovs[j].SetLen(len(seg))
		}
		h.Iov = &iovs[0]
		h.SetIovlen(len(o.segs))
		iovs = iovs[len(o.segs):]
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&w.names[i])), s.putAddr(&w.names[i], o.to)
		h.Control = &w.ctls[i][0]
		h.SetControllen(s.putControl(w.ctls[i][:], o))
	}
	w.out, w.done, w.total = out, 0, total
	var until time.Time
	for w.done < len(out) {
		if s.raw.Control(w.some) != nil || w.done == len(out) {
			break // a closed socket loses the rest
		}
		if until.IsZero() {
			until = time.Now().Add(fullTime)
		}
		if time.Now().After(until) || s.raw.Control(waitRoom) != nil {
			break
		}
	}
	w.out = nil
	clear(w.iovs[:total]) // keeps no buffer alive
}

// fullTime is how long a full socket is waited for. What does not leave by then is lost, as in any router.
const fullTime = 100 * time.Millisecond

// waitRoom waits until the socket takes something again, or some time.
func waitRoom(fd uintptr) {
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(fullTime/4/time.Millisecond))
}

// sendNow gives the kernel what it takes of w.out. w.mu is held.
func (s *socket) sendNow(fd uintptr, w *sender) {
	for w.done < len(w.out) {
		n, errno := sendmmsg(fd, w.msgs[w.done:len(w.out)], w.total)
		switch {
		case errno == 0:
			w.done += n
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			return
		case errno == unix.EIO && len(w.out[w.done].segs) > 1:
			s.noGSO.Store(true) // a device that cannot compute checksums: one by one from now on
			s.sendSingly(fd, w.out[w.done])
			w.done++
		default:
			w.done++
		}
	}
}

// fewDatagrams is up to how many the kernel works so shortly that the scheduler need not be told.
const fewDatagrams = 8

func sendmmsg(fd uintptr, msgs []mmsg, datagrams int) (n int, errno unix.Errno) {
	call := unix.Syscall6
	if datagrams <= fewDatagrams {
		call = unix.RawSyscall6
	}
	r, _, errno := call(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
	return int(r), errno
}

// sendSingly sends the segments as separate messages.
func (s *socket) sendSingly(fd uintptr, o outbound) {
	var ctl [ctlSize]byte
	var name unix.RawSockaddrInet6
	for _, seg := range o.segs {
		one := outbound{to: o.to, local: o.local, tos: o.tos, segs: [][]byte{seg}}
		var iov unix.Iovec
		iov.Base = &seg[0]
		iov.SetLen(len(seg))
		var h unix.Msghdr
		h.Iov = &iov
		h.SetIovlen(1)
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&name)), s.putAddr(&name, o.to)
		h.Control = &ctl[0]
		h.SetControllen(s.putControl(ctl[:], &one))
		_, _, _ = unix.Syscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&h)), 0)
	}
}

func (s *socket) putAddr(r *unix.RawSockaddrInet6, to netip.AddrPort) uint32 {
	put := func(p *uint16) { binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(p))[:], to.Port()) }
	if s.v6 {
		*r = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: to.Addr().As16()}
		put(&r.Port)
		return unix.SizeofSockaddrInet6
	}
	r4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(r))
	*r4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to.Addr().Unmap().As4()}
	put(&r4.Port)
	return unix.SizeofSockaddrInet4
}

// putControl writes local address, traffic class and segment size.
func (s *socket) putControl(b []byte, o *outbound) (n int) {
	put := func(level, typ int32, data []byte) {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[n]))
		h.Level, h.Type = level, typ
		h.SetLen(unix.CmsgLen(len(data)))
		copy(b[n+unix.CmsgLen(0):], data)
		n += unix.CmsgSpace(len(data))
	}
	is4 := o.to.Addr().Unmap().Is4()
	switch {
	case !o.local.IsValid():
	case s.v6:
		var info [20]byte // address 16, interface 4
		a := o.local.As16()
		copy(info[:], a[:])
		put(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, info[:])
	default:
		var info [12]byte
		a := o.local.As4()
		copy(info[4:], a[:])
		put(unix.IPPROTO_IP, unix.IP_PKTINFO, info[:])
	}
	if o.tos != 0 {
		var v [4]byte
		binary.NativeEndian.PutUint32(v[:], uint32(o.tos))
		if is4 {
			put(unix.IPPROTO_IP, unix.IP_TOS, v[:])
		} else {
			put(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, v[:])
		}
	}
	if len(o.segs) > 1 {
		var v [2]byte
		binary.NativeEndian.PutUint16(v[:], uint16(len(o.segs[0])))
		put(unix.SOL_UDP, unix.UDP_SEGMENT, v[:])
	}
	return n
}
