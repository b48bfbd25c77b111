package phone

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/rtp"
)

// pbx is a scripted call server: it registers the phone, sends the burst, and answers calls by echo. Each of its answers can
// be replaced.
type pbx struct {
	t             *testing.T
	port, tlsPort int

	mu       sync.Mutex
	conns    []*pbxConn
	on       map[string]func(c *pbxConn, m *message) bool // by method; true: answered
	expires  int
	supports string
	burst    bool
	qop      string
	noDate   bool
	echo     *echo
	noOption bool
	got      []*message
	split    bool // each message in two writes
	down     bool
}

type pbxConn struct {
	pbx  *pbx
	conn net.Conn

	mu      sync.Mutex
	waiting map[string]chan *message
}

func newPBX(t *testing.T, w *world) *pbx {
	s := &pbx{t: t, on: make(map[string]func(*pbxConn, *message) bool), expires: 120, burst: true,
		supports: "replaces,timer,X-cisco-sis-10.0.0"}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); s.shut(); wg.Wait() })
	s.port = ln.Addr().(*net.TCPAddr).Port
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.serve(c) })
		}
	})
	s.tlsPort = listenTLS(t, w.ccm, true, func(c *tls.Conn) { s.serve(c) })
	return s
}

// drop closes every connection, as a server that dies does.
func (s *pbx) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.conn.Close()
	}
	s.conns = nil
}

// shut drops whatever comes, also later.
func (s *pbx) shut() {
	s.mu.Lock()
	s.down = true
	s.mu.Unlock()
	s.drop()
}

func (s *pbx) handle(method string, f func(c *pbxConn, m *message) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on[method] = f
}

// phone is the connection of the phone that came last.
func (s *pbx) phone() *pbxConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) == 0 {
		s.t.Fatal("no phone is connected")
	}
	return s.conns[len(s.conns)-1]
}

func (s *pbx) requests(method string) []*message {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*message
	for _, m := range s.got {
		if m.method == method {
			out = append(out, m)
		}
	}
	return out
}

func (s *pbx) serve(conn net.Conn) {
	c := &pbxConn{pbx: s, conn: conn, waiting: make(map[string]chan *message)}
	s.mu.Lock()
	s.conns = append(s.conns, c)
	down := s.down
	s.mu.Unlock()
	if down {
		conn.Close()
	}
	var pend []byte
	buf := make([]byte, 8192)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		pend = append(pend, buf[:n]...)
		for {
			m := new(message)
			k, err := m.unmarshal(pend)
			if err != nil {
				s.t.Errorf("phone sent: %v", err)
				return
			}
			if k == 0 {
				break
			}
			pend = pend[k:]
			c.receive(m)
		}
	}
}

func (c *pbxConn) receive(m *message) {
	if !m.request() {
		c.mu.Lock()
		ch := c.waiting[branchOf(m)]
		c.mu.Unlock()
		if ch != nil {
			ch <- m
		}
		return
	}
	s := c.pbx
	s.mu.Lock()
	s.got = append(s.got, m)
	f := s.on[m.method]
	s.mu.Unlock()
	if f != nil && f(c, m) {
		return
	}
	switch m.method {
	case "REGISTER":
		c.register(m)
	case "REFER":
		c.send(m.answer(202, "Accepted", "as1"))
	case "INVITE":
		c.invite(m)
	case "ACK":
	case "PUBLISH":
		c.send(m.answer(200, "OK", "as1").add("Expires", "3600").add("SIP-ETag", "7"))
	default:
		c.send(m.answer(200, "OK", "as1"))
	}
}

// authorized challenges once and checks the digest.
func (c *pbxConn) authorized(m *message) bool {
	const nonce = "0e96c2c6"
	a := m.get("Authorization")
	if a == "" {
		v := `Digest algorithm=MD5, realm="pbx.example.com", nonce="` + nonce + `"`
		if c.pbx.qop != "" {
			v += `, qop="` + c.pbx.qop + `"`
		}
		c.send(m.answer(401, "Unauthorized", "as1").add("WWW-Authenticate", "%s", v))
		return false
	}
	want := md5Hex(md5Hex("301:pbx.example.com:k7Qm2Vx9Rt") + ":" + nonce + ":" + md5Hex(m.method+":"+m.uri))
	if c.pbx.qop == "" && !strings.Contains(a, `response="`+want+`"`) || !strings.Contains(a, `username="301"`) {
		c.send(m.answer(403, "Forbidden", "as1"))
		return false
	}
	return true
}

const optionsBody = `<?xml version="1.0" encoding="UTF-8"?>
<x-cisco-remotecc-response>
<response>
<code>200</code>
<optionsind>
<combine max="6"><remotecc><status /></remotecc><service-control /></combine>
<dialog usage="hook status"><unot /></dialog>
<presence usage="blf speed dial"><unot /></presence>
</optionsind>
</response>
</x-cisco-remotecc-response>
`

