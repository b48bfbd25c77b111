package siptest

import (
	"bufio"
	"crypto/md5"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"
)

// Wait is how long a test waits for something that is to come.
const Wait = 15 * time.Second

// Conn is a client's connection. It reads in the background; requests of the server are answered by Answer, when set, and
// kept for Next either way.
type Conn struct {
	T    testing.TB
	Net  net.Conn
	msgs chan sip.Message

	mu     sync.Mutex
	answer func(*sip.Request) int
	cseq   int
	closed error
}

// Dial connects over TCP, or TLS when a configuration is given, or UDP.
func Dial(t testing.TB, network, addr string, cfg *tls.Config) *Conn {
	t.Helper()
	c, err := net.DialTimeout(network, addr, Wait)
	if err != nil {
		t.Fatal(err)
	}
	if cfg != nil {
		tc := tls.Client(c, cfg)
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		c = tc
	}
	k := &Conn{T: t, Net: c, msgs: make(chan sip.Message, 10000), answer: func(*sip.Request) int { return 200 }}
	go k.read()
	t.Cleanup(func() { c.Close() })
	return k
}

// Close closes the connection.
func (c *Conn) Close() { c.Net.Close() }

// Local is the client's own address.
func (c *Conn) Local() string { return c.Net.LocalAddr().String() }

// Answer sets how requests are answered; 0 is not at all.
func (c *Conn) Answer(f func(*sip.Request) int) {
	c.mu.Lock()
	c.answer = f
	c.mu.Unlock()
}

func (c *Conn) read() {
	defer close(c.msgs)
	if _, ok := c.Net.(*net.UDPConn); ok {
		buf := make([]byte, 1<<16)
		for {
			n, err := c.Net.Read(buf)
			if err != nil {
				return
			}
			c.take(buf[:n])
		}
	}
	r := bufio.NewReader(c.Net)
	for {
		head, err := readHead(r)
		if err != nil {
			c.mu.Lock()
			c.closed = err
			c.mu.Unlock()
			return
		}
		length := 0
		for line := range strings.SplitSeq(head, "\r\n") {
			if name, v, _ := strings.Cut(line, ":"); textproto.CanonicalMIMEHeaderKey(name) == "Content-Length" {
				length, _ = strconv.Atoi(strings.TrimSpace(v))
			}
		}
		body := make([]byte, length)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		c.take(append([]byte(head), body...))
	}
}

func readHead(r *bufio.Reader) (string, error) {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		if b.Len() == 0 && line == "\r\n" {
			continue
		}
		b.WriteString(line)
		if line == "\r\n" {
			return b.String(), nil
		}
	}
}

func (c *Conn) take(b []byte) {
	m, err := sip.ParseMessage(b)
	if err != nil {
		c.T.Errorf("server sent what cannot be parsed: %v\n%s", err, b)
		return
	}
	if req, ok := m.(*sip.Request); ok && req.Method != sip.ACK {
		c.mu.Lock()
		code := c.answer(req)
		c.mu.Unlock()
		if code != 0 {
			res := sip.NewResponseFromRequest(req, code, "Answer", nil)
			fmt.Fprint(c.Net, res.String())
		}
	}
	select {
	case c.msgs <- m:
	default:
		c.T.Error("test does not read its messages")
	}
}

// Write sends raw SIP, see Wire.
func (c *Conn) Write(raw string) {
	c.T.Helper()
	if _, err := io.WriteString(c.Net, Wire(raw)); err != nil {
		c.T.Errorf("write: %v", err)
	}
}

// Next returns the next message, or nil when the connection has ended.
func (c *Conn) Next() sip.Message {
	c.T.Helper()
	select {
	case m := <-c.msgs:
		return m
	case <-time.After(Wait):
		c.T.Fatal("no message came")
		return nil
	}
}

// Response returns the next response, skipping requests.
func (c *Conn) Response() *sip.Response {
	c.T.Helper()
	for {
		m := c.Next()
		if m == nil {
			c.T.Fatal("connection closed while waiting for a response")
		}
		if res, ok := m.(*sip.Response); ok {
			return res
		}
	}
}

// Request returns the next request, skipping responses.
func (c *Conn) Request() *sip.Request {
	c.T.Helper()
	for {
		m := c.Next()
		if m == nil {
			c.T.Fatal("connection closed while waiting for a request")
		}
		if req, ok := m.(*sip.Request); ok {
			return req
		}
	}
}

// Closed waits until the server has closed the connection.
func (c *Conn) Closed() {
	c.T.Helper()
	deadline := time.After(Wait)
	for {
		select {
		case _, ok := <-c.msgs:
			if !ok {
				return
			}
		case <-deadline:
			c.T.Fatal("connection still open")
		}
	}
}

