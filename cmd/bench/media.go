package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// media measures relayed audio: both ends of each call send G.711 of 20 ms and count what arrives. The limit of a relay shows
// in delay long before packets are lost, since socket buffers hold seconds of audio; so a step passes when nothing is lost and
// one packet in a hundred at most is late by more than lateDelay.
func (b *bench) media(ctx context.Context) (err error) {
	d, err := b.newDaemon(ctx, "media", b.linesSite())
	if err != nil {
		return err
	}
	defer also(&err, d)
	steps := []int{50, 100, 200, 300, 400}
	if b.quick {
		steps = []int{10, 20}
	}
	var best, steady, last audioResult
	reached := 0
	for _, n := range steps {
		r, err := b.relay(ctx, d, n)
		if err != nil {
			return fmt.Errorf("%d calls: %w", n, err)
		}
		last = r
		if r.lost > 0 || r.p99 > lateDelay {
			break
		}
		best, reached = r, n
		if n <= 100 {
			steady = r
		}
	}
	if reached == 0 {
		return fmt.Errorf("not even %d calls without loss: %v", steps[0], last)
	}
	direct, err := direct(ctx, steady.calls, b.span())
	if err != nil {
		return err
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.report.add(
		row{Name: "relayed G.711, per packet", Value: steady.perPacket(), Unit: "us CPU",
			Beside: fmt.Sprintf("%d calls, %d packets, %d lost", steady.calls, steady.sent, steady.lost)},
		row{Name: "relayed G.711, per call", Value: steady.perCall(), Unit: "% of a core", Beside: "both directions"},
		row{Name: "relayed G.711, delay p99", Value: ms(steady.p99), Unit: "ms", Reference: ms(direct.p99), Than: "without relay",
			Beside: fmt.Sprintf("added: p50 %v, p99 %v", (steady.p50 - direct.p50).Round(time.Microsecond), (steady.p99 - direct.p99).Round(time.Microsecond))},
		row{Name: "relayed G.711, calls at once without loss", Value: float64(reached), Unit: "calls",
			Beside: fmt.Sprintf("%s us/packet, p99 %v; the most that was tried is %d; generator on the same cores", figure(best.perPacket()),
				best.p99.Round(10*time.Microsecond), last.calls)},
	)
	return nil
}

const lateDelay = 20 * time.Millisecond

// audioResult is what a number of calls went through.
type audioResult struct {
	calls, sent, lost int
	cpu, took         time.Duration
	p50, p99          time.Duration
}

func (r audioResult) perPacket() float64 { return per(r.cpu, r.sent, time.Microsecond) }
func (r audioResult) perCall() float64 {
	return 100 * float64(r.cpu) / float64(r.took) / float64(r.calls)
}

// relay sets n calls up, runs audio through them, and takes them down.
func (b *bench) relay(ctx context.Context, d *daemon, n int) (r audioResult, err error) {
	pairs, all, err := b.pairs(ctx, daemonAddress, n)
	if err != nil {
		return r, err
	}
	defer closeAll(all)
	streams := make([]*stream, 2*n)
	defer closeStreams(streams)
	calls := make([]*call, n)
	err = each(n, 16, func(i int) (err error) {
		p := pairs[i]
		for k, at := range []*netip.AddrPort{&p.offer, &p.answer} {
			if streams[2*i+k], err = newStream(phoneAddress(2*i + k)); err != nil {
				return err
			}
			*at = streams[2*i+k].local
		}
		calls[i], err = p.invite(ctx)
		if err != nil {
			return err
		}
		streams[2*i].remote, streams[2*i+1].remote = calls[i].remote, p.told
		return nil
	})
	if err != nil {
		return r, err
	}
	r, err = audio(ctx, streams, b.span(), func() time.Duration { return d.cpu() })
	r.calls = n
	return r, errors.Join(err, each(n, 16, func(i int) error { return calls[i].bye(ctx) }))
}

// direct is the same audio without anything between the ends: the delay of the generator itself.
func direct(ctx context.Context, n int, span time.Duration) (r audioResult, err error) {
	streams := make([]*stream, 2*n)
	defer closeStreams(streams)
	for i := range streams {
		if streams[i], err = newStream(phoneAddress(i)); err != nil {
			return r, err
		}
	}
	for i, s := range streams {
		s.remote = streams[i^1].local
	}
	return audio(ctx, streams, span, func() time.Duration { return 0 })
}

// stream is one end of a call: it sends a packet every 20 ms and hears what the other end sends.
type stream struct {
	conn          *net.UDPConn
	local, remote netip.AddrPort
	packet        [12 + 160]byte
	sent          int

	mu     sync.Mutex // while the receiver runs
	heard  int
	delays []time.Duration
}

func newStream(at netip.Addr) (*stream, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
	if err != nil {
		return nil, err
	}
	s := &stream{conn: conn, local: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
	s.packet[0] = 0x80 // version 2; payload type 0 is PCMU
	binary.BigEndian.PutUint32(s.packet[8:], uint32(s.local.Port())<<16|1)
	for i := 12; i < len(s.packet); i++ {
		s.packet[i] = 0xff
	}
	return s, nil
}

func closeStreams(all []*stream) {
	for _, s := range all {
		if s != nil {
			s.conn.Close()
		}
	}
}

// send sends the next packet. The first bytes of its payload are the time, for the one who hears it.
func (s *stream) send(zero time.Time) error {
	s.sent++
	binary.BigEndian.PutUint16(s.packet[2:], uint16(s.sent))
	binary.BigEndian.PutUint32(s.packet[4:], uint32(160*s.sent))
	binary.BigEndian.PutUint64(s.packet[12:], uint64(time.Since(zero)))
	_, err := s.conn.WriteToUDPAddrPort(s.packet[:], s.remote)
	return err
}

// hear counts what arrives until the socket is closed.
func (s *stream) hear(zero time.Time) {
	var buf [2048]byte
	for {
		n, _, err := s.conn.ReadFromUDPAddrPort(buf[:])
		if err != nil {
			return
		}
		if n != len(s.packet) || buf[1]&0x7f != 0 {
			continue // RTCP has its own port; nothing else is expected
		}
		now := time.Since(zero)
		s.mu.Lock()
		s.heard++
		s.delays = append(s.delays, now-time.Duration(binary.BigEndian.Uint64(buf[12:])))
		s.mu.Unlock()
	}
}

// audio runs streams for a time. Their packets are spread over the 20 ms; used tells the processor time of what lies between.
// Nothing is counted before every path has been opened by a first packet.
func audio(ctx context.Context, streams []*stream, span time.Duration, used func() time.Duration) (r audioResult, err error) {
	zero := time.Now()
	for _, s := range streams {
		go s.hear(zero)
		s.delays = make([]time.Duration, 0, int(span/(20*time.Millisecond))+100)
	}
	const slices = 10
	run := func(from time.Time, span time.Duration) error {
		for k := 0; time.Duration(k)*20*time.Millisecond/slices < span && ctx.Err() == nil; k++ {
			time.Sleep(time.Until(from.Add(time.Duration(k) * 20 * time.Millisecond / slices)))
			for i := k % slices; i < len(streams); i += slices {
				if err := streams[i].send(zero); err != nil {
					return err
				}
			}
		}
		return ctx.Err()
	}
	if err := run(time.Now(), 200*time.Millisecond); err != nil {
		return r, err
	}
	time.Sleep(100 * time.Millisecond)
	for _, s := range streams {
		s.mu.Lock()
		s.heard, s.delays = 0, s.delays[:0]
		s.mu.Unlock()
		r.sent -= s.sent
	}
	before, began := used(), time.Now()
	if err := run(began, span); err != nil {
		return r, err
	}
	r.took = time.Since(began)
	r.cpu = used() - before
	time.Sleep(200 * time.Millisecond)
	var delays []time.Duration
	heard := 0
	for _, s := range streams {
		s.mu.Lock()
		r.sent += s.sent
		heard += s.heard
		delays = append(delays, s.delays...)
		s.mu.Unlock()
	}
	r.calls = len(streams) / 2
	r.lost = r.sent - heard
	r.p50, r.p99 = quantile(delays, 0.5), quantile(delays, 0.99)
	return r, nil
}
