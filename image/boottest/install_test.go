package boottest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"ringfence/image/vm"
)

// TestInstall copies the appliance from a stick to a disk by way of the console, leaves the stick in, takes it out, and asks for
// an installation over the installed one.
func TestInstall(t *testing.T) {
	l := need(t, "full")
	for _, firmware := range firmwares {
		t.Run(firmware, func(t *testing.T) {
			s := newSite(t, l, firmware, "stick")
			copySparse(t, l.make(t, "stick")+".installer.img", s.disk)
			s.seed("")
			inside := filepath.Join(s.dir, "inside.img")
			if f, err := os.Create(inside); err != nil || f.Truncate(2<<30) != nil || f.Close() != nil {
				t.Fatal(err)
			}
			both := func(o *vm.Options) {
				o.Disk = "usb"
				o.Args = append(o.Args, "-drive", "if=none,id=inside,format=raw,file="+inside, "-device", "virtio-blk-pci,drive=inside,bootindex=1")
			}
			s.start(both)
			s.answer("Number of the disk", "1\n")
			s.answer("which is empty. Type YES", "YES\n")
			s.answer("Installed and verified", "\n")
			h := s.until("start with the stick left in", proven("stick"))
			if h.Image.Disk != "vda" || h.Image.DataSize < 1500<<20 {
				t.Errorf("the appliance lives on %s with %d MB", h.Image.Disk, h.Image.DataSize>>20)
			}
			s.stop()

			// The stick again, and ESC where it says so.
			s.start(both)
			s.untilConsole("Press ESC")
			for range 3 {
				if err := s.m.Monitor("sendkey esc"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(200 * time.Millisecond)
			}
			s.answer("Number of the disk", "1\n")
			s.answer("vda holds a Ringfence appliance", "YES\n")
			s.untilConsole("Nothing was changed")
			s.stop()

			stick := s.disk
			s.disk = inside
			s.start()
			if again := s.until("start without the stick", proven("stick")); again.Image.Slots != "slot=a a=3 b=0" {
				t.Errorf("slots: %s", again.Image.Slots)
			}
			s.stop()
			s.disk = stick
			if got := s.slots(); got != "slot=a a=3 b=0" {
				t.Errorf("the stick's own state: %s", got)
			}
		})
	}
}

// answer waits for a question on the console and types.
func (s *site) answer(question, text string) {
	s.t.Helper()
	s.untilConsole(question)
	if err := s.m.Type(text); err != nil {
		s.t.Fatal(err)
	}
}
