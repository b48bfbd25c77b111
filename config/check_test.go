package config

import (
	"fmt"
	"strings"
	"testing"
)

// site is a document of every section that passes; checks change one thing in it.
const site = `node: {address: 192.0.2.10}
site: {time_zone: Europe/Berlin}
vpn:
  hosts: [vpn.example.net]
  policies:
    - {id: phones, pool: 100.64.77.0/24}
    - {id: people, pool: 100.64.78.0/28, auth: [password]}
numbering: {extensions: "3XX", outside_prefix: "9", country: "1", emergency: ["911"]}
users:
  - {id: ada, name: Ada, vpn: people, password: "abcdefgh-1", speed_dials: {1: "302"}}
phones:
  - {device: SEP001122AA0001, model: "8851", vpn: phones, modules: [BEKEM], keys: [{blf: "302"}, {park: "381"}, {speed: "95550100"}, {url: "http://192.0.2.1/x"}]}
  - {device: SEP001122AA0002, model: 7965, label: Ben, security: nonsecure}
lines:
  - {number: "301", user: ada, phone: SEP001122AA0001, park_lot: lot, rights: [internal, local], forward: "95550100"}
  - {number: "311", phone: SEP001122AA0001, index: 2, on_busy: "extension:302", on_no_answer: voicemail:311}
  - {number: "302", phone: SEP001122AA0002, on_busy: "group:370"}
  - {number: "303", password: abcdefgh1}
groups:
  - {number: "370", members: ["301", "371"], on_no_answer: voicemail:370}
  - {number: "371", members: ["302"], on_empty: "external:95550100"}
parking:
  - {id: lot, slots: 381-389, comeback: {then: "group:370"}}
paging:
  - {number: "379", name: Shop, members: ["301"], mode: multicast, group: 239.1.1.1}
intercom:
  - {number: "390", members: {"301": "391", "302": "392"}}
rooms:
  - {range: 360-369}
services: {voicemail: "399", echo_test: "398", codes: {forward_on: "*72", park: "700"}}
schedules:
  - {id: open, weekly: "mon-fri 08:30-17:30; sat 09:00-12:00", except: ["2026-12-24..2027-01-01", "2027-05-01"]}
routes_in:
  - {number: "+15550300", when: open, to: "group:370", else: voicemail:370}
routes_out:
  - {match: "9(NXXXXXX|1NXXNXXXXXX)", strip: 1, via: [main]}
  - {match: "911", via: [main]}
`

func TestWholeSitePasses(t *testing.T) {
	d, _ := mustParse(t, site)
	if l, ok := d.Line("302"); !ok || l.Phone != "SEP001122AA0002" {
		t.Error("line 302 not found")
	}
	if got := d.LinesOf("SEP001122AA0001"); len(got) != 2 || got[1].Number != "311" {
		t.Errorf("lines of the first phone: %v", got)
	}
	if p, ok := d.Policy("people"); !ok || p.Pool.Bits() != 28 {
		t.Error("policy not found")
	}
	if u, ok := d.User("ada"); !ok || u.SpeedDials["1"] != "302" {
		t.Error("user not found")
	}
	if _, ok := (&Document{Phones: []Phone{{Device: "SEP001122AA0009"}}}).Phone("SEP001122AA0009"); !ok {
		t.Error("a document made in code is not searched")
	}
}

