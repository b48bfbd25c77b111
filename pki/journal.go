package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"sort"
	"strings"
	"time"

	"github.com/smallstep/certificates/db"
	"github.com/smallstep/nosql/database"

	"ringfence/pki/capf"
)

// The journal is a set of fields in the State (SERIAL hexadecimal, NODE the identity of an appliance):
//
//	pki/cert/SERIAL/info              what never changes about a certificate, JSON
//	pki/cert/SERIAL/state             unconfirmed, confirmed, superseded, deleted; only of phones' certificates
//	pki/cert/SERIAL/imported          present when it came from elsewhere
//	pki/cert/SERIAL/owner             who it was given to: an ACME account, a SCEP transaction
//	pki/chain/SERIAL                  the CAs between an imported certificate and its root, DER one after the other
//	pki/ca/SERIAL                     present for CA certificates
//	pki/role/NODE/ROLE                serial of the role's certificate in use
//	pki/key/NODE/SERIAL               its private key, sealed
//	pki/rootkey/NODE/SERIAL           the root's private key while it is locked; see root.go
//	pki/request/NODE                  private key of a requested issuing CA, sealed
//	pki/rotate/NODE/ROLE/...          a rotation under way; see rotate.go
//	pki/exported/NODE/SERIAL          when its key was exported
//	pki/device/DEVICE/lsc             serial of the phone's certificate in use
//	pki/device/DEVICE/issued/SERIAL   present for every certificate issued to the phone
//	pki/device/DEVICE/fetched         what the phone last gave back, JSON
//	pki/device/DEVICE/operation       what is scheduled, JSON
//	pki/device/DEVICE/code            keyed digest of the code that was spent
//	pki/clock/NODE                    the latest time that was believed
//	pki/registrar/NODE                serial of the certificate that SCEP requests are encrypted for
//	pki/acme/account/ID               accounts of ACME; see the package acme
//	pki/crl/NODE                      number of the last CRL
//	pki/rootcrl/NODE/SERIAL           the root's CRL, DER
//	pki/db/...                        rows of the engine: the certificates themselves, revocations
//
// A state is derived where it can be, so that no two fields contradict each other after a crash or a merge: a certificate
// is revoked if the engine's table says so, current if its role or device points to it.

