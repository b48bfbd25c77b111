package appliance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"ringfence/appliance/supervise"
	"ringfence/config"
	"ringfence/internal/task"
	"ringfence/pki"
	"ringfence/vpn"
	"ringfence/vpn/policy"
	"ringfence/vpn/totp"
)

// vpnService is the gateway. Without the right to make a TUN device the daemon goes on without it and says so: everything
// inside the house works.
func (a *appliance) vpnService(note func(device, step, text string, failed bool)) supervise.Service {
	node := a.doc().Node
	cert := a.roles.certificate(pki.RoleVPN)
	revoked := newRevocations(a.doc().VPN.UserCRLs, a.userRoots, a.log)
	people := &people{doc: a.doc, state: a.store, roots: a.userRoots, revoked: revoked, log: a.log}
	return supervise.Service{
		Name: "vpn", Required: true,
		Start: func(ctx context.Context) error {
			o := vpn.Options{
				Log: a.log, Listen: node.Listen.VPN.String(), TUN: node.Tunnel.Device, Policies: vpn.PoliciesOf(a.doc().VPN),
				Own: addresses(node.Address), Services: telephony(node), State: a.store, Note: note, Legacy: node.Listen.Legacy("vpn"),
				Certificate: func() *tls.Certificate {
					c, err := cert()
					if err != nil {
						a.log.Error("VPN certificate", "err", err)
					}
					return c
				},
				VerifyDevice: a.roles.device,
				PolicyOf: func(device string) (string, bool) {
					p, ok := a.doc().Phone(device)
					if !ok || p.VPN == "" {
						return "", false
					}
					return p.VPN, true
				},
				VerifyUser: people.certificate, CheckPassword: a.passwords.vpn, UserOf: a.passwords.vpnOwner, MayUse: people.mayUse,
				CheckCode: people.code, MaxSessions: a.doc().VPN.MaxSessions,
			}
			if err := a.wireguardOptions(ctx, &o); err != nil {
				return err
			}
			g, err := vpn.New(o)
			if errors.Is(err, vpn.ErrNoRights) {
				a.noVPN = err.Error()
				a.log.Error("no VPN", "err", err)
				return nil
			}
			if err != nil {
				return listenFault("vpn", node.Listen.VPN, err)
			}
			a.gateway.p.Store(g)
			if err := a.syncWireGuard(ctx); err != nil {
				a.log.Error("WireGuard devices", "err", err)
			}
			return nil
		},
		Run: func(ctx context.Context) error {
			if g := a.gateway.get(); g != nil {
				group := task.NewGroup(ctx, a.log)
				defer group.Stop()
				group.Go("vpn revocations", func(ctx context.Context) { a.watchRevocations(ctx, revoked) })
				return g.Run(ctx)
			}
			<-ctx.Done()
			return nil
		},
		Stop: func(context.Context) error {
			if g := a.gateway.p.Swap(nil); g != nil {
				g.Stop()
			}
			return nil
		},
	}
}

// telephony are the ports that every VPN session may reach at the appliance (VPN-9): what a phone needs for its work, and no
// page and no metrics.
func telephony(n config.Node) []vpn.Rule {
	rules := []vpn.Rule{{Proto: policy.ICMP}} // phones ping their TFTP server
	add := func(proto policy.Proto, first, last uint16) {
		if first != 0 {
			rules = append(rules, vpn.Rule{Proto: proto, First: first, Last: last})
		}
	}
	for _, e := range []config.Endpoint{n.Listen.ProvisionHTTP, n.Listen.ProvisionHTTPS, n.Listen.CAPF, n.Listen.TVS, n.Listen.SIPTCP, n.Listen.SIPTLS} {
		add(policy.TCP, e.Port(), e.Port())
	}
	for _, e := range []config.Endpoint{n.Listen.TFTP, n.Listen.SIPUDP, n.Listen.NTP} {
		add(policy.UDP, e.Port(), e.Port())
	}
	// A TFTP transfer goes on from a port of its own, which the kernel takes from its ephemeral range.
	add(policy.UDP, ephemeralFirst, ephemeralLast)
	add(policy.UDP, n.Media.Ports.First, n.Media.Ports.Last)
	return rules
}

