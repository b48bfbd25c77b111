// Package ocsp reads requests and writes answers of the Online Certificate Status Protocol (RFC 6960, and RFC 9654 for the
// nonce): the codec alone, without sockets, clock or knowledge of certificates.
//
// Answers are signed by the issuing CA itself, whose key is at hand wherever its certificates are issued. Left out: signed
// requests (the signature is skipped), extensions other than the nonce, delegated signers.
package ocsp

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // names issuers, as most clients do
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// Bounds of a request. One of a single certificate has about 120 bytes.
const (
	MaxRequest = 8 << 10
	MaxCerts   = 32
	maxNonce   = 128 // RFC 9654 §2.1
)

var (
	oidBasic = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}
	oidNonce = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}

	hashes = []struct {
		oid  asn1.ObjectIdentifier
		hash crypto.Hash
	}{
		{asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}, crypto.SHA1},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, crypto.SHA256},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, crypto.SHA384},
		{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}, crypto.SHA512},
	}
)

// ErrMalformed is wrapped when bytes are no request.
var ErrMalformed = errors.New("malformed OCSP request")

// CertID names a certificate by its issuer and serial number (RFC 6960 §4.1.1).
//
//	SEQUENCE { SEQUENCE { hash OID, parameters }, OCTET STRING hash of the issuer's name,
//	           OCTET STRING hash of the issuer's key, INTEGER serial }
type CertID struct {
	Hash     crypto.Hash // 0: one that is not known here
	NameHash []byte
	KeyHash  []byte
	Serial   *big.Int

	raw []byte // as it came: answers repeat it
}

// NewCertID names a certificate.
func NewCertID(h crypto.Hash, issuer *x509.Certificate, serial *big.Int) (CertID, error) {
	key, err := keyBits(issuer)
	if err != nil {
		return CertID{}, err
	}
	return CertID{Hash: h, NameHash: sum(h, issuer.RawSubject), KeyHash: sum(h, key), Serial: serial}, nil
}

// IssuedBy reports whether the certificate's issuer is the given one.
func (c CertID) IssuedBy(issuer *x509.Certificate) bool {
	key, err := keyBits(issuer)
	return err == nil && c.Hash != 0 && bytes.Equal(c.NameHash, sum(c.Hash, issuer.RawSubject)) && bytes.Equal(c.KeyHash, sum(c.Hash, key))
}

func sum(h crypto.Hash, b []byte) []byte {
	w := h.New()
	w.Write(b)
	return w.Sum(nil)
}

// keyBits is the content of a certificate's subjectPublicKey.
func keyBits(c *x509.Certificate) ([]byte, error) {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &info); err != nil {
		return nil, fmt.Errorf("public key of %s: %w", c.Subject, err)
	}
	return info.Key.RightAlign(), nil
}

func (c *CertID) unmarshal(s *cryptobyte.String) bool {
	var whole, id, alg cryptobyte.String
	var oid asn1.ObjectIdentifier
	c.Serial = new(big.Int)
	if !s.ReadASN1Element(&whole, der.SEQUENCE) {
		return false
	}
	c.raw = bytes.Clone(whole)
	ok := whole.ReadASN1(&id, der.SEQUENCE) && id.ReadASN1(&alg, der.SEQUENCE) && alg.ReadASN1ObjectIdentifier(&oid) &&
		id.ReadASN1Bytes(&c.NameHash, der.OCTET_STRING) && id.ReadASN1Bytes(&c.KeyHash, der.OCTET_STRING) &&
		id.ReadASN1Integer(c.Serial) && id.Empty()
	if !ok {
		return false
	}
	c.NameHash, c.KeyHash = bytes.Clone(c.NameHash), bytes.Clone(c.KeyHash)
	for _, h := range hashes {
		if h.oid.Equal(oid) {
			c.Hash = h.hash
		}
	}
	return true
}

