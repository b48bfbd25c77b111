package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"ringfence/pki/capf"
)

func TestDeviceOf(t *testing.T) {
	rdn := func(oid asn1.ObjectIdentifier, tag int, v string) attributeSET {
		return attributeSET{{oid, asn1.RawValue{Tag: tag, Bytes: []byte(v)}}}
	}
	cn := func(v string) attributeSET { return rdn(oidCommonName, asn1.TagUTF8String, v) }
	o := rdn(asn1.ObjectIdentifier{2, 5, 4, 10}, asn1.TagUTF8String, "Example")
	for _, tc := range []struct {
		name          string
		subject       []attributeSET
		device, model string
	}{
		{"LSC", []attributeSET{cn("SEP001122334455"), o}, "SEP001122334455", ""},
		{"LSC of a soft client", []attributeSET{cn("CSFalice")}, "CSFalice", ""},
		{"MIC", []attributeSET{o, cn("CP-8841-SEP001122334455")}, "SEP001122334455", "8841"},
		{"MIC in another string type", []attributeSET{rdn(oidCommonName, asn1.TagPrintableString, "CP-7975G-SEP001122334455")}, "SEP001122334455", "7975G"},
		{"MIC of a model with suffixes", []attributeSET{cn("CP-8865-K9+NR-SEP001122334455")}, "SEP001122334455", "8865-K9+NR"},
		{"no common name", []attributeSET{o}, "", ""},
		{"two common names", []attributeSET{cn("SEP001122334455"), cn("SEP0011223344EE")}, "", ""},
		{"two in one set", []attributeSET{{cn("SEP001122334455")[0], cn("SEP0011223344EE")[0]}}, "", ""},
		{"empty", []attributeSET{cn("")}, "", ""},
		{"empty, then another", []attributeSET{cn(""), cn("SEP001122334455")}, "", ""},
		{"with a NUL", []attributeSET{cn("SEP001122334455\x00.example")}, "", ""},
		{"with a slash", []attributeSET{cn("SEP001122334455/lsc")}, "", ""},
		{"with a line feed", []attributeSET{cn("SEP001122334455\n")}, "", ""},
		{"wide characters", []attributeSET{rdn(oidCommonName, asn1.TagBMPString, "SEP001122334455")}, "", ""},
		{"MIC without model", []attributeSET{cn("CP-SEP001122334455")}, "", ""},
		{"MIC with empty model", []attributeSET{cn("CP--SEP001122334455")}, "", ""},
		{"MIC with the device first", []attributeSET{cn("CP-SEP001122334455-8841")}, "", ""},
		{"MIC with something after", []attributeSET{cn("CP-8841-SEP001122334455X")}, "", ""},
		{"MIC with small letters", []attributeSET{cn("CP-8841-sep001122334455")}, "", ""},
		{"MIC with a short MAC", []attributeSET{cn("CP-8841-SEP00112233445")}, "", ""},
		{"MIC with a blank", []attributeSET{cn("CP-88 41-SEP001122334455")}, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			raw, err := asn1.Marshal(tc.subject)
			if err != nil {
				t.Fatal(err)
			}
			device, model, err := deviceOf(raw)
			if device != tc.device || model != tc.model || (err == nil) != (tc.device != "") {
				t.Errorf("got %q, %q, %v; want %q, %q", device, model, err, tc.device, tc.model)
			}
		})
	}
	if _, _, err := deviceOf([]byte{0x30, 0x05, 1}); err == nil {
		t.Error("garbage names a device")
	}
}

func FuzzDeviceOf(f *testing.F) {
	for _, cn := range []string{"SEP001122334455", "CP-8841-SEP001122334455", "CP-8865-K9-SEP001122334455", "CP--", "a/b"} {
		raw, err := asn1.Marshal(pkix.Name{CommonName: cn, Organization: []string{"Example"}}.ToRDNSequence())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		device, model, err := deviceOf(raw)
		if err != nil {
			return
		}
		// The name becomes part of keys, and whole in the subject.
		if !validDevice(device) || !bytes.Contains(raw, []byte(device)) || model != "" && !validMAC(device) {
			t.Errorf("%q, %q from %x", device, model, raw)
		}
	})
}

