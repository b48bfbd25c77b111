package session

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"ringfence/vpn/policy"
)

// Record is what another process needs to go on with a session: this appliance after a restart, or the other one of a pair. It
// holds no secret: the token's hash proves the cookie when the client brings it. The UDP channel is no part of it: the gateway
// adds that.
type Record struct {
	ID      string     `json:"id"`
	Token   string     `json:"token_sha256"`
	Name    string     `json:"name"`
	Kind    string     `json:"kind"`
	Device  string     `json:"device,omitempty"`
	Policy  string     `json:"policy"`
	Method  string     `json:"method"`
	Agent   string     `json:"agent,omitempty"`
	Remote  netip.Addr `json:"remote"`
	Address netip.Addr `json:"address"`
	Born    time.Time  `json:"born"`
}

var (
	errRecord  = errors.New("session record is not usable")
	errTaken   = errors.New("session or its address is in use here")
	errExpired = errors.New("session time is over")
)

// Record returns the session's record.
func (s *Session) Record() Record {
	return Record{ID: s.id, Token: hex.EncodeToString(s.token[:]), Name: s.who.Name, Kind: s.who.Kind.String(), Device: s.who.Device, Policy: s.who.Policy,
		Method: s.who.Method, Agent: s.who.Agent, Remote: s.who.Remote, Address: s.addr4, Born: s.born}
}

// Records returns those of all sessions.
func (t *Table) Records() []Record {
	var list []Record
	for _, s := range t.all() {
		if !s.fixed { // these are made from what is declared
			list = append(list, s.Record())
		}
	}
	return list
}

// ByID finds a session.
func (t *Table) ByID(id string) (*Session, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.byID[id]
	return s, ok
}

// UDP is the session's UDP channel; nil without one.
func (s *Session) UDP() Link {
	if a := s.udp.Load(); a != nil {
		return a.link
	}
	return nil
}

// Adopt takes a session over from its record. It is then away: its client has the policy's disconnected time to come back.
func (t *Table) Adopt(r Record) error {
	token, err := hex.DecodeString(r.Token)
	kind := map[string]policy.Kind{policy.Device.String(): policy.Device, policy.User.String(): policy.User}[r.Kind]
	if err != nil || len(token) != 32 || kind == 0 || r.ID == "" || r.Name == "" || !r.Address.Is4() {
		return fmt.Errorf("adopt: %w", errRecord)
	}
	pols := t.policies.Load()
	p := pols.find(r.Policy)
	now := time.Now()
	switch {
	case p == nil:
		return fmt.Errorf("adopt session %s: %w: %q", r.ID, ErrPolicy, r.Policy)
	case p.Session > 0 && now.Sub(r.Born) >= p.Session:
		return fmt.Errorf("adopt session %s: %w", r.ID, errExpired)
	case !pols.pools[p.ID].Claim(r.Address):
		return fmt.Errorf("adopt session %s: %w", r.ID, errTaken)
	}
	who := Identity{Name: r.Name, Kind: kind, Device: r.Device, Policy: r.Policy, Remote: r.Remote, Agent: r.Agent, Method: r.Method}
	s := t.build(who, p, pols.pools[p.ID], r.Address, r.Born)
	s.id, s.token = r.ID, [32]byte(token)
	s.state, s.since, s.linger = Away, now, p.Disconnected
	if !t.enter(s) {
		pols.pools[p.ID].Release(r.Address)
		return fmt.Errorf("adopt session %s: %w", r.ID, errTaken)
	}
	s.log.Info("VPN session taken over", "address", s.addr4)
	return nil
}
