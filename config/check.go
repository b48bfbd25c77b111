package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
	_ "time/tzdata" // the image has no time zone files
)

// checker judges a decoded document as a whole: what refers to what, what overlaps, what a phone cannot do. Every fault names
// the place of the value that has to change.
type checker struct {
	d       *Document
	ix      *index
	f       *faults
	partial bool // files are missing: nothing can be said about references
	notices []Notice
	numbers []numbered
	owned   map[Digits]bool // every number of the plan
}

func (c *checker) run() {
	c.node()
	c.media()
	c.site()
	c.pki()
	c.trusted()
	c.vpn()
	c.users()
	c.phones()
	c.legacy()
	c.lines()
	c.numbering()
	c.groups()
	c.parking()
	c.paging()
	c.intercom()
	c.rooms()
	c.services()
	c.schedules()
	c.routes()
	c.rules()
	c.overlaps()
	c.emergency()
	c.keys()
	c.destinations()
	c.loops()
	c.exampleSecrets()
	c.unserved()
}

// bad reports a fault of the value at path.
func (c *checker) bad(path, hint, format string, args ...any) {
	m, _ := c.ix.find(path)
	c.f.add(m.val, path, fmt.Sprintf(format, args...), hint)
}

// err reports what a parser of a value said.
func (c *checker) err(path string, err error) {
	if f, ok := err.(*fault); ok {
		c.bad(path, f.hint, "%s", f.message)
	}
}

// note tells the administrator something about the value at path.
func (c *checker) note(path, hint, format string, args ...any) {
	m, ok := c.ix.find(path)
	at := m.key
	if !ok || at.line == 0 {
		at = m.val
	}
	c.notices = append(c.notices, Notice{at.position(), path, fmt.Sprintf(format, args...), hint})
}

// whole tells whether references into a section can be judged: a section with faults, or of which a file is missing, may
// hold what is looked for.
func (c *checker) whole(section string) bool { return !c.partial && !c.ix.broken[section] }

// line gives the line of path for messages about two places.
func (c *checker) where(path string) string {
	m, _ := c.ix.find(path)
	return fmt.Sprintf("line %d", m.val.line)
}

// duplicate reports the second of two equal names.
func (c *checker) duplicate(seen map[string]string, name, path, what string) {
	if name == "" {
		return
	}
	if first, ok := seen[name]; ok {
		c.bad(path, "the first is in "+c.where(first)+"; give this one another name or remove it", "%s %s is declared twice", what, name)
		return
	}
	seen[name] = path
}

// minMediaPorts is what a fully used small office needs: fifty calls.
const minMediaPorts = 200

func (c *checker) node() {
	a := c.d.Node.Address
	const path = "node.address"
	switch {
	case !a.IsValid():
	case !a.Is4():
		c.bad(path, "the IPv4 address of this appliance", "%s is not an IPv4 address, and phones need one", a)
	case a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		c.bad(path, "the address of this appliance in the phones' network", "phones cannot reach %s", a)
	case a.IsLoopback():
		c.note(path, "for real phones write the address of this appliance in their network", "%s is reachable from this machine only", a)
	}
	if m := c.d.Node.Listen.Metrics; !m.Off() && !m.Addr().IsLoopback() {
		c.note("node.listen.metrics", "listen on 127.0.0.1, or let a firewall admit the collector alone", "metrics are answered to everybody who reaches %s", m)
	}
	if p := c.d.Node.Media.Ports; p.First > 0 && p.Last >= p.First && int(p.Last)-int(p.First)+1 < minMediaPorts {
		c.note("node.media.ports", "a range like 16384-32767", "%d ports carry at most %d calls at once: each takes two ports for either party", int(p.Last)-int(p.First)+1, (int(p.Last)-int(p.First)+1)/4)
	}
	c.listeners()
	c.host()
}

