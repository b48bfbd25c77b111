// Package acme is a small ACME server (RFC 8555) for the machines around the phones: web servers, RADIUS servers, printers.
// It issues for names that the configuration allows, to whoever proves that they are its own, by http-01 (RFC 8555 §8.3) or
// tls-alpn-01 (RFC 8737), and optionally only to accounts that were announced (external account binding, §7.3.4).
//
// Everything before the first certificate of an account lives in memory and in tables of fixed size, so that a stranger cannot
// fill the durable state: an order is forgotten after an hour and at a restart, and clients begin again. An account is kept
// from its first certificate on.
//
// Left out: dns-01 and therefore wildcards, addresses as names, pre-authorisation, key change, terms of service.
package acme

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"ringfence/internal/task"
)

// State is where accounts are kept: a subset of the appliance's store. Keys begin with "pki/acme/".
type State interface {
	Get(key string) ([]byte, bool)
	Scan(prefix string, fn func(key string, value []byte) bool)
	Write(ctx context.Context, set map[string][]byte, del ...string) error
}

// Options of a Server.
type Options struct {
	State   State
	Domains []string          // names that are issued for; *.example.net is every name below
	Keys    map[string][]byte // external account bindings: HMAC keys by their ids; none: everybody may make an account
	// Issue issues a certificate for names to a public key, on behalf of an account, and returns it with the CAs above, PEM.
	Issue func(ctx context.Context, pub crypto.PublicKey, names []string, account string) ([]byte, error)
	// Owner says for which account a certificate was issued, "" when it is none of these.
	Owner  func(cert *x509.Certificate) string
	Revoke func(ctx context.Context, cert *x509.Certificate, reason int) error

	Resolver string       // DNS server, host:port; the system's when empty
	Log      *slog.Logger // may be nil
	Now      func() time.Time

	httpPort, tlsPort string // for tests; 80 and 443
}

// Bounds. What is over is refused, or takes the place of the oldest.
const (
	maxBody       = 64 << 10
	maxNonces     = 4096
	maxOrders     = 1000
	maxPerAccount = 30 // orders
	maxNames      = 20 // of an order
	maxAccounts   = 1000
	maxKept       = 10000 // accounts with a certificate
	maxChecks     = 8     // proofs looked at at once
	orderLife     = time.Hour
)

// Server answers ACME clients. It is an http.Handler; Stop ends what it does beside.
type Server struct {
	o      Options
	log    *slog.Logger
	group  *task.Group
	client *prover
	limit  *rate.Limiter // of new accounts and orders
	checks chan struct{}

	mu       sync.Mutex
	nonces   nonces
	accounts map[string]*account // those without certificate
	orders   map[string]*order
}

// New makes a Server.
func New(o Options) (*Server, error) {
	if o.State == nil || o.Issue == nil || o.Revoke == nil || o.Owner == nil {
		return nil, errors.New("acme: options without state or authority")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.httpPort == "" {
		o.httpPort, o.tlsPort = "80", "443"
	}
	log := o.Log.With("component", "acme")
	return &Server{
		o: o, log: log, group: task.NewGroup(context.Background(), log), client: newProver(o), limit: rate.NewLimiter(10, 100),
		checks: make(chan struct{}, maxChecks), accounts: map[string]*account{}, orders: map[string]*order{},
	}, nil
}

// Stop ends the proofs that are being looked at. It may be called repeatedly.
func (s *Server) Stop() {
	s.group.Stop()
	s.client.stop()
}

// problem is an error as a client is told (RFC 7807, RFC 8555 §6.7).
type problem struct {
	Type   string `json:"type"`
	Detail string `json:"detail"`
	Status int    `json:"status,omitempty"`
}

func (p *problem) Error() string { return p.Type + ": " + p.Detail }

func fault(status int, kind, format string, args ...any) *problem {
	return &problem{"urn:ietf:params:acme:error:" + kind, fmt.Sprintf(format, args...), status}
}

// base is the beginning of this server's addresses, as the client knows them.
func base(r *http.Request) string { return "https://" + r.Host }

// ServeHTTP implements http.Handler.
//
//	/directory /new-nonce /new-account /account/ID /new-order /order/ID /order/ID/finalize
//	/authz/ID/N /challenge/ID/N/TYPE /cert/ID /revoke-cert
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Link", "<"+base(r)+"/directory>;rel=\"index\"")
	path := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if path[0] == "directory" && len(path) == 1 && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		s.directory(w, r)
		return
	}
	h.Set("Replay-Nonce", s.newNonce())
	if path[0] == "new-nonce" && len(path) == 1 && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		if r.Method == http.MethodGet {
			w.WriteHeader(http.StatusNoContent)
		}
		return
	}
	if err := s.post(w, r, path); err != nil {
		var p *problem
		if !errors.As(err, &p) {
			s.log.Error("ACME request", "peer", r.RemoteAddr, "err", err)
			p = fault(http.StatusInternalServerError, "serverInternal", "the server cannot do this now")
		} else {
			s.log.Info("ACME request refused", "peer", r.RemoteAddr, "err", p)
		}
		h.Set("Content-Type", "application/problem+json")
		w.WriteHeader(p.Status)
		_ = json.NewEncoder(w).Encode(p) // the client may be gone already
	}
}

func (s *Server) directory(w http.ResponseWriter, r *http.Request) {
	b := base(r)
	reply(w, http.StatusOK, map[string]any{
		"newNonce": b + "/new-nonce", "newAccount": b + "/new-account", "newOrder": b + "/new-order", "revokeCert": b + "/revoke-cert",
		"meta": map[string]any{"externalAccountRequired": len(s.o.Keys) > 0},
	})
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone already
}

// post routes a signed request.
func (s *Server) post(w http.ResponseWriter, r *http.Request, path []string) error {
	if r.Method != http.MethodPost {
		return fault(http.StatusMethodNotAllowed, "malformed", "signed requests are POSTs")
	}
	q, err := s.read(w, r)
	if err != nil {
		return err
	}
	route := path[0]
	switch {
	case route == "new-account" && len(path) == 1:
		return s.newAccount(w, r, q)
	case route == "revoke-cert" && len(path) == 1:
		return s.revoke(r, q)
	}
	if q.account == nil {
		return fault(http.StatusBadRequest, "malformed", "this request is to be signed by an account (kid)")
	}
	switch {
	case route == "account" && len(path) == 2:
		return s.changeAccount(w, r, q, path[1])
	case route == "new-order" && len(path) == 1:
		return s.newOrder(w, r, q)
	case route == "order" && len(path) == 2:
		return s.showOrder(w, r, q, path[1])
	case route == "order" && len(path) == 3 && path[2] == "finalize":
		return s.finalize(w, r, q, path[1])
	case route == "authz" && len(path) == 3:
		return s.showAuthz(w, r, q, path[1], path[2])
	case route == "challenge" && len(path) == 4:
		return s.challenge(w, r, q, path[1], path[2], path[3])
	case route == "cert" && len(path) == 2:
		return s.download(w, q, path[1])
	}
	return fault(http.StatusNotFound, "malformed", "there is nothing at %.64s", r.URL.Path)
}
