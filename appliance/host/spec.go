package host

import (
	"net/netip"
	"slices"

	"ringfence/config"
)

// Spec is what the machine shall be: node.host without its defaults and texts, as it is kept in the journal.
type Spec struct {
	Links    []Link       `json:"links,omitempty"`
	Routes   []Route      `json:"routes,omitempty"`
	DNS      []netip.Addr `json:"dns,omitempty"`
	Search   []string     `json:"search,omitempty"`
	HostName string       `json:"host_name,omitempty"`
	Firewall *Firewall    `json:"firewall,omitempty"`
}

// Link is an interface: a port, a VLAN on one (VLAN and On), or a bond of several (Bond and Mode).
type Link struct {
	Name      string         `json:"name"`
	VLAN      int            `json:"vlan,omitempty"`
	On        string         `json:"on,omitempty"`
	Bond      []string       `json:"bond,omitempty"`
	Mode      string         `json:"mode,omitempty"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	DHCP      bool           `json:"dhcp,omitempty"`
	IPv6      string         `json:"ipv6"` // auto, static, off
	Gateway   netip.Addr     `json:"gateway,omitzero"`
	Gateway6  netip.Addr     `json:"gateway6,omitzero"`
	MTU       int            `json:"mtu,omitempty"`
	Zones     []string       `json:"zones,omitempty"`
}

// made tells whether the link is one that this package makes.
func (l Link) made() bool { return l.VLAN > 0 || len(l.Bond) > 0 }

// Route is a declared route.
type Route struct {
	To  netip.Prefix `json:"to"`
	Via netip.Addr   `json:"via,omitzero"`
	On  string       `json:"on,omitempty"`
}

// Firewall is what is declared besides what listeners need.
type Firewall struct {
	Allow      []Rule   `json:"allow,omitempty"`
	Masquerade []string `json:"masquerade,omitempty"`
}

// Appliance is the destination of a rule about this machine itself.
const Appliance = "appliance"

// Rule opens one thing.
type Rule struct {
	From     string       `json:"from"`
	To       string       `json:"to"` // a zone, or Appliance
	Source   netip.Prefix `json:"source,omitzero"`
	Dest     netip.Prefix `json:"destination,omitzero"`
	Protocol string       `json:"protocol"` // any, tcp, udp, icmp
	First    uint16       `json:"first,omitempty"`
	Last     uint16       `json:"last,omitempty"`
	What     string       `json:"what,omitempty"` // name of the listener
}

// SpecOf is what a document declares.
func SpecOf(d *config.Document) Spec {
	h := d.Node.Host
	var s Spec
	for _, x := range h.Interfaces {
		l := Link{Name: x.Name, VLAN: x.VLAN, On: x.On, Bond: x.Bond, DHCP: x.DHCP, IPv6: x.IPv6, Gateway: x.Gateway, Gateway6: x.Gateway6, MTU: x.MTU, Zones: x.Zones}
		if len(x.Bond) > 0 {
			l.Mode = x.Mode
		}
		for _, a := range x.Addresses {
			l.Addresses = append(l.Addresses, a.Prefix)
		}
		s.Links = append(s.Links, l)
	}
	for _, r := range h.Routes {
		s.Routes = append(s.Routes, Route{To: r.To, Via: r.Via, On: r.On})
	}
	s.DNS = h.DNS
	for _, n := range h.Search {
		s.Search = append(s.Search, string(n))
	}
	if h.SetName {
		s.HostName = d.Node.Name
	}
	if h.Firewall.Enabled {
		s.Firewall = &Firewall{Masquerade: h.Firewall.Masquerade}
		for _, r := range h.Firewall.Allow {
			first, last, _ := config.PortSpan(r.Ports) // checked with the document
			s.Firewall.Allow = append(s.Firewall.Allow, Rule{From: r.From, To: r.To, Source: r.Source, Dest: r.Dest, Protocol: r.Protocol, First: first, Last: last, What: "declared"})
		}
	}
	return s
}

// Needs are the rules without which the listeners and the VPN of a document do not work.
func Needs(d *config.Document) []Rule {
	var out []Rule
	for _, p := range d.Ports() {
		for _, z := range p.Zones {
			for _, proto := range []struct {
				name string
				on   bool
			}{{"tcp", p.TCP}, {"udp", p.UDP}} {
				if proto.on {
					out = append(out, Rule{From: z, To: Appliance, Protocol: proto.name, First: p.Port, Last: p.Last, What: p.Name})
				}
			}
		}
	}
	// Whoever administers the machine logs in to it, where it has a log-in.
	out = append(out, Rule{From: config.ZoneAdministration, To: Appliance, Protocol: "tcp", First: 22, Last: 22, What: "ssh"})
	if !d.VPN.Enabled {
		return out
	}
	// The VPN judges every packet by its policies before it gets here; what no policy opens at all is closed here too.
	for _, p := range d.VPN.Policies {
		open := slices.Clone(p.Routes)
		for _, r := range p.Allow {
			open = append(open, r.To)
		}
		for _, to := range open {
			for _, zone := range []string{config.ZonePhones, config.ZoneAdministration, config.ZoneOutside, config.ZonePair} {
				out = append(out, Rule{From: config.ZoneVPN, To: zone, Dest: to, Protocol: "any", What: "vpn " + p.ID})
			}
		}
		if len(p.Routes) == 0 { // a default route
			out = append(out, Rule{From: config.ZoneVPN, To: config.ZoneOutside, Protocol: "any", What: "vpn " + p.ID})
		}
	}
	return out
}

// Empty tells whether nothing is declared.
func (s Spec) Empty() bool {
	return len(s.Links) == 0 && len(s.Routes) == 0 && len(s.DNS) == 0 && len(s.Search) == 0 && s.HostName == "" && s.Firewall == nil
}

// names are the links that the spec configures, ports of bonds included.
func (s Spec) names() []string {
	var out []string
	for _, l := range s.Links {
		out = append(out, l.Name)
		out = append(out, l.Bond...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// zones are the interfaces of each zone.
func (s Spec) zones(tunnel string) map[string][]string {
	out := map[string][]string{config.ZoneVPN: {tunnel}}
	for _, l := range s.Links {
		for _, z := range l.Zones {
			out[z] = append(out[z], l.Name)
		}
	}
	return out
}
