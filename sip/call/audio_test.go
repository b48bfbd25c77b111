package call_test

import (
	"math"
	"net"
	"testing"
	"time"

	"ringfence/media/codec"
	"ringfence/sip/internal/calltest"
	"ringfence/sip/sdp"
)

// ear is a real socket of a phone, for tests in real time: what does its user hear?
type ear struct {
	t    *testing.T
	conn *net.UDPConn
}

func withEar(t *testing.T, w *calltest.World, number string, edit ...func(*calltest.Phone)) (*calltest.Phone, *ear) {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	p := w.Phone(number, "TCP", append(edit, func(p *calltest.Phone) {
		p.Audio = c.LocalAddr().(*net.UDPAddr).AddrPort()
		p.Codecs = []sdp.Codec{sdp.PCMU}
		if p.Answer == 2*time.Second {
			p.Answer = time.Millisecond
		}
	})...)
	return p, &ear{t, c}
}

// hears collects half a second of sound; nil if there is none.
func (e *ear) hears() []int16 {
	e.t.Helper()
	var pcm []int16
	b := make([]byte, 2048)
	end := time.Now().Add(5 * time.Second)
	for len(pcm) < 4000 {
		_ = e.conn.SetReadDeadline(minTime(time.Now().Add(300*time.Millisecond), end))
		n, err := e.conn.Read(b)
		if err != nil || n <= 12 {
			return nil
		}
		pcm = codec.DecodeULaw(pcm, b[12:n])
	}
	return pcm
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// empty throws away what has come so far.
func (e *ear) empty() {
	b := make([]byte, 2048)
	for {
		_ = e.conn.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
		if _, err := e.conn.Read(b); err != nil {
			return
		}
	}
}

func share(pcm []int16, hz float64) float64 {
	var re, im, sum float64
	for i, s := range pcm {
		v := float64(s)
		re += v * math.Cos(2*math.Pi*hz*float64(i)/8000)
		im += v * math.Sin(2*math.Pi*hz*float64(i)/8000)
		sum += v * v
	}
	return 2 * (re*re + im*im) / float64(len(pcm)) / max(sum, 1)
}

func loud(pcm []int16) bool {
	var sum float64
	for _, s := range pcm {
		sum += float64(s) * float64(s)
	}
	return len(pcm) > 0 && math.Sqrt(sum/float64(len(pcm))) > 300
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not so: %s", what)
}

func TestHeldPartyHearsMusic(t *testing.T) {
	w := calltest.New(t, engine)
	defer w.Close()
	ada, _ := withEar(t, w, "301")
	_, ben := withEar(t, w, "302")
	c := ada.Call("302")
	eventually(t, "connected", func() bool { return c.Get().Status == 200 })
	if ben.hears() != nil {
		t.Error("sound out of nowhere")
	}
	for reason, want := range map[string]bool{"": true, "transfer": true, "conference": false} {
		c.Hold(reason)
		if got := loud(ben.hears()); got != want {
			t.Errorf("hold for %q: music %v, want %v", reason, got, want)
		}
		c.Resume()
		eventually(t, "resumed", func() bool { i := w.Manager.Snapshot(); return len(i) == 1 && !i[0].Legs[0].Held })
		ben.empty()
		if ben.hears() != nil {
			t.Error("music goes on after resume")
		}
	}
	c.Bye()
	eventually(t, "over", func() bool { return len(w.Manager.Snapshot()) == 0 })
}

func TestTransferredPartyHearsRingBack(t *testing.T) {
	w := calltest.New(t, engine)
	defer w.Close()
	ada, _ := withEar(t, w, "301")
	_, ben := withEar(t, w, "302")
	cleo, _ := withEar(t, w, "303", func(p *calltest.Phone) { p.Answer = 0 })
	c := ada.Call("302")
	eventually(t, "connected", func() bool { return c.Get().Status == 200 })
	c.Refer("303")
	if got := share(ben.hears(), 425); got < 0.95 {
		t.Errorf("share of the tone %.2f", got)
	}
	eventually(t, "rings", func() bool { return len(cleo.Talks()) == 1 })
	cleo.Last().PickUp()
	eventually(t, "talks", func() bool { i := w.Manager.Snapshot(); return len(i) == 1 && i[0].State == "talking" })
	ben.empty()
	if ben.hears() != nil {
		t.Error("the tone goes on after the answer")
	}
	cleo.Last().Bye()
	eventually(t, "over", func() bool { return len(w.Manager.Snapshot()) == 0 })
}
