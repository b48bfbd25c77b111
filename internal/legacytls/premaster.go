package legacytls

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
)

// decrypter returns the key of a certificate for RSA key exchange.
func decrypter(c *tls.Certificate) (crypto.Decrypter, error) {
	d, ok := c.PrivateKey.(crypto.Decrypter)
	if !ok {
		return nil, errors.New("legacytls: the key of the certificate does not decrypt")
	}
	if _, ok := d.Public().(*rsa.PublicKey); !ok {
		return nil, fmt.Errorf("legacytls: the key of the certificate is %T, and old phones need RSA", d.Public())
	}
	return d, nil
}

// openPremaster decrypts a premaster secret. Its first two bytes name the version that the client offered (RFC 5246 §7.4.7.1).
// A secret that is wrong in any way, and a decryption that fails, are answered by a random one, in the same time; then
// nobody but the client knows, when it sees its Finished refused. fault is for the log and never for the wire.
func openPremaster(d crypto.Decrypter, encrypted []byte, version uint16) (premaster []byte, fault error) {
	premaster = make([]byte, premasterLen)
	_, _ = rand.Read(premaster) // never fails (crypto/rand)
	// With a length given, bad padding gives random bytes and no error (crypto/rsa).
	//lint:ignore SA1019 this padding is what RSA key exchange has
	got, err := d.Decrypt(rand.Reader, encrypted, &rsa.PKCS1v15DecryptOptions{SessionKeyLen: premasterLen})
	if err == nil && len(got) != premasterLen {
		err = fmt.Errorf("%d bytes", len(got))
	}
	if err != nil {
		// Only for a ciphertext that is no number below the modulus, which its sender knows, or a key of ours that is broken.
		return premaster, fmt.Errorf("decrypt premaster secret: %w", err)
	}
	good := subtle.ConstantTimeByteEq(got[0], byte(version>>8)) & subtle.ConstantTimeByteEq(got[1], byte(version))
	subtle.ConstantTimeCopy(good, premaster, got)
	return premaster, nil
}
