package phone

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// A call out, heard both ways, in each kind of media.
func TestCallOut(t *testing.T) {
	for _, tc := range []struct {
		name, model, mode string
		suite             string
	}{
		{"8851 RTP", "8851", "1", ""},
		{"8851 SRTP", "8851", "3", suite80},
		{"7965 SRTP", "7965", "3", suite32},
		{"7965 RTP", "7965", "1", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.opt.Model = tc.model
			w.opt.ToneHz = 700
			w.xml["mode"], w.xml["transport"] = tc.mode, tc.mode
			if tc.mode == "3" {
				w.giveLSC()
			}
			p := w.up()
			ctx := w.ctx()
			c, err := p.Call(ctx, "302")
			if err != nil {
				t.Fatal(err)
			}
			if err := c.WaitState(ctx, Connected); err != nil {
				t.Fatal(err)
			}
			if err := c.WaitTone(ctx, 700); err != nil {
				t.Fatal(err)
			}
			a := c.Audio()
			t.Log(a)
			if a.Suite != tc.suite || a.AuthFailures != 0 || a.Lost != 0 || a.Foreign != 0 {
				t.Errorf("audio: %+v", a)
			}
			if r := c.Remote(); r.Name != "Ben" || r.Number != "302" || c.CallInfo("orientation") != "to" {
				t.Errorf("display %+v, orientation %s", r, c.CallInfo("orientation"))
			}
			if err := c.Press("12#"); err != nil {
				t.Fatal(err)
			}
			if err := p.Wait(ctx, func() bool { return c.Audio().Digits == "12#" }); err != nil {
				t.Errorf("keys came back as %q", c.Audio().Digits)
			}
			if err := c.Hangup(ctx); err != nil {
				t.Fatal(err)
			}
			bye := w.pbx.requests("BYE")
			if len(bye) != 1 || !strings.HasPrefix(bye[0].get("RTP-RxStat"), "Dur=") || bye[0].get("RTP-TxStat") == "" {
				t.Errorf("BYE: %v", bye)
			}
			if n := len(w.pbx.requests("NOTIFY")); n != 2 {
				t.Errorf("%d off-hook notices, want up and down", n)
			}
			w.noRefusals()
		})
	}
}

// The INVITE has the layout of calls §2.1, header for header.
func TestInviteLayout(t *testing.T) {
	w := newWorld(t)
	p := w.up()
	ctx := w.ctx()
	c, err := p.Call(ctx, "302")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WaitState(ctx, Connected); err != nil {
		t.Fatal(err)
	}
	inv := w.pbx.requests("INVITE")[0]
	var names []string
	for _, h := range inv.headers {
		names = append(names, h.name)
	}
	want := "Via From To Call-ID Max-Forwards Session-ID Date CSeq User-Agent Contact Expires Accept Allow Remote-Party-ID " +
		"Supported Allow-Events Recv-Info Recv-Info Content-Type Content-Disposition Content-Length"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("headers\n%s\nwant\n%s", got, want)
	}
	if inv.get("CSeq") != "101 INVITE" || inv.uri != "sip:302@127.0.0.1;user=phone" {
		t.Errorf("%s, CSeq %s", inv.uri, inv.get("CSeq"))
	}
	port := c.Audio().Local
	body := fmt.Sprintf("v=0\r\no=Cisco-SIPUA %d 0 IN IP4 127.0.0.1\r\ns=SIP Call\r\nb=AS:4064\r\nt=0 0\r\n"+
		"m=audio %d RTP/AVP 114 9 113 115 0 8 116 18 101\r\nc=IN IP4 127.0.0.1\r\nb=TIAS:64000\r\n"+
		"a=rtpmap:114 opus/48000/2\r\na=fmtp:114 maxplaybackrate=16000;sprop-maxcapturerate=16000;maxaveragebitrate=64000;stereo=0;sprop-stereo=0;usedtx=0\r\n"+
		"a=rtpmap:9 G722/8000\r\na=rtpmap:113 AMR-WB/16000\r\na=fmtp:113 octet-align=0;mode-change-capability=2\r\n"+
		"a=rtpmap:115 AMR-WB/16000\r\na=fmtp:115 octet-align=1;mode-change-capability=2\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n"+
		"a=rtpmap:116 iLBC/8000\r\na=fmtp:116 mode=20\r\na=rtpmap:18 G729/8000\r\na=fmtp:18 annexb=yes\r\n"+
		"a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=sendrecv\r\n", c.session, port)
	if string(inv.body) != body {
		t.Errorf("offer\n%s\nwant\n%s", inv.body, body)
	}
}

