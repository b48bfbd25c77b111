package codec

// halfBand is a low-pass filter at a quarter of the sampling rate: every second tap but the middle one is zero, so that only
// these ten (mirrored) and the middle are left. Computed as a windowed sinc (Kaiser, β = 6) of 39 taps, scaled to 32768.
var halfBand = [10]int32{10350, -3246, 1721, -1015, 606, -349, 187, -89, 35, -8}

const halfBandMiddle = 16384

// Downsampler halves the sampling rate, 16 kHz to 8 kHz. The zero value is ready.
type Downsampler struct{ past [38]int16 }

// Append appends the samples of pcm, of which there must be an even number, at half the rate to dst.
func (d *Downsampler) Append(dst, pcm []int16) []int16 {
	var buf [38 + 320]int16
	for len(pcm) > 0 {
		n := copy(buf[copy(buf[:], d.past[:]):], pcm) &^ 1
		if n == 0 {
			break
		}
		for m := 19; m < 19+n; m += 2 { // m is the middle of the filter
			sum := int32(buf[m]) * halfBandMiddle
			for k, c := range halfBand {
				sum += c * (int32(buf[m-1-2*k]) + int32(buf[m+1+2*k]))
			}
			dst = append(dst, int16(saturate((sum+1<<14)>>15)))
		}
		copy(d.past[:], buf[n:])
		pcm = pcm[n:]
	}
	return dst
}

// Upsampler doubles the sampling rate, 8 kHz to 16 kHz. The zero value is ready.
type Upsampler struct{ past [19]int16 }

// Append appends the samples of pcm at twice the rate to dst.
func (u *Upsampler) Append(dst, pcm []int16) []int16 {
	var buf [19 + 320]int16
	for len(pcm) > 0 {
		n := copy(buf[copy(buf[:], u.past[:]):], pcm)
		for m := 9; m < 9+n; m++ { // the sample itself, then the one halfway to the next
			sum := int32(0)
			for k, c := range halfBand {
				sum += c * (int32(buf[m-k]) + int32(buf[m+1+k]))
			}
			dst = append(dst, buf[m], int16(saturate((sum+1<<13)>>14)))
		}
		copy(u.past[:], buf[n:])
		pcm = pcm[n:]
	}
	return dst
}
