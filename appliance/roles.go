package appliance

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"time"

	"ringfence/appliance/provision"
	"ringfence/pki"
	"ringfence/trust"
)

// uses says in which roles of trust lists and TVS each certificate of the appliance stands. The VPN's and the pages' are known
// to phones by TVS alone: the one by its hash in the device file, the other not at all until a service URL leads there.
var uses = []struct {
	role   pki.Role
	as     []trust.Role
	listed bool // in trust lists; else TVS vouches
	ec     bool // in lists of version 1.1 only
}{
	{role: pki.RoleSAST, as: []trust.Role{trust.SAST}, listed: true},
	{role: pki.RoleSASTRecovery, as: []trust.Role{trust.SAST}, listed: true},
	{role: pki.RoleCCM, as: []trust.Role{trust.CCM}, listed: true},
	{role: pki.RoleTFTP, as: []trust.Role{trust.TFTP}, listed: true},
	{role: pki.RoleTFTPEC, as: []trust.Role{trust.TFTP}, listed: true, ec: true},
	{role: pki.RoleCAPF, as: []trust.Role{trust.CAPF}, listed: true},
	{role: pki.RoleAppServer, as: []trust.Role{trust.AppServer}, listed: true},
	{role: pki.RoleTVS, as: []trust.Role{trust.TVS}, listed: true},
	{role: pki.RoleVPN, as: []trust.Role{trust.AppServer}},
	{role: pki.RoleAdmin, as: []trust.Role{trust.AppServer}},
}

// roles hands the authority's certificates to what speaks to phones.
type roles struct {
	ca  *pki.Authority
	now func() time.Time
}

// entries are the records of a trust list; those with EC keys only when the list's version has them.
func (r *roles) entries(ec bool) ([]trust.Entry, error) {
	var out []trust.Entry
	for _, u := range uses {
		if !u.listed || u.ec && !ec {
			continue
		}
		id, err := r.ca.Identity(u.role)
		if err != nil {
			return nil, fmt.Errorf("trust list: certificate of %s: %w", u.role, err)
		}
		for _, as := range u.as {
			out = append(out, trust.Entry{Cert: id.Leaf, Role: as})
		}
	}
	return out, nil
}

// signer is the certificate of a role with its key, for signing lists and files.
func (r *roles) signer(role pki.Role) (trust.Signer, error) {
	id, err := r.ca.Identity(role)
	if err != nil {
		return trust.Signer{}, fmt.Errorf("signer %s: %w", role, err)
	}
	key, ok := id.PrivateKey.(crypto.Signer)
	if !ok {
		return trust.Signer{}, fmt.Errorf("signer %s: the key cannot sign", role)
	}
	return trust.Signer{Cert: id.Leaf, Key: key}, nil
}

// lookup is TVS's answer: every certificate that the appliance uses, while it is valid. One past its end is refused, since phones
// are not known to check dates of what was vouched for (tvs.md §3).
func (r *roles) lookup(der []byte) (as []trust.Role, ttl time.Duration, ok bool) {
	for _, u := range uses {
		id, err := r.ca.Identity(u.role)
		if err != nil || !bytes.Equal(id.Leaf.Raw, der) {
			continue
		}
		if now := r.now(); now.Before(id.Leaf.NotBefore) || now.After(id.Leaf.NotAfter) {
			return nil, 0, false
		}
		return u.as, 0, true
	}
	return nil, 0, false
}

// leaf is the certificate of a role, nil when there is none.
func (r *roles) leaf(role pki.Role) *x509.Certificate {
	id, err := r.ca.Identity(role)
	if err != nil {
		return nil
	}
	return id.Leaf
}

// provision is what signs lists and files for phones.
func (r *roles) provision() provision.Trust {
	return provision.Trust{
		Entries:    func() ([]trust.Entry, error) { return r.entries(true) },
		ListSigner: func() (trust.Signer, error) { return r.signer(pki.RoleSAST) },
		FileSigner: func(string) (trust.Signer, error) { return r.signer(pki.RoleTFTP) },
	}
}

// certificate is a role's certificate for TLS servers, asked for at each handshake.
func (r *roles) certificate(role pki.Role) func() (*tls.Certificate, error) {
	return func() (*tls.Certificate, error) { return r.ca.Identity(role) }
}

// device says which phone a TLS client certificate proves.
func (r *roles) device(cert *x509.Certificate, chain []*x509.Certificate) (string, error) {
	id, err := r.ca.VerifyDevice(cert, chain, "")
	return id.Device, err
}

// readCertificates reads PEM files of certificates.
func readCertificates(files []string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("pki.mic_roots: %w", err)
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
				return nil, fmt.Errorf("pki.mic_roots: %s: %w", name, err)
			}
			all = append(all, c)
		}
		if len(all) == n {
			return nil, fmt.Errorf("pki.mic_roots: %s holds no PEM certificate (-----BEGIN CERTIFICATE-----)", name)
		}
	}
	return all, nil
}
