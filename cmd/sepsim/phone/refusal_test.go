package phone

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
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

func TestRefusesRequests(t *testing.T) {
	stamps := "ConfigVersionStamp={a}\r\nDialplanVersionStamp={b}\r\nSoftkeyVersionStamp={c}\r\n"
	service := func(c *pbxConn, contact, body string) *message {
		return c.request("NOTIFY", contact).add("Event", "service-control").add("Subscription-State", "active").with("text/plain", body)
	}
	for _, tc := range []struct {
		name, model string
		kind        Kind
		status      int
		build       func(w *world, c *pbxConn, contact string) *message
	}{
		{"Request-URI with another host", "8851", RequestURI, 400, func(w *world, c *pbxConn, contact string) *message {
			return c.presence(strings.Replace(contact, "127.0.0.1", "192.0.2.1", 1), "302", "")
		}},
		{"Request-URI with another port", "8851", RequestURI, 400, func(w *world, c *pbxConn, contact string) *message {
			u, _ := sipURIOf(contact)
			return c.presence(strings.Replace(contact, fmt.Sprint(":", u.port), ":5060", 1), "302", "")
		}},
		{"another host at a 7965", "7965", "", 200, func(w *world, c *pbxConn, contact string) *message {
			return c.presence(strings.Replace(contact, "127.0.0.1", "192.0.2.1", 1), "302", "")
		}},
		{"Request-URI with another user", "7965", RequestURI, 404, func(w *world, c *pbxConn, contact string) *message {
			return c.presence(strings.Replace(contact, "sip:301@", "sip:399@", 1), "302", "")
		}},
		{"INVITE to another user", "8851", RequestURI, 404, func(w *world, c *pbxConn, contact string) *message {
			return c.request("INVITE", strings.Replace(contact, "sip:301@", "sip:399@", 1)).with("application/sdp", w.plainOffer())
		}},
		{"second line's user is its own", "8851", "", 202, func(w *world, c *pbxConn, contact string) *message {
			return c.remotecc(strings.Replace(contact, "sip:301@", "sip:311@", 1), "<cfwdallupdate><linenumber>2</linenumber><fwdaddress/></cfwdallupdate>")
		}},
		{"service control for another registration", "8851", RegisterCallID, 400, func(w *world, c *pbxConn, contact string) *message {
			return service(c, contact, "action=restart\r\nRegisterCallId={02aa11bb-22c10002-0a1b2c3d-4e5f6071@10.20.4.31}\r\n"+stamps)
		}},
		{"service control without braces", "8851", NotifyBody, 400, func(w *world, c *pbxConn, contact string) *message {
			return service(c, contact, "action=restart\r\nRegisterCallId="+w.phn.RegisterCallID()+"\r\n"+stamps)
		}},
		{"service control with bare line ends", "8851", NotifyBody, 400, func(w *world, c *pbxConn, contact string) *message {
			return service(c, contact, strings.ReplaceAll("action=restart\r\nRegisterCallId={"+w.phn.RegisterCallID()+"}\r\n"+stamps, "\r\n", "\n"))
		}},
		{"service control without stamps", "8851", NotifyBody, 400, func(w *world, c *pbxConn, contact string) *message {
			return service(c, contact, "action=check-version\r\nRegisterCallId={"+w.phn.RegisterCallID()+"}\r\n")
		}},
		{"NOTIFY with a To tag", "8851", NotifyDialog, 481, func(w *world, c *pbxConn, contact string) *message {
			m := c.presence(contact, "302", "")
			m.set("To", m.get("To")+";tag=x")
			return m
		}},
		{"NOTIFY without Subscription-State", "8851", NotifyState, 400, func(w *world, c *pbxConn, contact string) *message {
			return c.request("NOTIFY", contact).add("Event", "presence").with(typePIDF, "<presence entity=\"sip:302@x\"/>")
		}},
		{"NOTIFY without a user in To", "8851", NotifyBody, 400, func(w *world, c *pbxConn, contact string) *message {
			m := c.presence(contact, "302", "")
			m.set("To", "<sip:127.0.0.1>")
			return m
		}},
		{"NOTIFY of an unknown event", "8851", NotifyEvent, 489, func(w *world, c *pbxConn, contact string) *message {
			return c.request("NOTIFY", contact).add("Event", "weather").add("Subscription-State", "active")
		}},
		{"presence that is no XML", "8851", NotifyBody, 400, func(w *world, c *pbxConn, contact string) *message {
			m := c.presence(contact, "302", "")
			m.body = []byte("<presence")
			return m
		}},
		{"urgent suffix at a 7965", "7965", NotifyBody, 400, func(w *world, c *pbxConn, contact string) *message {
			return c.request("NOTIFY", contact).add("Event", "message-summary").
				with("application/simple-message-summary", "Messages-Waiting: yes\r\nVoice-Message: 2/0 (0/0)\r\n")
		}},
		{"urgent suffix at an 8851", "8851", "", 200, func(w *world, c *pbxConn, contact string) *message {
			return c.request("NOTIFY", contact).add("Event", "message-summary").
				with("application/simple-message-summary", "Messages-Waiting: yes\r\nVoice-Message: 2/0 (0/0)\r\n")
		}},
		{"unescaped name in a REFER", "8851", RemoteCC, 400, func(w *world, c *pbxConn, contact string) *message {
			return c.remotecc(contact, "<statuslineupdatereq><statustext>Smith & Sons</statustext></statuslineupdatereq>")
		}},
		{"phrase escape declared as UTF-8", "8851", RemoteCC, 400, func(w *world, c *pbxConn, contact string) *message {
			m := c.remotecc(contact, "<hlogupdate/>")
			m.body = []byte("<?xml version=\"1.0\" encoding=\"UTF-8\"?><x-cisco-remotecc-request><statuslineupdatereq><statustext>\x80!</statustext></statuslineupdatereq></x-cisco-remotecc-request>")
			return m
		}},
		{"phrase escape declared as iso-8859-1", "8851", "", 202, func(w *world, c *pbxConn, contact string) *message {
			m := c.remotecc(contact, "<hlogupdate/>")
			m.body = []byte("<?xml version=\"1.0\" encoding=\"iso-8859-1\"?><x-cisco-remotecc-request><statuslineupdatereq><statustext>\x80!</statustext></statuslineupdatereq></x-cisco-remotecc-request>")
			return m
		}},
		{"seven parts", "8851", RemoteCC, 400, func(w *world, c *pbxConn, contact string) *message {
			part := "<hlogupdate><status>on</status></hlogupdate>"
			return c.remotecc(contact, part, part, part, part, part, part, part)
		}},
		{"request in a dialog of nobody", "8851", DialogUnknown, 481, func(w *world, c *pbxConn, contact string) *message {
			m := c.request("UPDATE", contact)
			m.set("To", m.get("To")+";tag=x")
			return m
		}},
		{"plain media to an encrypted phone", "8851", MediaPlain, 488, nil},
		{"SRTP to a non-secure phone", "8851", MediaSecure, 488, func(w *world, c *pbxConn, contact string) *message {
			key := newCrypto(1, suite80)
			offer := strings.Replace(w.plainOffer(), "RTP/AVP", "RTP/SAVP", 1) + "a=crypto:1 " + suite80 + " inline:" + encodeKey(key.key) + "\r\n"
			return c.request("INVITE", contact).with("application/sdp", offer)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.opt.Model = tc.model
			if tc.kind == MediaPlain {
				w.xml["mode"], w.xml["transport"] = "3", "3"
				w.giveLSC()
				tc.build = func(w *world, c *pbxConn, contact string) *message {
					return c.request("INVITE", contact).with("application/sdp", w.plainOffer())
				}
			}
			p := w.up()
			c := w.pbx.phone()
			res := c.ask(tc.build(w, c, p.Contact()))
			if res.status != tc.status {
				t.Errorf("answered %d %s, want %d", res.status, res.get("Warning"), tc.status)
			}
			if tc.kind == "" {
				if got := p.Refusals(); len(got) > 0 {
					t.Errorf("refused %v", got)
				}
				return
			}
			w.refused(tc.kind)
			if tc.kind == RegisterCallID && !strings.HasPrefix(res.get("Warning"), "399 ") {
				t.Errorf("Warning %q", res.get("Warning"))
			}
			if !p.Registered() {
				t.Error("a refused request ended the registration")
			}
		})
	}
}

