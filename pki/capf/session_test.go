package capf

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const phone = "SEP001122334455"

// fake is a Backend that writes down what it is told.
type fake struct {
	mu     sync.Mutex
	dev    Device
	fail   error
	cert   []byte // issued to everybody
	calls  []string
	issued int
}

func (f *fake) call(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	return f.fail
}

func (f *fake) Device(name string) (Device, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dev, name == phone
}

// VerifyDevice believes any certificate; its organisation says what kind it is.
func (f *fake) VerifyDevice(c *x509.Certificate, device string) (string, error) {
	if c.Subject.CommonName != device {
		return "", errors.New("certificate of another device")
	}
	return c.Subject.Organization[0], nil
}

func (f *fake) Issue(_ context.Context, device string, _ crypto.PublicKey) ([]byte, string, error) {
	err := f.call("issue %s", device)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.issued++
	der := f.cert
	if der == nil {
		der = []byte{0x30, 0}
	}
	return der, fmt.Sprintf("%02x", f.issued), err
}

func (f *fake) Confirm(_ context.Context, device, serial string, byCode bool) error {
	return f.call("confirm %s %s %v", device, serial, byCode)
}

func (f *fake) Discard(_ context.Context, device, serial string) error {
	return f.call("discard %s %s", device, serial)
}

func (f *fake) Fetched(_ context.Context, device string, der []byte) error {
	return f.call("fetched %s %d", device, len(der))
}

func (f *fake) Deleted(_ context.Context, device string) error { return f.call("deleted %s", device) }

// identity makes a self-signed certificate of a kind for a device.
func identity(t testing.TB, device, kind string, key crypto.Signer) *Identity {
	t.Helper()
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: device, Organization: []string{kind}},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &Identity{Certificate: der, Key: key}
}

