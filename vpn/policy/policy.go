// Package policy says what a group of VPN users gets and what it may reach. A Policy is what the administrator declared;
// Compile makes of it, per session, a Filter that the packet path asks for every inner packet (VPN-9).
//
// Phones reach the telephony services of the appliance and nothing else: their media is anchored there. Those of a routed pool also
// reach other phones, at the ports of audio only. Users reach the same
// and their policy's routes; these lead neither to other clients nor to further ports of the appliance. Allow opens anything to
// either. Filtering is by address, protocol and port of each packet. There is one piece
// of state: the appliance may open connections to the client (pages, pushed content), and the answers to those come in.
//
// Addresses and ports are checked, contents are not: a permitted port is open for whatever speaks through it.
package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Policy is a group of VPN users. It is not changed after it was handed over.
type Policy struct {
	ID      string       // name, and the group path https://HOST/ID
	Label   string       // shown in the list of groups; ID when empty
	Listed  bool         // offered in the list of groups before log-in
	Pool    netip.Prefix // inner IPv4 addresses; the first host address is the appliance's own
	Pool6   netip.Prefix // inner IPv6 addresses, optional
	Exclude []netip.Prefix
	Routes  []netip.Prefix // split-include; none is a default route
	DNS     []netip.Addr
	Domain  string
	// SplitDNS are the domains that the client asks the inner resolvers for.
	SplitDNS []string

	Certificate, Password bool // accepted ways to log in
	SecondFactor          bool // a one-time password is asked after the password

	MTU          int           // inner MTU offered, 576 to 1500
	DPD          time.Duration // silence after which the peer is probed
	Keepalive    time.Duration // interval of keep-alive frames from the client
	Idle         time.Duration // a session without payload ends after this; 0 is never
	Session      time.Duration // a session ends this long after log-in; 0 is never
	Rekey        time.Duration // the client makes a new tunnel after this; 0 is never
	Disconnected time.Duration // how long address and cookie outlive a lost connection
	MaxSessions  int           // sessions of one user at once; a device has one, the newest
	Banner       string

	Allow []Rule // destinations beyond the services and routes

	// Routed says that the network of the house knows the way to the pools, so that phones need not have their audio anchored at
	// the appliance: they may send it to each other, and to phones of the house.
	Routed bool
}

// Rule permits packets to a destination.
type Rule struct {
	To          netip.Prefix
	Proto       Proto
	First, Last uint16 // ports, for TCP and UDP; 0 and 0 are all
}

// Proto is an IP protocol number; Any matches each.
type Proto uint8

// Protocols of rules.
const (
	Any    Proto = 0
	ICMP   Proto = 1
	TCP    Proto = 6
	UDP    Proto = 17
	ICMPv6 Proto = 58
)

// Validate fills defaults and says what is wrong.
func (p *Policy) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("vpn policy "+p.ID+": "+format, a...)) }
	if p.ID == "" {
		bad("has no id")
	}
	if !p.Pool.IsValid() || !p.Pool.Addr().Is4() || p.Pool.Bits() > 30 || p.Pool.Bits() < 8 {
		bad("pool %v is no IPv4 network of 8 to 30 bits", p.Pool)
	}
	if p.Pool6.IsValid() && (!p.Pool6.Addr().Is6() || p.Pool6.Bits() < 64 || p.Pool6.Bits() > 126) {
		bad("IPv6 pool %v is no network of 64 to 126 bits", p.Pool6)
	}
	if p.MTU == 0 {
		p.MTU = 1290
	}
	if p.MTU < 576 || p.MTU > 1500 || p.Pool6.IsValid() && p.MTU < 1280 {
		bad("MTU %d is outside 576 (1280 with IPv6) to 1500", p.MTU)
	}
	if p.Disconnected <= 0 {
		p.Disconnected = 120 * time.Second
	}
	if p.MaxSessions <= 0 {
		p.MaxSessions = 2
	}
	if p.DPD < 0 || p.Keepalive < 0 || p.Idle < 0 || p.Session < 0 || p.Rekey < 0 {
		bad("has a negative time")
	}
	return errors.Join(errs...)
}

// Name is the text of the policy in a list of groups.
func (p *Policy) Name() string {
	if p.Label != "" {
		return p.Label
	}
	return p.ID
}

// Gateway is the appliance's own inner IPv4 address: the first of the pool.
func (p *Policy) Gateway() netip.Addr { return p.Pool.Masked().Addr().Next() }

// Gateway6 is the appliance's own inner IPv6 address; invalid without an IPv6 pool.
func (p *Policy) Gateway6() netip.Addr {
	if !p.Pool6.IsValid() {
		return netip.Addr{}
	}
	return p.Pool6.Masked().Addr().Next()
}
