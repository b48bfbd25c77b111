package phone

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"ringfence/pki/capf"
	"ringfence/trust"
	"ringfence/trust/tlv"
)

// The recorded orders of provisioning §1.1 and the table of §1.2.
func TestBootAsksAsRecorded(t *testing.T) {
	for _, tc := range []struct {
		name, model string
		signed      bool
		want        string
	}{
		{"8851 with a list", "8851", true, `http ITLSEP001122AA0001.tlv
http SEP001122AA0001.cnf.xml.sgn
http g3-tones.xml.sgn
tftp g3-tones.xml.sgn
http AppDialRules.xml.sgn
tftp AppDialRules.xml.sgn
http CTLSEP001122AA0001.tlv
tftp CTLSEP001122AA0001.tlv
http defaultheadsetconfig.json.sgn
tftp defaultheadsetconfig.json.sgn
http dial.xml.sgn
http keys.xml.sgn`},
		{"7965 with a list", "7965", true, `tftp CTLSEP001122AA0001.tlv
tftp ITLSEP001122AA0001.tlv
tftp SEP001122AA0001.cnf.xml.sgn
tftp g3-tones.xml.sgn
tftp dial.xml.sgn
tftp keys.xml.sgn`},
		{"7965 without a list", "7965", false, `tftp CTLSEP001122AA0001.tlv
tftp ITLSEP001122AA0001.tlv
tftp ITLFile.tlv
tftp SEP001122AA0001.cnf.xml
tftp g3-tones.xml
tftp dial.xml
tftp keys.xml`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.opt.Model = tc.model
			w.publish()
			if !tc.signed {
				w.files.put("ITL"+device+".tlv", nil)
				w.files.put(device+".cnf.xml", []byte(w.deviceFile()))
			}
			p := w.boot()
			if got := w.files.requests(); got != tc.want {
				t.Errorf("asked for:\n%s\nwant:\n%s", got, tc.want)
			}
			if (p.TrustList() != nil) != tc.signed {
				t.Errorf("trust list: %v", p.TrustList())
			}
			if c := p.Config(); c == nil || len(c.Lines) != 2 || len(c.Keys) != 1 || c.Lines[0].AuthPassword == "" {
				t.Errorf("configuration: %+v", c)
			}
			w.noRefusals()
		})
	}
}

// The first morning of a phone in encrypted mode: stub, CAPF, stub, encrypted file; then a second boot that asks for the
// encrypted file at once.
func TestBootEnrols(t *testing.T) {
	for _, kind := range []capf.KeyKind{capf.RSA2048, capf.RSA3072} {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t).encrypted()
			w.capf.key = kind
			w.capf.onIssued = func() { w.publishSealed([]byte(w.deviceFile())) }
			w.publish()
			p := w.boot()
			want := []string{"http SEP001122AA0001.cnf.xml.sgn", "http SEP001122AA0001.cnf.xml.sgn", "http SEP001122AA0001.cnf.xml.enc.sgn"}
			var got []string
			for _, r := range strings.Split(w.files.requests(), "\n") {
				if strings.Contains(r, ".cnf.xml") {
					got = append(got, r)
				}
			}
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("asked for %q, want %q", got, want)
			}
			if p.LSC() == nil || p.LSC().Subject.CommonName != device {
				t.Errorf("LSC %v", p.LSC())
			}
			if c := p.Config(); !c.Encrypted || c.Lines[0].AuthPassword != "k7Qm2Vx9Rt" {
				t.Errorf("configuration %+v", c)
			}
			w.files.forget()
			w.capf.op = capf.None
			p = w.reboot()
			if p.Config() == nil || p.LSC() == nil {
				t.Fatal("flash was lost")
			}
			w.boot()
			if got := w.files.requests(); !strings.Contains(got, ".enc.sgn") || strings.Contains(got, device+".cnf.xml.sgn\n") {
				t.Errorf("second boot asked for:\n%s", got)
			}
			if w.capf.sessions != 2 {
				t.Errorf("%d CAPF sessions, want enrolment and one at the second start", w.capf.sessions)
			}
			w.noRefusals()
		})
	}
}

// EC keys only with a trust list of version 1.1 (tlv §6); the phone answers a request before with failure.
func TestECKeyNeedsVersion11(t *testing.T) {
	for _, tc := range []struct {
		version tlv.Version
		ok      bool
	}{{tlv.V10, false}, {tlv.V11, true}} {
		t.Run(tc.version.String(), func(t *testing.T) {
			w := newWorld(t)
			w.version = tc.version
			w.encrypted()
			w.xml["encr"], w.xml["mode"], w.xml["transport"] = "false", "1", "1"
			w.capf.key = capf.P256
			w.publish()
			p := w.boot()
			if got := p.LSC() != nil; got != tc.ok {
				t.Errorf("enrolled: %v, want %v", got, tc.ok)
			}
			if got := p.Refusals()[CAPFRefused]; (got == 0) != tc.ok {
				t.Errorf("session refused %d times", got)
			}
		})
	}
}

