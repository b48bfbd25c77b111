package host

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

var bg = context.Background()

func TestConfirmedStays(t *testing.T) {
	y := newYard(t)
	y.ip("address add 198.51.100.9/24 dev port0")
	dir := t.TempDir()
	spec := Spec{Links: []Link{{Name: "port0", IPv6: "static", Addresses: []netip.Prefix{prefix("192.0.2.10/24"), prefix("2001:db8::10/64")}, Gateway: addr("192.0.2.1"), Gateway6: addr("2001:db8::1"), MTU: 1400}},
		Routes: []Route{{To: prefix("203.0.113.0/24"), Via: addr("192.0.2.2")}}, DNS: []netip.Addr{addr("192.0.2.53")}, Search: []string{"example.net"}, HostName: "pbx7"}
	k := run(t, dir, spec)
	if got := k.show(t); got.State != StateDiffers {
		t.Errorf("state %q before it is applied", got.State)
	}
	if got := addresses(t, "port0"); !slices.Equal(got, []string{"198.51.100.9/24"}) {
		t.Errorf("changed without being asked: %v", got)
	}
	if _, err := k.Apply(bg, time.Minute); err != nil {
		t.Fatal(err)
	}
	if got := k.show(t); got.State != StateUnconfirmed || got.Until.IsZero() {
		t.Errorf("%+v", got)
	}
	check := func(when string) {
		t.Helper()
		if got, want := addresses(t, "port0"), []string{"192.0.2.10/24", "2001:db8::10/64"}; !slices.Equal(got, want) {
			t.Errorf("%s: addresses %v, want %v", when, got, want)
		}
		want := []string{"0.0.0.0/0 via 192.0.2.1 metric 50 protocol 187", "203.0.113.0/24 via 192.0.2.2 metric 50 protocol 187", "::/0 via 2001:db8::1 metric 50 protocol 187"}
		if d := cmp.Diff(routesOf(t, "port0"), want); d != "" {
			t.Errorf("%s: routes got, want:\n%s", when, d)
		}
		l, _ := netlink.LinkByName("port0")
		name, _ := os.Hostname()
		b, _ := os.ReadFile(filepath.Join(dir, "resolv.conf"))
		if l.Attrs().MTU != 1400 || name != "pbx7" || !strings.Contains(string(b), "search example.net\nnameserver 192.0.2.53\n") {
			t.Errorf("%s: MTU %d, name %s, %q", when, l.Attrs().MTU, name, b)
		}
	}
	check("applied")
	if err := k.Confirm(bg); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Apply(bg, time.Minute); !errors.Is(err, ErrSame) {
		t.Errorf("applied twice: %v", err)
	}
	if err := k.Confirm(bg); !errors.Is(err, ErrNothing) {
		t.Errorf("confirmed twice: %v", err)
	}
	k.stop()
	check("after the end")
	// A new start, after somebody has disturbed it, makes it right.
	y.ip("address flush dev port0")
	k = run(t, dir, spec)
	eventually(t, "the start", func() bool { return k.View().State == StateConfirmed })
	check("started again")
}

