package phone

import (
	"fmt"
	"strconv"
	"strings"
)

// dialRule is one TEMPLATE of the dial template (provisioning §6).
type dialRule struct {
	match, rewrite string
	line           int // 0: every line
}

// useDialTemplate takes a dial template, or none. One that is too long or not well-formed is dropped.
func (p *Phone) useDialTemplate(name string, b []byte) {
	var rules []dialRule
	if len(b) > 0 {
		var err error
		if rules, err = parseDialTemplate(b); err != nil {
			kind := FileXML
			if len(b) > maxDialTemplate {
				kind = FileSize
			}
			p.refused(StepFile, refuse(kind, err, "%s", name))
		}
	}
	p.mu.Lock()
	p.rules = rules
	p.mu.Unlock()
}

func parseDialTemplate(b []byte) ([]dialRule, error) {
	if len(b) > maxDialTemplate {
		return nil, fmt.Errorf("dial template of %d bytes", len(b))
	}
	root, err := parseXML(b)
	if err != nil {
		return nil, err
	}
	if !strings.EqualFold(root.name, "dialTemplate") {
		return nil, fmt.Errorf("root element <%s>", root.name)
	}
	var rules []dialRule
	for _, e := range root.kids {
		switch e.name {
		case "TEMPLATE":
		case "versionStamp":
			continue
		default:
			return nil, fmt.Errorf("element <%s>", e.name)
		}
		r := dialRule{}
		seen := false
		for k, v := range e.attrs {
			switch strings.ToLower(k) {
			case "match":
				r.match, seen = v, true
			case "rewrite":
				r.rewrite = v
			case "line":
				if r.line, err = strconv.Atoi(v); err != nil || r.line < 1 {
					return nil, fmt.Errorf("line %q", v)
				}
			case "timeout":
				if n, err := strconv.Atoi(v); err != nil || n < 0 {
					return nil, fmt.Errorf("timeout %q", v)
				}
			case "tone", "route", "user":
			}
		}
		if !seen {
			return nil, fmt.Errorf("TEMPLATE without match")
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// dialled is what the phone sends for digits typed on a line: the rewrite of the longest rule that matches all of them.
func (p *Phone) dialled(line int, digits string) string {
	p.mu.Lock()
	rules := p.rules
	p.mu.Unlock()
	best, out := -1, digits
	for _, r := range rules {
		if r.line != 0 && r.line != line || r.rewrite == "" || r.match == "" {
			continue
		}
		dots, ok := r.matches(digits)
		if weight := len(strings.Trim(r.match, "*.")); ok && weight > best {
			best, out = weight, r.apply(digits, dots)
		}
	}
	return out
}

// matches says whether the whole of digits fits; dots are what the dots stood for.
func (r dialRule) matches(digits string) (dots string, ok bool) {
	pattern := strings.ReplaceAll(r.match, ",", "") // a comma plays the next tone and matches nothing
	at := 0
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '*' && i == len(pattern)-1:
			return dots, true
		case at >= len(digits):
			return "", false
		case c == '.':
			dots += digits[at : at+1]
			at++
		default:
			if c == '\\' && i+1 < len(pattern) {
				i++
				c = pattern[i]
			}
			if digits[at] != c {
				return "", false
			}
			at++
		}
	}
	return dots, at == len(digits)
}

// apply writes the replacement: %0 everything, . the next dot's digit. Groups (%1 to %5) are not needed by anything the
// appliance generates and are taken as everything.
func (r dialRule) apply(digits, dots string) string {
	var b strings.Builder
	for i := 0; i < len(r.rewrite); i++ {
		switch c := r.rewrite[i]; {
		case c == '%' && i+1 < len(r.rewrite):
			i++
			if n := r.rewrite[i]; n >= '0' && n <= '5' {
				b.WriteString(digits)
			} else {
				b.WriteByte(n)
			}
		case c == '.' && dots != "":
			b.WriteByte(dots[0])
			dots = dots[1:]
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// useSoftKeys takes the soft key file, or none.
func (p *Phone) useSoftKeys(name string, b []byte) {
	if len(b) == 0 {
		return
	}
	root, err := parseXML(b)
	if err == nil && root.name != "softKeyCfg" {
		err = fmt.Errorf("root element <%s>", root.name)
	}
	if err == nil {
		for _, set := range root.child("softKeySets").all("softKeySet") {
			if n := len(set.all("softKey")); n > 16 {
				err = fmt.Errorf("set %q has %d keys", set.attrs["id"], n)
			}
		}
	}
	if err != nil {
		p.refused(StepFile, refuse(FileXML, err, "%s", name))
	}
}
