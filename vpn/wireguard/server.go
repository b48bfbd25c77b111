// Package wireguard lets laptops and mobiles in by WireGuard, beside AnyConnect: the same sessions, pools, policies and packet path
// (wireguard-peering page). The protocol is golang.zx2c4.com/wireguard's, with a socket and an inner side of our own.
//
// A peer is a key that an administrator declared or made. Each has a session for as long as it is known, with an address that
// stays; the session is up while the peer's last handshake is fresh. Left out: the link between two appliances, which is no
// session, and logging in: who has the key is let in, and there is no second factor.
package wireguard

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/curve25519"
	"golang.zx2c4.com/wireguard/device"

	"ringfence/vpn/policy"
	"ringfence/vpn/session"
	"ringfence/vpn/tunnel"
)

// Key is a private, public or pre-shared key.
type Key [32]byte

// ParseKey reads a key as WireGuard's tools write it.
func ParseKey(s string) (Key, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != 32 {
		return Key{}, errors.New("not a WireGuard key: 44 characters of base64")
	}
	return Key(b), nil
}

// String is the key as WireGuard's tools read it.
func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// Public is the public key of a private one.
func (k Key) Public() Key {
	b, err := curve25519.X25519(k[:], curve25519.Basepoint)
	if err != nil { // only for a key of zeros
		return Key{}
	}
	return Key(b)
}

func (k Key) hex() string { return hex.EncodeToString(k[:]) }

// Peer is somebody's device.
type Peer struct {
	Name   string // of the device
	User   string
	Policy string
	Key    Key // public
	PSK    Key // zero is none
}

// Options of a server. Sessions and Path are required.
type Options struct {
	Log      *slog.Logger
	Listen   string
	Key      Key // private
	Sessions *session.Table
	Path     interface{ Write(*tunnel.Batch) }
}

// Server is the listener with its peers.
type Server struct {
	o     Options
	log   *slog.Logger
	sock  *socket
	inner *inner
	dev   *device.Device

	setting sync.Mutex // one change of the peers at a time
	mu      sync.RWMutex
	peers   map[Key]*peer
	byAddr  map[netip.Addr]*peer
}

// peer is a Peer with its session, and the session's link.
type peer struct {
	Peer
	s       *Server
	session *session.Session
	up      atomic.Bool
	last    atomic.Int64 // handshake, seconds
	remote  atomic.Pointer[netip.AddrPort]
}

// New binds the socket. Start serves.
func New(o Options) (*Server, error) {
	if o.Sessions == nil || o.Path == nil || o.Key == (Key{}) {
		return nil, errors.New("wireguard: needs sessions, a packet path and a key")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	sock, err := newSocket(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("WireGuard listener: %w", err)
	}
	s := &Server{o: o, log: o.Log, sock: sock, inner: newInner(), peers: map[Key]*peer{}, byAddr: map[netip.Addr]*peer{}}
	s.inner.write = o.Path.Write
	s.inner.peerOf = func(a netip.Addr) *peer {
		s.mu.RLock()
		defer s.mu.RUnlock()
		return s.byAddr[a]
	}
	s.dev = device.NewDevice(s.inner, sock, &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   func(format string, args ...any) { o.Log.Debug("WireGuard", "err", fmt.Sprintf(format, args...)) },
	})
	if err := s.dev.IpcSet("private_key=" + o.Key.hex() + "\n"); err != nil {
		s.dev.Close()
		return nil, fmt.Errorf("WireGuard key: %w", err)
	}
	return s, nil
}

// Addr is the address of the socket.
func (s *Server) Addr() net.Addr { return s.sock.udp.LocalAddr() }

// Start serves until Stop.
func (s *Server) Start() error {
	if err := s.dev.Up(); err != nil {
		return fmt.Errorf("WireGuard: %w", err)
	}
	s.log.Info("WireGuard serves", "listener", s.Addr())
	return nil
}

// Stop ends everything. It may be called more than once, and before Start.
func (s *Server) Stop() {
	s.dev.Close()
	_ = s.inner.Close()
	_ = s.sock.udp.Close()
}

