package appliance

import (
	"net/netip"
	"testing"

	"ringfence/config"
)

func TestPhonesOfARoutedPoolAreReachable(t *testing.T) {
	all := []config.VPNPolicy{
		{ID: "phones", Pool: netip.MustParsePrefix("100.64.10.0/24"), Pool6: netip.MustParsePrefix("fd00:64:10::/64")},
		{ID: "branch", Pool: netip.MustParsePrefix("100.64.11.0/24"), Pool6: netip.MustParsePrefix("fd00:64:11::/64"), Routed: true},
	}
	for _, c := range []struct {
		addr string
		want bool
	}{
		{"192.0.2.10", true}, {"2001:db8::10", true},
		{"100.64.10.7", false}, {"::ffff:100.64.10.7", false}, {"fd00:64:10::7", false},
		{"100.64.11.7", true}, {"::ffff:100.64.11.7", true}, {"fd00:64:11::7", true},
	} {
		if got := reachable(all, netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%s is reachable: got %v, want %v", c.addr, got, c.want)
		}
	}
}
