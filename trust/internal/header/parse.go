package header

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"ringfence/trust"
)

// FormatError is a fault in the bytes of a file.
type FormatError struct {
	Offset int
	Fault  string
}

func (e *FormatError) Error() string { return fmt.Sprintf("offset %d: %s", e.Offset, e.Fault) }

// Bad returns a FormatError.
func Bad(offset int, format string, args ...any) error {
	return &FormatError{Offset: offset, Fault: fmt.Sprintf(format, args...)}
}

// Next reads one TLV of b[at:end] and returns its tag, its value and the offset after it.
func Next(b []byte, at, end int) (tag byte, value []byte, next int, err error) {
	if end-at < 3 {
		return 0, nil, 0, Bad(at, "tag and length cut short")
	}
	n := int(binary.BigEndian.Uint16(b[at+1:]))
	if n > end-at-3 {
		return 0, nil, 0, Bad(at, "tag %d: length %d beyond its container", b[at], n)
	}
	return b[at], b[at+3 : at+3+n], at + 3 + n, nil
}

// ParseText checks and removes the terminating NUL.
func ParseText(v []byte) (string, error) {
	if len(v) == 0 || bytes.IndexByte(v, 0) != len(v)-1 {
		return "", errors.New("text without exactly one NUL at its end")
	}
	if !utf8.Valid(v) {
		return "", errors.New("text is not UTF-8")
	}
	return string(v[:len(v)-1]), nil
}

// containers are the tags whose value is TLVs, with the only tags that may stand inside.
var containers = map[byte]string{
	tagSignerInfo:       string([]byte{tagSignerName, tagIssuerName, tagSerial}),
	tagSignatureInfo:    string([]byte{tagHash, tagSignatureAlgInfo}),
	tagSignatureAlgInfo: string([]byte{tagSignatureAlg, tagModulus}),
	tagEncryption:       string([]byte{tagIVInfo, tagKeyInfo}),
	tagIVInfo:           string([]byte{tagIVUnknown, tagIV, tagPaddingCount}),
	tagKeyInfo:          string([]byte{tagKeyUnknown, tagKeySize, tagKeyAlgorithm, tagKey}),
}

// parent[t] is the container in which a known tag has to stand, 0 for the top.
var parent = func() (p [256]byte) {
	for c, inside := range containers {
		for _, t := range []byte(inside) {
			p[t] = c
		}
	}
	return p
}()

// required tags of every header (tlv.md §7 point 2).
var required = []byte{tagSignerName, tagSerial, tagIssuerName, tagHash, tagSignatureAlg, tagModulus, tagSignature, tagFilename, tagTimestamp}

// required too where the file is encrypted (enc.md).
var requiredEncrypted = []byte{tagIV, tagPaddingCount, tagKeySize, tagKeyAlgorithm, tagKey, tagPlainHashAlg, tagPlainHash}

// Parse reads the header of a file and checks its form (tlv.md §7 points 1 to 3), not its signature.
func Parse(b []byte, want Version) (*Header, error) {
	if len(b) < 10 || !bytes.Equal(b[:3], []byte{tagVersion, 0, 2}) || !bytes.Equal(b[5:8], []byte{tagHeaderLength, 0, 2}) {
		return nil, Bad(0, "no header")
	}
	h := &Header{Version: Version(b[3:5]), length: int(binary.BigEndian.Uint16(b[8:]))}
	if h.Version != want {
		return nil, Bad(3, "header version %d.%d, not %d.%d", h.Version[0], h.Version[1], want[0], want[1])
	}
	if h.length > len(b) {
		return nil, Bad(8, "header of %d bytes in a file of %d", h.length, len(b))
	}
	if h.length < 10 || h.length%4 != 0 {
		return nil, Bad(8, "header length %d", h.length)
	}
	p := parser{b: b, h: h}
	if err := p.walk(10, h.length, 0); err != nil {
		return nil, err
	}
	need := required
	if want == VersionENC {
		need = append(append([]byte(nil), required...), requiredEncrypted...)
	}
	for _, t := range need {
		if !p.seen[t] {
			return nil, Bad(h.length, "tag %d is missing", t)
		}
	}
	if want != VersionENC {
		h.Encryption = nil
	}
	if want == VersionTLV && !p.seen[tagSignerVersion] {
		return nil, Bad(h.length, "tag %d is missing", tagSignerVersion)
	}
	return h, nil
}

type parser struct {
	b    []byte
	h    *Header
	seen [256]bool
}

// walk reads the TLVs of one container (0: the header itself). Nesting is bounded by the table of containers.
func (p *parser) walk(at, end int, in byte) error {
	for at < end {
		if in == 0 && p.b[at] == tagPadding {
			return p.padding(at, end)
		}
		tag, value, next, err := Next(p.b, at, end)
		if err != nil {
			return err
		}
		if p.seen[tag] {
			return Bad(at, "tag %d twice", tag)
		}
		p.seen[tag] = true
		if parent[tag] != in {
			return Bad(at, "tag %d inside %d", tag, in)
		}
		if containers[tag] != "" {
			err = p.walk(at+3, next, tag)
		} else if fault := p.field(tag, value, at); fault != nil {
			err = Bad(at, "tag %d: %v", tag, fault)
		}
		if err != nil {
			return err
		}
		at = next
	}
	return nil
}

