package media

import (
	"fmt"
	"math"
	"testing"
	"time"

	"ringfence/media/codec"
)

var (
	l16    = Format{PT: 102, Name: "L16", Rate: 16000}
	narrow = Format{PT: 103, Name: "L16", Rate: 8000}
)

// coder is one end of a stream in some codec.
type coder struct {
	kind uint8
	enc  codec.G722Encoder
	dec  codec.G722Decoder
}

func coderOf(f Format) *coder {
	return &coder{kind: playableOf(f), enc: *codec.NewG722Encoder(), dec: *codec.NewG722Decoder()}
}

func (c *coder) rate() int { return codecs[c.kind].sampling }

// sine makes 20 ms of a tone from a sample on.
func sine(hz, amplitude float64, rate, from int) []int16 {
	pcm := make([]int16, rate/50)
	for i := range pcm {
		pcm[i] = int16(amplitude * math.Sin(2*math.Pi*hz*float64(from+i)/float64(rate)))
	}
	return pcm
}

// loudness is the share of one frequency in a sound, and the amplitude of it.
func loudness(pcm []int16, hz float64, rate int) (share, amplitude float64) {
	var re, im, sum float64
	for i, s := range pcm {
		v, w := float64(s), 2*math.Pi*hz*float64(i)/float64(rate)
		re += v * math.Cos(w)
		im += v * math.Sin(w)
		sum += v * v
	}
	n := float64(len(pcm))
	return 2 * (re*re + im*im) / n / max(sum, 1), 2 * math.Hypot(re, im) / n
}

// TestTranscode sends a tone in each codec to a party with each other one, and measures what arrives: the same tone, as loud, in
// packets with the clock of its codec.
func TestTranscode(t *testing.T) {
	e := engine(t)
	all := []Format{pcmu, pcma, g722, l16, narrow}
	for _, from := range all {
		for _, to := range all {
			if from == to {
				continue
			}
			t.Run(fmt.Sprintf("%s-%d to %s-%d", from.Name, from.Rate, to.Name, to.Rate), func(t *testing.T) {
				a, b, pa, pb := pair(t, e, []Format{from}, []Format{to})
				defer a.Close()
				defer b.Close()
				in, out := coderOf(from), coderOf(to)
				const hz, loud, frames = 1000.0, 8000.0, 25
				var heard []int16
				var last packet
				for i := range frames {
					pa.ts = 0xffffff00 + uint32(i)*from.Rate/50 // across the end of the numbers
					n := in.rate() / 50
					pa.write(pa.packet(from.PT, string(encode(in.kind, &in.enc, nil, sine(hz, loud, in.rate(), i*n)))))
					p, payload := pb.hear()
					if p.pt != to.PT {
						t.Fatalf("payload type %d, want %d", p.pt, to.PT)
					}
					if i > 0 && (p.seq != last.seq+1 || p.timestamp != last.timestamp+to.Rate/50) {
						t.Fatalf("packet %d is %+v after %+v", i, p, last)
					}
					last = p
					heard = append(heard, decode(out.kind, &out.dec, nil, []byte(payload))...)
				}
				if want := frames * out.rate() / 50; len(heard) != want {
					t.Fatalf("%d samples, want %d", len(heard), want)
				}
				share, amplitude := loudness(heard[len(heard)/5:], hz, out.rate())
				if share < 0.98 || math.Abs(amplitude-loud) > loud/20.0 {
					t.Errorf("%.1f %% of what arrives is the tone, amplitude %.0f, want %v", 100*share, amplitude, loud)
				}
			})
		}
	}
}

func TestTranscodingKeepsGapsAndKeys(t *testing.T) {
	e := engine(t)
	a, b, pa, pb := pair(t, e, []Format{g722, dtmf(101)}, []Format{pcma, dtmf(96)})
	pa.say(9, string(make([]byte, 160)))
	first, _ := pb.hear()
	pa.packet(9, "") // lost
	pa.say(9, string(make([]byte, 160)))
	third, payload := pb.hear()
	if third.seq != first.seq+2 || third.timestamp != first.timestamp+320 || len(payload) != 160 {
		t.Errorf("after a gap %+v of %d octets, before it %+v", third, len(payload), first)
	}
	pa.say(101, "\x05\x0a\x00\xa0")
	pb.expect(96, "\x05\x0a\x00\xa0")
	pa.say(9, string(make([]byte, 1000)))
	wait(t, "more than 60 ms refused", func() bool { return a.Stats().Rx.Unrouted == 1 })
	// A new agreement ends it: the codec is common now.
	set(t, b, pb.remote(g722))
	pa.say(9, "as it is")
	pb.expect(9, "as it is")
}

func TestGain(t *testing.T) {
	e := engine(t)
	a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	measure := func() float64 {
		var heard []int16
		for i := range 10 {
			pa.say(0, string(codec.EncodeULaw(nil, sine(500, 4000, 8000, i*160))))
			_, payload := pb.hear()
			heard = codec.DecodeULaw(heard, []byte(payload))
		}
		_, amplitude := loudness(heard, 500, 8000)
		return amplitude
	}
	for _, tc := range []struct{ db, want float64 }{{0, 4000}, {6, 7981}, {-12, 1005}, {0, 4000}} {
		if err := a.SetGain(tc.db); err != nil {
			t.Fatal(err)
		}
		if got := measure(); math.Abs(got-tc.want) > tc.want/20 {
			t.Errorf("%v dB: amplitude %.0f, want %.0f", tc.db, got, tc.want)
		}
	}
	// As loud as can be is clipped and does not wrap around.
	pcm := []int16{32767, -32768, 100}
	amplify(pcm, gainOf(24))
	if pcm[0] != 32767 || pcm[1] != -32768 || pcm[2] != 1584 {
		t.Errorf("amplified to %v", pcm)
	}
}

// BenchmarkTranscode is what one packet of 20 ms costs beyond being relayed; a leg sends fifty a second.
func BenchmarkTranscode(b *testing.B) {
	for _, tc := range []struct{ from, to Format }{{g722, pcmu}, {pcmu, g722}, {pcmu, pcma}} {
		b.Run(tc.from.Name+" to "+tc.to.Name, func(b *testing.B) {
			in := coderOf(tc.from)
			payload := encode(in.kind, &in.enc, nil, sine(700, 9000, in.rate(), 0))
			tr := newTranscoder(playableOf(tc.to), 0, unity)
			out := make([]byte, 0, 2048)
			b.ReportAllocs()
			used := processTime()
			for b.Loop() {
				out, _ = tr.work(out[:0], in.kind, payload)
			}
			cpu := float64(processTime()-used) / float64(b.N)
			b.ReportMetric(cpu, "cpu-ns/packet")
			b.ReportMetric(float64(20*time.Millisecond)/cpu, "legs/core")
		})
	}
}
