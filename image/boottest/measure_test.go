package boottest

import (
	"testing"
	"time"

	"ringfence/image/vm"
)

// TestMeasure prints what docs/performance.md says of the image. It wants a machine of its own: RINGFENCE_IMAGE=measure.
func TestMeasure(t *testing.T) {
	l := need(t, "measure")
	for _, firmware := range firmwares {
		t.Run(firmware, func(t *testing.T) {
			s := newSite(t, l, firmware, "first")
			s.seed(phones(50))
			l.make(t, "next")
			began := time.Now()
			s.start()
			h := s.until("first start", proven("first"))
			t.Logf("FIRST START %s: %.1f s from PID 1 to all services, %.0f s from the power switch to proven", firmware, h.Image.Ready, time.Since(began).Seconds())
			s.powerOff()
			began = time.Now()
			s.start()
			h = s.until("start", proven("first"))
			t.Logf("START %s: %.1f s from PID 1 to all services, %.0f s from the power switch to proven", firmware, h.Image.Ready, time.Since(began).Seconds())
			t.Logf("console:\n%s", s.m.Console())
			if firmware == "bios" {
				t.Logf("MEMORY %s without a phone: %d of %d MB", firmware, h.Image.MemUsed>>20, h.Image.Memory>>20)
				stop := s.register(t, l, 50, "1h")
				time.Sleep(20 * time.Second)
				h = s.until("phones", proven("first"))
				t.Logf("MEMORY %s with 50 phones: %d of %d MB", firmware, h.Image.MemUsed>>20, h.Image.Memory>>20)
				stop()
				for range cap(s.served) {
					select {
					case <-s.served:
					default:
					}
				}
				s.offer(l.make(t, "next") + ".rfu")
				<-s.served
				began = time.Now()
				s.until("update", func(h vm.Health) bool { return proven("next")(h) && h.Image.Update == "committed" })
				t.Logf("UPDATE %s: %.0f s from the last byte given to healthy", firmware, time.Since(began).Seconds())
			}
			s.stop()
		})
	}
}

// powerOff presses the button.
func (s *site) powerOff() {
	s.t.Helper()
	if err := s.m.Monitor("system_powerdown"); err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-s.m.Ended():
	case <-time.After(stepTime):
		s.t.Fatal("the power button does nothing")
	}
	s.stop()
}
