package capf

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
)

// The proofs of §6.2 and §6.3 are signatures over two texts:
//
//	device = device name || 0x00 || DER certificate                SIGNED_DATA, SHA2_SIGNED_DATA
//	sudi   = session id, 4 bytes LITTLE-endian || DER certificate  SUDI_DATA; no other field is little-endian
//
// each once with SHA-1 and once with SHA-512. RSA signs the bare digest in a type 1 block without DigestInfo, which is what
// crypto/rsa does for hash 0; EC is ordinary ECDSA.

const hashSHA512 = 0x03 // the triplet tag that names SHA-512

// Identity is a certificate and its key, as a phone holds them.
type Identity struct {
	Certificate []byte // DER
	Key         crypto.Signer
}

// deviceText is what SIGNED_DATA and SHA2_SIGNED_DATA sign.
func deviceText(device string, der []byte) []byte {
	b := make([]byte, 0, len(device)+1+len(der))
	b = append(append(b, device...), 0)
	return append(b, der...)
}

// sudiText is what SUDI_DATA signs.
func sudiText(session uint32, der []byte) []byte {
	b := make([]byte, 0, 4+len(der))
	b = binary.LittleEndian.AppendUint32(b, session)
	return append(b, der...)
}

// prove signs text both ways.
func prove(key crypto.Signer, text []byte) (withSHA1, withSHA512 []byte, err error) {
	d1, d512 := sha1.Sum(text), sha512.Sum512(text)
	sign := func(digest []byte) ([]byte, error) {
		switch key := key.(type) {
		case *rsa.PrivateKey:
			return rsa.SignPKCS1v15(nil, key, crypto.Hash(0), digest)
		case *ecdsa.PrivateKey:
			return ecdsa.SignASN1(rand.Reader, key, digest)
		}
		return nil, fmt.Errorf("capf: sign a proof: key of type %T", key)
	}
	if withSHA1, err = sign(d1[:]); err != nil {
		return nil, nil, err
	}
	withSHA512, err = sign(d512[:])
	return withSHA1, withSHA512, err
}

// verify checks both signatures over text. SHA-1 alone would be forgeable; the second signature is what counts, and the
// first is asked for because the protocol has it.
func verify(pub crypto.PublicKey, text, withSHA1, withSHA512 []byte) error {
	d1, d512 := sha1.Sum(text), sha512.Sum512(text)
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		if err := rsa.VerifyPKCS1v15(pub, crypto.Hash(0), d1[:], withSHA1); err != nil {
			return errors.New("proof with SHA-1 is wrong")
		}
		if err := rsa.VerifyPKCS1v15(pub, crypto.Hash(0), d512[:], withSHA512); err != nil {
			return errors.New("proof with SHA-512 is wrong")
		}
		return nil
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(pub, d1[:], withSHA1) {
			return errors.New("proof with SHA-1 is wrong")
		}
		if !ecdsa.VerifyASN1(pub, d512[:], withSHA512) {
			return errors.New("proof with SHA-512 is wrong")
		}
		return nil
	}
	return fmt.Errorf("certificate with a key of type %T", pub)
}

// signDevice fills the elements that prove the device by certificate.
func (m *AuthResponse) signDevice(id *Identity, typ CertificateType) error {
	withSHA1, withSHA512, err := prove(id.Key, deviceText(m.DeviceName, id.Certificate))
	if err != nil {
		return err
	}
	m.Type, m.Certificate, m.SignedData = typ, id.Certificate, withSHA1
	m.SHA2SignedData = triplet(nil, hashSHA512, withSHA512)
	return nil
}

// signSession fills SUDI_DATA, the proof that is bound to the session.
//
//	00 length(2) DER MIC  ||  01 length(2) signature, SHA-1  ||  03 length(2) signature, SHA-512
func (m *AuthResponse) signSession(id *Identity, session uint32) error {
	withSHA1, withSHA512, err := prove(id.Key, sudiText(session, id.Certificate))
	if err != nil {
		return err
	}
	m.SUDI = triplet(triplet(triplet(nil, 0x00, id.Certificate), 0x01, withSHA1), hashSHA512, withSHA512)
	return nil
}

// verifyDevice checks the proof by certificate and returns the certificate. It says nothing about who issued it.
func (m *AuthResponse) verifyDevice() (*x509.Certificate, error) {
	if len(m.SignedData) == 0 || len(m.SHA2SignedData) == 0 {
		return nil, errors.New("certificate without proof")
	}
	cert, err := x509.ParseCertificate(m.Certificate)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	withSHA512, rest, err := cutTriplet(m.SHA2SignedData, hashSHA512)
	if err != nil {
		return nil, err
	}
	if len(rest) != 0 {
		return nil, malformed("%d bytes after the SHA-512 proof", len(rest))
	}
	return cert, verify(cert.PublicKey, deviceText(m.DeviceName, m.Certificate), m.SignedData, withSHA512)
}

// verifySession checks SUDI_DATA against the session and returns its certificate.
func (m *AuthResponse) verifySession(session uint32) (*x509.Certificate, error) {
	der, rest, err := cutTriplet(m.SUDI, 0x00)
	if err != nil {
		return nil, err
	}
	withSHA1, rest, err := cutTriplet(rest, 0x01)
	if err != nil {
		return nil, err
	}
	withSHA512, rest, err := cutTriplet(rest, hashSHA512)
	if err != nil {
		return nil, err
	}
	if len(rest) != 0 {
		return nil, malformed("%d bytes after the session proof", len(rest))
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate of the session proof: %w", err)
	}
	return cert, verify(cert.PublicKey, sudiText(session, der), withSHA1, withSHA512)
}

// triplet appends tag, length(2) and value.
func triplet(b []byte, tag byte, value []byte) []byte {
	b = append(b, tag, byte(len(value)>>8), byte(len(value)))
	return append(b, value...)
}

// cutTriplet reads a triplet of the given tag and returns its value and what follows.
func cutTriplet(b []byte, tag byte) (value, rest []byte, err error) {
	if len(b) < 3 || b[0] != tag {
		return nil, nil, malformed("proof: triplet %d is missing", tag)
	}
	n := int(binary.BigEndian.Uint16(b[1:]))
	if n > len(b)-3 {
		return nil, nil, malformed("proof: triplet %d runs past the element", tag)
	}
	return b[3 : 3+n], b[3+n:], nil
}
