package media

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/srtp/v3"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	loopback = netip.MustParseAddr("127.0.0.1")
	pcmu     = Format{PT: 0, Name: "PCMU", Rate: 8000}
	pcma     = Format{PT: 8, Name: "PCMA", Rate: 8000}
	g722     = Format{PT: 9, Name: "G722", Rate: 8000}
)

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

func TestRelayMapsPayloadTypes(t *testing.T) {
	e := engine(t)
	a, _, pa, pb := pair(t, e, []Format{pcmu, g722, dtmf(101)}, []Format{g722, pcmu, dtmf(96)})
	pa.say(0, "hello")
	pb.expect(0, "hello")
	pa.say(101, "\x01\x0a\x00\xa0")
	pb.expect(96, "\x01\x0a\x00\xa0")
	pb.say(96, "\x02\x8a\x00\xa0")
	pa.expect(101, "\x02\x8a\x00\xa0")
	pa.say(8, "alaw")
	pa.say(18, "g729")
	wait(t, "two packets of formats that were not agreed", func() bool { return a.Stats().Rx.Unknown == 2 })
}

func TestRelayDropsWhatTheOtherPartyCannotPlay(t *testing.T) {
	e := engine(t)
	a, _, pa, pb := pair(t, e, []Format{pcmu, g722}, []Format{pcmu})
	pa.say(9, "wide")
	pa.say(0, "narrow")
	pb.expect(0, "narrow")
	if got := a.Stats().Rx.Unrouted; got != 1 {
		t.Errorf("unrouted %d, want 1", got)
	}
}

func TestStreamContinuesAcrossSources(t *testing.T) {
	e := engine(t)
	_, b, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	pa.say(0, "1")
	first := pb.expect(0, "1")
	pa.say(0, "2")
	second := pb.expect(0, "2")
	if second.seq != first.seq+1 || second.timestamp != first.timestamp+160 {
		t.Errorf("second packet is %+v after %+v", second, first)
	}
	c := session(t, e)
	pc := newParty(t, c)
	pc.ssrc, pc.seq, pc.ts = 0xaabbccdd, 60000, 1
	set(t, c, pc.remote(pcmu))
	if err := Bridge(c, b); err != nil {
		t.Fatal(err)
	}
	pa.say(0, "left alone")
	pc.say(0, "3")
	third := pb.expect(0, "3")
	if third.ssrc != first.ssrc || third.seq != second.seq+1 || !third.marker {
		t.Errorf("after the change of source: %+v, before: %+v", third, second)
	}
	if d := third.timestamp - second.timestamp; d == 0 || d > 8000*5 {
		t.Errorf("timestamp moved by %d", d)
	}
}

func TestHeaderExtensionsAreNotPassedOn(t *testing.T) {
	e := engine(t)
	_, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	p := pa.packet(0, "")
	p[0] |= 0x11 // extension and one contributing source
	p = append(p, 1, 2, 3, 4, 0xbe, 0xde, 0, 1, 9, 9, 9, 9)
	pa.write(append(p, "voice"...))
	if h := pb.expect(0, "voice"); h.offset != rtpHeaderLen {
		t.Errorf("payload at %d", h.offset)
	}
}

func TestDirections(t *testing.T) {
	for _, tc := range []struct {
		name    string
		dir     Direction
		toThem  bool
		fromHim bool
	}{
		{"both", Both, true, true}, {"send", Send, true, false}, {"receive", Receive, false, true}, {"inactive", Inactive, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := engine(t)
			a, b, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
			r := pb.remote(pcmu)
			r.Direction = tc.dir
			set(t, b, r)
			pa.say(0, "to")
			if tc.toThem {
				pb.expect(0, "to")
			} else {
				wait(t, "held back", func() bool { return b.Stats().Tx.Muted == 1 })
			}
			pb.say(0, "from")
			if tc.fromHim {
				pa.expect(0, "from")
			} else {
				wait(t, "not taken", func() bool { return b.Stats().Rx.Muted == 1 })
			}
			_ = a
		})
	}
}

