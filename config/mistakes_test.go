package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// mistake is one planted in the example: old becomes new, at the only or the first place where old stands.
type mistake struct {
	name     string
	old, new string
	at       string // text of the line that the fault must name
	message  string
	hint     string
}

// mistakes are what people do to a configuration. Each must be found in its line and answered with its remedy.
var mistakes = []mistake{
	{"key misspelt", "    label: Ada\n    security", "    lable: Ada\n    security", "lable: Ada", `unknown key "lable"`, "did you mean label?"},
	{"key in the wrong section", "  name: ringfence\n", "  name: ringfence\n  sip_tcp: 127.0.0.1:5060\n", "sip_tcp: 127.0.0.1:5060", `unknown key "sip_tcp" in node`, "belongs under node.listen"},
	{"number without quotes", `- number: "302"`, `- number: 0302`, "0302", "0302 stands without quotes", `write "0302"`},
	{"port without address", "tftp: 127.0.0.1:16069", "tftp: 16069", "tftp: 16069", `"16069" is not an address and port`, "write 0.0.0.0:16069"},
	{"address that is none", "address: 127.0.0.1  ", "address: 127.0.0.256", "127.0.0.256", `"127.0.0.256" is not an IP address`, "192.0.2.10"},
	{"address missing", "  address: 127.0.0.1            # change: the IPv4 address that phones reach this machine at\n", "", "name: ringfence", "node lacks address", "add address:"},
	{"two listeners on a port", "sip_tls: 127.0.0.1:15061", "sip_tls: 127.0.0.1:15060", "sip_tls: 127.0.0.1:15060", "sip_tcp and sip_tls both listen on port 15060", "another port"},
	{"odd RTP range", "ports: 26384-27384", "ports: 26385-27384", "26385", "the first port 26385 is odd", "26386-27384"},
	{"unknown time zone", "time_zone: Europe/Berlin", "time_zone: Berlin", "time_zone: Berlin", `no time zone "Berlin"`, "Europe/Berlin"},
	{"VPN policy misspelt", "    vpn: phones                 # opens", "    vpn: phone                  # opens", "vpn: phone ", "no VPN policy phone", "did you mean phones?"},
	{"VPN on a model without", "    model: 7965\n", "    model: 7961\n    vpn: phones\n", "vpn: phones", "model 7961 has no VPN client", "remove vpn:"},
	{"pool too small", "pool: 100.64.77.0/24", "pool: 100.64.77.0/31", "100.64.77.0/31", "room for 0 clients", "/29 or larger"},
	{"pool with host bits", "pool: 100.64.77.0/24", "pool: 100.64.77.1/24", "100.64.77.1/24", "bits set to the right of its mask", "100.64.77.0/24"},
	{"device in lower case", "device: SEP001122AA0002", "device: sep001122aa0002", "sep001122aa0002", `"sep001122aa0002" is no device`, "SEP001122AA0002"},
	{"unknown model", "model: 7965", "model: 7966", "7966", `no model "7966"`, "did you mean 79"},
	{"same device twice", "device: SEP001122AA0002", "device: SEP001122AA0001", "device: SEP001122AA0001", "phone SEP001122AA0001 is declared twice", "another name"},
	{"label too long", "    label: Ada\n    security", "    label: Ada Lovelace's\n    security", "Lovelace", "label has 14 characters", "at most 12"},
	{"security mode not offered", "security: encrypted         #", "security: authenticated     #", "authenticated", `unknown value "authenticated"`, "one of encrypted, nonsecure"},
	{"two lines of one number", `- number: "311"`, `- number: "301"`, `number: "301"`, "number 301 is line twice", "another number"},
	{"user that does not exist", "    user: ben\n", "    user: bem\n", "user: bem", "no user bem", "did you mean ben?"},
	{"phone that does not exist", "    phone: SEP001122AA0002\n", "    phone: SEP001122AA0003\n", "phone: SEP001122AA0003", "no phone SEP001122AA0003", "SEP001122AA000"},
	{"two lines with one index", "    index: 2\n", "    index: 1\n", "index: 1", "lines 301 and 311 both have index 1", "index: 2"},
	{"gap between indexes", "    index: 2\n", "    index: 3\n", "index: 3", "no line with index 2", "write index: 2"},
	{"busy limit over call limit", "busy_at: 2 ", "busy_at: 9 ", "busy_at: 9", "would never be busy", "at most max_calls, 4"},
	{"more calls than the model takes", "max_calls: 4", "max_calls: 60", "max_calls: 60", "model 7965 takes 50 calls", "at most 50"},
	{"key that watches nothing", `- {blf: "311"`, `- {blf: "312"`, `blf: "312"`, "no number 312", "did you mean 311?"},
	{"number outside the plan", `- number: "303"`, `- number: "403"`, `number: "403"`, "line 403 lies outside numbering.extensions", "add a pattern"},
	{"duration without unit", "site:\n", "sip:\n  register_expires: 120\n\nsite:\n", "register_expires: 120", `"120" is not a duration`, "120s"},
	{"softphone without password", `    password: "ExampleCleo303"  # change; 8 to 30 letters and digits` + "\n", "", `number: "303"`, "line 303 has neither a phone nor a password", "add password:"},
	{"password too short", `"ExampleCleo303"`, `"Cleo303"`, "password:", "password does not have the right form", "8 to 30 letters and digits"},
	{"text instead of a number", "ring_seconds: 20", `ring_seconds: "20"`, `ring_seconds: "20"`, "ring_seconds is text", "a whole number without quotes"},
	{"key twice", "    busy_at: 2 ", "    label: Benjamin\n    busy_at: 2 ", "label: Benjamin", `key "label" is given twice`, "keep one"},
	{"tab", "    user: ben\n", "\tuser: ben\n", "user: ben", "not YAML", "indent with spaces"},
	{"forgotten bracket", `auth: [certificate, password]`, `auth: [certificate, password`, "auth: [certificate, password", "this [ is not closed", "add ]"},
	{"secret file missing", `"ExampleCleo303"`, `{file: cleo.secret}`, "cleo.secret", "cleo.secret does not exist", "put the secret into that file"},
	{"variable missing", `"ExampleCleo303"`, `{env: RINGFENCE_TEST_UNSET}`, "RINGFENCE_TEST_UNSET", "RINGFENCE_TEST_UNSET is not set", "set it"},
	{"forgotten quote", `- number: "302"`, `- number: "302`, `- number: "302`, "does not end in its line", "close the quote"},
	{"text instead of a list", "auth: [certificate, password]", "auth: certificate", "auth: certificate", "auth is text", "want a list"},
	{"rule into nothing", "    ring_seconds: 20\n", "    on_no_answer: extension:309\n", "extension:309", "no line 309", "did you mean 30"},
	{"rules in a circle", "    ring_seconds: 20\n", "    on_no_answer: extension:302\n    on_busy: extension:311\n", "on_busy: extension:311", "in a circle: extension:311, extension:311", "end the chain"},
}

