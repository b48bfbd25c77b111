// Package sgn signs and opens provisioning files (.sgn): the signed header of package header, version 1.0, and then the
// content unchanged (sgn.md). Firmware files carry the same header but Cisco's signature; they are served untouched and
// are no business of this package.
package sgn

import (
	"crypto/x509"
	"fmt"
	"time"

	"ringfence/trust"
	"ringfence/trust/internal/header"
)

// Errors that callers decide on.
var (
	ErrSignature = header.ErrSignature // forged or damaged
	ErrSigner    = header.ErrSigner    // signed by nobody whom the trust list names
	ErrName      = header.ErrName      // another file passed off as this one
)

// File is a signed file as Parse found it. Nothing in it is to be believed before Open accepted it.
type File struct {
	SignerName string
	IssuerName string
	Serial     []byte
	Digest     trust.Digest
	Name       string
	Time       time.Time
	Content    []byte
}

// Sign returns content signed under name, which has to be what the phone asks for, with the folder and .sgn.
func Sign(name string, content []byte, s trust.Signer, d trust.Digest, at time.Time) ([]byte, error) {
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("sign %s: %w", name, err)
	}
	h := header.Header{Version: header.VersionSGN, Digest: d, Filename: name}
	if err := h.SetSigner(s.Cert); err != nil {
		return nil, fmt.Errorf("sign %s: %w", name, err)
	}
	var err error
	if h.Time, err = header.Seconds(at); err != nil {
		return nil, fmt.Errorf("sign %s: %w", name, err)
	}
	return h.Seal(content, s)
}

// Parse reads a signed file without checking its signature.
func Parse(b []byte) (*File, error) {
	h, err := header.Parse(b, header.VersionSGN)
	if err != nil {
		return nil, fmt.Errorf("signed file: %w", err)
	}
	return &File{
		SignerName: h.SignerName,
		IssuerName: h.IssuerName,
		Serial:     h.Serial,
		Digest:     h.Digest,
		Name:       h.Filename,
		Time:       time.Unix(int64(h.Time), 0).UTC(),
		Content:    b[h.Length():],
	}, nil
}

// Open returns the content of a file that was signed under name by one of signers.
func Open(b []byte, name string, signers []*x509.Certificate) ([]byte, error) {
	h, err := header.Parse(b, header.VersionSGN)
	if err != nil {
		return nil, fmt.Errorf("signed file %s: %w", name, err)
	}
	if err := h.VerifyAny(b, name, signers); err != nil {
		return nil, err
	}
	return b[h.Length():], nil
}