func TestDuplicatesAndDisorder(t *testing.T) {
	e := engine(t)
	a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	one, two, three, four := pa.packet(0, "1"), pa.packet(0, "2"), pa.packet(0, "3"), pa.packet(0, "4")
	for _, p := range [][]byte{one, three, two, two, three, four} {
		pa.write(p)
	}
	var seqs []uint16
	for _, want := range []string{"1", "3", "2", "4"} {
		seqs = append(seqs, pb.expect(0, want).seq)
	}
	if seqs[2] != seqs[0]+1 || seqs[1] != seqs[0]+2 || seqs[3] != seqs[0]+3 {
		t.Errorf("sequence numbers %v", seqs)
	}
	st := a.Stats().Rx
	if st.Duplicates != 2 || st.Reordered != 1 || st.Lost != 0 {
		t.Errorf("duplicates %d, reordered %d, lost %d; want 2, 1, 0", st.Duplicates, st.Reordered, st.Lost)
	}
}

func TestLossIsCounted(t *testing.T) {
	e := engine(t)
	a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	for i := range 10 {
		p := pa.packet(0, "x")
		if i%5 != 2 {
			pa.write(p)
			pb.hear()
		}
	}
	if st := a.Stats().Rx; st.Lost != 2 || st.Packets != 8 {
		t.Errorf("lost %d of %d, want 2 of 8", st.Lost, st.Packets)
	}
}

func TestNewSourceContinues(t *testing.T) {
	e := engine(t)
	a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	pa.say(0, "1")
	before := pb.expect(0, "1")
	pa.ssrc, pa.seq, pa.ts = 99, 5, 7
	pa.say(0, "2")
	after := pb.expect(0, "2")
	if after.ssrc != before.ssrc || after.seq != before.seq+1 {
		t.Errorf("after restart %+v, before %+v", after, before)
	}
	if a.Stats().Rx.Restarts != 1 {
		t.Errorf("restarts %d", a.Stats().Rx.Restarts)
	}
}

func TestLatching(t *testing.T) {
	t.Run("behind translation, then the named address, then nobody", func(t *testing.T) {
		e := engine(t)
		a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
		nat, third := listen(t), listen(t)
		writeFrom(t, nat, pa.to, pa.packet(0, "nat"))
		pb.expect(0, "nat")
		pb.say(0, "answer")
		if got := readFrom(t, nat); string(got[rtpHeaderLen:]) != "answer" {
			t.Fatalf("translated address heard %q", got)
		}
		writeFrom(t, third, pa.to, pa.packet(0, "intruder"))
		wait(t, "intruder counted", func() bool { return a.Stats().Rx.Foreign == 1 })
		pa.say(0, "named")
		pb.expect(0, "named")
		pb.say(0, "answer 2")
		pa.expect(0, "answer 2")
		writeFrom(t, nat, pa.to, pa.packet(0, "nat again"))
		wait(t, "left address counted", func() bool { return a.Stats().Rx.Foreign == 2 })
	})
	t.Run("the named address first", func(t *testing.T) {
		e := engine(t)
		a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
		third := listen(t)
		pa.say(0, "named")
		pb.expect(0, "named")
		writeFrom(t, third, pa.to, pa.packet(0, "intruder"))
		wait(t, "intruder counted", func() bool { return a.Stats().Rx.Foreign == 1 })
		pb.say(0, "answer")
		pa.expect(0, "answer")
	})
	t.Run("an equal description keeps the latch, another resets it", func(t *testing.T) {
		e := engine(t)
		a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
		nat := listen(t)
		writeFrom(t, nat, pa.to, pa.packet(0, "nat"))
		pb.expect(0, "nat")
		set(t, a, pa.remote(pcmu))
		pb.say(0, "still")
		if got := readFrom(t, nat); string(got[rtpHeaderLen:]) != "still" {
			t.Fatalf("translated address heard %q", got)
		}
		moved := newParty(t, a)
		set(t, a, moved.remote(pcmu))
		pb.say(0, "moved")
		moved.expect(0, "moved")
	})
	t.Run("only the party's own translator", func(t *testing.T) {
		var l latch
		l.describe(netip.MustParseAddrPort("10.1.1.1:4000"), netip.MustParseAddr("203.0.113.7"), false)
		for from, want := range map[string]bool{"10.1.1.1:4000": true, "10.1.1.1:9": true, "203.0.113.7:77": true, "198.51.100.9:4000": false} {
			if got := l.admits(netip.MustParseAddrPort(from), false); got != want {
				t.Errorf("%s admitted %v, want %v", from, got, want)
			}
		}
	})
	t.Run("strict", func(t *testing.T) {
		var l latch
		l.describe(netip.MustParseAddrPort("10.1.1.1:4000"), netip.Addr{}, true)
		if l.admits(netip.MustParseAddrPort("10.1.1.1:4002"), true) || !l.admits(netip.MustParseAddrPort("10.1.1.1:4000"), true) {
			t.Error("strict latch took another address or refused its own")
		}
	})
}

