package media

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/pion/rtcp"
)

// RTCP ends here: each session reports on its own stream and on what it receives, and reads the same from its party (RFC 3550
// §6). A BYE is counted and otherwise ignored, since anyone can forge it where RTCP is in clear; calls end by signalling.

// maxReports bounds the RTCP packets read in one second from one party.
const maxReports = 20

// ntpEpoch is 1900-01-01 in seconds before the Unix epoch (RFC 5905).
const ntpEpoch = 2208988800

// spread is a random interval around the mean, so that reports of many sessions do not coincide (RFC 3550 §6.3.1).
func spread(mean time.Duration) int64 {
	return int64(mean)/2 + rand.Int64N(int64(mean)+1)
}

func ntp(t time.Time) uint64 {
	sec := uint64(t.Unix() + ntpEpoch)
	frac := uint64(t.Nanosecond()) << 32 / uint64(time.Second)
	return sec<<32 | frac
}

// readControl handles the datagram that waits on the RTCP socket.
func (s *Session) readControl(w *worker, now int64) {
	rx := &s.rx
	rx.Lock()
	defer rx.Unlock()
	if rx.closed {
		return
	}
	n, ok := recvFrom(s.ctrl.fd, w.mem.in[:], &w.mem.from)
	if !ok {
		return
	}
	w.packets.Add(1)
	from := w.mem.from.addrPort()
	buf := w.mem.in[:n]
	if n < 8 || buf[0]>>6 != 2 || n == bufferSize {
		rx.count.Malformed++
		return
	}
	if !rx.ctrlLatch.admits(from, rx.srtp != nil) {
		rx.count.Foreign++
		return
	}
	if now-rx.ctrlAt > int64(time.Second) {
		rx.ctrlAt, rx.ctrlCount = now, 0
	}
	if rx.ctrlCount++; rx.ctrlCount > maxReports {
		return
	}
	if rx.srtp != nil {
		if buf, ok = s.unprotectControlLocked(w, buf, now); !ok {
			return
		}
	} else if !rx.keyed.Zero() {
		rx.count.Unprotected++
		return
	}
	packets, err := rtcp.Unmarshal(buf)
	if err != nil {
		rx.count.Malformed++
		return
	}
	if rx.ctrlLatch.accept(from) {
		s.tx.Lock()
		s.tx.ctrlTo.set(from)
		s.tx.Unlock()
	}
	rx.count.Reports++
	for _, p := range packets {
		switch p := p.(type) {
		case *rtcp.SenderReport:
			rx.lastSR, rx.lastSRAt = uint32(p.NTPTime>>16), now
			s.reportsLocked(p.Reports, now)
		case *rtcp.ReceiverReport:
			s.reportsLocked(p.Reports, now)
		case *rtcp.Goodbye:
			rx.count.Byes++
		}
	}
}

// unprotectControlLocked decrypts a report; rx is locked.
func (s *Session) unprotectControlLocked(w *worker, buf []byte, now int64) ([]byte, bool) {
	rx := &s.rx
	ssrc := binary.BigEndian.Uint32(buf[4:])
	if _, known := rx.streams[ssrc]; !known && len(rx.streams) >= maxSources {
		rx.count.Unprotected++
		return nil, false
	}
	plain, err := rx.srtp.DecryptRTCP(w.mem.plain[:0], buf, nil)
	if err == nil {
		rx.streams[ssrc] = struct{}{}
		return plain, true
	}
	if rx.old != nil && (rx.oldUntil == 0 || now < rx.oldUntil) {
		if plain, err := rx.old.DecryptRTCP(w.mem.plain[:0], buf, nil); err == nil {
			return plain, true
		}
	}
	s.refusedLocked(err)
	return nil, false
}

