// Package scep is a SCEP server (RFC 8894) for devices that know nothing newer: Wi-Fi phones, printers, switches. It issues
// certificates by which they prove themselves, as to 802.1X, for names that the configuration allows with a challenge
// password, and renews them for whoever holds the one before.
//
// Requests are encrypted for a registration authority's certificate, not for the issuing CA: whoever learns from answers
// whether something decrypted could otherwise come to sign with the CA's key.
//
// The messages are github.com/smallstep/scep's and pkcs7's; none of their types leaves this package. Left out: polling, CRLs
// and certificates by SCEP (they are published over HTTP), encryption with anything older than AES in answers.
package scep

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/smallstep/pkcs7"
	message "github.com/smallstep/scep"
	"golang.org/x/time/rate"
)

// The library's default is DES, which present clients refuse. It is a variable of its package, set before anything runs.
func init() { pkcs7.ContentEncryptionAlgorithm = pkcs7.EncryptionAlgorithmAES128CBC }

// Client is a device with a challenge password of its own.
type Client struct {
	Name      string
	Challenge string
}

// Options of a Server.
type Options struct {
	Names     []string // common names that the shared challenge is good for; *.example.net is every name below
	Challenge string   // the shared one; "" is none
	Clients   []Client

	// Registrar is the certificate that requests are encrypted for, with the issuing CA behind it. Its key is RSA.
	Registrar func(ctx context.Context) (*tls.Certificate, error)
	// CAs are issuing CA and root, for clients to know.
	CAs func() ([]*x509.Certificate, error)
	// Issue issues a certificate.
	Issue func(ctx context.Context, pub crypto.PublicKey, name string, names []string) (*x509.Certificate, error)
	// Current says whose certificate of this server a certificate is, while it proves that; "" when it does not.
	Current func(cert *x509.Certificate) (name string)

	Log *slog.Logger // may be nil
	Now func() time.Time
}

// Bounds.
const (
	maxMessage  = 64 << 10
	maxFailures = 5 // wrong passwords of one source in failureTime
	failureTime = 10 * time.Minute
	maxSources  = 1024
)

// Server answers SCEP clients. It is an http.Handler.
type Server struct {
	o     Options
	log   *slog.Logger
	limit *rate.Limiter

	mu       sync.Mutex
	failures map[netip.Addr]*failures
}

type failures struct {
	n     int
	since time.Time
}

// New makes a Server.
func New(o Options) (*Server, error) {
	if o.Registrar == nil || o.CAs == nil || o.Issue == nil || o.Current == nil {
		return nil, errors.New("scep: options without authority")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Server{o: o, log: o.Log.With("component", "scep"), limit: rate.NewLimiter(10, 50), failures: map[netip.Addr]*failures{}}, nil
}

// capabilities of this server (RFC 8894 §3.5.2).
const capabilities = "AES\nPOSTPKIOperation\nRenewal\nSCEPStandard\nSHA-256\nSHA-512\n"

// ServeHTTP implements http.Handler (RFC 8894 §4.1).
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	switch query.Get("operation") {
	case "GetCACaps":
		send(w, "text/plain", []byte(capabilities))
	case "GetCACert":
		s.certificates(w, r)
	case "PKIOperation":
		var b []byte
		var err error
		if r.Method == http.MethodPost {
			b, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
		} else {
			// A plus sign that was not escaped has become a space.
			b, err = base64.StdEncoding.DecodeString(strings.ReplaceAll(query.Get("message"), " ", "+"))
		}
		if err != nil || len(b) == 0 {
			http.Error(w, "the message did not come whole", http.StatusBadRequest)
			return
		}
		s.operation(w, r, b)
	default:
		http.Error(w, "operation is GetCACaps, GetCACert or PKIOperation", http.StatusBadRequest)
	}
}

func send(w http.ResponseWriter, kind string, body []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // the client may be gone already
}

// certificates gives the registration authority's certificate and the CAs.
func (s *Server) certificates(w http.ResponseWriter, r *http.Request) {
	ra, err := s.o.Registrar(r.Context())
	var list []*x509.Certificate
	if err == nil {
		list, err = s.o.CAs()
	}
	var b []byte
	if err == nil {
		b, err = message.DegenerateCertificates(append([]*x509.Certificate{ra.Leaf}, list...))
	}
	if err != nil {
		s.log.Error("SCEP certificates", "err", err)
		http.Error(w, "no certificates now", http.StatusServiceUnavailable)
		return
	}
	send(w, "application/x-x509-ca-ra-cert", b)
}

// operation answers a request for a certificate. What cannot be decrypted, and what is not allowed, is answered alike.
func (s *Server) operation(w http.ResponseWriter, r *http.Request, b []byte) {
	source := addressOf(r)
	if !s.limit.Allow() || s.shut(source) {
		w.Header().Set("Retry-After", "60")
		http.Error(w, "too many requests", http.StatusTooManyRequests)
		return
	}
	msg, signer, err := parse(b)
	if err != nil {
		s.log.Info("SCEP request refused", "peer", source.String(), "err", err)
		http.Error(w, "this is no SCEP message", http.StatusBadRequest)
		return
	}
	ra, err := s.o.Registrar(r.Context())
	if err != nil {
		s.log.Error("SCEP registrar", "err", err)
		http.Error(w, "no certificates now", http.StatusServiceUnavailable)
		return
	}
	answer, err := s.answer(r.Context(), msg, signer, ra)
	if err != nil {
		s.log.Info("SCEP request refused", "peer", source.String(), "err", err)
		s.failed(source)
		if answer, err = msg.Fail(ra.Leaf, ra.PrivateKey, message.BadRequest); err != nil {
			http.Error(w, "no answer can be made", http.StatusBadRequest)
			return
		}
	}
	send(w, "application/x-pki-message", answer.Raw)
}

