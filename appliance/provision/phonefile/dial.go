package phonefile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ringfence/config"
)

// MaxDialTemplate is the largest dial template that phones take; a bigger one is dropped silently, which leaves them
// waiting 15 s after the last digit (provisioning.md §6).
const MaxDialTemplate = 8191

// Seconds that a phone waits for more digits.
const (
	waitOutside   = 4
	waitAmbiguous = 3
)

// template is one TEMPLATE element, its pattern not yet spelled.
type template struct {
	match   symbols
	comma   int // position of the secondary dial tone, 0 for none
	timeout int
	tone    string
}

// symbols is a sequence of dialled symbols.
type symbols []symbol

// symbol is a set of what may be dialled at one place: bit n for digit n, then * and #; or any more of them.
type symbol uint16

const (
	star   symbol = 1 << 10
	hash   symbol = 1 << 11
	digits symbol = 1<<10 - 1
	more   symbol = 1 << 15 // zero or more of anything, only at the end
)

// String spells the symbols as a template's match: a literal, or . for several.
func (s symbols) String() string {
	var b strings.Builder
	for _, y := range s {
		b.WriteString(y.String())
	}
	return b.String()
}

func (y symbol) String() string {
	switch {
	case y&more != 0:
		return "*"
	case y == star:
		return `\*`
	case y == hash:
		return "#"
	}
	for n := range 10 {
		if y == 1<<n {
			return strconv.Itoa(n)
		}
	}
	return "." // there are no ranges
}

// literal turns a number into symbols; nil if it holds what no keypad has (+).
func literal(number string) symbols {
	var s symbols
	for _, r := range number {
		switch {
		case r >= '0' && r <= '9':
			s = append(s, 1<<(r-'0'))
		case r == '*':
			s = append(s, star)
		case r == '#':
			s = append(s, hash)
		default:
			return nil
		}
	}
	return s
}

// dialTemplate renders the dial template: internal numbers at once, emergency numbers at once, outside numbers after a
// pause, anything else after a pause.
func (p *phone) dialTemplate(stamp string) ([]byte, error) {
	numbers := p.internalNumbers()
	b := p.renderDial(stamp, numbers)
	if len(b) > MaxDialTemplate {
		p.warn("its dial template would exceed %d bytes: numbers outside numbering.extensions dial after a pause", MaxDialTemplate)
		b = p.renderDial(stamp, nil)
	}
	if len(b) > MaxDialTemplate {
		return nil, fmt.Errorf("%d bytes, phones take %d: write numbering.extensions with fewer alternatives", len(b), MaxDialTemplate)
	}
	return b, nil
}

func (p *phone) renderDial(stamp string, numbers []symbols) []byte {
	w := newWriter()
	w.in("dialTemplate", func() {
		w.el("versionStamp", stamp)
		for _, t := range p.templates(numbers) {
			match := t.match.String()
			if t.comma > 0 {
				match = t.match[:t.comma].String() + "," + t.match[t.comma:].String()
			}
			attrs := []string{"match", match, "timeout", strconv.Itoa(t.timeout)}
			if t.tone != "" {
				attrs = append(attrs, "tone", t.tone)
			}
			w.leaf("TEMPLATE", attrs...)
		}
	})
	return w.bytes()
}

// templates lists the entries. numbers are internal ones that no pattern covers.
func (p *phone) templates(numbers []symbols) []template {
	n := p.Doc.Numbering
	var internal []template
	for _, pattern := range n.Patterns() {
		for _, s := range expand(pattern.String()) {
			internal = append(internal, template{match: s})
		}
	}
	for _, s := range numbers {
		internal = append(internal, template{match: s})
	}
	var emergency, outside []template
	prefix := literal(string(n.OutsidePrefix))
	for _, e := range n.Emergency {
		s := literal(string(e))
		if s == nil {
			continue
		}
		emergency = append(emergency, template{match: s})
		// People who are used to the prefix dial it in need, too.
		if prefix != nil {
			emergency = append(emergency, template{match: slices.Concat(prefix, s), comma: len(prefix), tone: "Bellcore-Outside"})
		}
	}
	if prefix != nil {
		outside = append(outside, template{match: slices.Concat(prefix, symbols{more}), comma: len(prefix), timeout: waitOutside, tone: "Bellcore-Outside"})
	}
	if len(p.Doc.Services.Codes) > 0 {
		outside = append(outside, template{match: symbols{star, more}, timeout: waitOutside})
	}
	// An internal number that is the beginning of something longer must not be dialled at once. Emergency numbers are,
	// always: their caller does not wait.
	all := slices.Concat(internal, emergency, outside)
	for i := range internal {
		t := &internal[i]
		if t.match[len(t.match)-1] == more {
			t.timeout = waitOutside
		} else if slices.ContainsFunc(all, func(o template) bool { return beginning(t.match, o.match) }) {
			t.timeout = waitAmbiguous
		}
	}
	out := unique(slices.Concat(emergency, internal, outside))
	return append(out, template{match: symbols{more}, timeout: waitOutside})
}

// beginning tells whether something that matches a can be the beginning of something longer that matches b.
func beginning(a, b symbols) bool {
	for i, y := range a {
		if i >= len(b) {
			return false
		}
		if b[i] == more {
			return true
		}
		if y&b[i] == 0 {
			return false
		}
	}
	return len(b) > len(a)
}