// TestChecks changes one thing each in a document that passes. The names in brackets are those of dialplan §3.1.
func TestChecks(t *testing.T) {
	for _, tc := range []struct {
		name, old, new string
		message, hint  string
	}{
		{"ACME for nobody", "site: {", "pki: {acme: {enabled: true}}\nsite: {", "ACME is on and may issue for no name", "domains"},
		{"ACME without listener", "site: {", "pki: {acme: {enabled: true, domains: [web.example.net]}}\nsite: {", "node.listen.acme is off", "0.0.0.0:6975"},
		{"two ACME accounts of one name", "site: {", "pki: {acme: {accounts: [{id: web, key: abcdefghijabcdefghijabcdefghijab}, {id: web, key: abcdefghijabcdefghijabcdefghijab}]}}\nsite: {", "ACME account web is declared twice", "another name"},
		{"SCEP for nobody", "site: {", "pki: {scep: {enabled: true}}\nsite: {", "nobody has a challenge password", "clients"},
		{"SCEP without listener", "node: {address: 192.0.2.10}", "node: {address: 192.0.2.10, listen: {certs: off}}\npki: {scep: {enabled: true, clients: [{name: wifi1, challenge: 12345678}]}}", "node.listen.certs is off", "0.0.0.0:6974"},
		{"shared challenge for no name", "site: {", "pki: {scep: {challenge: \"12345678\"}}\nsite: {", "good for no name", "names"},
		{"publish_url with a path", "site: {", "pki: {publish_url: \"http://192.0.2.10/x\"}\nsite: {", "publish_url", "http://192.0.2.10:6974"},
		{"line and group (overlapping numbers)", `number: "303"`, `number: "370"`, "number 370 is both a line and a group", "first is"},
		{"park slots and room (overlapping ranges)", "slots: 381-389", "slots: 365-389", "both a park slot and a room", ""},
		{"park slot and page (the mistake of the usual sample plan)", "slots: 381-389", "slots: 379-389", "number 379 is both a park slot and a page", ""},
		{"intercom line and service", `"301": "391"`, `"301": "399"`, "number 399 is both an intercom line and a voicemail number", ""},
		{"emergency number and line", `emergency: ["911"]`, `emergency: ["303", "911"]`, "number 303 is both a line and an emergency number", ""},
		{"two codes", `park: "700"`, `park: "*72"`, "both a code forward_on and a code park", ""},
		{"service code equal to an extension", `park: "700"`, `park: "303"`, "both a line and a code park", ""},
		{"slot outside the number plan", "slots: 381-389", "slots: 781-789", "park slot 781 lies outside numbering.extensions, 3XX", "fits"},
		{"room outside the number plan", "range: 360-369", "range: 660-669", "room 660 lies outside", ""},
		{"range turned round", "slots: 381-389", "slots: 389-381", "ends before it starts", "381-389"},
		{"range of uneven length", "slots: 381-389", "slots: 81-389", "differ in length", ""},
		{"range too large", "slots: 381-389", "slots: 300000-389999", "has 90000 numbers", "at most 1000"},
		{"pattern of numbers", `extensions: "3XX"`, `extensions: "3YY"`, `unexpected 'Y' at character 2`, "X any digit"},
		{"user missing (reference to a missing object)", "user: ada", "user: adda", "no user adda", "did you mean ada?"},
		{"park lot missing", "park_lot: lot", "park_lot: lots", "no park lot lots", "did you mean lot?"},
		{"rule without effect", "routes_in:", "rules:\n  - {match: \"30X\"}\nroutes_in:", "the rule decides nothing", "to:"},
		{"rule with two answers", "routes_in:", "rules:\n  - {to: busy, script: \"def route(call): return 'busy'\"}\nroutes_in:", "in two ways", ""},
		{"rule of a line that is missing", "routes_in:", "rules:\n  - {from: [\"399\"], to: busy}\nroutes_in:", "no line 399", ""},
		{"rule to a line that is missing", "routes_in:", "rules:\n  - {to: \"extension:315\"}\nroutes_in:", "no line 315", "did you mean 3"},
		{"rule by a schedule that is missing", "routes_in:", "rules:\n  - {when: opn, to: busy}\nroutes_in:", "no schedule opn", "did you mean open?"},
		{"rule by no schedule", "routes_in:", "rules:\n  - {unless: opn, to: busy}\nroutes_in:", "no schedule opn", "did you mean open?"},
		{"rule with an odd pattern", "routes_in:", "rules:\n  - {match: \"3YY\", to: busy}\nroutes_in:", "unexpected 'Y'", ""},
		{"rule by a field that is missing", "routes_in:", "rules:\n  - {if: {donotdisturbed: \"yes\"}, to: busy}\nroutes_in:", "no field donotdisturbed", "did you mean donotdisturb?"},
		{"rule that sets neither", "routes_in:", "rules:\n  - {set: {donotdisturb: maybe}}\nroutes_in:", "donotdisturb is switched maybe", "yes"},
		{"rule that sets no number", "routes_in:", "rules:\n  - {set: {callforward: ben}}\nroutes_in:", "", ""},
		{"script on one line", "routes_in:", "rules:\n  - {script: \"def route(call): return open('x')\"}\nroutes_in:", "line 1: undefined: open", "call, field and set"},
		{"shared line without a phone", `{number: "303", password: abcdefgh1}`, `{number: "303", password: abcdefgh1, shared: [{phone: SEP001122AA0001, index: 3}]}`, "line 303 is shared but has no phone", "add phone"},
		{"shared with itself", `phone: SEP001122AA0002, on_busy`, `phone: SEP001122AA0002, shared: [{phone: SEP001122AA0002, index: 2}], on_busy`, "on phone SEP001122AA0002 already", "remove one"},
		{"shared with a phone that is missing", `phone: SEP001122AA0002, on_busy`, `phone: SEP001122AA0002, shared: [{phone: SEP001122AA0003, index: 1}], on_busy`, "no phone SEP001122AA0003", "did you mean"},
		{"shared line in a place that is taken", `phone: SEP001122AA0002, on_busy`, `phone: SEP001122AA0002, shared: [{phone: SEP001122AA0001, index: 2}], on_busy`, "both have index 2 on phone SEP001122AA0001", "give one of them index: 3"},
		{"watcher missing", "park_lot: lot", `park_lot: lot, watched_by: ["302", "314"]`, "no line 314", "did you mean 3"},
		{"everybody and one more", "park_lot: lot", `park_lot: lot, watched_by: [all, "302"]`, "all stands beside others", "alone"},
		{"watcher that is a word", "park_lot: lot", `park_lot: lot, watched_by: [everybody]`, `"everybody" is no watched_by`, ""},
		{"appliance that is not this one", "{time_zone: Europe/Berlin}", "{time_zone: Europe/Berlin, appliances: [192.0.2.77, 192.0.2.78]}", "is none of 192.0.2.77, 192.0.2.78", "add "},
		{"group missing", "then: \"group:370\"", "then: \"group:372\"", "no group 372", "did you mean 37"},
		{"mailbox missing", "on_no_answer: voicemail:311", "on_no_answer: voicemail:315", "no line 315", "did you mean 3"},
		{"schedule missing", "when: open", "when: opn", "no schedule opn", "did you mean open?"},
		{"room missing", "on_no_answer: voicemail:311", "on_no_answer: room:370", "no room 370", "rooms"},
		{"page missing", "on_no_answer: voicemail:311", "on_no_answer: page:office", "no page office", "paging"},
		{"right missing", "rights: [internal, local]", "rights: [internal, lokal, local]", "no right lokal", "did you mean local?"},
		{"kind not in this release", "on_no_answer: voicemail:311", "on_no_answer: ivr:main", "no destination of kind ivr", ""},
		{"repeat outside a menu", "on_no_answer: voicemail:311", "on_no_answer: repeat", "repeat belongs to menus", ""},
		{"routes that are equally narrow", `{match: "911", via: [main]}`, `{match: "911", via: [main]}` + "\n" + `  - {match: "9(5|6)[4-6]XXXXX", via: [main]}` + "\n" + `  - {match: "9(5|6)[5-7]XXXXX", via: [main]}`, "9(5|6)[5-7]XXXXX and so does 9(5|6)[4-6]XXXXX", "make one of them narrower"},
		{"outside number without route", `on_empty: "external:95550100"`, `on_empty: "external:85550100"`, "no route takes 85550100", "routes_out"},
		{"group that contains itself (loop in groups)", `members: ["302"]`, `members: ["302", "370"]`, "in a circle: group:370, group:371, group:370", "mailbox"},
		{"rules in a circle (loop in on_* chains)", `on_empty: "external:95550100"`, `on_empty: "extension:311"`, "in a circle", ""},
		{"group without members", `members: ["302"]`, `members: []`, "group 371 has no members", "add members"},
		{"member twice", `members: ["301", "371"]`, `members: ["301", "301"]`, "301 is a member twice", ""},
		{"park come-back to itself", "then: \"group:370\"", "then: \"extension:385\"", "comes back to slot 385", ""},
		{"reminder after the end", "slots: 381-389,", "slots: 381-389, seconds: 30, reminder_seconds: 50,", "the reminder comes after 50 s", ""},
		{"forward rule without rights", "rights: [internal, local]", "rights: [internal]", "forwards to 95550100 without the right local", "add local"},
		{"forward to itself", `forward: "95550100"`, `forward: "301"`, "forwards to itself", ""},
		{"forward to nothing", `forward: "95550100"`, `forward: "8888"`, "no number 8888", ""},
		{"phone without line that has keys", "model: 7965, label: Ben, security: nonsecure}", "model: 7965, label: Ben, security: nonsecure}\n  - {device: SEP001122AA0003, model: 7965, security: nonsecure, keys: [{speed: \"1\"}]}", "phone SEP001122AA0003 has keys but no line", "add a line"},
		{"multicast group invalid", "group: 239.1.1.1", "group: 10.1.1.1", "10.1.1.1 is not a multicast group", "239.1.1.1"},
		{"odd page port", "group: 239.1.1.1", "group: 239.1.1.1, port: 20481", "port 20481 is odd", "20480"},
		{"multicast page without group", ", group: 239.1.1.1", "", "a multicast page needs a group", "239.1.1.1"},
		{"page text", "group: 239.1.1.1", "group: 239.1.1.1, text: \"From {caller}\"", "the text uses {caller}", "{caller.number}"},
		{"schedule with an empty time", "mon-fri 08:30-17:30;", "mon-fri 08:30-08:30;", "is empty", "00:00-24:00"},
		{"schedule with an impossible time", "mon-fri 08:30-17:30;", "mon-fri 25:00-26:00;", "is not a time", "08:30"},
		{"schedule over midnight", "mon-fri 08:30-17:30;", "mon-fri 22:00-06:00;", "ends before it starts", "split it at midnight"},
		{"schedule of odd days", "mon-fri 08:30-17:30;", "mo-fr 08:30-17:30;", "are not days", "mon-fri"},
		{"day that does not exist", "2027-05-01", "2027-02-30", "not a day", ""},
		{"days turned round", "2026-12-24..2027-01-01", "2027-01-01..2026-12-24", "ends before it starts", "2026-12-24..2027-01-01"},
		{"emergency number without route", `  - {match: "911", via: [main]}`, "", "no route takes emergency number 911", "match: 911"},
		{"two equal routes", `match: "911"`, `match: "9(NXXXXXX|1NXXNXXXXXX)"`, "two routes match", "via"},
		{"route pattern", `match: "911"`, `match: "9(11"`, "a missing )", ""},
		{"route to nowhere", `match: "911", via: [main]`, `match: "911"`, "leads to no trunk", "via"},
		{"else without when", "when: open, ", "", "never used without a schedule", ""},
		{"more keys than the model has", "model: 7965, label: Ben", `model: 7965, label: Ben, keys: [` + strings.Repeat(`{speed: "1"}, `, 6) + `]`, "model 7965 has 6 keys, 1 lines and 6 further keys", "modules: [7914]"},
		{"max_calls over the model's limit", `phone: SEP001122AA0002, `, `phone: SEP001122AA0002, max_calls: 51, `, "model 7965 takes 50 calls", "at most 50"},
		{"module that does not fit", "modules: [BEKEM]", "modules: [CKEM]", "module CKEM does not fit model 8851", "BEKEM"},
		{"module on a phone without", "model: 7965, label: Ben", "model: 7945, label: Ben, modules: [7916]", "model 7945 takes no expansion modules", ""},
		{"four modules", "modules: [BEKEM]", "modules: [BEKEM, BEKEM, BEKEM, BEKEM]", "at most three modules", ""},
		{"label with a space on a 7900", "label: Ben", "label: Ben B", "no label with spaces", ""},
		{"EC key on a model without", "model: 7965, label: Ben", "model: 7965, label: Ben, lsc_key: p256", "cannot use a certificate with an EC key", "rsa2048"},
		{"load with its ending", "model: 7965, label: Ben", "model: 7965, label: Ben, load: SIP45.9.loads", "load ends in .loads", "write SIP45.9"},
		{"model with its prefix", "model: 7965", "model: CP-7965G", `no model "CP-7965G"`, `write model: "7965"`},
		{"key of two functions", `{park: "381"}`, `{park: "381", blf: "302"}`, "this one has 2", "one of blf"},
		{"key of none", `{park: "381"}`, `{label: x}`, "this one has 0", "one of blf"},
		{"key for a slot that is none", `{park: "381"}`, `{park: "371"}`, "no park slot 371", ""},
		{"URL that is none", "http://192.0.2.1/x", "tftp://192.0.2.1/x", "is no url", "https://"},
		{"password on a line of a phone", `phone: SEP001122AA0002, `, `phone: SEP001122AA0002, password: abcdefgh1, `, "has one password for all its lines", ""},
		{"index without phone", `number: "303", `, `number: "303", index: 2, `, "an index but no phone", ""},
		{"pools overlap", "100.64.78.0/28", "100.64.77.64/28", "pool 100.64.77.64/28 overlaps that of policy phones", "100.64.77.0/24 is taken"},
		{"pool with the appliance in it", "100.64.78.0/28", "192.0.2.0/28", "contains node.address", ""},
		{"pool of IPv6", "100.64.78.0/28", "\"2001:db8::/64\"", "not an IPv4 network", ""},
		{"pool without room", "100.64.78.0/28", "100.64.78.0/31", "room for 0 clients", "/30 or larger"},
		{"two policies of one id", "id: people", "id: phones", "VPN policy phones is declared twice", ""},
		{"policy named svc", "id: people", "id: svc", "the path /svc always leads to the first policy", "another id"},
		{"people without password", `password: "abcdefgh-1", `, "", "may use the VPN but has no password", ""},
		{"policy without passwords", "vpn: people", "vpn: phones2", "no VPN policy phones2", "did you mean phones?"},
		{"four gateways", "hosts: [vpn.example.net]", "hosts: [a.example.net, b.example.net, c.example.net, d.example.net]", "this is the fourth", ""},
		{"gateway with odd port", "hosts: [vpn.example.net]", "hosts: [\"vpn.example.net:0\"]", "no usable port", ""},
		{"lists of revoked certificates alone", "vpn:\n", "vpn:\n  user_crls: [people.crl]\n", "without the authorities", "vpn.user_roots"},
		{"IPv6 pool of IPv4", "pool: 100.64.77.0/24", "pool: 100.64.77.0/24, pool6: 10.0.0.0/24", "does not serve as a pool", "fd00:10::/64"},
		{"IPv6 pool of fewer addresses", "pool: 100.64.77.0/24", "pool: 100.64.77.0/24, pool6: \"fd00::/124\"", "fewer addresses than pool 100.64.77.0/24", "/120 or larger"},
		{"IPv6 with a small MTU", "pool: 100.64.77.0/24", "pool: 100.64.77.0/24, mtu: 1200, pool6: \"fd00::/64\"", "IPv6 needs an MTU of 1280", "1280 or more"},
		{"IPv6 pools overlap", "    - {id: people, pool: 100.64.78.0/28", "    - {id: six, pool: 100.64.79.0/28, pool6: \"fd00::/64\"}\n    - {id: people, pool6: \"fd00::/96\", pool: 100.64.78.0/28", "overlaps that of policy six", "fd00::/64 is taken"},
		{"IPv6 route without IPv6", "auth: [password]", "auth: [password], routes: [\"2001:db8::/32\"]", "policy people has no IPv6", "pool6"},
		{"IPv6 resolver without IPv6", "auth: [password]", "auth: [password], dns: [\"2001:db8::1\"]", "policy people has no IPv6", "pool6"},
		{"domains without resolver", "auth: [password]", "auth: [password], split_dns: [example.net]", "no resolver to ask", "dns"},
		{"ports of ICMP", "auth: [password]", "auth: [password], allow: [{to: 10.0.0.0/8, protocol: icmp, ports: 80}]", "ports belong to tcp and udp", "tcp or udp"},
		{"ports the wrong way round", "auth: [password]", "auth: [password], allow: [{to: 10.0.0.0/8, protocol: tcp, ports: 90-80}]", "is no range of ports", "8000-8100"},
		{"WireGuard device twice", "{id: ada, name: Ada, vpn: people, ", "{id: ada, name: Ada, vpn: people, wireguard: [{name: pad, public_key: xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=}, {name: pad, public_key: TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=}], ", "WireGuard device pad is declared twice", ""},
		{"WireGuard without a policy", "{id: ada, name: Ada, vpn: people, ", "{id: ada, name: Ada, wireguard: [{name: pad, public_key: xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=}], ", "no VPN policy for its WireGuard devices", "vpn:"},
		{"address of IPv6", "address: 192.0.2.10", "address: \"2001:db8::1\"", "phones need one", ""},
		{"address of nobody", "address: 192.0.2.10", "address: 0.0.0.0", "phones cannot reach 0.0.0.0", ""},
		{"SIP within the RTP ports", "node: {address: 192.0.2.10}", "node: {address: 192.0.2.10, listen: {sip_udp: 0.0.0.0:20000}}", "lies within node.media.ports", ""},
		{"two on a port of one address", "node: {address: 192.0.2.10}", "node: {address: 192.0.2.10, listen: {tvs: 127.0.0.1:5060}}", "tvs and sip_tcp both listen on port 5060", ""},
		{"session timer too short", "site: {time_zone", "sip: {session_expires: 30s}\nsite: {time_zone", "session_expires is 30s", "90s"},
		{"zone of the machine", "Europe/Berlin", "Local", "no time zone", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := strings.Replace(site, tc.old, tc.new, 1)
			if text == site {
				t.Fatalf("the document does not hold %q", tc.old)
			}
			errs := faultsOf(t, text)
			for _, e := range errs {
				if strings.Contains(e.Message, tc.message) && strings.Contains(e.Hint, tc.hint) {
					if e.Line == 0 || e.Hint == "" {
						t.Errorf("without place or remedy: %s", e.Brief())
					}
					if len(errs) > 3 {
						t.Errorf("one mistake makes %d faults: %v", len(errs), errs)
					}
					return
				}
			}
			t.Errorf("want %q (%q), got\n%v", tc.message, tc.hint, errs)
		})
	}
}

