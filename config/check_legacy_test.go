package config

import (
	"fmt"
	"strings"
	"testing"
)

// oldTLS is minimal with old TLS on these listeners.
func oldTLS(list string) string {
	return "node: {address: 192.0.2.10, listen: {legacy_tls: [" + list + "]}}\n"
}

func phonesOf(rest ...string) string {
	var b strings.Builder
	b.WriteString("phones:\n")
	for i, r := range rest {
		fmt.Fprintf(&b, "  - {device: SEP001122AA%04d, %s}\n", i+1, r)
	}
	return b.String()
}

func TestOldPhonesNeedOldTLS(t *testing.T) {
	many := make([]string, 12)
	for i := range many {
		many[i] = "model: 7965"
	}
	for _, tc := range []struct {
		name, text string
		at         string // line:column
		message    string
		hint       string
	}{
		{"encrypted by default", minimal + phonesOf("model: 7965"), "3:38", "cannot be in encrypted mode: SEP001122AA0001 (7965)", "set security: nonsecure, or node.listen.legacy_tls: [capf, tvs, sip]"},
		{"encrypted as written", minimal + phonesOf("model: 7965, security: encrypted"), "3:54", "SEP001122AA0001 (7965)", "legacy_tls: [capf, tvs, sip]"},
		{"the second phone", minimal + phonesOf("model: 8851", "model: 9971"), "4:38", "SEP001122AA0002 (9971)", "nonsecure"},
		{"one fault for two phones", minimal + phonesOf("model: 6901", "model: 8945"), "3:38", "SEP001122AA0001 (6901), SEP001122AA0002 (8945)", "nonsecure"},
		{"a dozen phones", minimal + phonesOf(many...), "3:38", "SEP001122AA0008 (7965) and 4 more", "nonsecure"},
		{"a list that lacks one", oldTLS("capf, sip") + phonesOf("model: 7965"), "1:50", "legacy_tls lacks tvs for encrypted phones", "add tvs, or set security: nonsecure"},
		{"a list that lacks two", oldTLS("vpn, sip") + phonesOf("model: 7965"), "1:50", "lacks capf and tvs", "add capf and tvs"},
		{"unknown listener", oldTLS("capf, tvs, sips"), "1:62", `unknown value "sips"`, "did you mean sip?"},
		{"listener twice", oldTLS("capf, capf"), "1:57", "capf is given twice", "remove one"},
		{"text instead of a list", "node: {address: 192.0.2.10, listen: {legacy_tls: capf}}\n", "1:50", "legacy_tls is text", "want a list"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			errs := faultsOf(t, tc.text)
			if len(errs) != 1 {
				t.Fatalf("%d faults: %v", len(errs), errs)
			}
			e := errs[0]
			if at := fmt.Sprintf("%d:%d", e.Line, e.Column); at != tc.at || !strings.Contains(e.Message, tc.message) || !strings.Contains(e.Hint, tc.hint) {
				t.Errorf("got %v\nwant %s %q (%q)", e, tc.at, tc.message, tc.hint)
			}
		})
	}
}

func TestOldTLSIsNoted(t *testing.T) {
	const pool = "vpn: {hosts: [vpn.example.net], policies: [{id: a, pool: 100.64.0.0/24}]}\n"
	for _, tc := range []struct{ name, text, want, never string }{
		{"on, and for whom", oldTLS("capf, tvs, sip") + phonesOf("model: 7965", "model: 8851"), "test.yaml:1:38: TLS 1.0 with RSA key exchange is offered (capf, tvs, sip) because of SEP001122AA0001 (7965) (remove it when", "AA0002 (8851)"},
		{"on for nobody", oldTLS("sip") + phonesOf("model: 8851"), "sip: TLS 1.0 is offered, but no declared phone needs it", "because of"},
		{"on for phones in the clear", oldTLS("sip") + phonesOf("model: 7965, security: nonsecure"), "no declared phone needs it", "because of"},
		{"encrypted is not advised without it", minimal + phonesOf("model: 7965, security: nonsecure"), "model 7965 also needs node.listen.legacy_tls: [capf, tvs, sip]", "TLS 1.0 is offered"},
		{"encrypted is advised to others", minimal + phonesOf("model: 8851, security: nonsecure"), "set security: encrypted where the phone can be enrolled)", "legacy_tls"},
		{"old phone outside", oldTLS("capf, tvs, sip") + pool + phonesOf("model: 7965, vpn: a"), "test.yaml:4:44: the VPN offers nothing as old as TLS 1.0, so that it stays shut for SEP001122AA0001 (7965) (add vpn to", ""},
		{"old phone outside, in the clear", minimal + pool + phonesOf("model: 9971, vpn: a, security: nonsecure"), "stays shut for SEP001122AA0001 (9971)", ""},
		{"old phone outside, served", oldTLS("vpn") + pool + phonesOf("model: 9971, vpn: a, security: nonsecure"), "is offered (vpn) because of SEP001122AA0001 (9971)", "stays shut"},
		{"new phone outside", minimal + pool + phonesOf("model: 8851, vpn: a"), "has no line", "stays shut"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, notices := mustParse(t, tc.text)
			found := false
			for _, n := range notices {
				found = found || strings.Contains(n.String(), tc.want)
				if tc.never != "" && strings.Contains(n.String(), tc.never) {
					t.Errorf("%q in %v", tc.never, n)
				}
			}
			if !found {
				t.Errorf("want %q in %v", tc.want, notices)
			}
		})
	}
}

func TestOldTLSPerListener(t *testing.T) {
	d, _ := mustParse(t, oldTLS("capf, sip"))
	for service, want := range map[string]bool{"capf": true, "sip": true, "tvs": false, "vpn": false, "": false} {
		if got := d.Node.Listen.Legacy(service); got != want {
			t.Errorf("%q: %v, want %v", service, got, want)
		}
	}
	d, _ = mustParse(t, minimal)
	if len(d.Node.Listen.LegacyTLS) != 0 {
		t.Errorf("on by default: %v", d.Node.Listen.LegacyTLS)
	}
}
