package pki

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/authority/provisioner"
)

// reasonCodes are the reasons of RFC 5280 §5.3.1 that make sense here. Any other text is kept, and coded as unspecified.
var reasonCodes = map[string]int{
	"unspecified": 0, "keycompromise": 1, "affiliationchanged": 3, "superseded": 4, "cessationofoperation": 5,
}

// crlLife is how long a CRL may be used; a new one is made at half of it.
const crlLife = 7 * 24 * time.Hour

// Revoke revokes a certificate. It counts from the moment Revoke returns: VerifyDevice, CurrentLSC and Find look at the
// record each time. The appliance's own certificates in use cannot be revoked, since phones would be cut off: replace
// them first.
func (a *Authority) Revoke(ctx context.Context, serial, reason string) error {
	n, ok := parseSerial(serial)
	if !ok {
		return fmt.Errorf("pki: serial %.64q: %w", serial, ErrUnknown)
	}
	serial = serialText(n)
	i, ok := a.info(serial)
	if !ok {
		return fmt.Errorf("pki: serial %s: %w", serial, ErrUnknown)
	}
	if a.IsRevoked(serial) {
		return nil
	}
	if i.Device == "" && i.Role != RoleServer && a.stateOf(serial, i) == Current {
		return fmt.Errorf("pki: certificate %s of role %s is in use: replace it first", serial, i.Role)
	}
	cert, err := a.certificate(serial)
	if err != nil {
		return fmt.Errorf("pki: revoke: %w", err)
	}
	engine, err := a.smallstep()
	if err != nil {
		return fmt.Errorf("pki: revoke: %w", err)
	}
	code := reasonCodes[strings.ToLower(strings.NewReplacer(" ", "", "-", "", "_", "").Replace(reason))]
	// Crt with ACME set is how the engine is told that the caller, not a token, is the authority to revoke.
	err = engine.Revoke(provisioner.NewContextWithMethod(ctx, provisioner.RevokeMethod), &authority.RevokeOptions{
		Serial: n.String(), Reason: reason, ReasonCode: code, PassiveOnly: true, ACME: true, Crt: cert,
	})
	if err != nil {
		return fmt.Errorf("pki: revoke %s: %w", serial, err)
	}
	a.log.Info("revoked", "serial", serial, "phone", i.Device, "reason", reason)
	return nil
}

// RevokeDevice revokes every certificate of a device that still proves it: the phone was stolen or given away.
func (a *Authority) RevokeDevice(ctx context.Context, device, reason string) (n int, err error) {
	for _, r := range a.Issued(device) {
		if r.State != Current && r.State != Unconfirmed {
			continue
		}
		if err := a.Revoke(ctx, r.Serial, reason); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// CRL returns the revocation list of this appliance's issuing CA, DER. It is made anew when a revocation is missing from
// it, also one that came from the other appliance, and when half its life is over. Its number is kept in the state, the list
// itself is not: it may be larger than a field.
func (a *Authority) CRL(ctx context.Context) ([]byte, error) {
	a.crlMu.Lock()
	defer a.crlMu.Unlock()
	now := a.now().Truncate(time.Second)
	entries, err := a.revokedEntries(now)
	if err != nil {
		return nil, fmt.Errorf("pki: CRL: %w", err)
	}
	if a.crl != nil && a.crlFits(a.crl, entries, now) {
		return a.crl, nil
	}
	if err := a.clockFit(now); err != nil {
		return nil, fmt.Errorf("pki: CRL: %w", err)
	}
	id, err := a.Identity(RoleCAPF)
	if err != nil {
		return nil, fmt.Errorf("pki: CRL: %w", err)
	}
	key, number := "pki/crl/"+a.seal.node(), big.NewInt(1)
	if v, ok := a.opts.State.Get(key); ok {
		if last, ok := new(big.Int).SetString(string(v), 10); ok {
			number.Add(number, last)
		}
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: number, ThisUpdate: now, NextUpdate: now.Add(crlLife),
		RevokedCertificateEntries: entries, SignatureAlgorithm: sha256With(id.Leaf),
	}, id.Leaf, id.PrivateKey.(crypto.Signer))
	if err != nil {
		return nil, fmt.Errorf("pki: CRL: %w", err)
	}
	if err := a.opts.State.Write(ctx, map[string][]byte{key: []byte(number.String())}); err != nil {
		return nil, fmt.Errorf("pki: CRL: %w", err)
	}
	a.crl = der
	return der, nil
}

// revokedEntries lists what belongs into the CRL: certificates of this issuing CA that have not ended.
func (a *Authority) revokedEntries(now time.Time) ([]x509.RevocationListEntry, error) {
	list, err := a.db.GetRevokedCertificates()
	if err != nil {
		return nil, err
	}
	var out []x509.RevocationListEntry
	for _, r := range *list {
		n, ok := new(big.Int).SetString(r.Serial, 10)
		if !ok {
			continue
		}
		i, ok := a.info(serialText(n))
		if !ok || i.Node != a.seal.node() || i.NotAfter.Before(now) || i.Role == RoleCAPF || i.Role == RoleRoot {
			continue
		}
		out = append(out, x509.RevocationListEntry{SerialNumber: n, RevocationTime: r.RevokedAt, ReasonCode: r.ReasonCode})
	}
	slices.SortFunc(out, func(x, y x509.RevocationListEntry) int { return x.SerialNumber.Cmp(y.SerialNumber) })
	return out, nil
}

// crlFits reports whether a CRL still says what is to be said.
func (a *Authority) crlFits(der []byte, want []x509.RevocationListEntry, now time.Time) bool {
	l, err := x509.ParseRevocationList(der)
	if err != nil || now.Before(l.ThisUpdate) || now.After(l.ThisUpdate.Add(crlLife/2)) || len(l.RevokedCertificateEntries) != len(want) {
		return false
	}
	issuer, err := a.issuer()
	if err != nil || l.CheckSignatureFrom(issuer) != nil {
		return false
	}
	for i, e := range l.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(want[i].SerialNumber) != 0 {
			return false
		}
	}
	return true
}
