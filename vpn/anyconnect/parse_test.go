package anyconnect

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"ringfence/vpn/cstp"
	"ringfence/vpn/policy"
)

func TestParseConfigAuth(t *testing.T) {
	m, err := parseConfigAuth([]byte(xmlHead + `<config-auth client="vpn" type="auth-reply" aggregate-auth-version="2"><version who="vpn">v9.01</version>
		<device-id computer-name="pc" unique-id="u1">linux-64</device-id><session-token/><session-id/><opaque is-for="sg"><state>ab</state></opaque>
		<capabilities><auth-method>single-sign-on-v2</auth-method><auth-method>multiple-cert</auth-method></capabilities>
		<auth><username>al&lt;ice</username><password>p&amp;w</password><secondary_password>2</secondary_password></auth><group-select>staff</group-select></config-auth>`))
	if err != nil {
		t.Fatal(err)
	}
	user, _ := m.field("username")
	pw, _ := m.field("passwd", "password")
	_, absent := m.field("answer")
	if m.Type != "auth-reply" || m.State != "ab" || user != "al<ice" || pw != "p&w" || absent || m.GroupSelect != "staff" || m.DeviceID.Platform != "linux-64" || m.DeviceID.Unique != "u1" || len(m.AuthMethods) != 2 || m.CertFail != nil {
		t.Errorf("parsed %+v", m)
	}
}