func TestAllowed(t *testing.T) {
	for _, tc := range []struct{ name, text string }{
		{"several patterns", minimal + "numbering: {extensions: \"3XX 4X\"}\nlines: [{number: \"45\", password: abcdefgh1}, {number: \"345\", password: abcdefgh1}]"},
		{"same port, other protocol", "node: {address: 192.0.2.10, listen: {tftp: 0.0.0.0:5061}}"},
		{"same port, other address", "node: {address: 192.0.2.10, listen: {tvs: 127.0.0.1:5060, sip_tcp: 192.0.2.10:5060}}"},
		{"any free port", "node: {address: 127.0.0.1, listen: {tvs: 127.0.0.1:0, sip_tcp: 127.0.0.1:0}}"},
		{"encrypted mode on every model", oldTLS("capf, tvs, sip") + "phones: [{device: SEP001122AA0002, model: 6901, security: encrypted}]"},
		{"smallest pool", minimal + "vpn: {policies: [{id: a, pool: 100.64.0.0/30}]}\nusers: [{id: a, vpn: a, password: abcdefgh}]"},
		{"shared lines of a model without known limit", minimal + "phones: [{device: SEP001122AA0002, model: 7861}]\nlines: [{number: \"1\", phone: SEP001122AA0002, max_calls: 200}]"},
		{"gateway with port", minimal + `vpn: {hosts: ["vpn.example.net:8443", 192.0.2.1, "[2001:db8::1]:443"]}`},
		{"keys on modules", minimal + "phones: [{device: SEP001122AA0002, model: 8851, modules: [BEKEM], keys: [" + strings.Repeat(`{speed: "1"},`, 40) + "]}]\nlines: [{number: \"1\", phone: SEP001122AA0002}]"},
		{"call limit below the default of busy_at", minimal + "lines: [{number: \"1\", password: abcdefgh1, max_calls: 1}]"},
		{"parking shorter than the default reminder", minimal + "parking: [{id: a, slots: 1-2, seconds: 30}]"},
		{"fewer connections than the default of one source", minimal + "sip: {max_flows: 10}"},
		{"empty sections", minimal + "users:\nphones:\nlines:\nvpn:\n  policies:\nsip:\n"},
	} {
		t.Run(tc.name, func(t *testing.T) { mustParse(t, tc.text) })
	}
}

