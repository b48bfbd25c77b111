package pool

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// memory is a State in a map.
type memory map[string][]byte

func (m memory) Scan(prefix string, fn func(string, []byte) bool) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if strings.HasPrefix(k, prefix) && !fn(k, m[k]) {
			return
		}
	}
}

func (m memory) Write(_ context.Context, set map[string][]byte, del ...string) error {
	maps.Copy(m, set)
	for _, k := range del {
		delete(m, k)
	}
	return nil
}

func pool(m memory, network string) *Pool {
	return New("phones", netip.MustParsePrefix(network), m, slog.New(slog.DiscardHandler))
}

func take(t *testing.T, p *Pool, name string) netip.Addr {
	t.Helper()
	a, err := p.Take(t.Context(), name)
	if err != nil {
		t.Fatalf("take for %s: %v", name, err)
	}
	return a
}

func TestAddressIsKept(t *testing.T) {
	m := memory{}
	p := pool(m, "10.9.0.0/24")
	a := take(t, p, "SEP001122AA0001")
	p.Release(a)
	for range 50 {
		take(t, p, "user"+strings.Repeat("x", len(p.used)))
	}
	if got := take(t, p, "SEP001122AA0001"); got != a {
		t.Errorf("second time %v, want %v", got, a)
	}
	if got := take(t, pool(m, "10.9.0.0/24"), "SEP001122AA0001"); got != a {
		t.Errorf("after a restart %v, want %v", got, a)
	}
	if string(m["vpn/addr/phones/SEP001122AA0001"]) != a.String() {
		t.Errorf("state holds %q", m)
	}
	if got := take(t, pool(m, "10.10.0.0/24"), "SEP001122AA0001"); !netip.MustParsePrefix("10.10.0.0/24").Contains(got) {
		t.Errorf("after the pool moved: %v", got)
	}
}

func TestTwoAppliancesAgree(t *testing.T) {
	for _, name := range []string{"SEP001122AA0001", "SEP001122AA0002", "alice"} {
		a, b := take(t, pool(memory{}, "10.9.0.0/20"), name), take(t, pool(memory{}, "10.9.0.0/20"), name)
		if a != b {
			t.Errorf("%s: %v and %v", name, a, b)
		}
	}
}

func TestSecondSessionBorrows(t *testing.T) {
	m := memory{}
	p := pool(m, "10.9.0.0/24")
	a, b := take(t, p, "alice"), take(t, p, "alice")
	if a == b {
		t.Errorf("both sessions have %v", a)
	}
	p.Release(a)
	p.Release(b)
	if got := take(t, p, "alice"); got != a {
		t.Errorf("later %v, want her own %v", got, a)
	}
	if len(m) != 1 {
		t.Errorf("%d assignments kept, want 1", len(m))
	}
}

func TestSmallPool(t *testing.T) {
	m := memory{}
	p := pool(m, "10.9.0.0/29") // .2 to .6
	all := map[string]netip.Addr{}
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		all[n] = take(t, p, n)
	}
	for n, a := range all {
		if a.As4()[3] < 2 || a.As4()[3] > 6 {
			t.Errorf("%s got %v", n, a)
		}
	}
	if _, err := p.Take(t.Context(), "f"); !errors.Is(err, ErrFull) {
		t.Errorf("sixth: %v, want %v", err, ErrFull)
	}
	p.Release(all["c"])
	p.Release(all["b"])
	if got := take(t, p, "f"); got != all["b"] {
		t.Errorf("newcomer got %v, want that of the longest away, %v", got, all["b"])
	}
	if _, ok := m["vpn/addr/phones/b"]; ok {
		t.Error("b's assignment is still kept")
	}
	if got := take(t, p, "c"); got != all["c"] {
		t.Errorf("c got %v, want its own %v", got, all["c"])
	}
}

func TestStateWithOneAddressTwice(t *testing.T) {
	p := pool(memory{"vpn/addr/phones/a": []byte("10.9.0.9"), "vpn/addr/phones/b": []byte("10.9.0.9"), "vpn/addr/phones/c": []byte("junk"), "vpn/addr/phones/d": []byte("10.9.0.1")}, "10.9.0.0/24")
	if a, b := take(t, p, "a"), take(t, p, "b"); a.String() != "10.9.0.9" || a == b {
		t.Errorf("a %v, b %v", a, b)
	}
	if d := take(t, p, "d"); d.String() == "10.9.0.1" {
		t.Error("d got the gateway's address")
	}
}

func TestIn6(t *testing.T) {
	p := pool(nil, "10.9.0.0/24")
	if got := p.In6(netip.MustParseAddr("10.9.0.7"), netip.MustParsePrefix("2001:db8:9::/64")); got.String() != "2001:db8:9::7" {
		t.Errorf("got %v", got)
	}
	if got := p.In6(netip.MustParseAddr("10.9.0.77"), netip.MustParsePrefix("2001:db8:9::/124")); got.IsValid() {
		t.Errorf("outside the small pool: %v", got)
	}
}
