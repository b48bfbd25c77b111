package wireguard

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/ipv6"
	"golang.zx2c4.com/wireguard/conn"
)

// burst is how many datagrams move with one system call.
const burst = 64

// socket is the outer socket. The library's own listens on every address of the machine; the administrator may have named one.
type socket struct {
	udp *net.UDPConn
	pc  *ipv6.PacketConn // for IPv4 sockets as well: the batch calls know no families
	in  []ipv6.Message
}

func newSocket(listen string) (*socket, error) {
	a, err := net.ResolveUDPAddr("udp", listen)
	if err != nil {
		return nil, err
	}
	c, err := net.ListenUDP("udp", a)
	if err != nil {
		return nil, err
	}
	return &socket{udp: c, pc: ipv6.NewPacketConn(c), in: make([]ipv6.Message, burst)}, nil
}

// Open implements conn.Bind. The socket is bound already.
func (s *socket) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	if err := s.udp.SetReadDeadline(time.Time{}); err != nil {
		return nil, 0, err
	}
	return []conn.ReceiveFunc{s.receive}, uint16(s.udp.LocalAddr().(*net.UDPAddr).Port), nil
}

func (s *socket) receive(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	n := min(len(packets), len(s.in))
	for i := range n {
		s.in[i].Buffers = [][]byte{packets[i]}
	}
	got, err := s.pc.ReadBatch(s.in[:n], 0)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = net.ErrClosed
		}
		return 0, err
	}
	for i := range got {
		sizes[i] = s.in[i].N
		if a, ok := s.in[i].Addr.(*net.UDPAddr); ok {
			ap := a.AddrPort()
			eps[i] = endpoint{netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())}
		} else {
			sizes[i] = 0
		}
	}
	return got, nil
}

// Close implements conn.Bind: it ends the receivers. The library closes before it opens, so that the socket itself stays until the
// server ends.
func (s *socket) Close() error { return s.udp.SetReadDeadline(time.Unix(1, 0)) }

// SetMark implements conn.Bind.
func (s *socket) SetMark(uint32) error { return nil }

// Send implements conn.Bind.
func (s *socket) Send(bufs [][]byte, ep conn.Endpoint) error {
	e, ok := ep.(endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	to := net.UDPAddrFromAddrPort(e.AddrPort)
	out := make([]ipv6.Message, len(bufs))
	for i, b := range bufs {
		out[i] = ipv6.Message{Buffers: [][]byte{b}, Addr: to}
	}
	for len(out) > 0 {
		n, err := s.pc.WriteBatch(out, 0)
		if err != nil {
			return err
		}
		out = out[n:]
	}
	return nil
}

// ParseEndpoint implements conn.Bind.
func (s *socket) ParseEndpoint(text string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(text)
	return endpoint{a}, err
}

// BatchSize implements conn.Bind.
func (s *socket) BatchSize() int { return burst }

// endpoint is a peer's outer address.
type endpoint struct{ netip.AddrPort }

func (endpoint) ClearSrc()             {}
func (endpoint) SrcToString() string   { return "" }
func (endpoint) SrcIP() netip.Addr     { return netip.Addr{} }
func (e endpoint) DstToString() string { return e.AddrPort.String() }
func (e endpoint) DstIP() netip.Addr   { return e.AddrPort.Addr() }

func (e endpoint) DstToBytes() []byte {
	b, err := e.AddrPort.MarshalBinary()
	if err != nil {
		return nil
	}
	return b
}
