package acme

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	jose "github.com/go-jose/go-jose/v4"
)

// algorithms that requests may be signed with.
var algorithms = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.RS256, jose.EdDSA}

// nonces are those that were given out and not used: the newest maxNonces.
type nonces struct {
	live map[string]bool
	ring [maxNonces]string
	next int
}

func (s *Server) newNonce() string {
	n := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nonces.live == nil {
		s.nonces.live = map[string]bool{}
	}
	old := &s.nonces.ring[s.nonces.next]
	delete(s.nonces.live, *old)
	*old = n
	s.nonces.live[n] = true
	s.nonces.next = (s.nonces.next + 1) % maxNonces
	return n
}

// spend takes a nonce: each is good once.
func (s *Server) spend(n string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ok := s.nonces.live[n]
	delete(s.nonces.live, n)
	return ok
}

// signed is a request whose signature was checked (RFC 8555 §6.2).
type signed struct {
	key     *jose.JSONWebKey
	account *account // nil when it was signed by a key that came with it (jwk)
	payload []byte   // empty: POST-as-GET
}

// into decodes the payload.
func (q *signed) into(v any) error {
	if err := json.Unmarshal(q.payload, v); err != nil {
		return fault(http.StatusBadRequest, "malformed", "the payload is not what is wanted here")
	}
	return nil
}

// read reads a request and checks its form, signature, address and nonce.
func (s *Server) read(w http.ResponseWriter, r *http.Request) (*signed, error) {
	bad := func(text string) error { return fault(http.StatusBadRequest, "malformed", "%s", text) }
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(kind) != "application/jose+json" {
		return nil, fault(http.StatusUnsupportedMediaType, "malformed", "requests are application/jose+json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, bad("the request did not come whole, or is too long")
	}
	j, err := parse(body)
	if err != nil {
		return nil, err
	}
	h := j.Signatures[0].Protected
	if address, _ := h.ExtraHeaders["url"].(string); address != base(r)+r.URL.Path {
		return nil, fault(http.StatusUnauthorized, "unauthorized", "the request was signed for another address")
	}
	q := &signed{}
	switch {
	case h.JSONWebKey != nil && h.KeyID == "":
		q.key = h.JSONWebKey
		if err := usable(q.key); err != nil {
			return nil, err
		}
	case h.JSONWebKey == nil && h.KeyID != "":
		id, ok := strings.CutPrefix(h.KeyID, base(r)+"/account/")
		if q.account = s.account(id); !ok || q.account == nil {
			return nil, fault(http.StatusBadRequest, "accountDoesNotExist", "there is no such account: make it anew")
		}
		if q.account.Status != "valid" {
			return nil, fault(http.StatusUnauthorized, "unauthorized", "the account was given up")
		}
		q.key = q.account.Key
	default:
		return nil, bad("the request wants either jwk or kid")
	}
	if q.payload, err = j.Verify(q.key); err != nil {
		return nil, fault(http.StatusUnauthorized, "unauthorized", "the signature is wrong")
	}
	// After the signature: a stranger cannot spend somebody's nonce.
	if !s.spend(h.Nonce) {
		return nil, fault(http.StatusBadRequest, "badNonce", "the nonce was not given out lately, or was used")
	}
	return q, nil
}

// parse reads a flattened JWS with one signature and all headers protected.
func parse(body []byte) (*jose.JSONWebSignature, error) {
	var form struct {
		Protected  string          `json:"protected"`
		Header     json.RawMessage `json:"header"`
		Signatures json.RawMessage `json:"signatures"`
	}
	if json.Unmarshal(body, &form) != nil || form.Protected == "" || form.Header != nil || form.Signatures != nil {
		return nil, fault(http.StatusBadRequest, "malformed", "the request is no flattened JWS with protected headers alone")
	}
	j, err := jose.ParseSignedJSON(string(body), algorithms)
	if err != nil || len(j.Signatures) != 1 {
		return nil, fault(http.StatusBadRequest, "badSignatureAlgorithm", "the request is not signed by ES256, ES384, ES512, RS256 or EdDSA")
	}
	return j, nil
}

// usable refuses keys that are private, symmetric or weak.
func usable(k *jose.JSONWebKey) error {
	weak := false
	if pub, ok := k.Key.(*rsa.PublicKey); ok {
		weak = pub.N.BitLen() < 2048 || pub.N.BitLen() > 8192
	}
	if !k.Valid() || !k.IsPublic() || weak {
		return fault(http.StatusBadRequest, "badPublicKey", "the key is not public, or too weak")
	}
	return nil
}

// thumbprint names a key (RFC 7638).
func thumbprint(k *jose.JSONWebKey) (string, error) {
	sum, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fault(http.StatusBadRequest, "badPublicKey", "the key is of an unknown kind")
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}
