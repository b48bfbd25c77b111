package media

import (
	"testing"
	"time"
)

func TestReceiverJitter(t *testing.T) {
	// A stream that is alternately on time and 20 ms late: the deviation settles at 160 timestamp units (RFC 3550 A.8).
	var r receiver
	p := packet{ssrc: 1}
	for i := range 2000 {
		arrival := uint32(i * 160)
		if i%2 == 1 {
			arrival += 160
		}
		r.add(p, arrival, true)
		p.seq++
		p.timestamp += 160
	}
	if j := r.jitter >> 4; j < 150 || j > 165 {
		t.Errorf("jitter %d, want about 160", j)
	}
}

func TestReceiverAcrossTheWrap(t *testing.T) {
	var r receiver
	p := packet{ssrc: 1, seq: 65000}
	for range 1100 {
		if v := r.add(p, 0, false); v == duplicate || v == reordered {
			t.Fatalf("packet %d is %d", p.seq, v)
		}
		p.seq++
	}
	expected, unique := r.totals()
	if expected != 1100 || unique != 1100 {
		t.Errorf("expected %d, unique %d", expected, unique)
	}
	p.seq -= 200
	if v := r.add(p, 0, false); v != duplicate {
		t.Errorf("a packet 200 back is %d, want it dropped", v)
	}
}

func TestReceiverReport(t *testing.T) {
	var r receiver
	p := packet{ssrc: 1}
	for i := range 100 {
		if i%4 != 3 {
			r.add(p, 0, false)
		}
		p.seq++
	}
	fraction, lost := r.report()
	// The last packet of the hundred is lost too, but nobody can know yet.
	if lost != 24 || fraction != uint8(24*256/99) {
		t.Errorf("fraction %d, lost %d", fraction, lost)
	}
	if fraction, lost = r.report(); fraction != 0 || lost != 24 {
		t.Errorf("second report: fraction %d, lost %d", fraction, lost)
	}
}

func TestRenumberRefusesWhatBelongsBeforeTheChange(t *testing.T) {
	s := sender{ssrc: 7, seq: 50, ts: 1000}
	one, two := new(int), new(int)
	now := int64(0)
	a, ok := s.renumber(packet{seq: 10, timestamp: 5, ssrc: 1}, one, true, 8000, now)
	if !ok || a.seq != 51 || a.ssrc != 7 || a.timestamp != 1000 || a.marker {
		t.Fatalf("first packet became %+v", a)
	}
	now += int64(20 * time.Millisecond)
	b, ok := s.renumber(packet{seq: 900, timestamp: 77, ssrc: 1}, two, true, 8000, now)
	if !ok || b.seq != 52 || b.timestamp != 1160 || !b.marker {
		t.Fatalf("first packet of the new source became %+v", b)
	}
	if _, ok := s.renumber(packet{seq: 899, timestamp: 60, ssrc: 1}, two, false, 8000, now); ok {
		t.Error("a packet from before the change took a used number")
	}
	if c, ok := s.renumber(packet{seq: 902, ssrc: 1}, two, false, 8000, now); !ok || c.seq != 54 {
		t.Errorf("got %+v", c)
	}
	if c, ok := s.renumber(packet{seq: 901, ssrc: 1}, two, false, 8000, now); !ok || c.seq != 53 {
		t.Errorf("a reordered packet became %+v, %v", c, ok)
	}
}

// FuzzParsePacket checks that whatever is accepted can be written again within the buffer it came in.
func FuzzParsePacket(f *testing.F) {
	f.Add([]byte{0x80, 0, 0, 1, 0, 0, 0, 160, 1, 2, 3, 4, 'v'})
	f.Add([]byte{0x91, 0x80, 0, 1, 0, 0, 0, 160, 1, 2, 3, 4, 5, 6, 7, 8, 0xbe, 0xde, 0, 1, 9, 9, 9, 9, 'v'})
	f.Add([]byte{0xa0, 0, 0, 1, 0, 0, 0, 160, 1, 2, 3, 4, 'v', 0, 2})
	f.Add([]byte{0x9f, 0, 0, 1, 0, 0, 0, 160, 1, 2, 3, 4})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		in := append([]byte(nil), b...)
		p, err := parsePacket(b)
		if err != nil {
			return
		}
		if p.offset < rtpHeaderLen || p.offset > len(b) {
			t.Fatalf("payload at %d of %d", p.offset, len(b))
		}
		out := putHeader(b, p, in[0]&0x20 != 0)
		q, err := parsePacket(out)
		if err != nil {
			t.Fatalf("rewritten %x from %x: %v", out, in, err)
		}
		p.offset = rtpHeaderLen
		if p != q || string(out[rtpHeaderLen:]) != string(in[len(in)-len(out)+rtpHeaderLen:]) {
			t.Fatalf("rewritten %+v from %+v", q, p)
		}
	})
}