func TestNotices(t *testing.T) {
	_, notices := mustParse(t, site)
	all := fmt.Sprint(notices)
	for _, want := range []string{"intercom:", "routes_in:", "routes_out:", "emergency"} {
		if !strings.Contains(all, want) {
			t.Errorf("nothing said of %s in\n%s", want, all)
		}
	}
	for _, n := range notices {
		if n.Line == 0 || n.File == "" || n.Hint == "" {
			t.Errorf("notice without place or advice: %v", n)
		}
	}
	for _, tc := range []struct{ name, text, want string }{
		{"non-secure", minimal + "phones: [{device: SEP001122AA0002, model: 8851, security: nonsecure}]\nlines: [{number: \"1\", phone: SEP001122AA0002}]", "test.yaml:2:49: phone SEP001122AA0002 is non-secure: its password goes in clear"},
		{"no line", minimal + "phones: [{device: SEP001122AA0002, model: 8851}]", "has no line"},
		{"VPN off", minimal + "vpn: {enabled: false, policies: [{id: a, pool: 100.64.0.0/24}]}\nphones: [{device: SEP001122AA0002, model: 8851, vpn: a}]", "the VPN is switched off"},
		{"no gateway", minimal + "vpn: {policies: [{id: a, pool: 100.64.0.0/24}]}\nphones: [{device: SEP001122AA0002, model: 8851, vpn: a}]", "vpn.hosts is empty"},
		{"no code", minimal + "pki: {lsc: {auth: code}}\nphones: [{device: SEP001122AA0002, model: 8851}]", "cannot enrol"},
		{"code not used", minimal + "phones: [{device: SEP001122AA0002, model: 8851, capf_code: \"1234\"}]", "is not asked for"},
		{"EC key", minimal + "phones: [{device: SEP001122AA0002, model: 8851, lsc_key: p256}]", "an EC key cannot open the encrypted device file"},
		{"other address", "node: {address: 192.0.2.10, listen: {tvs: 127.0.0.1:2445}}", "phones are told 192.0.2.10 but tvs listens on 127.0.0.1"},
		{"pattern that matches nothing", minimal + "include: [\"none/*.yaml\"]", "test.yaml:2:11: no file matches none/*.yaml"},
		{"second factor without secret", minimal + "vpn: {policies: [{id: a, pool: 100.64.0.0/24, second_factor: true}]}\nusers: [{id: u, vpn: a, password: abcdefgh}]", "the password alone does not let in"},
		{"WireGuard without listener", minimal + "vpn: {policies: [{id: a, pool: 100.64.0.0/24}]}\nusers: [{id: u, vpn: a, password: abcdefgh, wireguard: [{name: pad, public_key: xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=}]}]", "has no listener for them"},
		{"odd ports", "node: {address: 192.0.2.10, listen: {tftp: 0.0.0.0:6969}}", "tftp 69"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, notices := mustParse(t, tc.text)
			for _, n := range notices {
				if strings.Contains(n.String(), tc.want) {
					return
				}
			}
			t.Errorf("want %q in %v", tc.want, notices)
		})
	}
}

