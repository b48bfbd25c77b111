package sdp

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"ringfence/media"
)

// Faults of an offer or answer. The signalling answers each with 488.
var (
	ErrNoAudio  = errors.New("no audio stream")
	ErrNoCodec  = errors.New("no common codec")
	ErrInsecure = errors.New("encryption is required and was not agreed")
	ErrCrypto   = errors.New("no usable crypto line")
	ErrState    = errors.New("no offer is waiting for an answer")
)

// Security says whether a leg's stream is encrypted.
type Security uint8

// Kinds of Security.
const (
	// Plain neither offers nor accepts SRTP; an encrypted offer is answered in clear where Fallback allows it.
	Plain Security = iota
	// Accept offers RTP and takes SRTP where it is offered.
	Accept
	// Prefer offers SRTP and takes either.
	Prefer
	// Require offers and takes SRTP alone.
	Require
)

// Local is what this end wants of the next description.
type Local struct {
	Address   netip.Addr
	Port      int
	Codecs    []Codec // allowed, preferred first
	Events    bool    // key presses
	PTime     int     // ms per packet, 0: not said
	Direction media.Direction
	Security  Security
	Suites    []media.Suite // to offer, preferred first; all when empty
	Fallback  bool          // both ends announced that an encrypted offer may be answered in clear
	Origin    netip.Addr    // where the peer's signalling comes from, for the media's address rules
	Label     string

	// Elsewhere, if not nil, makes the description that of another party, whom the peer shall talk with directly: Address is
	// then only where the description comes from, and Port, Codecs, Events and Suites do not count.
	Elsewhere *Elsewhere
}

// Agreed is the result of an offer and its answer.
type Agreed struct {
	Codec  Codec
	Codecs []Codec      // all that the peer may send
	Remote media.Remote // for media.Session.SetRemote
	Secure bool
	Held   bool // the peer does not want to hear us
	PTime  int  // the peer wants this many ms per packet; 0: not said
}

// Negotiation is one end of the offers and answers of one dialog. It numbers the descriptions, remembers the last agreed pair,
// and keeps that in force when an offer fails.
//
//	idle --Offer--> offered --Accept--> idle
//	                   |-----Reject--> idle, as before
//	idle --Answer--> idle
type Negotiation struct {
	id, version uint64
	last        string // what was sent last, without its version
	sent        *Session
	local       Local // of sent
	offered     *Session
	offer       Local
	remote      *Session
	agreed      Agreed
	valid       bool // agreed holds something
}

// NewNegotiation starts with a random session id.
func NewNegotiation() *Negotiation {
	var b [8]byte
	_, _ = rand.Read(b[:])
	// Within 31 bits: some phones keep it in a signed integer.
	return &Negotiation{id: uint64(binary.BigEndian.Uint32(b[:]) >> 1)}
}

// Agreed returns what is in force; false if nothing was agreed yet.
func (n *Negotiation) Agreed() (Agreed, bool) { return n.agreed, n.valid }

// Remote is the last description of the peer, or nil.
func (n *Negotiation) Remote() *Session { return n.remote }

// Sent is the description sent last, or nil.
func (n *Negotiation) Sent() *Session { return n.sent }

// Pending tells whether an offer of ours waits for its answer.
func (n *Negotiation) Pending() bool { return n.offered != nil }

// number gives a description its origin: the version rises by one with each change and stays the same in a refresh (RFC 3264
// §8, "sip-calls" §27.1).
func (n *Negotiation) number(s *Session, l Local) {
	s.Origin = Origin{User: "-", ID: n.id, Address: l.Address}
	s.Name = "SIP Call"
	s.Connection = l.Address
	if l.Elsewhere != nil {
		s.Connection = l.Elsewhere.RTP.Addr()
	}
	text := string(s.Marshal())
	if text != n.last {
		n.version++
		n.last = text
	}
	s.Origin.Version = n.version
}

// Offer makes an offer. Numbers of codecs that the peer has named before are kept; the keys are new in every offer.
func (n *Negotiation) Offer(l Local) *Session {
	m := Media{Kind: "audio", Port: l.Port, Proto: "RTP/AVP", Direction: l.Direction, PTime: l.PTime, Label: l.Label}
	if e := l.Elsewhere; e != nil {
		e.describe(&m)
		if m.Crypto = e.Crypto; e.Secure() {
			m.Proto = "RTP/SAVP"
		}
		return n.offering(m, l)
	}
	used := map[uint8]bool{}
	for _, c := range l.Codecs {
		f := c.format()
		f.PT = n.numberOf(f, used)
		used[f.PT] = true
		m.Formats = append(m.Formats, f)
	}
	if l.Events {
		f := eventFormat(eventPT)
		f.PT = n.numberOf(f, used)
		m.Formats = append(m.Formats, f)
	}
	if l.Security == Prefer || l.Security == Require {
		m.Proto = "RTP/SAVP"
		suites := l.Suites
		if len(suites) == 0 {
			suites = media.Suites()
		}
		for i, s := range suites {
			m.Crypto = append(m.Crypto, Crypto{Tag: i + 1, Key: media.NewKey(s)})
		}
	}
	return n.offering(m, l)
}

