package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"ringfence/pki/ocsp"
)

// Every issuing CA whose certificates are still about has a revocation list of its own, signed by its own key: whoever checks
// a chain takes no other. A root's list is made whenever its key is at hand and is good for long, since the key may lie in a
// safe; all others are made when they are asked for.

const (
	crlLife         = 7 * 24 * time.Hour // a new one is made at half of it
	rootCRLLife     = year               // while the root's key is on the appliance
	rootCRLLifeAway = 10 * year          // when it is taken away or locked
)

// KeyID is how URLs name a CA: the hexadecimal digits of its key identifier.
func KeyID(ca *x509.Certificate) string {
	if len(ca.SubjectKeyId) > 0 && len(ca.SubjectKeyId) <= 32 {
		return hex.EncodeToString(ca.SubjectKeyId)
	}
	sum := sha1.Sum(ca.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// CRL returns the revocation list of this appliance's present issuing CA, DER. See CRLOf.
func (a *Authority) CRL(ctx context.Context) ([]byte, error) {
	ca, err := a.issuer()
	if err != nil {
		return nil, fmt.Errorf("pki: CRL: %w", err)
	}
	return a.crlBy(ctx, ca)
}

// CRLOf returns the revocation list of the CA with a key id: one of this appliance's issuing CAs, present or before, or its
// root. A list is made anew when a revocation is missing from it, also one that came from the other appliance, and when half
// its life is over. Its number is kept in the state, the list itself is not: it may be larger than a field.
func (a *Authority) CRLOf(ctx context.Context, keyID string) ([]byte, error) {
	ca, ok := a.AuthorityOf(keyID)
	if !ok {
		return nil, fmt.Errorf("pki: CRL of %.64q: %w", keyID, ErrUnknown)
	}
	if i, _ := a.info(serialText(ca.SerialNumber)); i.Role == RoleRoot {
		return a.rootCRL(ctx, ca)
	}
	return a.crlBy(ctx, ca)
}

// AuthorityOf finds a CA of the installation by its key id.
func (a *Authority) AuthorityOf(keyID string) (*x509.Certificate, bool) {
	for _, ca := range append(a.Issuers(), a.Roots()...) {
		if KeyID(ca) == keyID {
			return ca, true
		}
	}
	return nil, false
}

// Publishers are the CAs whose revocation lists this appliance can give: its issuing CAs, present and before, whose
// certificates have not ended, and its root if it has ever made one.
func (a *Authority) Publishers() []*x509.Certificate {
	var out []*x509.Certificate
	for _, ca := range a.Issuers() {
		if a.hasKey(serialText(ca.SerialNumber)) && a.now().Before(ca.NotAfter) {
			out = append(out, ca)
		}
	}
	if serial, ok := a.current(RoleRoot); ok {
		_, stored := a.opts.State.Get(a.rootCRLKey(serial))
		if root, err := a.certificate(serial); err == nil && (stored || a.hasKey(serial)) {
			out = append(out, root)
		}
	}
	return out
}

// CRLs returns the lists of all Publishers.
func (a *Authority) CRLs(ctx context.Context) ([][]byte, error) {
	var out [][]byte
	for _, ca := range a.Publishers() {
		der, err := a.CRLOf(ctx, KeyID(ca))
		if err != nil {
			return nil, err
		}
		out = append(out, der)
	}
	return out, nil
}

// crlBy returns the list of an issuing CA.
func (a *Authority) crlBy(ctx context.Context, ca *x509.Certificate) ([]byte, error) {
	a.crlMu.Lock()
	defer a.crlMu.Unlock()
	serial, now := serialText(ca.SerialNumber), a.now().Truncate(time.Second)
	entries, err := a.revokedEntries(ca, now)
	if err != nil {
		return nil, fmt.Errorf("pki: CRL: %w", err)
	}
	if last := a.crls[serial]; last != nil && crlFits(last, entries, now) {
		return last, nil
	}
	if err := a.clockFit(now); err != nil {
		return nil, fmt.Errorf("pki: CRL: %w", err)
	}
	key, err := a.privateKey(serial)
	if err != nil {
		return nil, fmt.Errorf("pki: CRL of %s: %w", ca.Subject, err)
	}
	b := newBatch(a.opts.State)
	der, err := a.signCRL(b, ca, key, entries, now, crlLife)
	if err != nil {
		return nil, fmt.Errorf("pki: CRL of %s: %w", ca.Subject, err)
	}
	if err := b.commit(ctx); err != nil {
		return nil, fmt.Errorf("pki: CRL of %s: %w", ca.Subject, err)
	}
	a.crls[serial] = der
	return der, nil
}

// signCRL makes a list and adds its number to a group.
func (a *Authority) signCRL(b *batch, ca *x509.Certificate, key crypto.Signer, entries []x509.RevocationListEntry, now time.Time, life time.Duration) ([]byte, error) {
	counter, number := "pki/crl/"+a.seal.node(), big.NewInt(1)
	if v, ok := a.opts.State.Get(counter); ok {
		if last, ok := new(big.Int).SetString(string(v), 10); ok {
			number.Add(number, last)
		}
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: number, ThisUpdate: now, NextUpdate: now.Add(life), RevokedCertificateEntries: entries, SignatureAlgorithm: sha256With(ca),
	}, ca, key)
	if err != nil {
		return nil, err
	}
	b.set[counter] = []byte(number.String())
	return der, nil
}

// revokedEntries lists what belongs into a CA's list: revoked certificates that name it as issuer and have not ended. Issuing
// CAs that follow each other may have one name; their lists then have the same entries, which harms nobody.
func (a *Authority) revokedEntries(ca *x509.Certificate, now time.Time) ([]x509.RevocationListEntry, error) {
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
		if !ok || i.Node != a.seal.node() || i.NotAfter.Before(now) {
			continue
		}
		cert, err := a.certificate(serialText(n))
		if err != nil || !bytes.Equal(cert.RawIssuer, ca.RawSubject) {
			continue
		}
		out = append(out, x509.RevocationListEntry{SerialNumber: n, RevocationTime: r.RevokedAt, ReasonCode: r.ReasonCode})
	}
	slices.SortFunc(out, func(x, y x509.RevocationListEntry) int { return x.SerialNumber.Cmp(y.SerialNumber) })
	return out, nil
}

