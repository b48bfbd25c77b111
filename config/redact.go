package config

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

const redacted = "[redacted]"

// secretKey finds keys whose value is a secret by their name alone, with usual misspellings left to the span of the line.
var secretKey = regexp.MustCompile(`(?i)["']?\b(\w*pass\w*|\w*pwd\w*|\w*secret\w*|pin|capf_?code|totp|preshared_key)\b["']?\s*:\s*`)

// masked returns a line with its secrets hidden, and where column col went.
func (s *source) masked(line, col int) (string, int) {
	runes := []rune(s.lines[line-1])
	spans := slices.Clone(s.secrets[line])
	if len(spans) == 0 {
		text := string(runes)
		if at := secretKey.FindStringIndex(text); at != nil {
			// {file: ...} and {env: ...} name a secret and hold none.
			if start := len([]rune(text[:at[1]])) + 1; start <= len(runes) && runes[start-1] != '{' {
				end, _ := scalarEnd(runes, start)
				spans = append(spans, span{start, end})
			}
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var out strings.Builder
	moved, next := col, 1
	for _, sp := range spans {
		to := sp.to
		if to == 0 || to > len(runes)+1 {
			to = len(runes) + 1
		}
		if sp.from < next || sp.from > len(runes) {
			continue
		}
		out.WriteString(string(runes[next-1 : sp.from-1]))
		out.WriteString(redacted)
		switch {
		case col >= to:
			moved += len(redacted) - (to - sp.from)
		case col > sp.from:
			moved -= col - sp.from
		}
		next = to
	}
	out.WriteString(string(runes[next-1:]))
	return out.String(), moved
}

// scalarEnd finds where the scalar that starts in column start ends (exclusive), within its line, and whether it is known to
// end there. Where it is not, the rest of the line belongs to it: too much is hidden rather than too little.
func scalarEnd(line []rune, start int) (end int, closed bool) {
	end = len(line) + 1
	if start > len(line) {
		return end, false
	}
	rest := line[start-1:]
	switch quote := rest[0]; quote {
	case '"', '\'':
		for i := 1; i < len(rest); i++ {
			switch {
			case quote == '"' && rest[i] == '\\':
				i++
			case rest[i] == quote && quote == '\'' && i+1 < len(rest) && rest[i+1] == quote:
				i++
			case rest[i] == quote:
				return start + i + 1, true
			}
		}
		return end, false
	case '|', '>':
		return end, false
	}
	for i, r := range rest {
		if r == '#' && i > 0 && (rest[i-1] == ' ' || rest[i-1] == '\t') {
			return start + i - 1, true
		}
	}
	return end, true
}

// hide marks the scalar at p as never to be shown.
func (p pos) hide() {
	if p.src == nil || p.line < 1 || p.line > len(p.src.lines) {
		return
	}
	if p.src.secrets == nil {
		p.src.secrets = map[int][]span{}
	}
	end, _ := scalarEnd([]rune(p.src.lines[p.line-1]), p.col)
	sp := span{p.col, end}
	if !slices.Contains(p.src.secrets[p.line], sp) {
		p.src.secrets[p.line] = append(p.src.secrets[p.line], sp)
	}
}

// redactedText returns the whole source with its secrets hidden.
func (s *source) redactedText() []string {
	out := make([]string, len(s.lines))
	for i := range s.lines {
		out[i], _ = s.masked(i+1, 1)
	}
	return out
}
