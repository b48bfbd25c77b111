package config

import (
	"fmt"
	"slices"
	"strings"
)

const (
	diffContext = 3
	maxEdits    = 1000 // beyond that the differing middle is shown as replaced as a whole
)

// edit is a line of a difference: ' ' in both, '-' only in a, '+' only in b. i and j count lines of a and b from 0.
type edit struct {
	op   byte
	i, j int
}

// unifiedDiff is the difference between two texts in unified form. Lines are compared as they are and printed with their
// secrets hidden, so that a changed secret shows as a changed line.
func unifiedDiff(nameA, nameB string, a, b *source) string {
	la, lb := contentLines(a), contentLines(b)
	edits := compareLines(la, lb)
	if !slices.ContainsFunc(edits, func(e edit) bool { return e.op != ' ' }) {
		return ""
	}
	var out strings.Builder
	fmt.Fprintf(&out, "--- %s\n+++ %s\n", nameA, nameB)
	ra, rb := a.redactedText(), b.redactedText()
	for start := 0; start < len(edits); {
		for start < len(edits) && edits[start].op == ' ' {
			start++
		}
		if start == len(edits) {
			break
		}
		end, last := start, start // a hunk ends where more than two contexts of equal lines follow
		for end < len(edits) && end-last <= 2*diffContext {
			if edits[end].op != ' ' {
				last = end
			}
			end++
		}
		from, to := max(0, start-diffContext), min(len(edits), last+1+diffContext)
		hunk := edits[from:to]
		var na, nb int
		for _, e := range hunk {
			if e.op != '+' {
				na++
			}
			if e.op != '-' {
				nb++
			}
		}
		fmt.Fprintf(&out, "@@ -%s +%s @@\n", hunkRange(hunk[0].i, na), hunkRange(hunk[0].j, nb))
		for _, e := range hunk {
			line := ""
			if e.op == '+' {
				line = rb[e.j]
			} else {
				line = ra[e.i]
			}
			fmt.Fprintf(&out, "%c%s\n", e.op, line)
		}
		start = to
	}
	return out.String()
}

// contentLines drops the empty line after the last line end.
func contentLines(s *source) []string {
	if n := len(s.lines); n > 0 && s.lines[n-1] == "" {
		return s.lines[:n-1]
	}
	return s.lines
}

func hunkRange(first, n int) string {
	if n == 0 {
		return fmt.Sprintf("%d,0", first)
	}
	return fmt.Sprintf("%d,%d", first+1, n)
}

// compareLines lists the edits that turn a into b, equal lines included.
func compareLines(a, b []string) []edit {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	var out []edit
	for i := range head {
		out = append(out, edit{' ', i, i})
	}
	for _, e := range shortest(a[head:len(a)-tail], b[head:len(b)-tail]) {
		out = append(out, edit{e.op, e.i + head, e.j + head})
	}
	for k := range tail {
		out = append(out, edit{' ', len(a) - tail + k, len(b) - tail + k})
	}
	return out
}

// shortest is the greedy algorithm of Myers (An O(ND) Difference Algorithm, 1986): v[k] is the furthest line of a reached on
// diagonal k with d edits; the path is found by walking back through the kept v.
func shortest(a, b []string) []edit {
	n, m := len(a), len(b)
	limit := min(n+m, maxEdits)
	v := make([]int, 2*limit+3)
	off := limit + 1
	var kept [][]int
	for d := 0; d <= limit; d++ {
		kept = append(kept, slices.Clone(v[off-d:off+d+1]))
		for k := -d; k <= d; k += 2 {
			x := v[off+k-1] + 1
			if k == -d || k != d && v[off+k-1] < v[off+k+1] {
				x = v[off+k+1]
			}
			y := x - k
			for x < n && y < m && a[x] == b[y] {
				x, y = x+1, y+1
			}
			v[off+k] = x
			if x >= n && y >= m {
				return walkBack(kept, n, m)
			}
		}
	}
	out := make([]edit, 0, n+m) // too different to be worth more work
	for i := range n {
		out = append(out, edit{'-', i, 0})
	}
	for j := range m {
		out = append(out, edit{'+', n, j})
	}
	return out
}

// walkBack follows the kept states from the end; kept[d] holds v[-d..d] as it was before step d.
func walkBack(kept [][]int, x, y int) []edit {
	var out []edit
	for d := len(kept) - 1; d > 0; d-- {
		v := func(k int) int { // of step d-1, whose diagonals are -d..d in kept[d]
			if k < -d || k > d {
				return -1
			}
			return kept[d][k+d]
		}
		k := x - y
		op, prev, ex, ey := byte('-'), k-1, 1, 0
		if k == -d || k != d && v(k-1) < v(k+1) {
			op, prev, ex, ey = '+', k+1, 0, 1
		}
		px := v(prev) // the edit of this step leads from (px, py) to (px+ex, py+ey); equal lines follow it
		py := px - prev
		for x > px+ex && y > py+ey {
			x, y = x-1, y-1
			out = append(out, edit{' ', x, y})
		}
		x, y = px, py
		out = append(out, edit{op, x, y})
	}
	for x > 0 && y > 0 {
		x, y = x-1, y-1
		out = append(out, edit{' ', x, y})
	}
	slices.Reverse(out)
	return out
}
