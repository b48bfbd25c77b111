package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// offerOf is a description of another vendor's phone.
func (s *rawSIP) offerOf() string {
	host, _, _ := strings.Cut(s.conn.LocalAddr().String(), ":")
	return "v=0\r\no=- 1 1 IN IP4 " + host + "\r\ns=-\r\nc=IN IP4 " + host + "\r\nt=0 0\r\nm=audio 40000 RTP/AVP 9 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\n"
}

// rawDialog is a call of a rawSIP.
type rawDialog struct {
	s           *rawSIP
	id, to, who string
}

// call dials and acknowledges; extra are header lines.
func (s *rawSIP) call(number, extra string) (*rawDialog, *rawMessage) {
	s.t.Helper()
	id := fmt.Sprintf("raw-call-%d-%s", s.seq, strings.ReplaceAll(s.conn.LocalAddr().String(), ":", "-"))
	res := s.do("INVITE", number, "Call-ID: "+id+"\nContent-Type: application/sdp\n"+extra, s.offerOf())
	d := &rawDialog{s, id, res.header.Get("To"), number}
	s.seq-- // an ACK has the number of its INVITE
	d.send("ACK", "", "")
	return d, res
}

func (d *rawDialog) send(method, extra, body string) {
	d.s.send(method, d.who, "To: "+d.to+"\nCall-ID: "+d.id+"\n"+extra, body)
}

func (d *rawDialog) do(method, extra, body string) *rawMessage {
	d.send(method, extra, body)
	return d.s.final(method)
}

// answers lets a phone take the next call by itself.
func answers(t *testing.T, p *phone.Phone) chan *phone.Call {
	ch := make(chan *phone.Call, 1)
	ctx := within(t, 30*time.Second)
	go func() {
		if c, err := p.WaitIncoming(ctx); err == nil && c.Answer(ctx) == nil {
			ch <- c
		}
		close(ch)
	}()
	return ch
}

// TestSessionTimers is RFC 4028 with another vendor's phone that leaves the refreshing to the appliance: a refresh comes before half of the
// shortest interval that is allowed is over; a shorter one is refused.
func TestSessionTimers(t *testing.T) {
	t.Parallel() // it waits, and takes no processor
	feature.Proves(t, "CAL-13")
	d := newDaemon(t, morning)
	ada := d.newPhone("SEP001122AA0001", "8851", 1)
	d.ready(ada)
	s := d.raw("tcp", "303", cleoPassword, 3)
	s.register()
	_, res := s.call("301", "Supported: timer\nSession-Expires: 60\n")
	if res.status() != 422 || res.header.Get("Min-SE") != "90" {
		t.Fatalf("an interval of 60 s: %s, Min-SE %q", res.start, res.header.Get("Min-SE"))
	}
	in := answers(t, ada)
	c, res := s.call("301", "Supported: timer\nAllow: INVITE, ACK, BYE, CANCEL, UPDATE\nSession-Expires: 90;refresher=uas\n")
	if res.status() != 200 || res.header.Get("Session-Expires") != "90;refresher=uas" {
		t.Fatalf("%s, Session-Expires %q", res.start, res.header.Get("Session-Expires"))
	}
	ca := <-in
	// The phone may refresh too, and change who does it from then on.
	res = c.do("UPDATE", "Supported: timer\nSession-Expires: 90;refresher=uas\n", "")
	if res.status() != 200 || res.header.Get("Session-Expires") != "90;refresher=uas" {
		t.Errorf("%s, Session-Expires %q", res.start, res.header.Get("Session-Expires"))
	}
	for {
		m := s.next(46 * time.Second)
		if strings.HasPrefix(m.start, "UPDATE ") && m.header.Get("Session-Expires") == "90;refresher=uac" {
			break
		}
	}
	if res := c.do("BYE", "", ""); res.status() != 200 {
		t.Error(res.start)
	}
	over(t, ca)
	d.quiet()
	unharmed(t, ada)
}

// TestWithheldNumber: whichever way a caller hides its number, nothing of it reaches the phone that is called ("sip-calls" §24.4).
func TestWithheldNumber(t *testing.T) {
	feature.Proves(t, "CAL-4")
	d := newDaemon(t, morning)
	ada := d.newPhone("SEP001122AA0001", "8851", 1)
	d.ready(ada)
	s := d.raw("tcp", "303", cleoPassword, 3)
	s.register()
	for name, extra := range map[string]string{
		"Privacy":         "Privacy: id\n",
		"Remote-Party-ID": "Remote-Party-ID: \"Cleo\" <sip:303@" + d.site.Address + ">;party=calling;privacy=full;screen=yes\n",
		"From":            "From: \"Anonymous\" <sip:anonymous@anonymous.invalid>;tag=raw\n",
	} {
		mark := ada.Mark()
		in := answers(t, ada)
		c, res := s.call("301", extra)
		if res.status() != 200 {
			t.Fatalf("%s: %s", name, res.start)
		}
		ca := <-in
		if got := ca.Remote(); got.Name != "Anonymous" || strings.Contains(got.Number, "303") {
			t.Errorf("%s: the phone shows %+v", name, got)
		}
		seen := false
		for _, m := range ada.Received(mark) {
			if m.Method() != "INVITE" {
				continue
			}
			seen = true
			if rpid := m.Get("Remote-Party-ID"); !strings.Contains(rpid, "privacy=full") || strings.Contains(rpid, "303") || strings.Contains(m.Get("From"), "303") ||
				strings.Contains(m.Get("Contact"), "sip:303@") || strings.Contains(m.Get("From"), "Cleo") {
				t.Errorf("%s: INVITE with From %s, Remote-Party-ID %s, Contact %s", name, m.Get("From"), rpid, m.Get("Contact"))
			}
		}
		if !seen {
			t.Errorf("%s: no INVITE", name)
		}
		if res := c.do("BYE", "", ""); res.status() != 200 {
			t.Error(res.start)
		}
		over(t, ca)
	}
	d.quiet()
	unharmed(t, ada)
}

// TestSRTPFallback: the administrator wants no encryption of audio. Phones in encrypted mode offer it all the same; their offer is answered in clear,
// which both ends have announced, and they show an open padlock ("sip-calls" §30).
func TestSRTPFallback(t *testing.T) {
	feature.Proves(t, "CAL-11")
	d := newDaemon(t, strings.Replace(three, "lines:\n", "sip: {srtp: never}\nlines:\n", 1))
	ada, ben := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2)
	d.ready(ada)
	d.ready(ben)
	ca, cb := connect(t, ada, ben, "302")
	hear(t, ca, cb)
	if a, b := ca.Audio().Suite, cb.Audio().Suite; a != "" || b != "" {
		t.Errorf("suites %q and %q, want none", a, b)
	}
	for _, c := range []*phone.Call{ca, cb} {
		if got := c.CallInfo("security"); got != "Authenticated" {
			t.Errorf("security shown is %q, want Authenticated", got)
		}
	}
	answered := false
	for _, m := range ada.Received(0) {
		if m.Status() == 200 && strings.HasSuffix(m.Get("CSeq"), "INVITE") {
			answered = true
			if !strings.Contains(m.Get("Supported"), "X-cisco-srtp-fallback") || !strings.Contains(m.Body(), "RTP/AVP") || strings.Contains(m.Body(), "crypto") {
				t.Errorf("answer with Supported %q and\n%s", m.Get("Supported"), m.Body())
			}
		}
	}
	if !answered {
		t.Error("no answer was seen")
	}
	if err := cb.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	d.quiet()
	unharmed(t, ada, ben)
}
