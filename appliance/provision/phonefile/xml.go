package phonefile

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
)

// writer writes XML as phones take it: one declaration, no DTD, no comments, no mixed content.
type writer struct {
	b    bytes.Buffer
	open []string
}

func newWriter() *writer {
	w := &writer{}
	w.b.WriteString("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n")
	return w
}

func (w *writer) indent() {
	for range w.open {
		w.b.WriteString("  ")
	}
}

// tag writes <name a="b" ...; attrs are names and values by turns.
func (w *writer) tag(name string, attrs []string) {
	w.indent()
	w.b.WriteString("<" + name)
	for i := 0; i+1 < len(attrs); i += 2 {
		w.b.WriteString(" " + attrs[i] + `="` + escape(attrs[i+1]) + `"`)
	}
}

// begin opens a container.
func (w *writer) begin(name string, attrs ...string) {
	w.tag(name, attrs)
	w.b.WriteString(">\n")
	w.open = append(w.open, name)
}

// end closes the innermost container.
func (w *writer) end() {
	name := w.open[len(w.open)-1]
	w.open = w.open[:len(w.open)-1]
	w.indent()
	w.b.WriteString("</" + name + ">\n")
}

// in writes a container and what f writes inside.
func (w *writer) in(name string, f func(), attrs ...string) {
	w.begin(name, attrs...)
	f()
	w.end()
}

// el writes an element with text. Empty ones are written <a></a>: every sample that works does so.
func (w *writer) el(name, text string) {
	w.tag(name, nil)
	w.b.WriteString(">" + escape(text) + "</" + name + ">\n")
}

// num writes an element with a number.
func (w *writer) num(name string, n int) { w.el(name, strconv.Itoa(n)) }

// flag writes true or false.
func (w *writer) flag(name string, v bool) { w.el(name, strconv.FormatBool(v)) }

// leaf writes an element that has attributes and no content.
func (w *writer) leaf(name string, attrs ...string) {
	w.tag(name, attrs)
	w.b.WriteString(" />\n")
}

func (w *writer) bytes() []byte { return w.b.Bytes() }

// escape makes s safe in text and attributes. What XML 1.0 cannot hold is dropped: a phone would drop the whole file.
func escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '&':
			b.WriteString("&amp;")
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '"':
			b.WriteString("&quot;")
		case r == '\t' || r == '\n' || r == '\r':
			b.WriteByte(' ')
		case r < 0x20 || r == 0x7f || r == 0xfffe || r == 0xffff || r == utf8.RuneError:
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
