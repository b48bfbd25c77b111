package trace

import (
	"fmt"
	"strings"
	"testing"

	"ringfence/sip/internal/siptest"
)

const invite = `INVITE sip:302@10.20.0.5 SIP/2.0
Via: SIP/2.0/TCP 10.20.4.31:51234;branch=z9hG4bK1
From: <sip:301@10.20.0.5>;tag=1
To: <sip:302@10.20.0.5>
Call-ID: CALL
CSeq: 1 METHOD
authorization : Digest username="301", response="5616e0153bcaf88b589cb12015f09e0b"
Content-Type: application/sdp

v=0
m=audio 4000 RTP/SAVP 0
a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj
a=crypto:2 SOMETHING key=abc
k=clear:secret
a=sendrecv
`

func message(method, call string) string {
	return strings.NewReplacer("INVITE", method, "METHOD", method, "CALL", call).Replace(invite)
}

func TestSecretsAreNotKept(t *testing.T) {
	r, f := New(), siptest.NewFlow("a", "TCP")
	r.Record(f, "301", false, siptest.Message(t, message("INVITE", "c1")))
	e := r.Call("c1")
	if len(e) != 1 || e[0].StartLine != "INVITE sip:302@10.20.0.5 SIP/2.0" || e[0].Peer != "10.20.4.31:51234" || e[0].Out {
		t.Fatalf("entry %+v", e)
	}
	for _, secret := range []string{"5616e015", "d0RmdmcmVC", "key=abc", "clear:secret", "username"} {
		if strings.Contains(e[0].Text, secret) {
			t.Errorf("%s is kept:\n%s", secret, e[0].Text)
		}
	}
	for _, kept := range []string{"inline:[redacted]\r\n", "a=sendrecv", "AES_CM_128_HMAC_SHA1_80", "Call-ID: c1\r\n"} {
		if !strings.Contains(e[0].Text, kept) {
			t.Errorf("%q is missing:\n%s", kept, e[0].Text)
		}
	}
}

func TestWhatIsKept(t *testing.T) {
	r, f := New(), siptest.NewFlow("a", "TCP")
	for _, method := range []string{"REGISTER", "OPTIONS", "PUBLISH", "NOTIFY", "BYE"} {
		r.Record(f, "301", false, siptest.Message(t, message(method, "nobody's")))
	}
	if n := len(r.Calls()); n != 0 {
		t.Errorf("%d calls without INVITE", n)
	}
	for i := range MaxCalls + 10 {
		r.Record(f, "301", false, siptest.Message(t, message("INVITE", fmt.Sprint("c", i))))
	}
	calls := r.Calls()
	if len(calls) != MaxCalls || calls[0] != "c10" || r.Call("c9") != nil {
		t.Errorf("%d calls, the first %s", len(calls), calls[0])
	}
	for range MaxMessages + 10 {
		r.Record(f, "301", true, siptest.Message(t, message("BYE", "c20")))
	}
	if e := r.Call("c20"); len(e) != MaxMessages || !strings.HasPrefix(e[0].StartLine, "BYE") || !e[0].Out {
		t.Errorf("%d messages, the first %q", len(e), e[0].StartLine)
	}
}
