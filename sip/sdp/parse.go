package sdp

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"ringfence/media"
)

// ErrNotSDP is wrapped by every error of Parse.
var ErrNotSDP = errors.New("not a session description")

// Bounds of what is read. A phone's largest description has two streams of twelve formats.
const (
	maxBytes   = 32 << 10
	maxMedia   = 16
	maxFormats = 64
	maxCrypto  = 16
)

// Parse reads a description. Session lines may stand anywhere before the first m= and in any order, the media's likewise; an
// attribute that makes no sense is dropped; only what cannot be answered at all is an error.
func Parse(b []byte) (*Session, error) {
	if len(b) > maxBytes {
		return nil, fmt.Errorf("%w: %d octets", ErrNotSDP, len(b))
	}
	r := reader{s: &Session{}, direction: media.Both}
	for n, text := range strings.FieldsFunc(string(b), func(c rune) bool { return c == '\r' || c == '\n' }) {
		text = strings.TrimRight(text, " \t\x00")
		if text == "" {
			continue
		}
		if len(text) < 2 || text[1] != '=' {
			return nil, fmt.Errorf("%w: line %d has no type", ErrNotSDP, n+1)
		}
		if err := r.line(text[0], strings.TrimLeft(text[2:], " ")); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrNotSDP, n+1, err)
		}
	}
	if !r.version {
		return nil, fmt.Errorf("%w: no v= line", ErrNotSDP)
	}
	r.endMedia()
	return r.s, nil
}

type reader struct {
	s         *Session
	m         *Media          // being read
	directed  bool            // m has its own direction
	direction media.Direction // of the session
	attached  map[uint8]int   // index in m.Formats by payload type
	version   bool
}

func (r *reader) line(kind byte, value string) error {
	switch kind {
	case 'v':
		if value != "0" {
			return fmt.Errorf("version %.20q", value)
		}
		r.version = true
	case 'o':
		r.origin(value)
	case 's':
		r.s.Name = value
	case 'c':
		a, err := connection(value)
		if err != nil {
			return err
		}
		if r.m != nil {
			r.m.Connection = a
		} else {
			r.s.Connection = a
		}
	case 'b':
		r.bandwidth(value)
	case 'm':
		return r.media(value)
	case 'a':
		r.attribute(value)
	}
	return nil // t, i, u, e, p, r, z, k say nothing we act on
}

// origin reads what it can: some write identifiers longer than 64 bits or names, which only matter by equality.
func (r *reader) origin(value string) {
	f := strings.Fields(value)
	if len(f) < 6 {
		return
	}
	r.s.Origin.User = f[0]
	r.s.Origin.ID, _ = strconv.ParseUint(f[1], 10, 64)
	r.s.Origin.Version, _ = strconv.ParseUint(f[2], 10, 64)
	if a, err := netip.ParseAddr(f[5]); err == nil {
		r.s.Origin.Address = a.Unmap().WithZone("")
	}
}

func connection(value string) (netip.Addr, error) {
	f := strings.Fields(value)
	if len(f) < 3 || !strings.EqualFold(f[0], "IN") {
		return netip.Addr{}, fmt.Errorf("connection %.60q", value)
	}
	host, _, _ := strings.Cut(f[2], "/") // multicast has a scope
	a, err := netip.ParseAddr(host)
	if err != nil {
		// A name would have to be looked up, and phones never use one.
		return netip.Addr{}, fmt.Errorf("connection address %.60q", f[2])
	}
	return a.Unmap().WithZone(""), nil
}

func (r *reader) bandwidth(value string) {
	kind, n, ok := strings.Cut(value, ":")
	v, err := strconv.ParseUint(strings.TrimSpace(n), 10, 64)
	if !ok || err != nil || kind == "" || strings.ContainsAny(kind, " \t") {
		return
	}
	w := Bandwidth{kind, v}
	if r.m != nil {
		if len(r.m.Bandwidth) < 4 {
			r.m.Bandwidth = append(r.m.Bandwidth, w)
		}
	} else if len(r.s.Bandwidth) < 4 {
		r.s.Bandwidth = append(r.s.Bandwidth, w)
	}
}

