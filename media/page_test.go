package media

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestStreamToMany sends one sound to fifty: each hears all of it, in packets that are the same for all, from one port, one every 20 ms.
func TestStreamToMany(t *testing.T) {
	e := engine(t)
	for _, codec := range []string{"PCMU", "PCMA", "G722"} {
		t.Run(codec, func(t *testing.T) {
			const listeners, frames = 50, 20
			var ears []*net.UDPConn
			var targets []netip.AddrPort
			for range listeners {
				c := listen(t)
				ears, targets = append(ears, c), append(targets, addrOf(c))
			}
			done := make(chan struct{})
			s, err := e.NewStream(&Once{Samples: longTone(frames)}, StreamOptions{Codec: codec, Targets: targets, Done: func() { close(done) }})
			if err != nil {
				t.Fatal(err)
			}
			dropped := listeners - 1
			s.Drop(targets[dropped])
			s.Start()
			var first []byte
			out := coderOf(Format{Name: codec, Rate: 8000})
			for k, c := range ears[:dropped] {
				var heard []int16
				var last packet
				var all []byte
				for i := range frames {
					b := make([]byte, 2048)
					_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
					n, from, err := c.ReadFromUDPAddrPort(b)
					if err != nil {
						t.Fatal(err)
					}
					p, err := parsePacket(b[:n])
					if err != nil || int(from.Port()) != s.LocalPort() || p.marker != (i == 0) || i > 0 && (p.seq != last.seq+1 || p.timestamp != last.timestamp+160) {
						t.Fatalf("listener %d, packet %d from %v: %+v after %+v, %v", k, i, from, p, last, err)
					}
					last = p
					all = append(all, b[:n]...)
					heard = decode(out.kind, &out.dec, heard, b[p.offset:n])
				}
				if k == 0 {
					first = all
					if share, amplitude := loudness(heard[len(heard)/4:], 1000, out.rate()); share < 0.98 || math.Abs(amplitude-6000) > 400 {
						t.Errorf("%.0f %% is the tone, amplitude %.0f", 100*share, amplitude)
					}
				} else if string(all) != string(first) {
					t.Fatalf("listener %d hears something else", k)
				}
			}
			select {
			case <-done:
			case <-time.After(10 * time.Second):
				t.Fatal("the sound does not end")
			}
			_ = ears[dropped].SetReadDeadline(time.Now())
			if _, _, err := ears[dropped].ReadFromUDPAddrPort(make([]byte, 100)); err == nil {
				t.Error("who was dropped hears it")
			}
			if st := s.Stats(); st.Packets < uint64(dropped*frames) || st.Errors != 0 {
				t.Errorf("%+v", st)
			}
			free := e.Totals().FreePorts
			s.Stop()
			s.Stop()
			if got := e.Totals().FreePorts; got != free+1 {
				t.Errorf("%d free ports, want %d", got, free+1)
			}
		})
	}
}

func longTone(frames int) (pcm []int16) {
	for i := range frames {
		pcm = append(pcm, sine(1000, 6000, 16000, 320*i)...)
	}
	return pcm
}

// TestStreamOfALiveCaller pages what a party says, to a multicast group on the loopback: one stream, with its TTL and mark.
func TestStreamOfALiveCaller(t *testing.T) {
	e := engine(t)
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skip("no loopback interface")
	}
	group := netip.MustParseAddr("239.255.77.7")
	c, err := net.ListenMulticastUDP("udp4", lo, &net.UDPAddr{IP: group.AsSlice()})
	if err != nil {
		t.Skip("no multicast here: ", err)
	}
	defer c.Close()
	caller := session(t, e)
	p := newParty(t, caller)
	set(t, caller, p.remote(pcmu))
	m, err := Listen(caller)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Stop()
	s, err := e.NewStream(m, StreamOptions{
		Codec: "G722", Targets: []netip.AddrPort{netip.AddrPortFrom(group, uint16(c.LocalAddr().(*net.UDPAddr).Port))}, From: loopback,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.Stop()
	end := make(chan struct{})
	defer close(end)
	go func() {
		in := coderOf(pcmu)
		for i := 0; ; i++ {
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
				_, _ = p.data.WriteToUDPAddrPort(p.packet(0, string(encode(in.kind, nil, nil, sine(1000, 6000, 8000, 160*i)))), p.to)
			}
		}
	}()
	out := coderOf(g722)
	best := 0.0
	var heard []int16
	for until := time.Now().Add(20 * time.Second); best < 0.95 && time.Now().Before(until); {
		b := make([]byte, 2048)
		_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
		n, _, err := c.ReadFrom(b)
		if err != nil {
			t.Skip("the loopback carries no multicast: ", err)
		}
		if heard = append(heard, out.dec.Decode(nil, b[rtpHeaderLen:n])...); len(heard) > 3200 {
			share, _ := loudness(heard[len(heard)-3200:], 1000, 16000)
			best = max(best, share)
		}
	}
	if best < 0.95 {
		t.Errorf("at best %.0f %% is what the caller says", 100*best)
	}
}

func TestStreamsThatCannotBe(t *testing.T) {
	e := engine(t)
	for i, o := range []StreamOptions{
		{Codec: "G729", Targets: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:20480")}}, {Codec: "G722"},
		{Codec: "G722", Targets: []netip.AddrPort{{}}},
	} {
		if _, err := e.NewStream(Melody(), o); err == nil {
			t.Error("stream ", i)
		}
	}
	if free := e.Totals().FreePorts; free != 5000 {
		t.Error(fmt.Sprint(free, " free ports"))
	}
}
