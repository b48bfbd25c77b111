package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// minimal is the shortest document that passes.
const minimal = "node: {address: 192.0.2.10}\n"

func mustParse(t *testing.T, text string) (*Document, []Notice) {
	t.Helper()
	d, notices, err := Parse("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d, notices
}

// faultsOf parses a document that must be refused.
func faultsOf(t *testing.T, text string) Errors {
	t.Helper()
	d, _, err := Parse("test.yaml", []byte(text))
	var errs Errors
	if !errors.As(err, &errs) {
		t.Fatalf("got %v, want Errors", err)
	}
	if d != nil {
		t.Fatal("a document with faults was returned")
	}
	return errs
}

func TestDefaultsFilled(t *testing.T) {
	d, _ := mustParse(t, minimal)
	want := Defaults()
	want.Node.Address = netip.MustParseAddr("192.0.2.10")
	if diff := Diff(want, d); len(diff) != 0 {
		t.Errorf("differs from the defaults: %v", diff)
	}
	for name, pair := range map[string][2]any{
		"listener":      {d.Node.Listen.ProvisionHTTP.String(), "0.0.0.0:6970"},
		"ports":         {d.Node.Media.Ports, PortRange{16384, 32766}},
		"duration":      {d.SIP.RegisterExpires.D(), 2 * time.Minute},
		"switch":        {d.VPN.Enabled, true},
		"enumeration":   {d.PKI.LSC.Auth, CAPFNullString},
		"nested number": {d.PKI.LSC.Days, 365},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: got %v, want %v", name, pair[0], pair[1])
		}
	}
}

func TestDefaultsInLists(t *testing.T) {
	d, _ := mustParse(t, minimal+`
vpn: {policies: [{id: a, pool: 100.64.1.0/24}, {id: b, pool: 100.64.2.0/24, auth: [password], mtu: 1400, idle_timeout: 1h}]}
lines:
  - {number: "301", password: "longenough1"}
  - {number: "302", password: "longenough2", hunt_login_default: false, caller_id: {name: X}, pickup: {notify_seconds: 0}, rights: []}
groups:
  - {number: "370", members: ["301"], login_required: false}
`)
	a, b := d.VPN.Policies[0], d.VPN.Policies[1]
	if diff := cmp.Diff([]VPNAuth{VPNCertificate, VPNPassword}, a.Auth); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]VPNAuth{VPNPassword}, b.Auth); diff != "" {
		t.Error(diff)
	}
	if a.MTU != 1290 || b.MTU != 1400 || a.Idle != 0 || b.Idle.D() != time.Hour || a.DPD.D() != 30*time.Second {
		t.Errorf("policies: %+v %+v", a, b)
	}
	x, y := d.Lines[0], d.Lines[1]
	if !x.HuntLogin || y.HuntLogin || x.Pickup.Seconds != 5 || y.Pickup.Seconds != 0 || x.OnBusy != "busy" || y.Index != 1 {
		t.Errorf("lines: %+v %+v", x, y)
	}
	if len(x.Rights) != 1 || len(y.Rights) != 0 {
		t.Errorf("rights: %v %v", x.Rights, y.Rights)
	}
	if g := d.Groups[0]; g.LoginRequired || !g.ShowPilot {
		t.Errorf("group: %+v", g)
	}
	// Defaults of two elements must not share memory.
	a.Auth[0] = "changed"
	if Defaults(); d.VPN.Policies[1].Auth[0] == "changed" {
		t.Error("default lists are shared")
	}
}

func TestExplicitZeroSurvives(t *testing.T) {
	d, _ := mustParse(t, `
node: {address: 192.0.2.10, listen: {sip_udp: off, metrics: ""}}
sip: {session_expires: 0}
vpn: {enabled: false, policies: [{id: a, pool: 100.64.1.0/24, dpd: 0s, disconnected_timeout: 0s}]}
parking: [{id: p, slots: 381-382, reminder_seconds: 0, comeback: {to_parker: false}}]
`)
	if !d.Node.Listen.SIPUDP.Off() || !d.Node.Listen.Metrics.Off() || d.Node.Listen.SIPTCP.Off() {
		t.Errorf("listeners: %v", d.Node.Listen)
	}
	if d.SIP.SessionExpires != 0 || d.VPN.Enabled || d.VPN.Policies[0].DPD != 0 || d.VPN.Policies[0].Disconnected != 0 {
		t.Errorf("got %v %v", d.SIP, d.VPN)
	}
	if p := d.Parking[0]; p.Reminder != 0 || p.Comeback.ToParker || p.Seconds != 60 || p.Comeback.Seconds != 15 {
		t.Errorf("lot: %+v", p)
	}
}

