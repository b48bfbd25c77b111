package pki

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"ringfence/pki/capf"
)

// ImportIssuer makes a CA from elsewhere the issuing CA of this appliance, and thereby its CAPF certificate: for phones that
// hold certificates of another system. Parents are the CAs above it, if any. Phones have to be given a trust list with it.
// The previous issuing CA goes on being recognised.
func (a *Authority) ImportIssuer(ctx context.Context, cert *x509.Certificate, key crypto.Signer, parents ...*x509.Certificate) error {
	if err := a.importable(cert, key); err != nil {
		return fmt.Errorf("pki: import CA %s: %w", cert.Subject, err)
	}
	b := newBatch(a.opts.State)
	for _, p := range parents {
		if !p.IsCA {
			return fmt.Errorf("pki: import CA %s: %s above it is no CA", cert.Subject, p.Subject)
		}
		if err := a.record(b, p, RoleRoot, ""); err != nil {
			return fmt.Errorf("pki: %w", err)
		}
	}
	if err := a.adopt(b, RoleCAPF, cert, key); err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	if err := b.commit(ctx); err != nil {
		return fmt.Errorf("pki: import CA %s: %w", cert.Subject, err)
	}
	a.log.Info("imported issuing CA", "subject", cert.Subject.String(), "serial", serialText(cert.SerialNumber))
	return nil
}

func (a *Authority) importable(cert *x509.Certificate, key crypto.Signer) error {
	switch {
	case !cert.IsCA || !cert.BasicConstraintsValid:
		return errors.New("it is no CA")
	case cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("it may not sign certificates")
	case !capf.KindOf(cert.PublicKey).Known():
		return errors.New("its key is of a kind that is not supported")
	}
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(cert.PublicKey) {
		return errors.New("the key does not belong to it")
	}
	return inTime(cert, a.now(), 0)
}

// ImportLSC takes over a certificate that an imported CA issued to a phone, so that the phone need not enrol again. It does
// nothing to a phone that has one here.
func (a *Authority) ImportLSC(ctx context.Context, cert *x509.Certificate) (device string, err error) {
	device, model, err := deviceOf(cert.RawSubject)
	if err != nil {
		return "", fmt.Errorf("pki: import certificate: %w", err)
	}
	if model != "" {
		return "", fmt.Errorf("pki: import certificate: that of %s is a MIC", device)
	}
	issuer := a.issuerOf(cert)
	if issuer == nil {
		return "", fmt.Errorf("pki: import certificate of %s: issued by no CA of this installation", device)
	}
	if err := cert.CheckSignatureFrom(issuer); err != nil {
		return "", fmt.Errorf("pki: import certificate of %s: %w", device, err)
	}
	defer a.lock(device)()
	if _, have := a.opts.State.Get(deviceKey(device, "lsc")); have {
		return device, nil
	}
	serial := serialText(cert.SerialNumber)
	b := newBatch(a.opts.State)
	if err := a.record(b, cert, "", device); err != nil {
		return "", fmt.Errorf("pki: %w", err)
	}
	b.set[stateKey(serial)] = []byte(storedConfirmed)
	b.set[deviceKey(device, "issued/"+serial)] = []byte("1")
	b.set[deviceKey(device, "lsc")] = []byte(serial)
	if err := b.commit(ctx); err != nil {
		return "", fmt.Errorf("pki: import certificate of %s: %w", device, err)
	}
	return device, nil
}
