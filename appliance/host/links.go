package host

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// madeHere is the alias of links that this package made, by which it knows them again.
	madeHere = "ringfence"
	// routeProtocol marks routes of this package (rtnetlink(7), rtm_protocol; the values above 4 are for programs to choose).
	routeProtocol = 187

	metricStatic = 50
	metricDHCP   = 100 // and the index of the link, so that the first port wins
)

// machine is the kernel, and the few files around it.
type machine struct {
	resolv  string // resolv.conf
	sysctl  string // /proc/sys
	setName func(string) error
	log     *slog.Logger
}

// lease is what DHCP gave a link.
type lease struct {
	address netip.Prefix
	router  netip.Addr
	dns     []netip.Addr
	ntp     []netip.Addr
}

// lacks tells what the spec names and the machine does not have: the path within node.host, and a sentence.
func (m *machine) lacks(s Spec) (path, why string) {
	all, err := netlink.LinkList()
	if err != nil {
		return "interfaces", err.Error()
	}
	has := map[string]bool{}
	var ports []string
	for _, l := range all {
		a := l.Attrs()
		has[a.Name] = true
		if a.Flags&net.FlagLoopback == 0 && a.Alias != madeHere {
			ports = append(ports, a.Name)
		}
	}
	made := map[string]bool{}
	for _, l := range s.Links {
		made[l.Name] = l.made()
	}
	there := "this machine has " + strings.Join(ports, ", ")
	if len(ports) == 0 {
		there = "this machine has no network interface"
	}
	for i, l := range s.Links {
		if !l.made() && !has[l.Name] {
			return fmt.Sprintf("interfaces[%d].name", i), fmt.Sprintf("there is no interface %s; %s", l.Name, there)
		}
		if l.VLAN > 0 && !has[l.On] && !made[l.On] {
			return fmt.Sprintf("interfaces[%d].on", i), fmt.Sprintf("there is no interface %s; %s", l.On, there)
		}
		for j, p := range l.Bond {
			if !has[p] {
				return fmt.Sprintf("interfaces[%d].bond[%d]", i, j), fmt.Sprintf("there is no interface %s; %s", p, there)
			}
		}
	}
	return "", ""
}

// reconcile brings the machine from what it is to what it shall be. It changes nothing that is right already.
func (m *machine) reconcile(s Spec, leases map[string]lease) error {
	if err := m.dropMade(s); err != nil {
		return err
	}
	for _, l := range s.Links {
		if len(l.Bond) > 0 {
			if err := m.bond(l); err != nil {
				return err
			}
		}
	}
	for _, l := range s.Links {
		if l.VLAN > 0 {
			if err := m.vlan(l); err != nil {
				return err
			}
		}
	}
	for _, l := range s.Links {
		if err := m.link(l, leases); err != nil {
			return fmt.Errorf("interface %s: %w", l.Name, rights(err))
		}
	}
	if err := m.routes(s, leases); err != nil {
		return rights(err)
	}
	if err := m.names(s, leases); err != nil {
		return err
	}
	if s.HostName != "" {
		if now, _ := os.Hostname(); now != s.HostName {
			if err := m.setName(s.HostName); err != nil {
				return fmt.Errorf("host name %s: %w", s.HostName, rights(err))
			}
		}
	}
	return nil
}

// rights says what a refusal of the kernel means.
func rights(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) {
		return fmt.Errorf("%w; the daemon needs CAP_NET_ADMIN, and a service of systemd ProtectKernelTunables=no (docs/appliance.md)", err)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w; this kernel has no such kind of interface", err)
	}
	return err
}

// dropMade removes VLANs and bonds of ours that are not declared any more, or otherwise.
func (m *machine) dropMade(s Spec) error {
	all, err := netlink.LinkList()
	if err != nil {
		return err
	}
	index := map[string]int{}
	for _, l := range all {
		index[l.Attrs().Name] = l.Attrs().Index
	}
	for _, kind := range []string{"vlan", "bond"} {
		for _, l := range all {
			if l.Type() != kind || l.Attrs().Alias != madeHere {
				continue
			}
			i := slices.IndexFunc(s.Links, func(x Link) bool { return x.Name == l.Attrs().Name })
			if i >= 0 {
				switch x := l.(type) {
				case *netlink.Vlan:
					if x.VlanId == s.Links[i].VLAN && l.Attrs().ParentIndex == index[s.Links[i].On] {
						continue
					}
				case *netlink.Bond:
					if x.Mode.String() == s.Links[i].Mode {
						continue
					}
				}
			}
			if err := netlink.LinkDel(l); err != nil {
				return fmt.Errorf("remove interface %s: %w", l.Attrs().Name, rights(err))
			}
		}
	}
	return nil
}

// add makes a link with our alias.
func (m *machine) add(l netlink.Link) error {
	name := l.Attrs().Name
	if err := netlink.LinkAdd(l); err != nil {
		return fmt.Errorf("make interface %s: %w", name, rights(err))
	}
	made, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetAlias(made, madeHere)
}