// unique drops entries that spell the same; the first one stays.
func unique(ts []template) []template {
	seen := make(map[string]bool)
	return slices.DeleteFunc(ts, func(t template) bool {
		s := t.match.String()
		dup := seen[s]
		seen[s] = true
		return dup
	})
}

// internalNumbers are the numbers of the plan that no pattern of numbering.extensions covers, those of one length and
// first digit together when they are many.
func (p *phone) internalNumbers() []symbols {
	d := p.Doc
	var all []config.Digits
	add := func(ns ...config.Digits) { all = append(all, ns...) }
	addRange := func(r string) {
		if ns, err := config.NumberRange(r); err == nil {
			add(ns...)
		}
	}
	for _, l := range d.Lines {
		add(l.Number)
	}
	for _, g := range d.Groups {
		add(g.Number)
	}
	for _, l := range d.Parking {
		addRange(l.Slots)
	}
	for _, g := range d.Paging {
		add(g.Number)
	}
	for _, i := range d.Intercom {
		add(i.Number)
	}
	for _, r := range d.Rooms {
		addRange(r.Range)
	}
	s := d.Services
	add(s.Voicemail, s.EchoTest, s.Time, s.Directory)
	for _, code := range s.Codes {
		add(config.Digits(code))
	}
	patterns := d.Numbering.Patterns()
	groups := make(map[string][]symbols)
	for _, number := range all {
		y := literal(string(number))
		if len(y) == 0 || y[0] == star || slices.ContainsFunc(patterns, func(m *config.Pattern) bool { return m.Match(string(number)) }) {
			continue
		}
		key := fmt.Sprintf("%02d%s", len(y), y[0])
		groups[key] = append(groups[key], y)
	}
	var out []symbols
	for _, g := range groups {
		if len(g) > 10 {
			wide := symbols{g[0][0]}
			for range len(g[0]) - 1 {
				wide = append(wide, digits)
			}
			g = []symbols{wide}
		}
		out = append(out, g...)
	}
	slices.SortFunc(out, func(a, b symbols) int { return strings.Compare(a.String(), b.String()) })
	return slices.CompactFunc(out, func(a, b symbols) bool { return a.String() == b.String() })
}

// maxExpansion bounds the alternatives of one pattern.
const maxExpansion = 100

// expand turns a pattern of numbers (config.Pattern) into sequences of symbols. A set at the first place becomes one
// sequence for each digit, so that the outside prefix is told from extensions; sets further on stay sets, since templates
// have no ranges. Nil for what does not expand: its numbers dial after the pause.
func expand(pattern string) []symbols {
	e := expander{s: pattern}
	list := e.alternatives()
	if e.failed || e.i != len(e.s) {
		return nil
	}
	var out []symbols
	for _, s := range list {
		if len(s) == 0 {
			continue
		}
		for n := range 12 {
			if y := symbol(1 << n); s[0]&y != 0 {
				out = append(out, slices.Concat(symbols{y}, s[1:]))
			}
		}
		if s[0] == more {
			out = append(out, s)
		}
	}
	return out
}

type expander struct {
	s      string
	i      int
	failed bool
}

// alternatives reads a|b|c up to ) or the end.
func (e *expander) alternatives() []symbols {
	out := e.sequence()
	for !e.failed && e.i < len(e.s) && e.s[e.i] == '|' {
		e.i++
		out = append(out, e.sequence()...)
	}
	if len(out) > maxExpansion {
		e.failed = true
	}
	return out
}

func (e *expander) sequence() []symbols {
	out := []symbols{nil}
	for !e.failed && e.i < len(e.s) && e.s[e.i] != '|' && e.s[e.i] != ')' {
		var next []symbols
		if e.s[e.i] == '(' {
			e.i++
			next = e.alternatives()
			if e.i >= len(e.s) || e.s[e.i] != ')' {
				e.failed = true
				return nil
			}
			e.i++
		} else if y := e.one(); y != nil {
			next = []symbols{y}
		} else {
			e.failed = true
			return nil
		}
		if len(out)*len(next) > maxExpansion {
			e.failed = true
			return nil
		}
		var product []symbols
		for _, a := range out {
			for _, b := range next {
				product = append(product, slices.Concat(a, b))
			}
		}
		out = product
	}
	return out
}

// one reads one place: a literal, X, Z, N, [..] or a final dot.
func (e *expander) one() symbols {
	c := e.s[e.i]
	e.i++
	switch c {
	case 'X', 'x':
		return symbols{digits}
	case 'Z', 'z':
		return symbols{digits &^ 1}
	case 'N', 'n':
		return symbols{digits &^ 3}
	case '.':
		return symbols{digits | star | hash, more} // one or more
	case '[':
		end := strings.IndexByte(e.s[e.i:], ']')
		if end < 0 {
			return nil
		}
		set := e.s[e.i : e.i+end]
		e.i += end + 1
		var y symbol
		for j := 0; j < len(set); j++ {
			first, last := set[j], set[j]
			if j+2 < len(set) && set[j+1] == '-' {
				last, j = set[j+2], j+2
			}
			for ; first >= '0' && first <= last && first <= '9'; first++ {
				y |= 1 << (first - '0')
			}
		}
		if y == 0 {
			return nil
		}
		return symbols{y}
	}
	return literal(string(c))
}
