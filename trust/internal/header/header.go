// Package header is the signed header that trust lists (.tlv), signed files (.sgn) and encrypted files (.enc.sgn) share
// (tlv.md §1-3, sgn.md, enc.md).
//
//	tag 01 VERSION 2            tlv 1.2, sgn 1.0, enc 2.0
//	tag 02 HEADER_LENGTH 2      bytes up to the payload, signature and padding included
//	tag 1c SIGNER_VERSION 2     trust lists only: 1.0 or 1.1
//	tag 03 SIGNER_INFO n        { 04 SIGNER_NAME, 06 ISSUER_NAME, 05 SERIAL_NUMBER }
//	tag 07 SIGNATURE_INFO 15    { 08 HASH_ALGORITHM 1, 09 { 0a SIGNATURE_ALGORITHM 1, 0b SIGNATURE_MODULUS 1 } }
//	tag 0c SIGNATURE n          over everything in the file but these 3 + n bytes
//	tag 0e FILENAME n
//	tag 0f TIMESTAMP 4
//	tag 10 ENCRYPTION_INFO n    encrypted files only, see Encryption
//	tag 1a PLAIN_HASH_ALGORITHM 1, 1b PLAIN_HASH n   encrypted files only
//	tag 0d PADDING              0 to 3 lone bytes, so that HEADER_LENGTH is a multiple of 4
//
// Each TLV is tag(1) length(2, big-endian) value; text ends with one NUL that the length counts.
package header

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"ringfence/trust"
)

// Tags of the header (tlv.md §2, enc.md). Record tags of trust lists are a name space of their own.
const (
	tagVersion          = 1
	tagHeaderLength     = 2
	tagSignerInfo       = 3
	tagSignerName       = 4
	tagSerial           = 5
	tagIssuerName       = 6
	tagSignatureInfo    = 7
	tagHash             = 8
	tagSignatureAlgInfo = 9
	tagSignatureAlg     = 10
	tagModulus          = 11
	tagSignature        = 12
	tagPadding          = 13
	tagFilename         = 14
	tagTimestamp        = 15
	tagEncryption       = 16
	tagIVInfo           = 17
	tagIVUnknown        = 18
	tagIV               = 19
	tagPaddingCount     = 20
	tagKeyInfo          = 21
	tagKeyUnknown       = 22
	tagKeySize          = 23
	tagKeyAlgorithm     = 24
	tagKey              = 25
	tagPlainHashAlg     = 26
	tagPlainHash        = 27
	tagSignerVersion    = 28
)

// Version is a two-byte version, major and minor.
type Version [2]byte

// Versions of the header by kind of file.
var (
	VersionTLV = Version{1, 2}
	VersionSGN = Version{1, 0}
	VersionENC = Version{2, 0}
)

// Errors that callers decide on.
var (
	ErrSignature = errors.New("signature does not verify")
	ErrSigner    = errors.New("signer is not trusted")
	ErrName      = errors.New("file is signed under another name")
)

// Header is a header without its signature. Fields are in wire order.
type Header struct {
	Version       Version
	SignerVersion Version // zero: absent
	SignerName    string
	IssuerName    string
	Serial        []byte
	Digest        trust.Digest
	Modulus       byte
	Filename      string
	Time          uint32
	Encryption    *Encryption // encrypted files only

	length           int // HEADER_LENGTH
	sigStart, sigEnd int // the SIGNATURE TLV, tag and length included
	signature        []byte
}

// Encryption is what opens an encrypted file (enc.md ".enc.sgn layout").
type Encryption struct {
	IV           [16]byte
	PaddingCount uint16
	KeySize      uint16 // bits of the wrapped key
	KeyAlgorithm byte   // 1
	Key          []byte
	PlainDigest  trust.Digest
	PlainHash    []byte
}

// Length returns the offset of the payload in a parsed file.
func (h *Header) Length() int { return h.length }

// SetSigner fills in names, serial number and key size of the certificate that is to sign.
func (h *Header) SetSigner(c *x509.Certificate) (err error) {
	if h.SignerName, err = trust.NameText(c.RawSubject); err != nil {
		return fmt.Errorf("signer: subject: %w", err)
	}
	if h.IssuerName, err = trust.NameText(c.RawIssuer); err != nil {
		return fmt.Errorf("signer: issuer: %w", err)
	}
	h.Serial = trust.Serial(c)
	h.Modulus, err = trust.ModulusCode(c.PublicKey)
	return err
}

// SignedBy tells whether the header names c as its signer: serial number and issuer (tlv.md §7 point 5).
func (h *Header) SignedBy(c *x509.Certificate) bool {
	issuer, err := trust.NameText(c.RawIssuer)
	return err == nil && issuer == h.IssuerName && bytes.Equal(trust.Serial(c), h.Serial)
}

// Seconds turns a time into the TIMESTAMP of a file, and refuses what does not fit.
func Seconds(t time.Time) (uint32, error) {
	s := t.Unix()
	if s < 0 || s > math.MaxUint32 {
		return 0, fmt.Errorf("time %s does not fit a timestamp", t.UTC().Format(time.RFC3339))
	}
	return uint32(s), nil
}

