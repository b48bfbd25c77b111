package capf

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// identities are the certificates of the recordings with their keys, by DER.
func identities(t testing.TB) map[string]*Identity {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", "keys", "*.pem"))
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]*Identity)
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		id := new(Identity)
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "CERTIFICATE" {
				id.Certificate = block.Bytes
				continue
			}
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			id.Key = k.(crypto.Signer)
		}
		out[string(id.Certificate)] = id
	}
	return out
}

// holder finds the key of a certificate: a phone may have got another certificate for it.
func holder(t testing.TB, known map[string]*Identity, der []byte) *Identity {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range known {
		if id.Key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(cert.PublicKey) {
			return &Identity{Certificate: der, Key: id.Key}
		}
	}
	return nil
}

// publicOnly is a key that is shown and not used.
type publicOnly struct{ pub crypto.PublicKey }

func (k publicOnly) Public() crypto.PublicKey { return k.pub }
func (publicOnly) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("no private key")
}

// The client is played against the servers of the recordings: given what the recorded phone had, it must say what that one
// said, byte for byte; signatures of EC keys differ each time and are verified instead.
func TestClientReplaysRecordings(t *testing.T) {
	known := identities(t)
	for _, name := range recordings(t) {
		if strings.HasPrefix(name, "fault-") || strings.HasPrefix(name, "abort-") ||
			strings.HasSuffix(name, "-bad.json") || name == "bad-public-key.json" || name == "auth-signed-over-other-name.json" ||
			name == "auth-unknown-issuer.json" || name == "capfc-auth-certificate.json" || name == "two-progress-messages.json" {
			continue // a phone that is at fault or breaks off, or one whose key was not kept
		}
		t.Run(name, func(t *testing.T) {
			lines := recording(t, name)
			c := &Client{Timeout: 5 * time.Second}
			var wantOp Operation
			var want [][]byte
			for _, r := range lines {
				if r.Hex == "" || r.From != "client" {
					continue
				}
				var m Message
				if err := m.Unmarshal(r.bytes(t)); err != nil {
					t.Fatal(err)
				}
				want = append(want, r.bytes(t))
				switch b := m.Body.(type) {
				case *AuthResponse:
					c.Device, c.Password = b.DeviceName, b.Password
					if len(b.Certificate) > 0 {
						if c.Proof = holder(t, known, b.Certificate); c.Proof == nil {
							t.Fatalf("the proof's key was not kept")
						}
					}
					if len(b.SUDI) > 0 {
						der, _, err := cutTriplet(b.SUDI, 0)
						if err != nil {
							t.Fatal(err)
						}
						c.SUDI = holder(t, known, der)
					}
				case *InProgress:
					c.Progress++
				case *KeyGenerateResponse:
					wantOp = Install
					c.GenerateKey = func(KeyKind) (crypto.Signer, error) {
						if len(b.PublicKey) == 0 {
							return nil, errors.New("no key")
						}
						pub, err := x509.ParsePKIXPublicKey(b.PublicKey)
						return publicOnly{pub}, err
					}
				case *StoreResponse:
					if b.Reason != ReasonDone {
						c.Store = func([]byte, crypto.Signer) error { return errors.New("no room") }
					}
				case *FetchResponse:
					wantOp, c.Installed = Fetch, b.Certificate
				case *DeleteResponse:
					wantOp = Delete
					if b.Reason != ReasonDone {
						c.Delete = func() error { return errors.New("nothing there") }
					}
				}
			}
			phone, server := net.Pipe()
			type result struct {
				res Result
				err error
			}
			done := make(chan result, 1)
			go func() { // the test's own peer; it ends with the pipe
				r, err := c.Run(context.Background(), phone)
				done <- result{r, err}
			}()
			defer server.Close()
			server.SetDeadline(time.Now().Add(10 * time.Second))
			n := 0
			var endReason Reason
			for _, r := range lines {
				switch {
				case r.Hex == "":
				case r.From == "server":
					if _, err := server.Write(r.bytes(t)); err != nil {
						t.Fatalf("%s: %v", r.Message, err)
					}
					if r.Message == "END_SESSION" {
						endReason = Reason(r.bytes(t)[headerLen+3])
					}
				default:
					got := make([]byte, len(want[n]))
					if _, err := io.ReadFull(server, got[:headerLen]); err != nil {
						t.Fatalf("%s: %v", r.Message, err)
					}
					size, err := bodyLength(got)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got[:headerLen], make([]byte, size)...)
					if _, err := io.ReadFull(server, got[headerLen:]); err != nil {
						t.Fatalf("%s: %v", r.Message, err)
					}
					if !bytes.Equal(got, want[n]) && !sameButSignatures(t, got, want[n]) {
						t.Errorf("%s:\n got %x\nwant %x", r.Message, got, want[n])
					}
					n++
				}
			}
			got := <-done
			if got.err != nil || got.res.Operation != wantOp || got.res.Reason != endReason {
				t.Errorf("result %+v, %v; want %v, %v", got.res, got.err, wantOp, endReason)
			}
		})
	}
}

