package appliance

import (
	"net/netip"

	"ringfence/config"
)

// directPath tells whether two phones reach each other without us ("sip-calls" §27.2). Those in the VPN do where their pool is
// routed: else their policy lets them reach the services of the appliance alone.
func (a *appliance) directPath(x, y netip.Addr) bool {
	return reachable(a.doc().VPN.Policies, x) && reachable(a.doc().VPN.Policies, y)
}

// reachable tells whether an address is outside the pools of the VPN, or in one to which the house has routes.
func reachable(all []config.VPNPolicy, a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range all {
		if p.Pool.IsValid() && p.Pool.Contains(a) || p.Pool6.IsValid() && p.Pool6.Contains(a) {
			return p.Routed
		}
	}
	return true
}
