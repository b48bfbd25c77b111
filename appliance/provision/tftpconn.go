package provision

import (
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// tftpConn is the socket of the well-known port. It tells to which local address a packet was sent and answers from there:
// on a machine with several addresses the routing table would choose another one.
type tftpConn struct {
	udp   *net.UDPConn
	v4    *ipv4.PacketConn // one of these two
	v6    *ipv6.PacketConn
	bound netip.Addr // invalid if bound to all
}

func listenTFTP(address string) (*tftpConn, error) {
	addr, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		return nil, err
	}
	network := "udp"
	if addr.IP.To4() != nil {
		network = "udp4" // "udp" would make a socket of both kinds of 0.0.0.0
	}
	udp, err := net.ListenUDP(network, addr)
	if err != nil {
		return nil, err
	}
	c := &tftpConn{udp: udp}
	local := udp.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	if !local.IsUnspecified() {
		c.bound = local
	}
	if network == "udp4" {
		c.v4 = ipv4.NewPacketConn(udp)
		err = c.v4.SetControlMessage(ipv4.FlagDst, true)
	} else {
		c.v6 = ipv6.NewPacketConn(udp)
		err = c.v6.SetControlMessage(ipv6.FlagDst, true)
	}
	if err != nil {
		udp.Close()
		return nil, err
	}
	return c, nil
}

// read returns a packet with the local address it was sent to and its sender.
func (c *tftpConn) read(b []byte) (n int, local netip.Addr, peer netip.AddrPort, err error) {
	var dst net.IP
	var from net.Addr
	if c.v4 != nil {
		var cm *ipv4.ControlMessage
		if n, cm, from, err = c.v4.ReadFrom(b); cm != nil {
			dst = cm.Dst
		}
	} else {
		var cm *ipv6.ControlMessage
		if n, cm, from, err = c.v6.ReadFrom(b); cm != nil {
			dst = cm.Dst
		}
	}
	if err != nil {
		return 0, netip.Addr{}, netip.AddrPort{}, err
	}
	local = c.bound
	if a, ok := netip.AddrFromSlice(dst); ok && !local.IsValid() {
		local = a.Unmap()
	}
	if u, ok := from.(*net.UDPAddr); ok {
		p := u.AddrPort()
		peer = netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return n, local, peer, nil
}

// write sends from a local address. An answer that cannot be sent is lost like any packet.
func (c *tftpConn) write(b []byte, local netip.Addr, peer netip.AddrPort) {
	to := net.UDPAddrFromAddrPort(peer)
	switch {
	case c.v4 != nil && local.Is4():
		_, _ = c.v4.WriteTo(b, &ipv4.ControlMessage{Src: local.AsSlice()}, to)
	case c.v6 != nil && local.Is6() && !local.Is4In6():
		_, _ = c.v6.WriteTo(b, &ipv6.ControlMessage{Src: local.AsSlice()}, to)
	default: // IPv4 on a socket of both kinds: no control message says its source
		out, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0)))
		if err != nil {
			return
		}
		defer out.Close()
		_, _ = out.WriteToUDPAddrPort(b, peer)
	}
}
