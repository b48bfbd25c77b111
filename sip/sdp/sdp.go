// Package sdp reads and writes session descriptions (RFC 8866) and negotiates with them (RFC 3264, RFC 4568), as
// "sip-calls" §27 and §30 describe it for Cisco enterprise phones.
//
// The reader is tolerant, because descriptions come from many hands: lines in any order, a missing t= or s=, an address per
// medium or for all, any line end, unknown attributes and codecs. It is bounded, and what it does not understand it drops:
// a description is never copied from one leg of a call to another. The writer has one order and one form.
//
// It leaves out: ICE, DTLS fingerprints, bundling, and grouping (of two streams that are alternatives the first is taken,
// the second refused with port 0).
package sdp

import (
	"net/netip"
	"strconv"
	"strings"

	"ringfence/media"
)

// Session is a description of one end.
type Session struct {
	Origin     Origin
	Name       string
	Connection netip.Addr // for media without their own; may be unset
	Bandwidth  []Bandwidth
	Media      []Media
}

// Origin is the o= line.
type Origin struct {
	User    string
	ID      uint64
	Version uint64
	Address netip.Addr
}

// Bandwidth is a b= line: AS in kbit/s, TIAS in bit/s.
type Bandwidth struct {
	Type  string
	Value uint64
}

// Media is one stream.
type Media struct {
	Kind       string // audio, video, ...
	Port       int    // 0: refused
	Proto      string // RTP/AVP, RTP/SAVP, ...
	Formats    []Format
	Unknown    []string // formats that are no payload types, kept for the refusal
	Connection netip.Addr
	Bandwidth  []Bandwidth
	Direction  media.Direction // as its writer sees it
	Crypto     []Crypto
	RTCP       netip.AddrPort // a=rtcp; the address may be unset
	PTime      int            // ms, 0: not said
	MaxPTime   int
	Label      string
}

// Format is a payload type as described.
type Format struct {
	PT       uint8
	Name     string // encoding name as written; from the static table if not described
	Rate     uint32
	Channels int    // 0 and 1 are the same
	Params   string // value of a=fmtp
}

