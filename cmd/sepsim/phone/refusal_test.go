package phone

import (
	"crypto/rand"
	"crypto/rsa"
	"net/http"
	"strings"
	"testing"
	"time"

	"ringfence/trust"
	"ringfence/trust/sgn"
	"ringfence/trust/tlv"
)

// In every test of this file a server is made wrong in one thing, and the phone is seen to refuse exactly that.

func TestRefusesFiles(t *testing.T) {
	cnf := device + ".cnf.xml.sgn"
	for _, tc := range []struct {
		name  string
		kind  Kind
		wrong func(w *world)
	}{
		{"signer outside the list", FileSigner, func(w *world) {
			w.tftp = signer(w.t, "stranger")
			w.files.put(cnf, w.sign(cnf, []byte(w.deviceFile())))
		}},
		{"signer in the list without the TFTP role", FileSigner, func(w *world) {
			w.tftp = signer(w.t, "ccm")
			w.files.put(cnf, w.sign(cnf, []byte(w.deviceFile())))
		}},
		{"another file name", FileName, func(w *world) {
			w.files.put(cnf, w.sign("SEP001122AA0002.cnf.xml.sgn", []byte(w.deviceFile())))
		}},
		{"name without .sgn", FileName, func(w *world) {
			w.files.put(cnf, w.sign(device+".cnf.xml", []byte(w.deviceFile())))
		}},
		{"a bit of the content changed", FileSignature, func(w *world) {
			b := w.sign(cnf, []byte(w.deviceFile()))
			b[len(b)-20] ^= 1
			w.files.put(cnf, b)
		}},
		{"not signed at all", FileSignature, func(w *world) { w.files.put(cnf, []byte(w.deviceFile())) }},
		{"XML that is not well-formed", FileXML, func(w *world) {
			w.files.put(cnf, w.sign(cnf, []byte(strings.Replace(w.deviceFile(), "<displayName>Ada", "<displayName>Ada & Ben", 1))))
		}},
		{"redirect", FileTransport, func(w *world) {
			w.files.serve = func(rw http.ResponseWriter, name string) bool {
				if name == cnf {
					rw.Header().Set("Location", "/other")
					rw.WriteHeader(http.StatusFound)
				}
				return name == cnf
			}
		}},
		{"chunked body", FileTransport, func(w *world) {
			b, _ := w.files.get("x " + cnf)
			w.files.serve = func(rw http.ResponseWriter, name string) bool {
				if name == cnf {
					_, _ = rw.Write(b[:100])
					rw.(http.Flusher).Flush()
					_, _ = rw.Write(b[100:])
				}
				return name == cnf
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.publish()
			tc.wrong(w)
			if err := w.phone().Boot(w.ctx()); !RefusedAs(err, tc.kind) {
				t.Errorf("boot: %v", err)
			}
			w.refused(tc.kind)
			if w.phone().Config() != nil {
				t.Error("the phone took a configuration")
			}
			// With an accepted configuration in flash the phone goes on with it.
			w2 := newWorld(t)
			w2.publish()
			w2.boot()
			stamp := w2.phn.Config().VersionStamp
			tc.wrong(w2)
			if err := w2.phone().Boot(w2.ctx()); err != nil || !w2.phn.Stale() || w2.phn.Config().VersionStamp != stamp {
				t.Errorf("boot with an old configuration: %v, stale %v", err, w2.phn.Stale())
			}
		})
	}
}

// Dial template and soft keys are refused without harm to the rest.
func TestRefusesFurtherFiles(t *testing.T) {
	for _, tc := range []struct {
		name  string
		kind  Kind
		wrong func(w *world)
	}{
		{"dial template above 8191 bytes", FileSize, func(w *world) {
			b := []byte("<dialTemplate>" + strings.Repeat(`<TEMPLATE match="3.." timeout="0"/>`, 300) + "</dialTemplate>")
			w.files.put("dial.xml.sgn", w.sign("dial.xml.sgn", b))
		}},
		{"dial template with an unknown element", FileXML, func(w *world) {
			w.files.put("dial.xml.sgn", w.sign("dial.xml.sgn", []byte(`<dialTemplate><Template match="3.."/></dialTemplate>`)))
		}},
		{"soft keys signed by a stranger", FileSigner, func(w *world) {
			w.tftp = signer(w.t, "stranger")
			w.files.put("keys.xml.sgn", w.sign("keys.xml.sgn", []byte(`<softKeyCfg/>`)))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.publish()
			tc.wrong(w)
			w.boot()
			w.refused(tc.kind)
		})
	}
}

func TestRefusesLists(t *testing.T) {
	itl := "ITL" + device + ".tlv"
	sast2 := signer(t, "sast-2")
	stranger := signer(t, "stranger")
	for _, tc := range []struct {
		name  string
		kind  Kind
		wrong func(w *world)
	}{
		{"continuity broken", ListContinuity, func(w *world) {
			e := append([]trust.Entry{{Cert: stranger.Cert, Role: trust.SAST}}, w.entries[1:]...)
			w.publishITL(stranger, e...)
		}},
		{"a bit changed", ListInvalid, func(w *world) {
			b, _ := w.files.get("x " + itl)
			b = append([]byte(nil), b...)
			b[len(b)-30] ^= 1
			w.files.put(itl, b)
		}},
		{"the file of a CTL", ListInvalid, func(w *world) {
			b, err := tlv.Build(tlv.List{Digest: trust.SHA1, Filename: tlv.CTLFile, Time: time.Now(), Entries: w.entries}, w.sast)
			if err != nil {
				w.t.Fatal(err)
			}
			w.files.put(itl, b)
		}},
		{"a page of HTML", ListInvalid, func(w *world) { w.files.put(itl, []byte("<html><body>not found</body></html>")) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.publish()
			p := w.boot()
			before := p.TrustList()
			tc.wrong(w)
			if err := p.Boot(w.ctx()); err != nil {
				t.Fatal(err)
			}
			w.refused(tc.kind, TVSInvalid) // TVS is asked about the signer before the list is refused
			if p.TrustList() != before {
				t.Error("another list is in force")
			}
		})
	}
	// The two ways in which a new signer is right: by the list before, and by TVS with role SAST (tlv §7 rule 8).
	t.Run("rollover is accepted", func(t *testing.T) {
		w := newWorld(t)
		w.entries = append(w.entries, trust.Entry{Cert: sast2.Cert, Role: trust.SAST})
		w.publish()
		p := w.boot()
		w.publishITL(sast2)
		if err := p.Boot(w.ctx()); err != nil || p.TrustList().SignerName != "CN=Test SAST Two With A Longer Name,O=TEST ONLY" &&
			!strings.Contains(p.TrustList().SignerName, "SAST Two") {
			t.Errorf("signer %s, %v", p.TrustList().SignerName, err)
		}
		w.noRefusals()
	})
	t.Run("TVS vouches for the signer", func(t *testing.T) {
		w := newWorld(t)
		w.publish()
		p := w.boot()
		w.tvs.vouch(stranger.Cert, trust.SAST)
		w.publishITL(stranger, append([]trust.Entry{{Cert: stranger.Cert, Role: trust.SAST}}, w.entries[1:]...)...)
		if err := p.Boot(w.ctx()); err != nil || !strings.Contains(p.TrustList().SignerName, stranger.Cert.Subject.CommonName) {
			t.Errorf("signer %s, %v", p.TrustList().SignerName, err)
		}
		w.noRefusals()
	})
	t.Run("first list of a stranger is taken", func(t *testing.T) {
		w := newWorld(t)
		w.publish()
		tcEntries := append([]trust.Entry{{Cert: stranger.Cert, Role: trust.SAST}}, w.entries[1:]...)
		w.publishITL(stranger, tcEntries...)
		w.boot()
		w.noRefusals()
	})
}

func TestRefusesEncryptedFile(t *testing.T) {
	name := device + ".cnf.xml.enc.sgn"
	for _, tc := range []struct {
		name  string
		kind  Kind
		wrong func(w *world)
	}{
		{"cipher text changed", FileSignature, func(w *world) {
			b, _ := w.files.get("x " + name)
			b = append([]byte(nil), b...)
			b[len(b)-5] ^= 1
			w.files.put(name, b)
		}},
		{"sealed for another phone", FileSealed, func(w *world) {
			key, _ := rsa.GenerateKey(rand.Reader, 2048)
			other := issueLSC(w.t, key.Public())
			own := w.capf.issued
			w.capf.issued = other
			w.publishSealed([]byte(w.deviceFile()))
			w.capf.issued = own
			stub, _ := w.files.get("x " + device + ".cnf.xml.sgn")
			content, err := sgn.Parse(stub)
			if err != nil {
				w.t.Fatal(err)
			}
			text := strings.Replace(string(content.Content), trust.ConfigHash(other.Raw), trust.ConfigHash(own.Raw), 1)
			w.files.put(device+".cnf.xml.sgn", w.sign(device+".cnf.xml.sgn", []byte(text)))
		}},
		{"signed by a stranger", FileSigner, func(w *world) {
			w.tftp = signer(w.t, "stranger")
			stub, _ := w.files.get("x " + device + ".cnf.xml.sgn")
			w.publishSealed([]byte(w.deviceFile()))
			w.files.put(device+".cnf.xml.sgn", stub)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t).encrypted()
			w.giveLSC()
			w.publish()
			tc.wrong(w)
			if err := w.phone().Boot(w.ctx()); !RefusedAs(err, tc.kind) {
				t.Errorf("boot: %v", err)
			}
			w.refused(tc.kind)
		})
	}
	// A stub that names another certificate sends the phone to CAPF, and a server that issues nothing useful leaves it there.
	t.Run("stub names another certificate for ever", func(t *testing.T) {
		w := newWorld(t).encrypted()
		w.giveLSC()
		w.publish()
		if err := w.files.set[device+".cnf.xml.sgn"]; err == nil {
			t.Fatal("no stub")
		}
		w.capf.issued = issueLSC(t, w.phone().flash.lsc.PrivateKey.(*rsa.PrivateKey).Public())
		w.publishSealed([]byte(w.deviceFile()))
		if err := w.phone().Boot(w.ctx()); err == nil || !strings.Contains(err.Error(), "still names another") {
			t.Errorf("boot: %v", err)
		}
		if w.capf.sessions != 1 {
			t.Errorf("%d CAPF sessions", w.capf.sessions)
		}
	})
}

