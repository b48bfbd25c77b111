package host

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ringfence/internal/dhcp"
)

// Times of a lease (RFC 2131, section 4.4.5): asked for again at half of it.
const (
	askTime    = 20 * time.Second
	leaseLeast = time.Minute
	leaseUsual = time.Hour
	carrierGap = 500 * time.Millisecond
)

// askFor has exactly the links of a spec ask DHCP that shall.
func (k *Keeper) askFor(s Spec) {
	want := map[string]bool{}
	for _, l := range s.Links {
		if l.DHCP {
			want[l.Name] = true
		}
	}
	for name, stop := range k.clients {
		if !want[name] {
			stop()
			delete(k.clients, name)
			delete(k.leases, name)
		}
	}
	for name := range want {
		if k.clients[name] != nil || k.tasks == nil {
			continue
		}
		ctx, stop := context.WithCancel(k.tasks.Context())
		k.clients[name] = stop
		k.tasks.Go("dhcp "+name, func(context.Context) { k.client(ctx, name) })
	}
}

// client asks for the address of one link as long as ctx lasts.
func (k *Keeper) client(ctx context.Context, name string) {
	tell := func(n leaseNews) {
		select {
		case k.leased <- n:
		case <-ctx.Done():
		}
	}
	var got lease
	var ends time.Time
	for ctx.Err() == nil {
		l, err := netlink.LinkByName(name)
		if err != nil || l.Attrs().RawFlags&unix.IFF_RUNNING == 0 || len(l.Attrs().HardwareAddr) != 6 {
			pause(ctx, carrierGap)
			continue
		}
		ask, cancel := context.WithTimeout(ctx, askTime)
		m, err := dhcp.AskContext(ask, name, [6]byte(l.Attrs().HardwareAddr), "", got.address.Addr())
		cancel()
		var p netip.Prefix
		if err == nil {
			p, err = m.Prefix()
		}
		if err != nil {
			if got.address.IsValid() && time.Now().After(ends) {
				got = lease{}
				tell(leaseNews{link: name, gone: true})
			}
			pause(ctx, carrierGap)
			continue
		}
		got = lease{address: p, router: m.Router, dns: m.DNS, ntp: m.NTP}
		length := m.Lease
		if length == 0 {
			length = leaseUsual
		}
		ends = time.Now().Add(length)
		tell(leaseNews{link: name, got: got})
		pause(ctx, max(length/2, leaseLeast))
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// lease takes over what a client was given.
func (k *Keeper) lease(ctx context.Context, n leaseNews) {
	if k.clients[n.link] == nil {
		return // not asked for any more
	}
	if n.gone {
		k.log.Warn("the address has run out and no DHCP server answers", "link", n.link)
		delete(k.leases, n.link)
	} else {
		old, had := k.leases[n.link]
		if !had || old.address != n.got.address || old.router != n.got.router {
			k.log.Info("address", "link", n.link, "addr", n.got.address, "gateway", n.got.router)
		}
		k.leases[n.link] = n.got
	}
	k.again(ctx)
}

// TimeServers are those that DHCP has named.
func (k *Keeper) TimeServers(ctx context.Context) (out []string) {
	_ = k.order(ctx, func() {
		for _, l := range k.leases {
			for _, a := range l.ntp {
				if !slices.Contains(out, a.String()) {
					out = append(out, a.String())
				}
			}
		}
	})
	return out
}
