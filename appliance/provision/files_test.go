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
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ringfence/appliance/provision/phonefile"
	"ringfence/config"
	"ringfence/trust"
	"ringfence/trust/enc"
	"ringfence/trust/sgn"
	"ringfence/trust/tlv"
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

// TestWhatEachPhoneGets is the table of the package comment: state of the phone, name, transport, form.
func TestWhatEachPhoneGets(t *testing.T) {
	const (
		none   = "not found"
		empty  = "stub without hash"
		points = "stub with hash"
		full   = "whole file"
		sealed = "sealed file"
	)
	for _, c := range []struct {
		name, device, lsc, proven string
		plain, sgn, enc, https    string // .cnf.xml, .cnf.xml.sgn, .cnf.xml.enc.sgn on HTTP and TFTP; .cnf.xml(.sgn) on HTTPS
	}{
		{"before enrolment", phone8851, "", "", empty, empty, none, empty},
		{"enrolled", phone8851, "lsc", "", points, points, sealed, points},
		{"enrolled, 7900", phone7965, "lsc", "", points, points, sealed, points},
		{"EC certificate cannot decrypt", phone8851, "lsc-ec", "", empty, empty, none, empty},
		{"expired certificate", phone8851, "lsc-old", "", empty, empty, none, empty},
		{"proven by its certificate", phone8851, "lsc-ec", phone8851, empty, empty, none, full},
		{"another's certificate", phone8851, "lsc", phone7965, points, points, sealed, points},
		{"non-secure", phoneOpen, "", "", full, full, none, full},
		{"non-secure with certificate", phoneOpen, "lsc", "", full, full, sealed, full},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			if c.lsc != "" {
				w.lsc[c.device] = c.lsc
			}
			for _, ask := range []struct {
				suffix    string
				transport Transport
				want      string
			}{
				{".cnf.xml", HTTP, c.plain}, {".cnf.xml", TFTP, c.plain},
				{".cnf.xml.sgn", HTTP, c.sgn}, {".cnf.xml.sgn", TFTP, c.sgn},
				{".cnf.xml.enc.sgn", HTTP, c.enc}, {".cnf.xml.enc.sgn", TFTP, c.enc},
				{".cnf.xml", HTTPS, c.https}, {".cnf.xml.sgn", HTTPS, c.https}, {".cnf.xml.enc.sgn", HTTPS, none},
			} {
				name := c.device + ask.suffix
				f, err := w.Get(Request{Name: name, Transport: ask.transport, Source: client, Proven: c.proven})
				got := none
				if err == nil {
					b := f.Body
					if strings.HasSuffix(name, ".enc.sgn") {
						got = sealed
						if b, err = enc.Open(b, name, fileSigners(), keys()["lsc"].Key.(*rsa.PrivateKey)); err != nil {
							t.Fatalf("%s over %s: %v", name, ask.transport, err)
						}
						if !bytes.Contains(b, []byte("<authPassword>"+password(c.device)+"<")) {
							t.Errorf("sealed file without its password")
						}
					} else {
						if strings.HasSuffix(name, ".sgn") && ask.transport != HTTPS {
							b = opened(t, b, name)
						}
						switch {
						case bytes.Contains(b, []byte("<fullConfig>true<")):
							got = full
							if !bytes.Contains(b, []byte(password(c.device))) {
								t.Error("whole file without its password")
							}
						case bytes.Contains(b, []byte("<certHash></certHash>")):
							got = empty
						case bytes.Contains(b, []byte("<certHash>"+trust.ConfigHash(keys()["lsc"].Cert.Raw)+"<")):
							got = points
						}
						if got == empty || got == points {
							for _, want := range []string{"<encrConfig>true<", "<capfAuthMode>2<", "<processNodeName>192.0.2.10<", "<fullConfig>false<"} {
								if !bytes.Contains(b, []byte(want)) {
									t.Errorf("stub without %s", want)
								}
							}
						}
					}
				} else if !errors.Is(err, ErrNotFound) {
					t.Fatal(err)
				}
				if got != ask.want {
					t.Errorf("%s over %s: got %s, want %s", name, ask.transport, got, ask.want)
				}
			}
			if _, due := w.Due(c.device); due != (c.sgn == empty) {
				t.Errorf("due %v, stub %s", due, c.sgn)
			}
		})
	}
}

