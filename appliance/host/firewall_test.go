package host

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/config"
)

func document(t *testing.T, text string) *config.Document {
	t.Helper()
	d, _, err := config.Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const site = `node:
  address: 192.0.2.10
  host:
    interfaces:
      - {name: port0, addresses: [192.0.2.10/24], zones: [phones]}
      - {name: port1, dhcp: true, zones: [outside]}
      - {name: port2, addresses: [198.51.100.2/24], zones: [administration]}
    firewall:
      enabled: true
      masquerade: [port1]
      allow:
        - {from: administration, to: phones, protocol: tcp, ports: 80}
        - {from: outside, source: 203.0.113.0/24, protocol: udp, ports: 5000-5010}
vpn:
  policies:
    - {id: phones, pool: 100.64.77.0/24, routes: [192.0.2.0/24], allow: [{to: 198.51.100.80/32, protocol: tcp, ports: 443}]}
`

// TestWhatListenersNeed is the default of a site with every zone: each port and the zones that it is open to, and nothing else.
func TestWhatListenersNeed(t *testing.T) {
	open := map[string][]string{}
	d := document(t, site)
	for _, r := range Needs(d) {
		if r.To == Appliance {
			key := fmt.Sprintf("%s %d", r.Protocol, r.First)
			open[key] = append(open[key], r.From)
		}
	}
	phones := []string{"phones", "vpn"}
	want := map[string][]string{
		"tcp 6970": phones, "tcp 6971": phones, "udp 69": phones, "tcp 3804": phones, "tcp 2445": phones, "tcp 5060": phones, "udp 5060": phones, "tcp 5061": phones,
		"udp 123": phones, "udp 16384": phones, "tcp 6974": {"phones", "vpn", "administration"}, "tcp 22": {"administration"}, "tcp 443": {"outside"}, "udp 443": {"outside"},
	}
	for key, zones := range want {
		if d := cmp.Diff(open[key], zones); d != "" {
			t.Errorf("%s: got, want:\n%s", key, d)
		}
	}
	for key, zones := range open {
		if slices.Contains(zones, "outside") && key != "tcp 443" && key != "udp 443" {
			t.Errorf("%s is open to the outside", key)
		}
	}
}

func TestCompile(t *testing.T) {
	d := document(t, site)
	rules := compile(SpecOf(d), Needs(d), "ringfence0")
	has := func(r rule) bool { return slices.Contains(rules, r) }
	for name, r := range map[string]rule{
		"declared between zones": {chain: "forward", in: "port2", out: "port0", protocol: "tcp", first: 80, last: 80, verdict: "accept", note: "declared"},
		"declared to us":         {chain: "from_outside", protocol: "udp", first: 5000, last: 5010, source: prefix("203.0.113.0/24"), verdict: "accept", note: "declared"},
		"DHCP":                   {chain: "input", in: "port1", protocol: "udp", from: 67, first: 68, last: 68, verdict: "accept", note: "dhcp"},
		"zone":                   {chain: "input", in: "port0", verdict: "from_phones"},
		"VPN device":             {chain: "input", in: "ringfence0", verdict: "from_vpn"},
		"VPN route":              {chain: "forward", in: "ringfence0", out: "port0", protocol: "any", dest: prefix("192.0.2.0/24"), verdict: "accept", note: "vpn phones"},
		"VPN rule":               {chain: "forward", in: "ringfence0", out: "port2", protocol: "any", dest: prefix("198.51.100.80/32"), verdict: "accept", note: "vpn phones"},
		"masquerade":             {chain: "hide", out: "port1", verdict: "masquerade"},
	} {
		if !has(r) {
			t.Errorf("%s: no rule %+v", name, r)
		}
	}
	for _, r := range rules {
		if r.chain == "forward" && r.verdict == "accept" && r.state == 0 && (r.in == "port0" || r.in == "port1") {
			t.Errorf("phones or the outside may pass: %+v", r)
		}
	}
	if !forwards(rules) {
		t.Error("nothing passes")
	}
}

// TestFirewallInTheKernel tries the doors from the other end of the cable.
func TestFirewallInTheKernel(t *testing.T) {
	y := newYard(t)
	y.listen(5060)
	y.listen(2222)
	udp, err := net.ListenPacket("udp", ":16384")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	spec := Spec{Links: []Link{{Name: "port0", IPv6: "static", Addresses: []netip.Prefix{prefix("192.0.2.10/24"), prefix("2001:db8::10/64")}, Zones: []string{"phones"}}},
		Firewall: &Firewall{Allow: []Rule{{From: "phones", To: Appliance, Protocol: "tcp", First: 2222, Last: 2222, Source: prefix("192.0.2.7/32"), What: "declared"}}, Masquerade: []string{"port9"}}}
	needs := []Rule{{From: "phones", To: Appliance, Protocol: "tcp", First: 5060, Last: 5060, What: "sip_tcp"}, {From: "phones", To: Appliance, Protocol: "udp", First: 16384, Last: 16390, What: "media"},
		{From: "vpn", To: "phones", Protocol: "any", Dest: prefix("192.0.2.0/24"), What: "vpn"}}
	k := run(t, t.TempDir(), spec, func(o *Options) { o.Needs = func() []Rule { return needs } })
	if _, err := k.Apply(bg, time.Minute); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the open port", func() bool { return y.reaches("192.0.2.10:5060") })
	eventually(t, "the open port by IPv6", func() bool { return y.reaches("[2001:db8::10]:5060") })
	if y.reaches("192.0.2.10:2222") || y.reaches("[2001:db8::10]:2222") {
		t.Error("a port that nobody declared is open")
	}
	y.there("ping -n -c 1 -W 5 192.0.2.10")
	y.there("ip address del 192.0.2.1/24 dev admin0")
	y.there("ip address add 192.0.2.7/24 dev admin0")
	eventually(t, "the port that is open to one", func() bool { return y.reaches("192.0.2.10:2222") })
	c, err := y.dial("udp", "192.0.2.10:16384")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got := make(chan bool, 1)
	go func() {
		udp.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, _, err := udp.ReadFrom(make([]byte, 10))
		got <- err == nil
	}()
	c.Write([]byte("rtp"))
	if !<-got {
		t.Error("RTP does not come in")
	}
	v := k.show(t)
	if v.Denied == 0 || !slices.Contains(v.Firewall, "phones → appliance tcp 5060 (sip_tcp)") {
		t.Errorf("%+v", v)
	}
	out, err := exec.Command("nft", "list", "table", "inet", "ringfence").CombinedOutput()
	if err != nil {
		t.Skip("nft is not installed")
	}
	for _, want := range []string{`iifname "port0" jump from_phones`, "ct state established,related", `tcp dport 5060 counter`, `udp dport 16384-16390 counter`, `comment "sip_tcp"`, "ip saddr 192.0.2.7 tcp dport 2222",
		`iifname "tun7" oifname "port0" ip daddr 192.0.2.0/24`, `oifname "port9" counter`, "masquerade", "type filter hook input priority filter; policy drop;", "type filter hook forward priority filter; policy drop;"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	// A firewall that the kernel refuses leaves the one before as it was.
	if err := replace([]rule{{chain: "input", verdict: "accept"}, {chain: "hide", protocol: "nothing", verdict: "accept"}}); err == nil {
		t.Error("nonsense was taken")
	}
	if y.reaches("192.0.2.10:16384") {
		t.Error("open after a refusal")
	}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	if err := remove(); err != nil {
		t.Errorf("removed twice: %v", err)
	}
}
