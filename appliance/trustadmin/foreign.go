package trustadmin

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"ringfence/config"
	"ringfence/trust"
	"ringfence/trust/tlv"
)

// foreign are the certificates of other systems that the configuration names.
type foreign struct {
	number  uint64 // of the reading
	entries []foreignEntry
	signers []ForeignSigner
	faults  []string // files that could not be used
}

type foreignEntry struct {
	trust.Entry
	name   string
	ttl    time.Duration
	listed bool
}

// ForeignSigner is the key with which another system signed its trust lists.
type ForeignSigner struct {
	Name string // in the configuration
	trust.Signer
}

// maxForeign bounds one file: a trust list is below 64 KiB.
const maxForeign = 256 << 10

// Reload reads the files that a document names under pki.trusted. A file that cannot be used is left out and warned about:
// phones that work shall not suffer for a migration.
func (k *Keeper) Reload(doc *config.Document) {
	next := &foreign{number: k.foreign.Load().number + 1}
	for _, t := range doc.PKI.Trusted {
		for _, file := range t.Files {
			if err := next.read(t, file); err != nil {
				next.faults = append(next.faults, fmt.Sprintf("pki.trusted %s: %s: %v", t.Name, file, err))
				k.log.Error("certificates of another system", "name", t.Name, "file", file, "err", err)
			}
		}
	}
	k.foreign.Store(next)
	k.Nudge()
}

func (f *foreign) read(t config.TrustedCertificates, file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > maxForeign {
		return fmt.Errorf("is no file of at most %d bytes", maxForeign)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	add := func(c *x509.Certificate, r trust.Role) {
		f.entries = append(f.entries, foreignEntry{Entry: trust.Entry{Cert: c, Role: r}, name: t.Name, ttl: t.TTL.D(), listed: t.Listed})
	}
	if bytes.HasPrefix(b, []byte{1, 0, 2}) { // the VERSION element of a trust list
		l, err := tlv.Parse(b)
		if err == nil {
			err = l.Verify(l.Filename)
		}
		if err != nil {
			return fmt.Errorf("trust list: %w", err)
		}
		for _, e := range l.Entries {
			add(e.Cert, e.Role)
		}
		return nil
	}
	certs, key, err := readPEM(b)
	if err != nil {
		return err
	}
	var roles []trust.Role
	for _, name := range t.Roles {
		r, err := trust.ParseRole(name)
		if err != nil {
			return err
		}
		roles = append(roles, r)
	}
	if key != nil {
		if err := f.signer(t, info, roles, certs, key); err != nil {
			return err
		}
	}
	for _, c := range certs {
		for _, r := range roles {
			add(c, r)
		}
	}
	return nil
}

// signer takes a SAST key of another system.
func (f *foreign) signer(t config.TrustedCertificates, info os.FileInfo, roles []trust.Role, certs []*x509.Certificate, key crypto.Signer) error {
	if !slices.Contains(roles, trust.SAST) {
		return errors.New("holds a private key, which is of use for the role SAST alone: take it out")
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("holds a private key and can be read by others (mode %04o): chmod 600 it", info.Mode().Perm())
	}
	for _, c := range certs {
		if s := (trust.Signer{Cert: c, Key: key}); s.Check() == nil {
			f.signers = append(f.signers, ForeignSigner{Name: t.Name, Signer: s})
			return nil
		}
	}
	return errors.New("the private key belongs to none of the certificates, or is not RSA with 2048 or 4096 bits")
}

// readPEM reads certificates and at most one private key.
func readPEM(b []byte) (certs []*x509.Certificate, key crypto.Signer, err error) {
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			certs = append(certs, c)
		case "PRIVATE KEY", "RSA PRIVATE KEY":
			if key != nil {
				return nil, nil, errors.New("holds more than one private key")
			}
			any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if block.Type == "RSA PRIVATE KEY" {
				any, err = x509.ParsePKCS1PrivateKey(block.Bytes)
			}
			if err != nil {
				return nil, nil, errors.New("the private key cannot be read; an encrypted one has to be decrypted first")
			}
			var ok bool
			if key, ok = any.(crypto.Signer); !ok {
				return nil, nil, errors.New("the private key cannot sign")
			}
		}
	}
	if len(certs) == 0 {
		return nil, nil, errors.New("holds neither a PEM certificate (-----BEGIN CERTIFICATE-----) nor a trust list")
	}
	return certs, key, nil
}
