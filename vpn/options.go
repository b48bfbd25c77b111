package vpn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"

	"ringfence/config"
	"ringfence/vpn/dtls"
	"ringfence/vpn/policy"
	"ringfence/vpn/session"
	"ringfence/vpn/tunnel"
	"ringfence/vpn/wireguard"
)

// Policy is a group of VPN users; Rule a destination; SessionInfo what is known of a session.
type (
	Policy      = policy.Policy
	Rule        = policy.Rule
	SessionInfo = session.Info
	Device      = tunnel.Device

	WireGuardKey    = wireguard.Key
	WireGuardPeer   = wireguard.Peer
	WireGuardStatus = wireguard.Status
)

// Record is a session as another process can take it over. Its Channel, if there is one, holds the secret of the UDP channel: it
// goes over the link of a pair and into no file.
type Record struct {
	session.Record
	Channel *dtls.State `json:"channel,omitempty"`
}

// ParseWireGuardKey reads a key as WireGuard's tools write it.
func ParseWireGuardKey(s string) (WireGuardKey, error) { return wireguard.ParseKey(s) }

// WireGuardMTU is the inner MTU of devices whose policy offers mtu.
func WireGuardMTU(mtu int) int { return wireguard.MTU(&Policy{MTU: mtu}) }

// ErrNoRights says that the process may not make a TUN device. The daemon then goes on without a VPN.
var ErrNoRights = tunnel.ErrNoRights

// State keeps inner addresses over restarts; keys are vpn/addr/POLICY/NAME. *store.Store satisfies it.
type State interface {
	Get(key string) ([]byte, bool)
	Scan(prefix string, fn func(key string, value []byte) bool)
	Write(ctx context.Context, set map[string][]byte, del ...string) error
}

// Options is what the gateway needs. Certificate, Policies and Listen are required.
type Options struct {
	Log    *slog.Logger
	Listen string // TCP and UDP address, "0.0.0.0:443"; with port 0 UDP takes the port that TCP got
	NoUDP  bool   // tunnels stay on TCP

	// TUN is the name of the device that is made. Device, when not nil, is used instead and nothing is configured in the
	// kernel.
	TUN    string
	Device Device

	Policies []Policy     // the first is that of /svc
	Own      []netip.Addr // the appliance's addresses besides the first of each pool
	Services []Rule       // telephony services that every session may reach; a rule without To means each address of the appliance
	State    State        // may be nil: addresses are then stable until a restart

	// Legacy lets old firmware in: TLS 1.0 upwards, RSA key exchange and CBC for clients that offer no ECDHE. Others are not
	// weakened by it.
	Legacy bool

	// Certificate gives the certificate for the next handshake. Phones know it by its hash; old ones need RSA.
	Certificate func() *tls.Certificate
	// VerifyDevice checks an LSC or MIC and says which device (SEP...) it names.
	VerifyDevice func(cert *x509.Certificate, intermediates []*x509.Certificate) (device string, err error)
	// VerifyUser does the same for certificates of people. May be nil.
	VerifyUser func(cert *x509.Certificate, intermediates []*x509.Certificate) (user, policy string, err error)
	// PolicyOf says which policy a device has; not ok refuses it.
	PolicyOf func(device string) (policy string, ok bool)
	// CheckPassword checks a user's or a device's password. It may be slow: calls are bounded.
	CheckPassword func(user, password string) (policy string, ok bool)
	// UserOf finds the only user with this password, for phones that send none (authMethod 1). May be nil: they are refused.
	UserOf func(password string) (user string, ok bool)
	// MayUse tells whether a user may log in by password on a device that shows a certificate. Nil is never: certificate
	// identity and user name are then the same.
	MayUse func(user, device string) bool

	// CheckCode checks a one-time password (package totp) of a user whose policy wants a second factor. It must not accept a code
	// twice. Nil refuses those users.
	CheckCode func(user, code string) bool

	// Note writes the boot record of a device. May be nil.
	Note func(device, step, text string, failed bool)

	// WireGuard is the UDP address of the listener for WireGuardKey's peers (SetWireGuardPeers); without it there is none.
	WireGuard    string
	WireGuardKey WireGuardKey

	MaxSessions    int // in all, 4096 when 0
	MaxConnections int // TCP connections that have not logged in, 4096 when 0
}

func (o *Options) validate() error {
	var errs []error
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Certificate == nil {
		errs = append(errs, errors.New("vpn: no certificate"))
	}
	if len(o.Policies) == 0 {
		errs = append(errs, errors.New("vpn: no policy"))
	}
	if _, _, err := net.SplitHostPort(o.Listen); err != nil {
		errs = append(errs, err)
	}
	if o.TUN == "" {
		o.TUN = "ringfence0"
	}
	return errors.Join(errs...)
}

// PoliciesOf translates the declared document.
func PoliciesOf(v config.VPN) []Policy {
	var all []Policy
	for _, d := range v.Policies {
		p := Policy{ID: d.ID, Label: d.Label, Listed: d.Listed, Pool: d.Pool, Pool6: d.Pool6, Routes: d.Routes, Exclude: d.Exclude, DNS: d.DNS,
			Domain: string(d.Domain), SecondFactor: d.SecondFactor, MTU: d.MTU, DPD: d.DPD.D(), Keepalive: d.Keepalive.D(), Idle: d.Idle.D(),
			Session: d.Session.D(), Rekey: d.Rekey.D(), Disconnected: d.Disconnected.D(), MaxSessions: d.MaxSessions, Banner: d.Banner, Routed: d.Routed}
		for _, h := range d.SplitDNS {
			p.SplitDNS = append(p.SplitDNS, string(h))
		}
		for _, r := range d.Allow {
			first, last, _ := r.Range() // checked with the document
			rule := Rule{To: r.To, First: first, Last: last}
			switch r.Protocol {
			case "tcp":
				rule.Proto = policy.TCP
			case "udp":
				rule.Proto = policy.UDP
			case "icmp":
				rule.Proto = policy.ICMP
				if r.To.Addr().Is6() {
					rule.Proto = policy.ICMPv6
				}
			}
			p.Allow = append(p.Allow, rule)
		}
		for _, a := range d.Auth {
			switch a {
			case config.VPNCertificate:
				p.Certificate = true
			case config.VPNPassword:
				p.Password = true
			}
		}
		all = append(all, p)
	}
	return all
}
