package trust_test

import (
	"crypto/sha512"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"testing"

	"ringfence/trust"
	"ringfence/trust/internal/vectors"
)

func TestCertHashVectors(t *testing.T) {
	for _, v := range vectors.Load(t).CertHash {
		cert := vectors.Key(t, v.Certificate).Cert
		var got string
		switch v.Digest {
		case "sha1":
			got = trust.VPNHash(cert.Raw)
		case "sha512": // printed by the reference tool, never emitted by us (certhash.md)
			sum := sha512.Sum512(cert.Raw)
			got = base64.StdEncoding.EncodeToString(sum[:])
		}
		if got != v.Value {
			t.Errorf("%s %s: got %s, want %s", v.Certificate, v.Digest, got, v.Value)
		}
	}
}

func TestConfigHash(t *testing.T) {
	cert := vectors.Key(t, "enc/phone-rsa2048.pem").Cert
	if got, want := trust.ConfigHash(cert.Raw), "db5fc73a704bf59cbd57f5e223499e1e"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNameText(t *testing.T) {
	odd := vectors.Key(t, "keys/odd-name.pem").Cert
	got, err := trust.NameText(odd.RawSubject)
	want := `C=NZ,O=TEST ONLY\, \"Quoted\" \+ Sons\; \<a=b\>,OU=\#lead \\ back,1.2.840.113549.1.9.1=x@example.test,2.5.4.5=42,CN=\ Ünïcode Röle\ `
	if err != nil || got != want {
		t.Errorf("got %s (%v)\nwant %s", got, err, want)
	}

	// A multi-valued RDN is flattened, and a NUL is escaped.
	type atv struct {
		Type  asn1.ObjectIdentifier
		Value string `asn1:"utf8"`
	}
	type rdnSET []atv
	cn, dc := asn1.ObjectIdentifier{2, 5, 4, 3}, asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}
	for _, c := range []struct {
		name string
		rdns []rdnSET
		want string
	}{
		{"two in one", []rdnSET{{{cn, "a"}, {dc, "b"}}, {{cn, "c"}}}, "CN=a,DC=b,CN=c"},
		{"blanks inside stay", []rdnSET{{{cn, "a b"}}}, "CN=a b"},
		{"one blank alone", []rdnSET{{{cn, " "}}}, `CN=\ `},
		{"hash inside stays", []rdnSET{{{cn, "a#b"}}}, "CN=a#b"},
		{"nul", []rdnSET{{{cn, "a\x00b"}}}, `CN=a\00b`},
		{"none", []rdnSET{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			der, err := asn1.Marshal(c.rdns)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := trust.NameText(der); err != nil || got != c.want {
				t.Errorf("got %q (%v), want %q", got, err, c.want)
			}
		})
	}
	if _, err := trust.NameText(append(append([]byte(nil), odd.RawSubject...), 0)); err == nil {
		t.Error("bytes after the name were taken")
	}
}

func TestRoleNames(t *testing.T) {
	for _, r := range []trust.Role{trust.SAST, trust.CCM, trust.CCMTFTP, trust.TFTP, trust.CAPF, trust.AppServer, trust.TVS} {
		if got, err := trust.ParseRole(r.String()); err != nil || got != r {
			t.Errorf("%s: got %v, %v", r, got, err)
		}
	}
	if _, err := trust.ParseRole("NOBODY"); err == nil {
		t.Error("an unknown role was taken")
	}
	if got := trust.Role(5).String(); got != "role(5)" {
		t.Errorf("got %s", got)
	}
}

func TestSignerCheck(t *testing.T) {
	tftp, ec := vectors.Key(t, "keys/tftp.pem"), vectors.Key(t, "keys/tftp-ec256.pem")
	for _, c := range []struct {
		name string
		s    trust.Signer
		size bool // refused for its kind or size
		ok   bool
	}{
		{"rsa 1024", vectors.Key(t, "keys/tftp-1024.pem"), false, true},
		{"rsa 2048", tftp, false, true},
		{"rsa 3072 has no code", vectors.Key(t, "keys/sast-3072.pem"), true, false},
		{"rsa 4096", vectors.Key(t, "keys/sast-4096.pem"), false, true},
		{"ec", ec, true, false},
		{"key of another", trust.Signer{Cert: tftp.Cert, Key: vectors.Key(t, "keys/ccm.pem").Key}, false, false},
		{"no key", trust.Signer{Cert: tftp.Cert}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.s.Check()
			if (err == nil) != c.ok || errors.Is(err, trust.ErrKeySize) != c.size {
				t.Errorf("got %v", err)
			}
		})
	}
}
