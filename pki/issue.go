package pki

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"ringfence/pki/capf"
)

// Gift is a certificate for somebody who is neither a phone nor the appliance.
type Gift struct {
	Role  Role // RoleServer, RoleACME or RoleSCEP
	Name  string
	Names []string // host names and addresses
	Pub   crypto.PublicKey
	Life  time.Duration // cut to the issuing CA's
	Owner string        // who it is given to, up to 128 bytes; kept with the record
	// Client makes it one of a client alone: a device that proves itself, as to 802.1X.
	Client bool
}

// Give issues a certificate and records it; it returns the certificate and the issuing CA.
func (a *Authority) Give(ctx context.Context, g Gift) ([]*x509.Certificate, error) {
	fail := func(err error) ([]*x509.Certificate, error) {
		return nil, fmt.Errorf("pki: certificate for %.64s: %w", g.Name, err)
	}
	if err := a.CheckClock(ctx); err != nil {
		return fail(err)
	}
	if kind := capf.KindOf(g.Pub); !kind.Known() || capf.CheckKey(g.Pub, kind) != nil {
		return fail(errors.New("key of a kind that is not issued for"))
	}
	if len(g.Owner) > 128 || g.Name == "" || !g.Role.given() {
		return fail(errors.New("incomplete"))
	}
	ca, err := a.Identity(RoleCAPF)
	if err != nil {
		return fail(err)
	}
	now := a.now()
	t := &x509.Certificate{
		SerialNumber: a.serial(), Subject: a.subject(g.Name), BasicConstraintsValid: true, KeyUsage: serves,
		NotBefore: now.Add(-backdate), NotAfter: end(now.Add(g.Life), ca.Leaf.NotAfter), SignatureAlgorithm: sha256With(ca.Leaf),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if !t.NotAfter.After(now) {
		return fail(fmt.Errorf("the issuing CA ended on %s", day(ca.Leaf.NotAfter)))
	}
	if g.Client {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	if capf.KindOf(g.Pub).IsEC() {
		t.KeyUsage = signs
	}
	for _, n := range slices.Compact(slices.Sorted(slices.Values(g.Names))) {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	a.publish(t, ca.Leaf)
	cert, err := sign(t, ca.Leaf, g.Pub, ca.PrivateKey.(crypto.Signer))
	if err != nil {
		return fail(err)
	}
	b := newBatch(a.opts.State)
	if err := a.record(b, cert, g.Role, ""); err != nil {
		return fail(err)
	}
	if g.Owner != "" {
		b.set[ownerKey(serialText(cert.SerialNumber))] = []byte(g.Owner)
	}
	a.stampClock(b)
	if err := b.commit(ctx); err != nil {
		return fail(err)
	}
	return []*x509.Certificate{cert, ca.Leaf}, nil
}

func ownerKey(serial string) string { return "pki/cert/" + serial + "/owner" }

// OwnerOf says to whom a certificate of a role was given; it is empty for any other.
func (a *Authority) OwnerOf(cert *x509.Certificate, r Role) string {
	rec, ok := a.Find(cert.Raw)
	if !ok || rec.Role != r {
		return ""
	}
	v, _ := a.opts.State.Get(ownerKey(rec.Serial))
	return string(v)
}

// Holder is OwnerOf for a certificate that proves something now: it is in time and not revoked.
func (a *Authority) Holder(cert *x509.Certificate, r Role) string {
	if inTime(cert, a.Moment(), 0) != nil || a.IsRevoked(serialText(cert.SerialNumber)) {
		return ""
	}
	return a.OwnerOf(cert, r)
}

// NewServerCertificate issues a certificate for a server that is no role of this appliance, and leaves its key with the
// caller. Names are host names and addresses; life is cut to the issuing CA's.
func (a *Authority) NewServerCertificate(ctx context.Context, key crypto.Signer, name string, names []string, life time.Duration) (*tls.Certificate, error) {
	chain, err := a.Give(ctx, Gift{Role: RoleServer, Name: name, Names: names, Pub: key.Public(), Life: life})
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{chain[0].Raw, chain[1].Raw}, PrivateKey: key, Leaf: chain[0]}, nil
}

func (a *Authority) registrarKey() string { return "pki/registrar/" + a.seal.node() }

// registrarLife is that of the certificate that SCEP requests are encrypted for.
const registrarLife = 2 * year

// Registrar returns a certificate under the issuing CA in use, with an RSA key, that SCEP requests are encrypted for. It is
// made when it is first asked for, and anew when a third of its life is left or another CA issues.
func (a *Authority) Registrar(ctx context.Context) (*tls.Certificate, error) {
	a.rotateMu.Lock()
	defer a.rotateMu.Unlock()
	ca, err := a.issuer()
	if err != nil {
		return nil, fmt.Errorf("pki: registrar: %w", err)
	}
	if v, ok := a.opts.State.Get(a.registrarKey()); ok && !a.IsRevoked(string(v)) {
		id, err := a.identity(string(v), RoleServer)
		if err == nil && id.Leaf.CheckSignatureFrom(ca) == nil && (id.Leaf.NotAfter.Sub(a.now()) > lifeOf(id.Leaf)/3 || a.clockFit(a.now()) != nil) {
			return id, nil
		}
	}
	key, err := capf.GenerateKey(capf.RSA2048)
	if err != nil {
		return nil, fmt.Errorf("pki: registrar: %w", err)
	}
	chain, err := a.Give(ctx, Gift{Role: RoleServer, Name: "SCEP-" + a.opts.Node, Pub: key.Public(), Life: registrarLife, Owner: "scep"})
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("pki: registrar: %w", err)
	}
	serial := serialText(chain[0].SerialNumber)
	k := a.keyKey(serial)
	set := map[string][]byte{k: a.seal.seal(k, der), a.registrarKey(): []byte(serial)}
	var del []string
	if old, ok := a.opts.State.Get(a.registrarKey()); ok {
		del = append(del, a.keyKey(string(old)))
	}
	if err := a.opts.State.Write(ctx, set, del...); err != nil {
		return nil, fmt.Errorf("pki: registrar: %w", err)
	}
	return a.identity(serial, RoleServer)
}