type listener struct {
	name     string
	ep       Endpoint
	tcp, udp bool
	fixed    uint16 // the only port that phones ask for, 0 where they are told
	phones   bool
}

func (c *checker) listenerList() []listener {
	l := c.d.Node.Listen
	return []listener{
		{"provision_http", l.ProvisionHTTP, true, false, 6970, true},
		{"provision_https", l.ProvisionHTTPS, true, false, 6971, true},
		{"tftp", l.TFTP, false, true, 69, true},
		{"capf", l.CAPF, true, false, 0, true},
		{"tvs", l.TVS, true, false, 0, true},
		{"sip_tcp", l.SIPTCP, true, false, 0, true},
		{"sip_udp", l.SIPUDP, false, true, 0, false},
		{"sip_tls", l.SIPTLS, true, false, 0, true},
		{"ntp", l.NTP, false, true, 123, false},
		{"vpn", l.VPN, true, true, 0, false},
		{"wireguard", l.WireGuard, false, true, 0, false},
		{"certs", l.Certs, true, false, 0, false},
		{"acme", l.ACME, true, false, 0, false},
		{"metrics", l.Metrics, true, false, 0, false},
	}
}

func (c *checker) listeners() {
	list := c.listenerList()
	var odd []string
	for i, a := range list {
		if a.ep.Off() {
			continue
		}
		path := "node.listen." + a.name
		if a.ep.Addr().Zone() != "" || a.ep.Addr().IsMulticast() {
			c.bad(path, "an address of this machine, or 0.0.0.0 for all", "%s cannot be listened on", a.ep.Addr())
			continue
		}
		if a.fixed != 0 && a.ep.Port() != a.fixed {
			odd = append(odd, fmt.Sprintf("%s %d", a.name, a.fixed))
		}
		if n := c.d.Node.Address; a.phones && n.Is4() && !a.ep.Addr().IsUnspecified() && a.ep.Addr().Unmap() != n {
			c.note(path, "listen on 0.0.0.0 or on "+n.String(), "phones are told %s but %s listens on %s alone", n, a.name, a.ep.Addr())
		}
		for _, b := range list[:i] {
			if !b.ep.Off() && (a.tcp && b.tcp || a.udp && b.udp) && a.ep.Port() != 0 && a.ep.Port() == b.ep.Port() && overlap(a.ep.Addr(), b.ep.Addr()) {
				c.bad(path, "give one of them another port", "%s and %s both listen on port %d", b.name, a.name, a.ep.Port())
				break
			}
		}
	}
	if len(odd) > 0 {
		c.note("node.listen", "fine for simulated phones and behind a port redirection", "real phones ask only for these ports: %s", strings.Join(odd, ", "))
	}
}

// overlap tells whether two sockets on these addresses would compete for a port.
func overlap(a, b netip.Addr) bool {
	a, b = a.Unmap(), b.Unmap()
	if a.IsUnspecified() || b.IsUnspecified() {
		// :: takes IPv4 too, 0.0.0.0 takes no IPv6.
		return a.Is4() == b.Is4() || a.IsUnspecified() && a.Is6() || b.IsUnspecified() && b.Is6()
	}
	return a == b
}

func (c *checker) media() {
	m := c.d.Node.Media
	if !m.Address.Is4() {
		c.bad("node.media.address", "0.0.0.0 or an IPv4 address of this machine", "%s is not an IPv4 address, and phones speak IPv4", m.Address)
	}
	for _, l := range c.listenerList() {
		if p := l.ep.Port(); l.udp && !l.ep.Off() && p >= m.Ports.First && p <= m.Ports.Last && overlap(l.ep.Addr(), m.Address) {
			c.bad("node.listen."+l.name, fmt.Sprintf("choose a port outside %d-%d", m.Ports.First, m.Ports.Last), "port %d lies within node.media.ports", p)
		}
	}
}

