package codec

// halfBand is a low-pass filter at a quarter of the sampling rate: every second tap but the middle one is zero, so that only
// these ten (mirrored) and the middle are left. Computed as a windowed sinc (Kaiser, β = 6) of 39 taps, scaled to 32768.
var halfBand = [10]int32{10350, -3246, 1721, -1015, 606, -349, 187, -89, 35, -8}

const halfBandMiddle = 16384

// pairs is the sum over the taps outside the middle, of which those at equal distance are equal.
func pairs(h *[20]int16) int32 {
	return halfBand[0]*(int32(h[9])+int32(h[10])) + halfBand[1]*(int32(h[8])+int32(h[11])) + halfBand[2]*(int32(h[7])+int32(h[12])) +
		halfBand[3]*(int32(h[6])+int32(h[13])) + halfBand[4]*(int32(h[5])+int32(h[14])) + halfBand[5]*(int32(h[4])+int32(h[15])) +
		halfBand[6]*(int32(h[3])+int32(h[16])) + halfBand[7]*(int32(h[2])+int32(h[17])) + halfBand[8]*(int32(h[1])+int32(h[18])) +
		halfBand[9]*(int32(h[0])+int32(h[19]))
}

// Downsampler halves the sampling rate, 16 kHz to 8 kHz. The zero value is ready.
type Downsampler struct{ past [38]int16 }

// Append appends the samples of pcm, of which there must be an even number, at half the rate to dst.
func (d *Downsampler) Append(dst, pcm []int16) []int16 {
	var buf [39 + 320]int16
	for len(pcm) > 0 {
		n := copy(buf[copy(buf[:], d.past[:]):], pcm) &^ 1
		if n == 0 {
			break
		}
		for i := 0; i < n; i += 2 {
			h := (*[39]int16)(buf[i:])
			sum := int32(h[19])*halfBandMiddle + pairs(&[20]int16{
				h[0], h[2], h[4], h[6], h[8], h[10], h[12], h[14], h[16], h[18], h[20], h[22], h[24], h[26], h[28], h[30], h[32], h[34], h[36], h[38],
			})
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
	var buf [20 + 320]int16
	for len(pcm) > 0 {
		n := copy(buf[copy(buf[:], u.past[:]):], pcm)
		for i := range n { // the sample itself, then the one halfway to the next
			h := (*[20]int16)(buf[i:])
			dst = append(dst, h[9], int16(saturate((pairs(h)+1<<13)>>14)))
		}
		copy(u.past[:], buf[n:])
		pcm = pcm[n:]
	}
	return dst
}
