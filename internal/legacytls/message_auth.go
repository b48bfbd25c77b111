package legacytls

import (
	"crypto/tls"

	"golang.org/x/crypto/cryptobyte"
)

// certificate: RFC 5246 §7.4.2. Of a client that has none, the list is empty.
//
//	| length 3 | certificates, each 3+n |
type certificate struct {
	Chain [][]byte
}

// maxChain is how many certificates a client may send.
const maxChain = 10

// Marshal writes the body.
func (m *certificate) Marshal() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, c := range m.Chain {
			b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(c) })
		}
	})
	return built(&b)
}

// Unmarshal reads the body.
func (m *certificate) Unmarshal(body []byte) error {
	*m = certificate{}
	s := cryptobyte.String(body)
	var list cryptobyte.String
	if !s.ReadUint24LengthPrefixed(&list) || !s.Empty() {
		return malformed("certificates")
	}
	for !list.Empty() {
		var c cryptobyte.String
		if !list.ReadUint24LengthPrefixed(&c) || len(c) == 0 || len(m.Chain) == maxChain {
			return malformed("certificates")
		}
		m.Chain = append(m.Chain, clone(c))
	}
	return nil
}

// certificateRequest: RFC 2246 §7.4.4; from TLS 1.2 with algorithms.
//
//	| types 1+n | algorithms 2+2n, TLS 1.2 | authorities 2+n, each 2+n |
type certificateRequest struct {
	Types       []byte
	Algorithms  []uint16 // TLS 1.2 alone
	Authorities [][]byte
}

// What a client's certificate may be and, in TLS 1.2, what it may sign with.
const (
	certTypeRSA = 1
	rsaSHA256   = uint16(tls.PKCS1WithSHA256)
	rsaSHA1     = uint16(tls.PKCS1WithSHA1)
)

// Marshal writes the body for a version.
func (m *certificateRequest) Marshal(version uint16) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(m.Types) })
	if version >= tls.VersionTLS12 {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			for _, a := range m.Algorithms {
				b.AddUint16(a)
			}
		})
	}
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, a := range m.Authorities {
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(a) })
		}
	})
	return built(&b)
}

// Unmarshal reads the body for a version.
func (m *certificateRequest) Unmarshal(version uint16, body []byte) error {
	*m = certificateRequest{}
	s := cryptobyte.String(body)
	var types, algorithms, authorities cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&types) || version >= tls.VersionTLS12 && !s.ReadUint16LengthPrefixed(&algorithms) ||
		!s.ReadUint16LengthPrefixed(&authorities) || !s.Empty() || len(algorithms)%2 != 0 {
		return malformed("certificate request")
	}
	m.Types = clone(types)
	for a := uint16(0); algorithms.ReadUint16(&a); {
		m.Algorithms = append(m.Algorithms, a)
	}
	for !authorities.Empty() {
		var a cryptobyte.String
		if !authorities.ReadUint16LengthPrefixed(&a) {
			return malformed("authorities of certificate request")
		}
		m.Authorities = append(m.Authorities, clone(a))
	}
	return nil
}

// clientKeyExchange: RFC 5246 §7.4.7.1. SSL 3.0 had no length here; TLS has.
//
//	| encrypted premaster secret 2+n |
type clientKeyExchange struct {
	Encrypted []byte
}

// Marshal writes the body.
func (m *clientKeyExchange) Marshal() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(m.Encrypted) })
	return built(&b)
}

// Unmarshal reads the body.
func (m *clientKeyExchange) Unmarshal(body []byte) error {
	*m = clientKeyExchange{}
	s := cryptobyte.String(body)
	var e cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&e) || !s.Empty() {
		return malformed("key exchange")
	}
	m.Encrypted = clone(e)
	return nil
}

// certificateVerify: RFC 2246 §7.4.8; from TLS 1.2 with the algorithm.
//
//	| algorithm 2, TLS 1.2 | signature 2+n |
type certificateVerify struct {
	Algorithm uint16 // TLS 1.2 alone
	Signature []byte
}

// Marshal writes the body for a version.
func (m *certificateVerify) Marshal(version uint16) ([]byte, error) {
	var b cryptobyte.Builder
	if version >= tls.VersionTLS12 {
		b.AddUint16(m.Algorithm)
	}
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(m.Signature) })
	return built(&b)
}

// Unmarshal reads the body for a version.
func (m *certificateVerify) Unmarshal(version uint16, body []byte) error {
	*m = certificateVerify{}
	s := cryptobyte.String(body)
	var sig cryptobyte.String
	if version >= tls.VersionTLS12 && !s.ReadUint16(&m.Algorithm) || !s.ReadUint16LengthPrefixed(&sig) || !s.Empty() {
		return malformed("certificate verify")
	}
	m.Signature = clone(sig)
	return nil
}
