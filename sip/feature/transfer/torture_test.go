package transfer_test

import (
	"testing"
	"time"

	"ringfence/sip/internal/calltest"
	"ringfence/sip/sdp"
)

// The pictures of "sip-calls" §4, once for each of their messages and each fault.

func TestTortureBlind(t *testing.T) {
	for _, transport := range []string{"TCP", "UDP"} {
		t.Run(transport, func(t *testing.T) {
			calltest.Torture(t, engine, transport, func(w *calltest.World) {
				ada := w.Phone("301", transport)
				w.Phone("302", transport)
				w.Phone("303", transport)
				x := ada.Call("302")
				after(4 * time.Second)
				x.Hold("transfer")
				after(2 * time.Second)
				x.Refer("303")
				after(6 * time.Second)
			})
		})
	}
}

func TestTortureAttended(t *testing.T) {
	for _, transport := range []string{"TCP", "TLS"} {
		t.Run(transport, func(t *testing.T) {
			calltest.Torture(t, engine, transport, func(w *calltest.World) {
				ada := w.Phone("301", transport)
				w.Phone("302", transport)
				w.Phone("303", transport, func(p *calltest.Phone) { p.Codecs = []sdp.Codec{sdp.PCMA} })
				x := ada.Call("302")
				after(4 * time.Second)
				x.Hold("transfer")
				after(2 * time.Second)
				y := ada.Call("303")
				after(4 * time.Second)
				x.ReferTo(y)
				after(6 * time.Second)
			})
		})
	}
}

func TestTortureSemiAttended(t *testing.T) {
	calltest.Torture(t, engine, "TCP", func(w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP")
		w.Phone("303", "TCP", func(p *calltest.Phone) { p.Answer = 8 * time.Second })
		x := ada.Call("302")
		after(4 * time.Second)
		x.Hold("transfer")
		after(2 * time.Second)
		y := ada.Call("303")
		after(2 * time.Second)
		x.ReferTo(y)
		after(12 * time.Second)
	})
}
