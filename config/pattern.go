package config

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Pattern is a compiled pattern of numbers (dialplan §2): digits, * # and a leading + stand for themselves, X is any digit,
// Z 1 to 9, N 2 to 9, [2-46] one of these, (a|b) either, and a final . one or more of any digit, * or #.
type Pattern struct {
	text string
	re   *regexp.Regexp
}

// String is the pattern as it was written.
func (p *Pattern) String() string { return p.text }

// Match tells whether a whole number fits.
func (p *Pattern) Match(number string) bool { return p.re.MatchString(number) }

const patternHint = "digits, X any digit, Z 1 to 9, N 2 to 9, [2-5], (a|b), a final . for one or more"

// CompilePattern compiles a pattern.
func CompilePattern(s string) (*Pattern, error) {
	var b strings.Builder
	b.WriteString("^")
	depth := 0
	bad := func(i int, what string) (*Pattern, error) {
		return nil, faultf(patternHint, "%s at character %d of the pattern %q", what, i+1, clip(s))
	}
	if s == "" || len(s) > 100 {
		return nil, faultf(patternHint, "a pattern has 1 to 100 characters")
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= '0' && c <= '9', c == '#':
			b.WriteByte(c)
		case c == '*':
			b.WriteString(`\*`)
		case c == '+' && i == 0:
			b.WriteString(`\+`)
		case c == 'X' || c == 'x':
			b.WriteString("[0-9]")
		case c == 'Z' || c == 'z':
			b.WriteString("[1-9]")
		case c == 'N' || c == 'n':
			b.WriteString("[2-9]")
		case c == '(':
			if depth++; depth > 8 {
				return bad(i, "too many brackets")
			}
			b.WriteString("(?:")
		case c == '|' && depth > 0:
			b.WriteByte('|')
		case c == ')' && depth > 0:
			depth--
			b.WriteByte(')')
		case c == '.' && i == len(s)-1 && depth == 0:
			b.WriteString("[0-9*#]+")
		case c == '[':
			end := strings.IndexByte(s[i:], ']')
			if end < 0 || !classRE.MatchString(s[i:i+end+1]) {
				return bad(i, "an unfinished or odd [...]")
			}
			b.WriteString(s[i : i+end+1])
			i += end
		default:
			return bad(i, fmt.Sprintf("unexpected %q", c))
		}
	}
	if depth > 0 {
		return bad(len(s)-1, "a missing )")
	}
	re, err := regexp.Compile(b.String() + "$")
	if err != nil {
		return nil, faultf(patternHint, "the pattern %q is not usable", clip(s))
	}
	return &Pattern{s, re}, nil
}

var classRE = regexp.MustCompile(`^\[([0-9]-[0-9]|[0-9])+\]$`)

// Patterns compiles the patterns of internal numbers. In a loaded document they are valid.
func (n Numbering) Patterns() []*Pattern {
	var out []*Pattern
	for _, s := range strings.FieldsFunc(n.Extensions, func(r rune) bool { return r == ' ' || r == ',' }) {
		if p, err := CompilePattern(s); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// Internal tells whether a number belongs to the plan's internal numbers; without patterns every number may.
func (n Numbering) Internal(number string) bool {
	patterns := n.Patterns()
	for _, p := range patterns {
		if p.Match(number) {
			return true
		}
	}
	return len(patterns) == 0
}

const maxRange = 1000

// NumberRange lists the numbers of a range like 381-389, or of a single number. Leading zeros are kept.
func NumberRange(s string) ([]Digits, error) {
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		last = first
	}
	a, err1 := strconv.ParseUint(first, 10, 48)
	z, err2 := strconv.ParseUint(last, 10, 48)
	switch {
	case err1 != nil || err2 != nil:
		return nil, faultf("first and last number, like 381-389", "%q is not a range of numbers", clip(s))
	case len(first) != len(last):
		return nil, faultf("write both with the same number of digits", "the numbers of the range %s differ in length", clip(s))
	case z < a:
		return nil, faultf("write "+last+"-"+first, "the range %s ends before it starts", clip(s))
	case z-a >= maxRange:
		return nil, faultf(fmt.Sprintf("at most %d", maxRange), "the range %s has %d numbers", clip(s), z-a+1)
	}
	out := make([]Digits, 0, z-a+1)
	for n := a; n <= z; n++ {
		out = append(out, Digits(fmt.Sprintf("%0*d", len(first), n)))
	}
	return out, nil
}
