package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"go.step.sm/crypto/pemutil"
	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// maxBundle bounds a file of keys and certificates; maxChain the CAs above a certificate.
const (
	maxBundle = 256 << 10
	maxChain  = 8
)

// Bundle is a certificate with what belongs to it, as people keep them in files.
type Bundle struct {
	Cert  *x509.Certificate
	Key   crypto.Signer       // nil when the file had none
	Chain []*x509.Certificate // the CAs above, nearest first; the root may be missing
}

// ParseBundle reads PEM (certificates in any order, a key as PKCS #8, PKCS #1 or SEC 1, also encrypted) or PKCS #12. The
// passphrase may be empty. Its errors are for the person who gave the file.
func ParseBundle(data []byte, passphrase string) (*Bundle, error) {
	if len(data) > maxBundle {
		return nil, fmt.Errorf("the file has %d bytes, more than keys and certificates have", len(data))
	}
	if !bytes.Contains(data, []byte("-----BEGIN ")) {
		return parsePKCS12(data, passphrase)
	}
	var certs []*x509.Certificate
	b := &Bundle{}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE", "TRUSTED CERTIFICATE", "X509 CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("certificate %d of the file cannot be read: %w", len(certs)+1, err)
			}
			certs = append(certs, c)
		case "PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
			if b.Key != nil {
				return nil, errors.New("the file holds two private keys: one is wanted")
			}
			var err error
			if b.Key, err = parseKey(block, passphrase); err != nil {
				return nil, err
			}
		}
	}
	return b.order(certs)
}

func parseKey(block *pem.Block, passphrase string) (crypto.Signer, error) {
	locked := block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != ""
	if locked && passphrase == "" {
		return nil, errors.New("the private key is encrypted: its passphrase is wanted")
	}
	var o []pemutil.Options
	if locked {
		o = append(o, pemutil.WithPassword([]byte(passphrase)))
	}
	k, err := pemutil.ParseKey(pem.EncodeToMemory(block), o...)
	if err != nil {
		if locked {
			return nil, errors.New("the private key does not open: wrong passphrase, or damaged")
		}
		return nil, fmt.Errorf("the private key cannot be read: %w", err)
	}
	key, ok := k.(crypto.Signer)
	if !ok {
		return nil, errors.New("the private key is of a kind that cannot sign")
	}
	return key, nil
}

func parsePKCS12(data []byte, passphrase string) (*Bundle, error) {
	k, cert, chain, err := pkcs12.DecodeChain(data, passphrase)
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword) && passphrase == "":
		return nil, errors.New("the file is encrypted: its passphrase is wanted")
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		return nil, errors.New("the file does not open: wrong passphrase")
	case err != nil:
		return nil, fmt.Errorf("the file is neither PEM (-----BEGIN ...) nor PKCS #12 with one key: %w", err)
	}
	key, ok := k.(crypto.Signer)
	if !ok {
		return nil, errors.New("the private key is of a kind that cannot sign")
	}
	return (&Bundle{Key: key}).order(append([]*x509.Certificate{cert}, chain...))
}

// order finds the certificate of the key among certs, or without key the one that is above no other, and sorts those above it.
func (b *Bundle) order(certs []*x509.Certificate) (*Bundle, error) {
	if len(certs) == 0 {
		return nil, errors.New("the file holds no certificate")
	}
	for _, c := range certs {
		switch {
		case b.Key != nil && belongs(b.Key, c):
			b.Cert = c
		case b.Key == nil && b.Cert == nil && !above(c, certs):
			b.Cert = c
		}
	}
	if b.Cert == nil && b.Key == nil {
		b.Cert = certs[0]
	}
	if b.Cert == nil {
		return nil, fmt.Errorf("the private key does not belong to the certificate of %s: give the key that its request was made with", certs[0].Subject)
	}
	for c := b.Cert; len(b.Chain) < maxChain; {
		next := issuerIn(c, certs)
		if next == nil || next.Equal(c) {
			break
		}
		b.Chain = append(b.Chain, next)
		c = next
	}
	return b, nil
}

// belongs reports whether a key is that of a certificate.
func belongs(key crypto.Signer, c *x509.Certificate) bool {
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(c.PublicKey)
}

// above reports whether c issued another one of certs.
func above(c *x509.Certificate, certs []*x509.Certificate) bool {
	for _, x := range certs {
		if !x.Equal(c) && bytes.Equal(x.RawIssuer, c.RawSubject) && x.CheckSignatureFrom(c) == nil {
			return true
		}
	}
	return false
}

// issuerIn finds the issuer of a certificate, by name and key.
func issuerIn(c *x509.Certificate, certs []*x509.Certificate) *x509.Certificate {
	for _, x := range certs {
		if bytes.Equal(c.RawIssuer, x.RawSubject) && verifies(c, x) {
			return x
		}
	}
	return nil
}

// verifies reports whether a certificate's signature is by a parent's key, whatever the parent may do.
func verifies(c, parent *x509.Certificate) bool {
	return parent.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}
