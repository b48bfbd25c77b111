package flow

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"strings"

	"github.com/emiago/sipgo/sip"
)

// newParser returns sipgo's parser with the headers that need not be understood to route a message left as text: a strange
// Contact or Refer-To then costs its own request, not the connection, and a Contact stays available verbatim (phones answer
// 404 or 400 to a Request-URI that is not letter for letter their Contact).
func newParser(limit int) *sip.Parser {
	headers := maps.Clone(sip.DefaultHeadersParser())
	for _, name := range []string{"contact", "m", "refer-to", "r", "referred-by", "b"} {
		delete(headers, name)
	}
	p := sip.NewParser(sip.WithHeadersParsers(headers))
	p.MaxMessageLength = limit
	return p
}

var parseAny = newParser(1 << 20)

// Parse reads one whole message as the flows do.
func Parse(b []byte) (sip.Message, error) { return decode(parseAny, b) }

// A frameError says why a stream cannot be cut into messages any more.
type frameError string

func (e frameError) Error() string { return string(e) }

// frame looks for one message at the start of b. It returns its length, or 0 if more bytes are needed, or an error if its end
// cannot be known (RFC 3261 §18.3: on a stream Content-Length is the only frame).
func frame(b []byte, limit int) (int, error) {
	head := bytes.Index(b, []byte("\r\n\r\n"))
	if head < 0 {
		if len(b) >= limit {
			return 0, frameError(fmt.Sprintf("header longer than %d bytes", limit))
		}
		return 0, nil
	}
	length := -1
	for rest := b[:head+2]; len(rest) > 0; {
		end := bytes.Index(rest, []byte("\r\n"))
		line := rest[:end]
		rest = rest[end+2:]
		value, ok := contentLength(line)
		if !ok {
			continue
		}
		n, ok := digits(value)
		if !ok {
			return 0, frameError(fmt.Sprintf("Content-Length %.20q", value))
		}
		if length >= 0 && n != length {
			return 0, frameError("two different Content-Lengths")
		}
		length = n
	}
	if length < 0 {
		return 0, frameError("no Content-Length")
	}
	total := head + 4 + length
	if length > limit || total > limit {
		return 0, frameError(fmt.Sprintf("message longer than %d bytes", limit))
	}
	if len(b) < total {
		return 0, nil
	}
	return total, nil
}

// contentLength returns the value if line is a Content-Length header in long or compact form.
func contentLength(line []byte) ([]byte, bool) {
	if len(line) < 2 || line[0]|0x20 != 'c' && line[0]|0x20 != 'l' {
		return nil, false
	}
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return nil, false
	}
	name := bytes.TrimRight(line[:colon], " \t")
	if len(name) != 1 || name[0]|0x20 != 'l' {
		if !bytes.EqualFold(name, []byte("content-length")) {
			return nil, false
		}
	}
	return bytes.TrimSpace(line[colon+1:]), true
}

func digits(b []byte) (int, bool) {
	if len(b) == 0 || len(b) > 9 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, n <= math.MaxInt32
}

// decode parses the one message in b and checks what every element above relies on: Via, From, To, Call-ID and CSeq are
// there, all but Via once (two readers might take different ones), and the CSeq names the request's method.
func decode(p *sip.Parser, b []byte) (sip.Message, error) {
	m, err := p.ParseSIP(b)
	if err != nil {
		return nil, err
	}
	if m.Via() == nil || m.From() == nil || m.To() == nil || m.CallID() == nil || m.CSeq() == nil {
		return nil, errors.New("a mandatory header is missing")
	}
	m.CSeq().MethodName = sip.RequestMethod(strings.TrimSpace(string(m.CSeq().MethodName)))
	switch m := m.(type) {
	case *sip.Request:
		if !single(m.Headers()) {
			return nil, errors.New("a header that may occur once occurs twice")
		}
		// sipgo gives methods in capitals.
		if !strings.EqualFold(string(m.CSeq().MethodName), string(m.Method)) {
			return nil, fmt.Errorf("CSeq is for %.20q, not %.20q", string(m.CSeq().MethodName), string(m.Method))
		}
		if !token(string(m.Method)) {
			return nil, fmt.Errorf("method %.20q", string(m.Method))
		}
	case *sip.Response:
		if !single(m.Headers()) {
			return nil, errors.New("a header that may occur once occurs twice")
		}
		if m.StatusCode < 100 || m.StatusCode > 699 {
			return nil, fmt.Errorf("status %d", m.StatusCode)
		}
	}
	return m, nil
}

// single reports whether the headers that name a transaction occur once each.
func single(headers []sip.Header) bool {
	var seen [4]bool
	for _, h := range headers {
		i := 0
		switch h.(type) {
		case *sip.FromHeader:
		case *sip.ToHeader:
			i = 1
		case *sip.CallIDHeader:
			i = 2
		case *sip.CSeqHeader:
			i = 3
		default:
			continue
		}
		if seen[i] {
			return false
		}
		seen[i] = true
	}
	return true
}

// token reports whether s is an RFC 3261 token.
func token(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-.!%*_+`'~", c) >= 0 {
			continue
		}
		return false
	}
	return true
}

// badRequest answers the malformed message b, if it is a request whose Via, From, To, Call-ID and CSeq lines can at least be
// echoed. These five lines go back as they came, folded ones excepted.
func badRequest(b []byte, code int, reason string) []byte {
	head, _, _ := bytes.Cut(b, []byte("\r\n\r\n"))
	lines := bytes.Split(head, []byte("\r\n"))
	first := bytes.Fields(lines[0])
	if len(first) < 3 || bytes.HasPrefix(bytes.ToUpper(first[0]), []byte("SIP/")) || !bytes.HasPrefix(bytes.ToUpper(first[len(first)-1]), []byte("SIP/")) {
		return nil
	}
	if bytes.EqualFold(first[0], []byte("ACK")) {
		return nil // ACK is never answered
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "SIP/2.0 %d %s\r\n", code, reason)
	seen := 0
	for i, line := range lines[1:] {
		name, _, ok := bytes.Cut(line, []byte(":"))
		if !ok || len(line) > 1024 || out.Len() > 4096 {
			continue
		}
		if i+2 < len(lines) && len(lines[i+2]) > 0 && (lines[i+2][0] == ' ' || lines[i+2][0] == '\t') {
			continue
		}
		switch strings.ToLower(string(bytes.TrimSpace(name))) {
		case "via", "v":
			seen |= 1
		case "from", "f":
			seen |= 2
		case "to", "t":
			seen |= 4
			if !bytes.Contains(bytes.ToLower(line), []byte(";tag=")) {
				line = append(bytes.Clone(line), ";tag=malformed"...)
			}
		case "call-id", "i":
			seen |= 8
		case "cseq":
			seen |= 16
		default:
			continue
		}
		out.Write(line)
		out.WriteString("\r\n")
	}
	if seen != 31 {
		return nil
	}
	out.WriteString("Content-Length: 0\r\n\r\n")
	return out.Bytes()
}

// received notes in the top Via of a request where it really came from (RFC 3261 §18.2.1, RFC 3581 §4).
func received(req *sip.Request, from netip.AddrPort) {
	via := req.Via()
	via.Params.Add("received", from.Addr().Unmap().String())
	if _, ok := via.Params.Get("rport"); ok {
		via.Params.Add("rport", fmt.Sprint(from.Port()))
	}
	req.SetSource(from.String())
}
