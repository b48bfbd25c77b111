package tunnel

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tun is a TUN device with segmentation offload: the kernel hands over and takes joined TCP segments and UDP datagrams of up to
// 64 KiB in one system call, behind a virtio header that says how to cut them.
//
//	| flags 1 | gso type 1 | header length 2 | gso size 2 | checksum start 2 | checksum offset 2 | packet |    (little endian)
//
// Waiting is for somebody else. The system calls between do not wait and are made without telling the scheduler: at the
// rate of voice its bookkeeping around each (and the monitor thread that it wakes) costs more than the calls. Writing gathers
// segments from where they stand: joining copies nothing.
type tun struct {
	file *os.File // not the poller's
	raw  syscall.RawConn
	fd   int
	name string

	// Of Look.
	wide []byte // what the kernel hands over
	hot  bool   // packets were waiting the last time: more may be
	read func(fd uintptr)
	bufs [][]byte // arguments and results of read
	size []int
	off  int
	n    int
	more bool
	err  error

	useGSO bool
}

const (
	vnetLen = 10
	// maxSegments is how many packets one joined packet may become.
	maxSegments = 64
	readBatch   = 2 * maxSegments
)

// Flags and types of the virtio header, and of TUNSETOFFLOAD.
const (
	vnetNeedsCsum = 1
	gsoNone       = 0
	gsoTCP4       = 1
	gsoTCP6       = 4
	gsoUDP        = 5
	gsoECN        = 0x80
	offCsum       = 1
	offTSO4       = 2
	offTSO6       = 4
	offUSO4       = 0x20
	offUSO6       = 0x40
)

// openTUN makes the device.
func openTUN(name string) (*tun, error) {
	fd, err := unix.Open(clone, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	t := &tun{wide: make([]byte, vnetLen+1<<16), fd: fd, file: os.NewFile(uintptr(fd), clone)}
	t.read = t.readSome
	if err = t.setup(fd, name); err == nil {
		err = unix.SetNonblock(fd, true) // after it has become a file, which the poller would have to know else
	}
	if err == nil {
		t.raw, err = t.file.SyscallConn()
	}
	if err != nil {
		t.file.Close()
		return nil, err
	}
	return t, nil
}

func (t *tun) setup(fd int, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return err
	}
	t.name = ifr.Name()
	// Kernels before 6.2 do not cut UDP; without any offload each packet comes whole, which serves as well.
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offCsum|offTSO4|offTSO6|offUSO4|offUSO6) == nil || unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offCsum|offTSO4|offTSO6) == nil {
		t.useGSO = true
	}
	return nil
}

// BatchSize implements Output.
func (t *tun) BatchSize() int { return readBatch }

// Close implements Output.
func (t *tun) Close() error { return t.file.Close() }

// FD implements pollable.
func (t *tun) FD() int { return t.fd }

// Look implements pollable. When packets come fast it takes all that are there.
func (t *tun) Look(bufs [][]byte, sizes []int, offset int) (n int, more bool, err error) {
	t.bufs, t.size, t.off, t.n, t.more, t.err = bufs, sizes, offset, 0, false, nil
	if err := t.raw.Control(t.read); err != nil || t.err == unix.EBADFD {
		return 0, false, os.ErrClosed
	}
	t.bufs, t.size = nil, nil
	return t.n, t.more, t.err
}

// readSome reads until there is nothing more, or not enough room.
func (t *tun) readSome(fd uintptr) {
	for {
		k, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&t.wide[0])), uintptr(len(t.wide)))
		switch errno {
		case 0:
			var got int
			got, t.err = split(t.wide[:k], t.bufs[t.n:], t.size[t.n:], t.off)
			t.n += got
			if !t.hot || t.err != nil || len(t.bufs)-t.n < maxSegments {
				t.hot, t.more = true, true
				return
			}
		case unix.EINTR:
		case unix.EAGAIN:
			t.hot = t.n > 0
			return
		default:
			t.err = errno
			return
		}
	}
}

// Write implements Output. Segments of one TCP connection that follow each other go as one.
func (t *tun) Write(bufs [][]byte, offset int) (int, error) {
	var first error
	err := t.raw.Control(func(fd uintptr) {
		var j joiner
		for i := 0; i < len(bufs); {
			n := 1
			if t.useGSO {
				n = j.run(bufs[i:], offset)
			}
			if errno := writeRun(int(fd), &j, bufs[i:i+n], offset); errno != 0 && first == nil {
				first = errno
			}
			i += n
		}
	})
	if err != nil {
		return 0, err
	}
	return len(bufs), first
}

// writeRun writes one packet, or a run that the joiner found. The device takes it at once or not at all.
func writeRun(fd int, j *joiner, run [][]byte, offset int) (errno unix.Errno) {
	head := run[0][offset-vnetLen:]
	j.header(head[:vnetLen], run, offset)
	for {
		if len(run) == 1 {
			_, _, errno = unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&head[0])), uintptr(len(head)))
		} else {
			var iov [maxJoin]unix.Iovec
			iov[0] = vec(head)
			for i, b := range run[1:] {
				iov[i+1] = vec(b[offset+j.headLen:])
			}
			_, _, errno = unix.Syscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(run)))
			runtime.KeepAlive(run)
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

func vec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}
