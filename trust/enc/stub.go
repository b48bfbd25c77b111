package enc

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// copied are the elements of the full file that a stub keeps, in this order (enc.md "Stub"). None of them holds a secret;
// adding one that does would publish it.
var copied = []string{"ipAddressMode", "loadInformation", "capfAuthMode", "capfList"}

// Stub makes the content of SEP….cnf.xml.sgn from the full device file: certHash is trust.ConfigHash of the certificate
// for which the encrypted file is sealed, or empty when the phone has none yet, which makes it start CAPF.
func Stub(full []byte, certHash string) ([]byte, error) {
	root, err := parse(full)
	if err != nil {
		return nil, fmt.Errorf("stub: %w", err)
	}
	if root.name != "device" {
		return nil, fmt.Errorf("stub: root element is %s, not device", root.name)
	}
	stub := &element{name: "device"}
	for _, a := range root.attr {
		if strings.HasPrefix(a, "xmlns") { // the other attributes are dropped
			stub.attr = append(stub.attr, a)
		}
	}
	add := func(name, text string) { stub.child = append(stub.child, &element{name: name, text: text}) }
	add("fullConfig", "false")
	for _, name := range copied {
		for _, c := range root.child {
			if c.name == name {
				stub.child = append(stub.child, c)
				break
			}
		}
	}
	add("certHash", certHash)
	add("encrConfig", "true")

	var b bytes.Buffer
	b.WriteString("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n")
	stub.write(&b, 0)
	return b.Bytes(), nil
}

// element is as much of XML as a device file uses: no mixed content.
type element struct {
	name  string
	attr  []string // as they stand, name="value"
	text  string
	child []*element
}

// maxDepth bounds the nesting that parse follows; device files have 7 levels.
const maxDepth = 32

func parse(b []byte) (*element, error) {
	d := xml.NewDecoder(bytes.NewReader(b))
	top := &element{}
	stack := []*element{top}
	for {
		t, err := d.RawToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		in := stack[len(stack)-1]
		switch t := t.(type) {
		case xml.StartElement:
			if len(stack) > maxDepth {
				return nil, errors.New("elements nested too deeply")
			}
			e := &element{name: qualified(t.Name)}
			for _, a := range t.Attr {
				e.attr = append(e.attr, qualified(a.Name)+`="`+escape(a.Value)+`"`)
			}
			in.child = append(in.child, e)
			stack = append(stack, e)
		case xml.EndElement:
			if len(stack) == 1 || in.name != qualified(t.Name) {
				return nil, fmt.Errorf("element %s ends where %s is open", qualified(t.Name), in.name)
			}
			stack = stack[:len(stack)-1]
		case xml.CharData:
			in.text += string(t)
		}
	}
	if len(stack) != 1 || len(top.child) != 1 {
		return nil, errors.New("not exactly one root element")
	}
	return top.child[0], nil
}

func qualified(n xml.Name) string {
	if n.Space == "" {
		return n.Local
	}
	return n.Space + ":" + n.Local
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder takes every write
	return b.String()
}

func (e *element) write(b *bytes.Buffer, depth int) {
	indent := strings.Repeat("  ", depth)
	b.WriteString(indent + "<" + e.name)
	for _, a := range e.attr {
		b.WriteString(" " + a)
	}
	b.WriteByte('>')
	if len(e.child) > 0 {
		b.WriteByte('\n')
		for _, c := range e.child {
			c.write(b, depth+1)
		}
		b.WriteString(indent)
	} else {
		b.WriteString(escape(e.text))
	}
	b.WriteString("</" + e.name + ">\n")
}