func TestStrictTypes(t *testing.T) {
	for _, tc := range []struct{ name, text, at, message string }{
		{"digits without quotes", minimal + "numbering: {country: 49}", "2:22", "49 stands without quotes"},
		{"digits as plain text", minimal + "numbering: {country: 08}", "2:22", "08 stands without quotes"},
		{"digits with letters", minimal + `numbering: {country: "4a"}`, "2:22", `"4a" is not a number to dial`},
		{"digits too long", minimal + `numbering: {country: "1234567890123456789012345678901"}`, "2:22", "31 characters"},
		{"port range", "node: {address: 192.0.2.10, media: {ports: 16384}}", "1:44", "not a range of ports"},
		{"port range turned", "node: {address: 192.0.2.10, media: {ports: 20000-16384}}", "1:44", "too small"},
		{"port over the end", "node: {address: 192.0.2.10, listen: {tvs: 0.0.0.0:70000}}", "1:43", "not an address and port"},
		{"duration of nonsense", minimal + "sip: {register_expires: soon}", "2:25", "not a duration"},
		{"duration too short", minimal + "sip: {register_expires: 1s}", "2:25", "register_expires is 1s"},
		{"number over its limit", minimal + "pki: {lsc: {days: 4000}}", "2:19", "days is 4000"},
		{"octal number", minimal + "pki: {lsc: {days: 0100}}", "2:19", "not a plain whole number"},
		{"fraction", minimal + "pki: {lsc: {days: 1.5}}", "2:19", "days is a number, 1.5"},
		{"prefix without bits", minimal + "vpn: {policies: [{id: a, pool: 100.64.0.0}]}", "2:32", "is not a network"},
		{"switch as text", minimal + `vpn: {enabled: "yes"}`, "2:16", "enabled is text"},
		{"switch as word of old YAML", minimal + `vpn: {enabled: yes}`, "2:16", "enabled is text"},
		{"text as number", minimal + `site: {name: 12}`, "2:14", "name is a whole number, 12"},
		{"empty value", minimal + "site:\n  name:\n", "3:3", "name has no value"},
		{"enumeration", minimal + "sip: {srtp: prefered}", "2:13", `unknown value "prefered"`},
		{"host", minimal + "site: {ntp: [\"a b\"]}", "2:14", "not a host name"},
		{"host of digits", minimal + "site: {ntp: [1.2.3]}", "2:14", "looks like an address"},
		{"destination without kind", minimal + `lines: [{number: "301", password: abcdefgh1, on_busy: "302"}]`, "2:55", "does not say of what kind"},
		{"destination misspelt", minimal + `lines: [{number: "301", password: abcdefgh1, on_busy: extensoin:302}]`, "2:55", "unknown kind"},
		{"mapping key", minimal + `users: [{id: a, speed_dials: {100: "1"}}]`, "2:31", "no key of speed_dials"},
		{"document is a list", "- a", "1:1", "the document is a list"},
		{"document is text", "hello", "1:1", "the document is text"},
		{"tag", "node: {address: !!str 192.0.2.10}", "1:17", "tags are not used"},
		{"explicit key", "? node\n: 1", "1:1", "introduced by ?"},
		{"second document", "node: {address: 192.0.2.10}\n---\na: b\n", "2:1", "second document"},
		{"anchor missing", "node: *n", "1:7", `no anchor "n"`},
		{"secret on two lines", minimal + "users: [{id: a, password: \"abcdefgh\n   ijk\"}]", "2:27", "does not end in its line"},
		{"secret as a block", minimal + "users:\n  - id: a\n    password: |\n      abcdefghij\n", "4:15", "runs over several lines"},
		{"secret as plain lines", minimal + "users:\n  - id: a\n    password: abcdefghij\n      klm\n", "4:15", "runs over several lines"},
		{"secret as a number", minimal + "users: [{id: a, pin: 1234}]", "2:22", "pin is a whole number"},
		{"secret of both kinds", minimal + "users: [{id: a, pin: {file: a, env: b}}]", "2:22", "names neither a file nor a variable"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			errs := faultsOf(t, tc.text)
			if got := errs[0].Brief(); !strings.HasPrefix(got, "test.yaml:"+tc.at+": ") || !strings.Contains(got, tc.message) {
				t.Errorf("got %s\nwant %s at %s", got, tc.message, tc.at)
			}
		})
	}
}

func TestAllFaultsAtOnceSorted(t *testing.T) {
	errs := faultsOf(t, `lines:
  - {number: 301, indx: 2}
site: {name: 5, langage: en}
node: {listen: {tftp: x}}
`)
	var got []string
	for _, e := range errs {
		got = append(got, Position{e.File, e.Line, e.Column}.String())
	}
	want := []string{"test.yaml:2:14", "test.yaml:2:19", "test.yaml:3:14", "test.yaml:3:17", "test.yaml:4:7", "test.yaml:4:23"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s\n%v", diff, errs)
	}
}

func TestFaultsAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString(minimal + "lines:\n")
	for range 3000 {
		b.WriteString("  - {nmber: 1}\n")
	}
	errs := faultsOf(t, b.String())
	if len(errs) != maxErrors+1 {
		t.Fatalf("%d faults", len(errs))
	}
	if last := errs[maxErrors].Message; last != "2950 more faults are not shown" {
		t.Errorf("last is %q", last)
	}
}

func TestTextForms(t *testing.T) {
	d, _ := mustParse(t, "\ufeff"+strings.ReplaceAll("# é\nnode: {address: 192.0.2.10}\nphones: &p\nlines: # none\nsite: &s {name: \"Bürö\"}\n", "\n", "\r\n"))
	if d.Site.Name != "Bürö" || d.Phones != nil {
		t.Errorf("got %+v", d.Site)
	}
}

func TestColumnsCountCharacters(t *testing.T) {
	errs := faultsOf(t, minimal+`site: {name: "Bürö ☎", langage: en}`)
	if e := errs[0]; e.Line != 2 || e.Column != 24 {
		t.Errorf("at %d:%d", e.Line, e.Column)
	}
	lines := strings.Split(errs[0].Error(), "\n")
	runes := []rune(lines[2])
	if at := len(runes) - 1; []rune(lines[1])[at] != 'l' {
		t.Errorf("caret at column %d:\n%s", at, errs[0].Error())
	}
}

func TestAnchorsAndMerge(t *testing.T) {
	d, _ := mustParse(t, minimal+`
lines:
  - &base {number: "301", password: "longenough1", ring_seconds: 12, max_calls: 6}
  - {<<: *base, number: "302", max_calls: 3}
  - <<: [*base]
    number: "303"
`)
	if l := d.Lines[1]; l.Number != "302" || l.RingSeconds != 12 || l.MaxCalls != 3 {
		t.Errorf("got %+v", l)
	}
	if l := d.Lines[2]; l.Number != "303" || l.RingSeconds != 12 {
		t.Errorf("got %+v", l)
	}
}

func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestInclude(t *testing.T) {
	dir := files(t, map[string]string{
		"main.yaml":       minimal + "include: [site.yaml, \"phones/*.yaml\"]\nlines:\n  - {number: \"301\", password: abcdefgh1}\n",
		"site.yaml":       "site: {name: S}\nnode: {listen: {tftp: off}}\n",
		"phones/b.yaml":   "lines:\n  - {number: \"303\", password: abcdefgh1}\n",
		"phones/a.yaml":   "include: [../deep.yaml]\nlines:\n  - {number: \"302\", password: abcdefgh1}\n",
		"deep.yaml":       "lines:\n  - {number: \"304\", password: {file: secret}}\n",
		"secret":          "abcdefgh9\n",
		"phones/not.yml":  "nonsense: 1\n",
		"phones/.hidden~": "nonsense: 1\n",
	})
	d, _, err := Load(filepath.Join(dir, "main.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range d.Lines {
		got = append(got, string(l.Number))
	}
	if diff := cmp.Diff([]string{"301", "302", "304", "303"}, got); diff != "" {
		t.Error(diff)
	}
	if d.Site.Name != "S" || !d.Node.Listen.TFTP.Off() || d.Lines[2].Password.Reveal() != "abcdefgh9" {
		t.Errorf("got %+v", d)
	}
	if p, ok := d.Position("lines[2].number"); !ok || filepath.Base(p.File) != "deep.yaml" || p.Line != 2 || p.Column != 14 {
		t.Errorf("position %v", p)
	}
}

func TestIncludeFaults(t *testing.T) {
	for _, tc := range []struct {
		name    string
		content map[string]string
		at      string
		message string
		hint    string
	}{
		{"cycle", map[string]string{"main.yaml": minimal + "include: [a.yaml]", "a.yaml": "include: [main.yaml]"}, "a.yaml:1:11", "files include each other: main.yaml, a.yaml, main.yaml", "remove"},
		{"itself", map[string]string{"main.yaml": minimal + "include: [main.yaml]"}, "main.yaml:2:11", "files include each other", "remove"},
		{"twice", map[string]string{"main.yaml": minimal + "include: [a.yaml, ./a.yaml]", "a.yaml": "site: {}"}, "main.yaml:2:19", "a.yaml is included twice", "remove"},
		{"missing", map[string]string{"main.yaml": minimal + "include: [a.yaml]"}, "main.yaml:2:11", "a.yaml does not exist", "relative"},
		{"folder", map[string]string{"main.yaml": minimal + "include: [d]", "d/x": ""}, "main.yaml:2:11", "d is a folder", ""},
		{"scalar twice", map[string]string{"main.yaml": minimal + "include: [a.yaml]\nsite: {name: A}", "a.yaml": "site: {name: B}"}, "a.yaml:1:8", "site.name is set in two files", "main.yaml:3:8"},
		{"list against mapping", map[string]string{"main.yaml": minimal + "include: [a.yaml]\nsite: {name: A}", "a.yaml": "site: [1]"}, "a.yaml:1:1", "site is set in two files", "main.yaml:3:1"},
		{"fault inside", map[string]string{"main.yaml": minimal + "include: [a.yaml]", "a.yaml": "\nlines: [{nmber: 1}]"}, "a.yaml:2:10", `unknown key "nmber"`, "number"},
		{"not YAML inside", map[string]string{"main.yaml": minimal + "include: [a.yaml]\nlines: [{number: \"301\", user: x, password: abcdefgh1}]", "a.yaml": "users: ["}, "a.yaml:1:8", "not closed", "]"},
		{"text", map[string]string{"main.yaml": minimal + "include: a.yaml"}, "main.yaml:2:10", "include is text", "[a, b]"},
		{"pattern", map[string]string{"main.yaml": minimal + `include: ["a[.yaml"]`}, "main.yaml:2:11", "not a pattern", "*.yaml"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := files(t, tc.content)
			_, _, err := Load(filepath.Join(dir, "main.yaml"))
			var errs Errors
			if !errors.As(err, &errs) {
				t.Fatalf("got %v", err)
			}
			got := strings.ReplaceAll(errs[0].Brief(), dir+"/", "")
			if len(errs) != 1 || !strings.HasPrefix(got, tc.at+": ") || !strings.Contains(errs[0].Message, tc.message) || !strings.Contains(errs[0].Hint, tc.hint) {
				t.Errorf("got %v\nwant %s: %s (%s)", errs, tc.at, tc.message, tc.hint)
			}
		})
	}
}

