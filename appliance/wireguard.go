package appliance

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"rsc.io/qr"

	"ringfence/appliance/admin"
	"ringfence/config"
	"ringfence/vpn"
)

// Where WireGuard's keys stand. The appliance's own and the pre-shared ones are sealed; a device's private key is shown once and
// kept nowhere.
const (
	wireguardKey  = "vpn/wireguard/key"
	wireguardPeer = "vpn/wireguard/peer/" // NAME/key, NAME/psk, NAME/user
)

// wireguardOptions gives the gateway its listener; the key is made at the first start with one.
func (a *appliance) wireguardOptions(ctx context.Context, o *vpn.Options) error {
	l := a.doc().Node.Listen.WireGuard
	if l.Off() {
		return nil
	}
	o.WireGuard = l.String()
	if err := a.sealWireGuard(ctx); err != nil {
		return fmt.Errorf("seal WireGuard's keys: %w", err)
	}
	key, err := a.wireguardSecret(wireguardKey)
	if err != nil {
		return fmt.Errorf("key of WireGuard: %w", err) // a new one would cut all devices off without a word
	}
	if key == (vpn.WireGuardKey{}) {
		key = newWireGuardKey()
		if err := a.store.Write(ctx, map[string][]byte{wireguardKey: a.ca.SealSecret(wireguardKey, key[:])}); err != nil {
			return fmt.Errorf("keep WireGuard's key: %w", err)
		}
	}
	o.WireGuardKey = key
	return nil
}

// wireguardSecret opens a secret of the store; it is zero when there is none.
func (a *appliance) wireguardSecret(key string) (k vpn.WireGuardKey, err error) {
	b, ok := a.store.Get(key)
	if !ok {
		return k, nil
	}
	plain, err := a.ca.OpenSecret(key, b)
	if err != nil {
		return k, err
	}
	if len(plain) != len(k) {
		return k, fmt.Errorf("%s is %d bytes long", key, len(plain))
	}
	return vpn.WireGuardKey(plain), nil
}

// sealWireGuard seals the secrets that earlier releases kept as they were.
func (a *appliance) sealWireGuard(ctx context.Context) error {
	set := map[string][]byte{}
	seal := func(key string, value []byte) bool {
		if secret := key == wireguardKey || strings.HasPrefix(key, wireguardPeer) && strings.HasSuffix(key, "/psk"); secret && len(value) == len(vpn.WireGuardKey{}) {
			set[key] = a.ca.SealSecret(key, value)
		}
		return true
	}
	a.store.Scan(wireguardKey, seal)
	a.store.Scan(wireguardPeer, seal)
	if len(set) == 0 {
		return nil
	}
	return a.store.Write(ctx, set)
}

// newWireGuardKey makes a private key, clamped as X25519 wants it, or a pre-shared one.
func newWireGuardKey() (k vpn.WireGuardKey) {
	rand.Read(k[:])
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k
}

// wireguardPeers are the declared devices and those that were made by order; a device whose person has no policy any more is none.
func (a *appliance) wireguardPeers() []vpn.WireGuardPeer {
	doc := a.doc()
	var all []vpn.WireGuardPeer
	names := map[string]bool{}
	for _, u := range doc.Users {
		for _, w := range u.WireGuard {
			p := vpn.WireGuardPeer{Name: w.Name, User: u.ID, Policy: u.VPN}
			var err error
			if p.Key, err = vpn.ParseWireGuardKey(w.PublicKey); err == nil && !w.PSK.Empty() {
				p.PSK, err = vpn.ParseWireGuardKey(w.PSK.Reveal())
			}
			if err != nil {
				a.log.Error("WireGuard device", "device", w.Name, "err", err)
				continue
			}
			names[w.Name] = true
			all = append(all, p)
		}
	}
	for _, p := range a.storedPeers() {
		if u, ok := doc.User(p.User); ok && u.VPN != "" && !names[p.Name] {
			p.Policy = u.VPN
			all = append(all, p)
		}
	}
	return all
}

// storedPeers are the devices that were made by order.
func (a *appliance) storedPeers() []vpn.WireGuardPeer {
	byName := map[string]*vpn.WireGuardPeer{}
	a.store.Scan(wireguardPeer, func(key string, value []byte) bool {
		name, field, _ := strings.Cut(strings.TrimPrefix(key, wireguardPeer), "/")
		p := byName[name]
		if p == nil {
			p = &vpn.WireGuardPeer{Name: name}
			byName[name] = p
		}
		switch {
		case field == "user":
			p.User = string(value)
		case field == "key" && len(value) == len(p.Key):
			p.Key = vpn.WireGuardKey(value)
		}
		return true
	})
	var all []vpn.WireGuardPeer
	for _, p := range byName {
		var err error
		if p.PSK, err = a.wireguardSecret(wireguardPeer + p.Name + "/psk"); err != nil {
			a.log.Error("WireGuard device", "device", p.Name, "err", err) // without its pre-shared key it must not come in
			continue
		}
		if p.Key != (vpn.WireGuardKey{}) {
			all = append(all, *p)
		}
	}
	slices.SortFunc(all, func(x, y vpn.WireGuardPeer) int { return strings.Compare(x.Name, y.Name) })
	return all
}

