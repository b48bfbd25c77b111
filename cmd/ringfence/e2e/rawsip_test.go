package e2e

import (
	"bufio"
	"crypto/md5"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// rawSIP is a connection that says exactly what a test wants: another vendor's phone, or somebody who pretends to be one.
type rawSIP struct {
	t      testing.TB
	conn   net.Conn
	r      *bufio.Reader
	server string
	line   string
	agent  string
	secret string
	seq    int
	queue  []*rawMessage // requests of the server that came while an answer was awaited; each was answered 200
	mute   bool          // answers nothing
}

// rawMessage is a message of the server.
type rawMessage struct {
	start  string
	header textproto.MIMEHeader
	body   string
}

func (m *rawMessage) status() int {
	var n int
	_, _ = fmt.Sscanf(m.start, "SIP/2.0 %d", &n)
	return n
}

// raw opens a connection over "tcp", "udp" or "tls" to the SIP port of d, from an address of its own.
func (d *daemon) raw(network, line, secret string, from int, certificate ...tls.Certificate) *rawSIP {
	d.t.Helper()
	s := &rawSIP{t: d.t, server: d.site.Address, line: line, secret: secret, agent: "Example/1.0"}
	local := d.site.phoneAddress(from)
	var err error
	switch network {
	case "udp":
		s.conn, err = net.DialUDP("udp", &net.UDPAddr{IP: local.AsSlice()}, &net.UDPAddr{IP: net.ParseIP(d.site.Address), Port: 5060})
	case "tls":
		var tcp net.Conn
		if tcp, err = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: local.AsSlice()}}).Dial("tcp", d.site.Address+":5061"); err == nil {
			s.conn = tls.Client(tcp, &tls.Config{InsecureSkipVerify: true, Certificates: certificate})
		}
	default:
		s.conn, err = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: local.AsSlice()}}).Dial("tcp", d.site.Address+":5060")
	}
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { s.conn.Close() })
	s.r = bufio.NewReaderSize(s.conn, 64<<10)
	return s
}

func (s *rawSIP) transport() string {
	if _, ok := s.conn.(*net.UDPConn); ok {
		return "UDP"
	}
	if _, ok := s.conn.(*tls.Conn); ok {
		return "TLS"
	}
	return "TCP"
}

func (s *rawSIP) contact() string {
	return fmt.Sprintf("<sip:%s@%s;transport=%s>", s.line, s.conn.LocalAddr(), strings.ToLower(s.transport()))
}

// send writes a request; extra are header lines, with From, To, Call-ID and Contact in them replacing the usual ones.
func (s *rawSIP) send(method, user, extra, body string) (callID string) {
	s.t.Helper()
	s.seq++
	target := "sip:" + s.server
	if user != "" {
		target = "sip:" + user + "@" + s.server
	}
	callID = fmt.Sprintf("raw-%d-%s", s.seq, strings.ReplaceAll(s.conn.LocalAddr().String(), ":", "-"))
	via := "" // rport as phones behind NAT write it, with an address that is not theirs
	if s.transport() == "UDP" {
		via = ";rport"
	}
	lines := []string{
		fmt.Sprintf("%s %s SIP/2.0", method, target),
		fmt.Sprintf("Via: SIP/2.0/%s 10.0.0.1:5060;branch=z9hG4bK%d%d%s", s.transport(), s.seq, time.Now().UnixNano(), via),
		"Max-Forwards: 70",
	}
	for _, h := range []string{"From: <sip:" + s.line + "@" + s.server + ">;tag=raw", "To: <" + target + ">", "Call-ID: " + callID, "Contact: " + s.contact(), "User-Agent: " + s.agent} {
		name, value, _ := strings.Cut(h, ": ")
		if m := regexp.MustCompile(`(?m)^` + name + `: (.*)$`).FindStringSubmatch(extra); m != nil {
			extra = strings.Replace(extra, m[0]+"\n", "", 1)
			value = m[1]
		}
		if name == "Call-ID" {
			callID = value
		}
		if value != "" {
			lines = append(lines, name+": "+value)
		}
	}
	lines = append(lines, fmt.Sprintf("CSeq: %d %s", s.seq, method))
	for l := range strings.SplitSeq(extra, "\n") {
		if l != "" {
			lines = append(lines, l)
		}
	}
	lines = append(lines, fmt.Sprintf("Content-Length: %d", len(body)), "", body)
	_ = s.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(s.conn, strings.Join(lines, "\r\n")); err != nil {
		s.t.Fatalf("%s: %v", method, err)
	}
	return callID
}

// read takes the next message.
func (s *rawSIP) read(within time.Duration) (*rawMessage, error) {
	_ = s.conn.SetReadDeadline(time.Now().Add(within))
	tp := textproto.NewReader(s.r)
	start, err := tp.ReadLine()
	for err == nil && start == "" { // answers to keep-alives
		start, err = tp.ReadLine()
	}
	if err != nil {
		return nil, err
	}
	m := &rawMessage{start: start}
	if m.header, err = tp.ReadMIMEHeader(); err != nil {
		return nil, err
	}
	n, _ := strconv.Atoi(m.header.Get("Content-Length"))
	b := make([]byte, n)
	_, err = io.ReadFull(s.r, b)
	m.body = string(b)
	return m, err
}

