package e2e

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

const (
	dndDocument  = `<?xml version="1.0"?><presence xmlns="urn:ietf:params:xml:ns:pidf" xmlns:dm="urn:ietf:params:xml:ns:pidf:data-model" xmlns:e="urn:ietf:params:xml:ns:pidf:status:rpid" xmlns:ce="urn:cisco:params:xml:ns:pidf:rpid" entity="sip:001122AA0001@x"><dm:person><e:activities><ce:dnd/></e:activities></dm:person><tuple id="1"><status><basic>open</basic></status></tuple></presence>`
	hookDocument = `<?xml version="1.0"?><dialog-info xmlns="urn:ietf:params:xml:ns:dialog-info" version="1" state="partial" entity="sip:301@x"><dialog id="301"><state>trying</state></dialog></dialog-info>`
	hlogDocument = `<?xml version="1.0"?><x-cisco-remotecc-request><softkeyeventmsg><softkeyevent>HLog</softkeyevent><dialogid><callid></callid><localtag></localtag><remotetag></remotetag></dialogid><linenumber>0</linenumber></softkeyeventmsg></x-cisco-remotecc-request>`
	alarm        = `<?xml version="1.0"?><x-cisco-alarm><Alarm Name="LastOutOfServiceInformation"><ParameterList><String name="DeviceName">SEP001122AA0001</String><String name="ReasonForOutOfService">10</String></ParameterList></Alarm></x-cisco-alarm>`
)

