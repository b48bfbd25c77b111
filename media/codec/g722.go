package codec

// G.722 at 64 kbit/s (ITU-T G.722 mode 1): 16 kHz samples, split by a filter bank into two bands of 8 kHz, each coded by
// adaptive differential PCM: six bits for the lower, two for the upper. One octet per two samples, upper band in the upper two
// bits. RTP counts it with a clock of 8000 (RFC 3551 §4.5.2).
//
// Names are those of the recommendation's block diagrams (§3 and §4): detected and reconstructed differences, scale factors
// DET, poles A1 A2, zeros B1 to B6. All arithmetic is that of 16-bit registers with saturation, as the recommendation asks for,
// so that encoder and decoder of different makers stay in step.

// filterBank holds the 24 taps of the quadrature mirror filter, of which twelve are distinct (§4.4, table 11).
var filterBank = [12]int32{3, -11, 12, 32, -210, 951, 3876, -805, 362, -156, 53, -11}

// Lower band: decision levels of the 6-bit quantizer (table 14), its codes for negative and positive differences (table 14).
var (
	lowDecision = [30]int32{
		0, 35, 72, 110, 150, 190, 233, 276, 323, 370, 422, 473, 530, 587, 650, 714, 786, 858, 940, 1023, 1121, 1219, 1339, 1458,
		1612, 1765, 1980, 2195, 2557, 2919,
	}
	lowNegative = [31]byte{0, 63, 62, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4}
	lowPositive = [31]byte{
		0, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41, 40, 39, 38, 37, 36, 35, 34, 33, 32,
	}
	// Outputs of the inverse quantizers with 4 bits, for the adaptation, and with 6, for the signal (tables 15 and 18).
	low4 = [16]int32{0, -20456, -12896, -8968, -6288, -4240, -2584, -1200, 20456, 12896, 8968, 6288, 4240, 2584, 1200, 0}
	low6 = [64]int32{
		-136, -136, -136, -136, -24808, -21904, -19008, -16704, -14984, -13512, -12280, -11192, -10232, -9360, -8576, -7856,
		-7192, -6576, -6000, -5456, -4944, -4464, -4008, -3576, -3168, -2776, -2400, -2032, -1688, -1360, -1040, -728,
		24808, 21904, 19008, 16704, 14984, 13512, 12280, 11192, 10232, 9360, 8576, 7856, 7192, 6576, 6000, 5456,
		4944, 4464, 4008, 3576, 3168, 2776, 2400, 2032, 1688, 1360, 1040, 728, 432, 136, -432, -136,
	}
	// Logarithmic scale factor multipliers by 4-bit code (tables 16 and 17).
	lowWeight = [16]int32{-60, 3042, 1198, 538, 334, 172, 58, -30, 3042, 1198, 538, 334, 172, 58, -30, -60}
)

// Upper band: inverse quantizer and scale factor multipliers by 2-bit code (tables 19 to 21).
var (
	high2      = [4]int32{-7408, -1616, 7408, 1616}
	highWeight = [4]int32{798, -214, 798, -214}
)

// antilog is the inverse logarithm of the scale factor (table 22).
var antilog = [32]int32{
	2048, 2093, 2139, 2186, 2233, 2282, 2332, 2383, 2435, 2489, 2543, 2599, 2656, 2714, 2774, 2834, 2896, 2960, 3025, 3091, 3158,
	3228, 3298, 3371, 3444, 3520, 3597, 3676, 3756, 3838, 3922, 4008,
}

func saturate(v int32) int32 { return min(max(v, -32768), 32767) }

// band is the predictor and the scale factor of one band, alike in encoder and decoder.
type band struct {
	s      int32    // predicted signal
	sz     int32    // its part from the zeros
	det    int32    // scale factor
	nb     int32    // its logarithm
	a1, a2 int32    // poles
	r1, r2 int32    // reconstructed signal, one and two samples ago
	p1, p2 int32    // partially reconstructed signal, one and two samples ago
	d      [6]int32 // quantized differences, doubled and saturated, the latest first
	b      [6]int32 // zeros
}

// scaleFactor adapts the scale factor: the logarithm leaks and gets the weight of the code (§3.6.4 blocks LOGSCL, SCALEL and
// the like). shift is 8 for the lower band and 10 for the upper.
func (x *band) scaleFactor(weight, limit int32, shift int32) {
	x.nb = min(max(x.nb*127>>7+weight, 0), limit)
	fraction, exponent := x.nb>>6&31, shift-x.nb>>11
	if exponent < 0 {
		x.det = antilog[fraction] << -exponent << 2
	} else {
		x.det = antilog[fraction] >> exponent << 2
	}
}

