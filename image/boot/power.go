package boot

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/image/boot/release"
)

// end stops everything in order. It is called once; later callers wait for what comes after it.
func (s *system) end(why string) {
	if s.ending.Swap(true) {
		select {}
	}
	s.log.Info("ending", "why", why)
	s.view.set(func(v *Status) { v.Phase = "ending" })
	s.stopDaemon()
	s.copyState()
	s.keepClock()
	unix.Sync()
	for range 20 {
		if err := unix.Unmount(dataDir, 0); err == nil || err == unix.EINVAL {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	unix.Sync()
}

func (s *system) reboot(why string) {
	s.end(why)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

func (s *system) powerOff(why string) {
	s.end(why)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// factoryReset erases the data partition; the next start is a first one.
func (s *system) factoryReset() {
	s.end("reset")
	if s.disk != nil {
		if _, device, err := s.disk.part(release.PartData); err == nil {
			if err := format(device); err != nil {
				s.log.Error("reset", "err", err)
			}
		}
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

// copyState keeps the database as the running release leaves it when an update is about to be tried.
func (s *system) copyState() {
	if u := s.view.get().Update; u == nil || u.State != onTrial || u.Slot == s.slot {
		return
	}
	b, err := os.ReadFile(filepath.Join(StateDir, "state.db"))
	if err == nil {
		err = writeFile(filepath.Join(ownDir, "state-before-update.db"), b)
	}
	if err != nil {
		s.log.Error("copy of the database before the update", "err", err)
	}
}

// powerButton turns the machine off in order when its button is pressed, which is also what a hypervisor's shutdown is.
func (s *system) powerButton(context.Context) {
	const (
		kindKey  = 1
		keyPower = 116
	)
	known := map[string]bool{}
	for {
		names, _ := filepath.Glob("/dev/input/event*")
		for _, n := range names {
			if known[n] {
				continue
			}
			known[n] = true
			f, err := os.Open(n)
			if err != nil {
				continue
			}
			s.tasks.Go("input", func(context.Context) {
				defer f.Close()
				event := make([]byte, 24) // struct input_event: 16 bytes of time, type, code, value
				for {
					if n, err := f.Read(event); err != nil || n != len(event) {
						return
					}
					if binary.NativeEndian.Uint16(event[16:]) == kindKey && binary.NativeEndian.Uint16(event[18:]) == keyPower && binary.NativeEndian.Uint32(event[20:]) == 1 {
						s.powerOff("power button")
					}
				}
			})
		}
		time.Sleep(2 * time.Second)
	}
}