func TestGarbageOnThePort(t *testing.T) {
	e := engine(t)
	a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	bad := [][]byte{{0}, []byte("not rtp at all"), bytes.Repeat([]byte{0x80}, 11), {0x80, 200, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0},
		{0x8f, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, {0x90, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, {0xa0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 9},
		bytes.Repeat([]byte{0x80}, 3000)}
	for _, b := range bad {
		pa.write(b)
	}
	pa.say(0, "good")
	pb.expect(0, "good")
	if got := a.Stats().Rx.Malformed; got != uint64(len(bad)) {
		t.Errorf("malformed %d, want %d", got, len(bad))
	}
}

func TestSRTP(t *testing.T) {
	for _, suite := range Suites() {
		t.Run(suite.String(), func(t *testing.T) {
			e := engine(t)
			a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
			r := pa.remote(pcmu)
			r.RecvKey, r.SendKey = NewKey(suite), NewKey(suite)
			set(t, a, r)
			in, out := contextOf(t, r.RecvKey), contextOf(t, r.SendKey)

			pa.say(0, "in clear")
			wait(t, "clear packet refused", func() bool { return a.Stats().Rx.Unprotected == 1 })
			sealed := seal(t, in, pa.packet(0, "secret"))
			pa.write(sealed)
			pb.expect(0, "secret")
			pa.write(sealed)
			wait(t, "replay refused", func() bool { return a.Stats().Rx.Replayed == 1 })
			forged := seal(t, in, pa.packet(0, "secret"))
			forged[len(forged)-1] ^= 1
			pa.write(forged)
			wait(t, "forged packet refused", func() bool { return a.Stats().Rx.Unprotected == 2 })

			pb.say(0, "reply")
			got := pa.read()
			if bytes.Contains(got, []byte("reply")) {
				t.Fatal("sent in clear")
			}
			plain, err := out.DecryptRTP(nil, got, nil)
			if err != nil || string(plain[rtpHeaderLen:]) != "reply" {
				t.Fatalf("decrypted %q, %v", plain, err)
			}
			want := map[Suite]int{CM128SHA32: 4, CM128SHA80: 10, AEAD128GCM: 16, AEAD256GCM: 16}[suite]
			if tag := len(got) - len(plain); tag != want {
				t.Errorf("tag of %d octets, want %d", tag, want)
			}
			if !a.Stats().Secure {
				t.Error("not reported as secure")
			}
		})
	}
}

func contextOf(t testing.TB, k Key) *srtp.Context {
	t.Helper()
	c, err := k.context()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func seal(t testing.TB, c *srtp.Context, b []byte) []byte {
	t.Helper()
	out, err := c.EncryptRTP(nil, b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRekeyKeepsTheOldKeyForASecond(t *testing.T) {
	e := engine(t)
	a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	r := pa.remote(pcmu)
	r.RecvKey, r.SendKey = NewKey(CM128SHA80), NewKey(CM128SHA80)
	set(t, a, r)
	before := contextOf(t, r.RecvKey)
	pa.write(seal(t, before, pa.packet(0, "1")))
	pb.expect(0, "1")
	set(t, a, r) // the same again: the state of the key goes on
	pa.write(seal(t, before, pa.packet(0, "2")))
	pb.expect(0, "2")

	r.RecvKey = NewKey(AEAD256GCM)
	set(t, a, r)
	after := contextOf(t, r.RecvKey)
	pa.write(seal(t, after, pa.packet(0, "new")))
	pb.expect(0, "new")
	pa.write(seal(t, before, pa.packet(0, "late")))
	pb.expect(0, "late")
	a.rx.Lock()
	a.rx.oldUntil = 1 // the second is over
	a.rx.Unlock()
	pa.write(seal(t, before, pa.packet(0, "too late")))
	wait(t, "old key refused", func() bool { return a.Stats().Rx.Unprotected == 1 })
}

func TestAuthenticatedPacketMovesTheLatch(t *testing.T) {
	e := engine(t)
	a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	r := pa.remote(pcmu)
	r.RecvKey = NewKey(CM128SHA32)
	set(t, a, r)
	in := contextOf(t, r.RecvKey)
	for range 2 {
		moved, intruder := listen(t), listen(t)
		writeFrom(t, intruder, pa.to, pa.packet(0, "in clear"))
		writeFrom(t, moved, pa.to, seal(t, in, pa.packet(0, "moved")))
		pb.expect(0, "moved")
		pb.say(0, "answer")
		if got := readFrom(t, moved); string(got[rtpHeaderLen:]) != "answer" {
			t.Fatalf("heard %q", got)
		}
	}
}

func TestSourcesOfOneKeyAreBounded(t *testing.T) {
	e := engine(t)
	a, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	r := pa.remote(pcmu)
	r.RecvKey = NewKey(CM128SHA80)
	set(t, a, r)
	in := contextOf(t, r.RecvKey)
	for i := range maxSources {
		pa.ssrc = uint32(i + 1)
		pa.write(seal(t, in, pa.packet(0, "x")))
		pb.hear()
	}
	pa.ssrc++
	pa.write(seal(t, in, pa.packet(0, "x")))
	wait(t, "one source too many refused", func() bool { return a.Stats().Rx.Unprotected == 1 })
}

func TestReports(t *testing.T) {
	e := engine(t, func(o *Options) { o.ReportEvery = 50 * time.Millisecond })
	a, b, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	for i := range 4 {
		p := pa.packet(0, "x")
		if i != 2 {
			pa.write(p)
			pb.hear()
		}
	}
	// b sends, so it makes sender reports; a has only received.
	var sr *rtcp.SenderReport
	wait(t, "sender report", func() bool {
		packets, err := rtcp.Unmarshal(readFrom(t, pb.ctl))
		if err != nil {
			t.Fatal(err)
		}
		sr, _ = packets[0].(*rtcp.SenderReport)
		if _, ok := packets[1].(*rtcp.SourceDescription); !ok {
			t.Fatalf("second packet is %T", packets[1])
		}
		return sr != nil && sr.PacketCount == 3
	})
	packets, err := rtcp.Unmarshal(readFrom(t, pa.ctl))
	if err != nil {
		t.Fatal(err)
	}
	rr, ok := packets[0].(*rtcp.ReceiverReport)
	if !ok || len(rr.Reports) != 1 || rr.Reports[0].TotalLost != 1 || rr.Reports[0].SSRC != pa.ssrc {
		t.Fatalf("got %+v", packets[0])
	}
	raw, err := rtcp.Marshal([]rtcp.Packet{&rtcp.ReceiverReport{SSRC: pb.ssrc, Reports: []rtcp.ReceptionReport{{
		SSRC: sr.SSRC, FractionLost: 64, TotalLost: 0xffffff, Jitter: 80, LastSenderReport: uint32(sr.NTPTime >> 16), Delay: 0}}},
		&rtcp.Goodbye{Sources: []uint32{pb.ssrc}}})
	if err != nil {
		t.Fatal(err)
	}
	ctl := netip.AddrPortFrom(loopback, uint16(b.LocalPort()+1))
	writeFrom(t, pb.ctl, ctl, raw)
	wait(t, "report read", func() bool { return b.Stats().Rx.Reports == 1 })
	st := b.Stats()
	if st.Remote.Fraction != 0.25 || st.Remote.Lost != -1 || st.Remote.Jitter != 10*time.Millisecond || st.Remote.RTT > 5*time.Second {
		t.Errorf("remote report %+v", st.Remote)
	}
	if st.Rx.Byes != 1 {
		t.Errorf("byes %d", st.Rx.Byes)
	}
	pa.say(0, "after the BYE")
	pb.expect(0, "after the BYE")
	_ = a
}

func TestProtectedReports(t *testing.T) {
	e := engine(t, func(o *Options) { o.ReportEvery = 50 * time.Millisecond })
	for _, suite := range Suites() {
		s := session(t, e)
		p := newParty(t, s)
		r := p.remote(pcmu)
		r.SendKey, r.RecvKey = NewKey(suite), NewKey(suite)
		set(t, s, r)
		plain, err := contextOf(t, r.SendKey).DecryptRTCP(nil, readFrom(t, p.ctl), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rtcp.Unmarshal(plain); err != nil {
			t.Fatal(err)
		}
		raw, _ := rtcp.Marshal([]rtcp.Packet{&rtcp.ReceiverReport{SSRC: 7}})
		sealed, err := contextOf(t, r.RecvKey).EncryptRTCP(nil, raw, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctl := netip.AddrPortFrom(loopback, uint16(s.LocalPort()+1))
		writeFrom(t, p.ctl, ctl, raw)
		writeFrom(t, p.ctl, ctl, sealed)
		writeFrom(t, p.ctl, ctl, sealed)
		wait(t, "one of three taken", func() bool {
			st := s.Stats().Rx
			return st.Reports == 1 && st.Unprotected == 1 && st.Replayed == 1
		})
	}
}

func TestPortsRunOutAndComeBack(t *testing.T) {
	e := engine(t, func(o *Options) { o.First, o.Last = 30000, 30007 })
	var open []*Session
	seen := map[int]bool{}
	for range 4 {
		s := session(t, e)
		if s.LocalPort()%2 != 0 || seen[s.LocalPort()] {
			t.Errorf("port %d", s.LocalPort())
		}
		seen[s.LocalPort()] = true
		open = append(open, s)
	}
	if _, err := e.NewSession(SessionOptions{}); err == nil {
		t.Fatal("a fifth pair out of four")
	}
	open[0].Close()
	open[0].Close()
	if s := session(t, e); s.LocalPort() != open[0].LocalPort() {
		t.Errorf("got %d", s.LocalPort())
	}
}

func TestForeignProgramHoldsPorts(t *testing.T) {
	taken, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 30101})
	if err != nil {
		t.Skip("port 30101 is in use")
	}
	defer taken.Close()
	e := engine(t, func(o *Options) { o.First, o.Last = 30100, 30103 })
	if s := session(t, e); s.LocalPort() != 30102 {
		t.Errorf("got %d", s.LocalPort())
	}
	if _, err := e.NewSession(SessionOptions{}); err == nil {
		t.Error("took a pair of which one is in use")
	}
}

func TestClosedSessionLeavesNothing(t *testing.T) {
	e := engine(t)
	n := 10000
	if testing.Short() {
		n = 1000
	}
	free := e.Totals().FreePorts
	for i := range n / 2 {
		a, b := session(t, e), session(t, e)
		r := Remote{RTP: netip.AddrPortFrom(loopback, 9), Send: []Format{pcmu}, Receive: []Format{pcmu}, Direction: Both}
		if i%10 == 0 {
			r.SendKey, r.RecvKey = NewKey(CM128SHA80), NewKey(CM128SHA80)
		}
		set(t, a, r)
		set(t, b, r)
		if err := Bridge(a, b); err != nil {
			t.Fatal(err)
		}
		a.Close()
		b.Close()
		if err := a.SetRemote(r); err == nil {
			t.Fatal("closed session took a description")
		}
		if Bridge(a, b) == nil {
			t.Fatal("closed sessions were bridged")
		}
	}
	if got := e.Totals(); got.FreePorts != free || got.Sessions != 0 {
		t.Errorf("%d ports of %d free, %d sessions", got.FreePorts, free, got.Sessions)
	}
	for i := range e.socks {
		if e.socks[i].Load() != nil {
			t.Fatalf("port %d is still watched", i)
		}
	}
}

func TestCloseWhilePacketsFly(t *testing.T) {
	e := engine(t)
	done := make(chan struct{})
	stop := make(chan struct{})
	a, b, pa, _ := pair(t, e, []Format{pcmu}, []Format{pcmu})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = pa.data.WriteToUDPAddrPort(pa.packet(0, "x"), pa.to)
			}
		}
	}()
	for range 200 {
		a.Close()
		b.Close()
		a, b = session(t, e), session(t, e)
		set(t, a, pa.remote(pcmu))
		set(t, b, pa.remote(pcmu))
		if err := Bridge(a, b); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	<-done
}

func TestStopIsIdempotent(t *testing.T) {
	e, err := New(Options{Address: loopback, First: 20000, Last: 20101})
	if err != nil {
		t.Fatal(err)
	}
	s := session(t, e)
	e.Stop()
	e.Stop()
	e.Start()
	s.Close()
	if _, err := e.NewSession(SessionOptions{}); err == nil {
		t.Error("stopped engine made a session")
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	k := NewKey(CM128SHA80)
	for _, s := range []string{k.String(), k.GoString(), k.LogValue().String()} {
		if s != "AES_CM_128_HMAC_SHA1_80 [redacted]" {
			t.Errorf("printed %q", s)
		}
	}
	if _, err := KeyFrom(CM128SHA80, make([]byte, 29)); err == nil {
		t.Error("took a short key")
	}
	if got, err := KeyFrom(k.Suite(), k.Material()); err != nil || !got.Equal(k) {
		t.Errorf("key did not survive, %v", err)
	}
}

// TestIPv6 relays between a party at ::1 and one at 127.0.0.1 through sockets that are open to both.
func TestIPv6(t *testing.T) {
	c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		t.Skip("no IPv6 here")
	}
	defer c.Close()
	e := engine(t, func(o *Options) { o.Address = netip.IPv6Unspecified() })
	a, b := session(t, e), session(t, e)
	pa, pb := newParty(t, a), newParty(t, b)
	six := Remote{RTP: addrOf(c), Send: []Format{pcmu}, Receive: []Format{pcmu}, Direction: Both}
	set(t, a, six)
	set(t, b, pb.remote(pcmu))
	if err := Bridge(a, b); err != nil {
		t.Fatal(err)
	}
	writeFrom(t, c, netip.AddrPortFrom(netip.IPv6Loopback(), uint16(a.LocalPort())), pa.packet(0, "six"))
	pb.expect(0, "six")
	pb.say(0, "four")
	if got := readFrom(t, c); string(got[rtpHeaderLen:]) != "four" {
		t.Errorf("heard %q", got)
	}
}
