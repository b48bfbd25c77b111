package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"ringfence/appliance/admin"
	"ringfence/vpn"
	"ringfence/vpn/policy"
	"ringfence/vpn/totp"
)

// vpnVerbs are the orders about the VPN, and what it would let pass.
func vpnVerbs() []admin.Verb {
	return []admin.Verb{
		takeHomeVerb(),
		{Name: "vpn kick", Args: "SESSION|NAME", Min: 1, Max: 1, Short: "end a VPN session, or all of a phone or person", Change: true, Print: printText},
		{Name: "vpn policy", Args: "[NAME]", Max: 3, Short: "VPN policies, what they open, and what would become of a packet", Print: printPolicies,
			Help: "Without arguments: every policy. With NAME: that one and what it opens, for phones and for people. With --for: what a phone, a person or a session may reach.\n" +
				"With --explain: whether WHO (a session, its inner address, a phone or a person) reaches DESTINATION, and why: --explain SEP001122AA0001 192.0.2.10 tcp/8443.",
			Flags: []admin.Flag{{Name: "for", Usage: "phone, person, session or inner address"}, {Name: "explain", Usage: "judge a packet of WHO to DESTINATION", Bool: true}}},
		wireguardVerb(),
		{Name: "vpn totp", Args: "USER", Min: 1, Max: 1, Short: "make a secret of one-time passwords for a person, to be written into the document", Print: printText},
	}
}

func (a *appliance) vpnHandlers() map[string]admin.Handler {
	return map[string]admin.Handler{"vpn kick": a.vpnKick, "vpn policy": a.vpnPolicy, "vpn totp": a.vpnTOTP, "phone takehome": a.phoneTakeHome, "vpn wireguard": a.vpnWireGuard}
}

func (a *appliance) vpnSessions() []admin.VPNSessionInfo {
	g := a.gateway.get()
	if g == nil {
		return nil
	}
	var out []admin.VPNSessionInfo
	for _, s := range g.Sessions() {
		out = append(out, vpnSession(s))
	}
	return out
}

func vpnSession(s vpn.SessionInfo) admin.VPNSessionInfo {
	info := admin.VPNSessionInfo{ID: s.ID, Device: s.Device, Policy: s.Policy, Method: s.Method, State: s.State, Address: s.Address.String(), Remote: s.Remote,
		UserAgent: s.Agent, Host: s.Hostname, Link: s.Channel, Datagrams: s.Datagrams, Payload: s.Payload, MTU: s.MTU, Connects: s.Connects, Since: s.Since,
		LastSeen: s.Changed, PacketsIn: s.RxPackets, PacketsOut: s.TxPackets, BytesIn: s.RxBytes, BytesOut: s.TxBytes, LossIn: s.LossIn,
		RoundTrip: float64(s.RoundTrip) / float64(time.Millisecond), RoundTrips: s.RoundTrips,
		Dropped: admin.VPNDrops{Forbidden: s.Forbidden, Foreign: s.Foreign, Malformed: s.Malformed, TooBig: s.TooBig, NoLink: s.NoLink, Congested: s.Congested}}
	if s.Address6.IsValid() {
		info.Address6 = s.Address6.String()
	}
	if s.Kind == "user" {
		info.User = s.Name
	} else if info.Device == "" {
		info.Device = s.Name
	}
	if info.Link == "" {
		info.Link = "down"
	}
	return info
}

func (a *appliance) vpnKick(_ context.Context, r admin.Request) (any, error) {
	if g := a.gateway.get(); g != nil && g.Kick(r.Args[0]) {
		return say("session %s has ended", r.Args[0])
	}
	return nil, admin.Refuse("there is no VPN session %s; ringfence vpn sessions lists them", r.Args[0])
}

// PolicyInfo is a VPN policy, and what it opens.
type PolicyInfo struct {
	ID           string   `json:"id"`
	Label        string   `json:"label,omitempty"`
	Pool         string   `json:"pool"`
	Pool6        string   `json:"pool6,omitempty"`
	Auth         []string `json:"auth"`
	SecondFactor bool     `json:"second_factor"`
	Routes       []string `json:"routes"`
	Exclude      []string `json:"exclude"`
	DNS          []string `json:"dns"`
	Domains      []string `json:"domains"`
	MTU          int      `json:"mtu"`
	Sessions     int      `json:"sessions"`
	MaxSessions  int      `json:"max_sessions"`
	Times        string   `json:"times"`
	// Phones and People are what each may reach; empty in the list of all policies.
	Phones []policy.Line `json:"phones,omitempty"`
	People []policy.Line `json:"people,omitempty"`
}

