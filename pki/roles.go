package pki

import (
	"context"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"ringfence/pki/capf"
)

const year = 365 * 24 * time.Hour

// Lives of the appliance's certificates. Phones do not look at these dates, other clients do: VPN clients and browsers on
// some systems refuse more than 825 days.
const (
	rootLife   = 20 * year
	issuerLife = 15 * year
	backdate   = time.Hour // for clocks that are behind
)

// lastDate is the end of the two-digit years in certificates; old firmware reads no others.
var lastDate = time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC)

// profile is how the certificate of a role is made.
type profile struct {
	key   capf.KeyKind
	life  time.Duration
	usage x509.KeyUsage
	names bool // carries the appliance's addresses and names
	hosts bool // and those of the VPN
}

const (
	signs  = x509.KeyUsageDigitalSignature
	serves = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment // the latter for RSA key exchange of old phones
)

// profiles of the roles below the issuing CA. EC certificates say digitalSignature alone: such keys encipher nothing.
var profiles = map[Role]profile{
	RoleSAST:         {key: capf.RSA2048, life: 15 * year, usage: signs},
	RoleSASTRecovery: {key: capf.RSA2048, life: 15 * year, usage: signs},
	RoleCCM:          {key: capf.RSA2048, life: 5 * year, usage: serves, names: true},
	RoleTFTP:         {key: capf.RSA2048, life: 5 * year, usage: serves, names: true},
	RoleTFTPEC:       {key: capf.P256, life: 5 * year, usage: signs, names: true},
	RoleTVS:          {key: capf.RSA2048, life: 5 * year, usage: serves, names: true},
	RoleAppServer:    {key: capf.RSA2048, life: 5 * year, usage: serves, names: true},
	RoleVPN:          {key: capf.RSA2048, life: 2 * year, usage: serves, names: true, hosts: true},
	RoleAdmin:        {key: capf.RSA2048, life: 2 * year, usage: serves, names: true},
	RolePeering:      {key: capf.P256, life: 2 * year, usage: signs, names: true},
}

// complete makes what is missing: everything on the first start. Either all of it is recorded, or nothing.
func (a *Authority) complete(ctx context.Context) error {
	_, have := a.current(RoleCAPF)
	var missing []Role
	for _, r := range Roles() {
		if _, ok := a.current(r); !ok && r != RoleCAPF {
			missing = append(missing, r)
		}
	}
	if have && len(missing) == 0 {
		return nil
	}
	if err := a.clockFit(a.now()); err != nil {
		if have {
			a.log.Error("certificates of new roles are not made", "roles", missing, "err", err)
			return nil
		}
		return fmt.Errorf("first start: %w", err)
	}
	start := time.Now()
	b := newBatch(a.opts.State)
	keys, err := generate(missing, have)
	if err != nil {
		return err
	}
	issuer, signer, err := a.issuingCA(b, keys, have)
	if err != nil {
		return err
	}
	for _, r := range missing {
		template := a.roleTemplate(r, issuer)
		cert, err := sign(template, issuer, keys[r].Public(), signer)
		if err != nil {
			return err
		}
		if err := a.adopt(b, r, cert, keys[r]); err != nil {
			return err
		}
	}
	a.stampClock(b)
	if err := b.commit(ctx); err != nil {
		return fmt.Errorf("record keys and certificates: %w", err)
	}
	a.log.Info("made keys and certificates", "roles", missing, "first", !have, "took", time.Since(start))
	return nil
}

