package phone

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// message is a SIP message as text: the phone writes its headers in the order of the recorded traces and compares what it
// gets letter by letter, so nothing is normalised.
//
//	METHOD uri SIP/2.0        or   SIP/2.0 200 OK
//	Name: value               in order
//
//	body                      Content-Length bytes
type message struct {
	method, uri string // request
	status      int    // response
	reason      string
	headers     []headerField
	body        []byte
}

type headerField struct{ name, value string }

const (
	maxHead = 32 << 10
	maxBody = 64 << 10 // overview §2: bodies of at least 16 kB
)

// compact are the one-letter forms (RFC 3261 §7.3.3, RFC 3515, RFC 6665).
var compact = map[string]string{
	"i": "Call-ID", "m": "Contact", "e": "Content-Encoding", "l": "Content-Length", "c": "Content-Type", "f": "From",
	"s": "Subject", "k": "Supported", "t": "To", "v": "Via", "o": "Event", "r": "Refer-To", "u": "Allow-Events", "b": "Referred-By",
}

func (m *message) request() bool { return m.method != "" }

// get is the first value of a header, empty if there is none.
func (m *message) get(name string) string {
	for _, h := range m.headers {
		if strings.EqualFold(h.name, name) {
			return h.value
		}
	}
	return ""
}

// has says whether the header occurs.
func (m *message) has(name string) bool {
	for _, h := range m.headers {
		if strings.EqualFold(h.name, name) {
			return true
		}
	}
	return false
}

// list are the comma separated values of all headers of that name.
func (m *message) list(name string) []string {
	var out []string
	for _, h := range m.headers {
		if strings.EqualFold(h.name, name) {
			out = append(out, splitOutside(h.value, ',')...)
		}
	}
	return out
}

// token says whether a comma separated header lists a token.
func (m *message) token(name, want string) bool {
	for _, v := range m.list(name) {
		if strings.EqualFold(v, want) {
			return true
		}
	}
	return false
}

func (m *message) add(name, format string, args ...any) *message {
	value := format
	if len(args) > 0 {
		value = fmt.Sprintf(format, args...)
	}
	m.headers = append(m.headers, headerField{name, value})
	return m
}

// set replaces the first header of that name or adds one.
func (m *message) set(name, value string) {
	for i := range m.headers {
		if strings.EqualFold(m.headers[i].name, name) {
			m.headers[i].value = value
			return
		}
	}
	m.add(name, "%s", value)
}

// with sets type and body.
func (m *message) with(contentType string, body string) *message {
	m.add("Content-Type", "%s", contentType)
	m.body = []byte(body)
	return m
}

// cseq is the number and method of CSeq.
func (m *message) cseq() (int, string) {
	num, method, _ := strings.Cut(strings.TrimSpace(m.get("CSeq")), " ")
	n, err := strconv.Atoi(num)
	if err != nil || n < 0 {
		return -1, ""
	}
	return n, strings.TrimSpace(method)
}

