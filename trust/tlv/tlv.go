// Package tlv builds, reads and checks trust lists: ITLFile.tlv and CTLFile.tlv, versions 1.0 and 1.1 (tlv.md).
//
// A file is the signed header (package header) and then records, one for each use of a certificate:
//
//	tag 01 RECORD_LENGTH 2   bytes of the record including these 5
//	tag 03 SUBJECT_NAME n    text, NUL
//	tag 05 ISSUER_NAME n     text, NUL
//	tag 06 SERIAL_NUMBER n   minimal unsigned
//	tag 04 ROLE 2
//	tag 07 PUBLIC_KEY n      RSA: PKCS#1 RSAPublicKey; EC: uncompressed point
//	tag 08 SIGNATURE n       of the certificate
//	tag 09 CERTIFICATE n     DER
//	(02 DNS_NAME, 0a IP_ADDRESS, 0b CERTIFICATE_HASH, 0c HASH_ALGORITHM: other makers' lists; passed over)
//
// Which list a phone gets, and when a signer may change, is decided above this package; here stand the rules that make a
// list one that phones take: Build refuses to write a list that breaks them, Verify and Continues check them as a phone
// does.
package tlv

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"ringfence/trust"
	"ringfence/trust/internal/header"
)

// FileName values inside lists. Per-device files (ITLSEP….tlv) carry these too (tlv.md §6).
const (
	ITLFile = "ITLFile.tlv"
	CTLFile = "CTLFile.tlv"
)

// MaxSize is the first size that phones do not take (tlv.md §5).
const MaxSize = 64 << 10

// MaxSAST is how many SAST records a list may hold.
const MaxSAST = 2

// Version is what administrators know as the version of a trust list: the header's SIGNER_VERSION.
type Version byte

// Versions. V11 switches on EC certificates, EC keys in CAPF and HTTPS on port 6971.
const (
	V10 Version = iota
	V11
)

// String returns 1.0 or 1.1.
func (v Version) String() string { return fmt.Sprintf("1.%d", byte(v)) }

// Errors that callers decide on.
var (
	ErrTooLarge   = errors.New("trust list reaches 64 KiB")               // publish fewer certificates
	ErrNoSigner   = errors.New("signer is not a SAST of the list")        // a phone would drop the list
	ErrSignature  = header.ErrSignature                                   // forged or damaged
	ErrContinuity = errors.New("signer is not a SAST of the list before") // phones that hold that list would keep it
)

// List is a trust list. SignerName, IssuerName and Serial are what Parse found; Build takes them from the signer.
type List struct {
	Version    Version
	SignerName string
	IssuerName string
	Serial     []byte
	Digest     trust.Digest
	Filename   string
	Time       time.Time
	Entries    []trust.Entry

	raw    []byte
	header *header.Header
}

// Build writes and signs a list. The signer has to be among its SAST entries.
func Build(l List, s trust.Signer) ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("build %s: %w", l.Filename, err)
	}
	if err := l.check(s.Cert); err != nil {
		return nil, fmt.Errorf("build %s: %w", l.Filename, err)
	}
	h := header.Header{
		Version:       header.VersionTLV,
		SignerVersion: header.Version{1, byte(l.Version)},
		Digest:        l.Digest,
		Filename:      l.Filename,
	}
	if err := h.SetSigner(s.Cert); err != nil {
		return nil, fmt.Errorf("build %s: %w", l.Filename, err)
	}
	var err error
	if h.Time, err = header.Seconds(l.Time); err != nil {
		return nil, fmt.Errorf("build %s: %w", l.Filename, err)
	}
	var records []byte
	for _, e := range l.Entries {
		r, err := marshalRecord(e)
		if err != nil {
			return nil, fmt.Errorf("build %s: %s: %w", l.Filename, e.Role, err)
		}
		if records = append(records, r...); len(records) >= MaxSize {
			return nil, fmt.Errorf("build %s: %w", l.Filename, ErrTooLarge)
		}
	}
	b, err := h.Seal(records, s)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", l.Filename, err)
	}
	if len(b) >= MaxSize {
		return nil, fmt.Errorf("build %s: %w", l.Filename, ErrTooLarge)
	}
	return b, nil
}

