package appliance

import "net/netip"

// directPath tells whether two phones reach each other without us ("sip-calls" §27.2). Those in the VPN do not: their policy lets
// them reach the services of the appliance.
func (a *appliance) directPath(x, y netip.Addr) bool {
	for _, p := range a.doc().VPN.Policies {
		for _, addr := range []netip.Addr{x.Unmap(), y.Unmap()} {
			if p.Pool.IsValid() && p.Pool.Contains(addr) || p.Pool6.IsValid() && p.Pool6.Contains(addr) {
				return false
			}
		}
	}
	return true
}
