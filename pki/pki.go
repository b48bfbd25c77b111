// Package pki is the certificate authority of an appliance: a root, an issuing CA, the certificates of the appliance's own
// roles, and the locally significant certificates (LSC) of phones, with an inventory of all of them.
//
// The engine is smallstep/certificates; none of its types leaves this package. Its database is the appliance's one store,
// through the adapter in adapter.go, so that no certificate and no revocation exists beside the log of operations.
// Enrolment of phones (CAPF) is in the package capf; enrolment.go ties it to the authority.
//
// The protocol pages behind it are capf.md (§5 the LSC, §6.4 what is checked, §7 what is kept), tlv.md (§5 roles, §8 why
// there are two SAST keys) and certhash.md.
//
// # Hierarchy
//
//	root            RSA 4096, CA, pathlen 1; signs issuing CAs only; its key may leave the appliance
//	└ issuing CA    RSA 2048, CA, pathlen 0; is at the same time the CAPF server's certificate (capf.md §1)
//	  ├ SAST, SAST-RECOVERY, CCM, TFTP, TFTP-EC, TVS, APP-SERVER, VPN, ADMIN, PEERING
//	  └ LSCs of phones
//
// RSA with SHA-256 throughout, but for TFTP-EC: phones compare role certificates byte for byte, yet older firmware cannot
// even parse other algorithms in a chain, and 2048 bits is all that most models verify (capf.md §4). Of the root they see at
// most the signature on the issuing CA, so it may be larger. No certificate ends after 2049, beyond which X.509 changes its
// time format. The issuing CA carries cRLSign besides the two key usages that phones insist on, since OpenSSL takes no CRL
// without it; the reference implementation's CAPF certificates carry it too.
//
// # What this package leaves out
//
// Hardware tokens; certificates for code and mail.
package pki

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"time"
)

// Role is what one of the appliance's own certificates is for. The texts are those of the trust-list page where it has them.
type Role string

// The roles.
const (
	RoleRoot         Role = "ROOT"          // the root; has no Identity
	RoleCAPF         Role = "CAPF"          // the issuing CA
	RoleSAST         Role = "SAST"          // signs trust lists
	RoleSASTRecovery Role = "SAST-RECOVERY" // the second SAST of every list; its key is for the administrator's safe
	RoleCCM          Role = "CCM"           // SIP over TLS
	RoleTFTP         Role = "TFTP"          // signs provisioning files
	RoleTFTPEC       Role = "TFTP-EC"       // HTTPS on 6971
	RoleTVS          Role = "TVS"           // trust verification
	RoleAppServer    Role = "APP-SERVER"    // XML services over HTTPS
	RoleVPN          Role = "VPN"           // VPN gateway
	RoleAdmin        Role = "ADMIN"         // pages and API
	RolePeering      Role = "PEERING"       // the link between two appliances; both sides show it
	RoleIssuer       Role = "ISSUER"        // in records only: another appliance's issuing CA, signed by our root
	RoleACME         Role = "ACME"          // in records only: certificates for machines that fetch them by ACME
	RoleSCEP         Role = "SCEP"          // in records only: certificates for devices that enrol by SCEP
	RoleServer       Role = "SERVER"        // in records only: certificates that NewServerCertificate gave away
)

// Roles lists the roles that have an Identity, in the order in which people look for them.
func Roles() []Role {
	return []Role{RoleSAST, RoleSASTRecovery, RoleCCM, RoleTFTP, RoleTFTPEC, RoleCAPF, RoleTVS, RoleAppServer, RoleVPN, RoleAdmin, RolePeering}
}

// State is the durable, replicated state of the appliance. Keys are per field and start with "pki/".
type State interface {
	Get(key string) ([]byte, bool)
	// Scan calls fn in key order until it returns false. fn must not call the State.
	Scan(prefix string, fn func(key string, value []byte) bool)
	// Write is one atomic group of operations and returns after they are durable.
	Write(ctx context.Context, set map[string][]byte, del ...string) error
}

// Options of an Authority.
type Options struct {
	State State
	// KeyFile holds the key that private keys are encrypted with. It is made on the first start, mode 0600.
	KeyFile string

	Node         string // name of this appliance, in subjects: letters, digits, dot and hyphen
	Organization string // O of every subject
	// Addresses and Names go into the server certificates as alternative names; VPNHosts, each with an optional port, into
	// that of the VPN besides.
	Addresses []netip.Addr
	Names     []string
	VPNHosts  []string

	// PublishURL is the beginning of the addresses of revocation lists, OCSP and CA certificates in what is issued. Empty:
	// certificates carry none.
	PublishURL string

	LSCDays int // life of an LSC; 0 is 365 (1 to 3560)
	// LSCGrace is how long after its end an LSC still proves its device to CAPF, so that a phone that was away can renew.
	LSCGrace time.Duration
	MICRoots []*x509.Certificate // manufacturing CAs, also intermediate ones; trusted for MICs only

	// Phones lists the declared phones that a certificate of a role concerns: for RoleVPN those that use the VPN. Rotations
	// wait for them; without it none begins.
	Phones func(r Role) []string

	Log *slog.Logger
	// Built is when this program was built: no clock before it is believed. Zero is a date that every release is past.
	Built time.Time
	Now   func() time.Time // nil is time.Now
}

// CertState is where a certificate is in its life.
type CertState string

// The states. A certificate for a phone is unconfirmed from the moment it is recorded until the phone says that it has
// stored it.
//
//	(issued) ─► unconfirmed ─► current ─► superseded
//	               │  │           └─► deleted             phone was made to delete it
//	               │  └─► superseded                      a later one was confirmed
//	               └─► deleted                            phone refused to store it
//	any ─► revoked
//
// A certificate of a role is next while a rotation publishes it, then current, then previous while phones may hold nothing
// newer, then superseded.
const (
	Next        CertState = "next"
	Previous    CertState = "previous"
	Unconfirmed CertState = "unconfirmed"
	Current     CertState = "current"
	Superseded  CertState = "superseded"
	Deleted     CertState = "deleted"
	Revoked     CertState = "revoked"
)

// Record is one line of the inventory.
type Record struct {
	Serial      string // hexadecimal, no leading zeros
	Role        Role   // empty for a phone's
	Device      string // empty for the appliance's
	Subject     string
	Key         string // rsa2048, p256, ...
	State       CertState
	Issued      time.Time
	NotBefore   time.Time
	NotAfter    time.Time
	Fingerprint string // SHA-256 of the DER, hexadecimal
	Node        string // identity of the appliance that issued it
	RevokedAt   time.Time
	Reason      string // of the revocation
}

// DeviceIdentity is the device that a certificate proves.
type DeviceIdentity struct {
	Device string
	Kind   string // "LSC" or "MIC"
	// Serial and State are an LSC's. An Unconfirmed one may be given to ConfirmLSC once TLS has shown that the phone holds its
	// key: then it has stored it.
	Serial string
	State  CertState
}

// Errors that callers decide on.
var (
	// ErrClock is wrapped when nothing is issued because the clock cannot be right.
	ErrClock = errors.New("clock is not believable")
	// ErrKeyFile is wrapped when the key file does not open the private keys that the state holds.
	ErrKeyFile = errors.New("key file does not fit the stored keys")
	// ErrUnknown is wrapped when no certificate has the given serial, or the device has none.
	ErrUnknown = errors.New("no such certificate")
	// ErrRefused is wrapped by VerifyDevice when a certificate does not prove a device.
	ErrRefused = errors.New("certificate refused")
)
