package capf

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// version is the protocol version that the server announces; versionSoft is what a soft client answers (§2.2).
const (
	version     = 3
	versionSoft = 2
)

// state is where a session stands.
//
//	accept → TLS ok → [hello] send AUTH_REQUEST
//	  [hello]  AUTH_RESPONSE ──► device unknown ─────► END(9) ─► [closed]
//	                         ├─► proof wrong ────────► END(7) ─► [closed]     (audit, rate limit)
//	                         ├─► operation none ─────► END(0) ─► [closed]
//	                         ├─► install ─► [keygen] send KEY_GENERATE_REQUEST
//	                         ├─► fetch   ─► [fetch]  send FETCH_CERTIFICATE_REQUEST
//	                         └─► delete  ─► [delete] send DELETE_CERTIFICATE_REQUEST
//	  [keygen] REQUEST_IN_PROGRESS ─► [keygen], any number within the time for the key
//	           KEY_GENERATE_RESPONSE(reason)  ─► END(7), operation stays due
//	           KEY_GENERATE_RESPONSE(key ok)  ─► Issue: journal "unconfirmed" ─► [store] send STORE_CERTIFICATE_REQUEST
//	           KEY_GENERATE_RESPONSE(key bad) ─► END(7)
//	  [store]  reason 1 ─► Confirm: current, operation done ─► END(1)
//	           reason ≠ 1 ─► Discard, operation stays due ─► END(7)
//	           connection lost ─► stays unconfirmed, operation stays due
//	  [fetch]  reason 1 + certificate, or 7 ─► Fetched, operation done ─► END(0)
//	  [delete] reason 1, or 7 ─► Deleted, operation done ─► END(1)
//	  any      malformed, wrong session, wrong command ─► END(7)
//	           timeout, EOF ─► [closed], nothing changed
type state byte

const (
	stateHello state = iota
	stateKeygen
	stateStore
	stateFetch
	stateDelete
	stateClosed
)

func (s state) String() string {
	return [...]string{"hello", "keygen", "store", "fetch", "delete", "closed"}[s]
}

// refusal ends a session with a reason for the phone and a text for people.
type refusal struct {
	reason Reason
	text   string
	guess  bool  // counts as a wrong code or proof
	ours   error // a fault of this side
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.ours }

func refuse(format string, args ...any) *refusal {
	return &refusal{reason: ReasonRefused, text: fmt.Sprintf(format, args...)}
}

// fault is a refusal because of this side.
func fault(err error) *refusal {
	return &refusal{reason: ReasonRefused, text: "server: " + err.Error(), ours: err}
}

var (
	errNoCode  = errors.New("no code given")
	errNoProof = errors.New("no certificate given")
)

// session is the server's side of one dialogue. It takes messages and returns answers; it owns no goroutine, no socket and
// no timer.
type session struct {
	backend Backend
	guesses *guesses
	peer    netip.Addr
	id      uint32

	state   state
	device  string // set when the device is known
	dev     Device
	version byte
	byCode  bool   // the code was given
	serial  string // of the certificate sent and not confirmed
	outcome string // for the boot record
}

// open returns the first message.
func (s *session) open() Body { return &AuthRequest{Version: version} }

// to is the only place where the state changes.
func (s *session) to(next state) { s.state = next }

// limit is how long the peer may take for what is awaited in the present state (§8). The time for the key is one span: phones
// need 10 to 60 s, and most send a single REQUEST_IN_PROGRESS, so that an idle limit between those would cut them off.
func (s *session) limit(t Timeouts) time.Duration {
	switch s.state {
	case stateHello:
		return t.Auth
	case stateKeygen:
		return t.Key
	}
	return t.Answer
}

// step takes one message and returns the answer; nil waits for more. An error is a *refusal, and ends the session.
func (s *session) step(ctx context.Context, in Message) (Body, error) {
	if in.Session != s.id {
		return nil, refuse("session id %d instead of %d", in.Session, s.id)
	}
	switch m := in.Body.(type) {
	case *AuthResponse:
		if s.state == stateHello {
			return s.hello(m)
		}
	case *InProgress:
		if s.state == stateKeygen {
			return nil, nil
		}
	case *KeyGenerateResponse:
		if s.state == stateKeygen {
			return s.keygen(ctx, m)
		}
	case *StoreResponse:
		if s.state == stateStore {
			return s.store(ctx, m)
		}
	case *FetchResponse:
		if s.state == stateFetch {
			return s.fetch(ctx, m)
		}
	case *DeleteResponse:
		if s.state == stateDelete {
			return s.delete(ctx)
		}
	}
	return nil, refuse("%T while in state %s", in.Body, s.state)
}

// end closes the dialogue in the regular way.
func (s *session) end(reason Reason, outcome string) (Body, error) {
	s.to(stateClosed)
	s.outcome = outcome
	return &EndSession{Reason: reason}, nil
}

