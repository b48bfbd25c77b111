package phone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"ringfence/trust"
)

// link is the one connection to the call server. Everything goes over it in both directions (overview §2); what it reads is
// handled in order by one goroutine.
type link struct {
	p      *Phone
	conn   net.Conn
	secure bool
	local  netip.AddrPort
	remote netip.AddrPort
	member Member

	wmu sync.Mutex // one message at a time

	mu      sync.Mutex
	pending map[string]*clientTx // by branch and method
	err     error
	split   int // messages that came in more than one TLS record

	done chan struct{}
}

var errLinkClosed = errors.New("connection to the call server is closed")

const writePatience = 10 * time.Second

// connect opens the connection to one member, by TCP or TLS as the configuration says.
func (p *Phone) connect(ctx context.Context, c *Config, m Member) (*link, error) {
	host, err := p.net().Lookup(ctx, m.Host)
	if err != nil {
		return nil, err
	}
	l := &link{p: p, member: m, secure: c.Transport == 3, pending: make(map[string]*clientTx), done: make(chan struct{})}
	if l.secure {
		l.remote = netip.AddrPortFrom(host, uint16(m.SecurePort))
		conn, err := p.dialTLS(ctx, StepRegister, l.remote, trust.CCM, "call server", true)
		if err != nil {
			return nil, err
		}
		l.conn = conn
	} else {
		l.remote = netip.AddrPortFrom(host, uint16(m.SIPPort))
		ctx, cancel := context.WithTimeout(ctx, p.opt.Timers.Connect)
		defer cancel()
		if l.conn, err = p.net().DialTCP(ctx, l.remote); err != nil {
			return nil, err
		}
	}
	l.local = addrPortOf(l.conn.LocalAddr())
	return l, nil
}

func (l *link) transport() string {
	if l.secure {
		return "tls"
	}
	return "tcp"
}

// run reads messages until the connection ends.
func (l *link) run(context.Context) {
	var pend []byte
	buf := make([]byte, 17<<10)
	for {
		n, err := l.conn.Read(buf)
		if err != nil {
			l.close(err)
			return
		}
		partial := len(pend) > 0
		pend = append(pend, buf[:n]...)
		for len(pend) > 0 {
			m := new(message)
			used, err := m.unmarshal(pend)
			if err != nil {
				l.p.refused(StepSIP, refuse(Message, err, "connection is closed"))
				l.close(err)
				return
			}
			if used == 0 {
				break
			}
			if partial && l.secure {
				l.mu.Lock()
				l.split++
				l.mu.Unlock()
			}
			partial = false
			pend = pend[used:]
			l.receive(m)
		}
		if len(pend) == 0 {
			pend = nil
		}
	}
}

func (l *link) receive(m *message) {
	l.p.keepWire(m)
	if m.request() {
		l.p.serve(l, m)
		return
	}
	_, method := m.cseq()
	l.mu.Lock()
	tx := l.pending[txKey(branchOf(m), method)]
	l.mu.Unlock()
	if tx == nil {
		switch {
		case method == "INVITE" && m.status/100 == 2:
			l.p.repeatAck(m)
		case method != "INVITE":
			l.p.remark("%d to a %s that nobody sent", m.status, clip(method))
		}
		return
	}
	tx.receive(m)
}

