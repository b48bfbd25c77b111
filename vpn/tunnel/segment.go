package tunnel

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

var errSegment = errors.New("unreadable packet from the TUN device")

// split cuts what the kernel handed over into packets, in bufs from offset on, and computes the checksums that it left open.
// It returns how many packets there are.
func split(in []byte, bufs [][]byte, sizes []int, offset int) (int, error) {
	if len(in) < vnetLen || len(bufs) == 0 {
		return 0, errSegment
	}
	h, p := in[:vnetLen], in[vnetLen:]
	flags, gso := h[0], h[1]&^gsoECN
	size := int(binary.LittleEndian.Uint16(h[4:]))
	start, off := int(binary.LittleEndian.Uint16(h[6:])), int(binary.LittleEndian.Uint16(h[8:]))
	if gso == gsoNone {
		if len(p) > len(bufs[0])-offset {
			return 0, errSegment
		}
		sizes[0] = copy(bufs[0][offset:], p)
		if flags&vnetNeedsCsum != 0 {
			if start+off+2 > len(p) {
				return 0, errSegment
			}
			q := bufs[0][offset : offset+len(p)]
			finish(q, start, off)
		}
		return 1, nil
	}
	head, ok := headers(p, gso, start)
	if !ok || size == 0 {
		return 0, errSegment
	}
	n := 0
	for at := head; at < len(p); at += size {
		end := min(at+size, len(p))
		if n == len(bufs) || head+end-at > len(bufs[n])-offset {
			return n, errSegment
		}
		q := bufs[n][offset : offset+head+end-at]
		copy(q, p[:head])
		copy(q[head:], p[at:end])
		fix(q, gso, start, n, at-head, end == len(p))
		sizes[n] = len(q)
		n++
	}
	return n, nil
}

// headers is the length of IP and transport header of a joined packet.
func headers(p []byte, gso byte, start int) (n int, ok bool) {
	want := byte(4)
	if gso == gsoTCP6 || gso == gsoUDP && len(p) > 0 && p[0]>>4 == 6 {
		want = 6
	}
	switch {
	case len(p) < 40 || p[0]>>4 != want || start < 20 || want == 6 && start < 40:
		return 0, false
	case gso == gsoUDP:
		n = start + 8
	case gso == gsoTCP4 || gso == gsoTCP6:
		if len(p) < start+20 {
			return 0, false
		}
		n = start + int(p[start+12]>>4)*4
		if n < start+20 {
			return 0, false
		}
	default:
		return 0, false
	}
	return n, n < len(p)
}

// TCP flags.
const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpACK = 0x10
	tcpCWR = 0x80
)

// fix makes a packet of its own out of segment number i, whose payload begins skip bytes into the whole.
func fix(q []byte, gso byte, start, i, skip int, last bool) {
	if q[0]>>4 == 4 {
		binary.BigEndian.PutUint16(q[2:], uint16(len(q)))
		binary.BigEndian.PutUint16(q[4:], binary.BigEndian.Uint16(q[4:])+uint16(i))
		q[10], q[11] = 0, 0
		binary.BigEndian.PutUint16(q[10:], ^fold(checksum(q[:start], 0)))
	} else {
		binary.BigEndian.PutUint16(q[4:], uint16(len(q)-40))
	}
	t := q[start:]
	off := 16
	if gso == gsoUDP {
		binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
		off = 6
	} else {
		binary.BigEndian.PutUint32(t[4:], binary.BigEndian.Uint32(t[4:])+uint32(skip))
		if !last {
			t[13] &^= tcpFIN | tcpPSH
		}
		if i > 0 {
			t[13] &^= tcpCWR
		}
	}
	t[off], t[off+1] = 0, 0
	sum := ^fold(checksum(t, pseudo(q, len(t))))
	if gso == gsoUDP && sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(t[off:], sum)
}

// finish computes a checksum whose field holds that of the pseudo header.
func finish(q []byte, start, off int) {
	partial := uint64(binary.BigEndian.Uint16(q[start+off:]))
	q[start+off], q[start+off+1] = 0, 0
	sum := ^fold(checksum(q[start:], partial))
	if sum == 0 {
		sum = 0xffff // for UDP 0 would mean none; for TCP both mean the same
	}
	binary.BigEndian.PutUint16(q[start+off:], sum)
}

// pseudo is the sum of the pseudo header of a packet whose transport part has n bytes. Its protocol is that of the base
// header: joined packets have no extension headers.
func pseudo(q []byte, n int) uint64 {
	if q[0]>>4 == 4 {
		return checksum(q[12:20], uint64(q[9])+uint64(n))
	}
	return checksum(q[8:40], uint64(q[6])+uint64(n))
}