// sameButSignatures compares two AUTH_RESPONSE by EC keys: everything but the signatures equal, all signatures right.
func sameButSignatures(t *testing.T, got, want []byte) bool {
	t.Helper()
	var g, w Message
	if g.Unmarshal(got) != nil || w.Unmarshal(want) != nil {
		return false
	}
	a, ok1 := g.Body.(*AuthResponse)
	b, ok2 := w.Body.(*AuthResponse)
	if !ok1 || !ok2 {
		return false
	}
	for _, m := range []*AuthResponse{a, b} {
		cert, err := m.verifyDevice()
		if err != nil || cert.PublicKeyAlgorithm != x509.ECDSA {
			return false
		}
	}
	return a.DeviceName == b.DeviceName && bytes.Equal(a.Certificate, b.Certificate) && bytes.Equal(a.SUDI, b.SUDI) &&
		a.Version == b.Version && a.Password == b.Password && a.Reason == b.Reason
}

func TestClientRefuses(t *testing.T) {
	req := Message{Session: 7, Body: &AuthRequest{Version: 3}}
	for _, tc := range []struct {
		name   string
		server []Message
		want   error
	}{
		{"server that does not open", []Message{{7, &EndSession{}}}, ErrMalformed},
		{"session id that changes", []Message{req, {8, &EndSession{}}}, ErrMalformed},
		{"certificate without a key", []Message{req, {7, &StoreRequest{Type: TypeLSC, Certificate: []byte{0x30, 0}}}}, ErrMalformed},
		{"answer to nothing", []Message{req, {7, &StoreResponse{}}}, ErrMalformed},
		{"server that closes", []Message{req}, ErrNoEnd},
	} {
		t.Run(tc.name, func(t *testing.T) {
			phone, server := net.Pipe()
			done := make(chan error, 1)
			go func() { // the test's own peer; it ends with the pipe
				_, err := (&Client{Device: "SEP001122334455"}).Run(context.Background(), phone)
				done <- err
			}()
			for i, m := range tc.server {
				if i == 1 {
					if _, err := ReadMessage(server); err != nil {
						t.Fatal(err)
					}
				}
				if err := WriteMessage(server, m); err != nil {
					t.Fatal(err)
				}
			}
			if tc.want == ErrNoEnd {
				ReadMessage(server)
			}
			server.Close()
			if err := <-done; !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestClientStopsWithItsContext(t *testing.T) {
	phone, server := net.Pipe()
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { // the test's own peer; it ends with ctx
		_, err := (&Client{Device: "SEP001122334455"}).Run(ctx, phone)
		done <- err
	}()
	if err := WriteMessage(server, Message{Session: 7, Body: &AuthRequest{Version: 3}}); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadMessage(server); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if err == nil {
			t.Error("no error")
		}
	case <-time.After(10 * time.Second):
		t.Error("the client did not stop")
	}
}