// info is what never changes about a certificate.
type info struct {
	Role        Role      `json:"role,omitempty"`
	Device      string    `json:"device,omitempty"`
	Subject     string    `json:"subject"`
	Key         string    `json:"key"`
	Issued      time.Time `json:"issued"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Fingerprint string    `json:"sha256"`
	Node        string    `json:"node"`
}

const (
	storedUnconfirmed = "unconfirmed"
	storedConfirmed   = "confirmed"
	storedSuperseded  = "superseded" // before it was confirmed
	storedDeleted     = "deleted"
)

func infoKey(serial string) string         { return "pki/cert/" + serial + "/info" }
func stateKey(serial string) string        { return "pki/cert/" + serial + "/state" }
func caKey(serial string) string           { return "pki/ca/" + serial }
func (a *Authority) roleKey(r Role) string { return "pki/role/" + a.seal.node() + "/" + string(r) }
func (a *Authority) keyKey(serial string) string {
	return "pki/key/" + a.seal.node() + "/" + serial
}
func (a *Authority) exportedKey(serial string) string {
	return "pki/exported/" + a.seal.node() + "/" + serial
}
func deviceKey(device, field string) string { return "pki/device/" + device + "/" + field }

// serialText is how this package writes serial numbers.
func serialText(n *big.Int) string { return n.Text(16) }

// parseSerial reads a serial as people write it: any case, with or without colons and leading zeros.
func parseSerial(s string) (*big.Int, bool) {
	n, ok := new(big.Int).SetString(strings.ReplaceAll(s, ":", ""), 16)
	return n, ok && n.Sign() > 0
}

// record adds a certificate to a group: the engine's row and our facts. Issued is the time of recording.
func (a *Authority) record(b *batch, cert *x509.Certificate, role Role, device string) error {
	if err := (&db.DB{DB: &table{state: b}}).StoreCertificate(cert); err != nil {
		return fmt.Errorf("record certificate: %w", err)
	}
	serial := serialText(cert.SerialNumber)
	v, err := json.Marshal(info{
		Role: role, Device: device, Subject: cert.Subject.String(), Key: string(capf.KindOf(cert.PublicKey)),
		Issued: a.now(), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter,
		Fingerprint: fingerprint(cert), Node: a.seal.node(),
	})
	if err != nil {
		return fmt.Errorf("record certificate: %w", err)
	}
	b.set[infoKey(serial)] = v
	if cert.IsCA {
		b.set[caKey(serial)] = []byte("1")
	}
	return nil
}

func (a *Authority) info(serial string) (info, bool) {
	var i info
	v, ok := a.opts.State.Get(infoKey(serial))
	if !ok || json.Unmarshal(v, &i) != nil {
		return i, false
	}
	return i, true
}

// certificate returns a recorded certificate.
func (a *Authority) certificate(serial string) (*x509.Certificate, error) {
	a.mu.Lock()
	c := a.parsed[serial]
	a.mu.Unlock()
	if c != nil {
		return c, nil
	}
	n, ok := parseSerial(serial)
	if !ok {
		return nil, fmt.Errorf("serial %.64q: %w", serial, ErrUnknown)
	}
	c, err := a.db.GetCertificate(n.String())
	if err != nil {
		if database.IsErrNotFound(err) {
			err = ErrUnknown
		}
		return nil, fmt.Errorf("certificate %s: %w", serial, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// A certificate never changes under its serial, so any entry may be dropped at any time.
	if len(a.parsed) >= maxParsed {
		clear(a.parsed)
	}
	a.parsed[serial] = c
	return c, nil
}

// maxParsed bounds the cache of parsed certificates: about 3 KiB each.
const maxParsed = 4096

// revocation returns the engine's row about a serial.
func (a *Authority) revocation(serial string) (db.RevokedCertificateInfo, bool) {
	var r db.RevokedCertificateInfo
	n, ok := parseSerial(serial)
	if !ok {
		return r, false
	}
	v, err := a.db.Get([]byte("revoked_x509_certs"), []byte(n.String()))
	if err != nil {
		return r, false
	}
	// A row that cannot be read still revokes.
	_ = json.Unmarshal(v, &r)
	return r, true
}

// IsRevoked reports whether a certificate was revoked.
func (a *Authority) IsRevoked(serial string) bool {
	_, revoked := a.revocation(serial)
	return revoked
}

// stateOf derives where a certificate stands.
func (a *Authority) stateOf(serial string, i info) CertState {
	if a.IsRevoked(serial) {
		return Revoked
	}
	if i.Role.unreplaced() {
		return Current
	}
	if i.Device == "" {
		_, s := a.stands(serial, i)
		return s
	}
	stored, _ := a.opts.State.Get(stateKey(serial))
	if string(stored) == storedDeleted {
		return Deleted
	}
	current, _ := a.opts.State.Get(deviceKey(i.Device, "lsc"))
	if string(current) == serial {
		return Current
	}
	if string(stored) != storedUnconfirmed {
		return Superseded
	}
	if c, ok := a.info(string(current)); ok && c.Issued.After(i.Issued) {
		return Superseded
	}
	return Unconfirmed
}

// unreplaced reports whether nothing takes the place of a role's certificates.
func (r Role) unreplaced() bool { return r == RoleRoot || r == RoleIssuer || r.given() }

// given reports whether certificates of a role are not the appliance's own, but were given to others.
func (r Role) given() bool { return r == RoleServer || r == RoleACME || r == RoleSCEP }

// stands tells in which role an appliance's own certificate stands now, and how. A key that was made for recovery may be
// the signer by now.
func (a *Authority) stands(serial string, i info) (Role, CertState) {
	candidates := []Role{i.Role}
	if i.Role == RoleSASTRecovery {
		candidates = append(candidates, RoleSAST)
	}
	is := func(key string) bool { v, _ := a.opts.State.Get(key); return string(v) == serial }
	for _, r := range candidates {
		if is("pki/role/" + i.Node + "/" + string(r)) {
			return r, Current
		}
	}
	for _, r := range candidates {
		prefix := "pki/rotate/" + i.Node + "/" + string(r) + "/"
		switch {
		case is(prefix + "next"):
			return r, Next
		case is(prefix + "previous"):
			return r, Previous
		}
	}
	return i.Role, Superseded
}

// List returns every certificate, the appliance's own first, then the phones' by device and time.
func (a *Authority) List() []Record {
	var serials []string
	var infos []info
	a.opts.State.Scan("pki/cert/", func(k string, v []byte) bool {
		serial, ok := strings.CutSuffix(strings.TrimPrefix(k, "pki/cert/"), "/info")
		var i info
		if ok && json.Unmarshal(v, &i) == nil {
			serials, infos = append(serials, serial), append(infos, i)
		}
		return true
	})
	out := make([]Record, 0, len(serials))
	for n, i := range infos {
		out = append(out, a.recordOf(serials[n], i))
	}
	sort.SliceStable(out, func(x, y int) bool {
		if out[x].Device != out[y].Device {
			return out[x].Device < out[y].Device
		}
		return out[x].Issued.Before(out[y].Issued)
	})
	return out
}

func (a *Authority) recordOf(serial string, i info) Record {
	r := Record{
		Serial: serial, Role: i.Role, Device: i.Device, Subject: i.Subject, Key: i.Key, State: a.stateOf(serial, i),
		Issued: i.Issued, NotBefore: i.NotBefore, NotAfter: i.NotAfter, Fingerprint: i.Fingerprint, Node: i.Node,
	}
	if i.Device == "" && !i.Role.unreplaced() {
		r.Role, _ = a.stands(serial, i)
	}
	if r.State == Revoked {
		rev, _ := a.revocation(serial)
		r.RevokedAt, r.Reason = rev.RevokedAt, rev.Reason
	}
	return r
}

// Issued returns the certificates ever issued to a device, oldest first.
func (a *Authority) Issued(device string) []Record {
	var out []Record
	for _, serial := range a.issued(device) {
		if i, ok := a.info(serial); ok {
			out = append(out, a.recordOf(serial, i))
		}
	}
	sort.SliceStable(out, func(x, y int) bool { return out[x].Issued.Before(out[y].Issued) })
	return out
}

func (a *Authority) issued(device string) []string {
	prefix := deviceKey(device, "issued/")
	var serials []string
	a.opts.State.Scan(prefix, func(k string, _ []byte) bool {
		serials = append(serials, strings.TrimPrefix(k, prefix))
		return true
	})
	return serials
}

// Find returns the record of a certificate that this authority, or the other appliance's, has issued.
func (a *Authority) Find(der []byte) (Record, bool) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Record{}, false
	}
	serial := serialText(cert.SerialNumber)
	i, ok := a.info(serial)
	if !ok || i.Fingerprint != fingerprint(cert) {
		return Record{}, false
	}
	return a.recordOf(serial, i), true
}

// same reports whether a certificate is byte for byte the recorded one of its serial.
func (a *Authority) same(cert *x509.Certificate) bool {
	have, err := a.certificate(serialText(cert.SerialNumber))
	return err == nil && bytes.Equal(have.Raw, cert.Raw)
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }
