package media

import (
	"encoding/binary"
	"errors"
)

// RTP header (RFC 3550 §5.1):
//
//	 0                   1                   2                   3
//	|V=2|P|X|  CC   |M|     PT      |       sequence number         |
//	|                           timestamp                           |
//	|           synchronization source (SSRC) identifier            |
//	|            contributing source (CSRC) identifiers  ...        |
const rtpHeaderLen = 12

var errMalformed = errors.New("malformed RTP packet")

// packet is what the relay needs of an RTP packet. payload aliases the buffer it was read from; headroom octets before it
// (at least rtpHeaderLen) belong to the packet and may be overwritten.
type packet struct {
	pt        uint8
	marker    bool
	seq       uint16
	timestamp uint32
	ssrc      uint32
	offset    int // of the payload in the buffer
}

// parsePacket reads the header of an RTP packet and finds its payload; contributing sources and header extensions are
// skipped, since nobody agreed to any. Padding is left in place: it is the receiver's to remove.
func parsePacket(b []byte) (p packet, err error) {
	if len(b) < rtpHeaderLen || b[0]>>6 != 2 {
		return p, errMalformed
	}
	// RFC 5761 §4: 64 to 95 would be RTCP on the RTP port, which is never agreed here.
	p.pt = b[1] & 0x7f
	if p.pt >= 64 && p.pt <= 95 {
		return p, errMalformed
	}
	p.marker = b[1]&0x80 != 0
	p.seq = binary.BigEndian.Uint16(b[2:])
	p.timestamp = binary.BigEndian.Uint32(b[4:])
	p.ssrc = binary.BigEndian.Uint32(b[8:])
	p.offset = rtpHeaderLen + 4*int(b[0]&0x0f)
	if b[0]&0x10 != 0 {
		if len(b) < p.offset+4 {
			return p, errMalformed
		}
		p.offset += 4 + 4*int(binary.BigEndian.Uint16(b[p.offset+2:]))
	}
	if len(b) < p.offset {
		return p, errMalformed
	}
	if b[0]&0x20 != 0 {
		if pad := int(b[len(b)-1]); pad == 0 || pad > len(b)-p.offset {
			return p, errMalformed
		}
	}
	return p, nil
}

// putHeader writes a header without extension before the payload, in the same buffer, and returns the whole packet.
func putHeader(b []byte, p packet, padding bool) []byte {
	out := b[p.offset-rtpHeaderLen:]
	out[0] = 0x80
	if padding {
		out[0] |= 0x20
	}
	out[1] = p.pt
	if p.marker {
		out[1] |= 0x80
	}
	binary.BigEndian.PutUint16(out[2:], p.seq)
	binary.BigEndian.PutUint32(out[4:], p.timestamp)
	binary.BigEndian.PutUint32(out[8:], p.ssrc)
	return out
}

// maxDropout is the largest step of sequence numbers that still is the same stream (RFC 3550 appendix A.1).
const maxDropout = 3000

// verdict on a received packet.
type verdict uint8

const (
	fresh     verdict = iota // next or later than all before
	reordered                // older than the latest, but not seen yet
	duplicate                // seen already
	restart                  // another stream: new source or a jump
)

const seenWindow = 64 // sequence numbers before the latest that are remembered

// receiver follows one incoming stream: losses, duplicates, order, jitter (RFC 3550 §6.4.1, appendix A).
type receiver struct {
	started bool
	ssrc    uint32
	base    uint32 // extended sequence number of the first packet
	highest uint32 // extended sequence number of the latest
	seen    uint64 // bit i: highest-i was received
	unique  uint32 // packets of this stream without duplicates

	transit uint32
	jitter  uint32 // scaled by 16
	fastest uint32 // transit
	patient uint32 // how much longer a packet may take before it is late; 0: no matter
	timed   uint32 // packets measured
	late    uint64

	// Of streams before this one.
	oldExpected, oldUnique uint32

	// At the last report.
	priorExpected, priorUnique uint32
}

