package tunnel

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// segment builds a TCP segment with right checksums.
func segment(v6 bool, seq uint32, flags byte, payload []byte, edit ...func([]byte)) []byte {
	ihl := 20
	if v6 {
		ihl = 40
	}
	p := make([]byte, ihl+32+len(payload)) // with 12 bytes of options
	if v6 {
		p[0], p[6], p[7], p[8], p[23], p[24], p[39] = 0x60, 6, 64, 0xfd, 1, 0xfd, 2
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
	} else {
		p[0], p[6], p[8], p[9] = 0x45, 0x40, 64, 6
		copy(p[12:], []byte{10, 9, 0, 5, 10, 9, 0, 1})
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	}
	t := p[ihl:]
	binary.BigEndian.PutUint16(t, 1234)
	binary.BigEndian.PutUint16(t[2:], 5060)
	binary.BigEndian.PutUint32(t[4:], seq)
	t[8], t[12], t[13], t[14] = 7, 8<<4, flags, 0xff
	copy(t[20:], []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8})
	copy(t[32:], payload)
	for _, e := range edit {
		e(p)
	}
	if !v6 {
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], ^fold(slowSum(p[:20], 0)))
	}
	t[16], t[17] = 0, 0
	binary.BigEndian.PutUint16(t[16:], ^fold(slowSum(t, pseudo(p, len(t)))))
	return p
}

// slowSum is the checksum as RFC 1071 writes it.
func slowSum(b []byte, acc uint64) uint64 {
	for i, c := range b {
		if i%2 == 0 {
			acc += uint64(c) << 8
		} else {
			acc += uint64(c)
		}
	}
	return acc
}

func TestChecksum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 3000)
	for i := range b {
		b[i] = byte(r.Uint32() | 0xc0) // many carries
	}
	for n := range 2000 {
		at := n % 7
		if got, want := fold(checksum(b[at:at+n], uint64(n))), fold(slowSum(b[at:at+n], uint64(n))); got != want && got+want != 0xffff {
			t.Fatalf("%d bytes: %#04x, want %#04x", n, got, want)
		}
	}
}

// withRoom puts packets where Write wants them.
func withRoom(pkts ...[]byte) [][]byte {
	var bufs [][]byte
	for _, p := range pkts {
		b := make([]byte, Headroom+len(p))
		copy(b[Headroom:], p)
		bufs = append(bufs, b)
	}
	return bufs
}

// joined is what writeRun would hand to the kernel.
func joined(j *joiner, run [][]byte) []byte {
	head := run[0][Headroom-vnetLen:]
	j.header(head[:vnetLen], run, Headroom)
	whole := bytes.Clone(head)
	for _, b := range run[1:] {
		whole = append(whole, b[Headroom+j.headLen:]...)
	}
	return whole
}

func TestJoinAndSplit(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		var pkts [][]byte
		seq := uint32(0xfffffff0) // wraps
		for i := range 10 {
			n, flags := 1000, byte(tcpACK)
			if i == 9 {
				n, flags = 300, tcpACK|tcpPSH
			}
			pkts = append(pkts, segment(v6, seq, flags, bytes.Repeat([]byte{byte(i + 1)}, n), func(p []byte) {
				if !v6 {
					p[5] = byte(i)
				}
			}))
			seq += uint32(n)
		}
		bufs := withRoom(pkts...)
		var j joiner
		if n := j.run(bufs, Headroom); n != len(pkts) {
			t.Fatalf("IPv6 %v: %d of %d join", v6, n, len(pkts))
		}
		whole := joined(&j, bufs)
		out, sizes := make([][]byte, 64), make([]int, 64)
		for i := range out {
			out[i] = make([]byte, Headroom+1500)
		}
		n, err := split(whole, out, sizes, Headroom)
		if err != nil || n != len(pkts) {
			t.Fatalf("IPv6 %v: split into %d, %v", v6, n, err)
		}
		for i := range n {
			if got := out[i][Headroom : Headroom+sizes[i]]; !bytes.Equal(got, pkts[i]) {
				t.Errorf("IPv6 %v: packet %d\n got %x\nwant %x", v6, i, got[:80], pkts[i][:80])
			}
		}
	}
}

