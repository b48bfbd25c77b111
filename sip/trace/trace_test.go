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

func record(t *testing.T, r *Ring, f *siptest.Flow, out bool, text string) {
	t.Helper()
	m := siptest.Message(t, text)
	r.Record(f, "301", out, m, []byte(m.String()))
}

// TestRedact cuts secrets out of bytes as strangers may write them.
func TestRedact(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"nothing", "INVITE sip:1@x SIP/2.0\r\nVia: a\r\n\r\na=sendrecv\r\n", "INVITE sip:1@x SIP/2.0\r\nVia: a\r\n\r\na=sendrecv\r\n"},
		{"header", "A: b\r\nAuthorization: Digest x\r\nVia: a\r\n", "A: b\r\nAuthorization: [redacted]\r\nVia: a\r\n"},
		{"capitals and blanks", "PROXY-AUTHORIZATION : Digest x\n", "PROXY-AUTHORIZATION : [redacted]\n"},
		{"folded header", "Authorization: Digest a,\r\n response=1\r\n\tnonce=2\r\nVia: a\r\n b\r\n", "Authorization: [redacted]\r\nVia: a\r\n b\r\n"},
		{"key", "a=crypto:1 X inline:abc|2^20\r\na=rtpmap:0 PCMU\r\n", "a=crypto:1 X inline:[redacted]\r\na=rtpmap:0 PCMU\r\n"},
		{"old key", "k=clear:x\r\nk=prompt", "k=[redacted]\r\nk=[redacted]"},
		{"no line end", "authorization:x", "authorization: [redacted]"},
		{"empty", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Redact([]byte(tt.in)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestSecretsAreNotKept(t *testing.T) {
	r, f := New(), siptest.NewFlow("a", "TCP")
	record(t, r, f, false, message("INVITE", "c1"))
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
		record(t, r, f, false, message(method, "nobody's"))
	}
	if n := len(r.Calls()); n != 0 {
		t.Errorf("%d calls without INVITE", n)
	}
	for i := range MaxCalls + 10 {
		record(t, r, f, false, message("INVITE", fmt.Sprint("c", i)))
	}
	calls := r.Calls()
	if len(calls) != MaxCalls || calls[0] != "c10" || r.Call("c9") != nil {
		t.Errorf("%d calls, the first %s", len(calls), calls[0])
	}
	for range MaxMessages + 10 {
		record(t, r, f, true, message("BYE", "c20"))
	}
	if e := r.Call("c20"); len(e) != MaxMessages || !strings.HasPrefix(e[0].StartLine, "BYE") || !e[0].Out {
		t.Errorf("%d messages, the first %q", len(e), e[0].StartLine)
	}
}