// marshal writes the message with its Content-Length.
func (m *message) marshal() []byte {
	var b bytes.Buffer
	if m.request() {
		fmt.Fprintf(&b, "%s %s SIP/2.0\r\n", m.method, m.uri)
	} else {
		fmt.Fprintf(&b, "SIP/2.0 %d %s\r\n", m.status, m.reason)
	}
	for _, h := range m.headers {
		b.WriteString(h.name)
		b.WriteString(": ")
		b.WriteString(h.value)
		b.WriteString("\r\n")
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n", len(m.body))
	b.Write(m.body)
	return b.Bytes()
}

var errSIP = errors.New("not a SIP message")

// unmarshal reads the next message from b and says how many bytes it took; 0 means that more bytes are needed. On a stream
// the length is that of Content-Length and nothing else (overview §2).
func (m *message) unmarshal(b []byte) (int, error) {
	skip := 0
	for bytes.HasPrefix(b[skip:], []byte("\r\n")) {
		skip += 2 // RFC 3261 §7.5: empty lines before the start line
	}
	rest := b[skip:]
	end := bytes.Index(rest, []byte("\r\n\r\n"))
	if end < 0 {
		if len(rest) > maxHead {
			return 0, fmt.Errorf("%w: no end of headers within %d bytes", errSIP, maxHead)
		}
		return 0, nil
	}
	if end > maxHead {
		return 0, fmt.Errorf("%w: headers of %d bytes", errSIP, end)
	}
	*m = message{}
	lines := strings.Split(string(rest[:end]), "\r\n")
	if err := m.startLine(lines[0]); err != nil {
		return 0, err
	}
	for _, line := range lines[1:] {
		if line != "" && (line[0] == ' ' || line[0] == '\t') && len(m.headers) > 0 {
			h := &m.headers[len(m.headers)-1]
			h.value = strings.TrimSpace(h.value + " " + strings.TrimSpace(line))
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		name = strings.TrimRight(name, " \t")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return 0, fmt.Errorf("%w: header line %q", errSIP, clip(line))
		}
		if long, ok := compact[strings.ToLower(name)]; ok {
			name = long
		}
		m.headers = append(m.headers, headerField{name, strings.TrimSpace(value)})
	}
	if !m.has("Content-Length") {
		return 0, fmt.Errorf("%w: no Content-Length", errSIP)
	}
	n, err := strconv.Atoi(m.get("Content-Length"))
	if err != nil || n < 0 || n > maxBody {
		return 0, fmt.Errorf("%w: Content-Length %q", errSIP, clip(m.get("Content-Length")))
	}
	for _, need := range []string{"Via", "From", "To", "Call-ID", "CSeq"} {
		if !m.has(need) {
			return 0, fmt.Errorf("%w: no %s", errSIP, need)
		}
	}
	if num, method := m.cseq(); num < 0 || method == "" || (m.request() && method != m.method) {
		return 0, fmt.Errorf("%w: CSeq %q", errSIP, clip(m.get("CSeq")))
	}
	total := skip + end + 4 + n
	if len(b) < total {
		return 0, nil
	}
	m.body = bytes.Clone(b[total-n : total])
	return total, nil
}

func (m *message) startLine(line string) error {
	if v, ok := strings.CutPrefix(line, "SIP/2.0 "); ok {
		code, reason, _ := strings.Cut(v, " ")
		n, err := strconv.Atoi(code)
		if err != nil || len(code) != 3 || n < 100 || n > 699 {
			return fmt.Errorf("%w: status line %q", errSIP, clip(line))
		}
		m.status, m.reason = n, reason
		return nil
	}
	f := strings.Split(line, " ")
	if len(f) != 3 || f[2] != "SIP/2.0" || f[0] == "" || f[1] == "" {
		return fmt.Errorf("%w: start line %q", errSIP, clip(line))
	}
	m.method, m.uri = f[0], f[1]
	return nil
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// answer makes a response to a request, with the headers that RFC 3261 §8.2.6 copies. tag is added to To where it has none.
func (m *message) answer(status int, reason, tag string) *message {
	r := &message{status: status, reason: reason}
	for _, h := range m.headers {
		switch strings.ToLower(h.name) {
		case "via", "from", "call-id", "cseq":
			r.headers = append(r.headers, h)
		case "to":
			if tag != "" && nameAddrOf(h.value).param("tag") == "" {
				h.value += ";tag=" + tag
			}
			r.headers = append(r.headers, h)
		}
	}
	return r
}

// splitOutside splits at sep outside of quotes and angle brackets, and trims.
func splitOutside(s string, sep byte) []string {
	var out []string
	start, quote, angle := 0, false, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote && c == '\\':
			i++
		case c == '"':
			quote = !quote
		case quote:
		case c == '<':
			angle++
		case c == '>' && angle > 0:
			angle--
		case c == sep && angle == 0:
			if v := strings.TrimSpace(s[start:i]); v != "" {
				out = append(out, v)
			}
			start = i + 1
		}
	}
	if v := strings.TrimSpace(s[min(start, len(s)):]); v != "" {
		out = append(out, v)
	}
	return out
}

// nameAddr is a From, To, Contact, Refer-To or Remote-Party-ID value.
type nameAddr struct {
	display string
	uri     string
	params  []string // after the >, each name or name=value
}

func nameAddrOf(s string) nameAddr {
	var a nameAddr
	open := -1
	quote := false
	for i := 0; i < len(s) && open < 0; i++ {
		switch {
		case quote && s[i] == '\\':
			i++
		case s[i] == '"':
			quote = !quote
		case !quote && s[i] == '<':
			open = i
		}
	}
	if open < 0 {
		// addr-spec form: parameters belong to the header (RFC 3261 §20.10).
		uri, params, _ := strings.Cut(strings.TrimSpace(s), ";")
		a.uri, a.params = strings.TrimSpace(uri), splitOutside(params, ';')
		return a
	}
	a.display = unquote(strings.TrimSpace(s[:open]))
	rest := s[open+1:]
	end := strings.IndexByte(rest, '>')
	if end < 0 {
		a.uri = rest
		return a
	}
	a.uri = strings.TrimSpace(rest[:end])
	a.params = splitOutside(rest[end+1:], ';')
	return a
}

func unquote(s string) string {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	s = s[1 : len(s)-1]
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// param is the value of a header parameter, without quotes.
func (a nameAddr) param(name string) string {
	for _, p := range a.params {
		k, v, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(k), name) {
			return unquote(strings.TrimSpace(v))
		}
	}
	return ""
}

// sipURI are the parts of a sip or sips URI.
type sipURI struct {
	scheme, user, host string
	port               int // 0: none
	params             string
	headers            string
}

func sipURIOf(s string) (sipURI, error) {
	var u sipURI
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok || !(strings.EqualFold(scheme, "sip") || strings.EqualFold(scheme, "sips")) {
		return u, fmt.Errorf("no SIP URI: %q", clip(s))
	}
	u.scheme = strings.ToLower(scheme)
	if i := strings.IndexByte(rest, '?'); i >= 0 {
		rest, u.headers = rest[:i], rest[i+1:]
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		u.user, rest = rest[:i], rest[i+1:]
		u.user, _, _ = strings.Cut(u.user, ";")
	}
	hostport, params, _ := strings.Cut(rest, ";")
	u.params = params
	u.host = hostport
	if i := strings.LastIndexByte(hostport, ':'); i >= 0 && !strings.HasSuffix(hostport, "]") {
		n, err := strconv.Atoi(hostport[i+1:])
		if err != nil || n < 1 || n > 65535 {
			return u, fmt.Errorf("port in %q", clip(s))
		}
		u.host, u.port = hostport[:i], n
	}
	if u.host == "" {
		return u, fmt.Errorf("no host in %q", clip(s))
	}
	return u, nil
}

// userOf is the user part of a URI, empty if there is none.
func userOf(uri string) string {
	u, err := sipURIOf(uri)
	if err != nil {
		return ""
	}
	return u.user
}
