package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// Errors of opening that callers tell apart. Their texts name the file and what to do.
var (
	// ErrInUse: another process has the state directory open.
	ErrInUse = errors.New("in use")
	// ErrDamaged: a file cannot be read in full. Nothing was changed in it.
	ErrDamaged = errors.New("damaged")
	// ErrNewer: a file was written by a later release in a way that this one cannot read.
	ErrNewer = errors.New("written by a newer release")
)

const (
	stateFile = "state.db"
	localFile = "local.db"
	lockFile  = "lock"

	// mapSize is address space, not memory: with a map that large, growth of the file never has to wait for readers.
	mapSize = 1 << 30
	// allocSize is the step in which the file grows.
	allocSize = 1 << 20
)

// takeLock makes this process the only one on dir. The lock goes with the process, however it ends; the file stays.
func takeLock(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	switch {
	case errors.Is(err, os.ErrPermission), errors.Is(err, unix.EROFS):
		return nil, fmt.Errorf("state directory %s may not be written by user %d; give it to that user (chown) or name another with --state: %w", dir, os.Getuid(), err)
	case err != nil:
		return nil, fmt.Errorf("state directory %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("state directory %s: lock: %w", dir, err)
		}
		holder := make([]byte, 16)
		n, _ := f.ReadAt(holder, 0)
		if pid := strings.TrimSpace(string(holder[:n])); pid != "" {
			return nil, fmt.Errorf("state directory %s is %w by another ringfence (process %s); give this one its own --state", dir, ErrInUse, pid)
		}
		return nil, fmt.Errorf("state directory %s is %w by another ringfence; give this one its own --state", dir, ErrInUse)
	}
	// The number is only for the text above, so a failure to write it is no reason to stop.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	return f, nil
}

// Idle tells, by an error with ErrInUse in its chain, that a process works on the state directory. A directory that does not
// exist is idle.
func Idle(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	f, err := takeLock(dir)
	if err != nil {
		return err
	}
	return f.Close()
}

// openFile opens or creates a bbolt file. A damaged one is reported, never repaired.
func openFile(path string, maxSize int) (db *bbolt.DB, err error) {
	created, err := inspect(path)
	if err != nil {
		return nil, err
	}
	err = guard(func() error {
		var err error
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:         100 * time.Millisecond,
			FreelistType:    bbolt.FreelistMapType,
			InitialMmapSize: mapSize,
			MaxSize:         maxSize,
			NoStatistics:    true,
		})
		return err
	})
	switch {
	case errors.Is(err, bberrors.ErrTimeout):
		return nil, fmt.Errorf("%s is %w by another process", path, ErrInUse)
	case errors.Is(err, errFault), errors.Is(err, bberrors.ErrInvalid), errors.Is(err, bberrors.ErrVersionMismatch), errors.Is(err, bberrors.ErrChecksum):
		return nil, damaged(path, err)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.AllocSize = allocSize
	if created {
		if err := syncDir(filepath.Dir(path)); err != nil {
			db.Close()
			return nil, err
		}
	}
	return db, nil
}

func damaged(path string, reason error) error {
	return fmt.Errorf("%s is %w (%w); nothing in it was changed: restore it from a backup, or move it away to start without it", path, ErrDamaged, reason)
}

// inspect looks at the raw file before bbolt maps it: a page missing at its end would kill the process on first touch.
//
//	page 0 and 1, 16 bytes header, then: magic(4) version(4) page size(4) flags(4) root(16) freelist(8) pages(8) txid(8) sum(8)
func inspect(path string) (created bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("open %s: %w", path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("open %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return false, fmt.Errorf("open %s: not a regular file", path)
	}
	if info.Size() == 0 {
		return true, nil
	}
	// The second meta page lies one page further on, and the page size is in the meta itself: try what the first says, or
	// the sizes that exist.
	var best struct{ txid, need uint64 }
	for _, size := range []int64{0, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10} {
		m := make([]byte, 64)
		if _, err := f.ReadAt(m, size+16); err != nil {
			if errors.Is(err, io.EOF) {
				break
			}
			return false, damaged(path, err)
		}
		h := fnv.New64a()
		h.Write(m[:56])
		if binary.NativeEndian.Uint32(m) != 0xED0CDAED || binary.NativeEndian.Uint64(m[56:]) != h.Sum64() {
			continue
		}
		if txid := binary.NativeEndian.Uint64(m[48:]); best.need == 0 || txid > best.txid {
			best.txid, best.need = txid, binary.NativeEndian.Uint64(m[40:])*uint64(binary.NativeEndian.Uint32(m[8:]))
		}
	}
	if best.need == 0 {
		return false, damaged(path, errors.New("no valid head page"))
	}
	if uint64(info.Size()) < best.need {
		return false, damaged(path, fmt.Errorf("cut off: %d bytes of at least %d", info.Size(), best.need))
	}
	return false, nil
}

// errFault is wrapped by what guard makes of a panic.
var errFault = errors.New("inconsistent page")

// guard calls f and turns a panic into an error, also the fault of a mapped page that cannot be read.
func guard(f func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v", errFault, v)
		}
	}()
	return f()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("state directory %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("state directory %s: sync: %w", dir, err)
	}
	return nil
}
