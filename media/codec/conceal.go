package codec

// Concealer fills gaps in 16 kHz sound with what was heard last: its last pitch period over and over, softer from 10 ms on and
// silent after 60 ms; the return of the sound is blended in. In the manner of G.711 appendix I, with a plainer search. The zero
// value is ready.
type Concealer struct {
	past   [concealPast]int16
	period [longestPeriod]int16
	lag    int // length of the period
	run    int // samples filled since the gap began
}

const (
	concealPast    = 640 // 40 ms
	shortestPeriod = 40  // 400 Hz
	longestPeriod  = 320 // 50 Hz
	concealMatch   = 160
	concealFull    = 160 // samples at full loudness
	concealFade    = 800 // over which it fades away then
	concealBlend   = 64
)

// Good takes sound that arrived. After a gap its beginning is changed in place.
func (c *Concealer) Good(pcm []int16) {
	if c.run > 0 {
		n := min(concealBlend, len(pcm))
		for i := range n {
			pcm[i] = int16((int32(pcm[i])*int32(i) + int32(c.next())*int32(n-i)) / int32(n))
		}
		c.run = 0
	}
	if len(pcm) >= concealPast {
		copy(c.past[:], pcm[len(pcm)-concealPast:])
		return
	}
	copy(c.past[:], c.past[len(pcm):])
	copy(c.past[concealPast-len(pcm):], pcm)
}

// Lost fills pcm.
func (c *Concealer) Lost(pcm []int16) {
	if c.run == 0 {
		c.search()
	}
	for i := range pcm {
		pcm[i] = c.next()
	}
}

// Silent tells whether a gap has lasted so long that nothing is filled in any more.
func (c *Concealer) Silent() bool { return c.run >= concealFull+concealFade }

func (c *Concealer) next() int16 {
	s := int32(c.period[c.run%c.lag])
	if c.run > concealFull {
		s = s * int32(max(0, concealFull+concealFade-c.run)) / concealFade
	}
	c.run++
	return int16(s)
}

// search finds the distance at which the end of the past is most like what was before, and takes that much as the period. Its end is
// blended with what came before its beginning, so that it can be repeated.
func (c *Concealer) search() {
	best, lag := int64(0), longestPeriod
	end := concealPast - concealMatch
	for l := shortestPeriod; l <= longestPeriod; l += 2 {
		var sum, energy int64
		for i := 0; i < concealMatch; i += 2 {
			x := int64(c.past[end-l+i])
			sum += int64(c.past[end+i]) * x
			energy += x * x
		}
		if sum <= 0 || energy == 0 {
			continue
		}
		if score := sum / 1024 * (sum / 1024) / (energy/1024 + 1); score > best {
			best, lag = score, l
		}
	}
	c.lag = lag
	copy(c.period[:lag], c.past[concealPast-lag:])
	n := lag / 4
	for i := range n {
		before := int32(c.past[concealPast-lag-n+i])
		at := lag - n + i
		c.period[at] = int16((int32(c.period[at])*int32(n-i) + before*int32(i)) / int32(n))
	}
}