// TestSecretsStayInside asks for the files of encrypted phones in every way we can think of, in every state, and looks for
// every password in every spelling. A sealed file is the only way out.
func TestSecretsStayInside(t *testing.T) {
	w := newWorld(t)
	hides := func(t *rapid.T, what string, b []byte) {
		for _, device := range []string{phone8851, phone7965, phone9971} {
			pw := []byte(password(device))
			for i := range len(pw) - 7 {
				part := pw[i : i+8]
				for _, form := range []string{string(part), hex.EncodeToString(part), strings.ToUpper(hex.EncodeToString(part)), url.QueryEscape(string(part))} {
					if bytes.Contains(b, []byte(form)) {
						t.Fatalf("%s holds the password of %s", what, device)
					}
				}
			}
			for shift := range 3 {
				s := base64.StdEncoding.EncodeToString(append(bytes.Repeat([]byte{'x'}, shift), pw...))
				if bytes.Contains(b, []byte(s[4:len(s)-4])) {
					t.Fatalf("%s holds the password of %s in base64", what, device)
				}
			}
		}
	}
	served := 0
	look := func(t *rapid.T) {
		device := rapid.SampledFrom([]string{phone8851, phone7965, phone9971}).Draw(t, "device")
		w.change(func() {
			w.lsc = map[string]string{}
			if lsc := rapid.SampledFrom([]string{"", "lsc", "lsc2", "lsc-ec", "lsc-old"}).Draw(t, "lsc"); lsc != "" {
				w.lsc[device] = lsc
			}
		})
		base := rapid.SampledFrom([]string{device + ".cnf.xml", "dial-" + device + ".xml", "keys-" + device + ".xml", "feat-" + device + ".xml",
			"ITL" + device + ".tlv", "CTL" + device + ".tlv", "ITLFile.tlv", "XMLDefault.cnf.xml", device}).Draw(t, "base")
		name := base + rapid.SampledFrom([]string{"", ".sgn", ".enc.sgn", ".enc", ".sgn.sgn", ".xml", "/", "%00", "\x00", " ", "?x"}).Draw(t, "suffix")
		name = rapid.SampledFrom([]string{"", "/", "//", `\`, "./", "../", "a/", "/a/../", "C:", "C:/"}).Draw(t, "prefix") + name
		upper := rapid.SliceOfN(rapid.Bool(), len(name), len(name)).Draw(t, "upper")
		spelled := []byte(name)
		if rapid.Bool().Draw(t, "respell") {
			for i, up := range upper {
				if up {
					spelled[i] = bytes.ToUpper(spelled[i : i+1])[0]
				} else {
					spelled[i] = bytes.ToLower(spelled[i : i+1])[0]
				}
			}
		}
		transport := rapid.SampledFrom([]Transport{HTTP, HTTPS, TFTP}).Draw(t, "transport")
		proven := rapid.SampledFrom([]string{"", phoneOpen, "SEP0000000000FF"}).Draw(t, "proven")
		f, err := w.Get(Request{Name: string(spelled), Transport: transport, Source: client, Proven: proven})
		if err != nil {
			return
		}
		served++
		hides(t, fmt.Sprintf("%q over %s", spelled, transport), f.Body)
		if strings.HasSuffix(strings.ToLower(f.Name), ".enc.sgn") {
			if _, err := enc.Open(f.Body, f.Name, fileSigners(), keys()[w.lsc[device]].Key.(*rsa.PrivateKey)); err != nil {
				t.Fatalf("sealed to somebody else: %v", err)
			}
		}
	}
	for i := 0; i < 30 && served == 0; i++ { // with -short few names are tried, and most of them are nobody's
		rapid.Check(t, look)
	}
	if served == 0 {
		t.Error("nothing was served, so nothing was proven")
	}
	// The search finds what it looks for.
	b := w.must(t, phoneOpen+".cnf.xml")
	if !bytes.Contains(b, []byte(password(phoneOpen))) {
		t.Error("the non-secure phone's file has no password")
	}
}

func TestTrustLists(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name    string
		version tlv.Version
		digest  trust.Digest
	}{
		{"ITLFile.tlv", tlv.V10, trust.SHA1},
		{"ITL" + phone8851 + ".tlv", tlv.V11, trust.SHA512},
		{"ITL" + phoneOpen + ".tlv", tlv.V11, trust.SHA512},
		{"ITL" + phone7965 + ".tlv", tlv.V10, trust.SHA1},
		{"ITL" + phone9971 + ".tlv", tlv.V10, trust.SHA1},
	} {
		l, err := tlv.Parse(w.must(t, c.name))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if err := l.Verify(tlv.ITLFile); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if l.Version != c.version || l.Digest != c.digest {
			t.Errorf("%s: version %s %s, want %s %s", c.name, l.Version, l.Digest, c.version, c.digest)
		}
		if n := len(l.Certificates(trust.SAST)); n != 2 {
			t.Errorf("%s: %d SAST", c.name, n)
		}
		if n := len(l.FileServers()); n != map[tlv.Version]int{tlv.V10: 0, tlv.V11: 1}[c.version] {
			t.Errorf("%s: %d EC certificates", c.name, n)
		}
		// The files of the phone verify under its list.
		if device, ok := strings.CutPrefix(strings.TrimSuffix(c.name, ".tlv"), "ITLSEP"); ok {
			name := "SEP" + device + ".cnf.xml.sgn"
			b := w.must(t, name)
			if _, err := sgn.Open(b, name, l.FileSigners()); err != nil {
				t.Error(err)
			}
			if f, err := sgn.Parse(b); err != nil || f.Digest != c.digest {
				t.Errorf("%s: signed with %s", name, f.Digest)
			}
		}
	}
	for _, name := range []string{"CTL" + phone8851 + ".tlv", "CTLFile.tlv", "ITLSEP00112233FFFF.tlv", "ITLFile.tlv.sgn", "ITLFile"} {
		if _, err := w.get(name, HTTP); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.get("ITLFile.tlv", HTTPS); !errors.Is(err, ErrNotFound) {
		t.Error("a trust list on 6971")
	}
}

func TestDeclaredListVersion(t *testing.T) {
	for version, want := range map[config.ITLVersion]tlv.Version{config.ITL10: tlv.V10, config.ITL11: tlv.V11} {
		w := newWorld(t, func(w *world) { w.doc.PKI.ITLVersion = version })
		for _, device := range []string{phone8851, phone7965} {
			l, err := tlv.Parse(w.must(t, "ITL"+device+".tlv"))
			if err != nil || l.Version != want {
				t.Errorf("%s %s: %v, %v", version, device, l.Version, err)
			}
		}
	}
}

// TestNamesInsideAreThoseAskedFor: a phone compares FILENAME with its request.
func TestNamesInsideAreThoseAskedFor(t *testing.T) {
	w := newWorld(t)
	for asked, inside := range map[string]string{
		phone8851 + ".cnf.xml.sgn":                  phone8851 + ".cnf.xml.sgn",
		strings.ToLower(phone8851) + ".cnf.xml.sgn": strings.ToLower(phone8851) + ".cnf.xml.sgn",
		"/" + phone8851 + ".cnf.xml.sgn":            phone8851 + ".cnf.xml.sgn",
		`\\DIAL-` + phone8851 + ".xml.sgn":          "DIAL-" + phone8851 + ".xml.sgn",
		"//keys-" + phone8851 + ".xml.sgn":          "keys-" + phone8851 + ".xml.sgn",
		"feat-" + phone9971 + ".xml.sgn":            "feat-" + phone9971 + ".xml.sgn",
	} {
		opened(t, w.must(t, asked), inside)
	}
	for _, name := range []string{"", "/", "..", "../" + phone8851 + ".cnf.xml", "a/" + phone8851 + ".cnf.xml", phone8851 + ".cnf.xml/..", "C:/" + phone8851 + ".cnf.xml",
		phone8851 + ".cnf.xml\x00.sgn", phone8851 + ".cnf.xml\n", strings.Repeat("a", 300), "feat-" + phone8851 + ".xml", "Ringlist.xml", "defaultheadsetconfig.json", "AppDialRules.xml", "g3-tones.xml"} {
		if f, err := w.get(name, HTTP); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: got %v", name, f)
		}
	}
}

func TestPartsAreThoseOfTheModel(t *testing.T) {
	w := newWorld(t)
	root := w.must(t, phoneOpen+".cnf.xml")
	for _, name := range []string{phonefile.DialName(phoneOpen), phonefile.SoftKeyName(phoneOpen)} {
		if !bytes.Contains(root, []byte(">"+name+"<")) {
			t.Errorf("device file does not name %s", name)
		}
		plain := w.must(t, name)
		if got := opened(t, w.must(t, name+".sgn"), name+".sgn"); !bytes.Equal(got, plain) {
			t.Errorf("%s.sgn holds something else than %s", name, name)
		}
	}
}

func TestTimeStampsNeverGoBack(t *testing.T) {
	w := newWorld(t)
	name := phone8851 + ".cnf.xml.sgn"
	at := func() time.Time {
		t.Helper()
		f, err := sgn.Parse(w.must(t, name))
		if err != nil {
			t.Fatal(err)
		}
		return f.Time
	}
	first := w.must(t, name)
	if got := at(); !got.Equal(now) {
		t.Errorf("signed at %s", got)
	}
	w.change(func() { w.clock = now.Add(time.Hour) })
	if !bytes.Equal(w.must(t, name), first) {
		t.Error("signed anew without need")
	}
	w.open(t)
	if !bytes.Equal(w.must(t, name), first) {
		t.Error("other bytes after a restart")
	}
	list := w.must(t, "ITLFile.tlv")
	w.open(t)
	if !bytes.Equal(w.must(t, "ITLFile.tlv"), list) {
		t.Error("other list after a restart")
	}

	// The clock falls back by ten years and the content changes.
	w.change(func() {
		w.clock = now.AddDate(-10, 0, 0)
		w.lsc[phone8851] = "lsc"
		w.lsc[phone7965] = "lsc"
	})
	if got := at(); !got.Equal(now.Add(time.Second)) {
		t.Errorf("signed at %s after %s", got, now)
	}
	// So for another signer: same content, the name's stamp stays.
	w.change(func() { w.tftp = "tftp2" })
	if got := at(); got.Before(now.Add(time.Second)) {
		t.Errorf("signed at %s", got)
	}
	var last *tlv.List
	for _, tftp := range []string{"tftp", "tftp2", "tftp"} {
		w.change(func() { w.tftp = tftp })
		l, err := tlv.Parse(w.must(t, "ITL"+phone7965+".tlv"))
		if err != nil {
			t.Fatal(err)
		}
		if last != nil && !l.Time.After(last.Time) {
			t.Errorf("list of %s after one of %s", l.Time, last.Time)
		}
		last = l
	}
}

// TestFileThatFailsLintIsNotServed: the one before is, and the boot record says why.
func TestFileThatFailsLintIsNotServed(t *testing.T) {
	w := newWorld(t)
	good := w.must(t, phoneOpen+".cnf.xml")
	w.change(func() {
		d := *w.doc
		d.Lines = append([]config.Line(nil), d.Lines...)
		d.Phones = append([]config.Phone(nil), d.Phones...)
		for range 9 { // more keys than an 8841 has
			d.Phones[2].Keys = append(d.Phones[2].Keys, config.Key{BLF: "301"})
		}
		w.doc = &d
	})
	if !bytes.Equal(w.must(t, phoneOpen+".cnf.xml"), good) {
		t.Error("the faulty file was served")
	}
	if _, err := w.Check(phoneOpen); err == nil || !strings.Contains(err.Error(), "keys 1 to 5") {
		t.Errorf("check: %v", err)
	}
	w.mu.Lock()
	told := strings.Join(w.notes, "\n")
	w.mu.Unlock()
	if !strings.Contains(told, "it gets the ones before") || strings.Count(told, "not served") != 1 {
		t.Errorf("notes: %s", told)
	}
	if strings.Contains(told, password(phoneOpen)) {
		t.Error("a password in the boot record")
	}

	// After a restart there is none before.
	w.open(t)
	if _, err := w.get(phoneOpen+".cnf.xml", HTTP); err == nil {
		t.Error("a faulty file was served after a restart")
	}
	w.change(func() { w.doc = testDocument() })
	if !bytes.Equal(w.must(t, phoneOpen+".cnf.xml"), good) {
		t.Error("the good file is not served again")
	}
}

func TestStampsAreThoseOfTheFile(t *testing.T) {
	w := newWorld(t)
	s, err := w.Stamps(phoneOpen)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(w.must(t, phoneOpen+".cnf.xml"), []byte("<versionStamp>"+s.Config+"<")) ||
		!bytes.Contains(w.must(t, phonefile.DialName(phoneOpen)), []byte("<versionStamp>"+s.Dialplan+"<")) {
		t.Errorf("stamps %+v", s)
	}
	if _, err := w.Stamps("SEP00112233FFFF"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown phone: %v", err)
	}
}

func TestWhoFetchedWhichList(t *testing.T) {
	w := newWorld(t)
	f, err := w.get("ITL"+phone8851+".tlv", HTTP)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := w.FetchedList(phone8851); ok {
		t.Error("counted before it was delivered")
	}
	f.Delivered()
	l, ok := w.FetchedList(phone8851)
	if !ok || !l.Current || !l.At.Equal(now) || l.Hash != hashOf(f.Body) {
		t.Errorf("got %+v %v", l, ok)
	}
	w.open(t)
	if l, ok = w.FetchedList(phone8851); !ok || !l.Current {
		t.Errorf("after a restart: %+v %v", l, ok)
	}
	w.change(func() { w.tftp = "tftp2" })
	if l, ok = w.FetchedList(phone8851); !ok || l.Current {
		t.Errorf("after a new certificate: %+v %v", l, ok)
	}
	if _, ok := w.FetchedList(phone7965); ok {
		t.Error("a phone that fetched nothing")
	}
}
