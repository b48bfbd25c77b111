package main

import (
	"fmt"
	"strings"
)

// site is the declared document of one measured daemon.
type site struct {
	phones  int    // devices, one line each
	secure  bool   // in encrypted mode
	rsa     int    // so many of them with RSA keys, the first ones; the others with P-256
	lines   int    // numbers without phone, for ordinary clients
	calls   int    // each of them may have at once; 0 is the default
	stream  string // address that VPN users may reach besides the telephony services; "" for none
	tunnels bool   // with VPN
	watched bool   // every phone has a key of the first; else of the next
}

// Secrets of the document. They protect nothing: the daemon lives for seconds in a namespace without a way out.
const (
	password = "MeasuredPassword1"
	vpnUser  = "tunnel"
	realm    = "bench.example.com"
)

func device(i int) string      { return fmt.Sprintf("SEP0200%08X", i) }
func phoneNumber(i int) string { return fmt.Sprintf("2%04d", i) }
func lineNumber(i int) string  { return fmt.Sprintf("5%04d", i) }

// ports of the measured daemon.
const (
	portHTTP = 6970
	portCAPF = 3804
	portTVS  = 2445
	portSIP  = 5060
	portTLS  = 5061
	portVPN  = 443
)

// document is the site as YAML.
func (s site) document() string {
	var b strings.Builder
	p := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	p("node:\n  name: bench\n  address: %s", daemonAddress)
	p("  listen:")
	for _, l := range []struct {
		name string
		port int
	}{{"provision_http", portHTTP}, {"provision_https", 6971}, {"tftp", 69}, {"capf", portCAPF}, {"tvs", portTVS}, {"sip_tcp", portSIP},
		{"sip_udp", portSIP}, {"sip_tls", portTLS}, {"vpn", portVPN}, {"metrics", 9090}} {
		p("    %s: %s:%d", l.name, daemonAddress, l.port)
	}
	p("  media:\n    address: %s\n  tunnel:\n    device: bench0", daemonAddress)
	p("site:\n  name: Bench\n  domain: %s", realm)
	p("sip:\n  max_flows: 50000\n  register_expires: 3600s")
	p("pki:\n  lsc:\n    key: p256")
	p("vpn:\n  enabled: %t\n  hosts: [%q]", s.tunnels, daemonAddress)
	if s.tunnels {
		p("  policies:\n    - id: bulk\n      pool: 100.64.1.0/24\n      mtu: 1290")
		if s.stream != "" {
			p("      routes: [%s/32]", s.stream)
		}
	}
	p("numbering:\n  extensions: \"XXXXX\"")
	p("users:\n  - {id: %s, name: Tunnel, password: %q%s}", vpnUser, password, map[bool]string{true: ", vpn: bulk"}[s.tunnels])
	if s.phones > 0 {
		p("phones:")
	}
	security, model := "nonsecure", "8851"
	if s.secure {
		security = "encrypted"
	}
	for i := range s.phones {
		key := ""
		if i < s.rsa {
			key = ", lsc_key: rsa2048"
		}
		watches := (i + 1) % s.phones
		if s.watched {
			watches = 0
		}
		p("  - {device: %s, model: %q, security: %s, password: %s%s, keys: [{blf: %q}]}", device(i), model, security, password, key, phoneNumber(watches))
	}
	if s.phones+s.lines > 0 {
		p("lines:")
	}
	for i := range s.phones {
		p("  - {number: %q, phone: %s}", phoneNumber(i), device(i))
	}
	for i := range s.lines {
		more := ""
		if s.calls > 0 {
			more = fmt.Sprintf(", max_calls: %d, busy_at: %d", s.calls, s.calls)
		}
		p("  - {number: %q, password: %s%s}", lineNumber(i), password, more)
	}
	return b.String()
}
