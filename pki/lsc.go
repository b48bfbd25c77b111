package pki

import (
	"context"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"ringfence/pki/capf"
)

// maxUnfinished bounds the enrolments that a device may begin in an hour and not finish: each leaves a certificate behind.
const maxUnfinished = 8

// IssueLSC issues a certificate to a phone's public key and records it as unconfirmed. The phone's certificate in use goes
// on being valid until ConfirmLSC.
func (a *Authority) IssueLSC(ctx context.Context, device string, pub crypto.PublicKey) (der []byte, serial string, err error) {
	if !validDevice(device) {
		return nil, "", fmt.Errorf("pki: %.64q is no name of a device", device)
	}
	if err := capf.CheckKey(pub, capf.KindOf(pub)); err != nil || capf.KindOf(pub) == "" {
		return nil, "", fmt.Errorf("pki: phone %s: public key of a kind that is not issued for", device)
	}
	if err := a.CheckClock(ctx); err != nil {
		return nil, "", fmt.Errorf("pki: phone %s: no certificate: %w", device, err)
	}
	defer a.lock(device)()
	recent := 0
	for _, r := range a.Issued(device) {
		if r.State == Unconfirmed && a.now().Sub(r.Issued) < time.Hour {
			recent++
		}
	}
	if recent >= maxUnfinished {
		return nil, "", fmt.Errorf("pki: phone %s: %d enrolments in the last hour were not finished", device, recent)
	}
	cert, err := a.signLSC(device, pub)
	if err != nil {
		return nil, "", fmt.Errorf("pki: phone %s: %w", device, err)
	}
	serial = serialText(cert.SerialNumber)
	b := newBatch(a.opts.State)
	if err := a.record(b, cert, "", device); err != nil {
		return nil, "", fmt.Errorf("pki: phone %s: %w", device, err)
	}
	b.set[stateKey(serial)] = []byte(storedUnconfirmed)
	b.set[deviceKey(device, "issued/"+serial)] = []byte("1")
	a.stampClock(b)
	if err := b.commit(ctx); err != nil {
		return nil, "", fmt.Errorf("pki: phone %s: record certificate: %w", device, err)
	}
	return cert.Raw, serial, nil
}

// signLSC makes the certificate of capf.md §5. The engine's SignWithContext wants a request with a signature, which CAPF
// does not have, so its signer is used directly.
func (a *Authority) signLSC(device string, pub crypto.PublicKey) (*x509.Certificate, error) {
	engine, err := a.smallstep()
	if err != nil {
		return nil, err
	}
	signer, err := engine.GetX509Signer()
	if err != nil {
		return nil, fmt.Errorf("certificate engine: signer: %w", err)
	}
	issuer, err := a.issuer()
	if err != nil {
		return nil, err
	}
	t, err := lscTemplate(device, issuer)
	if err != nil {
		return nil, err
	}
	now := a.now().Truncate(time.Second)
	t.SerialNumber = a.serial()
	t.NotBefore = now
	t.NotAfter = end(now.AddDate(0, 0, a.opts.LSCDays), issuer.NotAfter)
	if !t.NotAfter.After(now) {
		return nil, fmt.Errorf("the issuing CA ended on %s", day(issuer.NotAfter))
	}
	a.publish(t, issuer)
	return sign(t, issuer, pub, signer)
}

var (
	oidCommonName = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidSAN        = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// lscTemplate is all of an LSC but serial, dates, key and signature, in the form that phones and RADIUS servers were seen to
// work with: subject in the order CN, then the issuer's attributes; alternative name a bare URI.
func lscTemplate(device string, issuer *x509.Certificate) (*x509.Certificate, error) {
	subject, err := lscSubject(device, issuer.RawSubject)
	if err != nil {
		return nil, err
	}
	// uniformResourceIdentifier [6] IA5String. Go would want a scheme.
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(device)}})
	if err != nil {
		return nil, fmt.Errorf("alternative name: %w", err)
	}
	return &x509.Certificate{
		RawSubject:            subject,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageIPSECEndSystem},
		ExtraExtensions:       []pkix.Extension{{Id: oidSAN, Value: san}},
		SignatureAlgorithm:    sha256With(issuer),
	}, nil
}

// attribute and its sets keep the value as it is encoded in the issuer, whatever its string type.
type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

type attributeSET []attribute

// lscSubject writes the subject: CN = device, then every O, OU, L, ST and C of the issuer in the issuer's order.
func lscSubject(device string, issuer []byte) ([]byte, error) {
	var rdns []attributeSET
	if rest, err := asn1.Unmarshal(issuer, &rdns); err != nil || len(rest) != 0 {
		return nil, errors.New("subject of the issuing CA cannot be read")
	}
	out := []attributeSET{{{oidCommonName, asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(device)}}}}
	for _, set := range rdns {
		for _, at := range set {
			if inLSC(at.Type) {
				out = append(out, attributeSET{at})
			}
		}
	}
	return asn1.Marshal(out)
}