func (c *pbxConn) register(m *message) {
	if !c.authorized(m) {
		return
	}
	s := c.pbx
	res := m.answer(200, "OK", "as571a5cd9")
	if s.supports != "" {
		res.add("Supported", "%s", s.supports)
	}
	if !s.noDate {
		res.add("Date", "%s", dateNow())
	}
	if m.get("Expires") == "0" {
		c.send(res.add("Expires", "0"))
		return
	}
	res.add("Expires", "%d", s.expires)
	res.add("Contact", "<%s>;expires=%d", nameAddrOf(m.get("Contact")).uri, s.expires)
	if len(m.body) > 0 && !s.noOption {
		res.with(typeResponse, optionsBody)
	}
	c.send(res)
	if len(m.body) > 0 && s.burst {
		contact := nameAddrOf(m.get("Contact")).uri
		c.post(c.remotecc(contact, bulk("", "")))
		c.post(c.presence(contact, "302", ""))
	}
}

func bulk(forward1, forward2 string) string {
	return fmt.Sprintf(`<bulkupdate><contact line="1"><mwi>yes</mwi><emwi><voice-msg new="3" old="1" /></emwi>
<cfwdallupdate><fwdaddress>%s</fwdaddress><tovoicemail>off</tovoicemail></cfwdallupdate></contact>
<contact line="2"><mwi>no</mwi><cfwdallupdate><fwdaddress>%s</fwdaddress><tovoicemail>on</tovoicemail></cfwdallupdate></contact></bulkupdate>`,
		forward1, forward2)
}

// request is the head of an out-of-dialog request to the phone.
func (c *pbxConn) request(method, contact string) *message {
	m := &message{method: method, uri: contact}
	m.add("Via", "SIP/2.0/TCP 127.0.0.1:5060;branch=z9hG4bK%s", hexString(6))
	m.add("Max-Forwards", "70")
	m.add("From", "<sip:server@127.0.0.1>;tag=as%s", hexString(4))
	m.add("To", "<%s>", contact)
	m.add("Contact", "<sip:server@127.0.0.1:5060;transport=tcp>")
	m.add("Call-ID", "%s@127.0.0.1", hexString(8))
	m.add("CSeq", "101 %s", method)
	return m
}

func (c *pbxConn) remotecc(contact string, bodies ...string) *message {
	m := c.request("REFER", contact)
	m.add("Require", "norefersub")
	m.add("Refer-To", "cid:148f1d48")
	m.add("Content-Id", "148f1d48")
	m.add("Expires", "0")
	if len(bodies) == 1 {
		return m.with(typeRequest, "<x-cisco-remotecc-request>"+bodies[0]+"</x-cisco-remotecc-request>")
	}
	var b strings.Builder
	for _, body := range bodies {
		b.WriteString("--uniqueBoundary\r\nContent-Type: " + typeRequest + "\r\n\r\n<x-cisco-remotecc-request>\n" + body +
			"\n</x-cisco-remotecc-request>\n\r\n")
	}
	b.WriteString("--uniqueBoundary--\r\n")
	return m.with("multipart/mixed; boundary=uniqueBoundary", b.String())
}

func (c *pbxConn) presence(contact, number, activity string) *message {
	m := c.request("NOTIFY", contact)
	m.set("From", "<sip:"+number+"@127.0.0.1>;tag=as4f46ca02")
	m.add("Subscription-State", "active")
	m.add("Event", "presence")
	return m.with(typePIDF, `<?xml version="1.0" encoding="UTF-8"?>
<presence xmlns="urn:ietf:params:xml:ns:pidf" xmlns:dm="urn:ietf:params:xml:ns:pidf:data-model" xmlns:e="urn:ietf:params:xml:ns:pidf:status:rpid" xmlns:ce="urn:cisco:params:xml:ns:pidf:rpid" entity="sip:`+number+`@127.0.0.1">
<dm:person><e:activities>`+activity+`</e:activities></dm:person><tuple id="4"><status><basic>open</basic></status></tuple></presence>`)
}

func (c *pbxConn) send(m *message) {
	b := m.marshal()
	c.pbx.mu.Lock()
	split := c.pbx.split
	c.pbx.mu.Unlock()
	if split {
		_, _ = c.conn.Write(b[:20])
		b = b[20:]
	}
	_, _ = c.conn.Write(b)
}

// post sends a request and looks at no answer.
func (c *pbxConn) post(m *message) { c.send(m) }

// ask sends a request and gives the final answer.
func (c *pbxConn) ask(m *message) *message {
	c.pbx.t.Helper()
	ch := make(chan *message, 8)
	c.mu.Lock()
	c.waiting[branchOf(m)] = ch
	c.mu.Unlock()
	c.send(m)
	timeout := time.After(5 * time.Second)
	for {
		select {
		case res := <-ch:
			if res.status >= 200 {
				return res
			}
		case <-timeout:
			c.pbx.t.Fatalf("phone did not answer %s", m.method)
		}
	}
}

