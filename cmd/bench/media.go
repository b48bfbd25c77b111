package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/srtp/v3"
)

// media measures relayed audio: both ends of each call send G.711 of 20 ms and count what arrives. The limit of a relay shows
// in delay long before packets are lost, since socket buffers hold seconds of audio; both are told. Each number of calls goes through us and
// then at once through the reference, in the clear and with SRTP on the caller's leg.
func (b *bench) media(ctx context.Context) (err error) {
	d, err := b.newDaemon(ctx, "media", b.linesSite())
	if err != nil {
		return err
	}
	defer also(&err, d)
	reference, err := b.startRTPEngine(ctx)
	if err != nil {
		return err
	}
	if reference != nil {
		defer also(&err, reference)
	}
	steps := []int{50, 100, 200, 400}
	secrets := steps[1:3]
	if b.quick {
		steps, secrets = []int{10, 20}, []int{10}
	}
	if b.atOnce > 0 {
		steps, secrets = []int{b.atOnce}, []int{b.atOnce}
	}
	var best, onTime audioResult
	last := 0
	for _, n := range steps {
		r, err := b.beside(ctx, d, reference, n, false)
		if err != nil {
			return fmt.Errorf("%d calls: %w", n, err)
		}
		last = n
		if r.lost > 0 || r.p99 > hopeless {
			break
		}
		best = r
		if r.p99 <= inTime {
			onTime = r
		}
	}
	for _, n := range secrets {
		if _, err := b.beside(ctx, d, reference, n, true); err != nil {
			return fmt.Errorf("%d calls with SRTP: %w", n, err)
		}
	}
	b.report.add(row{Name: "relayed G.711, calls at once without loss", Value: float64(best.calls), Unit: "calls",
		Beside: fmt.Sprintf("p99 of the delay %v; p99 under %v up to %d calls; tried up to %d; the generator runs on the same cores",
			best.p99.Round(10*time.Microsecond), inTime, onTime.calls, last)})
	return b.halfLoad(ctx, d, max(onTime.calls/2, 1))
}

// halfLoad tells what delay the relay adds at half of what it can do on time: to the same audio without anything between.
func (b *bench) halfLoad(ctx context.Context, d *daemon, calls int) error {
	without, err := direct(ctx, calls, b.span())
	if err != nil {
		return err
	}
	with, err := b.relayCalls(ctx, d, calls, false)
	if err != nil {
		return err
	}
	ms := func(d time.Duration) float64 { return max(0, float64(d)/float64(time.Millisecond)) }
	for _, x := range []struct {
		name          string
		with, without time.Duration
		goal          float64
	}{{"p50", with.p50, without.p50, 0}, {"p99", with.p99, without.p99, 1}} {
		b.report.add(row{Name: "relayed G.711, added delay " + x.name, Value: ms(x.with - x.without), Unit: "ms", Goal: x.goal,
			Beside: fmt.Sprintf("%d calls, half of what is on time: %v, the generator alone %v", calls, x.with.Round(10*time.Microsecond), x.without.Round(10*time.Microsecond))})
	}
	return nil
}

// beside measures a number of calls through us and through the reference, and reports the ratio.
func (b *bench) beside(ctx context.Context, d, reference *daemon, n int, secret bool) (audioResult, error) {
	r, err := b.relayCalls(ctx, d, n, secret)
	if err != nil {
		return r, err
	}
	name, goal := "relayed G.711", 0.65
	if secret {
		name, goal = "relayed G.711, SRTP on one leg", 1
	}
	told := func(r audioResult) string {
		return fmt.Sprintf("%d of %d lost, p50 %v, p99 %v", r.lost, r.sent, r.p50.Round(10*time.Microsecond), r.p99.Round(10*time.Microsecond))
	}
	x := row{Name: fmt.Sprintf("%s, %d calls, per packet", name, n), Value: r.perPacket(), Unit: "us CPU",
		Beside: figure(r.perCall()) + " % of a core per call; " + told(r)}
	var theirs audioResult
	if reference != nil {
		if theirs, err = b.referenceCalls(ctx, reference, n, secret); err != nil {
			return r, fmt.Errorf("rtpengine: %w", err)
		}
	}
	if why := implausible(n, secret, theirs); reference != nil && why != "" {
		x.Beside += "; " + why
	} else {
		x.beside(row{Value: theirs.perPacket(), Beside: told(theirs)}, "rtpengine", goal)
	}
	b.report.add(x)
	return r, nil
}

// rtpengineSeen is what rtpengine has been seen to need per packet, in microseconds, least and most, on the machines that the figures of
// docs/performance.md are of, by numbers of calls. A ratio to a reference that is not itself says nothing.
var rtpengineSeen = map[bool]map[int][2]float64{
	false: {50: {20, 27}, 100: {15, 21}, 200: {11, 17}, 400: {10, 16}},
	true:  {100: {15, 24}, 200: {12, 20}},
}

// tolerance is by how much the reference may miss its range.
const tolerance = 0.3