// inLSC reports whether an attribute of the issuer goes into its phones' subjects: L, ST, O, OU, C.
func inLSC(t asn1.ObjectIdentifier) bool {
	if len(t) != 4 || t[0] != 2 || t[1] != 5 || t[2] != 4 {
		return false
	}
	switch t[3] {
	case 6, 7, 8, 10, 11:
		return true
	}
	return false
}

// ConfirmLSC makes a certificate the phone's current one, after the phone said that it has stored it. What was current is
// superseded, and a scheduled installation is done: all in one group.
func (a *Authority) ConfirmLSC(ctx context.Context, device, serial string) error {
	defer a.lock(device)()
	return a.confirmLocked(ctx, device, serial, nil)
}

// confirmLocked is ConfirmLSC with further fields for the group. The caller holds the device's lock.
func (a *Authority) confirmLocked(ctx context.Context, device, serial string, also map[string][]byte) error {
	i, ok := a.info(serial)
	if !ok || i.Device != device {
		return fmt.Errorf("pki: phone %s: certificate %s: %w", device, serial, ErrUnknown)
	}
	switch s := a.stateOf(serial, i); s {
	case Unconfirmed, Current, Superseded:
	default:
		return fmt.Errorf("pki: phone %s: certificate %s is %s", device, serial, s)
	}
	set := map[string][]byte{
		stateKey(serial):         []byte(storedConfirmed),
		deviceKey(device, "lsc"): []byte(serial),
	}
	for k, v := range also {
		set[k] = v
	}
	for _, r := range a.Issued(device) {
		if r.State == Unconfirmed && r.Serial != serial && r.Issued.Before(i.Issued) {
			set[stateKey(r.Serial)] = []byte(storedSuperseded)
		}
	}
	var del []string
	if op, ok := a.Scheduled(device); ok && op.Operation == capf.Install {
		del = append(del, deviceKey(device, "operation"))
	}
	if err := a.opts.State.Write(ctx, set, del...); err != nil {
		return fmt.Errorf("pki: phone %s: confirm certificate: %w", device, err)
	}
	return nil
}

// DiscardLSC records that the phone did not store a certificate. Nothing else changes.
func (a *Authority) DiscardLSC(ctx context.Context, device, serial string) error {
	defer a.lock(device)()
	i, ok := a.info(serial)
	if !ok || i.Device != device {
		return fmt.Errorf("pki: phone %s: certificate %s: %w", device, serial, ErrUnknown)
	}
	if s := a.stateOf(serial, i); s == Current {
		return fmt.Errorf("pki: phone %s: certificate %s is current and cannot be discarded", device, serial)
	}
	if err := a.opts.State.Write(ctx, map[string][]byte{stateKey(serial): []byte(storedDeleted)}); err != nil {
		return fmt.Errorf("pki: phone %s: discard certificate: %w", device, err)
	}
	return nil
}

// DeletedLSC records that the phone has no certificate any more, and that a scheduled deletion is done. Unconfirmed ones
// are gone with it.
func (a *Authority) DeletedLSC(ctx context.Context, device string) error {
	defer a.lock(device)()
	set, del := a.withoutLSC(device)
	if op, ok := a.Scheduled(device); ok && op.Operation != capf.Install {
		del = append(del, deviceKey(device, "operation"))
	}
	if err := a.opts.State.Write(ctx, set, del...); err != nil {
		return fmt.Errorf("pki: phone %s: record deletion: %w", device, err)
	}
	return nil
}

// withoutLSC is the group that says that a device holds no certificate.
func (a *Authority) withoutLSC(device string) (set map[string][]byte, del []string) {
	set = make(map[string][]byte)
	for _, r := range a.Issued(device) {
		if r.State == Current || r.State == Unconfirmed {
			set[stateKey(r.Serial)] = []byte(storedDeleted)
		}
	}
	return set, []string{deviceKey(device, "lsc")}
}

// CurrentLSC returns the certificate that the phone is known to hold, unless it is revoked. It may have ended: files for the
// phone are still encrypted with it then, since the phone has no other key.
func (a *Authority) CurrentLSC(device string) (*x509.Certificate, bool) {
	v, ok := a.opts.State.Get(deviceKey(device, "lsc"))
	if !ok || a.IsRevoked(string(v)) {
		return nil, false
	}
	c, err := a.certificate(string(v))
	if err != nil {
		a.log.Error("certificate of a phone", "phone", device, "err", err)
		return nil, false
	}
	return c, true
}
