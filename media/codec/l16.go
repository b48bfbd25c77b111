package codec

import "encoding/binary"

// L16 is 16-bit samples as they are, in network order (RFC 3551 §4.5.11).

// EncodeL16 appends the octets of pcm to dst.
func EncodeL16(dst []byte, pcm []int16) []byte {
	for _, s := range pcm {
		dst = binary.BigEndian.AppendUint16(dst, uint16(s))
	}
	return dst
}

// DecodeL16 appends the samples of octets to dst; a single last octet is dropped.
func DecodeL16(dst []int16, octets []byte) []int16 {
	for ; len(octets) >= 2; octets = octets[2:] {
		dst = append(dst, int16(binary.BigEndian.Uint16(octets)))
	}
	return dst
}
