package tlv

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"ringfence/trust"
	"ringfence/trust/internal/header"
)

// Record tags (tlv.md §5); not those of the header.
const (
	recLength      = 1
	recSubject     = 3
	recRole        = 4
	recIssuer      = 5
	recSerial      = 6
	recPublicKey   = 7
	recSignature   = 8
	recCertificate = 9
)

// Parse reads a list and checks its form (tlv.md §7 points 1 to 4): whether it may be believed is Verify's and
// Continues' to say.
func Parse(b []byte) (*List, error) {
	if len(b) >= MaxSize {
		return nil, ErrTooLarge
	}
	b = bytes.Clone(b)
	h, err := header.Parse(b, header.VersionTLV)
	if err != nil {
		return nil, fmt.Errorf("trust list: %w", err)
	}
	if h.SignerVersion[0] != 1 || h.SignerVersion[1] > byte(V11) {
		return nil, fmt.Errorf("trust list: signer version %d.%d is not known", h.SignerVersion[0], h.SignerVersion[1])
	}
	l := &List{
		Version:    Version(h.SignerVersion[1]),
		SignerName: h.SignerName,
		IssuerName: h.IssuerName,
		Serial:     h.Serial,
		Digest:     h.Digest,
		Filename:   h.Filename,
		Time:       time.Unix(int64(h.Time), 0).UTC(),
		raw:        b,
		header:     h,
	}
	for at := h.Length(); at < len(b); {
		e, next, err := parseRecord(b, at)
		if err != nil {
			return nil, fmt.Errorf("trust list: record %d: %w", len(l.Entries)+1, err)
		}
		l.Entries = append(l.Entries, e)
		at = next
	}
	return l, nil
}

// publicKey is the PUBLIC_KEY value: for EC keys the curve is not stated.
func publicKey(c *x509.Certificate) ([]byte, error) {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return x509.MarshalPKCS1PublicKey(k), nil
	case *ecdsa.PublicKey:
		return k.Bytes()
	}
	return nil, fmt.Errorf("key of type %T has no place in a trust list", c.PublicKey)
}

// marshalRecord writes one record, fields in [R]'s order.
func marshalRecord(e trust.Entry) ([]byte, error) {
	fields, err := recordFields(e.Cert)
	if err != nil {
		return nil, err
	}
	r := []byte{recLength, 0, 2, 0, 0}
	for _, f := range []struct {
		tag   byte
		value []byte
	}{
		{recSubject, fields.subject},
		{recIssuer, fields.issuer},
		{recSerial, fields.serial},
		{recRole, []byte{0, byte(e.Role)}},
		{recPublicKey, fields.key},
		{recSignature, e.Cert.Signature},
		{recCertificate, e.Cert.Raw},
	} {
		if r, err = header.AppendTLV(r, f.tag, f.value); err != nil {
			return nil, err
		}
	}
	if len(r) > math.MaxUint16 {
		return nil, ErrTooLarge
	}
	binary.BigEndian.PutUint16(r[3:], uint16(len(r)))
	return r, nil
}

type fields struct{ subject, issuer, serial, key []byte }

// recordFields spells what a record repeats of its certificate.
func recordFields(c *x509.Certificate) (f fields, err error) {
	text := func(raw []byte) []byte {
		if err != nil {
			return nil
		}
		var s string
		if s, err = trust.NameText(raw); err != nil {
			return nil
		}
		var t []byte
		t, err = header.Text(s)
		return t
	}
	f.subject, f.issuer, f.serial = text(c.RawSubject), text(c.RawIssuer), trust.Serial(c)
	if err != nil {
		return f, err
	}
	f.key, err = publicKey(c)
	return f, err
}

// parseRecord reads the record at b[at:] and returns the offset after it. What the record repeats of the certificate must
// be the certificate's: a phone may look up by the one and believe the other.
func parseRecord(b []byte, at int) (trust.Entry, int, error) {
	none := trust.Entry{}
	if len(b)-at < 5 || !bytes.Equal(b[at:at+3], []byte{recLength, 0, 2}) {
		return none, 0, header.Bad(at, "record does not begin with its length")
	}
	n := int(binary.BigEndian.Uint16(b[at+3:]))
	// Below 5 a reader would not move on; 0 did that to a naive one (tlv.md §7).
	if n < 5 || n > len(b)-at {
		return none, 0, header.Bad(at+3, "record length %d with %d bytes left", n, len(b)-at)
	}
	end := at + n
	var seen [256][]byte
	for p := at + 5; p < end; {
		tag, v, next, err := header.Next(b, p, end)
		if err != nil {
			return none, 0, err
		}
		if seen[tag] != nil || tag == recLength {
			return none, 0, header.Bad(p, "record tag %d twice", tag)
		}
		seen[tag], p = v, next
	}
	role := seen[recRole]
	if len(role) != 2 || role[0] != 0 {
		return none, 0, header.Bad(at, "role missing or out of range")
	}
	c, err := x509.ParseCertificate(seen[recCertificate])
	if err != nil {
		return none, 0, header.Bad(at, "certificate: %v", err)
	}
	want, err := recordFields(c)
	if err != nil {
		return none, 0, header.Bad(at, "%v", err)
	}
	for _, f := range []struct {
		name      string
		tag       byte
		want      []byte
		mandatory bool
	}{
		{"subject", recSubject, want.subject, true},
		{"issuer", recIssuer, want.issuer, true},
		{"serial number", recSerial, want.serial, true},
		{"public key", recPublicKey, want.key, true},
		{"signature", recSignature, c.Signature, false},
	} {
		if seen[f.tag] == nil && !f.mandatory {
			continue
		}
		if !bytes.Equal(seen[f.tag], f.want) {
			return none, 0, header.Bad(at, "%s is not the certificate's", f.name)
		}
	}
	return trust.Entry{Cert: c, Role: trust.Role(role[1])}, end, nil
}
