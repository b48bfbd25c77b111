package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"golang.org/x/sys/unix"
)

const hunter = "hunterTWO22"

func TestSecretNeverPrints(t *testing.T) {
	s := NewSecret(hunter)
	type holder struct {
		hidden Secret
		Shown  Secret
	}
	h := holder{s, s}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p", "%b", "%w", "%!"} {
		for _, v := range []any{s, &s, h, &h, []Secret{s}, map[string]Secret{"a": s}, struct{ s any }{s}, []any{s}, Line{Password: s}, &Document{Lines: []Line{{Password: s}}}} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	fmt.Fprintln(&out, s, h, errors.New("x"), []any{h})
	log := slog.New(slog.NewJSONHandler(&out, nil))
	log.Info("text", "secret", s, "holder", h, "line", Line{Password: s})
	log = slog.New(slog.NewTextHandler(&out, nil))
	log.Info("text", "secret", s, "holder", h, "line", Line{Password: s})
	for _, marshal := range []func(any) ([]byte, error){json.Marshal, func(v any) ([]byte, error) { return yaml.Marshal(v) }} {
		b, err := marshal(map[string]any{"s": s, "h": h, "l": Line{Password: s}})
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	text, err := s.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	out.Write(text)
	for _, form := range []string{hunter, fmt.Sprintf("%x", hunter), fmt.Sprintf("%X", hunter), fmt.Sprintf("%v", []byte(hunter))} {
		if strings.Contains(out.String(), form) {
			t.Errorf("shown as %s", form)
		}
	}
	if s.Reveal() != hunter || s != NewSecret(hunter) || s == NewSecret("x") || !(Secret{}).Empty() || NewSecret("").Reveal() != "" {
		t.Error("a secret is no longer itself")
	}
}

// No fault shows a secret, wherever the document is broken.
func TestFaultsHideSecrets(t *testing.T) {
	doc := minimal + `users:
  - {id: a, password: "` + hunter + `", lable: x}
  - id: b
    password: ` + hunter + ` # why
    passwort: ` + hunter + `
    pin: "` + hunter + `"
    pn: "` + hunter + `"
  - {id: b, password: '` + hunter + `''s', vpn: none}
phones:
  - {device: x, model: 1, capf_code: ` + hunter + `, pass: ` + hunter + `}
lines: [{number: "301", password: [` + hunter + `]}]
`
	for name, text := range map[string]string{
		"faults":   doc,
		"not YAML": doc + "  ] x: {password: " + hunter + "\n",
		"quote":    minimal + "users: [{id: a, password: \"" + hunter + "}]\n",
		"tab":      minimal + "users:\n\t- {password: " + hunter + "}\n",
	} {
		t.Run(name, func(t *testing.T) {
			errs := faultsOf(t, text)
			if strings.Contains(errs.Error(), hunter) {
				t.Errorf("shown in\n%v", errs)
			}
			if strings.Contains(fmt.Sprintf("%+v %#v", errs, errs), hunter) {
				t.Errorf("shown by a verb of fmt")
			}
		})
	}
}

func TestSecretSources(t *testing.T) {
	dir := files(t, map[string]string{"good": hunter + "\n", "two": "a\nb\n", "empty": "", "long": strings.Repeat("x", 5000), "short": "abc"})
	t.Setenv("RINGFENCE_TEST_SECRET", hunter)
	t.Setenv("RINGFENCE_TEST_EMPTY", "")
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ form, fault, from string }{
		{"{file: good}", "", "file:good"},
		{"{file: " + dir + "/good}", "", "file:" + dir + "/good"},
		{"{env: RINGFENCE_TEST_SECRET}", "", "env:RINGFENCE_TEST_SECRET"},
		{`"` + hunter + `"`, "", ""},
		{"'" + hunter + "'", "", ""},
		{hunter, "", ""},
		{"{file: two}", "does not hold exactly one line", ""},
		{"{file: empty}", "does not hold exactly one line", ""},
		{"{file: long}", "more than 4096 bytes", ""},
		{"{file: short}", "does not have the right form", ""},
		{"{file: pipe}", "is not a regular file", ""},
		{"{file: .}", "is a folder", ""},
		{"{file: none}", "does not exist", ""},
		{`{file: ""}`, "has no name", ""},
		{"{env: RINGFENCE_TEST_EMPTY}", "is not set", ""},
		{"{env: \"A B\"}", "is no name of a variable", ""},
		{"{path: good}", "names neither a file nor a variable", ""},
	} {
		t.Run(tc.form, func(t *testing.T) {
			d, _, err := Parse(filepath.Join(dir, "c.yaml"), []byte(minimal+"users: [{id: a, password: "+tc.form+"}]"))
			if tc.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fault) {
					t.Errorf("got %v, want %s", err, tc.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p := d.Users[0].Password; p.Reveal() != hunter || p.From() != tc.from {
				t.Errorf("got %q from %q", p.Reveal(), p.From())
			}
		})
	}
}

func TestSecretFileUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	dir := files(t, map[string]string{"s": hunter})
	if err := os.Chmod(filepath.Join(dir, "s"), 0); err != nil {
		t.Fatal(err)
	}
	_, _, err := Parse(filepath.Join(dir, "c.yaml"), []byte(minimal+"users: [{id: a, password: {file: s}}]"))
	if err == nil || !strings.Contains(err.Error(), "may not be read") {
		t.Errorf("got %v", err)
	}
}

func TestExampleSecretsNoticed(t *testing.T) {
	_, notices := mustParse(t, string(Example()))
	n := 0
	for _, x := range notices {
		if strings.Contains(x.Message, "that of the example") {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d notices", n)
	}
}
