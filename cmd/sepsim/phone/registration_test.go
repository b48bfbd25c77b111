package phone

import (
	"strings"
	"testing"
	"time"
)

func TestRegisterAndBurst(t *testing.T) {
	for _, mode := range []string{"1", "3"} {
		t.Run("mode "+mode, func(t *testing.T) {
			w := newWorld(t)
			if mode == "3" {
				w.xml["mode"], w.xml["transport"] = "3", "3"
				w.giveLSC()
			}
			p := w.up()
			w.noRefusals()
			if !p.Registered() || p.Granted() != 120*time.Second {
				t.Errorf("registered %v for %s", p.Registered(), p.Granted())
			}
			if got := p.BLF("302"); got != LampIdle {
				t.Errorf("lamp of 302: %q", got)
			}
			if s := p.Line(1); !s.Message || s.New != 3 || s.Old != 1 || s.Forward != "" {
				t.Errorf("line 1: %+v", s)
			}
			regs := w.pbx.requests("REGISTER")
			if len(regs) != 2 {
				t.Fatalf("%d REGISTERs", len(regs))
			}
			first, second := regs[0], regs[1]
			if first.get("Call-ID") != second.get("Call-ID") || first.get("From") != second.get("From") {
				t.Error("credentials came under another Call-ID or From tag")
			}
			a, _ := first.cseq()
			b, _ := second.cseq()
			if b != a+1 {
				t.Errorf("CSeq %d then %d", a, b)
			}
			if !strings.HasPrefix(second.get("Reason"), `SIP;cause=200;text="cisco-alarm:25 Name=SEP001122AA0001 ActiveLoad=`) {
				t.Errorf("Reason %q", second.get("Reason"))
			}
			parts, err := partsOf(second)
			if err != nil || len(parts) != 2 || !strings.Contains(string(parts[1].body), "<optionsind>") {
				t.Errorf("body: %v, %v", parts, err)
			}
			if alarm := w.pbx.requests("REFER"); len(alarm) != 1 || !strings.Contains(string(alarm[0].body), "<x-cisco-alarm>") {
				t.Errorf("alarms: %v", alarm)
			}
			if err := p.Unregister(w.ctx()); err != nil {
				t.Error(err)
			}
			regs = w.pbx.requests("REGISTER")
			if last := regs[len(regs)-1]; last.get("Expires") != "0" || !strings.Contains(last.get("Reason"), "Last=phone-keypad") {
				t.Errorf("last REGISTER: %s", last.marshal())
			}
		})
	}
}

// Refresh at granted minus timerRegisterDelta: same Call-ID, no Reason, no body (registration §4).
func TestRefresh(t *testing.T) {
	w := newWorld(t)
	w.pbx = newPBX(t, w)
	w.pbx.expires = 26
	w.xml["vendor"] = ""
	w.publish()
	p := w.boot()
	p.config.RegisterDelta = 6
	if err := p.Register(w.ctx()); err != nil {
		t.Fatal(err)
	}
	// 26−6 is the shortest that a phone takes; the test does not wait for it but does what the timer does.
	p.mu.Lock()
	l, c, in := p.link, p.config, p.reg.refreshIn
	p.mu.Unlock()
	if in != 20*time.Second {
		t.Errorf("refresh in %s, want 26 s less timerRegisterDelta", in)
	}
	p.refresh(w.ctx(), l, c)
	regs := w.pbx.requests("REGISTER")
	last := regs[len(regs)-1]
	if last.get("Call-ID") != p.RegisterCallID() || last.has("Reason") || len(last.body) > 0 || last.get("Expires") != "3600" {
		t.Errorf("refresh:\n%s", last.marshal())
	}
	if !w.log.has(StepRegister, "refreshed for 26 s") {
		t.Error("no refresh told")
	}
	w.noRefusals()
}

