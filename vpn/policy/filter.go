package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Kind is who is at the other end of a session.
type Kind uint8

// Kinds of identities.
const (
	Device Kind = iota + 1 // a phone, by its certificate or its own name
	User                   // a person
)

func (k Kind) String() string {
	switch k {
	case Device:
		return "device"
	case User:
		return "user"
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// Verdict is what the filter says of a packet.
type Verdict uint8

// Verdicts.
const (
	Pass        Verdict = iota
	Malformed           // no IP packet
	ForeignAddr         // the source is not the session's address
	Forbidden           // the policy does not permit it
)

func (v Verdict) String() string {
	return [...]string{"pass", "malformed", "foreign-address", "forbidden"}[v]
}

// Filter is a policy compiled for one session. Its methods may be called from several goroutines.
type Filter struct {
	addr4, addr6 netip.Addr
	rules        []rule
	own          []netip.Addr   // addresses of the appliance
	pools        []netip.Prefix // of all policies: other clients

	mu    sync.Mutex
	flows map[flow]time.Time // opened by the appliance, until when answers come in
}

// rule is a compiled Rule. A rule that is outside opens neither the pools nor the appliance, however wide its network is: a route
// to the house does not lead to the administration.
type rule struct {
	Rule
	outside bool
	why     Reason
}

// flow is a connection that the appliance opened to the client.
type flow struct {
	proto         Proto
	remote        netip.Addr // the appliance
	remotePort    uint16
	clientPort    uint16
	clientAddress netip.Addr
}

const (
	maxFlows = 128
	flowLife = 3 * time.Minute
)

// Target is what Compile needs to know beside the policy.
type Target struct {
	Kind         Kind
	Addr4, Addr6 netip.Addr     // of the session
	Own          []netip.Addr   // addresses under which the appliance is reached, besides the policy's gateway addresses
	Pools        []netip.Prefix // of all policies; a route does not open them
	Routed       []netip.Prefix // those of them that are routed
	Services     []Rule         // telephony services; a rule whose To is not valid means every address of the appliance
}

// Compile makes the filter of one session.
func Compile(p *Policy, t Target) *Filter {
	f := &Filter{addr4: t.Addr4, addr6: t.Addr6, pools: append([]netip.Prefix{p.Pool}, t.Pools...), flows: make(map[flow]time.Time)}
	if p.Pool6.IsValid() {
		f.pools = append(f.pools, p.Pool6)
	}
	for _, a := range append([]netip.Addr{p.Gateway(), p.Gateway6()}, t.Own...) {
		if a = a.Unmap(); a.IsValid() && !a.IsUnspecified() && !slices.Contains(f.own, a) {
			f.own = append(f.own, a)
		}
	}
	add := func(r Rule, outside bool, why Reason) {
		if r.First == 0 && r.Last == 0 {
			r.Last = 65535
		}
		if r.To.IsValid() {
			f.rules = append(f.rules, rule{r, outside, why})
			return
		}
		for _, a := range f.own {
			r.To = netip.PrefixFrom(a, a.BitLen())
			f.rules = append(f.rules, rule{r, outside, why})
		}
	}
	for _, r := range t.Services {
		add(r, false, Service)
	}
	add(Rule{Proto: ICMP}, false, Service) // a phone pings its TFTP server to learn whether it is at home (provisioning: autoNetDetect)
	add(Rule{Proto: ICMPv6}, false, Service)
	for _, r := range p.Allow {
		add(r, false, Allowed)
	}
	if p.Routed {
		f.media(p, t, add)
	}
	if t.Kind == User {
		for _, r := range p.Routes {
			add(Rule{To: r}, true, Routed)
		}
	}
	return f
}

// Ports of the audio of phones, as their device files say (startMediaPort, stopMediaPort), with that of its last control channel.
const mediaFirst, mediaLast = 16384, 32767

// media opens the ports of audio to the clients of routed pools, and to the house: the networks that the policy routes into the
// tunnel.
func (f *Filter) media(p *Policy, t Target, add func(Rule, bool, Reason)) {
	for _, q := range t.Routed {
		add(Rule{To: q, Proto: UDP, First: mediaFirst, Last: mediaLast}, false, Audio)
	}
	house := p.Routes
	if len(house) == 0 {
		house = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	for _, r := range house {
		add(Rule{To: r, Proto: UDP, First: mediaFirst, Last: mediaLast}, true, Audio)
	}
}

// FromClient judges a packet that the client sent.
func (f *Filter) FromClient(b []byte, now time.Time) Verdict {
	var p Packet
	if !p.Parse(b) {
		return Malformed
	}
	if p.Src != f.addr4 && p.Src != f.addr6 {
		return ForeignAddr
	}
	if f.permits(&p, p.Dst, p.DstPort) != nil {
		return Pass
	}
	if !p.Open && p.HasPorts && f.answers(&p, now) {
		return Pass
	}
	return Forbidden
}

// ToClient judges a packet on its way to the client: from the appliance all, from elsewhere what the client could have asked
// for, and nothing that opens a connection.
func (f *Filter) ToClient(b []byte, now time.Time) Verdict {
	var p Packet
	if !p.Parse(b) {
		return Malformed
	}
	if p.Dst != f.addr4 && p.Dst != f.addr6 {
		return ForeignAddr
	}
	permitted := f.permits(&p, p.Src, p.SrcPort) != nil
	if slices.Contains(f.own, p.Src) {
		if !permitted && p.HasPorts {
			f.open(&p, now)
		}
		return Pass
	}
	if permitted && !p.Open {
		return Pass
	}
	if p.Proto == ICMP && icmpError(p.ICMPType) || p.Proto == ICMPv6 && p.ICMPType < 128 {
		return Pass
	}
	return Forbidden
}

// icmpError tells the ICMP messages that report on other packets: unreachable, time exceeded, parameter problem.
func icmpError(t uint8) bool { return t == 3 || t == 11 || t == 12 }

// permits finds the rule that opens the far address and port; nil is none.
func (f *Filter) permits(p *Packet, far netip.Addr, port uint16) *rule {
	for i := range f.rules {
		r := &f.rules[i]
		if r.Proto != Any && r.Proto != p.Proto || !r.To.Contains(far) {
			continue
		}
		if p.HasPorts && (port < r.First || port > r.Last) {
			continue
		}
		if r.outside && (slices.Contains(f.own, far) || slices.ContainsFunc(f.pools, func(p netip.Prefix) bool { return p.Contains(far) })) {
			continue
		}
		return r // a later fragment has no port: it is worth nothing without the first one, which was judged
	}
	return nil
}

func (f *Filter) open(p *Packet, now time.Time) {
	k := flow{proto: p.Proto, remote: p.Src, remotePort: p.SrcPort, clientPort: p.DstPort, clientAddress: p.Dst}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.flows[k]; !ok && len(f.flows) >= maxFlows {
		f.evictLocked(now)
	}
	f.flows[k] = now.Add(flowLife)
}

// evictLocked makes room: expired flows go, and if there are none, the one that ends first. f.mu is held.
func (f *Filter) evictLocked(now time.Time) {
	var first flow
	var at time.Time
	for k, until := range f.flows {
		if until.Before(now) {
			delete(f.flows, k)
			continue
		}
		if at.IsZero() || until.Before(at) {
			first, at = k, until
		}
	}
	if len(f.flows) >= maxFlows {
		delete(f.flows, first)
	}
}

func (f *Filter) answers(p *Packet, now time.Time) bool {
	k := flow{proto: p.Proto, remote: p.Dst, remotePort: p.DstPort, clientPort: p.SrcPort, clientAddress: p.Src}
	f.mu.Lock()
	defer f.mu.Unlock()
	until, ok := f.flows[k]
	if !ok || until.Before(now) {
		return false
	}
	f.flows[k] = now.Add(flowLife)
	return true
}
