package phone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"ringfence/internal/task"
)

// tunnel is the phone's network outside: a network stack of its own on top of the VPN client. Everything, registration,
// calls and RTP, goes through it (anyconnect §4).
//
// It stands on the stack that wireguard/tun/netstack wraps and not on that wrapper, whose Close closes a channel under the
// feet of the stack's own goroutines.
type tunnel struct {
	gate  gate
	dns   []netip.Addr
	link  *channel.Endpoint
	stack *stack.Stack
	tasks *task.Group
}

// gate is the packet end of a VPN connection.
type gate interface {
	ReadPacket(b []byte) (int, error)
	WritePacket(b []byte) error
	Address() netip.Addr
	MTU() int
	Close() error
}

const tunnelQueue = 512 // packets between stack and gateway

// newTunnel puts a stack on a gate. lost is told once, from a goroutine of the tunnel, when the gate has ended.
func newTunnel(gate gate, dns []netip.Addr, log *slog.Logger, lost func(*tunnel, error)) (*tunnel, error) {
	t := &tunnel{
		gate: gate, dns: dns,
		link: channel.New(tunnelQueue, uint32(gate.MTU()), ""),
		stack: stack.New(stack.Options{
			// The appliance of a demonstration may live at a loopback address, which a stack drops unless told otherwise.
			NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocolWithOptions(ipv4.Options{
				AllowExternalLoopbackTraffic: true,
			})},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
			HandleLocal:        true,
		}),
		tasks: task.NewGroup(context.Background(), log),
	}
	if err := t.stack.CreateNIC(1, t.link); err != nil {
		return nil, fmt.Errorf("network stack of the tunnel: %s", err)
	}
	addr := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddrFrom4(gate.Address().As4()).WithPrefix(),
	}
	if err := t.stack.AddProtocolAddress(1, addr, stack.AddressProperties{}); err != nil {
		return nil, fmt.Errorf("network stack of the tunnel: %s", err)
	}
	t.stack.AddRoute(tcpip.Route{Destination: header.IPv4EmptySubnet, NIC: 1})
	t.tasks.Go("phone tunnel in", func(context.Context) {
		buf := make([]byte, 2048)
		for {
			n, err := gate.ReadPacket(buf)
			if err != nil {
				lost(t, err)
				return
			}
			if buf[0]>>4 != 4 {
				continue
			}
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(buf[:n])})
			t.link.InjectInbound(header.IPv4ProtocolNumber, pkt)
			pkt.DecRef()
		}
	})
	t.tasks.Go("phone tunnel out", func(ctx context.Context) {
		for {
			pkt := t.link.ReadContext(ctx)
			if pkt == nil {
				return
			}
			view := pkt.ToView()
			pkt.DecRef()
			_ = gate.WritePacket(view.AsSlice()) // a dead gateway is noticed by the reader
			view.Release()
		}
	})
	return t, nil
}

// close says goodbye to the gateway and ends the stack. It is called once, by whoever took the tunnel off the phone.
func (t *tunnel) close() {
	_ = t.gate.Close()
	t.tasks.Stop()
	t.stack.Destroy()
	t.link.Close()
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFrom4(a.Addr().As4()), Port: a.Port()}
}

// DialTCP opens a connection from the inner address.
func (t *tunnel) DialTCP(ctx context.Context, remote netip.AddrPort) (net.Conn, error) {
	if !remote.Addr().Is4() {
		return nil, fmt.Errorf("%s: the tunnel has no IPv6", remote)
	}
	c, err := gonet.DialContextTCP(ctx, t.stack, full(remote), ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("through the tunnel to %s: %w", remote, err)
	}
	return c, nil
}

// ListenUDP opens a socket at the inner address.
func (t *tunnel) ListenUDP(local netip.AddrPort) (net.PacketConn, error) {
	at := full(netip.AddrPortFrom(t.gate.Address(), local.Port()))
	c, err := gonet.DialUDP(t.stack, &at, nil, ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("socket in the tunnel: %w", err)
	}
	return c, nil
}

// Local is the inner address.
func (t *tunnel) Local(netip.Addr) (netip.Addr, error) { return t.gate.Address(), nil }

// Lookup asks the resolvers that the gateway has announced.
func (t *tunnel) Lookup(ctx context.Context, host string) (netip.Addr, error) {
	r := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		if len(t.dns) == 0 || !t.dns[0].Is4() {
			return nil, errors.New("the gateway has announced no resolver")
		}
		to := full(netip.AddrPortFrom(t.dns[0], 53))
		return gonet.DialUDP(t.stack, nil, &to, ipv4.ProtocolNumber)
	}}
	return lookup(ctx, host, r.LookupHost)
}