// TestConnections is about who may say what on which connection, other vendors' phones, roll-outs, and phones that misbehave, on one
// appliance.
func TestConnections(t *testing.T) {
	d := newDaemon(t, office)
	ada, ben := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2)
	ctx := within(t, 170*time.Second)
	d.ready(ada)
	d.ready(ben)
	untouched := func(t *testing.T, what string) {
		t.Helper()
		get := func(field string) string { return strings.TrimSpace(d.verb("line", "get", "301", field)) }
		if dnd, hunt, hook := get("donotdisturb"), get("huntgroup"), get("offhook"); dnd != "no" || hunt != "yes" || hook != "no" {
			t.Errorf("%s: 301 has do-not-disturb %s, hunt login %s, off-hook %s", what, dnd, hunt, hook)
		}
	}
	t.Run("somebody else's connection", func(t *testing.T) {
		feature.Proves(t, "OHN-5", "SEC-R2")
		requests := []struct{ method, extra, body string }{
			{"PUBLISH", "From: <sip:001122AA0001@x>;tag=1\nEvent: presence\nContent-Type: application/pidf+xml\n", dndDocument},
			{"PUBLISH", "From: <sip:301@x>;tag=1\nEvent: presence\nContent-Type: application/pidf+xml\n", dndDocument},
			{"NOTIFY", "From: <sip:301@x>;tag=1\nEvent: dialog\nSubscription-State: active\nContent-Type: application/dialog-info+xml\n", hookDocument},
			{"REFER", "From: <sip:001122AA0001@x>;tag=1\nRequire: norefersub\nRefer-To: cid:1\nContent-Id: <1>\nContent-Type: application/x-cisco-remotecc-request+xml\n", hlogDocument},
		}
		stranger, udp := d.raw("tcp", "304", softPassword, 5), d.raw("udp", "304", softPassword, 6)
		for _, r := range requests {
			for _, c := range []*rawSIP{stranger, udp} {
				if res := c.do(r.method, "301", r.extra, r.body); res.status() != 403 {
					t.Errorf("%s over %s from nobody: %s, want 403", r.method, c.transport(), res.start)
				}
			}
		}
		untouched(t, "after requests of nobody")
		// Registered as somebody else, another vendor's phone and a Cisco phone: what names 301 is refused, and is not taken for
		// theirs either.
		stranger.register()
		cisco := d.rawPhone("303", cleoPassword, 7)
		for _, c := range []*rawSIP{stranger, cisco} {
			for _, r := range requests {
				if res := c.do(r.method, "301", r.extra, r.body); res.status() != 403 {
					t.Errorf("%s for 301 from line %s: %s, want 403", r.method, c.line, res.start)
				}
			}
			// From names nobody, or is cut to one character; the body says whom it means.
			for _, from := range []string{"3", "nobody"} {
				if res := c.do("NOTIFY", "301", "From: <sip:"+from+"@x>;tag=1\nEvent: dialog\nSubscription-State: active\nContent-Type: application/dialog-info+xml\n", hookDocument); res.status() != 403 {
					t.Errorf("off-hook of 301 from line %s as %q: %s, want 403", c.line, from, res.start)
				}
			}
			for field, want := range map[string]string{"donotdisturb": "no", "offhook": "no"} {
				if got := strings.TrimSpace(d.verb("line", "get", c.line, field)); got != want {
					t.Errorf("%s of %s itself is %s, want %s", field, c.line, got, want)
				}
			}
		}
		untouched(t, "after requests of lines 304 and 303")
		// What it says of itself counts.
		if res := stranger.do("PUBLISH", "304", "Event: presence\nContent-Type: application/pidf+xml\n", dndDocument); res.status() != 200 || res.header.Get("Sip-Etag") == "" {
			t.Errorf("PUBLISH of 304 for itself: %s", res.start)
		}
		if got := strings.TrimSpace(d.verb("line", "get", "304", "donotdisturb")); got != "yes" {
			t.Errorf("do-not-disturb of 304 is %s, want yes", got)
		}
		d.verb("line", "dnd", "304", "off")
		cisco.goodbye()
		// An alarm is only a remark.
		if res := d.raw("tcp", "", "", 5).do("REFER", "", "From: <sip:10.0.0.1>;tag=1\nRefer-To: cid:1\nContent-Id: <1>\nContent-Type: application/x-cisco-alarm+xml\n", alarm); res.status() != 202 {
			t.Errorf("alarm: %s, want 202", res.start)
		}
		if !ada.Registered() || strings.TrimSpace(d.verb("line", "get", "301", "status")) != "OK" {
			t.Error("301 is not registered any more")
		}
	})
	t.Run("a forged goodbye", func(t *testing.T) {
		c := d.raw("tcp", "301", "wrong-"+adaPassword, 5)
		if res := c.do("REGISTER", "", "To: <sip:301@x>\nContact: *\nExpires: 0\n", ""); res.status() != 403 {
			t.Errorf("unregister with a wrong password: %s", res.start)
		}
		if res := d.raw("tcp", "301", "", 5).do("REGISTER", "", "To: <sip:301@x>\nContact: <sip:301@10.0.0.9:5060>;CISCO-Keep-Alive;Expires=0\nExpires: 0\n", ""); res.status() != 200 || res.header.Get("Contact") != "" {
			t.Errorf("keep-alive with its parameters the other way round: %s, Contact %q", res.start, res.header.Get("Contact"))
		}
		untouched(t, "after a forged goodbye")
		if strings.TrimSpace(d.verb("line", "get", "301", "status")) != "OK" {
			t.Error("301 was unregistered")
		}
	})
	t.Run("feature events", func(t *testing.T) { featureEvents(t, d) })
	t.Run("a plain phone", func(t *testing.T) { plainPhone(t, d, ada) })
	t.Run("a hundred watchers", func(t *testing.T) { hundredWatchers(t, d, ada) })
	t.Run("roll-out", func(t *testing.T) { rollOut(t, d, ada, ben) })
	t.Run("keys and orders", func(t *testing.T) { keysAndOrders(t, d, ada) })
	t.Run("phones that misbehave", func(t *testing.T) { misbehave(t, d, ada) })
	t.Run("two phones of one name", func(t *testing.T) {
		twin := d.newPhoneAt(t.TempDir(), "SEP001122AA0002", "8841", 7)
		d.ready(twin)
		if err := ben.Register(ctx); err != nil {
			t.Fatal(err)
		}
		if err := twin.Register(ctx); err != nil {
			t.Fatal(err)
		}
		if err := ben.Register(ctx); err != nil {
			t.Fatal(err)
		}
		if out := d.verb("phone", "show", "SEP001122AA0002"); !strings.Contains(out, "two phones use this name") {
			t.Errorf("phone show says nothing of two phones with one name:\n%s", out)
		}
		twin.Stop()
	})
	t.Run("unknown names", func(t *testing.T) {
		for i := range 40 {
			c, err := net.Dial("udp", d.site.Address+":69")
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(c, "\x00\x01SEP0011223300%02X.cnf.xml\x00octet\x00", i)
			c.Close()
		}
		eventually(t, 10*time.Second, "the last unknown name is counted", func() bool { return strings.Contains(d.verb("status"), "40 phones waiting") })
		if out := d.verb("status"); strings.Count(out, "SEP00112233") > 12 || !strings.Contains(out, "30 more") {
			t.Errorf("status lists every unknown name:\n%s", out)
		}
		if out := d.verb("phone", "list"); strings.Count(out, "SEP00112233") > 12 || !strings.Contains(out, "30 more") {
			t.Errorf("phone list lists every unknown name:\n%s", out)
		}
		if out := d.verb("phone", "list", "--waiting"); strings.Count(out, "SEP00112233") != 40 {
			t.Errorf("phone list --waiting does not list them:\n%s", out)
		}
	})
	unharmed(t, ada)
}