// A lost connection makes the phone come back by itself, with a new Call-ID and the reason.
func TestReconnect(t *testing.T) {
	w := newWorld(t)
	w.opt.StayDown = false
	p := w.up()
	before := p.RegisterCallID()
	w.pbx.drop()
	if err := p.Wait(w.ctx(), func() bool { return p.Registered() && p.RegisterCallID() != before }); err != nil {
		t.Fatal(err)
	}
	regs := w.pbx.requests("REGISTER")
	if r := regs[len(regs)-1].get("Reason"); !strings.Contains(r, "cisco-alarm:14") || !strings.Contains(r, "Last=cm-closed-tcp") {
		t.Errorf("Reason %q", r)
	}
	if err := p.WaitReady(w.ctx()); err != nil {
		t.Error(err)
	}
}

// Without optionsind in the 200 the lamps stay speed dials and the hook is not told (overview §1).
func TestNoOptionsIndMeansNoLamps(t *testing.T) {
	w := newWorld(t)
	w.pbx = newPBX(t, w)
	w.pbx.noOption = true
	p := w.up()
	if res := w.pbx.phone().ask(w.pbx.phone().presence(p.Contact(), "302", "<e:on-the-phone/>")); res.status != 200 {
		t.Errorf("NOTIFY answered %d", res.status)
	}
	if got := p.BLF("302"); got != LampPlain {
		t.Errorf("lamp %q", got)
	}
	if err := p.OffHook(w.ctx(), 1); err == nil {
		t.Error("hook told without agreement")
	}
}

// Service control for this registration makes the phone read its files again and come back (registration §6).
func TestRestart(t *testing.T) {
	w := newWorld(t)
	w.opt.StayDown = false
	p := w.up()
	before := p.RegisterCallID()
	conn := w.pbx.phone()
	zero := "{00000000-0000-0000-0000-000000000000}"
	m := conn.request("NOTIFY", p.Contact()).add("Event", "service-control").add("Subscription-State", "active")
	m.with("text/plain", "action=restart\r\nRegisterCallId={"+before+"}\r\nConfigVersionStamp="+zero+"\r\nDialplanVersionStamp="+zero+
		"\r\nSoftkeyVersionStamp="+zero+"\r\nFeatureControlVersionStamp="+zero+"\r\n")
	w.files.forget()
	if res := conn.ask(m); res.status != 200 {
		t.Fatalf("answered %d", res.status)
	}
	if err := p.Wait(w.ctx(), func() bool { return p.Registered() && p.RegisterCallID() != before }); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(w.files.requests(), device+".cnf.xml") {
		t.Error("the configuration was not read again")
	}
	bye := false
	for _, r := range w.pbx.requests("REGISTER") {
		bye = bye || r.get("Expires") == "0" && strings.Contains(r.get("Reason"), "Last=reset-restart")
	}
	if !bye {
		t.Error("no goodbye with the reason")
	}
	// check-version with the stamp of the file changes nothing.
	conn = w.pbx.phone()
	stamp := p.Config().VersionStamp
	id := p.RegisterCallID()
	m = conn.request("NOTIFY", p.Contact()).add("Event", "service-control").add("Subscription-State", "active")
	m.with("text/plain", "action=check-version\r\nRegisterCallId={"+id+"}\r\nConfigVersionStamp={"+stamp+"}\r\nDialplanVersionStamp={a}\r\nSoftkeyVersionStamp={b}\r\n")
	res := conn.ask(m)
	if err := p.Wait(w.ctx(), func() bool { return p.ServiceControls() == 2 }); err != nil || res.status != 200 || !p.Registered() {
		t.Errorf("check-version: %d, registered %v, obeyed %d", res.status, p.Registered(), p.ServiceControls())
	}
	w.noRefusals()
}

