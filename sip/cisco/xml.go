package cisco

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of a document.
const (
	maxDocument = 64 << 10
	maxNodes    = 4096
	maxDepth    = 32
)

// node is an element, without its name space: phones and servers agree on local names, prefixes vary.
type node struct {
	name     string
	attrs    []xml.Attr
	text     string // character data directly inside, blanks trimmed
	children []*node
}

// child returns the first child called name, or an empty node, so that paths can be followed without checks.
func (n *node) child(name string) *node {
	for _, c := range n.children {
		if c.name == name {
			return c
		}
	}
	return &node{}
}

func (n *node) has(name string) bool { return n.child(name).name != "" }

func (n *node) attr(name string) string {
	for _, a := range n.attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func (n *node) number(name string) int {
	v, _ := strconv.Atoi(n.child(name).text)
	return v
}

// parse reads a document into a tree. A document that says iso-8859-1, or is not valid UTF-8, is read as iso-8859-1.
func parse(b []byte) (*node, error) {
	if len(b) > maxDocument {
		return nil, fmt.Errorf("document longer than %d bytes", maxDocument)
	}
	b = bytes.TrimLeft(b, " \t\r\n\ufeff")
	latin := !utf8.Valid(b)
	if end := bytes.Index(b, []byte("?>")); bytes.HasPrefix(b, []byte("<?xml")) && end > 0 {
		latin = latin || bytes.Contains(bytes.ToLower(b[:end]), []byte("iso-8859-1"))
		b = b[end+2:] // the declaration is read; encoding/xml would refuse the character set
	}
	if latin {
		wide := make([]byte, 0, len(b)+16)
		for _, c := range b {
			wide = utf8.AppendRune(wide, rune(c))
		}
		b = wide
	}
	d := xml.NewDecoder(bytes.NewReader(b))
	var root *node
	var stack []*node
	count := 0
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		switch t := tok.(type) {
		case xml.StartElement:
			if count++; count > maxNodes || len(stack) >= maxDepth {
				return nil, errors.New("document too complex")
			}
			n := &node{name: t.Name.Local, attrs: t.Attr}
			for i := range n.attrs {
				n.attrs[i].Value = rawEscapes(n.attrs[i].Value)
			}
			switch {
			case len(stack) > 0:
				p := stack[len(stack)-1]
				p.children = append(p.children, n)
			case root == nil:
				root = n
			default:
				return nil, errors.New("two root elements")
			}
			stack = append(stack, n)
		case xml.EndElement:
			n := stack[len(stack)-1]
			n.text = rawEscapes(strings.TrimSpace(n.text))
			stack = stack[:len(stack)-1]
		case xml.CharData:
			if len(stack) > 0 {
				stack[len(stack)-1].text += string(t)
			}
		}
	}
	if root == nil {
		return nil, errors.New("no element")
	}
	return root, nil
}

// rawEscapes turns the character U+0080 into the byte 0x80.
func rawEscapes(s string) string { return strings.ReplaceAll(s, "\u0080", "\x80") }

// HasPhrase tells whether s holds a phrase escape.
func HasPhrase(s string) bool {
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 && s[i] == 0x80 {
			return true
		}
		i += n
	}
	return false
}

// Phrase returns the escape for a phrase in the phone's language (sip-calls.md §1.3): Phrase('!') + " 381" is "Call park at 381".
func Phrase(code byte) string { return string([]byte{0x80, code}) }

// writer builds a document line by line.
type writer struct {
	b     strings.Builder
	latin bool
}

func (w *writer) line(parts ...string) {
	for _, p := range parts {
		w.b.WriteString(p)
	}
	w.b.WriteString("\r\n")
}

// text escapes a value. Bytes of iso-8859-1 are kept apart until bytes() knows whether the document needs them.
func (w *writer) text(s string) string {
	w.latin = w.latin || HasPhrase(s)
	var out strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			if s[i] == 0x80 {
				out.WriteByte(0x80)
			} else {
				out.WriteByte('?')
			}
		case r == '&':
			out.WriteString("&amp;")
		case r == '<':
			out.WriteString("&lt;")
		case r == '>':
			out.WriteString("&gt;")
		case r == '"':
			out.WriteString("&quot;")
		case r < 0x20 && r != '\t' && r != '\n' && r != '\r', r == 0xFFFE, r == 0xFFFF:
			out.WriteByte('?') // not allowed in XML at all
		default:
			out.WriteString(s[i : i+n])
		}
		i += n
	}
	return out.String()
}

// element writes <name>value</name>.
func (w *writer) element(name, value string) { w.line("<", name, ">", w.text(value), "</", name, ">") }

func (w *writer) number(name string, value int) { w.element(name, strconv.Itoa(value)) }

// bytes returns the document with its declaration; in iso-8859-1 if a phrase is in it, other characters as references then.
func (w *writer) bytes() []byte {
	if !w.latin {
		return []byte("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n" + w.b.String())
	}
	s := w.b.String()
	out := []byte("<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\r\n")
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			out = append(out, s[i])
		case r > 0xFF:
			out = fmt.Appendf(out, "&#%d;", r)
		default:
			out = append(out, byte(r))
		}
		i += n
	}
	return out
}
