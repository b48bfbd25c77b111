package pki

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
	"time"

	"ringfence/pki/capf"
)

// clockSkew is tolerated at the beginning of a certificate: the appliance that issued it may be a little ahead.
const clockSkew = 5 * time.Minute

// VerifyDevice tells which device a certificate proves, given that its holder has shown the key: a phone's certificate of
// ours that is current, not revoked and in time, or a MIC below a configured root. A certificate that was issued and not
// confirmed is accepted too while no later one is confirmed: it went to a phone that had proven itself, and if the
// connection broke before the phone could say so, that phone holds no other (capf.md §7).
//
// want is the device that is expected; empty takes any. Errors wrap ErrRefused and say why.
func (a *Authority) VerifyDevice(cert *x509.Certificate, intermediates []*x509.Certificate, want string) (DeviceIdentity, error) {
	id, err := a.verifyDevice(cert, intermediates, want, 0)
	if err != nil {
		return DeviceIdentity{}, fmt.Errorf("pki: %w: %w", ErrRefused, err)
	}
	return id, nil
}

// verifyDevice is VerifyDevice with a grace for LSCs that have ended.
func (a *Authority) verifyDevice(cert *x509.Certificate, intermediates []*x509.Certificate, want string, grace time.Duration) (DeviceIdentity, error) {
	if cert == nil {
		return DeviceIdentity{}, errors.New("no certificate")
	}
	device, model, err := deviceOf(cert.RawSubject)
	if err != nil {
		return DeviceIdentity{}, err
	}
	if want != "" && device != want {
		return DeviceIdentity{}, fmt.Errorf("certificate is that of %s, not of %s", device, want)
	}
	if model != "" {
		if err := a.verifyMIC(cert, intermediates); err != nil {
			return DeviceIdentity{}, fmt.Errorf("MIC of %s: %w", device, err)
		}
		return DeviceIdentity{Device: device, Kind: capf.KindMIC}, nil
	}
	id, err := a.verifyLSC(cert, device, grace)
	if err != nil {
		return DeviceIdentity{}, fmt.Errorf("LSC of %s: %w", device, err)
	}
	return id, nil
}

func (a *Authority) verifyLSC(cert *x509.Certificate, device string, grace time.Duration) (id DeviceIdentity, err error) {
	issuer := a.issuerOf(cert)
	if issuer == nil {
		return id, errors.New("issued by no CA of this installation")
	}
	if err := cert.CheckSignatureFrom(issuer); err != nil {
		return id, err
	}
	id = DeviceIdentity{Device: device, Kind: capf.KindLSC, Serial: serialText(cert.SerialNumber)}
	i, ok := a.info(id.Serial)
	if !ok || i.Device != device || !a.same(cert) {
		return id, fmt.Errorf("serial %s is not on record for this device", id.Serial)
	}
	id.State = a.stateOf(id.Serial, i)
	if id.State != Current && id.State != Unconfirmed {
		return id, fmt.Errorf("serial %s is %s", id.Serial, id.State)
	}
	return id, inTime(cert, a.Moment(), grace)
}

// issuerOf finds the CA that a certificate names, nil if it is none of ours.
func (a *Authority) issuerOf(cert *x509.Certificate) *x509.Certificate {
	for _, ca := range a.Issuers() {
		if !bytes.Equal(ca.RawSubject, cert.RawIssuer) {
			continue
		}
		if len(cert.AuthorityKeyId) == 0 || bytes.Equal(ca.SubjectKeyId, cert.AuthorityKeyId) {
			return ca
		}
	}
	return nil
}