// crlFits reports whether a list still says what is to be said, and will for half its life.
func crlFits(der []byte, want []x509.RevocationListEntry, now time.Time) bool {
	l, err := x509.ParseRevocationList(der)
	if err != nil || now.Before(l.ThisUpdate) || now.After(l.ThisUpdate.Add(l.NextUpdate.Sub(l.ThisUpdate)/2)) ||
		len(l.RevokedCertificateEntries) != len(want) {
		return false
	}
	for i, e := range l.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(want[i].SerialNumber) != 0 {
			return false
		}
	}
	return true
}

func (a *Authority) rootCRLKey(serial string) string {
	return "pki/rootcrl/" + a.seal.node() + "/" + serial
}

// rootCRL returns the root's list. It is made anew only while the key lies open on the appliance.
func (a *Authority) rootCRL(ctx context.Context, root *x509.Certificate) ([]byte, error) {
	a.crlMu.Lock()
	defer a.crlMu.Unlock()
	serial, now := serialText(root.SerialNumber), a.now().Truncate(time.Second)
	stored, have := a.opts.State.Get(a.rootCRLKey(serial))
	entries, err := a.revokedEntries(root, now)
	if err != nil {
		return nil, fmt.Errorf("pki: CRL of the root: %w", err)
	}
	if have && (!a.hasKey(serial) || crlFits(stored, entries, now) || a.clockFit(now) != nil) {
		return stored, nil
	}
	key, err := a.privateKey(serial)
	if err != nil {
		return nil, fmt.Errorf("pki: CRL of the root: %w", err)
	}
	if err := a.clockFit(now); err != nil {
		return nil, fmt.Errorf("pki: CRL of the root: %w", err)
	}
	b := newBatch(a.opts.State)
	if err := a.addRootCRL(b, root, key, rootCRLLife); err != nil {
		return nil, fmt.Errorf("pki: CRL of the root: %w", err)
	}
	if err := b.commit(ctx); err != nil {
		return nil, fmt.Errorf("pki: CRL of the root: %w", err)
	}
	return b.set[a.rootCRLKey(serial)], nil
}

