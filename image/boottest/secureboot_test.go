package boottest

import (
	"bytes"
	"testing"

	"ringfence/image/boot/release"
	"ringfence/image/vm"
)

// TestSecureBoot starts the flavour with Debian's shim under firmware that refuses what Microsoft's keys have not signed, updates it, and
// damages a slot.
func TestSecureBoot(t *testing.T) {
	l := need(t, "full")
	s := newSite(t, l, "secureboot", "shim")
	s.start()
	h := s.until("first start", proven("shim"))
	if !h.Image.Secure || h.Image.Firmware != "efi" {
		t.Errorf("not verified by the firmware: %s", h.Raw)
	}
	s.offer(l.make(t, "next") + ".rfu")
	s.until("good update", func(h vm.Health) bool { return proven("next")(h) && h.Image.Slot == "b" && h.Image.Secure })
	s.stop()
	s.offered.Store(nil)
	s.damage(release.PartSlotB, 20<<20, bytes.Repeat([]byte{0x55}, 16))
	s.start()
	s.until("start with a damaged initramfs", proven("shim"))
}
