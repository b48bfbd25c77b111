package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Zones of the firewall.
const (
	ZonePhones         = "phones"
	ZoneAdministration = "administration"
	ZoneOutside        = "outside"
	ZoneVPN            = "vpn"
	ZonePair           = "pair"
)

// Declared tells whether anything of the machine's network is.
func (m Machine) Declared() bool {
	return len(m.Interfaces) > 0 || len(m.Routes) > 0 || len(m.DNS) > 0 || len(m.Search) > 0 || m.SetName || m.Firewall.Enabled
}

// PortSpan reads a port or a range of ports; 0, 0 when there is none.
func PortSpan(s string) (first, last uint16, err error) {
	if s == "" {
		return 0, 0, nil
	}
	a, b, ranged := strings.Cut(s, "-")
	if !ranged {
		b = a
	}
	x, err1 := strconv.ParseUint(a, 10, 16)
	y, err2 := strconv.ParseUint(b, 10, 16)
	if err1 != nil || err2 != nil || x == 0 || y < x {
		return 0, 0, faultf("ports from 1 to 65535, the lower one first", "%q is no port or range of ports", clip(s))
	}
	return uint16(x), uint16(y), nil
}

// backups judges backups that are made by themselves.
func (c *checker) backups() {
	b := c.d.Node.Backup
	const path = "node.backup"
	on := b.Folder != "" || b.URL != ""
	switch {
	case on && b.Passphrase.Empty() && !c.ix.faulty(c.f, path+".passphrase"):
		at := path + ".folder"
		if b.Folder == "" {
			at = path + ".url"
		}
		c.bad(at, "add passphrase:, and write it down outside this house", "backups hold every key, so they are encrypted, and there is no passphrase")
	case !on && !b.Passphrase.Empty():
		c.note(path, "add folder: or url:", "%s: no backup is made, since nothing says where to", path)
	case on && b.URL == "":
		c.note(path+".folder", "add url:, or let the folder be a mounted share", "%s is on this machine, which may burn down with it", b.Folder)
	}
	if strings.HasPrefix(b.URL, "http://") && !b.Password.Empty() {
		c.note(path+".url", "https://", "the password for %s is sent in clear", b.URL)
	}
}

// host judges what is declared of the machine.
func (c *checker) host() {
	c.backups()
	h := c.d.Node.Host
	const path = "node.host"
	seen, by := map[string]string{}, map[string]*Interface{}
	memberOf := map[string]string{}
	for i := range h.Interfaces {
		x := &h.Interfaces[i]
		at := fmt.Sprintf("%s.interfaces[%d]", path, i)
		c.duplicate(seen, x.Name, at+".name", "interface")
		by[x.Name] = x
		for j, m := range x.Bond {
			if other := memberOf[m]; other != "" {
				c.bad(fmt.Sprintf("%s.bond[%d]", at, j), "a port belongs to one bond", "%s is part of %s already", m, other)
			}
			memberOf[m] = x.Name
		}
	}
	for i := range h.Interfaces {
		c.interfaceForm(&h.Interfaces[i], fmt.Sprintf("%s.interfaces[%d]", path, i), by, memberOf)
	}
	c.hostAddresses(h, path)
	for i, r := range h.Routes {
		at := fmt.Sprintf("%s.routes[%d]", path, i)
		switch {
		case r.On == "" && !r.Via.IsValid():
			c.bad(at+".to", "add via: with the router, or on: with the interface", "nothing says where %s is", r.To)
		case r.Via.IsValid() && r.To.IsValid() && r.Via.Is4() != r.To.Addr().Is4():
			c.bad(at+".via", "a router of the same kind of address", "%s is no router for %s", r.Via, r.To)
		case r.On != "" && by[r.On] == nil:
			c.bad(at+".on", "declare it under node.host.interfaces", "there is no interface %s", r.On)
		}
	}
	c.firewall(h, path+".firewall", by)
}