func TestFollowUpsAreNotReported(t *testing.T) {
	for name, text := range map[string]string{
		"user misspelt where declared":  minimal + "users: [{id: \"a b\"}]\nlines: [{number: \"301\", user: ada, password: abcdefgh1}]",
		"number without quotes":         minimal + "phones: [{device: SEP001122AA0002, model: 8851, keys: [{blf: \"302\"}]}]\nlines: [{number: 302, password: abcdefgh1}, {number: \"301\", phone: SEP001122AA0002}]",
		"device in the wrong form":      minimal + "phones: [{device: \"00:11:22:aa:00:02\", model: 8851}]\nlines: [{number: \"301\", phone: SEP001122AA0002}]",
		"model unknown":                 minimal + "phones: [{device: SEP001122AA0002, model: 8850}]\nlines: [{number: \"301\", phone: SEP001122AA0002, max_calls: 100}]",
		"policy of an odd network":      minimal + "vpn: {policies: [{id: a, pool: 100.64.0.1/24}]}\nusers: [{id: a, vpn: a, password: abcdefgh}]",
		"key misspelt that is required": minimal + "lines: [{numbr: \"301\", password: abcdefgh1}]",
	} {
		t.Run(name, func(t *testing.T) {
			if errs := faultsOf(t, text); len(errs) != 1 {
				t.Errorf("%d faults: %v", len(errs), errs)
			}
		})
	}
}