func inTime(cert *x509.Certificate, now time.Time, grace time.Duration) error {
	if now.Add(clockSkew).Before(cert.NotBefore) {
		return fmt.Errorf("begins on %s, it is %s", cert.NotBefore.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	if now.After(cert.NotAfter.Add(grace)) {
		return fmt.Errorf("ended on %s", cert.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// verifyMIC checks a certificate under the configured manufacturing CAs.
func (a *Authority) verifyMIC(cert *x509.Certificate, intermediates []*x509.Certificate) error {
	if len(a.opts.MICRoots) == 0 {
		return errors.New("no manufacturing CA is configured")
	}
	roots, middle := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range a.opts.MICRoots {
		roots.AddCert(c)
	}
	for _, c := range intermediates {
		middle.AddCert(c)
	}
	_, err := cert.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: middle, CurrentTime: a.Moment(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err == nil {
		return nil
	}
	if cert.SignatureAlgorithm == x509.SHA1WithRSA {
		return a.verifySHA1(cert)
	}
	return err
}

// verifySHA1 is the narrow path for older phones, whose MIC is signed with SHA-1, which crypto/x509 refuses: one signature,
// made by a configured manufacturing CA itself, over a certificate that is no CA. Nothing else is accepted with SHA-1.
func (a *Authority) verifySHA1(cert *x509.Certificate) error {
	if cert.IsCA || len(cert.UnhandledCriticalExtensions) > 0 {
		return errors.New("signed with SHA-1 and not a plain device certificate")
	}
	if err := inTime(cert, a.Moment(), 0); err != nil {
		return err
	}
	digest := sha1.Sum(cert.RawTBSCertificate)
	for _, ca := range a.opts.MICRoots {
		pub, ok := ca.PublicKey.(*rsa.PublicKey)
		if !ok || !ca.IsCA || !bytes.Equal(ca.RawSubject, cert.RawIssuer) || inTime(ca, a.Moment(), 0) != nil {
			continue
		}
		if ca.KeyUsage != 0 && ca.KeyUsage&x509.KeyUsageCertSign == 0 {
			continue
		}
		if rsa.VerifyPKCS1v15(pub, crypto.SHA1, digest[:], cert.Signature) == nil {
			return nil
		}
	}
	return errors.New("signed with SHA-1 by no configured manufacturing CA")
}

// deviceOf is the rule by which a subject names a device (capf.md §6.4). An LSC's common name is the device name. That of a
// MIC is CP-, the model, a hyphen and the device name: CP-8841-SEP001122334455; model is empty for an LSC. A subject with
// two common names names nobody.
func deviceOf(rawSubject []byte) (device, model string, err error) {
	var rdns []attributeSET
	if rest, err := asn1.Unmarshal(rawSubject, &rdns); err != nil || len(rest) != 0 {
		return "", "", errors.New("subject cannot be read")
	}
	cn := ""
	for _, set := range rdns {
		for _, at := range set {
			if !at.Type.Equal(oidCommonName) {
				continue
			}
			if cn != "" {
				return "", "", errors.New("subject with two common names")
			}
			switch at.Value.Tag {
			case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String, asn1.TagT61String:
				cn = string(at.Value.Bytes)
			default:
				return "", "", errors.New("common name in an unusual encoding")
			}
			if cn == "" {
				return "", "", errors.New("empty common name")
			}
		}
	}
	if rest, ok := strings.CutPrefix(cn, "CP-"); ok {
		i := strings.LastIndexByte(rest, '-')
		if i < 1 || !validMAC(rest[i+1:]) || !validModel(rest[:i]) {
			return "", "", fmt.Errorf("common name %.64q names no device", cn)
		}
		return rest[i+1:], rest[:i], nil
	}
	if !validDevice(cn) {
		return "", "", fmt.Errorf("common name %.64q names no device", cn)
	}
	return cn, "", nil
}

// validMAC reports whether a name is three capitals and a MAC in capitals, the form of every hardware phone's.
func validMAC(s string) bool {
	if len(s) != 15 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case i < 3 && c >= 'A' && c <= 'Z':
		case i >= 3 && (c >= '0' && c <= '9' || c >= 'A' && c <= 'F'):
		default:
			return false
		}
	}
	return true
}

// validModel reports whether a model is letters, digits and the few marks that models carry.
func validModel(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= '0' && c <= '9', c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c == '-', c == '+', c == '.':
		default:
			return false
		}
	}
	return s != "" && len(s) <= 32
}

// validDevice reports whether a text can be the name of a device, hardware or software. It is part of state keys.
func validDevice(s string) bool {
	if s == "" || len(s) > 64 || strings.HasPrefix(s, "CP-") {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= '0' && c <= '9', c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}