func newKey(t testing.TB, kind KeyKind) crypto.Signer {
	t.Helper()
	k, err := GenerateKey(kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func spki(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newSession(f *fake) *session {
	return &session{backend: f, guesses: newGuesses(), peer: netip.MustParseAddr("192.0.2.20"), id: 7}
}

// hello is an AUTH_RESPONSE of the device.
func hello(change ...func(*AuthResponse)) *AuthResponse {
	m := &AuthResponse{Reason: ReasonDone, Version: version, DeviceName: phone}
	for _, c := range change {
		c(m)
	}
	return m
}

// Each line is a whole dialogue: what the phone says, how it ends, and what the backend was told.
func TestDialogues(t *testing.T) {
	p256, rsa2048 := newKey(t, P256), newKey(t, RSA2048)
	cert := identity(t, phone, KindLSC, p256).Certificate
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	e3 := &rsa.PublicKey{N: rsa2048.Public().(*rsa.PublicKey).N, E: 3}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := func(pub crypto.PublicKey) *KeyGenerateResponse { return &KeyGenerateResponse{PublicKey: spki(t, pub)} }
	install := Device{Operation: Install, Key: P256}
	for _, tc := range []struct {
		name  string
		dev   Device
		fail  error
		phone []Body
		end   Reason
		text  string // of the refusal; empty: a regular end
		calls []string
	}{
		{name: "install", dev: install, phone: []Body{hello(), key(p256.Public()), &StoreResponse{ReasonDone}},
			end: ReasonDone, calls: []string{"issue " + phone, "confirm " + phone + " 01 false"}},
		{name: "many signs of life", dev: install,
			phone: []Body{hello(), &InProgress{}, &InProgress{}, &InProgress{}, key(p256.Public()), &StoreResponse{ReasonDone}},
			end:   ReasonDone, calls: []string{"issue " + phone, "confirm " + phone + " 01 false"}},
		{name: "store fails", dev: install, phone: []Body{hello(), key(p256.Public()), &StoreResponse{ReasonRefused}},
			end: ReasonRefused, text: "did not store", calls: []string{"issue " + phone, "discard " + phone + " 01"}},
		{name: "authority fails", dev: install, fail: errors.New("disk full"), phone: []Body{hello(), key(p256.Public())},
			end: ReasonRefused, text: "disk full", calls: []string{"issue " + phone}},
		{name: "no key", dev: install, phone: []Body{hello(), &KeyGenerateResponse{Reason: ReasonRefused}}, end: ReasonRefused, text: "made no key"},
		{name: "key of another kind", dev: install, phone: []Body{hello(), key(rsa2048.Public())}, end: ReasonRefused, text: "is rsa2048, p256 was asked for"},
		{name: "other curve", dev: install, phone: []Body{hello(), key(newKey(t, P384).Public())}, end: ReasonRefused, text: "is p384"},
		{name: "curve not offered", dev: install, phone: []Body{hello(), key(&p224.PublicKey)}, end: ReasonRefused, text: "not offered"},
		{name: "short key", dev: Device{Operation: Install, Key: RSA2048}, phone: []Body{hello(), key(&weak.PublicKey)}, end: ReasonRefused, text: "not offered"},
		{name: "low exponent", dev: Device{Operation: Install, Key: RSA2048}, phone: []Body{hello(), key(e3)}, end: ReasonRefused, text: "exponent"},
		{name: "key that does not parse", dev: install, phone: []Body{hello(), &KeyGenerateResponse{PublicKey: []byte{0x30, 1, 2}}},
			end: ReasonRefused, text: "public key"},
		{name: "fetch", dev: Device{Operation: Fetch}, phone: []Body{hello(), &FetchResponse{Reason: ReasonDone, Type: TypeLSC, Certificate: cert}},
			end: ReasonNothing, calls: []string{fmt.Sprintf("fetched %s %d", phone, len(cert))}},
		{name: "fetch, none there", dev: Device{Operation: Fetch}, phone: []Body{hello(), &FetchResponse{Reason: ReasonRefused}},
			end: ReasonNothing, calls: []string{"fetched " + phone + " 0"}},
		{name: "fetch, garbage", dev: Device{Operation: Fetch},
			phone: []Body{hello(), &FetchResponse{Reason: ReasonDone, Type: TypeLSC, Certificate: []byte{0x30, 0}}}, end: ReasonRefused, text: "certificate from the phone"},
		{name: "delete", dev: Device{Operation: Delete}, phone: []Body{hello(), &DeleteResponse{ReasonDone}}, end: ReasonDone, calls: []string{"deleted " + phone}},
		{name: "delete, none there", dev: Device{Operation: Delete}, phone: []Body{hello(), &DeleteResponse{ReasonRefused}}, end: ReasonDone, calls: []string{"deleted " + phone}},
		{name: "nothing due", phone: []Body{hello()}, end: ReasonNothing},
		{name: "unknown device", phone: []Body{hello(func(m *AuthResponse) { m.DeviceName = "SEP00FFFFFFFFFF" })}, end: ReasonUnknown, text: "not declared"},
		{name: "version 2", dev: Device{Operation: Install, Key: RSA2048},
			phone: []Body{hello(func(m *AuthResponse) { m.Version = 2 }), key(rsa2048.Public()), &StoreResponse{ReasonDone}},
			end:   ReasonDone, calls: []string{"issue " + phone, "confirm " + phone + " 01 false"}},
		{name: "version 2 and EC", dev: install, phone: []Body{hello(func(m *AuthResponse) { m.Version = 2 })}, end: ReasonRefused, text: "version 2"},
		{name: "version 1", dev: install, phone: []Body{hello(func(m *AuthResponse) { m.Version = 1 })}, end: ReasonRefused, text: "version 1"},
		{name: "phone opens with a failure", dev: install, phone: []Body{hello(func(m *AuthResponse) { m.Reason = 7 })}, end: ReasonRefused, text: "reason 7"},
		{name: "key before the name", dev: install, phone: []Body{key(p256.Public())}, end: ReasonRefused, text: "while in state hello"},
		{name: "sign of life before the name", dev: install, phone: []Body{&InProgress{}}, end: ReasonRefused, text: "while in state hello"},
		{name: "name twice", dev: install, phone: []Body{hello(), hello()}, end: ReasonRefused, text: "while in state keygen"},
		{name: "stored what was not sent", dev: install, phone: []Body{hello(), &StoreResponse{ReasonDone}}, end: ReasonRefused, text: "while in state keygen"},
		{name: "key twice", dev: install, phone: []Body{hello(), key(p256.Public()), key(p256.Public())},
			end: ReasonRefused, text: "while in state store", calls: []string{"issue " + phone}},
		{name: "sign of life while storing", dev: install, phone: []Body{hello(), key(p256.Public()), &InProgress{}},
			end: ReasonRefused, text: "while in state store", calls: []string{"issue " + phone}},
		{name: "server's message", dev: install, phone: []Body{&EndSession{ReasonDone}}, end: ReasonRefused, text: "while in state hello"},
		{name: "delete instead of fetch", dev: Device{Operation: Fetch}, phone: []Body{hello(), &DeleteResponse{ReasonDone}}, end: ReasonRefused, text: "while in state fetch"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fake{dev: tc.dev, fail: tc.fail}
			s := newSession(f)
			var out Body
			var err error
			for _, m := range tc.phone {
				if err != nil || s.state == stateClosed {
					t.Fatalf("ended early: %+v, %v", out, err)
				}
				out, err = s.step(t.Context(), Message{Session: 7, Body: m})
			}
			var got Reason
			r, refused := errors.AsType[*refusal](err)
			switch {
			case refused:
				got = r.reason
				if tc.text == "" || !strings.Contains(r.text, tc.text) {
					t.Errorf("refused with %q, want %q", r.text, tc.text)
				}
			case tc.text != "":
				t.Errorf("not refused: %+v", out)
			default:
				end, ok := out.(*EndSession)
				if !ok || s.state != stateClosed {
					t.Fatalf("ends with %+v in state %s", out, s.state)
				}
				got = end.Reason
			}
			if got != tc.end {
				t.Errorf("END_SESSION %d, want %d", got, tc.end)
			}
			if !slices.Equal(f.calls, tc.calls) {
				t.Errorf("backend was told %q, want %q", f.calls, tc.calls)
			}
		})
	}
}

func TestSessionIDIsChecked(t *testing.T) {
	f := &fake{dev: Device{Operation: Install, Key: P256}}
	if _, err := newSession(f).step(t.Context(), Message{Session: 8, Body: hello()}); err == nil || !strings.Contains(err.Error(), "session id") {
		t.Errorf("got %v", err)
	}
	seen := map[uint32]bool{}
	for range 1000 {
		id := randomID()
		if id == 0 || seen[id] {
			t.Fatalf("session id %d", id)
		}
		seen[id] = true
	}
}

func TestProofs(t *testing.T) {
	rsaKey, ecKey := newKey(t, RSA2048), newKey(t, P256)
	lsc, mic := identity(t, phone, KindLSC, rsaKey), identity(t, phone, KindMIC, rsaKey)
	ecLSC, ecMIC := identity(t, phone, KindLSC, ecKey), identity(t, phone, KindMIC, ecKey)
	otherLSC, otherMIC := identity(t, "SEP0011223344EE", KindLSC, rsaKey), identity(t, "SEP0011223344EE", KindMIC, rsaKey)
	proof := func(id *Identity) func(*AuthResponse) {
		return func(m *AuthResponse) {
			if err := m.signDevice(id, TypeLSC); err != nil {
				t.Fatal(err)
			}
		}
	}
	session := func(id *Identity, n uint32) func(*AuthResponse) {
		return func(m *AuthResponse) {
			if err := m.signSession(id, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	password := func(s string) func(*AuthResponse) { return func(m *AuthResponse) { m.Password = s } }
	code := func(typed string) bool { return typed == "12345" }
	for _, tc := range []struct {
		name  string
		dev   Device
		phone *AuthResponse
		want  string // text of the refusal; empty: accepted
		guess bool
	}{
		{"none asked", Device{}, hello(), "", false},
		{"none asked, one given", Device{}, hello(password("1")), "", false},
		{"code", Device{Auth: AuthCode, Code: code}, hello(password("12345")), "", false},
		{"wrong code", Device{Auth: AuthCode, Code: code}, hello(password("1234")), "wrong code", true},
		{"empty code", Device{Auth: AuthCode, Code: code}, hello(), "no code given", false},
		{"no valid code", Device{Auth: AuthCode}, hello(password("12345")), "no code is valid", true},
		{"LSC with MIC", Device{Auth: AuthCertificate}, hello(proof(lsc), session(mic, 7)), "", false},
		{"EC LSC with MIC", Device{Auth: AuthCertificate}, hello(proof(ecLSC), session(mic, 7)), "", false},
		{"LSC with EC MIC", Device{Auth: AuthCertificate}, hello(proof(lsc), session(ecMIC, 7)), "", false},
		{"MIC twice", Device{Auth: AuthCertificate}, hello(proof(mic), session(mic, 7)), "", false},
		{"MIC asked", Device{Auth: AuthMIC}, hello(proof(mic), session(mic, 7)), "", false},
		{"MIC asked, LSC given", Device{Auth: AuthMIC}, hello(proof(lsc), session(mic, 7)), "MIC is asked for", true},
		{"certificate asked, none given", Device{Auth: AuthCertificate}, hello(), "no certificate given", false},
		{"certificate asked, code given", Device{Auth: AuthCertificate, Code: code}, hello(password("12345")), "no certificate given", false},
		{"no session proof", Device{Auth: AuthCertificate}, hello(proof(lsc)), "no proof of the session", true},
		{"no session proof, waived", Device{Auth: AuthCertificate, WaiveSession: true}, hello(proof(lsc)), "", false},
		{"replay of another session", Device{Auth: AuthCertificate}, hello(proof(lsc), session(mic, 6)), "session proof", true},
		{"session number the other way round", Device{Auth: AuthCertificate}, hello(proof(lsc), session(mic, 7<<24)), "session proof", true},
		{"session proof by LSC", Device{Auth: AuthCertificate}, hello(proof(lsc), session(lsc, 7)), "session proof by LSC", true},
		{"another device's LSC", Device{Auth: AuthCertificate}, hello(proof(otherLSC), session(mic, 7)), "another device", true},
		{"another device's MIC", Device{Auth: AuthCertificate}, hello(proof(lsc), session(otherMIC, 7)), "another device", true},
		{"proof made for another name", Device{Auth: AuthCertificate}, hello(func(m *AuthResponse) {
			m.DeviceName = "SEP0011223344EE"
			proof(lsc)(m)
			m.DeviceName = phone
		}, session(mic, 7)), "SHA-1 is wrong", true},
		{"SHA-1 proof missing", Device{Auth: AuthCertificate}, hello(proof(lsc), session(mic, 7), func(m *AuthResponse) { m.SignedData = nil }), "without proof", true},
		{"SHA-512 proof missing", Device{Auth: AuthCertificate}, hello(proof(lsc), session(mic, 7), func(m *AuthResponse) { m.SHA2SignedData = nil }), "without proof", true},
		{"SHA-512 proof spoiled", Device{Auth: AuthCertificate}, hello(proof(lsc), session(mic, 7), func(m *AuthResponse) { m.SHA2SignedData[20] ^= 1 }), "SHA-512 is wrong", true},
		{"SHA-512 proof of another digest", Device{Auth: AuthCertificate}, hello(proof(lsc), session(mic, 7), func(m *AuthResponse) { m.SHA2SignedData[0] = 2 }), "triplet 3 is missing", true},
		{"something after the proof", Device{Auth: AuthCertificate}, hello(proof(lsc), session(mic, 7), func(m *AuthResponse) { m.SHA2SignedData = append(m.SHA2SignedData, 0) }), "after the SHA-512", true},
		{"session proof cut", Device{Auth: AuthCertificate}, hello(proof(lsc), session(mic, 7), func(m *AuthResponse) { m.SUDI = m.SUDI[:len(m.SUDI)-1] }), "runs past", true},
		{"certificate that does not parse", Device{Auth: AuthCertificate}, hello(proof(lsc), session(mic, 7), func(m *AuthResponse) { m.Certificate = []byte{0x30, 1, 0} }), "certificate:", true},
		{"code or certificate: code", Device{Auth: AuthCodeOrCertificate, Code: code}, hello(password("12345")), "", false},
		{"code or certificate: certificate", Device{Auth: AuthCodeOrCertificate, Code: code}, hello(proof(lsc), session(mic, 7)), "", false},
		{"code or certificate: a bad certificate does not fall back to the code", Device{Auth: AuthCodeOrCertificate, Code: code},
			hello(password("12345"), proof(otherLSC), session(mic, 7)), "another device", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSession(&fake{dev: tc.dev})
			_, err := s.step(t.Context(), Message{Session: 7, Body: tc.phone})
			r, refused := errors.AsType[*refusal](err)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.want != "" && (!refused || !strings.Contains(r.text, tc.want) || r.guess != tc.guess || r.reason != ReasonRefused):
				t.Errorf("got %+v, want a refusal that says %q and counts %v", err, tc.want, tc.guess)
			}
		})
	}
}

// A block whose padding is wrong, but whose end is the right digest, must not pass: the reference looked at the end alone.
func TestProofPaddingIsChecked(t *testing.T) {
	key := newKey(t, RSA2048).(*rsa.PrivateKey)
	lsc := identity(t, phone, KindLSC, key)
	m := hello()
	if err := m.signDevice(lsc, TypeLSC); err != nil {
		t.Fatal(err)
	}
	plain := new(big.Int).Exp(new(big.Int).SetBytes(m.SignedData), big.NewInt(int64(key.E)), key.N).FillBytes(make([]byte, 256))
	plain[100] = 0x5a
	m.SignedData = new(big.Int).Exp(new(big.Int).SetBytes(plain), key.D, key.N).FillBytes(make([]byte, 256))
	if _, err := m.verifyDevice(); err == nil {
		t.Error("a block with spoiled padding was accepted")
	}
}

func TestGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		home, away := netip.MustParseAddr("192.0.2.20"), netip.MustParseAddr("192.0.2.21")
		g := newGuesses()
		for i := range guessLimit {
			if !g.allowed(phone, home) {
				t.Fatalf("not allowed after %d failures", i)
			}
			g.failed(phone, home)
			time.Sleep(time.Minute)
		}
		for _, tc := range []struct {
			device string
			peer   netip.Addr
			want   bool
		}{
			{phone, home, false}, {phone, away, false}, {"SEP0011223344EE", home, false}, {"SEP0011223344EE", away, true},
			{phone, netip.MustParseAddr("::ffff:192.0.2.20"), false},
		} {
			if got := g.allowed(tc.device, tc.peer); got != tc.want {
				t.Errorf("%s from %s: allowed %v, want %v", tc.device, tc.peer, got, tc.want)
			}
		}
		time.Sleep(5*time.Minute + time.Second) // the first failure is ten minutes ago
		if !g.allowed(phone, home) {
			t.Error("still locked when the oldest failure has left the window")
		}
		g.failed(phone, home)
		if g.allowed(phone, away) {
			t.Error("a sixth failure did not lock again")
		}
		g.succeeded(phone)
		if !g.allowed(phone, away) || g.allowed(phone, home) {
			t.Error("a success frees the device, not the address")
		}
		time.Sleep(guessWindow + time.Second)
		g.allowed(phone, home)
		if len(g.table) != 0 {
			t.Errorf("%d entries are left over", len(g.table))
		}
		// IPv6: a host has 2^64 addresses.
		for i := range guessLimit {
			g.failed(fmt.Sprint("SEP", i), netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1)))
		}
		if g.allowed("SEPX", netip.MustParseAddr("2001:db8::ffff")) {
			t.Error("the /64 is not one address")
		}
	})
}

func TestGuessesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuesses()
		for i := range guessEntries {
			g.failed(phone, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
			time.Sleep(time.Millisecond)
		}
		if n := len(g.table); n > guessEntries {
			t.Errorf("%d entries, want at most %d", n, guessEntries)
		}
		if g.allowed(phone, netip.MustParseAddr("203.0.113.1")) {
			t.Error("the busy device was forgotten")
		}
		if len(g.table["address 10.0.0.0"]) != 0 {
			t.Error("the address that was quiet longest is still there")
		}
	})
}