// checksum adds the 16 bit words of b to acc, 32 bytes at a time.
func checksum(b []byte, acc uint64) uint64 {
	// Sums of wide words fold to the same value as sums of narrow ones; byte order is undone at the end.
	var a, c uint64
	for len(b) >= 32 {
		a, c = bits.Add64(a, binary.NativeEndian.Uint64(b), c)
		a, c = bits.Add64(a, binary.NativeEndian.Uint64(b[8:]), c)
		a, c = bits.Add64(a, binary.NativeEndian.Uint64(b[16:]), c)
		a, c = bits.Add64(a, binary.NativeEndian.Uint64(b[24:]), c)
		b = b[32:]
	}
	for len(b) >= 8 {
		a, c = bits.Add64(a, binary.NativeEndian.Uint64(b), c)
		b = b[8:]
	}
	a, c = bits.Add64(a, c, 0)
	a += c
	if len(b) > 0 {
		var rest [8]byte
		copy(rest[:], b)
		a, c = bits.Add64(a, binary.NativeEndian.Uint64(rest[:]), 0)
		a += c
	}
	a = a>>32 + a&0xffffffff
	a = a>>32 + a&0xffffffff
	a = a>>16 + a&0xffff
	a = a>>16 + a&0xffff
	if littleEndian {
		a = uint64(bits.ReverseBytes16(uint16(a)))
	}
	return acc + a
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

func fold(a uint64) uint16 {
	for a > 0xffff {
		a = a>>16 + a&0xffff
	}
	return uint16(a)
}

// maxJoin is how many segments are written as one packet.
const maxJoin = 44

// joiner finds runs of TCP segments that the kernel takes as one packet: same connection and acknowledgement, payload of one
// size (the last may be shorter) in order, no flags that mean something of their own, no options that differ, good checksums.
type joiner struct {
	headLen int // IP and TCP header
	ihl     int
	size    int // of each payload but the last
	total   int
}

// run is how many packets at the beginning of bufs go together.
func (j *joiner) run(bufs [][]byte, offset int) int {
	if len(bufs) < 2 || !j.first(bufs[0][offset:]) {
		return 1
	}
	a := bufs[0][offset:]
	seq := binary.BigEndian.Uint32(a[j.ihl+4:])
	n, checked := 1, false
	for n < len(bufs) && n < maxJoin {
		b := bufs[n][offset:]
		pay := len(b) - j.headLen
		if pay <= 0 || pay > j.size || len(b)-len(a) > 0 || !j.follows(a, b) || j.total+pay > 1<<16-1 ||
			binary.BigEndian.Uint32(b[j.ihl+4:]) != seq+uint32(j.total-j.headLen) {
			break
		}
		if !checked {
			if !sound(a, j.ihl) {
				return 1
			}
			checked = true
		}
		if !sound(b, j.ihl) {
			break
		}
		j.total += pay
		n++
		if pay < j.size || b[j.ihl+13]&tcpPSH != 0 {
			break
		}
	}
	return n
}

// first looks at the packet that a run would begin with.
func (j *joiner) first(a []byte) bool {
	*j = joiner{}
	switch {
	case len(a) < 40:
		return false
	case a[0] == 0x45 && a[9] == 6 && a[6]&0x3f == 0 && a[7] == 0: // no options, no fragment
		j.ihl = 20
	case a[0]>>4 == 6 && a[6] == 6 && len(a) >= 60:
		j.ihl = 40
	default:
		return false
	}
	j.headLen = j.ihl + int(a[j.ihl+12]>>4)*4
	j.size = len(a) - j.headLen
	j.total = len(a)
	return j.headLen >= j.ihl+20 && j.size > 0 && a[j.ihl+13] == tcpACK
}

// follows tells whether b is of the same connection and differs from a in nothing but sequence number, identification,
// lengths, checksums and PSH.
func (j *joiner) follows(a, b []byte) bool {
	t := j.ihl
	if len(b) <= j.headLen || b[0] != a[0] || b[1] != a[1] || string(b[t:t+4]) != string(a[t:t+4]) || string(b[t+8:t+13]) != string(a[t+8:t+13]) ||
		b[t+13]&^tcpPSH != tcpACK || string(b[t+14:t+16]) != string(a[t+14:t+16]) || string(b[t+18:j.headLen]) != string(a[t+18:j.headLen]) {
		return false
	}
	if t == 20 {
		return string(b[6:10]) == string(a[6:10]) && string(b[12:20]) == string(a[12:20])
	}
	return string(b[1:4]) == string(a[1:4]) && b[6] == a[6] && b[7] == a[7] && string(b[8:40]) == string(a[8:40])
}

// sound tells whether IP length and checksums of a segment are right: a joined packet is not checked again.
func sound(p []byte, ihl int) bool {
	if ihl == 20 && (fold(checksum(p[:20], 0)) != 0xffff || int(binary.BigEndian.Uint16(p[2:])) != len(p)) {
		return false
	}
	if ihl == 40 && int(binary.BigEndian.Uint16(p[4:])) != len(p)-40 {
		return false
	}
	return fold(checksum(p[ihl:], pseudo(p, len(p)-ihl))) == 0xffff
}

// header writes the virtio header in front of the first packet of a run and makes the packet's own headers those of the whole.
func (j *joiner) header(h []byte, run [][]byte, offset int) {
	clear(h)
	if len(run) == 1 {
		return
	}
	p := run[0][offset:]
	h[0], h[1] = vnetNeedsCsum, gsoTCP4
	if j.ihl == 40 {
		h[1] = gsoTCP6
		binary.BigEndian.PutUint16(p[4:], uint16(j.total-40))
	} else {
		binary.BigEndian.PutUint16(p[2:], uint16(j.total))
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], ^fold(checksum(p[:20], 0)))
	}
	binary.LittleEndian.PutUint16(h[2:], uint16(j.headLen))
	binary.LittleEndian.PutUint16(h[4:], uint16(j.size))
	binary.LittleEndian.PutUint16(h[6:], uint16(j.ihl))
	binary.LittleEndian.PutUint16(h[8:], 16)
	p[j.ihl+13] |= run[len(run)-1][offset+j.ihl+13] & tcpPSH
	binary.BigEndian.PutUint16(p[j.ihl+16:], fold(pseudo(p, j.total-j.ihl)))
}