// rawPhone is a Cisco phone of the 7900 series on a connection of its own, registered, with what it was sent after that taken.
func (d *daemon) rawPhone(line, secret string, from int) *rawSIP {
	d.t.Helper()
	c := d.raw("tcp", line, secret, from)
	c.agent = "Cisco-CP7965G/9.4.2"
	c.register()
	return c
}

// goodbye ends the registration and the connection.
func (s *rawSIP) goodbye() {
	s.t.Helper()
	if res := s.do("REGISTER", "", "To: <sip:"+s.line+"@"+s.server+">\nExpires: 0\n", ""); res.status() != 200 {
		s.t.Errorf("goodbye of %s: %s", s.line, res.start)
	}
	s.conn.Close()
}

// until takes requests of the server until one is meant.
func (s *rawSIP) until(what string, ok func(*rawMessage) bool) *rawMessage {
	s.t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); {
		if m := s.next(time.Until(end)); ok(m) {
			return m
		}
	}
	s.t.Fatalf("line %s gets no %s", s.line, what)
	return nil
}

// answer answers a request of the server.
func (s *rawSIP) answer(m *rawMessage, code string, more ...string) {
	var b strings.Builder
	b.WriteString("SIP/2.0 " + code + "\r\n")
	for _, h := range []string{"Via", "From", "To", "Call-Id", "Cseq"} {
		for _, v := range m.header[h] {
			b.WriteString(h + ": " + v + "\r\n")
		}
	}
	for _, h := range more {
		b.WriteString(h + "\r\n")
	}
	b.WriteString("Content-Length: 0\r\n\r\n")
	_, _ = io.WriteString(s.conn, b.String())
}

// final waits for the final answer; requests in between are answered 200 and kept.
func (s *rawSIP) final(method string) *rawMessage {
	s.t.Helper()
	for {
		m, err := s.read(15 * time.Second)
		if err != nil {
			s.t.Fatalf("no answer to %s: %v", method, err)
		}
		if n := m.status(); n == 0 {
			s.keep(m)
		} else if n >= 200 && strings.HasSuffix(m.header.Get("Cseq"), method) {
			return m
		}
	}
}

func (s *rawSIP) keep(m *rawMessage) {
	if !s.mute {
		s.answer(m, "200 OK")
	}
	s.queue = append(s.queue, m)
}

// next returns the next request of the server.
func (s *rawSIP) next(within time.Duration) *rawMessage {
	s.t.Helper()
	deadline := time.Now().Add(within)
	for len(s.queue) == 0 {
		m, err := s.read(time.Until(deadline))
		if err != nil {
			s.t.Fatalf("the server says nothing: %v", err)
		}
		if m.status() == 0 {
			s.keep(m)
		}
	}
	m := s.queue[0]
	s.queue = s.queue[1:]
	return m
}

var challengeValue = regexp.MustCompile(`(\w+)="?([^",]*)"?`)

// do sends a request and once more with credentials when it is challenged; it returns the final answer.
func (s *rawSIP) do(method, user, extra, body string) *rawMessage {
	s.t.Helper()
	callID := s.send(method, user, extra, body)
	res := s.final(method)
	if res.status() != 401 {
		return res
	}
	uri := "sip:" + user + "@" + s.server
	if user == "" {
		uri = "sip:" + s.server
	}
	auth := ""
	for _, c := range res.header["Www-Authenticate"] {
		v := map[string]string{}
		for _, m := range challengeValue.FindAllStringSubmatch(strings.TrimPrefix(c, "Digest "), -1) {
			v[m[1]] = m[2]
		}
		if v["algorithm"] != "MD5" {
			continue
		}
		h := func(parts ...string) string {
			x := md5.Sum([]byte(strings.Join(parts, ":")))
			return hex.EncodeToString(x[:])
		}
		a1, a2 := h(s.line, v["realm"], s.secret), h(method, uri)
		response, more := h(a1, v["nonce"], a2), ""
		if v["qop"] != "" {
			response, more = h(a1, v["nonce"], "00000001", "abcd", "auth", a2), `, qop=auth, nc=00000001, cnonce="abcd"`
		}
		auth = fmt.Sprintf(`Authorization: Digest username="%s", realm="%s", nonce="%s", uri="%s", response="%s", algorithm=MD5%s`, s.line, v["realm"], v["nonce"], uri, response, more)
	}
	if auth == "" {
		s.t.Fatalf("%s: no MD5 challenge in %v", method, res.header["Www-Authenticate"])
	}
	if !regexp.MustCompile(`(?m)^Call-ID: `).MatchString(extra) {
		extra += "\nCall-ID: " + callID + "\n"
	}
	s.send(method, user, strings.TrimPrefix(extra, "\n")+"\n"+auth, body)
	return s.final(method)
}

// register registers the line and checks that it was taken.
func (s *rawSIP) register() {
	s.t.Helper()
	if res := s.do("REGISTER", "", "To: <sip:"+s.line+"@"+s.server+">\nExpires: 120\n", ""); res.status() != 200 {
		s.t.Fatalf("REGISTER of %s: %s", s.line, res.start)
	}
}