func TestRefusesCAPF(t *testing.T) {
	for _, tc := range []struct {
		name  string
		kind  Kind
		wrong func(w *world)
	}{
		{"certificate listed as CCM only", ServerRole, func(w *world) { w.entries[2].Role = trust.CCM }},
		{"certificate not listed, TVS knows nothing", ServerUnknown, func(w *world) {
			w.entries = append(w.entries[:2:2], w.entries[3:]...)
		}},
		{"message in two TLS records", SplitRecord, func(w *world) { w.capf.split = true }},
		{"certificate for another key", CAPFProtocol, func(w *world) {
			key, _ := rsa.GenerateKey(rand.Reader, 2048)
			w.capf.wrongKey = key.Public()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t).encrypted()
			tc.wrong(w)
			w.publish()
			if err := w.phone().Boot(w.ctx()); err == nil {
				t.Error("booted")
			}
			got := w.phone().Refusals()
			w.refused(tc.kind, CAPFRefused) // the server ends a session that went wrong with 7
			if w.phone().LSC() != nil {
				t.Errorf("the phone has an LSC in spite of %v", got)
			}
		})
	}
}

// TVS decides about certificates that no list names, by answer, role and time (tvs).
func TestTVS(t *testing.T) {
	app := signer(t, "app")
	ask := func(w *world) error {
		w.publish()
		w.boot()
		return w.phn.vouch(w.ctx(), StepTVS, app.Cert, trust.AppServer, "services")
	}
	t.Run("vouched for", func(t *testing.T) {
		w := newWorld(t)
		w.tvs.vouch(app.Cert, trust.CCM, trust.AppServer)
		if err := ask(w); err != nil {
			t.Error(err)
		}
		if err := w.phn.vouch(w.ctx(), StepTVS, app.Cert, trust.AppServer, "services"); err != nil || w.tvs.queries != 1 {
			t.Errorf("second time: %v after %d queries", err, w.tvs.queries)
		}
		w.noRefusals()
	})
	t.Run("time run out", func(t *testing.T) {
		w := newWorld(t)
		w.tvs.vouch(app.Cert, trust.AppServer)
		if err := ask(w); err != nil {
			t.Fatal(err)
		}
		for k, a := range w.phn.trust.answers {
			a.until = time.Now().Add(-time.Second)
			w.phn.trust.answers[k] = a
		}
		w.tvs.mu.Lock()
		clear(w.tvs.roles)
		w.tvs.mu.Unlock()
		if err := w.phn.vouch(w.ctx(), StepTVS, app.Cert, trust.AppServer, "services"); !RefusedAs(err, TVSInvalid) {
			t.Errorf("after its time: %v", err)
		}
		w.refused(TVSInvalid)
	})
	t.Run("unknown", func(t *testing.T) {
		w := newWorld(t)
		if err := ask(w); !RefusedAs(err, TVSInvalid) {
			t.Error(err)
		}
		w.refused(TVSInvalid)
	})
	t.Run("another role", func(t *testing.T) {
		w := newWorld(t)
		w.tvs.vouch(app.Cert, trust.CCM)
		if err := ask(w); !RefusedAs(err, TVSInvalid) {
			t.Error(err)
		}
		w.refused(TVSInvalid)
	})
	t.Run("answer in two TLS records", func(t *testing.T) {
		w := newWorld(t)
		w.tvs.split = true
		w.tvs.vouch(app.Cert, trust.AppServer)
		if err := ask(w); !RefusedAs(err, SplitRecord) {
			t.Error(err)
		}
		w.refused(SplitRecord, ServerUnknown) // no answer is no vouching
	})
	t.Run("TVS server itself not listed", func(t *testing.T) {
		w := newWorld(t)
		w.entries = w.entries[:4]
		w.tvs.vouch(app.Cert, trust.AppServer)
		if err := ask(w); !RefusedAs(err, ServerUnknown) {
			t.Error(err)
		}
		w.refused(ServerUnknown)
	})
}

