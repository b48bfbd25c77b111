package phone

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/pion/rtp"
)

// pageStream is an RTP stream that the server has told the phone to play ("rtp-streaming" §1). It is guarded by Phone.mu, but for rec,
// which media's lock guards.
type pageStream struct {
	codec, address string
	port, volume   int
	conn           net.PacketConn
	m              *media
	starts, stops  int
}

// Stream is what a phone plays, or played last, without a call.
type Stream struct {
	Running          bool
	Codec, Address   string
	Port, Volume     int
	Starts, Stops    int
	Received, Lost   int
	Foreign, OtherPT int
	Hz, Share        float64 // the strongest tone of the last second
}

// Stream tells what the phone was told to play, and what of it is heard.
func (p *Phone) Stream() Stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.stream
	out := Stream{Running: s.conn != nil, Codec: s.codec, Address: s.address, Port: s.port, Volume: s.volume, Starts: s.starts, Stops: s.stops}
	if s.m != nil {
		s.m.mu.Lock()
		defer s.m.mu.Unlock()
		r := &s.m.rec
		out.Received, out.Lost, out.Foreign, out.OtherPT = r.received, r.lost(), r.foreign, r.otherType
		out.Hz, out.Share = findTone(r.recent(sampleRate))
	}
	return out
}

// parseStream reads startMedia or stopMedia as strictly as the page describes them.
func parseStream(root *element) (s pageStream, start bool, err error) {
	e := root.child("mediaStream")
	if e == nil || len(root.kids) != 1 {
		return s, false, fmt.Errorf("<%s> without one mediaStream", root.name)
	}
	if root.name == "stopMedia" {
		return s, false, nil
	}
	s.codec, s.address = e.get("codec"), e.get("address")
	s.port, err = strconv.Atoi(e.get("port"))
	if err != nil || s.port%2 != 0 || s.port < 20480 || s.port > 32768 {
		return s, true, fmt.Errorf("port %q", e.get("port"))
	}
	if v, ok := e.attrs["receiveVolume"]; ok {
		if s.volume, err = strconv.Atoi(v); err != nil || s.volume < 1 || s.volume > 100 {
			return s, true, fmt.Errorf("receiveVolume %q", v)
		}
	}
	a, err := netip.ParseAddr(s.address)
	if err != nil || !a.Is4() {
		return s, true, fmt.Errorf("address %q", s.address)
	}
	if e.get("type") != "audio" || e.get("mode") != "receive" || s.codec != "G.711" && s.codec != "G.722" {
		return s, true, fmt.Errorf("type %q, mode %q, codec %q", e.get("type"), e.get("mode"), s.codec)
	}
	return s, true, nil
}

// playStream opens the port of a stream and measures what comes.
func (p *Phone) playStream(s pageStream, local netip.Addr) error {
	group, _ := netip.ParseAddr(s.address)
	var conn net.PacketConn
	var err error
	if group.IsMulticast() {
		conn, err = joinGroup(group, uint16(s.port), local)
	} else {
		conn, err = p.net().ListenUDP(netip.AddrPortFrom(local, uint16(s.port)))
	}
	if err != nil {
		return err
	}
	m := newMedia(p)
	m.codec, m.pt = map[string]string{"G.711": "PCMU", "G.722": "G722"}[s.codec], map[string]int{"G.711": 0, "G.722": 9}[s.codec]
	m.dtmf = -1
	p.mu.Lock()
	old := p.stream.conn
	s.starts, s.stops = p.stream.starts+1, p.stream.stops
	s.conn, s.m = conn, m
	p.stream = s
	p.changedLocked()
	p.mu.Unlock()
	if old != nil {
		p.remark("a second stream while one is running")
		old.Close()
	}
	p.tasks.Go("phone stream", func(ctx context.Context) {
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		buf := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var pkt rtp.Packet
			m.mu.Lock()
			if pkt.Unmarshal(buf[:n]) != nil {
				m.rec.malformed++
			} else {
				if !group.IsMulticast() && addrPortOf(from).Addr() != group {
					m.rec.foreign++
				}
				m.rec.packet(&pkt, time.Now(), m.codec, m.pt, m.dtmf)
			}
			m.mu.Unlock()
		}
	})
	return nil
}

func (p *Phone) stopStream() {
	p.mu.Lock()
	conn := p.stream.conn
	p.stream.conn = nil
	p.stream.stops++
	p.changedLocked()
	p.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

// joinGroup listens to a multicast group on the interface that has an address; one that is nobody's is the loopback's, where tests route
// whole networks.
func joinGroup(group netip.Addr, port uint16, local netip.Addr) (net.PacketConn, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	at := -1
	for i := range list {
		if list[i].Flags&net.FlagLoopback != 0 && at < 0 {
			at = i
		}
		addrs, _ := list[i].Addrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.Contains(local.AsSlice()) {
				at = i
			}
		}
	}
	if at < 0 {
		return nil, fmt.Errorf("no interface with %v", local)
	}
	return net.ListenMulticastUDP("udp4", &list[at], net.UDPAddrFromAddrPort(netip.AddrPortFrom(group, port)))
}