func TestVerifyLSC(t *testing.T) {
	f := open(t)
	key := ecKey(t)
	cert := f.install(t, phone, key)
	verify := func(step string, c *x509.Certificate, want string, wantErr string) {
		t.Helper()
		id, err := f.VerifyDevice(c, nil, want)
		if wantErr == "" {
			if err != nil || id.Device != phone || id.Kind != capf.KindLSC || id.Serial != serialText(c.SerialNumber) {
				t.Errorf("%s: got %+v, %v", step, id, err)
			}
			return
		}
		if err == nil || !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), wantErr) || id.Device != "" {
			t.Errorf("%s: got %+v, %v; want a refusal that says %q", step, id, err, wantErr)
		}
	}
	verify("current", cert, phone, "")
	verify("current, any device", cert, "", "")
	verify("another device", cert, "SEP0011223344EE", "not of SEP0011223344EE")
	verify("none", nil, "", "no certificate")

	foreign, _ := readPEM(t, "lsc-"+phone+"-rsa2048.pem")
	verify("of another installation", foreign, phone, "no CA of this installation")

	// Made with the issuing CA's key, but not on record: what a thief of a backup could do.
	ca, err := f.Identity(RoleCAPF)
	if err != nil {
		t.Fatal(err)
	}
	tpl, err := lscTemplate(phone, ca.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	tpl.NotBefore, tpl.NotAfter, tpl.SerialNumber = cert.NotBefore, cert.NotAfter, big.NewInt(77)
	forged, err := sign(tpl, ca.Leaf, key.Public(), ca.PrivateKey.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	verify("not on record", forged, phone, "not on record")
	tpl.SerialNumber = cert.SerialNumber
	if forged, err = sign(tpl, ca.Leaf, ecKey(t).Public(), ca.PrivateKey.(crypto.Signer)); err != nil {
		t.Fatal(err)
	}
	verify("serial of another certificate", forged, phone, "not on record")
	spoiled := *cert
	spoiled.Signature = bytes.Clone(cert.Signature)
	spoiled.Signature[40] ^= 1
	verify("signature spoiled", &spoiled, phone, "verification error")

	f.clock.Add(-8 * time.Minute) // more than a skew, and less than a clock that is not believed
	verify("before its time", cert, phone, "begins on")
	f.clock.Add(8 * time.Minute)

	f.clock.Add(time.Minute)
	der, serial, err := f.IssueLSC(t.Context(), phone, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	next := parse(t, der)
	verify("unconfirmed, the phone may hold it alone", next, phone, "")
	if id, err := f.VerifyDevice(next, nil, phone); err != nil || id.State != Unconfirmed {
		t.Errorf("state %s, %v; want %s", id.State, err, Unconfirmed)
	}
	verify("current beside an unconfirmed one", cert, phone, "")
	if err := f.ConfirmLSC(t.Context(), phone, serial); err != nil {
		t.Fatal(err)
	}
	verify("confirmed", next, phone, "")
	verify("superseded", cert, phone, "superseded")
	f.clock.Add(365*24*time.Hour + time.Second)
	verify("ended", next, phone, "ended on")
	if kind, err := NewEnrolment(f.Authority, nil).VerifyDevice(next, phone); err == nil {
		t.Errorf("ended, to CAPF without grace: got %s", kind)
	}
	f.opts.LSCGrace = 24 * time.Hour
	if kind, err := NewEnrolment(f.Authority, nil).VerifyDevice(next, phone); err != nil || kind != capf.KindLSC {
		t.Errorf("ended, to CAPF within the grace: got %s, %v", kind, err)
	}
	verify("ended, the grace is CAPF's alone", next, phone, "ended on")
	f.clock.Add(-30 * 24 * time.Hour)
	if err := f.Revoke(t.Context(), serial, "stolen"); err != nil {
		t.Fatal(err)
	}
	verify("revoked", next, phone, "revoked")
}

// mic makes a manufacturing certificate; with weak it is signed with SHA-1, which crypto/x509 does not do any more.
func mic(t *testing.T, tpl, parent *x509.Certificate, key crypto.Signer, weak bool) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tpl, parent, &key.(*rsa.PrivateKey).PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if !weak {
		return parse(t, der)
	}
	var c struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &c); err != nil {
		t.Fatal(err)
	}
	// sha256WithRSAEncryption and sha1WithRSAEncryption differ in their last byte, inside and outside.
	sha256OID, sha1OID := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}
	from, _ := asn1.Marshal(sha256OID)
	to, _ := asn1.Marshal(sha1OID)
	tbs := bytes.Replace(c.TBS.FullBytes, from, to, 1)
	c.TBS = asn1.RawValue{FullBytes: tbs}
	c.Algorithm.Algorithm = sha1OID
	digest := sha1.Sum(tbs)
	sig, err := rsa.SignPKCS1v15(nil, key.(*rsa.PrivateKey), crypto.SHA1, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	c.Signature = asn1.BitString{Bytes: sig, BitLength: len(sig) * 8}
	if der, err = asn1.Marshal(c); err != nil {
		t.Fatal(err)
	}
	return parse(t, der)
}

