package policy

import (
	"encoding/binary"
	"net/netip"
)

// TooBig writes to dst the ICMP message that tells the sender of pkt to send no more than mtu bytes (RFC 792 with RFC 1191,
// RFC 4443 §3.2). It returns its length; 0 when none is due: the packet may be fragmented, is ICMP itself or unreadable.
//
//	ICMP:   | 3 | 4 | sum | 0 | mtu | IP header and 8 bytes of pkt |
//	ICMPv6: | 2 | 0 | sum |    mtu   | as much of pkt as fits 1280  |
func TooBig(dst, pkt []byte, from netip.Addr, mtu int) int {
	var p Packet
	if !p.Parse(pkt) || p.Proto == ICMP && p.ICMPType != 8 || p.Proto == ICMPv6 && p.ICMPType < 128 || p.Src.Is4() != from.Is4() {
		return 0
	}
	if from.Is4() {
		if pkt[6]&0x40 == 0 {
			return 0
		}
		quote := pkt[:min(len(pkt), int(pkt[0]&15)*4+8)]
		n := 28 + len(quote)
		h := dst[:28]
		clear(h)
		h[0], h[8], h[9] = 0x45, 64, byte(ICMP)
		binary.BigEndian.PutUint16(h[2:], uint16(n))
		s, d := from.As4(), p.Src.As4()
		copy(h[12:], s[:])
		copy(h[16:], d[:])
		binary.BigEndian.PutUint16(h[10:], ^sum(0, h[:20]))
		h[20], h[21] = 3, 4
		binary.BigEndian.PutUint16(h[26:], uint16(mtu))
		copy(dst[28:], quote)
		binary.BigEndian.PutUint16(h[22:], ^sum(0, dst[20:n]))
		return n
	}
	quote := pkt[:min(len(pkt), 1280-48)]
	n := 48 + len(quote)
	h := dst[:48]
	clear(h)
	h[0], h[6], h[7] = 0x60, byte(ICMPv6), 64
	binary.BigEndian.PutUint16(h[4:], uint16(n-40))
	s, d := from.As16(), p.Src.As16()
	copy(h[8:], s[:])
	copy(h[24:], d[:])
	h[40] = 2
	binary.BigEndian.PutUint32(h[44:], uint32(mtu))
	copy(dst[48:], quote)
	pseudo := sum(uint32(n-40)+uint32(ICMPv6), h[8:40])
	binary.BigEndian.PutUint16(h[42:], ^sum(uint32(pseudo), dst[40:n]))
	return n
}

// sum is the Internet checksum, not inverted.
func sum(acc uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		acc += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		acc += uint32(b[0]) << 8
	}
	for acc > 0xffff {
		acc = acc>>16 + acc&0xffff
	}
	return uint16(acc)
}
