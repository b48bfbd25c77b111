package anyconnect

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"ringfence/internal/legacytls"
	"ringfence/vpn/session"
)

const (
	handshakeTime = 15 * time.Second
	requestTime   = 60 * time.Second // to send a request, and to wait for the next one: a person may be typing
	answerTime    = 15 * time.Second
	maxHead       = 16 << 10
	maxBody       = 64 << 10
	maxRequests   = 64 // on one connection
)

// conn is one TCP connection until it ends, or becomes a channel.
type conn struct {
	s     *Server
	wire  *wire
	tls   legacytls.TLSConn
	br    *bufio.Reader
	limit io.LimitedReader
	peer  netip.AddrPort
	leaf  []byte // our certificate, DER
	place place  // guarded by waiting.mu

	ident *certIdentity // of the client certificate, once looked at
}

func (c *conn) close() { c.wire.Conn.Close() }

// serve runs the connection.
func (c *conn) serve(ctx context.Context) {
	stop := context.AfterFunc(ctx, c.close)
	defer stop()
	c.wire.SetDeadline(time.Now().Add(handshakeTime))
	if cert := c.s.o.Certificate(); cert != nil && len(cert.Certificate) > 0 {
		c.leaf = cert.Certificate[0]
	}
	var err error
	if c.tls, err = legacytls.Accept(ctx, c.wire, c.s.hello.modern, c.s.hello.old); err != nil {
		c.s.log.Debug("VPN TLS handshake", "peer", c.peer, "err", err)
		return
	}
	c.s.handshakes.Add(1)
	c.limit.R = c.tls
	c.br = bufio.NewReaderSize(&c.limit, 4096)
	for range maxRequests {
		again, err := c.request(ctx)
		if err != nil && !errors.Is(err, io.EOF) {
			c.s.log.Debug("VPN request", "peer", c.peer, "err", err)
		}
		if err != nil || !again {
			return
		}
	}
}

// message is one request with its body.
type message struct {
	*http.Request
	body []byte
}

// read reads one request within bounds.
func (c *conn) read() (*message, error) {
	c.wire.SetDeadline(time.Now().Add(requestTime))
	c.limit.N = maxHead
	req, err := readRequest(c.br)
	if err != nil {
		return nil, err
	}
	m := &message{Request: req}
	if req.Method == http.MethodConnect {
		return m, nil
	}
	if req.ContentLength > maxBody {
		return m, errTooLarge
	}
	c.limit.N = maxBody + maxHead // chunk heads count too
	if m.body, err = io.ReadAll(io.LimitReader(req.Body, maxBody+1)); err != nil {
		return m, err
	}
	if len(m.body) > maxBody {
		return m, errTooLarge
	}
	return m, nil
}

var errTooLarge = errors.New("request body too large")

// readRequest parses the head of a request. It exists apart to be fuzzed.
func readRequest(br *bufio.Reader) (*http.Request, error) {
	req, err := http.ReadRequest(br)
	if err != nil {
		return nil, err
	}
	if !req.ProtoAtLeast(1, 0) || req.ProtoMajor != 1 {
		return nil, fmt.Errorf("protocol %q", req.Proto)
	}
	return req, nil
}

// request serves one request; again tells that another may follow.
func (c *conn) request(ctx context.Context) (again bool, err error) {
	m, err := c.read()
	if err != nil {
		switch {
		case errors.Is(err, errTooLarge):
			return false, c.answer(nil, answer{status: "413 Request Entity Too Large", close: true})
		case m == nil && isBadRequest(err):
			return false, errors.Join(err, c.answer(nil, answer{status: "400 Bad Request", close: true}))
		}
		return false, err
	}
	if m.Method == http.MethodConnect {
		return false, c.connect(ctx, m)
	}
	a := c.route(ctx, m)
	if m.Close || m.ProtoMinor == 0 {
		a.close = true
	}
	return !a.close, c.answer(m, a)
}

// isBadRequest tells faults of the request from faults of the connection.
func isBadRequest(err error) bool {
	s := err.Error()
	return strings.Contains(s, "malformed") || strings.Contains(s, "invalid") || strings.Contains(s, "bad ") || strings.Contains(s, "protocol")
}

// answer is an HTTP answer.
type answer struct {
	status  string   // "200 OK"
	headers []string // whole lines, spelled as they go out
	kind    string   // Content-Type; none when empty
	body    string
	close   bool
}

// answer writes a. Header names are spelled as clients compare them.
func (c *conn) answer(m *message, a answer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %s\r\n", a.status)
	if a.close {
		b.WriteString("Connection: close\r\n")
	} else {
		b.WriteString("Connection: Keep-Alive\r\n")
	}
	if a.kind != "" {
		fmt.Fprintf(&b, "Content-Type: %s\r\n", a.kind)
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\nX-Transcend-Version: 1\r\nCache-Control: no-store\r\n", len(a.body))
	for _, h := range a.headers {
		b.WriteString(h + "\r\n")
	}
	b.WriteString("\r\n")
	if m == nil || m.Method != http.MethodHead {
		b.WriteString(a.body)
	}
	c.wire.SetWriteDeadline(time.Now().Add(answerTime))
	_, err := c.tls.Write(b.Bytes())
	return err
}

// leafHash is the SHA-1 of the certificate that this connection showed, in upper-case hexadecimal as clients compare it.
func (c *conn) leafHash() string {
	sum := sha1.Sum(c.leaf)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// agent is the User-Agent, bounded and printable.
func agent(m *message) string {
	return printable(m.UserAgent(), 120)
}

func printable(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	if len(s) > n {
		s = s[:n]
	}
	return s
}

// isPhone tells a phone by its User-Agent (§4).
func isPhone(m *message) bool { return strings.HasPrefix(m.UserAgent(), "Cisco SVC IPPhone Client") }

// sessionOf finds the session of the webvpn cookie.
func (c *conn) sessionOf(m *message) (*session.Session, bool) {
	k, err := m.Cookie("webvpn")
	if err != nil {
		return nil, false
	}
	return c.s.o.Sessions.ByToken(k.Value)
}
