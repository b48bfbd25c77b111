package phone

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"ringfence/pki/capf"
	"ringfence/trust"
)

const enrolTries = 3 // capf §8: a phone that loses the connection while installing tries three times

// errWaitsForCode says that capfAuthMode is 1 and nobody has typed the code.
var errWaitsForCode = errors.New("the code of capfAuthMode 1 has not been typed")

// enrol runs a CAPF session with the first server of the list that can be reached. due says that the phone cannot go on
// without a certificate: then a lost session is tried again. It tells whether the LSC changed.
func (p *Phone) enrol(ctx context.Context, c *Config, due bool) (changed bool, err error) {
	switch {
	case len(c.CAPF) == 0:
		return false, errors.New("no CAPF server in the file")
	case c.CAPFMode == 1 && p.opt.CAPFCode == "":
		return false, errWaitsForCode
	}
	for try := 1; ; try++ {
		var errs []error
		for _, n := range c.CAPF {
			changed, err = p.enrolWith(ctx, c, n)
			if err == nil || changed {
				return changed, err
			}
			errs = append(errs, err)
			if !errors.Is(err, capf.ErrNoEnd) && !RefusedAs(err, ServerRole) && !RefusedAs(err, ServerUnknown) {
				break // the session was held and ended badly: another server would say the same
			}
		}
		err = errors.Join(errs...)
		if !due || try == enrolTries || !errors.Is(err, capf.ErrNoEnd) || RefusedAs(err, SplitRecord) {
			return false, err
		}
		p.event(StepCAPF, "session lost, trying again", err)
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(p.opt.Timers.CAPFRetry):
		}
	}
}

func (p *Phone) enrolWith(ctx context.Context, c *Config, n Node) (changed bool, err error) {
	host, err := p.net().Lookup(ctx, n.Host)
	if err != nil {
		return false, err
	}
	addr := netip.AddrPortFrom(host, uint16(n.Port))
	conn, err := p.dialTLS(ctx, StepCAPF, addr, trust.CAPF, "CAPF server", false)
	if err != nil {
		if _, refused := errors.AsType[*Refusal](err); refused {
			return false, err
		}
		return false, fmt.Errorf("CAPF server %s: %w: %w", addr, capf.ErrNoEnd, err)
	}
	var refusal *Refusal
	rc := newRecordConn(conn, measureCAPF, func(text string) {
		refusal = p.refused(StepCAPF, refuse(SplitRecord, nil, "CAPF: %s", text))
	})
	p.mu.Lock()
	lsc := p.flash.lsc
	p.mu.Unlock()
	client := capf.Client{
		Device:   p.opt.Device,
		Progress: 1,
		GenerateKey: func(k capf.KeyKind) (crypto.Signer, error) {
			if k.IsEC() && !p.ecAllowed() {
				return nil, fmt.Errorf("%s without a trust list of version 1.1", k)
			}
			p.event(StepCAPF, fmt.Sprintf("making a key (%s)", k), nil)
			return capf.GenerateKey(k)
		},
		Store: func(der []byte, key crypto.Signer) error {
			if err := p.storeLSC(der, key); err != nil {
				p.refused(StepCAPF, refuse(CAPFProtocol, err, "certificate not stored"))
				return err
			}
			changed = true
			return nil
		},
		Delete: func() error {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.flash.lsc == nil {
				return errors.New("no LSC")
			}
			changed = true
			return p.flash.storeLSC(nil, nil)
		},
	}
	switch c.CAPFMode {
	case 1:
		client.Password = p.opt.CAPFCode
	case 3, 4:
		if c.CAPFMode == 3 && lsc != nil {
			client.Proof = proofOf(lsc)
		} else if p.opt.MIC != nil {
			client.Proof, client.ProofType = proofOf(p.opt.MIC), capf.TypeLSC
		}
		if p.opt.MIC != nil {
			client.SUDI = proofOf(p.opt.MIC)
		}
	}
	if lsc != nil {
		client.Installed = lsc.Certificate[0]
	}
	res, err := client.Run(ctx, rc)
	switch {
	case refusal != nil:
		return changed, refusal
	case errors.Is(err, capf.ErrMalformed):
		return changed, p.refused(StepCAPF, refuse(CAPFProtocol, err, "%s", addr))
	case err != nil:
		return changed, err
	case res.Reason != capf.ReasonDone && res.Reason != capf.ReasonNothing:
		return changed, p.refused(StepCAPF, refuse(CAPFRefused, nil, "session with %s ended: %s", addr, res.Reason))
	}
	p.event(StepCAPF, fmt.Sprintf("session with %s: %s, %s", addr, res.Operation, res.Reason), nil)
	return changed, nil
}

func proofOf(c *tls.Certificate) *capf.Identity {
	key, ok := c.PrivateKey.(crypto.Signer)
	if !ok {
		return nil
	}
	return &capf.Identity{Certificate: c.Certificate[0], Key: key}
}

// Proof is the LSC with its key, as the phone proves itself to CAPF; nil without one.
func (p *Phone) Proof() *capf.Identity {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flash.lsc == nil {
		return nil
	}
	return proofOf(p.flash.lsc)
}

// ecAllowed says whether the trust list has version 1.1, which switches EC keys on (tlv §6).
func (p *Phone) ecAllowed() bool {
	l := p.TrustList()
	return p.man.https && l != nil && l.Version >= 1
}

// storeLSC keeps a certificate, if it is one for the key that this phone has just made.
func (p *Phone) storeLSC(der []byte, key crypto.Signer) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(cert.PublicKey) {
		return errors.New("certificate is for another key")
	}
	if cert.Subject.CommonName != p.opt.Device {
		return fmt.Errorf("certificate names %q", cert.Subject.CommonName)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flash.storeLSC(der, key)
}

// EraseLSC removes the certificate, as a factory reset does.
func (p *Phone) EraseLSC() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flash.storeLSC(nil, nil)
}