func (s *session) hello(m *AuthResponse) (Body, error) {
	dev, ok := s.backend.Device(m.DeviceName)
	if !ok {
		return nil, &refusal{reason: ReasonUnknown, text: fmt.Sprintf("device %.64q is not declared", m.DeviceName)}
	}
	s.device, s.dev, s.version = m.DeviceName, dev, m.Version
	switch {
	case m.Version != version && m.Version != versionSoft:
		return nil, refuse("protocol version %d", m.Version)
	case m.Reason != ReasonDone:
		return nil, refuse("phone opens with reason %d", m.Reason)
	case dev.Auth != AuthNone && !s.guesses.allowed(s.device, s.peer):
		return nil, refuse("too many wrong codes or proofs in the last %d minutes, not looked at", int(guessWindow/time.Minute))
	}
	if err := s.authenticate(m); err != nil {
		// A phone that starts without anybody typing sends an empty code: refused, but no guess.
		return nil, &refusal{reason: ReasonRefused, text: err.Error(), guess: err != errNoCode && err != errNoProof}
	}
	switch dev.Operation {
	case None:
		return s.end(ReasonNothing, "nothing due")
	case Install:
		if s.version == versionSoft && dev.Key.IsEC() {
			return nil, refuse("a client of protocol version 2 makes RSA keys only, %s is asked for", dev.Key)
		}
		s.to(stateKeygen)
		return &KeyGenerateRequest{Key: dev.Key, SizeOnly: s.version == versionSoft}, nil
	case Fetch:
		s.to(stateFetch)
		return &FetchRequest{}, nil
	case Delete:
		s.to(stateDelete)
		return &DeleteRequest{}, nil
	}
	return nil, fault(fmt.Errorf("%s is due", dev.Operation))
}

// authenticate checks the proof that the device's policy asks for (§6).
func (s *session) authenticate(m *AuthResponse) error {
	switch s.dev.Auth {
	case AuthNone:
		return nil
	case AuthCode:
		return s.checkCode(m)
	case AuthCodeOrCertificate:
		if len(m.Certificate) == 0 {
			return s.checkCode(m)
		}
		return s.checkCertificate(m)
	case AuthCertificate, AuthMIC:
		return s.checkCertificate(m)
	}
	return fmt.Errorf("policy %d is unknown", s.dev.Auth)
}

func (s *session) checkCode(m *AuthResponse) error {
	switch {
	case s.dev.Code == nil:
		return errors.New("no code is valid for this device: set a new one")
	case m.Password == "":
		return errNoCode
	case !s.dev.Code(m.Password):
		return errors.New("wrong code")
	}
	s.byCode = true
	return nil
}

func (s *session) checkCertificate(m *AuthResponse) error {
	if len(m.Certificate) == 0 {
		return errNoProof
	}
	cert, err := m.verifyDevice()
	if err != nil {
		return err
	}
	kind, err := s.backend.VerifyDevice(cert, s.device)
	if err != nil {
		return err
	}
	if s.dev.Auth == AuthMIC && kind != KindMIC {
		return fmt.Errorf("proof by %s, MIC is asked for", kind)
	}
	if s.dev.WaiveSession {
		return nil
	}
	if len(m.SUDI) == 0 {
		return errors.New("no proof of the session by MIC (SUDI), and none is waived")
	}
	mic, err := m.verifySession(s.id)
	if err != nil {
		return fmt.Errorf("session proof: %w", err)
	}
	kind, err = s.backend.VerifyDevice(mic, s.device)
	if err != nil {
		return fmt.Errorf("session proof: %w", err)
	}
	if kind != KindMIC {
		return fmt.Errorf("session proof by %s, MIC is asked for", kind)
	}
	return nil
}

func (s *session) keygen(ctx context.Context, m *KeyGenerateResponse) (Body, error) {
	if len(m.PublicKey) == 0 {
		return nil, refuse("phone made no key: reason %d", m.Reason)
	}
	pub, err := x509.ParsePKIXPublicKey(m.PublicKey)
	if err != nil {
		return nil, refuse("public key: %v", err)
	}
	if err := CheckKey(pub, s.dev.Key); err != nil {
		return nil, refuse("%v", err)
	}
	der, serial, err := s.backend.Issue(ctx, s.device, pub)
	if err != nil {
		return nil, fault(err)
	}
	s.serial = serial
	s.to(stateStore)
	return &StoreRequest{Type: TypeLSC, Certificate: der}, nil
}

func (s *session) store(ctx context.Context, m *StoreResponse) (Body, error) {
	serial := s.serial
	s.serial = ""
	if m.Reason != ReasonDone {
		if err := s.backend.Discard(ctx, s.device, serial); err != nil {
			return nil, fault(err)
		}
		return nil, refuse("phone did not store the certificate: reason %d", m.Reason)
	}
	if err := s.backend.Confirm(ctx, s.device, serial, s.byCode); err != nil {
		return nil, fault(err)
	}
	return s.end(ReasonDone, "certificate "+serial+" installed")
}

func (s *session) fetch(ctx context.Context, m *FetchResponse) (Body, error) {
	var der []byte
	outcome := "phone has no certificate"
	if m.Reason == ReasonDone {
		if _, err := x509.ParseCertificate(m.Certificate); err != nil {
			return nil, refuse("certificate from the phone: %v", err)
		}
		der, outcome = m.Certificate, "certificate fetched"
	}
	if err := s.backend.Fetched(ctx, s.device, der); err != nil {
		return nil, fault(err)
	}
	return s.end(ReasonNothing, outcome)
}

func (s *session) delete(ctx context.Context) (Body, error) {
	// Reason 7 says that there was nothing to delete, which is as good (§3.2).
	if err := s.backend.Deleted(ctx, s.device); err != nil {
		return nil, fault(err)
	}
	return s.end(ReasonDone, "certificate deleted")
}