func (n *Negotiation) offering(m Media, l Local) *Session {
	s := &Session{Media: []Media{m}}
	n.number(s, l)
	n.sent, n.local, n.offered, n.offer = s, l, s, l
	return s
}

// numberOf keeps the peer's number for a codec, or finds a free one near ours.
func (n *Negotiation) numberOf(f Format, used map[uint8]bool) uint8 {
	if n.remote != nil {
		if m := n.remote.Audio(); m != nil {
			for _, g := range m.Formats {
				if sameFormat(f, g) && !used[g.PT] {
					return g.PT
				}
			}
		}
	}
	for used[f.PT] || n.named(f.PT) {
		f.PT = 96 + (f.PT-95)%32
	}
	return f.PT
}

// named tells whether the peer uses a dynamic number for something else; a number keeps its meaning within a session.
func (n *Negotiation) named(pt uint8) bool {
	if pt < 96 || n.remote == nil {
		return false
	}
	m := n.remote.Audio()
	return m != nil && slices.ContainsFunc(m.Formats, func(f Format) bool { return f.PT == pt })
}

// Refresh repeats the description sent last as an offer, with the same version; nil if nothing was sent.
func (n *Negotiation) Refresh() *Session {
	if n.sent == nil || len(n.sent.Media) != 1 {
		return nil
	}
	n.offered, n.offer = n.sent, n.local
	return n.sent
}

func sameFormat(a, b Format) bool {
	if a.Event() || b.Event() {
		return a.Event() && b.Event() && a.Rate == b.Rate
	}
	ca, ok := CodecOf(a)
	cb, ok2 := CodecOf(b)
	return ok && ok2 && ca == cb
}

// Preview takes an answer that is not binding yet, in a provisional response: the offer goes on waiting for the real one.
func (n *Negotiation) Preview(answer *Session) (Agreed, error) { return n.take(answer) }

// Accept takes the answer to the offer that waits. On an error nothing is changed but that the offer is gone.
func (n *Negotiation) Accept(answer *Session) (Agreed, error) {
	a, err := n.take(answer)
	n.offered = nil
	return a, err
}

func (n *Negotiation) take(answer *Session) (Agreed, error) {
	offered, l := n.offered, n.offer
	if offered == nil {
		return Agreed{}, ErrState
	}
	m := answer.Audio()
	if m == nil {
		return Agreed{}, ErrNoAudio
	}
	ours := &offered.Media[0]
	var send, receive []Format
	var list []Codec
	for _, f := range m.Formats {
		for _, g := range ours.Formats {
			if !sameFormat(f, g) {
				continue
			}
			// The answer need not repeat our number, and may use another (RFC 3264 §6.1 asks for the same).
			send, receive = append(send, f), append(receive, g)
			if c, ok := CodecOf(f); ok {
				list = append(list, c)
			}
			break
		}
	}
	if len(list) == 0 {
		return Agreed{}, fmt.Errorf("%w: offered %s, answered %s", ErrNoCodec, describe(ours.Formats), describe(m.Formats))
	}
	var mine, theirs media.Key
	switch {
	case len(ours.Crypto) == 0:
		if m.Secure() || len(m.Crypto) > 0 {
			return Agreed{}, fmt.Errorf("%w: none was offered", ErrCrypto)
		}
	case len(m.Crypto) == 0:
		if l.Security == Require {
			return Agreed{}, ErrInsecure
		}
		if m.Secure() {
			return Agreed{}, ErrCrypto
		}
	default:
		for _, c := range ours.Crypto {
			if c.Tag == m.Crypto[0].Tag && c.Key.Suite() == m.Crypto[0].Key.Suite() {
				mine, theirs = c.Key, m.Crypto[0].Key
			}
		}
		if mine.Zero() {
			return Agreed{}, fmt.Errorf("%w: the answer chose what was not offered", ErrCrypto)
		}
	}
	n.settle(answer, m, l, mirror(m, answer)&ours.Direction, send, receive, list, mine, theirs)
	return n.agreed, nil
}

// Reject forgets the offer that waits; what was agreed before stays in force.
func (n *Negotiation) Reject() { n.offered = nil }

