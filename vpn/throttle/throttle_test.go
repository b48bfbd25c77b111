package throttle

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var (
	home  = netip.MustParseAddr("203.0.113.5")
	away  = netip.MustParseAddr("198.51.100.5")
	start = time.Unix(1e9, 0)
)

func wrong(g *Guard, a netip.Addr, name string, n int) {
	for range n {
		g.Wrong(a, name, false, start)
	}
}

func TestBan(t *testing.T) {
	g := New(Limits{})
	wrong(g, home, "alice", 7)
	if !g.Allowed(home, "alice", start) {
		t.Error("refused after 7 wrong passwords")
	}
	wrong(g, home, "alice", 1)
	for _, c := range []struct {
		name string
		src  netip.Addr
		who  string
		at   time.Duration
		want bool
	}{
		{"the name at the source", home, "alice", 0, false},
		{"another name at the source", home, "bob", 0, false},
		{"the name elsewhere", away, "alice", 0, false},
		{"another name elsewhere", away, "bob", 0, true},
		{"just before the ban ends", home, "alice", 299 * time.Second, false},
		{"after the ban", home, "alice", 300 * time.Second, true},
	} {
		if got := g.Allowed(c.src, c.who, start.Add(c.at)); got != c.want {
			t.Errorf("%s: allowed %v, want %v", c.name, got, c.want)
		}
	}
	g.Wrong(home, "alice", false, start.Add(301*time.Second))
	if g.Allowed(home, "alice", start.Add(302*time.Second)) {
		t.Error("one more wrong password right after the ban does not ban again")
	}
	if !g.Allowed(home, "alice", start.Add(1300*time.Second)) {
		t.Error("points are not forgotten")
	}
}

// TestTenThousandWrongPasswords counts how many of 10,000 guesses in ten minutes are looked at at all, while the owner of the name, known
// at another address, goes on.
func TestTenThousandWrongPasswords(t *testing.T) {
	for name, c := range map[string]struct {
		guess func(i int) (netip.Addr, string)
		most  int
	}{
		"one address, one name":  {func(int) (netip.Addr, string) { return away, "alice" }, 20},
		"one address, all names": {func(i int) (netip.Addr, string) { return away, fmt.Sprint("guess", i) }, 20},
		"all addresses, one name": {func(i int) (netip.Addr, string) {
			return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), "alice"
		}, 20},
		"behind the owner's router": {func(int) (netip.Addr, string) { return home, "bob" }, 20},
	} {
		t.Run(name, func(t *testing.T) {
			g := New(Limits{})
			g.Right(home, "alice", start)
			looked := 0
			for i := range 10000 {
				at := start.Add(time.Duration(i) * 60 * time.Millisecond)
				if src, who := c.guess(i); g.Allowed(src, who, at) {
					looked++
					g.Wrong(src, who, false, at)
				}
				if i%100 == 0 && !g.Allowed(home, "alice", at) {
					t.Fatalf("after %d guesses the owner is locked out", i)
				}
			}
			if looked > c.most {
				t.Errorf("%d of 10,000 guesses were looked at, want at most %d", looked, c.most)
			}
		})
	}
}

func TestNeighbourBehindTheSameAddressGoesOn(t *testing.T) {
	g := New(Limits{})
	g.Right(home, "SEP001122AA0001", start)
	for i := range 500 {
		g.Wrong(home, fmt.Sprint("guess", i), false, start)
		g.Wrong(away, "SEP001122AA0001", false, start)
	}
	if !g.Allowed(home, "SEP001122AA0001", start) {
		t.Error("a phone known at the source is locked out by its neighbour")
	}
	wrong(g, home, "SEP001122AA0001", 8)
	if g.Allowed(home, "SEP001122AA0001", start) {
		t.Error("guesses at the known phone itself go on")
	}
}

func TestExemptSource(t *testing.T) {
	g := New(Limits{})
	for range 20 {
		g.Wrong(home, "alice", true, start)
	}
	if g.Allowed(home, "alice", start) || g.Allowed(away, "alice", start) {
		t.Error("the name is not protected")
	}
	if !g.Allowed(home, "bob", start) {
		t.Error("the exempt source is banned")
	}
}

func TestIPv6CountsByNetwork(t *testing.T) {
	g := New(Limits{})
	for i := range 8 {
		g.Wrong(netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1)), fmt.Sprint("n", i), false, start)
	}
	if g.Allowed(netip.MustParseAddr("2001:db8::ffff"), "x", start) {
		t.Error("a /64 counts as many sources")
	}
	if !g.Allowed(netip.MustParseAddr("2001:db8:0:1::1"), "x", start) {
		t.Error("the next /64 is banned too")
	}
}

func TestTablesAreBounded(t *testing.T) {
	g := New(Limits{Entries: 64})
	wrong(g, home, "alice", 8)
	for i := range 10000 {
		a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		g.Wrong(a, fmt.Sprint("n", i), false, start)
		g.Right(a, fmt.Sprint("m", i), start)
	}
	for name, n := range map[string]int{"sources": len(g.sources), "names": len(g.names), "pairs": len(g.pairs), "known": len(g.known)} {
		if n > 64 {
			t.Errorf("%s holds %d entries, want at most 64", name, n)
		}
	}
	if g.Allowed(home, "alice", start) {
		t.Error("a flood of strangers washed a ban away")
	}
}
