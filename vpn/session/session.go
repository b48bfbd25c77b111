// Package session is what lives between the channels of a client and the TUN device: identity, token, inner address, policy
// and counters (AnyConnect page §1, §8). One session is one cookie; TCP and UDP channels come and go beneath it.
//
//	            Connect                    link lost
//	granted ───────────────▶ up ◀───────────────────────▶ away
//	   │                      │       Connect              │
//	   └──────────────────────┴────────────────────────────┘
//	                          ▼
//	                        ended   (goodbye, kick, time-outs, replaced)
//
// The token is a random 256-bit value; only its hash is kept. The table is ticked once a second: dead peer detection and all
// time-outs are decided there, no session owns a goroutine or a timer.
package session

import (
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ringfence/vpn/policy"
	"ringfence/vpn/tunnel"
)

// State of a session.
type State uint8

// States, see the package comment.
const (
	Granted State = iota
	Up
	Away
	Ended
)

func (s State) String() string {
	if int(s) < 4 {
		return [...]string{"granted", "up", "away", "ended"}[s]
	}
	return fmt.Sprintf("state-%d", uint8(s))
}

// Farewell is what a client is told when its link is closed.
type Farewell struct {
	Final bool   // the client must not come back with this session
	Text  string // shown to the user
}

// Link is a channel to the client: CSTP, or DTLS.
type Link interface {
	// Deliver sends packets to the client. It must not wait and must not keep the buffers.
	Deliver(pkts []tunnel.Packet)
	// Probe asks the client for a sign of life.
	Probe()
	// Close ends the channel; without Final the client is told nothing and may come back.
	Close(Farewell)
	// Seen says that the client has come from this address, by another channel.
	Seen(netip.Addr)
	// Describe is for people: "TLS 1.3 TLS_AES_128_GCM_SHA256".
	Describe() string
	// Remote is the client's outer address.
	Remote() netip.AddrPort
}

// Identity is who logged in.
type Identity struct {
	Name   string // device or user; the owner of the address
	Kind   policy.Kind
	Device string // the device in use when known, else empty
	Policy string
	Remote netip.Addr
	Agent  string // User-Agent, bounded by the caller
	Method string // certificate or password
}

// counters of a session.
type counters struct {
	rxPackets, rxBytes, txPackets, txBytes atomic.Uint64
	dropped                                [4]atomic.Uint64 // by policy.Verdict
	tooBig, noLink, congested              atomic.Uint64
}

// Session is one login.
type Session struct {
	id    string
	who   Identity
	token [32]byte // hash of the cookie
	addr4 netip.Addr
	addr6 netip.Addr
	born  time.Time
	table *Table
	log   *slog.Logger
	fixed bool // made by Fixed: time does not end it

	filter atomic.Pointer[policy.Filter]
	policy atomic.Pointer[policy.Policy]
	mtu    atomic.Int32
	out    atomic.Pointer[attached] // where packets to the client go
	data   atomic.Int64             // last payload either way, nanoseconds
	count  counters
	trip   transit

	// Written with mu held, read by the packet path.
	tcp, udp atomic.Pointer[attached]

	mu       sync.Mutex // guards all below
	state    State
	revoke   func()    // withdraws what was agreed for UDP
	since    time.Time // of the state
	linger   time.Duration
	connects int
	host     string
}

// attached is a link in use. heard and probed are touched by the link and the tick.
type attached struct {
	link   Link
	heard  atomic.Int64
	probed atomic.Int64
	waits  atomic.Bool // for the answer to the probe
	up     time.Time
}

// transitBounds are the upper bounds of the classes of round trips; the last class has none.
var transitBounds = [...]time.Duration{5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	200 * time.Millisecond, 500 * time.Millisecond, time.Second}

// transit is the round trips that probes measured.
type transit struct {
	last    atomic.Int64
	classes [len(transitBounds) + 1]atomic.Uint32
}

func (t *transit) add(d time.Duration) {
	t.last.Store(int64(d))
	for i, b := range transitBounds {
		if d <= b {
			t.classes[i].Add(1)
			return
		}
	}
	t.classes[len(transitBounds)].Add(1)
}

// ID is the public name of the session.
func (s *Session) ID() string { return s.id }

// Identity is who logged in.
func (s *Session) Identity() Identity { return s.who }

// Addr is the inner IPv4 address, Addr6 the IPv6 one if there is any.
func (s *Session) Addr() netip.Addr { return s.addr4 }

// Addr6 is the inner IPv6 address; invalid without an IPv6 pool.
func (s *Session) Addr6() netip.Addr { return s.addr6 }

// Policy is the session's policy as of now.
func (s *Session) Policy() *policy.Policy { return s.policy.Load() }

// Born is when the client logged in.
func (s *Session) Born() time.Time { return s.born }

