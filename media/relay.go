package media

import (
	"net/netip"
	"time"
)

// This file is the path of a packet: read, checked, decrypted, counted, renumbered, encrypted, sent. It allocates nothing for
// plain RTP; the SRTP library allocates a little.

// maxSources bounds the sources that one key is taken from, since each has its own replay window.
const maxSources = 32

// readData handles the datagram that waits on the RTP socket.
func (s *Session) readData(w *worker, now int64) {
	p, to, out, again, padding := s.receive(w, now)
	if to == nil {
		return
	}
	if to.forward(w, s, p, out, again, padding, now) {
		w.relayed.Add(1)
	}
}

// receive reads one datagram and decides where it goes: to is nil if nowhere. buf holds the decrypted packet, whose header p
// describes, with p.pt already the number of the other party.
func (s *Session) receive(w *worker, now int64) (p packet, to *Session, buf []byte, again, padding bool) {
	rx := &s.rx
	rx.Lock()
	defer rx.Unlock()
	if rx.closed {
		return
	}
	n, ok := w.mem.receive(s.data.fd)
	if !ok {
		return
	}
	w.packets.Add(1)
	from := w.mem.from.addrPort()
	buf = w.mem.in[:n]
	p, err := parsePacket(buf)
	if err != nil || n == bufferSize {
		rx.count.Malformed++
		return
	}
	if !rx.latch.admits(from, rx.srtp != nil) {
		rx.count.Foreign++
		return
	}
	if rx.srtp != nil {
		if buf, ok = s.unprotectLocked(w, buf, p, now); !ok {
			return
		}
		if p, err = parsePacket(buf); err != nil { // padding can be checked only now
			rx.count.Malformed++
			return
		}
	} else if !rx.keyed.Zero() {
		rx.count.Unprotected++
		return
	}
	f := rx.formats[p.pt]
	if f.rate == 0 {
		rx.count.Unknown++
		return
	}
	s.latchLocked(from)
	rx.lastAt = now
	if rx.muted {
		rx.count.Muted++
		return
	}
	rx.rate = f.rate
	rx.count.Packets++
	rx.count.Octets += uint64(len(buf) - p.offset)
	started := rx.stream.started
	rx.stream.patient = f.rate * 60 / 1000
	switch rx.stream.add(p, uint32(now*int64(f.rate)/int64(time.Second)), !f.event) {
	case duplicate:
		rx.count.Duplicates++
		return
	case reordered:
		rx.count.Reordered++
	case restart:
		again = true
		if started {
			rx.count.Restarts++
		}
	}
	for _, t := range rx.taps {
		t.take(p, f.kind, payloadOf(p, buf), again, now)
	}
	if rx.sink != nil {
		rx.sink.take(p, f.kind, payloadOf(p, buf), again, now)
		return
	}
	if rx.to == nil {
		return
	}
	pt := rx.route[p.pt]
	switch pt {
	case noRoute:
		rx.count.Unrouted++
		return
	case transcoded:
		if p, buf, ok = s.transcodeLocked(w, p, f, buf); !ok {
			rx.count.Unrouted++
			return
		}
		return p, rx.to, buf, again, false
	}
	padding = buf[0]&0x20 != 0
	p.pt = pt
	return p, rx.to, buf, again, padding
}

// payloadOf is the payload of a packet without its padding, which was checked when the header was read.
func payloadOf(p packet, buf []byte) []byte {
	payload := buf[p.offset:]
	if buf[0]&0x20 != 0 {
		payload = payload[:len(payload)-int(payload[len(payload)-1])]
	}
	return payload
}

// transcodeLocked puts the payload into the codec of the other party; rx is locked.
func (s *Session) transcodeLocked(w *worker, p packet, f formatEntry, buf []byte) (packet, []byte, bool) {
	t := s.rx.trans
	// The packet may lie in the buffer that is written to; it has been decoded by then.
	out, ok := t.work(w.mem.in[:rtpHeaderLen], f.kind, payloadOf(p, buf))
	if !ok || len(out) == rtpHeaderLen || len(out) > bufferSize {
		return p, nil, false
	}
	p.timestamp = t.time(p.timestamp, f.rate, codecs[t.to].rate)
	p.pt, p.offset = t.pt, rtpHeaderLen
	return p, out, true
}

// unprotectLocked decrypts a packet; rx is locked. The plain text goes to another buffer, since a failed attempt may spoil
// the one it is made in, and the old key may still fit.
func (s *Session) unprotectLocked(w *worker, buf []byte, p packet, now int64) ([]byte, bool) {
	rx := &s.rx
	if _, known := rx.streams[p.ssrc]; !known && len(rx.streams) >= maxSources {
		rx.count.Unprotected++
		return nil, false
	}
	plain, err := rx.srtp.DecryptRTP(w.mem.plain[:0], buf, &w.mem.header)
	if err == nil {
		rx.streams[p.ssrc] = struct{}{}
		return plain, true
	}
	if rx.old != nil {
		if rx.oldUntil == 0 {
			rx.oldUntil = now + rekeyGrace
		}
		if now < rx.oldUntil {
			if plain, err2 := rx.old.DecryptRTP(w.mem.plain[:0], buf, &w.mem.header); err2 == nil {
				return plain, true
			}
		} else {
			rx.old = nil
		}
	}
	s.refusedLocked(err)
	return nil, false
}

// refusedLocked counts a packet that SRTP did not accept; rx is locked.
func (s *Session) refusedLocked(err error) {
	if isReplay(err) {
		s.rx.count.Replayed++
	} else {
		s.rx.count.Unprotected++
	}
}

// latchLocked takes the source of a good packet as the party's address; rx is locked.
func (s *Session) latchLocked(from netip.AddrPort) {
	if !s.rx.latch.accept(from) {
		return
	}
	s.tx.Lock()
	s.tx.target.set(from)
	s.tx.Unlock()
}

// forward sends a packet of another session to this one's party.
func (s *Session) forward(w *worker, source *Session, p packet, buf []byte, again, padding bool, now int64) bool {
	tx := &s.tx
	tx.Lock()
	defer tx.Unlock()
	if tx.closed {
		return false
	}
	if tx.muted || tx.playing || tx.pressing > 0 || tx.target.len == 0 {
		tx.count.Muted++
		return false
	}
	rate := max(tx.formats[p.pt].rate, 1)
	offset := p.offset
	p, ok := tx.stream.renumber(p, source, again, rate, now)
	if !ok {
		tx.count.Late++
		return false
	}
	tx.rate, p.offset = rate, offset
	return s.sendLocked(w.mem, putHeader(buf, p, padding), len(buf)-offset)
}

// sendLocked encrypts and sends a packet with our header; tx is locked.
func (s *Session) sendLocked(mem *scratch, out []byte, payload int) bool {
	tx := &s.tx
	if len(tx.taps) > 0 {
		if p, err := parsePacket(out); err == nil {
			for _, t := range tx.taps {
				t.take(p, tx.formats[p.pt].kind, out[p.offset:], false, s.engine.now())
			}
		}
	}
	switch {
	case tx.srtp != nil:
		var err error
		if out, err = tx.srtp.EncryptRTP(mem.out[:0], out, &mem.header); err != nil {
			tx.count.Errors++
			return false
		}
	case !tx.keyed.Zero():
		tx.count.Errors++
		return false
	}
	if later := mem.later; later != nil && later.session == nil {
		later.send(s, out, &tx.target, payload)
	} else if !sendTo(s.data.fd, out, &tx.target) {
		tx.count.Errors++
		return false
	}
	tx.count.Packets++
	tx.count.Octets += uint64(payload)
	return true
}
