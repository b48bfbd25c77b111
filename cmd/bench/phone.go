package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// client is one connection of a phone or an ordinary line, with as little behind it as gets right answers: thousands of them
// share two cores with what they measure. cmd/sepsim is the phone that checks.
type client struct {
	conn      net.Conn
	local     string // address:port
	transport string // TCP or TLS
	server    string // address that URIs name
	user      string // number and digest user
	cisco     string // device name; "" for an ordinary line

	onRequest func(*message)                 // may be nil: everything is answered with 200
	watch     atomic.Pointer[func(*message)] // the same, set while the client reads

	writing sync.Mutex
	answers chan *message
	failed  atomic.Pointer[error]
	asked   atomic.Int64 // requests of the server

	callID, tag string
	cseq        int
	auth        *challenge // of the last 401, when its nonce may be used again
}

const answerTime = 10 * time.Second

// dial connects from an address of its own. A configuration makes it TLS.
func dial(ctx context.Context, from netip.Addr, server string, port int, cfg *tls.Config) (*client, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: answerTime}
	conn, err := d.DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", server, port))
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, transport: "TCP", server: server, local: conn.LocalAddr().String(), answers: make(chan *message, 4)}
	if cfg != nil {
		t := tls.Client(conn, cfg)
		if err := t.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		c.conn, c.transport = t, "TLS"
	}
	return c, nil
}

// start reads until the connection ends.
func (c *client) start() {
	go func() {
		r := bufio.NewReaderSize(c.conn, 4096)
		for {
			m, err := readMessage(r)
			if err != nil {
				c.failed.Store(&err)
				close(c.answers)
				return
			}
			switch {
			case m.method == "":
				c.answers <- m
			case c.watch.Load() != nil:
				c.asked.Add(1)
				(*c.watch.Load())(m)
			case c.onRequest != nil:
				c.asked.Add(1)
				c.onRequest(m)
			default:
				c.asked.Add(1)
				c.ok(m)
			}
		}
	}()
}

// ok answers a request of the server.
func (c *client) ok(m *message) {
	switch m.method {
	case "ACK":
	case "REFER":
		c.write(m.answer(202, "Accepted", "b", ""))
	default:
		c.write(m.answer(200, "OK", "b", ""))
	}
}

func (c *client) write(b []byte) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if _, err := c.conn.Write(b); err != nil {
		c.failed.CompareAndSwap(nil, &err)
	}
}

