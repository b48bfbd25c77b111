package media

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ringfence/media/codec"
)

// TestEarInBadNetworks plays a tone through networks that lose, delay, reorder and repeat packets, on a clock of its own, and measures
// what is heard: how much of it is the tone, and how long it took.
func TestEarInBadNetworks(t *testing.T) {
	const hz, loud, frames = 400.0, 8000.0, 1000 // 20 s
	for _, tc := range []struct {
		name        string
		jitter      time.Duration
		loss, twice float64
		drift       float64 // of the party's clock
		share       float64 // of the tone in the last ten seconds, at least
		depth       [2]int
	}{
		{"good", 2 * time.Millisecond, 0, 0, 0, 0.999, [2]int{2, 2}},
		{"5 % lost", 2 * time.Millisecond, 0.05, 0, 0, 0.97, [2]int{2, 2}},
		{"80 ms of jitter", 80 * time.Millisecond, 0, 0, 0, 0.98, [2]int{4, 6}},
		{"all at once", 80 * time.Millisecond, 0.05, 0.05, 0, 0.9, [2]int{4, 6}},
		{"fast clock", 2 * time.Millisecond, 0, 0, 1e-3, 0.9, [2]int{2, 4}},
		{"slow clock", 2 * time.Millisecond, 0, 0, -1e-3, 0.9, [2]int{2, 4}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(7, 7))
			type arrival struct {
				at int64
				i  int
			}
			var come []arrival
			for i := range frames {
				at := int64(float64(i)*20e6/(1+tc.drift)) + int64(r.Float64()*float64(tc.jitter))
				if r.Float64() >= tc.loss {
					come = append(come, arrival{at, i})
				}
				if r.Float64() < tc.twice {
					come = append(come, arrival{at + int64(5*time.Millisecond), i})
				}
			}
			slices.SortStableFunc(come, func(a, b arrival) int { return int(a.at - b.at) })
			e := newEar()
			var stream receiver
			var heard []int16
			for k := range frames {
				now := int64(k) * int64(20*time.Millisecond)
				for len(come) > 0 && come[0].at <= now {
					p := packet{seq: uint16(come[0].i + 65000), timestamp: uint32(160 * come[0].i), ssrc: 1}
					if v := stream.add(p, 0, false); v != duplicate {
						e.take(p, playULaw, codec.EncodeULaw(nil, sine(hz, loud, 8000, 160*come[0].i)), v == restart, come[0].at)
					}
					come = come[1:]
				}
				e.pull()
				heard = append(heard, e.frame[:]...)
			}
			// Measured in pieces: what was left out or filled in moves the phase.
			var sum float64
			n := 0
			for from := len(heard) / 2; from+1600 <= len(heard); from += 1600 {
				share, _ := loudness(heard[from:from+1600], hz, 16000)
				sum += share
				n++
			}
			if got := sum / float64(n); got < tc.share {
				t.Errorf("%.1f %% of what is heard is the tone, want %.1f", 100*got, 100*tc.share)
			}
			if d := e.in.wanted(); d < tc.depth[0] || d > tc.depth[1] {
				t.Errorf("depth %d, want %v", d, tc.depth)
			}
			if e.in.count > e.in.wanted()+jitterSlack+2 {
				t.Errorf("%d packets are held back", e.in.count)
			}
		})
	}
}

// TestMonitor hears both parties of a bridge, of whom each has a codec of its own, and stops without a trace.
func TestMonitor(t *testing.T) {
	e := engine(t)
	a, b, pa, pb := pair(t, e, []Format{pcmu}, []Format{g722})
	m, err := Listen(a, b)
	if err != nil {
		t.Fatal(err)
	}
	g := coderOf(g722)
	for i := range 25 {
		pa.say(0, string(codec.EncodeULaw(nil, sine(400, 6000, 8000, 160*i))))
		pb.say(9, string(encode(g.kind, &g.enc, nil, sine(1100, 6000, 16000, 320*i))))
		pb.hear()
		pa.hear()
	}
	wait(t, "both were heard", func() bool { return a.Stats().Rx.Packets == 25 && b.Stats().Rx.Packets == 25 })
	var heard []int16
	for range 20 {
		pcm := make([]int16, frameSamples)
		if m.Read(pcm) != frameSamples {
			t.Fatal("the sound is over")
		}
		heard = append(heard, pcm...)
	}
	for _, hz := range []float64{400, 1100} {
		if share, amplitude := loudness(heard[3200:], hz, 16000); share < 0.4 || math.Abs(amplitude-6000) > 600 {
			t.Errorf("%v Hz has %.0f %% of the power, amplitude %.0f", hz, 100*share, amplitude)
		}
	}
	m.Stop()
	m.Stop()
	if len(a.rx.taps)+len(b.rx.taps) != 0 || m.Read(make([]int16, frameSamples)) != 0 {
		t.Error("it goes on listening")
	}
	b.Close()
	if _, err := Listen(a, b); err == nil || len(a.rx.taps) != 0 {
		t.Errorf("listening to a closed session: %v, %d ears left", err, len(a.rx.taps))
	}
}
