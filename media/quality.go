package media

import (
	"math"
	"strings"
	"time"
)

// Voice quality by the E-model (ITU-T G.107, G.107.1): what codec, loss, jitter and delay leave of a perfect line, as the mean opinion
// that listeners would have of it, from 1 to about 4.4. In both directions: what the party sends is measured here, what it receives is
// measured by it and told in its RTCP reports.

// Quality is one direction over some time.
type Quality struct {
	MOS    float64       // 0: not known
	Loss   float64       // part of the packets
	Jitter time.Duration // RFC 3550
	Delay  time.Duration // one way, as far as it is known: half of the round trip, packets, and what jitter makes a phone hold back
}

// QualityReport tells how a session's audio was.
type QualityReport struct {
	Session  *Session
	Label    string
	From, To Quality // what the party sends, and what it receives
	Final    bool    // the session is over; the values are those of the whole of it
}

// QualityStats are kept with each session.
type QualityStats struct {
	From, To           Quality // of the last interval, or of the whole once the session is over
	WorstFrom, WorstTo float64 // MOS of the worst interval; 0: none yet
}

// voice is what the E-model knows of a codec: impairment, robustness against loss, and the scale (G.113 appendix I; 129 is wideband).
type voice struct {
	impairment, robustness, scale float64
}

var (
	voices = map[string]voice{
		"PCMU": {0, 25.1, 93.2}, "PCMA": {0, 25.1, 93.2}, "G729": {11, 19, 93.2}, "ILBC": {11, 32, 93.2},
		"G722": {13, 5.7, 129}, "L16": {0, 5.7, 129}, "AMR-WB": {15, 4.3, 129}, "OPUS": {7, 10, 129},
	}
	otherVoice = voice{15, 16, 93.2}
)

func voiceOf(formats []Format) voice {
	for _, f := range formats {
		if !strings.EqualFold(f.Name, "telephone-event") {
			if v, ok := voices[strings.ToUpper(f.Name)]; ok {
				return v
			}
			return otherVoice
		}
	}
	return otherVoice
}

// opinion is the mean opinion score.
func (v voice) opinion(loss float64, delay time.Duration) float64 {
	percent := 100 * min(max(loss, 0), 1)
	r := v.scale - v.impairment - (95-min(v.impairment, 95))*percent/(percent+v.robustness)
	if v.scale > 100 {
		r *= 93.2 / v.scale // both kinds of line on one scale
	}
	ms := float64(delay) / float64(time.Millisecond)
	r -= 0.024*ms + 0.11*max(0, ms-177.3)
	switch {
	case r <= 0:
		return 1
	case r >= 100:
		return 4.5
	}
	return max(1, 1+0.035*r+r*(r-60)*(100-r)*7e-6)
}

// fixedDelay is what packets of 20 ms and a phone's own processing take.
const fixedDelay = 25 * time.Millisecond

func (v voice) quality(loss float64, jitter, rtt time.Duration) Quality {
	q := Quality{Loss: loss, Jitter: jitter, Delay: rtt/2 + fixedDelay + 2*jitter}
	q.MOS = math.Round(100*v.opinion(loss, q.Delay)) / 100
	return q
}

// gauge measures a session's quality by intervals; it is guarded by rx and tx.
type gauge struct {
	stats           QualityStats
	expected, heard uint32 // at the last interval
	reports         uint64 // of the party, seen at the last interval
	sumLost         float64
	intervals       int
}

// measureLocked ends an interval; rx and tx are locked. ok is false if nothing was heard of the party and nothing said about ours.
func (s *Session) measureLocked() (ok bool) {
	rx, tx := &s.rx, &s.tx
	g := &rx.gauge
	g.stats.From, g.stats.To = Quality{}, Quality{}
	expected, unique := rx.stream.totals()
	if de, du := expected-g.expected, unique-g.heard; int32(de) > 0 {
		loss := max(0, 1-float64(du)/float64(de))
		g.stats.From = rx.voice.quality(loss, s.jitterLocked(), tx.report.RTT)
		g.stats.WorstFrom = worst(g.stats.WorstFrom, g.stats.From.MOS)
		ok = true
	}
	g.expected, g.heard = expected, unique
	if rx.count.Reports > g.reports && tx.report.At > 0 {
		g.stats.To = tx.voice.quality(tx.report.Fraction, tx.report.Jitter, tx.report.RTT)
		g.stats.WorstTo = worst(g.stats.WorstTo, g.stats.To.MOS)
		g.sumLost += tx.report.Fraction
		g.intervals++
		ok = true
	}
	g.reports = rx.count.Reports
	return ok
}

// summaryLocked is the quality of the whole session; rx and tx are locked.
func (s *Session) summaryLocked() QualityStats {
	rx, tx := &s.rx, &s.tx
	sum := QualityStats{WorstFrom: rx.gauge.stats.WorstFrom, WorstTo: rx.gauge.stats.WorstTo}
	if expected, unique := rx.stream.totals(); expected > 0 {
		sum.From = rx.voice.quality(max(0, 1-float64(unique)/float64(expected)), s.jitterLocked(), tx.report.RTT)
		sum.WorstFrom = worst(sum.WorstFrom, sum.From.MOS)
	}
	if g := &rx.gauge; tx.report.At > 0 && g.intervals > 0 {
		sum.To = tx.voice.quality(g.sumLost/float64(g.intervals), tx.report.Jitter, tx.report.RTT)
		sum.WorstTo = worst(sum.WorstTo, sum.To.MOS)
	}
	return sum
}

func worst(old, mos float64) float64 {
	if old == 0 {
		return mos
	}
	return min(old, mos)
}

// jitterLocked is the party's jitter; rx is locked.
func (s *Session) jitterLocked() time.Duration {
	if s.rx.rate == 0 {
		return 0
	}
	return time.Duration(s.rx.stream.jitter>>4) * time.Second / time.Duration(s.rx.rate)
}
