package policy

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	addr = netip.MustParseAddr
	pfx  = netip.MustParsePrefix
)

// ip4 builds an IPv4 packet with the given transport bytes.
func ip4(src, dst string, proto Proto, transport []byte, edit ...func([]byte)) []byte {
	b := make([]byte, 20, 20+len(transport))
	b[0], b[8], b[9] = 0x45, 64, byte(proto)
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(transport)))
	s, d := addr(src).As4(), addr(dst).As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	b = append(b, transport...)
	for _, e := range edit {
		e(b)
	}
	return b
}

func ip6(src, dst string, next byte, rest []byte) []byte {
	b := make([]byte, 40, 40+len(rest))
	b[0], b[6], b[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(rest)))
	s, d := addr(src).As16(), addr(dst).As16()
	copy(b[8:], s[:])
	copy(b[24:], d[:])
	return append(b, rest...)
}

func ports(n int, src, dst uint16, flags byte) []byte {
	b := make([]byte, n)
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	if n >= 20 {
		b[13] = flags
	}
	return b
}

func tcp(src, dst uint16, flags byte) []byte { return ports(20, src, dst, flags) }
func udp(src, dst uint16) []byte             { return ports(8, src, dst, 0) }
func icmp(t byte) []byte                     { b := make([]byte, 8); b[0] = t; return b }

const syn, ack = 0x02, 0x10

func lab(kind Kind) *Filter {
	p := &Policy{ID: "lab", Pool: pfx("10.9.0.0/24"), Pool6: pfx("2001:db8:9::/64"), Routes: []netip.Prefix{pfx("198.51.100.0/24"), pfx("10.0.0.0/8")},
		Allow: []Rule{{To: pfx("203.0.113.7/32"), Proto: TCP, First: 80, Last: 80}}}
	return Compile(p, Target{Kind: kind, Addr4: addr("10.9.0.5"), Addr6: addr("2001:db8:9::5"), Own: []netip.Addr{addr("192.0.2.1")},
		Pools:    []netip.Prefix{pfx("10.9.1.0/24")},
		Services: []Rule{{Proto: TCP, First: 5060, Last: 5061}, {Proto: UDP, First: 16384, Last: 32767}}})
}

