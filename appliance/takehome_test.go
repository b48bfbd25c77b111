package appliance

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ringfence/config"
)

func TestTakeHome(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		change func(*homeFacts)
		ready  bool
		check  string // name, state and a part of the text of what is looked for
		card   string
	}{
		{"ready", func(*homeFacts) {}, true, "certificate ok good until 2027", "Nothing has to be typed"},
		{"no policy", func(f *homeFacts) { f.phone.VPN = "" }, false, "policy missing no VPN policy", ""},
		{"gateway down", func(f *homeFacts) { f.serves = false }, false, "gateway missing does not run", ""},
		{"no certificate", func(f *homeFacts) { f.lsc = time.Time{} }, false, "certificate missing none", ""},
		{"certificate over", func(f *homeFacts) { f.lsc = now.Add(-time.Hour) }, false, "certificate missing ended", ""},
		{"certificate ends soon", func(f *homeFacts) { f.lsc = now.Add(30 * 24 * time.Hour) }, true, "certificate warning ends", "Nothing"},
		{"never fetched", func(f *homeFacts) { f.fetched, f.hash = false, false }, false, "device file missing has not fetched", ""},
		{"old hash", func(f *homeFacts) { f.hash = false }, false, "device file missing another certificate", ""},
		{"no address", func(f *homeFacts) { f.doc.VPN.Hosts = nil }, false, "address missing nobody has said", ""},
		{"private address", func(f *homeFacts) { f.doc.VPN.Hosts = []string{"10.0.0.7"} }, true, "address warning not reachable", "Nothing"},
		{"odd port", func(f *homeFacts) { f.doc.VPN.Hosts = []string{"vpn.example.net:8443"} }, true, "address warning voice will go over TCP", "Nothing"},
		{"network of homes", func(f *homeFacts) { f.doc.Node.Address = netip.MustParseAddr("192.168.178.20") }, true, "detection warning keeps the VPN down", "Nothing"},
		{"password only", func(f *homeFacts) {
			f.doc.VPN.Policies[0].Auth = []config.VPNAuth{config.VPNPassword}
			f.lsc = time.Time{}
		}, true, "device file ok fetched", "type the password"},
		{"user and password", func(f *homeFacts) {
			f.doc.VPN.Policies[0].Auth = []config.VPNAuth{config.VPNPassword}
			f.phone.VPNPass = config.Secret{}
		}, true, "device file ok fetched", "user name and password"},
	} {
		t.Run(c.name, func(t *testing.T) {
			doc := vpnDoc(t)()
			phone, _ := doc.Phone("SEP001122AA0001")
			f := homeFacts{doc: doc, phone: phone, serves: true, lsc: now.Add(300 * 24 * time.Hour), fetched: true, hash: true, now: now}
			c.change(&f)
			got := f.judge()
			if got.Ready != c.ready || got.Ready != (len(got.Card) > 0) || !strings.Contains(strings.Join(got.Card, " "), c.card) {
				t.Errorf("ready %v, card %q", got.Ready, got.Card)
			}
			found := false
			for _, h := range got.Checks {
				text := h.Name + " " + h.State + " "
				found = found || strings.HasPrefix(c.check, text) && strings.Contains(h.Text, strings.TrimPrefix(c.check, text))
				if h.State != "ok" && h.Remedy == "" {
					t.Errorf("%s is %s without a remedy", h.Name, h.State)
				}
			}
			if !found {
				t.Errorf("%q is not in %+v", c.check, got.Checks)
			}
			raw, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := printTakeHome(&out, raw); err != nil || !strings.Contains(out.String(), phone.Device) {
				t.Errorf("printed %q, %v", out.String(), err)
			}
		})
	}
}
