package phone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Light is a phone that registers and keeps its registration, and does nothing else: one connection, one goroutine. It is
// for load; it believes whatever server it meets.
type Light struct {
	Device, Model  string
	Number         string
	User, Password string // digest; User is the number when empty
	Server         netip.AddrPort
	Host           string // in URIs; the server's address when empty
	Local          netip.Addr
	TLS            *tls.Config // nil is TCP
	Expires        int         // asked for; 3600 when 0
	Patience       time.Duration

	mu      sync.Mutex
	conn    net.Conn
	local   netip.AddrPort
	callID  string
	fromTag string
	cseq    int
	pend    []byte
	buf     []byte
	served  int
	granted time.Duration
	closed  bool
}

// Register connects and registers. It may be called again after an error.
func (l *Light) Register(ctx context.Context) error {
	m, ok := models[l.Model]
	if !ok {
		return fmt.Errorf("model %q is not known", l.Model)
	}
	if l.Patience == 0 {
		l.Patience = 32 * time.Second
	}
	n := hostNetwork{local: l.Local}
	ctx, cancel := context.WithTimeout(ctx, l.Patience)
	defer cancel()
	conn, err := n.DialTCP(ctx, l.Server)
	if err != nil {
		return err
	}
	if l.TLS != nil {
		c := tls.Client(conn, l.TLS)
		if err := c.HandshakeContext(ctx); err != nil {
			conn.Close()
			return fmt.Errorf("TLS: %w", err)
		}
		conn = c
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		conn.Close()
		return errStopped
	}
	l.conn, l.local, l.pend = conn, addrPortOf(conn.LocalAddr()), nil
	l.mu.Unlock()
	mac := strings.ToLower(l.Device[3:])
	l.callID = fmt.Sprintf("%s-%s0002-%s-%s@%s", mac[:8], mac[8:], hexString(4), hexString(4), l.local.Addr())
	l.fromTag, l.cseq = mac+hexString(6), 100
	if l.buf == nil {
		l.buf = make([]byte, 4096)
	}
	if err := l.register(m, true); err != nil {
		l.drop()
		return err
	}
	return nil
}

// register sends REGISTER, with credentials when challenged, and answers whatever the server sends in between.
func (l *Light) register(m manners, first bool) error {
	auth := ""
	user := l.User
	if user == "" {
		user = l.Number
	}
	host := l.Host
	if host == "" {
		host = l.Server.Addr().String()
	}
	transport := "tcp"
	if l.TLS != nil {
		transport = "tls"
	}
	expires := l.Expires
	if expires == 0 {
		expires = 3600
	}
	p := &Phone{man: m, mac: strings.ToLower(l.Device[3:]), opt: Options{Device: l.Device}}
	for range 2 {
		l.cseq++
		r := &message{method: "REGISTER", uri: "sip:" + host}
		branch := "z9hG4bK" + hexString(6)
		r.add("Via", "SIP/2.0/%s %s;branch=%s", strings.ToUpper(transport), l.local, branch)
		r.add("From", "<sip:%s@%s>;tag=%s", l.Number, host, l.fromTag)
		r.add("To", "<sip:%s@%s>", l.Number, host)
		r.add("Call-ID", "%s", l.callID)
		r.add("Max-Forwards", "70")
		r.add("CSeq", "%d REGISTER", l.cseq)
		r.add("User-Agent", "%s", m.agent)
		r.add("Contact", "<sip:%s@%s;transport=%s>%s", l.Number, l.local, transport, p.contactParams())
		r.add("Supported", "%s", p.supported())
		r.add("Expires", "%d", expires)
		if auth != "" {
			r.add("Authorization", "%s", auth)
		}
		if first {
			r.add("Reason", "%s", p.reasonHeader(reasonInitialized))
			r.add("Mime-Version", "1.0").with("multipart/mixed;boundary=uniqueBoundary", registerBody)
		}
		if err := l.send(r); err != nil {
			return err
		}
		res, err := l.await(branch, time.Now().Add(l.Patience))
		if err != nil {
			return err
		}
		switch {
		case res.status == 200:
			l.granted = time.Duration(expires) * time.Second
			if n, err := strconv.Atoi(res.get("Expires")); err == nil {
				l.granted = time.Duration(n) * time.Second
			}
			return nil
		case res.status == 401 && auth == "":
			ch, err := challengeOf(res.get("WWW-Authenticate"))
			if err != nil {
				return err
			}
			auth = ch.authorization(user, l.Password, "REGISTER", r.uri, hexString(4))
		default:
			return fmt.Errorf("REGISTER: %d %s", res.status, res.reason)
		}
	}
	return errors.New("REGISTER: challenged again")
}

func (l *Light) send(m *message) error {
	_ = l.conn.SetWriteDeadline(time.Now().Add(l.Patience))
	_, err := l.conn.Write(m.marshal())
	return err
}

// await serves the connection until the answer to a branch comes, or the deadline (branch empty: until the deadline only).
func (l *Light) await(branch string, until time.Time) (*message, error) {
	_ = l.conn.SetReadDeadline(until)
	for {
		for len(l.pend) > 0 {
			m := new(message)
			n, err := m.unmarshal(l.pend)
			if err != nil {
				return nil, err
			}
			if n == 0 {
				break
			}
			l.pend = append(l.pend[:0], l.pend[n:]...)
			switch {
			case !m.request() && branch != "" && branchOf(m) == branch && m.status >= 200:
				return m, nil
			case m.request() && m.method != "ACK":
				l.served++
				res := m.answer(200, "OK", "")
				switch m.method {
				case "REFER":
					res = m.answer(202, "Accepted", "")
				case "INVITE":
					res = m.answer(486, "Busy Here", "l"+hexString(4))
				}
				if err := l.send(res); err != nil {
					return nil, err
				}
			}
		}
		if cap(l.pend) > 16<<10 && len(l.pend) == 0 {
			l.pend = nil
		}
		n, err := l.conn.Read(l.buf)
		if err != nil {
			return nil, err
		}
		l.pend = append(l.pend, l.buf[:n]...)
	}
}

// Serve answers the server and refreshes the registration until ctx ends or the connection is lost.
func (l *Light) Serve(ctx context.Context) error {
	defer context.AfterFunc(ctx, l.drop)()
	for {
		wait := l.granted - 5*time.Second
		if wait <= 0 {
			wait = time.Second
		}
		_, err := l.await("", time.Now().Add(wait))
		var ne net.Error
		if ctx.Err() != nil {
			return nil
		}
		if !errors.As(err, &ne) || !ne.Timeout() {
			return err
		}
		if err := l.register(models[l.Model], false); err != nil {
			return err
		}
	}
}

// Served counts the requests of the server that were answered.
func (l *Light) Served() int { return l.served }

func (l *Light) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		l.conn.Close()
	}
}

// Close ends the connection for good.
func (l *Light) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.drop()
}