// next waits for the next answer that is not 100.
func (c *client) next(ctx context.Context) (*message, error) {
	t := time.NewTimer(answerTime)
	defer t.Stop()
	for {
		select {
		case m, ok := <-c.answers:
			if !ok {
				return nil, fmt.Errorf("%s: connection: %w", c.user, *c.failed.Load())
			}
			if m.code != 100 {
				return m, nil
			}
		case <-t.C:
			return nil, fmt.Errorf("%s: no answer in %v", c.user, answerTime)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *client) close() { c.conn.Close() }

// contact is the URI that the server reaches the client at.
func (c *client) contact() string {
	return "sip:" + c.user + "@" + c.local + ";transport=" + map[string]string{"TCP": "tcp", "TLS": "tls"}[c.transport]
}

var branches atomic.Uint64

// request builds a request outside of REGISTER's and INVITE's particulars.
func (c *client) request(method, uri, from, to, callID string, cseq int, body string, headers ...string) []byte {
	var b bytes.Buffer
	b.Grow(1500)
	fmt.Fprintf(&b, "%s %s SIP/2.0\r\nVia: SIP/2.0/%s %s;branch=z9hG4bK%x\r\nFrom: %s\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: %d %s\r\nMax-Forwards: 70\r\n",
		method, uri, c.transport, c.local, branches.Add(1), from, to, callID, cseq, method)
	finish(&b, body, headers)
	return b.Bytes()
}

// Texts of a Cisco phone's REGISTER (sip-registration.md §2).
const (
	ciscoAgent     = "User-Agent: Cisco-CP8851/14.1.1"
	ciscoSupported = "Supported: replaces,join,sdp-anat,norefersub,resource-priority,extended-refer,X-cisco-callinfo,X-cisco-serviceuri," +
		"X-cisco-escapecodes,X-cisco-service-control,X-cisco-srtp-fallback,X-cisco-monrec,X-cisco-config,X-cisco-sis-7.0.0,X-cisco-xsi-8.5.1"
	ciscoOptions = "--uniqueBoundary\r\nContent-Type: application/x-cisco-remotecc-request+xml\r\n" +
		"Content-Disposition: session;handling=optional\r\n\r\n<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<x-cisco-remotecc-request>\r\n" +
		"<bulkregisterreq>\r\n<contact all=\"true\">\r\n<register></register>\r\n</contact>\r\n</bulkregisterreq>\r\n" +
		"</x-cisco-remotecc-request>\r\n--uniqueBoundary\r\nContent-Type: application/x-cisco-remotecc-request+xml\r\n" +
		"Content-Disposition: session;handling=optional\r\n\r\n<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<x-cisco-remotecc-request>\r\n" +
		"<optionsind>\r\n<combine max=\"6\">\r\n<remotecc><status></status></remotecc>\r\n<service-control></service-control>\r\n</combine>\r\n" +
		"<dialog usage=\"hook status\"><unot></unot><sub></sub></dialog>\r\n<presence usage=\"blf speed dial\"><unot></unot><sub></sub></presence>\r\n" +
		"<joinreq></joinreq>\r\n<cfwdall-anyline></cfwdall-anyline>\r\n</optionsind>\r\n</x-cisco-remotecc-request>\r\n--uniqueBoundary--\r\n"
)

// errAnswer is an answer that is none.
var errAnswer = errors.New("rejected")

// register does one registration or refresh: unless a nonce may be used again, that is a REGISTER, its 401, the REGISTER with
// credentials, its 200.
func (c *client) register(ctx context.Context) error {
	first := c.callID == ""
	if first {
		c.callID, c.tag = fmt.Sprintf("%x@%s", branches.Add(1), c.local), fmt.Sprintf("%x", branches.Add(1))
	}
	uri := "sip:" + c.server
	headers := make([]string, 0, 8)
	body := ""
	if c.cisco != "" {
		headers = append(headers, "Contact: <"+c.contact()+`>;+sip.instance="<urn:uuid:00000000-0000-0000-0000-`+c.cisco[3:]+
			`>";+u.sip!devicename.ccm.cisco.com="`+c.cisco+`";+u.sip!model.ccm.cisco.com="684"`, ciscoAgent, ciscoSupported, "Expires: 3600")
		if first {
			headers = append(headers, `Reason: SIP;cause=200;text="cisco-alarm:25 Name=`+c.cisco+
				` ActiveLoad=sip88xx.14-1-1-0001-136.loads InactiveLoad=sip88xx.12-8-1-0001-455.loads Last=initialized"`,
				"Mime-Version: 1.0", "Content-Type: multipart/mixed;boundary=uniqueBoundary")
			body = ciscoOptions
		}
	} else {
		headers = append(headers, "Contact: <"+c.contact()+">", "User-Agent: bench", "Expires: 3600")
	}
	for try := range 3 {
		sent := headers
		if c.auth != nil {
			sent = append(headers[:len(headers):len(headers)], c.auth.authorization("REGISTER", uri, c.user, password))
			if !c.auth.qop {
				c.auth = nil // good once
			}
		}
		c.cseq++
		c.write(c.request("REGISTER", uri, "<sip:"+c.user+"@"+c.server+">;tag="+c.tag, "<sip:"+c.user+"@"+c.server+">", c.callID, c.cseq, body, sent...))
		m, err := c.next(ctx)
		if err != nil {
			return err
		}
		switch {
		case m.code == 200:
			return nil
		case m.code == 401 && try < 2:
			if c.auth, err = challengeOf(m); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s: %w: REGISTER answered %s", c.user, errAnswer, m.lines[0])
		}
	}
	return errors.New("challenged again and again")
}

// forget drops the nonce, so that the next registration is challenged.
func (c *client) forget() { c.auth = nil }

// each runs f for 0 to n-1, so many at a time, and returns the first error.
func each(n, atOnce int, f func(i int) error) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range min(atOnce, n) {
		wg.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// load runs f again and again for a time, worker w of so many at once, and returns how often it was done and what each took.
func load(ctx context.Context, span time.Duration, atOnce int, f func(w int) error) (n int, took time.Duration, times []time.Duration, err error) {
	all := make([][]time.Duration, atOnce)
	from := time.Now()
	end := from.Add(span)
	err = each(atOnce, atOnce, func(w int) error {
		for time.Now().Before(end) && ctx.Err() == nil {
			began := time.Now()
			if err := f(w); err != nil {
				return err
			}
			all[w] = append(all[w], time.Since(began))
		}
		return ctx.Err()
	})
	took = time.Since(from)
	for _, t := range all {
		times = append(times, t...)
	}
	return len(times), took, times, err
}
