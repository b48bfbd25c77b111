// Package vectors reads the test vectors under trust/testdata for the tests of the formats.
package vectors

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"ringfence/trust"
)

// Manifest is the part of manifest.json that the formats use. The product field is the requirement.
type Manifest struct {
	TLV      []List                     `json:"tlv"`
	SGN      []File                     `json:"sgn"`
	ENC      []File                     `json:"enc"`
	CertHash []CertHash                 `json:"certhash"`
	TVS      []TVS                      `json:"tvs"`
	TVSSetup struct{ Store []TVSEntry } `json:"tvs_setup"`
}

// List is a trust list, good or bad.
type List struct {
	File          string            `json:"file"`
	SignerVersion string            `json:"signer_version"`
	Digest        string            `json:"digest"`
	Filename      string            `json:"filename"`
	Signer        string            `json:"signer"`
	Records       [][2]string       `json:"records"`
	Product       string            `json:"product"`
	Why           string            `json:"why"`
	Continuity    map[string]string `json:"continuity"`
}

// File is a signed or encrypted file, good or bad.
type File struct {
	File     string `json:"file"`
	Stub     string `json:"stub"`
	Signer   string `json:"signer"`
	Phone    string `json:"phone"`
	Digest   string `json:"digest"`
	Filename string `json:"filename"`
	Content  string `json:"content"`
	Plain    string `json:"plain"`
	Product  string `json:"product"`
	Why      string `json:"why"`
}

// CertHash is a hash of a certificate.
type CertHash struct {
	Certificate string `json:"certificate"`
	Digest      string `json:"digest"`
	Value       string `json:"value"`
}

// TVS names a recorded session.
type TVS struct {
	File    string `json:"file"`
	Product string `json:"product"`
}

// TVSEntry is what the recorded server knew.
type TVSEntry struct {
	Certificate string   `json:"certificate"`
	Roles       []string `json:"roles"`
	TTL         int      `json:"ttl"`
}

// root is testdata of the package trust: a test runs in the folder of its package, which is trust or below it.
func root() string {
	up := "."
	for range 5 {
		dir := filepath.Join(up, "testdata")
		if _, err := os.Stat(filepath.Join(dir, "manifest.json")); err == nil {
			return dir
		}
		up = filepath.Join("..", up)
	}
	return "testdata"
}

// Path returns the file of a vector.
func Path(name string) string { return filepath.Join(root(), name) }

// Read returns the bytes of a vector.
func Read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(Path(name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Load reads the manifest.
func Load(t testing.TB) Manifest {
	t.Helper()
	var m Manifest
	if err := json.Unmarshal(Read(t, "manifest.json"), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// Key reads a certificate with its key.
func Key(t testing.TB, name string) trust.Signer {
	t.Helper()
	var s trust.Signer
	for b := Read(t, name); ; {
		p, rest := pem.Decode(b)
		if p == nil {
			break
		}
		b = rest
		var err error
		switch p.Type {
		case "CERTIFICATE":
			if s.Cert == nil {
				s.Cert, err = x509.ParseCertificate(p.Bytes)
			}
		case "PRIVATE KEY":
			var k any
			if k, err = x509.ParsePKCS8PrivateKey(p.Bytes); err == nil {
				s.Key = k.(crypto.Signer)
			}
		case "RSA PRIVATE KEY":
			s.Key, err = x509.ParsePKCS1PrivateKey(p.Bytes)
		case "EC PRIVATE KEY":
			s.Key, err = x509.ParseECPrivateKey(p.Bytes)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if s.Cert == nil {
		t.Fatalf("%s holds no certificate", name)
	}
	return s
}

// Digest returns a digest by its name.
func Digest(t testing.TB, name string) trust.Digest {
	t.Helper()
	for _, d := range []trust.Digest{trust.SHA1, trust.SHA512} {
		if d.String() == name {
			return d
		}
	}
	t.Fatalf("digest %q", name)
	return 0
}