func (m *machine) bond(l Link) error {
	b, err := netlink.LinkByName(l.Name)
	if err != nil {
		n := netlink.NewLinkBond(netlink.LinkAttrs{Name: l.Name})
		n.Mode = netlink.StringToBondMode(l.Mode)
		n.Miimon = 100 // a port without carrier is noticed within that many milliseconds
		if err := m.add(n); err != nil {
			return err
		}
		if b, err = netlink.LinkByName(l.Name); err != nil {
			return err
		}
	}
	all, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, p := range all {
		name, wanted := p.Attrs().Name, slices.Contains(l.Bond, p.Attrs().Name)
		switch {
		case wanted && p.Attrs().MasterIndex != b.Attrs().Index:
			err = errors.Join(netlink.LinkSetDown(p), netlink.LinkSetMaster(p, b)) // a port joins while it is down
			if err == nil {
				err = errors.Join(bare(p), netlink.LinkSetUp(p))
			}
		case !wanted && p.Attrs().MasterIndex == b.Attrs().Index:
			err = netlink.LinkSetNoMaster(p)
		}
		if err != nil {
			return fmt.Errorf("bond %s: port %s: %w", l.Name, name, rights(err))
		}
	}
	return nil
}

// bare takes the addresses of a port away, which stay when it joins a bond, with routes that would lead past the bond.
func bare(p netlink.Link) error {
	have, err := netlink.AddrList(p, netlink.FAMILY_ALL)
	for _, a := range have {
		if e := netlink.AddrDel(p, &a); e != nil && !errors.Is(e, unix.EADDRNOTAVAIL) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func (m *machine) vlan(l Link) error {
	if _, err := netlink.LinkByName(l.Name); err == nil {
		return nil
	}
	on, err := netlink.LinkByName(l.On)
	if err != nil {
		return fmt.Errorf("VLAN %s: %w", l.Name, err)
	}
	if on.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(on); err != nil {
			return fmt.Errorf("interface %s: %w", l.On, rights(err))
		}
	}
	return m.add(&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: l.Name, ParentIndex: on.Attrs().Index}, VlanId: l.VLAN})
}

// link gives one link what it shall have.
func (m *machine) link(l Link, leases map[string]lease) error {
	k, err := netlink.LinkByName(l.Name)
	if err != nil {
		return err
	}
	if l.MTU > 0 && k.Attrs().MTU != l.MTU {
		if err := netlink.LinkSetMTU(k, l.MTU); err != nil {
			return fmt.Errorf("MTU %d: %w", l.MTU, err)
		}
	}
	if err := m.ipv6(l); err != nil {
		return err
	}
	if k.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(k); err != nil {
			return err
		}
	}
	want := slices.Clone(l.Addresses)
	got, leased := leases[l.Name]
	leased = leased && l.DHCP
	if leased {
		want = append(want, got.address)
	}
	for range 2 { // removing an address takes along those that were added beside it in its network
		removed, err := m.addresses(k, l, want, leased)
		if err != nil || !removed {
			return err
		}
	}
	return nil
}

// addresses adds what is wanted, then removes what is not.
func (m *machine) addresses(k netlink.Link, l Link, want []netip.Prefix, leased bool) (removed bool, err error) {
	have, err := netlink.AddrList(k, netlink.FAMILY_ALL)
	if err != nil {
		return false, err
	}
	for _, p := range want {
		if slices.ContainsFunc(have, func(a netlink.Addr) bool { return prefixOf(a) == p && permanent(a) }) {
			continue
		}
		if err := netlink.AddrReplace(k, addrOf(p)); err != nil {
			return false, fmt.Errorf("address %s: %w", p, err)
		}
	}
	for _, a := range have {
		p := prefixOf(a)
		switch {
		case slices.Contains(want, p), a.IP.IsLinkLocalUnicast() && p.Addr().Is6():
			continue
		case p.Addr().Is4() && l.DHCP && !leased:
			continue // what is there stays until DHCP answers
		case p.Addr().Is6() && l.IPv6 == "auto" && !permanent(a):
			continue // from a router advertisement
		}
		if err := netlink.AddrDel(k, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return false, fmt.Errorf("remove address %s: %w", p, err)
		}
		removed = true
	}
	return removed, nil
}

func permanent(a netlink.Addr) bool { return a.Flags&unix.IFA_F_PERMANENT != 0 }

func prefixOf(a netlink.Addr) netip.Prefix {
	ip, _ := netip.AddrFromSlice(a.IP)
	bits, _ := a.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), bits)
}

func addrOf(p netip.Prefix) *netlink.Addr { return &netlink.Addr{IPNet: netOf(p)} }

func netOf(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// ipv6 says to the kernel where IPv6 of a link comes from (Linux, ip-sysctl.rst). accept_ra=2 takes advertisements also while packets are forwarded.
func (m *machine) ipv6(l Link) error {
	dir := filepath.Join("net/ipv6/conf", l.Name)
	if _, err := os.Stat(filepath.Join(m.sysctl, dir)); err != nil {
		if slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
			return errors.New("this kernel has no IPv6")
		}
		return nil
	}
	set := map[string][2]string{"auto": {"0", "2"}, "static": {"0", "0"}, "off": {"1", "0"}}[l.IPv6]
	return errors.Join(m.set(dir+"/disable_ipv6", set[0]), m.set(dir+"/accept_ra", set[1]))
}

