package pki

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"ringfence/pki/capf"
)

// ErrImport is wrapped when something is not fit to be imported; the text says why and what to do.
var ErrImport = errors.New("not imported")

// ecRoles are the roles whose certificate may have an EC key; phones know RSA in all others.
var ecRoles = []Role{RoleTFTPEC, RoleAdmin, RolePeering, RoleVPN, RoleCAPF}

// Import takes a key and certificate from elsewhere into a role, by a rotation: phones are told of it before it is used, as of
// any new one. Roots, when there are any, are where its chain has to end. An imported certificate is replaced by one of
// ours only when less than a sixth of its life is left, so that somebody can import the next one before; until then Warnings ask.
func (a *Authority) Import(ctx context.Context, r Role, b *Bundle, roots []*x509.Certificate, by string) (Plan, error) {
	a.rotateMu.Lock()
	defer a.rotateMu.Unlock()
	if err := a.fit(r, b, roots); err != nil {
		return Plan{}, fmt.Errorf("pki: %s %w: %w", r, ErrImport, err)
	}
	return a.rotateLocked(ctx, r, by, order{given: b})
}

// fit says why a bundle cannot serve in a role, or nil.
func (a *Authority) fit(r Role, b *Bundle, roots []*x509.Certificate) error {
	c, now := b.Cert, a.now()
	switch _, known := profiles[r]; {
	case r == RoleSAST:
		return errors.New("phones would refuse lists signed by a key that their list does not name: import it as SAST-RECOVERY, and rotate SAST when every phone has the new list")
	case r == RoleRoot:
		return errors.New("give an issuing CA signed by your root instead, as CAPF: the root's key is not needed here")
	case !known && r != RoleCAPF:
		return ErrUnknown
	case b.Key == nil:
		return errors.New("the file holds no private key")
	case !belongs(b.Key, c):
		return errors.New("the private key does not belong to the certificate")
	}
	if _, running := a.rotation(r); running {
		return fmt.Errorf("role %s %w: let that end first", r, ErrRotating)
	}
	if err := fitKey(r, c); err != nil {
		return err
	}
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("the certificate ended on %s", day(c.NotAfter))
	case now.Add(clockSkew).Before(c.NotBefore):
		return fmt.Errorf("the certificate begins on %s, and it is %s", c.NotBefore.Format(time.RFC3339), now.Format(time.RFC3339))
	case c.NotAfter.After(lastDate):
		return fmt.Errorf("the certificate ends on %s: phones read no dates after 2049", day(c.NotAfter))
	}
	if err := fitUsage(r, c); err != nil {
		return err
	}
	if i, ok := a.info(serialText(c.SerialNumber)); ok && i.Fingerprint != fingerprint(c) {
		return fmt.Errorf("its serial number %s is that of %s already", serialText(c.SerialNumber), i.Subject)
	}
	for _, other := range Roles() {
		if s, _ := a.current(other); s == serialText(c.SerialNumber) {
			return fmt.Errorf("it is the certificate of role %s already, and each role needs one of its own", other)
		}
	}
	if a.IsRevoked(serialText(c.SerialNumber)) {
		return errors.New("it was revoked")
	}
	return a.fitChain(r, b, roots)
}

func fitKey(r Role, c *x509.Certificate) error {
	kind := capf.KindOf(c.PublicKey)
	_, ec := c.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !kind.Known():
		return errors.New("its key is of a kind that phones do not know: RSA with 2048, 3072 or 4096 bits, or P-256, P-384, P-521")
	case r == RoleTFTPEC && !ec:
		return errors.New("role TFTP-EC wants an EC key; RSA ones serve in role TFTP")
	case ec && !slices.Contains(ecRoles, r):
		return fmt.Errorf("role %s wants an RSA key: phones verify no other there", r)
	case (r == RoleSASTRecovery || r == RoleTFTP) && kind != capf.RSA2048 && kind != capf.RSA4096:
		return errors.New("phones verify signatures of RSA keys with 2048 or 4096 bits only")
	}
	return nil
}

func fitUsage(r Role, c *x509.Certificate) error {
	if r == RoleCAPF {
		switch {
		case !c.IsCA || !c.BasicConstraintsValid:
			return errors.New("it is no CA (basicConstraints CA:TRUE is missing), and role CAPF issues the phones' certificates")
		case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
			return errors.New("its key usage lacks keyCertSign, so that it may issue nothing")
		case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCRLSign == 0:
			return errors.New("its key usage lacks cRLSign, so that nobody would believe its revocation list")
		}
		return nil
	}
	if c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return errors.New("its key usage lacks digitalSignature")
	}
	if profiles[r].names && len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 &&
		!slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return errors.New("its extended key usage lacks serverAuth")
	}
	return nil
}

