// Package tunnel is the inner side of the VPN: one TUN device for all sessions (AnyConnect page §11). Packets that the kernel
// routes into the device go to the session that has their destination address; what sessions receive is written to it in
// batches.
//
// The device's addresses, routes and state are set through netlink. The package filters nothing: sessions judge their packets.
package tunnel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNoRights says that this process may not make or configure a TUN device.
var ErrNoRights = errors.New("no right to make a TUN device (needs /dev/net/tun and CAP_NET_ADMIN)")

// Output is the side of a TUN device that packets are written to.
type Output interface {
	// Write sends the packets bufs[i][offset:]. It may use the offset bytes in front, and the capacity behind.
	Write(bufs [][]byte, offset int) (int, error)
	// BatchSize is how many packets one look or read may bring.
	BatchSize() int
	Close() error
}

// Device is a whole TUN device for those who have a goroutine for each; tests stand in. Wireguard's tun.Device satisfies it too.
type Device interface {
	Output
	// Read fills packets into bufs from offset on and reports their sizes. It waits for the first.
	Read(bufs [][]byte, sizes []int, offset int) (n int, err error)
}

// pollable is a device that is looked at when its descriptor says so, or at any other time.
type pollable interface {
	FD() int
	// Look is Read without waiting; more says that there may be other packets. os.ErrClosed after Close.
	Look(bufs [][]byte, sizes []int, offset int) (n int, more bool, err error)
}

// Network is one address range behind the device.
type Network struct {
	Address netip.Prefix // the appliance's own address with the pool's length
	MTU     int          // of the sessions in it
}

// Create makes the TUN device, gives it the addresses and takes it up.
func Create(name string, nets []Network) (Output, error) {
	mtu := 576
	for _, n := range nets {
		mtu = max(mtu, n.MTU)
	}
	dev, err := openTUN(name)
	if err != nil {
		return nil, fmt.Errorf("TUN device %s: %w", name, rights(err))
	}
	name = dev.name
	if err := setMTU(name, mtu); err != nil {
		dev.Close()
		return nil, err
	}
	if err := Configure(name, nets); err != nil {
		dev.Close()
		return nil, err
	}
	return dev, nil
}

const clone = "/dev/net/tun"

// rights marks errors that come of missing rights.
func rights(err error) error {
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w: %w", ErrNoRights, err)
	}
	return err
}

// setMTU also bounds what the kernel joins, so that it can be cut into the buffers of one read.
func setMTU(name string, mtu int) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetMTU(link, mtu)
	}
	if err == nil {
		err = netlink.LinkSetGSOMaxSegs(link, maxSegments)
	}
	if err != nil {
		return fmt.Errorf("MTU of %s: %w", name, rights(err))
	}
	return nil
}

// Configure sets the device's addresses to those of nets, adding and removing, and takes it up. The route of each network
// carries its MTU, so that the kernel itself makes packets that fit its sessions.
func Configure(name string, nets []Network) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("TUN device %s: %w", name, rights(err))
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("take up %s: %w", name, rights(err))
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", name, err)
	}
	want := make([]string, len(nets))
	for i, n := range nets {
		want[i] = n.Address.String()
	}
	for _, a := range have {
		if a.IPNet != nil && !a.IP.IsLinkLocalUnicast() && !slices.Contains(want, a.IPNet.String()) {
			if err := netlink.AddrDel(link, &a); err != nil {
				return fmt.Errorf("remove %v from %s: %w", a.IPNet, name, rights(err))
			}
		}
	}
	for i, n := range nets {
		a, err := netlink.ParseAddr(want[i])
		if err != nil {
			return fmt.Errorf("address %s: %w", want[i], err)
		}
		a.Flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
		if err := netlink.AddrReplace(link, a); err != nil {
			return fmt.Errorf("give %s the address %s: %w", name, want[i], rights(err))
		}
		dst, err := network(n.Address)
		if err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, MTU: n.MTU, Src: a.IP}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("route %v to %s: %w", dst, name, rights(err))
		}
	}
	return nil
}

// network is the network of p as netlink wants it.
func network(p netip.Prefix) (*net.IPNet, error) {
	_, n, err := net.ParseCIDR(p.Masked().String())
	if err != nil {
		return nil, fmt.Errorf("network %v: %w", p, err)
	}
	return n, nil
}
