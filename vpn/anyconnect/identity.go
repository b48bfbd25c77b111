package anyconnect

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"time"

	"ringfence/vpn/policy"
	"ringfence/vpn/session"
)

var (
	// errWrong says that name and password do not go together, or that the certificate is not enough.
	errWrong = errors.New("authentication failed")
	// errThrottled says that the password was not looked at.
	errThrottled = errors.New("too many wrong passwords, try later")
	// errBusy says that too many passwords wait to be checked.
	errBusy = errors.New("busy, try again")
	// errGroup says that the identity is not of the group that was asked for.
	errGroup = errors.New("not a member of this group")
)

// certIdentity is whom the client certificate of a connection names.
type certIdentity struct {
	kind         policy.Kind
	name, policy string
	err          error // why it names nobody; nil without a certificate
}

func (i *certIdentity) ok() bool { return i.name != "" }

var deviceName = regexp.MustCompile(`^SEP[0-9A-F]{12}$`)
var deviceIn = regexp.MustCompile(`SEP[0-9A-F]{12}`)

// certificate looks at the client certificate, once per connection. A refused one is logged here, with the reason, in the boot
// record of the device that it claims to be.
func (c *conn) certificate() *certIdentity {
	if c.ident != nil {
		return c.ident
	}
	c.ident = &certIdentity{}
	chain := c.tls.ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return c.ident
	}
	leaf := chain[0]
	c.ident.kind, c.ident.name, c.ident.policy, c.ident.err = c.s.verify(leaf, chain[1:])
	if c.ident.err != nil {
		claim := deviceIn.FindString(leaf.Subject.CommonName)
		if c.s.noisy.Allow() {
			c.s.log.Info("VPN client certificate refused", "peer", c.peer, "phone", claim, "subject", printable(leaf.Subject.String(), 200), "err", c.ident.err)
		}
		c.s.note(claim, "certificate refused: "+c.ident.err.Error(), true)
	}
	return c.ident
}

// verify asks both authorities, devices first.
func (s *Server) verify(leaf *x509.Certificate, rest []*x509.Certificate) (kind policy.Kind, name, pol string, err error) {
	if len(rest) > 8 {
		return 0, "", "", errors.New("chain too long")
	}
	err = errors.New("no authority for certificates")
	if s.o.VerifyDevice != nil {
		device, e := s.o.VerifyDevice(leaf, rest)
		if e == nil {
			if s.o.PolicyOf == nil {
				return 0, "", "", fmt.Errorf("device %s has no VPN policy", device)
			}
			pol, ok := s.o.PolicyOf(device)
			if !ok {
				return 0, "", "", fmt.Errorf("device %s has no VPN policy", device)
			}
			return policy.Device, device, pol, nil
		}
		err = e
	}
	if s.o.VerifyUser != nil {
		user, pol, e := s.o.VerifyUser(leaf, rest)
		if e == nil {
			return policy.User, user, pol, nil
		}
		err = errors.Join(err, e)
	}
	return 0, "", "", err
}

// credentials are what a client sent in a form, and the group it asked for by path or by choice.
type credentials struct {
	group          string // empty: whichever the identity has
	user, password string
	code           string // one-time password, when it came along
	given          bool   // a password field was there
	agent          string
}

// byCertificate makes the identity of a certificate, if its policy lets certificates alone in.
func (c *conn) byCertificate(k credentials) (session.Identity, error) {
	id := c.certificate()
	if !id.ok() {
		return session.Identity{}, fmt.Errorf("%w: no usable certificate", errWrong)
	}
	p, err := c.s.entitled(id.policy, k.group)
	if err != nil {
		return session.Identity{}, err
	}
	if !p.Certificate {
		return session.Identity{}, fmt.Errorf("%w: policy %s does not accept certificates alone", errWrong, p.ID)
	}
	who := session.Identity{Name: id.name, Kind: id.kind, Policy: p.ID, Remote: c.peer.Addr(), Agent: k.agent, Method: "certificate"}
	if id.kind == policy.Device {
		who.Device = id.name
	}
	return who, nil
}

// entitled checks that policy exists and is the group asked for.
func (s *Server) entitled(id, group string) (*policy.Policy, error) {
	p := s.o.Sessions.Policy(id)
	if p == nil {
		return nil, fmt.Errorf("%w: policy %q is not declared", errWrong, id)
	}
	if group != "" && group != id {
		return nil, fmt.Errorf("%w: %s", errGroup, printable(group, 60))
	}
	return p, nil
}

