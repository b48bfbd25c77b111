package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Position is a place in a configuration file. Line and Column count from 1; Column counts characters.
type Position struct {
	File         string
	Line, Column int
}

// String formats p as file:line:column.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Error is one fault of a document: where, what is wrong and what would be right.
type Error struct {
	File    string
	Line    int
	Column  int
	Path    string // of the value, as in lines[2].number; empty for faults of form
	Message string
	Hint    string

	at      pos // its excerpt is drawn when all secrets of the document are known
	excerpt string
	order   int // of the file in the order of loading, so that faults sort as an editor would walk them
	cause   error
}

// Brief is the fault on one line: file:line:column: what is wrong (what would be right).
func (e *Error) Brief() string {
	s := Position{e.File, e.Line, e.Column}.String() + ": " + e.Message
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Error is Brief followed by the line of the file with a caret below the place.
func (e *Error) Error() string {
	if e.excerpt == "" {
		return e.Brief()
	}
	return e.Brief() + "\n" + e.excerpt
}

// Unwrap gives the error of the system behind the fault, if there is one.
func (e *Error) Unwrap() error { return e.cause }

// Errors are all faults of a document in the order of their positions.
type Errors []*Error

// Error lists every fault, each with its excerpt.
func (e Errors) Error() string {
	var b strings.Builder
	for i, f := range e {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(f.Error())
	}
	return b.String()
}

// Brief is the first fault on one line, with the number of the others.
func (e Errors) Brief() string {
	switch len(e) {
	case 0:
		return "no fault"
	case 1:
		return e[0].Brief()
	}
	return fmt.Sprintf("%s, and %s; \"ringfence config check\" shows them", e[0].Brief(), count(len(e)-1, "more fault"))
}

// Unwrap lets errors.Is and errors.As look into every fault.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i, f := range e {
		out[i] = f
	}
	return out
}

// Notice is something that is allowed but that the administrator should know.
type Notice struct {
	Position
	Path    string
	Message string
	Hint    string
}

// String is the notice on one line.
func (n Notice) String() string {
	s := n.Position.String() + ": " + n.Message
	if n.Hint != "" {
		s += " (" + n.Hint + ")"
	}
	return s
}

const (
	maxErrors    = 50   // shown; a broken document rarely needs more to be understood
	maxCollected = 2000 // kept for sorting; beyond that only counted
)

// faults collects what is wrong. At most one fault is kept per value, since the first one explains the others.
type faults struct {
	list []*Error
	seen map[faultKey]bool
	more int
}

type faultKey struct {
	at   pos
	path string
}

func (f *faults) add(at pos, path, message, hint string) *Error {
	if f.seen == nil {
		f.seen = map[faultKey]bool{}
	}
	if key := (faultKey{at, path}); f.seen[key] {
		return nil
	} else if len(f.seen) < maxCollected {
		f.seen[key] = true
	}
	if len(f.list) >= maxCollected {
		f.more++
		return nil
	}
	e := &Error{Line: at.line, Column: at.col, Path: path, Message: message, Hint: hint, at: at}
	if at.src != nil {
		e.File, e.order = at.src.name, at.src.order
	}
	f.list = append(f.list, e)
	return e
}

// errors returns the collected faults sorted and bounded, or nil.
func (f *faults) errors() Errors {
	if len(f.list) == 0 {
		return nil
	}
	slices.SortStableFunc(f.list, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	out := Errors(f.list)
	more := f.more
	if len(out) > maxErrors {
		more += len(out) - maxErrors
		out = out[:maxErrors:maxErrors]
	}
	for _, e := range out {
		e.excerpt, e.at = e.at.src.excerpt(e.at.line, e.at.col), pos{}
	}
	if more > 0 {
		out = append(out, &Error{File: out[0].File, Message: fmt.Sprintf("%d more faults are not shown", more), Hint: "correct the first ones and check again"})
	}
	return out
}

// source is one file of a document, kept for excerpts.
type source struct {
	name    string
	order   int
	lines   []string
	secrets map[int][]span // by line; columns that are never shown
}

// span is a range of characters in a line, from 1, end exclusive; to 0 is the end of the line.
type span struct{ from, to int }

// pos is a place in a source. The zero pos is nowhere.
type pos struct {
	src       *source
	line, col int
}

func (p pos) position() Position {
	out := Position{Line: p.line, Column: p.col}
	if p.src != nil {
		out.File = p.src.name
	}
	return out
}

const excerptWidth = 100

// excerpt shows a line with a caret below column col. Secrets in it are masked, and so is the value of any key whose name
// says that it is one, since a fault may have kept us from knowing better.
func (s *source) excerpt(line, col int) string {
	if s == nil || line < 1 || line > len(s.lines) {
		return ""
	}
	text, col := s.masked(line, col)
	runes := []rune(text)
	from, to := 0, len(runes)
	if to > excerptWidth {
		from = max(0, min(col-excerptWidth/2, to-excerptWidth))
		to = from + excerptWidth
	}
	col = min(max(col-from, 1), to-from+1)
	for i := from; i < to; i++ {
		if !unicode.IsPrint(runes[i]) {
			runes[i] = ' ' // a control character must not reach the terminal
		}
	}
	number := fmt.Sprintf("%5d", line)
	return fmt.Sprintf("%s | %s\n%s | %s^", number, strings.TrimRight(string(runes[from:to]), " "),
		strings.Repeat(" ", len(number)), strings.Repeat(" ", col-1))
}