// update adapts the predictor to a quantized difference (blocks RECONS, PARREC, UPPOL1, UPPOL2, UPZERO, FILTEZ, FILTEP,
// PREDIC). It is most of what the codec costs, so it has no branches and saturates only where a value can leave its range:
// a sign is a mask of all ones or none, and (v ^ m) - m is v or, for a mask of ones, -v.
func (x *band) update(d int32) {
	r, p := saturate(x.s+d), saturate(x.sz+d)
	m1, m2 := (p^x.p1)>>31, (p^x.p2)>>31

	// Second pole, limited to ±0.75. The first one counts against it where the signs are equal.
	w := min((saturate(x.a1<<2)^^m1)-^m1, 32767)
	a2 := min(max(w>>7+(128^m2)-m2+x.a2*32512>>15, -12288), 12288)

	// First pole, limited by the second.
	limit := 15360 - a2
	a1 := min(max((192^m1)-m1+x.a1*32640>>15, -limit), limit)

	// Zeros move by the sign of the difference against those before, and leak so much that they stay within 16 bits. The
	// differences move on by one, the last first; what the zeros predict is summed up on the way.
	step := int32(128)
	if d == 0 {
		step = 0
	}
	sign, sz := d>>31, int32(0)
	n5 := sign ^ x.d[5]>>31
	b5 := (step ^ n5) - n5 + x.b[5]*32640>>15
	x.b[5], x.d[5] = b5, x.d[4]
	sz += x.d[5] * b5 >> 15
	n4 := sign ^ x.d[4]>>31
	b4 := (step ^ n4) - n4 + x.b[4]*32640>>15
	x.b[4], x.d[4] = b4, x.d[3]
	sz += x.d[4] * b4 >> 15
	n3 := sign ^ x.d[3]>>31
	b3 := (step ^ n3) - n3 + x.b[3]*32640>>15
	x.b[3], x.d[3] = b3, x.d[2]
	sz += x.d[3] * b3 >> 15
	n2 := sign ^ x.d[2]>>31
	b2 := (step ^ n2) - n2 + x.b[2]*32640>>15
	x.b[2], x.d[2] = b2, x.d[1]
	sz += x.d[2] * b2 >> 15
	n1 := sign ^ x.d[1]>>31
	b1 := (step ^ n1) - n1 + x.b[1]*32640>>15
	x.b[1], x.d[1] = b1, x.d[0]
	sz += x.d[1] * b1 >> 15
	n0 := sign ^ x.d[0]>>31
	b0 := (step ^ n0) - n0 + x.b[0]*32640>>15
	x.b[0], x.d[0] = b0, saturate(d+d)
	sz += x.d[0] * b0 >> 15

	// Prediction of the next sample.
	sp := saturate(saturate(r+r)*a1>>15 + saturate(x.r1+x.r1)*a2>>15)
	x.r2, x.r1 = x.r1, r
	x.p2, x.p1 = x.p1, p
	x.a1, x.a2 = a1, a2
	x.sz = saturate(sz)
	x.s = saturate(sp + x.sz)
}

// low and high adapt the bands to a code.
func (x *band) low(code4 byte) {
	d := x.det * low4[code4] >> 15
	x.scaleFactor(lowWeight[code4], 18432, 8)
	x.update(d)
}

func (x *band) high(code byte) int32 {
	d := x.det * high2[code] >> 15
	x.scaleFactor(highWeight[code], 22528, 10)
	return d
}

// G722Encoder turns 16 kHz samples into octets. The zero value is not ready; use NewG722Encoder.
type G722Encoder struct {
	lower, upper band
	past         [qmfPast]int32
}

// G722Decoder turns octets into 16 kHz samples.
type G722Decoder struct {
	lower, upper band
	past         [qmfPast]int32
}

const (
	qmfPast  = 22  // samples that the filter bank remembers
	qmfBlock = 320 // samples handled at once
)