// SetPeers makes these the peers. Those that stay keep their sessions and handshakes.
func (s *Server) SetPeers(ctx context.Context, all []Peer) error {
	s.setting.Lock()
	defer s.setting.Unlock()
	var errs []error
	want := map[Key]Peer{}
	for _, p := range all {
		want[p.Key] = p
	}
	s.mu.RLock()
	var gone []*peer
	for k, have := range s.peers {
		if w, ok := want[k]; !ok || w != have.Peer || have.session.Over() {
			gone = append(gone, have)
		} else {
			delete(want, k)
		}
	}
	s.mu.RUnlock()
	for _, p := range gone {
		s.drop(p)
	}
	for _, p := range all {
		if _, is := want[p.Key]; !is {
			continue
		}
		if err := s.add(ctx, p); err != nil {
			errs = append(errs, fmt.Errorf("WireGuard device %s: %w", p.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Server) add(ctx context.Context, w Peer) error {
	sess, err := s.o.Sessions.Fixed(ctx, session.Identity{Name: w.User, Kind: policy.User, Device: w.Name, Policy: w.Policy, Method: "wireguard", Agent: "WireGuard"}, "wg."+w.Name)
	if err != nil {
		return err
	}
	p := &peer{Peer: w, s: s, session: sess}
	p.remote.Store(&netip.AddrPort{})
	var b strings.Builder
	fmt.Fprintf(&b, "public_key=%s\npreshared_key=%s\nreplace_allowed_ips=true\n", w.Key.hex(), w.PSK.hex())
	for _, a := range p.addresses() {
		fmt.Fprintf(&b, "allowed_ip=%v/%d\n", a, a.BitLen())
	}
	s.mu.Lock()
	s.peers[w.Key] = p
	for _, a := range p.addresses() {
		s.byAddr[a] = p
	}
	s.mu.Unlock()
	if err := s.dev.IpcSet(b.String()); err != nil {
		s.drop(p)
		return err
	}
	return nil
}

// drop forgets a peer: its keys, and its session.
func (s *Server) drop(p *peer) {
	s.mu.Lock()
	delete(s.peers, p.Key)
	for _, a := range p.addresses() {
		if s.byAddr[a] == p {
			delete(s.byAddr, a)
		}
	}
	s.mu.Unlock()
	if err := s.dev.IpcSet("public_key=" + p.Key.hex() + "\nremove=true\n"); err != nil {
		s.log.Error("WireGuard device cannot be removed", "device", p.Name, "err", err)
	}
	if !p.session.Over() {
		s.o.Sessions.End(p.session, "key withdrawn", session.Farewell{})
	}
}

func (p *peer) addresses() []netip.Addr {
	all := []netip.Addr{p.session.Addr()}
	if a := p.session.Addr6(); a.IsValid() {
		all = append(all, a)
	}
	return all
}

// stale is when a peer without a new handshake counts as away: its keys are dead then (REJECT_AFTER_TIME).
const stale = 180 * time.Second

// Tick looks how the peers are. A session that was ended by hand is made anew, with a handshake: only a withdrawn key keeps its owner
// out.
func (s *Server) Tick(ctx context.Context, now time.Time) {
	text, err := s.dev.IpcGet()
	if err != nil {
		return
	}
	s.mu.RLock()
	peers := make([]*peer, 0, len(s.peers))
	for _, p := range s.peers {
		peers = append(peers, p)
	}
	s.mu.RUnlock()
	slices.SortFunc(peers, func(a, b *peer) int { return strings.Compare(a.Name, b.Name) })
	s.read(text)
	for _, p := range peers {
		switch fresh := now.Sub(time.Unix(p.last.Load(), 0)) < stale; {
		case p.session.Over():
			s.setting.Lock()
			s.drop(p)
			if err := s.add(ctx, p.Peer); err != nil {
				s.log.Info("WireGuard device is not served", "device", p.Name, "err", err)
			}
			s.setting.Unlock()
		case fresh && !p.up.Swap(true):
			p.session.Connect(p, p.mtu(), p.Name, nil)
		case !fresh && p.up.Swap(false):
			p.session.Lost(p, false, "no handshake for "+stale.String())
		}
	}
}

// read takes endpoints and handshakes from what the library tells.
func (s *Server) read(text string) {
	var p *peer
	for sc := bufio.NewScanner(strings.NewReader(text)); sc.Scan(); {
		name, value, _ := strings.Cut(sc.Text(), "=")
		switch name {
		case "public_key":
			p = nil
			if b, err := hex.DecodeString(value); err == nil && len(b) == 32 {
				s.mu.RLock()
				p = s.peers[Key(b)]
				s.mu.RUnlock()
			}
		case "endpoint":
			if a, err := netip.ParseAddrPort(value); err == nil && p != nil {
				p.remote.Store(&a)
			}
		case "last_handshake_time_sec":
			if n, err := strconv.ParseInt(value, 10, 64); err == nil && p != nil {
				p.last.Store(n)
			}
		}
	}
}

// heard notes a packet of the peer: the first one brings its session up before the next tick does.
func (p *peer) heard(now time.Time) {
	if !p.up.Load() && !p.up.Swap(true) {
		p.last.Store(now.Unix())
		p.session.Connect(p, p.mtu(), p.Name, nil)
	}
}

// outer is what WireGuard costs: IPv6, UDP, and 32 bytes of its own.
const outer = 40 + 8 + 32

func (p *peer) mtu() int { return MTU(p.session.Policy()) }

// MTU is the inner MTU of a peer with this policy.
func MTU(p *policy.Policy) int { return min(p.MTU, tunnel.MaxPacket-outer) }

// Deliver implements session.Link.
func (p *peer) Deliver(pkts []tunnel.Packet) {
	lost := 0
	for _, k := range pkts {
		if b := k.Bytes(); !p.s.inner.put(b, expedited(b)) {
			lost++
		}
	}
	if lost > 0 {
		p.session.Congested(lost)
	}
}

// expedited tells voice by its DSCP (EF, RFC 3246).
func expedited(b []byte) bool {
	const ef = 46
	if b[0]>>4 == 6 {
		return (b[0]<<4|b[1]>>4)>>2 == ef
	}
	return b[1]>>2 == ef
}

// Probe implements session.Link. WireGuard has nothing that a peer would answer.
func (p *peer) Probe() {}

// Close implements session.Link. A peer cannot be told anything; Tick and drop do what is to be done.
func (p *peer) Close(session.Farewell) {}

// Seen implements session.Link.
func (p *peer) Seen(netip.Addr) {}

// Describe implements session.Link.
func (p *peer) Describe() string { return "WireGuard" }

// Remote implements session.Link.
func (p *peer) Remote() netip.AddrPort { return *p.remote.Load() }

// Status is what is known of a peer.
type Status struct {
	Peer
	Addr, Addr6 netip.Addr
	Session     string
	Handshake   time.Time // the latest; zero when there was none
}

// Peers reports on all peers, by name.
func (s *Server) Peers() []Status {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []Status
	for _, p := range s.peers {
		st := Status{Peer: p.Peer, Addr: p.session.Addr(), Addr6: p.session.Addr6(), Session: p.session.ID()}
		if n := p.last.Load(); n > 0 {
			st.Handshake = time.Unix(n, 0)
		}
		all = append(all, st)
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return all
}

var _ session.Link = (*peer)(nil)
