package phone

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/pion/rtp"

	"ringfence/media/codec"
)

// recorder measures what arrives. It is guarded by media.mu.
type recorder struct {
	received    int
	octets      int
	ssrc        uint32
	sources     int   // changes of SSRC
	base, high  int64 // extended sequence numbers of this source
	counted     int   // packets of this source
	lostBefore  int   // of earlier sources
	late        int
	early       int // before any agreement
	foreign     int // from another address than agreed
	otherType   int
	malformed   int
	unauthentic int
	replayed    int
	reports     int
	jitter      float64 // RTP time units
	transit     float64
	first, last time.Time

	ring    [10 * sampleRate]int16
	at      int
	filled  int
	opaque  int
	strange int // frames of an opaque codec that another has written
	markHz  float64

	digits   string
	keyStamp uint32
	keyDone  bool

	wide *codec.G722Decoder
	down codec.Downsampler
}

func (r *recorder) packet(p *rtp.Packet, now time.Time, name string, pt, dtmf int) {
	r.received++
	r.octets += len(p.Payload)
	if r.first.IsZero() {
		r.first = now
	}
	r.last = now
	r.sequence(p, now)
	switch int(p.PayloadType) {
	case pt:
	case dtmf:
		r.key(p)
		return
	default:
		r.otherType++
		return
	}
	switch name {
	case "PCMU":
		for _, b := range p.Payload {
			r.sample(fromUlaw(b))
		}
	case "PCMA":
		for _, b := range p.Payload {
			r.sample(fromAlaw(b))
		}
	case "G722":
		if r.wide == nil {
			r.wide = codec.NewG722Decoder()
		}
		for _, s := range r.down.Append(nil, r.wide.Decode(nil, p.Payload)) {
			r.sample(s)
		}
	default:
		if hz, ok := fromOpaque(p.Payload); ok {
			r.opaque++
			r.markHz = hz
		} else {
			r.strange++
		}
	}
}

// sequence counts losses and jitter (RFC 3550 appendix A).
func (r *recorder) sequence(p *rtp.Packet, now time.Time) {
	arrival := float64(now.UnixNano()) * sampleRate / 1e9
	transit := arrival - float64(p.Timestamp)
	if r.counted == 0 || p.SSRC != r.ssrc {
		if r.counted > 0 {
			r.lostBefore += r.lostHere()
			r.sources++
		}
		r.ssrc, r.base, r.high, r.counted = p.SSRC, int64(p.SequenceNumber), int64(p.SequenceNumber), 1
		r.transit = transit
		return
	}
	r.counted++
	diff := int64(int16(p.SequenceNumber - uint16(r.high)))
	if diff > 0 {
		r.high += diff
	} else {
		r.late++
	}
	if d := transit - r.transit; d > -sampleRate && d < sampleRate {
		r.jitter += (max(d, -d) - r.jitter) / 16
	}
	r.transit = transit
}

func (r *recorder) lostHere() int {
	if r.counted == 0 {
		return 0
	}
	return max(int(r.high-r.base)+1-r.counted, 0)
}

func (r *recorder) lost() int { return r.lostBefore + r.lostHere() }

func (r *recorder) sample(s int16) {
	r.ring[r.at] = s
	r.at = (r.at + 1) % len(r.ring)
	r.filled = min(r.filled+1, len(r.ring))
}

// recent are the last n samples, or as many as there are.
func (r *recorder) recent(n int) []int16 {
	n = min(n, r.filled)
	out := make([]int16, n)
	for i := range out {
		out[i] = r.ring[(r.at-n+i+2*len(r.ring))%len(r.ring)]
	}
	return out
}

// key takes a telephone-event: one digit for each time stamp, at its first end packet.
func (r *recorder) key(p *rtp.Packet) {
	if len(p.Payload) < 4 {
		r.malformed++
		return
	}
	if p.Timestamp != r.keyStamp {
		r.keyStamp, r.keyDone = p.Timestamp, false
	}
	if event := int(p.Payload[0]); p.Payload[1]&0x80 != 0 && !r.keyDone && event < 16 && len(r.digits) < 256 {
		r.keyDone = true
		r.digits += "0123456789*#ABCD"[event : event+1]
	}
}

