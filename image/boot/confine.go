package boot

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// confineEnv asks a process of this binary to confine itself.
const confineEnv = "RINGFENCE_CONFINE"

// Confine takes from this process what the daemon never needs: other files than its own (Landlock), and the way to more rights.
// It does something only for a child of init, and on kernels that can.
func Confine() error {
	if os.Getenv(confineEnv) != "1" {
		return nil
	}
	abi, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 {
		return nil // a kernel without it
	}
	const (
		read  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
		write = read | unix.LANDLOCK_ACCESS_FS_WRITE_FILE
	)
	all := uint64(1<<13 - 1) // every right of the first version
	if abi >= 2 {
		all |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		all |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	device := uint64(write)
	if abi >= 5 {
		all |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
		device |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	own := all &^ (unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR)
	if abi >= 5 {
		own &^= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	ruleset, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&all)), unsafe.Sizeof(all), 0)
	if e != 0 {
		return fmt.Errorf("confine: %w", e)
	}
	defer unix.Close(int(ruleset))
	const file = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	for _, p := range []struct {
		name   string
		access uint64
		file   bool
	}{
		{StateDir, own, false}, {runDir, own, false}, {"/tmp", own, false}, {"/proc", write, false}, {"/sys", read, false}, {"/etc", read, false},
		{"/dev/null", device, true}, {"/dev/urandom", device, true}, {"/dev/net/tun", device, true}, {initRun, read, false},
		{resolvConf, write | unix.LANDLOCK_ACCESS_FS_TRUNCATE, true},
	} {
		fd, err := unix.Open(p.name, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // what is not there needs no rule
		}
		if p.file {
			p.access &= file
		}
		// struct landlock_path_beneath_attr is packed: 8 bytes of rights, 4 of descriptor.
		var attr [12]byte
		*(*uint64)(unsafe.Pointer(&attr[0])) = p.access & all
		*(*int32)(unsafe.Pointer(&attr[8])) = int32(fd)
		_, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, ruleset, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr[0])), 0, 0, 0)
		unix.Close(fd)
		if e != 0 {
			return fmt.Errorf("confine to %s: %w", p.name, e)
		}
	}
	// Both calls concern a thread; the Go runtime has started several.
	if _, _, e := syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); e != 0 {
		return fmt.Errorf("confine: %w", e)
	}
	if _, _, e := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); e != 0 {
		return fmt.Errorf("confine: %w", e)
	}
	return nil
}
