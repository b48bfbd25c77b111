package phone

import (
	"strings"
	"testing"

	"ringfence/pki/capf"
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
	for _, kind := range []capf.KeyKind{capf.RSA2048} {
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
