package sdp

import (
	"net/netip"
	"slices"

	"ringfence/media"
)

// Elsewhere is a party as it has described itself to us, reduced to what another party may know of it: where it receives, what
// it takes under which numbers, and the keys it sends with ("sip-calls" §27.2).
type Elsewhere struct {
	RTP, RTCP netip.AddrPort
	Formats   []Format
	Crypto    []Crypto
	PTime     int
}

// Elsewhere is the peer as a party for others, limited to some codecs and the key presses; nil if it has not told where it
// receives. s is a description of it.
func (s *Session) Elsewhere(codecs []Codec) *Elsewhere {
	m := s.Audio()
	if m == nil {
		return nil
	}
	e := &Elsewhere{RTP: m.Address(s), RTCP: m.ControlAddress(s), PTime: m.PTime}
	if !e.RTP.IsValid() || e.RTP.Addr().IsUnspecified() {
		return nil
	}
	for _, c := range codecs {
		for _, f := range m.Formats {
			if d, ok := CodecOf(f); ok && c == d {
				g := c.format()
				g.PT, g.Name = f.PT, f.Name
				e.Formats = append(e.Formats, g)
				break
			}
		}
	}
	if len(e.Formats) == 0 {
		return nil
	}
	if f, ok := eventOf(m); ok {
		e.Formats = append(e.Formats, eventFormat(f.PT))
	}
	if m.Secure() {
		e.Crypto = slices.Clone(m.Crypto)
	}
	return e
}

// Secure tells whether the party wants SRTP.
func (e *Elsewhere) Secure() bool { return len(e.Crypto) > 0 }

// describe writes it into a stream. Its address stands above that, in the session.
func (e *Elsewhere) describe(m *Media) {
	m.Port, m.Formats, m.PTime = int(e.RTP.Port()), e.Formats, e.PTime
	if e.RTCP.IsValid() && e.RTCP != netip.AddrPortFrom(e.RTP.Addr(), e.RTP.Port()+1) {
		m.RTCP = e.RTCP
	}
}

// choose finds what of an offer the party takes: the first of its codecs that is offered, and the key presses. The numbers are
// the offer's.
func (e *Elsewhere) choose(m *Media) (codec Codec, chosen []Format) {
	for _, f := range e.Formats {
		c, audio := CodecOf(f)
		if audio == (chosen != nil) {
			continue // one codec, and then the key presses
		}
		for _, g := range m.Formats {
			if !sameFormat(f, g) {
				continue
			}
			if !audio {
				return codec, append(chosen, eventFormat(g.PT))
			}
			codec = c
			h := c.format()
			h.PT, h.Name = g.PT, g.Name
			chosen = []Format{h}
			break
		}
	}
	return codec, chosen
}

// secure answers with the one key that the party has chosen for a suite of the offer.
func (e *Elsewhere) secure(m *Media) (proto string, mine, theirs media.Key, err error) {
	if !e.Secure() {
		if m.Secure() {
			return "", mine, theirs, ErrCrypto
		}
		return m.Proto, mine, theirs, nil
	}
	for _, c := range m.Crypto {
		if c.Key.Suite() == e.Crypto[0].Key.Suite() {
			return m.Proto, e.Crypto[0].Key, c.Key, nil
		}
	}
	return "", mine, theirs, ErrCrypto
}
