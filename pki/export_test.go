package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"io"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
)

func TestExport(t *testing.T) {
	defer func(was int) { scryptWork = was }(scryptWork)
	scryptWork = 10
	f := open(t)
	const passphrase = "correct horse battery staple"
	for _, tc := range []struct {
		role       Role
		passphrase string
	}{{RoleCCM, passphrase}, {RoleSAST, passphrase}, {RoleCAPF, passphrase}, {RoleSASTRecovery, "short"}, {RoleSASTRecovery, ""}} {
		if _, err := f.Export(t.Context(), tc.role, tc.passphrase); err == nil {
			t.Errorf("exported %s with passphrase %q", tc.role, tc.passphrase)
		}
	}
	if err := f.RemoveRootKey(t.Context()); err == nil {
		t.Error("removed a root key that nobody else has")
	}
	for _, r := range []Role{RoleSASTRecovery, RoleRoot} {
		out, err := f.Export(t.Context(), r, passphrase)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(out, []byte("PRIVATE KEY")) {
			t.Error("in clear")
		}
		id, err := age.NewScryptIdentity(passphrase)
		if err != nil {
			t.Fatal(err)
		}
		r2, err := age.Decrypt(armor.NewReader(bytes.NewReader(out)), id)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := io.ReadAll(r2)
		if err != nil {
			t.Fatal(err)
		}
		block, rest := pem.Decode(plain)
		cert := parse(t, block.Bytes)
		block, _ = pem.Decode(rest)
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if serial, _ := f.current(r); serialText(cert.SerialNumber) != serial {
			t.Errorf("%s: certificate %s, want %s", r, serialText(cert.SerialNumber), serial)
		}
		if !key.(crypto.Signer).Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(cert.PublicKey) {
			t.Errorf("%s: key and certificate do not belong together", r)
		}
	}
	if w := f.Warnings(); len(w) != 1 || !strings.Contains(w[0], "without a passphrase") {
		t.Errorf("warnings afterwards: %q", w)
	}
	if err := f.RemoveRootKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.reopen(t)
	if _, err := f.Export(t.Context(), RoleRoot, passphrase); err == nil || !strings.Contains(err.Error(), "not on this appliance") {
		t.Errorf("exported a removed key: %v", err)
	}
	// Daily work goes on without it.
	f.install(t, phone, ecKey(t))
	if _, err := f.CRL(t.Context()); err != nil {
		t.Error(err)
	}
}
