package acme

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An order goes through these states (RFC 8555 §7.1.6). All its authorizations have one life with it.
//
//	pending ──► ready ──► processing ──► valid
//	   └───────────┴──────────► invalid
const (
	pending    = "pending"
	ready      = "ready"
	processing = "processing"
	valid      = "valid"
	invalid    = "invalid"
)

// order is guarded by Server.mu; the certificate is written once.
type order struct {
	id      string
	account string
	status  string
	expires time.Time
	names   []*authz
	cert    []byte
	fault   *problem
}

// authz is the proof that a name is the client's (RFC 8555 §7.1.4).
type authz struct {
	name    string
	token   string
	status  string // pending, valid or invalid
	kind    string // of the challenge that was taken, "" before
	checked time.Time
	fault   *problem
}

// The challenges that are offered.
var challenges = []string{"http-01", "tls-alpn-01"}

// allowed reports whether certificates are issued for a name.
func (s *Server) allowed(name string) bool {
	for _, d := range s.o.Domains {
		if below, ok := strings.CutPrefix(d, "*"); ok && strings.HasSuffix(name, below) && len(name) > len(below) || d == name {
			return true
		}
	}
	return false
}

// hostName reports whether a text is a host name in lower case.
func hostName(s string) bool {
	if len(s) > 253 || s == "" {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range label {
			if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
				return false
			}
		}
	}
	return true
}

func (s *Server) newOrder(w http.ResponseWriter, r *http.Request, q *signed) error {
	var p struct {
		Identifiers []struct {
			Type  string `json:"type"`
			Value string `json:"value"`
		} `json:"identifiers"`
	}
	if err := q.into(&p); err != nil {
		return err
	}
	if len(p.Identifiers) == 0 || len(p.Identifiers) > maxNames {
		return fault(http.StatusBadRequest, "malformed", "an order has 1 to %d names", maxNames)
	}
	o := &order{id: rand.Text(), account: q.account.ID, status: pending, expires: s.o.Now().Add(orderLife)}
	for _, i := range p.Identifiers {
		name := strings.ToLower(i.Value)
		switch {
		case i.Type != "dns":
			return fault(http.StatusBadRequest, "unsupportedIdentifier", "names of type dns are issued for, not %.32q", i.Type)
		case strings.HasPrefix(name, "*."):
			return fault(http.StatusForbidden, "rejectedIdentifier", "wildcards are not issued")
		case !hostName(name) || !s.allowed(name):
			return fault(http.StatusForbidden, "rejectedIdentifier", "%.253q is not among the names that the configuration allows (pki.acme.domains)", i.Value)
		case slices.ContainsFunc(o.names, func(x *authz) bool { return x.name == name }):
			continue
		}
		o.names = append(o.names, &authz{name: name, token: rand.Text(), status: pending})
	}
	if !s.limit.Allow() {
		return fault(http.StatusTooManyRequests, "rateLimited", "too many orders at once: try again later")
	}
	if err := s.admit(o); err != nil {
		return err
	}
	w.Header().Set("Location", base(r)+"/order/"+o.id)
	s.mu.Lock()
	v := o.view(base(r))
	s.mu.Unlock()
	reply(w, http.StatusCreated, v)
	return nil
}

// admit takes an order into the table, and throws out those that have ended.
func (s *Server) admit(o *order) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine, now := 0, s.o.Now()
	for id, x := range s.orders {
		switch {
		case now.After(x.expires):
			delete(s.orders, id)
		case x.account == o.account:
			mine++
		}
	}
	if mine >= maxPerAccount || len(s.orders) >= maxOrders {
		return fault(http.StatusTooManyRequests, "rateLimited", "too many orders in the last hour")
	}
	s.orders[o.id] = o
	return nil
}

// view is an order as clients see it. The caller holds Server.mu.
func (o *order) view(base string) map[string]any {
	v := map[string]any{"status": o.status, "expires": o.expires.UTC().Format(time.RFC3339), "finalize": base + "/order/" + o.id + "/finalize"}
	var names []map[string]string
	var proofs []string
	for n, a := range o.names {
		names = append(names, map[string]string{"type": "dns", "value": a.name})
		proofs = append(proofs, base+"/authz/"+o.id+"/"+strconv.Itoa(n))
	}
	v["identifiers"], v["authorizations"] = names, proofs
	if o.status == valid {
		v["certificate"] = base + "/cert/" + o.id
	}
	if o.fault != nil {
		v["error"] = o.fault
	}
	return v
}

