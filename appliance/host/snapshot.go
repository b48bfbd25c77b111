package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// snapshot is what was there before: of links that no confirmed configuration describes, it is the only thing that can bring them back.
type snapshot struct {
	Links    []linkBefore  `json:"links,omitempty"`
	Routes   []routeBefore `json:"routes,omitempty"`
	Resolv   *string       `json:"resolv,omitempty"` // content
	HostName string        `json:"host_name,omitempty"`
}

type linkBefore struct {
	Name      string            `json:"name"`
	Up        bool              `json:"up"`
	MTU       int               `json:"mtu"`
	Master    string            `json:"master,omitempty"`
	Addresses []addressBefore   `json:"addresses,omitempty"`
	Sysctl    map[string]string `json:"sysctl,omitempty"`
}

type addressBefore struct {
	Prefix    netip.Prefix `json:"prefix"`
	Valid     int          `json:"valid,omitempty"` // seconds; 0 is for ever
	Preferred int          `json:"preferred,omitempty"`
}

type routeBefore struct {
	On       string       `json:"on"`
	To       netip.Prefix `json:"to"`
	Via      netip.Addr   `json:"via,omitzero"`
	Source   netip.Addr   `json:"source,omitzero"`
	Metric   int          `json:"metric,omitempty"`
	Protocol int          `json:"protocol"`
	Scope    int          `json:"scope"`
}

// sysctls of a link that this package changes.
var linkSysctls = []string{"disable_ipv6", "accept_ra"}

// snapshot looks at the links named, and at the files.
func (m *machine) snapshot(names []string) (*snapshot, error) {
	s := &snapshot{}
	all, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	byIndex := map[int]string{}
	for _, l := range all {
		byIndex[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range all {
		a := l.Attrs()
		if !slices.Contains(names, a.Name) {
			continue
		}
		b := linkBefore{Name: a.Name, Up: a.Flags&net.FlagUp != 0, MTU: a.MTU, Master: byIndex[a.MasterIndex], Sysctl: map[string]string{}}
		for _, key := range linkSysctls {
			name := filepath.Join("net/ipv6/conf", a.Name, key)
			if v, err := os.ReadFile(filepath.Join(m.sysctl, name)); err == nil {
				b.Sysctl[name] = strings.TrimSpace(string(v))
			}
		}
		addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, x := range addresses {
			before := addressBefore{Prefix: prefixOf(x)}
			if !permanent(x) {
				before.Valid, before.Preferred = x.ValidLft, x.PreferedLft
			}
			if p := before.Prefix.Addr(); !p.Is6() || !p.IsLinkLocalUnicast() {
				b.Addresses = append(b.Addresses, before)
			}
		}
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: a.Index, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if r.Protocol != unix.RTPROT_KERNEL && r.Protocol != unix.RTPROT_RA {
				s.Routes = append(s.Routes, routeThere(r, a.Name))
			}
		}
		s.Links = append(s.Links, b)
	}
	if b, err := os.ReadFile(m.resolv); err == nil {
		text := string(b)
		s.Resolv = &text
	}
	s.HostName, _ = os.Hostname()
	return s, nil
}

func routeThere(r netlink.Route, on string) routeBefore {
	b := routeBefore{On: on, Metric: r.Priority, Protocol: int(r.Protocol), Scope: int(r.Scope)}
	if via, ok := netip.AddrFromSlice(r.Gw); ok {
		b.Via = via.Unmap()
	}
	if src, ok := netip.AddrFromSlice(r.Src); ok {
		b.Source = src.Unmap()
	}
	b.To = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if r.Family == unix.AF_INET6 {
		b.To = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	if r.Dst != nil {
		if to, ok := netip.AddrFromSlice(r.Dst.IP); ok {
			bits, _ := r.Dst.Mask.Size()
			b.To = netip.PrefixFrom(to.Unmap(), bits)
		}
	}
	return b
}

// restore brings the links of a snapshot back. It goes on over faults, since half a way back is better than none.
func (m *machine) restore(s *snapshot) error {
	var errs []error
	fault := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("bring back %s: %w", what, err))
		}
	}
	for _, b := range s.Links {
		l, err := netlink.LinkByName(b.Name)
		if err != nil {
			fault(b.Name, err)
			continue
		}
		if b.Master == "" && l.Attrs().MasterIndex != 0 {
			fault(b.Name, netlink.LinkSetNoMaster(l))
		} else if master, err := netlink.LinkByName(b.Master); b.Master != "" && err == nil && master.Attrs().Index != l.Attrs().MasterIndex {
			fault(b.Name, netlink.LinkSetMaster(l, master))
		}
		if l.Attrs().MTU != b.MTU {
			fault(b.Name, netlink.LinkSetMTU(l, b.MTU))
		}
		for name, v := range b.Sysctl {
			fault(name, m.set(name, v))
		}
		if b.Up {
			fault(b.Name, netlink.LinkSetUp(l))
		}
		fault(b.Name, m.restoreAddresses(l, b))
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: l.Attrs().Index, Protocol: routeProtocol}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
		fault(b.Name, err)
		for _, r := range routes {
			fault("the routes of "+b.Name, netlink.RouteDel(&r))
		}
		for _, r := range s.Routes {
			if r.On == b.Name {
				fault("route "+r.To.String(), restoreRoute(r, l.Attrs().Index))
			}
		}
		if !b.Up {
			fault(b.Name, netlink.LinkSetDown(l))
		}
	}
	if s.Resolv != nil {
		if now, err := os.ReadFile(m.resolv); err != nil || string(now) != *s.Resolv {
			fault(m.resolv, os.WriteFile(m.resolv, []byte(*s.Resolv), 0o644))
		}
	}
	if now, _ := os.Hostname(); s.HostName != "" && now != s.HostName {
		fault("the host name", m.setName(s.HostName))
	}
	return errors.Join(errs...)
}

func (m *machine) restoreAddresses(l netlink.Link, b linkBefore) error {
	have, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, h := range have {
		p := prefixOf(h)
		if !slices.ContainsFunc(b.Addresses, func(w addressBefore) bool { return w.Prefix == p }) && (!p.Addr().Is6() || !p.Addr().IsLinkLocalUnicast()) {
			err = errors.Join(err, netlink.AddrDel(l, &h))
		}
	}
	if have, e := netlink.AddrList(l, netlink.FAMILY_ALL); e == nil { // some went along with others
		for _, w := range b.Addresses {
			a := addrOf(w.Prefix)
			a.ValidLft, a.PreferedLft = w.Valid, w.Preferred
			if !slices.ContainsFunc(have, func(h netlink.Addr) bool { return prefixOf(h) == w.Prefix }) {
				err = errors.Join(err, netlink.AddrReplace(l, a))
			}
		}
	}
	return err
}

func restoreRoute(r routeBefore, index int) error {
	n := netlink.Route{LinkIndex: index, Dst: netOf(r.To), Priority: r.Metric, Protocol: netlink.RouteProtocol(r.Protocol), Scope: netlink.Scope(r.Scope), Table: unix.RT_TABLE_MAIN}
	if r.Via.IsValid() {
		n.Gw = r.Via.AsSlice()
	}
	if r.Source.IsValid() {
		n.Src = r.Source.AsSlice()
	}
	return netlink.RouteReplace(&n)
}
