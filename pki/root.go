package pki

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"ringfence/pki/capf"
)

// The root's key lies in one of three places. On the first day it is open, so that nobody has to think of a passphrase before
// the first phone rings. An administrator locks it with a passphrase, or takes it away.
//
//	          ProtectRoot                 RemoveRootKey
//	(open) ───────────────► (locked) ───────────────────► (away)
//	   ▲   UnprotectRoot       │ ▲      RestoreRoot          │
//	   └───────────────────────┘ └───────────────────────────┘
//
//	open    pki/key/NODE/SERIAL       like every other key, sealed with the key file
//	locked  pki/rootkey/NODE/SERIAL   what Export gives: age, with the passphrase
//
// What only the root can sign (an issuing CA, another appliance's, its revocation list) takes the passphrase while it is locked.

// ErrRootLocked is wrapped when the root's key is wanted and its passphrase was not given.
var ErrRootLocked = errors.New("the root's private key is locked: its passphrase is wanted")

// Where the root's key lies.
const (
	RootOpen   = "open"
	RootLocked = "locked"
	RootAway   = "away"
)

// RootInfo is how the root stands.
type RootInfo struct {
	Subject  string    `json:"subject"`
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
	Key      string    `json:"key"` // open, locked or away
	Exported time.Time `json:"exported,omitzero"`
}

func (a *Authority) rootKeyKey(serial string) string {
	return "pki/rootkey/" + a.seal.node() + "/" + serial
}

// root returns the root of this appliance and its serial.
func (a *Authority) root() (*x509.Certificate, string, error) {
	serial, ok := a.current(RoleRoot)
	if !ok {
		return nil, "", fmt.Errorf("root: %w", ErrUnknown)
	}
	c, err := a.certificate(serial)
	return c, serial, err
}

// Root tells how the root stands.
func (a *Authority) Root() (RootInfo, error) {
	c, serial, err := a.root()
	if err != nil {
		return RootInfo{}, fmt.Errorf("pki: %w", err)
	}
	i := RootInfo{Subject: c.Subject.String(), Serial: serial, NotAfter: c.NotAfter, Key: a.rootPlace(serial)}
	if v, ok := a.opts.State.Get(a.exportedKey(serial)); ok {
		i.Exported, _ = time.Parse(time.RFC3339, string(v))
	}
	return i, nil
}

func (a *Authority) rootPlace(serial string) string {
	if a.hasKey(serial) {
		return RootOpen
	}
	if _, ok := a.opts.State.Get(a.rootKeyKey(serial)); ok {
		return RootLocked
	}
	return RootAway
}

// rootSigner returns the root's key.
func (a *Authority) rootSigner(serial, passphrase string) (crypto.Signer, error) {
	switch a.rootPlace(serial) {
	case RootOpen:
		return a.privateKey(serial)
	case RootAway:
		return nil, ErrRootKey
	}
	if passphrase == "" {
		return nil, ErrRootLocked
	}
	locked, _ := a.opts.State.Get(a.rootKeyKey(serial))
	cert, key, err := openExport(locked, passphrase)
	if err != nil {
		return nil, errors.New("the passphrase does not open the root's key")
	}
	if serialText(cert.SerialNumber) != serial {
		return nil, errors.New("the locked key is not that of the root")
	}
	return key, nil
}

// lockRoot adds to a group that the root's key lies locked, and a revocation list for the time that it does.
func (a *Authority) lockRoot(b *batch, root *x509.Certificate, serial string, key crypto.Signer, passphrase string) error {
	locked, err := encryptKey(root, key, passphrase)
	if err != nil {
		return err
	}
	b.set[a.rootKeyKey(serial)] = locked
	return a.addRootCRL(b, root, key, rootCRLLifeAway)
}

// ProtectRoot locks the root's key with a passphrase. Nothing of the daily work needs it.
func (a *Authority) ProtectRoot(ctx context.Context, passphrase string) error {
	a.rotateMu.Lock()
	defer a.rotateMu.Unlock()
	root, serial, err := a.root()
	if err != nil {
		return fmt.Errorf("pki: lock the root: %w", err)
	}
	if place := a.rootPlace(serial); place != RootOpen {
		return fmt.Errorf("pki: lock the root: its key is %s already", place)
	}
	if err := longEnough(passphrase); err != nil {
		return fmt.Errorf("pki: lock the root: %w", err)
	}
	key, err := a.privateKey(serial)
	if err != nil {
		return fmt.Errorf("pki: lock the root: %w", err)
	}
	b := newBatch(a.opts.State)
	if err := a.lockRoot(b, root, serial, key, passphrase); err != nil {
		return fmt.Errorf("pki: lock the root: %w", err)
	}
	b.del = append(b.del, a.keyKey(serial))
	return a.rootChanged(ctx, b, serial, "locked")
}

