package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// pool6 judges the inner IPv6 addresses of a policy.
func (c *checker) pool6(i int, path string) {
	p := c.d.VPN.Policies[i]
	if !p.Pool6.IsValid() {
		return
	}
	path6 := path + ".pool6"
	switch {
	case !p.Pool6.Addr().Is6() || p.Pool6.Addr().Is4In6() || p.Pool6.Bits() < 64 || p.Pool6.Bits() > 126:
		c.bad(path6, "an IPv6 network of /64 to /126 like fd00:10::/64", "%s does not serve as a pool", p.Pool6)
		return
	case p.MTU < 1280:
		c.bad(path+".mtu", "1280 or more", "IPv6 needs an MTU of 1280, policy %s has %d", p.ID, p.MTU)
	case p.Pool.IsValid() && p.Pool.Addr().Is4() && 128-p.Pool6.Bits() < 32-p.Pool.Bits():
		// Both addresses of a client have the same offset.
		c.bad(path6, fmt.Sprintf("take a network of /%d or larger", 128-(32-p.Pool.Bits())), "pool %s has fewer addresses than pool %s", p.Pool6, p.Pool)
	}
	for j, q := range c.d.VPN.Policies[:i] {
		if q.Pool6.IsValid() && q.Pool6.Overlaps(p.Pool6) {
			c.bad(path6, fmt.Sprintf("choose another network; %s is taken (%s)", q.Pool6, c.where(fmt.Sprintf("vpn.policies[%d].pool6", j))), "pool %s overlaps that of policy %s", p.Pool6, q.ID)
			return
		}
	}
}

// vpnNetworks judges what a client is told: IPv6 where it has IPv6 only.
func (c *checker) vpnNetworks(i int, path string) {
	p := c.d.VPN.Policies[i]
	for _, l := range []struct {
		key  string
		nets []netip.Prefix
	}{{"routes", p.Routes}, {"exclude", p.Exclude}} {
		for j, r := range l.nets {
			if !r.Addr().Is4() && !p.Pool6.IsValid() {
				c.bad(fmt.Sprintf("%s.%s[%d]", path, l.key, j), "an IPv4 network, or give the policy a pool6", "%s is an IPv6 network, and policy %s has no IPv6", r, p.ID)
			}
		}
	}
	for j, a := range p.DNS {
		if !a.Is4() && !p.Pool6.IsValid() {
			c.bad(fmt.Sprintf("%s.dns[%d]", path, j), "an IPv4 address, or give the policy a pool6", "%s is an IPv6 address, and policy %s has no IPv6", a, p.ID)
		}
	}
	if len(p.SplitDNS) > 0 && len(p.DNS) == 0 {
		c.bad(path+".split_dns", "list the resolvers under dns", "policy %s names domains, and no resolver to ask for them", p.ID)
	}
	if p.MaxSessions > c.d.VPN.MaxSessions {
		c.bad(path+".max_sessions", "raise vpn.max_sessions", "%d is more than the gateway takes in all (%d)", p.MaxSessions, c.d.VPN.MaxSessions)
	}
}

func (c *checker) vpnRules(rules []VPNRule, path string) {
	for j, r := range rules {
		at := fmt.Sprintf("%s[%d]", path, j)
		if r.Ports == "" {
			continue
		}
		if r.Protocol != "tcp" && r.Protocol != "udp" {
			c.bad(at+".ports", "protocol: tcp or udp, or no ports", "ports belong to tcp and udp, the protocol is %s", r.Protocol)
			continue
		}
		if _, _, err := r.Range(); err != nil {
			c.err(at+".ports", err)
		}
	}
}

// Range is the first and last port of a rule; 0 and 0 are all.
func (r VPNRule) Range() (first, last uint16, err error) {
	if r.Ports == "" {
		return 0, 0, nil
	}
	from, to, two := strings.Cut(r.Ports, "-")
	if !two {
		to = from
	}
	a, errA := strconv.ParseUint(from, 10, 16)
	b, errB := strconv.ParseUint(to, 10, 16)
	if errA != nil || errB != nil || a == 0 || a > b {
		return 0, 0, faultf("a port from 1 to 65535, or a range like 8000-8100", "%q is no range of ports", clip(r.Ports))
	}
	return uint16(a), uint16(b), nil
}

// secondFactor finds people who cannot get in for want of a secret.
func (c *checker) secondFactor() {
	for i, u := range c.d.Users {
		p, ok := c.d.Policy(u.VPN)
		if u.VPN != "" && ok && p.SecondFactor && u.TOTP.Empty() && !u.Password.Empty() {
			c.note(fmt.Sprintf("users[%d].totp", i), "ringfence vpn totp "+u.ID+" makes one", "policy %s asks for a one-time password, and %s has no secret: the password alone does not let in", p.ID, u.ID)
		}
	}
}

// wireguard judges the peers of people.
func (c *checker) wireguard() {
	names, keys := map[string]string{}, map[string]string{}
	any := ""
	for i, u := range c.d.Users {
		for j, p := range u.WireGuard {
			path := fmt.Sprintf("users[%d].wireguard[%d]", i, j)
			c.duplicate(names, p.Name, path+".name", "WireGuard device")
			c.duplicate(keys, p.PublicKey, path+".public_key", "WireGuard key")
			if u.VPN == "" {
				c.bad(path, "vpn: of the user", "user %s has no VPN policy for its WireGuard devices", u.ID)
			}
			any = path
		}
	}
	if any != "" && c.d.Node.Listen.WireGuard.Off() {
		c.note(any, "give node.listen.wireguard an address and port", "WireGuard devices are declared, and this appliance has no listener for them")
	}
	if l := c.d.Node.Listen.WireGuard; !l.Off() && len(c.d.VPN.Policies) == 0 {
		c.bad("node.listen.wireguard", "declare vpn.policies, or take the listener away", "WireGuard needs a VPN policy")
	}
}
