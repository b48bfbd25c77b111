// Package phoneclient is the VPN client of a simulated phone: the "SVC IPPhone" manners of AnyConnect page §4 (GET, POST with
// credentials or an empty body, CONNECT) and CSTP frames (§6), given to the owner as packets so that a network stack can be
// put on top.
//
// It is strict where real clients drop or give up: the server is known by the hash of its certificate alone; a login answer
// without an expiring webvpn cookie and a non-empty webvpnlogin is no login; header names count letter by letter; a tunnel
// answer without address or MTU is refused; a TLS record that holds more or less than one frame ends the tunnel.
//
// It shares only the frame codec with the server. Its DTLS is pion's.
package phoneclient

import (
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// UserAgent is how phones introduce themselves.
const UserAgent = "Cisco SVC IPPhone Client v1.0 (1.0)"

// AuthMethod is the authMethod of the phone's vpnGroup.
type AuthMethod int

// Ways to log in.
const (
	UserPassword AuthMethod = 0
	PasswordOnly AuthMethod = 1 // the phone sends its own name as user
	Certificate  AuthMethod = 2
)

var (
	// ErrCertHash says that the server's certificate is none of those in the phone's file.
	ErrCertHash = errors.New("server certificate has none of the configured hashes")
	// ErrAuth says that the server refused the credentials (401).
	ErrAuth = errors.New("authentication failed")
	// ErrLogin says that an answer lacks what the phone looks for during log-in.
	ErrLogin = errors.New("not a login answer for a phone")
	// ErrRefused says that CONNECT was not answered with 200.
	ErrRefused = errors.New("tunnel refused")
	// ErrNoAddress says that the tunnel answer had no usable inner address.
	ErrNoAddress = errors.New("tunnel answer without address")
	// ErrNoMTU says that the tunnel answer had no usable MTU.
	ErrNoMTU = errors.New("tunnel answer without MTU")
	// ErrRecord says that a TLS record did not hold exactly one frame.
	ErrRecord = errors.New("TLS record is not exactly one frame")
	// ErrDead says that the server did not answer dead peer detection.
	ErrDead = errors.New("server is silent")
	// ErrPutOut says that the server ended the session.
	ErrPutOut = errors.New("session ended by the server")
	// ErrTooBig says that a packet is larger than the MTU.
	ErrTooBig = errors.New("packet larger than the tunnel's MTU")
	// ErrClosed says that the owner closed the tunnel.
	ErrClosed = errors.New("tunnel closed")
)

// Options is the vpnGroup of a phone and what it stands on.
type Options struct {
	URL         string   // https://HOST:PORT/svc
	CertHashes  []string // certHash1 to certHash10: base64 of SHA-1 over the DER certificate (certHash page)
	HostIDCheck bool     // enableHostIDCheck: the certificate must also name the URL's host
	Auth        AuthMethod
	User        string // UserPassword
	Password    string
	Device      string // SEP and MAC: the user name of PasswordOnly
	// Certificate is the LSC or MIC, offered when the server asks for one. Certificate authentication needs it.
	Certificate *tls.Certificate

	MTU       int           // vpnGroup mtu, 1290 when 0; asked for as X-CSTP-MTU
	Timeout   time.Duration // failConnectTime, 30 s when 0: log-in and CONNECT together
	UserAgent string        // UserAgent when empty
	Hostname  string        // X-CSTP-Hostname; Device when empty
	// Old makes the client offer what old firmware does: TLS 1.0 to 1.2 with RSA key exchange and CBC.
	Old bool
	// MaxTLS is the newest version that the client offers; 0 is the newest there is, or TLS 1.2 when Old.
	MaxTLS uint16
	// DPD overrides the interval that the server announces, when positive.
	DPD time.Duration

	// UDP makes the client bring up DTLS 1.2 as newer phones do, on port 443 only, which is all that phones use, unless
	// AnyUDPPort. DialUDP makes the outer socket; a net.Dialer when nil.
	UDP, AnyUDPPort bool
	DialUDP         func(ctx context.Context, network, address string) (net.Conn, error)

	// Dial makes the outer connection; a net.Dialer when nil.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Log  *slog.Logger
}

// Hash is the certHash value of a DER certificate.
func Hash(der []byte) string {
	sum := sha1.Sum(der)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// target is the parsed URL.
type target struct {
	address, host, path string
}

func (o *Options) validate() (target, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || len(o.URL) > 255 {
		return target{}, fmt.Errorf("VPN URL %q: not an https URL of at most 255 characters", o.URL)
	}
	t := target{address: u.Host, host: u.Hostname(), path: u.EscapedPath()}
	if u.Port() == "" {
		t.address = net.JoinHostPort(u.Hostname(), "443")
	}
	if t.path == "" {
		t.path = "/"
	}
	switch {
	case len(o.CertHashes) == 0 || len(o.CertHashes) > 10:
		return t, errors.New("a phone has 1 to 10 certificate hashes")
	case o.Auth == Certificate && o.Certificate == nil:
		return t, errors.New("certificate authentication without a certificate")
	case o.Auth < UserPassword || o.Auth > Certificate:
		return t, fmt.Errorf("authMethod %d is unknown", o.Auth)
	}
	if o.MTU == 0 {
		o.MTU = 1290
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.UserAgent == "" {
		o.UserAgent = UserAgent
	}
	if o.Hostname == "" {
		o.Hostname = o.Device
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	if o.DialUDP == nil {
		o.DialUDP = (&net.Dialer{}).DialContext
	}
	return t, nil
}

func (o *Options) tlsConfig(t target) *tls.Config {
	c := &tls.Config{
		ServerName:                  t.host,
		InsecureSkipVerify:          true, // the phone knows servers by hash, see VerifyConnection
		MinVersion:                  tls.VersionTLS12,
		DynamicRecordSizingDisabled: true, // one frame is one record
		VerifyConnection: func(s tls.ConnectionState) error {
			leaf := s.PeerCertificates[0]
			if !slices.Contains(o.CertHashes, Hash(leaf.Raw)) {
				return fmt.Errorf("%w: %s", ErrCertHash, Hash(leaf.Raw))
			}
			if o.HostIDCheck && leaf.VerifyHostname(t.host) != nil && !strings.EqualFold(leaf.Subject.CommonName, t.host) {
				return fmt.Errorf("%w: it names another host", ErrCertHash)
			}
			return nil
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if o.Certificate == nil {
				return &tls.Certificate{}, nil
			}
			return o.Certificate, nil
		},
	}
	if o.Old {
		c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS12
		c.CipherSuites = []uint16{tls.TLS_RSA_WITH_AES_256_CBC_SHA, tls.TLS_RSA_WITH_AES_128_CBC_SHA}
	}
	if o.MaxTLS != 0 {
		c.MaxVersion = o.MaxTLS
	}
	return c
}

// Info is what the server granted.
type Info struct {
	Address  netip.Prefix // inner IPv4 address with the pool's mask
	Address6 netip.Prefix // zero without IPv6
	MTU      int
	DNS      []netip.Addr
	Routes   []netip.Prefix // split-include
	DPD      time.Duration
	Keep     time.Duration // interval of keep-alive frames
	Banner   string
	TLS      tls.ConnectionState
	Leaf     *x509.Certificate // the server's

	udp udpGrant
}

// Login gets a session cookie and makes no tunnel.
func Login(ctx context.Context, o Options) (cookie string, err error) {
	t, err := o.validate()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	w := &web{o: &o, t: t}
	defer w.close()
	return w.login(ctx)
}

// Dial logs in and makes the tunnel.
func Dial(ctx context.Context, o Options) (*Conn, error) {
	t, err := o.validate()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	w := &web{o: &o, t: t}
	defer w.close()
	cookie, err := w.login(ctx)
	if err != nil {
		return nil, err
	}
	return w.tunnel(ctx, cookie, netip.Addr{})
}

// Reconnect makes a new tunnel with a cookie from an earlier log-in, as a phone does after losing its network. When had is
// valid, an answer with another address is refused: connections inside the tunnel would not survive it.
func Reconnect(ctx context.Context, o Options, cookie string, had netip.Addr) (*Conn, error) {
	t, err := o.validate()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	w := &web{o: &o, t: t}
	defer w.close()
	return w.tunnel(ctx, cookie, had)
}
