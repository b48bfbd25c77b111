package dialog

import (
	"errors"
	"strings"
	"testing"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/transaction"
)

// message parses as the flow does: Contact stays text.
func message(t *testing.T, lines ...string) sip.Message {
	t.Helper()
	headers := sip.DefaultHeadersParser()
	for _, name := range []string{"contact", "m"} {
		delete(headers, name)
	}
	m, err := sip.NewParser(sip.WithHeadersParsers(headers)).ParseSIP([]byte(strings.Join(lines, "\r\n") + "\r\nContent-Length: 0\r\n\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const contact = "sip:8a854224-0000-93da-8e71-6a2796f20001@192.0.2.51:50210;transport=tls"

func invite(t *testing.T, more ...string) *sip.Request {
	t.Helper()
	return message(t, append([]string{
		"INVITE sip:302@192.0.2.10;user=phone SIP/2.0",
		"Via: SIP/2.0/TLS 192.0.2.51:50210;branch=z9hG4bK1",
		`From: "Ada \"A\" <x>" <sip:301@192.0.2.10>;tag=001122aa0001`,
		"To: <sip:302@192.0.2.10>",
		"Call-ID: 001122aa-1@192.0.2.51",
		"CSeq: 101 INVITE",
		"Contact: <" + contact + `>;+u.sip!devicename.ccm.cisco.com="SEP001122AA0001"`,
		"Allow: ACK,BYE,CANCEL,INVITE,NOTIFY,OPTIONS,REFER,REGISTER,UPDATE,SUBSCRIBE",
		"Supported: replaces,join", "Supported: X-cisco-callinfo",
	}, more...)...).(*sip.Request)
}

func request(t *testing.T, method, from, to, cseq string, more ...string) *sip.Request {
	t.Helper()
	return message(t, append([]string{
		method + " sip:302@192.0.2.10 SIP/2.0", "Via: SIP/2.0/TLS 192.0.2.51:50210;branch=z9hG4bK2",
		"From: <sip:301@192.0.2.10>;tag=" + from, "To: <sip:302@192.0.2.10>;tag=" + to,
		"Call-ID: 001122aa-1@192.0.2.51", "CSeq: " + cseq + " " + method,
	}, more...)...).(*sip.Request)
}

func TestIncoming(t *testing.T) {
	d, err := Incoming(invite(t, "Record-Route: <sip:p1.example.net;lr>", "Record-Route: <sip:p2.example.net;lr>"), "as1")
	if err != nil {
		t.Fatal(err)
	}
	if d.State != Early || d.Remote.Name != `Ada "A" <x>` || !d.Allows(sip.UPDATE) || d.Allows(sip.INFO) || !d.Supported["x-cisco-callinfo"] {
		t.Errorf("%+v", d)
	}
	bye := d.Request(sip.BYE)
	text := bye.String()
	for _, want := range []string{
		"BYE " + contact + " SIP/2.0\r\n", "From: <sip:302@192.0.2.10>;tag=as1\r\n", `To: "Ada \"A\" <x>" <sip:301@192.0.2.10>;tag=001122aa0001` + "\r\n",
		"Call-ID: 001122aa-1@192.0.2.51\r\n", "CSeq: 101 BYE\r\n", "Route: <sip:p1.example.net;lr>\r\nRoute: <sip:p2.example.net;lr>\r\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if got := d.Request(sip.BYE).CSeq().SeqNo; got != 102 {
		t.Errorf("next number %d", got)
	}
	if !d.Matches("001122aa-1@192.0.2.51", "as1", "001122aa0001") || d.Matches("001122aa-1@192.0.2.51", "001122aa0001", "as1") {
		t.Error("tags are matched the wrong way")
	}
}

func TestIncomingWithoutContact(t *testing.T) {
	req := invite(t)
	req.RemoveHeader("Contact")
	if _, err := Incoming(req, "as1"); err == nil {
		t.Error("took an INVITE that cannot be answered with requests")
	}
}

func TestReceive(t *testing.T) {
	d, err := Incoming(invite(t), "as1")
	if err != nil {
		t.Fatal(err)
	}
	moved := "sip:301@192.0.2.77:5060;transport=tcp"
	for _, tc := range []struct {
		name   string
		req    *sip.Request
		want   error
		target string
	}{
		{"same number", request(t, "BYE", "001122aa0001", "as1", "101"), ErrOrder, contact},
		{"tags swapped", request(t, "BYE", "as1", "001122aa0001", "102"), ErrTags, contact},
		{"tag invented", request(t, "BYE", "001122aa0001", "as2", "102"), ErrTags, contact},
		{"next, with a gap", request(t, "INFO", "001122aa0001", "as1", "105", "Contact: <sip:x@192.0.2.9>"), nil, contact},
		{"older", request(t, "INFO", "001122aa0001", "as1", "104"), ErrOrder, contact},
		{"target moves", request(t, "INVITE", "001122aa0001", "as1", "106", "Contact: <"+moved+">"), nil, moved},
		{"ACK keeps the number", request(t, "ACK", "001122aa0001", "as1", "106"), nil, moved},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := d.Receive(tc.req); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if d.Target.String() != tc.target {
				t.Errorf("target %s", d.Target.String())
			}
		})
	}
	d.End()
	if err := d.Receive(request(t, "BYE", "001122aa0001", "as1", "200")); !errors.Is(err, ErrTags) {
		t.Errorf("ended dialog: %v", err)
	}
}

func outgoing(t *testing.T) (*Dialog, *sip.Request) {
	t.Helper()
	target, err := transaction.VerbatimURI(contact)
	if err != nil {
		t.Fatal(err)
	}
	d := Outgoing("call-1@192.0.2.10", Party{Name: "Ben\r\nX: y", URI: sip.Uri{Scheme: "sip", User: "302", Host: "192.0.2.10"}, Tag: "as9"}, Party{URI: target}, target)
	req := d.Request(sip.INVITE)
	req.PrependHeader(&sip.ViaHeader{ProtocolName: "SIP", ProtocolVersion: "2.0", Transport: "TCP", Host: "192.0.2.10", Port: 5060,
		Params: sip.HeaderParams{{K: "branch", V: "z9hG4bK1"}}})
	return d, req
}

func answer(t *testing.T, req *sip.Request, code int, tag string, headers ...string) *sip.Response {
	t.Helper()
	res := transaction.Response(req, code, "", tag)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Record-Route" {
			var u sip.Uri
			if err := sip.ParseUri(strings.Trim(value, "<>"), &u); err != nil {
				t.Fatal(err)
			}
			res.AppendHeader(&sip.RecordRouteHeader{Address: u})
			continue
		}
		res.AppendHeader(sip.NewHeader(name, value))
	}
	return res
}

