package pki_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/pki"
	"ringfence/pki/capf"
)

const phone = "SEP001122334455"

// memory is a pki.State in memory.
type memory struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (s *memory) Get(key string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.m[key]
	return bytes.Clone(v), ok
}

func (s *memory) Scan(prefix string, fn func(string, []byte) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for k := range s.m {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if !fn(k, bytes.Clone(s.m[k])) {
			return
		}
	}
}

func (s *memory) Write(_ context.Context, set map[string][]byte, del ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(s.m, set)
	for _, k := range del {
		delete(s.m, k)
	}
	return nil
}

// made is an authority that all tests copy, with the issuer of the recordings as its issuing CA.
var made = sync.OnceValues(func() (first struct {
	state   map[string][]byte
	keyFile []byte
}, err error) {
	dir, err := os.MkdirTemp("", "capf")
	if err != nil {
		return first, err
	}
	defer os.RemoveAll(dir)
	state := &memory{m: make(map[string][]byte)}
	o := pki.Options{State: state, KeyFile: filepath.Join(dir, "pki.key"), Now: recordedTime}
	a, err := pki.Open(context.Background(), o)
	if err != nil {
		return first, err
	}
	cert, key, err := readPEM("issuer.pem")
	if err != nil {
		return first, err
	}
	if err := a.ImportIssuer(context.Background(), cert, key); err != nil {
		return first, err
	}
	first.state = state.m
	first.keyFile, err = os.ReadFile(o.KeyFile)
	return first, err
})

// recordedTime lies in the life of the recorded certificates.
func recordedTime() time.Time { return time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC) }

func readPEM(name string) (cert *x509.Certificate, key crypto.Signer, err error) {
	b, err := os.ReadFile(filepath.Join("capf", "testdata", "keys", name))
	if err != nil {
		return nil, nil, err
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			if cert, err = x509.ParseCertificate(block.Bytes); err != nil {
				return nil, nil, err
			}
			continue
		}
		k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, nil, err
		}
		key = k.(crypto.Signer)
	}
	return cert, key, nil
}

// bench is a server with its authority.
type bench struct {
	*pki.Authority
	*capf.Server
	state  *memory
	policy map[string]pki.DevicePolicy
	mu     sync.Mutex
	notes  []string
	ahead  time.Duration // of recordedTime
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return recordedTime().Add(b.ahead)
}

func (b *bench) advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ahead += d
}

func serve(t testing.TB, policy map[string]pki.DevicePolicy, change ...func(*capf.Options)) *bench {
	t.Helper()
	first, err := made()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{state: &memory{m: maps.Clone(first.state)}, policy: policy}
	keyFile := filepath.Join(t.TempDir(), "pki.key")
	if err := os.WriteFile(keyFile, first.keyFile, 0o600); err != nil {
		t.Fatal(err)
	}
	micCA, _, err := readPEM("mic-ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	b.Authority, err = pki.Open(t.Context(), pki.Options{
		State: b.state, KeyFile: keyFile, Now: b.now, MICRoots: []*x509.Certificate{micCA},
	})
	if err != nil {
		t.Fatal(err)
	}
	o := capf.Options{
		Address:     "127.0.0.1:0",
		Certificate: func() (*tls.Certificate, error) { return b.Identity(pki.RoleCAPF) },
		Backend: pki.NewEnrolment(b.Authority, func(device string) (pki.DevicePolicy, bool) {
			b.mu.Lock()
			defer b.mu.Unlock()
			p, ok := b.policy[device]
			return p, ok
		}),
		Note: func(device, step, text string, failed bool) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if failed {
				text = "! " + text
			}
			b.notes = append(b.notes, device+" "+step+" "+text)
		},
	}
	for _, c := range change {
		c(&o)
	}
	if b.Server, err = capf.New(o); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.Run(context.Background()) }() // ends with Stop
	t.Cleanup(func() {
		b.Stop()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	return b
}

// dial connects as a phone that trusts the server's certificate.
func (b *bench) dial(t testing.TB) *tls.Conn {
	t.Helper()
	c, err := b.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (b *bench) connect(ctx context.Context) (*tls.Conn, error) {
	want, err := b.Identity(pki.RoleCAPF)
	if err != nil {
		return nil, err
	}
	c, err := capf.Dial(ctx, b.Addr().String(), func(got *x509.Certificate) error {
		if !bytes.Equal(got.Raw, want.Leaf.Raw) {
			return errors.New("another certificate")
		}
		return nil
	}, 0)
	if err != nil {
		return nil, err
	}
	return c.(*tls.Conn), nil
}

// settled waits until no session is open and returns what the device has.
func (b *bench) settled(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); b.Stats().Open > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a session does not end")
		}
	}
}