// TestLockedOut cuts the administrator's own way, in each of the ways in which one does that.
func TestLockedOut(t *testing.T) {
	for _, c := range []struct {
		name string
		spec Spec
	}{
		{"wrong address", Spec{Links: []Link{{Name: "port0", IPv6: "off", Addresses: []netip.Prefix{prefix("198.51.100.10/24")}, Gateway: addr("198.51.100.1")}}}},
		{"no address", Spec{Links: []Link{{Name: "port0", IPv6: "off"}}}},
		{"firewall", Spec{Links: []Link{{Name: "port0", IPv6: "auto", Addresses: []netip.Prefix{prefix("192.0.2.10/24")}, Zones: []string{"phones"}}}, Firewall: &Firewall{}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := newYard(t)
			y.ip("address add 192.0.2.10/24 dev port0")
			y.ip("link set port0 up")
			y.ip("route add default via 192.0.2.1 metric 7 proto static")
			y.listen(2222)
			eventually(t, "the cable", func() bool { return y.reaches("192.0.2.10:2222") })
			session, err := y.dial("tcp", "192.0.2.10:2222") // the administrator's, open all the time
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close()
			hello := func(within time.Duration) error {
				if _, err := session.Write([]byte("hello")); err != nil {
					return err
				}
				session.SetReadDeadline(time.Now().Add(within))
				_, err := session.Read(make([]byte, 64))
				return err
			}
			if err := hello(10 * time.Second); err != nil {
				t.Fatal(err)
			}
			before, routes := addresses(t, "port0"), routesOf(t, "port0")
			k := run(t, t.TempDir(), c.spec)
			if _, err := k.Apply(bg, time.Hour); err != nil {
				t.Fatal(err)
			}
			if y.reaches("192.0.2.10:2222") {
				t.Fatal("the change does not cut the way: the test proves nothing")
			}
			if hello(200*time.Millisecond) == nil {
				t.Error("a session from before goes on: its administrator would confirm what locks him out")
			}
			_ = k.order(bg, func() { k.expiry.Reset(0) }) // the hour is over
			eventually(t, "the return", func() bool { return k.View().Returned != nil })
			eventually(t, "the way back", func() bool { return y.reaches("192.0.2.10:2222") })
			if d := cmp.Diff(addresses(t, "port0"), before); d != "" {
				t.Errorf("addresses got, want:\n%s", d)
			}
			if d := cmp.Diff(routesOf(t, "port0"), routes); d != "" {
				t.Errorf("routes got, want:\n%s", d)
			}
			if v := k.View(); v.State != StateDiffers || !strings.Contains(v.Returned.Why, "nobody confirmed") || !slices.ContainsFunc(k.Warnings(), func(w string) bool { return strings.Contains(w, "did not stay") }) {
				t.Errorf("%+v, %v", v, k.Warnings())
			}
			if err := k.Confirm(bg); err == nil || !strings.Contains(err.Error(), "has returned") {
				t.Errorf("confirmed too late: %v", err)
			}
		})
	}
}

// TestReturnsToConfirmed changes what was confirmed before, and a port that was not declared.
func TestReturnsToConfirmed(t *testing.T) {
	y := newYard(t)
	y.cable("port1", "admin1")
	y.ip("address add 203.0.113.7/24 dev port1")
	y.listen(2222)
	dir := t.TempDir()
	first := Spec{Links: []Link{{Name: "port0", IPv6: "static", Addresses: []netip.Prefix{prefix("192.0.2.10/24")}}}}
	k := run(t, dir, first)
	if _, err := k.Apply(bg, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := k.Confirm(bg); err != nil {
		t.Fatal(err)
	}
	*k.spec = Spec{Links: []Link{{Name: "port0", IPv6: "static", Addresses: []netip.Prefix{prefix("192.0.2.77/24")}}, {Name: "port1", IPv6: "static", Addresses: []netip.Prefix{prefix("198.51.100.1/24")}}}}
	if _, err := k.Apply(bg, time.Minute); err != nil {
		t.Fatal(err)
	}
	if got := append(addresses(t, "port0"), addresses(t, "port1")...); !slices.Equal(got, []string{"192.0.2.77/24", "198.51.100.1/24"}) {
		t.Fatalf("applied: %v", got)
	}
	if _, err := k.Apply(bg, time.Minute); !errors.Is(err, ErrPending) {
		t.Errorf("applied over an unconfirmed change: %v", err)
	}
	k.stop() // orderly, unconfirmed
	if got := append(addresses(t, "port0"), addresses(t, "port1")...); !slices.Equal(got, []string{"192.0.2.10/24", "203.0.113.7/24"}) {
		t.Errorf("returned: %v", got)
	}
	eventually(t, "the way back", func() bool { return y.reaches("192.0.2.10:2222") })
}

// TestReturnsAfterACrash is the start after an end without warning: the journal is all that is left.
func TestReturnsAfterACrash(t *testing.T) {
	y := newYard(t)
	y.ip("address add 192.0.2.10/24 dev port0")
	y.ip("link set port0 up")
	dir, crashed := t.TempDir(), t.TempDir()
	spec := Spec{Links: []Link{{Name: "port0", IPv6: "static", Addresses: []netip.Prefix{prefix("198.51.100.10/24")}, Zones: []string{"phones"}}}, Firewall: &Firewall{}}
	k := run(t, dir, spec)
	if _, err := k.Apply(bg, time.Hour); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, journalName))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(crashed, journalName), b, 0o600); err != nil {
		t.Fatal(err)
	}
	// The kernel as the crash leaves it: changed.
	if got := addresses(t, "port0"); !slices.Equal(got, []string{"198.51.100.10/24"}) {
		t.Fatal(got)
	}
	again := run(t, crashed, spec)
	eventually(t, "the return", func() bool { return again.View().Returned != nil })
	if got := addresses(t, "port0"); !slices.Equal(got, []string{"192.0.2.10/24"}) {
		t.Errorf("after the start: %v", got)
	}
	if out, err := exec.Command("nft", "list", "table", "inet", "ringfence").CombinedOutput(); err == nil {
		t.Errorf("the firewall stayed:\n%s", out)
	}
	again.stop()
	if again.j.Pending != nil || again.j.Confirmed != nil {
		t.Errorf("the journal after the return: %+v", again.j)
	}
}

