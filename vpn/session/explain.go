package session

import (
	"net/netip"
	"slices"

	"ringfence/vpn/policy"
)

// Find returns the sessions that a person means: by id, inner address, or name of device or user.
func (t *Table) Find(what string) []*Session {
	a, _ := netip.ParseAddr(what)
	var found []*Session
	for _, s := range t.all() {
		if s.id == what || s.who.Name == what || s.who.Device == what || a.IsValid() && (s.addr4 == a || s.addr6 == a) {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b *Session) int { return a.born.Compare(b.born) })
	return found
}

// Filter is what judges the session's packets now.
func (s *Session) Filter() *policy.Filter { return s.filter.Load() }

// Sample is the filter that a session of this policy would get; nil when the policy is not declared.
func (t *Table) Sample(id string, kind policy.Kind) *policy.Filter {
	p := t.Policy(id)
	if p == nil {
		return nil
	}
	s := &Session{who: Identity{Kind: kind}, addr4: p.Gateway().Next()}
	if g := p.Gateway6(); g.IsValid() {
		s.addr6 = g.Next()
	}
	return t.compile(s, p)
}
