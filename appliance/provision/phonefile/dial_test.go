package phonefile

import (
	"fmt"
	"strings"
	"testing"

	"ringfence/config"
)

// entries renders a dial template and returns match/timeout pairs.
func entries(t *testing.T, d *config.Document) (string, *Set) {
	t.Helper()
	s := render(t, input(d, phone8851))
	root, err := parseXML(s.Dial)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range root.child {
		if e.name == "TEMPLATE" {
			out = append(out, e.attr["match"]+"/"+e.attr["timeout"])
		}
	}
	if err := LintDial(s.Dial); err != nil {
		t.Errorf("lint: %v", err)
	}
	return strings.Join(out, " "), s
}

func TestDialTemplate(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*config.Document)
		want   string
	}{
		{"all", func(*config.Document) {}, `911/0 9,911/0 112/0 9,112/0 3../0 700/0 9,*/4 \**/4 */4`},
		{"no prefix, no codes", func(d *config.Document) { d.Numbering.OutsidePrefix, d.Services.Codes = "", nil },
			`911/0 112/0 3../0 700/0 */4`},
		{"no pattern", func(d *config.Document) {
			d.Numbering.Extensions, d.Parking = "", nil
		}, `911/0 9,911/0 112/0 9,112/0 301/0 302/0 303/0 304/0 305/0 370/0 399/0 700/0 9,*/4 \**/4 */4`},
		{"many numbers without pattern", func(d *config.Document) { d.Numbering.Extensions = "" },
			`911/0 9,911/0 112/0 9,112/0 3../0 700/0 9,*/4 \**/4 */4`},
		{"any first digit: only those that may be the prefix wait", func(d *config.Document) { d.Numbering.Extensions, d.Numbering.Emergency = "[389]XX", nil },
			`3../0 8../0 9../3 700/0 9,*/4 \**/4 */4`},
		{"one number begins another", func(d *config.Document) { d.Numbering.Extensions = "3XX 3XXX" },
			`911/0 9,911/0 112/0 9,112/0 3../3 3.../0 700/0 9,*/4 \**/4 */4`},
		{"alternatives and open end", func(d *config.Document) { d.Numbering.Extensions = "3(0|7|8|9)X 5." },
			`911/0 9,911/0 112/0 9,112/0 30./0 37./0 38./0 39./0 5.*/4 700/0 9,*/4 \**/4 */4`},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := document()
			c.change(d)
			if got, _ := entries(t, d); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestDialTemplateStaysSmall(t *testing.T) {
	d := document()
	d.Numbering.Extensions = ""
	for i := range 2000 { // numbers of many lengths and first digits, so that they do not gather
		d.Services.Codes[fmt.Sprint("c", i)] = fmt.Sprint(i%10) + strings.Repeat("7", i/10)
	}
	got, s := entries(t, d)
	if len(s.Dial) > MaxDialTemplate {
		t.Errorf("%d bytes", len(s.Dial))
	}
	if want := `911/0 9,911/0 112/0 9,112/0 9,*/4 \**/4 */4`; got != want {
		t.Errorf("got %s", got)
	}
	if len(s.Warnings) == 0 {
		t.Error("nobody is told")
	}
}

func TestExpandBounds(t *testing.T) {
	for _, pattern := range []string{strings.Repeat("(1|2)", 20), "(1", "1)", "[", ""} {
		if got := expand(pattern); len(got) > maxExpansion*10 {
			t.Errorf("%s: %d sequences", pattern, len(got))
		}
	}
	if got := fmt.Sprint(expand("N[2-4]5X")); got != "[2.5. 3.5. 4.5. 5.5. 6.5. 7.5. 8.5. 9.5.]" {
		t.Errorf("got %s", got)
	}
}
