package provision

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
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
