package session

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"
)

// Fixed makes a session that nobody logs in to: its client proves itself by a key with every packet (WireGuard). It has no cookie,
// time does not end it, and it does not count among a person's sessions. lease is the name under which its address is kept.
func (t *Table) Fixed(ctx context.Context, who Identity, lease string) (*Session, error) {
	pols := t.policies.Load()
	p := pols.find(who.Policy)
	if p == nil {
		return nil, fmt.Errorf("%w: %q", ErrPolicy, who.Policy)
	}
	addr, err := pols.pools[p.ID].Take(ctx, lease)
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", p.ID, err)
	}
	s := t.build(who, p, pols.pools[p.ID], addr, time.Now())
	s.fixed = true
	rand.Read(s.token[:]) // the hash of nothing that anybody could send
	t.number(s)
	return s, nil
}

// Over tells whether the session has ended.
func (s *Session) Over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state == Ended
}
