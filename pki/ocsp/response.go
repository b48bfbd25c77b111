package ocsp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"time"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// Refused is an answer without a signature (RFC 6960 §4.2.1). As an error it says which.
type Refused byte

// The refusals.
const (
	Malformed    Refused = 1
	Internal     Refused = 2
	TryLater     Refused = 3
	Unauthorized Refused = 6 // asked about certificates of another CA
)

// Error names the refusal.
func (r Refused) Error() string {
	switch r {
	case Malformed:
		return "malformed request"
	case Internal:
		return "internal error"
	case TryLater:
		return "try later"
	case Unauthorized:
		return "unauthorized"
	}
	return "refused"
}

// Marshal is the answer that says no more than that.
//
//	SEQUENCE { ENUMERATED }
func (r Refused) Marshal() []byte { return []byte{0x30, 3, byte(der.ENUM), 1, byte(r)} }

// Status of a certificate.
type Status byte

// The statuses, with their tags.
const (
	Good    Status = 0
	Revoked Status = 1
	Unknown Status = 2
)

// Single is what is said of one certificate.
type Single struct {
	Cert      CertID
	Status    Status
	RevokedAt time.Time
	Reason    int // RFC 5280 §5.3.1; 0 is not written
}

// Response is an answer (RFC 6960 §4.2.1). It never has a nextUpdate: newer information is available at any time, since a
// revocation counts at once.
//
//	SEQUENCE { ENUMERATED 0, [0] SEQUENCE { OID basic, OCTET STRING {
//	  SEQUENCE { SEQUENCE { [2] OCTET STRING hash of the signer's key, produced,
//	                        SEQUENCE OF SEQUENCE { CertID, status, thisUpdate }, [1] extensions },
//	             algorithm, BIT STRING signature } } } }
type Response struct {
	Produced time.Time
	Singles  []Single
	Nonce    []byte // of the request
}

var (
	oidSHA256RSA   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	oidSHA256ECDSA = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
)

// Sign writes an answer that the certificates' issuer signs.
func (r *Response) Sign(issuer *x509.Certificate, key crypto.Signer) ([]byte, error) {
	tbs, err := r.body(issuer)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(tbs)
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	_, ec := key.Public().(*ecdsa.PublicKey)
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Enum(0)
		b.AddASN1(tag0, func(b *cryptobyte.Builder) {
			b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidBasic)
				b.AddASN1(der.OCTET_STRING, func(b *cryptobyte.Builder) {
					b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddBytes(tbs)
						b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
							if ec {
								b.AddASN1ObjectIdentifier(oidSHA256ECDSA)
								return
							}
							b.AddASN1ObjectIdentifier(oidSHA256RSA)
							b.AddASN1NULL()
						})
						b.AddASN1BitString(signature)
					})
				})
			})
		})
	})
	return b.Bytes()
}

func (r *Response) body(issuer *x509.Certificate) ([]byte, error) {
	keyBytes, err := keyBits(issuer)
	if err != nil {
		return nil, err
	}
	if len(r.Singles) == 0 {
		return nil, errors.New("answer about no certificate")
	}
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(tag2, func(b *cryptobyte.Builder) { b.AddASN1OctetString(sum(crypto.SHA1, keyBytes)) })
		b.AddASN1GeneralizedTime(r.Produced.UTC())
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, s := range r.Singles {
				b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
					s.Cert.marshal(b)
					s.status(b)
					b.AddASN1GeneralizedTime(r.Produced.UTC())
				})
			}
		})
		addNonce(b, tag1, r.Nonce)
	})
	return b.Bytes()
}

// status writes the choice: [0] and [2] are NULL, [1] is SEQUENCE { time, [0] ENUMERATED reason }.
func (s Single) status(b *cryptobyte.Builder) {
	if s.Status != Revoked {
		b.AddASN1(der.Tag(s.Status).ContextSpecific(), func(*cryptobyte.Builder) {})
		return
	}
	b.AddASN1(tag1, func(b *cryptobyte.Builder) {
		b.AddASN1GeneralizedTime(s.RevokedAt.UTC())
		if s.Reason != 0 {
			b.AddASN1(tag0, func(b *cryptobyte.Builder) { b.AddASN1Enum(int64(s.Reason)) })
		}
	})
}