// UnprotectRoot undoes ProtectRoot: the issuing CA is then renewed without anybody's help.
func (a *Authority) UnprotectRoot(ctx context.Context, passphrase string) error {
	a.rotateMu.Lock()
	defer a.rotateMu.Unlock()
	_, serial, err := a.root()
	if err == nil && a.rootPlace(serial) == RootOpen {
		err = errors.New("its key is open already")
	}
	if err != nil {
		return fmt.Errorf("pki: unlock the root: %w", err)
	}
	key, err := a.rootSigner(serial, passphrase)
	if err != nil {
		return fmt.Errorf("pki: unlock the root: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("pki: unlock the root: %w", err)
	}
	b := newBatch(a.opts.State)
	b.set[a.keyKey(serial)] = a.seal.seal(a.keyKey(serial), der)
	b.del = append(b.del, a.rootKeyKey(serial))
	return a.rootChanged(ctx, b, serial, "opened")
}

// ExportRoot returns the root's certificate and key, encrypted with the passphrase: that of the lock, while it is locked.
func (a *Authority) ExportRoot(ctx context.Context, passphrase string) ([]byte, error) {
	root, serial, err := a.root()
	if err != nil {
		return nil, fmt.Errorf("pki: export the root: %w", err)
	}
	if err := longEnough(passphrase); err != nil {
		return nil, fmt.Errorf("pki: export the root: %w", err)
	}
	key, err := a.rootSigner(serial, passphrase)
	if err != nil {
		return nil, fmt.Errorf("pki: export the root: %w", err)
	}
	out, err := encryptKey(root, key, passphrase)
	if err != nil {
		return nil, fmt.Errorf("pki: export the root: %w", err)
	}
	if err := a.opts.State.Write(ctx, map[string][]byte{a.exportedKey(serial): []byte(a.now().Format(time.RFC3339))}); err != nil {
		return nil, fmt.Errorf("pki: record export of the root: %w", err)
	}
	a.log.Info("exported private key", "role", string(RoleRoot), "serial", serial)
	return out, nil
}

// RemoveRootKey takes the root's private key off the appliance. It has to be exported first; it is only needed again for a
// second appliance or a new issuing CA.
func (a *Authority) RemoveRootKey(ctx context.Context) error {
	a.rotateMu.Lock()
	defer a.rotateMu.Unlock()
	root, serial, err := a.root()
	if err != nil {
		return fmt.Errorf("pki: remove the root's key: %w", err)
	}
	if _, exported := a.opts.State.Get(a.exportedKey(serial)); !exported {
		return errors.New("pki: the root key was not exported yet, and would be lost")
	}
	b := newBatch(a.opts.State)
	switch a.rootPlace(serial) {
	case RootAway:
		return errors.New("pki: remove the root's key: it is not on this appliance")
	case RootOpen:
		key, err := a.privateKey(serial)
		if err == nil {
			err = a.addRootCRL(b, root, key, rootCRLLifeAway)
		}
		if err != nil {
			return fmt.Errorf("pki: remove the root's key: %w", err)
		}
	}
	b.del = append(b.del, a.keyKey(serial), a.rootKeyKey(serial))
	return a.rootChanged(ctx, b, serial, "removed")
}

// RestoreRoot puts the root's key back from what ExportRoot gave. It stays locked with the passphrase of that file.
func (a *Authority) RestoreRoot(ctx context.Context, exported []byte, passphrase string) error {
	a.rotateMu.Lock()
	defer a.rotateMu.Unlock()
	fail := func(err error) error { return fmt.Errorf("pki: restore the root's key: %w", err) }
	cert, key, err := openExport(exported, passphrase)
	if err != nil {
		return fail(err)
	}
	root, serial, err := a.root()
	if err != nil {
		return fail(err)
	}
	if !root.Equal(cert) {
		return fail(fmt.Errorf("the file holds %s, which is not the root of this appliance", cert.Subject))
	}
	if place := a.rootPlace(serial); place != RootAway {
		return fail(fmt.Errorf("it is on this appliance, %s", place))
	}
	b := newBatch(a.opts.State)
	if err := a.lockRoot(b, root, serial, key, passphrase); err != nil {
		return fail(err)
	}
	return a.rootChanged(ctx, b, serial, "restored, locked")
}

func (a *Authority) rootChanged(ctx context.Context, b *batch, serial, what string) error {
	if err := b.commit(ctx); err != nil {
		return fmt.Errorf("pki: root's key %s: %w", what, err)
	}
	a.log.Info("root's private key "+what, "serial", serial)
	return nil
}

func (a *Authority) requestKey() string { return "pki/request/" + a.seal.node() }

// RequestIssuer makes a key for an issuing CA of this appliance and a request (PKCS #10, PEM) that the root of another
// appliance, or any other CA, is to sign; InstallIssuer takes what comes back. A second request takes the place of the first.
func (a *Authority) RequestIssuer(ctx context.Context) ([]byte, error) {
	key, err := capf.GenerateKey(capf.RSA2048)
	if err != nil {
		return nil, fmt.Errorf("pki: request an issuing CA: %w", err)
	}
	constraints, err := asn1.Marshal(struct {
		CA      bool
		PathLen int
	}{true, 0})
	if err != nil {
		return nil, fmt.Errorf("pki: request an issuing CA: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: a.subject("CAPF-" + a.seal.node()), SignatureAlgorithm: x509.SHA256WithRSA,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: constraints}},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("pki: request an issuing CA: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("pki: request an issuing CA: %w", err)
	}
	k := a.requestKey()
	if err := a.opts.State.Write(ctx, map[string][]byte{k: a.seal.seal(k, der)}); err != nil {
		return nil, fmt.Errorf("pki: request an issuing CA: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), nil
}

// SignIssuer signs another appliance's request with the root, and returns the certificate and the root, PEM. The certificate
// is recognised here from then on.
func (a *Authority) SignIssuer(ctx context.Context, request []byte, passphrase string) ([]byte, error) {
	a.rotateMu.Lock()
	defer a.rotateMu.Unlock()
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("pki: sign an issuing CA: %w", err) }
	if err := a.CheckClock(ctx); err != nil {
		return fail(err)
	}
	block, _ := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return fail(errors.New("the file holds no request (-----BEGIN CERTIFICATE REQUEST-----)"))
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return fail(fmt.Errorf("the request cannot be read: %w", err))
	}
	if err := csr.CheckSignature(); err != nil {
		return fail(fmt.Errorf("the request is not signed by its own key: %w", err))
	}
	if kind := capf.KindOf(csr.PublicKey); !kind.Known() {
		return fail(errors.New("its key is of a kind that phones do not know"))
	}
	if csr.Subject.CommonName == "" {
		return fail(errors.New("the request names nobody (no common name)"))
	}
	root, serial, err := a.root()
	if err != nil {
		return fail(err)
	}
	for _, ca := range append(a.Issuers(), root) {
		if string(ca.RawSubject) == string(csr.RawSubject) {
			return fail(fmt.Errorf("there is a CA %s already: each needs a name of its own", ca.Subject))
		}
	}
	key, err := a.rootSigner(serial, passphrase)
	if err != nil {
		return fail(err)
	}
	t := a.issuerTemplate(root)
	t.Subject, t.RawSubject = csr.Subject, csr.RawSubject
	cert, err := sign(t, root, csr.PublicKey, key)
	if err != nil {
		return fail(err)
	}
	b := newBatch(a.opts.State)
	if err := a.record(b, cert, RoleIssuer, ""); err != nil {
		return fail(err)
	}
	if err := a.renewRootCRL(b, root, serial, key); err != nil {
		return fail(err)
	}
	a.stampClock(b)
	if err := b.commit(ctx); err != nil {
		return fail(err)
	}
	a.log.Info("signed an issuing CA", "subject", cert.Subject.String(), "serial", serialText(cert.SerialNumber))
	var out []byte
	for _, c := range []*x509.Certificate{cert, root} {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out, nil
}

// renewRootCRL takes the occasion that the root's key is at hand.
func (a *Authority) renewRootCRL(b *batch, root *x509.Certificate, serial string, key crypto.Signer) error {
	life := rootCRLLife
	if a.rootPlace(serial) != RootOpen {
		life = rootCRLLifeAway
	}
	return a.addRootCRL(b, root, key, life)
}

// InstallIssuer takes a signed request back, with the CAs above it, and makes it the issuing CA of this appliance by a
// rotation.
func (a *Authority) InstallIssuer(ctx context.Context, b *Bundle, roots []*x509.Certificate, by string) (Plan, error) {
	k := a.requestKey()
	sealed, ok := a.opts.State.Get(k)
	if !ok {
		return Plan{}, fmt.Errorf("pki: install an issuing CA: there is no request that it could answer: %w", ErrUnknown)
	}
	der, err := a.seal.open(k, sealed)
	if err != nil {
		return Plan{}, fmt.Errorf("pki: install an issuing CA: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return Plan{}, fmt.Errorf("pki: install an issuing CA: %w", err)
	}
	if b.Key, ok = key.(crypto.Signer); !ok || !belongs(b.Key, b.Cert) {
		return Plan{}, fmt.Errorf("pki: install an issuing CA: %w: %s does not answer the request that was made last", ErrImport, b.Cert.Subject)
	}
	p, err := a.Import(ctx, RoleCAPF, b, roots, by)
	if err != nil {
		return p, err
	}
	// The key stands with the certificate now; a crash before this leaves a request that nobody needs.
	if err := a.opts.State.Write(ctx, nil, k); err != nil {
		return p, fmt.Errorf("pki: install an issuing CA: %w", err)
	}
	return p, nil
}