// add takes a packet that arrived at the given time, in timestamp units. timed is false for packets whose timestamp does not
// advance with time, as key presses do: they would look like jitter.
func (r *receiver) add(p packet, arrival uint32, timed bool) verdict {
	if !r.started || p.ssrc != r.ssrc {
		r.begin(p, arrival)
		return restart
	}
	step := int16(p.seq - uint16(r.highest))
	switch {
	case step > maxDropout || step < -maxDropout:
		r.begin(p, arrival)
		return restart
	case step > 0:
		r.highest += uint32(step)
		r.seen = r.seen<<uint(step) | 1
		r.unique++
		if timed {
			r.measure(p, arrival)
		}
		return fresh
	case -int(step) >= seenWindow:
		// Too old to know whether it is new; late in any case.
		return duplicate
	}
	bit := uint64(1) << uint(-int(step))
	if r.seen&bit != 0 {
		return duplicate
	}
	r.seen |= bit
	r.unique++
	return reordered
}

func (r *receiver) begin(p packet, arrival uint32) {
	if r.started {
		r.oldExpected += r.highest - r.base + 1
		r.oldUnique += r.unique
	}
	*r = receiver{
		started: true, ssrc: p.ssrc, base: 1<<16 | uint32(p.seq), highest: 1<<16 | uint32(p.seq), seen: 1, unique: 1,
		transit: arrival - p.timestamp, jitter: r.jitter, fastest: arrival - p.timestamp, patient: r.patient, late: r.late,
		oldExpected: r.oldExpected, oldUnique: r.oldUnique,
		priorExpected: r.priorExpected, priorUnique: r.priorUnique,
	}
}

// measure follows the mean deviation of the transit time.
func (r *receiver) measure(p packet, arrival uint32) {
	transit := arrival - p.timestamp
	if r.timed++; int32(transit-r.fastest) < 0 {
		r.fastest = transit
	} else if r.patient > 0 && transit-r.fastest >= r.patient {
		r.late++
	}
	if r.timed%64 == 0 {
		r.fastest++ // the clocks differ
	}
	d := int32(transit - r.transit)
	r.transit = transit
	if d < 0 {
		d = -d
	}
	r.jitter += uint32(d) - ((r.jitter + 8) >> 4)
}

// totals returns packets expected and received without duplicates, over all streams.
func (r *receiver) totals() (expected, unique uint32) {
	if !r.started {
		return 0, 0
	}
	return r.oldExpected + r.highest - r.base + 1, r.oldUnique + r.unique
}

// report returns the loss since the last report as a fraction of 256, and the cumulative loss.
func (r *receiver) report() (fraction uint8, lost int32) {
	expected, unique := r.totals()
	de, du := expected-r.priorExpected, unique-r.priorUnique
	r.priorExpected, r.priorUnique = expected, unique
	if de > du && de > 0 {
		fraction = uint8(min(255, (de-du)<<8/de))
	}
	return fraction, int32(expected - unique)
}

// sender keeps what leaves a session one unbroken stream: whoever is the source, SSRC, sequence and timestamps continue.
type sender struct {
	ssrc    uint32
	started bool
	seq     uint16 // last sent
	ts      uint32 // last sent
	sentAt  int64  // engine clock of the last packet

	source   any    // whose packets are renumbered now
	inSSRC   uint32 // and their SSRC
	inSeq    uint16 // highest seen of it
	advance  uint32 // steps since the source began
	seqShift uint16
	tsShift  uint32
}

// renumber gives a packet of some source its place in our stream. rate is the clock of its payload type; again says that the
// source itself began anew. It refuses a packet from before the source began, whose place in our stream is taken: under SRTP
// two packets with one sequence number would share a key stream.
func (s *sender) renumber(p packet, source any, again bool, rate uint32, now int64) (packet, bool) {
	step := int16(p.seq - s.inSeq)
	switch {
	case again || s.source != source || s.inSSRC != p.ssrc || step > maxDropout || step < -maxDropout:
		elapsed := uint32(0)
		if s.started {
			elapsed = max(uint32((now-s.sentAt)*int64(rate)/1e9), 1)
		}
		s.source, s.inSSRC, s.inSeq, s.advance = source, p.ssrc, p.seq, 0
		s.seqShift = s.seq + 1 - p.seq
		s.tsShift = s.ts + elapsed - p.timestamp
		p.marker = p.marker || s.started
	case step > 0:
		s.inSeq = p.seq
		s.advance = min(s.advance+uint32(step), 1<<30)
	case uint32(-int(step)) > s.advance:
		return p, false
	}
	p.ssrc = s.ssrc
	p.seq += s.seqShift
	p.timestamp += s.tsShift
	if !s.started || int16(p.seq-s.seq) > 0 {
		s.seq, s.ts, s.sentAt = p.seq, p.timestamp, now
	}
	s.started = true
	return p, true
}
