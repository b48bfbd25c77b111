package main

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// message is a SIP message as the generator needs it: its start line taken apart, its headers as text that is searched when
// asked. It is no parser for hostile input; both ends are ours.
type message struct {
	method string // of a request
	code   int    // of an answer
	lines  []string
	body   []byte
}

// readMessage reads the next message of a connection.
func readMessage(r *bufio.Reader) (*message, error) {
	m := &message{}
	length := 0
	for {
		raw, err := r.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		raw = bytes.TrimRight(raw, "\r\n")
		if len(raw) == 0 {
			if m.lines == nil {
				continue // between messages
			}
			break
		}
		line := string(raw)
		if v, ok := headerValue(line, "Content-Length"); ok {
			if length, err = strconv.Atoi(v); err != nil {
				return nil, err
			}
		}
		m.lines = append(m.lines, line)
	}
	first := m.lines[0]
	if rest, ok := strings.CutPrefix(first, "SIP/2.0 "); ok {
		code, _, _ := strings.Cut(rest, " ")
		m.code, _ = strconv.Atoi(code)
	} else {
		m.method, _, _ = strings.Cut(first, " ")
	}
	if length > 0 {
		m.body = make([]byte, length)
		if _, err := io.ReadFull(r, m.body); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func headerValue(line, name string) (string, bool) {
	if len(line) <= len(name) || line[len(name)] != ':' || !strings.EqualFold(line[:len(name)], name) {
		return "", false
	}
	return strings.TrimSpace(line[len(name)+1:]), true
}

// header returns the first header of a name.
func (m *message) header(name string) string {
	for _, l := range m.lines[1:] {
		if v, ok := headerValue(l, name); ok {
			return v
		}
	}
	return ""
}

// headers returns every header of a name, in order.
func (m *message) headers(name string) (all []string) {
	for _, l := range m.lines[1:] {
		if v, ok := headerValue(l, name); ok {
			all = append(all, v)
		}
	}
	return all
}

// uriOf takes the URI out of the angle brackets of a header value.
func uriOf(value string) string {
	_, after, ok := strings.Cut(value, "<")
	if !ok {
		return value
	}
	uri, _, _ := strings.Cut(after, ">")
	return uri
}

// answer builds the answer to a request. tag is added to a To without one.
func (m *message) answer(code int, reason, tag string, body string, headers ...string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "SIP/2.0 %d %s\r\n", code, reason)
	for _, l := range m.lines[1:] {
		name, _, _ := strings.Cut(l, ":")
		switch strings.ToLower(name) {
		case "via", "from", "call-id", "cseq", "record-route":
			b.WriteString(l)
		case "to":
			b.WriteString(l)
			if !strings.Contains(l, ";tag=") {
				b.WriteString(";tag=" + tag)
			}
		default:
			continue
		}
		b.WriteString("\r\n")
	}
	finish(&b, body, headers)
	return b.Bytes()
}

func finish(b *bytes.Buffer, body string, headers []string) {
	for _, h := range headers {
		b.WriteString(h)
		b.WriteString("\r\n")
	}
	fmt.Fprintf(b, "Content-Length: %d\r\n\r\n%s", len(body), body)
}

// challenge is what a 401 asks for.
type challenge struct {
	realm, nonce string
	qop          bool
	nc           int
}

// challengeOf takes the MD5 challenge of a 401.
func challengeOf(m *message) (*challenge, error) {
	for _, v := range m.headers("WWW-Authenticate") {
		c := &challenge{realm: parameter(v, "realm"), nonce: parameter(v, "nonce"), qop: parameter(v, "qop") != ""}
		if a := parameter(v, "algorithm"); c.nonce != "" && (a == "" || strings.EqualFold(a, "MD5")) {
			return c, nil
		}
	}
	return nil, errors.New("no MD5 challenge")
}

// parameter finds name=value or name="value".
func parameter(s, name string) string {
	for rest := s; ; {
		i := strings.Index(rest, name+"=")
		if i < 0 {
			return ""
		}
		if i > 0 && rest[i-1] != ' ' && rest[i-1] != ',' {
			rest = rest[i+len(name):]
			continue
		}
		v := rest[i+len(name)+1:]
		if strings.HasPrefix(v, `"`) {
			v, _, _ = strings.Cut(v[1:], `"`)
			return v
		}
		v, _, _ = strings.Cut(v, ",")
		return strings.TrimSpace(v)
	}
}

// authorization answers a challenge (RFC 2617).
func (c *challenge) authorization(method, uri, user, password string) string {
	a1, a2 := hash(user+":"+c.realm+":"+password), hash(method+":"+uri)
	head := fmt.Sprintf(`Authorization: Digest username="%s",realm="%s",uri="%s",nonce="%s",algorithm=MD5`, user, c.realm, uri, c.nonce)
	if !c.qop {
		return head + `,response="` + hash(a1+":"+c.nonce+":"+a2) + `"`
	}
	c.nc++
	const cnonce = "0a4f113b"
	nc := fmt.Sprintf("%08x", c.nc)
	return head + `,qop=auth,cnonce="` + cnonce + `",nc=` + nc + `,response="` + hash(a1+":"+c.nonce+":"+nc+":"+cnonce+":auth:"+a2) + `"`
}

func hash(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}
