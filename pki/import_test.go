package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"ringfence/pki/capf"
)

// A site that comes from another system brings its CA; its phones go on with what they hold, and are renewed from here.
func TestMigration(t *testing.T) {
	f := open(t)
	issuer, issuerKey := readPEM(t, "issuer.pem")
	lsc, _ := readPEM(t, "lsc-"+phone+"-rsa2048.pem")
	mine := f.install(t, "SEP0011223344EE", ecKey(t))
	if _, err := f.ImportLSC(t.Context(), lsc); err == nil {
		t.Error("took over a certificate of an unknown CA")
	}
	if err := f.ImportIssuer(t.Context(), issuer, issuerKey); err != nil {
		t.Fatal(err)
	}
	f.reopen(t)
	if device, err := f.ImportLSC(t.Context(), lsc); err != nil || device != phone {
		t.Fatalf("%q, %v", device, err)
	}
	for device, c := range map[string]*x509.Certificate{phone: lsc, "SEP0011223344EE": mine} {
		if _, err := f.VerifyDevice(c, nil, device); err != nil {
			t.Errorf("%s: %v", device, err)
		}
	}
	id, err := f.Identity(RoleCAPF)
	if err != nil || !bytes.Equal(id.Leaf.Raw, issuer.Raw) {
		t.Errorf("CAPF certificate: %v", err)
	}
	sast, err := f.Identity(RoleSAST)
	if err != nil || len(sast.Certificate) != 2 || sast.Leaf.CheckSignatureFrom(parse(t, sast.Certificate[1])) != nil {
		t.Errorf("SAST kept its own issuer: %v", err)
	}
	renewed := f.install(t, phone, ecKey(t))
	if !bytes.Equal(renewed.RawIssuer, issuer.RawSubject) {
		t.Errorf("renewed by %s", renewed.Issuer)
	}
	want := "CN=" + phone + ",O=TEST ONLY,OU=Vectors,L=Wellington,ST=Wellington,C=NZ"
	var got []string
	for _, n := range renewed.Subject.Names {
		got = append(got, map[string]string{"2.5.4.3": "CN", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.6": "C"}[n.Type.String()]+"="+n.Value.(string))
	}
	if s := strings.Join(got, ","); s != want {
		t.Errorf("subject %s, want %s", s, want)
	}
	// A second time it does not displace what came later.
	if _, err := f.ImportLSC(t.Context(), lsc); err != nil {
		t.Fatal(err)
	}
	if c, _ := f.CurrentLSC(phone); !bytes.Equal(c.Raw, renewed.Raw) {
		t.Error("an imported certificate displaced a newer one")
	}
}

func TestImportRefuses(t *testing.T) {
	f := open(t)
	issuer, issuerKey := readPEM(t, "issuer.pem")
	lsc, lscKey := readPEM(t, "lsc-"+phone+"-rsa2048.pem")
	mic, _ := readPEM(t, "mic-"+phone+".pem")
	key := ecKey(t)
	own := func(change func(*x509.Certificate)) *x509.Certificate {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(5), Subject: pkix.Name{CommonName: "Own"}, NotBefore: testTime.Add(-time.Hour),
			NotAfter: testTime.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		}
		change(c)
		cert, err := sign(c, c, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	for name, err := range map[string]error{
		"no CA":           f.ImportIssuer(t.Context(), lsc, lscKey),
		"other key":       f.ImportIssuer(t.Context(), issuer, lscKey),
		"parent is no CA": f.ImportIssuer(t.Context(), issuer, issuerKey, lsc),
		"ended":           f.ImportIssuer(t.Context(), own(func(c *x509.Certificate) { c.NotAfter = testTime.Add(-time.Minute) }), key),
		"may not sign":    f.ImportIssuer(t.Context(), own(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), key),
		"MIC as LSC":      func() error { _, err := f.ImportLSC(t.Context(), mic); return err }(),
	} {
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if f.state.groups != 0 {
		t.Errorf("%d groups were written", f.state.groups)
	}
}

// An EC issuing CA from elsewhere serves phones too, with SHA-256 as the page asks.
func TestECIssuer(t *testing.T) {
	f := open(t)
	key, err := capf.GenerateKey(capf.P384)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(5), Subject: pkix.Name{CommonName: "EC CA"}, NotBefore: testTime.Add(-time.Hour),
		NotAfter: testTime.Add(5 * year), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	ca, err := sign(c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.ImportIssuer(t.Context(), ca, crypto.Signer(key)); err != nil {
		t.Fatal(err)
	}
	lsc := f.install(t, phone, ecKey(t))
	if lsc.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		t.Errorf("signed with %s", lsc.SignatureAlgorithm)
	}
	if _, err := f.VerifyDevice(lsc, nil, phone); err != nil {
		t.Error(err)
	}
	if out, err := openssl(t, "verify", "-attime", "1796126400", "-CAfile", writePEM(t, "ca.pem", ca), writePEM(t, "lsc.pem", lsc)); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := f.CRL(t.Context()); err != nil {
		t.Error(err)
	}
}