func TestFaultsOfTheMachine(t *testing.T) {
	y := newYard(t)
	y.ip("address add 192.0.2.10/24 dev port0")
	y.ip("link set port0 up")
	t.Run("no such port", func(t *testing.T) {
		k := run(t, t.TempDir(), Spec{Links: []Link{{Name: "port0", IPv6: "auto"}, {Name: "port9", IPv6: "auto"}}})
		_, err := k.Apply(bg, time.Minute)
		var f *Fault
		if !errors.As(err, &f) || f.Path != "interfaces[1].name" || !strings.Contains(f.Why, "port0") {
			t.Errorf("%v", err)
		}
	})
	t.Run("refused half-way", func(t *testing.T) {
		k := run(t, t.TempDir(), Spec{Links: []Link{{Name: "port0", IPv6: "static", Addresses: []netip.Prefix{prefix("198.51.100.10/24")}}}, Routes: []Route{{To: prefix("203.0.113.0/24"), Via: addr("192.0.2.2")}}})
		_, err := k.Apply(bg, time.Minute)
		if err == nil || !strings.Contains(err.Error(), "no interface reaches 192.0.2.2") || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("%v", err)
		}
		if got := addresses(t, "port0"); !slices.Equal(got, []string{"192.0.2.10/24"}) {
			t.Errorf("addresses %v", got)
		}
	})
	t.Run("journal cannot be written", func(t *testing.T) {
		k := run(t, "/proc/nowhere", Spec{Links: []Link{{Name: "port0", IPv6: "off"}}})
		if _, err := k.Apply(bg, time.Minute); err == nil {
			t.Error("applied without a way back")
		}
		if got := addresses(t, "port0"); !slices.Equal(got, []string{"192.0.2.10/24"}) {
			t.Errorf("addresses %v", got)
		}
	})
}

// TestPresent puts a declaration into force that came with the machine, and leaves the links to us alone.
func TestPresent(t *testing.T) {
	newYard(t)
	var owned [][]string
	k := run(t, t.TempDir(), Spec{Links: []Link{{Name: "port0", IPv6: "off", Addresses: []netip.Prefix{prefix("192.0.2.20/24")}}}}, func(o *Options) {
		o.Present = true
		o.Own = func(_ context.Context, names []string) error { owned = append(owned, names); return nil }
	})
	eventually(t, "the start", func() bool { return k.View().State == StateConfirmed })
	if got := addresses(t, "port0"); !slices.Equal(got, []string{"192.0.2.20/24"}) {
		t.Errorf("addresses %v", got)
	}
	k.stop()
	if len(owned) != 1 || !slices.Equal(owned[0], []string{"port0"}) {
		t.Errorf("taken over: %v", owned)
	}
}

// TestPortComesLater declares a port that the kernel finds after the start.
func TestPortComesLater(t *testing.T) {
	y := newYard(t)
	k := run(t, t.TempDir(), Spec{Links: []Link{{Name: "port1", IPv6: "off", Addresses: []netip.Prefix{prefix("203.0.113.20/24")}, Zones: []string{"phones"}}}, Firewall: &Firewall{}},
		func(o *Options) { o.Present = true })
	eventually(t, "the fault", func() bool { return strings.Contains(k.View().Problem, "port1") })
	y.cable("port1", "admin1")
	eventually(t, "the address", func() bool { return slices.Equal(addresses(t, "port1"), []string{"203.0.113.20/24"}) })
	eventually(t, "no fault", func() bool {
		return k.View().Problem == "" && len(k.show(t).Firewall) >= 0 && exec.Command("nft", "list", "table", "inet", "ringfence").Run() == nil
	})
}

