package e2e

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

// wireguardClient is the reference implementation with a network stack of its own, set up from what the appliance printed.
func wireguardClient(t *testing.T, config string) *netstack.Net {
	t.Helper()
	value := func(name string) string {
		_, after, ok := strings.Cut(config, "\n"+name+" = ")
		if !ok {
			t.Fatalf("no %s in\n%s", name, config)
		}
		v, _, _ := strings.Cut(after, "\n")
		return v
	}
	key := func(name string) string {
		b, err := base64.StdEncoding.DecodeString(value(name))
		if err != nil || len(b) != 32 {
			t.Fatalf("%s is no key", name)
		}
		return hex.EncodeToString(b)
	}
	inner := netip.MustParsePrefix(strings.Split(value("Address"), ",")[0]).Addr()
	tun, stack, err := netstack.CreateNetTUN([]netip.Addr{inner}, nil, 1290)
	if err != nil {
		t.Fatal(err)
	}
	dev := device.NewDevice(tun, conn.NewDefaultBind(), &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf})
	t.Cleanup(dev.Close)
	set := fmt.Sprintf("private_key=%s\npublic_key=%s\npreshared_key=%s\nendpoint=%s\npersistent_keepalive_interval=%s\n", key("PrivateKey"), key("PublicKey"), key("PresharedKey"),
		value("Endpoint"), value("PersistentKeepalive"))
	for _, n := range strings.Split(value("AllowedIPs"), ", ") {
		set += "allowed_ip=" + n + "\n"
	}
	if err := dev.IpcSet(set); err != nil {
		t.Fatal(err)
	}
	if err := dev.Up(); err != nil {
		t.Fatal(err)
	}
	return stack
}

// TestWireGuardDevices makes a device by order, lets the reference implementation in with it, and takes the key away.
func TestWireGuardDevices(t *testing.T) {
	d := newDaemon(t, strings.Replace(morning, "    metrics:", "    wireguard: {{.Address}}:51821\n    metrics:", 1))
	var made struct {
		Config string `json:"config"`
		QR     string `json:"qr"`
	}
	d.json(&made, "vpn", "wireguard", "add", "pad", "--user", "ada")
	if !strings.Contains(made.QR, "█") {
		t.Error("no QR code")
	}
	if out, code := d.try("vpn", "wireguard", "add", "pad", "--user", "ada"); code == 0 {
		t.Errorf("a name is taken twice:\n%s", out)
	}
	reach := func(stack *netstack.Net, port uint16, within time.Duration) bool {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		c, err := stack.DialContextTCPAddrPort(ctx, netip.AddrPortFrom(netip.MustParseAddr(d.site.Address), port))
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	ln, err := net.Listen("tcp", d.site.Address+":8443")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	stack := wireguardClient(t, made.Config)
	if !reach(stack, 5060, 20*time.Second) {
		t.Fatal("SIP is not reached through WireGuard")
	}
	if reach(stack, 8443, time.Second) {
		t.Error("the pages are reached through WireGuard")
	}
	s := d.session("ada")
	if s.Method != "wireguard" || s.Device != "pad" || s.State != "up" || s.Dropped.Forbidden == 0 || !strings.HasPrefix(s.Address, d.site.Pool) {
		t.Errorf("session %+v", s)
	}
	d.stop()
	d.start() // the keys are state
	stack = wireguardClient(t, made.Config)
	if !reach(stack, 5060, 30*time.Second) {
		t.Error("SIP is not reached after a restart")
	}
	if now := d.session("ada"); now.Address != s.Address {
		t.Errorf("the address was %s and is %s", s.Address, now.Address)
	}
	d.verb("vpn", "wireguard", "revoke", "pad")
	if len(d.sessions()) != 0 || reach(stack, 5060, 2*time.Second) {
		t.Errorf("after the key was taken away: sessions %+v", d.sessions())
	}
	if strings.Contains(d.log.String(), strings.Fields(made.Config)[3]) {
		t.Error("the private key is in the log")
	}
}
