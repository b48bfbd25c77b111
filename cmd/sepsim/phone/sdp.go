package phone

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// sessionDesc is what the phone takes from a session description (calls §27). It reads tolerantly: unknown lines are passed
// over, c= and b= may stand at either level.
type sessionDesc struct {
	sessionID, version string
	media              []mediaDesc
}

// mediaDesc is one m= section.
type mediaDesc struct {
	kind, proto string
	port        int
	addr        netip.Addr
	formats     []int
	rtpmap      map[int]string // upper case, G722/8000
	crypto      []cryptoLine
	direction   string // sendrecv, sendonly, recvonly, inactive
	ptime       int
}

// cryptoLine is an a=crypto attribute.
type cryptoLine struct {
	tag   int
	suite string
	key   []byte // key and salt
}

var staticMap = map[int]string{0: "PCMU/8000", 8: "PCMA/8000", 9: "G722/8000", 18: "G729/8000"}

const maxMedia = 8

func parseSDP(b []byte) (*sessionDesc, error) {
	if len(b) > 16<<10 {
		return nil, errors.New("session description above 16 kB")
	}
	s := &sessionDesc{}
	var addr netip.Addr
	direction := "sendrecv"
	var m *mediaDesc
	for i, line := range strings.Split(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n") {
		if line == "" {
			continue
		}
		if len(line) < 2 || line[1] != '=' {
			return nil, fmt.Errorf("line %d: %q", i+1, clip(line))
		}
		v := line[2:]
		switch line[0] {
		case 'v':
			if i != 0 || v != "0" {
				return nil, fmt.Errorf("line %d: %q", i+1, clip(line))
			}
		case 'o':
			f := strings.Fields(v)
			if len(f) != 6 {
				return nil, fmt.Errorf("line %d: %q", i+1, clip(line))
			}
			s.sessionID, s.version = f[1], f[2]
		case 'c':
			a, err := connection(v)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", i+1, err)
			}
			if m != nil {
				m.addr = a
			} else {
				addr = a
			}
		case 'm':
			if len(s.media) == maxMedia {
				return nil, errors.New("too many media")
			}
			d, err := mediaLine(v)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", i+1, err)
			}
			d.addr, d.direction = addr, direction
			s.media = append(s.media, d)
			m = &s.media[len(s.media)-1]
		case 'a':
			if m == nil {
				if isDirection(v) {
					direction = v
				}
				continue
			}
			m.attribute(v)
		}
	}
	if s.sessionID == "" {
		return nil, errors.New("no o= line")
	}
	if len(s.media) == 0 {
		return nil, errors.New("no media")
	}
	return s, nil
}

func connection(v string) (netip.Addr, error) {
	f := strings.Fields(v)
	if len(f) != 3 || f[0] != "IN" {
		return netip.Addr{}, fmt.Errorf("connection %q", clip(v))
	}
	host, _, _ := strings.Cut(f[2], "/")
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("connection %q", clip(v))
	}
	return a, nil
}

func mediaLine(v string) (mediaDesc, error) {
	f := strings.Fields(v)
	if len(f) < 4 {
		return mediaDesc{}, fmt.Errorf("media %q", clip(v))
	}
	port, _, _ := strings.Cut(f[1], "/")
	n, err := strconv.Atoi(port)
	if err != nil || n < 0 || n > 65535 {
		return mediaDesc{}, fmt.Errorf("media %q", clip(v))
	}
	d := mediaDesc{kind: f[0], port: n, proto: f[2], rtpmap: make(map[int]string)}
	for _, s := range f[3:] {
		if pt, err := strconv.Atoi(s); err == nil && pt >= 0 && pt < 128 && len(d.formats) < 64 {
			d.formats = append(d.formats, pt)
			if name, ok := staticMap[pt]; ok {
				d.rtpmap[pt] = name
			}
		}
	}
	return d, nil
}

func isDirection(v string) bool {
	return v == "sendrecv" || v == "sendonly" || v == "recvonly" || v == "inactive"
}

func (m *mediaDesc) attribute(v string) {
	if isDirection(v) {
		m.direction = v
		return
	}
	name, value, _ := strings.Cut(v, ":")
	switch name {
	case "rtpmap":
		pt, name, _ := strings.Cut(value, " ")
		if n, err := strconv.Atoi(pt); err == nil && slices.Contains(m.formats, n) {
			m.rtpmap[n] = strings.ToUpper(strings.TrimSpace(name))
		}
	case "ptime":
		m.ptime, _ = strconv.Atoi(strings.TrimSpace(value))
	case "crypto":
		if c, err := cryptoOf(value); err == nil && len(m.crypto) < 16 {
			m.crypto = append(m.crypto, c)
		}
	}
}

// held says whether the other side does not listen or has no address (calls §3).
func (m *mediaDesc) held() bool {
	return m.direction == "sendonly" || m.direction == "inactive" || m.addr == netip.IPv4Unspecified()
}

// offered is what the phone puts into an offer or answer.
type offered struct {
	addr      netip.Addr
	port      int
	session   uint64
	version   int
	secure    bool
	codecs    []audioFormat
	dtmf      int // telephone-event payload, 0 for none
	crypto    []cryptoLine
	direction string
	rejected  []mediaDesc // further media of the offer, answered with port 0
}

// String writes the description in the layout of calls §2.1: c= at media level only, no ptime.
func (o offered) String() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	line("v=0")
	line("o=Cisco-SIPUA %d %d IN IP4 %s", o.session, o.version, o.addr)
	line("s=SIP Call")
	line("b=AS:4064")
	line("t=0 0")
	proto := "RTP/AVP"
	if o.secure {
		proto = "RTP/SAVP"
	}
	formats := make([]string, 0, len(o.codecs)+1)
	for _, c := range o.codecs {
		formats = append(formats, strconv.Itoa(c.pt))
	}
	if o.dtmf > 0 {
		formats = append(formats, strconv.Itoa(o.dtmf))
	}
	line("m=audio %d %s %s", o.port, proto, strings.Join(formats, " "))
	line("c=IN IP4 %s", o.addr)
	line("b=TIAS:64000")
	for _, c := range o.crypto {
		line("a=crypto:%d %s inline:%s", c.tag, c.suite, encodeKey(c.key))
	}
	for _, c := range o.codecs {
		line("a=rtpmap:%d %s", c.pt, c.rtpmap)
		if c.fmtp != "" {
			line("a=fmtp:%d %s", c.pt, c.fmtp)
		}
	}
	if o.dtmf > 0 {
		line("a=rtpmap:%d telephone-event/8000", o.dtmf)
		line("a=fmtp:%d 0-15", o.dtmf)
	}
	line("a=%s", o.direction)
	for _, m := range o.rejected {
		pt := 0
		if len(m.formats) > 0 {
			pt = m.formats[0]
		}
		line("m=%s 0 %s %d", m.kind, m.proto, pt)
	}
	return b.String()
}

// answerDirection is what answers an offer's direction (calls §3), given whether the phone itself holds the call.
func answerDirection(offer string, holding bool) string {
	send := offer == "sendrecv" || offer == "recvonly"
	recv := (offer == "sendrecv" || offer == "sendonly") && !holding
	switch {
	case send && recv:
		return "sendrecv"
	case send:
		return "sendonly"
	case recv:
		return "recvonly"
	}
	return "inactive"
}