// syncWireGuard puts the devices of document and store in force.
func (a *appliance) syncWireGuard(ctx context.Context) error {
	g := a.gateway.get()
	if g == nil {
		return nil
	}
	return g.SetWireGuardPeers(ctx, a.wireguardPeers())
}

func wireguardVerb() admin.Verb {
	return admin.Verb{Name: "vpn wireguard", Args: "[add|revoke NAME]", Max: 2, Short: "the WireGuard devices; make one, with its configuration and QR code, or take its key away", Change: true, Print: printWireGuard,
		Help: "add NAME --user USER makes a key for a device of a person, with that person's policy, and prints what the device needs, once: its private key is kept nowhere.\n" +
			"revoke NAME ends it. Devices of the document are changed there.",
		Flags: []admin.Flag{{Name: "user", Usage: "whose device it is"}}}
}

// WireGuardDevice is a device for people and programs.
type WireGuardDevice struct {
	Name      string    `json:"name"`
	User      string    `json:"user"`
	Policy    string    `json:"policy"`
	PublicKey string    `json:"public_key"`
	Declared  bool      `json:"declared"` // in the document
	Address   string    `json:"address,omitempty"`
	Address6  string    `json:"address6,omitempty"`
	Handshake time.Time `json:"handshake,omitzero"`
}

// WireGuardAnswer is the answer to vpn wireguard.
type WireGuardAnswer struct {
	PublicKey string            `json:"public_key"` // the appliance's
	Devices   []WireGuardDevice `json:"devices"`
	// Config and QR are what a new device needs; they are not shown again.
	Config string `json:"config,omitempty"`
	QR     string `json:"qr,omitempty"`
}

var wireguardName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)

func (a *appliance) vpnWireGuard(ctx context.Context, r admin.Request) (any, error) {
	g := a.gateway.get()
	switch {
	case g == nil:
		return nil, admin.Refuse("the VPN does not run here; ringfence status says why")
	case g.WireGuardAddr() == nil:
		return nil, admin.Refuse("WireGuard has no listener: set node.listen.wireguard, as 0.0.0.0:51821, and start the daemon again")
	case len(r.Args) == 0:
		return a.wireguardList(g), nil
	case len(r.Args) != 2 || r.Args[0] != "add" && r.Args[0] != "revoke":
		return nil, admin.Usage("vpn wireguard, vpn wireguard add NAME --user USER, or vpn wireguard revoke NAME")
	case r.Args[0] == "revoke":
		return a.wireguardRevoke(ctx, g, r.Args[1])
	}
	return a.wireguardAdd(ctx, g, r.Args[1], r.Flags["user"])
}

func (a *appliance) wireguardList(g *vpn.Gateway) WireGuardAnswer {
	declared := map[string]bool{}
	for _, u := range a.doc().Users {
		for _, w := range u.WireGuard {
			declared[w.Name] = true
		}
	}
	answer := WireGuardAnswer{PublicKey: a.wireguardPublic().String(), Devices: []WireGuardDevice{}}
	for _, p := range g.WireGuardPeers() {
		d := WireGuardDevice{Name: p.Name, User: p.User, Policy: p.Policy, PublicKey: p.Key.String(), Declared: declared[p.Name], Address: p.Addr.String(), Handshake: p.Handshake}
		if p.Addr6.IsValid() {
			d.Address6 = p.Addr6.String()
		}
		answer.Devices = append(answer.Devices, d)
	}
	return answer
}

func (a *appliance) wireguardPublic() vpn.WireGuardKey {
	key, err := a.wireguardSecret(wireguardKey)
	if err != nil || key == (vpn.WireGuardKey{}) {
		return vpn.WireGuardKey{}
	}
	return key.Public()
}