func TestPlantedMistakes(t *testing.T) {
	if len(mistakes) < 20 {
		t.Fatalf("only %d mistakes", len(mistakes))
	}
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			before := string(Example())
			text := strings.Replace(before, m.old, m.new, 1)
			if text == before {
				t.Fatalf("the example does not hold %q", m.old)
			}
			_, _, err := Parse("office.yaml", []byte(text))
			var errs Errors
			if !errors.As(err, &errs) {
				t.Fatalf("got %v, want Errors", err)
			}
			for _, e := range errs {
				line := strings.Split(text, "\n")[max(e.Line, 1)-1]
				if !strings.Contains(line, strings.TrimSpace(m.at)) || !strings.Contains(e.Message, m.message) || !strings.Contains(e.Hint, m.hint) {
					continue
				}
				if want := fmt.Sprintf("office.yaml:%d:%d: %s", e.Line, e.Column, e.Message); !strings.HasPrefix(e.Error(), want) {
					t.Errorf("printed as\n%s\nwant %s...", e.Error(), want)
				}
				if rows := strings.Split(e.Error(), "\n"); len(rows) != 3 || !strings.HasSuffix(rows[2], "^") {
					t.Errorf("no excerpt with a caret:\n%s", e.Error())
				}
				return
			}
			t.Errorf("want %q (%q) in the line of %q, got\n%v", m.message, m.hint, m.at, err)
		})
	}
}
