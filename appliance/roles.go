package appliance

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"

	"ringfence/pki"
)

// roles hands the authority's certificates to servers.
type roles struct{ ca *pki.Authority }

// certificate is a role's certificate for TLS servers, asked for at each handshake.
func (r *roles) certificate(role pki.Role) func() (*tls.Certificate, error) {
	return func() (*tls.Certificate, error) { return r.ca.Identity(role) }
}

// device says which phone a TLS client certificate proves.
func (r *roles) device(cert *x509.Certificate, chain []*x509.Certificate) (string, error) {
	id, err := r.ca.VerifyDevice(cert, chain, "")
	return id.Device, err
}

// readCertificates reads the PEM files of certificates that a key of the document names.
func readCertificates(key string, files []string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		n := len(all)
		for {
			var block *pem.Block
			if block, b = pem.Decode(b); block == nil {
				break
			}
			if block.Type != "CERTIFICATE" {
				continue
			}
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", key, name, err)
			}
			all = append(all, c)
		}
		if len(all) == n {
			return nil, fmt.Errorf("%s: %s holds no PEM certificate (-----BEGIN CERTIFICATE-----)", key, name)
		}
	}
	return all, nil
}