// invite answers a call of the phone: challenge, 180, 200 with an echo behind it.
func (c *pbxConn) invite(m *message) {
	if nameAddrOf(m.get("To")).param("tag") != "" {
		c.send(c.answer(m, 200, "as71"))
		return
	}
	if !c.authorized(m) {
		return
	}
	c.send(m.answer(100, "Trying", ""))
	c.send(c.named(m.answer(180, "Ringing", "as71")))
	c.send(c.answer(m, 200, "as71"))
}

func (c *pbxConn) named(res *message) *message {
	res.add("Contact", "<sip:302@127.0.0.1:5060;transport=tcp>")
	res.add("Remote-Party-ID", `"Ben" <sip:302@127.0.0.1>;party=called;privacy=off;screen=yes`)
	res.add("Call-Info", "<urn:x-cisco-remotecc:callinfo>; orientation=to; security=NotAuthenticated")
	return res
}

// answer makes a 2xx with an answer to the offer in m.
func (c *pbxConn) answer(m *message, status int, tag string) *message {
	s := c.pbx
	d, err := parseSDP(m.body)
	if err != nil {
		s.t.Errorf("phone's offer: %v", err)
		return m.answer(488, "Not Acceptable Here", tag)
	}
	s.mu.Lock()
	if s.echo == nil {
		s.echo = newEcho(s.t)
	}
	e := s.echo
	s.mu.Unlock()
	offer := d.media[0]
	direction := map[string]string{"sendrecv": "sendrecv", "sendonly": "recvonly", "inactive": "inactive"}[offer.direction]
	body := e.answer(offer, direction)
	return c.named(m.answer(status, "OK", tag)).with("application/sdp", body)
}

// echo returns RTP to whoever the last answer was for, decrypted and encrypted again where keys were agreed.
type echo struct {
	conn net.PacketConn
	host netip.Addr
	port int

	mu      sync.Mutex
	version int
	to      netip.AddrPort
	in, out *cryptoLine
	sealer  interface {
		EncryptRTP([]byte, []byte, *rtp.Header) ([]byte, error)
	}
	opener interface {
		DecryptRTP([]byte, []byte, *rtp.Header) ([]byte, error)
	}
	drop int // of each hundred packets
}

func newEcho(t *testing.T) *echo {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	return echoOn(t, conn)
}

func echoOn(t *testing.T, conn net.PacketConn) *echo {
	at := addrPortOf(conn.LocalAddr())
	e := &echo{conn: conn, host: at.Addr(), port: int(at.Port())}
	var wg sync.WaitGroup
	wg.Go(e.run)
	t.Cleanup(func() { conn.Close(); wg.Wait() })
	return e
}

// answer picks the first codec that can be checked sample by sample, and the first crypto line.
func (e *echo) answer(offer mediaDesc, direction string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.version++
	e.to = netip.AddrPortFrom(offer.addr, uint16(offer.port))
	pt := offer.formats[0]
	for _, f := range offer.formats {
		if f == 0 || f == 8 {
			pt = f
			break
		}
	}
	proto, crypto := "RTP/AVP", ""
	e.sealer, e.opener = nil, nil
	if len(offer.crypto) > 0 {
		proto = "RTP/SAVP"
		own := newCrypto(offer.crypto[0].tag, offer.crypto[0].suite)
		e.out, e.in = &own, &offer.crypto[0]
		e.sealer, _ = own.context()
		e.opener, _ = offer.crypto[0].context()
		crypto = fmt.Sprintf("a=crypto:%d %s inline:%s\r\n", own.tag, own.suite, encodeKey(own.key))
	}
	return fmt.Sprintf("v=0\r\no=- 4711 %d IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio %d %s %d 101\r\n%sa=rtpmap:%d %s\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=%s\r\n",
		e.version, e.host, e.port, proto, pt, crypto, pt, offer.rtpmap[pt], direction)
}

func (e *echo) run() {
	buf := make([]byte, 2048)
	for n := 0; ; n++ {
		k, _, err := e.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		e.mu.Lock()
		b, to := buf[:k], e.to
		skip := n%100 < e.drop
		if e.opener != nil {
			plain, err := e.opener.DecryptRTP(nil, b, nil)
			if err != nil {
				e.mu.Unlock()
				continue
			}
			if b, err = e.sealer.EncryptRTP(nil, plain, nil); err != nil {
				e.mu.Unlock()
				continue
			}
		}
		e.mu.Unlock()
		if !skip {
			_, _ = e.conn.WriteTo(b, net.UDPAddrFromAddrPort(to))
		}
	}
}