func (c *checker) site() {
	zone := func(path, name string) {
		if name == "" {
			return
		}
		if _, err := time.LoadLocation(name); err != nil || name == "Local" {
			c.bad(path, "an IANA name like Europe/Berlin, America/New_York or UTC", "there is no time zone %q", clip(name))
		}
	}
	c.appliances()
	zone("site.time_zone", c.d.Site.TimeZone)
	for i, s := range c.d.Schedules {
		zone(fmt.Sprintf("schedules[%d].zone", i), s.Zone)
	}
	if e := c.d.SIP.SessionExpires.D(); e != 0 && e < 90*time.Second {
		c.bad("sip.session_expires", "0 to switch session timers off, or 90s and more (RFC 4028 section 4)", "session_expires is %s", e)
	}
	if c.d.SIP.MaxFlowsPerIP > c.d.SIP.MaxFlows {
		c.bad("sip.max_flows_per_source", fmt.Sprintf("at most sip.max_flows, %d", c.d.SIP.MaxFlows), "max_flows_per_source is %d", c.d.SIP.MaxFlowsPerIP)
	}
}

func (c *checker) users() {
	seen := map[string]string{}
	for i, u := range c.d.Users {
		path := fmt.Sprintf("users[%d]", i)
		c.duplicate(seen, u.ID, path+".id", "user")
		if u.VPN == "" {
			continue
		}
		if p, ok := c.policy(path+".vpn", u.VPN); ok {
			switch {
			case len(c.d.VPN.UserRoots) > 0 && has(p.Auth, VPNCertificate), len(u.WireGuard) > 0 && u.Password.Empty():
			case u.Password.Empty() && !c.ix.faulty(c.f, path+".password"):
				c.bad(path+".vpn", "add password: to this user, or remove vpn:", "user %s may use the VPN but has no password", u.ID)
			case !has(p.Auth, VPNPassword):
				c.bad(path+".vpn", "add password to the policy's auth, or remove vpn: here", "policy %s does not let people log in with a password", p.ID)
			}
		}
	}
}

func has[T comparable](list []T, x T) bool {
	for _, y := range list {
		if x == y {
			return true
		}
	}
	return false
}

// policy resolves a reference to a VPN policy.
func (c *checker) policy(path, id string) (*VPNPolicy, bool) {
	p, ok := c.d.Policy(id)
	if !ok && c.whole("vpn") {
		c.missing(path, "VPN policy", id, c.policyIDs(), "vpn.policies")
	}
	return p, ok
}

func (c *checker) policyIDs() []string {
	var out []string
	for _, p := range c.d.VPN.Policies {
		out = append(out, p.ID)
	}
	return out
}

// missing reports a reference to nothing, with the nearest of what there is.
func (c *checker) missing(path, what, name string, known []string, section string) {
	hint := "declare it under " + section
	near := ""
	if len(c.f.list) < 4*maxErrors { // beyond that nobody reads it, and it is dear in a large plan
		near = nearest(name, known)
	}
	switch {
	case near != "":
		hint = fmt.Sprintf("did you mean %s? Otherwise declare it under %s", near, section)
	case len(known) > 0 && len(known) <= 8:
		hint = "there are " + strings.Join(known, ", ") + "; declare others under " + section
	}
	c.bad(path, hint, "there is no %s %s", what, clip(name))
}

// exampleSecrets notes passwords that were taken over from the example.
func (c *checker) exampleSecrets() {
	note := func(path, name string, s Secret) {
		if s.From() == "" && strings.HasPrefix(s.Reveal(), "Example") {
			c.note(path, "choose another one before anybody else can reach this appliance", "the password of %s is that of the example", name)
		}
	}
	for i, u := range c.d.Users {
		note(fmt.Sprintf("users[%d].password", i), "user "+u.ID, u.Password)
	}
	for i, l := range c.d.Lines {
		note(fmt.Sprintf("lines[%d].password", i), "line "+string(l.Number), l.Password)
	}
}
