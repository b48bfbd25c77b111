package provision

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/config"
	"ringfence/trust"
	"ringfence/trust/sgn"
)

const (
	phone8851 = "SEP001122AA0001" // encrypted
	phone7965 = "SEP001122AA0002" // encrypted
	phoneOpen = "SEP001122AA0003" // non-secure 8841
	phone9971 = "SEP001122AA0004" // encrypted, feature policy
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// keys are made once for all tests: RSA takes its time.
var keys = sync.OnceValue(func() map[string]trust.Signer {
	m := make(map[string]trust.Signer)
	for i, name := range []string{"sast", "recovery", "ccm", "tftp", "tftp2", "lsc", "lsc2"} {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		m[name] = certificate(k, name, int64(i+1), now.AddDate(1, 0, 0))
	}
	for i, name := range []string{"tftp-ec", "lsc-ec"} {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			panic(err)
		}
		m[name] = certificate(k, name, int64(i+101), now.AddDate(1, 0, 0))
	}
	m["lsc-old"] = certificate(m["lsc"].Key, "lsc-old", 200, now.AddDate(0, 0, -1))
	return m
})

func certificate(k crypto.Signer, name string, serial int64, until time.Time) trust.Signer {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name, Organization: []string{"TEST"}},
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: until,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
	if err != nil {
		panic(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return trust.Signer{Cert: c, Key: k}
}

func testDocument() *config.Document {
	d := &config.Document{
		Node: config.Node{Name: "a", Address: netip.MustParseAddr("192.0.2.10"), Listen: config.Listen{
			SIPTCP: config.Endpoint{AddrPort: netip.MustParseAddrPort("0.0.0.0:5060")}, SIPTLS: config.Endpoint{AddrPort: netip.MustParseAddrPort("0.0.0.0:5061")},
			TVS: config.Endpoint{AddrPort: netip.MustParseAddrPort("0.0.0.0:2445")}, CAPF: config.Endpoint{AddrPort: netip.MustParseAddrPort("0.0.0.0:3804")},
		}},
		Site: config.Site{Name: "Test", TimeZone: "Europe/Berlin", Date: "D.M.Y"},
		SIP:  config.SIP{RegisterExpires: config.Duration(2 * time.Minute)},
		PKI:  config.PKI{ITLVersion: config.ITLAuto, LSC: config.LSCPolicy{Auth: config.CAPFNullString}},
		Phones: []config.Phone{
			{Device: phone8851, Model: "8851", Security: config.SecurityEncrypted, Load: "sip88xx.14-2-1-0001-134"},
			{Device: phone7965, Model: "7965", Security: config.SecurityEncrypted},
			{Device: phoneOpen, Model: "8841", Security: config.SecurityNonsecure},
			{Device: phone9971, Model: "9971", Security: config.SecurityEncrypted},
		},
	}
	for i, p := range d.Phones {
		d.Lines = append(d.Lines, config.Line{Number: config.Digits(fmt.Sprint(301 + i)), Phone: p.Device, Index: 1, MaxCalls: 4, BusyAt: 2})
	}
	return d
}

// password of a device; different for each, so that leaks between devices show too.
func password(device string) string { return "pw" + strings.ToLower(device[9:]) + "Zq7x" }

// world is a Files with everything around it that tests turn.
type world struct {
	*Files
	mu    sync.Mutex
	doc   *config.Document
	lsc   map[string]string // device to the name of a key
	clock time.Time
	tftp  string
	local *memory
	notes []string
}

type memory struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (l *memory) Get(bucket, key string) ([]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.m[bucket+"/"+key]
	return b, ok
}

func (l *memory) Put(bucket, key string, value []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.m[bucket+"/"+key] = bytes.Clone(value)
}

func newWorld(t testing.TB, changes ...func(*world)) *world {
	t.Helper()
	w := &world{doc: testDocument(), lsc: map[string]string{}, clock: now, tftp: "tftp", local: &memory{m: map[string][]byte{}}}
	for _, c := range changes {
		c(w)
	}
	w.open(t)
	return w
}

// open makes a Files anew, as after a restart.
func (w *world) open(t testing.TB) {
	t.Helper()
	var err error
	w.Files, err = NewFiles(Options{
		Doc:      func() *config.Document { w.mu.Lock(); defer w.mu.Unlock(); return w.doc },
		Password: password,
		LSC: func(device string) (*x509.Certificate, bool) {
			w.mu.Lock()
			defer w.mu.Unlock()
			name, ok := w.lsc[device]
			if !ok {
				return nil, false
			}
			return keys()[name].Cert, true
		},
		VPNHashes: func() []string { return []string{"YDXfSng5J7WqmKttrChP2npBKvY="} },
		Trust: Trust{
			Entries: func() ([]trust.Entry, error) {
				k := keys()
				return []trust.Entry{{Cert: k["sast"].Cert, Role: trust.SAST}, {Cert: k["recovery"].Cert, Role: trust.SAST},
					{Cert: k["ccm"].Cert, Role: trust.CCM}, {Cert: k[w.tftp].Cert, Role: trust.TFTP}, {Cert: k["tftp-ec"].Cert, Role: trust.TFTP}}, nil
			},
			ListSigner: func() (trust.Signer, error) { return keys()["sast"], nil },
			FileSigner: func(string) (trust.Signer, error) { return keys()[w.tftp], nil },
		},
		Local: w.local,
		Now:   func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.clock },
		Note: func(device, step, text string, failed bool) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.notes = append(w.notes, fmt.Sprintf("%s %s %s %v", device, step, text, failed))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *world) lastNote() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.notes) == 0 {
		return ""
	}
	return w.notes[len(w.notes)-1]
}

var client = netip.MustParseAddr("192.0.2.77")

func (w *world) get(name string, transport Transport) (*File, error) {
	return w.Get(Request{Name: name, Transport: transport, Source: client})
}

func (w *world) must(t testing.TB, name string) []byte {
	t.Helper()
	f, err := w.get(name, HTTP)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return f.Body
}

func fileSigners() []*x509.Certificate {
	return []*x509.Certificate{keys()["tftp"].Cert, keys()["tftp2"].Cert}
}

// open checks a signed file as a phone does.
func opened(t testing.TB, b []byte, name string) []byte {
	t.Helper()
	content, err := sgn.Open(b, name, fileSigners())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return content
}
