package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommand(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml")
	for path, text := range map[string]string{good: string(Example()), bad: strings.Replace(string(Example()), "label: Ada", "lable: Ada", 1)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string
	}{
		{"good document", []string{"check", good}, 0, "good.yaml: good: ringfence at 127.0.0.1, 2 phones, 4 lines (1 without phone), 3 users, 1 VPN policy\n", "note: " + good + ":14:3: 127.0.0.1 is reachable"},
		{"bad document", []string{"check", bad}, 1, "", "bad.yaml:64:5: unknown key \"lable\" in this entry of phones (did you mean label?)\n   64 |     lable: Ada\n      |     ^\n"},
		{"bad document, last line", []string{"check", bad}, 1, "", "bad.yaml: 1 fault; nothing was changed\n"},
		{"no such document", []string{"check", filepath.Join(dir, "none.yaml")}, 1, "", "none.yaml: cannot be read: "},
		{"schema", []string{"schema"}, 0, `"additionalProperties": false`, ""},
		{"example", []string{"example"}, 0, "16970", ""},
		{"example for a site", []string{"example", "--site"}, 0, "192.0.2.10", ""},
		{"reference", []string{"reference"}, 0, "# Configuration", ""},
		{"help", []string{"--help"}, 0, "usage:", ""},
		{"nothing", nil, 2, "", "say what to do"},
		{"misspelt", []string{"chekc", good}, 2, "", "did you mean check?"},
		{"unknown", []string{"frobnicate"}, 2, "", "unknown verb"},
		{"check of nothing", []string{"check"}, 2, "", "check wants one FILE"},
		{"odd flag", []string{"example", "--big"}, 2, "", `example takes no "--big"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			if code := Command(tc.args, &out, &errs); code != tc.code {
				t.Errorf("exit %d, want %d\n%s", code, tc.code, errs.String())
			}
			if !strings.Contains(out.String(), tc.stdout) || tc.stdout == "" && out.Len() > 0 {
				t.Errorf("printed %.200q, want %q", out.String(), tc.stdout)
			}
			if !strings.Contains(errs.String(), tc.stderr) || tc.stderr == "" && errs.Len() > 0 {
				t.Errorf("complained %q, want %q", errs.String(), tc.stderr)
			}
		})
	}
}

func TestExamples(t *testing.T) {
	d, _ := mustParse(t, string(Example()))
	if len(d.Phones) != 2 || len(d.LinesOf("SEP001122AA0001")) != 2 || len(d.LinesOf("SEP001122AA0002")) != 1 || d.VPN.Hosts[0] != "127.0.0.1:10443" {
		t.Errorf("example: %s", d.Summary())
	}
	for _, l := range (&checker{d: d}).listenerList() {
		if !l.ep.Off() && (!l.ep.Addr().IsLoopback() || l.ep.Port() < 1024) {
			t.Errorf("the example listens on %s %s", l.name, l.ep)
		}
	}
	d, notices := mustParse(t, string(ExampleSite()))
	for _, n := range notices {
		if !strings.Contains(n.Message, "that of the example") {
			t.Errorf("notice on the site's example: %v", n)
		}
	}
	if len(d.Phones) != 2 {
		t.Errorf("site: %s", d.Summary())
	}
}
