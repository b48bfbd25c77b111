package provision

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"ringfence/internal/netlimit"
	"ringfence/internal/serve"
	"ringfence/internal/task"
)

// Bounds of an HTTP connection. 200 phones that boot together after a power cut fit, also behind one address.
const (
	httpHeaderBytes = 8 << 10
	httpIdleTime    = 15 * time.Second
	httpPiece       = 64 << 10         // of a body
	httpPieceTime   = 20 * time.Second // to take one
)

// HTTPOptions of an HTTPServer.
type HTTPOptions struct {
	Files   *Files
	Address string // host:port
	Limits  netlimit.Limits
	// HeaderTime is how long a request may take to arrive, and a TLS handshake to end; 10 s when 0.
	HeaderTime time.Duration
	Log        *slog.Logger // may be nil

	// Certificate makes this the HTTPS server of port 6971: an EC certificate with role TFTP. Nil is plain HTTP.
	Certificate func() (*tls.Certificate, error)
	// CRL gives the list of revoked certificates, DER, which plain HTTP serves as /crl.der to whoever checks certificates. Nil:
	// there is none.
	CRL func(ctx context.Context) ([]byte, error)
	// VerifyDevice checks a client certificate, if one is presented, and says whose it is. Nil: nobody's.
	VerifyDevice func(cert *x509.Certificate, intermediates []*x509.Certificate) (device string, err error)
}

// HTTPServer serves files over HTTP or HTTPS (provisioning.md §3.1, §3.2). It does not redirect, clean paths, compress,
// list or chunk.
type HTTPServer struct {
	o         HTTPOptions
	log       *slog.Logger
	addr      net.Addr
	transport Transport
	life      *serve.Life[*netlimit.Listener]
}

// NewHTTP binds the listener. Nothing is accepted before Run.
func NewHTTP(o HTTPOptions) (*HTTPServer, error) {
	if o.Files == nil {
		return nil, errors.New("provision: HTTP without files")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.HeaderTime <= 0 {
		o.HeaderTime = 10 * time.Second
	}
	if o.Limits.Total == 0 {
		o.Limits.Total = 2048
	}
	if o.Limits.PerSource == 0 {
		o.Limits.PerSource = 512
	}
	s := &HTTPServer{o: o, transport: HTTP}
	if o.Certificate != nil {
		s.transport = HTTPS
	}
	ln, err := netlimit.Listen(o.Address, o.Limits)
	if err != nil {
		return nil, fmt.Errorf("provision %s: %w", s.transport, err)
	}
	s.addr = ln.Addr()
	s.log = o.Log.With("component", "provision", "listener", string(s.transport)+" "+s.addr.String())
	s.life = serve.New(ln, serve.Options[*netlimit.Listener]{Name: "provision " + string(s.transport), Log: s.log,
		Bind:  func() (*netlimit.Listener, error) { return netlimit.Listen(s.addr.String(), o.Limits) },
		Close: func(ln *netlimit.Listener) { ln.Close() }})
	return s, nil
}

// Addr is the address of the listener.
func (s *HTTPServer) Addr() net.Addr { return s.addr }

// Run serves until ctx ends or Stop is called (nil), or until the listener fails. It may be called again after a failure
// and then binds the same address anew.
func (s *HTTPServer) Run(ctx context.Context) error { return s.life.Run(ctx, s.accept) }

// Stop ends Run and waits for it. It may be called at any time, also twice.
func (s *HTTPServer) Stop() { s.life.Stop() }

func (s *HTTPServer) accept(bound *netlimit.Listener, group *task.Group) error {
	srv, ln := s.server(), net.Listener(bound)
	if s.transport == HTTPS {
		ln = tls.NewListener(ln, s.tlsConfig())
	}
	return serve.HTTP(srv, ln, group)
}

func (s *HTTPServer) server() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:                      http.HandlerFunc(s.serve),
		Protocols:                    protocols,
		ReadHeaderTimeout:            s.o.HeaderTime,
		ReadTimeout:                  2 * s.o.HeaderTime, // of a request with the body that none should have
		IdleTimeout:                  httpIdleTime,
		MaxHeaderBytes:               httpHeaderBytes,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // what strangers do wrong
	}
}

func (s *HTTPServer) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		// Asked for, not demanded: phones present none here, as far as is known. Who does is checked in serve.
		ClientAuth: tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.o.Certificate()
		},
	}
}

func (s *HTTPServer) serve(w http.ResponseWriter, r *http.Request) {
	err := task.Guard(s.log, "provision request", func() { s.answer(w, r) })
	if err != nil {
		panic(http.ErrAbortHandler) // closes this connection, silently
	}
}

func (s *HTTPServer) answer(w http.ResponseWriter, r *http.Request) {
	// The deadline of the answer before is still set on a kept connection.
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(httpPieceTime)); err != nil {
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		s.short(w, http.StatusMethodNotAllowed, "method not allowed\n")
		return
	}
	if r.URL.Path == crlPath && s.o.CRL != nil && s.transport == HTTP {
		s.crl(w, r)
		return
	}
	source, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		s.short(w, http.StatusNotFound, "not found\n")
		return
	}
	file, err := s.o.Files.Get(Request{
		Name:      r.URL.Path, // percent-decoded once
		Transport: s.transport,
		Source:    source.Addr().Unmap().WithZone(""),
		Proven:    s.proven(r),
	})
	if err != nil {
		s.short(w, http.StatusNotFound, "not found\n")
		return
	}
	h := w.Header()
	h.Set("Content-Type", file.Type)
	h.Set("Content-Length", strconv.Itoa(len(file.Body)))
	if r.Method == http.MethodHead {
		return
	}
	if sent, ok := s.send(w, file.Body); ok {
		file.Delivered()
	} else {
		file.Lost(sent)
	}
}

// crlPath is where the list of revoked certificates stands.
const crlPath = "/crl.der"

// crl serves the list of revoked certificates. It is signed and public.
func (s *HTTPServer) crl(w http.ResponseWriter, r *http.Request) {
	der, err := s.o.CRL(r.Context())
	if err != nil {
		s.log.Error("CRL not made", "err", err)
		s.short(w, http.StatusNotFound, "not found\n")
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/pkix-crl")
	h.Set("Content-Length", strconv.Itoa(len(der)))
	if r.Method != http.MethodHead {
		s.send(w, der)
	}
}

// short answers without a file. The connection stays usable.
func (s *HTTPServer) short(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // the phone may be gone already
}

// send writes a body in pieces, each with its own time: a slow phone gets a large file, one that takes nothing does not
// hold the connection.
func (s *HTTPServer) send(w http.ResponseWriter, body []byte) (sent int, ok bool) {
	c := http.NewResponseController(w)
	for sent < len(body) {
		n := min(len(body)-sent, httpPiece)
		if err := c.SetWriteDeadline(time.Now().Add(httpPieceTime)); err != nil {
			return sent, false
		}
		if _, err := w.Write(body[sent : sent+n]); err != nil {
			return sent, false
		}
		sent += n
	}
	return sent, c.Flush() == nil
}

// proven returns the device that a verified client certificate names.
func (s *HTTPServer) proven(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || s.o.VerifyDevice == nil {
		return ""
	}
	device, err := s.o.VerifyDevice(r.TLS.PeerCertificates[0], r.TLS.PeerCertificates[1:])
	if err != nil {
		s.log.Info("client certificate refused", "peer", r.RemoteAddr, "subject", r.TLS.PeerCertificates[0].Subject.String(), "err", err)
		return ""
	}
	return device
}