// With X-cisco-srtp-fallback in the server's Supported a phone in encrypted mode takes plain media (calls §30).
func TestFallback(t *testing.T) {
	w := newWorld(t)
	w.xml["mode"], w.xml["transport"] = "3", "3"
	w.giveLSC()
	w.pbx = newPBX(t, w)
	w.pbx.supports += ",X-cisco-srtp-fallback"
	p := w.up()
	conn, inv := w.incoming(p, w.plainOffer())
	conn.post(inv)
	c, err := p.WaitIncoming(w.ctx())
	if err == nil {
		err = c.Answer(w.ctx())
	}
	if err != nil {
		t.Fatal(err)
	}
	if a := c.Audio(); a.Suite != "" || a.Codec != "PCMU" {
		t.Errorf("audio %+v", a)
	}
	w.noRefusals()
}

// Answers that do not fit the offer end the call: ACK, then BYE.
func TestRefusesAnswers(t *testing.T) {
	for _, tc := range []struct {
		name   string
		secure bool
		kind   Kind
		edit   func(body string) string
	}{
		{"codec that was not offered", false, MediaAnswer, func(b string) string {
			return strings.NewReplacer(" 0 101", " 97 101", "rtpmap:0 PCMU/8000", "rtpmap:97 SPEEX/8000").Replace(b)
		}},
		{"another number for the codec", false, MediaAnswer, func(b string) string {
			return strings.NewReplacer(" 0 101", " 97 101", "rtpmap:0 PCMU/8000", "rtpmap:97 PCMU/8000").Replace(b)
		}},
		{"two m-lines", false, MediaAnswer, func(b string) string { return b + "m=video 0 RTP/AVP 126\r\n" }},
		{"audio rejected", false, MediaAnswer, func(b string) string {
			i, j := strings.Index(b, "m=audio "), strings.Index(b, " RTP/")
			return b[:i] + "m=audio 0" + b[j:]
		}},
		{"no c=", false, MediaAnswer, func(b string) string { return strings.Replace(b, "c=IN IP4 127.0.0.1\r\n", "", 1) }},
		{"crypto tag that was not offered", true, MediaAnswer, func(b string) string { return strings.Replace(b, "a=crypto:1 ", "a=crypto:7 ", 1) }},
		{"suite of another tag", true, MediaAnswer, func(b string) string { return strings.Replace(b, "a=crypto:1 ", "a=crypto:2 ", 1) }},
		{"plain answer to SRTP", true, MediaPlain, func(b string) string { return strings.Replace(b, "RTP/SAVP", "RTP/AVP", 1) }},
		{"SRTP answer to plain", false, MediaAnswer, func(b string) string { return strings.Replace(b, "RTP/AVP", "RTP/SAVP", 1) }},
		{"not SDP", false, MediaAnswer, func(string) string { return "hello" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			if tc.secure {
				w.xml["mode"], w.xml["transport"] = "3", "3"
				w.giveLSC()
			}
			p := w.up()
			w.pbx.handle("INVITE", func(c *pbxConn, m *message) bool {
				if !c.authorized(m) {
					return true
				}
				res := c.answer(m, 200, "as71")
				res.body = []byte(tc.edit(string(res.body)))
				c.send(res)
				return true
			})
			c, err := p.Call(w.ctx(), "302")
			if err == nil {
				err = c.WaitState(w.ctx(), Ended)
			}
			if err != nil {
				t.Fatal(err)
			}
			w.refused(tc.kind)
			waitFor(t, func() bool { return len(w.pbx.requests("BYE")) == 1 })
			if n := len(w.pbx.requests("ACK")); n != 2 {
				t.Errorf("%d ACKs", n)
			}
		})
	}
}
