package phone

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// element is one XML element as the phone's parser keeps it: names without name space, text without surrounding blanks.
type element struct {
	name  string
	attrs map[string]string
	text  string
	kids  []*element
}

const (
	maxXMLDepth    = 32
	maxXMLElements = 20000
)

// parseXML reads a whole document the way a phone does: the first thing that it cannot accept makes it drop all of it.
func parseXML(b []byte) (*element, error) {
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, errors.New("empty document")
	}
	d := xml.NewDecoder(bytes.NewReader(b))
	d.CharsetReader = func(label string, in io.Reader) (io.Reader, error) {
		if strings.EqualFold(label, "iso-8859-1") || strings.EqualFold(label, "latin1") {
			return &latin1Reader{in: in}, nil
		}
		return nil, fmt.Errorf("encoding %q", label)
	}
	var root *element
	var stack []*element
	count, tokens := 0, 0
	for ; ; tokens++ {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		line, _ := d.InputPos()
		switch t := tok.(type) {
		case xml.StartElement:
			if count++; count > maxXMLElements || len(stack) >= maxXMLDepth {
				return nil, fmt.Errorf("line %d: document too large", line)
			}
			e := &element{name: t.Name.Local}
			for _, a := range t.Attr {
				if _, twice := e.attrs[a.Name.Local]; twice && a.Name.Space != "xmlns" {
					return nil, fmt.Errorf("line %d: attribute %s twice", line, a.Name.Local)
				}
				if e.attrs == nil {
					e.attrs = make(map[string]string)
				}
				e.attrs[a.Name.Local] = a.Value
			}
			if len(stack) == 0 {
				if root != nil {
					return nil, fmt.Errorf("line %d: second root element <%s>", line, e.name)
				}
				root = e
			} else {
				up := stack[len(stack)-1]
				up.kids = append(up.kids, e)
			}
			stack = append(stack, e)
		case xml.EndElement:
			top := stack[len(stack)-1]
			top.text = strings.TrimSpace(top.text)
			stack = stack[:len(stack)-1]
		case xml.CharData:
			if len(stack) > 0 {
				stack[len(stack)-1].text += string(t)
			} else if len(bytes.TrimSpace(t)) > 0 {
				return nil, fmt.Errorf("line %d: text outside the root element", line)
			}
		case xml.ProcInst:
			if t.Target == "xml" && tokens != 0 {
				return nil, fmt.Errorf("line %d: XML declaration inside the document", line)
			}
		case xml.Directive:
			return nil, fmt.Errorf("line %d: document type declaration", line)
		}
	}
	if root == nil {
		return nil, errors.New("no root element")
	}
	return root, nil
}

// latin1Reader turns ISO 8859-1 into UTF-8; byte 0x80 of the phrase escapes (overview §7) becomes U+0080.
type latin1Reader struct {
	in   io.Reader
	rest []byte
}

func (l *latin1Reader) Read(p []byte) (int, error) {
	if len(l.rest) == 0 {
		var raw [512]byte
		n, err := l.in.Read(raw[:])
		for _, c := range raw[:n] {
			l.rest = utf8.AppendRune(l.rest, rune(c))
		}
		if n == 0 {
			return 0, err
		}
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// child is the first child of that name, nil if there is none. It may be called on nil.
func (e *element) child(name string) *element {
	if e == nil {
		return nil
	}
	for _, k := range e.kids {
		if k.name == name {
			return k
		}
	}
	return nil
}

// at follows a path of names separated by slashes.
func (e *element) at(path string) *element {
	for _, n := range strings.Split(path, "/") {
		e = e.child(n)
	}
	return e
}

// get is the text at a path, empty if there is none.
func (e *element) get(path string) string {
	if k := e.at(path); k != nil {
		return k.text
	}
	return ""
}

// all are the children of that name.
func (e *element) all(name string) []*element {
	if e == nil {
		return nil
	}
	var out []*element
	for _, k := range e.kids {
		if k.name == name {
			out = append(out, k)
		}
	}
	return out
}

// walk calls f for e and everything below it.
func (e *element) walk(f func(*element) error) error {
	if err := f(e); err != nil {
		return err
	}
	for _, k := range e.kids {
		if err := k.walk(f); err != nil {
			return err
		}
	}
	return nil
}