// fitChain checks every signature from the certificate up, and that CAs may be where they are.
func (a *Authority) fitChain(r Role, b *Bundle, roots []*x509.Certificate) error {
	top, below := b.Cert, 0
	if b.Cert.IsCA {
		below = 1
	}
	for _, ca := range b.Chain {
		switch {
		case !ca.IsCA || !ca.BasicConstraintsValid:
			return fmt.Errorf("%s above it is no CA", ca.Subject)
		case a.now().After(ca.NotAfter):
			return fmt.Errorf("%s above it ended on %s", ca.Subject, day(ca.NotAfter))
		}
		if limit, ok := pathLen(ca); ok && below > limit {
			return fmt.Errorf("%s above it has pathlen:%d and may have no CA below: take an issuing CA signed by a root, or import %s itself", ca.Subject, limit, ca.Subject)
		}
		if err := top.CheckSignatureFrom(ca); err != nil {
			return fmt.Errorf("%s did not rightly sign %s: %w", ca.Subject, top.Subject, err)
		}
		top = ca
		below++
	}
	selfSigned := bytes.Equal(top.RawIssuer, top.RawSubject) && verifies(top, top)
	if len(roots) > 0 {
		for _, root := range roots {
			if root.Equal(top) {
				return nil
			}
			if !selfSigned && top.CheckSignatureFrom(root) == nil {
				if limit, ok := pathLen(root); ok && below > limit {
					return fmt.Errorf("the root %s has pathlen:%d, too little for this chain", root.Subject, limit)
				}
				b.Chain = append(b.Chain, root)
				return nil
			}
		}
		return fmt.Errorf("its chain ends at %s, which none of the given roots has signed", top.Subject)
	}
	if r == RoleCAPF && !selfSigned {
		return fmt.Errorf("its chain ends at %s, whose issuer %s is not in the file: add that CA to the file, or give the root beside", top.Subject, top.Issuer)
	}
	return nil
}

func pathLen(c *x509.Certificate) (int, bool) {
	if c.MaxPathLen > 0 || c.MaxPathLen == 0 && c.MaxPathLenZero {
		return c.MaxPathLen, true
	}
	return 0, false
}

func chainKey(serial string) string { return "pki/chain/" + serial }

// keepBundle adds an imported certificate with its key and chain to a group.
func (a *Authority) keepBundle(b *batch, r Role, given *Bundle) (serial string, err error) {
	serial = serialText(given.Cert.SerialNumber)
	if err := a.keep(b, r, given.Cert, given.Key); err != nil {
		return "", err
	}
	b.set["pki/cert/"+serial+"/imported"] = []byte("1")
	var chain []byte
	for _, ca := range given.Chain {
		if r == RoleCAPF {
			if i, known := a.info(serialText(ca.SerialNumber)); known && i.Fingerprint != fingerprint(ca) {
				return "", fmt.Errorf("the serial number %s of %s above it is that of %s already", serialText(ca.SerialNumber), ca.Subject, i.Subject)
			} else if !known {
				if err := a.record(b, ca, RoleRoot, ""); err != nil {
					return "", err
				}
			}
		} else if !bytes.Equal(ca.RawIssuer, ca.RawSubject) {
			chain = append(chain, ca.Raw...)
		}
	}
	if len(chain) > 0 {
		b.set[chainKey(serial)] = chain
	}
	return serial, nil
}

// imported reports whether a certificate came from elsewhere.
func (a *Authority) imported(serial string) bool {
	_, ok := a.opts.State.Get("pki/cert/" + serial + "/imported")
	return ok
}

// ChainPEM is the certificate in use of a role and the CAs above it, the root last: what others need to trust it.
func (a *Authority) ChainPEM(r Role) ([]byte, error) {
	var chain []*x509.Certificate
	if r == RoleRoot {
		serial, _ := a.current(RoleRoot)
		root, err := a.certificate(serial)
		if err != nil {
			return nil, fmt.Errorf("pki: root: %w", err)
		}
		chain = append(chain, root)
	} else {
		id, err := a.Identity(r)
		if err != nil {
			return nil, err
		}
		for _, der := range id.Certificate {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, fmt.Errorf("pki: role %s: %w", r, err)
			}
			chain = append(chain, c)
		}
		for all := append(a.Issuers(), a.Roots()...); len(chain) < maxChain; {
			next := issuerIn(chain[len(chain)-1], all)
			if next == nil || next.Equal(chain[len(chain)-1]) {
				break
			}
			chain = append(chain, next)
		}
	}
	var out []byte
	for _, c := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out, nil
}
