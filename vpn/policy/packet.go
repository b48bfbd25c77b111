package policy

import "net/netip"

// Packet is what the packet path needs to know of an inner packet.
type Packet struct {
	Src, Dst         netip.Addr
	Proto            Proto
	DSCP             uint8
	HasPorts         bool // ports are known: TCP, UDP, not a later fragment
	SrcPort, DstPort uint16
	Open             bool // TCP SYN without ACK: opens a connection
	ICMPType         uint8
	Fragment         bool // a later fragment
}

// Parse reads the headers of an inner packet. It reports false for what is no complete IPv4 or IPv6 packet, for IPv4 first
// fragments that cut the transport header and for fragments that would overwrite it (RFC 1858, RFC 5722).
//
//	IPv4:  | ver ihl | tos | total length | id | flags, offset | ttl | proto | sum | src | dst | options | transport ...
//	IPv6:  | ver class flow | payload length | next | hops | src | dst | extension headers | transport ...
func (p *Packet) Parse(b []byte) bool {
	if len(b) < 20 {
		return false
	}
	switch b[0] >> 4 {
	case 4:
		return p.parse4(b)
	case 6:
		return p.parse6(b)
	}
	return false
}

func (p *Packet) parse4(b []byte) bool {
	ihl, total := int(b[0]&15)*4, int(b[2])<<8|int(b[3])
	if ihl < 20 || total < ihl || total != len(b) {
		return false
	}
	*p = Packet{Src: netip.AddrFrom4([4]byte(b[12:16])), Dst: netip.AddrFrom4([4]byte(b[16:20])), Proto: Proto(b[9]), DSCP: b[1] >> 2}
	offset := int(b[6]&0x1f)<<8 | int(b[7])
	if offset != 0 {
		p.Fragment = true
		return offset*8 >= 64
	}
	return p.transport(b[ihl:], b[6]&0x20 != 0)
}

// maxExtensions bounds the walk over IPv6 extension headers.
const maxExtensions = 8

func (p *Packet) parse6(b []byte) bool {
	if len(b) < 40 || int(b[4])<<8|int(b[5]) != len(b)-40 {
		return false
	}
	*p = Packet{Src: netip.AddrFrom16([16]byte(b[8:24])), Dst: netip.AddrFrom16([16]byte(b[24:40])), DSCP: (b[0]<<4 | b[1]>>4) >> 2}
	next, rest, more := b[6], b[40:], false
	for range maxExtensions {
		switch next {
		case 0, 43, 60: // hop by hop, routing, destination options
			if len(rest) < 8 {
				return false
			}
			n := 8 + int(rest[1])*8
			if next == 43 && rest[3] != 0 || len(rest) < n { // a source route would hide the destination
				return false
			}
			next, rest = rest[0], rest[n:]
		case 44: // fragment
			if len(rest) < 8 || more {
				return false
			}
			offset := (int(rest[2])<<8 | int(rest[3])) &^ 7
			more = rest[3]&1 != 0
			next, rest = rest[0], rest[8:]
			if offset != 0 {
				p.Proto, p.Fragment = Proto(next), true
				return offset >= 64
			}
		default:
			p.Proto = Proto(next)
			return p.transport(rest, more)
		}
	}
	return false
}

func (p *Packet) transport(b []byte, fragmented bool) bool {
	need := 0
	switch p.Proto {
	case TCP:
		need = 20
	case UDP, ICMP, ICMPv6:
		need = 8
	}
	if len(b) < need {
		return false
	}
	switch p.Proto {
	case TCP, UDP:
		p.HasPorts = true
		p.SrcPort, p.DstPort = uint16(b[0])<<8|uint16(b[1]), uint16(b[2])<<8|uint16(b[3])
		p.Open = p.Proto == TCP && b[13]&0x12 == 0x02
	case ICMP, ICMPv6:
		p.ICMPType = b[0]
	}
	return !fragmented || need == 0 || len(b) >= 24
}
