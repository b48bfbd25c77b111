// Package vpn is the AnyConnect-compatible gateway: phones at home are phones in the office. New builds it from its rooms:
//
//	anyconnect   TLS, log-in, CONNECT and the CSTP channel
//	session      sessions, their state, time-outs and counters
//	policy       what a session may reach, judged per packet
//	pool         inner addresses that stay with their device
//	dtls         UDP channels on one socket
//	throttle     wrong passwords
//	tunnel       the one TUN device
//	wireguard    laptops and mobiles with a key instead of a log-in
//
// It implements the AnyConnect page (protocols as implemented: docs); what each room leaves out stands in its package comment.
package vpn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"ringfence/internal/task"
	"ringfence/vpn/anyconnect"
	"ringfence/vpn/dtls"
	"ringfence/vpn/policy"
	"ringfence/vpn/session"
	"ringfence/vpn/tunnel"
	"ringfence/vpn/wireguard"
)

// Gateway is a running VPN.
type Gateway struct {
	log      *slog.Logger
	tun      string // name of the device made here; empty when it was given
	dev      tunnel.Output
	tunnel   *tunnel.Tunnel
	sessions *session.Table
	server   *anyconnect.Server
	udp      *dtls.Endpoint    // nil without
	wg       *wireguard.Server // nil without
	ln       net.Listener
	group    *task.Group

	mu      sync.Mutex // guards all below
	started bool
	stopped bool
}

// Stats are the counters of the gateway.
type Stats struct {
	anyconnect.Stats
	Tunnel tunnel.Stats
	UDP    dtls.Stats
}

// New binds the listener and makes the TUN device. When the process lacks the right to make one the error is ErrNoRights and
// nothing listens: phones that ask then try their next URL instead of waiting at a gateway that cannot serve them.
func New(o Options) (*Gateway, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	for i := range o.Policies {
		if err := o.Policies[i].Validate(); err != nil {
			return nil, err
		}
	}
	g := &Gateway{log: o.Log}
	if o.Device != nil {
		g.dev = o.Device
	}
	ln, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("VPN listener: %w", err)
	}
	g.ln = ln
	if g.dev == nil {
		if g.dev, err = tunnel.Create(o.TUN, networks(o.Policies)); err != nil {
			ln.Close()
			return nil, err
		}
		g.tun = o.TUN
	}
	var flush func()
	if !o.NoUDP {
		g.udp, err = dtls.New(dtls.Options{Log: o.Log, Listen: sameAddress(o.Listen, ln.Addr()), Write: func(b *tunnel.Batch) { g.tunnel.Write(b) }})
		if err != nil {
			ln.Close()
			g.dev.Close()
			return nil, fmt.Errorf("VPN datagrams: %w", err)
		}
		flush = g.udp.Flush
	}
	g.tunnel = tunnel.New(g.dev, o.Log, flush)
	var state interface {
		Scan(string, func(string, []byte) bool)
		Write(context.Context, map[string][]byte, ...string) error
	}
	if o.State != nil {
		state = o.State
	}
	g.sessions, err = session.NewTable(session.Options{Log: o.Log, Path: g.tunnel, State: state, Policies: o.Policies, Own: o.Own,
		Services: o.Services, Note: o.Note, Max: o.MaxSessions})
	if err == nil {
		g.server, err = anyconnect.New(ln, anyconnect.Options{Log: o.Log, Sessions: g.sessions, UDP: g.udp, Legacy: o.Legacy, Certificate: o.Certificate,
			VerifyDevice: o.VerifyDevice, VerifyUser: o.VerifyUser, PolicyOf: o.PolicyOf, CheckPassword: o.CheckPassword,
			UserOf: o.UserOf, MayUse: o.MayUse, CheckCode: o.CheckCode, Note: o.Note, MaxConnections: o.MaxConnections})
	}
	if err == nil && o.WireGuard != "" {
		g.wg, err = wireguard.New(wireguard.Options{Log: o.Log, Listen: o.WireGuard, Key: o.WireGuardKey, Sessions: g.sessions, Path: g.tunnel})
	}
	if err != nil {
		ln.Close()
		g.dev.Close()
		if g.udp != nil {
			g.udp.Stop()
		}
		return nil, err
	}
	g.group = task.NewGroup(context.Background(), o.Log)
	return g, nil
}

