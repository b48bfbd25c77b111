// Package codec turns samples into what RTP carries and back. G.711 is ITU-T G.711 (µ-law and A-law at 8 kHz, one octet per
// sample). Samples are signed 16 bit. It leaves out packet-loss concealment, which belongs to whoever knows the time.
package codec

import "math/bits"

// SilenceULaw and SilenceALaw are the codes of a zero sample.
const (
	SilenceULaw = 0xff
	SilenceALaw = 0xd5
)

var ulawSamples, alawSamples [256]int16

func init() {
	for i := range 256 {
		ulawSamples[i] = expandULaw(byte(i))
		alawSamples[i] = expandALaw(byte(i))
	}
}

// EncodeULaw appends the codes of pcm to dst.
func EncodeULaw(dst []byte, pcm []int16) []byte {
	for _, s := range pcm {
		dst = append(dst, compressULaw(s))
	}
	return dst
}

// DecodeULaw appends the samples of codes to dst.
func DecodeULaw(dst []int16, codes []byte) []int16 {
	for _, c := range codes {
		dst = append(dst, ulawSamples[c])
	}
	return dst
}

// EncodeALaw appends the codes of pcm to dst.
func EncodeALaw(dst []byte, pcm []int16) []byte {
	for _, s := range pcm {
		dst = append(dst, compressALaw(s))
	}
	return dst
}

// DecodeALaw appends the samples of codes to dst.
func DecodeALaw(dst []int16, codes []byte) []int16 {
	for _, c := range codes {
		dst = append(dst, alawSamples[c])
	}
	return dst
}

// magnitude is the absolute value in one's complement, as the recommendation's reference takes it: -1 counts as 0, so that
// both signs have the same decision values and nothing overflows.
func magnitude(s int16) uint {
	if s < 0 {
		s = ^s
	}
	return uint(s)
}

// compressULaw: 14 bits of magnitude and sign, a bias of 33, eight segments of sixteen steps; all bits inverted (G.711 §3,
// table 2a and 2b).
func compressULaw(s int16) byte {
	m := min(magnitude(s)>>2+33, 0x1fff)
	segment := bits.Len(m >> 6) // 0 to 7
	code := byte(segment<<4) | byte(m>>(segment+1)&0x0f)
	if s < 0 {
		code |= 0x80
	}
	return ^code
}

func expandULaw(code byte) int16 {
	code = ^code
	m := ((int16(code)&0x0f)<<3+0x84)<<(code>>4&7) - 0x84
	if code&0x80 != 0 {
		return -m
	}
	return m
}

// compressALaw: 13 bits of magnitude and sign, eight segments of sixteen steps, the lowest two of equal step; every other
// bit inverted (G.711 §3, table 1a and 1b).
func compressALaw(s int16) byte {
	m := magnitude(s) >> 4
	code := byte(m)
	if segment := bits.Len(m >> 4); segment > 0 { // 1 to 7
		code = byte(segment<<4) | byte(m>>(segment-1)&0x0f)
	}
	if s >= 0 {
		code |= 0x80
	}
	return code ^ 0x55
}

func expandALaw(code byte) int16 {
	code ^= 0x55
	segment := code >> 4 & 7
	m := int16(code&0x0f)<<4 + 8
	if segment > 0 {
		m = (m + 0x100) << (segment - 1)
	}
	if code&0x80 == 0 {
		return -m
	}
	return m
}