// interfaceForm judges one interface by itself.
func (c *checker) interfaceForm(x *Interface, at string, by map[string]*Interface, memberOf map[string]string) {
	bond := memberOf[x.Name]
	switch {
	case x.Name == "lo":
		c.bad(at+".name", "leave it out", "lo is the machine's own")
	case x.Name == c.d.Node.Tunnel.Device:
		c.bad(at+".name", "leave it out: the VPN makes it, and it is of the zone vpn by itself", "%s is the TUN device of the VPN", x.Name)
	case x.VLAN > 0 && len(x.Bond) > 0:
		c.bad(at+".vlan", "declare the bond and the VLAN as two interfaces, the VLAN with on: naming the bond", "%s is a VLAN and a bond at once", x.Name)
	case x.VLAN > 0 && x.On == "":
		c.bad(at+".vlan", "add on: with the interface that carries it", "nothing carries VLAN %d", x.VLAN)
	case x.VLAN == 0 && x.On != "":
		c.bad(at+".on", "add vlan: with its tag, or remove on:", "%s has no tag", x.Name)
	case x.On != "" && x.On == x.Name:
		c.bad(at+".on", "name the port or bond that carries it", "%s carries itself", x.Name)
	case x.On != "" && by[x.On] != nil && by[x.On].VLAN > 0:
		c.bad(at+".on", "name the port or bond that carries it", "%s is a VLAN itself", x.On)
	case bond == x.Name && bond != "":
		c.bad(at+".bond", "name ports of the machine", "%s is part of itself", x.Name)
	case bond != "" && (len(x.Addresses) > 0 || x.DHCP || x.Gateway.IsValid() || len(x.Zones) > 0 || len(x.Bond) > 0 || x.VLAN > 0):
		c.bad(at+".name", "declare address and zones with "+bond, "%s is part of %s and has nothing of its own", x.Name, bond)
	case x.MTU > 0 && x.MTU < 576:
		c.bad(at+".mtu", "576 and more, usually 1500", "packets of %d bytes carry nothing", x.MTU)
	case x.MTU > 0 && x.MTU < 1280 && x.IPv6 != "off":
		c.bad(at+".mtu", "1280 and more, or ipv6: off", "IPv6 does not work with packets of %d bytes", x.MTU)
	}
	var four, six bool
	for j, a := range x.Addresses {
		p := fmt.Sprintf("%s.addresses[%d]", at, j)
		if !a.IsValid() {
			continue
		}
		ip := a.Addr()
		four, six = four || ip.Is4(), six || ip.Is6()
		switch {
		case ip.IsUnspecified() || ip.IsMulticast() || ip.IsLoopback() || a.Bits() == 0:
			c.bad(p, "an address of a machine, like 192.0.2.10/24", "%s is no address for an interface", a)
		case ip.Is4() && a.Bits() < 31 && (a.Masked().Addr() == ip || lastOf(a.Prefix) == ip):
			c.bad(p, "one between the first and the last of "+a.Masked().String(), "%s is the network itself or its broadcast", ip)
		case ip.Is6() && x.IPv6 == "off":
			c.bad(p, "ipv6: static, or remove the address", "%s has IPv6 off", x.Name)
		}
	}
	gateway := func(key string, g netip.Addr, is4, have bool) {
		if !g.IsValid() {
			return
		}
		reached := g.IsLinkLocalUnicast()
		for _, a := range x.Addresses {
			reached = reached || a.IsValid() && a.Contains(g)
		}
		switch {
		case g.Is4() != is4:
			c.bad(at+"."+key, "an address of the other kind goes to gateway or gateway6", "%s is no address for %s", g, key)
		case is4 && x.DHCP && !have:
			c.bad(at+"."+key, "remove it: DHCP names the router", "%s asks DHCP", x.Name)
		case !reached:
			c.bad(at+"."+key, "the router's address in a network of this interface", "no address of %s reaches %s", x.Name, g)
		}
	}
	gateway("gateway", x.Gateway, true, four)
	gateway("gateway6", x.Gateway6, false, six)
}

// lastOf is the last address of an IPv4 network.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

