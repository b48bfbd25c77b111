package phone

import "math"

// toneSource makes samples of a sine at 8 kHz.
type toneSource struct {
	hz    float64
	phase float64
}

const (
	sampleRate = 8000
	frameLen   = 160 // 20 ms
	toneLevel  = 10000
)

func (t *toneSource) fill(out []int16) {
	step := 2 * math.Pi * t.hz / sampleRate
	for i := range out {
		out[i] = int16(toneLevel * math.Sin(t.phase))
		if t.phase += step; t.phase > 2*math.Pi {
			t.phase -= 2 * math.Pi
		}
	}
}

// goertzel is the power of one frequency in samples, on the scale on which power(samples) is the whole: a pure tone of that
// frequency gives 1 after division.
func goertzel(samples []int16, hz float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	w := 2 * math.Pi * hz / sampleRate
	c := 2 * math.Cos(w)
	var s1, s2 float64
	for _, x := range samples {
		s1, s2 = float64(x)+c*s1-s2, s1
	}
	n := float64(len(samples))
	return (s1*s1 + s2*s2 - c*s1*s2) * 2 / (n * n)
}

func power(samples []int16) float64 {
	if len(samples) == 0 {
		return 0
	}
	var sum float64
	for _, x := range samples {
		sum += float64(x) * float64(x)
	}
	return sum / float64(len(samples))
}

// findTone gives the strongest frequency between 150 and 3800 Hz and its share of the whole power, 0 for silence.
func findTone(samples []int16) (hz, share float64) {
	whole := power(samples)
	if len(samples) < 2*frameLen || whole < 100 {
		return 0, 0
	}
	coarse := float64(sampleRate) / float64(len(samples)) / 2
	best := 0.0
	scan := func(from, to, step float64) {
		for f := from; f <= to; f += step {
			if g := goertzel(samples, f); g > best {
				best, hz = g, f
			}
		}
	}
	scan(150, 3800, max(coarse, 1))
	scan(hz-coarse, hz+coarse, max(coarse/8, 0.25))
	return hz, best / whole
}

// ToneShare is the share of samples' power that lies at one frequency, between 0 and 1.
func ToneShare(samples []int16, hz float64) float64 {
	whole := power(samples)
	if whole < 1 {
		return 0
	}
	return goertzel(samples, hz) / whole
}

// Correlation is the largest normalised correlation of a short piece with any place of a long recording, between 0 and 1.
func Correlation(recording, piece []int16) float64 {
	n := len(piece)
	if n == 0 || len(recording) < n {
		return 0
	}
	pp := power(piece) * float64(n)
	if pp == 0 {
		return 0
	}
	var window float64
	for _, x := range recording[:n] {
		window += float64(x) * float64(x)
	}
	best := 0.0
	for at := 0; ; at++ {
		if window > 0 {
			var dot float64
			for i, x := range piece {
				dot += float64(x) * float64(recording[at+i])
			}
			best = max(best, math.Abs(dot)/math.Sqrt(window*pp))
		}
		if at+n >= len(recording) {
			return min(best, 1)
		}
		out, in := float64(recording[at]), float64(recording[at+n])
		window += in*in - out*out
	}
}
