package media

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/pion/rtcp"
)

var (
	loopback = netip.MustParseAddr("127.0.0.1")
	pcmu     = Format{PT: 0, Name: "PCMU", Rate: 8000}
	pcma     = Format{PT: 8, Name: "PCMA", Rate: 8000}
	g722     = Format{PT: 9, Name: "G722", Rate: 8000}
)

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
	a, _, pa, pb := pair(t, e, []Format{pcmu, {PT: 18, Name: "G729", Rate: 8000}}, []Format{pcmu})
	pa.say(18, "wide")
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

// TestTenThousandSessions: none leaves a port, a socket, an ear or anything on the clock behind.
func TestTenThousandSessions(t *testing.T) {
	n := 10000
	if testing.Short() {
		n = 1000
	}
	e := engine(t)
	open := func() int { list, _ := os.ReadDir("/proc/self/fd"); return len(list) }
	free, before := e.Totals().FreePorts, open()
	for i := range n / 2 {
		a, b := session(t, e), session(t, e)
		if err := Bridge(a, b); err != nil {
			t.Fatal(err)
		}
		if i%50 == 0 {
			if err := a.Play(e.NewPlayer(Melody(), nil)); err != nil {
				t.Fatal(err)
			}
			m, err := Listen(a, b)
			if err != nil {
				t.Fatal(err)
			}
			stop, err := b.OnDigit(func(byte) {})
			if err != nil {
				t.Fatal(err)
			}
			stop()
			m.Stop()
		}
		a.Close()
		b.Close()
	}
	wait(t, "the clock stands still", e.pacer.empty)
	if got := e.Totals(); got.FreePorts != free || got.Sessions != 0 {
		t.Errorf("%+v, %d ports were free", got, free)
	}
	if after := open(); after > before+2 {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	for _, w := range e.workers {
		if w.load() != 0 {
			t.Error("a worker keeps sessions")
		}
	}
}
