package pki

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"ringfence/pki/capf"
)

// DevicePolicy is what is declared about a device's enrolment.
type DevicePolicy struct {
	Key  capf.KeyKind // of its LSC
	Auth capf.Auth
	Code string // the code that somebody types at the phone, for AuthCode and AuthCodeOrCertificate
	// WaiveSession accepts a proof by LSC or MIC that could be a replay; see capf.Device.
	WaiveSession bool
}

// Scheduled is an operation that somebody asked for, and is done at the phone's next session.
type Scheduled struct {
	Operation capf.Operation `json:"-"`
	Name      string         `json:"operation"`
	By        string         `json:"by"`
	At        time.Time      `json:"at"`
	// Proven keeps the demand that a phone with a certificate proves itself by it, also where the first enrolment asks for
	// nothing: for orders that name no single phone.
	Proven bool `json:"proven,omitempty"`
}

// Schedule asks for an operation on a device, in place of what was scheduled before. None takes it back. Somebody who
// schedules an installation vouches for the phone: where the policy asks for nothing, it is asked for nothing, even if it had
// a certificate before (it was reset, or its certificate revoked).
func (a *Authority) Schedule(ctx context.Context, device string, op capf.Operation, by string) error {
	return a.schedule(ctx, device, op, by, false)
}

// ScheduleRenewal asks for a new certificate of a device that proves itself by the one it has.
func (a *Authority) ScheduleRenewal(ctx context.Context, device, by string) error {
	return a.schedule(ctx, device, capf.Install, by, true)
}

func (a *Authority) schedule(ctx context.Context, device string, op capf.Operation, by string, proven bool) error {
	if !validDevice(device) {
		return fmt.Errorf("pki: %.64q is no name of a device", device)
	}
	defer a.lock(device)()
	if op == capf.None {
		if err := a.opts.State.Write(ctx, nil, deviceKey(device, "operation")); err != nil {
			return fmt.Errorf("pki: phone %s: %w", device, err)
		}
		return nil
	}
	v, err := json.Marshal(Scheduled{Name: op.String(), By: by, At: a.now(), Proven: proven})
	if err != nil {
		return fmt.Errorf("pki: phone %s: %w", device, err)
	}
	if err := a.opts.State.Write(ctx, map[string][]byte{deviceKey(device, "operation"): v}); err != nil {
		return fmt.Errorf("pki: phone %s: schedule %s: %w", device, op, err)
	}
	return nil
}

// Scheduled returns what is scheduled for a device.
func (a *Authority) Scheduled(device string) (Scheduled, bool) {
	var s Scheduled
	v, ok := a.opts.State.Get(deviceKey(device, "operation"))
	if !ok || json.Unmarshal(v, &s) != nil {
		return s, false
	}
	var err error
	s.Operation, err = capf.ParseOperation(s.Name)
	return s, err == nil
}

// Due says what a device's next session is for, and why: what is scheduled, else an installation when the phone has no
// certificate, one past two thirds of its life, or one with a key of another kind than wanted ("" wants none in particular).
func (a *Authority) Due(device string, key capf.KeyKind) (op capf.Operation, why string) {
	if s, ok := a.Scheduled(device); ok {
		return s.Operation, "scheduled by " + s.By
	}
	cert, ok := a.CurrentLSC(device)
	if !ok {
		return capf.Install, "the phone has no certificate"
	}
	if kind := capf.KindOf(cert.PublicKey); key != "" && kind != key {
		return capf.Install, fmt.Sprintf("the key is %s, %s is declared", kind, key)
	}
	if a.Moment().After(renewAt(device, cert)) {
		return capf.Install, "two thirds of the certificate's life are over"
	}
	return capf.None, "the certificate is good until " + day(cert.NotAfter)
}

// renewAt is when a phone's certificate is due for renewal: between two thirds and three quarters of its life, at a point of
// its own, so that phones that were enrolled on one day do not all make keys on another.
func renewAt(device string, cert *x509.Certificate) time.Time {
	life := cert.NotAfter.Sub(cert.NotBefore)
	h := sha256.Sum256(append([]byte(device), cert.SerialNumber.Bytes()...))
	jitter := time.Duration(binary.BigEndian.Uint32(h[:4])) * (life / 12 >> 32)
	if life/12 < 1<<32 { // a life of less than a minute, in tests
		jitter = 0
	}
	return cert.NotBefore.Add(life/3*2 + jitter)
}

// Enrolment makes the authority the backend of a CAPF server.
type Enrolment struct {
	a *Authority
	// devices says which devices are declared, and their policy.
	devices func(device string) (DevicePolicy, bool)
}

var _ capf.Backend = (*Enrolment)(nil)

// NewEnrolment ties an authority to the declared devices.
func NewEnrolment(a *Authority, devices func(device string) (DevicePolicy, bool)) *Enrolment {
	return &Enrolment{a: a, devices: devices}
}

// Device says what is due for a device.
func (e *Enrolment) Device(name string) (capf.Device, bool) {
	if !validDevice(name) {
		return capf.Device{}, false
	}
	p, ok := e.devices(name)
	if !ok {
		return capf.Device{}, false
	}
	d := capf.Device{Key: p.Key, Auth: p.Auth, WaiveSession: p.WaiveSession}
	if d.Key == "" {
		d.Key = capf.RSA2048
	}
	d.Operation, _ = e.a.Due(name, d.Key)
	if p.Auth == capf.AuthNone && d.Operation == capf.Install && e.a.mustProve(name) {
		// Anything is more than the nothing that this policy asks for, so the session need not be proven besides.
		d.Auth, d.WaiveSession = capf.AuthCertificate, true
	}
	if p.Code != "" && !e.a.codeSpent(name, p.Code) {
		d.Code = func(typed string) bool { return e.a.codeEqual(name, p.Code, typed) }
	}
	return d, true
}

