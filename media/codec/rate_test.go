package codec

import (
	"math"
	"testing"
)

func sine(hz, rate float64, n int) []int16 {
	pcm := make([]int16, n)
	for i := range pcm {
		pcm[i] = int16(10000 * math.Sin(2*math.Pi*hz*float64(i)/rate))
	}
	return pcm
}

func level(pcm []int16) float64 {
	var sum float64
	for _, s := range pcm {
		sum += float64(s) * float64(s)
	}
	return 20 * math.Log10(math.Sqrt(sum/float64(len(pcm)))/(10000/math.Sqrt2)+1e-9)
}

// TestRates: what fits is unchanged, what does not is at least 30 dB down, also when it comes in pieces.
func TestRates(t *testing.T) {
	for _, tc := range []struct {
		hz   float64
		keep bool
	}{{200, true}, {1000, true}, {3000, true}, {5200, false}, {7000, false}} {
		in := sine(tc.hz, 16000, 16000)
		var d Downsampler
		var out []int16
		for i := 0; i < len(in); i += 320 {
			out = d.Append(out, in[i:i+320])
		}
		if len(out) != 8000 {
			t.Fatalf("%d samples", len(out))
		}
		if l := level(out[1000:]); tc.keep && math.Abs(l) > 0.2 || !tc.keep && l > -30 {
			t.Errorf("down, %v Hz: %.1f dB", tc.hz, l)
		}
		if !tc.keep {
			continue
		}
		var u Upsampler
		var up []int16
		in8 := sine(tc.hz, 8000, 8000)
		for i := 0; i < len(in8); i += 160 {
			up = u.Append(up, in8[i:i+160])
		}
		want := sine(tc.hz, 16000, 16000)
		worst := 0.0
		for i := 2000; i < 15000; i++ {
			worst = max(worst, math.Abs(float64(up[i+20])-float64(want[i])))
		}
		if worst > 300 {
			t.Errorf("up, %v Hz: off by %v of 10000", tc.hz, worst)
		}
	}
}

func TestRatesDoNotWrap(t *testing.T) {
	in := make([]int16, 320)
	for i := range in {
		in[i] = 32767
		if i/40%2 == 1 {
			in[i] = -32768
		}
	}
	var d Downsampler
	var u Upsampler
	for _, out := range [][]int16{d.Append(nil, in), u.Append(nil, in)} {
		for i := 1; i < len(out); i++ {
			if abs(int(out[i])-int(out[i-1])) > 65535 {
				t.Fatal("wrapped")
			}
		}
	}
	if u.Append(nil, nil) != nil || len(d.Append(nil, in[:2])) != 1 {
		t.Error("odd pieces")
	}
}
