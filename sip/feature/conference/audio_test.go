package conference_test

import (
	"math"
	"net"
	"net/netip"
	"testing"
	"time"

	"ringfence/media/codec"
	"ringfence/sip/internal/calltest"
	"ringfence/sip/sdp"
)

// voice is the audio of a phone in real time: it says a tone and listens.
type voice struct {
	t    *testing.T
	conn *net.UDPConn
	p    *calltest.Phone
	hz   float64
	seq  uint16
	n    int
}

func withVoice(t *testing.T, w *calltest.World, number string, hz float64) *voice {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	v := &voice{t: t, conn: c, hz: hz}
	v.p = w.Phone(number, "TCP", func(p *calltest.Phone) {
		p.Audio = c.LocalAddr().(*net.UDPAddr).AddrPort()
		p.Codecs = []sdp.Codec{sdp.PCMU}
		p.Answer = time.Millisecond
	})
	return v
}

// say sends the next 20 ms of the tone.
func (v *voice) say(port int) {
	v.t.Helper()
	pcm := make([]int16, 160)
	for i := range pcm {
		pcm[i] = int16(6000 * math.Sin(2*math.Pi*v.hz*float64(v.n)/8000))
		v.n++
	}
	b := []byte{0x80, 0, byte(v.seq >> 8), byte(v.seq), 0, 0, byte(int(v.seq) * 160 >> 8), byte(int(v.seq) * 160), 1, 2, 3, 4}
	v.seq++
	if _, err := v.conn.WriteToUDPAddrPort(codec.EncodeULaw(b, pcm), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))); err != nil {
		v.t.Fatal(err)
	}
}

// level is how loud a tone is in what has come since, against its own loudness.
func level(pcm []int16, hz float64) float64 {
	var re, im float64
	for i, s := range pcm {
		re += float64(s) * math.Cos(2*math.Pi*hz*float64(i)/8000)
		im += float64(s) * math.Sin(2*math.Pi*hz*float64(i)/8000)
	}
	return 2 * math.Hypot(re, im) / float64(len(pcm)) / 6000
}

func TestConferenceIsHeard(t *testing.T) {
	w := calltest.New(t, engine)
	defer w.Close()
	ada, ben, cleo := withVoice(t, w, "301", 500), withVoice(t, w, "302", 1100), withVoice(t, w, "303", 1700)
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if ok() {
				return
			}
		}
		t.Fatalf("not so: %s", what)
	}
	x := ada.p.Call("302")
	eventually("first call", func() bool { return x.Get().Status == 200 })
	y := ada.p.Call("303")
	eventually("second call", func() bool { return y.Get().Status == 200 })
	press(ada.p, "Conference", x, y)
	eventually("conference", func() bool {
		i := w.Manager.Snapshot()
		return len(i) == 1 && i[0].State == "conference" && len(i[0].Legs) == 3 && y.Get().Ended != ""
	})
	voices := []*voice{ada, ben, cleo}
	ports := []int{x.Port(), ben.p.Last().Port(), cleo.p.Last().Port()}
	heard := make([]chan []int16, len(voices))
	for i, v := range voices {
		heard[i] = make(chan []int16, 1)
		go func() {
			var pcm []int16
			b := make([]byte, 2048)
			_ = v.conn.SetReadDeadline(time.Now().Add(1600 * time.Millisecond))
			for {
				n, err := v.conn.Read(b)
				if err != nil {
					heard[i] <- pcm
					return
				}
				if n == 172 {
					pcm = codec.DecodeULaw(pcm, b[12:n])
				}
			}
		}()
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 75 {
		<-tick.C
		for i, v := range voices {
			v.say(ports[i])
		}
	}
	for i := range voices {
		pcm := <-heard[i]
		if len(pcm) < 8000 {
			t.Fatalf("voice %d heard %d samples", i, len(pcm))
		}
		pcm = pcm[4000:8000]
		for j, o := range voices {
			if got := level(pcm, o.hz); (got > 0.4) != (i != j) {
				t.Errorf("%s hears %s with %.2f", voices[i].p.Number, o.p.Number, got)
			}
		}
	}
	x.Bye()
	eventually("over", func() bool { return len(w.Manager.Snapshot()) == 0 })
}