// addRootCRL adds a new list of the root to a group.
func (a *Authority) addRootCRL(b *batch, root *x509.Certificate, key crypto.Signer, life time.Duration) error {
	now := a.now().Truncate(time.Second)
	entries, err := a.revokedEntries(root, now)
	if err != nil {
		return err
	}
	der, err := a.signCRL(b, root, key, entries, now, end(now.Add(life), root.NotAfter).Sub(now))
	if err != nil {
		return err
	}
	b.set[a.rootCRLKey(serialText(root.SerialNumber))] = der
	return nil
}

// publish adds to a certificate where its revocation can be looked up, when an address for that is configured.
func (a *Authority) publish(t, issuer *x509.Certificate) {
	base := strings.TrimRight(a.opts.PublishURL, "/")
	if base == "" {
		return
	}
	id := KeyID(issuer)
	t.CRLDistributionPoints = []string{base + "/crl/" + id + ".crl"}
	t.IssuingCertificateURL = []string{base + "/ca/" + id + ".cer"}
	if !t.IsCA {
		t.OCSPServer = []string{base + "/ocsp"}
	}
}

// answer is one that was given, for as long as nothing else would be said.
type answer struct {
	der  []byte
	made time.Time
}

const (
	maxAnswers = 2048
	answerLife = time.Minute // how far behind thisUpdate may be: a revocation is told at once all the same
)

// OCSP answers a request about certificates of one of this appliance's issuing CAs. A refusal is an answer too; it is returned
// as an error of type ocsp.Refused besides. A revocation is told from the moment Revoke returns.
func (a *Authority) OCSP(request []byte) ([]byte, error) {
	refuse := func(r ocsp.Refused) ([]byte, error) { return r.Marshal(), r }
	var r ocsp.Request
	if r.Unmarshal(request) != nil {
		return refuse(ocsp.Malformed)
	}
	now := a.now().Truncate(time.Second)
	if a.clockFit(now) != nil {
		return refuse(ocsp.TryLater)
	}
	var issuer *x509.Certificate
	for _, ca := range a.Issuers() {
		if r.Certs[0].IssuedBy(ca) && a.hasKey(serialText(ca.SerialNumber)) {
			issuer = ca
		}
	}
	if issuer == nil {
		return refuse(ocsp.Unauthorized)
	}
	response := ocsp.Response{Produced: now, Nonce: r.Nonce}
	var key bytes.Buffer
	key.Write(request)
	for _, c := range r.Certs {
		if !c.IssuedBy(issuer) {
			return refuse(ocsp.Unauthorized)
		}
		s := a.statusOf(c, issuer)
		key.WriteByte(byte(s.Status))
		response.Singles = append(response.Singles, s)
	}
	id := hash32(key.Bytes())
	if r.Nonce == nil {
		a.answerMu.Lock()
		last, ok := a.answers[id]
		a.answerMu.Unlock()
		if age := now.Sub(last.made); ok && age >= 0 && age < answerLife {
			return last.der, nil
		}
	}
	signer, err := a.identity(serialText(issuer.SerialNumber), RoleCAPF)
	if err != nil {
		a.log.Error("OCSP", "err", err)
		return refuse(ocsp.Internal)
	}
	der, err := response.Sign(issuer, signer.PrivateKey.(crypto.Signer))
	if err != nil {
		a.log.Error("OCSP", "err", err)
		return refuse(ocsp.Internal)
	}
	if r.Nonce == nil {
		a.answerMu.Lock()
		if len(a.answers) >= maxAnswers {
			clear(a.answers)
		}
		a.answers[id] = answer{der, now}
		a.answerMu.Unlock()
	}
	return der, nil
}

func (a *Authority) statusOf(c ocsp.CertID, issuer *x509.Certificate) ocsp.Single {
	s := ocsp.Single{Cert: c, Status: ocsp.Unknown}
	if c.Serial.Sign() <= 0 || c.Serial.BitLen() > 8*20 {
		return s
	}
	serial := serialText(c.Serial)
	cert, err := a.certificate(serial)
	if err != nil || !bytes.Equal(cert.RawIssuer, issuer.RawSubject) {
		return s
	}
	s.Status = ocsp.Good
	if rev, ok := a.revocation(serial); ok {
		s.Status, s.RevokedAt, s.Reason = ocsp.Revoked, rev.RevokedAt, rev.ReasonCode
	}
	return s
}
