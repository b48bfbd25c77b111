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
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// exportable are the roles whose keys belong into a safe outside the appliance: without the recovery SAST key the loss of
// the appliance strands every phone (tlv.md §8), and the root is not needed in daily work.
var exportable = map[Role]bool{RoleSASTRecovery: true, RoleRoot: true}

// scryptWork is age's work factor: 2^18 rounds take about a second. Tests take fewer.
var scryptWork = 18

// minPassphrase is short for a passphrase but long for something typed; age makes each guess cost about a second.
const minPassphrase = 10

// Export returns a role's certificate and private key, encrypted to a passphrase: armoured age over PEM, to be opened with
// `age -d`. That it happened is recorded, and Warnings ask for it no more.
func (a *Authority) Export(ctx context.Context, r Role, passphrase string) ([]byte, error) {
	if !exportable[r] {
		return nil, fmt.Errorf("pki: the key of role %s is not for export", r)
	}
	if r == RoleRoot {
		return a.ExportRoot(ctx, passphrase)
	}
	if err := longEnough(passphrase); err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	serial, ok := a.current(r)
	if !ok {
		return nil, fmt.Errorf("pki: role %s: %w", r, ErrUnknown)
	}
	cert, err := a.certificate(serial)
	if err != nil {
		return nil, fmt.Errorf("pki: export %s: %w", r, err)
	}
	key, err := a.privateKey(serial)
	if err != nil {
		return nil, fmt.Errorf("pki: export %s: %w", r, err)
	}
	out, err := encryptKey(cert, key, passphrase)
	if err != nil {
		return nil, fmt.Errorf("pki: export %s: %w", r, err)
	}
	if err := a.opts.State.Write(ctx, map[string][]byte{a.exportedKey(serial): []byte(a.now().Format(time.RFC3339))}); err != nil {
		return nil, fmt.Errorf("pki: record export of %s: %w", r, err)
	}
	a.log.Info("exported private key", "role", string(r), "serial", serial)
	return out, nil
}

func longEnough(passphrase string) error {
	if len(passphrase) < minPassphrase {
		return fmt.Errorf("passphrase of %d characters, at least %d are wanted", len(passphrase), minPassphrase)
	}
	return nil
}

// encryptKey is a certificate and its key in the form of Export; openExport reads it.
func encryptKey(cert *x509.Certificate, key crypto.Signer, passphrase string) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return encrypt(append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...), passphrase)
}

func encrypt(plain []byte, passphrase string) ([]byte, error) {
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, err
	}
	to.SetWorkFactor(scryptWork)
	var out bytes.Buffer
	text := armor.NewWriter(&out)
	w, err := age.Encrypt(text, to)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(w, bytes.NewReader(plain)); err != nil {
		return nil, err
	}
	if err := errors.Join(w.Close(), text.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