func TestFromClient(t *testing.T) {
	const me = "10.9.0.5"
	for _, c := range []struct {
		name         string
		pkt          []byte
		device, user Verdict
	}{
		{"SIP to the inner gateway", ip4(me, "10.9.0.1", TCP, tcp(40000, 5060, syn)), Pass, Pass},
		{"SIP to the appliance's outer address", ip4(me, "192.0.2.1", TCP, tcp(40000, 5061, syn)), Pass, Pass},
		{"media to the appliance", ip4(me, "192.0.2.1", UDP, udp(20000, 16384)), Pass, Pass},
		{"ping to the appliance", ip4(me, "192.0.2.1", ICMP, icmp(8)), Pass, Pass},
		{"admin page of the appliance", ip4(me, "192.0.2.1", TCP, tcp(40000, 8443, syn)), Forbidden, Forbidden},
		{"service port with the other protocol", ip4(me, "192.0.2.1", UDP, udp(40000, 5060)), Forbidden, Forbidden},
		{"media to another phone", ip4(me, "10.9.0.6", UDP, udp(20000, 20000)), Forbidden, Forbidden},
		{"ping to another phone", ip4(me, "10.9.0.6", ICMP, icmp(8)), Forbidden, Forbidden},
		{"another policy's client though a route covers it", ip4(me, "10.9.1.6", TCP, tcp(1, 22, syn)), Forbidden, Forbidden},
		{"routed network", ip4(me, "198.51.100.9", TCP, tcp(40000, 22, syn)), Forbidden, Pass},
		{"wide route beside the pools", ip4(me, "10.8.0.1", ICMP, icmp(8)), Forbidden, Pass},
		{"declared exception", ip4(me, "203.0.113.7", TCP, tcp(40000, 80, syn)), Pass, Pass},
		{"declared exception, other port", ip4(me, "203.0.113.7", TCP, tcp(40000, 81, syn)), Forbidden, Forbidden},
		{"internet", ip4(me, "203.0.113.9", TCP, tcp(40000, 80, syn)), Forbidden, Forbidden},
		{"multicast", ip4(me, "224.0.0.22", 2, icmp(0x22)), Forbidden, Forbidden},
		{"foreign source", ip4("10.9.0.6", "10.9.0.1", TCP, tcp(40000, 5060, syn)), ForeignAddr, ForeignAddr},
		{"IPv6 SIP", ip6("2001:db8:9::5", "2001:db8:9::1", 6, tcp(40000, 5060, syn)), Pass, Pass},
		{"IPv6 behind destination options", ip6("2001:db8:9::5", "2001:db8:9::1", 60, append([]byte{6, 0, 1, 4, 0, 0, 0, 0}, tcp(40000, 8443, syn)...)), Forbidden, Forbidden},
		{"IPv6 source route", ip6("2001:db8:9::5", "2001:db8:9::1", 43, append([]byte{6, 2, 0, 1, 0, 0, 0, 0}, make([]byte, 40)...)), Malformed, Malformed},
		{"IPv6 link local", ip6("fe80::1", "ff02::2", 58, icmp(133)), ForeignAddr, ForeignAddr},
		{"empty", nil, Malformed, Malformed},
		{"length field too long", ip4(me, "10.9.0.1", TCP, tcp(1, 5060, syn), func(b []byte) { b[3]++ }), Malformed, Malformed},
		{"header longer than packet", ip4(me, "10.9.0.1", TCP, nil, func(b []byte) { b[0] = 0x4f }), Malformed, Malformed},
		{"cut TCP header", ip4(me, "10.9.0.1", TCP, tcp(1, 5060, syn)[:8]), Malformed, Malformed},
		{"tiny first fragment", ip4(me, "10.9.0.1", UDP, udp(1, 16384), func(b []byte) { b[6] = 0x20 }), Malformed, Malformed},
		{"fragment over the header", ip4(me, "10.9.0.1", TCP, tcp(1, 5060, syn), func(b []byte) { b[7] = 1 }), Malformed, Malformed},
		{"later fragment to a service", ip4(me, "10.9.0.1", UDP, make([]byte, 64), func(b []byte) { b[7] = 20 }), Pass, Pass},
		{"later fragment to elsewhere", ip4(me, "203.0.113.9", UDP, make([]byte, 64), func(b []byte) { b[7] = 20 }), Forbidden, Forbidden},
		{"segment of no connection", ip4(me, "192.0.2.1", TCP, tcp(80, 8443, ack)), Forbidden, Forbidden},
	} {
		if got := lab(Device).FromClient(c.pkt, time.Now()); got != c.device {
			t.Errorf("%s: device gets %v, want %v", c.name, got, c.device)
		}
		if got := lab(User).FromClient(c.pkt, time.Now()); got != c.user {
			t.Errorf("%s: user gets %v, want %v", c.name, got, c.user)
		}
	}
}

func TestExplain(t *testing.T) {
	p := &Policy{ID: "a", Pool: netip.MustParsePrefix("10.77.0.0/24"), Routes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Allow: []Rule{{To: netip.MustParsePrefix("10.78.0.9/32"), Proto: TCP, First: 80, Last: 90}}}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	target := Target{Kind: User, Addr4: netip.MustParseAddr("10.77.0.9"), Own: []netip.Addr{netip.MustParseAddr("192.0.2.10")},
		Pools: []netip.Prefix{netip.MustParsePrefix("10.78.0.0/24")}, Services: []Rule{{Proto: TCP, First: 5060, Last: 5060}}}
	user := Compile(p, target)
	target.Kind = Device
	device := Compile(p, target)
	for _, c := range []struct {
		name  string
		f     *Filter
		dst   string
		proto Proto
		port  uint16
		to    string // of the rule; empty: refused
		why   string
	}{
		{"service", device, "192.0.2.10", TCP, 5060, "192.0.2.10", "service of the appliance"},
		{"service at the inner address", device, "10.77.0.1", TCP, 5060, "10.77.0.1", "service of the appliance"},
		{"page", device, "192.0.2.10", TCP, 8443, "", "no telephony service"},
		{"ping", device, "192.0.2.10", ICMP, 0, "192.0.2.10", "service of the appliance"},
		{"route of people", user, "10.1.2.3", UDP, 53, "10.0.0.0/8", "route of the policy"},
		{"route does not open the appliance", user, "10.77.0.1", TCP, 8443, "", "no telephony service"},
		{"route is not for phones", device, "10.1.2.3", UDP, 53, "", "no rule leads there"},
		{"route does not open other clients", user, "10.78.0.7", TCP, 80, "", "another client"},
		{"allow list does", device, "10.78.0.9", TCP, 85, "10.78.0.9", "allowed by the policy"},
		{"but its ports only", device, "10.78.0.9", TCP, 91, "", "another client"},
	} {
		t.Run(c.name, func(t *testing.T) {
			line, ok, why := c.f.Explain(netip.MustParseAddr(c.dst), c.proto, c.port)
			if ok != (c.to != "") || line.To != c.to || !strings.Contains(why, c.why) {
				t.Errorf("%+v %v %q, want %q %q", line, ok, why, c.to, c.why)
			}
		})
	}
	want := Line{To: "10.78.0.9", Proto: "tcp", Ports: "80-90", Why: "allowed by the policy"}
	if !slices.Contains(device.Lines(), want) {
		t.Errorf("lines %+v lack %+v", device.Lines(), want)
	}
}

