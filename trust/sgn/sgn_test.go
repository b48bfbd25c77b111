package sgn_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"path"
	"strings"
	"testing"
	"time"

	"ringfence/trust"
	"ringfence/trust/internal/vectors"
	"ringfence/trust/sgn"
)

func TestVectors(t *testing.T) {
	m := vectors.Load(t)
	if len(m.SGN) < 14 {
		t.Fatalf("only %d vectors", len(m.SGN))
	}
	signers := []*x509.Certificate{
		vectors.Key(t, "keys/tftp.pem").Cert, vectors.Key(t, "keys/tftp-4096.pem").Cert,
		vectors.Key(t, "keys/tftp-1024.pem").Cert, vectors.Key(t, "keys/odd-name.pem").Cert,
	}
	for _, v := range m.SGN {
		t.Run(v.File, func(t *testing.T) {
			b := vectors.Read(t, v.File)
			if v.Product == "reject" {
				for _, name := range []string{v.Filename, path.Base(v.File), "DialTemplate.xml.sgn", "DialTemplatf.xml.sgn"} {
					if _, err := sgn.Open(b, name, signers); err == nil {
						t.Fatalf("accepted as %s although %s", name, v.Why)
					}
				}
				return
			}
			content, err := sgn.Open(b, v.Filename, signers)
			if err != nil {
				t.Fatal(err)
			}
			if want := vectors.Read(t, v.Content); !bytes.Equal(content, want) {
				t.Errorf("content: got %q, want %q", content, want)
			}
			f, err := sgn.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			rebuilt, err := sgn.Sign(v.Filename, content, vectors.Key(t, v.Signer), vectors.Digest(t, v.Digest), f.Time)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(rebuilt, b) {
				t.Error("rebuilt file differs")
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	tftp, stranger := vectors.Key(t, "keys/tftp.pem"), vectors.Key(t, "keys/stranger.pem")
	b, err := sgn.Sign("a/b.xml.sgn", []byte("x"), tftp, trust.SHA1, time.Unix(1e9, 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		as      string
		signers []*x509.Certificate
		want    error
	}{
		{"signer outside the list", "a/b.xml.sgn", []*x509.Certificate{stranger.Cert}, sgn.ErrSigner},
		{"no list", "a/b.xml.sgn", nil, sgn.ErrSigner},
		{"other name", "c.xml.sgn", []*x509.Certificate{tftp.Cert}, sgn.ErrName},
		{"base name only", "b.xml.sgn", []*x509.Certificate{tftp.Cert}, sgn.ErrName},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := sgn.Open(b, c.as, c.signers); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	if _, err := sgn.Sign("a\x00b", nil, tftp, trust.SHA1, time.Unix(1e9, 0)); err == nil {
		t.Error("signed a name with a NUL")
	}
	if _, err := sgn.Sign(strings.Repeat("n", 70000), nil, tftp, trust.SHA1, time.Unix(1e9, 0)); err == nil {
		t.Error("signed a name that does not fit")
	}
}

func FuzzOpen(f *testing.F) {
	for _, v := range vectors.Load(f).SGN {
		f.Add(vectors.Read(f, v.File))
	}
	signers := []*x509.Certificate{vectors.Key(f, "keys/tftp.pem").Cert}
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := sgn.Parse(b)
		if err != nil {
			return
		}
		content, err := sgn.Open(b, file.Name, signers)
		if err == nil && !bytes.HasSuffix(b, content) {
			t.Error("content is not the end of the file")
		}
	})
}

func BenchmarkSign(b *testing.B) {
	content := vectors.Read(b, "enc/plain.cnf.xml")
	for _, name := range []string{"tftp", "tftp-4096"} {
		s := vectors.Key(b, "keys/"+name+".pem")
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := sgn.Sign("SEP001122334455.cnf.xml.sgn", content, s, trust.SHA512, time.Unix(1e9, 0)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
