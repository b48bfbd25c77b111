package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"ringfence/appliance/admin"
	"ringfence/config"
)

func takeHomeVerb() admin.Verb {
	return admin.Verb{Name: "phone takehome", Args: "DEVICE", Min: 1, Max: 1, Short: "whether a phone has what it needs to be used at home, and a card for the person", Print: printTakeHome,
		Help: "Checked are the phone's certificate, the gateway's hash and address in the file that it fetched, and whether it will notice that it is not in the house."}
}

// TakeHome is the answer to phone takehome.
type TakeHome struct {
	Device string      `json:"device"`
	Ready  bool        `json:"ready"` // nothing is missing
	Checks []HomeCheck `json:"checks"`
	// Card is what the person at home has to know.
	Card []string `json:"card,omitempty"`
}

// HomeCheck is one thing that a phone needs at home.
type HomeCheck struct {
	Name   string `json:"name"`
	State  string `json:"state"` // ok, warning, missing
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// homeNetworks are those that makers of routers for homes begin with. A phone takes the answer of any host there for that of its file
// server, and then keeps the VPN down.
var homeNetworks = []string{"192.168.0.0/24", "192.168.1.0/24", "192.168.2.0/24", "192.168.8.0/24", "192.168.10.0/24", "192.168.50.0/24", "192.168.86.0/24", "192.168.88.0/24",
	"192.168.100.0/24", "192.168.178.0/24", "10.0.0.0/24", "10.0.1.0/24", "172.16.0.0/24"}

// homeNetwork finds the home network that an address lies in.
func homeNetwork(a netip.Addr) (netip.Prefix, bool) {
	for _, n := range homeNetworks {
		if p := netip.MustParsePrefix(n); p.Contains(a) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// homeFacts is what takehome judges by.
type homeFacts struct {
	doc     *config.Document
	phone   *config.Phone
	serves  bool      // the gateway runs
	lsc     time.Time // end of the phone's certificate; zero without one
	fetched bool      // the phone has fetched a device file since this is noted
	hash    bool      // with the hash of the gateway's certificate
	now     time.Time
}

func (a *appliance) phoneTakeHome(ctx context.Context, r admin.Request) (any, error) {
	device, err := a.declaredPhone(ctx, r)
	if err != nil {
		return nil, err
	}
	p, ok := a.doc().Phone(device)
	if !ok {
		return nil, admin.Refuse("phone %s is not declared", device)
	}
	f := homeFacts{doc: a.doc(), phone: p, serves: a.gateway.get() != nil, now: time.Now()}
	if lsc, ok := a.ca.CurrentLSC(device); ok {
		f.lsc = lsc.NotAfter
	}
	for i, h := range a.trust.VPNHashes() {
		holds, known := a.files.FileHolds(device, h)
		f.fetched = f.fetched || known
		if i == 0 { // the certificate in use
			f.hash = holds
		}
	}
	return f.judge(), nil
}

// judge says what is there, what is missing, and what the person has to do.
func (f homeFacts) judge() TakeHome {
	t := TakeHome{Device: f.phone.Device, Ready: true}
	add := func(state, name, remedy, format string, args ...any) {
		t.Checks = append(t.Checks, HomeCheck{name, state, fmt.Sprintf(format, args...), remedy})
		t.Ready = t.Ready && state != "missing"
	}
	policy, ok := f.doc.Policy(f.phone.VPN)
	if !ok {
		add("missing", "policy", "vpn: of the phone in the document, then restart the phone in the house", "the phone has no VPN policy")
		return t
	}
	add("ok", "policy", "", "%s", policy.ID)
	if f.serves {
		add("ok", "gateway", "", "runs, on %v", f.doc.Node.Listen.VPN)
	} else {
		add("missing", "gateway", "ringfence status says why", "does not run here")
	}
	f.reachable(add)
	byCertificate := slices.Contains(policy.Auth, config.VPNCertificate)
	switch {
	case !byCertificate:
	case f.lsc.IsZero():
		add("missing", "certificate", "restart the phone in the house; ringfence phone show "+f.phone.Device+" says where it stands", "the phone has none, and logs in by certificate")
	case !f.now.Before(f.lsc):
		add("missing", "certificate", "ringfence cert enroll "+f.phone.Device+", then restart the phone in the house", "ended %s", f.lsc.Format(time.DateOnly))
	case f.lsc.Sub(f.now) < 60*24*time.Hour:
		add("warning", "certificate", "it is renewed through the tunnel, if the phone is used before it ends", "ends %s", f.lsc.Format(time.DateOnly))
	default:
		add("ok", "certificate", "", "good until %s", f.lsc.Format(time.DateOnly))
	}
	switch {
	case !f.fetched:
		add("missing", "device file", "restart the phone in the house", "the phone has not fetched a file with the VPN in it: it knows neither address nor hash, and will not look for the house")
	case !f.hash:
		add("missing", "device file", "restart the phone in the house", "the phone's file holds the hash of another certificate of the gateway: it would refuse this one")
	default:
		add("ok", "device file", "", "fetched, with addresses, hash of the gateway and automatic detection")
	}
	if n, home := homeNetwork(f.doc.Node.Address); home {
		add("warning", "detection", "give this appliance an address of a network that homes do not have, as 10.47.0.0/24",
			"the file server's address %v lies in %v, which many homes have: if a host there answers the ping, the phone believes to be in the house and keeps the VPN down", f.doc.Node.Address, n)
	} else {
		add("ok", "detection", "", "the phone opens the VPN when %v does not answer its ping", f.doc.Node.Address)
	}
	if t.Ready {
		t.Card = f.card(byCertificate)
	}
	return t
}

// reachable judges the gateway's addresses as the phone knows them.
func (f homeFacts) reachable(add func(state, name, remedy, format string, args ...any)) {
	hosts := f.doc.VPN.Hosts
	if len(hosts) == 0 {
		add("missing", "address", "vpn.hosts in the document, then restart the phone in the house", "nobody has said under which name the gateway is reached from outside")
		return
	}
	for _, host := range hosts {
		name, port, err := net.SplitHostPort(host)
		if err != nil {
			name, port = strings.Trim(host, "[]"), "443"
		}
		a, err := netip.ParseAddr(name)
		switch {
		case err == nil && (a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast()):
			add("warning", "address", "name the public address or a name for it in vpn.hosts, and forward TCP and UDP 443 from the router", "%s is not reachable from the internet", host)
		case port != "443":
			add("warning", "address", "use port 443, which is the only one at which phones speak UDP", "%s: voice will go over TCP", host)
		default:
			add("ok", "address", "", "https://%s (TCP and UDP %s must lead here)", host, port)
		}
	}
}

// card is what the person at home has to know.
func (f homeFacts) card(byCertificate bool) []string {
	name := f.phone.Label
	if name == "" {
		name = f.phone.Device
	}
	lines := []string{
		"Your phone " + name + " at home",
		"1. Connect the phone's network socket (not the one for a computer) to your router, and its power supply. Over the network cable your router gives no power.",
		"2. Wait about three minutes. The phone looks for the office, does not find it, and connects by itself.",
	}
	switch {
	case byCertificate:
		lines = append(lines, "3. Nothing has to be typed.")
	case !f.phone.VPNPass.Empty():
		lines = append(lines, "3. When the phone asks for it, type the password that your administrator gave you. It remembers it.")
	default:
		lines = append(lines, "3. When the phone asks, type your user name and password. It remembers them.")
	}
	return append(lines, "4. If it does not connect: Settings, Network (or Applications), VPN, switch on. Guest networks and some hotels let nothing through but web pages.")
}

func printTakeHome(w io.Writer, answer json.RawMessage) error {
	var v TakeHome
	if err := json.Unmarshal(answer, &v); err != nil {
		return err
	}
	verdict := "may be taken home"
	if !v.Ready {
		verdict = "is not ready to be taken home"
	}
	fmt.Fprintf(w, "%s %s\n", v.Device, verdict)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range v.Checks {
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", c.State, c.Name, c.Text)
		if c.Remedy != "" {
			fmt.Fprintf(tw, "\t\t→ %s\n", c.Remedy)
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(v.Card) > 0 {
		fmt.Fprintf(w, "\n%s\n", strings.Join(v.Card, "\n"))
	}
	return nil
}
