package capf

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
)

// Auth is the proof that the server asks of a device. It has to agree with the <capfAuthMode> of the device's file, which
// is what the phone goes by.
type Auth byte

// The proofs.
const (
	// AuthNone asks for nothing: <capfAuthMode> 2, "null string".
	AuthNone Auth = iota
	// AuthCode asks for the code that somebody types at the phone: <capfAuthMode> 1.
	AuthCode
	// AuthCertificate asks for the LSC, or the MIC when the phone has no LSC: <capfAuthMode> 3.
	AuthCertificate
	// AuthMIC asks for the MIC: <capfAuthMode> 4.
	AuthMIC
	// AuthCodeOrCertificate takes whichever of AuthCode and AuthCertificate the phone offers: the code enrols, the LSC renews.
	AuthCodeOrCertificate
)

// ParseAuth reads a policy as the configuration writes it: null_string, code, lsc or mic. Code stands for AuthCodeOrCertificate.
func ParseAuth(s string) (Auth, error) {
	switch s {
	case "null_string":
		return AuthNone, nil
	case "code":
		return AuthCodeOrCertificate, nil
	case "lsc":
		return AuthCertificate, nil
	case "mic":
		return AuthMIC, nil
	}
	return AuthNone, fmt.Errorf("capf: proof %q is none of null_string, code, lsc, mic", s)
}

// Device is what a server needs to know of a device for one session.
type Device struct {
	Operation Operation
	Key       KeyKind // of an Install
	Auth      Auth
	// Code reports, in constant time, whether the text typed at the phone is the device's code. Nil: there is no valid code.
	Code func(typed string) bool
	// WaiveSession accepts a proof by certificate without the session-bound proof by MIC (SUDI_DATA). Such a proof can be
	// replayed by whoever saw it once; see §6.4.
	WaiveSession bool
}

// Kinds of certificate that Backend.VerifyDevice tells apart.
const (
	KindLSC = "LSC"
	KindMIC = "MIC"
)

// Backend is the authority behind a Server. Its methods are called from many sessions at once.
//
// A certificate goes through Issue, which must record it as unconfirmed before it returns, and then Confirm when the phone
// has stored it or Discard when the phone has refused it. After a lost connection neither is called: the phone may or may
// not hold the certificate, the operation stays due, and whatever the phone held before must go on working.
type Backend interface {
	// Device looks a device up, and says what is due. False: the device is not known.
	Device(name string) (Device, bool)
	// VerifyDevice checks that a certificate is valid now and names the device, and tells KindLSC or KindMIC.
	VerifyDevice(cert *x509.Certificate, device string) (kind string, err error)
	Issue(ctx context.Context, device string, pub crypto.PublicKey) (der []byte, serial string, err error)
	// Confirm makes a certificate the device's current one; byCode says that the device's code was given, and is spent.
	Confirm(ctx context.Context, device, serial string, byCode bool) error
	Discard(ctx context.Context, device, serial string) error
	// Fetched records the certificate a phone gave back; empty when it said that it has none. The operation is done.
	Fetched(ctx context.Context, device string, der []byte) error
	// Deleted records that the phone has no LSC any more. The operation is done.
	Deleted(ctx context.Context, device string) error
}