// featureEvents plays the phones of other vendors that synchronise by as-feature-event.
func featureEvents(t *testing.T, d *daemon) {
	feature.Proves(t, "ASF-1", "ASF-2", "ASF-3", "ASF-4", "ASF-5", "ASF-6")
	const (
		csta    = `xmlns="http://www.ecma-international.org/standards/ecma-323/csta/ed3"`
		typ     = "Content-Type: application/x-as-feature-event+xml\n"
		prolog  = `<?xml version="1.0"?>` + "\n"
		forward = prolog + `<SetForwarding ` + csta + `><device/><forwardingType>%s</forwardingType><activateForward>%s</activateForward><forwardDN>%s</forwardDN></SetForwarding>`
	)
	for i, agent := range []string{"PolycomVVX-VVX_411-UA/5.9", "snomD785/10.1", "Yealink SIP-T46S 66.86", "Aastra 6757i/3.3", "Cisco/SPA504G-7.6", "Cisco-CP-8841-3PCC/11.3"} {
		c := d.raw([]string{"tcp", "udp"}[i%2], "304", softPassword, 10+i)
		c.agent = agent
		c.register()
		res := c.do("SUBSCRIBE", "304", "Event: as-feature-event\nAccept: application/x-as-feature-event+xml\nExpires: 600\n", "")
		if res.status() != 200 {
			t.Fatalf("%s: SUBSCRIBE: %s", agent, res.start)
		}
		m := c.next(10 * time.Second)
		if !strings.HasPrefix(m.header.Get("Content-Type"), "multipart/mixed") || !strings.Contains(m.body, "<DoNotDisturbEvent") || !strings.Contains(m.body, "<ForwardingEvent") {
			t.Errorf("%s: first NOTIFY is %s\n%s", agent, m.header.Get("Content-Type"), m.body)
		}
		within := "To: " + res.header.Get("To") + "\nCall-ID: " + res.header.Get("Call-Id") + "\nEvent: as-feature-event\nExpires: 600\n"
		dnd := prolog + `<SetDoNotDisturb ` + csta + `><device>304</device><doNotDisturbOn>true</doNotDisturbOn></SetDoNotDisturb>`
		if res := c.do("SUBSCRIBE", "304", within+typ, dnd); res.status() != 200 || !strings.Contains(res.body, "<SetDoNotDisturbResponse") {
			t.Errorf("%s: SetDoNotDisturb: %s %s", agent, res.start, res.body)
		}
		if m := c.next(10 * time.Second); !strings.Contains(m.body, "<doNotDisturbOn>true</doNotDisturbOn>") || strings.Contains(m.body, "ForwardingEvent") {
			t.Errorf("%s: after SetDoNotDisturb comes\n%s", agent, m.body)
		}
		if res := c.do("SUBSCRIBE", "304", within+typ, fmt.Sprintf(forward, "forwardImmediate", "true", "302")); res.status() != 200 || !strings.Contains(res.body, "<SetForwardingResponse") {
			t.Errorf("%s: SetForwarding: %s %s", agent, res.start, res.body)
		}
		if m := c.next(10 * time.Second); !strings.Contains(m.body, "<forwardTo>302</forwardTo>") || strings.Contains(m.body, "DoNotDisturbEvent") {
			t.Errorf("%s: after SetForwarding comes\n%s", agent, m.body)
		}
		if got := strings.TrimSpace(d.verb("line", "get", "304", "callforward")); got != "302" {
			t.Errorf("%s: forward is %q", agent, got)
		}
		if res := c.do("SUBSCRIBE", "304", within+typ, fmt.Sprintf(forward, "forwardBusy", "true", "302")); res.status() != 489 {
			t.Errorf("%s: forwardBusy: %s, want 489", agent, res.start)
		}
		d.verb("line", "dnd", "304", "off")
		if m := c.next(10 * time.Second); !strings.Contains(m.body, "<doNotDisturbOn>false</doNotDisturbOn>") {
			t.Errorf("%s: after the command line comes\n%s", agent, m.body)
		}
		d.verb("line", "forward", "304", "off")
		if m := c.next(10 * time.Second); !strings.Contains(m.body, "<forwardStatus>false</forwardStatus>") {
			t.Errorf("%s: after the command line comes\n%s", agent, m.body)
		}
		if res := c.do("SUBSCRIBE", "304", strings.Replace(within, "Expires: 600", "Expires: 0", 1), ""); res.status() != 200 {
			t.Errorf("%s: end of the subscription: %s", agent, res.start)
		}
		if m := c.next(10 * time.Second); !strings.HasPrefix(m.header.Get("Subscription-State"), "terminated") {
			t.Errorf("%s: last NOTIFY says %q", agent, m.header.Get("Subscription-State"))
		}
	}
}

