package capf

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"
)

// Client plays the phone. The zero value of every field but Device is usable.
type Client struct {
	Device   string // SEP and the MAC
	Version  byte   // protocol version to answer; 0 is 3
	Password string // what the user typed

	Proof     *Identity       // LSC or MIC that proves the device (§6.2); nil sends none
	ProofType CertificateType // type written around Proof; 0 is LSC, as phones seen write it around a MIC too
	SUDI      *Identity       // MIC that proves the session (§6.3); nil sends none

	// GenerateKey makes the key that is asked for; nil makes one in memory. Progress REQUEST_IN_PROGRESS messages precede it.
	GenerateKey func(KeyKind) (crypto.Signer, error)
	Progress    int

	// Store keeps a certificate and its key; an error is answered with ReasonRefused. Nil keeps nothing and answers success.
	Store func(der []byte, key crypto.Signer) error
	// Installed is the LSC that a fetch gives back; empty answers that there is none.
	Installed []byte
	// Delete deletes the LSC; an error is answered with ReasonRefused. Nil answers success.
	Delete func() error

	Timeout time.Duration // for each message of the server; 0 is 30 s
}

// Result is how a session went.
type Result struct {
	Operation   Operation // what the server asked for
	Reason      Reason    // of END_SESSION
	Key         crypto.Signer
	Certificate []byte // DER of the installed LSC
}

// ErrNoEnd is wrapped when the server closed, or the connection broke, before END_SESSION.
var ErrNoEnd = errors.New("capf: session without an end")

// Dial connects to a server as a phone does: TLS without a client certificate, the server accepted by verify alone, which
// compares its certificate with the trust list byte for byte (§1). maxVersion 0 is TLS 1.2, what 7800 and 8800 phones speak.
func Dial(ctx context.Context, address string, verify func(server *x509.Certificate) error, maxVersion uint16) (net.Conn, error) {
	if maxVersion == 0 {
		maxVersion = tls.VersionTLS12
	}
	cfg := &tls.Config{
		InsecureSkipVerify: true, // replaced by verify: phones build no chain and look at no name
		MaxVersion:         maxVersion,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("capf: server without a certificate")
			}
			return verify(cs.PeerCertificates[0])
		},
	}
	if maxVersion < tls.VersionTLS12 {
		cfg.MinVersion = tls.VersionTLS10
		// RSA key exchange has to be asked for by name in crypto/tls.
		cfg.CipherSuites = []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_256_CBC_SHA}
	}
	d := tls.Dialer{Config: cfg}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("capf: connect to %s: %w", address, err)
	}
	return c, nil
}

// Run goes through one session on an established connection and closes it. A refusal by the server is a Result, not an error.
func (c *Client) Run(ctx context.Context, conn net.Conn) (Result, error) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	s := clientSession{Client: c, conn: conn}
	for {
		in, err := s.read(ctx)
		if err != nil {
			return s.res, err
		}
		if end, ok := in.Body.(*EndSession); ok {
			s.res.Reason = end.Reason
			return s.res, nil
		}
		if err := s.answer(in); err != nil {
			return s.res, err
		}
	}
}

type clientSession struct {
	*Client
	conn    net.Conn
	session uint32
	opened  bool
	key     crypto.Signer
	res     Result
}

func (s *clientSession) read(ctx context.Context) (Message, error) {
	timeout := s.Timeout
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	// After ctx has ended the deadline in the past must stay.
	if ctx.Err() == nil {
		s.conn.SetDeadline(time.Now().Add(timeout))
	}
	if ctx.Err() != nil {
		return Message{}, ctx.Err()
	}
	m, err := ReadMessage(s.conn)
	switch {
	case errors.Is(err, ErrMalformed):
		return m, err
	case err != nil:
		return m, fmt.Errorf("%w: %w", ErrNoEnd, err)
	case s.opened && m.Session != s.session:
		return m, malformed("session %d in session %d", m.Session, s.session)
	}
	if !s.opened {
		if _, ok := m.Body.(*AuthRequest); !ok {
			return m, malformed("server opens with %T", m.Body)
		}
		s.opened, s.session = true, m.Session
	}
	return m, nil
}

func (s *clientSession) write(b Body) error {
	if err := WriteMessage(s.conn, Message{Session: s.session, Body: b}); err != nil {
		return fmt.Errorf("capf: answer with %T: %w", b, err)
	}
	return nil
}

func (s *clientSession) answer(in Message) error {
	switch m := in.Body.(type) {
	case *AuthRequest:
		return s.authenticate()
	case *KeyGenerateRequest:
		s.res.Operation = Install
		return s.generate(m.Key)
	case *StoreRequest:
		reason := ReasonDone
		if s.key == nil {
			return malformed("certificate to store without a key")
		}
		if s.Store != nil && s.Store(m.Certificate, s.key) != nil {
			reason = ReasonRefused
		} else {
			s.res.Key, s.res.Certificate = s.key, m.Certificate
		}
		return s.write(&StoreResponse{Reason: reason})
	case *FetchRequest:
		s.res.Operation = Fetch
		if len(s.Installed) == 0 {
			return s.write(&FetchResponse{Reason: ReasonRefused})
		}
		return s.write(&FetchResponse{Reason: ReasonDone, Type: TypeLSC, Certificate: s.Installed})
	case *DeleteRequest:
		s.res.Operation = Delete
		reason := ReasonDone
		if s.Delete != nil && s.Delete() != nil {
			reason = ReasonRefused
		}
		return s.write(&DeleteResponse{Reason: reason})
	}
	return malformed("%T from the server", in.Body)
}

func (s *clientSession) authenticate() error {
	m := &AuthResponse{Reason: ReasonDone, Version: s.Version, Password: s.Password, DeviceName: s.Device}
	if m.Version == 0 {
		m.Version = version
	}
	if s.Proof != nil {
		typ := s.ProofType
		if typ == 0 {
			typ = TypeLSC
		}
		if err := m.signDevice(s.Proof, typ); err != nil {
			return err
		}
	}
	if s.SUDI != nil {
		if err := m.signSession(s.SUDI, s.session); err != nil {
			return err
		}
	}
	return s.write(m)
}

func (s *clientSession) generate(kind KeyKind) error {
	for range s.Progress {
		if err := s.write(&InProgress{}); err != nil {
			return err
		}
	}
	gen := s.GenerateKey
	if gen == nil {
		gen = GenerateKey
	}
	key, err := gen(kind)
	if err != nil {
		return s.write(&KeyGenerateResponse{Reason: ReasonRefused})
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("capf: marshal public key: %w", err)
	}
	s.key = key
	return s.write(&KeyGenerateResponse{PublicKey: der})
}