func (a *appliance) wireguardAdd(ctx context.Context, g *vpn.Gateway, name, user string) (any, error) {
	u, ok := a.doc().User(user)
	switch {
	case !wireguardName.MatchString(name):
		return nil, admin.Usage("%q is no name of a device: lower-case letters, digits, - and _", name)
	case user == "":
		return nil, admin.Usage("vpn wireguard add: --user is missing")
	case !ok:
		var names []string
		for _, u := range a.doc().Users {
			names = append(names, u.ID)
		}
		return nil, admin.Undeclared("user", user, names)
	case u.VPN == "":
		return nil, admin.Refuse("%s has no VPN policy: give the user one (vpn:)", user)
	}
	for _, p := range append(a.wireguardPeers(), a.storedPeers()...) {
		if p.Name == name {
			return nil, admin.Refuse("there is a WireGuard device %s already, of %s", name, p.User)
		}
	}
	key, psk := newWireGuardKey(), newWireGuardKey()
	public := key.Public()
	prefix := wireguardPeer + name + "/"
	if err := a.store.Write(ctx, map[string][]byte{prefix + "key": public[:], prefix + "psk": a.ca.SealSecret(prefix+"psk", psk[:]), prefix + "user": []byte(user)}); err != nil {
		return nil, fmt.Errorf("keep WireGuard device: %w", err)
	}
	if err := a.syncWireGuard(ctx); err != nil {
		return nil, errors.Join(admin.Refuse("%v", err), a.store.Write(ctx, nil, prefix+"key", prefix+"psk", prefix+"user"))
	}
	answer := a.wireguardList(g)
	answer.Devices = slices.DeleteFunc(answer.Devices, func(d WireGuardDevice) bool { return d.Name != name })
	if len(answer.Devices) != 1 {
		return nil, fmt.Errorf("WireGuard device %s was made and is not served", name)
	}
	policy, _ := a.doc().Policy(u.VPN)
	answer.Config = wireguardConfig(a.doc(), policy, answer, key, psk)
	drawn, err := admin.QR(answer.Config, qr.L)
	answer.QR = drawn
	return answer, err
}

// wireguardConfig is what a device's program reads.
func wireguardConfig(doc *config.Document, p *config.VPNPolicy, w WireGuardAnswer, key, psk vpn.WireGuardKey) string {
	var b strings.Builder
	d := w.Devices[0]
	addresses := d.Address + "/32"
	if d.Address6 != "" {
		addresses += ", " + d.Address6 + "/128"
	}
	fmt.Fprintf(&b, "[Interface]\nPrivateKey = %s\nAddress = %s\nMTU = %d\n", key, addresses, vpn.WireGuardMTU(p.MTU))
	if len(p.DNS) > 0 {
		dns := texts(p.DNS)
		for _, s := range p.SplitDNS {
			dns = append(dns, string(s))
		}
		fmt.Fprintf(&b, "DNS = %s\n", strings.Join(dns, ", "))
	}
	routes := []string{"0.0.0.0/0"}
	if d.Address6 != "" {
		routes = append(routes, "::/0")
	}
	if len(p.Routes) > 0 {
		own := p.Pool.Masked().Addr().Next()
		routes = texts(append([]netip.Prefix{netip.PrefixFrom(doc.Node.Address, 32), netip.PrefixFrom(own, 32)}, p.Routes...))
		slices.Sort(routes)
		routes = slices.Compact(routes)
	}
	host := doc.Node.Address.String()
	if len(doc.VPN.Hosts) > 0 {
		host = doc.VPN.Hosts[0]
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
	}
	endpoint := net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(int(doc.Node.Listen.WireGuard.Port())))
	fmt.Fprintf(&b, "\n[Peer]\nPublicKey = %s\nPresharedKey = %s\nEndpoint = %s\nAllowedIPs = %s\nPersistentKeepalive = 25\n", w.PublicKey, psk, endpoint, strings.Join(routes, ", "))
	return b.String()
}

func (a *appliance) wireguardRevoke(ctx context.Context, g *vpn.Gateway, name string) (any, error) {
	i := slices.IndexFunc(a.storedPeers(), func(p vpn.WireGuardPeer) bool { return p.Name == name })
	if i < 0 {
		for _, d := range a.wireguardList(g).Devices {
			if d.Name == name {
				return nil, admin.Refuse("the document declares %s (users: %s): take it away there", name, d.User)
			}
		}
		return nil, admin.Refuse("there is no WireGuard device %s; ringfence vpn wireguard lists them", name)
	}
	prefix := wireguardPeer + name + "/"
	if err := a.store.Write(ctx, nil, prefix+"key", prefix+"psk", prefix+"user"); err != nil {
		return nil, fmt.Errorf("withdraw the key: %w", err)
	}
	if err := a.syncWireGuard(ctx); err != nil {
		return nil, err
	}
	return a.wireguardList(g), nil
}

func printWireGuard(w io.Writer, answer json.RawMessage) error {
	var v WireGuardAnswer
	if err := json.Unmarshal(answer, &v); err != nil {
		return err
	}
	if v.Config != "" {
		_, err := fmt.Fprintf(w, "%s\n%s\nThis is shown once: the private key is kept nowhere.\n", v.Config, v.QR)
		return err
	}
	fmt.Fprintf(w, "public key of this appliance: %s\n", v.PublicKey)
	if len(v.Devices) == 0 {
		fmt.Fprintln(w, "no WireGuard device; ringfence vpn wireguard add NAME --user USER makes one")
	}
	for _, d := range v.Devices {
		seen := "never seen"
		if !d.Handshake.IsZero() {
			seen = "last handshake " + d.Handshake.Local().Format(time.DateTime)
		}
		where := "made by order"
		if d.Declared {
			where = "declared"
		}
		fmt.Fprintf(w, "%s of %s (%s), %s, %s, %s\n", d.Name, d.User, d.Policy, strings.TrimSpace(d.Address+" "+d.Address6), seen, where)
	}
	return nil
}