// Soft keys, DND and forward as state §4 to 6 describe them from the phone's side.
func TestFeatures(t *testing.T) {
	w := newWorld(t)
	p := w.up()
	ctx := w.ctx()
	conn := w.pbx.phone()
	if err := p.SetDND(ctx, true); err != nil {
		t.Fatal(err)
	}
	if err := p.SetDND(ctx, false); err != nil {
		t.Fatal(err)
	}
	pubs := w.pbx.requests("PUBLISH")
	if len(pubs) != 2 || pubs[0].get("Call-ID") == pubs[1].get("Call-ID") || pubs[1].get("SIP-If-Match") != "7" ||
		!strings.Contains(string(pubs[0].body), "<ce:dnd/>") || pubs[0].uri != "sip:001122AA0001@127.0.0.1" {
		t.Errorf("PUBLISH: %v", pubs)
	}
	if err := p.HLog(ctx); err != nil {
		t.Fatal(err)
	}
	refer := w.pbx.requests("REFER")
	if last := refer[len(refer)-1]; !strings.Contains(string(last.body), "<softkeyevent>HLog</softkeyevent>") || !last.token("Require", "norefersub") {
		t.Errorf("HLog:\n%s", last.marshal())
	}
	conn.ask(conn.remotecc(p.Contact(), "<hlogupdate><status>on</status></hlogupdate>",
		"<statuslineupdatereq><action>notify_display</action><statustext>From 302</statustext></statuslineupdatereq>",
		"<playtonereq><tonetype>DtZipZip</tonetype></playtonereq>"))
	_ = p.Wait(ctx, func() bool { return len(p.Tones()) == 1 }) // the phone answers first and acts then
	if in, known := p.HuntLogin(); !in || !known || len(p.Notices()) != 1 || len(p.Tones()) != 1 {
		t.Errorf("hunt %v %v, notices %q, tones %q", in, known, p.Notices(), p.Tones())
	}
	w.pbx.handle("INVITE", func(c *pbxConn, m *message) bool {
		if !c.authorized(m) {
			return true
		}
		c.send(c.answer(m, 200, "as71"))
		go func() {
			bye := &message{method: "BYE", uri: nameAddrOf(m.get("Contact")).uri}
			bye.add("Via", "SIP/2.0/TCP 127.0.0.1:5060;branch=z9hG4bK%s", hexString(6))
			bye.add("From", "%s;tag=as71", m.get("To")).add("To", "%s", m.get("From")).add("Call-ID", "%s", m.get("Call-ID")).add("CSeq", "900 BYE")
			c.post(bye)
			c.post(c.remotecc(p.Contact(), "<cfwdallupdate><linenumber>2</linenumber><fwdaddress>303</fwdaddress><tovoicemail>off</tovoicemail></cfwdallupdate>"))
		}()
		return true
	})
	if err := p.SetForward(ctx, 2, "303"); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(ctx, func() bool { return p.Forward(2) == "303" }); err != nil {
		t.Error("forward lamp stays dark")
	}
	inv := w.pbx.requests("INVITE")
	if got := inv[len(inv)-1]; userOf(got.uri) != "x-cisco-serviceuri-cfwdall-303" || !strings.Contains(got.get("From"), "sip:311@") {
		t.Errorf("forward:\n%s", got.marshal())
	}
	w.noRefusals()
}

// The lamp states of state §1.
func TestLamps(t *testing.T) {
	w := newWorld(t)
	p := w.up()
	conn := w.pbx.phone()
	for _, tc := range []struct {
		activity string
		want     Lamp
	}{{"<ce:alerting/>", LampAlerting}, {"<e:on-the-phone/>", LampBusy}, {"<ce:dnd/>", LampDND}, {"", LampIdle}} {
		if res := conn.ask(conn.presence(p.Contact(), "302", tc.activity)); res.status != 200 || nameAddrOf(res.get("To")).param("tag") != "" {
			t.Errorf("answered %d with To %s", res.status, res.get("To"))
		}
		if got := p.BLF("302"); got != tc.want {
			t.Errorf("%s: lamp %q, want %q", tc.activity, got, tc.want)
		}
	}
	w.noRefusals()
}