// hostAddresses looks for addresses that are given twice, and for the one that phones are told.
func (c *checker) hostAddresses(h Machine, path string) {
	first := map[netip.Addr]string{}
	dhcp := false
	for i, x := range h.Interfaces {
		dhcp = dhcp || x.DHCP
		for j, a := range x.Addresses {
			if !a.IsValid() {
				continue
			}
			if other := first[a.Addr()]; other != "" {
				c.bad(fmt.Sprintf("%s.interfaces[%d].addresses[%d]", path, i, j), "an address belongs to one interface", "%s is that of %s already", a.Addr(), other)
			}
			first[a.Addr()] = x.Name
		}
	}
	if n := c.d.Node.Address; len(first) > 0 && !dhcp && n.IsValid() && !n.IsLoopback() && first[n] == "" {
		c.note("node.address", "declare it at one of node.host.interfaces, unless another interface has it", "no declared interface has %s, which phones are told", n)
	}
}

func (c *checker) firewall(h Machine, path string, by map[string]*Interface) {
	f := h.Firewall
	for i, name := range f.Masquerade {
		if by[name] == nil {
			c.bad(fmt.Sprintf("%s.masquerade[%d]", path, i), "declare it under node.host.interfaces", "there is no interface %s", name)
		}
	}
	for i, r := range f.Allow {
		at := fmt.Sprintf("%s.allow[%d]", path, i)
		if _, _, err := PortSpan(r.Ports); err != nil {
			c.err(at+".ports", err)
		} else if r.Ports != "" && r.Protocol != "tcp" && r.Protocol != "udp" {
			c.bad(at+".ports", "add protocol: tcp or protocol: udp", "only tcp and udp have ports")
		}
		if r.Source.IsValid() && r.Dest.IsValid() && r.Source.Addr().Is4() != r.Dest.Addr().Is4() {
			c.bad(at+".destination", "a network of the same kind of address as source", "nothing goes from %s to %s", r.Source, r.Dest)
		}
	}
	if !f.Enabled {
		if len(f.Allow)+len(f.Masquerade) > 0 {
			c.note(path, "add enabled: true", "%s: what is declared has no effect while the firewall is off", path)
		}
		return
	}
	in := map[string]bool{}
	for _, x := range h.Interfaces {
		for _, z := range x.Zones {
			in[z] = true
		}
	}
	switch {
	case len(in) == 0:
		c.bad(path+".enabled", "give the interfaces zones: [phones, administration] where one network is everything", "with a firewall and no zone nobody reaches this machine")
	case !in[ZonePhones]:
		c.note(path+".enabled", "add phones to the zones of the interface that phones are behind", "no interface is of the zone phones, so phones reach the appliance by VPN at most")
	case !in[ZoneAdministration]:
		c.note(path+".enabled", "add administration to the zones of an interface", "no interface is of the zone administration, so nobody administers this machine over the network")
	}
}

// Service is a listener as the firewall sees it.
type Service struct {
	Name     string
	Port     uint16
	Last     uint16 // of a range; Port otherwise
	TCP, UDP bool
	Zones    []string
}

// Ports are the listeners that are on, and the zones that need them: what phones speak is open to phones, at home and in the VPN; the VPN
// itself to the outside; the rest to administration alone.
func (d *Document) Ports() []Service {
	c := checker{d: d}
	var out []Service
	for _, l := range c.listenerList() {
		if l.ep.Off() || l.ep.Addr().IsLoopback() {
			continue
		}
		zones := []string{ZoneAdministration}
		switch {
		case l.phones, slices.Contains([]string{"ntp", "sip_udp"}, l.name):
			zones = []string{ZonePhones, ZoneVPN}
		case l.name == "certs":
			zones = []string{ZonePhones, ZoneVPN, ZoneAdministration}
		case l.name == "vpn" || l.name == "wireguard":
			if !d.VPN.Enabled {
				continue
			}
			zones = []string{ZoneOutside}
		}
		out = append(out, Service{Name: l.name, Port: l.ep.Port(), Last: l.ep.Port(), TCP: l.tcp, UDP: l.udp, Zones: zones})
	}
	m := d.Node.Media.Ports
	return append(out, Service{Name: "media", Port: m.First, Last: m.Last, UDP: true, Zones: []string{ZonePhones, ZoneVPN}})
}