func TestToClient(t *testing.T) {
	for _, c := range []struct {
		name string
		pkt  []byte
		want Verdict
	}{
		{"answer of a service", ip4("192.0.2.1", "10.9.0.5", TCP, tcp(5060, 40000, ack)), Pass},
		{"the appliance opens", ip4("192.0.2.1", "10.9.0.5", TCP, tcp(40000, 80, syn)), Pass},
		{"answer of the exception", ip4("203.0.113.7", "10.9.0.5", TCP, tcp(80, 40000, ack)), Pass},
		{"the exception may not open", ip4("203.0.113.7", "10.9.0.5", TCP, tcp(80, 40000, syn)), Forbidden},
		{"another phone", ip4("10.9.0.6", "10.9.0.5", UDP, udp(20000, 20000)), Forbidden},
		{"a router's fragmentation needed", ip4("203.0.113.1", "10.9.0.5", ICMP, icmp(3)), Pass},
		{"a stranger's ping", ip4("203.0.113.1", "10.9.0.5", ICMP, icmp(8)), Forbidden},
		{"not for this session", ip4("192.0.2.1", "10.9.0.9", TCP, tcp(5060, 40000, ack)), ForeignAddr},
	} {
		if got := lab(Device).ToClient(c.pkt, time.Now()); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestAnswersToTheAppliance(t *testing.T) {
	f, now := lab(Device), time.Unix(1e9, 0)
	answer := ip4("10.9.0.5", "192.0.2.1", TCP, tcp(80, 40000, syn|ack))
	if got := f.FromClient(answer, now); got != Forbidden {
		t.Errorf("before the appliance opened: %v, want forbidden", got)
	}
	f.ToClient(ip4("192.0.2.1", "10.9.0.5", TCP, tcp(40000, 80, syn)), now)
	if got := f.FromClient(answer, now); got != Pass {
		t.Errorf("answer: %v, want pass", got)
	}
	if got := f.FromClient(ip4("10.9.0.5", "192.0.2.1", TCP, tcp(80, 40000, syn)), now); got != Forbidden {
		t.Errorf("opening on the same ports: %v, want forbidden", got)
	}
	if got := f.FromClient(answer, now.Add(flowLife+time.Second)); got != Forbidden {
		t.Errorf("after the flow's life: %v, want forbidden", got)
	}
	for port := range uint16(4 * maxFlows) {
		f.ToClient(ip4("192.0.2.1", "10.9.0.5", TCP, tcp(1000+port, 80, syn)), now.Add(time.Duration(port)))
	}
	if len(f.flows) > maxFlows {
		t.Errorf("%d flows kept, want at most %d", len(f.flows), maxFlows)
	}
	if got := f.FromClient(ip4("10.9.0.5", "192.0.2.1", TCP, tcp(80, 1000+4*maxFlows-1, ack)), now); got != Pass {
		t.Errorf("newest flow: %v, want pass", got)
	}
}

func TestValidate(t *testing.T) {
	good := Policy{ID: "p", Pool: pfx("10.9.0.0/24")}
	if err := good.Validate(); err != nil || good.MTU != 1290 || good.MaxSessions != 2 || good.Disconnected != 2*time.Minute {
		t.Errorf("defaults: %+v, %v", good, err)
	}
	for _, c := range []struct {
		name string
		p    Policy
		want string
	}{
		{"no pool", Policy{ID: "p"}, "is no IPv4 network"},
		{"pool of one", Policy{ID: "p", Pool: pfx("10.0.0.1/32")}, "is no IPv4 network"},
		{"IPv6 in the IPv4 pool", Policy{ID: "p", Pool: pfx("2001:db8::/64")}, "is no IPv4 network"},
		{"MTU too small for IPv6", Policy{ID: "p", Pool: pfx("10.9.0.0/24"), Pool6: pfx("2001:db8::/64"), MTU: 1200}, "MTU 1200"},
		{"no name", Policy{Pool: pfx("10.9.0.0/24")}, "has no id"},
	} {
		if err := c.p.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(ip4("10.9.0.5", "10.9.0.1", TCP, tcp(1, 5060, syn)))
	f.Add(ip4("10.9.0.5", "10.9.0.1", UDP, make([]byte, 64), func(b []byte) { b[7] = 20 }))
	f.Add(ip6("2001:db8:9::5", "2001:db8:9::1", 60, append([]byte{6, 0, 1, 4, 0, 0, 0, 0}, tcp(40000, 8443, syn)...)))
	f.Add(ip6("2001:db8:9::5", "2001:db8:9::1", 44, append([]byte{17, 0, 0, 1, 0, 0, 0, 0}, udp(1, 2)...)))
	flt := lab(Device)
	f.Fuzz(func(t *testing.T, b []byte) {
		v := flt.FromClient(b, time.Unix(1e9, 0))
		var p Packet
		if ok := p.Parse(b); ok != (v != Malformed) {
			t.Fatalf("parse %v, verdict %v", ok, v)
		}
		if v == Pass && p.Dst != addr("10.9.0.1") && p.Dst != addr("192.0.2.1") && p.Dst != addr("203.0.113.7") && p.Dst != addr("2001:db8:9::1") {
			t.Fatalf("passes to %v", p.Dst)
		}
		flt.ToClient(b, time.Unix(1e9, 0))
	})
}

// Phones of a routed pool reach the audio of other phones, and nothing else of them.
func TestRoutedPool(t *testing.T) {
	target := Target{Kind: Device, Addr4: addr("10.9.0.5"), Own: []netip.Addr{addr("192.0.2.10")}, Pools: []netip.Prefix{pfx("10.8.0.0/24"), pfx("10.9.0.0/24"), pfx("10.7.0.0/24")},
		Routed: []netip.Prefix{pfx("10.9.0.0/24"), pfx("10.8.0.0/24")}}
	now := time.Now()
	open := Compile(&Policy{ID: "p", Pool: pfx("10.9.0.0/24"), Routed: true}, target)
	house := Compile(&Policy{ID: "p", Pool: pfx("10.9.0.0/24"), Routed: true, Routes: []netip.Prefix{pfx("198.51.100.0/24")}}, target)
	shut := Compile(&Policy{ID: "p", Pool: pfx("10.9.0.0/24")}, target)
	for _, c := range []struct {
		name              string
		dst               string
		proto             Proto
		transport         []byte
		open, house, shut Verdict
	}{
		{"a phone of the pool", "10.9.0.6", UDP, udp(20000, 20002), Pass, Pass, Forbidden},
		{"a phone of another routed pool", "10.8.0.6", UDP, udp(20000, 20002), Pass, Pass, Forbidden},
		{"a phone of a pool that is not routed", "10.7.0.6", UDP, udp(20000, 20002), Forbidden, Forbidden, Forbidden},
		{"a phone of the house", "198.51.100.9", UDP, udp(20000, 32767), Pass, Pass, Forbidden},
		{"a phone where no route of the policy leads", "203.0.113.9", UDP, udp(20000, 20002), Pass, Forbidden, Forbidden},
		{"another port", "10.9.0.6", UDP, udp(20000, 5060), Forbidden, Forbidden, Forbidden},
		{"TCP", "10.9.0.6", TCP, tcp(20000, 20002, syn), Forbidden, Forbidden, Forbidden},
		{"the appliance itself", "192.0.2.10", UDP, udp(20000, 20002), Forbidden, Forbidden, Forbidden}, // its audio ports are services
	} {
		out, in := ip4("10.9.0.5", c.dst, c.proto, c.transport), ip4(c.dst, "10.9.0.5", c.proto, ports(len(c.transport), binary.BigEndian.Uint16(c.transport[2:]), 20000, 0))
		for i, f := range []*Filter{open, house, shut} {
			want := []Verdict{c.open, c.house, c.shut}[i]
			if got := f.FromClient(out, now); got != want {
				t.Errorf("%s, filter %d: got %v, want %v", c.name, i, got, want)
			}
			if c.dst == "192.0.2.10" || c.proto == TCP {
				continue
			}
			if got := f.ToClient(in, now); got != want {
				t.Errorf("from %s, filter %d: got %v, want %v", c.name, i, got, want)
			}
		}
	}
	if _, ok, why := open.Explain(addr("10.8.0.6"), UDP, 20000); !ok || !strings.Contains(why, "routed") {
		t.Errorf("explained as %v, %s", ok, why)
	}
}