// plainPhone is an RFC 3261 phone behind NAT with nothing but number and password.
func plainPhone(t *testing.T, d *daemon, ada *phone.Phone) {
	feature.Proves(t, "PRS-1", "RST-5")
	for i, network := range []string{"udp", "tcp"} {
		c := d.raw(network, "309", softPassword, 20+i)
		c.register()
		subscribe := func(event, number string) {
			t.Helper()
			if res := c.do("SUBSCRIBE", number, "Event: "+event+"\nExpires: 600\n", ""); res.status() != 200 {
				t.Fatalf("SUBSCRIBE %s over %s: %s", event, network, res.start)
			}
		}
		next := func(event string, texts ...string) {
			t.Helper()
			m := c.next(10 * time.Second)
			for _, x := range texts {
				if !strings.Contains(m.body, x) || m.header.Get("Event") != event {
					t.Errorf("NOTIFY %s over %s lacks %q:\n%s", m.header.Get("Event"), network, x, m.body)
				}
			}
		}
		subscribe("presence", "301")
		next("presence", "<basic>open</basic>")
		subscribe("dialog", "302")
		next("dialog", "<state>terminated</state>")
		subscribe("message-summary", "309")
		next("message-summary", "Messages-Waiting: no")
		if err := ada.OffHook(within(t, 10*time.Second), 1); err != nil {
			t.Fatal(err)
		}
		next("presence", "on-the-phone")
		if err := ada.OnHook(within(t, 10*time.Second), 1); err != nil {
			t.Fatal(err)
		}
		next("presence", "<basic>open</basic>")
		d.verb("line", "messages", "309", "3", "2")
		next("message-summary", "Messages-Waiting: yes", "Voice-Message: 3/2 (0/0)")
		d.verb("line", "messages", "309", "0")
		next("message-summary", "Messages-Waiting: no")

		// RFC 5626 §4.4.1: two line ends are answered with one.
		if network == "tcp" {
			if _, err := c.conn.Write([]byte("\r\n\r\n")); err != nil {
				t.Fatal(err)
			}
			_ = c.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			b := make([]byte, 2)
			if n, err := c.r.Read(b); err != nil || string(b[:n]) != "\r\n" {
				t.Errorf("keep-alive answered %q, %v", b[:n], err)
			}
		}
		done := make(chan string, 1)
		go func() { out, code := d.try("line", "check-sync", "309"); done <- fmt.Sprint(code, out) }()
		if m := c.next(10 * time.Second); m.header.Get("Event") != "check-sync" {
			t.Errorf("instead of check-sync comes %s", m.header.Get("Event"))
		}
		if got := <-done; !strings.HasPrefix(got, "0") {
			t.Errorf("line check-sync: %s", got)
		}
		if res := c.do("REGISTER", "", "To: <sip:309@x>\nExpires: 0\n", ""); res.status() != 200 {
			t.Errorf("goodbye over %s: %s", network, res.start)
		}
	}
	if out, code := d.try("line", "check-sync", "301"); code != 1 || !strings.Contains(out, "check-version") {
		t.Errorf("check-sync of a Cisco phone: status %d %s", code, out)
	}
}

