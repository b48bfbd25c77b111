package session

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/vpn/policy"
	"ringfence/vpn/tunnel"
)

// path is a Path that remembers who has which address.
type path struct {
	mu sync.Mutex
	at map[netip.Addr]tunnel.Peer
}

func (p *path) Attach(a netip.Addr, s tunnel.Peer) { p.mu.Lock(); defer p.mu.Unlock(); p.at[a] = s }
func (p *path) Detach(a netip.Addr, s tunnel.Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at[a] == s {
		delete(p.at, a)
	}
}
func (p *path) Write(b *tunnel.Batch)          {}
func (p *path) TooBig([]byte, netip.Addr, int) {}

// link is a Link that remembers what it was told.
type link struct {
	probes int
	closed bool
	bye    Farewell
	seen   netip.Addr
}

func (l *link) Deliver([]tunnel.Packet) {}
func (l *link) Probe()                  { l.probes++ }
func (l *link) Close(f Farewell)        { l.closed, l.bye = true, f }
func (l *link) Describe() string        { return "test" }
func (l *link) Seen(a netip.Addr)       { l.seen = a }
func (l *link) Remote() netip.AddrPort  { return netip.MustParseAddrPort("203.0.113.5:40000") }

func table(t *testing.T, edit func(*policy.Policy)) (*Table, *path) {
	t.Helper()
	p := policy.Policy{ID: "lab", Pool: netip.MustParsePrefix("10.9.0.0/24"), Certificate: true, DPD: 30 * time.Second, Disconnected: 120 * time.Second, MaxSessions: 2}
	edit(&p)
	pa := &path{at: make(map[netip.Addr]tunnel.Peer)}
	tb, err := NewTable(Options{Path: pa, Policies: []policy.Policy{p}, Max: 10})
	if err != nil {
		t.Fatal(err)
	}
	return tb, pa
}

func login(t *testing.T, tb *Table, name string, kind policy.Kind) (*Session, string) {
	t.Helper()
	s, token, err := tb.Login(context.Background(), Identity{Name: name, Kind: kind, Policy: "lab", Method: "certificate"})
	if err != nil {
		t.Fatal(err)
	}
	return s, token
}

// pass lets time pass, ticking each second.
func pass(tb *Table, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(time.Second)
		tb.Tick(time.Now())
	}
}

func keep(*policy.Policy) {}

func TestUnusedLoginEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb, pa := table(t, keep)
		_, token := login(t, tb, "alice", policy.User)
		pass(tb, unused-2*time.Second)
		if _, ok := tb.ByToken(token); !ok {
			t.Error("ended too early")
		}
		pass(tb, 3*time.Second)
		if _, ok := tb.ByToken(token); ok || len(pa.at) != 0 {
			t.Error("a login without tunnel stays")
		}
	})
}

func TestDeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb, _ := table(t, keep)
		s, token := login(t, tb, "alice", policy.User)
		l := &link{}
		s.Connect(l, 1290, "", nil)
		pass(tb, 29*time.Second)
		if l.probes != 0 {
			t.Errorf("%d probes before the interval", l.probes)
		}
		pass(tb, 2*time.Second)
		if l.probes != 1 {
			t.Errorf("%d probes after the interval, want 1", l.probes)
		}
		time.Sleep(70 * time.Millisecond)
		s.Heard(l, time.Now(), false)
		s.Answered(l, time.Now())
		s.Answered(l, time.Now().Add(time.Hour))                                         // nobody asked
		if i := s.Info(); i.RoundTrip != 1070*time.Millisecond || i.RoundTrips[8] != 1 { // the probe was sent a second before
			t.Errorf("round trip %v, classes %v", i.RoundTrip, i.RoundTrips)
		}
		pass(tb, 29*time.Second)
		if l.closed || l.probes != 1 {
			t.Errorf("after a sign of life: closed %v, %d probes", l.closed, l.probes)
		}
		pass(tb, 32*time.Second)
		if !l.closed || l.bye.Final || s.Info().State != "away" {
			t.Errorf("silent for twice the interval: closed %v (%+v), %s", l.closed, l.bye, s.Info().State)
		}
		pass(tb, 118*time.Second)
		if _, ok := tb.ByToken(token); !ok {
			t.Error("the cookie died before its time")
		}
		l2 := &link{}
		if !s.Connect(l2, 1290, "", nil) || s.Info().State != "up" {
			t.Error("the client could not come back")
		}
		s.Lost(l, false, "late news of the old link")
		if s.Info().State != "up" {
			t.Error("the old link took the new one down")
		}
		s.Lost(l2, true, "goodbye")
		pass(tb, 16*time.Second)
		if _, ok := tb.ByToken(token); ok {
			t.Error("a session outlives the user's goodbye by more than 15 s")
		}
		if s.Connect(&link{}, 1290, "", nil) {
			t.Error("an ended session took a tunnel")
		}
	})
}

func TestRoundTripIsMeasuredOnBusyLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb, _ := table(t, keep)
		s, _ := login(t, tb, "alice", policy.User)
		l := &link{}
		s.Connect(l, 1290, "", nil)
		for range 125 {
			s.Heard(l, time.Now(), true)
			pass(tb, time.Second)
		}
		if l.probes != 2 {
			t.Errorf("%d probes in two minutes of traffic, want 2", l.probes)
		}
	})
}

func TestTimeouts(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*policy.Policy)
		want time.Duration
		text string
	}{
		{"idle", func(p *policy.Policy) { p.Idle = 5 * time.Minute }, 5 * time.Minute, "idle"},
		{"session, counted from log-in", func(p *policy.Policy) { p.Session = 10 * time.Minute }, 10*time.Minute - 30*time.Second, "session time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tb, _ := table(t, func(p *policy.Policy) { p.DPD = 0; c.edit(p) })
				s, _ := login(t, tb, "alice", policy.User)
				pass(tb, 30*time.Second)
				l := &link{}
				s.Connect(l, 1290, "", nil)
				pass(tb, c.want-2*time.Second)
				if l.closed {
					t.Fatal("ended too early")
				}
				pass(tb, 4*time.Second)
				if !l.closed || !l.bye.Final || !strings.Contains(l.bye.Text, c.text) || len(tb.Sessions()) != 0 {
					t.Errorf("closed %v, farewell %+v, %d sessions", l.closed, l.bye, len(tb.Sessions()))
				}
			})
		})
	}
}

func TestNewestConnectWins(t *testing.T) {
	tb, _ := table(t, keep)
	s, _ := login(t, tb, "alice", policy.User)
	a, b := &link{}, &link{}
	s.Connect(a, 1290, "", nil)
	s.Connect(b, 1290, "", nil)
	if !a.closed || a.bye.Final || b.closed {
		t.Errorf("old closed %v with %+v, new closed %v", a.closed, a.bye, b.closed)
	}
}

func TestLimits(t *testing.T) {
	tb, pa := table(t, keep)
	for i := range 8 {
		login(t, tb, fmt.Sprint("user", i), policy.User)
	}
	d, _ := login(t, tb, "SEP001122AA0001", policy.Device)
	d2, _ := login(t, tb, "SEP001122AA0001", policy.Device)
	if d.Addr() != d2.Addr() || pa.at[d.Addr()] != tunnel.Peer(d2) {
		t.Errorf("the device's second log-in has %v, the first had %v", d2.Addr(), d.Addr())
	}
	login(t, tb, "user9", policy.User)
	if _, _, err := tb.Login(t.Context(), Identity{Name: "one more", Kind: policy.User, Policy: "lab"}); !errors.Is(err, ErrTooMany) {
		t.Errorf("over the gateway's limit: %v", err)
	}
	if _, _, err := tb.Login(t.Context(), Identity{Name: "user9", Kind: policy.User, Policy: "none"}); !errors.Is(err, ErrPolicy) {
		t.Errorf("undeclared policy: %v", err)
	}
}

