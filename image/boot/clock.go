package boot

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// clockMost is how much later than the release a battery clock may plausibly be: certificates last less.
const clockMost = 15 * 365 * 24 * time.Hour

// sane is the time to start with: that of the battery clock, unless it is before the release or before what was last known
// here, or absurdly late. why is empty where the clock is believed.
func sane(clock, built, known time.Time) (t time.Time, why string) {
	least := built
	if known.After(least) && known.Before(built.Add(clockMost)) {
		least = known
	}
	switch {
	case clock.Before(least):
		return least, "the clock was behind, at " + clock.UTC().Format(time.DateTime)
	case clock.After(built.Add(clockMost)):
		return least, "the clock was absurdly ahead, at " + clock.UTC().Format(time.DateTime)
	}
	return clock, ""
}

// openClock makes the time one that certificates can be made with, and gives the kernel the randomness of earlier times.
func (s *system) openClock() {
	var known time.Time
	_ = readJSON(clockFile, &known)
	var later time.Time // what the daemon wrote when time servers agreed
	if readJSON(filepath.Join(StateDir, "clock.json"), &later) == nil && later.After(known) {
		known = later
	}
	now, why := sane(time.Now(), time.Unix(s.about.Serial, 0), known)
	if why != "" {
		ts := unix.NsecToTimespec(now.UnixNano())
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
			s.log.Error("set the clock", "err", err)
		}
		s.log.Error("the time is doubtful", "why", why, "taken", now.UTC().Format(time.DateTime))
		s.view.set(func(v *Status) { v.Clock = why })
	}
	if seed, err := os.ReadFile(seedFile); err == nil && len(seed) == seedSize {
		credit(seed)
	}
	s.keepSeed()
}

// keepClock writes down the time for a start without a battery clock.
func (s *system) keepClock() {
	if s.disk == nil || s.view.get().Data != "" {
		return
	}
	if err := writeJSON(clockFile, time.Now().UTC()); err != nil {
		s.log.Error("keep the time", "err", err)
	}
	s.keepSeed()
}

const seedSize = 64

func (s *system) keepSeed() {
	if s.disk == nil || s.view.get().Data != "" {
		return
	}
	seed := make([]byte, seedSize)
	if _, err := rand.Read(seed); err != nil {
		return
	}
	if err := writeFile(seedFile, seed); err != nil {
		s.log.Error("keep the seed", "err", err)
	}
}

// credit gives the kernel a seed that counts (RNDADDENTROPY of random(4)).
func credit(seed []byte) {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	pool := struct {
		bits, size int32
		seed       [seedSize]byte
	}{bits: seedSize * 4, size: seedSize}
	copy(pool.seed[:], seed)
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&pool)))
}
