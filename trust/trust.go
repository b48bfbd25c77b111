// Package trust holds what every trust format of the phones shares: roles, the certificates that hold them, the text
// spelling of names (tlv.md §4), digest codes, and the two unrelated values called certHash (certhash.md).
//
// The formats themselves are below: tlv (ITLFile.tlv, CTLFile.tlv), sgn (signed files), enc (encrypted device files and
// their stubs), tvs (the trust verification service). Nothing here opens a socket except tvs.Server and tvs.Client, and
// nothing here makes or keeps a key: callers hand in a Signer.
package trust

import (
	"crypto"
	"crypto/md5"
	"crypto/rsa"
	"crypto/sha1"
	_ "crypto/sha512" // SHA512.Hash().New
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
)

// Role is what a certificate may be used for, with the numbers of trust lists and TVS (tlv.md §5, tvs.md §2).
type Role byte

// Roles that phones know.
const (
	SAST      Role = 0  // signs trust lists
	CCM       Role = 1  // SIP over TLS
	CCMTFTP   Role = 2  // both of its neighbours
	TFTP      Role = 3  // RSA: signs files; EC: HTTPS on 6971
	CAPF      Role = 4  // enrolment
	AppServer Role = 7  // HTTPS XML services
	TVS       Role = 21 // trust verification
)

var roleNames = map[Role]string{
	SAST: "SAST", CCM: "CCM", CCMTFTP: "CCM+TFTP", TFTP: "TFTP", CAPF: "CAPF", AppServer: "APP-SERVER", TVS: "TVS",
}

// String returns the name that the documents use, or role(n) for a number they do not know.
func (r Role) String() string {
	if s, ok := roleNames[r]; ok {
		return s
	}
	return fmt.Sprintf("role(%d)", byte(r))
}

// ParseRole is the inverse of String for the known roles.
func ParseRole(s string) (Role, error) {
	for r, name := range roleNames {
		if name == s {
			return r, nil
		}
	}
	return 0, fmt.Errorf("role %q is not known", s)
}

// Signer is a certificate with its private key.
type Signer struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// Entry is one use of one certificate. A certificate with several roles has several entries.
type Entry struct {
	Cert *x509.Certificate
	Role Role
}

// Digest is a hash algorithm with the codes of tlv.md §2 (tag 8).
type Digest byte

// Digests in use. Code 2 (SHA-256) is named by the formats and used by nobody.
const (
	SHA1   Digest = 1 // 6900, 7900, 8900, 9900 series
	SHA512 Digest = 3 // 7800, 8800 series
)

// Hash returns the algorithm, or 0 for a code that is not in use.
func (d Digest) Hash() crypto.Hash {
	switch d {
	case SHA1:
		return crypto.SHA1
	case SHA512:
		return crypto.SHA512
	}
	return 0
}

// String returns sha1, sha512 or digest(n).
func (d Digest) String() string {
	switch d {
	case SHA1:
		return "sha1"
	case SHA512:
		return "sha512"
	}
	return fmt.Sprintf("digest(%d)", byte(d))
}

// ErrKeySize says that a signer's key has no code in the formats: only RSA with 512, 1024, 2048 or 4096 bits has one.
var ErrKeySize = errors.New("key size has no code in trust formats")

// ModulusCode returns the code of an RSA key's size (tlv.md §2, tag 11). 512 bits have a code too, but are refused: no
// phone that is still in use needs them and crypto/rsa does not sign with them.
func ModulusCode(pub crypto.PublicKey) (byte, error) {
	k, ok := pub.(*rsa.PublicKey)
	if !ok {
		return 0, fmt.Errorf("signer with %T: only RSA can sign: %w", pub, ErrKeySize)
	}
	switch k.N.BitLen() {
	case 1024:
		return 1, nil
	case 2048:
		return 2, nil
	case 4096:
		return 3, nil
	}
	return 0, fmt.Errorf("signer with RSA %d bits: %w", k.N.BitLen(), ErrKeySize)
}

// Check tells whether s can sign trust lists and files: an RSA key with a size code, matching its certificate.
func (s Signer) Check() error {
	if s.Cert == nil || s.Key == nil {
		return errors.New("signer without certificate or key")
	}
	pub, ok := s.Key.Public().(*rsa.PublicKey)
	if !ok {
		_, err := ModulusCode(s.Key.Public())
		return err
	}
	if !pub.Equal(s.Cert.PublicKey) {
		return fmt.Errorf("signer %s: key and certificate do not belong together", s.Cert.Subject.CommonName)
	}
	_, err := ModulusCode(pub)
	return err
}

// Serial returns the serial number as trust formats write it: minimal, unsigned, big-endian, no sign byte.
func Serial(c *x509.Certificate) []byte {
	if b := c.SerialNumber.Bytes(); len(b) > 0 {
		return b
	}
	return []byte{0}
}

// VPNHash is the value of <vpnGroup><credentials><certHashN>: base64 of the SHA-1 of a gateway's DER certificate.
func VPNHash(der []byte) string {
	sum := sha1.Sum(der)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// ConfigHash is the value of <device><certHash> in a stub: the MD5 of the phone's DER certificate in lower-case hex.
func ConfigHash(der []byte) string {
	sum := md5.Sum(der)
	return hex.EncodeToString(sum[:])
}