// Answer answers an offer with one codec, the first of l.Codecs that is offered, and the key presses. The answer keeps the
// offer's numbers, and refuses every stream but the first audio.
func (n *Negotiation) Answer(offer *Session, l Local) (*Session, Agreed, error) {
	m := offer.Audio()
	if m == nil {
		return nil, Agreed{}, ErrNoAudio
	}
	var codec Codec
	var chosen []Format
	if l.Elsewhere != nil {
		if codec, chosen = l.Elsewhere.choose(m); chosen == nil {
			return nil, Agreed{}, fmt.Errorf("%w: offered %s", ErrNoCodec, describe(m.Formats))
		}
	}
	for _, c := range l.Codecs {
		if chosen != nil {
			break
		}
		for _, f := range m.Formats {
			if d, ok := CodecOf(f); ok && c == d {
				g := c.format()
				g.PT, g.Name = f.PT, f.Name
				codec, chosen = c, []Format{g}
				break
			}
		}
	}
	if chosen == nil {
		return nil, Agreed{}, fmt.Errorf("%w: offered %s", ErrNoCodec, describe(m.Formats))
	}
	if l.Events && l.Elsewhere == nil {
		if f, ok := eventOf(m); ok {
			chosen = append(chosen, eventFormat(f.PT))
		}
	}
	proto, mine, theirs, err := secure(m, l)
	if err != nil {
		return nil, Agreed{}, err
	}
	if !theirs.Zero() && theirs.Equal(n.agreed.Remote.RecvKey) && l.Elsewhere == nil {
		mine = n.agreed.Remote.SendKey // a refresh, not a new offer
	}
	direction := mirror(m, offer) & l.Direction
	s := &Session{}
	for i := range offer.Media {
		o := &offer.Media[i]
		if o != m {
			s.Media = append(s.Media, Media{Kind: o.Kind, Proto: o.Proto, Formats: bare(o.Formats), Unknown: o.Unknown})
			continue
		}
		a := Media{Kind: "audio", Port: l.Port, Proto: proto, Formats: chosen, Direction: direction, PTime: l.PTime, Label: l.Label}
		if l.Elsewhere != nil {
			l.Elsewhere.describe(&a)
			a.Formats = chosen
		}
		if !mine.Zero() {
			a.Crypto = []Crypto{{Tag: tagOf(m, theirs), Key: mine}}
		}
		s.Media = append(s.Media, a)
	}
	n.offered = nil
	n.number(s, l)
	n.sent, n.local = s, l
	n.settle(offer, m, l, direction, chosen, chosen, []Codec{codec}, mine, theirs)
	return s, n.agreed, nil
}

// eventOf finds the key presses of an offer, those with the 8 kHz clock first: it is kept even with wideband codecs
// ("sip-calls" §28).
func eventOf(m *Media) (Format, bool) {
	for _, f := range m.Formats {
		if f.Event() && f.Rate == 8000 {
			return f, true
		}
	}
	return Format{}, false
}

// bare leaves only the numbers of formats, which is what a refusal repeats.
func bare(formats []Format) []Format {
	var list []Format
	for _, f := range formats {
		list = append(list, Format{PT: f.PT})
	}
	return list
}

// mirror turns the direction of the peer's description into ours. An address of 0.0.0.0 means that it hears nothing.
func mirror(m *Media, s *Session) media.Direction {
	var d media.Direction
	if a := m.Address(s); m.Direction&media.Receive != 0 && !(a.IsValid() && a.Addr().IsUnspecified()) {
		d |= media.Send
	}
	if m.Direction&media.Send != 0 {
		d |= media.Receive
	}
	return d
}

// secure decides on the protection of an answer ("sip-calls" §30). The same transport as offered is answered, with one key of
// our own for the suite chosen; only the fall-back answers an encrypted offer in clear.
func secure(m *Media, l Local) (proto string, mine, theirs media.Key, err error) {
	if l.Elsewhere != nil {
		return l.Elsewhere.secure(m)
	}
	if l.Security != Plain {
		suites := l.Suites
		if len(suites) == 0 {
			suites = media.Suites()
		}
		// The offer's order is the peer's preference, and the peer knows what it does well.
		for _, c := range m.Crypto {
			for _, s := range suites {
				if c.Key.Suite() == s {
					return m.Proto, media.NewKey(s), c.Key, nil
				}
			}
		}
	}
	switch {
	case l.Security == Require:
		return "", mine, theirs, ErrInsecure
	case !m.Secure():
		return m.Proto, mine, theirs, nil
	case l.Fallback:
		return "RTP/AVP", mine, theirs, nil
	}
	return "", mine, theirs, ErrCrypto
}

func tagOf(m *Media, k media.Key) int {
	for _, c := range m.Crypto {
		if c.Key.Equal(k) {
			return c.Tag
		}
	}
	return 1
}

func (n *Negotiation) settle(remote *Session, m *Media, l Local, d media.Direction, send, receive []Format, list []Codec,
	mine, theirs media.Key) {
	n.remote, n.valid = remote, true
	rtp, rtcp := m.Address(remote), m.ControlAddress(remote)
	if rtp.IsValid() && rtp.Addr().IsUnspecified() {
		rtp, rtcp = netip.AddrPort{}, netip.AddrPort{}
	}
	n.agreed = Agreed{
		Codec: list[0], Codecs: list, Secure: !mine.Zero(), Held: d&media.Send == 0 && l.Direction&media.Send != 0,
		PTime: m.PTime,
		Remote: media.Remote{
			RTP: rtp, RTCP: rtcp, Origin: l.Origin, Send: mediaFormats(send), Receive: mediaFormats(receive),
			Direction: d, SendKey: mine, RecvKey: theirs,
		},
	}
}
