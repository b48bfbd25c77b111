package anyconnect

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"ringfence/vpn/dtls"
	"ringfence/vpn/policy"
	"ringfence/vpn/session"
)

// wish is what a client asks for with CONNECT (§5.1).
type wish struct {
	hostname   string
	baseMTU    int // of the link
	mtu        int // of the tunnel
	ip4, ip6   bool
	fullIPv6   bool     // understands the -IP6 headers
	secret     string   // X-DTLS-Master-Secret
	legacyList []string // X-DTLS-CipherSuite
	dtls12List []string // X-DTLS12-CipherSuite
}

// parseWish reads the request headers. What makes no sense counts as not there.
func parseWish(h http.Header) wish {
	w := wish{
		hostname:   hostname(h.Get("X-CSTP-Hostname")),
		baseMTU:    mtu(h.Get("X-CSTP-Base-MTU")),
		mtu:        mtu(h.Get("X-CSTP-MTU")),
		fullIPv6:   h.Get("X-CSTP-Full-IPv6-Capability") == "true",
		secret:     h.Get("X-DTLS-Master-Secret"),
		legacyList: names(h.Get("X-DTLS-CipherSuite")),
		dtls12List: names(h.Get("X-DTLS12-CipherSuite")),
	}
	types := h.Get("X-CSTP-Address-Type")
	w.ip6 = strings.Contains(types, "IPv6")
	w.ip4 = types == "" || strings.Contains(types, "IPv4")
	return w
}

func mtu(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 256 || n > 1<<16 {
		return 0
	}
	return n
}

func names(s string) []string {
	if s == "" || len(s) > 2048 {
		return nil
	}
	return strings.Split(s, ":")
}

// hostname takes the first label of a client's name, if it looks like one.
func hostname(s string) string {
	s, _, _ = strings.Cut(s, ".")
	if len(s) > 63 {
		return ""
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
			return ""
		}
	}
	return s
}

// grant is the answer to CONNECT (§5.2).
type grant struct {
	mtu, baseMTU int
	ip6          bool
	headers      []string // lines in order, spelled as clients compare them
}

// add appends a header line.
func (g *grant) add(name, format string, a ...any) {
	g.headers = append(g.headers, name+": "+oneLine(fmt.Sprintf(format, a...)))
}

// overhead is what a packet of the tunnel costs on the link: outer IP and UDP, and the DTLS record (§5.2). The same MTU
// serves TCP, where it does not matter: clients take the larger of the two that they are told.
func overhead(outer netip.Addr, udp *offer) int {
	kind, suite := dtls.PSK, uint16(0)
	if udp != nil {
		kind, suite = udp.ag.Kind, udp.ag.Suite
	}
	if outer.Is4() {
		return 20 + 8 + dtls.Overhead(kind, suite)
	}
	return 40 + 8 + dtls.Overhead(kind, suite)
}

// settleMTU is the inner MTU: the policy's, less where the client or the link wants it.
func settleMTU(p *policy.Policy, w wish, overhead int) int {
	n := p.MTU
	switch {
	case w.baseMTU > 0: // new clients say both, and reckon the second from the first with more overhead than there is
		n = min(n, w.baseMTU-overhead)
	case w.mtu > 0:
		n = min(n, w.mtu)
	}
	return max(n, 576)
}

// grantFor says what the session gets, in the order in which common servers send it.
func grantFor(s *session.Session, w wish, outer netip.Addr, udp *offer, now time.Time) grant {
	p, cost := s.Policy(), overhead(outer, udp)
	g := grant{mtu: settleMTU(p, w, cost), baseMTU: w.baseMTU}
	if g.baseMTU == 0 {
		g.baseMTU = min(1500, g.mtu+cost)
	}
	add := g.add
	add("X-CSTP-Version", "1")
	add("X-CSTP-Server-Name", "Ringfence")
	if w.ip4 {
		add("X-CSTP-Address", "%v", s.Addr())
		add("X-CSTP-Netmask", "%s", mask(p.Pool))
	}
	// Below 1280 there is no IPv6; the address is then not handed out.
	if g.ip6 = w.ip6 && s.Addr6().IsValid() && g.mtu >= 1280; g.ip6 {
		if w.fullIPv6 {
			add("X-CSTP-Address-IP6", "%v/%d", s.Addr6(), p.Pool6.Bits())
		} else {
			add("X-CSTP-Address", "%v", s.Addr6())
			add("X-CSTP-Netmask", "%v", p.Pool6.Masked())
		}
	}
	for _, a := range p.DNS {
		switch {
		case a.Is4():
			add("X-CSTP-DNS", "%v", a)
		case g.ip6 && w.fullIPv6:
			add("X-CSTP-DNS-IP6", "%v", a)
		case g.ip6:
			add("X-CSTP-DNS", "%v", a)
		}
	}
	if p.Domain != "" {
		add("X-CSTP-Default-Domain", "%s", p.Domain)
	}
	for _, d := range p.SplitDNS {
		add("X-CSTP-Split-DNS", "%s", d)
	}
	g.routes(p.Routes, "Include", w.fullIPv6)
	g.routes(p.Exclude, "Exclude", w.fullIPv6)
	add("X-CSTP-Tunnel-All-DNS", "%t", len(p.Routes) == 0 && len(p.DNS) > 0)
	// A family without an inner address stays outside where only some routes go inside anyway.
	add("X-CSTP-Client-Bypass-Protocol", "%t", len(p.Routes) > 0)
	add("X-CSTP-MTU", "%d", g.mtu)
	add("X-CSTP-Base-MTU", "%d", g.baseMTU)
	add("X-CSTP-DPD", "%s", secondsOr0(p.DPD))
	add("X-CSTP-Keepalive", "%s", secondsOr0(p.Keepalive))
	add("X-CSTP-Idle-Timeout", "%s", secondsOrNone(p.Idle))
	add("X-CSTP-Disconnected-Timeout", "%s", secondsOrNone(p.Disconnected))
	lease, remaining := "none", "none"
	if p.Session > 0 { // counted from log-in, not from the latest reconnect (§8)
		lease = secondsOrNone(p.Session)
		remaining = secondsOrNone(max(time.Second, p.Session-now.Sub(s.Born())))
	}
	add("X-CSTP-Lease-Duration", "%s", remaining)
	add("X-CSTP-Session-Timeout", "%s", lease)
	add("X-CSTP-Session-Timeout-Remaining", "%s", remaining)
	if p.Rekey > 0 {
		add("X-CSTP-Rekey-Time", "%s", secondsOrNone(p.Rekey))
		add("X-CSTP-Rekey-Method", "new-tunnel")
	} else {
		add("X-CSTP-Rekey-Method", "none")
	}
	add("X-CSTP-Keep", "true")
	add("X-CSTP-TCP-Keepalive", "true")
	add("X-CSTP-Smartcard-Removal-Disconnect", "true")
	add("X-CSTP-DynDNS", "true")
	add("X-CSTP-License", "accept")
	if p.Banner != "" {
		add("X-CSTP-Banner", "%s", p.Banner)
	}
	if udp != nil {
		udp.headers(&g, p.DPD, p.Keepalive, p.Rekey)
	}
	return g
}