// Param returns a parameter of the fmtp value.
func (f Format) Param(name string) (string, bool) {
	for p := range strings.SplitSeq(f.Params, ";") {
		k, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(k, name) {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}

// Event tells whether the format carries key presses (RFC 4733).
func (f Format) Event() bool { return strings.EqualFold(f.Name, "telephone-event") }

// Secure tells whether the stream is described as SRTP.
func (m *Media) Secure() bool { return strings.Contains(m.Proto, "SAVP") }

// Address is where the stream is received; s is the description it stands in.
func (m *Media) Address(s *Session) netip.AddrPort {
	a := m.Connection
	if !a.IsValid() {
		a = s.Connection
	}
	if !a.IsValid() || m.Port == 0 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, uint16(m.Port))
}

// ControlAddress is where its RTCP is received.
func (m *Media) ControlAddress(s *Session) netip.AddrPort {
	rtp := m.Address(s)
	if !rtp.IsValid() || m.RTCP.Port() == 0 {
		if !rtp.IsValid() || rtp.Port() == 65535 {
			return netip.AddrPort{}
		}
		return netip.AddrPortFrom(rtp.Addr(), rtp.Port()+1)
	}
	if m.RTCP.Addr().IsValid() && !m.RTCP.Addr().IsUnspecified() {
		return m.RTCP
	}
	return netip.AddrPortFrom(rtp.Addr(), m.RTCP.Port())
}

// Held tells whether the writer of the description has put the call on hold: it does not want to hear anything. Recognised
// are sendonly, inactive, and the address 0.0.0.0 of old ("sip-calls" §3).
func (s *Session) Held() bool {
	m := s.Audio()
	if m == nil {
		return false
	}
	if a := m.Address(s); a.IsValid() && a.Addr().IsUnspecified() {
		return true
	}
	return m.Direction&media.Receive == 0
}

// Audio returns the first audio stream that is not refused, or nil.
func (s *Session) Audio() *Media {
	for i := range s.Media {
		if s.Media[i].Kind == "audio" && s.Media[i].Port != 0 {
			return &s.Media[i]
		}
	}
	return nil
}

// static payload types (RFC 3551 §6) that audio may use without describing them.
var static = map[uint8]Format{
	0: {Name: "PCMU", Rate: 8000}, 3: {Name: "GSM", Rate: 8000}, 4: {Name: "G723", Rate: 8000}, 8: {Name: "PCMA", Rate: 8000},
	9: {Name: "G722", Rate: 8000}, 13: {Name: "CN", Rate: 8000}, 15: {Name: "G728", Rate: 8000}, 18: {Name: "G729", Rate: 8000},
	26: {Name: "JPEG", Rate: 90000}, 31: {Name: "H261", Rate: 90000}, 34: {Name: "H263", Rate: 90000},
}

var directions = map[string]media.Direction{
	"sendrecv": media.Both, "sendonly": media.Send, "recvonly": media.Receive, "inactive": media.Inactive,
}

func directionName(d media.Direction) string {
	switch d {
	case media.Send:
		return "sendonly"
	case media.Receive:
		return "recvonly"
	case media.Inactive:
		return "inactive"
	}
	return "sendrecv"
}

// Marshal writes the description. Its lines stand in the order of RFC 8866 §5.
func (s *Session) Marshal() []byte {
	var b strings.Builder
	line := func(parts ...string) {
		for _, p := range parts {
			b.WriteString(p)
		}
		b.WriteString("\r\n")
	}
	user, name := s.Origin.User, s.Name
	if user == "" {
		user = "-"
	}
	if name == "" {
		name = "-"
	}
	line("v=0")
	line("o=", user, " ", strconv.FormatUint(s.Origin.ID, 10), " ", strconv.FormatUint(s.Origin.Version, 10), " ", address(s.Origin.Address))
	line("s=", name)
	if s.Connection.IsValid() {
		line("c=", address(s.Connection))
	}
	for _, w := range s.Bandwidth {
		line("b=", w.Type, ":", strconv.FormatUint(w.Value, 10))
	}
	line("t=0 0")
	for i := range s.Media {
		s.Media[i].marshal(line)
	}
	return []byte(b.String())
}

func (m *Media) marshal(line func(...string)) {
	var formats strings.Builder
	for _, f := range m.Formats {
		formats.WriteString(" " + strconv.Itoa(int(f.PT)))
	}
	for _, f := range m.Unknown {
		formats.WriteString(" " + f)
	}
	if formats.Len() == 0 {
		formats.WriteString(" 0") // the grammar asks for one, refused or not
	}
	line("m=", m.Kind, " ", strconv.Itoa(m.Port), " ", m.Proto, formats.String())
	if m.Connection.IsValid() {
		line("c=", address(m.Connection))
	}
	if m.Port == 0 {
		return
	}
	for _, w := range m.Bandwidth {
		line("b=", w.Type, ":", strconv.FormatUint(w.Value, 10))
	}
	for _, c := range m.Crypto {
		line("a=", c.marshal())
	}
	if m.Label != "" {
		line("a=label:", m.Label)
	}
	for _, f := range m.Formats {
		pt := strconv.Itoa(int(f.PT))
		if f.Name != "" {
			rate := strconv.FormatUint(uint64(f.Rate), 10)
			if f.Channels > 1 {
				rate += "/" + strconv.Itoa(f.Channels)
			}
			line("a=rtpmap:", pt, " ", f.Name, "/", rate)
		}
		if f.Params != "" {
			line("a=fmtp:", pt, " ", f.Params)
		}
	}
	if m.PTime > 0 {
		line("a=ptime:", strconv.Itoa(m.PTime))
	}
	if m.MaxPTime > 0 {
		line("a=maxptime:", strconv.Itoa(m.MaxPTime))
	}
	if m.RTCP.Port() != 0 {
		rtcp := "a=rtcp:" + strconv.Itoa(int(m.RTCP.Port()))
		if m.RTCP.Addr().IsValid() {
			rtcp += " " + address(m.RTCP.Addr())
		}
		line(rtcp)
	}
	line("a=", directionName(m.Direction))
}

func address(a netip.Addr) string {
	if !a.IsValid() {
		a = netip.IPv4Unspecified()
	}
	if a.Is6() && !a.Is4In6() {
		return "IN IP6 " + a.WithZone("").String()
	}
	return "IN IP4 " + a.Unmap().String()
}
