package plan

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/config"
)

// fielded is a moment with fields of lines.
type fielded struct {
	moment
	fields map[string]string // "302.status"
}

func (f fielded) Field(line, name string) (string, bool) {
	v, ok := f.fields[line+"."+name]
	return v, ok
}

func TestRules(t *testing.T) {
	evening := time.Date(2026, 12, 24, 18, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name    string
		rules   []config.Rule
		from    string
		dialled string
		fields  map[string]string
		want    string // result
		set     string
	}{
		{name: "another number", rules: []config.Rule{{Match: "304", To: "busy"}}, want: "302 rings"},
		{name: "by number", rules: []config.Rule{{Match: "30X", To: "extension:303"}}, want: "303 rings"},
		{name: "by line", rules: []config.Rule{{From: []config.Digits{"303"}, To: "busy"}}, want: "302 rings"},
		{name: "of that line", rules: []config.Rule{{From: []config.Digits{"301"}, To: "busy"}}, want: "486"},
		{name: "the first that decides", rules: []config.Rule{{To: "congestion", When: "open"}, {To: "extension:303"}, {To: "busy"}}, want: "303 rings"},
		{name: "outside of the hours", rules: []config.Rule{{To: "congestion", Unless: "open"}}, want: "503"},
		{name: "fields of the caller", rules: []config.Rule{{If: map[string]string{"huntgroup": "no"}, To: "busy"}}, fields: map[string]string{"301.huntgroup": "no"}, want: "486"},
		{name: "other value", rules: []config.Rule{{If: map[string]string{"huntgroup": "no"}, To: "busy"}}, fields: map[string]string{"301.huntgroup": "yes"}, want: "302 rings"},
		{name: "fields of the called line", rules: []config.Rule{{Called: map[string]string{"status": "OK"}, To: "extension:303"}}, fields: map[string]string{"302.status": "OK"}, want: "303 rings"},
		{name: "called number is no line", rules: []config.Rule{{Called: map[string]string{"status": "OK"}, To: "busy"}}, dialled: "371", want: "302 rings first"},
		{name: "sets and goes on", rules: []config.Rule{{Set: map[string]string{"huntgroup": "yes", "callforward": "303"}}}, want: "302 rings", set: "301.callforward=303 301.huntgroup=yes"},
		{name: "script", rules: []config.Rule{{Script: "def route(call):\n    if call.time.hour >= 18 and field('status', call.dialled) == 'OK':\n        set('donotdisturb', 'yes', '302')\n        return 'extension:303'"}}, fields: map[string]string{"302.status": "OK"}, want: "303 rings", set: "302.donotdisturb=yes"},
		{name: "script without opinion", rules: []config.Rule{{Script: "def route(call):\n    return None"}}, want: "302 rings"},
		{name: "script that fails sets nothing", rules: []config.Rule{{Script: "def route(call):\n    set('huntgroup', 'no')\n    return call.nothing"}, {To: "busy"}}, want: "486"},
		{name: "script with a word", rules: []config.Rule{{Script: "def route(call):\n    return 'nowhere'"}}, want: "302 rings"},
		{name: "script sets what cannot be", rules: []config.Rule{{Script: "def route(call):\n    set('mailbox', '9')"}}, want: "302 rings"},
		{name: "script sets what is not there", rules: []config.Rule{{Script: "def route(call):\n    set('huntgroup', 'no', '999')"}}, want: "302 rings"},
		{name: "emergency", rules: []config.Rule{{To: "busy"}}, dialled: "911", want: "911 goes out by main, then backup"},
		{name: "emergency with prefix", rules: []config.Rule{{To: "busy"}}, dialled: "9911", want: "911 goes out by main, then backup"},
		{name: "feature code", rules: []config.Rule{{To: "busy"}}, dialled: "*8", want: "the phone's feature pickup"},
		{name: "rights count", rules: []config.Rule{{To: "external:9011495550100"}}, want: "480"},
		{name: "nobody's call", rules: []config.Rule{{To: "busy"}}, from: "-", want: "302 rings"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := Compile(site(func(d *config.Document) {
				d.Schedules = []config.Schedule{{ID: "open", Weekly: "mon-fri 08:30-17:30"}}
				d.Rules = tc.rules
			}))
			from, dialled := tc.from, tc.dialled
			switch from {
			case "":
				from = "301"
			case "-":
				from = ""
			}
			if dialled == "" {
				dialled = "302"
			}
			now := fielded{moment{now: evening}, tc.fields}
			d := p.Route(Query{from, dialled}, now)
			var set []string
			for _, x := range d.Set {
				set = append(set, x.Line+"."+x.Name+"="+x.Value)
			}
			if got := d.result(); got != tc.want || strings.Join(set, " ") != tc.set {
				t.Errorf("%s, sets %v; want %s, %s\n%v", got, set, tc.want, tc.set, d.Steps)
			}
			if n := p.Next(d, Busy, now); len(n.Set) != 0 {
				t.Error("what is set is set twice")
			}
			if text := p.Explain(Query{from, dialled}, At{now, evening}); tc.set != "" && !slices.ContainsFunc(text, func(s string) bool { return strings.HasPrefix(s, "rules[0]: ") && strings.Contains(s, "is set to") }) {
				t.Errorf("explain does not tell what is set: %q", text)
			}
		})
	}
}