type recorded struct {
	From    string `json:"from"`
	Message string `json:"message"`
	Session uint32 `json:"session_id"`
	Hex     string `json:"hex"`
}

func recording(t testing.TB, name string) []recorded {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("capf", "testdata", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	var out []recorded
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// expectation is how our server has to answer a recorded phone.
type expectation struct {
	op     capf.Operation // scheduled before
	auth   capf.Auth
	code   string
	key    capf.KeyKind
	end    int  // reason of END_SESSION; -1: none is sent
	endOr  int  // another one that will do
	done   bool // the operation is not due any more
	issued bool // the device has a new current certificate
}

// expectations by the manifest's column "product".
func expectations(t *testing.T) map[string]expectation {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("capf", "testdata", "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		CAPF []struct{ File, What, Reference, Product string } `json:"capf"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]expectation)
	for _, v := range m.CAPF {
		name := filepath.Base(v.File)
		e := expectation{op: capf.Install, key: capf.RSA2048, end: -1, endOr: -1}
		switch p := v.Product; p {
		case "install":
			e.end, e.done, e.issued = 1, true, true
		case "fetch", "fetch, END_SESSION 0":
			e.op, e.end, e.done = capf.Fetch, 0, true
		case "delete", "END_SESSION 1":
			e.op, e.end, e.done = capf.Delete, 1, true
		case "END_SESSION 0":
			e.op, e.end, e.done = capf.None, 0, true
		case "END_SESSION 0, recorded as no LSC, operation done":
			e.op, e.end, e.done = capf.Fetch, 0, true
		case "END_SESSION 1, operation done":
			e.op, e.end, e.done = capf.Delete, 1, true
		case "END_SESSION 7", "END_SESSION 7, stays scheduled",
			"refuse unless the operator waives SUDI for the device (no freshness)":
			e.end = 7
		case "END_SESSION 9":
			e.end = 9
		case "serve (a Cisco soft client says 2)", "ignore the element, go on", "nothing changed", "certificate not current; stays scheduled":
		case "dropped or END_SESSION 7":
			e.endOr = 7
		case "END_SESSION 7 or 1; certificate not current; stays scheduled":
			e.end, e.endOr = 7, 1
		default:
			t.Fatalf("%s: the manifest says %q", name, p)
		}
		switch {
		case strings.HasPrefix(name, "auth-") || name == "capfc-auth-certificate.json":
			e.auth = capf.AuthCertificate
		case strings.Contains(name, "password.json") && name != "install-rsa2048-no-password.json":
			e.auth, e.code = capf.AuthCode, "123456"
		}
		switch name {
		case "install-rsa4096.json":
			e.key = capf.RSA4096
		case "install-ec-p256.json", "auth-lsc-ec-with-mic.json":
			e.key = capf.P256
		case "install-ec-p384.json":
			e.key = capf.P384
		case "install-ec-p521.json":
			e.key = capf.P521
		}
		out[name] = e
	}
	if len(out) != 49 {
		t.Fatalf("%d recordings in the manifest, want 49", len(out))
	}
	return out
}

// The phones of the recordings are played against our server, each message as it was recorded, and the outcome is compared
// with what the manifest wants of the product.
func TestServerMeetsRecordedPhones(t *testing.T) {
	for name, want := range expectations(t) {
		t.Run(name, func(t *testing.T) { replay(t, name, want) })
	}
}

func replay(t *testing.T, name string, want expectation) {
	lines := recording(t, name)
	policy := pki.DevicePolicy{Key: want.key, Auth: want.auth, Code: want.code}
	b := serve(t, map[string]pki.DevicePolicy{phone: policy, "SEP0011223344EE": policy}, func(o *capf.Options) {
		o.SessionID = func() uint32 { return lines[0].Session }
	})
	if name == "two-progress-messages.json" {
		// The recorded phone was cut off by the reference; ours may go on.
		lines = append(lines, recorded{From: "client", Message: "STORE_CERTIFICATE_RESPONSE", Hex: "550a0000002d000401000101"})
	}
	device := phone
	if name == "auth-lsc-of-another-device.json" {
		device = "SEP0011223344EE"
	}
	// What the phone holds already, as far as it shows it.
	held := false
	for _, l := range lines {
		var m capf.Message
		raw, _ := hex.DecodeString(l.Hex)
		if l.From != "client" || m.Unmarshal(raw) != nil {
			continue
		}
		var der []byte
		switch body := m.Body.(type) {
		case *capf.AuthResponse:
			der = body.Certificate
		case *capf.FetchResponse:
			der = body.Certificate
		}
		if cert, err := x509.ParseCertificate(der); err == nil {
			if _, err := b.ImportLSC(t.Context(), cert); err == nil {
				held = true
			}
		}
	}
	if !held {
		cert, _, err := readPEM("lsc-" + phone + "-rsa2048.pem")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.ImportLSC(t.Context(), cert); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Schedule(t.Context(), device, want.op, "test"); err != nil {
		t.Fatal(err)
	}
	before := serialOf(b, device)

	end, answers := play(t, b.dial(t), lines)
	b.settled(t)

	if end != want.end && end != want.endOr {
		t.Errorf("END_SESSION %d, want %d (or %d); notes %q", end, want.end, want.endOr, b.notes)
	}
	_, due := b.Scheduled(device)
	if due == want.done {
		t.Errorf("operation due afterwards: %v, want %v", due, !want.done)
	}
	after := serialOf(b, device)
	switch {
	case want.issued && (after == before || after == ""):
		t.Errorf("no new certificate is current")
	case !want.issued && want.op == capf.Delete, name == "fetch-absent.json":
		if after != "" {
			t.Errorf("%s is still current", after)
		}
	case !want.issued && after != before:
		t.Errorf("the current certificate went from %q to %q", before, after)
	}
	// Our requests equal the recorded ones but for the certificate that we issue ourselves.
	for _, l := range lines {
		if l.From != "server" || l.Hex == "" || l.Message == "STORE_CERTIFICATE_REQUEST" || l.Message == "END_SESSION" {
			continue
		}
		raw, _ := hex.DecodeString(l.Hex)
		if want.end == 7 && l.Message != "AUTH_REQUEST" && name != "keygen-failed.json" && name != "store-failed.json" && name != "bad-public-key.json" {
			continue // the reference went on where we refuse
		}
		if !slices.ContainsFunc(answers, func(a []byte) bool { return bytes.Equal(a, raw) }) {
			t.Errorf("%s was not sent as recorded: %x", l.Message, raw)
		}
	}
}

func serialOf(b *bench, device string) string {
	c, ok := b.CurrentLSC(device)
	if !ok {
		return ""
	}
	return c.SerialNumber.Text(16)
}

// play says what the recorded phone said, each line after the server's turn has come, and returns the reason of END_SESSION
// and every message of the server. A recording whose phone falls silent ends there.
func play(t *testing.T, c *tls.Conn, lines []recorded) (end int, answers [][]byte) {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	end = -1
	read := func() bool {
		header := make([]byte, 8)
		if _, err := io.ReadFull(c, header); err != nil {
			return false
		}
		msg := append(header, make([]byte, int(header[6])<<8|int(header[7]))...)
		if _, err := io.ReadFull(c, msg[8:]); err != nil {
			t.Fatal(err)
		}
		answers = append(answers, msg)
		if msg[1] == 0x0f {
			end = int(msg[11])
			return false
		}
		return true
	}
	alive := read() // the server speaks first
	for _, l := range lines {
		if l.From != "client" || !alive {
			continue
		}
		if l.Hex == "" { // closed
			c.CloseWrite()
			break
		}
		raw, err := hex.DecodeString(l.Hex)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(raw); err != nil {
			t.Fatal(err)
		}
		if l.Message == "incomplete" {
			c.CloseWrite()
			break
		}
		if l.Message != "REQUEST_IN_PROGRESS" {
			alive = read()
		}
	}
	if alive {
		c.CloseWrite()
		for read() {
		}
	}
	c.Close()
	return end, answers
}