// networks is what the TUN device needs to know of the policies.
func networks(all []Policy) []tunnel.Network {
	var nets []tunnel.Network
	for _, p := range all {
		nets = append(nets, tunnel.Network{Address: prefix(p.Gateway(), p.Pool), MTU: p.MTU})
		if p.Pool6.IsValid() {
			nets = append(nets, tunnel.Network{Address: prefix(p.Gateway6(), p.Pool6), MTU: p.MTU})
		}
	}
	return nets
}

// Addr is the address of the TCP listener.
func (g *Gateway) Addr() net.Addr { return g.ln.Addr() }

// Start serves until Stop. It may be called more than once.
func (g *Gateway) Start() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.started || g.stopped {
		return nil
	}
	g.started = true
	if err := g.startPackets(); err != nil {
		return fmt.Errorf("VPN packet path: %w", err)
	}
	g.group.Go("vpn clock", g.clock)
	g.server.Start()
	if g.wg != nil {
		if err := g.wg.Start(); err != nil {
			return err
		}
	}
	g.log.Info("VPN gateway serves", "listener", g.ln.Addr(), "tun", g.tun)
	return nil
}

// startPackets starts the packet path: one goroutine for the TUN device and all datagrams, or one each where the device can only be
// read.
func (g *Gateway) startPackets() error {
	if g.udp != nil {
		if s := g.tunnel.Source(); s != nil {
			return g.udp.Start(s)
		}
		if err := g.udp.Start(); err != nil {
			return err
		}
	}
	g.group.Go("vpn tunnel", func(ctx context.Context) {
		if err := g.tunnel.Run(ctx); err != nil {
			g.log.Error("VPN packet path", "err", err)
		}
	})
	return nil
}

// clock ticks what waits for time.
func (g *Gateway) clock(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			_ = task.Guard(g.log, "vpn tick", func() {
				g.sessions.Tick(now)
				g.server.Tick(now)
				if g.wg != nil {
					g.wg.Tick(ctx, now)
				}
			})
		}
	}
}

// Stop ends everything and waits for it. It may be called more than once, and before Start. Clients are told nothing, so that
// they come back to the next process.
func (g *Gateway) Stop() {
	g.mu.Lock()
	again := g.stopped
	g.stopped = true
	g.mu.Unlock()
	if again {
		return
	}
	g.server.Stop()
	if g.wg != nil {
		g.wg.Stop()
	}
	g.sessions.Close()
	g.dev.Close()
	g.group.Stop()
	if g.udp != nil { // last: the packet path sends through it
		g.udp.Stop()
	}
}

// Run starts, waits for ctx and stops.
func (g *Gateway) Run(ctx context.Context) error {
	if err := g.Start(); err != nil {
		return err
	}
	<-ctx.Done()
	g.Stop()
	return nil
}

// SetPolicies puts other policies in force for new and live sessions.
func (g *Gateway) SetPolicies(all []Policy) error {
	for i := range all {
		if err := all[i].Validate(); err != nil {
			return err
		}
	}
	if g.tun != "" {
		if err := tunnel.Configure(g.tun, networks(all)); err != nil {
			return err
		}
	}
	if err := g.sessions.SetPolicies(all); err != nil {
		return errors.Join(err, fmt.Errorf("VPN policies stay as they were"))
	}
	return nil
}

