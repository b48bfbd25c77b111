package e2e

import (
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// TestPhoneAtHome takes a phone home: it was provisioned in the office, now it opens the VPN with its certificate, registers and
// calls through the tunnel.
func TestPhoneAtHome(t *testing.T) {
	feature.Proves(t, "VPN-3", "VPN-4", "VPN-5", "CER-7")
	d := newDaemon(t, morning)
	ben := d.newPhone("SEP001122AA0002", "8841", 2)
	d.ready(ben)
	office := d.newPhone("SEP001122AA0001", "8851", 1)
	d.ready(office)
	if err := office.Unregister(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	office.Stop()
	var ready struct {
		Ready bool     `json:"ready"`
		Card  []string `json:"card"`
	}
	d.json(&ready, "phone", "takehome", "SEP001122AA0001")
	if !ready.Ready || len(ready.Card) == 0 {
		t.Errorf("phone takehome says %+v of a phone that has everything", ready)
	}
	if out := d.verb("phone", "takehome", "SEP001122AA0002"); !strings.Contains(out, "not ready") || !strings.Contains(out, "no VPN policy") {
		t.Errorf("phone takehome says of a phone without VPN\n%s", out)
	}

	home := d.newPhone("SEP001122AA0001", "8851", 1, func(o *phone.Options) { o.Outside = true })
	d.ready(home)
	inner, ok := home.Tunnel()
	if !ok || inner.String()[:len(d.site.Pool)] != d.site.Pool {
		t.Fatalf("tunnel %v %v, want an address of %s.0/24", inner, ok, d.site.Pool)
	}
	var sessions []struct {
		Device  string `json:"device"`
		Method  string `json:"method"`
		Address string `json:"address"`
	}
	d.json(&sessions, "vpn", "sessions")
	if len(sessions) != 1 || sessions[0].Device != "SEP001122AA0001" || sessions[0].Method != "certificate" || sessions[0].Address != inner.String() {
		t.Errorf("vpn sessions says %+v", sessions)
	}
	var info struct {
		Registration *struct {
			Remote string `json:"remote"`
		} `json:"registration"`
	}
	d.json(&info, "phone", "show", "SEP001122AA0001")
	if info.Registration == nil || info.Registration.Remote[:len(d.site.Pool)] != d.site.Pool {
		t.Errorf("registered from %+v, want from the tunnel", info.Registration)
	}
	ca, cb := connect(t, home, ben, "302")
	hear(t, ca, cb)
	if err := ca.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	cb, ca = connect(t, ben, home, "311")
	hear(t, cb, ca)
	if err := cb.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	unharmed(t, home, ben)
}
