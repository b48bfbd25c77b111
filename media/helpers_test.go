package media

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dtmf(pt uint8) Format { return Format{PT: pt, Name: "telephone-event", Rate: 8000} }

func engine(t testing.TB, edit ...func(*Options)) *Engine {
	t.Helper()
	o := Options{Address: loopback, First: 20000, Last: 29999, Workers: 2}
	for _, f := range edit {
		f(&o)
	}
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	e.Start()
	t.Cleanup(e.Stop)
	return e
}

func session(t testing.TB, e *Engine) *Session {
	t.Helper()
	s, err := e.NewSession(SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// party is the far end of a session: two sockets and the manners of a phone.
type party struct {
	t         testing.TB
	data, ctl *net.UDPConn
	to        netip.AddrPort
	seq       uint16
	ts        uint32
	ssrc      uint32
}

func newParty(t testing.TB, s *Session) *party {
	t.Helper()
	p := &party{t: t, seq: 100, ts: 160000, ssrc: 0x01020304, to: netip.AddrPortFrom(loopback, uint16(s.LocalPort()))}
	p.data, p.ctl = listen(t), listen(t)
	return p
}

func listen(t testing.TB) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func addrOf(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

func (p *party) remote(formats ...Format) Remote {
	return Remote{RTP: addrOf(p.data), RTCP: addrOf(p.ctl), Send: formats, Receive: formats, Direction: Both}
}

// packet makes the next packet of the party.
func (p *party) packet(pt uint8, payload string) []byte {
	b := make([]byte, rtpHeaderLen, rtpHeaderLen+len(payload))
	b[0], b[1] = 0x80, pt
	binary.BigEndian.PutUint16(b[2:], p.seq)
	binary.BigEndian.PutUint32(b[4:], p.ts)
	binary.BigEndian.PutUint32(b[8:], p.ssrc)
	p.seq++
	p.ts += 160
	return append(b, payload...)
}

func (p *party) write(b []byte) {
	p.t.Helper()
	writeFrom(p.t, p.data, p.to, b)
}

func writeFrom(t testing.TB, c *net.UDPConn, to netip.AddrPort, b []byte) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort(b, to); err != nil {
		t.Fatal(err)
	}
}

func (p *party) say(pt uint8, payload string) { p.t.Helper(); p.write(p.packet(pt, payload)) }

// hear reads the next packet that the session sends.
func (p *party) hear() (packet, string) {
	p.t.Helper()
	b := p.read()
	h, err := parsePacket(b)
	if err != nil {
		p.t.Fatalf("session sent %x: %v", b, err)
	}
	return h, string(b[h.offset:])
}

func (p *party) read() []byte { p.t.Helper(); return readFrom(p.t, p.data) }

func readFrom(t testing.TB, c *net.UDPConn) []byte {
	t.Helper()
	b := make([]byte, 2048)
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

func (p *party) expect(pt uint8, payload string) packet {
	p.t.Helper()
	h, got := p.hear()
	if h.pt != pt || got != payload {
		p.t.Fatalf("got payload type %d %q, want %d %q", h.pt, got, pt, payload)
	}
	return h
}

// wait polls a condition that some worker will make true.
func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("timed out: %s", what)
}

// pair makes two bridged sessions with their parties.
func pair(t testing.TB, e *Engine, fa, fb []Format) (a, b *Session, pa, pb *party) {
	t.Helper()
	a, b = session(t, e), session(t, e)
	pa, pb = newParty(t, a), newParty(t, b)
	set(t, a, pa.remote(fa...))
	set(t, b, pb.remote(fb...))
	if err := Bridge(a, b); err != nil {
		t.Fatal(err)
	}
	return
}

func set(t testing.TB, s *Session, r Remote) {
	t.Helper()
	if err := s.SetRemote(r); err != nil {
		t.Fatal(err)
	}
}

func addrPortPlusOne(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr(), a.Port()+1)
}