// byPassword checks a name and password (§9). A certificate of the connection and the name must agree: they are the same, or
// the user may use that device.
func (c *conn) byPassword(ctx context.Context, k credentials) (session.Identity, error) {
	s := c.s
	if len(k.user) > 128 || len(k.password) > 256 || k.password == "" {
		return session.Identity{}, fmt.Errorf("%w: empty or over-long credentials", errWrong)
	}
	id := c.certificate()
	user := k.user
	if user == "" && id.ok() {
		user = id.name // password only: the certificate says whose (§4)
	}
	now := time.Now()
	if !s.guard.Allowed(c.peer.Addr(), user, now) {
		return session.Identity{}, errThrottled
	}
	wrong := func(format string, a ...any) (session.Identity, error) {
		s.guard.Wrong(c.peer.Addr(), user, s.o.Sessions.CertificateFrom(c.peer.Addr()), time.Now())
		return session.Identity{}, fmt.Errorf("%w: "+format, append([]any{errWrong}, a...)...)
	}
	device := ""
	if id.ok() && id.kind == policy.Device {
		device = id.name
	}
	if id.ok() && user != id.name {
		if device == "" || s.o.MayUse == nil || !s.o.MayUse(user, device) {
			return wrong("certificate names %s, not this user", id.name)
		}
	}
	if err := s.takeCheck(ctx); err != nil {
		return session.Identity{}, err
	}
	var pol string
	var ok bool
	func() {
		defer func() { <-s.checks }()
		if user == "" && s.o.UserOf != nil {
			user, _ = s.o.UserOf(k.password)
		}
		if user != "" && s.o.CheckPassword != nil {
			pol, ok = s.o.CheckPassword(user, k.password)
		}
	}()
	if !ok {
		return wrong("name or password")
	}
	p, err := s.entitled(pol, k.group)
	if err != nil {
		return session.Identity{}, err
	}
	if !p.Password {
		return session.Identity{}, fmt.Errorf("%w: policy %s does not accept passwords", errWrong, p.ID)
	}
	if !p.SecondFactor { // else it is right only with the code
		s.guard.Right(c.peer.Addr(), user, time.Now())
	}
	who := session.Identity{Name: user, Kind: policy.User, Device: device, Policy: p.ID, Remote: c.peer.Addr(), Agent: k.agent, Method: "password"}
	if deviceName.MatchString(user) {
		who.Kind, who.Device = policy.Device, user
	}
	return who, nil
}

// needsCode tells whether a one-time password is due after the password. Devices have none.
func (s *Server) needsCode(who session.Identity) bool {
	p := s.o.Sessions.Policy(who.Policy)
	return p != nil && p.SecondFactor && who.Kind == policy.User && who.Method == "password"
}

// byCode checks the second factor. Wrong codes count like wrong passwords.
func (c *conn) byCode(who session.Identity, code string) error {
	s, now := c.s, time.Now()
	if !s.guard.Allowed(c.peer.Addr(), who.Name, now) {
		return errThrottled
	}
	if len(code) > 32 || s.o.CheckCode == nil || !s.o.CheckCode(who.Name, code) {
		s.guard.Wrong(c.peer.Addr(), who.Name, s.o.Sessions.CertificateFrom(c.peer.Addr()), now)
		return fmt.Errorf("%w: one-time password", errWrong)
	}
	s.guard.Right(c.peer.Addr(), who.Name, now)
	return nil
}

const (
	maxQueued = 64 // password checks waiting
	checkWait = 10 * time.Second
)

// takeCheck waits for one of the few places for password checks; the caller gives it back.
func (s *Server) takeCheck(ctx context.Context) error {
	if s.queued.Add(1) > maxQueued {
		s.queued.Add(-1)
		s.busy.Add(1)
		return errBusy
	}
	defer s.queued.Add(-1)
	t := time.NewTimer(checkWait)
	defer t.Stop()
	select {
	case s.checks <- struct{}{}:
		return nil
	case <-t.C:
		s.busy.Add(1)
		return errBusy
	case <-ctx.Done():
		return ctx.Err()
	}
}

// login makes the session of a proven identity, and counts.
func (c *conn) login(ctx context.Context, who session.Identity) (*session.Session, string, error) {
	sess, token, err := c.s.o.Sessions.Login(ctx, who)
	if err != nil {
		return nil, "", err
	}
	c.s.ok.Add(1)
	return sess, token, nil
}

// refuse counts and logs a refused log-in, in the boot record too when the name is a device's.
func (c *conn) refuse(k credentials, err error) {
	c.s.refused.Add(1)
	name := printable(k.user, 64)
	if id := c.ident; id != nil && id.ok() {
		name = id.name
	}
	if c.s.noisy.Allow() {
		c.s.log.Info("VPN log-in refused", "peer", c.peer, "name", name, "agent", k.agent, "err", err)
	}
	if deviceName.MatchString(name) {
		c.s.note(name, "log-in refused: "+err.Error(), true)
	}
}