func TestRefusesCallServer(t *testing.T) {
	for _, tc := range []struct {
		name  string
		kind  Kind
		wrong func(w *world)
	}{
		{"certificate listed as CAPF only", ServerRole, func(w *world) { w.entries[3].Role = trust.CAPF }},
		{"certificate not listed, TVS knows nothing", TVSInvalid, func(w *world) {
			w.entries = append(w.entries[:3:3], w.entries[4:]...)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.xml["mode"], w.xml["transport"] = "3", "3"
			w.giveLSC()
			w.pbx = newPBX(t, w)
			tc.wrong(w)
			w.publish()
			w.boot()
			if err := w.phn.Register(w.ctx()); !RefusedAs(err, tc.kind) {
				t.Errorf("register: %v", err)
			}
			w.refused(tc.kind)
			if n := len(w.pbx.requests("REGISTER")); n > 0 {
				t.Errorf("%d REGISTERs went to a server that is not believed", n)
			}
		})
	}
	t.Run("not listed, TVS vouches", func(t *testing.T) {
		w := newWorld(t)
		w.xml["mode"], w.xml["transport"] = "3", "3"
		w.giveLSC()
		w.entries = append(w.entries[:3:3], w.entries[4:]...)
		w.tvs.vouch(w.ccm.Cert, trust.CCM)
		w.up()
		w.noRefusals()
	})
}