// parse reads a message and checks the signature of its sender. The library panics on some input that is no message.
func parse(b []byte) (msg *message.PKIMessage, signer *x509.Certificate, err error) {
	defer func() {
		if p := recover(); p != nil {
			msg, signer, err = nil, nil, fmt.Errorf("message breaks the reader: %v", p)
		}
	}()
	if msg, err = message.ParsePKIMessage(b); err != nil {
		return nil, nil, err
	}
	switch msg.MessageType {
	case message.PKCSReq, message.RenewalReq, message.UpdateReq:
	default:
		return nil, nil, fmt.Errorf("messages of type %.8q are not answered", string(msg.MessageType))
	}
	if len(msg.TransactionID) == 0 || len(msg.TransactionID) > 128 || len(msg.SenderNonce) == 0 || len(msg.SenderNonce) > 64 {
		return nil, nil, errors.New("transaction or nonce is missing or too long")
	}
	p7, err := pkcs7.Parse(b)
	if err != nil {
		return nil, nil, err
	}
	if len(p7.Certificates) != 1 {
		return nil, nil, errors.New("a message carries one certificate, its sender's")
	}
	if signer = p7.GetOnlySigner(); signer == nil {
		return nil, nil, errors.New("the message has not one signer")
	}
	return msg, signer, nil
}

// answer decrypts, checks and issues.
func (s *Server) answer(ctx context.Context, msg *message.PKIMessage, signer *x509.Certificate, ra *tls.Certificate) (answer *message.PKIMessage, err error) {
	defer func() {
		if p := recover(); p != nil {
			answer, err = nil, fmt.Errorf("message breaks the reader: %v", p)
		}
	}()
	if err := msg.DecryptPKIEnvelope(ra.Leaf, ra.PrivateKey); err != nil {
		return nil, fmt.Errorf("not decrypted: %w", err)
	}
	csr := msg.CSRReqMessage.CSR
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("request not signed by its key: %w", err)
	}
	name := csr.Subject.CommonName
	if err := s.allowed(name, msg.ChallengePassword, signer); err != nil {
		return nil, err
	}
	for _, n := range csr.DNSNames {
		if n != name {
			return nil, fmt.Errorf("%.64q asks for the further name %.64q", name, n)
		}
	}
	var names []string
	if strings.Contains(name, ".") && !strings.Contains(name, "@") {
		names = append(names, name)
	}
	cert, err := s.o.Issue(ctx, csr.PublicKey, name, names)
	if err != nil {
		return nil, err
	}
	s.log.Info("SCEP certificate", "name", name, "serial", cert.SerialNumber.Text(16))
	return msg.Success(ra.Leaf, ra.PrivateKey, cert)
}

// allowed checks the proof of a name: its challenge password, or the certificate that it has.
func (s *Server) allowed(name, challenge string, signer *x509.Certificate) error {
	if challenge == "" {
		if holder := s.o.Current(signer); holder == "" || holder != name {
			return fmt.Errorf("%.64q gives neither a challenge password nor its certificate of before", name)
		}
		if _, declared := s.challengeOf(name); !declared {
			return fmt.Errorf("%.64q is declared no more", name)
		}
		return nil
	}
	want, declared := s.challengeOf(name)
	a, b := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(challenge))
	if subtle.ConstantTimeCompare(a[:], b[:]) != 1 || !declared {
		return fmt.Errorf("wrong challenge password for %.64q, or the name is not declared", name)
	}
	return nil
}

// challengeOf is the password that a name has to give. A device with one of its own is not let in by the shared one.
func (s *Server) challengeOf(name string) (string, bool) {
	for _, c := range s.o.Clients {
		if c.Name == name {
			return c.Challenge, true
		}
	}
	for _, n := range s.o.Names {
		below, wild := strings.CutPrefix(n, "*")
		if s.o.Challenge != "" && (n == name || wild && strings.HasSuffix(name, below) && len(name) > len(below) && clean(name)) {
			return s.o.Challenge, true
		}
	}
	return "", false
}

// clean reports whether a name that no one declared letter by letter is harmless in certificates and logs.
func clean(name string) bool {
	for _, c := range name {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '.', c == '-', c == '_', c == '@':
		default:
			return false
		}
	}
	return len(name) <= 64
}

func addressOf(r *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}

// shut reports whether a source has guessed too often.
func (s *Server) shut(source netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.failures[source]
	if f == nil {
		return false
	}
	if s.o.Now().Sub(f.since) > failureTime {
		delete(s.failures, source)
		return false
	}
	return f.n >= maxFailures
}

func (s *Server) failed(source netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.failures[source]
	if f == nil {
		if len(s.failures) >= maxSources {
			clear(s.failures) // the limit of all requests holds against so many
		}
		f = &failures{since: s.o.Now()}
		s.failures[source] = f
	}
	f.n++
}
