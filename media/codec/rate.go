package codec

// halfBand is a low-pass filter at a quarter of the sampling rate: every second tap but the middle one is zero, so that only
// these ten (mirrored) and the middle are left. Computed as a windowed sinc (Kaiser, β = 6) of 39 taps, scaled to 32768.
var halfBand = [10]int32{10350, -3246, 1721, -1015, 606, -349, 187, -89, 35, -8}

const halfBandMiddle = 16384

// Downsampler halves the sampling rate, 16 kHz to 8 kHz. The zero value is ready.
type Downsampler struct{ past [38]int16 }

// Append appends the samples of pcm, of which there must be an even number, at half the rate to dst.
func (d *Downsampler) Append(dst, pcm []int16) []int16 {
	at := func(i int) int32 { // i counts from 38 samples before pcm
		if i < len(d.past) {
			return int32(d.past[i])
		}
		return int32(pcm[i-len(d.past)])
	}
	for n := 0; n+1 < len(pcm); n += 2 {
		middle := n + 19
		sum := at(middle) * halfBandMiddle
		for k, c := range halfBand {
			sum += c * (at(middle-1-2*k) + at(middle+1+2*k))
		}
		dst = append(dst, int16(saturate((sum+1<<14)>>15)))
	}
	d.past = [38]int16(tail(d.past[:], pcm, 38))
	return dst
}

// Upsampler doubles the sampling rate, 8 kHz to 16 kHz. The zero value is ready.
type Upsampler struct{ past [19]int16 }

// Append appends the samples of pcm at twice the rate to dst.
func (u *Upsampler) Append(dst, pcm []int16) []int16 {
	at := func(i int) int32 {
		if i < len(u.past) {
			return int32(u.past[i])
		}
		return int32(pcm[i-len(u.past)])
	}
	for n := range pcm {
		middle := n + 9 // the sample itself, then the one halfway to the next
		sum := int32(0)
		for k, c := range halfBand {
			sum += c * (at(middle-k) + at(middle+1+k))
		}
		dst = append(dst, int16(at(middle)), int16(saturate((sum+1<<13)>>14)))
	}
	u.past = [19]int16(tail(u.past[:], pcm, 19))
	return dst
}

// tail returns the last n samples of a followed by b.
func tail(a, b []int16, n int) []int16 {
	if len(b) >= n {
		return b[len(b)-n:]
	}
	return append(append(make([]int16, 0, n), a[len(b):]...), b...)
}