func TestRefusesRegistration(t *testing.T) {
	for _, tc := range []struct {
		name  string
		kind  Kind
		wrong func(s *pbx)
	}{
		{"rejected", RegisterDenied, func(s *pbx) {
			s.handle("REGISTER", func(c *pbxConn, m *message) bool {
				c.send(m.answer(403, "Forbidden", "as1"))
				return true
			})
		}},
		{"granted too short", RegisterAnswer, func(s *pbx) { s.expires = 20 }},
		{"challenged for ever", ChallengeAgain, func(s *pbx) {
			s.handle("REGISTER", func(c *pbxConn, m *message) bool {
				c.send(m.answer(401, "Unauthorized", "as1").add("WWW-Authenticate", `Digest algorithm=MD5, realm="r", nonce="%s"`, hexString(4)))
				return true
			})
		}},
		{"challenged with 407", ChallengeMethod, func(s *pbx) {
			s.handle("REGISTER", func(c *pbxConn, m *message) bool {
				c.send(m.answer(407, "Proxy Authentication Required", "as1").add("Proxy-Authenticate", `Digest realm="r", nonce="n"`))
				return true
			})
		}},
		{"challenged with SHA-256", ChallengeMethod, func(s *pbx) {
			s.handle("REGISTER", func(c *pbxConn, m *message) bool {
				c.send(m.answer(401, "Unauthorized", "as1").add("WWW-Authenticate", `Digest algorithm=SHA-256, realm="r", nonce="n"`))
				return true
			})
		}},
		{"not SIP", Message, func(s *pbx) {
			s.handle("REGISTER", func(c *pbxConn, m *message) bool {
				_, _ = c.conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
				return true
			})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.pbx = newPBX(t, w)
			tc.wrong(w.pbx)
			w.publish()
			w.boot()
			if err := w.phn.Register(w.ctx()); err == nil {
				t.Error("registered")
			}
			w.refused(tc.kind)
			if w.phn.Registered() {
				t.Error("registered in spite of it")
			}
			if tc.kind == ChallengeAgain && len(w.pbx.requests("REGISTER")) != 2 {
				t.Errorf("%d REGISTERs: credentials are tried once", len(w.pbx.requests("REGISTER")))
			}
		})
	}
}
