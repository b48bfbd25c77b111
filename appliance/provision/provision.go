// Package provision hands phones their files: trust lists, device files and what those point to, over HTTP (6970), HTTPS
// (6971) and TFTP (69) (provisioning.md §1, §3; sgn.md and enc.md "what is asked for").
//
// Files decides what a device gets under which name; it has no sockets. HTTPServer and TFTPServer carry it. The files are
// rendered by phonefile and signed or sealed at the moment they are asked for, with a cache.
//
// # Who gets secrets
//
// The device file holds the SIP password. What leaves the appliance under the names of an encrypted-mode phone never does,
// by no transport and in no spelling of the name, except:
//
//   - SEP….cnf.xml.enc.sgn, sealed to the RSA key of its current certificate;
//   - SEP….cnf.xml on 6971, if the client proved itself to be that device by a verified client certificate. Phones are not
//     known to present one there, so in practice this serves the stub; but nobody else can be told from a phone on 6971.
//
// Everything else is the stub: encrConfig true, and certHash of that certificate, or an empty one that makes the phone
// enrol. A certificate with an EC key cannot open a sealed file (enc.md), so it counts as none: such a phone is asked to
// enrol for an RSA one. A non-secure phone gets its file in clear because it knows no other way, and its boot record says so.
//
// DHCP, XML services and pushes to phones are not here yet; nor are uploads (firmware, locales, rings, wallpapers).
package provision

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"ringfence/appliance/provision/phonefile"
	"ringfence/config"
	"ringfence/trust"
)

// Transport is how a file was asked for.
type Transport string

// Transports.
const (
	HTTP  Transport = "HTTP"
	HTTPS Transport = "HTTPS"
	TFTP  Transport = "TFTP"
)

// Trust is what the certificate authority gives to trust lists and signatures.
type Trust struct {
	// Entries are the certificates of trust lists with their roles, in order: SAST and recovery SAST first, then CCM, TFTP
	// (RSA and EC), CAPF, APP-SERVER, TVS; of both appliances where there is a pair. EC ones are left out of version 1.0.
	Entries func() ([]trust.Entry, error)
	// ListSigner signs trust lists; it must be a SAST among Entries.
	ListSigner func() (trust.Signer, error)
	// FileSigner signs the files of a device: the RSA TFTP certificate that its list holds.
	FileSigner func(device string) (trust.Signer, error)

	// ListSigners and FileSigners take the place of the two above where certificates may change: the one in use first, then
	// those that phones may know instead. A phone whose list does not name the first SAST gets its list signed by one that it
	// names; its files are signed by the first certificate that its list names.
	ListSigners func() ([]trust.Signer, error)
	FileSigners func() ([]trust.Signer, error)

	// Foreign are signers of other systems whose phones come here; each signs lists that lead such phones over. May be nil.
	Foreign func() []trust.Signer
}

// State is the durable state of the appliance. Keys begin with "trust/".
type State interface {
	Get(key string) ([]byte, bool)
	Write(ctx context.Context, set map[string][]byte, del ...string) error
}

// Local is the lazily written store of this appliance; *store.Local satisfies it.
type Local interface {
	Get(bucket, key string) ([]byte, bool)
	Put(bucket, key string, value []byte)
}

// Options of Files.
type Options struct {
	Doc func() *config.Document
	// Password is the digest password of a phone, declared or generated. The declared one when nil.
	Password func(device string) string
	// LSC is the current certificate of a phone. No phone has one when nil.
	LSC func(device string) (*x509.Certificate, bool)
	// VPNHashes are trust.VPNHash of the current and next certificate of every gateway. May be nil.
	VPNHashes func() []string
	// Appliances are those that phones are to use; the document's node when nil.
	Appliances func(*config.Document) []phonefile.Appliance
	// Offers are the functions that the PBX has.
	Offers phonefile.Features
	Trust  Trust

	// AuthMode is the <capfAuthMode> of a phone's file, so that it agrees with what CAPF will ask for. The document's when nil.
	AuthMode func(device string) int

	// Believes tells whether a phone was seen to trust this appliance: it has enrolled or registered here. Such a phone is not led
	// over from another system. Nobody was when nil.
	Believes func(device string) bool

	// State keeps what has to outlive a restart for certain: which list was published last, so that no later one locks phones
	// out, and what each phone has fetched. May be nil: then this is known until the end of the process.
	State State
	// Local keeps who fetched which list and the time stamps of signed files over a restart. May be nil.
	Local Local
	// Note is the boot record. May be nil.
	Note func(device, step, text string, failed bool)
	// Fetched is told that a phone has fetched a trust list, or a device file with VPN certificates. May be nil; must not block.
	Fetched func(device string)
	Log     *slog.Logger     // may be nil
	Now     func() time.Time // time.Now when nil
}

// Request asks for a file.
type Request struct {
	Name      string // as the phone wrote it, percent-decoded
	Transport Transport
	Source    netip.Addr
	// Proven is the device that a verified client certificate names, "" if none (HTTPS).
	Proven string
}

// File is an answer.
type File struct {
	Name string // as asked for, normalised
	Type string // media type
	Body []byte

	delivered func()
	lost      func(sent int)
}

// Delivered is to be called when the phone has received the whole file.
func (f *File) Delivered() {
	if f.delivered != nil {
		f.delivered()
	}
}

// Lost is to be called when the phone stopped taking the file after sent bytes.
func (f *File) Lost(sent int) {
	if f.lost != nil {
		f.lost(sent)
	}
}

// ErrNotFound is the answer to everything that is not published, whatever the reason: phones go on at once, and strangers
// learn nothing.
var ErrNotFound = errors.New("file not found")
