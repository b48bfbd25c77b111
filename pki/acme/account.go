package acme

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	jose "github.com/go-jose/go-jose/v4"
)

// account is a client's key (RFC 8555 §7.1.2). Its id is the key's thumbprint, so one key has one account.
type account struct {
	ID      string           `json:"-"`
	Key     *jose.JSONWebKey `json:"key"`
	Contact []string         `json:"contact,omitempty"`
	Status  string           `json:"status"`          // valid or deactivated
	Bound   string           `json:"bound,omitempty"` // the announced key that it was bound to

	kept bool
}

func accountKey(id string) string { return "pki/acme/account/" + id }

// account finds an account by its id, nil if there is none. The answer is not to be changed.
func (s *Server) account(id string) *account {
	if len(id) != 43 || strings.Contains(id, "/") {
		return nil
	}
	s.mu.Lock()
	a := s.accounts[id]
	s.mu.Unlock()
	if a != nil {
		return a
	}
	v, ok := s.o.State.Get(accountKey(id))
	a = &account{ID: id, kept: true}
	if !ok || json.Unmarshal(v, a) != nil {
		return nil
	}
	return a
}

// put puts an account where it belongs.
func (s *Server) put(ctx context.Context, a *account) error {
	if !a.kept {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.accounts) >= maxAccounts && s.accounts[a.ID] == nil {
			for id := range s.accounts { // any: strangers' are as good as each other
				delete(s.accounts, id)
				break
			}
		}
		s.accounts[a.ID] = a
		return nil
	}
	v, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return s.o.State.Write(ctx, map[string][]byte{accountKey(a.ID): v})
}

// keep makes an account durable: it has proven a name.
func (s *Server) keep(ctx context.Context, a *account) error {
	if a.kept {
		return nil
	}
	n := 0
	s.o.State.Scan("pki/acme/account/", func(string, []byte) bool { n++; return n < maxKept })
	if n >= maxKept {
		return fault(http.StatusTooManyRequests, "rateLimited", "there are too many accounts")
	}
	kept := *a
	kept.kept = true
	if err := s.put(ctx, &kept); err != nil {
		return fmt.Errorf("keep account %s: %w", a.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.accounts, a.ID)
	return nil
}

// newAccount makes or finds an account (RFC 8555 §7.3).
func (s *Server) newAccount(w http.ResponseWriter, r *http.Request, q *signed) error {
	if q.account != nil {
		return fault(http.StatusBadRequest, "malformed", "a new account is signed by its own key (jwk)")
	}
	var p struct {
		Contact  []string        `json:"contact"`
		Existing bool            `json:"onlyReturnExisting"`
		Binding  json.RawMessage `json:"externalAccountBinding"`
	}
	if err := q.into(&p); err != nil {
		return err
	}
	id, err := thumbprint(q.key)
	if err != nil {
		return err
	}
	status := http.StatusOK
	a := s.account(id)
	switch {
	case a != nil && a.Status != "valid":
		return fault(http.StatusUnauthorized, "unauthorized", "the account was given up")
	case a == nil && p.Existing:
		return fault(http.StatusBadRequest, "accountDoesNotExist", "this key has no account")
	case a == nil:
		if !s.limit.Allow() {
			return fault(http.StatusTooManyRequests, "rateLimited", "too many accounts at once: try again later")
		}
		if a, err = s.bind(r, q, p.Binding); err != nil {
			return err
		}
		a.ID, a.Key, a.Status = id, &jose.JSONWebKey{Key: q.key.Key}, "valid"
		if a.Contact, err = contacts(p.Contact); err != nil {
			return err
		}
		if err := s.put(r.Context(), a); err != nil {
			return err
		}
		status = http.StatusCreated
		s.log.Info("ACME account", "account", id, "bound", a.Bound, "peer", r.RemoteAddr)
	}
	w.Header().Set("Location", base(r)+"/account/"+id)
	reply(w, status, map[string]any{"status": a.Status, "contact": a.Contact})
	return nil
}

func contacts(all []string) ([]string, error) {
	if len(all) > 4 {
		return nil, fault(http.StatusBadRequest, "invalidContact", "at most 4 contacts")
	}
	for _, c := range all {
		if len(c) > 254 || !strings.HasPrefix(c, "mailto:") {
			return nil, fault(http.StatusBadRequest, "unsupportedContact", "contacts are mailto: addresses")
		}
	}
	return all, nil
}

// bind checks the external account binding (RFC 8555 §7.3.4).
func (s *Server) bind(r *http.Request, q *signed, binding json.RawMessage) (*account, error) {
	if len(s.o.Keys) == 0 {
		return &account{}, nil
	}
	wrong := fault(http.StatusUnauthorized, "unauthorized", "the external account binding is not one that was announced")
	if len(binding) == 0 {
		return nil, fault(http.StatusUnauthorized, "externalAccountRequired", "accounts here are announced: give key id and HMAC key")
	}
	j, err := jose.ParseSignedJSON(string(binding), []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512})
	if err != nil || len(j.Signatures) != 1 {
		return nil, wrong
	}
	h := j.Signatures[0].Protected
	if address, _ := h.ExtraHeaders["url"].(string); address != base(r)+r.URL.Path {
		return nil, wrong
	}
	key := s.o.Keys[h.KeyID]
	if len(key) == 0 {
		return nil, wrong
	}
	payload, err := j.Verify(key)
	if err != nil {
		return nil, wrong
	}
	var bound jose.JSONWebKey
	if json.Unmarshal(payload, &bound) != nil || !bound.Valid() {
		return nil, wrong
	}
	x, errX := thumbprint(&bound)
	y, errY := thumbprint(q.key)
	if errors.Join(errX, errY) != nil || x != y {
		return nil, wrong
	}
	return &account{Bound: h.KeyID}, nil
}

// changeAccount shows, changes or gives up an account (RFC 8555 §7.3.2, §7.3.6).
func (s *Server) changeAccount(w http.ResponseWriter, r *http.Request, q *signed, id string) error {
	if q.account.ID != id {
		return fault(http.StatusUnauthorized, "unauthorized", "that is another account")
	}
	a := *q.account
	if len(q.payload) > 0 {
		var p struct {
			Contact []string `json:"contact"`
			Status  string   `json:"status"`
		}
		if err := q.into(&p); err != nil {
			return err
		}
		var err error
		if p.Contact != nil {
			if a.Contact, err = contacts(p.Contact); err != nil {
				return err
			}
		}
		switch p.Status {
		case "", "valid":
		case "deactivated":
			a.Status = p.Status
		default:
			return fault(http.StatusBadRequest, "malformed", "an account is deactivated or left as it is")
		}
		if err := s.put(r.Context(), &a); err != nil {
			return err
		}
	}
	reply(w, http.StatusOK, map[string]any{"status": a.Status, "contact": a.Contact})
	return nil
}

// DecodeKey reads an HMAC key as the configuration has it: base64url without padding.
func DecodeKey(text string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(text) }