// hundredWatchers sees every one of a hundred watchers told of a change at once.
func hundredWatchers(t *testing.T, d *daemon, ada *phone.Phone) {
	feature.Proves(t, "BLF-9")
	c := d.raw("tcp", "309", softPassword, 23)
	c.register()
	const n = 100
	for range n {
		if res := c.do("SUBSCRIBE", "301", "Event: presence\nExpires: 600\n", ""); res.status() != 200 {
			t.Fatalf("SUBSCRIBE: %s", res.start)
		}
		c.next(10 * time.Second)
	}
	began := time.Now()
	if err := ada.OffHook(within(t, 10*time.Second), 1); err != nil {
		t.Fatal(err)
	}
	for range n {
		if m := c.next(10 * time.Second); !strings.Contains(m.body, "on-the-phone") {
			t.Fatalf("a watcher is told\n%s", m.body)
		}
	}
	took := time.Since(began)
	t.Logf("the last of %d watchers was told after %v", n, took)
	if took > time.Second {
		t.Errorf("the last of %d watchers was told after %v, want a second at most", n, took)
	}
	if err := ada.OnHook(within(t, 10*time.Second), 1); err != nil {
		t.Fatal(err)
	}
	for range n {
		c.next(10 * time.Second)
	}
	if res := c.do("REGISTER", "", "To: <sip:309@x>\nExpires: 0\n", ""); res.status() != 200 {
		t.Errorf("goodbye: %s", res.start)
	}
	c.conn.Close()
}