// orderLocked finds an order of the account that asks. The caller holds Server.mu.
func (s *Server) orderLocked(q *signed, id string) (*order, error) {
	o := s.orders[id]
	if o == nil || o.account != q.account.ID || s.o.Now().After(o.expires) {
		return nil, fault(http.StatusNotFound, "malformed", "there is no such order")
	}
	return o, nil
}

func (s *Server) showOrder(w http.ResponseWriter, r *http.Request, q *signed, id string) error {
	s.mu.Lock()
	o, err := s.orderLocked(q, id)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	v := o.view(base(r))
	s.mu.Unlock()
	w.Header().Set("Retry-After", "1")
	reply(w, http.StatusOK, v)
	return nil
}

// proof finds an authorization of the account that asks. The caller holds Server.mu.
func (s *Server) proofLocked(q *signed, id, number string) (*order, *authz, error) {
	o, err := s.orderLocked(q, id)
	if err != nil {
		return nil, nil, err
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n >= len(o.names) {
		return nil, nil, fault(http.StatusNotFound, "malformed", "there is no such authorization")
	}
	return o, o.names[n], nil
}

func (s *Server) showAuthz(w http.ResponseWriter, r *http.Request, q *signed, id, number string) error {
	var p struct {
		Status string `json:"status"`
	}
	if len(q.payload) > 0 {
		if err := q.into(&p); err != nil {
			return err
		}
	}
	s.mu.Lock()
	o, a, err := s.proofLocked(q, id, number)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	if p.Status == "deactivated" && a.status == pending {
		a.status, o.status = invalid, invalid
	}
	v := map[string]any{"status": a.status, "expires": o.expires.UTC().Format(time.RFC3339), "identifier": map[string]string{"type": "dns", "value": a.name}}
	var list []any
	for _, kind := range challenges {
		if a.kind == "" || a.kind == kind {
			list = append(list, a.view(base(r), o.id, number, kind))
		}
	}
	v["challenges"] = list
	s.mu.Unlock()
	w.Header().Set("Retry-After", "1")
	reply(w, http.StatusOK, v)
	return nil
}

// view is a challenge as clients see it. The caller holds Server.mu.
func (a *authz) view(base, id, number, kind string) map[string]any {
	v := map[string]any{"type": kind, "url": base + "/challenge/" + id + "/" + number + "/" + kind, "token": a.token, "status": a.status}
	if a.status == pending && a.kind == kind {
		v["status"] = processing
	}
	if !a.checked.IsZero() && a.status == valid {
		v["validated"] = a.checked.UTC().Format(time.RFC3339)
	}
	if a.fault != nil {
		v["error"] = a.fault
	}
	return v
}

// challenge begins to look at a proof, or shows how that went.
func (s *Server) challenge(w http.ResponseWriter, r *http.Request, q *signed, id, number, kind string) error {
	if !slices.Contains(challenges, kind) {
		return fault(http.StatusNotFound, "malformed", "there is no such challenge")
	}
	print, err := thumbprint(q.key)
	if err != nil {
		return err
	}
	s.mu.Lock()
	o, a, err := s.proofLocked(q, id, number)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	begin := len(q.payload) > 0 && a.status == pending && a.kind == "" && o.status == pending
	if begin {
		select {
		case s.checks <- struct{}{}:
			a.kind = kind
		default:
			s.mu.Unlock()
			return fault(http.StatusTooManyRequests, "rateLimited", "too many proofs are being looked at: try again")
		}
	}
	v := a.view(base(r), id, number, kind)
	s.mu.Unlock()
	if begin {
		s.group.Go("acme proof", func(ctx context.Context) {
			err := s.client.check(ctx, kind, a.name, a.token, a.token+"."+print)
			s.checked(o, a, err)
		}, func(err error) {
			<-s.checks
			if err != nil {
				s.checked(o, a, err)
			}
		})
	}
	w.Header().Add("Link", "<"+base(r)+"/authz/"+id+"/"+number+">;rel=\"up\"")
	reply(w, http.StatusOK, v)
	return nil
}

// checked records what came of a proof.
func (s *Server) checked(o *order, a *authz, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.status != pending {
		return
	}
	a.checked = s.o.Now()
	if err != nil {
		a.status, o.status = invalid, invalid
		a.fault = fault(http.StatusForbidden, "unauthorized", "%v", err)
		s.log.Info("ACME proof failed", "name", a.name, "err", err)
		return
	}
	a.status = valid
	if o.status == pending && !slices.ContainsFunc(o.names, func(x *authz) bool { return x.status != valid }) {
		o.status = ready
	}
}

// finalize issues the certificate (RFC 8555 §7.4).
func (s *Server) finalize(w http.ResponseWriter, r *http.Request, q *signed, id string) error {
	var p struct {
		CSR string `json:"csr"`
	}
	if err := q.into(&p); err != nil {
		return err
	}
	der, err := base64.RawURLEncoding.DecodeString(p.CSR)
	if err != nil {
		return fault(http.StatusBadRequest, "badCSR", "the request is not base64url")
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil || csr.CheckSignature() != nil {
		return fault(http.StatusBadRequest, "badCSR", "the request cannot be read, or is not signed by its key")
	}
	s.mu.Lock()
	o, err := s.orderLocked(q, id)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	if o.status != ready {
		status := o.status
		s.mu.Unlock()
		return fault(http.StatusForbidden, "orderNotReady", "the order is %s", status)
	}
	var names []string
	for _, a := range o.names {
		names = append(names, a.name)
	}
	if err := sameNames(csr, names); err != nil {
		s.mu.Unlock()
		return err
	}
	o.status = processing
	s.mu.Unlock()

	err = s.keep(r.Context(), q.account)
	var chain []byte
	if err == nil {
		chain, err = s.o.Issue(r.Context(), csr.PublicKey, names, q.account.ID)
	}
	s.mu.Lock()
	if err != nil {
		o.status = ready // as it was: the client may try again
		s.mu.Unlock()
		return fmt.Errorf("issue for %s: %w", strings.Join(names, ", "), err)
	}
	o.status, o.cert = valid, chain
	v := o.view(base(r))
	s.mu.Unlock()
	s.log.Info("ACME certificate", "names", names, "account", q.account.ID)
	w.Header().Set("Location", base(r)+"/order/"+id)
	reply(w, http.StatusOK, v)
	return nil
}

// sameNames refuses a request that asks for other names than the order.
func sameNames(csr *x509.CertificateRequest, want []string) error {
	got := map[string]bool{}
	for _, n := range csr.DNSNames {
		got[strings.ToLower(n)] = true
	}
	if cn := csr.Subject.CommonName; cn != "" {
		got[strings.ToLower(cn)] = true
	}
	for _, n := range want {
		if !got[n] {
			return fault(http.StatusBadRequest, "badCSR", "the request lacks %s", n)
		}
	}
	if len(got) != len(want) || len(csr.IPAddresses)+len(csr.EmailAddresses)+len(csr.URIs) > 0 {
		return fault(http.StatusBadRequest, "badCSR", "the request asks for more names than the order")
	}
	return nil
}

func (s *Server) download(w http.ResponseWriter, q *signed, id string) error {
	s.mu.Lock()
	o, err := s.orderLocked(q, id)
	var chain []byte
	if err == nil {
		chain = o.cert
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if chain == nil {
		return fault(http.StatusNotFound, "malformed", "there is no certificate yet")
	}
	w.Header().Set("Content-Type", "application/pem-certificate-chain")
	_, _ = w.Write(chain) // the client may be gone already
	return nil
}

// revoke revokes a certificate for the account that has it, or for its own key (RFC 8555 §7.6).
func (s *Server) revoke(r *http.Request, q *signed) error {
	var p struct {
		Certificate string `json:"certificate"`
		Reason      int    `json:"reason"`
	}
	if err := q.into(&p); err != nil {
		return err
	}
	der, err := base64.RawURLEncoding.DecodeString(p.Certificate)
	if err != nil {
		return fault(http.StatusBadRequest, "malformed", "the certificate is not base64url")
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fault(http.StatusBadRequest, "malformed", "the certificate cannot be read")
	}
	owner := s.o.Owner(cert)
	pub, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	byItself := q.account == nil && ok && pub.Equal(q.key.Key)
	if owner == "" || !byItself && (q.account == nil || q.account.ID != owner) {
		return fault(http.StatusForbidden, "unauthorized", "that certificate is not yours to revoke")
	}
	return s.o.Revoke(r.Context(), cert, p.Reason)
}
