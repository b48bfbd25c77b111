package vpn_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	wgdevice "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"ringfence/vpn"
)

// warrior is a WireGuard client made of the reference implementation, with channels for a network.
type warrior struct {
	key vpn.WireGuardKey
	tun *tuntest.ChannelTUN
	dev *wgdevice.Device
}

func newWireGuardKey() (k vpn.WireGuardKey) {
	rand.Read(k[:])
	return k
}

func (w *warrior) dial(t *testing.T, l *lab, server, psk vpn.WireGuardKey) {
	t.Helper()
	w.tun = tuntest.NewChannelTUN()
	w.dev = wgdevice.NewDevice(w.tun.TUN(), conn.NewDefaultBind(), &wgdevice.Logger{Verbosef: wgdevice.DiscardLogf, Errorf: wgdevice.DiscardLogf})
	t.Cleanup(w.dev.Close)
	public := server.Public()
	if err := w.dev.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%s\npreshared_key=%s\nendpoint=%s\nallowed_ip=0.0.0.0/0\n", hex.EncodeToString(w.key[:]),
		hex.EncodeToString(public[:]), hex.EncodeToString(psk[:]), l.WireGuardAddr())); err != nil {
		t.Fatal(err)
	}
	if err := w.dev.Up(); err != nil {
		t.Fatal(err)
	}
}

func (w *warrior) hears(d time.Duration) []byte {
	select {
	case p := <-w.tun.Inbound:
		return p
	case <-time.After(d):
		return nil
	}
}

func TestWireGuard(t *testing.T) {
	server, ada, eve, psk := newWireGuardKey(), newWireGuardKey(), newWireGuardKey(), newWireGuardKey()
	l := newLab(t, func(o *vpn.Options) { o.WireGuard, o.WireGuardKey = "127.0.0.1:0", server })
	ctx := context.Background()
	pad := vpn.WireGuardPeer{Name: "pad", User: "alice", Policy: "staff", Key: ada.Public(), PSK: psk}
	if err := l.SetWireGuardPeers(ctx, []vpn.WireGuardPeer{pad}); err != nil {
		t.Fatal(err)
	}
	st := l.WireGuardPeers()
	if len(st) != 1 || !netip.MustParsePrefix("10.78.0.0/24").Contains(st[0].Addr) || !st[0].Addr6.IsValid() {
		t.Fatalf("peers %+v", st)
	}
	inner := st[0].Addr
	w := &warrior{key: ada}
	w.dial(t, l, server, psk)
	want := udp4(inner.String(), "10.78.0.1", 20000, 20002, 100)
	w.tun.Outbound <- bytes.Clone(want)
	if got := l.dev.next(t); !bytes.Equal(got, want) {
		t.Fatalf("the packet came as %x", got)
	}
	back := udp4("10.78.0.1", inner.String(), 20002, 20000, 200)
	l.dev.toClients <- bytes.Clone(back)
	if got := w.hears(10 * time.Second); !bytes.Equal(got, back) {
		t.Fatalf("the answer came as %x", got)
	}
	until(t, "the session is up", func() bool {
		s := l.Sessions()
		return len(s) == 1 && s[0].State == "up" && s[0].Name == "alice" && s[0].Device == "pad" && s[0].Method == "wireguard" && s[0].RxPackets == 1 && s[0].TxPackets == 1
	})
	// The policy judges as it judges everybody: what is not open is dropped and counted, and so is a foreign source, by the protocol.
	w.tun.Outbound <- udp4(inner.String(), "10.78.0.1", 20000, 53, 100)
	w.tun.Outbound <- udp4("10.78.0.77", "10.78.0.1", 20000, 20002, 100)
	w.tun.Outbound <- bytes.Clone(want)
	if got := l.dev.next(t); !bytes.Equal(got, want) {
		t.Errorf("a packet that nothing opens got through: %x", got)
	}
	if s := l.Sessions()[0]; s.Forbidden != 1 || s.RxPackets != 2 {
		t.Errorf("session %+v", s)
	}
	// Ended by hand, it comes back with a new session and the same address: only withdrawing the key keeps it out.
	id := l.Sessions()[0].ID
	if !l.Kick(id) {
		t.Fatal("no session to kick")
	}
	until(t, "the session is made anew", func() bool {
		s := l.Sessions()
		return len(s) == 1 && s[0].ID != id && s[0].Address == inner
	})
	// A stranger with a good guess of everything but the key.
	x := &warrior{key: eve}
	x.dial(t, l, server, psk)
	x.tun.Outbound <- bytes.Clone(want)
	select {
	case p := <-l.dev.fromClients:
		t.Errorf("a packet of a stranger got through: %x", p)
	case <-time.After(300 * time.Millisecond):
	}
	if err := l.SetWireGuardPeers(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if s, p := l.Sessions(), l.WireGuardPeers(); len(s) != 0 || len(p) != 0 {
		t.Errorf("after the key was withdrawn: sessions %+v, peers %+v", s, p)
	}
	if err := l.SetWireGuardPeers(ctx, []vpn.WireGuardPeer{pad}); err != nil {
		t.Fatal(err)
	}
	if st := l.WireGuardPeers(); st[0].Addr != inner {
		t.Errorf("the address is now %v, was %v", st[0].Addr, inner)
	}
	if err := l.SetWireGuardPeers(ctx, []vpn.WireGuardPeer{{Name: "x", User: "alice", Policy: "none", Key: eve.Public()}}); err == nil {
		t.Error("a peer of a policy that is not declared is taken")
	}
}

// TestWireGuardBesideLogins shows that a WireGuard device takes none of the sessions that a person may have.
func TestWireGuardBesideLogins(t *testing.T) {
	server, key := newWireGuardKey(), newWireGuardKey()
	l := newLab(t, func(o *vpn.Options) {
		o.WireGuard, o.WireGuardKey = "127.0.0.1:0", server
		o.Policies[1].MaxSessions = 1
	})
	if err := l.SetWireGuardPeers(context.Background(), []vpn.WireGuardPeer{{Name: "pad", User: "alice", Policy: "staff", Key: key.Public()}}); err != nil {
		t.Fatal(err)
	}
	b := l.browser(t, nil)
	_, text := b.do("POST", "/", fmt.Sprintf(xmlInit, ""))
	st := stateIn.FindStringSubmatch(text)[1]
	b.do("POST", "/", reply(st, "alice", "correct horse", ""))
	if s := l.Sessions(); len(s) != 2 {
		t.Errorf("sessions %+v", s)
	}
}