// rollOut tells many phones to do something: those in a call when it has ended, those that are not there not at all.
func rollOut(t *testing.T, d *daemon, ada, ben *phone.Phone) {
	feature.Proves(t, "RST-1", "RST-2", "RST-4", "RST-6", "RST-7")
	type info struct {
		Number, Phones, Obeyed, Failed int
		Busy                           int `json:"waiting_in_call"`
		Ended                          time.Time
		Details                        []struct{ Device, State, Error string }
	}
	look := func(n int) (i info) { d.json(&i, "phone", "rollout", fmt.Sprint(n)); return i }
	control := func(action string) func(phone.WireMessage) bool {
		return func(m phone.WireMessage) bool {
			return m.Event() == "service-control" && strings.HasPrefix(m.Body(), "action="+action+"\r\n")
		}
	}
	for _, c := range []struct{ verb, action string }{{"reset", "reset"}, {"report", "prt-report"}, {"check-version", "check-version"}, {"apply-config", "apply-config"}} {
		mark := ada.Mark()
		d.verb("phone", c.verb, "00:11:22:aa:00:01")
		m := wire(t, ada, mark, c.action, control(c.action))
		expect(t, m, "RegisterCallId={"+ada.RegisterCallID()+"}\r\n")
		stamp := "ConfigVersionStamp={" + ada.Config().VersionStamp + "}\r\n"
		switch c.verb {
		case "report":
			expect(t, m, "!VersionStamp")
		case "check-version":
			expect(t, m, stamp)
		case "apply-config":
			expect(t, m, stamp, "CUCMResult=", "LoadId=sip88xx", "LoadServer="+d.site.Address)
		}
		if m.Get("Subscription-State") != "active" || m.Get("Content-Type") != "text/plain" {
			t.Errorf("%s comes with %q, %q", c.action, m.Get("Subscription-State"), m.Get("Content-Type"))
		}
	}
	// A phone in a call is refused alone and waited for among others.
	ca, cb := connect(t, ada, ben, "302")
	if out, code := d.try("phone", "restart", "SEP001122AA0001"); code != 1 || !strings.Contains(out, "--force") {
		t.Errorf("restart of a phone in a call: status %d, %s", code, out)
	}
	before := ada.ServiceControls()
	var i info
	d.json(&i, "phone", "restart", "--all", "--every", "1ms")
	if i.Number != 1 || i.Phones != 3 {
		t.Fatalf("roll-out %+v, want number 1 of 3 phones", i)
	}
	eventually(t, 10*time.Second, "both phones in the call are waited for and the third has failed", func() bool { i := look(1); return i.Busy == 2 && i.Failed == 1 })
	if ada.ServiceControls() != before {
		t.Error("a phone in a call was restarted")
	}
	if err := ca.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	eventually(t, 15*time.Second, "the roll-out has ended", func() bool { return !look(1).Ended.IsZero() })
	if i := look(1); i.Obeyed != 2 || i.Failed != 1 || i.Busy != 0 || ada.ServiceControls() != before+1 {
		t.Errorf("roll-out ended as %+v", i)
	}
	for _, c := range []struct {
		flags []string
		want  int
	}{{[]string{"--model", "8841"}, 1}, {[]string{"--filter", "88xx"}, 2}, {[]string{"--filter", "!88xx"}, 1}, {[]string{"--filter", "Ben", "--model", "8841"}, 1}} {
		if d.json(&i, append([]string{"phone", "check-version", "--every", "1ms"}, c.flags...)...); i.Phones != c.want {
			t.Errorf("%v selects %d phones, want %d", c.flags, i.Phones, c.want)
		}
		eventually(t, 10*time.Second, "the roll-out has ended", func() bool { return !look(i.Number).Ended.IsZero() })
	}
	// Forced during a call; and stopped in the middle.
	ca, cb = connect(t, ada, ben, "302")
	mark := ada.Mark()
	d.verb("phone", "restart", "SEP001122AA0001", "--force")
	wire(t, ada, mark, "restart", control("restart"))
	d.json(&i, "phone", "restart", "--all", "--every", "1ms")
	d.verb("phone", "rollout", fmt.Sprint(i.Number), "--stop")
	eventually(t, 10*time.Second, "the roll-out was stopped", func() bool { return strings.Contains(d.verb("phone", "rollouts"), "; stopped") })
	if err := ca.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	d.quiet()
}

