// Package enc seals device files to a phone's certificate (.cnf.xml.enc.sgn), opens them, and makes the stub that tells a
// phone to ask for one (enc.md).
//
//	SEP….cnf.xml.sgn      a signed stub: encrConfig true, certHash = MD5 of the phone's certificate
//	SEP….cnf.xml.enc.sgn  signed header version 2.0 with the wrapped AES key, then the cipher text
//
// The cipher is AES-128-CBC with the key wrapped by RSAES-PKCS1-v1_5; both are the format's choice. The signature covers
// the cipher text, so a phone never decrypts what we did not sign. Phones with an EC key cannot be served this way.
package enc

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"ringfence/trust"
	"ringfence/trust/internal/header"
)

// Errors that callers decide on.
var (
	ErrSignature = header.ErrSignature
	ErrSigner    = header.ErrSigner
	ErrName      = header.ErrName
	ErrPhoneKey  = errors.New("phone's key cannot open an encrypted file")  // EC, or a size that no phone has
	ErrCipher    = errors.New("encrypted file does not open with this key") // damaged, or sealed to another key
)

// keyRSA is KEY_ALGORITHM: the AES key is wrapped by RSA.
const keyRSA = 1

// paddingByte fills the last block: carriage returns, not PKCS#7 (enc.md).
const paddingByte = 0x0d

// PhoneKey tells whether files can be sealed to c. The format's page names 1024, 2048 and 4096 bits; 3072 has no known
// obstacle, since KEY_SIZE is a number and not a code, and CAPF hands out such keys when told to.
func PhoneKey(c *x509.Certificate) (*rsa.PublicKey, error) {
	k, ok := c.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%T: %w", c.PublicKey, ErrPhoneKey)
	}
	switch k.N.BitLen() {
	case 1024, 2048, 3072, 4096:
		return k, nil
	}
	return nil, fmt.Errorf("RSA %d bits: %w", k.N.BitLen(), ErrPhoneKey)
}

// Seal encrypts xml to the phone's certificate and signs the result under name.
func Seal(name string, xml []byte, phone *x509.Certificate, s trust.Signer, d trust.Digest, at time.Time) ([]byte, error) {
	b, err := seal(name, xml, phone, s, d, at)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", name, err)
	}
	return b, nil
}

func seal(name string, xml []byte, phone *x509.Certificate, s trust.Signer, d trust.Digest, at time.Time) ([]byte, error) {
	pub, err := PhoneKey(phone)
	if err != nil {
		return nil, err
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	if d.Hash() == 0 {
		return nil, fmt.Errorf("digest code %d is not in use", byte(d))
	}
	h := header.Header{Version: header.VersionENC, Digest: d, Filename: name}
	if err := h.SetSigner(s.Cert); err != nil {
		return nil, err
	}
	if h.Time, err = header.Seconds(at); err != nil {
		return nil, err
	}
	e := &header.Encryption{KeySize: uint16(pub.N.BitLen()), KeyAlgorithm: keyRSA, PlainDigest: d, PlainHash: sum(d, xml)}
	h.Encryption = e

	var key [16]byte
	rand.Read(key[:])
	rand.Read(e.IV[:])
	//lint:ignore SA1019 the format is RSAES-PKCS1-v1_5; nobody can ask us to decrypt, so there is no padding oracle
	if e.Key, err = rsa.EncryptPKCS1v15(rand.Reader, pub, key[:]); err != nil {
		return nil, err
	}
	n := aes.BlockSize - len(xml)%aes.BlockSize // 1 to 16: an aligned file gets a whole block
	e.PaddingCount = uint16(n)
	body := append(bytes.Clone(xml), bytes.Repeat([]byte{paddingByte}, n)...)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	cipher.NewCBCEncrypter(block, e.IV[:]).CryptBlocks(body, body)
	return h.Seal(body, s)
}

// Open verifies a sealed file and decrypts it with the phone's key.
func Open(b []byte, name string, signers []*x509.Certificate, key *rsa.PrivateKey) ([]byte, error) {
	h, err := header.Parse(b, header.VersionENC)
	if err != nil {
		return nil, fmt.Errorf("encrypted file %s: %w", name, err)
	}
	if err := h.VerifyAny(b, name, signers); err != nil {
		return nil, err
	}
	xml, err := decrypt(h.Encryption, b[h.Length():], key)
	if err != nil {
		return nil, fmt.Errorf("encrypted file %s: %w", name, err)
	}
	return xml, nil
}

// decrypt undoes seal. All its refusals are one error: which check failed is no business of who sent the file.
func decrypt(e *header.Encryption, body []byte, key *rsa.PrivateKey) ([]byte, error) {
	if e.KeyAlgorithm != keyRSA || int(e.KeySize) != key.N.BitLen() ||
		e.PaddingCount < 1 || e.PaddingCount > aes.BlockSize ||
		len(body) == 0 || len(body)%aes.BlockSize != 0 {
		return nil, ErrCipher
	}
	// On a bad padding this leaves the random key in place (RFC 8017 §7.2.2), and the plain hash fails below.
	var session [16]byte
	rand.Read(session[:])
	//lint:ignore SA1019 the format is RSAES-PKCS1-v1_5
	if err := rsa.DecryptPKCS1v15SessionKey(nil, key, e.Key, session[:]); err != nil {
		return nil, ErrCipher
	}
	block, err := aes.NewCipher(session[:])
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(body))
	cipher.NewCBCDecrypter(block, e.IV[:]).CryptBlocks(plain, body)
	plain = plain[:len(plain)-int(e.PaddingCount)]
	if subtle.ConstantTimeCompare(sum(e.PlainDigest, plain), e.PlainHash) != 1 {
		return nil, ErrCipher
	}
	return plain, nil
}

func sum(d trust.Digest, b []byte) []byte {
	var h crypto.Hash = d.Hash()
	w := h.New()
	w.Write(b)
	return w.Sum(nil)
}
