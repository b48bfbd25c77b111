package phone

import (
	"fmt"
	"strings"
	"testing"
)

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