// Log is the logger with the session's names.
func (s *Session) Log() *slog.Logger { return s.log }

// Connect makes link the session's TCP channel with the given inner MTU. The newest wins: the one before is closed without a
// word (§8). revoke withdraws what this CONNECT agreed for UDP, when that is over; it may be nil. Connect reports false when
// the session has ended.
func (s *Session) Connect(link Link, mtu int, host string, revoke func()) bool {
	now := time.Now()
	a := newAttached(link, now)
	s.mu.Lock()
	if s.state == Ended {
		s.mu.Unlock()
		return false
	}
	old, udp, first := s.tcp.Swap(a), s.udp.Load(), s.connects == 0
	s.connects++
	s.linger, s.host = 0, host
	withdraw := s.revoke
	s.revoke = revoke
	s.setLocked(Up, now)
	s.data.Store(now.UnixNano())
	s.mtu.Store(int32(mtu))
	if udp == nil {
		s.out.Store(a)
	} else {
		s.out.CompareAndSwap(old, a)
	}
	s.mu.Unlock()
	if old != nil {
		old.link.Close(Farewell{})
	}
	if withdraw != nil {
		withdraw()
	}
	if udp != nil { // the keys of a UDP channel outlive its CONNECT; its client may have moved
		udp.link.Seen(link.Remote().Addr())
	}
	s.log.Info("VPN tunnel up", "peer", link.Remote(), "address", s.addr4, "channel", link.Describe(), "reconnect", !first)
	if first {
		s.table.note(s, fmt.Sprintf("tunnel up with address %v over %s", s.addr4, link.Describe()), false)
	}
	return true
}

func newAttached(link Link, now time.Time) *attached {
	a := &attached{link: link, up: now}
	a.heard.Store(now.UnixNano())
	a.probed.Store(now.UnixNano())
	return a
}

// ConnectUDP makes link the session's UDP channel, which takes the payload from now on. It reports false when the session has
// ended.
func (s *Session) ConnectUDP(link Link) bool {
	a := newAttached(link, time.Now())
	s.mu.Lock()
	if s.state == Ended {
		s.mu.Unlock()
		return false
	}
	old := s.udp.Swap(a)
	s.out.Store(a)
	s.mu.Unlock()
	if old != nil {
		old.link.Close(Farewell{})
	} else {
		s.table.note(s, "voice over "+link.Describe(), false)
	}
	s.log.Info("VPN datagrams up", "peer", link.Remote(), "channel", link.Describe())
	return true
}

// LostUDP says that a UDP channel is gone: payload goes over TCP again.
func (s *Session) LostUDP(link Link, why string) {
	s.mu.Lock()
	a := s.udp.Load()
	if a == nil || a.link != link {
		s.mu.Unlock()
		return
	}
	s.udp.Store(nil)
	s.out.CompareAndSwap(a, s.tcp.Load())
	s.mu.Unlock()
	s.log.Info("VPN datagrams down", "peer", link.Remote(), "reason", why)
}

// Lost says that the TCP channel link is gone; bye is a goodbye of the user, who may nevertheless come right back. A UDP
// channel goes on.
func (s *Session) Lost(link Link, bye bool, why string) {
	now := time.Now()
	s.mu.Lock()
	a := s.tcp.Load()
	if a == nil || a.link != link || s.state == Ended {
		s.mu.Unlock()
		return
	}
	s.tcp.Store(nil)
	s.out.CompareAndSwap(a, s.udp.Load())
	s.linger = s.Policy().Disconnected
	if bye {
		s.linger = min(s.linger, afterGoodbye)
	}
	s.setLocked(Away, now)
	s.mu.Unlock()
	s.log.Info("VPN tunnel down", "peer", link.Remote(), "reason", why, "took", now.Sub(a.up).Round(time.Millisecond))
	s.table.note(s, "tunnel down: "+why, false)
}

// afterGoodbye is how long a session outlives the client's goodbye: some AnyConnect builds say it and come right back (§8).
const afterGoodbye = 15 * time.Second

// setLocked changes the state. s.mu is held.
func (s *Session) setLocked(to State, now time.Time) {
	if s.state != to {
		s.log.Debug("VPN session", "from", s.state, "to", to)
		s.state, s.since = to, now
	}
}

// Heard notes a sign of life on link. Data says that packets came: the client has chosen this channel, so we take it too (§8:
// a client that gives UDP up sends on TCP, and comes back the same way).
func (s *Session) Heard(link Link, now time.Time, data bool) {
	for _, p := range []*atomic.Pointer[attached]{&s.udp, &s.tcp} {
		a := p.Load()
		if a == nil || a.link != link {
			continue
		}
		a.heard.Store(now.UnixNano())
		if data && s.out.Load() != a {
			s.mu.Lock()
			if p.Load() == a {
				s.out.Store(a)
			}
			s.mu.Unlock()
		}
		return
	}
}

