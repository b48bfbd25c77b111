package appliance

import (
	"context"
	"fmt"
	"strings"

	"ringfence/appliance/admin"
)

// phoneAdopt writes a phone and its first line into the stored document and applies that as the next revision, with all checks. The
// document keeps its text and comments; the two entries go to the front of their lists.
func (a *appliance) phoneAdopt(ctx context.Context, r admin.Request) (any, error) {
	device := strings.ToUpper(r.Args[0])
	if len(device) == 12 {
		device = "SEP" + device
	}
	if err := a.source.ReadOnly(); err != nil {
		return nil, admin.Refuse("%v", err)
	}
	if _, ok := a.doc().Phone(device); ok {
		return nil, admin.Refuse("phone %s is declared already", device)
	}
	model, line := r.Flags["model"], r.Flags["line"]
	if model == "" || line == "" {
		return nil, admin.Usage("phone adopt needs --model and --line")
	}
	_, current := a.source.Revisions().Current()
	raw, err := a.source.Revisions().Raw(current.Number)
	if err != nil {
		return nil, err
	}
	entry := fmt.Sprintf("{device: %s, model: %q", device, model)
	if r.Flags["nonsecure"] != "" {
		entry += ", security: nonsecure"
	}
	text := withEntry(string(raw), "phones", entry+"}")
	entry = fmt.Sprintf("{number: %q, phone: %s, index: 1", line, device)
	if name := r.Flags["name"]; name != "" {
		entry += fmt.Sprintf(", caller_id: {name: %q}", name)
	}
	text = withEntry(text, "lines", entry+"}")
	return a.configApply(ctx, admin.Request{Args: []string{text}, Flags: map[string]string{"comment": "adopted " + device}, Peer: r.Peer})
}

// withEntry puts an entry, in flow style, at the front of a top-level list of a YAML document.
func withEntry(text, list, entry string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		value, ok := strings.CutPrefix(l, list+":")
		if !ok {
			continue
		}
		value = strings.TrimSpace(value)
		if inner, ok := strings.CutPrefix(value, "["); ok { // the list itself in flow style
			if strings.HasPrefix(strings.TrimSpace(inner), "]") {
				lines[i] = list + ": [" + entry + inner
			} else {
				lines[i] = list + ": [" + entry + ", " + inner
			}
			return strings.Join(lines, "\n")
		}
		indent := "  "
		for _, next := range lines[i+1:] {
			if t := strings.TrimLeft(next, " "); strings.HasPrefix(t, "- ") {
				indent = next[:len(next)-len(t)]
				break
			} else if t != "" && !strings.HasPrefix(t, "#") {
				break
			}
		}
		return strings.Join(append(append(append([]string{}, lines[:i+1]...), indent+"- "+entry), lines[i+1:]...), "\n")
	}
	return strings.TrimRight(text, "\n") + "\n" + list + ":\n  - " + entry + "\n"
}