// misbehave registers phones that answer nothing, 400 or 404 to everything, and one that vanishes; others are shown the truth soon.
func misbehave(t *testing.T, d *daemon, ada *phone.Phone) {
	for i, answer := range []string{"", "400 Bad Request", "404 Not Found"} {
		c := d.raw("tcp", "303", cleoPassword, 25+i)
		c.agent, c.mute = "Cisco-CP7965G/9.4.2", true
		if res := c.do("REGISTER", "", "To: <sip:303@x>\nExpires: 120\n", ""); res.status() != 200 {
			t.Fatalf("REGISTER: %s", res.start)
		}
		for range 2 { // its initial state, and one lamp
			m := c.next(10 * time.Second)
			if answer != "" {
				c.answer(m, answer)
			}
		}
		var check struct{ Repaired, Unsure []string }
		if d.json(&check, "watch", "check"); len(check.Unsure) == 0 {
			t.Errorf("a phone that answers %q: watch check is sure of its lamps", answer)
		}
		c.conn.(*net.TCPConn).SetLinger(0) // a reset, as by a phone that lost its power for a moment
		c.conn.Close()
		eventually(t, 10*time.Second, "303 counts as gone", func() bool { return strings.Contains(d.verb("line", "get", "303", "presence"), "closed") })
	}
	// Guessing: every name is challenged, known and unknown get the same answer, and after a while nothing else.
	for _, line := range []string{"302", "399", "admin"} {
		c := d.raw("tcp", line, "guess", 29)
		for range 12 {
			if res := c.do("REGISTER", "", "To: <sip:"+line+"@x>\n", ""); res.status() != 403 {
				t.Fatalf("a guess at %s is answered %s", line, res.start)
			}
		}
	}
	if out := d.log.String(); !strings.Contains(out, "authentication throttled") {
		t.Error("guesses are not throttled")
	}
	if err := ada.Refresh(within(t, 10*time.Second)); err != nil {
		t.Errorf("meanwhile 301 cannot refresh: %v", err)
	}
}

// TestIdentity is about certificates and cipher suites of phones in encrypted mode.
func TestIdentity(t *testing.T) {
	feature.Proves(t, "SEC-4", "SEC-8", "SEC-9")
	d := newDaemon(t, morning)
	ada, ben := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2)
	d.ready(ada)
	d.ready(ben)
	mark := ben.Mark()
	ca, cb := connect(t, ada, ben, "302")
	invite := wire(t, ben, mark, "INVITE", func(m phone.WireMessage) bool { return m.Method() == "INVITE" })
	first := invite.Body()[strings.Index(invite.Body(), "a=crypto:"):]
	if first, _, _ = strings.Cut(first, "\r\n"); !strings.HasPrefix(first, "a=crypto:1 AEAD_AES_256_GCM ") {
		t.Errorf("the first suite offered is %q", strings.Fields(first)[:2])
	}
	if err := ca.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)

	// Ben's password on ada's connection, and on one without certificate or without TLS.
	for name, c := range map[string]*rawSIP{
		"ada's certificate": d.raw("tls", "302", benPassword, 5, ada.Certificate()), "no certificate": d.raw("tls", "302", benPassword, 6), "no TLS": d.raw("tcp", "302", benPassword, 7),
	} {
		if res := c.do("REGISTER", "", "To: <sip:302@x>\nExpires: 120\n", ""); res.status() != 403 {
			t.Errorf("REGISTER of 302 with %s: %s, want 403", name, res.start)
		}
	}
	if out := d.verb("phone", "show", "SEP001122AA0002"); !strings.Contains(out, "the client certificate names SEP001122AA0001") {
		t.Errorf("phone show does not tell of the foreign certificate:\n%s", out)
	}
	if !ben.Registered() {
		t.Error("ben lost the registration")
	}
	// The authenticated mode, TLS without encryption, is not there.
	out, err := exec.Command("openssl", "s_client", "-connect", d.site.Address+":5061", "-tls1_2", "-cipher", "eNULL:@SECLEVEL=0").CombinedOutput()
	if err == nil || strings.Contains(string(out), "Cipher is NULL") {
		t.Errorf("a NULL cipher is taken:\n%s", tail(string(out), 1000))
	}
	unharmed(t, ada, ben)
}