// Hold is a=sendonly with Call-Info hold and stops the sound; resume brings it back with new keys.
func TestHoldAndResume(t *testing.T) {
	w := newWorld(t)
	w.xml["mode"], w.xml["transport"] = "3", "3"
	w.giveLSC()
	p := w.up()
	ctx := w.ctx()
	c, err := p.Call(ctx, "302")
	if err == nil {
		err = c.WaitTone(ctx, 1004)
	}
	if err == nil {
		err = c.Hold(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	invites := w.pbx.requests("INVITE")
	hold := invites[len(invites)-1]
	if !strings.Contains(string(hold.body), "a=sendonly") || !strings.Contains(hold.get("Call-Info"), "x-cisco-remotecc:hold>") {
		t.Errorf("hold:\n%s", hold.marshal())
	}
	if c.State() != Held {
		t.Errorf("state %s", c.State())
	}
	sent := c.Audio().Sent
	time.Sleep(60 * time.Millisecond)
	if got := c.Audio().Sent; got > sent+1 {
		t.Errorf("sent %d packets while holding", got-sent)
	}
	if err := c.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	invites = w.pbx.requests("INVITE")
	resume := invites[len(invites)-1]
	keyOf := func(m *message) string {
		_, k, _ := strings.Cut(string(m.body), "inline:")
		k, _, _ = strings.Cut(k, "\r")
		return k
	}
	if keyOf(resume) == keyOf(hold) || !strings.Contains(string(resume.body), "o=Cisco-SIPUA "+fmt.Sprint(c.session)+" 2 ") {
		t.Errorf("resume:\n%s", resume.body)
	}
	if err := c.WaitTone(ctx, 1004); err != nil {
		t.Error(err)
	}
	if a := c.Audio(); a.AuthFailures != 0 {
		t.Errorf("%d packets failed authentication over two changes of keys", a.AuthFailures)
	}
	w.noRefusals()
}

// CANCEL, and the ACK to its 487 without a To tag (calls §1.6).
func TestCancel(t *testing.T) {
	w := newWorld(t)
	p := w.up()
	var invite *message
	w.pbx.handle("INVITE", func(c *pbxConn, m *message) bool {
		if !c.authorized(m) {
			return true
		}
		invite = m
		c.send(m.answer(100, "Trying", ""))
		c.send(c.named(m.answer(180, "Ringing", "as9")))
		return true
	})
	w.pbx.handle("CANCEL", func(c *pbxConn, m *message) bool {
		c.send(m.answer(200, "OK", "as9"))
		c.send(invite.answer(487, "Request Terminated", "as9"))
		return true
	})
	ctx := w.ctx()
	c, err := p.Call(ctx, "302")
	if err == nil {
		err = c.WaitState(ctx, RingOut)
	}
	if err == nil {
		err = c.Hangup(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	cancel := w.pbx.requests("CANCEL")[0]
	if branchOf(cancel) != branchOf(invite) {
		t.Error("CANCEL under another branch")
	}
	waitFor(t, func() bool { return len(w.pbx.requests("ACK")) == 2 })
	acks := w.pbx.requests("ACK")
	if a := nameAddrOf(acks[0].get("To")).param("tag"); a == "" {
		t.Error("ACK to 401 has no To tag")
	}
	ack := acks[1]
	if nameAddrOf(ack.get("To")).param("tag") != "" || branchOf(ack) != branchOf(invite) {
		t.Errorf("ACK after CANCEL:\n%s", ack.marshal())
	}
	if c.Code() != 487 {
		t.Errorf("ended with %d", c.Code())
	}
	w.noRefusals()
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("did not happen")
		}
	}
}

// incoming makes the fake server call the phone and gives the connection and the INVITE.
func (w *world) incoming(p *Phone, body string) (*pbxConn, *message) {
	c := w.pbx.phone()
	m := c.request("INVITE", p.Contact())
	m.set("From", `"Cleo" <sip:303@127.0.0.1>;tag=as77`)
	m.add("Remote-Party-ID", `"Cleo" <sip:303@127.0.0.1;x-cisco-callback-number=0303>;party=calling;privacy=off;screen=yes`)
	m.add("Call-Info", "<urn:x-cisco-remotecc:callinfo>; orientation=from; security=NotAuthenticated")
	if body != "" {
		m.with("application/sdp", body)
	}
	return c, m
}

func (w *world) plainOffer() string {
	w.pbx.mu.Lock()
	defer w.pbx.mu.Unlock()
	if w.pbx.echo == nil {
		w.pbx.echo = newEcho(w.t)
	}
	return fmt.Sprintf("v=0\r\no=- 5 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio %d RTP/AVP 0 8 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n", w.pbx.echo.port)
}

// inDialog makes a request of the server within the dialog of an answered call.
func inDialog(invite, ok *message, method string, cseq int) *message {
	m := &message{method: method, uri: nameAddrOf(ok.get("Contact")).uri}
	m.add("Via", "SIP/2.0/TCP 127.0.0.1:5060;branch=z9hG4bK%s", hexString(6))
	m.add("Max-Forwards", "70")
	m.add("From", "%s", invite.get("From"))
	m.add("To", "%s", ok.get("To"))
	m.add("Contact", "<sip:303@127.0.0.1:5060;transport=tcp>")
	m.add("Call-ID", "%s", invite.get("Call-ID"))
	m.add("CSeq", "%d %s", cseq, method)
	return m
}

func TestCallIn(t *testing.T) {
	w := newWorld(t)
	p := w.up()
	ctx := w.ctx()
	conn, inv := w.incoming(p, w.plainOffer())
	answered := make(chan *message, 1)
	w.pbx.t.Cleanup(func() {})
	go func() { answered <- conn.ask(inv) }()
	c, err := p.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if r := c.Remote(); r != (Party{Name: "Cleo", Number: "303", Callback: "0303"}) || c.State() != RingIn || !c.Incoming() {
		t.Errorf("display %+v, state %s", r, c.State())
	}
	if err := c.Answer(ctx); err != nil {
		t.Fatal(err)
	}
	ok := <-answered
	d, err := parseSDP(ok.body)
	if err != nil || ok.status != 200 || len(d.media) != 1 || len(d.media[0].formats) != 2 {
		t.Fatalf("answer %d:\n%s", ok.status, ok.body)
	}
	ack := inDialog(inv, ok, "ACK", 101)
	conn.post(ack)
	w.pbx.echo.answer(d.media[0], "sendrecv")
	if err := c.WaitTone(ctx, 1004); err != nil {
		t.Fatal(err)
	}

	// UPDATE with another identity, no SDP (calls §24.2).
	up := inDialog(inv, ok, "UPDATE", 102)
	up.add("Remote-Party-ID", `"Dora" <sip:304@127.0.0.1>;party=calling;privacy=off;screen=yes`)
	if res := conn.ask(up); res.status != 200 {
		t.Errorf("UPDATE answered %d", res.status)
	}
	if err := c.WaitRemote(ctx, "304"); err != nil {
		t.Error(err)
	}

	// The other side holds: recvonly answers sendonly.
	re := inDialog(inv, ok, "INVITE", 103).with("application/sdp",
		strings.NewReplacer("o=- 5 1", "o=- 5 2", "a=sendrecv", "a=sendonly").Replace(w.plainOffer()))
	res := conn.ask(re)
	if res.status != 200 || !strings.Contains(string(res.body), "a=recvonly") || !c.PeerHeld() {
		t.Errorf("hold by the other side answered %d, held %v:\n%s", res.status, c.PeerHeld(), res.body)
	}
	conn.post(inDialog(inv, ok, "ACK", 103))

	// A CSeq that goes back is refused.
	if res := conn.ask(inDialog(inv, ok, "UPDATE", 102)); res.status != 500 {
		t.Errorf("old CSeq answered %d", res.status)
	}
	if res := conn.ask(inDialog(inv, ok, "BYE", 104)); res.status != 200 || res.get("RTP-RxStat") == "" {
		t.Errorf("BYE answered:\n%s", res.marshal())
	}
	if err := c.WaitState(ctx, Ended); err != nil || len(p.Calls()) != 0 {
		t.Errorf("state %s, %v", c.State(), err)
	}
	if got := p.Refusals(); len(got) > 0 {
		t.Errorf("refused %v", got)
	}
}

// Call waiting up to busyTrigger, then 486; and DND with callreject.
func TestBusy(t *testing.T) {
	w := newWorld(t)
	p := w.up()
	ctx := w.ctx()
	var last *pbxConn
	for range 2 { // busyTrigger is 2
		conn, inv := w.incoming(p, w.plainOffer())
		conn.post(inv)
		if _, err := p.WaitIncoming(ctx); err != nil {
			t.Fatal(err)
		}
		last = conn
	}
	_, inv := w.incoming(p, w.plainOffer())
	if res := last.ask(inv); res.status != 486 {
		t.Errorf("third call answered %d", res.status)
	}
	for _, c := range p.Calls() {
		if err := c.Reject(ctx, 603); err != nil {
			t.Error(err)
		}
	}
	last.ask(last.remotecc(p.Contact(), "<dndupdate><state>enable</state><option>callreject</option></dndupdate>"))
	_ = p.Wait(ctx, func() bool { on, _ := p.DND(); return on })
	if on, mode := p.DND(); !on || mode != "callreject" {
		t.Errorf("DND %v %s", on, mode)
	}
	_, inv = w.incoming(p, w.plainOffer())
	if res := last.ask(inv); res.status != 486 {
		t.Errorf("call during DND answered %d", res.status)
	}
	w.noRefusals()
}

// Offerless INVITE: the phone offers in its 200 and takes the answer from the ACK (calls §27.1).
func TestOfferlessInvite(t *testing.T) {
	w := newWorld(t)
	p := w.up()
	ctx := w.ctx()
	conn, inv := w.incoming(p, "")
	answered := make(chan *message, 1)
	go func() { answered <- conn.ask(inv) }()
	c, err := p.WaitIncoming(ctx)
	if err == nil {
		err = c.Answer(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	ok := <-answered
	d, err := parseSDP(ok.body)
	if err != nil || len(d.media[0].formats) < 5 {
		t.Fatalf("offer in 200: %v\n%s", err, ok.body)
	}
	w.plainOffer()
	conn.post(inDialog(inv, ok, "ACK", 101).with("application/sdp", w.pbx.echo.answer(d.media[0], "sendrecv")))
	if err := c.WaitTone(ctx, 1004); err != nil {
		t.Error(err)
	}
	w.noRefusals()
}

// A cancelled call is missed unless it was completed elsewhere, which an 8851 believes of hunt-group calls only (§2.4).
func TestMissedCalls(t *testing.T) {
	for _, tc := range []struct {
		name, model, reason, pilot string
		hunt                       bool
		missed                     int
	}{
		{"plain", "8851", "", "", true, 1},
		{"8851 elsewhere", "8851", `SIP;cause=200;text="Call completed elsewhere"`, "", true, 1},
		{"8851 elsewhere in a hunt group", "8851", `SIP;cause=200;text="Call completed elsewhere"`, "x", true, 0},
		{"8851 logged out", "8851", `SIP;cause=200;text="Call completed elsewhere"`, "x", false, 1},
		{"7965 elsewhere", "7965", `SIP;cause=200;text="Call completed elsewhere"`, "", false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.opt.Model = tc.model
			p := w.up()
			conn, inv := w.incoming(p, w.plainOffer())
			status := "off"
			if tc.hunt {
				status = "on"
			}
			conn.ask(conn.remotecc(p.Contact(), "<hlogupdate><status>"+status+"</status></hlogupdate>"))
			if tc.pilot != "" {
				inv.set("Call-Info", `<urn:x-cisco-remotecc:callinfo>; orientation=from; huntpiloturi="%22Sales%22 <sip:2998@127.0.0.1>"`)
			}
			ended := make(chan *message, 1)
			go func() { ended <- conn.ask(inv) }()
			c, err := p.WaitIncoming(w.ctx())
			if err != nil {
				t.Fatal(err)
			}
			cancel := &message{method: "CANCEL", uri: inv.uri}
			for _, h := range inv.headers {
				switch h.name {
				case "Via", "From", "To", "Call-ID", "Max-Forwards":
					cancel.headers = append(cancel.headers, h)
				}
			}
			cancel.add("CSeq", "101 CANCEL")
			if tc.reason != "" {
				cancel.add("Reason", "%s", tc.reason)
			}
			conn.post(cancel)
			// The 200 to the CANCEL has the same branch and comes first; the 487 is the INVITE's.
			if res := <-ended; res.status != 200 && res.status != 487 {
				t.Errorf("ended with %d", res.status)
			}
			if err := c.WaitState(w.ctx(), Ended); err != nil {
				t.Fatal(err)
			}
			if got := p.Missed(); got != tc.missed {
				t.Errorf("%d missed calls, want %d", got, tc.missed)
			}
		})
	}
}

// Blind and attended transfer: REFER in the first dialog, report, BYE of that leg by the phone (calls §4).
func TestTransfer(t *testing.T) {
	for _, tc := range []struct {
		name   string
		report string
		ok     bool
	}{{"done", "SIP/2.0 200 OK", true}, {"unknown target", "SIP/2.0 404 Not Found", false}} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			p := w.up()
			ctx := w.ctx()
			w.pbx.handle("REFER", func(c *pbxConn, m *message) bool {
				c.send(m.answer(202, "Accepted", "as71"))
				n := &message{method: "NOTIFY", uri: nameAddrOf(m.get("Contact")).uri}
				n.add("Via", "SIP/2.0/TCP 127.0.0.1:5060;branch=z9hG4bK%s", hexString(6))
				n.add("From", "%s", m.get("To")).add("To", "%s", m.get("From")).add("Call-ID", "%s", m.get("Call-ID"))
				n.add("CSeq", "900 NOTIFY").add("Event", "refer;id=104").add("Subscription-State", "terminated;reason=noresource")
				c.post(n.with("message/sipfrag;version=2.0", tc.report+"\r\n"))
				return true
			})
			c, err := p.Call(ctx, "302")
			if err == nil {
				err = c.WaitState(ctx, Connected)
			}
			if err != nil {
				t.Fatal(err)
			}
			err = c.BlindTransfer(ctx, "303")
			if (err == nil) != tc.ok {
				t.Fatalf("transfer: %v", err)
			}
			refer := w.pbx.requests("REFER")
			if got := refer[len(refer)-1].get("Refer-To"); got != "<sip:303@127.0.0.1>" {
				t.Errorf("Refer-To %s", got)
			}
			invites := w.pbx.requests("INVITE")
			if got := invites[len(invites)-1].get("Call-Info"); got != "<urn:x-cisco-remotecc:hold>; reason= transfer" {
				t.Errorf("hold for the transfer: %q", got)
			}
			if want := map[bool]CallState{true: Ended, false: Held}[tc.ok]; c.State() != want {
				t.Errorf("call is %s, want %s", c.State(), want)
			}
			if !tc.ok {
				return
			}
			first, err := p.Call(ctx, "302")
			if err == nil {
				err = first.WaitState(ctx, Connected)
			}
			if err != nil {
				t.Fatal(err)
			}
			second, err := first.Consult(ctx, "304")
			if err == nil {
				err = second.WaitState(ctx, Connected)
			}
			if err == nil {
				err = first.Transfer(ctx, second)
			}
			if err != nil {
				t.Fatal(err)
			}
			refer = w.pbx.requests("REFER")
			id := strings.ReplaceAll(second.callID, "@", "%40")
			want := fmt.Sprintf("<sip:304@127.0.0.1?Replaces=%s%%3Bto-tag%%3Das71%%3Bfrom-tag%%3D%s>", id, second.localTag)
			if got := refer[len(refer)-1].get("Refer-To"); got != want {
				t.Errorf("Refer-To\n%s\nwant\n%s", got, want)
			}
			w.noRefusals()
		})
	}
}