func TestSetPolicies(t *testing.T) {
	tb, _ := table(t, keep)
	s, _ := login(t, tb, "SEP001122AA0001", policy.Device)
	l := &link{}
	s.Connect(l, 1290, "", nil)
	p := *tb.Policy("lab")
	p.Idle = time.Minute
	if err := tb.SetPolicies([]policy.Policy{p}); err != nil || l.closed || s.Policy().Idle != time.Minute {
		t.Errorf("small change: %v, closed %v, %+v", err, l.closed, s.Policy())
	}
	clash := p
	clash.ID = "other"
	if err := tb.SetPolicies([]policy.Policy{p, clash}); err == nil || tb.Policy("other") != nil {
		t.Errorf("overlapping pools were accepted: %v", err)
	}
	p.Pool = netip.MustParsePrefix("10.10.0.0/24")
	if err := tb.SetPolicies([]policy.Policy{p}); err != nil || !l.closed || !l.bye.Final || len(tb.Sessions()) != 0 {
		t.Errorf("pool moved: %v, closed %v %+v", err, l.closed, l.bye)
	}
	if s, _ := login(t, tb, "SEP001122AA0001", policy.Device); !p.Pool.Contains(s.Addr()) {
		t.Errorf("address %v after the pool moved", s.Addr())
	}
}

func TestTokens(t *testing.T) {
	tb, _ := table(t, keep)
	s, token := login(t, tb, "alice", policy.User)
	if got, ok := tb.ByToken(token); !ok || got != s {
		t.Error("not found by its token")
	}
	for _, bad := range []string{"", token[1:], token + "0", strings.ToUpper(token) + "x", strings.Repeat("a", 1<<16)} {
		if _, ok := tb.ByToken(bad); ok {
			t.Errorf("found by %.20q", bad)
		}
	}
	for h := range tb.byToken {
		if strings.Contains(fmt.Sprintf("%x", h), token[:16]) {
			t.Error("the token itself is kept")
		}
	}
	if !tb.Kick(s.ID()) || tb.Kick(s.ID()) {
		t.Error("kick works once")
	}
}

func TestAdopt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, _ := table(t, func(p *policy.Policy) { p.Session = time.Hour })
		s, token := login(t, old, "SEP001122AA0001", policy.Device)
		time.Sleep(10 * time.Minute)
		rec := old.Records()
		if len(rec) != 1 || strings.Contains(fmt.Sprint(rec), token) {
			t.Fatalf("records %+v", rec)
		}
		tb, pa := table(t, func(p *policy.Policy) { p.Session, p.DPD = time.Hour, 0 })
		if err := tb.Adopt(rec[0]); err != nil {
			t.Fatal(err)
		}
		got, ok := tb.ByToken(token)
		if !ok || got.Addr() != s.Addr() || got.ID() != s.ID() || got.Info().State != "away" || pa.at[s.Addr()] != tunnel.Peer(got) {
			t.Fatalf("adopted %+v", tb.Sessions())
		}
		if err := tb.Adopt(rec[0]); err == nil {
			t.Error("adopted twice")
		}
		if !got.Connect(&link{}, 1290, "", nil) {
			t.Error("the client cannot come back")
		}
		pass(tb, 50*time.Minute-90*time.Second)
		if len(tb.Sessions()) != 1 {
			t.Error("ended too early")
		}
		pass(tb, 100*time.Second)
		if len(tb.Sessions()) != 0 {
			t.Error("session time is not counted from the log-in elsewhere")
		}
		for _, bad := range []func(*Record){
			func(r *Record) { r.Token = "00" },
			func(r *Record) { r.Kind = "robot" },
			func(r *Record) { r.Policy = "gone" },
			func(r *Record) { r.Address = netip.MustParseAddr("10.9.0.1") },
			func(r *Record) { r.Address = netip.MustParseAddr("192.0.2.1") },
			func(r *Record) { r.Born = time.Now().Add(-2 * time.Hour) },
		} {
			r := rec[0]
			r.Born = time.Now()
			if bad(&r); tb.Adopt(r) == nil {
				t.Errorf("adopted %+v", r)
			}
		}
		r := rec[0]
		r.Born = time.Now()
		if err := tb.Adopt(r); err != nil {
			t.Errorf("a refused record keeps its address: %v", err)
		}
	})
}