func (p *parser) padding(at, end int) error {
	if end-at > 3 {
		return Bad(at, "%d bytes of padding", end-at)
	}
	for ; at < end; at++ {
		if p.b[at] != tagPadding {
			return Bad(at, "byte %#x in the padding", p.b[at])
		}
	}
	return nil
}

// field stores one value. Tags that are not known are signed like all else and passed over.
func (p *parser) field(tag byte, v []byte, at int) (err error) {
	h := p.h
	if h.Encryption == nil && tag >= tagIVUnknown && tag <= tagPlainHash {
		h.Encryption = new(Encryption)
	}
	e := h.Encryption
	switch tag {
	case tagVersion, tagHeaderLength:
		return errors.New("twice")
	case tagSignerVersion:
		return fixed(v, h.SignerVersion[:])
	case tagSignerName:
		h.SignerName, err = ParseText(v)
	case tagIssuerName:
		h.IssuerName, err = ParseText(v)
	case tagSerial:
		if len(v) == 0 {
			return errors.New("empty")
		}
		h.Serial = bytes.Clone(v)
	case tagHash:
		h.Digest, err = digest(v)
	case tagSignatureAlg:
		if !bytes.Equal(v, []byte{0}) {
			return errors.New("not RSA")
		}
	case tagModulus:
		h.Modulus, err = octet(v)
	case tagSignature:
		h.signature = bytes.Clone(v)
		h.sigStart, h.sigEnd = at, at+3+len(v)
	case tagFilename:
		h.Filename, err = ParseText(v)
	case tagTimestamp:
		if len(v) != 4 {
			return fmt.Errorf("length %d, not 4", len(v))
		}
		h.Time = binary.BigEndian.Uint32(v)
	case tagIV:
		return fixed(v, e.IV[:])
	case tagPaddingCount:
		e.PaddingCount, err = word(v)
	case tagKeySize:
		e.KeySize, err = word(v)
	case tagKeyAlgorithm:
		e.KeyAlgorithm, err = octet(v)
	case tagKey:
		e.Key = bytes.Clone(v)
	case tagPlainHashAlg:
		e.PlainDigest, err = digest(v)
	case tagPlainHash:
		e.PlainHash = bytes.Clone(v)
	}
	return err
}

func fixed(v, into []byte) error {
	if len(v) != len(into) {
		return fmt.Errorf("length %d, not %d", len(v), len(into))
	}
	copy(into, v)
	return nil
}

func octet(v []byte) (byte, error) {
	if len(v) != 1 {
		return 0, fmt.Errorf("length %d, not 1", len(v))
	}
	return v[0], nil
}

func word(v []byte) (uint16, error) {
	if len(v) != 2 {
		return 0, fmt.Errorf("length %d, not 2", len(v))
	}
	return binary.BigEndian.Uint16(v), nil
}

func digest(v []byte) (trust.Digest, error) {
	c, err := octet(v)
	if err != nil {
		return 0, err
	}
	d := trust.Digest(c)
	if d.Hash() == 0 {
		return 0, fmt.Errorf("digest code %d is not in use", c)
	}
	return d, nil
}

// Verify checks the signature of file b, of which h is the header, with the key of c (tlv.md §3).
func (h *Header) Verify(b []byte, c *x509.Certificate) error {
	pub, ok := c.PublicKey.(*rsa.PublicKey)
	if !ok {
		return fmt.Errorf("signer %s has no RSA key: %w", h.SignerName, ErrSignature)
	}
	code, err := trust.ModulusCode(pub)
	if err != nil {
		return err
	}
	if code != h.Modulus {
		return fmt.Errorf("key size code %d, the signer's is %d: %w", h.Modulus, code, ErrSignature)
	}
	hash := h.Digest.Hash()
	d := hash.New()
	d.Write(b[:h.sigStart])
	d.Write(b[h.sigEnd:])
	if err := rsa.VerifyPKCS1v15(pub, hash, d.Sum(nil), h.signature); err != nil {
		return fmt.Errorf("%s signed by %s: %w", h.Filename, h.SignerName, ErrSignature)
	}
	return nil
}

// VerifyAny checks that file b was signed under name by one of signers.
func (h *Header) VerifyAny(b []byte, name string, signers []*x509.Certificate) error {
	err := fmt.Errorf("%s signed by %s: %w", name, h.SignerName, ErrSigner)
	for _, c := range signers {
		if !h.SignedBy(c) {
			continue
		}
		if err = h.Verify(b, c); err != nil {
			continue
		}
		// The name is believed only once the signature is.
		if h.Filename != name {
			return fmt.Errorf("%q, not %q: %w", h.Filename, name, ErrName)
		}
		return nil
	}
	return err
}
