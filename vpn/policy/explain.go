package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// Reason is why a rule is there.
type Reason uint8

// Reasons.
const (
	Service Reason = iota + 1 // a telephony service of the appliance
	Allowed                   // the policy's allow list
	Routed                    // a route of the policy, for people
	Audio                     // audio between phones, in a routed pool
)

func (r Reason) String() string {
	switch r {
	case Service:
		return "service of the appliance"
	case Allowed:
		return "allowed by the policy"
	case Routed:
		return "route of the policy"
	case Audio:
		return "audio between phones, the pool is routed"
	}
	return fmt.Sprintf("reason-%d", uint8(r))
}

func (p Proto) String() string {
	switch p {
	case Any:
		return "any"
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMPv6:
		return "icmpv6"
	}
	return "protocol " + strconv.Itoa(int(p))
}

// Line is a compiled rule for people and programs.
type Line struct {
	To    string `json:"to"`
	Proto string `json:"protocol"`
	Ports string `json:"ports,omitempty"` // empty is all
	Why   string `json:"why"`
}

func (r *rule) line() Line {
	l := Line{To: r.To.String(), Proto: r.Proto.String(), Why: r.why.String()}
	if r.To.IsSingleIP() {
		l.To = r.To.Addr().String()
	}
	if r.Proto == TCP || r.Proto == UDP || r.Proto == Any {
		switch {
		case r.First == r.Last:
			l.Ports = strconv.Itoa(int(r.First))
		case r.First > 0 || r.Last < 65535:
			l.Ports = fmt.Sprintf("%d-%d", r.First, r.Last)
		}
	}
	return l
}

// Lines are the rules in force, in the order in which they are asked.
func (f *Filter) Lines() []Line {
	lines := make([]Line, len(f.rules))
	for i := range f.rules {
		lines[i] = f.rules[i].line()
	}
	return lines
}

// Explain says what becomes of a packet that the client sends to dst, and why.
func (f *Filter) Explain(dst netip.Addr, proto Proto, port uint16) (rule Line, permitted bool, why string) {
	p := Packet{Dst: dst, Proto: proto, DstPort: port, HasPorts: proto == TCP || proto == UDP}
	if r := f.permits(&p, dst, port); r != nil {
		return r.line(), true, r.why.String()
	}
	switch {
	case slices.Contains(f.own, dst):
		why = "no telephony service of the appliance is there, and the policy does not allow it"
	case slices.ContainsFunc(f.pools, func(p netip.Prefix) bool { return p.Contains(dst) }):
		why = "another client of the VPN; routes do not lead there, only the policy's allow list does"
	default:
		why = "no rule leads there"
	}
	return Line{}, false, why
}
