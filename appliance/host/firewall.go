package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is the one table that belongs to this package; all others of the machine are left alone.
const tableName = "ringfence"

// rule is one line of a chain, before it is put in the words of the kernel.
//
//	chain input (policy drop):    established ─▶ accept, invalid ─▶ drop, lo, ICMP, answers of DHCP, then by interface a jump to its zones
//	chain from_ZONE:              what the zone may reach of the appliance
//	chain forward (policy drop):  established ─▶ accept, ICMP errors with it; what one zone may reach of another
//	chain hide:                   masquerading
type rule struct {
	chain    string
	in, out  string // interfaces
	state    uint32 // of connection tracking, any of the bits
	protocol string // tcp, udp, icmp, any or empty
	from     uint16 // source port
	first    uint16
	last     uint16
	source   netip.Prefix
	dest     netip.Prefix
	verdict  string // accept, drop, masquerade, or the name of a chain
	note     string // kept with the rule, for people who look with nft
}

// States of connection tracking (linux/netfilter/nf_conntrack_common.h, as bits of the expression).
const (
	stateInvalid     = 1
	stateEstablished = 2
	stateRelated     = 4
)

// compile makes the rules of a spec, with what listeners need.
func compile(s Spec, needs []Rule, tunnel string) []rule {
	var out []rule
	zones := s.zones(tunnel)
	names := slices.Sorted(maps.Keys(zones))
	all := append(slices.Clone(needs), s.Firewall.Allow...)
	for _, z := range names {
		for _, r := range all {
			if r.From == z && r.To == Appliance {
				out = append(out, rule{chain: "from_" + z, protocol: r.Protocol, first: r.First, last: r.Last, source: r.Source, dest: r.Dest, verdict: "accept", note: r.What})
			}
		}
	}
	out = append(out,
		rule{chain: "input", state: stateEstablished | stateRelated, verdict: "accept"},
		rule{chain: "input", state: stateInvalid, verdict: "drop"},
		rule{chain: "input", in: "lo", verdict: "accept"},
		rule{chain: "input", protocol: "icmp", verdict: "accept"})
	for _, l := range s.Links {
		if l.DHCP {
			out = append(out, rule{chain: "input", in: l.Name, protocol: "udp", from: 67, first: 68, last: 68, verdict: "accept", note: "dhcp"})
		}
	}
	for _, z := range names {
		for _, in := range zones[z] {
			out = append(out, rule{chain: "input", in: in, verdict: "from_" + z})
		}
	}
	out = append(out, rule{chain: "forward", state: stateEstablished | stateRelated, verdict: "accept"}, rule{chain: "forward", state: stateInvalid, verdict: "drop"})
	seen := map[rule]bool{}
	for _, r := range all {
		if r.To == Appliance {
			continue
		}
		for _, in := range zones[r.From] {
			for _, to := range zones[r.To] {
				x := rule{chain: "forward", in: in, out: to, protocol: r.Protocol, first: r.First, last: r.Last, source: r.Source, dest: r.Dest, verdict: "accept", note: r.What}
				if in != to && !seen[x] {
					seen[x] = true
					out = append(out, x)
				}
			}
		}
	}
	for _, name := range s.Firewall.Masquerade {
		out = append(out, rule{chain: "hide", out: name, verdict: "masquerade"})
	}
	return out
}

// forwards tells whether packets pass through the machine at all.
func forwards(rules []rule) bool {
	return slices.ContainsFunc(rules, func(r rule) bool { return r.chain == "forward" && r.state == 0 })
}

// expressions are the rule in the words of the kernel.
func (r rule) expressions() ([]expr.Any, error) {
	var e []expr.Any
	equal := func(data []byte) { e = append(e, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}) }
	for _, i := range []struct {
		name string
		key  expr.MetaKey
	}{{r.in, expr.MetaKeyIIFNAME}, {r.out, expr.MetaKeyOIFNAME}} {
		if i.name != "" {
			e = append(e, &expr.Meta{Key: i.key, Register: 1})
			equal(append([]byte(i.name), make([]byte, 16-len(i.name))...))
		}
	}
	if r.state != 0 {
		e = append(e, &expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, r.state), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
	}
	for _, a := range []struct {
		p      netip.Prefix
		v4, v6 uint32 // offset in the header
	}{{r.source, 12, 8}, {r.dest, 16, 24}} {
		if !a.p.IsValid() {
			continue
		}
		family, offset := byte(unix.NFPROTO_IPV4), a.v4
		if a.p.Addr().Is6() {
			family, offset = unix.NFPROTO_IPV6, a.v6
		}
		size := uint32(a.p.Addr().BitLen() / 8)
		e = append(e, &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1})
		equal([]byte{family})
		mask := netOf(a.p).Mask
		e = append(e, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)})
		equal(a.p.Masked().Addr().AsSlice())
	}
	switch r.protocol {
	case "tcp", "udp":
		e = append(e, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1})
		equal([]byte{map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[r.protocol]})
	case "icmp": // of both kinds of IP: 1 and 58
		e = append(e, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1})
	case "any", "":
	default:
		return nil, fmt.Errorf("protocol %q", r.protocol)
	}
	port := func(offset uint32, first, last uint16) {
		if first == 0 {
			return
		}
		e = append(e, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2})
		from, to := binary.BigEndian.AppendUint16(nil, first), binary.BigEndian.AppendUint16(nil, last)
		if first == last {
			equal(from)
		} else {
			e = append(e, &expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: from, ToData: to})
		}
	}
	port(0, r.from, r.from)
	port(2, r.first, r.last)
	return e, nil
}