func branchOf(m *message) string {
	via := m.list("Via")
	if len(via) == 0 {
		return ""
	}
	for _, f := range splitOutside(via[0], ';')[1:] {
		if k, v, _ := strings.Cut(f, "="); strings.EqualFold(strings.TrimSpace(k), "branch") {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func txKey(branch, method string) string { return branch + " " + method }

// send writes one message.
func (l *link) send(m *message) error {
	b := m.marshal()
	l.wmu.Lock()
	defer l.wmu.Unlock()
	select {
	case <-l.done:
		return errLinkClosed
	default:
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(writePatience))
	if _, err := l.conn.Write(b); err != nil {
		return fmt.Errorf("send %s: %w", m.method, err)
	}
	return nil
}

// close ends the connection and every transaction on it.
func (l *link) close(err error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = err
	pending := l.pending
	l.pending = make(map[string]*clientTx)
	l.mu.Unlock()
	close(l.done)
	_ = l.conn.Close()
	for _, tx := range pending {
		tx.fail(errLinkClosed)
	}
	l.p.linkLost(l, err)
}

// via makes the Via value of a new transaction. Phones write no rport (overview §2).
func (l *link) via() (value, branch string) {
	branch = "z9hG4bK" + hexString(4)
	return fmt.Sprintf("SIP/2.0/%s %s;branch=%s", strings.ToUpper(l.transport()), l.local, branch), branch
}

// clientTx is a request that waits for its final response. On a stream nothing is sent again; patience is all there is.
type clientTx struct {
	l   *link
	key string
	on  func(res *message, err error)

	mu    sync.Mutex
	timer *time.Timer
	ended bool
}

// start sends a request whose first header is to be its Via and calls on with each response, provisional and final, in the
// reader's goroutine, or once with an error.
func (l *link) start(req *message, on func(res *message, err error)) error {
	value, branch := l.via()
	req.headers = append([]headerField{{"Via", value}}, req.headers...)
	tx := &clientTx{l: l, key: txKey(branch, req.method), on: on}
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return errLinkClosed
	}
	l.pending[tx.key] = tx
	l.mu.Unlock()
	tx.mu.Lock()
	tx.timer = time.AfterFunc(l.p.opt.Timers.Transaction, func() { tx.fail(errNoAnswer) })
	tx.mu.Unlock()
	if err := l.send(req); err != nil {
		tx.finish()
		return err
	}
	return nil
}

var errNoAnswer = errors.New("no answer within the transaction's time")

// finish takes the transaction off the link; it says false when that had happened before.
func (tx *clientTx) finish() bool {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if tx.ended {
		return false
	}
	tx.ended = true
	tx.timer.Stop()
	tx.l.mu.Lock()
	delete(tx.l.pending, tx.key)
	tx.l.mu.Unlock()
	return true
}

func (tx *clientTx) fail(err error) {
	if tx.finish() {
		tx.on(nil, err)
	}
}

func (tx *clientTx) receive(m *message) {
	if m.status >= 200 {
		if tx.finish() {
			tx.on(m, nil)
		}
		return
	}
	tx.mu.Lock()
	if !tx.ended && strings.HasSuffix(tx.key, " INVITE") {
		tx.timer.Stop() // RFC 3261 §17.1.1.2: the first provisional response ends timer B
	}
	tx.mu.Unlock()
	tx.on(m, nil)
}

// roundTrip sends a request and waits for its final response. final is called with it in the reader's goroutine, so before
// anything that the server has sent later is looked at.
func (l *link) roundTrip(ctx context.Context, req *message, final ...func(res *message)) (*message, error) {
	type result struct {
		res *message
		err error
	}
	got := make(chan result, 1)
	err := l.start(req, func(res *message, err error) {
		if err != nil || res.status >= 200 {
			for _, f := range final {
				if err == nil {
					f(res)
				}
			}
			got <- result{res, err}
		}
	})
	if err != nil {
		return nil, err
	}
	select {
	case r := <-got:
		if r.err != nil {
			return nil, fmt.Errorf("%s: %w", req.method, r.err)
		}
		return r.res, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", req.method, ctx.Err())
	}
}

// authorize looks at the answer to a request without credentials. For a challenge that this phone can answer it gives the
// Authorization value; ok is false when the response is final for the phone.
func (p *Phone) authorize(c *Config, res *message, method, uri string, tried bool) (value string, ok bool, err error) {
	switch {
	case res.status == 407:
		return "", false, p.refused(StepSIP, refuse(ChallengeMethod, nil, "%s: challenged with 407", method))
	case res.status != 401:
		return "", false, nil
	case tried:
		return "", false, p.refused(StepSIP, refuse(ChallengeAgain, nil, "%s: challenged again after credentials", method))
	}
	ch, err := challengeOf(res.get("WWW-Authenticate"))
	if err != nil {
		return "", false, p.refused(StepSIP, refuse(ChallengeMethod, err, "%s", method))
	}
	if len(ch.qop) > 0 {
		p.remark("challenge offers qop, which is not known to work on all models")
	}
	user, password := c.digest(p.man)
	return ch.authorization(user, password, method, uri, hexString(4)), true, nil
}

// exchange sends what build makes and once more with credentials when it is challenged. build gets the CSeq number and the
// Authorization value, empty at first; it must use the same Call-ID and From tag both times.
func (l *link) exchange(ctx context.Context, c *Config, build func(cseq int, auth string) *message, cseq func() int,
	final ...func(res *message)) (*message, error) {
	req := build(cseq(), "")
	res, err := l.roundTrip(ctx, req, final...)
	if err != nil {
		return nil, err
	}
	auth, again, err := l.p.authorize(c, res, req.method, req.uri, false)
	if err != nil || !again {
		return res, err
	}
	req = build(cseq(), auth)
	if res, err = l.roundTrip(ctx, req, final...); err != nil {
		return nil, err
	}
	if _, _, err := l.p.authorize(c, res, req.method, req.uri, true); err != nil {
		return res, err
	}
	return res, nil
}

// SplitMessages counts SIP messages that came in more than one TLS record. SIP is framed by Content-Length alone (overview
// §2), so the phone does not refuse them.
func (p *Phone) SplitMessages() int {
	p.mu.Lock()
	l := p.link
	p.mu.Unlock()
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.split
}