// TestDHCPAndAdvertisements asks Debian's dnsmasq.
func TestDHCPAndAdvertisements(t *testing.T) {
	if _, err := exec.LookPath("dnsmasq"); err != nil {
		t.Skip("dnsmasq is not installed")
	}
	y := newYard(t)
	dir := t.TempDir()
	server := exec.Command("nsenter", "--net=/proc/"+y.pid+"/ns/net", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--interface=admin0",
		"--dhcp-range=192.0.2.50,192.0.2.60,120", "--dhcp-option=option:router,192.0.2.1", "--dhcp-option=option:dns-server,192.0.2.53", "--dhcp-option=option:ntp-server,192.0.2.123",
		"--enable-ra", "--dhcp-range=2001:db8::,ra-only,64,600", "--ra-param=admin0,high,4,600", "--pid-file="+dir+"/pid", "--dhcp-leasefile="+dir+"/leases")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	k := run(t, dir, Spec{Links: []Link{{Name: "port0", DHCP: true, IPv6: "auto", Zones: []string{"phones"}}}, Firewall: &Firewall{}})
	if _, err := k.Apply(bg, time.Minute); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an address", func() bool { return k.show(t).Links[0].DHCP == "leased" })
	got := addresses(t, "port0")
	if !slices.ContainsFunc(got, func(a string) bool { return strings.HasPrefix(a, "192.0.2.5") || strings.HasPrefix(a, "192.0.2.60") }) {
		t.Errorf("addresses %v", got)
	}
	if r := routesOf(t, "port0"); !slices.ContainsFunc(r, func(s string) bool { return strings.HasPrefix(s, "0.0.0.0/0 via 192.0.2.1 ") }) {
		t.Errorf("routes %v", r)
	}
	if b, _ := os.ReadFile(dir + "/resolv.conf"); !strings.Contains(string(b), "nameserver 192.0.2.53") {
		t.Errorf("%q", b)
	}
	if s := k.TimeServers(bg); !slices.Equal(s, []string{"192.0.2.123"}) {
		t.Errorf("time servers %v", s)
	}
	eventually(t, "an address by advertisement", func() bool {
		return slices.ContainsFunc(addresses(t, "port0"), func(a string) bool { return strings.HasPrefix(a, "2001:db8:") })
	})
	_ = k.order(bg, func() { k.again(bg) }) // what advertisements gave stays
	if a := addresses(t, "port0"); !slices.ContainsFunc(a, func(a string) bool { return strings.HasPrefix(a, "2001:db8:") }) {
		t.Errorf("addresses %v", a)
	}
}

// TestVLANAndBond needs kinds of links that not every kernel has.
func TestVLANAndBond(t *testing.T) {
	y := newYard(t)
	if exec.Command("ip", "link", "add", "probe0", "type", "bond").Run() != nil {
		t.Skip("this kernel makes no bonds")
	}
	y.ip("link del probe0")
	y.cable("port1", "admin1")
	spec := Spec{Links: []Link{{Name: "team0", Bond: []string{"port0", "port1"}, Mode: "active-backup", IPv6: "off", Addresses: []netip.Prefix{prefix("192.0.2.10/24")}},
		{Name: "voice", VLAN: 20, On: "team0", IPv6: "off", Addresses: []netip.Prefix{prefix("198.51.100.10/24")}}}}
	k := run(t, t.TempDir(), spec)
	if _, err := k.Apply(bg, time.Minute); err != nil {
		t.Fatal(err)
	}
	voice, err := netlink.LinkByName("voice")
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := voice.(*netlink.Vlan); !ok || v.VlanId != 20 {
		t.Errorf("%T", voice)
	}
	k.stop() // unconfirmed: all returns
	for _, name := range []string{"team0", "voice"} {
		if _, err := netlink.LinkByName(name); err == nil {
			t.Errorf("%s stayed", name)
		}
	}
	if p, _ := netlink.LinkByName("port0"); p.Attrs().MasterIndex != 0 {
		t.Error("port0 is still part of a bond")
	}
}