// generate makes the keys of the given roles, and those of root and issuing CA unless these exist, on all processors.
func generate(roles []Role, have bool) (map[Role]crypto.Signer, error) {
	kinds := map[Role]capf.KeyKind{}
	for _, r := range roles {
		kinds[r] = profiles[r].key
	}
	if !have {
		kinds[RoleRoot], kinds[RoleCAPF] = capf.RSA4096, capf.RSA2048
	}
	type made struct {
		role Role
		key  crypto.Signer
	}
	ch := make(chan made, len(kinds))
	var g errgroup.Group
	for r, kind := range kinds {
		g.Go(func() error {
			k, err := capf.GenerateKey(kind)
			if err != nil {
				return fmt.Errorf("make key of %s: %w", r, err)
			}
			ch <- made{r, k}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	close(ch)
	keys := make(map[Role]crypto.Signer)
	for m := range ch {
		keys[m.role] = m.key
	}
	return keys, nil
}

// issuingCA returns the issuing CA and its key, made together with the root on the first start.
func (a *Authority) issuingCA(b *batch, keys map[Role]crypto.Signer, have bool) (*x509.Certificate, crypto.Signer, error) {
	if have {
		id, err := a.Identity(RoleCAPF)
		if err != nil {
			return nil, nil, err
		}
		return id.Leaf, id.PrivateKey.(crypto.Signer), nil
	}
	now := a.now()
	root := &x509.Certificate{
		SerialNumber: a.serial(), Subject: a.subject("Root-" + a.seal.node()),
		NotBefore: now.Add(-backdate), NotAfter: end(now.Add(rootLife)),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: 1, SignatureAlgorithm: x509.SHA256WithRSA,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	rootCert, err := sign(root, root, keys[RoleRoot].Public(), keys[RoleRoot])
	if err != nil {
		return nil, nil, err
	}
	cert, err := sign(a.issuerTemplate(rootCert), rootCert, keys[RoleCAPF].Public(), keys[RoleRoot])
	if err != nil {
		return nil, nil, err
	}
	if err := a.adopt(b, RoleRoot, rootCert, keys[RoleRoot]); err != nil {
		return nil, nil, err
	}
	if err := a.addRootCRL(b, rootCert, keys[RoleRoot], rootCRLLife); err != nil {
		return nil, nil, fmt.Errorf("CRL of the root: %w", err)
	}
	return cert, keys[RoleCAPF], a.adopt(b, RoleCAPF, cert, keys[RoleCAPF])
}

// issuerTemplate is an issuing CA below a root.
func (a *Authority) issuerTemplate(root *x509.Certificate) *x509.Certificate {
	now := a.now()
	t := &x509.Certificate{
		SerialNumber: a.serial(), Subject: a.subject("CAPF-" + a.seal.node()),
		NotBefore: now.Add(-backdate), NotAfter: end(now.Add(issuerLife), root.NotAfter),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, SignatureAlgorithm: sha256With(root),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	a.publish(t, root)
	return t
}

// order is what somebody gives along with the wish for a new certificate.
type order struct {
	given      *Bundle // the certificate itself, with its key
	passphrase string  // of the root's key
}

// make adds a new key and certificate for a role to a group, without pointing the role to it. A new issuing CA is signed by
// the root, all else by the issuing CA in use.
func (a *Authority) make(b *batch, r Role, o order) (serial string, err error) {
	if o.given != nil {
		return a.keepBundle(b, r, o.given)
	}
	kind := profiles[r].key
	by := RoleCAPF
	if r == RoleCAPF {
		kind, by = capf.RSA2048, RoleRoot
	}
	key, err := capf.GenerateKey(kind)
	if err != nil {
		return "", fmt.Errorf("make key of %s: %w", r, err)
	}
	parentSerial, ok := a.current(by)
	if !ok {
		return "", fmt.Errorf("certificate of %s: %w", by, ErrUnknown)
	}
	parent, err := a.certificate(parentSerial)
	if err != nil {
		return "", err
	}
	var signer crypto.Signer
	if r == RoleCAPF {
		signer, err = a.rootSigner(parentSerial, o.passphrase)
	} else {
		signer, err = a.privateKey(parentSerial)
	}
	if err != nil {
		return "", err
	}
	template := a.issuerTemplate
	if r == RoleCAPF {
		if err := a.renewRootCRL(b, parent, parentSerial, signer); err != nil {
			return "", err
		}
	} else {
		template = func(p *x509.Certificate) *x509.Certificate { return a.roleTemplate(r, p) }
	}
	t := template(parent)
	if !t.NotAfter.After(a.now()) {
		return "", fmt.Errorf("the certificate of %s ended on %s", by, day(parent.NotAfter))
	}
	cert, err := sign(t, parent, key.Public(), signer)
	if err != nil {
		return "", err
	}
	return serialText(cert.SerialNumber), a.keep(b, r, cert, key)
}

// adopt adds a role's new certificate and key to a group, and points the role to it.
func (a *Authority) adopt(b *batch, r Role, cert *x509.Certificate, key crypto.Signer) error {
	b.set[a.roleKey(r)] = []byte(serialText(cert.SerialNumber))
	return a.keep(b, r, cert, key)
}

// keep adds a certificate and its sealed key to a group.
func (a *Authority) keep(b *batch, r Role, cert *x509.Certificate, key crypto.Signer) error {
	if err := a.record(b, cert, r, ""); err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("private key of %s: %w", r, err)
	}
	serial := serialText(cert.SerialNumber)
	k := a.keyKey(serial)
	b.set[k] = a.seal.seal(k, der)
	return nil
}

func (a *Authority) roleTemplate(r Role, issuer *x509.Certificate) *x509.Certificate {
	p, now := profiles[r], a.now()
	t := &x509.Certificate{
		SerialNumber: a.serial(), Subject: a.subject(string(r) + "-" + a.opts.Node),
		NotBefore: now.Add(-backdate), NotAfter: end(now.Add(p.life), issuer.NotAfter),
		BasicConstraintsValid: true, KeyUsage: p.usage, SignatureAlgorithm: sha256With(issuer),
	}
	if p.names {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		a.names(t, p.hosts)
	}
	a.publish(t, issuer)
	return t
}

// names adds the alternative names of this appliance.
func (a *Authority) names(t *x509.Certificate, hosts bool) {
	add := func(name string) {
		if ip, err := netip.ParseAddr(name); err == nil {
			if !slices.ContainsFunc(t.IPAddresses, func(have net.IP) bool { return have.Equal(ip.AsSlice()) }) {
				t.IPAddresses = append(t.IPAddresses, ip.Unmap().AsSlice())
			}
		} else if name != "" && !slices.Contains(t.DNSNames, name) {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	for _, ip := range a.opts.Addresses {
		if ip.IsValid() && !ip.IsUnspecified() {
			add(ip.String())
		}
	}
	for _, n := range append([]string{a.opts.Node}, a.opts.Names...) {
		add(n)
	}
	if hosts {
		for _, h := range a.opts.VPNHosts {
			add(hostOnly(h))
		}
	}
}

// hostOnly takes the port off a host, if it has one.
func hostOnly(s string) string {
	if h, _, err := net.SplitHostPort(s); err == nil {
		return h
	}
	if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
		return s[1 : len(s)-1]
	}
	return s
}

// Warnings lists what an administrator should know about the certificates in use: names that they lack, keys that are not
// in a safe yet, and a clock that stops everything. A certificate that lacks a name is not replaced by itself, since
// phones outside know the VPN by the hash of its certificate and would be locked out (certhash.md).
func (a *Authority) Warnings() []string {
	var out []string
	if err := a.clockFit(a.now()); err != nil {
		out = append(out, err.Error())
	}
	for _, r := range Roles() {
		p, ok := profiles[r]
		if !ok || !p.names {
			continue
		}
		id, err := a.Identity(r)
		if err != nil {
			out = append(out, err.Error())
			continue
		}
		want := new(x509.Certificate)
		a.names(want, p.hosts)
		for _, n := range want.DNSNames {
			if id.Leaf.VerifyHostname(n) != nil {
				out = append(out, fmt.Sprintf("the certificate of role %s does not name %s", r, n))
			}
		}
		for _, ip := range want.IPAddresses {
			if id.Leaf.VerifyHostname(ip.String()) != nil {
				out = append(out, fmt.Sprintf("the certificate of role %s does not name %s", r, ip))
			}
		}
	}
	out = append(out, a.lateWarnings()...)
	if serial, ok := a.current(RoleRoot); ok && a.rootPlace(serial) == RootOpen {
		out = append(out, "the root's private key lies on this appliance without a passphrase: ringfence cert root protect locks it, cert root export and remove take it away")
	}
	if serial, ok := a.current(RoleSASTRecovery); ok {
		if _, exported := a.opts.State.Get(a.exportedKey(serial)); !exported {
			out = append(out, "the recovery key of the trust lists was not exported yet: without it, losing this appliance locks every phone")
		}
	}
	return out
}

// lateWarnings names certificates that are due and that nobody but an administrator can replace.
func (a *Authority) lateWarnings() []string {
	var out []string
	for _, r := range Roles() {
		id, err := a.Identity(r)
		if err != nil || a.Stage(r) != "" || id.Leaf.NotAfter.Sub(a.now()) >= lifeOf(id.Leaf)/3 {
			continue
		}
		switch serial, _ := a.current(r); {
		case a.imported(serial):
			out = append(out, fmt.Sprintf("the imported certificate of role %s ends on %s: import its successor (ringfence cert import --role %s), or it is replaced by one of this appliance's own CA",
				r, day(id.Leaf.NotAfter), r))
		case r == RoleCAPF && a.rotatable(r) != nil:
			out = append(out, fmt.Sprintf("the issuing CA ends on %s, and a new one needs the root's key: ringfence cert rotate --role CAPF asks for its passphrase; a key that was taken away comes back by ringfence cert root restore",
				day(id.Leaf.NotAfter)))
		}
	}
	return out
}

func lifeOf(c *x509.Certificate) time.Duration { return c.NotAfter.Sub(c.NotBefore) }

// subject is a name with the organisation; Go writes it O first, then CN.
func (a *Authority) subject(cn string) pkix.Name {
	n := pkix.Name{CommonName: cn}
	if a.opts.Organization != "" {
		n.Organization = []string{a.opts.Organization}
	}
	return n
}

// end is the earliest of some dates, and never beyond lastDate.
func end(t time.Time, limits ...time.Time) time.Time {
	for _, l := range append(limits, lastDate) {
		if l.Before(t) {
			t = l
		}
	}
	return t.UTC().Truncate(time.Second)
}

func sha256With(issuer *x509.Certificate) x509.SignatureAlgorithm {
	if issuer.PublicKeyAlgorithm == x509.ECDSA {
		return x509.ECDSAWithSHA256
	}
	return x509.SHA256WithRSA
}
