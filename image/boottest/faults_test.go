package boottest

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/image/boot/release"
	"ringfence/image/update"
	"ringfence/image/vm"
)

// TestFaults is every way a release or a slot can go wrong, in both kinds of firmware, one after the other on one appliance.
func TestFaults(t *testing.T) {
	l := need(t, "full")
	for _, firmware := range firmwares {
		t.Run(firmware, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, l, firmware, "first")
			s.start()
			h := s.until("first start", proven("first"))

			t.Log("the signature of a stranger")
			s.offer(forged(t, l.make(t, "next")+".rfu"))
			s.refused(h)
			for _, fault := range []string{"exit", "panic", "crash", "hang"} {
				s.offer(l.make(t, fault) + ".rfu")
				h = s.returned(fault, "first", h)
			}
			t.Log("what was given back is not tried again")
			s.refused(h)
			s.stop()

			t.Log("the power is cut while an update is written")
			s.start()
			s.until("start", proven("first"))
			s.slow.Store(true)
			s.offer(l.make(t, "next") + ".rfu")
			<-s.half
			s.stop()
			s.offered.Store(nil)
			s.slow.Store(false)
			if got, want := s.slots(), "slot=a a=3 b=0"; got != want {
				t.Errorf("slots: %s, want %s", got, want)
			}
			s.start()
			s.until("start after the cut", proven("first"))
			s.offer(l.make(t, "next") + ".rfu")
			s.until("good update", func(h vm.Health) bool { return proven("next")(h) && h.Image.Slot == "b" })
			s.stop()
			s.offered.Store(nil)
			good := filepath.Join(s.dir, "good.img")
			copySparse(t, s.disk, good)
			for _, d := range []struct {
				name string
				at   int64
				size int
			}{{"beginning destroyed", 0, 1 << 20}, {"kernel changed", 4 << 20, 16}, {"initramfs changed", 20 << 20, 16}} {
				copySparse(t, good, s.disk)
				s.damage(release.PartSlotB, d.at, bytes.Repeat([]byte{0xaa}, d.size))
				s.start()
				s.until("slot's "+d.name, proven("first"))
				s.stop()
				if got, want := s.slots(), "slot=a a=3 b=0"; got != want {
					t.Errorf("%s: %s, want %s", d.name, got, want)
				}
			}
		})
	}
}

// TestNeverHealthy is the release that runs and never gets well: the deadline sends it back.
func TestNeverHealthy(t *testing.T) {
	l := need(t, "full")
	for _, firmware := range firmwares {
		t.Run(firmware, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, l, firmware, "short")
			s.start()
			h := s.until("first start", proven("short"))
			s.offer(l.make(t, "unhealthy") + ".rfu")
			s.returned("unhealthy", "short", h)
		})
	}
}

// returned waits until a release was tried and given back.
func (s *site) returned(fault, version string, before vm.Health) vm.Health {
	s.t.Helper()
	h := s.until("release with the fault "+fault+" is back", func(h vm.Health) bool {
		return proven(version)(h) && h.Image.Boot != before.Image.Boot && h.Image.Update == "returned"
	})
	if h.Image.Slots != "slot=a a=3 b=0" {
		s.t.Errorf("slots: %s", h.Image.Slots)
	}
	return h
}

// refused waits until what is offered was fetched twice, and wants the appliance as it was.
func (s *site) refused(before vm.Health) {
	s.t.Helper()
	for range cap(s.served) {
		select {
		case <-s.served:
		default:
		}
	}
	for range 2 {
		select {
		case <-s.served:
		case <-time.After(stepTime):
			s.t.Fatal("nobody asked for the release")
		}
	}
	h := s.until("unchanged", proven(before.Image.Version))
	if h.Image.Boot != before.Image.Boot || h.Image.Slots != before.Image.Slots {
		s.t.Errorf("%s", h.Raw)
	}
}

// forged signs an update with a key that nobody knows.
func forged(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	head, err := update.Head(update.Info{Product: update.Product, Version: "forged", Arch: "amd64", Serial: epoch.Unix() + 5000, Size: int64(len(b) - update.HeadSize), SHA512: strings.Repeat("00", 64)}, key)
	if err != nil {
		t.Fatal(err)
	}
	copy(b, head)
	out := filepath.Join(t.TempDir(), "forged.rfu")
	if err := os.WriteFile(out, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}
