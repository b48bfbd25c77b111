package phone

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// Network is where the phone's packets go: the machine's own stack in the office, the tunnel outside.
type Network interface {
	// DialTCP opens a connection from the phone's address.
	DialTCP(ctx context.Context, remote netip.AddrPort) (net.Conn, error)
	// ListenUDP opens a socket at local; port 0 lets the network choose.
	ListenUDP(local netip.AddrPort) (net.PacketConn, error)
	// Local is the phone's address towards remote.
	Local(remote netip.Addr) (netip.Addr, error)
	// Lookup resolves a name of the device file.
	Lookup(ctx context.Context, host string) (netip.Addr, error)
}

// hostNetwork is the machine's own stack.
type hostNetwork struct {
	local netip.Addr // unset: the address of the route
}

func (h hostNetwork) DialTCP(ctx context.Context, remote netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	if h.local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(h.local, 0))
	}
	return d.DialContext(ctx, "tcp", remote.String())
}

func (h hostNetwork) ListenUDP(local netip.AddrPort) (net.PacketConn, error) {
	return net.ListenUDP("udp", net.UDPAddrFromAddrPort(local))
}

func (h hostNetwork) Local(remote netip.Addr) (netip.Addr, error) {
	if h.local.IsValid() {
		return h.local, nil
	}
	// Connecting a datagram socket sends nothing and makes the kernel choose the source address.
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(remote, 9)))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find own address: %w", err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

func (h hostNetwork) Lookup(ctx context.Context, host string) (netip.Addr, error) {
	return lookup(ctx, host, net.DefaultResolver.LookupHost)
}

func lookup(ctx context.Context, host string, resolve func(context.Context, string) ([]string, error)) (netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap(), nil
	}
	names, err := resolve(ctx, host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("look up %s: %w", host, err)
	}
	for _, n := range names {
		if a, err := netip.ParseAddr(n); err == nil && a.Unmap().Is4() {
			return a.Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("look up %s: no IPv4 address", host)
}

func addrPortOf(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		return netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
	case *net.UDPAddr:
		return netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
	}
	p, _ := netip.ParseAddrPort(a.String())
	return p
}