// answercallreq takes a ringing call; a wrong orientation of its tags finds none (calls §1.1 rule 2).
func TestAnswerCallReq(t *testing.T) {
	w := newWorld(t)
	p := w.up()
	ctx := w.ctx()
	conn, inv := w.incoming(p, w.plainOffer())
	conn.post(inv)
	c, err := p.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	req := func(local, remote string) *message {
		return conn.remotecc(p.Contact(), fmt.Sprintf("<answercallreq><dialogid><callid>%s</callid><localtag>%s</localtag><remotetag>%s</remotetag></dialogid></answercallreq>",
			inv.get("Call-ID"), local, remote))
	}
	if res := conn.ask(req("as77", c.localTag)); res.status != 481 {
		t.Errorf("swapped tags answered %d", res.status)
	}
	if res := conn.ask(req(c.localTag, "as77")); res.status != 202 {
		t.Errorf("answered %d", res.status)
	}
	if err := c.WaitState(ctx, Connected); err != nil {
		t.Error(err)
	}
	w.refused(RemoteCC)
}

func TestStopIsClean(t *testing.T) {
	w := newWorld(t)
	p := w.up()
	c, err := p.Call(w.ctx(), "302")
	if err != nil {
		t.Fatal(err)
	}
	_ = c.WaitState(w.ctx(), Connected)
	done := make(chan struct{})
	go func() { p.Stop(); p.Stop(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("Stop hangs")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := p.Call(ctx, "302"); err == nil {
		t.Error("a phone that is switched off can call")
	}
}
