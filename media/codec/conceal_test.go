package codec

import (
	"math"
	"testing"
)

// TestConcealment loses single frames and a long stretch of a tone: the sound goes on in phase without clicks, and fades away.
func TestConcealment(t *testing.T) {
	const hz, loud = 200.0, 8000.0
	tone := func(from int) []int16 {
		pcm := make([]int16, 320)
		for i := range pcm {
			pcm[i] = int16(loud * math.Sin(2*math.Pi*hz*float64(from+i)/16000))
		}
		return pcm
	}
	var c Concealer
	var out []int16
	for k := range 20 {
		pcm := tone(320 * k)
		if k%5 == 4 {
			c.Lost(pcm)
		} else {
			c.Good(pcm)
		}
		out = append(out, pcm...)
	}
	var signal, noise, jump float64
	for i := 1600; i < len(out); i++ {
		want := loud * math.Sin(2*math.Pi*hz*float64(i)/16000)
		signal += want * want
		noise += (float64(out[i]) - want) * (float64(out[i]) - want)
		jump = max(jump, math.Abs(float64(out[i])-float64(out[i-1])))
	}
	// With silence in the gaps it would be 7 dB, and a click of the full amplitude.
	if db := 10 * math.Log10(signal/noise); db < 15 {
		t.Errorf("a fifth of a tone concealed: %.1f dB", db)
	}
	if limit := 3 * loud * 2 * math.Pi * hz / 16000; jump > limit {
		t.Errorf("a click of %.0f, more than %.0f", jump, limit)
	}
	for range 3 {
		c.Lost(make([]int16, 320))
	}
	last := make([]int16, 320)
	c.Lost(last)
	if !c.Silent() || last[319] != 0 {
		t.Errorf("a long gap ends with %d", last[319])
	}
}

func TestConcealmentOfSilence(t *testing.T) {
	var c Concealer
	pcm := make([]int16, 320)
	c.Lost(pcm)
	for _, s := range pcm {
		if s != 0 {
			t.Fatal("noise out of nothing")
		}
	}
	// The loudest there is must not wrap around.
	for i := range pcm {
		pcm[i] = 32767 - int16(i%2)
	}
	c.Good(pcm)
	c.Good(pcm)
	c.Lost(pcm)
	for i, s := range pcm[:160] {
		if s < 30000 {
			t.Fatalf("sample %d is %d", i, s)
		}
	}
}
