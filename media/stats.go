package media

import "time"

// RxStats counts what came in.
type RxStats struct {
	Packets, Octets uint64 // RTP of the party, accepted
	Lost            int64  // packets missing in the party's stream
	Reordered       uint64
	Duplicates      uint64
	Restarts        uint64 // changes of the party's stream, the first not counted
	Jitter          time.Duration
	Late            uint64 // 60 ms and more behind the fastest; lost for a phone with an ordinary jitter buffer

	Malformed   uint64 // not RTP
	Foreign     uint64 // from an address that is not the party's
	Unprotected uint64 // failed SRTP authentication, or too many sources
	Replayed    uint64 // refused by SRTP as seen before
	Unknown     uint64 // payload type that was not agreed
	Muted       uint64 // came while the direction says that nothing is taken
	Unrouted    uint64 // the other party has no such format
	Reports     uint64 // RTCP packets accepted
	Byes        uint64 // RTCP BYEs, which never end anything here
}

// TxStats counts what went out.
type TxStats struct {
	Packets, Octets uint64
	Muted           uint64 // held back by the direction, or because no address is known
	Late            uint64 // from before a change of source
	Errors          uint64 // refused by the system
	Reports         uint64
}

// RemoteReport is what the party last told about our stream (RFC 3550 §6.4).
type RemoteReport struct {
	At       time.Duration // age of the report; 0 is none
	Fraction float64       // lost of the interval
	Lost     int64         // lost in all
	Jitter   time.Duration
	RTT      time.Duration // 0 is not known
}

// Stats is a snapshot of a session.
type Stats struct {
	Rx     RxStats
	Tx     TxStats
	Remote RemoteReport
	Silent time.Duration // since the last packet of the party, or since the session began
	Secure bool          // both directions are encrypted
	Suite  Suite         // of what the party sends
	// Quality is that of the last interval, or of the whole session once it is closed.
	Quality QualityStats
}

// Stats returns a snapshot.
func (s *Session) Stats() Stats {
	now := s.engine.now()
	var st Stats
	s.rx.Lock()
	st.Rx = s.rx.count
	expected, unique := s.rx.stream.totals()
	st.Rx.Lost = int64(int32(expected - unique))
	st.Rx.Jitter, st.Rx.Late = s.jitterLocked(), s.rx.stream.late
	if st.Quality = s.rx.gauge.stats; st.Quality == (QualityStats{}) { // before the end of the first interval
		s.tx.Lock()
		st.Quality = s.summaryLocked()
		s.tx.Unlock()
	}
	st.Silent = time.Duration(now - s.rx.lastAt)
	st.Secure = s.rx.srtp != nil
	st.Suite = s.rx.keyed.Suite()
	s.rx.Unlock()
	s.tx.Lock()
	st.Tx = s.tx.count
	st.Remote = s.tx.report
	if st.Remote.At > 0 {
		st.Remote.At = time.Duration(now) - st.Remote.At
	}
	st.Secure = st.Secure && s.tx.srtp != nil
	s.tx.Unlock()
	return st
}