// filter is the filter bank at one place: the sums over the even and the odd samples of its window.
func filter(h *[24]int32) (a, b int32) {
	a = h[0]*filterBank[0] + h[2]*filterBank[1] + h[4]*filterBank[2] + h[6]*filterBank[3] + h[8]*filterBank[4] + h[10]*filterBank[5] +
		h[12]*filterBank[6] + h[14]*filterBank[7] + h[16]*filterBank[8] + h[18]*filterBank[9] + h[20]*filterBank[10] + h[22]*filterBank[11]
	b = h[1]*filterBank[11] + h[3]*filterBank[10] + h[5]*filterBank[9] + h[7]*filterBank[8] + h[9]*filterBank[7] + h[11]*filterBank[6] +
		h[13]*filterBank[5] + h[15]*filterBank[4] + h[17]*filterBank[3] + h[19]*filterBank[2] + h[21]*filterBank[1] + h[23]*filterBank[0]
	return a, b
}

// NewG722Encoder returns an encoder in its reset state.
func NewG722Encoder() *G722Encoder { return &G722Encoder{lower: band{det: 32}, upper: band{det: 8}} }

// NewG722Decoder returns a decoder in its reset state.
func NewG722Decoder() *G722Decoder { return &G722Decoder{lower: band{det: 32}, upper: band{det: 8}} }

// Encode appends the octets of pcm to dst, one for two samples; a single last sample is dropped.
func (e *G722Encoder) Encode(dst []byte, pcm []int16) []byte {
	var window [qmfPast + qmfBlock]int32
	for len(pcm) >= 2 {
		n := min(len(pcm)&^1, qmfBlock)
		copy(window[:], e.past[:])
		for i, s := range pcm[:n] {
			window[qmfPast+i] = int32(s)
		}
		for i := 0; i < n; i += 2 {
			odd, even := filter((*[24]int32)(window[i:]))
			xl, xh := (even+odd)>>14, (even-odd)>>14

			low := quantizeLow(saturate(xl-e.lower.s), e.lower.det)
			e.lower.low(low >> 2)
			high := quantizeHigh(saturate(xh-e.upper.s), e.upper.det)
			e.upper.update(e.upper.high(high))
			dst = append(dst, high<<6|low)
		}
		copy(e.past[:], window[n:])
		pcm = pcm[n:]
	}
	return dst
}

// levelOf is the number of the highest decision level that a ratio of magnitude and scale factor reaches.
var levelOf [2920]uint8

func init() {
	for level, from := range lowDecision {
		for i := int(from); i < len(levelOf); i++ {
			levelOf[i] = uint8(level)
		}
	}
}

// quantizeLow is block QUANTL: the magnitude is compared with the decision levels times the scale factor. One division takes the
// place of the comparisons: magnitude >= level*det>>12 is the same as level <= ((magnitude+1)<<12-1)/det.
func quantizeLow(d, det int32) byte {
	magnitude := uint32(d^d>>31) & 0x7fff
	level := levelOf[min(((magnitude+1)<<12-1)/uint32(max(det, 1)), uint32(len(levelOf)-1))]
	if d < 0 {
		return lowNegative[level+1]
	}
	return lowPositive[level+1]
}

// quantizeHigh is block QUANTH with its single level.
func quantizeHigh(d, det int32) byte {
	magnitude := d
	if d < 0 {
		magnitude = ^d & 0x7fff
	}
	outer := magnitude >= 564*det>>12
	switch {
	case d < 0 && outer:
		return 0
	case d < 0:
		return 1
	case outer:
		return 2
	}
	return 3
}

// Decode appends the samples of octets to dst, two for each.
func (g *G722Decoder) Decode(dst []int16, octets []byte) []int16 {
	var window [qmfPast + qmfBlock]int32
	for len(octets) > 0 {
		n := min(len(octets), qmfBlock/2)
		copy(window[:], g.past[:])
		for i, o := range octets[:n] {
			low, high := o&0x3f, o>>6
			// The signal is limited to 15 bits in each band (blocks LIMIT).
			rl := min(max(g.lower.s+g.lower.det*low6[low]>>15, -16384), 16383)
			g.lower.low(low >> 2)
			dh := g.upper.high(high)
			rh := min(max(dh+g.upper.s, -16384), 16383)
			g.upper.update(dh)

			window[qmfPast+2*i], window[qmfPast+2*i+1] = rl+rh, rl-rh
			second, first := filter((*[24]int32)(window[2*i:]))
			dst = append(dst, int16(saturate(first>>11)), int16(saturate(second>>11)))
		}
		copy(g.past[:], window[2*n:])
		octets = octets[n:]
	}
	return dst
}
