package config

import (
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
)

const maxSecretBytes = 4096

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

const secretForms = `text in quotes, {file: PATH} or {env: NAME}`

// secret decodes text, {file: PATH} or {env: NAME}. No message about it repeats what stands there.
func (d *decoder) secret(v reflect.Value, n *node, path string, f field) {
	if n.kind == kindMap {
		if len(n.entries) == 1 && n.entries[0].val.kind == kindText {
			e := n.entries[0]
			switch e.key {
			case "file":
				d.secretFile(v, e.val, path, f)
				return
			case "env":
				d.secretEnv(v, e.val, path, f)
				return
			}
		}
		for _, e := range n.entries {
			e.val.pos.hide()
		}
		d.fault(n.pos, path, lastKey(path)+" is a mapping that names neither a file nor a variable", "want "+secretForms)
		return
	}
	n.pos.hide()
	switch {
	case n.text == redacted, n.kind == kindList && len(n.items) == 1 && "["+n.items[0].text+"]" == redacted:
		d.fault(n.pos, path, lastKey(path)+" is "+redacted+", which stands where a secret is not shown", "write the secret itself; ringfence config edit shows it")
	case n.kind == kindNull:
		d.fault(n.pos, path, lastKey(path)+" has no value", "want "+secretForms+", or leave the key out")
	case n.kind != kindText:
		d.fault(n.pos, path, fmt.Sprintf("%s is %s", lastKey(path), n.kind), "want "+secretForms)
	case strings.ContainsAny(n.text, "\n\r") || !n.oneLine():
		// Secrets stay on one line so that they can be hidden wherever the document is shown.
		d.fault(n.pos, path, lastKey(path)+" runs over several lines", "write it on one line, in quotes")
	default:
		d.setSecret(v, n, path, f, n.text, "")
	}
}

func (d *decoder) setSecret(v reflect.Value, n *node, path string, f field, text, from string) {
	if text != "" && f.pattern != nil && !f.pattern.MatchString(text) {
		d.fault(n.pos, path, lastKey(path)+" does not have the right form", "want "+f.want)
		return
	}
	s := NewSecret(text)
	s.from = from
	v.Set(reflect.ValueOf(s))
}

// oneLine tells whether a scalar ends in the line in which it starts.
func (n *node) oneLine() bool {
	if n.pos.src == nil || n.pos.line > len(n.pos.src.lines) {
		return false
	}
	line := []rune(n.pos.src.lines[n.pos.line-1])
	_, closed := scalarEnd(line, n.pos.col)
	if n.quoted || !closed {
		return closed
	}
	return strings.HasPrefix(string(line[n.pos.col-1:]), n.text)
}

func (d *decoder) secretFile(v reflect.Value, n *node, path string, f field) {
	name := n.text
	if name == "" {
		d.fault(n.pos, path, "the file of "+lastKey(path)+" has no name", "write {file: PATH}")
		return
	}
	if !filepath.IsAbs(name) {
		if d.sys.stored {
			d.fault(n.pos, path, "the path of a secret in a stored configuration is relative", "write the whole path, from /")
			return
		}
		name = filepath.Join(filepath.Dir(n.pos.src.name), name)
	}
	data, err := d.sys.read(name, maxSecretBytes)
	if err != nil {
		d.fault(n.pos, path, lastKey(path)+": "+reason(err), "put the secret into that file, readable for ringfence")
		return
	}
	text := strings.TrimRight(string(data), "\r\n")
	if text == "" || strings.ContainsAny(text, "\n\r") {
		d.fault(n.pos, path, fmt.Sprintf("the file of %s does not hold exactly one line", lastKey(path)), "put the secret alone into "+clip(n.text))
		return
	}
	d.setSecret(v, n, path, f, text, "file:"+n.text)
}

func (d *decoder) secretEnv(v reflect.Value, n *node, path string, f field) {
	if !envName.MatchString(n.text) {
		d.fault(n.pos, path, fmt.Sprintf("%q is no name of a variable", clip(n.text)), "letters, digits and _, like SIP_PASSWORD")
		return
	}
	text, ok := d.sys.getenv(n.text)
	if !ok || text == "" {
		d.fault(n.pos, path, fmt.Sprintf("the environment variable %s is not set", n.text), "set it for ringfence, or write {file: PATH}")
		return
	}
	d.setSecret(v, n, path, f, text, "env:"+n.text)
}