// AppendTLV appends one TLV. Values are bounded by the callers' formats; one that does not fit is a fault of ours.
func AppendTLV(b []byte, tag byte, value []byte) ([]byte, error) {
	if len(value) > math.MaxUint16 {
		return nil, fmt.Errorf("tag %d: value of %d bytes does not fit", tag, len(value))
	}
	b = append(b, tag, byte(len(value)>>8), byte(len(value)))
	return append(b, value...), nil
}

// Text returns s with its terminating NUL. A NUL inside would let two readers see two names, so it is refused.
func Text(s string) ([]byte, error) {
	if bytes.IndexByte([]byte(s), 0) >= 0 {
		return nil, fmt.Errorf("text %q holds a NUL", s)
	}
	return append([]byte(s), 0), nil
}

// Seal signs header and payload and returns the whole file. h must have its signer set (SetSigner).
func (h *Header) Seal(payload []byte, s trust.Signer) ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	hash := h.Digest.Hash()
	if hash == 0 {
		return nil, fmt.Errorf("digest code %d is not in use", byte(h.Digest))
	}
	head, err := h.marshalHead()
	if err != nil {
		return nil, err
	}
	tail, err := h.marshalTail()
	if err != nil {
		return nil, err
	}
	sigLen := s.Key.Public().(*rsa.PublicKey).Size()
	length := len(head) + 3 + sigLen + len(tail)
	for length%4 != 0 {
		tail = append(tail, tagPadding)
		length++
	}
	if length > math.MaxUint16 {
		return nil, fmt.Errorf("header of %d bytes does not fit", length)
	}
	// HEADER_LENGTH holds its final value in the signed bytes (tlv.md §3).
	binary.BigEndian.PutUint16(head[8:], uint16(length))

	d := hash.New()
	d.Write(head)
	d.Write(tail)
	d.Write(payload)
	sig, err := s.Key.Sign(rand.Reader, d.Sum(nil), hash)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", h.Filename, err)
	}
	if len(sig) != sigLen {
		return nil, fmt.Errorf("sign %s: signature of %d bytes, not %d", h.Filename, len(sig), sigLen)
	}
	out := make([]byte, 0, length+len(payload))
	out = append(out, head...)
	if out, err = AppendTLV(out, tagSignature, sig); err != nil {
		return nil, err
	}
	out = append(out, tail...)
	return append(out, payload...), nil
}

// builder appends TLVs and remembers the first error.
type builder struct {
	b   []byte
	err error
}

func (w *builder) put(tag byte, value ...byte) {
	if w.err == nil {
		w.b, w.err = AppendTLV(w.b, tag, value)
	}
}

func (w *builder) text(tag byte, s string) {
	v, err := Text(s)
	if w.err == nil {
		w.err = err
	}
	w.put(tag, v...)
}

// nest puts what f writes into a container.
func (w *builder) nest(tag byte, f func(*builder)) {
	in := builder{err: w.err}
	f(&in)
	w.err = in.err
	w.put(tag, in.b...)
}

// marshalHead writes everything before the signature; HEADER_LENGTH is still zero.
func (h *Header) marshalHead() ([]byte, error) {
	var w builder
	w.put(tagVersion, h.Version[:]...)
	w.put(tagHeaderLength, 0, 0)
	if h.SignerVersion != (Version{}) {
		w.put(tagSignerVersion, h.SignerVersion[:]...)
	}
	w.nest(tagSignerInfo, func(w *builder) {
		w.text(tagSignerName, h.SignerName)
		w.text(tagIssuerName, h.IssuerName)
		w.put(tagSerial, h.Serial...)
	})
	w.nest(tagSignatureInfo, func(w *builder) {
		w.put(tagHash, byte(h.Digest))
		w.nest(tagSignatureAlgInfo, func(w *builder) {
			w.put(tagSignatureAlg, 0) // RSA, PKCS#1 v1.5
			w.put(tagModulus, h.Modulus)
		})
	})
	return w.b, w.err
}

// marshalTail writes everything after the signature except the padding.
func (h *Header) marshalTail() ([]byte, error) {
	var w builder
	w.text(tagFilename, h.Filename)
	w.put(tagTimestamp, binary.BigEndian.AppendUint32(nil, h.Time)...)
	if e := h.Encryption; e != nil {
		w.nest(tagEncryption, func(w *builder) {
			w.nest(tagIVInfo, func(w *builder) {
				w.put(tagIVUnknown, 0)
				w.put(tagIV, e.IV[:]...)
				w.put(tagPaddingCount, byte(e.PaddingCount>>8), byte(e.PaddingCount))
			})
			w.nest(tagKeyInfo, func(w *builder) {
				w.put(tagKeyUnknown, 0)
				w.put(tagKeySize, byte(e.KeySize>>8), byte(e.KeySize))
				w.put(tagKeyAlgorithm, e.KeyAlgorithm)
				w.put(tagKey, e.Key...)
			})
		})
		w.put(tagPlainHashAlg, byte(e.PlainDigest))
		w.put(tagPlainHash, e.PlainHash...)
	}
	return w.b, w.err
}
