package config

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostile are documents that cost a naive reader much more than their length.
func hostile() map[string]string {
	var keys, depth, nulls, inline strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&keys, "k%d: v\n", i)
	}
	for i := range 2000 {
		depth.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	nulls.WriteString("lines:\n")
	for range 40_000 {
		nulls.WriteString("  - number:\n")
	}
	inline.WriteString("lines: [")
	for range 40_000 {
		inline.WriteString("{number},")
	}
	laugh := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 12; i++ {
		laugh += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	return map[string]string{
		"aliases in a list of phones": "x: &p {device: SEP001122AA0001, model: 8851}\nphones: &l [" + strings.TrimSuffix(strings.Repeat("*p, ", 50_000), ", ") + "]\n",
		"alias bomb":                  laugh,
		"merge bomb":                  "a: &a {" + strings.TrimSuffix(strings.Repeat("k: 1, ", 1500), ", ") + "}\nb: {<<: [" + strings.TrimSuffix(strings.Repeat("*a, ", 100_000), ", ") + "]}\n",
		"alias of itself":             "a: &a [*a]\nnode: &n {<<: *n}\n",
		"brackets":                    strings.Repeat("[", 100_000),
		"braces":                      strings.Repeat("{a: ", 100_000),
		"dashes":                      strings.Repeat("- ", 100_000),
		"question marks":              strings.Repeat("? ", 100_000),
		"anchors":                     strings.Repeat("&a ", 100_000),
		"keys of one mapping":         keys.String(),
		"keys between lists":          strings.Repeat("a:\n- b\n", 40_000),
		"keys of one braced mapping":  "{" + strings.Repeat("a: 1, ", 60_000) + "}",
		"indentation":                 depth.String(),
		"omitted values":              nulls.String(),
		"omitted values in braces":    inline.String(),
		"omitted list entries":        "lines:\n" + strings.Repeat("  -\n", 60_000),
		"documents":                   strings.Repeat("---\na\n", 60_000),
		"open quote":                  "a: \"" + strings.Repeat("x", 60_000),
		"escapes":                     "a: \"" + strings.Repeat(`\n`, 60_000) + `"`,
		"one long plain text":         "a: " + strings.Repeat("x ", 60_000),
		"many plain lines":            "a: " + strings.Repeat("x\n ", 100_000),
		"block text":                  "a: |\n" + strings.Repeat("  x\n", 100_000),
		"comments":                    strings.Repeat("# c\n", 100_000),
		"comments after values":       minimal + "lines:\n" + strings.Repeat("  - a: 1 # c\n", 40_000),
		"empty lines":                 strings.Repeat("\n", 60_000),
		"spaces":                      strings.Repeat(" ", 60_000),
		"carriage returns":            strings.Repeat("\r", 60_000),
		"colons":                      strings.Repeat(":", 60_000),
		"too long":                    strings.Repeat("# comment\n", maxFileBytes/10+1),
		"not UTF-8":                   "a: \xff\xfe",
		"NUL":                         "a: \x00",
		"faults":                      minimal + "lines:\n" + strings.Repeat("  - {x: 1}\n", 40_000),
		"duplicates":                  minimal + "lines:\n" + strings.Repeat("  - {a: 1, a: 1}\n", 20_000),
	}
}

// cpuTime is what this process has used; unlike the clock it does not depend on what else the machine does.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestHostileDocumentsAreBounded(t *testing.T) {
	if raceDetector {
		t.Skip("one goroutine reads a document; the race detector would only make it tenfold slower")
	}
	for name, text := range hostile() {
		t.Run(name, func(t *testing.T) {
			start := cpuTime(t)
			_, _, err := Parse("hostile.yaml", []byte(text))
			took := cpuTime(t) - start
			if err == nil {
				t.Error("accepted")
			} else if n := len(err.Error()); n > 60_000 {
				t.Errorf("%d bytes of faults", n)
			}
			// Bounded means seconds of a slow machine, not the minutes or the memory that these cost unchecked.
			if took > 10*time.Second {
				t.Errorf("took %v", took)
			}
			t.Logf("%d bytes in %v: %.120s", len(text), took, err)
		})
	}
}

func TestLargeSiteLoads(t *testing.T) {
	if testing.Short() {
		t.Skip("large")
	}
	var b strings.Builder
	b.WriteString(minimal + "phones:\n")
	const n = 5000
	for i := range n {
		fmt.Fprintf(&b, "  - device: SEP00112233%04X\n    model: 8851\n    keys:\n      - {blf: \"%d\", label: x}\n", i, 10000+(i+1)%n)
	}
	b.WriteString("lines:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - number: \"%d\"\n    phone: SEP00112233%04X\n", 10000+i, i)
	}
	start := time.Now()
	d, _ := mustParse(t, b.String())
	t.Logf("%d phones, %d bytes in %v", n, b.Len(), time.Since(start))
	if len(d.LinesOf("SEP00112233000A")) != 1 {
		t.Error("line not found")
	}
}

// FuzzParse: no document makes the reader panic, and what it accepts stays the same when read again.
func FuzzParse(f *testing.F) {
	f.Add(Example())
	f.Add(ExampleSite())
	f.Add([]byte(site))
	for _, m := range mistakes[:20] {
		f.Add([]byte(strings.Replace(string(Example()), m.old, m.new, 1)))
	}
	for _, text := range hostile() {
		if len(text) < 2000 {
			f.Add([]byte(text))
		}
	}
	none := system{
		read: func(name string, _ int64) ([]byte, error) {
			return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
		},
		glob:   func(string) ([]string, error) { return nil, nil },
		getenv: func(string) (string, bool) { return "abcdefgh1", true },
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		d, notices, err := parse("fuzz.yaml", data, none)
		if (d == nil) != (err != nil) {
			t.Fatalf("document %v and error %v", d, err)
		}
		for _, n := range notices {
			_ = n.String()
		}
		if err != nil {
			if errs := err.(Errors); len(errs) == 0 || len(errs) > maxErrors+1 || errs.Error() == "" {
				t.Fatalf("%d faults", len(errs))
			}
			return
		}
		again, _, err := parse("fuzz.yaml", data, none)
		if err != nil || len(Diff(d, again)) != 0 {
			t.Fatalf("read again: %v %v", err, Diff(d, again))
		}
	})
}
