package phone

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"

	"ringfence/internal/task"
	"ringfence/media/codec"
)

// media is the audio of one call: a tone out, measurements in. It has a lock of its own; Phone.mu may be held when it is
// taken, never the other way round.
type media struct {
	p     *Phone
	tasks *task.Group

	mu      sync.Mutex
	rtp     net.PacketConn
	rtcp    net.PacketConn
	port    int
	closed  bool
	remote  netip.AddrPort
	rcAddr  netip.AddrPort
	codec   string // PCMU, PCMA, G722, … ; empty before it is agreed
	pt      int
	dtmf    int
	suite   string
	sendOK  bool
	out, in *srtp.Context
	old     *srtp.Context // keys before the last change, for packets that come late
	oldEnds time.Time

	copy           bool     // of another call: it sends what that passes on
	near, far      []*media // copies of what this side says and hears
	passed, offset uint32   // of a copy: timestamps

	tone toneSource
	wide struct {
		up  codec.Upsampler
		enc *codec.G722Encoder
		buf []int16
	}
	ssrc   uint32
	seq    uint16
	stamp  uint32
	keys   []rtp.Packet // telephone-event packets that are due
	begun  time.Time
	sent   int
	octets int

	rec recorder
}

func newMedia(p *Phone) *media {
	return &media{
		p: p, tasks: task.NewGroup(context.Background(), p.log), tone: toneSource{hz: p.opt.ToneHz},
		ssrc: rand.Uint32(), seq: uint16(rand.UintN(1 << 15)), stamp: rand.Uint32(),
	}
}

// open binds an even port of the configured range and the next one for RTCP.
func (m *media) open(c *Config, local netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rtp != nil {
		return nil
	}
	n := m.p.net()
	pairs := (c.MediaTo - c.MediaFirst) / 2
	first := rand.IntN(max(pairs, 1))
	for i := range min(pairs, 500) {
		port := c.MediaFirst&^1 + 2*((first+i)%pairs)
		if port < c.MediaFirst {
			continue
		}
		a, err := n.ListenUDP(netip.AddrPortFrom(local, uint16(port)))
		if err != nil {
			continue
		}
		b, err := n.ListenUDP(netip.AddrPortFrom(local, uint16(port+1)))
		if err != nil {
			a.Close()
			continue
		}
		m.rtp, m.rtcp, m.port = a, b, port
		m.tasks.Go("phone rtp in", m.receive)
		m.tasks.Go("phone rtcp in", m.receiveReports)
		m.tasks.Go("phone rtp out", m.send)
		return nil
	}
	return errors.New("no free media port")
}

func (m *media) close() {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	m.closed = true
	a, b := m.rtp, m.rtcp
	m.mu.Unlock()
	if a != nil {
		a.Close()
		b.Close()
	}
	// The goroutines end by themselves; waiting for them here could wait for the caller.
	m.p.tasks.Go("phone media end", func(context.Context) { m.tasks.Stop() })
}

// agreed is what an offer and its answer settled.
type agreed struct {
	remote   netip.AddrPort
	codec    string
	pt, dtmf int
	send     bool // this side may send
	out, in  *cryptoLine
}

// set puts an agreement in force. New keys begin at once; the old ones are kept a second for late packets (calls §30).
func (m *media) set(a agreed) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out, in *srtp.Context
	suite := ""
	if a.out != nil {
		var err error
		if out, err = a.out.context(); err != nil {
			return fmt.Errorf("SRTP out: %w", err)
		}
		if in, err = a.in.context(); err != nil {
			return fmt.Errorf("SRTP in: %w", err)
		}
		suite = a.out.suite
	}
	m.old, m.oldEnds = m.in, time.Now().Add(time.Second)
	m.out, m.in, m.suite = out, in, suite
	m.remote, m.rcAddr = a.remote, netip.AddrPortFrom(a.remote.Addr(), a.remote.Port()+1)
	m.codec, m.pt, m.dtmf, m.sendOK = a.codec, a.pt, a.dtmf, a.send
	if m.begun.IsZero() {
		m.begun = time.Now()
	}
	return nil
}

// pause stops or starts sending without a new agreement.
func (m *media) pause(stop bool) {
	m.mu.Lock()
	m.sendOK = !stop
	m.mu.Unlock()
}

