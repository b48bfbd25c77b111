package session

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ringfence/vpn/policy"
	"ringfence/vpn/pool"
	"ringfence/vpn/tunnel"
)

var (
	// ErrTooMany says that the user, or the gateway, has as many sessions as it may.
	ErrTooMany = errors.New("too many sessions")
	// ErrPolicy says that the identity's policy does not exist.
	ErrPolicy = errors.New("policy is not declared")
)

// Path is the packet path towards the kernel. *tunnel.Tunnel is one.
type Path interface {
	Attach(netip.Addr, tunnel.Peer)
	Detach(netip.Addr, tunnel.Peer)
	Write(*tunnel.Batch)
	TooBig(pkt []byte, from netip.Addr, mtu int)
}

// Options of a table.
type Options struct {
	Log      *slog.Logger
	Path     Path
	State    pool.State // may be nil
	Policies []policy.Policy
	Own      []netip.Addr
	Services []policy.Rule
	Note     func(device, step, text string, failed bool) // may be nil
	Max      int                                          // sessions in all, 4096 when 0
}

// Table is all sessions.
type Table struct {
	log  *slog.Logger
	path Path
	o    Options

	policies atomic.Pointer[set]

	mu      sync.Mutex // guards sessions, tokens, byName
	byID    map[string]*Session
	byToken map[[32]byte]*Session
	byName  map[string][]*Session
}

// set is the declared policies with their pools.
type set struct {
	list  []*policy.Policy
	pools map[string]*pool.Pool
}

// NewTable makes an empty table.
func NewTable(o Options) (*Table, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Max <= 0 {
		o.Max = 4096
	}
	t := &Table{log: o.Log, path: o.Path, o: o, byID: make(map[string]*Session), byToken: make(map[[32]byte]*Session), byName: make(map[string][]*Session)}
	t.policies.Store(&set{})
	return t, t.SetPolicies(o.Policies)
}