// A lost server is tried again while a certificate is due, three times in all (capf §8).
func TestEnrolmentRetries(t *testing.T) {
	w := newWorld(t).encrypted()
	w.xml["capf"] = "<capf><phonePort>1</phonePort><processNodeName>127.0.0.1</processNodeName></capf>"
	w.publish()
	if err := w.phone().Boot(w.ctx()); err == nil {
		t.Fatal("booted without a certificate")
	}
	n := 0
	for _, e := range w.log.l {
		if e.Text == "session lost, trying again" {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d repetitions, want 2", n)
	}
}

// capfAuthMode decides what the phone shows of itself (capf §6).
func TestEnrolmentProofs(t *testing.T) {
	mic := pairOf(signer(t, "mic-SEP001122334455"))
	for _, tc := range []struct {
		name, mode, code string
		mic, lsc         bool
		password         string
		proof            string // certificate shown
		sudi             bool
		waits            bool
	}{
		{name: "code typed", mode: "1", code: "12345", password: "12345"},
		{name: "code not typed", mode: "1", waits: true},
		{name: "empty password", mode: "2", mic: true},
		{name: "LSC, and the MIC for the session", mode: "3", mic: true, lsc: true, proof: "lsc", sudi: true},
		{name: "LSC then MIC", mode: "3", mic: true, proof: "mic", sudi: true},
		{name: "MIC", mode: "4", mic: true, lsc: true, proof: "mic", sudi: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t).encrypted()
			w.xml["encr"], w.xml["mode"], w.xml["transport"], w.xml["capfmode"] = "false", "1", "1", tc.mode
			w.opt.CAPFCode = tc.code
			if tc.mic {
				w.opt.MIC = &mic
			}
			w.capf.op = capf.None
			if tc.lsc {
				w.giveLSC()
			}
			w.publish()
			p := w.boot()
			if tc.waits {
				if w.capf.sessions != 0 || !w.log.has(StepCAPF, errWaitsForCode.Error()) {
					t.Errorf("%d sessions without a code", w.capf.sessions)
				}
				return
			}
			a := w.capf.auth
			shown := map[string]string{string(mic.Certificate[0]): "mic", "": ""}
			if l := p.LSC(); l != nil {
				shown[string(l.Raw)] = "lsc"
			}
			if a == nil || a.Password != tc.password || shown[string(a.Certificate)] != tc.proof || (len(a.SUDI) > 0) != tc.sudi ||
				(len(a.SHA2SignedData) > 0) != (tc.proof != "") {
				t.Errorf("proof %q, %d bytes of SUDI", shown[string(a.Certificate)], len(a.SUDI))
			}
			w.noRefusals()
		})
	}
}

// HTTPS 6971 is asked first with a list of version 1.1 that names an EC file server; what is not believed there is fetched,
// signed, from 6970 (sgn.md).
func TestHTTPSFirst(t *testing.T) {
	ec := signer(t, "tftp-ec256")
	for _, tc := range []struct {
		name, model, id string
		version         tlv.Version
		want            string
		refusal         Kind
	}{
		{"EC file server", "8851", "tftp-ec256", tlv.V11, "over HTTPS", ""},
		{"RSA key", "8851", "tftp", tlv.V11, ".cnf.xml.sgn: configuration", ServerRole},
		{"a model without it", "7965", "tftp-ec256", tlv.V11, ".cnf.xml.sgn: configuration", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.opt.Model, w.version = tc.model, tc.version
			w.entries = append(w.entries, trust.Entry{Cert: ec.Cert, Role: trust.TFTP})
			w.publish()
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/"+device+".cnf.xml.sgn" {
					t.Errorf("HTTPS asked for %s", r.URL.Path)
				}
				b := []byte(w.deviceFile())
				rw.Header().Set("Content-Length", fmt.Sprint(len(b)))
				_, _ = rw.Write(b)
			}))
			srv.TLS = &tls.Config{Certificates: []tls.Certificate{pairOf(signer(t, tc.id))}}
			srv.Config.ErrorLog = log.New(io.Discard, "", 0)
			srv.StartTLS()
			defer srv.Close()
			w.opt.HTTPSPort = srv.Listener.Addr().(*net.TCPAddr).Port
			w.boot()
			if !w.log.has(StepFile, tc.want) {
				t.Errorf("the configuration did not come %s", tc.want)
			}
			if tc.refusal != "" {
				w.refused(tc.refusal)
				return
			}
			w.noRefusals()
		})
	}
}

func TestDialTemplate(t *testing.T) {
	rules, err := parseDialTemplate([]byte(`<dialTemplate><versionStamp>x</versionStamp>
 <TEMPLATE match="3.." timeout="0" /><TEMPLATE match="112" timeout="0" rewrite="0112" /><TEMPLATE MATCH="0,00*" Timeout="4" tone="Bellcore-Outside" />
 <TEMPLATE match="9...." rewrite="0043...." line="2"/><TEMPLATE match="" rewrite="2199" line="3"/><TEMPLATE match="*" timeout="3"/></dialTemplate>`))
	if err != nil {
		t.Fatal(err)
	}
	p := &Phone{rules: rules}
	for _, tc := range []struct {
		line       int
		in, expect string
	}{{1, "302", "302"}, {1, "112", "0112"}, {1, "91234", "91234"}, {2, "91234", "00431234"}, {1, "0004312345", "0004312345"}} {
		if got := p.dialled(tc.line, tc.in); got != tc.expect {
			t.Errorf("line %d, %s: sends %s, want %s", tc.line, tc.in, got, tc.expect)
		}
	}
}