// Answered notes the answer to a probe on link: a round trip.
func (s *Session) Answered(link Link, now time.Time) {
	for _, p := range []*atomic.Pointer[attached]{&s.udp, &s.tcp} {
		if a := p.Load(); a != nil && a.link == link && a.waits.Swap(false) {
			s.trip.add(now.Sub(time.Unix(0, a.probed.Load())))
		}
	}
}

// FromClient takes a packet that arrived on link: it is judged and put into the batch, which is written when it is full. The
// caller calls Flush at the end of a burst.
func (s *Session) FromClient(b *tunnel.Batch, pkt []byte, now time.Time) {
	if len(pkt) > tunnel.MaxPacket {
		s.count.dropped[policy.Malformed].Add(1)
		return
	}
	copy(b.Space(), pkt)
	s.FromClientInPlace(b, len(pkt), now)
}

// FromClientInPlace does the same for n bytes that already stand in b.Space().
func (s *Session) FromClientInPlace(b *tunnel.Batch, n int, now time.Time) {
	if v := s.filter.Load().FromClient(b.Space()[:n], now); v != policy.Pass {
		s.drop(v, b.Space()[:n])
		return
	}
	s.count.rxPackets.Add(1)
	s.count.rxBytes.Add(uint64(n))
	s.data.Store(now.UnixNano())
	b.Add(n)
	if b.Full() {
		s.Flush(b)
	}
}

// Flush writes the batch to the kernel.
func (s *Session) Flush(b *tunnel.Batch) {
	if b.Len() > 0 {
		s.table.path.Write(b)
	}
}

// Congested counts packets to the client that its channel had no room for.
func (s *Session) Congested(n int) { s.count.congested.Add(uint64(n)) }

func (s *Session) drop(v policy.Verdict, pkt []byte) {
	if n := s.count.dropped[v].Add(1); n == 1 && v == policy.Forbidden {
		var p policy.Packet
		p.Parse(pkt)
		s.log.Info("VPN client tried a destination that its policy does not permit", "to", netip.AddrPortFrom(p.Dst, p.DstPort), "proto", p.Proto)
	}
}

// Deliver takes packets from the kernel.
func (s *Session) Deliver(pkts []tunnel.Packet) {
	a := s.out.Load()
	if a == nil {
		s.count.noLink.Add(uint64(len(pkts)))
		return
	}
	now, f, mtu := time.Now(), s.filter.Load(), int(s.mtu.Load())
	good, bytes := pkts[:0], 0
	for _, p := range pkts {
		if v := f.ToClient(p.Bytes(), now); v != policy.Pass {
			s.count.dropped[v].Add(1)
			continue
		}
		if p.Len > mtu {
			s.count.tooBig.Add(1)
			from := s.Policy().Gateway()
			if p.Bytes()[0]>>4 == 6 {
				from = s.Policy().Gateway6()
			}
			s.table.path.TooBig(p.Bytes(), from, mtu)
			continue
		}
		bytes += p.Len
		good = append(good, p)
	}
	if len(good) == 0 {
		return
	}
	s.count.txPackets.Add(uint64(len(good)))
	s.count.txBytes.Add(uint64(bytes))
	s.data.Store(now.UnixNano())
	a.link.Deliver(good)
}

// tick decides what time has brought. It returns why the session is over, or "".
func (s *Session) tick(now time.Time) (over string, bye Farewell) {
	p := s.Policy()
	if s.fixed {
		return "", Farewell{}
	}
	s.mu.Lock()
	state, since, linger := s.state, s.since, s.linger
	s.mu.Unlock()
	if p.Session > 0 && now.Sub(s.born) >= p.Session {
		return "session time is over", Farewell{Final: true, Text: "session time is over"}
	}
	switch state {
	case Granted:
		if now.Sub(since) >= unused {
			return "no tunnel was made", Farewell{}
		}
	case Away:
		if now.Sub(since) >= linger {
			return "client did not come back", Farewell{}
		}
	case Up:
		if p.Idle > 0 && now.Sub(time.Unix(0, s.data.Load())) >= p.Idle {
			return "idle", Farewell{Final: true, Text: "idle for too long"}
		}
	}
	s.detect(s.tcp.Load(), p.DPD, now, func(l Link, why string) { s.Lost(l, false, why) })
	s.detect(s.udp.Load(), p.DPD, now, s.LostUDP)
	return "", Farewell{}
}

// unused is how long a login without tunnel is kept.
const unused = 2 * time.Minute