// routes writes networks: IPv4 with a dotted mask, IPv6 with a length.
func (g *grant) routes(nets []netip.Prefix, what string, fullIPv6 bool) {
	for _, n := range nets {
		n = n.Masked()
		switch {
		case n.Addr().Is4():
			g.headers = append(g.headers, fmt.Sprintf("X-CSTP-Split-%s: %v/%s", what, n.Addr(), mask(n)))
		case g.ip6 && fullIPv6:
			g.headers = append(g.headers, fmt.Sprintf("X-CSTP-Split-%s-IP6: %v", what, n))
		case g.ip6:
			g.headers = append(g.headers, fmt.Sprintf("X-CSTP-Split-%s: %v", what, n))
		}
	}
}

func mask(p netip.Prefix) string { return net.IP(net.CIDRMask(p.Bits(), 32)).String() }

func secondsOr0(d time.Duration) string { return strconv.Itoa(int(d.Seconds())) }

func secondsOrNone(d time.Duration) string {
	if d <= 0 {
		return "none"
	}
	return strconv.Itoa(int(d.Seconds()))
}

// oneLine keeps declared texts from breaking out of their header.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.TrimSpace(s))
}

// marshal is the whole answer. There is no body length: frames follow.
func (g grant) marshal() []byte {
	return []byte("HTTP/1.1 200 CONNECTED\r\n" + strings.Join(g.headers, "\r\n") + "\r\n\r\n")
}

// isTunnelPath tells the target of CONNECT; one mobile client leaves out the leading slash (§5).
func isTunnelPath(uri string) bool {
	return strings.EqualFold(strings.TrimPrefix(uri, "/"), "CSCOSSLC/tunnel")
}

// connect answers CONNECT and runs the channel until it ends.
func (c *conn) connect(ctx context.Context, m *message) error {
	if !isTunnelPath(m.RequestURI) {
		return c.answer(m, answer{status: "404 Not Found", close: true})
	}
	s, ok := c.sessionOf(m)
	if !ok {
		c.s.refused.Add(1)
		if c.s.noisy.Allow() {
			c.s.log.Info("VPN tunnel refused: no session has this cookie", "peer", c.peer, "agent", agent(m))
		}
		return c.answer(m, answer{status: "401 Unauthorized", headers: []string{"X-Reason: log in first"}, close: true})
	}
	w := parseWish(m.Header)
	if !w.ip4 && !(w.ip6 && s.Addr6().IsValid()) {
		return c.answer(m, answer{status: "503 Service Unavailable", headers: []string{"X-Reason: no address of the wanted kind"}, close: true})
	}
	udp := c.agreeUDP(s, w)
	var revoke func()
	if udp != nil {
		revoke = func() { c.s.o.UDP.Revoke(udp.ag) }
	}
	g := grantFor(s, w, c.peer.Addr(), udp, time.Now())
	c.wire.SetDeadline(time.Now().Add(answerTime))
	if _, err := c.tls.Write(g.marshal()); err != nil {
		if revoke != nil {
			revoke()
		}
		return err
	}
	c.wire.SetDeadline(time.Time{})
	early := make([]byte, c.br.Buffered()) // frames sent without waiting for the answer
	_, _ = c.br.Read(early)
	c.br = nil
	l := newLink(c, s, early)
	c.s.wait.remove(c)
	if !s.Connect(l, g.mtu, w.hostname, revoke) {
		if revoke != nil {
			revoke()
		}
		l.Close(session.Farewell{Final: true, Text: "session ended"})
		return nil
	}
	c.s.connects.Add(1)
	bye, why := l.run()
	s.Lost(l, bye, why)
	return nil
}
