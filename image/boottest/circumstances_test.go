package boottest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/image/boot/release"
	"ringfence/image/vm"
)

// TestCircumstances are machines that are not as they should be: one appliance goes through all of it, from one kind of disk to the next.
func TestCircumstances(t *testing.T) {
	l := need(t, "full")
	for _, firmware := range firmwares {
		t.Run(firmware, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, l, firmware, "first")
			if err := os.Truncate(s.disk, 1<<30); err != nil {
				t.Fatal(err)
			}

			t.Log("first start of 1970, without a network, on NVMe")
			s.start(clock("1970-01-01T00:00:00"), func(o *vm.Options) { o.Network, o.Disk = false, "nvme" })
			s.untilConsole("this slot has proven itself")
			s.doubtful()
			s.stop()

			t.Log("2099, on AHCI")
			s.start(clock("2099-06-01T00:00:00"), func(o *vm.Options) { o.Disk = "ahci" })
			h := s.until("start", proven("first"))
			s.doubtful()
			if h.Image.DataSize < 500<<20 {
				t.Errorf("the data partition has %d MB of a disk of 1024", h.Image.DataSize>>20)
			}
			s.powerOff() // debugfs does not replay a journal

			t.Log("the data partition is full, on USB")
			s.fill()
			s.start(func(o *vm.Options) { o.Disk = "usb" })
			h = s.until("start", proven("first"))
			if h.Image.DataFree > 16<<20 {
				t.Errorf("it is not full: %d of %d bytes", h.Image.DataFree, h.Image.DataSize)
			}
			s.stop()

			t.Log("the data partition is damaged; it is erased on the console")
			s.damage(release.PartData, 0, bytes.Repeat([]byte{0x5a}, 1<<20))
			s.start()
			s.untilConsole("the data partition is damaged")
			s.answer("Type RESET", "RESET\n")
			h = s.until("start after the reset", proven("first"))
			if h.Image.DataFree < 500<<20 {
				t.Errorf("not empty after a reset: %d of %d bytes", h.Image.DataFree, h.Image.DataSize)
			}

			t.Log("the power button")
			if err := s.m.Monitor("system_powerdown"); err != nil {
				t.Fatal(err)
			}
			select {
			case <-s.m.Ended():
			case <-time.After(stepTime):
				t.Error("the power button does nothing")
			}
			if !strings.Contains(s.m.Console(), "power button") {
				t.Errorf("ended by something else:\n%s", s.m.Console())
			}
		})
	}
}

// TestTwoDisks starts a machine that holds the same image twice: built in, and on a stick that was left in.
func TestTwoDisks(t *testing.T) {
	l := need(t, "full")
	for _, firmware := range firmwares {
		t.Run(firmware, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, l, firmware, "first")
			second := filepath.Join(s.dir, "stick.img")
			copySparse(t, s.disk, second)
			stick := func(o *vm.Options) {
				o.Args = append(o.Args, "-device", "qemu-xhci", "-drive", "if=none,id=stick,format=raw,file="+second, "-device", "usb-storage,drive=stick,removable=on")
			}
			s.start(stick)
			h := s.until("first start", proven("first"))
			if h.Image.Disk != "vda" {
				t.Errorf("the appliance lives on %s, want the disk that is built in", h.Image.Disk)
			}
			if !strings.Contains(s.m.Console(), "several disks hold the same appliance") {
				t.Error("nothing was said about the other disk")
			}
			s.stop()
			s.start(stick)
			if h = s.until("second start", proven("first")); h.Image.Disk != "vda" || strings.Contains(s.m.Console(), "several disks") {
				t.Errorf("the appliance lives on %s; now the two have identities of their own", h.Image.Disk)
			}
		})
	}
}

func clock(at string) func(*vm.Options) {
	return func(o *vm.Options) { o.Args = append(o.Args, "-rtc", "base="+at) }
}

func (s *site) doubtful() {
	s.t.Helper()
	if !strings.Contains(s.m.Console(), "the time is doubtful") {
		s.t.Errorf("nothing was said about the clock:\n%s", s.m.Console())
	}
}

// fill leaves nothing free in the data partition of a machine that is off, with Debian's debugfs.
func (s *site) fill() {
	s.t.Helper()
	f, p := s.open(release.PartData)
	f.Close()
	big := filepath.Join(s.dir, "big")
	if err := os.WriteFile(big, bytes.Repeat([]byte("fill"), 4<<20), 0o644); err != nil {
		s.t.Fatal(err)
	}
	var orders strings.Builder
	for i := range p.Size()/(16<<20) + 1 {
		fmt.Fprintf(&orders, "write %s big%d\n", big, i)
	}
	cmd := exec.Command("debugfs", "-w", "-f", "-", fmt.Sprintf("%s?offset=%d", s.disk, p.Offset()))
	cmd.Stdin = strings.NewReader(orders.String())
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("debugfs: %v: %s", err, out)
	}
}

func (s *site) untilConsole(what string) {
	s.t.Helper()
	deadline := time.Now().Add(stepTime)
	for !strings.Contains(s.m.Console(), what) {
		if time.Now().After(deadline) {
			s.t.Fatalf("the console never said %q:\n%s", what, s.m.Console())
		}
		time.Sleep(time.Second)
	}
}