// Quiet fails if a message comes within d.
func (c *Conn) Quiet(d time.Duration) {
	c.T.Helper()
	select {
	case m, ok := <-c.msgs:
		if ok {
			c.T.Fatalf("unexpected message:\n%s", m.String())
		}
	case <-time.After(d):
	}
}

// Phone holds the credentials of a client.
type Phone struct {
	*Conn
	Line, Password, Device string
	CallID                 string
	Expires                int
	Body, Reason           string // of the first REGISTER
	UserAgent              string
}

// Raw builds a request of the phone. extra are header lines, each ended by a line end.
func (p *Phone) Raw(method, uri, to, extra, body string) string {
	p.mu.Lock()
	p.cseq++
	n := p.cseq
	p.mu.Unlock()
	proto := "TCP"
	switch p.Net.(type) {
	case *tls.Conn:
		proto = "TLS"
	case *net.UDPConn:
		proto = "UDP"
	}
	id := p.CallID
	if method != "REGISTER" {
		id = fmt.Sprintf("%s-%d", p.CallID, n)
	}
	contact := p.Contact()
	if p.Device != "" {
		contact += `;+u.sip!devicename.ccm.cisco.com="` + p.Device + `";+u.sip!model.ccm.cisco.com="683"`
	}
	head := fmt.Sprintf("%s %s SIP/2.0\nVia: SIP/2.0/%s %s;branch=z9hG4bK%s%d;rport\nMax-Forwards: 70\nFrom: <sip:%s@pbx.example.com>;tag=t%d\nTo: <%s>\n"+
		"Call-ID: %s\nCSeq: %d %s\nContact: %s\nUser-Agent: %s\n",
		method, uri, proto, p.Local(), strings.ReplaceAll(p.CallID, "@", ""), n, p.Line, n, to, id, n, method, contact, p.UserAgent)
	return head + extra + "\n" + body
}

// Contact is the phone's Contact URI in angle brackets.
func (p *Phone) Contact() string {
	proto := "tcp"
	switch p.Net.(type) {
	case *tls.Conn:
		proto = "tls"
	case *net.UDPConn:
		proto = "udp"
	}
	return "<sip:" + p.Line + "@" + p.Local() + ";transport=" + proto + ">"
}

// Register registers with digest and returns the final answer.
func (p *Phone) Register() *sip.Response {
	p.T.Helper()
	return p.Do("REGISTER", "sip:pbx.example.com", "sip:"+p.Line+"@pbx.example.com", fmt.Sprintf("Expires: %d\n%s", p.Expires, p.Reason), p.Body)
}

// Do sends a request, answers a challenge with MD5 as a Cisco phone does (with qop if offered), and returns the final answer.
func (p *Phone) Do(method, uri, to, extra, body string) *sip.Response {
	p.T.Helper()
	p.Write(p.Raw(method, uri, to, extra, body))
	res := p.Final()
	if res.StatusCode != 401 {
		return res
	}
	auth := ""
	for _, h := range res.GetHeaders("WWW-Authenticate") {
		if !strings.Contains(h.Value(), "SHA-256") {
			auth = Authorization(h.Value(), method, uri, p.Line, p.Password)
		}
	}
	p.Write(p.Raw(method, uri, to, extra+"Authorization: "+auth+"\n", body))
	return p.Final()
}

// Final returns the next final answer.
func (p *Phone) Final() *sip.Response {
	p.T.Helper()
	for {
		if res := p.Response(); res.StatusCode >= 200 {
			return res
		}
	}
}

// Authorization answers a challenge with MD5.
func Authorization(challenge, method, uri, user, password string) string {
	get := func(name string) string {
		_, v, ok := strings.Cut(challenge, name+`="`)
		if !ok {
			return ""
		}
		v, _, _ = strings.Cut(v, `"`)
		return v
	}
	h := func(parts ...string) string {
		sum := md5.Sum([]byte(strings.Join(parts, ":")))
		return hex.EncodeToString(sum[:])
	}
	realm, nonce := get("realm"), get("nonce")
	a1, a2 := h(user, realm, password), h(method, uri)
	if get("qop") == "" {
		return fmt.Sprintf(`Digest username="%s",realm="%s",uri="%s",response="%s",nonce="%s",algorithm=MD5`, user, realm, uri, h(a1, nonce, a2), nonce)
	}
	return fmt.Sprintf(`Digest username="%s", realm="%s", uri="%s", response="%s", nonce="%s", algorithm=MD5, qop=auth, nc=00000001, cnonce="c0ffee"`,
		user, realm, uri, h(a1, nonce, "00000001", "c0ffee", "auth", a2), nonce)
}
