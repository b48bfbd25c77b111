package trust

import (
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// attributeNames are the only types that have a name in name text; every other one is a dotted OID (tlv.md §4).
var attributeNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.6": "C",
	"2.5.4.9": "STREET", "0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID",
}

type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

// attributeSET is one relative distinguished name; the suffix SET tells encoding/asn1 what it is.
type attributeSET []attribute

// NameText spells a DER name (RawSubject, RawIssuer) the way trust lists and signed files do: attributes in the
// certificate's own order, TYPE=value, joined by commas without blanks (tlv.md §4). pkix.Name cannot be used: it reverses
// the order and escapes differently.
func NameText(raw []byte) (string, error) {
	var rdns []attributeSET
	rest, err := asn1.Unmarshal(raw, &rdns)
	if err != nil {
		return "", fmt.Errorf("name: %w", err)
	}
	if len(rest) != 0 {
		return "", errors.New("name: bytes after its end")
	}
	var b strings.Builder
	for _, rdn := range rdns {
		for _, a := range rdn {
			value, err := attributeText(a.Value)
			if err != nil {
				return "", fmt.Errorf("name: %s: %w", a.Type, err)
			}
			if b.Len() > 0 {
				b.WriteByte(',')
			}
			if name, ok := attributeNames[a.Type.String()]; ok {
				b.WriteString(name)
			} else {
				b.WriteString(a.Type.String())
			}
			b.WriteByte('=')
			escapeTo(&b, value)
		}
	}
	return b.String(), nil
}

// attributeText turns the string types that occur in names into UTF-8.
func attributeText(v asn1.RawValue) (string, error) {
	if v.Class != asn1.ClassUniversal {
		return "", fmt.Errorf("value of class %d", v.Class)
	}
	switch v.Tag {
	case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String, asn1.TagNumericString:
		if !utf8.Valid(v.Bytes) {
			return "", errors.New("value is not UTF-8")
		}
		return string(v.Bytes), nil
	case asn1.TagT61String: // in practice Latin-1
		r := make([]rune, len(v.Bytes))
		for i, c := range v.Bytes {
			r[i] = rune(c)
		}
		return string(r), nil
	case asn1.TagBMPString:
		if len(v.Bytes)%2 != 0 {
			return "", errors.New("odd length of a two-byte string")
		}
		u := make([]uint16, len(v.Bytes)/2)
		for i := range u {
			u[i] = uint16(v.Bytes[2*i])<<8 | uint16(v.Bytes[2*i+1])
		}
		return string(utf16.Decode(u)), nil
	}
	return "", fmt.Errorf("value of type %d", v.Tag)
}

// escapeTo writes an attribute value with the escapes of tlv.md §4. Note that = is not escaped.
func escapeTo(b *strings.Builder, s string) {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == 0:
			b.WriteString(`\00`)
			continue
		case strings.IndexByte(`\"+,;<>`, c) >= 0,
			i == 0 && (c == '#' || c == ' '),
			i == len(s)-1 && c == ' ':
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
}