// Linux takes ephemeral ports from here unless told otherwise (net.ipv4.ip_local_port_range).
const ephemeralFirst, ephemeralLast = 32768, 60999

// endStrangers ends the sessions of phones and people whom the document in force gives another policy, or none.
func (a *appliance) endStrangers() {
	g := a.gateway.get()
	if g == nil {
		return
	}
	for _, s := range g.Sessions() {
		id := ""
		if s.Kind == policy.User.String() {
			if u, ok := a.doc().User(s.Name); ok {
				id = u.VPN
			}
		} else if p, ok := a.doc().Phone(s.Name); ok {
			id = p.VPN
		}
		if id != s.Policy && s.Method != "wireguard" { // those are synchronised by themselves
			g.Revoke(s.Name)
		}
	}
}

// people is what the gateway asks about persons.
type people struct {
	doc   func() *config.Document
	state interface {
		Get(key string) ([]byte, bool)
		Write(ctx context.Context, set map[string][]byte, del ...string) error
	}
	roots   []*x509.Certificate // of vpn.user_roots
	revoked *revocations
	log     *slog.Logger
	mu      sync.Mutex // one code at a time, so that none is good twice
}

// certificate says whom a client certificate under vpn.user_roots names: by its common name, or by an e-mail address in it.
func (p *people) certificate(cert *x509.Certificate, rest []*x509.Certificate) (user, pol string, err error) {
	if len(p.roots) == 0 {
		return "", "", errors.New("vpn.user_roots names no authority for people's certificates")
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range p.roots {
		roots.AddCert(c)
	}
	for _, c := range rest {
		between.AddCert(c)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return "", "", err
	}
	if user, pol, err = p.owner(cert); err == nil {
		err = p.revoked.check(cert, user)
	}
	return user, pol, err
}

// owner is the person whom a certificate names.
func (p *people) owner(cert *x509.Certificate) (user, pol string, err error) {
	doc := p.doc()
	if u, ok := doc.User(cert.Subject.CommonName); ok && u.VPN != "" {
		return u.ID, u.VPN, nil
	}
	for i := range doc.Users {
		u := &doc.Users[i]
		for _, mail := range cert.EmailAddresses {
			if u.VPN != "" && u.Email != "" && strings.EqualFold(u.Email, mail) {
				return u.ID, u.VPN, nil
			}
		}
	}
	return "", "", fmt.Errorf("certificate names %q, who has no VPN policy", cert.Subject.CommonName)
}

// mayUse tells whether a person may log in by password on a phone that shows its certificate: on the phones of its lines.
func (p *people) mayUse(user, device string) bool {
	for _, l := range p.doc().LinesOf(device) {
		if user != "" && l.User == user {
			return true
		}
	}
	return false
}

// totpKey is where the last one-time password that was used stands.
func totpKey(user string) string { return "vpn/totp/" + user + "/last" }

// code checks a one-time password. One that was accepted is not good again, not after a restart either.
func (p *people) code(user, given string) bool {
	u, ok := p.doc().User(user)
	if !ok || u.TOTP.Empty() {
		return false
	}
	secret, err := totp.ParseText(u.TOTP.Reveal())
	if err != nil {
		p.log.Error("secret of one-time passwords", "user", user, "err", err)
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var last uint64
	if b, ok := p.state.Get(totpKey(user)); ok {
		last, _ = strconv.ParseUint(string(b), 10, 64)
	}
	counter, ok := totp.Verify(secret, given, time.Now(), last)
	if !ok {
		return false
	}
	if err := p.state.Write(context.Background(), map[string][]byte{totpKey(user): []byte(strconv.FormatUint(counter, 10))}); err != nil {
		p.log.Error("one-time password cannot be noted as used", "user", user, "err", err)
		return false
	}
	return true
}