func TestVerifyMIC(t *testing.T) {
	root, rootKey := readPEM(t, "mic-ca.pem")
	good, _ := readPEM(t, "mic-"+phone+".pem")
	other, otherKey := readPEM(t, "issuer.pem")
	template := func(change ...func(*x509.Certificate)) *x509.Certificate {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(4711), Subject: pkix.Name{CommonName: "CP-7975-" + phone, Organization: []string{"Example"}},
			NotBefore: testTime.Add(-time.Hour), NotAfter: testTime.Add(time.Hour), BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageDigitalSignature,
		}
		for _, f := range change {
			f(c)
		}
		return c
	}
	imposter := &x509.Certificate{ // the name of the root, another key
		SerialNumber: big.NewInt(1), RawSubject: root.RawSubject, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		IsCA: true, BasicConstraintsValid: true,
	}
	imposterCert := mic(t, imposter, imposter, otherKey, false)
	notCA := mic(t, template(func(c *x509.Certificate) { c.Subject.CommonName = "Not a CA" }), root, rootKey, false)
	isCA := func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage = x509.KeyUsageCertSign }
	middle := mic(t, template(isCA, func(c *x509.Certificate) { c.Subject.CommonName = "Middle" }), root, rootKey, false)
	weakMiddle := mic(t, template(isCA, func(c *x509.Certificate) { c.Subject.CommonName = "Weak Middle" }), root, rootKey, true)

	for _, tc := range []struct {
		name  string
		roots []*x509.Certificate
		inter []*x509.Certificate
		cert  *x509.Certificate
		want  string
		err   string
	}{
		{"recorded MIC", []*x509.Certificate{root}, nil, good, phone, ""},
		{"no roots", nil, nil, good, phone, "no manufacturing CA"},
		{"other root", []*x509.Certificate{other}, nil, good, phone, "unknown authority"},
		{"other device", []*x509.Certificate{root}, nil, good, "SEP0011223344EE", "not of SEP0011223344EE"},
		{"SHA-1", []*x509.Certificate{root}, nil, mic(t, template(), root, rootKey, true), phone, ""},
		{"SHA-1, other root", []*x509.Certificate{other}, nil, mic(t, template(), root, rootKey, true), phone, "SHA-1 by no configured"},
		{"SHA-1, root of the same name", []*x509.Certificate{imposterCert}, nil, mic(t, template(), root, rootKey, true), phone, "SHA-1 by no configured"},
		{"SHA-1, ended", []*x509.Certificate{root}, nil,
			mic(t, template(func(c *x509.Certificate) { c.NotAfter = testTime.Add(-time.Minute) }), root, rootKey, true), phone, "ended on"},
		{"SHA-1, not begun", []*x509.Certificate{root}, nil,
			mic(t, template(func(c *x509.Certificate) { c.NotBefore = testTime.Add(10 * time.Minute) }), root, rootKey, true), phone, "begins on"},
		{"SHA-1, a CA", []*x509.Certificate{root}, nil, mic(t, template(isCA), root, rootKey, true), phone, "not a plain device certificate"},
		{"ended", []*x509.Certificate{root}, nil,
			mic(t, template(func(c *x509.Certificate) { c.NotAfter = testTime.Add(-time.Minute) }), root, rootKey, false), phone, "expired"},
		{"intermediate", []*x509.Certificate{root}, []*x509.Certificate{middle}, mic(t, template(), middle, rootKey, false), phone, ""},
		{"intermediate with SHA-1 from the phone", []*x509.Certificate{root}, []*x509.Certificate{weakMiddle},
			mic(t, template(), weakMiddle, rootKey, false), phone, "insecure"},
		{"SHA-1 below an intermediate from the phone", []*x509.Certificate{root}, []*x509.Certificate{middle},
			mic(t, template(), middle, rootKey, true), phone, "SHA-1 by no configured"},
		{"SHA-1 below a configured intermediate", []*x509.Certificate{middle}, nil, mic(t, template(), middle, rootKey, true), phone, ""},
		{"root that is no CA", []*x509.Certificate{notCA}, nil, mic(t, template(), notCA, rootKey, true), phone, "SHA-1 by no configured"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := open(t, func(o *Options) { o.MICRoots = tc.roots })
			id, err := f.VerifyDevice(tc.cert, tc.inter, tc.want)
			if tc.err == "" {
				if err != nil || id.Device != phone || id.Kind != capf.KindMIC {
					t.Errorf("got %+v, %v", id, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %+v, %v; want a refusal that says %q", id, err, tc.err)
			}
		})
	}
}