// AuthMode is the <capfAuthMode> of a device's file that fits what the server will ask for: 1 code, 2 none, 3 LSC, 4 MIC. A
// phone that may enrol by code and has a certificate by now renews with that.
func (e *Enrolment) AuthMode(device string) int {
	p, _ := e.devices(device)
	switch p.Auth {
	case capf.AuthCode:
		return 1
	case capf.AuthCodeOrCertificate:
		if _, ok := e.a.CurrentLSC(device); ok && (p.Code == "" || e.a.codeSpent(device, p.Code)) {
			return 3
		}
		return 1
	case capf.AuthCertificate:
		return 3
	case capf.AuthMIC:
		return 4
	}
	if e.a.mustProve(device) {
		return 3
	}
	return 2
}

// mustProve reports whether a device for which nothing is asked at its first enrolment has to prove itself all the same: it
// was enrolled before, and nobody has vouched for it since. Else any stranger could take over a phone's name on the day its
// certificate is due for renewal, and have its password sealed to himself.
func (a *Authority) mustProve(device string) bool {
	if _, enrolled := a.opts.State.Get(deviceKey(device, "lsc")); !enrolled {
		return false
	}
	s, ok := a.Scheduled(device)
	return !ok || s.Operation != capf.Install || s.Proven
}

// VerifyDevice checks a certificate that a phone proves itself with.
func (e *Enrolment) VerifyDevice(cert *x509.Certificate, device string) (string, error) {
	grace := e.a.opts.LSCGrace
	if e.asksNothing(device) {
		if serial, _ := e.a.opts.State.Get(deviceKey(device, "lsc")); e.a.IsRevoked(string(serial)) {
			return "", fmt.Errorf("the certificate of %s was revoked: an administrator has to schedule its enrolment", device)
		}
		// The certificate of a phone that was away for long proves more than the nothing that its first enrolment asked for.
		grace = anyGrace
	}
	id, err := e.a.verifyDevice(cert, nil, device, grace)
	return id.Kind, err
}

// asksNothing reports whether a device's first enrolment takes no proof.
func (e *Enrolment) asksNothing(device string) bool {
	if e.devices == nil {
		return false
	}
	p, ok := e.devices(device)
	return ok && p.Auth == capf.AuthNone
}

// anyGrace is longer than phones live.
const anyGrace = 50 * year

// Issue issues a certificate, unconfirmed.
func (e *Enrolment) Issue(ctx context.Context, device string, pub crypto.PublicKey) ([]byte, string, error) {
	return e.a.IssueLSC(ctx, device, pub)
}

// Confirm makes a certificate current and spends the code if it was given: both in one group, so that a code never enrols
// twice.
func (e *Enrolment) Confirm(ctx context.Context, device, serial string, byCode bool) error {
	defer e.a.lock(device)()
	var also map[string][]byte
	if p, ok := e.devices(device); ok && byCode {
		also = map[string][]byte{deviceKey(device, "code"): e.a.seal.codeSum(device, p.Code)}
	}
	return e.a.confirmLocked(ctx, device, serial, also)
}

// Discard records that the phone refused a certificate.
func (e *Enrolment) Discard(ctx context.Context, device, serial string) error {
	return e.a.DiscardLSC(ctx, device, serial)
}

// Deleted records that the phone has no certificate.
func (e *Enrolment) Deleted(ctx context.Context, device string) error {
	return e.a.DeletedLSC(ctx, device)
}

// Fetched records what the phone holds.
func (e *Enrolment) Fetched(ctx context.Context, device string, der []byte) error {
	return e.a.fetched(ctx, device, der)
}

// fetched takes the phone's word for what it holds: none; one that was not confirmed, which is current from now on; or
// another, which is written down only.
func (a *Authority) fetched(ctx context.Context, device string, der []byte) error {
	defer a.lock(device)()
	note := struct {
		At     time.Time `json:"at"`
		Serial string    `json:"serial,omitempty"`
		Sum    string    `json:"sha256,omitempty"`
	}{At: a.now()}
	set := make(map[string][]byte)
	var del []string
	if op, ok := a.Scheduled(device); ok && op.Operation == capf.Fetch {
		del = append(del, deviceKey(device, "operation"))
	}
	if len(der) == 0 {
		var pointer []string
		set, pointer = a.withoutLSC(device)
		del = append(del, pointer...)
	} else {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("pki: phone %s: fetched certificate: %w", device, err)
		}
		note.Serial, note.Sum = serialText(cert.SerialNumber), fingerprint(cert)
		i, ok := a.info(note.Serial)
		if ok && i.Device == device && i.Fingerprint == note.Sum && a.stateOf(note.Serial, i) == Unconfirmed {
			set[stateKey(note.Serial)] = []byte(storedConfirmed)
			set[deviceKey(device, "lsc")] = []byte(note.Serial)
		}
	}
	v, err := json.Marshal(note)
	if err != nil {
		return fmt.Errorf("pki: phone %s: %w", device, err)
	}
	set[deviceKey(device, "fetched")] = v
	if err := a.opts.State.Write(ctx, set, del...); err != nil {
		return fmt.Errorf("pki: phone %s: record fetched certificate: %w", device, err)
	}
	return nil
}

// codeEqual compares in constant time, whatever the lengths.
func (a *Authority) codeEqual(device, code, typed string) bool {
	return hmac.Equal(a.seal.codeSum(device, code), a.seal.codeSum(device, typed))
}

// codeSpent reports whether a code has enrolled the device already.
func (a *Authority) codeSpent(device, code string) bool {
	v, ok := a.opts.State.Get(deviceKey(device, "code"))
	return ok && hmac.Equal(v, a.seal.codeSum(device, code))
}