// SetPolicies puts other policies in force. Live sessions follow at once; those whose policy or pool is gone end.
func (t *Table) SetPolicies(all []policy.Policy) error {
	next := &set{pools: make(map[string]*pool.Pool)}
	var errs []error
	old := t.policies.Load()
	for _, p := range all {
		if err := p.Validate(); err != nil {
			errs = append(errs, err)
			continue
		}
		for _, q := range next.list {
			if q.ID == p.ID || q.Pool.Overlaps(p.Pool) || q.Pool6.IsValid() && p.Pool6.IsValid() && q.Pool6.Overlaps(p.Pool6) {
				errs = append(errs, fmt.Errorf("vpn policies %s and %s have one name or overlapping pools", q.ID, p.ID))
			}
		}
		next.list = append(next.list, &p)
		if same := old.pools[p.ID]; same != nil && same.Network() == p.Pool.Masked() {
			next.pools[p.ID] = same
		} else {
			next.pools[p.ID] = pool.New(p.ID, p.Pool, t.o.State, t.log)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	t.policies.Store(next)
	for _, s := range t.all() {
		p := next.find(s.who.Policy)
		if p == nil || !p.Pool.Contains(s.addr4) || s.addr6.IsValid() != p.Pool6.IsValid() || s.addr6.IsValid() && !p.Pool6.Contains(s.addr6) {
			t.End(s, "policy changed", Farewell{Final: true, Text: "configuration changed, please connect again"})
			continue
		}
		s.policy.Store(p)
		s.filter.Store(t.compile(s, p))
	}
	return nil
}

func (s *set) find(id string) *policy.Policy {
	for _, p := range s.list {
		if p.ID == id {
			return p
		}
	}
	return nil
}

// Policies are those in force, in declared order.
func (t *Table) Policies() []*policy.Policy { return t.policies.Load().list }

// Policy returns a declared policy, or nil.
func (t *Table) Policy(id string) *policy.Policy { return t.policies.Load().find(id) }

func (t *Table) compile(s *Session, p *policy.Policy) *policy.Filter {
	var pools, routed []netip.Prefix
	for _, q := range t.policies.Load().list {
		both := []netip.Prefix{q.Pool}
		if q.Pool6.IsValid() {
			both = append(both, q.Pool6)
		}
		pools = append(pools, both...)
		if q.Routed {
			routed = append(routed, both...)
		}
	}
	return policy.Compile(p, policy.Target{Kind: s.who.Kind, Addr4: s.addr4, Addr6: s.addr6, Own: t.o.Own, Pools: pools, Routed: routed, Services: t.o.Services})
}

// Login makes a session for an identity that was proven, and its token. A device has one session: the newest takes over, with
// the address, since a phone that logs in again has restarted. Users may have several; those whose client is away make room.
func (t *Table) Login(ctx context.Context, who Identity) (*Session, string, error) {
	pols := t.policies.Load()
	p := pols.find(who.Policy)
	if p == nil {
		return nil, "", fmt.Errorf("%w: %q", ErrPolicy, who.Policy)
	}
	if err := t.makeRoom(who, p); err != nil {
		return nil, "", err
	}
	addr, err := pols.pools[p.ID].Take(ctx, who.Name)
	if err != nil {
		return nil, "", fmt.Errorf("policy %s: %w", p.ID, err)
	}
	var secret [32]byte
	rand.Read(secret[:])
	token := hex.EncodeToString(secret[:])
	s := t.build(who, p, pols.pools[p.ID], addr, time.Now())
	s.token = sha256.Sum256([]byte(token))
	t.number(s)
	s.log.Info("VPN login", "peer", who.Remote, "policy", p.ID, "method", who.Method, "agent", who.Agent)
	t.note(s, "logged in by "+who.Method, false)
	return s, token, nil
}

// number gives s an id and enters it.
func (t *Table) number(s *Session) {
	for s.id == "" || !t.enter(s) { // ids are short, for people; a taken one is drawn again
		var b [4]byte
		rand.Read(b[:])
		s.id = hex.EncodeToString(b[:])
	}
}

// build makes a session that is in no table yet.
func (t *Table) build(who Identity, p *policy.Policy, from *pool.Pool, addr netip.Addr, born time.Time) *Session {
	s := &Session{who: who, addr4: addr, addr6: from.In6(addr, p.Pool6), born: born, since: born, table: t, log: t.log}
	s.policy.Store(p)
	s.filter.Store(t.compile(s, p))
	return s
}

// enter puts s into the tables and the packet path; it reports false when its id or token is taken.
func (t *Table) enter(s *Session) bool {
	attr := "user"
	if s.who.Kind == policy.Device {
		attr = "phone"
	}
	s.log = t.log.With("session", s.id, attr, s.who.Name)
	t.mu.Lock()
	if t.byID[s.id] != nil || t.byToken[s.token] != nil {
		t.mu.Unlock()
		return false
	}
	t.byID[s.id], t.byToken[s.token] = s, s
	t.byName[s.who.Name] = append(t.byName[s.who.Name], s)
	t.mu.Unlock()
	t.path.Attach(s.addr4, s)
	if s.addr6.IsValid() {
		t.path.Attach(s.addr6, s)
	}
	return true
}

// makeRoom ends sessions that stand in the way of a new one, or says that there are too many.
func (t *Table) makeRoom(who Identity, p *policy.Policy) error {
	t.mu.Lock()
	mine := slices.Clone(t.byName[who.Name])
	total := len(t.byID)
	t.mu.Unlock()
	limit, ended := p.MaxSessions, 0
	end := func(s *Session, why string) {
		t.End(s, why, Farewell{Final: true, Text: why})
		ended++
	}
	mine = slices.DeleteFunc(mine, func(s *Session) bool { return s.who.Kind != who.Kind || s.fixed })
	if who.Kind == policy.Device {
		for _, s := range mine {
			end(s, "device logged in again")
		}
	} else {
		slices.SortStableFunc(mine, func(a, b *Session) int { return cmp.Compare(a.live(), b.live()) })
		for _, s := range mine {
			if len(mine)-ended >= limit && s.live() == 0 {
				end(s, "replaced by a newer session")
			}
		}
		if len(mine)-ended >= limit {
			return fmt.Errorf("%w: %s has %d", ErrTooMany, who.Name, len(mine)-ended)
		}
	}
	if total-ended >= t.o.Max {
		return fmt.Errorf("%w: the gateway has %d", ErrTooMany, total)
	}
	return nil
}

// fresh is how long a login is taken to be on its way to a tunnel.
const fresh = 20 * time.Second

// live is 1 while the session has a tunnel, or has just logged in to get one.
func (s *Session) live() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Up || s.state == Granted && time.Since(s.born) < fresh {
		return 1
	}
	return 0
}

// ByToken finds the session of a cookie.
func (t *Table) ByToken(token string) (*Session, bool) {
	if len(token) == 0 || len(token) > 128 {
		return nil, false
	}
	h := sha256.Sum256([]byte(token))
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.byToken[h]
	return s, ok
}

// End ends a session: its client is told, its address is free.
func (t *Table) End(s *Session, why string, bye Farewell) {
	now := time.Now()
	s.mu.Lock()
	if s.state == Ended {
		s.mu.Unlock()
		return
	}
	s.setLocked(Ended, now)
	tcp, udp, revoke := s.tcp.Swap(nil), s.udp.Swap(nil), s.revoke
	s.out.Store(nil)
	s.revoke = nil
	s.mu.Unlock()

	t.mu.Lock()
	delete(t.byID, s.id)
	delete(t.byToken, s.token)
	t.byName[s.who.Name] = slices.DeleteFunc(t.byName[s.who.Name], func(o *Session) bool { return o == s })
	if len(t.byName[s.who.Name]) == 0 {
		delete(t.byName, s.who.Name)
	}
	t.mu.Unlock()
	t.path.Detach(s.addr4, s)
	if s.addr6.IsValid() {
		t.path.Detach(s.addr6, s)
	}
	if p := t.policies.Load().pools[s.who.Policy]; p != nil && p.Network().Contains(s.addr4) {
		p.Release(s.addr4)
	}
	for _, a := range []*attached{tcp, udp} {
		if a != nil {
			a.link.Close(bye)
		}
	}
	if revoke != nil {
		revoke()
	}
	s.log.Info("VPN session ended", "reason", why, "took", now.Sub(s.born).Round(time.Second))
	t.note(s, "session ended: "+why, false)
}

// Kick ends the session with this id, and tells whether there was one.
func (t *Table) Kick(id string) bool {
	t.mu.Lock()
	s := t.byID[id]
	t.mu.Unlock()
	if s == nil {
		return false
	}
	t.End(s, "ended by the administrator", Farewell{Final: true, Text: "ended by the administrator"})
	return true
}

// KickName ends all sessions of a device or user, and counts them.
func (t *Table) KickName(name, why string) int {
	t.mu.Lock()
	mine := slices.Clone(t.byName[name])
	t.mu.Unlock()
	for _, s := range mine {
		t.End(s, why, Farewell{Final: true, Text: why})
	}
	return len(mine)
}

// Tick lets time pass; it is called once a second.
func (t *Table) Tick(now time.Time) {
	for _, s := range t.all() {
		if why, bye := s.tick(now); why != "" {
			t.End(s, why, bye)
		}
	}
}

// Close ends all links and sessions. Clients are told nothing, so that they come back to the next process.
func (t *Table) Close() {
	for _, s := range t.all() {
		t.End(s, "gateway stops", Farewell{})
	}
}

func (t *Table) all() []*Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*Session, 0, len(t.byID))
	for _, s := range t.byID {
		all = append(all, s)
	}
	return all
}

// Sessions reports on all sessions, oldest first.
func (t *Table) Sessions() []Info {
	all := t.all()
	slices.SortFunc(all, func(a, b *Session) int { return cmp.Or(a.born.Compare(b.born), cmp.Compare(a.id, b.id)) })
	list := make([]Info, len(all))
	for i, s := range all {
		list[i] = s.Info()
	}
	return list
}

// CertificateFrom tells whether a session that logged in by certificate is up from this source.
func (t *Table) CertificateFrom(a netip.Addr) bool {
	for _, s := range t.all() {
		if s.who.Method == "certificate" && s.who.Remote == a && s.live() == 1 {
			return true
		}
	}
	return false
}

func (t *Table) note(s *Session, text string, failed bool) {
	device := s.who.Device
	if s.who.Kind == policy.Device {
		device = s.who.Name
	}
	if t.o.Note != nil && device != "" {
		t.o.Note(device, "vpn", text, failed)
	}
}