func TestOutgoing(t *testing.T) {
	d, req := outgoing(t)
	if text := req.String(); !strings.Contains(text, "INVITE "+contact+" SIP/2.0\r\n") || !strings.Contains(text, `From: "BenX: y" <sip:302@192.0.2.10>;tag=as9`) ||
		!strings.Contains(text, "To: <"+contact+">\r\n") || !strings.Contains(text, "CSeq: 101 INVITE\r\n") {
		t.Error(text)
	}
	check := func(what string, res *sip.Response, state State, tag string) {
		t.Helper()
		if err := d.Answered(res); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if d.State != state || d.Remote.Tag != tag {
			t.Errorf("%s: %s with tag %q, want %s with %q", what, d.State, d.Remote.Tag, state, tag)
		}
	}
	check("trying", answer(t, req, 100, ""), New, "")
	check("ringing", answer(t, req, 180, "b1", "Contact: <sip:302@192.0.2.52:5060>"), Early, "b1")
	check("another fork rings", answer(t, req, 180, "b2"), Early, "b1")
	check("answered", answer(t, req, 200, "b2", "Contact: <sip:303@192.0.2.53:5060>", "Record-Route: <sip:p1.example.net;lr>", "Record-Route: <sip:p2.example.net;lr>"), Confirmed, "b2")
	ack := d.Ack(101)
	if text := ack.String(); !strings.Contains(text, "ACK sip:303@192.0.2.53:5060 SIP/2.0") || !strings.Contains(text, "CSeq: 101 ACK") ||
		!strings.Contains(text, "Route: <sip:p2.example.net;lr>\r\nRoute: <sip:p1.example.net;lr>\r\n") {
		t.Error(text)
	}
	if got := d.Request(sip.BYE).CSeq().SeqNo; got != 102 {
		t.Errorf("the ACK took a number: next is %d", got)
	}
}

func TestOutgoingAnsweredBadly(t *testing.T) {
	d, req := outgoing(t)
	if err := d.Answered(answer(t, req, 200, "b1")); err == nil {
		t.Error("took a 2xx without Contact")
	}
	d, req = outgoing(t)
	res := answer(t, req, 200, "", "Contact: <sip:302@192.0.2.52>")
	if err := d.Answered(res); !errors.Is(err, ErrNoTag) {
		t.Errorf("2xx without tag: %v", err)
	}
}

func TestAllowsWithoutAllow(t *testing.T) {
	d, _ := outgoing(t)
	if d.Allows(sip.UPDATE) || !d.Allows(sip.INVITE) || !d.Allows(sip.BYE) {
		t.Error("a phone that never said is taken for what it is not")
	}
}