// check refuses lists that phones would not take.
func (l *List) check(signer *x509.Certificate) error {
	if l.Filename != ITLFile && l.Filename != CTLFile {
		return fmt.Errorf("file name %q: phones know %s and %s", l.Filename, ITLFile, CTLFile)
	}
	if l.Version > V11 {
		return fmt.Errorf("version %s is not known", l.Version)
	}
	sasts, signed := 0, false
	for i, e := range l.Entries {
		if e.Cert == nil {
			return fmt.Errorf("entry %d has no certificate", i+1)
		}
		if _, rsaKey := e.Cert.PublicKey.(*rsa.PublicKey); !rsaKey && l.Version == V10 {
			return fmt.Errorf("%s has an EC key, which needs version 1.1", e.Role)
		}
		if e.Role == trust.SAST {
			sasts++
			signed = signed || bytes.Equal(e.Cert.Raw, signer.Raw)
		}
	}
	if sasts > MaxSAST {
		return fmt.Errorf("%d SAST entries, phones take %d", sasts, MaxSAST)
	}
	if !signed {
		return ErrNoSigner
	}
	return nil
}

// Verify checks the list as a phone does after Parse (tlv.md §7 points 5 to 7): signed by one of its own SAST
// certificates, for the file name that was asked for.
func (l *List) Verify(filename string) error {
	_, err := l.signer(filename)
	return err
}

// Signer returns the SAST certificate that signed the list.
func (l *List) Signer() (*x509.Certificate, error) { return l.signer(l.Filename) }

func (l *List) signer(filename string) (*x509.Certificate, error) {
	if l.header == nil {
		return nil, errors.New("verify a list that was not parsed")
	}
	sast := l.Certificates(trust.SAST)
	if len(sast) > MaxSAST {
		return nil, fmt.Errorf("%d SAST records, phones take %d", len(sast), MaxSAST)
	}
	err := error(ErrNoSigner)
	for _, c := range sast {
		if !l.header.SignedBy(c) {
			continue
		}
		if err = l.header.Verify(l.raw, c); err != nil {
			continue
		}
		if l.Filename != filename {
			return nil, fmt.Errorf("list is named %q, not %q", l.Filename, filename)
		}
		return c, nil
	}
	return nil, err
}

// Continues tells whether a phone that holds old takes next in its place (tlv.md §7 point 8): the signer of next must
// be a SAST of old. A nil old is a phone without a list, which takes any. Both lists must have passed Verify.
func Continues(old, next *List) error {
	signer, err := next.Signer()
	if err != nil {
		return err
	}
	if old == nil {
		return nil
	}
	for _, c := range old.Certificates(trust.SAST) {
		if bytes.Equal(c.Raw, signer.Raw) {
			return nil
		}
	}
	return fmt.Errorf("signer %s: %w", next.SignerName, ErrContinuity)
}

// Certificates returns the certificates with any of the roles, in the list's order.
func (l *List) Certificates(roles ...trust.Role) []*x509.Certificate {
	var out []*x509.Certificate
	for _, e := range l.Entries {
		for _, r := range roles {
			if e.Role == r {
				out = append(out, e.Cert)
				break
			}
		}
	}
	return out
}

// FileSigners returns the certificates that may sign files: RSA with role TFTP or CCM+TFTP (sgn.md).
func (l *List) FileSigners() []*x509.Certificate {
	var out []*x509.Certificate
	for _, c := range l.Certificates(trust.TFTP, trust.CCMTFTP) {
		if _, ok := c.PublicKey.(*rsa.PublicKey); ok {
			out = append(out, c)
		}
	}
	return out
}

// FileServers returns the EC certificates with role TFTP: the HTTPS server on port 6971.
func (l *List) FileServers() []*x509.Certificate {
	var out []*x509.Certificate
	for _, c := range l.Certificates(trust.TFTP) {
		if _, ok := c.PublicKey.(*ecdsa.PublicKey); ok {
			out = append(out, c)
		}
	}
	return out
}

// Roles returns the roles in which the list names exactly this certificate.
func (l *List) Roles(c *x509.Certificate) []trust.Role {
	var out []trust.Role
	for _, e := range l.Entries {
		if bytes.Equal(e.Cert.Raw, c.Raw) {
			out = append(out, e.Role)
		}
	}
	return out
}