// send paces packets of 20 ms. A phone's sound hardware never leaves one out: what a busy machine has made late goes out all
// the same, at most a quarter of a second of it.
func (m *media) send(ctx context.Context) {
	const frame, most = 20 * time.Millisecond, 250 * time.Millisecond
	due := time.Now().Add(frame)
	timer := time.NewTimer(frame)
	defer timer.Stop()
	samples := make([]int16, frameLen)
	var raw, sealed []byte
	for n := 0; ; n++ {
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
		} else if wait < -most {
			due = time.Now()
		}
		due = due.Add(frame)
		m.mu.Lock()
		if m.closed {
			m.mu.Unlock()
			return
		}
		pkt, to, out, ok := m.nextLocked(samples)
		sock := m.rtp
		if ok && int(pkt.PayloadType) == m.pt {
			for _, c := range m.near {
				c.pass(m.codec, &pkt)
			}
		}
		m.mu.Unlock()
		if n%250 == 249 {
			m.report()
		}
		if !ok {
			continue
		}
		b, err := pkt.Marshal()
		if err != nil {
			continue
		}
		raw = b
		if out != nil {
			if sealed, err = out.EncryptRTP(sealed[:0], raw, nil); err != nil {
				continue
			}
			raw = sealed
		}
		if _, err := sock.WriteTo(raw, net.UDPAddrFromAddrPort(to)); err == nil {
			m.mu.Lock()
			m.sent++
			m.octets += len(pkt.Payload)
			m.mu.Unlock()
		}
	}
}

// nextLocked makes the packet of this tick. m.mu is held.
func (m *media) nextLocked(samples []int16) (pkt rtp.Packet, to netip.AddrPort, out *srtp.Context, ok bool) {
	m.stamp += frameLen
	if m.copy || m.codec == "" || !m.sendOK || !m.remote.IsValid() || m.remote.Port() == 0 || m.remote.Addr().IsUnspecified() {
		return pkt, to, nil, false
	}
	m.seq++
	if len(m.keys) > 0 {
		pkt = m.keys[0]
		m.keys = m.keys[1:]
		pkt.SequenceNumber = m.seq
		return pkt, m.remote, m.out, true
	}
	pkt.Header = rtp.Header{Version: 2, PayloadType: uint8(m.pt), SequenceNumber: m.seq, Timestamp: m.stamp, SSRC: m.ssrc, Marker: m.sent == 0}
	m.tone.fill(samples)
	switch m.codec {
	case "PCMU", "PCMA":
		pkt.Payload = make([]byte, frameLen)
		for i, s := range samples {
			if m.codec == "PCMU" {
				pkt.Payload[i] = ulaw(s)
			} else {
				pkt.Payload[i] = alaw(s)
			}
		}
	case "G722":
		if m.wide.enc == nil {
			m.wide.enc = codec.NewG722Encoder()
		}
		m.wide.buf = m.wide.up.Append(m.wide.buf[:0], samples)
		pkt.Payload = m.wide.enc.Encode(nil, m.wide.buf)
	default:
		pkt.Payload = opaqueFrame(m.tone.hz, uint32(m.seq))
	}
	return pkt, m.remote, m.out, true
}

// A codec that the phone does not have goes out as frames that say what tone they stand for, so that a relay can be
// measured all the same:
//
//	"RFOP" hertz×1000(4) number(4) filler to 160 bytes
const opaqueMark = "RFOP"

func opaqueFrame(hz float64, n uint32) []byte {
	b := append(make([]byte, 0, frameLen), opaqueMark...)
	b = binary.BigEndian.AppendUint32(b, uint32(hz*1000+0.5))
	b = binary.BigEndian.AppendUint32(b, n)
	for x := n; len(b) < frameLen; x = x*1664525 + 1013904223 {
		b = append(b, byte(x>>24))
	}
	return b
}

func fromOpaque(b []byte) (hz float64, ok bool) {
	if len(b) != frameLen || string(b[:4]) != opaqueMark {
		return 0, false
	}
	want := opaqueFrame(float64(binary.BigEndian.Uint32(b[4:]))/1000, binary.BigEndian.Uint32(b[8:]))
	return float64(binary.BigEndian.Uint32(b[4:])) / 1000, string(want) == string(b)
}

