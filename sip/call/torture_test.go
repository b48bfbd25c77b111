package call_test

import (
	"testing"
	"time"

	"ringfence/config"
	"ringfence/media"
	"ringfence/sip/internal/calltest"
)

// The scenarios below are played once for each of their messages and each fault.

func lastOf(p *calltest.Phone) *calltest.Talk {
	list := p.Talks()
	if len(list) == 0 {
		return nil
	}
	return list[len(list)-1]
}

func TestTortureBasicCall(t *testing.T) {
	for _, transport := range []string{"TCP", "UDP"} {
		t.Run(transport, func(t *testing.T) {
			calltest.Torture(t, engine, transport, func(w *calltest.World) {
				ada := w.Phone("301", transport)
				w.Phone("302", transport)
				c := ada.Call("302")
				after(5 * time.Second)
				c.Hold("")
				after(2 * time.Second)
				c.Resume()
				after(2 * time.Second)
				c.Bye()
			})
		})
	}
}

func TestTortureCalleeHangsUp(t *testing.T) {
	calltest.Torture(t, engine, "TLS", func(w *calltest.World) {
		ada, ben := w.Phone("301", "TLS"), w.Phone("302", "TLS")
		ada.Call("302")
		after(5 * time.Second)
		if b := lastOf(ben); b != nil {
			b.Hold("")
			after(time.Second)
			b.Bye()
		}
	})
}

func TestTortureTalkGoesOn(t *testing.T) {
	calltest.Torture(t, engine, "TCP", func(w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP")
		c := ada.Call("302")
		after(5 * time.Second)
		c.Reinvite(media.Inactive, "")
		after(5 * time.Second)
	})
}

func TestTortureCancel(t *testing.T) {
	for _, transport := range []string{"TCP", "UDP"} {
		t.Run(transport, func(t *testing.T) {
			calltest.Torture(t, engine, transport, func(w *calltest.World) {
				ada := w.Phone("301", transport)
				w.Phone("302", transport, func(p *calltest.Phone) { p.Answer = 0 })
				c := ada.Call("302")
				after(3 * time.Second)
				c.Cancel()
			})
		})
	}
}

func TestTortureNoAnswer(t *testing.T) {
	calltest.Torture(t, engine, "TCP", func(w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP", func(p *calltest.Phone) { p.Answer = 0 })
		w.Phone("303", "TCP")
		ada.Call("302")
		after(20 * time.Second)
	}, line("302", func(l *config.Line) { l.RingSeconds, l.OnNoAnswer = 10, "extension:303" }))
}

func TestTortureFork(t *testing.T) {
	calltest.Torture(t, engine, "TCP", func(w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("304", "TCP", func(p *calltest.Phone) { p.Answer = 3 * time.Second })
		w.Phone("304", "UDP")
		ada.Call("304")
		after(6 * time.Second)
	})
}

func TestTortureForwardKey(t *testing.T) {
	calltest.Torture(t, engine, "TCP", func(w *calltest.World) {
		w.Phone("301", "TCP").Call("x-cisco-serviceuri-cfwdall-302")
		after(2 * time.Second)
	})
}