// variants are the rules of the kernel that one of ours becomes: ICMP has a number of its own for each kind of IP.
func (r rule) variants() ([][]expr.Any, error) {
	e, err := r.expressions()
	if err != nil {
		return nil, err
	}
	var tail []expr.Any
	switch r.verdict {
	case "accept":
		tail = []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}}
	case "drop":
		tail = []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
	case "masquerade":
		tail = []expr.Any{&expr.Counter{}, &expr.Masq{}}
	default:
		tail = []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: r.verdict}}
	}
	if r.protocol != "icmp" {
		return [][]expr.Any{append(e, tail...)}, nil
	}
	var out [][]expr.Any
	for _, p := range []byte{unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6} {
		out = append(out, append(append(slices.Clone(e), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{p}}), tail...))
	}
	return out, nil
}

// replace puts the rules in force in one transaction: at no moment there is half a firewall, and when the kernel refuses one rule
// all stays as it was.
func replace(rules []rule) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("firewall: %w", rights(err))
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName})
	c.DelTable(t)
	t = c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName})
	drop := nftables.ChainPolicyDrop
	chains := map[string]*nftables.Chain{}
	for _, r := range rules {
		if chains[r.chain] != nil {
			continue
		}
		ch := &nftables.Chain{Name: r.chain, Table: t}
		switch r.chain {
		case "input":
			ch.Type, ch.Hooknum, ch.Priority, ch.Policy = nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, &drop
		case "forward":
			ch.Type, ch.Hooknum, ch.Priority, ch.Policy = nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter, &drop
		case "hide":
			ch.Type, ch.Hooknum, ch.Priority = nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource
		}
		chains[r.chain] = c.AddChain(ch)
	}
	for _, r := range rules {
		if to := r.verdict; to != "accept" && to != "drop" && to != "masquerade" && chains[to] == nil {
			chains[to] = c.AddChain(&nftables.Chain{Name: to, Table: t}) // a zone that reaches nothing
		}
	}
	for _, r := range rules {
		variants, err := r.variants()
		if err != nil {
			return fmt.Errorf("firewall: %w", err)
		}
		for _, e := range variants {
			x := &nftables.Rule{Table: t, Chain: chains[r.chain], Exprs: e}
			if r.note != "" {
				x.UserData = comment(r.note)
			}
			c.AddRule(x)
		}
	}
	for _, name := range []string{"input", "forward"} { // what the policy drops is counted
		c.AddRule(&nftables.Rule{Table: t, Chain: chains[name], Exprs: []expr.Any{&expr.Counter{}}, UserData: comment(countDropped)})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("firewall: the kernel refuses it, nothing was changed: %w", rights(err))
	}
	return nil
}

const countDropped = "dropped"

// comment is a text that nft shows beside the rule (libnftnl, udata type 0).
func comment(text string) []byte {
	text = text[:min(len(text), 120)]
	return append([]byte{0, byte(len(text) + 1)}, append([]byte(text), 0)...)
}

// remove takes the table away if it is there.
func remove() error {
	c, err := nftables.New()
	if err != nil {
		return nil // without the right to look there is nothing of ours
	}
	if ts, err := c.ListTablesOfFamily(nftables.TableFamilyINet); err != nil || !slices.ContainsFunc(ts, func(t *nftables.Table) bool { return t.Name == tableName }) {
		return nil
	}
	c.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName})
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("firewall: %w", rights(err))
	}
	return nil
}

// dropped counts what the two policies refused.
func dropped() (in, through uint64) {
	c, err := nftables.New()
	if err != nil {
		return 0, 0
	}
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	count := func(chain string) (n uint64) {
		rules, err := c.GetRules(t, &nftables.Chain{Name: chain, Table: t})
		if err != nil || len(rules) == 0 {
			return 0
		}
		for _, e := range rules[len(rules)-1].Exprs {
			if k, ok := e.(*expr.Counter); ok {
				n = k.Packets
			}
		}
		return n
	}
	return count("input"), count("forward")
}

// String is the rule for people.
func (r Rule) String() string {
	s := r.From + " → " + r.To
	if r.Protocol != "any" {
		s += " " + r.Protocol
	}
	switch {
	case r.First == 0:
	case r.First == r.Last:
		s += fmt.Sprintf(" %d", r.First)
	default:
		s += fmt.Sprintf(" %d-%d", r.First, r.Last)
	}
	if r.Source.IsValid() {
		s += " from " + r.Source.String()
	}
	if r.Dest.IsValid() {
		s += " to " + r.Dest.String()
	}
	if r.What != "" {
		s += " (" + r.What + ")"
	}
	return s
}
