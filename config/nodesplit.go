package config

import (
	"reflect"
	"strings"
)

// splitNode takes the lines of node: out of a document, so that they can be kept apart from what a pair shares. Joined at
// line at, the two parts are the document again, byte for byte.
func splitNode(name string, data []byte) (shared, node string, at int, err error) {
	src := newSource(name, 0, data)
	f := &faults{}
	root := parseYAML(src, f)
	if root == nil || root.kind != kindMap {
		return "", "", 0, f.errors()
	}
	key, ok := root.get("node")
	if !ok {
		return string(data), "", 0, nil
	}
	end := len(src.lines)
	alone := key.pos.col == 1
	for _, e := range root.entries {
		switch {
		case e.key == "node":
		case e.pos.line == key.pos.line:
			alone = false
		case e.pos.line > key.pos.line:
			end = min(end, e.pos.line-1)
		}
	}
	if !alone {
		f.add(key.pos, "node", "node: shares its line with other sections", "start every section of a stored configuration on a line of its own")
		return "", "", 0, f.errors()
	}
	// Comments right above the next section belong to that.
	for end > key.pos.line && end < len(src.lines) && isComment(src.lines[end-1]) {
		end--
	}
	lines := strings.SplitAfter(string(data), "\n")
	end = min(end, len(lines))
	at = key.pos.line - 1
	return strings.Join(lines[:at], "") + strings.Join(lines[end:], ""), strings.Join(lines[at:end], ""), at, nil
}

func isComment(line string) bool {
	return strings.HasPrefix(line, "#") || strings.TrimSpace(line) == ""
}

// joinNode is the reverse of splitNode.
func joinNode(shared, node string, at int) []byte {
	lines := strings.SplitAfter(shared, "\n")
	at = min(max(at, 0), len(lines))
	return []byte(strings.Join(lines[:at], "") + node + strings.Join(lines[at:], ""))
}

// redactable prepares a document for being shown: every secret in it is marked. It need not pass the checks.
func redactable(name string, data []byte) *source {
	src := newSource(name, 0, data)
	f := &faults{}
	root := parseYAML(src, f)
	if root == nil || root.kind != kindMap {
		return src // keys that sound like secrets are hidden without being understood
	}
	none := system{
		read:   func(string, int64) ([]byte, error) { return nil, errNotRead },
		getenv: func(string) (string, bool) { return "", false },
		stored: true,
	}
	d := &decoder{f: f, ix: &index{marks: map[string]mark{}, broken: map[string]bool{}}, sys: none}
	d.object(reflect.New(reflect.TypeFor[Document]()).Elem(), root, "")
	return src
}