// reportsLocked takes what the party says about our stream; rx is locked.
func (s *Session) reportsLocked(reports []rtcp.ReceptionReport, now int64) {
	s.tx.Lock()
	defer s.tx.Unlock()
	for _, r := range reports {
		if r.SSRC != s.tx.stream.ssrc {
			continue
		}
		rep := RemoteReport{At: time.Duration(now), Fraction: float64(r.FractionLost) / 256}
		rep.Lost = int64(int32(r.TotalLost<<8) >> 8) // 24 bits, signed
		if s.tx.rate > 0 {
			rep.Jitter = time.Duration(r.Jitter) * time.Second / time.Duration(s.tx.rate)
		}
		if r.LastSenderReport != 0 {
			// RFC 3550 §6.4.1: round trip = now - LSR - DLSR, in units of 1/65536 s.
			mid := uint32(ntp(s.engine.base.Add(time.Duration(now))) >> 16)
			if d := int32(mid - r.LastSenderReport - r.Delay); d >= 0 && d < 60<<16 {
				rep.RTT = time.Duration(d) * time.Second >> 16
			}
		}
		s.tx.report = rep
	}
}

// tick sends the session's report when it is due, and tells of its quality.
func (s *Session) tick(w *worker, now int64) {
	q, ok := s.reportNow(w, now)
	if f := s.engine.opts.Quality; ok && f != nil {
		f(QualityReport{Session: s, Label: s.label, From: q.From, To: q.To})
	}
}

func (s *Session) reportNow(w *worker, now int64) (q QualityStats, ok bool) {
	rx := &s.rx
	rx.Lock()
	defer rx.Unlock()
	tx := &s.tx
	tx.Lock()
	defer tx.Unlock()
	if tx.closed || now < tx.due {
		return
	}
	tx.due = now + spread(s.engine.opts.ReportEvery)
	ok = s.measureLocked()
	s.sendReportLocked(w, now)
	return rx.gauge.stats, ok
}

// sendReportLocked sends the report; rx and tx are locked.
func (s *Session) sendReportLocked(w *worker, now int64) {
	tx := &s.tx
	if tx.ctrlTo.len == 0 || (tx.srtp == nil && !tx.keyed.Zero()) {
		return
	}
	raw, err := s.reportLocked(now)
	if err != nil {
		tx.count.Errors++
		return
	}
	if tx.srtp != nil {
		if raw, err = tx.srtp.EncryptRTCP(w.mem.out[:0], raw, nil); err != nil {
			tx.count.Errors++
			return
		}
	}
	if !sendTo(s.ctrl.fd, raw, &tx.ctrlTo) {
		tx.count.Errors++
		return
	}
	tx.count.Reports++
}

// reportLocked builds the compound packet: a sender report if we sent since the last one, else a receiver report, and our
// name (RFC 3550 §6.1). rx and tx are locked.
func (s *Session) reportLocked(now int64) ([]byte, error) {
	rx, tx := &s.rx, &s.tx
	var blocks []rtcp.ReceptionReport
	if rx.stream.started {
		fraction, lost := rx.stream.report()
		b := rtcp.ReceptionReport{
			SSRC: rx.stream.ssrc, FractionLost: fraction, TotalLost: uint32(min(max(lost, -1<<23), 1<<23-1)) & 0xffffff,
			LastSequenceNumber: rx.stream.highest - 1<<16, Jitter: rx.stream.jitter >> 4,
		}
		if rx.lastSRAt > 0 {
			b.LastSenderReport = rx.lastSR
			b.Delay = uint32((now - rx.lastSRAt) << 16 / int64(time.Second))
		}
		blocks = append(blocks, b)
	}
	var first rtcp.Packet = &rtcp.ReceiverReport{SSRC: tx.stream.ssrc, Reports: blocks}
	if tx.count.Packets > tx.sentAt {
		tx.sentAt = tx.count.Packets
		first = &rtcp.SenderReport{
			SSRC: tx.stream.ssrc, NTPTime: ntp(s.engine.base.Add(time.Duration(now))),
			RTPTime:     tx.stream.ts + uint32((now-tx.stream.sentAt)*int64(tx.rate)/int64(time.Second)),
			PacketCount: uint32(tx.count.Packets), OctetCount: uint32(tx.count.Octets), Reports: blocks,
		}
	}
	return rtcp.Marshal([]rtcp.Packet{first, rtcp.NewCNAMESourceDescription(tx.stream.ssrc, s.cname)})
}

// isReplay tells a packet refused by the replay window from one that failed authentication; the library has no exported type
// for it.
func isReplay(err error) bool { return err != nil && strings.Contains(err.Error(), "duplicate") }