// ReachInfo is what somebody may reach, or what becomes of one packet.
type ReachInfo struct {
	Who       string        `json:"who"`
	Policy    string        `json:"policy"`
	Session   string        `json:"session,omitempty"` // empty: nobody is connected, this is what would be
	Lines     []policy.Line `json:"lines,omitempty"`
	Packet    string        `json:"packet,omitempty"`
	Permitted bool          `json:"permitted"`
	Why       string        `json:"why,omitempty"`
	Rule      *policy.Line  `json:"rule,omitempty"`
}

// PolicyAnswer is the answer to vpn policy.
type PolicyAnswer struct {
	Policies []PolicyInfo `json:"policies,omitempty"`
	Reach    []ReachInfo  `json:"reach,omitempty"`
}

func (a *appliance) vpnPolicy(_ context.Context, r admin.Request) (any, error) {
	g := a.gateway.get()
	if g == nil {
		return nil, admin.Refuse("the VPN does not run here; ringfence status says why")
	}
	who, explain := r.Flags["for"], r.Flags["explain"] != ""
	switch {
	case explain && (len(r.Args) < 2 || who != ""):
		return nil, admin.Usage("vpn policy --explain WHO DESTINATION [PROTOCOL/PORT]")
	case explain:
		return a.vpnExplain(g, r.Args)
	case who != "" && len(r.Args) > 0, len(r.Args) > 1:
		return nil, admin.Usage("vpn policy: one NAME, or --for WHO, or --explain WHO DESTINATION")
	case who != "":
		all, filters, err := a.vpnFilters(g, who)
		for i := range all {
			all[i].Lines = filters[i].Lines()
		}
		return PolicyAnswer{Reach: all}, err
	}
	var answer PolicyAnswer
	var declared []string
	for _, p := range g.Policies() {
		declared = append(declared, p.ID)
		if len(r.Args) == 1 && p.ID != r.Args[0] {
			continue
		}
		info := policyInfo(p)
		for _, s := range g.Sessions() {
			if s.Policy == p.ID {
				info.Sessions++
			}
		}
		if len(r.Args) == 1 {
			info.Phones, info.People = g.Sample(p.ID, true).Lines(), g.Sample(p.ID, false).Lines()
		}
		answer.Policies = append(answer.Policies, info)
	}
	if len(answer.Policies) == 0 {
		return nil, admin.Undeclared("VPN policy", strings.Join(r.Args, ""), declared)
	}
	return answer, nil
}

func policyInfo(p *vpn.Policy) PolicyInfo {
	info := PolicyInfo{ID: p.ID, Label: p.Label, Pool: p.Pool.String(), Auth: []string{}, SecondFactor: p.SecondFactor, Routes: texts(p.Routes),
		Exclude: texts(p.Exclude), DNS: texts(p.DNS), Domains: append([]string{}, p.SplitDNS...), MTU: p.MTU, MaxSessions: p.MaxSessions}
	if p.Pool6.IsValid() {
		info.Pool6 = p.Pool6.String()
	}
	if p.Certificate {
		info.Auth = append(info.Auth, "certificate")
	}
	if p.Password {
		info.Auth = append(info.Auth, "password")
	}
	var times []string
	for _, t := range []struct {
		name string
		d    time.Duration
	}{{"session", p.Session}, {"idle", p.Idle}, {"disconnected", p.Disconnected}, {"rekey", p.Rekey}, {"probe", p.DPD}, {"keepalive", p.Keepalive}} {
		if t.d > 0 {
			times = append(times, t.name+" "+t.d.String())
		}
	}
	info.Times = strings.Join(times, ", ")
	return info
}

func texts[T fmt.Stringer](all []T) []string {
	out := make([]string, len(all))
	for i, x := range all {
		out[i] = x.String()
	}
	return out
}