func TestSettleMTU(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, c := range []struct {
		name         string
		policy, base int
		asked        int
		outer        netip.Addr
		want         int
	}{
		{"policy's own", 1290, 0, 0, v4, 1290},
		{"phone asks for less", 1290, 0, 1200, v4, 1200},
		{"client asks for more", 1290, 0, 1400, v4, 1290},
		{"link of 1500 over IPv4", 1500, 1500, 0, v4, 1434},
		{"link of 1500 over IPv6", 1500, 1500, 0, v6, 1414},
		{"link counts more than the client's guess", 1400, 1500, 1390, v4, 1400},
		{"never below 576", 1290, 300, 0, v4, 576},
	} {
		got := settleMTU(&policy.Policy{MTU: c.policy}, wish{baseMTU: c.base, mtu: c.asked}, overhead(c.outer, nil))
		if got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestParseWish(t *testing.T) {
	h := http.Header{}
	for _, l := range []string{"X-CSTP-Hostname: pc.example.org", "X-CSTP-Base-MTU: 1500", "X-CSTP-MTU: junk", "X-CSTP-Address-Type: IPv6,IPv4", "X-CSTP-Full-IPv6-Capability: true",
		"X-DTLS-CipherSuite: PSK-NEGOTIATE:AES256-SHA", "X-DTLS12-CipherSuite: AES128-GCM-SHA256"} {
		k, v, _ := strings.Cut(l, ": ")
		h.Set(k, v)
	}
	w := parseWish(h)
	if w.hostname != "pc" || w.baseMTU != 1500 || w.mtu != 0 || !w.ip4 || !w.ip6 || !w.fullIPv6 || len(w.legacyList) != 2 || len(w.dtls12List) != 1 {
		t.Errorf("parsed %+v", w)
	}
	if w := parseWish(http.Header{}); !w.ip4 || w.ip6 || w.legacyList != nil {
		t.Errorf("empty request: %+v", w)
	}
	for _, name := range []string{"a b", "x\r\ny", strings.Repeat("a", 64), "<script>"} {
		if got := hostname(name); got != "" {
			t.Errorf("hostname %q accepted as %q", name, got)
		}
	}
}

func TestQueueOrderAndBounds(t *testing.T) {
	pkt := func(tos, id byte) []byte {
		return cstp.Frame{Type: cstp.Data, Payload: []byte{0x45, tos, 0, 4, id}}.Append(nil)
	}
	var q queue
	for i := range 300 {
		q.push(pkt(0, byte(i)))
	}
	for i := range 70 {
		q.push(pkt(46<<2, byte(i)))
	}
	for range 20 {
		q.pushFront(cstp.Frame{Type: cstp.DPDResponse}.Append(nil))
	}
	if q.dropped != 300-maxBulk+70-maxVoice+20-maxControl {
		t.Errorf("dropped %d", q.dropped)
	}
	for range maxControl {
		if f := q.pop(); f[6] != byte(cstp.DPDResponse) {
			t.Fatal("control does not come first")
		}
	}
	for i := range maxVoice {
		if f := q.pop(); f[9] != 46<<2 || int(f[12]) != i+6 {
			t.Fatalf("voice %d: %x; want the newest 64 in order", i, f)
		}
	}
	for i := range maxBulk {
		if f := q.pop(); f[9] != 0 || f[12] != byte(i) {
			t.Fatalf("bulk %d: %x; want the oldest 256 in order", i, f)
		}
	}
	if q.pop() != nil || !q.empty() {
		t.Error("something is left")
	}
}

func TestStates(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	s := newStates()
	st := s.create(a, "staff")
	if got := s.find(st.id, a); got == nil || got.group != "staff" {
		t.Error("not found again")
	}
	if s.find(st.id, b) != nil || s.find("", a) != nil {
		t.Error("found from another address, or with no id")
	}
	s.expire(time.Now().Add(stateLife + time.Second))
	if s.find(st.id, a) != nil {
		t.Error("found after its life")
	}
	first := s.create(a, "")
	for range maxStates {
		s.create(b, "")
	}
	if len(s.byID) != maxStates || s.age.Len() != maxStates || s.find(first.id, a) != nil {
		t.Errorf("%d conversations kept, want %d without the oldest", len(s.byID), maxStates)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte("CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nCookie: webvpn=x\r\nX-CSTP-MTU: 1290\r\nX-DTLS-CipherSuite: A:B\r\n\r\n"))
	f.Add([]byte("CONNECT CSCOSSLC/tunnel HTTP/1.1\r\n\r\n"))
	f.Add([]byte("POST /svc HTTP/1.1\r\nContent-Length: 3\r\n\r\na=b"))
	f.Add([]byte("GET / HTTP/2.0\r\n\r\n"))
	pol := &policy.Policy{ID: "p", Pool: netip.MustParsePrefix("10.0.0.0/24"), MTU: 1290}
	f.Fuzz(func(t *testing.T, b []byte) {
		req, err := readRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			isBadRequest(err)
			return
		}
		isTunnelPath(req.RequestURI)
		w := parseWish(req.Header)
		if n := settleMTU(pol, w, 66); n < 576 || n > 1290 {
			t.Fatalf("MTU %d", n)
		}
		if len(w.hostname) > 63 || strings.ContainsAny(w.hostname, "\r\n <") {
			t.Fatalf("hostname %q", w.hostname)
		}
		if a := agent(&message{Request: req}); len(a) > 120 || strings.ContainsAny(a, "\r\n") {
			t.Fatalf("agent %q", a)
		}
	})
}

func FuzzConfigAuth(f *testing.F) {
	f.Add([]byte(`<config-auth client="vpn" type="init"><group-access>x</group-access></config-auth>`))
	f.Add([]byte(`<config-auth type="auth-reply"><opaque><state>1</state></opaque><auth><username>a</username></auth></config-auth>`))
	f.Add([]byte("\ufeff <a><b/></a>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		looksXML(b)
		m, err := parseConfigAuth(b)
		if err != nil {
			return
		}
		doc := "<x>" + escape(m.GroupSelect) + "</x>"
		var back struct {
			V string `xml:",chardata"`
		}
		if err := xml.Unmarshal([]byte(doc), &back); err != nil {
			t.Fatalf("escaped %q is no XML: %v", m.GroupSelect, err)
		}
	})
}

func FuzzForm(f *testing.F) {
	f.Add("username=a&password=b&Login=Login")
	f.Add("username=%zz")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := url.ParseQuery(s)
		if err == nil {
			form := bareForm(v.Get("username"), v.Get("password"))
			if err := xml.Unmarshal([]byte(form), new(struct{})); err != nil {
				t.Fatalf("form is no XML: %v\n%s", err, form)
			}
		}
	})
}
