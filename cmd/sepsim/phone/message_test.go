package phone

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The NOTIFY of state §1, as a stream with an empty line before and another message behind.
const sampleNotify = "NOTIFY sip:2001@10.20.4.31:51234;transport=tcp SIP/2.0\r\n" +
	"Via: SIP/2.0/TCP 10.20.0.5:5060;branch=z9hG4bK79e3fcf9\r\nMax-Forwards: 70\r\nFrom: <sip:2002@10.20.0.5>;tag=as4f46ca02\r\n" +
	"To: <sip:2001@10.20.4.31:51234;transport=tcp>\r\nCall-ID: 5668d24767334c79@10.20.0.5\r\nCSeq: 106 NOTIFY\r\n" +
	"Subscription-State: active\r\nEvent: presence\r\nContent-Length: 5\r\n\r\nhello"

func TestMessageStream(t *testing.T) {
	stream := []byte("\r\n\r\n" + sampleNotify + sampleNotify)
	for cut := range len(stream) / 2 {
		var m message
		if n, err := m.unmarshal(stream[:cut]); n != 0 && cut < len(sampleNotify) || err != nil {
			t.Fatalf("%d bytes: took %d, %v", cut, n, err)
		}
	}
	var m message
	n, err := m.unmarshal(stream)
	if err != nil || n != 4+len(sampleNotify) {
		t.Fatalf("took %d, %v", n, err)
	}
	if got := string(m.marshal()); got != sampleNotify {
		// Content-Length is written last; the sample has it last too.
		if i := strings.LastIndex(got, "Content-Length"); i < 0 || strings.Count(got, "Content-Length") != 2 {
			t.Errorf("round trip:\n%s", got)
		}
	}
	if m.method != "NOTIFY" || m.get("event") != "presence" || string(m.body) != "hello" || branchOf(&m) != "z9hG4bK79e3fcf9" {
		t.Errorf("%+v", m)
	}
}

func TestMessageFaults(t *testing.T) {
	for _, tc := range []struct{ name, old, new string }{
		{"status line", "NOTIFY sip:2001@10.20.4.31:51234;transport=tcp SIP/2.0", "HTTP/1.1 200 OK"},
		{"start line with two blanks", "tcp SIP/2.0", "tcp  SIP/2.0"},
		{"no Content-Length", "Content-Length: 5\r\n", ""},
		{"negative Content-Length", "Content-Length: 5", "Content-Length: -1"},
		{"huge Content-Length", "Content-Length: 5", "Content-Length: 99999999"},
		{"no Call-ID", "Call-ID: 5668d24767334c79@10.20.0.5\r\n", ""},
		{"CSeq of another method", "106 NOTIFY", "106 INVITE"},
		{"CSeq without number", "106 NOTIFY", "x NOTIFY"},
		{"header without colon", "Max-Forwards: 70", "Max-Forwards 70"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var m message
			if n, err := m.unmarshal([]byte(strings.Replace(sampleNotify, tc.old, tc.new, 1))); !errors.Is(err, errSIP) {
				t.Errorf("took %d, %v", n, err)
			}
		})
	}
	var m message
	if _, err := m.unmarshal(bytes.Repeat([]byte("a"), maxHead+1)); !errors.Is(err, errSIP) {
		t.Errorf("endless header: %v", err)
	}
}

func TestNameAddr(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want nameAddr
	}{
		{`"Cleo \"C\" <x>" <sip:303@h;x-cisco-callback-number=9>;party=calling;privacy=off`,
			nameAddr{`Cleo "C" <x>`, "sip:303@h;x-cisco-callback-number=9", []string{"party=calling", "privacy=off"}}},
		{`sip:301@h;tag=a`, nameAddr{"", "sip:301@h", []string{"tag=a"}}},
		{`<urn:x-cisco-remotecc:callinfo>; security= NotAuthenticated; gci= 1-1`,
			nameAddr{"", "urn:x-cisco-remotecc:callinfo", []string{"security= NotAuthenticated", "gci= 1-1"}}},
		{"<sip:x", nameAddr{"", "sip:x", nil}},
	} {
		if diff := cmp.Diff(nameAddrOf(tc.in), tc.want, cmp.AllowUnexported(nameAddr{})); diff != "" {
			t.Errorf("%s:\n%s", tc.in, diff)
		}
	}
}

