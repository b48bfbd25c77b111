// Package web serves what a certificate authority shows to the world: revocation lists, the status of certificates and the
// CAs themselves over plain HTTP (RFC 5280 §4.2.1.13, RFC 6960 appendix A, RFC 5280 §4.2.2.1), all of which carry their own
// signatures; and it is the bounded server that other handlers of the authority stand behind.
//
// Left out: conditional requests, LDAP, delta lists.
package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"ringfence/internal/netlimit"
	"ringfence/internal/serve"
	"ringfence/internal/task"
)

// Bounds of a connection.
const (
	headerBytes = 16 << 10
	headerTime  = 10 * time.Second
	idleTime    = 15 * time.Second
	requestTime = 60 * time.Second // to read a request and to take its answer
)

// Options of a Server.
type Options struct {
	Name    string // in logs: "certs"
	Address string // host:port
	Handler http.Handler
	// Certificate makes it an HTTPS server.
	Certificate func() (*tls.Certificate, error)
	Limits      netlimit.Limits // of connections; 512, of one source 128, when zero
	Log         *slog.Logger    // may be nil
}

// Server is one listener of the authority.
type Server struct {
	o    Options
	log  *slog.Logger
	addr net.Addr
	life *serve.Life[*netlimit.Listener]
}

// New binds the listener. Nothing is accepted before Run.
func New(o Options) (*Server, error) {
	if o.Handler == nil {
		return nil, errors.New("web: options without handler")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Limits.Total == 0 {
		o.Limits.Total = 512
	}
	if o.Limits.PerSource == 0 {
		o.Limits.PerSource = 128
	}
	ln, err := netlimit.Listen(o.Address, o.Limits)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Name, err)
	}
	s := &Server{o: o, addr: ln.Addr(), log: o.Log.With("component", o.Name, "listener", ln.Addr().String())}
	s.life = serve.New(ln, serve.Options[*netlimit.Listener]{Name: o.Name, Log: s.log,
		Bind:  func() (*netlimit.Listener, error) { return netlimit.Listen(s.addr.String(), o.Limits) },
		Close: func(ln *netlimit.Listener) { ln.Close() }})
	return s, nil
}

// Addr is the address of the listener.
func (s *Server) Addr() net.Addr { return s.addr }

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if task.Guard(s.log, s.o.Name+" request", func() { s.o.Handler.ServeHTTP(w, r) }) != nil {
		panic(http.ErrAbortHandler) // closes this connection, silently
	}
}

// Run serves until ctx ends or Stop is called (nil), or until the listener fails. It may be called again after a failure
// and then binds the same address anew.
func (s *Server) Run(ctx context.Context) error { return s.life.Run(ctx, s.accept) }

// Stop ends the server; what is being answered may end. It may be called at any time and repeatedly.
func (s *Server) Stop() { s.life.Stop() }

func (s *Server) accept(bound *netlimit.Listener, group *task.Group) error {
	ln := net.Listener(bound)
	if s.o.Certificate != nil {
		ln = tls.NewListener(ln, &tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.o.Certificate() },
		})
	}
	return serve.HTTP(&http.Server{
		Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: headerTime, ReadTimeout: requestTime, WriteTimeout: requestTime,
		IdleTimeout: idleTime, MaxHeaderBytes: headerBytes, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}, ln, group)
}
