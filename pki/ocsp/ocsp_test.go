package ocsp

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"
	"time"

	foreign "golang.org/x/crypto/ocsp"
)

// newIssuer makes a CA.
func newIssuer(t testing.TB, key crypto.Signer) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "Example CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// What another implementation asks is understood, and it understands what is answered.
func TestAgainstAnotherImplementation(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{rsaKey, ecKey(t)} {
		issuer := newIssuer(t, key)
		for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			leaf := &x509.Certificate{SerialNumber: new(big.Int).Lsh(big.NewInt(0xfedc), 100)}
			asked, err := foreign.CreateRequest(leaf, issuer, &foreign.RequestOptions{Hash: h})
			if err != nil {
				t.Fatal(err)
			}
			var r Request
			if err := r.Unmarshal(asked); err != nil {
				t.Fatalf("%v: %v", h, err)
			}
			if len(r.Certs) != 1 || !r.Certs[0].IssuedBy(issuer) || r.Certs[0].IssuedBy(newIssuer(t, ecKey(t))) || r.Certs[0].Serial.Cmp(leaf.SerialNumber) != 0 {
				t.Fatalf("%v: read %+v", h, r)
			}
			if again, err := r.Marshal(); err != nil || !bytes.Equal(again, asked) {
				t.Errorf("%v: written %x, want %x (%v)", h, again, asked, err)
			}
			at := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
			for _, s := range []Single{{Status: Good}, {Status: Unknown}, {Status: Revoked, RevokedAt: at.Add(-time.Hour), Reason: 1}, {Status: Revoked, RevokedAt: at}} {
				s.Cert = r.Certs[0]
				der, err := (&Response{Produced: at, Singles: []Single{s}, Nonce: []byte{4, 2, 8, 9}}).Sign(issuer, key)
				if err != nil {
					t.Fatal(err)
				}
				got, err := foreign.ParseResponseForCert(der, leaf, issuer)
				if err != nil {
					t.Fatalf("%v, status %d: %v", h, s.Status, err)
				}
				if got.Status != int(s.Status) || !got.ProducedAt.Equal(at) || !got.ThisUpdate.Equal(at) || !got.NextUpdate.IsZero() ||
					!got.RevokedAt.Equal(s.RevokedAt) || got.RevocationReason != s.Reason {
					t.Errorf("%v: %+v answered as %+v", h, s, got)
				}
				if !bytes.Contains(der, []byte{4, 4, 4, 2, 8, 9}) {
					t.Errorf("%v: the nonce is missing", h)
				}
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, r := range []Refused{Malformed, Internal, TryLater, Unauthorized} {
		_, err := foreign.ParseResponse(r.Marshal(), nil)
		var e foreign.ResponseError
		if !errors.As(err, &e) || byte(e.Status) != byte(r) {
			t.Errorf("%v: read as %v", r, err)
		}
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	id, err := NewCertID(crypto.SHA1, newIssuer(t, ecKey(t)), big.NewInt(5))
	if err != nil {
		t.Fatal(err)
	}
	write := func(r Request) []byte {
		b, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one := write(Request{Certs: []CertID{id}, Nonce: []byte{4, 1, 9}})
	var many, most []CertID
	for range MaxCerts {
		most = append(most, id)
	}
	many = append(most, id)
	if err := new(Request).Unmarshal(write(Request{Certs: most})); err != nil {
		t.Errorf("%d certificates: %v", len(most), err)
	}
	for name, b := range map[string][]byte{
		"empty": nil, "no certificate": write(Request{}), "too many": write(Request{Certs: many}), "cut": one[:len(one)-1],
		"more behind": append(bytes.Clone(one), 0), "empty nonce": write(Request{Certs: []CertID{id}, Nonce: []byte{}}),
		"long nonce": write(Request{Certs: []CertID{id}, Nonce: make([]byte, 200)}), "too long": make([]byte, MaxRequest+1),
	} {
		if err := new(Request).Unmarshal(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want %v", name, err, ErrMalformed)
		}
	}
	var r Request
	if err := r.Unmarshal(one); err != nil || !bytes.Equal(r.Nonce, []byte{4, 1, 9}) {
		t.Errorf("nonce %x, %v", r.Nonce, err)
	}
}

// FuzzRequest: whatever comes is refused or can be answered, and what was read is written the same.
func FuzzRequest(f *testing.F) {
	key := ecKey(f)
	issuer := newIssuer(f, key)
	id, err := NewCertID(crypto.SHA256, issuer, big.NewInt(5))
	if err != nil {
		f.Fatal(err)
	}
	for _, r := range []Request{{Certs: []CertID{id}}, {Certs: []CertID{id, id}, Nonce: []byte{4, 1, 9}}} {
		b, err := r.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Request
		if r.Unmarshal(b) != nil {
			return
		}
		again, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var second Request
		if err := second.Unmarshal(again); err != nil || len(second.Certs) != len(r.Certs) || !bytes.Equal(second.Nonce, r.Nonce) {
			t.Fatalf("written %x: %v", again, err)
		}
		answer := Response{Produced: time.Now(), Nonce: r.Nonce}
		for _, c := range r.Certs {
			c.IssuedBy(issuer)
			answer.Singles = append(answer.Singles, Single{Cert: c, Status: Unknown})
		}
		if _, err := answer.Sign(issuer, key); err != nil {
			t.Fatal(err)
		}
	})
}