// SetWireGuardPeers makes these the WireGuard peers; those that stay keep their sessions. Without a listener it does nothing.
func (g *Gateway) SetWireGuardPeers(ctx context.Context, all []WireGuardPeer) error {
	if g.wg == nil {
		return nil
	}
	return g.wg.SetPeers(ctx, all)
}

// WireGuardPeers reports on the WireGuard peers, by name.
func (g *Gateway) WireGuardPeers() []WireGuardStatus {
	if g.wg == nil {
		return nil
	}
	return g.wg.Peers()
}

// WireGuardAddr is the address of the WireGuard socket; nil without one.
func (g *Gateway) WireGuardAddr() net.Addr {
	if g.wg == nil {
		return nil
	}
	return g.wg.Addr()
}

// Policies are those in force.
func (g *Gateway) Policies() []*Policy { return g.sessions.Policies() }

// Sessions reports on all sessions, oldest first.
func (g *Gateway) Sessions() []SessionInfo { return g.sessions.Sessions() }

// Find returns what judges the packets of the sessions that a person means by id, inner address or name.
func (g *Gateway) Find(what string) (all []SessionInfo, filters []*policy.Filter) {
	for _, s := range g.sessions.Find(what) {
		all, filters = append(all, s.Info()), append(filters, s.Filter())
	}
	return all, filters
}

// Sample is what would judge a phone's, or a person's, session with this policy; nil when the policy is not declared.
func (g *Gateway) Sample(id string, device bool) *policy.Filter {
	if device {
		return g.sessions.Sample(id, policy.Device)
	}
	return g.sessions.Sample(id, policy.User)
}

// Kick ends the session with this id, or all of the device or user of this name, and tells whether there was any.
func (g *Gateway) Kick(idOrName string) bool {
	return g.sessions.Kick(idOrName) || g.sessions.KickName(idOrName, "ended by the administrator") > 0
}

// Revoke ends the sessions of a device or user whose certificate or password is no longer good.
func (g *Gateway) Revoke(name string) int { return g.sessions.KickName(name, "access withdrawn") }

// Records are the sessions as another process can take them over: this appliance after a restart, or the other one of a pair.
func (g *Gateway) Records() []Record {
	var all []Record
	for _, r := range g.sessions.Records() {
		rec := Record{Record: r}
		if s, ok := g.sessions.ByID(r.ID); ok {
			if l, ok := s.UDP().(interface{ State() (dtls.State, bool) }); ok {
				if st, ok := l.State(); ok {
					rec.Channel = &st
				}
			}
		}
		all = append(all, rec)
	}
	return all
}

// Adopt takes a session over; its client then reconnects with its cookie and keeps its address. Its UDP channel goes on as it is,
// if the gateway has the address that the client sends to.
func (g *Gateway) Adopt(r Record) error {
	if err := g.sessions.Adopt(r.Record); err != nil {
		return err
	}
	if s, ok := g.sessions.ByID(r.ID); ok && r.Channel != nil {
		if err := g.server.AdoptUDP(s, *r.Channel); err != nil {
			g.log.Info("VPN channel is not taken over, its client makes a new one", "session", r.ID, "err", err)
		}
	}
	return nil
}

// Stats returns the counters.
func (g *Gateway) Stats() Stats {
	s := Stats{Stats: g.server.Stats(), Tunnel: g.tunnel.Stats()}
	if g.udp != nil {
		s.UDP = g.udp.Stats()
	}
	return s
}

// sameAddress is the host of listen with the port that TCP got.
func sameAddress(listen string, got net.Addr) string {
	host, _, _ := net.SplitHostPort(listen)
	_, port, _ := net.SplitHostPort(got.String())
	return net.JoinHostPort(host, port)
}

// prefix is an address with the length of its network.
func prefix(a netip.Addr, of netip.Prefix) netip.Prefix { return netip.PrefixFrom(a, of.Bits()) }

var _ session.Path = (*tunnel.Tunnel)(nil)
var _ tunnel.Peer = (*session.Session)(nil)