func TestSplitOutside(t *testing.T) {
	got := splitOutside(`<sip:a@h;x=1,2>;q=1, "b, c" <sip:d@h>,,e`, ',')
	if want := []string{"<sip:a@h;x=1,2>;q=1", `"b, c" <sip:d@h>`, "e"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The digest of sip-registration §2, whose secret is not on the page, cannot be checked; RFC 2617 §3.5 can, without and with
// qop.
func TestDigest(t *testing.T) {
	ch, err := challengeOf(`Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"`)
	if err != nil {
		t.Fatal(err)
	}
	got := ch.authorization("Mufasa", "Circle Of Life", "GET", "/dir/index.html", "0a4f113b")
	if !strings.Contains(got, `response="6629fae49393a05397450978507c4ef1"`) || !strings.Contains(got, "qop=auth,") {
		t.Error(got)
	}
	ch.qop = nil
	got = ch.authorization("Mufasa", "Circle Of Life", "GET", "/dir/index.html", "")
	// RFC 2069 with its published correction.
	if !strings.Contains(got, `response="670fd8c2df070c60b045671b8b24ff02"`) || strings.Contains(got, "cnonce") {
		t.Error(got)
	}
	for _, bad := range []string{"Basic realm=x", `Digest realm="x"`, `Digest realm="x",nonce="y",algorithm=SHA-256`} {
		if _, err := challengeOf(bad); err == nil {
			t.Errorf("%s: accepted", bad)
		}
	}
}

func TestParts(t *testing.T) {
	m := &message{}
	m.with(`multipart/mixed; boundary="u"`, "--u\r\nContent-Type: "+typeRequest+";x=y\r\nContent-Disposition: session\r\n\r\n<a/>\r\n--u\r\nContent-Type: text/plain\r\n\r\n\r\n--u--\r\n")
	parts, err := partsOf(m)
	want := []part{{typeRequest, []byte("<a/>")}, {"text/plain", []byte{}}}
	if err != nil || !cmp.Equal(parts, want, cmp.AllowUnexported(part{})) {
		t.Errorf("%q, %v", parts, err)
	}
	for _, body := range []string{"", "--u", "--u\r\n", "--u\r\nA: b\r\n--u--", "x--u\r\n", "--u\n\n<a/>\n--u--"} {
		m.body = []byte(body)
		if parts, err := partsOf(m); err == nil && len(parts) > 0 {
			t.Errorf("%q: %q", body, parts)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(sampleNotify))
	f.Add([]byte("SIP/2.0 200 OK\r\nv: SIP/2.0/TCP h;branch=z\r\nf: <sip:a@h>;tag=1\r\nt: sip:b@h\r\ni: x\r\nCSeq: 1 INVITE\r\nl: 0\r\n\r\n"))
	f.Add([]byte("INVITE sip:x SIP/2.0\r\nVia: a\r\n ;b\r\nContent-Length: 1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m message
		n, err := m.unmarshal(b)
		if err != nil || n == 0 {
			return
		}
		if n > len(b) {
			t.Fatalf("took %d of %d", n, len(b))
		}
		for _, h := range m.headers {
			a := nameAddrOf(h.value)
			_ = a.param("tag")
			_, _ = sipURIOf(a.uri)
		}
		_ = branchOf(&m)
		_, _ = partsOf(&m)
		_ = m.answer(200, "OK", "t").marshal()
	})
}

func FuzzParts(f *testing.F) {
	f.Add("multipart/mixed;boundary=u", []byte("--u\r\nContent-Type: x\r\n\r\n<a/>\r\n--u--\r\n"))
	f.Add("multipart/mixed;boundary=u", []byte("--u\r\n\r\n--u--"))
	f.Fuzz(func(t *testing.T, kind string, b []byte) {
		m := &message{body: b}
		m.headers = append(m.headers, headerField{"Content-Type", kind})
		_, _ = partsOf(m)
	})
}