// TestFailOver has two appliances made from one document that differs in node:. A phone moves to the second by itself when the
// first dies, finds its state there, and comes back.
func TestFailOver(t *testing.T) {
	feature.Proves(t, "FOV-1", "FOV-2", "FOV-3", "FOV-4")
	n := siteNumber.Load()
	text := strings.Replace(office, "  time_zone: Europe/Berlin\n", fmt.Sprintf("  time_zone: Europe/Berlin\n  appliances: [%s.%d, %s.%d]\n", network, n+1, network, n+2), 1)
	a, b := newDaemon(t, text), newDaemon(t, text)
	fast := func(o *phone.Options) {
		o.StayDown = false
		o.Timers.KeepAlive, o.Timers.KeepRetry = 300*time.Millisecond, 100*time.Millisecond
	}
	ada, ben := a.newPhone("SEP001122AA0001", "8851", 1, fast), a.newPhone("SEP001122AA0002", "8841", 2, fast)
	for _, p := range []*phone.Phone{ada, ben} {
		a.ready(p)
		if m := p.Config().Members; len(m) != 2 || m[0].Host != a.site.Address || m[1].Host != b.site.Address {
			t.Fatalf("the phone knows call servers %+v", m)
		}
	}
	at := func(d *daemon, what string) {
		t.Helper()
		for _, p := range []*phone.Phone{ada, ben} {
			if err := p.Wait(within(t, 60*time.Second), func() bool { return p.Member() == d.site.Address }); err != nil {
				t.Fatalf("%s: %s is registered at %q, want %s", what, p.Device(), p.Member(), d.site.Address)
			}
			if err := p.WaitReady(within(t, 20*time.Second)); err != nil {
				t.Fatalf("%s: %s has no initial state", what, p.Device())
			}
		}
		eventually(t, 10*time.Second, "lamps are right", func() bool { return ada.BLF("302") == phone.LampIdle && ben.BLF("301") == phone.LampIdle })
	}
	if err := ada.Wait(within(t, 10*time.Second), func() bool { return ada.Standby() == b.site.Address }); err != nil {
		t.Fatal("the second appliance is no standby")
	}
	if got := strings.TrimSpace(b.verb("line", "get", "301", "status")); got != "UNREGISTERED" {
		t.Errorf("keep-alives made 301 %s at the standby", got)
	}
	mark := ada.Mark()
	a.kill()
	at(b, "after the power cut")
	// The version that the phone has is right there, too: it does not start again.
	m := wire(t, ada, mark, "check-version", func(m phone.WireMessage) bool {
		return m.Event() == "service-control" && strings.HasPrefix(m.Body(), "action=check-version\r\n")
	})
	expect(t, m, "ConfigVersionStamp={"+ada.Config().VersionStamp+"}", "RegisterCallId={"+ada.RegisterCallID()+"}")
	ca, cb := connect(t, ada, ben, "302")
	hear(t, ca, cb)

	// The first is back; phones come when they are idle.
	a.start()
	if err := ca.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	at(a, "after its return")
	eventually(t, 5*time.Second, "the second appliance has let go", func() bool { return strings.Contains(b.verb("line", "get", "301", "status"), "UNREGISTERED") })
	ca, cb = connect(t, ada, ben, "302")
	hear(t, ca, cb)
	if err := ca.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	unharmed(t, ada, ben)

	// Many phones come back one after the other: tokens are given out at a limited rate.
	c := a.raw("tcp", "301", "", 9)
	taken, later := 0, 0
	for range 30 {
		res := c.do("REFER", "", "Refer-To: <urn:X-cisco-remotecc:Token-Registration>\n", "")
		switch {
		case res.status() == 202:
			taken++
		case res.status() == 503 && res.header.Get("Retry-After") != "":
			later++
		default:
			t.Fatalf("token: %s, Retry-After %q", res.start, res.header.Get("Retry-After"))
		}
	}
	if taken == 0 || later == 0 {
		t.Errorf("of 30 tokens %d were given and %d put off", taken, later)
	}
}