func TestIncludeBounds(t *testing.T) {
	chain := map[string]string{"main.yaml": minimal + "include: [f0.yaml]"}
	for i := range 12 {
		chain["f"+string(rune('0'+i))+".yaml"] = "include: [f" + string(rune('1'+i)) + ".yaml]"
	}
	_, _, err := Load(filepath.Join(files(t, chain), "main.yaml"))
	if err == nil || !strings.Contains(err.Error(), "more than 8 deep") {
		t.Errorf("got %v", err)
	}
	many := map[string]string{"main.yaml": minimal + `include: ["x/*.yaml"]`}
	for i := range maxFiles + 1 {
		many[filepath.Join("x", strings.Repeat("y", i+1)[:min(i+1, 60)]+string(rune('a'+i%26))+string(rune('a'+i/26))+".yaml")] = "users:\n"
	}
	_, _, err = Load(filepath.Join(files(t, many), "main.yaml"))
	if err == nil || !strings.Contains(err.Error(), "more than 256 files") {
		t.Errorf("got %v", err)
	}
}

func TestLoadMissingFile(t *testing.T) {
	_, _, err := Load("/nonexistent/ringfence.yaml")
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "/nonexistent/ringfence.yaml: cannot be read") {
		t.Errorf("got %v", err)
	}
}

func TestStoredIncludesNothing(t *testing.T) {
	_, _, err := ParseStored("revision 3", []byte(minimal+"include: [a.yaml]"))
	if err == nil || !strings.Contains(err.Error(), "includes nothing") {
		t.Errorf("got %v", err)
	}
	_, _, err = ParseStored("revision 3", []byte(minimal+"users: [{id: a, password: {file: x}}]"))
	if err == nil || !strings.Contains(err.Error(), "relative") {
		t.Errorf("got %v", err)
	}
}

// Every default must be one that its own type reads, every limit one that its default keeps, and every key documented.
func TestTags(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		if seen[typ] {
			return
		}
		seen[typ] = true
		v := reflect.New(typ).Elem()
		setDefaults(v)
		for _, f := range fieldsOf(typ) {
			if f.doc == "" {
				t.Errorf("%s.%s has no doc", typ.Name(), f.name)
			}
			if (f.pattern != nil) && f.want == "" || (f.keys != nil) && f.wantKeys == "" {
				t.Errorf("%s.%s does not say what it wants", typ.Name(), f.name)
			}
			if f.hasDef && f.typ.Kind() != reflect.Slice {
				d := &decoder{f: &faults{}, ix: &index{marks: map[string]mark{}, broken: map[string]bool{}}}
				d.limits(v.Field(f.index), &node{text: f.def}, f.name, f)
				if len(d.f.list) > 0 {
					t.Errorf("%s.%s: default %s breaks its own limit: %s", typ.Name(), f.name, f.def, d.f.list[0].Message)
				}
			}
			inner := f.typ
			if inner.Kind() == reflect.Slice {
				inner = inner.Elem()
			}
			if isStruct(inner) {
				walk(inner)
			}
		}
	}
	walk(reflect.TypeFor[Document]())
}
