package anyconnect

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"net/netip"
	"sync/atomic"
	"time"

	"ringfence/vpn/cstp"
	"ringfence/vpn/dtls"
	"ringfence/vpn/session"
	"ringfence/vpn/tunnel"
)

// exporterLabel derives the key of the PSK handshake from the TLS connection of CONNECT (§7.3).
const exporterLabel = "EXPORTER-openconnect-psk"

// openSSLNames of TLS suites that are also DTLS ones: old phones bring DTLS up only with the cipher of their TLS (§7.4).
var openSSLNames = map[uint16]string{
	tls.TLS_RSA_WITH_AES_256_CBC_SHA:          "AES256-SHA",
	tls.TLS_RSA_WITH_AES_128_CBC_SHA:          "AES128-SHA",
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: "ECDHE-RSA-AES128-GCM-SHA256",
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384: "ECDHE-RSA-AES256-GCM-SHA384",
}

// offer is what CONNECT agrees for UDP.
type offer struct {
	ag   *dtls.Agreement
	name string // of the cipher, as the client listed it
	port uint16
}

// agreeUDP settles the UDP channel of a CONNECT; nil when there is none. Each CONNECT gets a new id: the keys of an older
// channel stay good until the new handshake is done (§8).
func (c *conn) agreeUDP(s *session.Session, w wish) *offer {
	e := c.s.o.UDP
	if e == nil {
		return nil
	}
	st := c.tls.ConnectionState()
	var key []byte
	exporter := false
	for _, n := range w.legacyList {
		if _, modern := c.tls.(*tls.Conn); modern && n == "PSK-NEGOTIATE" {
			k, err := st.ExportKeyingMaterial(exporterLabel, nil, 32)
			key, exporter = k, err == nil // TLS 1.2 without extended master secret has none
		}
	}
	kind, id, name, ok := dtls.Choose(w.legacyList, w.dtls12List, exporter, openSSLNames[st.CipherSuite])
	if !ok {
		return nil
	}
	if kind != dtls.PSK {
		master, err := hex.DecodeString(w.secret)
		if err != nil || len(master) != 48 {
			return nil
		}
		key = master
	}
	o := &offer{name: name, port: e.Port(), ag: &dtls.Agreement{Kind: kind, Suite: id, Secret: key, Peer: c.peer.Addr(), Handler: &datagrams{s: s}}}
	if _, err := rand.Read(o.ag.ID[:]); err != nil {
		return nil
	}
	e.Agree(o.ag)
	return o
}

// headers writes the offer into the answer to CONNECT (§5.2).
func (o *offer) headers(g *grant, dpd, keepalive, rekey time.Duration) {
	id := hex.EncodeToString(o.ag.ID[:])
	if o.ag.Kind == dtls.PSK {
		g.add("X-DTLS-App-ID", "%s", id)
	} else {
		g.add("X-DTLS-Session-ID", "%s", id)
	}
	g.add("X-DTLS-Port", "%d", o.port)
	g.add("X-DTLS-DPD", "%s", secondsOr0(dpd))
	g.add("X-DTLS-Keepalive", "%s", secondsOr0(keepalive))
	g.add("X-DTLS-MTU", "%d", g.mtu)
	if rekey > 0 {
		g.add("X-DTLS-Rekey-Time", "%s", secondsOrNone(rekey))
		g.add("X-DTLS-Rekey-Method", "new-tunnel")
	}
	if o.ag.Kind == dtls.Resume {
		g.add("X-DTLS12-CipherSuite", "%s", o.name)
	} else {
		g.add("X-DTLS-CipherSuite", "%s", o.name)
	}
}

// datagrams gives the channels of one agreement to the session.
type datagrams struct {
	s   *session.Session
	now atomic.Pointer[udpLink]
}

// Up implements dtls.Handler.
func (d *datagrams) Up(c *dtls.Conn) {
	l := &udpLink{c: c, about: c.Describe()}
	d.now.Store(l)
	if !d.s.ConnectUDP(l) {
		c.Close()
	}
}

// Down implements dtls.Handler.
func (d *datagrams) Down(c *dtls.Conn, why string) {
	if l := d.now.Load(); l != nil && l.c == c {
		d.s.LostUDP(l, why)
	}
}

// Payload implements dtls.Handler: one byte of type, then what a CSTP frame holds.
func (d *datagrams) Payload(c *dtls.Conn, b *tunnel.Batch, p []byte, now time.Time) {
	l := d.now.Load()
	if l == nil || l.c != c { // a channel that is being replaced may still bring packets
		l = &udpLink{c: c}
	}
	data := false
	switch cstp.Type(p[0]) {
	case cstp.Data:
		data = true
		if &p[0] == &b.SpaceBehind(1)[0] && len(p)-1 <= tunnel.MaxPacket {
			d.s.FromClientInPlace(b, len(p)-1, now)
		} else {
			d.s.FromClient(b, p[1:], now)
		}
	case cstp.DPDRequest:
		c.Control(byte(cstp.DPDResponse), p[1:]) // the whole payload: clients find the MTU by it (§7)
	case cstp.DPDResponse:
		d.s.Answered(l, now)
	case cstp.Keepalive:
	case cstp.Disconnect, cstp.Terminate:
		d.s.LostUDP(l, "client gave the channel up")
		return
	}
	d.s.Heard(l, now, data)
}

// udpLink is a DTLS channel as the session's link.
type udpLink struct {
	c     *dtls.Conn
	about string
}

// Deliver implements session.Link.
func (l *udpLink) Deliver(pkts []tunnel.Packet) { l.c.Deliver(pkts) }

// Probe implements session.Link.
func (l *udpLink) Probe() { l.c.Control(byte(cstp.DPDRequest), nil) }

// Close implements session.Link. What a client is told, it is told over TCP; a channel that is replaced ends without a word.
func (l *udpLink) Close(bye session.Farewell) {
	if bye.Final {
		l.c.Close()
	} else {
		l.c.Drop()
	}
}

// State notes the channel for another endpoint.
func (l *udpLink) State() (dtls.State, bool) { return l.c.State() }

// AdoptUDP goes on with the UDP channel of a session that was taken over.
func (s *Server) AdoptUDP(sess *session.Session, st dtls.State) error {
	if s.o.UDP == nil {
		return nil
	}
	_, err := s.o.UDP.Adopt(st, &datagrams{s: sess})
	return err
}

// Seen implements session.Link.
func (l *udpLink) Seen(a netip.Addr) { l.c.Seen(a) }

// LossIn is the part of the client's datagrams that did not arrive.
func (l *udpLink) LossIn() float64 { return l.c.LossIn() }

// Describe implements session.Link.
func (l *udpLink) Describe() string { return l.about }

// Remote implements session.Link.
func (l *udpLink) Remote() netip.AddrPort { return l.c.Remote() }