func TestWhatDoesNotJoin(t *testing.T) {
	one := bytes.Repeat([]byte{1}, 100)
	first := segment(false, 1000, tcpACK, one)
	next := func(edit ...func([]byte)) []byte { return segment(false, 1100, tcpACK, one, edit...) }
	for _, c := range []struct {
		name string
		a, b []byte
		want int
	}{
		{"the next one", first, next(), 2},
		{"a gap", first, segment(false, 1200, tcpACK, one), 1},
		{"another port", first, next(func(p []byte) { p[21]++ }), 1},
		{"another address", first, next(func(p []byte) { p[19]++ }), 1},
		{"another acknowledgement", first, next(func(p []byte) { p[30]++ }), 1},
		{"another option", first, next(func(p []byte) { p[50]++ }), 1},
		{"another class", first, next(func(p []byte) { p[1] = 0xb8 }), 1},
		{"another TTL", first, next(func(p []byte) { p[8]-- }), 1},
		{"FIN", first, segment(false, 1100, tcpACK|tcpFIN, one), 1},
		{"larger", first, segment(false, 1100, tcpACK, append(one, 1)), 1},
		{"no payload", first, segment(false, 1100, tcpACK, nil), 1},
		{"first has no payload", segment(false, 1000, tcpACK, nil), segment(false, 1000, tcpACK, one), 1},
		{"first with PSH", segment(false, 1000, tcpACK|tcpPSH, one), next(), 1},
		{"first with SYN", segment(false, 999, tcpACK|2, one), next(), 1},
		{"a fragment", first, next(func(p []byte) { p[7] = 1 }), 1},
		{"bad checksum behind", first, func() []byte { b := next(); b[60]++; return b }(), 1},
		{"bad checksum in front", func() []byte { b := bytes.Clone(first); b[60]++; return b }(), next(), 1},
		{"UDP", func() []byte { b := bytes.Clone(first); b[9] = 17; return b }(), next(), 1},
		{"cut", first[:30], next(), 1},
		{"cut behind", first, next()[:30], 1},
	} {
		var j joiner
		if got := j.run(withRoom(c.a, c.b), Headroom); got != c.want {
			t.Errorf("%s: %d join, want %d", c.name, got, c.want)
		}
	}
}

func TestSplitUDP(t *testing.T) {
	p := make([]byte, 28+250)
	p[0], p[8], p[9] = 0x45, 64, 17
	copy(p[12:], []byte{192, 0, 2, 1, 10, 9, 0, 5})
	whole := append([]byte{vnetNeedsCsum, gsoUDP, 28, 0, 100, 0, 20, 0, 6, 0}, p...)
	out, sizes := [][]byte{make([]byte, 1500), make([]byte, 1500), make([]byte, 1500)}, make([]int, 3)
	n, err := split(whole, out, sizes, 0)
	if err != nil || n != 3 || sizes[0] != 128 || sizes[2] != 78 {
		t.Fatalf("%d packets of %v, %v", n, sizes, err)
	}
	for i := range n {
		q := out[i][:sizes[i]]
		if fold(slowSum(q[:20], 0)) != 0xffff || fold(slowSum(q[20:], pseudo(q, len(q)-20))) != 0xffff || int(binary.BigEndian.Uint16(q[24:])) != len(q)-20 {
			t.Errorf("packet %d: %x", i, q[:28])
		}
	}
}

func FuzzSplit(f *testing.F) {
	s := segment(false, 1, tcpACK, make([]byte, 300))
	f.Add(append([]byte{vnetNeedsCsum, gsoTCP4, 52, 0, 100, 0, 20, 0, 16, 0}, s...))
	f.Add(append([]byte{vnetNeedsCsum, 0, 0, 0, 0, 0, 20, 0, 16, 0}, s...))
	out, sizes := make([][]byte, 64), make([]int, 64)
	for i := range out {
		out[i] = make([]byte, Headroom+1500)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, _ := split(b, out, sizes, Headroom)
		for i := range n {
			if sizes[i] > 1500 {
				t.Fatalf("packet of %d", sizes[i])
			}
		}
	})
}

// FuzzJoin joins what looks like segments; the result must split into the same packets.
func FuzzJoin(f *testing.F) {
	f.Add(segment(false, 1, tcpACK, make([]byte, 100)), segment(false, 101, tcpACK, make([]byte, 100)))
	f.Add(segment(true, 1, tcpACK, make([]byte, 100)), segment(true, 101, tcpACK|tcpPSH, make([]byte, 50)))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if len(a) > 1500 || len(b) > 1500 || len(a) == 0 || len(b) == 0 {
			return
		}
		bufs := withRoom(a, b)
		var j joiner
		if j.run(bufs, Headroom) != 2 {
			return
		}
		out, sizes := [][]byte{make([]byte, 1600), make([]byte, 1600), make([]byte, 1600)}, make([]int, 3)
		n, err := split(joined(&j, bufs), out, sizes, 0)
		if err != nil || n != 2 || !bytes.Equal(out[0][:sizes[0]], a) {
			t.Fatalf("%d packets, %v", n, err)
		}
	})
}
