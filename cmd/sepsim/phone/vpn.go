package phone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"ringfence/vpn/anyconnect/phoneclient"
)

// tunnelLost is told when the gateway has gone; what went through the tunnel ends with it.
func (p *Phone) tunnelLost(t *tunnel, err error) {
	p.mu.Lock()
	if p.tunnel != t {
		p.mu.Unlock()
		return
	}
	p.tunnel = nil
	l := p.link
	p.changedLocked()
	p.mu.Unlock()
	if errors.Is(err, phoneclient.ErrRecord) {
		p.refused(StepVPN, refuse(SplitRecord, err, "CSTP"))
	}
	p.event(StepVPN, "tunnel lost", err)
	if l != nil {
		l.close(fmt.Errorf("tunnel lost: %w", err))
	}
	p.tasks.Go("phone tunnel end", func(context.Context) { t.close() }, func(err error) {
		if errors.Is(err, context.Canceled) {
			_ = t.gate.Close() // the phone is being switched off and nobody else will
		}
	})
}

// goOutside opens the VPN when the phone is not at home: the stored configuration has a VPN group with autoNetDetect, and
// its file server does not answer (provisioning §1 step 3). A tunnel that is up stays.
func (p *Phone) goOutside(ctx context.Context) error {
	p.mu.Lock()
	var group *VPNGroup
	if p.config != nil {
		group = p.config.VPN
	}
	up := p.tunnel != nil
	p.mu.Unlock()
	switch {
	case up:
		return nil
	case group == nil && p.opt.Outside:
		return errors.New("outside, and no VPN in the stored configuration")
	case group == nil, !p.opt.Outside && (!group.AutoNetDetect || p.atHome(ctx)):
		return nil
	}
	if p.opt.Outside {
		p.event(StepVPN, "outside: opening the VPN", nil)
	} else {
		p.event(StepVPN, "the file server does not answer: opening the VPN", nil)
	}
	var errs []error
	for _, u := range group.URLs {
		err := p.openVPN(ctx, group, u)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("VPN: %w", errors.Join(errs...))
}

func (p *Phone) openVPN(ctx context.Context, group *VPNGroup, url string) error {
	o := phoneclient.Options{
		URL: url, CertHashes: group.Hashes, HostIDCheck: group.HostIDCheck,
		Auth: phoneclient.AuthMethod(group.AuthMethod), User: p.opt.VPNUser, Password: p.opt.VPNPassword,
		Device: p.opt.Device, Certificate: p.identity(), MTU: group.MTU,
		Timeout: time.Duration(group.FailConnectTime) * time.Second,
		Old:     p.man.maxTLS < tls.VersionTLS12 || p.man.rsaKX, Log: p.log,
		UDP: true, DialUDP: p.dialOutside,
		Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			a, err := p.network.Lookup(ctx, host)
			if err != nil {
				return nil, err
			}
			ap, err := netip.ParseAddrPort(net.JoinHostPort(a.String(), port))
			if err != nil {
				return nil, err
			}
			return p.network.DialTCP(ctx, ap)
		},
	}
	gate, err := phoneclient.Dial(ctx, o)
	switch {
	case err == nil:
	case errors.Is(err, phoneclient.ErrCertHash):
		return p.refused(StepVPN, refuse(VPNCertificate, err, "%s", url))
	case errors.Is(err, phoneclient.ErrRecord):
		return p.refused(StepVPN, refuse(SplitRecord, err, "%s", url))
	case errors.Is(err, phoneclient.ErrLogin), errors.Is(err, phoneclient.ErrAuth), errors.Is(err, phoneclient.ErrRefused),
		errors.Is(err, phoneclient.ErrNoAddress), errors.Is(err, phoneclient.ErrNoMTU):
		return p.refused(StepVPN, refuse(VPNLogin, err, "%s", url))
	default:
		p.event(StepVPN, url, err)
		return err
	}
	t, err := newTunnel(gate, gate.Info().DNS, p.log, p.tunnelLost)
	if err != nil {
		_ = gate.Close()
		return err
	}
	p.mu.Lock()
	p.tunnel = t
	p.changedLocked()
	p.mu.Unlock()
	p.event(StepVPN, fmt.Sprintf("tunnel to %s, address %s, MTU %d", url, gate.Address(), gate.MTU()), nil)
	return nil
}

// dialOutside makes the outer socket of the tunnel's datagrams, from the phone's own address.
func (p *Phone) dialOutside(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	if p.opt.Local.IsValid() {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.opt.Local, 0))
	}
	return d.DialContext(ctx, network, address)
}

// atHome asks whether the file server answers. Phones ping it; a machine may not let an ordinary user do that, so any
// answer of its TFTP or HTTP port counts too.
func (p *Phone) atHome(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*p.opt.Timers.TFTP)
	defer cancel()
	answers := make(chan bool, 2)
	p.tasks.Go("phone detect TFTP", func(context.Context) {
		_, err := tftpGet(ctx, p.network, netip.AddrPortFrom(p.opt.Server, uint16(p.opt.TFTPPort)), "CTL"+p.opt.Device+".tlv", 0, p.opt.Timers.TFTP)
		answers <- err == nil || errors.Is(err, errNotFound)
	})
	p.tasks.Go("phone detect HTTP", func(context.Context) {
		c, err := p.network.DialTCP(ctx, netip.AddrPortFrom(p.opt.Server, uint16(p.opt.HTTPPort)))
		if err == nil {
			c.Close()
		}
		answers <- err == nil
	})
	for range 2 {
		select {
		case ok := <-answers:
			if ok {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// CloseVPN ends the tunnel, as a user does in the VPN menu.
func (p *Phone) CloseVPN() {
	p.mu.Lock()
	t := p.tunnel
	p.tunnel = nil
	p.changedLocked()
	p.mu.Unlock()
	if t != nil {
		t.close()
	}
}

// Tunnel is the phone's address in the VPN; ok is false without one.
func (p *Phone) Tunnel() (addr netip.Addr, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tunnel == nil {
		return netip.Addr{}, false
	}
	return p.tunnel.gate.Address(), true
}