// set writes a value below /proc/sys unless it is there already.
func (m *machine) set(name, value string) error {
	path := filepath.Join(m.sysctl, name)
	if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == value {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0)
}

// routes gives the links of the spec their routes and takes others away, but for those of the kernel and of router advertisements.
func (m *machine) routes(s Spec, leases map[string]lease) error {
	index := map[string]int{}
	for _, l := range s.Links {
		k, err := netlink.LinkByName(l.Name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", l.Name, err)
		}
		index[l.Name] = k.Attrs().Index
	}
	var want []netlink.Route
	add := func(to netip.Prefix, via netip.Addr, on string, metric int) {
		r := netlink.Route{LinkIndex: index[on], Priority: metric, Protocol: routeProtocol, Dst: netOf(to), Table: unix.RT_TABLE_MAIN}
		if via.IsValid() {
			r.Gw = via.AsSlice()
		} else {
			r.Scope = netlink.SCOPE_LINK
		}
		want = append(want, r)
	}
	for _, l := range s.Links {
		if l.Gateway.IsValid() {
			add(netip.PrefixFrom(netip.IPv4Unspecified(), 0), l.Gateway, l.Name, metricStatic)
		}
		if l.Gateway6.IsValid() {
			add(netip.PrefixFrom(netip.IPv6Unspecified(), 0), l.Gateway6, l.Name, metricStatic)
		}
		if got, ok := leases[l.Name]; ok && l.DHCP && got.router.IsValid() && !got.router.IsUnspecified() {
			add(netip.PrefixFrom(netip.IPv4Unspecified(), 0), got.router, l.Name, metricDHCP+index[l.Name])
		}
	}
	for _, r := range s.Routes {
		on := r.On
		if on == "" {
			on = s.reaching(r.Via, leases)
		}
		if on == "" {
			return fmt.Errorf("route %s: no interface reaches %s", r.To, r.Via)
		}
		add(r.To, r.Via, on, metricStatic)
	}
	for _, l := range s.Links {
		have, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: index[l.Name], Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("routes of %s: %w", l.Name, err)
		}
		for _, r := range want {
			if r.LinkIndex == index[l.Name] && !slices.ContainsFunc(have, func(h netlink.Route) bool { return sameRoute(h, r) }) {
				if err := netlink.RouteReplace(&r); err != nil {
					return fmt.Errorf("route %s via %s on %s: %w", r.Dst, r.Gw, l.Name, err)
				}
			}
		}
		_, leased := leases[l.Name]
		for _, h := range have {
			keep := h.Protocol == unix.RTPROT_KERNEL || h.Protocol == unix.RTPROT_RA && l.IPv6 == "auto" ||
				slices.ContainsFunc(want, func(r netlink.Route) bool { return sameRoute(h, r) }) ||
				l.DHCP && !leased && h.Family == unix.AF_INET // goes when DHCP answers
			if !keep {
				if err := netlink.RouteDel(&h); err != nil && !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("remove route %s on %s: %w", h.Dst, l.Name, err)
				}
			}
		}
	}
	return nil
}

// reaching is the link with an address in the router's network.
func (s Spec) reaching(via netip.Addr, leases map[string]lease) string {
	for _, l := range s.Links {
		if slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Contains(via) }) || leases[l.Name].address.IsValid() && leases[l.Name].address.Contains(via) {
			return l.Name
		}
	}
	return ""
}

func sameRoute(a, b netlink.Route) bool {
	dst := func(r netlink.Route) string {
		if r.Dst == nil {
			return "default"
		}
		if ones, _ := r.Dst.Mask.Size(); ones == 0 {
			return "default"
		}
		return r.Dst.String()
	}
	return a.LinkIndex == b.LinkIndex && a.Priority == b.Priority && a.Protocol == b.Protocol && a.Gw.Equal(b.Gw) && dst(a) == dst(b) && (a.Dst == nil || b.Dst == nil || len(a.Dst.IP) == len(b.Dst.IP))
}

// names writes resolv.conf where servers for names are declared or come by DHCP.
func (m *machine) names(s Spec, leases map[string]lease) error {
	servers := slices.Clone(s.DNS)
	if len(servers) == 0 {
		for _, l := range s.Links {
			if l.DHCP {
				servers = append(servers, leases[l.Name].dns...)
			}
		}
	}
	if len(servers) == 0 && len(s.Search) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("# Written by ringfence (node.host.dns).\n")
	if len(s.Search) > 0 {
		b.WriteString("search " + strings.Join(s.Search, " ") + "\n")
	}
	for _, a := range servers[:min(len(servers), 3)] { // resolv.conf(5), MAXNS
		b.WriteString("nameserver " + a.String() + "\n")
	}
	if now, err := os.ReadFile(m.resolv); err == nil && string(now) == b.String() {
		return nil
	}
	if err := os.WriteFile(m.resolv, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("servers for names: %w; leave node.host.dns out where the operating system keeps %s", err, m.resolv)
	}
	return nil
}