func (r *reader) media(value string) error {
	r.endMedia()
	f := strings.Fields(value)
	if len(f) < 3 {
		return fmt.Errorf("medium %.60q", value)
	}
	if len(r.s.Media) >= maxMedia {
		return errors.New("too many media")
	}
	port, _, _ := strings.Cut(f[1], "/")
	p, err := strconv.Atoi(port)
	if err != nil || p < 0 || p > 65535 {
		return fmt.Errorf("port %.20q", f[1])
	}
	if !token(f[0]) || !token(strings.ReplaceAll(f[2], "/", "")) {
		return fmt.Errorf("medium %.60q", value)
	}
	r.m = &Media{Kind: strings.ToLower(f[0]), Port: p, Proto: strings.ToUpper(f[2])}
	r.directed, r.attached = false, make(map[uint8]int)
	for _, text := range f[3:min(len(f), 3+maxFormats)] {
		pt, err := strconv.ParseUint(text, 10, 7)
		if err != nil || !strings.Contains(r.m.Proto, "RTP/") {
			if token(text) {
				r.m.Unknown = append(r.m.Unknown, text)
			}
			continue
		}
		if _, twice := r.attached[uint8(pt)]; twice {
			continue
		}
		format := static[uint8(pt)]
		format.PT = uint8(pt)
		r.attached[format.PT] = len(r.m.Formats)
		r.m.Formats = append(r.m.Formats, format)
	}
	if len(r.m.Formats)+len(r.m.Unknown) == 0 {
		r.m.Port = 0 // nothing that could be agreed on
	}
	return nil
}

func (r *reader) endMedia() {
	if r.m == nil {
		return
	}
	if !r.directed {
		r.m.Direction = r.direction
	}
	r.s.Media = append(r.s.Media, *r.m)
	r.m = nil
}

func (r *reader) attribute(value string) {
	name, arg, _ := strings.Cut(value, ":")
	name, arg = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(arg)
	if d, ok := directions[name]; ok {
		if r.m != nil {
			r.m.Direction, r.directed = d, true
		} else {
			r.direction = d
		}
		return
	}
	if r.m == nil {
		return
	}
	switch name {
	case "rtpmap":
		r.rtpmap(arg)
	case "fmtp":
		// Belongs to the payload type it names and to no other: one of an unknown codec is dropped, not attached to the
		// previous ("sip-calls" §27.3).
		pt, params, _ := strings.Cut(arg, " ")
		if f := r.format(pt); f != nil {
			f.Params = strings.TrimSpace(params)
		}
	case "crypto":
		if c, ok := parseCrypto(arg); ok && len(r.m.Crypto) < maxCrypto {
			r.m.Crypto = append(r.m.Crypto, c)
		}
	case "ptime":
		r.m.PTime = milliseconds(arg)
	case "maxptime":
		r.m.MaxPTime = milliseconds(arg)
	case "rtcp":
		r.rtcp(arg)
	case "label":
		if token(arg) {
			r.m.Label = arg
		}
	}
}

// rtpmap reads "9 G722/8000" and "114 opus/48000/2".
func (r *reader) rtpmap(arg string) {
	pt, rest, _ := strings.Cut(arg, " ")
	f := r.format(pt)
	if f == nil {
		return
	}
	parts := strings.Split(strings.TrimSpace(rest), "/")
	if len(parts) < 2 || !token(parts[0]) {
		return
	}
	rate, err := strconv.ParseUint(parts[1], 10, 32)
	if err != nil || rate == 0 {
		return
	}
	f.Name, f.Rate, f.Channels = parts[0], uint32(rate), 0
	if len(parts) > 2 {
		if n, err := strconv.Atoi(parts[2]); err == nil && n > 1 && n <= 8 {
			f.Channels = n
		}
	}
}

func (r *reader) format(pt string) *Format {
	n, err := strconv.ParseUint(pt, 10, 7)
	if err != nil {
		return nil
	}
	i, ok := r.attached[uint8(n)]
	if !ok {
		return nil
	}
	return &r.m.Formats[i]
}

// rtcp reads "17905" and "17905 IN IP4 192.0.2.51" (RFC 3605).
func (r *reader) rtcp(arg string) {
	f := strings.Fields(arg)
	if len(f) == 0 {
		return
	}
	p, err := strconv.ParseUint(f[0], 10, 16)
	if err != nil || p == 0 {
		return
	}
	var a netip.Addr
	if len(f) >= 4 {
		if a, err = netip.ParseAddr(f[3]); err != nil {
			return
		}
		a = a.Unmap().WithZone("")
	}
	r.m.RTCP = netip.AddrPortFrom(a, uint16(p))
}

func milliseconds(arg string) int {
	n, err := strconv.Atoi(arg)
	if err != nil || n < 1 || n > 1000 {
		return 0
	}
	return n
}

// token tells whether s is a token of RFC 8866 §9, which is what we write ourselves.
func token(s string) bool {
	if s == "" {
		return false
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]`, c) >= 0 {
			return false
		}
	}
	return true
}
