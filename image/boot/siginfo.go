package boot

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// siginfoPID is si_pid of a child's end: the first word after si_signo, si_errno and si_code, at 16 on 64-bit machines.
func siginfoPID(i *unix.Siginfo) int32 {
	return *(*int32)(unsafe.Add(unsafe.Pointer(i), 16))
}
