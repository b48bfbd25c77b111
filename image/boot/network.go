package boot

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ringfence/internal/dhcp"
)

// network is the least that makes the appliance reachable: every link up, and an address on each by DHCP, or one given by
// hand. What is declared beyond that is the daemon's.
type network struct {
	mu     sync.Mutex // guards the rest
	links  map[string]*Link
	static *staticAddress
	first  chan struct{} // closed when the first address is there
	once   sync.Once
	left   map[string]bool // links that the daemon has configured as declared
	there  bool            // some link has an address, by whomever

	changed chan struct{} // closed and replaced when static or left changes
}

// staticAddress is an address that was given on the console or by the machine's maker.
type staticAddress struct {
	Address netip.Prefix `json:"address"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	DNS     []netip.Addr `json:"dns,omitempty"`
}

// parseStatic reads 192.0.2.10/24,192.0.2.1,192.0.2.53: address, gateway, servers for names.
func parseStatic(text string) (*staticAddress, error) {
	var a staticAddress
	for i, f := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' }) {
		var err error
		var addr netip.Addr
		switch i {
		case 0:
			if a.Address, err = netip.ParsePrefix(f); err == nil && (!a.Address.Addr().Is4() || a.Address.Bits() == 0) {
				err = fmt.Errorf("%s is no IPv4 address with the length of its network", f)
			}
		case 1:
			a.Gateway, err = netip.ParseAddr(f)
		default:
			if addr, err = netip.ParseAddr(f); err == nil {
				a.DNS = append(a.DNS, addr)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	if !a.Address.IsValid() {
		return nil, fmt.Errorf("%q is no address like 192.0.2.10/24", text)
	}
	return &a, nil
}

// resolvConf names the servers for names.
const resolvConf = "/etc/resolv.conf"

const (
	linkPoll    = 500 * time.Millisecond
	dhcpWithin  = 30 * time.Second
	leaseLeast  = 2 * time.Minute
	leaseUsual  = time.Hour
	addressWait = 20 * time.Second
)

// startNetwork brings every link up, and watches for new ones.
func (s *system) startNetwork() {
	s.network.links, s.network.first = map[string]*Link{}, make(chan struct{})
	s.network.changed = make(chan struct{})
	if lo, err := netlink.LinkByName("lo"); err == nil {
		_ = netlink.LinkSetUp(lo)
	}
	s.tasks.Go("links", func(context.Context) {
		for {
			s.findLinks()
			time.Sleep(linkPoll)
		}
	})
}

func (s *system) findLinks() {
	all, err := netlink.LinkList()
	if err != nil {
		return
	}
	for _, l := range all {
		a := l.Attrs()
		if l.Type() != "device" || a.Flags&net.FlagLoopback != 0 || len(a.HardwareAddr) != 6 {
			continue
		}
		s.network.mu.Lock()
		known := s.network.links[a.Name]
		if known == nil {
			s.network.links[a.Name] = &Link{Name: a.Name, MAC: a.HardwareAddr.String()}
		} else {
			known.Up = a.RawFlags&unix.IFF_RUNNING != 0
		}
		s.network.mu.Unlock()
		if known == nil {
			s.log.Info("link", "link", a.Name, "mac", a.HardwareAddr.String())
			if err := netlink.LinkSetUp(l); err != nil {
				s.log.Error("link", "link", a.Name, "err", err)
			}
			s.tasks.Go("link "+a.Name, func(context.Context) { s.keepLink(l) })
		}
	}
	s.showLinks(all)
}

// showLinks puts what the kernel knows into the status: the daemon may have changed it meanwhile.
func (s *system) showLinks(all []netlink.Link) {
	var out []Link
	there := false
	for _, l := range all {
		s.network.mu.Lock()
		known, left := s.network.links[l.Attrs().Name], s.network.left[l.Attrs().Name]
		var shown Link
		switch {
		case known != nil:
			shown = *known
		case left: // a VLAN or a bond of the daemon
			shown = Link{Name: l.Attrs().Name, MAC: l.Attrs().HardwareAddr.String(), Up: l.Attrs().RawFlags&unix.IFF_RUNNING != 0}
		}
		s.network.mu.Unlock()
		if shown.Name == "" {
			continue
		}
		if left {
			shown.How, shown.Gateway = "declared", ""
		}
		shown.Addresses = nil
		if addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL); err == nil {
			for _, a := range addresses {
				if !a.IP.IsLinkLocalUnicast() {
					shown.Addresses = append(shown.Addresses, a.IPNet.String())
				}
			}
		}
		there = there || len(shown.Addresses) > 0
		out = append(out, shown)
	}
	s.network.mu.Lock()
	s.network.there = there
	s.network.mu.Unlock()
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	s.view.set(func(v *Status) { v.Links = out })
}

// state tells whether any link has a carrier and any an address.
func (n *network) state() (link, address bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		link = link || l.Up
	}
	return link, n.there
}

// keepLink gives a link its address and keeps it.
func (s *system) keepLink(l netlink.Link) {
	name := l.Attrs().Name
	mac := [6]byte(l.Attrs().HardwareAddr)
	for {
		s.network.mu.Lock()
		up, fixed, changed := s.network.links[name].Up, s.network.static, s.network.changed
		if s.network.left[name] {
			s.network.links[name].Addresses = nil // the daemon's from now on: not ours to take away
		}
		s.network.mu.Unlock()
		if !up || s.network.isLeft(name) {
			time.Sleep(linkPoll)
			continue
		}
		if fixed != nil {
			if s.isFirst(name) {
				if err := s.setAddress(l, fixed.Address, fixed.Gateway, fixed.DNS, "static"); err != nil {
					s.log.Error("address", "link", name, "err", err)
				}
			}
			<-changed
			continue
		}
		m, err := s.askDHCP(name, mac, changed)
		var p netip.Prefix
		if s.network.isLeft(name) || isClosed(changed) {
			continue
		}
		if err == nil {
			p, err = m.Prefix()
		}
		if err == nil {
			err = s.setAddress(l, p, m.Router, m.DNS, "dhcp")
		}
		if err != nil {
			s.log.Info("no address", "link", name, "err", err)
			time.Sleep(linkPoll)
			continue
		}
		lease := m.Lease
		if lease == 0 {
			lease = leaseUsual
		}
		select {
		case <-changed:
		case <-time.After(max(lease/2, leaseLeast)):
		}
	}
}

// askDHCP gives up when something else was declared.
func (s *system) askDHCP(name string, mac [6]byte, changed chan struct{}) (dhcp.Message, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dhcpWithin)
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)
	s.tasks.Go("address "+name, func(context.Context) {
		select {
		case <-changed:
			cancel()
		case <-ended:
		}
	})
	return dhcp.AskContext(ctx, name, mac, "ringfence", netip.Addr{})
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// isFirst tells whether a link is the first of those that are up; the static address goes there.
func (s *system) isFirst(name string) bool {
	s.network.mu.Lock()
	defer s.network.mu.Unlock()
	for other, l := range s.network.links {
		if l.Up && other < name {
			return false
		}
	}
	return true
}

// setAddress replaces what this package gave the link before.
func (s *system) setAddress(l netlink.Link, p netip.Prefix, gateway netip.Addr, dns []netip.Addr, how string) error {
	name := l.Attrs().Name
	ipnet := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
	if err := netlink.AddrReplace(l, &netlink.Addr{IPNet: ipnet}); err != nil {
		return fmt.Errorf("address %s: %w", p, err)
	}
	s.network.mu.Lock()
	known := s.network.links[name]
	old := known.Addresses
	known.Addresses, known.How, known.Gateway = []string{p.String()}, how, ""
	if gateway.IsValid() {
		known.Gateway = gateway.String()
	}
	s.network.mu.Unlock()
	for _, o := range old {
		if before, err := netlink.ParseAddr(o); err == nil && o != p.String() {
			_ = netlink.AddrDel(l, before)
		}
	}
	if gateway.IsValid() && !gateway.IsUnspecified() {
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: gateway.AsSlice(), Priority: 100 + l.Attrs().Index}); err != nil {
			s.log.Error("route", "link", name, "err", err)
		}
	}
	if len(dns) > 0 {
		var b strings.Builder
		for _, a := range dns {
			fmt.Fprintf(&b, "nameserver %s\n", a)
		}
		_ = os.WriteFile(resolvConf, []byte(b.String()), 0o644)
	}
	if len(old) == 0 || old[0] != p.String() {
		s.log.Info("address", "link", name, "addr", p.String(), "gateway", gateway, "how", how)
	}
	s.network.once.Do(func() { close(s.network.first) })
	return nil
}

// leave gives links to the daemon, and takes those back that it does not name.
func (n *network) leave(names []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.left = map[string]bool{}
	for _, name := range names {
		n.left[name] = true
	}
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *network) isLeft(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.left[name]
}

// useStatic stops asking for an address and gives the first link this one.
func (s *system) useStatic(a *staticAddress) {
	s.network.mu.Lock()
	s.network.static = a
	close(s.network.changed) // those that wait with an address of DHCP look again
	s.network.changed = make(chan struct{})
	s.network.mu.Unlock()
}

// waitAddress waits a while for the first address and returns one.
func (s *system) waitAddress(within time.Duration) (string, bool) {
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	select {
	case <-s.network.first:
	default:
		select {
		case <-s.network.first:
		case <-timeout.C:
			return "", false
		}
	}
	s.network.mu.Lock()
	defer s.network.mu.Unlock()
	names := make([]string, 0, len(s.network.links))
	for n := range s.network.links {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		for _, a := range s.network.links[n].Addresses {
			if p, err := netip.ParsePrefix(a); err == nil {
				return p.Addr().String(), true
			}
		}
	}
	return "", false
}
