package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

func (c *checker) vpn() {
	v := c.d.VPN
	c.vpnHosts()
	seen := map[string]string{}
	for i, p := range v.Policies {
		path := fmt.Sprintf("vpn.policies[%d]", i)
		c.duplicate(seen, p.ID, path+".id", "VPN policy")
		if p.ID == "svc" && i > 0 {
			c.bad(path+".id", "choose another id, or put this policy first", "the path /svc always leads to the first policy")
		}
		if len(p.Auth) == 0 {
			c.bad(path+".auth", "[certificate], [password] or both", "policy %s lets nobody in", p.ID)
		}
		c.pool(i, path+".pool")
		c.pool6(i, path)
		c.vpnNetworks(i, path)
		c.vpnRules(p.Allow, path+".allow")
	}
	if len(v.UserCRLs) > 0 && len(v.UserRoots) == 0 {
		c.bad("vpn.user_crls", "set vpn.user_roots too, or take the lists away", "lists of revoked certificates without the authorities of those certificates")
	}
	c.secondFactor()
	c.wireguard()
	c.vpnUse()
}

func (c *checker) vpnHosts() {
	for i, h := range c.d.VPN.Hosts {
		path := fmt.Sprintf("vpn.hosts[%d]", i)
		host, port, ok := strings.Cut(h, ":")
		if !strings.HasPrefix(h, "[") {
			if err := checkHost(host); err != nil {
				c.err(path, err)
			} else if n, err := strconv.ParseUint(port, 10, 16); ok && (err != nil || n == 0) {
				c.bad(path, "a port from 1 to 65535", "%s has no usable port", clip(h))
			}
		} else if _, err := netip.ParseAddrPort(h); err != nil && !strings.HasSuffix(h, "]") {
			c.bad(path, "[2001:db8::1] or [2001:db8::1]:443", "%s is not an address", clip(h))
		}
		if i == 3 {
			c.bad(path, "keep the three that matter", "phones take three gateway addresses, this is the fourth")
		}
	}
}

// pool judges the inner addresses of a policy.
func (c *checker) pool(i int, path string) {
	p := c.d.VPN.Policies[i]
	if !p.Pool.IsValid() {
		return
	}
	if !p.Pool.Addr().Is4() {
		c.bad(path, "an IPv4 network like 100.64.10.0/24", "%s is not an IPv4 network", p.Pool)
		return
	}
	if p.Pool.Bits() < 8 {
		c.bad(path, "a network like 100.64.10.0/24", "%s is larger than any private network", p.Pool)
		return
	}
	for j, q := range c.d.VPN.Policies[:i] {
		if q.Pool.IsValid() && q.Pool.Overlaps(p.Pool) {
			c.bad(path, fmt.Sprintf("choose another network; %s is taken (%s)", q.Pool, c.where(fmt.Sprintf("vpn.policies[%d].pool", j))), "pool %s overlaps that of policy %s", p.Pool, q.ID)
			return
		}
	}
	if a := c.d.Node.Address; a.IsValid() && p.Pool.Contains(a) {
		c.bad(path, "choose a network that is used nowhere else", "pool %s contains node.address %s", p.Pool, a)
		return
	}
	want := 1
	for _, ph := range c.d.Phones {
		if ph.VPN == p.ID {
			want++
		}
	}
	for _, u := range c.d.Users {
		if u.VPN == p.ID {
			want++
		}
	}
	// Network, broadcast and our own address are not for clients.
	if have := 1<<(32-p.Pool.Bits()) - 3; have < max(want-1, 1) {
		bits := p.Pool.Bits()
		for bits > 8 && 1<<(32-bits)-3 < max(want-1, 1) {
			bits--
		}
		c.bad(path, fmt.Sprintf("take a network of /%d or larger", bits), "pool %s has room for %d clients, %d phones and users have this policy", p.Pool, max(have, 0), want-1)
	}
}

// vpnUse notes a VPN that is declared for phones but cannot be reached.
func (c *checker) vpnUse() {
	for i, p := range c.d.Phones {
		if p.VPN == "" {
			continue
		}
		path := fmt.Sprintf("phones[%d].vpn", i)
		switch {
		case !c.d.VPN.Enabled:
			c.note(path, "set vpn.enabled: true", "the VPN is switched off, so that phone %s gets none", p.Device)
		case c.d.Node.Listen.VPN.Off():
			c.note(path, "give node.listen.vpn an address and port", "the VPN has no listener on this appliance")
		case len(c.d.VPN.Hosts) == 0:
			c.note(path, "list the name or address of the gateway under vpn.hosts", "vpn.hosts is empty, so that the device file of phone %s has no VPN", p.Device)
		default:
			continue
		}
		return
	}
}
