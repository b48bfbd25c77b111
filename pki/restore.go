package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
	"filippo.io/age/armor"

	"ringfence/pki/capf"
)

// RestoreRootKey puts back the root's private key, from what Export gave. It is wanted for a new issuing CA; RemoveRootKey
// takes it away again. It lies open then; RestoreRoot leaves it locked.
func (a *Authority) RestoreRootKey(ctx context.Context, exported []byte, passphrase string) error {
	cert, key, err := openExport(exported, passphrase)
	if err != nil {
		return fmt.Errorf("pki: restore root key: %w", err)
	}
	serial, _ := a.current(RoleRoot)
	if serial != serialText(cert.SerialNumber) || !a.same(cert) {
		return fmt.Errorf("pki: restore root key: the file holds %s, which is not the root of this appliance", cert.Subject)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("pki: restore root key: %w", err)
	}
	k := a.keyKey(serial)
	if err := a.opts.State.Write(ctx, map[string][]byte{k: a.seal.seal(k, der)}, a.rootKeyKey(serial)); err != nil {
		return fmt.Errorf("pki: restore root key: %w", err)
	}
	a.log.Info("restored the root's private key", "serial", serial)
	return nil
}

// RestoreSAST makes an exported recovery key the signer of trust lists: on the new appliance that takes the place of one that
// was lost. Phones of the lost one hold the recovery key in their lists and take what it signs (tlv.md §8). The recovery key
// of this appliance stays.
func (a *Authority) RestoreSAST(ctx context.Context, exported []byte, passphrase string) error {
	cert, key, err := openExport(exported, passphrase)
	if err != nil {
		return fmt.Errorf("pki: restore signer of trust lists: %w", err)
	}
	fail := func(err error) error {
		return fmt.Errorf("pki: restore signer of trust lists: %s: %w", cert.Subject, err)
	}
	if kind := capf.KindOf(cert.PublicKey); kind != capf.RSA2048 && kind != capf.RSA4096 {
		return fail(fmt.Errorf("key of kind %q, lists are signed with rsa2048 or rsa4096", kind))
	}
	a.rotateMu.Lock()
	defer a.rotateMu.Unlock()
	for _, r := range []Role{RoleSAST, RoleSASTRecovery} {
		if _, running := a.rotation(r); running {
			return fail(fmt.Errorf("role %s %w", r, ErrRotating))
		}
		if serial, _ := a.current(r); serial == serialText(cert.SerialNumber) {
			return fail(fmt.Errorf("it is the %s of this appliance: rotate SAST instead", r))
		}
	}
	b := newBatch(a.opts.State)
	// A key that was made for recovery may stand as SAST: see stands.
	if err := a.adopt(b, RoleSASTRecovery, cert, key); err != nil {
		return fail(err)
	}
	delete(b.set, a.roleKey(RoleSASTRecovery))
	b.set[a.roleKey(RoleSAST)] = []byte(serialText(cert.SerialNumber))
	if err := b.commit(ctx); err != nil {
		return fail(err)
	}
	a.log.Info("restored the signer of trust lists", "subject", cert.Subject.String(), "serial", serialText(cert.SerialNumber))
	return nil
}

// maxExport bounds what is read of an exported key.
const maxExport = 64 << 10

// openExport reads what Export wrote.
func openExport(exported []byte, passphrase string) (*x509.Certificate, crypto.Signer, error) {
	if len(exported) > maxExport {
		return nil, nil, errors.New("no exported key: too large")
	}
	id, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, nil, err
	}
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(exported)), id)
	if err != nil {
		return nil, nil, errors.New("the passphrase does not open the file, or it is no exported key")
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxExport))
	if err != nil {
		return nil, nil, fmt.Errorf("exported key: %w", err)
	}
	var cert *x509.Certificate
	var key crypto.Signer
	for block, rest := pem.Decode(plain); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			if cert, err = x509.ParseCertificate(block.Bytes); err != nil {
				return nil, nil, fmt.Errorf("exported key: %w", err)
			}
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, nil, fmt.Errorf("exported key: %w", err)
			}
			key, _ = k.(crypto.Signer)
		}
	}
	if cert == nil || key == nil {
		return nil, nil, errors.New("exported key: certificate or key is missing")
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(cert.PublicKey) {
		return nil, nil, errors.New("exported key: key and certificate do not belong together")
	}
	return cert, key, nil
}