// Audio is what a call's audio is measured at.
type Audio struct {
	Codec     string // PCMU, PCMA, G722, …
	Suite     string // SRTP suite, empty for RTP
	Local     int    // own port
	Remote    netip.AddrPort
	Sent      int
	Received  int
	Lost      int
	Late      int
	Foreign   int // packets from another address than agreed
	OtherType int // packets of a payload type that was not agreed
	Early     int // packets before anything was agreed
	Malformed int
	// AuthFailures are packets whose SRTP tag does not fit; Replayed those that came twice.
	AuthFailures, Replayed int
	Reports                int           // RTCP packets received
	Sources                int           // changes of the sender's SSRC
	Jitter                 time.Duration // RFC 3550 estimate
	// Hz is the strongest tone of the last second and Share its part of the power, both 0 in silence. For a codec that
	// the phone does not have (Opaque) they are what the frames say, Share being the part of frames that arrived as sent.
	Hz, Share float64
	Opaque    bool
	Digits    string // keys received by telephone-event
}

// String is the result in one line.
func (a Audio) String() string {
	how := "RTP"
	if a.Suite != "" {
		how = "SRTP " + a.Suite
	}
	tone := "silence"
	if a.Hz > 0 {
		tone = fmt.Sprintf("tone %.0f Hz (%.0f %% of the power)", a.Hz, 100*a.Share)
		if a.Opaque {
			tone = fmt.Sprintf("frames marked %.0f Hz (%.0f %% intact)", a.Hz, 100*a.Share)
		}
	}
	s := fmt.Sprintf("%s %s: sent %d, received %d, lost %d, jitter %s, %s", a.Codec, how, a.Sent, a.Received, a.Lost,
		a.Jitter.Round(100*time.Microsecond), tone)
	if a.AuthFailures > 0 {
		s += fmt.Sprintf(", %d packets failed authentication", a.AuthFailures)
	}
	return s
}

func (m *media) audio() Audio {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &m.rec
	a := Audio{
		Codec: m.codec, Suite: m.suite, Local: m.port, Remote: m.remote, Sent: m.sent, Received: r.received, Lost: r.lost(),
		Late: r.late, Foreign: r.foreign, OtherType: r.otherType, Early: r.early, Malformed: r.malformed,
		AuthFailures: r.unauthentic, Replayed: r.replayed, Reports: r.reports, Sources: r.sources,
		Jitter: time.Duration(r.jitter / sampleRate * 1e9), Digits: r.digits,
	}
	switch m.codec {
	case "PCMU", "PCMA", "G722":
		a.Hz, a.Share = findTone(r.recent(sampleRate))
	case "":
	default:
		a.Opaque = true
		if r.opaque+r.strange > 0 {
			a.Hz, a.Share = r.markHz, float64(r.opaque)/float64(r.opaque+r.strange)
		}
	}
	return a
}

// stats are the values of RTP-RxStat and RTP-TxStat (calls §31).
func (m *media) stats(man manners) (rx, tx string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &m.rec
	var heard, spoken int
	if !r.first.IsZero() {
		heard = int(r.last.Sub(r.first).Seconds())
	}
	if !m.begun.IsZero() {
		spoken = int(time.Since(m.begun).Seconds())
	}
	jitter := int(r.jitter)
	if man.series != "7900" {
		jitter = int(r.jitter / 8) // milliseconds on newer models
	}
	rx = fmt.Sprintf("Dur=%d,Pkt=%d,Oct=%d,LatePkt=%d,LostPkt=%d,AvgJit=%d", heard, r.received, r.octets, r.late, r.lost(), jitter)
	tx = fmt.Sprintf("Dur=%d,Pkt=%d,Oct=%d", spoken, m.sent, m.octets)
	if man.series == "7900" {
		rx += `,VQMetrics="MLQK=;MLQKav=;MLQKmn=;MLQKmx=;MLQKvr=;CCR=0.0000;ICR=0.0000;ICRmx=0.0000;CS=0;SCS=0"`
	} else {
		rx += fmt.Sprintf(`,VQMetrics="CCR=0.0000;ICR=0.0000;ICRmx=0.0000;CS=0;SCS=0;VoRxCodec=%s;CID=1;VoPktSizeMs=20;VoPktLost=%d;network=ethernet;hwType=%s"`,
			m.codec, r.lost(), man.product)
		tx += fmt.Sprintf(`,tvqMetrics="TxCodec=%s;rtpbitrate=64000"`, m.codec)
	}
	return rx, tx
}

// resetSamples forgets what was heard, so that a measurement begins now.
func (m *media) resetSamples() {
	m.mu.Lock()
	m.rec.at, m.rec.filled, m.rec.opaque, m.rec.strange = 0, 0, 0, 0
	m.mu.Unlock()
}

func (m *media) samples(n int) []int16 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rec.recent(n)
}

func (m *media) setTone(hz float64) {
	m.mu.Lock()
	m.tone.hz = hz
	m.mu.Unlock()
}
