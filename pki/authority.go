package pki

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/db"
	"go.step.sm/crypto/x509util"
)

// Authority is the certificate authority of one appliance. Its methods may be called from any goroutine.
type Authority struct {
	opts Options
	log  *slog.Logger
	seal *sealer
	db   *db.DB // the engine's database, over the State

	engineMu     sync.Mutex
	engine       *authority.Authority
	engineSerial string // of the issuing CA that the engine signs with

	stripes [64]sync.Mutex // one device's changes of state come one after the other; see lock

	mu         sync.Mutex
	parsed     map[string]*x509.Certificate // by serial
	identities map[string]*tls.Certificate  // of the appliance's roles, by serial

	rotateMu sync.Mutex    // rotations read before they write
	changes  atomic.Uint64 // see Generation

	crlMu sync.Mutex        // one CRL is made at a time
	crls  map[string][]byte // the last ones, by the issuer's serial

	answerMu sync.Mutex
	answers  map[[32]byte]answer // of OCSP
}

// Open opens the authority in the State. On the first start it makes the key file and, in one group, all keys and
// certificates; later, those of roles that are new.
func Open(ctx context.Context, o Options) (*Authority, error) {
	if o.State == nil || o.KeyFile == "" {
		return nil, errors.New("pki: options without state or key file")
	}
	if o.LSCDays == 0 {
		o.LSCDays = 365
	}
	if o.LSCDays < 1 || o.LSCDays > 3560 {
		return nil, fmt.Errorf("pki: life of phones' certificates of %d days is not within 1 to 3560", o.LSCDays)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Node == "" {
		o.Node = "ringfence"
	}
	a := &Authority{
		opts: o, log: o.Log.With("component", "pki"),
		parsed: make(map[string]*x509.Certificate), identities: make(map[string]*tls.Certificate), crls: make(map[string][]byte),
		answers: make(map[[32]byte]answer),
	}
	a.opts.State = counted{State: o.State, changes: &a.changes}
	if err := a.openKeyFile(); err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	a.db = &db.DB{DB: &table{state: a.opts.State}}
	if err := a.complete(ctx); err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	return a, nil
}

// openKeyFile reads the key file and makes it when there is neither file nor authority. Making a new one beside the records
// of an existing authority would strand every phone that trusts the old SAST key, so that is refused.
func (a *Authority) openKeyFile() error {
	key, err := readKeyFile(a.opts.KeyFile)
	if err != nil {
		return err
	}
	stored := ""
	a.opts.State.Scan("pki/key/", func(k string, _ []byte) bool { stored = k; return false })
	switch {
	case key == nil && stored != "":
		return fmt.Errorf("%w: %s is missing, and the state holds private keys that only it opens: put it back from the backup",
			ErrKeyFile, a.opts.KeyFile)
	case key == nil:
		if err := a.clockFit(a.opts.Now()); err != nil {
			return err
		}
		if key, err = makeKeyFile(a.opts.KeyFile); err != nil {
			return err
		}
	}
	if a.seal, err = newSealer(key); err != nil {
		return err
	}
	own := false
	a.opts.State.Scan("pki/key/"+a.seal.node()+"/", func(string, []byte) bool { own = true; return false })
	if stored != "" && !own {
		return fmt.Errorf("%w: %s is another appliance's: put the right one back from the backup", ErrKeyFile, a.opts.KeyFile)
	}
	return nil
}

func (a *Authority) now() time.Time { return a.opts.Now().UTC() }

// lock serialises changes of one device's fields that read before they write. Disk is waited for under it, which holds up
// nobody but that device, and those few that share its stripe.
func (a *Authority) lock(device string) (unlock func()) {
	h := sha256.Sum256([]byte(device))
	m := &a.stripes[h[0]%byte(len(a.stripes))]
	m.Lock()
	return m.Unlock
}

// serial makes a serial number of 16 bytes: 4 that name the appliance, 12 random ones. The top bit is clear and the first
// byte is not zero (capf.md §5).
func (a *Authority) serial() *big.Int {
	var b [16]byte
	copy(b[:], a.seal.id[:])
	rand.Read(b[4:])
	return new(big.Int).SetBytes(b[:])
}

// current returns the serial of a role's certificate in use on this appliance.
func (a *Authority) current(r Role) (string, bool) {
	v, ok := a.opts.State.Get(a.roleKey(r))
	return string(v), ok
}

// privateKey opens the key that belongs to a certificate.
func (a *Authority) privateKey(serial string) (crypto.Signer, error) {
	k := a.keyKey(serial)
	sealed, ok := a.opts.State.Get(k)
	if !ok {
		return nil, fmt.Errorf("private key of certificate %s is not on this appliance", serial)
	}
	der, err := a.seal.open(k, sealed)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("private key of certificate %s: %w", serial, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("private key of certificate %s: type %T", serial, key)
	}
	return signer, nil
}

// Identity returns the certificate in use for a role and its key. The chain is what a TLS server sends: the certificate and
// the issuing CA. The root is never sent.
func (a *Authority) Identity(r Role) (*tls.Certificate, error) {
	if r == RoleRoot {
		return nil, errors.New("pki: the root has no identity")
	}
	serial, ok := a.current(r)
	if !ok {
		return nil, fmt.Errorf("pki: role %s: %w", r, ErrUnknown)
	}
	return a.identity(serial, r)
}

// maxIdentities bounds the cache of opened keys: three certificates for each role are more than there ever are.
const maxIdentities = 48

// identity opens a certificate of a role with its key.
func (a *Authority) identity(serial string, r Role) (*tls.Certificate, error) {
	a.mu.Lock()
	id := a.identities[serial]
	a.mu.Unlock()
	if id != nil {
		return id, nil
	}
	leaf, err := a.certificate(serial)
	if err != nil {
		return nil, fmt.Errorf("pki: role %s: %w", r, err)
	}
	key, err := a.privateKey(serial)
	if err != nil {
		return nil, fmt.Errorf("pki: role %s: %w", r, err)
	}
	id = &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	chain, given := a.opts.State.Get(chainKey(serial))
	if above, err := x509.ParseCertificates(chain); given && err == nil {
		for _, ca := range above {
			id.Certificate = append(id.Certificate, ca.Raw)
		}
	}
	for _, ca := range a.Issuers() {
		if !given && r != RoleCAPF && leaf.CheckSignatureFrom(ca) == nil {
			id.Certificate = append(id.Certificate, ca.Raw)
			break
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.identities) >= maxIdentities {
		clear(a.identities)
	}
	a.identities[serial] = id
	return id, nil
}

// Roots returns the root certificates of all appliances of the installation.
func (a *Authority) Roots() []*x509.Certificate { return a.authorities(true) }

// Issuers returns the issuing CAs of all appliances, also those that issue no more but whose certificates are still about.
func (a *Authority) Issuers() []*x509.Certificate { return a.authorities(false) }

func (a *Authority) authorities(root bool) []*x509.Certificate {
	var serials []string
	a.opts.State.Scan("pki/ca/", func(k string, _ []byte) bool {
		serials = append(serials, strings.TrimPrefix(k, "pki/ca/"))
		return true
	})
	var out []*x509.Certificate
	for _, s := range serials {
		i, ok := a.info(s)
		if !ok || (i.Role == RoleRoot) != root || a.IsRevoked(s) {
			continue
		}
		if c, err := a.certificate(s); err == nil {
			out = append(out, c)
		}
	}
	return out
}

// issuer returns the issuing CA of this appliance.
func (a *Authority) issuer() (*x509.Certificate, error) {
	serial, ok := a.current(RoleCAPF)
	if !ok {
		return nil, fmt.Errorf("issuing CA: %w", ErrUnknown)
	}
	return a.certificate(serial)
}

// smallstep returns the engine. It is made when it is first needed: that takes some 50 ms, most of them to load the
// system's certificates, and a start has no time for it.
func (a *Authority) smallstep() (*authority.Authority, error) {
	id, err := a.Identity(RoleCAPF)
	if err != nil {
		return nil, err
	}
	serial := serialText(id.Leaf.SerialNumber)
	a.engineMu.Lock()
	defer a.engineMu.Unlock()
	if a.engine != nil && a.engineSerial == serial {
		return a.engine, nil
	}
	a.engine, err = authority.NewEmbedded(
		authority.WithX509RootCerts(a.Roots()...),
		authority.WithX509SignerChain([]*x509.Certificate{id.Leaf}, id.PrivateKey.(crypto.Signer)),
		authority.WithDatabase(a.db),
		authority.WithQuietInit(),
	)
	if err != nil {
		return nil, fmt.Errorf("certificate engine: %w", err)
	}
	a.engineSerial = serial
	return a.engine, nil
}

// sign makes a certificate.
func sign(template, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	cert, err := x509util.CreateCertificate(template, parent, pub, signer)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", template.Subject.CommonName, err)
	}
	return cert, nil
}

func hash32(b []byte) [32]byte { return sha256.Sum256(b) }

func fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hexOf(sum[:])
}