func (c CertID) marshal(b *cryptobyte.Builder) {
	if c.raw != nil {
		b.AddBytes(c.raw)
		return
	}
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, h := range hashes {
				if h.hash == c.Hash {
					b.AddASN1ObjectIdentifier(h.oid)
				}
			}
			b.AddASN1NULL()
		})
		b.AddASN1OctetString(c.NameHash)
		b.AddASN1OctetString(c.KeyHash)
		b.AddASN1BigInt(c.Serial)
	})
}

// Request asks about certificates (RFC 6960 §4.1.1).
//
//	SEQUENCE { SEQUENCE { [0] version, [1] requestor, SEQUENCE OF SEQUENCE { CertID, [0] extensions }, [2] extensions },
//	           [0] signature }
type Request struct {
	Certs []CertID
	Nonce []byte // as in the extension's value; nil when there is none
}

var (
	tag0 = der.Tag(0).Constructed().ContextSpecific()
	tag1 = der.Tag(1).Constructed().ContextSpecific()
	tag2 = der.Tag(2).Constructed().ContextSpecific()
)

// Unmarshal reads a request.
func (r *Request) Unmarshal(b []byte) error {
	fail := func(what string) error { return fmt.Errorf("%w: %s", ErrMalformed, what) }
	if len(b) > MaxRequest {
		return fail("too long")
	}
	*r = Request{}
	s := cryptobyte.String(b)
	var request, tbs, list, extensions cryptobyte.String
	var some bool
	if !s.ReadASN1(&request, der.SEQUENCE) || !s.Empty() || !request.ReadASN1(&tbs, der.SEQUENCE) ||
		!request.SkipOptionalASN1(tag0) || !request.Empty() {
		return fail("not one SEQUENCE")
	}
	if !tbs.SkipOptionalASN1(tag0) || !tbs.SkipOptionalASN1(tag1) || !tbs.ReadASN1(&list, der.SEQUENCE) ||
		!tbs.ReadOptionalASN1(&extensions, &some, tag2) || !tbs.Empty() {
		return fail("body")
	}
	for !list.Empty() {
		var one cryptobyte.String
		var c CertID
		if len(r.Certs) == MaxCerts {
			return fail("too many certificates")
		}
		if !list.ReadASN1(&one, der.SEQUENCE) || !c.unmarshal(&one) || !one.SkipOptionalASN1(tag0) || !one.Empty() {
			return fail("certificate")
		}
		r.Certs = append(r.Certs, c)
	}
	if len(r.Certs) == 0 {
		return fail("no certificate")
	}
	if some && !r.extensions(extensions) {
		return fail("extensions")
	}
	return nil
}

func (r *Request) extensions(b cryptobyte.String) bool {
	var list cryptobyte.String
	if !b.ReadASN1(&list, der.SEQUENCE) || !b.Empty() {
		return false
	}
	for !list.Empty() {
		var one, value cryptobyte.String
		var oid asn1.ObjectIdentifier
		var critical bool
		if !list.ReadASN1(&one, der.SEQUENCE) || !one.ReadASN1ObjectIdentifier(&oid) ||
			!one.ReadOptionalASN1Boolean(&critical, der.BOOLEAN, false) || !one.ReadASN1(&value, der.OCTET_STRING) || !one.Empty() {
			return false
		}
		if !oid.Equal(oidNonce) {
			continue
		}
		// Old clients put the bare nonce here, newer ones an OCTET STRING; both want it back as it was.
		if len(value) == 0 || len(value) > maxNonce+3 || r.Nonce != nil {
			return false
		}
		r.Nonce = bytes.Clone(value)
	}
	return true
}

// Marshal writes a request.
func (r *Request) Marshal() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, c := range r.Certs {
					b.AddASN1(der.SEQUENCE, c.marshal)
				}
			})
			addNonce(b, tag2, r.Nonce)
		})
	})
	return b.Bytes()
}

// addNonce writes the extensions of a request or an answer.
func addNonce(b *cryptobyte.Builder, tag der.Tag, nonce []byte) {
	if nonce == nil {
		return
	}
	b.AddASN1(tag, func(b *cryptobyte.Builder) {
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidNonce)
				b.AddASN1OctetString(nonce)
			})
		})
	})
}
