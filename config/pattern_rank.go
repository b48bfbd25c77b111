package config

import "strings"

// This file compares patterns (dialplan §3 rule 6): where several match a number, the narrower one counts, looked at digit by
// digit from the left; two that match the same number and are equally narrow are an error at load.

// place is what a pattern takes at one position: a bit for each of 0 to 9, * # and +. tail is one or more of 0 to 9, * and #.
type place uint32

const (
	tail      place = 1 << 31
	anyDigit  place = 1<<10 - 1
	tailTaken       = anyDigit | 1<<10 | 1<<11
)

func bit(c byte) place {
	switch c {
	case '*':
		return 1 << 10
	case '#':
		return 1 << 11
	case '+':
		return 1 << 12
	}
	if c < '0' || c > '9' {
		return 0
	}
	return 1 << (c - '0')
}

// width is how much a place takes; the smaller, the narrower. The tail is wider than anything.
func (p place) width() int {
	if p&tail != 0 {
		return 100
	}
	n := 0
	for ; p != 0; p &= p - 1 {
		n++
	}
	return n
}

// maxForms bounds what alternatives multiply to.
const maxForms = 1000

// forms are a pattern without its alternatives. The pattern must be one that CompilePattern takes.
func forms(s string) [][]place {
	list, _ := alternatives(s)
	return list
}

// alternatives reads up to the end or a closing bracket and returns what is left.
func alternatives(s string) (out [][]place, rest string) {
	now := [][]place{nil}
	for s != "" {
		var next [][]place
		switch c := s[0]; c {
		case ')':
			return append(out, now...), s
		case '|':
			out, now, s = append(out, now...), [][]place{nil}, s[1:]
			continue
		case '(':
			inner, after := alternatives(s[1:])
			for _, a := range now {
				for _, b := range inner {
					if len(next) < maxForms {
						next = append(next, append(append([]place(nil), a...), b...))
					}
				}
			}
			now, s = next, strings.TrimPrefix(after, ")")
			continue
		case '[':
			end := strings.IndexByte(s, ']')
			var p place
			for set := s[1:end]; set != ""; {
				first, last := set[0], set[0]
				if len(set) >= 3 && set[1] == '-' {
					last, set = set[2], set[3:]
				} else {
					set = set[1:]
				}
				for d := first; d <= last; d++ {
					p |= bit(d)
				}
			}
			now, s = extend(now, p), s[end+1:]
			continue
		case 'X', 'x':
			now = extend(now, anyDigit)
		case 'Z', 'z':
			now = extend(now, anyDigit&^bit('0'))
		case 'N', 'n':
			now = extend(now, anyDigit&^(bit('0')|bit('1')))
		case '.':
			now = extend(now, tail)
		default:
			now = extend(now, bit(c))
		}
		s = s[1:]
	}
	return append(out, now...), ""
}

func extend(list [][]place, p place) [][]place {
	for i := range list {
		list[i] = append(list[i], p)
	}
	return list
}

// fits tells whether one form matches a number.
func fits(form []place, number string) bool {
	for i, p := range form {
		if p&tail != 0 {
			if i >= len(number) {
				return false
			}
			for _, c := range []byte(number[i:]) {
				if bit(c)&tailTaken == 0 {
					return false
				}
			}
			return true
		}
		if i >= len(number) || bit(number[i])&p == 0 {
			return false
		}
	}
	return len(form) == len(number)
}

// compare orders two forms: negative if a is narrower.
func compare(a, b []place) int {
	for i := range min(len(a), len(b)) {
		if d := a[i].width() - b[i].width(); d != 0 {
			return d
		}
	}
	return 0 // of one length, or one ends in a tail, which was compared
}

// Narrower tells whether p says more about a number than o. Both must match it.
func (p *Pattern) Narrower(o *Pattern, number string) bool {
	best := func(s string) (found []place) {
		for _, f := range forms(s) {
			if fits(f, number) && (found == nil || compare(f, found) < 0) {
				found = f
			}
		}
		return found
	}
	a, b := best(p.text), best(o.text)
	return a != nil && b != nil && compare(a, b) < 0
}

// Ambiguous finds a number that two patterns match equally narrowly, or "".
func (p *Pattern) Ambiguous(o *Pattern) string {
	for _, a := range forms(p.text) {
		for _, b := range forms(o.text) {
			if n, ok := meet(a, b); ok && compare(a, b) == 0 && !p.Narrower(o, n) && !o.Narrower(p, n) {
				return n
			}
		}
	}
	return ""
}

// meet finds a number that both forms match.
func meet(a, b []place) (string, bool) {
	var n []byte
	for i := 0; ; i++ {
		switch {
		case i == len(a) && i == len(b):
			return string(n), true
		case i >= len(a) || i >= len(b):
			return "", false
		}
		x, y := a[i], b[i]
		switch {
		case x&tail != 0 && y&tail != 0:
			return string(append(n, '0')), true
		case x&tail != 0:
			return finish(n, b[i:])
		case y&tail != 0:
			return finish(n, a[i:])
		case x&y == 0:
			return "", false
		}
		n = append(n, symbol(x&y))
	}
}

// finish completes a number with what a form wants where the other one takes anything.
func finish(n []byte, form []place) (string, bool) {
	for _, p := range form {
		switch {
		case p&tail != 0:
			n = append(n, '0')
		case p&tailTaken == 0:
			return "", false
		default:
			n = append(n, symbol(p&tailTaken))
		}
	}
	return string(n), true
}

func symbol(p place) byte {
	for i, c := range []byte("0123456789*#+") {
		if p&(1<<i) != 0 {
			return c
		}
	}
	return '0'
}
