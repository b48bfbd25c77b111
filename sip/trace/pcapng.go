package trace

import (
	"encoding/binary"
	"io"
	"net/netip"
	"time"
)

// Pcapng writes messages as a capture file (draft-ietf-opsawg-pcapng) that protocol analysers open: a section header, one
// interface of raw IP packets, and one packet for each message, with the true transport in its comment.
//
//	block:  type(4) length(4) body length(4)         packet: IP header, UDP header, message
//
// Whatever the connection was, a message is written as one UDP datagram, and port 5061 as 5060: what was encrypted on the wire
// stands here in clear, without the secrets, and an analyser must not look for TLS in it.
func Pcapng(w io.Writer, product string, entries []Entry) error {
	out := shb(product)
	out = append(out, block(1, idb())...)
	for i := range entries {
		out = append(out, block(6, epb(&entries[i]))...)
	}
	_, err := w.Write(out)
	return err
}

var le = binary.LittleEndian

func block(kind uint32, body []byte) []byte {
	n := uint32(12 + len(body))
	b := le.AppendUint32(nil, kind)
	b = le.AppendUint32(b, n)
	b = append(b, body...)
	return le.AppendUint32(b, n)
}

// option is code(2) length(2) value, padded to 4.
func option(b []byte, code uint16, value []byte) []byte {
	b = le.AppendUint16(b, code)
	b = le.AppendUint16(b, uint16(len(value)))
	return pad(append(b, value...))
}

func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func shb(product string) []byte {
	b := le.AppendUint32(nil, 0x1A2B3C4D) // byte order
	b = le.AppendUint16(b, 1)             // version 1.0
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, ^uint64(0))              // length not given
	b = option(b, 4, []byte(product))               // shb_userappl
	return block(0x0A0D0D0A, append(b, 0, 0, 0, 0)) // opt_endofopt
}

func idb() []byte {
	b := le.AppendUint16(nil, 101) // LINKTYPE_RAW
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, 0)   // no limit
	b = option(b, 9, []byte{9}) // if_tsresol: nanoseconds
	return append(b, 0, 0, 0, 0)
}

func epb(e *Entry) []byte {
	from, to := e.Remote, e.Local
	if e.Out {
		from, to = to, from
	}
	packet := datagram(from, to, []byte(e.Text))
	at := uint64(e.At.UnixNano())
	b := le.AppendUint32(nil, 0)
	b = le.AppendUint32(b, uint32(at>>32))
	b = le.AppendUint32(b, uint32(at))
	b = le.AppendUint32(b, uint32(len(packet)))
	b = le.AppendUint32(b, uint32(len(packet)))
	b = pad(append(b, packet...))
	b = option(b, 1, []byte(e.Transport+" "+e.Party))
	return append(b, 0, 0, 0, 0)
}

// datagram makes an IP packet of a message. Both ends are of one family, that of the first.
func datagram(from, to netip.AddrPort, text []byte) []byte {
	src, dst := from.Addr().Unmap(), to.Addr().Unmap()
	port := func(p uint16) uint16 {
		if p == 5061 || p == 0 {
			return 5060
		}
		return p
	}
	if max := 65000; len(text) > max {
		text = text[:max]
	}
	udp := binary.BigEndian.AppendUint16(nil, port(from.Port()))
	udp = binary.BigEndian.AppendUint16(udp, port(to.Port()))
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(text)))
	udp = binary.BigEndian.AppendUint16(udp, 0)
	udp = append(udp, text...)
	if src.Is4() && dst.Is4() {
		s, d := src.As4(), dst.As4()
		h := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0}
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(udp)))
		h = append(append(h, s[:]...), d[:]...)
		binary.BigEndian.PutUint16(h[10:], checksum(h))
		return append(h, udp...)
	}
	s, d := as16(src), as16(dst)
	h := []byte{0x60, 0, 0, 0, 0, 0, 17, 64}
	binary.BigEndian.PutUint16(h[4:], uint16(len(udp)))
	h = append(append(h, s[:]...), d[:]...)
	sum := checksum(append(append(append(append([]byte(nil), s[:]...), d[:]...), 0, 0, byte(len(udp)>>8), byte(len(udp)), 0, 0, 0, 17), udp...))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
	return append(h, udp...)
}

func as16(a netip.Addr) [16]byte {
	if !a.IsValid() {
		return [16]byte{}
	}
	return a.As16()
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		sum += word
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// HEP encodes a message for a Homer collector, in version 3 of the protocol: "HEP3", length(2), and chunks of vendor(2) type(2)
// length(2) value. agent is the number of this capture agent.
func HEP(e *Entry, agent uint32) []byte {
	from, to := e.Remote, e.Local
	if e.Out {
		from, to = to, from
	}
	src, dst := from.Addr().Unmap(), to.Addr().Unmap()
	b := append([]byte("HEP3"), 0, 0)
	chunk := func(kind uint16, value ...byte) {
		b = binary.BigEndian.AppendUint16(b, 0)
		b = binary.BigEndian.AppendUint16(b, kind)
		b = binary.BigEndian.AppendUint16(b, uint16(6+len(value)))
		b = append(b, value...)
	}
	u16 := func(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
	u32 := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	if src.Is4() && dst.Is4() {
		s, d := src.As4(), dst.As4()
		chunk(1, 2) // AF_INET
		chunk(3, s[:]...)
		chunk(4, d[:]...)
	} else {
		s, d := as16(src), as16(dst)
		chunk(1, 10) // AF_INET6
		chunk(5, s[:]...)
		chunk(6, d[:]...)
	}
	protocol := byte(6)
	if e.Transport == "UDP" {
		protocol = 17
	}
	chunk(2, protocol)
	chunk(7, u16(from.Port())...)
	chunk(8, u16(to.Port())...)
	chunk(9, u32(uint32(e.At.Unix()))...)
	chunk(10, u32(uint32(e.At.Nanosecond()/int(time.Microsecond)))...)
	chunk(11, 1) // SIP
	chunk(12, u32(agent)...)
	chunk(15, []byte(e.Text)...)
	chunk(17, []byte(e.CallID)...) // correlation
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	return b
}
