package enc_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"ringfence/trust"
	"ringfence/trust/enc"
	"ringfence/trust/internal/vectors"
	"ringfence/trust/sgn"
)

const name = "SEP001122334455.cnf.xml.enc.sgn"

func signers(t testing.TB) []*x509.Certificate {
	return []*x509.Certificate{vectors.Key(t, "keys/tftp.pem").Cert, vectors.Key(t, "keys/tftp-4096.pem").Cert}
}

func TestVectors(t *testing.T) {
	m := vectors.Load(t)
	if len(m.ENC) < 10 {
		t.Fatalf("only %d vectors", len(m.ENC))
	}
	for _, v := range m.ENC {
		t.Run(v.File, func(t *testing.T) {
			b := vectors.Read(t, v.File)
			if v.Product == "reject" {
				for _, phone := range []string{"1024", "2048", "4096"} {
					key := vectors.Key(t, "enc/phone-rsa"+phone+".pem").Key.(*rsa.PrivateKey)
					if _, err := enc.Open(b, name, signers(t), key); err == nil {
						t.Fatalf("opened although %s", v.Why)
					}
				}
				return
			}
			phone := vectors.Key(t, v.Phone)
			want := vectors.Read(t, v.Plain)
			got, err := enc.Open(b, name, signers(t), phone.Key.(*rsa.PrivateKey))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got %q", got)
			}
			// The stub beside it is reproducible.
			stub := vectors.Read(t, v.Stub)
			f, err := sgn.Parse(stub)
			if err != nil {
				t.Fatal(err)
			}
			content, err := enc.Stub(want, trust.ConfigHash(phone.Cert.Raw))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(content, f.Content) {
				t.Errorf("stub: got\n%s\nwant\n%s", content, f.Content)
			}
			rebuilt, err := sgn.Sign("SEP001122334455.cnf.xml.sgn", content, vectors.Key(t, v.Signer), vectors.Digest(t, v.Digest), f.Time)
			if err != nil || !bytes.Equal(rebuilt, stub) {
				t.Errorf("signed stub differs (%v)", err)
			}
			// What we seal opens, and our header has the size of the reference's.
			sealed, err := enc.Seal(name, want, phone.Cert, vectors.Key(t, v.Signer), vectors.Digest(t, v.Digest), f.Time)
			if err != nil {
				t.Fatal(err)
			}
			if len(sealed) != len(b) {
				t.Errorf("sealed to %d bytes, the reference to %d", len(sealed), len(b))
			}
			if got, err = enc.Open(sealed, name, signers(t), phone.Key.(*rsa.PrivateKey)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("own file: %q, %v", got, err)
			}
			if bytes.Contains(sealed, []byte("authPassword")) {
				t.Error("sealed file holds plain text")
			}
		})
	}
}

func TestSealLengths(t *testing.T) {
	phone, tftp := vectors.Key(t, "enc/phone-rsa2048.pem"), vectors.Key(t, "keys/tftp.pem")
	for n := range 34 {
		xml := bytes.Repeat([]byte{'\r'}, n) // looks like padding
		b, err := enc.Seal(name, xml, phone.Cert, tftp, trust.SHA512, time.Unix(1e9, 0))
		if err != nil {
			t.Fatal(err)
		}
		got, err := enc.Open(b, name, signers(t), phone.Key.(*rsa.PrivateKey))
		if err != nil || !bytes.Equal(got, xml) {
			t.Errorf("%d bytes: got %q, %v", n, got, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	phone, tftp := vectors.Key(t, "enc/phone-rsa2048.pem"), vectors.Key(t, "keys/tftp.pem")
	key := phone.Key.(*rsa.PrivateKey)
	ec := vectors.Key(t, "keys/lsc-SEP001122334455-ec256.pem")
	if _, err := enc.Seal(name, nil, ec.Cert, tftp, trust.SHA1, time.Unix(1e9, 0)); !errors.Is(err, enc.ErrPhoneKey) {
		t.Errorf("EC phone: got %v", err)
	}
	b, err := enc.Seal(name, []byte("x"), phone.Cert, tftp, trust.SHA1, time.Unix(1e9, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := enc.Open(b, name, []*x509.Certificate{vectors.Key(t, "keys/stranger.pem").Cert}, key); !errors.Is(err, enc.ErrSigner) {
		t.Errorf("stranger's signature: got %v", err)
	}
	if _, err := enc.Open(b, "SEP0011223344EE.cnf.xml.enc.sgn", signers(t), key); !errors.Is(err, enc.ErrName) {
		t.Errorf("other device's name: got %v", err)
	}
	other := vectors.Key(t, "keys/stranger.pem").Key.(*rsa.PrivateKey)
	if _, err := enc.Open(b, name, signers(t), other); !errors.Is(err, enc.ErrCipher) {
		t.Errorf("other phone's key: got %v", err)
	}
}

func TestStub(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"nothing to copy", `<device/>`, "<device>\n  <fullConfig>false</fullConfig>\n  <certHash></certHash>\n  <encrConfig>true</encrConfig>\n</device>\n"},
		{"secrets stay behind", `<device><sipProfile><loadInformation>no</loadInformation></sipProfile><sshPassword>s3cret</sshPassword><capfAuthMode>2</capfAuthMode></device>`,
			"<device>\n  <fullConfig>false</fullConfig>\n  <capfAuthMode>2</capfAuthMode>\n  <certHash></certHash>\n  <encrConfig>true</encrConfig>\n</device>\n"},
		{"markup stays escaped", `<device><loadInformation>a&amp;b&lt;</loadInformation></device>`,
			"<device>\n  <fullConfig>false</fullConfig>\n  <loadInformation>a&amp;b&lt;</loadInformation>\n  <certHash></certHash>\n  <encrConfig>true</encrConfig>\n</device>\n"},
		{"two roots", `<device/><device/>`, ""},
		{"not closed", `<device><a></device>`, ""},
		{"other root", `<phone/>`, ""},
		{"deep", strings.Repeat("<a>", 100) + strings.Repeat("</a>", 100), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := enc.Stub([]byte(c.in), "")
			if c.want == "" {
				if err == nil {
					t.Errorf("got %s", got)
				}
				return
			}
			if want := "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n" + c.want; err != nil || string(got) != want {
				t.Errorf("got %s (%v)\nwant %s", got, err, want)
			}
		})
	}
}

func FuzzOpen(f *testing.F) {
	for _, v := range vectors.Load(f).ENC {
		f.Add(vectors.Read(f, v.File))
	}
	key := vectors.Key(f, "enc/phone-rsa2048.pem").Key.(*rsa.PrivateKey)
	trusted := signers(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = enc.Open(b, name, trusted, key)
	})
}

func FuzzStub(f *testing.F) {
	f.Add(vectors.Read(f, "enc/plain.cnf.xml"))
	f.Add([]byte(`<device a="&quot;" xmlns:x="y"><loadInformation>&#xd;</loadInformation></device>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		stub, err := enc.Stub(b, "")
		if err != nil {
			return
		}
		again, err := enc.Stub(stub, "")
		if err != nil || !bytes.Equal(again, stub) {
			t.Errorf("a stub's stub differs: %v\n%s\n%s", err, stub, again)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	phone, tftp := vectors.Key(b, "enc/phone-rsa2048.pem"), vectors.Key(b, "keys/tftp.pem")
	xml := vectors.Read(b, "enc/plain.cnf.xml")
	for b.Loop() {
		if _, err := enc.Seal(name, xml, phone.Cert, tftp, trust.SHA512, time.Unix(1e9, 0)); err != nil {
			b.Fatal(err)
		}
	}
}