// vpnFilters finds what judges, or would judge, the packets of somebody.
func (a *appliance) vpnFilters(g *vpn.Gateway, who string) (all []ReachInfo, filters []*policy.Filter, err error) {
	sessions, filters := g.Find(who)
	for _, s := range sessions {
		all = append(all, ReachInfo{Who: s.Name, Policy: s.Policy, Session: s.ID})
	}
	if len(all) > 0 {
		return all, filters, nil
	}
	id, device := "", false
	if p, ok := a.doc().Phone(strings.ToUpper(who)); ok {
		who, id, device = p.Device, p.VPN, true
	} else if u, ok := a.doc().User(who); ok {
		id = u.VPN
	} else {
		return nil, nil, admin.Refuse("%s is neither a session, nor an inner address in use, nor a declared phone or person", who)
	}
	f := g.Sample(id, device)
	if f == nil {
		return nil, nil, admin.Refuse("%s has no VPN policy", who)
	}
	return []ReachInfo{{Who: who, Policy: id}}, []*policy.Filter{f}, nil
}

func (a *appliance) vpnExplain(g *vpn.Gateway, args []string) (any, error) {
	dst, err := netip.ParseAddr(args[1])
	if err != nil {
		return nil, admin.Usage("%q is no address", args[1])
	}
	proto, port, packet := policy.ICMP, uint16(0), "ping"
	if dst.Is6() {
		proto = policy.ICMPv6
	}
	if len(args) == 3 {
		name, number, two := strings.Cut(args[2], "/")
		if !two {
			name, number = "tcp", args[2]
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if proto = map[string]policy.Proto{"tcp": policy.TCP, "udp": policy.UDP}[name]; err != nil || n == 0 || proto == 0 {
			return nil, admin.Usage("%q is no port: tcp/443 or udp/5060", args[2])
		}
		port, packet = uint16(n), fmt.Sprintf("%s/%d", name, n)
	}
	all, filters, err := a.vpnFilters(g, args[0])
	for i := range all {
		rule, ok, why := filters[i].Explain(dst, proto, port)
		all[i].Permitted, all[i].Why, all[i].Packet = ok, why, fmt.Sprintf("%s to %v", packet, dst)
		if ok {
			all[i].Rule = &rule
		}
	}
	return PolicyAnswer{Reach: all}, err
}

func printPolicies(w io.Writer, answer json.RawMessage) error {
	var v PolicyAnswer
	if err := json.Unmarshal(answer, &v); err != nil {
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(tw, strings.Join(cells, "\t")) }
	lines := func(title string, all []policy.Line) {
		if len(all) == 0 {
			return
		}
		row(title)
		for _, l := range all {
			row("  "+l.To, l.Proto, l.Ports, l.Why)
		}
	}
	for _, p := range v.Policies {
		auth := strings.Join(p.Auth, ", ")
		if p.SecondFactor {
			auth += ", one-time password"
		}
		row(p.ID, strings.TrimSpace(p.Pool+" "+p.Pool6), auth, fmt.Sprintf("%d sessions", p.Sessions), p.Times)
		for _, x := range []struct {
			name string
			list []string
		}{{"routes", p.Routes}, {"exclude", p.Exclude}, {"dns", p.DNS}, {"domains", p.Domains}} {
			if len(x.list) > 0 {
				row("  "+x.name, strings.Join(x.list, ", "))
			}
		}
		lines("  phones reach", p.Phones)
		lines("  people reach", p.People)
	}
	for _, r := range v.Reach {
		who := r.Who + " (" + r.Policy + ")"
		if r.Session == "" {
			who += ", if it were connected"
		}
		if r.Packet == "" {
			lines(who+" reaches", r.Lines)
			continue
		}
		verdict := "is dropped"
		if r.Permitted {
			verdict = "passes"
		}
		row(fmt.Sprintf("%s: %s %s: %s", who, r.Packet, verdict, r.Why))
	}
	return tw.Flush()
}

func (a *appliance) vpnTOTP(_ context.Context, r admin.Request) (any, error) {
	if _, ok := a.doc().User(r.Args[0]); !ok {
		var names []string
		for _, u := range a.doc().Users {
			names = append(names, u.ID)
		}
		return nil, admin.Undeclared("user", r.Args[0], names)
	}
	secret := totp.NewSecret()
	return say("totp: %q\n\nWrite this to the user %s in the document, and give the person the secret, or this address as a QR code:\n%s",
		totp.Text(secret), r.Args[0], totp.URL(a.doc().Site.Name, r.Args[0], secret))
}
