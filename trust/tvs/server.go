package tvs

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"ringfence/internal/legacytls"
	"ringfence/internal/netlimit"
	"ringfence/internal/serve"
	"ringfence/internal/task"
	"ringfence/trust"
)

// Options of a server.
type Options struct {
	Address string      // host:port, 2445 by default
	TLS     *tls.Config // RSA certificate with role TVS; MinVersion TLS 1.2 when the caller sets none
	// Lookup decides about a certificate, as the bytes were received. It must not block on the network: TVS may not
	// depend on the peer being up. A ttl of 0 is DefaultTTL.
	Lookup func(der []byte) (roles []trust.Role, ttl time.Duration, ok bool)

	// Legacy also serves phones that know nothing newer than TLS 1.0 with RSA key exchange (7900 series and older).
	Legacy bool

	Limits netlimit.Limits
	Idle   time.Duration // for the handshake, and for the next request; 10 s when 0
	Log    *slog.Logger  // may be nil
	// Note is the boot record; may be nil. The device name is the phone's claim.
	Note func(device, step, text string, failed bool)
}

// Server answers phones.
type Server struct {
	o      Options
	legacy *legacytls.Config // nil: not served
	log    *slog.Logger
	addr   net.Addr
	life   *serve.Life[*netlimit.Listener]

	mu       sync.Mutex
	subjects map[[sha256.Size]byte]subject // of certificates that were vouched for
}

// New binds the listener. Nothing is accepted before Run.
func New(o Options) (*Server, error) {
	if o.Lookup == nil || o.TLS == nil {
		return nil, errors.New("tvs: options without lookup or TLS configuration")
	}
	if o.Address == "" {
		o.Address = ":2445"
	}
	if o.Idle <= 0 {
		o.Idle = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.TLS = o.TLS.Clone()
	if o.TLS.MinVersion == 0 {
		o.TLS.MinVersion = tls.VersionTLS12
	}
	ln, err := netlimit.Listen(o.Address, o.Limits)
	if err != nil {
		return nil, fmt.Errorf("tvs: %w", err)
	}
	s := &Server{o: o, addr: ln.Addr(), subjects: make(map[[sha256.Size]byte]subject), log: o.Log.With("component", "tvs", "listener", ln.Addr().String())}
	s.life = serve.New(ln, serve.Options[*netlimit.Listener]{Name: "tvs", Log: s.log,
		Bind:  func() (*netlimit.Listener, error) { return netlimit.Listen(s.addr.String(), o.Limits) },
		Close: func(ln *netlimit.Listener) { ln.Close() }})
	if o.Legacy {
		s.legacy = &legacytls.Config{Sessions: legacytls.NewSessions(0, 0)}
	}
	return s, nil
}

// Addr is the address of the listener.
func (s *Server) Addr() net.Addr { return s.addr }

// Run serves until ctx ends or Stop is called (nil), or until the listener fails. It may be called again after a failure
// and then binds the same address anew.
func (s *Server) Run(ctx context.Context) error { return s.life.Run(ctx, s.accept) }

// Stop ends Run and waits for it. It may be called at any time, also twice.
func (s *Server) Stop() { s.life.Stop() }

func (s *Server) accept(ln *netlimit.Listener, group *task.Group) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		group.Go("tvs connection", func(ctx context.Context) {
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			s.talk(ctx, c)
		}, func(error) { c.Close() })
	}
}

// talk answers requests on one connection until it is idle too long or says something malformed. The handshake runs here
// and not in the accept loop: a phone that never starts it must not stop the others (tvs.md §4).
func (s *Server) talk(ctx context.Context, raw net.Conn) {
	log := s.log.With("peer", raw.RemoteAddr().String())
	// The deadline covers the handshake or a whole request, however slowly it comes.
	if err := raw.SetDeadline(time.Now().Add(s.o.Idle)); err != nil {
		return
	}
	c, err := legacytls.Accept(ctx, raw, s.o.TLS, s.legacy)
	if err != nil {
		if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
			log.Info("handshake", "err", err)
		}
		return
	}
	defer c.Close()
	for {
		if err := c.SetDeadline(time.Now().Add(s.o.Idle)); err != nil {
			return
		}
		b, err := ReadMessage(c)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				log.Info("connection dropped", "err", err)
			}
			return
		}
		answer, err := s.answer(b, log)
		if err != nil {
			log.Info("request refused", "err", err)
			return
		}
		// One Write is one TLS record, which phones want.
		if _, err := c.Write(answer); err != nil {
			log.Info("answer not sent", "err", err)
			return
		}
	}
}

// subject is a certificate's subject as people see it.
type subject struct{ full, common string }

// maxSubjects bounds what is remembered: an appliance vouches for some dozens of certificates.
const maxSubjects = 512

// subjectOf reads a certificate. Those that are vouched for are asked about again and again, and parsing one costs more than
// all the rest of an answer on an open connection, so theirs are remembered.
func (s *Server) subjectOf(der []byte, known bool) (subject, error) {
	sum := sha256.Sum256(der)
	if known {
		s.mu.Lock()
		name, ok := s.subjects[sum]
		s.mu.Unlock()
		if ok {
			return name, nil
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return subject{}, err
	}
	name := subject{cert.Subject.String(), cert.Subject.CommonName}
	if known {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.subjects) >= maxSubjects {
			clear(s.subjects)
		}
		s.subjects[sum] = name
	}
	return name, nil
}

func (s *Server) answer(b []byte, log *slog.Logger) ([]byte, error) {
	var q Request
	if err := q.Unmarshal(b); err != nil {
		return nil, err
	}
	r := Response{Session: q.Session}
	r.Roles, r.TTL, r.Valid = s.o.Lookup(q.Certificate)
	cert, err := s.subjectOf(q.Certificate, r.Valid)
	if err != nil {
		return nil, fmt.Errorf("%w: certificate: %v", ErrMessage, err)
	}
	device := q.SEP()
	if device == "" {
		log.Info("odd device name", "phone", q.Device)
	}
	if r.TTL <= 0 {
		r.TTL = DefaultTTL
	}
	r.TTL = min(max(r.TTL, time.Second), MaxTTL)
	log.Info("certificate asked", "phone", q.Device, "subject", cert.full, "valid", r.Valid)
	if s.o.Note != nil && device != "" {
		text := "asked about " + cert.common + ": valid"
		if !r.Valid {
			text = "asked about " + cert.common + ": not one of ours, the phone will not trust it"
		}
		if err := task.Guard(s.log, "tvs note", func() { s.o.Note(device, "tvs", text, !r.Valid) }); err != nil {
			return nil, err
		}
	}
	return r.Marshal()
}