// detect is dead peer detection: a probe after dpd of silence, the end of the link after twice that (§8).
func (s *Session) detect(a *attached, dpd time.Duration, now time.Time, lost func(Link, string)) {
	if a == nil || dpd <= 0 {
		return
	}
	heard := time.Unix(0, a.heard.Load())
	switch silent := now.Sub(heard); {
	case silent >= 2*dpd:
		lost(a.link, fmt.Sprintf("client is silent for %v", silent.Round(time.Second)))
		a.link.Close(Farewell{})
	case silent >= dpd && now.Sub(time.Unix(0, a.probed.Load())) >= max(dpd/2, time.Second), now.Sub(time.Unix(0, a.probed.Load())) >= measure:
		a.probed.Store(time.Now().UnixNano())
		a.waits.Store(true)
		a.link.Probe()
	}
}

// measure is how often a link is probed although it is not silent, to know its round trip.
const measure = time.Minute

// Info is what is known of a session, for people and programs.
type Info struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Kind      string     `json:"kind"`
	Device    string     `json:"device,omitempty"`
	Policy    string     `json:"policy"`
	Method    string     `json:"method"`
	State     string     `json:"state"`
	Address   netip.Addr `json:"address"`
	Address6  netip.Addr `json:"address6,omitzero"`
	Remote    string     `json:"remote"`
	Channel   string     `json:"channel,omitempty"`
	Datagrams string     `json:"datagrams,omitempty"` // the UDP channel
	Payload   string     `json:"payload,omitempty"`   // where packets to the client go: tcp or udp
	Agent     string     `json:"agent,omitempty"`
	Hostname  string     `json:"hostname,omitempty"`
	Since     time.Time  `json:"since"`
	Changed   time.Time  `json:"changed"`
	MTU       int        `json:"mtu,omitempty"`
	Connects  int        `json:"connects"`
	RxPackets uint64     `json:"rx_packets"`
	RxBytes   uint64     `json:"rx_bytes"`
	TxPackets uint64     `json:"tx_packets"`
	TxBytes   uint64     `json:"tx_bytes"`
	Forbidden uint64     `json:"dropped_forbidden"`
	Foreign   uint64     `json:"dropped_foreign_source"`
	Malformed uint64     `json:"dropped_malformed"`
	TooBig    uint64     `json:"dropped_too_big"`
	NoLink    uint64     `json:"dropped_no_link"`
	Congested uint64     `json:"dropped_congested"`
	// LossIn is the part of the client's datagrams that did not arrive. RoundTrip is the latest one measured, and RoundTrips how
	// many were up to 5, 10, 20, 50, 100, 200, 500, 1000 ms and more.
	LossIn     float64       `json:"loss_in"`
	RoundTrip  time.Duration `json:"round_trip_ns"`
	RoundTrips []uint32      `json:"round_trips"`
}

// Info reports on the session.
func (s *Session) Info() Info {
	s.mu.Lock()
	i := Info{State: s.state.String(), Changed: s.since, Connects: s.connects, Hostname: s.host}
	s.mu.Unlock()
	tcp, udp, out := s.tcp.Load(), s.udp.Load(), s.out.Load()
	i.ID, i.Name, i.Kind, i.Device, i.Policy, i.Method = s.id, s.who.Name, s.who.Kind.String(), s.who.Device, s.who.Policy, s.who.Method
	i.Address, i.Address6, i.Agent, i.Since, i.MTU = s.addr4, s.addr6, s.who.Agent, s.born, int(s.mtu.Load())
	i.Remote = s.who.Remote.String()
	if tcp != nil {
		i.Remote, i.Channel = tcp.link.Remote().String(), tcp.link.Describe()
	}
	if udp != nil {
		i.Datagrams = udp.link.Describe() + " with " + udp.link.Remote().String()
	}
	switch {
	case out == nil:
	case out == udp:
		i.Payload = "udp"
	default:
		i.Payload = "tcp"
	}
	c := &s.count
	i.RxPackets, i.RxBytes, i.TxPackets, i.TxBytes = c.rxPackets.Load(), c.rxBytes.Load(), c.txPackets.Load(), c.txBytes.Load()
	i.Malformed, i.Foreign, i.Forbidden = c.dropped[policy.Malformed].Load(), c.dropped[policy.ForeignAddr].Load(), c.dropped[policy.Forbidden].Load()
	i.TooBig, i.NoLink, i.Congested = c.tooBig.Load(), c.noLink.Load(), c.congested.Load()
	if udp != nil {
		if l, ok := udp.link.(interface{ LossIn() float64 }); ok {
			i.LossIn = l.LossIn()
		}
	}
	i.RoundTrip = time.Duration(s.trip.last.Load())
	for k := range s.trip.classes {
		i.RoundTrips = append(i.RoundTrips, s.trip.classes[k].Load())
	}
	return i
}
