package config

import (
	"fmt"
	"io"
	"strings"
)

const usage = `usage: ringfence config check FILE     check a document; faults are named with file, line and remedy
       ringfence config schema         print the JSON Schema of documents, for editors
       ringfence config example        print a document that runs as it is on this machine
       ringfence config example --site print one for real phones
       ringfence config reference      print every key with type, default and meaning
`

// Command runs ringfence config ARGS and returns its exit code: 0 well, 1 the document has faults, 2 wrong use.
func Command(args []string, stdout, stderr io.Writer) int {
	wrong := func(format string, a ...any) int {
		fmt.Fprintf(stderr, "ringfence config: "+format+"\n", a...)
		fmt.Fprint(stderr, usage)
		return 2
	}
	if len(args) == 0 {
		return wrong("say what to do")
	}
	verb, rest := args[0], args[1:]
	if len(rest) > 0 && (rest[0] == "-h" || rest[0] == "--help") {
		verb = rest[0]
	}
	var out []byte
	switch verb {
	case "-h", "-help", "--help", "help":
		fmt.Fprint(stdout, usage)
		return 0
	case "check":
		if len(rest) != 1 || strings.HasPrefix(rest[0], "-") {
			return wrong("check wants one FILE")
		}
		return check(rest[0], stdout, stderr)
	case "schema":
		out = Schema()
	case "reference":
		out = Reference()
	case "example":
		out = Example()
		if len(rest) == 1 && (rest[0] == "--site" || rest[0] == "-site") {
			out, rest = ExampleSite(), nil
		}
	default:
		if near := nearest(verb, []string{"check", "schema", "example", "reference"}); near != "" {
			return wrong("unknown verb %q, did you mean %s?", verb, near)
		}
		return wrong("unknown verb %q", verb)
	}
	if len(rest) > 0 {
		return wrong("%s takes no %q", verb, rest[0])
	}
	if _, err := stdout.Write(out); err != nil {
		fmt.Fprintf(stderr, "ringfence config: %v\n", err)
		return 1
	}
	return 0
}

func check(path string, stdout, stderr io.Writer) int {
	d, notices, err := Load(path)
	for _, n := range notices {
		fmt.Fprintf(stderr, "note: %s\n", n)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		n := 1
		if errs, ok := err.(Errors); ok {
			n = len(errs)
		}
		fmt.Fprintf(stderr, "%s: %s; nothing was changed\n", path, count(n, "fault"))
		return 1
	}
	fmt.Fprintf(stdout, "%s: good: %s\n", path, d.Summary())
	return 0
}

// Summary says in one line what a document declares.
func (d *Document) Summary() string {
	var parts []string
	add := func(n int, what string) {
		if n > 0 {
			parts = append(parts, count(n, what))
		}
	}
	soft := 0
	for _, l := range d.Lines {
		if l.Phone == "" {
			soft++
		}
	}
	parts = append(parts, fmt.Sprintf("%s at %s", d.Node.Name, d.Node.Address), count(len(d.Phones), "phone"), count(len(d.Lines), "line"))
	if soft > 0 {
		parts[2] += fmt.Sprintf(" (%d without phone)", soft)
	}
	add(len(d.Users), "user")
	add(len(d.VPN.Policies), "VPN policy")
	add(len(d.Groups), "group")
	add(len(d.Parking), "park lot")
	add(len(d.Paging), "page")
	add(len(d.Intercom), "intercom")
	add(len(d.Rooms), "room range")
	add(len(d.Schedules), "schedule")
	add(len(d.RoutesIn)+len(d.RoutesOut), "route")
	return strings.Join(parts, ", ")
}

func count(n int, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case strings.HasSuffix(what, "y"):
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(what, "y"))
	}
	return fmt.Sprintf("%d %ss", n, what)
}