func TestLSCKey(t *testing.T) {
	for _, tc := range []struct {
		site, phone KeyKind
		model       string
		want        KeyKind
	}{
		{KeyAuto, "", "8851", KeyRSA2048},
		{KeyP384, "", "8851", KeyP384},
		{KeyP384, "", "7965", KeyRSA2048},
		{KeyP384, KeyRSA4096, "8851", KeyRSA4096},
		{KeyRSA3072, KeyAuto, "8851", KeyRSA2048},
	} {
		d := &Document{PKI: PKI{LSC: LSCPolicy{Key: tc.site}}}
		if got := d.LSCKey(&Phone{Model: tc.model, LSCKey: tc.phone}); got != tc.want {
			t.Errorf("%v: got %s", tc, got)
		}
	}
}

func TestModels(t *testing.T) {
	if n := len(Models()); n != 37 {
		t.Errorf("%d models", n)
	}
	m, ok := Model("8851")
	if !ok || m.Series != "8800" || m.LineKeys != 5 || m.MaxCalls != 200 || !m.VPN || m.TLSMax != "1.2" || !m.ECCertificates || m.SRTP[0] != "AEAD_AES_256_GCM" ||
		m.RingList != "Ringlist-wb.xml" || m.Wallpaper.Dir != "Desktops/800x480x24" || m.ProductTypeID != 684 || m.LayoutControl != "softkeys" || m.Transports[0] != "https" {
		t.Errorf("8851: %+v", m)
	}
	if m, _ := Model("7861"); m.MaxCalls != 0 {
		t.Errorf("7861 has an unknown limit, got %d", m.MaxCalls)
	}
	for _, tc := range []struct {
		model, state string
		want         int
		ok           bool
	}{{"7965", "on_locked", 3, true}, {"9971", "on", 2, true}, {"8851", "on", 1, true}, {"8851", "on_locked", 0, false}} {
		m, _ := Model(tc.model)
		if got, ok := m.Encode("callWaiting", tc.state); got != tc.want || ok != tc.ok {
			t.Errorf("%s %s: %d %v", tc.model, tc.state, got, ok)
		}
	}
	for _, m := range Models() {
		if m.LineKeys < 1 || m.Series == "" || m.TLSMax == "" || len(m.SRTP) == 0 || len(m.Transports) == 0 {
			t.Errorf("incomplete: %+v", m)
		}
		for _, name := range m.ExpansionModules {
			if x, ok := Module(name); !ok || x.Keys == 0 {
				t.Errorf("module %s of %s", name, m.Model)
			}
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, tc := range []struct {
		pattern, number string
		want            bool
	}{
		{"3XX", "301", true}, {"3XX", "3011", false}, {"3XX", "401", false},
		{"9(NXXXXXX|1NXXNXXXXXX)", "95550100", true}, {"9(NXXXXXX|1NXXNXXXXXX)", "912125550100", true}, {"9(NXXXXXX|1NXXNXXXXXX)", "91", false},
		{"00.", "0049", true}, {"00.", "00", false}, {"Z[2-46]X", "139", true}, {"Z[2-46]X", "159", false}, {"Z[2-46]X", "029", false},
		{"*7X", "*72", true}, {"*7X", "772", false}, {"+1.", "+15550100", true}, {"+1.", "15550100", false},
	} {
		p, err := CompilePattern(tc.pattern)
		if err != nil {
			t.Errorf("%s: %v", tc.pattern, err)
			continue
		}
		if got := p.Match(tc.number); got != tc.want {
			t.Errorf("%s against %s: %v", tc.pattern, tc.number, got)
		}
	}
	for _, bad := range []string{"", "3Y", "(3", "3)", "3|4", "[", "[]", "[9-0]", "[a]", "3.4", "1+", strings.Repeat("(", 20) + strings.Repeat(")", 20), strings.Repeat("X", 101), "(.)"} {
		if _, err := CompilePattern(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}