// implausible tells why a figure of the reference is not to be used; empty when it is.
func implausible(calls int, secret bool, r audioResult) string {
	seen, ok := rtpengineSeen[secret][calls]
	if v := r.perPacket(); ok && (v < seen[0]*(1-tolerance) || v > seen[1]*(1+tolerance)) {
		return fmt.Sprintf("NO RATIO: rtpengine needed %s us where %g to %g are known, so something else was measured", figure(v), seen[0], seen[1])
	}
	return ""
}

// Delays that matter: what a phone's jitter buffer takes without anybody hearing it, and where a step ends the measurement.
const (
	inTime   = 20 * time.Millisecond
	hopeless = 500 * time.Millisecond
)

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

// relayCalls sets n calls between lines up, runs audio through them, and takes them down.
func (b *bench) relayCalls(ctx context.Context, d *daemon, n int, secret bool) (r audioResult, err error) {
	pairs, all, err := b.pairs(ctx, daemonAddress, n)
	if err != nil {
		return r, err
	}
	defer closeAll(all)
	return b.relay(ctx, d, n, func(i int, x, y *stream) (func() error, error) {
		p := pairs[i]
		p.offer, p.answer, p.key = x.local, y.local, ""
		if secret {
			p.key = x.makeKey()
		}
		c, err := p.invite(ctx)
		if err != nil {
			return nil, err
		}
		if secret {
			if err := x.protect(p.key, c.key); err != nil {
				return nil, err
			}
		}
		x.remote, y.remote = c.remote, p.told
		return func() error { return c.bye(ctx) }, nil
	})
}

// relay connects n pairs of streams through what d does, runs audio, and takes them down.
func (b *bench) relay(ctx context.Context, d *daemon, n int, connect func(i int, x, y *stream) (hangUp func() error, err error)) (r audioResult, err error) {
	streams := make([]*stream, 2*n)
	defer func() { closeStreams(streams) }()
	ends := make([]func() error, n)
	err = each(n, 16, func(i int) (err error) {
		for k := range 2 {
			if streams[2*i+k], err = newStream(phoneAddress(2*i + k)); err != nil {
				return err
			}
		}
		ends[i], err = connect(i, streams[2*i], streams[2*i+1])
		return err
	})
	if err != nil {
		return r, err
	}
	r, err = audio(ctx, streams, b.span(), d.cpu)
	r.calls = n
	return r, errors.Join(err, each(n, 16, func(i int) error { return ends[i]() }))
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
	out, in       *srtp.Context // nil: in the clear

	mu     sync.Mutex    // while the receiver runs
	since  time.Duration // packets sent earlier are not counted
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

// makeKey invents the key of an offer, as SDES writes it: 16 octets of key and 14 of salt.
func (s *stream) makeKey() string {
	var b [30]byte
	_, _ = rand.Read(b[:])
	return base64.StdEncoding.EncodeToString(b[:])
}

// protect makes the stream SRTP with our key and the other end's.
func (s *stream) protect(ours, theirs string) error {
	for _, x := range []struct {
		to  **srtp.Context
		key string
	}{{&s.out, ours}, {&s.in, theirs}} {
		b, err := base64.StdEncoding.DecodeString(x.key)
		if err != nil || len(b) != 30 {
			return fmt.Errorf("SRTP key of %d octets", len(b))
		}
		if *x.to, err = srtp.CreateContext(b[:16], b[16:], srtp.ProtectionProfileAes128CmHmacSha1_80); err != nil {
			return err
		}
	}
	return nil
}

// send sends the next packet. The first bytes of its payload are the time, for the one who hears it.
func (s *stream) send(zero time.Time) error {
	s.sent++
	binary.BigEndian.PutUint16(s.packet[2:], uint16(s.sent))
	binary.BigEndian.PutUint32(s.packet[4:], uint32(160*s.sent))
	binary.BigEndian.PutUint64(s.packet[12:], uint64(time.Since(zero)))
	packet := s.packet[:]
	if s.out != nil {
		var err error
		if packet, err = s.out.EncryptRTP(nil, packet, nil); err != nil {
			return err
		}
	}
	_, err := s.conn.WriteToUDPAddrPort(packet, s.remote)
	return err
}

// hear counts what arrives until the socket is closed.
func (s *stream) hear(zero time.Time) {
	var all [2048]byte
	for {
		n, _, err := s.conn.ReadFromUDPAddrPort(all[:])
		if err != nil {
			return
		}
		buf := all[:]
		if s.in != nil {
			if buf, err = s.in.DecryptRTP(nil, all[:n], nil); err != nil {
				continue // it counts as lost
			}
			n = len(buf)
		}
		if n != len(s.packet) || buf[1]&0x7f != 0 {
			continue // RTCP has its own port; nothing else is expected
		}
		now, sent := time.Since(zero), time.Duration(binary.BigEndian.Uint64(buf[12:]))
		s.mu.Lock()
		if sent >= s.since {
			s.heard++
			s.delays = append(s.delays, now-sent)
		}
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
	since := time.Since(zero)
	for _, s := range streams {
		s.mu.Lock()
		s.since, s.heard, s.delays = since, 0, s.delays[:0]
		s.mu.Unlock()
		r.sent -= s.sent
	}
	before, began := used(), time.Now()
	if err := run(began, span); err != nil {
		return r, err
	}
	r.took = time.Since(began)
	r.cpu = used() - before
	time.Sleep(hopeless)
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