// receive reads RTP until the socket closes.
func (m *media) receive(context.Context) {
	buf := make([]byte, 2048)
	var plain []byte
	for {
		n, from, err := m.rtp.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || m.isClosed() {
				return
			}
			continue // an ICMP error of a packet of ours
		}
		now := time.Now()
		m.mu.Lock()
		b := buf[:n]
		switch {
		case m.codec == "":
			m.rec.early++
			m.mu.Unlock()
			continue
		case m.in != nil:
			out, err := m.in.DecryptRTP(plain[:0], b, nil)
			if err != nil && m.old != nil && now.Before(m.oldEnds) {
				out, err = m.old.DecryptRTP(plain[:0], b, nil)
			}
			if err != nil {
				if strings.Contains(err.Error(), "duplicated") {
					m.rec.replayed++
				} else {
					m.rec.unauthentic++
				}
				m.mu.Unlock()
				continue
			}
			plain, b = out, out
		}
		var pkt rtp.Packet
		if err := pkt.Unmarshal(b); err != nil {
			m.rec.malformed++
		} else {
			if addrPortOf(from) != m.remote {
				m.rec.foreign++
			}
			m.rec.packet(&pkt, now, m.codec, m.pt, m.dtmf)
			if int(pkt.PayloadType) == m.pt {
				for _, c := range m.far {
					c.pass(m.codec, &pkt)
				}
			}
		}
		woken := m.rec.received%25 == 1
		m.mu.Unlock()
		if woken {
			m.p.mu.Lock()
			m.p.changedLocked()
			m.p.mu.Unlock()
		}
	}
}

func (m *media) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

func (m *media) receiveReports(context.Context) {
	buf := make([]byte, 2048)
	for {
		n, _, err := m.rtcp.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || m.isClosed() {
				return
			}
			continue
		}
		m.mu.Lock()
		b := buf[:n]
		if m.in != nil {
			if b, err = m.in.DecryptRTCP(nil, b, nil); err != nil {
				m.rec.unauthentic++
				m.mu.Unlock()
				continue
			}
		}
		if _, err := rtcp.Unmarshal(b); err == nil {
			m.rec.reports++
		}
		m.mu.Unlock()
	}
}

// report sends a sender report with one reception block.
func (m *media) report() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.codec == "" || !m.rcAddr.IsValid() || m.remote.Port() == 0 {
		return
	}
	now := time.Now()
	const epoch = 2208988800 // seconds from 1900 to 1970
	sr := rtcp.SenderReport{
		SSRC: m.ssrc, NTPTime: uint64(now.Unix()+epoch)<<32 | uint64(now.Nanosecond())<<32/1e9, RTPTime: m.stamp,
		PacketCount: uint32(m.sent), OctetCount: uint32(m.octets),
	}
	if m.rec.received > 0 {
		sr.Reports = []rtcp.ReceptionReport{{
			SSRC: m.rec.ssrc, LastSequenceNumber: uint32(m.rec.high), TotalLost: uint32(m.rec.lost()), Jitter: uint32(m.rec.jitter),
		}}
	}
	b, err := rtcp.Marshal([]rtcp.Packet{&sr})
	if err != nil {
		return
	}
	if m.out != nil {
		if b, err = m.out.EncryptRTCP(nil, b, nil); err != nil {
			return
		}
	}
	_, _ = m.rtcp.WriteTo(b, net.UDPAddrFromAddrPort(m.rcAddr))
}

// press queues the events of one key: 80 ms of it, the end sent three times (calls §28).
func (m *media) press(digit byte) error {
	event := strings.IndexByte("0123456789*#ABCD", digit)
	if event < 0 {
		return fmt.Errorf("key %q", digit)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dtmf == 0 {
		return errors.New("telephone-event was not agreed")
	}
	if len(m.keys) > 200 {
		return errors.New("too many keys at once")
	}
	stamp := m.stamp + uint32(len(m.keys))*frameLen
	for i := 1; i <= 7; i++ {
		duration, end := uint16(min(i, 4)*frameLen), byte(0)
		if i > 4 {
			end = 0x80
		}
		m.keys = append(m.keys, rtp.Packet{
			Header:  rtp.Header{Version: 2, PayloadType: uint8(m.dtmf), Timestamp: stamp, SSRC: m.ssrc, Marker: i == 1},
			Payload: binary.BigEndian.AppendUint16([]byte{byte(event), end | 10}, duration),
		})
	}
	return nil
}
