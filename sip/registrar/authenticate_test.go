package registrar

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"
	"github.com/google/go-cmp/cmp"

	"ringfence/sip/internal/siptest"
	"ringfence/sip/transaction"
)

func TestChallenges(t *testing.T) {
	b := newBench(t, nil)
	for _, tt := range []struct {
		name, ua, contact string
		want              []string
	}{
		{"Cisco phone", "Cisco-CP7965G/9.4.2", "<sip:2001@10.20.4.31>", []string{`Digest algorithm=MD5, realm="pbx.example.com", nonce="N"`}},
		{"Cisco softphone", "x", `<sip:2001@10.20.4.31>;+u.sip!devicename.ccm.features.cisco.com="SEP"`,
			[]string{`Digest algorithm=MD5, realm="pbx.example.com", nonce="N"`}},
		{"another vendor's", "baresip v2.0.0", "<sip:2009@10.20.4.31>", []string{
			`Digest realm="pbx.example.com", nonce="N", algorithm=SHA-256, qop="auth"`, `Digest realm="pbx.example.com", nonce="N", algorithm=MD5, qop="auth"`,
		}},
		{"one that may look at the first only", "Vendor 1", "<sip:2009@10.20.4.31>", []string{
			`Digest realm="pbx.example.com", nonce="N", algorithm=MD5, qop="auth"`, `Digest realm="pbx.example.com", nonce="N", algorithm=SHA-256, qop="auth"`,
		}},
		{"one that knows MD5 alone", "baresip v1.0.0 (x86_64/linux)", "<sip:2009@10.20.4.31>", []string{
			`Digest realm="pbx.example.com", nonce="N", algorithm=MD5, qop="auth"`,
		}},
	} {
		for _, line := range []string{"2001", "2009", "7777"} { // known or not makes no difference
			res := b.send(tcp(), b.raw(req{line: line, ua: tt.ua, contact: tt.contact}, ""))
			var got []string
			for _, h := range res.GetHeaders("WWW-Authenticate") {
				got = append(got, regexp.MustCompile(`nonce="[0-9a-f]{32}"`).ReplaceAllString(h.Value(), `nonce="N"`))
			}
			if d := cmp.Diff(got, tt.want); d != "" || res.StatusCode != 401 {
				t.Errorf("%s, %s: %d\n%s", tt.name, line, res.StatusCode, d)
			}
		}
	}
}

// shape is an answer without what differs from message to message.
func shape(res *sip.Response) string {
	s := regexp.MustCompile(`[0-9a-f]{16,}|branch=\S+|\d{4}@|CSeq: \d+`).ReplaceAllString(res.String(), "*")
	return s
}

func TestNoOracle(t *testing.T) {
	b := newBench(t, nil)
	wrong := b.do(tcp(), req{password: "wrong"})
	unknown := b.do(tcp(), req{line: "7777", password: "wrong"})
	secondary := b.do(tcp(), req{line: "2011"}) // its own name is no user name
	if wrong.StatusCode != 403 || shape(wrong) != shape(unknown) || shape(wrong) != shape(secondary) {
		t.Errorf("wrong password:\n%s\nunknown user:\n%s\nsecondary line:\n%s", shape(wrong), shape(unknown), shape(secondary))
	}
	if len(b.r.All()) != 0 || len(b.events) != 0 {
		t.Error("something was registered")
	}
	if len(b.notes) != 1 || !strings.Contains(b.notes[0], device+" register wrong password from 10.20.4.31 true") {
		t.Errorf("notes %q", b.notes)
	}
}

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		f, elsewhere := tcp(), siptest.NewFlow("b", "TCP")
		elsewhere.To = netip.MustParseAddrPort("10.20.4.99:1000")
		for range accountFailures {
			b.do(f, req{password: "wrong"})
		}
		if res := b.do(f, req{}); res.StatusCode != 403 {
			t.Errorf("guessing went on: %d", res.StatusCode)
		}
		if res := b.do(elsewhere, req{}); res.StatusCode != 200 {
			t.Errorf("a stranger locked the phone out: %d", res.StatusCode)
		}
		time.Sleep(time.Minute)
		if res := b.do(f, req{}); res.StatusCode != 200 {
			t.Errorf("a minute later: %d", res.StatusCode)
		}
		for i := range sourceFailures {
			b.do(f, req{line: fmt.Sprint(7000 + i), password: "wrong"})
		}
		if res := b.do(f, req{}); res.StatusCode != 403 {
			t.Errorf("a source that tries many numbers goes on: %d", res.StatusCode)
		}
		b.r.Stop()
	})
}

func TestThrottleIsBounded(t *testing.T) {
	th := newThrottle()
	th.max = 1000
	now := time.Now()
	for i := range 5000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		th.failed(a, fmt.Sprint(i), now)
		if len(th.buckets) > th.max+2 {
			t.Fatalf("%d buckets", len(th.buckets))
		}
	}
}

func TestNonces(t *testing.T) {
	answer := func(challenge string, nc, qop string) string {
		v := siptest.Authorization(challenge, "INVITE", "sip:10.20.0.5", "2009", secret)
		if nc == "" {
			return v
		}
		_, nonce, _ := strings.Cut(challenge, `nonce="`)
		nonce, _, _ = strings.Cut(nonce, `"`)
		h := func(parts ...string) string {
			s := sha256.Sum256([]byte(strings.Join(parts, ":")))
			return hex.EncodeToString(s[:])
		}
		r := h(h("2009", realm, secret), nonce, nc, "abc", "auth", h("INVITE", "sip:10.20.0.5"))
		return fmt.Sprintf(`Digest username="2009", realm=%q, nonce=%q, uri="sip:10.20.0.5", response=%q, algorithm=SHA-256, cnonce="abc", nc=%s, qop=%s`, realm, nonce, r, nc, qop)
	}
	const ua = "baresip v3.1"
	invite := req{method: "INVITE", line: "2009", ua: ua}
	challenge := func(b *bench, f *siptest.Flow, i int) string {
		b.l.Receive(f, siptest.Message(t, b.raw(invite, "")))
		res := f.Sent()[0].(*sip.Response)
		return res.GetHeaders("WWW-Authenticate")[i].Value()
	}
	code := func(b *bench, f *siptest.Flow, auth string) int {
		b.l.Receive(f, siptest.Message(t, b.raw(invite, "Authorization: "+auth+"\n")))
		s := f.Sent()
		return s[len(s)-1].(*sip.Response).StatusCode
	}
	t.Run("SHA-256 with growing nc", func(t *testing.T) {
		b, f := newBench(t, nil), tcp()
		c := challenge(b, f, 0)
		for i, tt := range []struct {
			nc   string
			want int
		}{{"00000001", 200}, {"00000001", 401}, {"00000002", 200}, {"00000009", 200}, {"00000008", 401}} {
			if got := code(b, f, answer(c, tt.nc, "auth")); got != tt.want {
				t.Errorf("use %d, nc %s: %d, want %d", i+1, tt.nc, got, tt.want)
			}
		}
	})
	t.Run("without qop good once", func(t *testing.T) {
		b, f := newBench(t, nil), tcp()
		invite.ua = "Cisco-CP8861/14.1.1"
		defer func() { invite.ua = ua }()
		a := answer(challenge(b, f, 0), "", "")
		if x, y := code(b, f, a), code(b, f, a); x != 200 || y != 401 {
			t.Errorf("%d, then %d; want 200, 401", x, y)
		}
	})
	t.Run("old and foreign ones are stale", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, f := newBench(t, nil), tcp()
			a := answer(challenge(b, f, 0), "00000001", "auth")
			time.Sleep(6 * time.Minute)
			b.l.Receive(f, siptest.Message(t, b.raw(invite, "Authorization: "+a+"\n")))
			res := f.Sent()[0].(*sip.Response)
			if res.StatusCode != 401 || !strings.Contains(transaction.Header(res, "WWW-Authenticate"), "stale=true") {
				t.Errorf("answer\n%s", res)
			}
			foreign := answer(`Digest realm="pbx.example.com", nonce="00000000000000000000000000000000"`, "00000001", "auth")
			if got := code(b, f, foreign); got != 401 {
				t.Errorf("foreign nonce: %d", got)
			}
			b.r.Stop()
		})
	})
	t.Run("memory is bounded and forgetting makes stale", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNonces(time.Minute, 10)
			first := n.issue()
			if !n.ours(first) || !n.use(first, 0) {
				t.Fatal("fresh nonce refused")
			}
			for range 25 {
				time.Sleep(time.Second)
				n.use(n.issue(), 0)
			}
			if len(n.used[0])+len(n.used[1]) > 20 {
				t.Errorf("%d remembered", len(n.used[0])+len(n.used[1]))
			}
			if n.ours(first) && n.use(first, 0) {
				t.Error("a used nonce was forgotten and taken again")
			}
		})
	})
}

func TestMalformedCredentials(t *testing.T) {
	for _, tt := range []struct {
		name, header string
		want         int
	}{
		{"another scheme", "Basic dXNlcjpwYXNz", 401},
		{"unknown scheme (RFC 4475 3.3.7)", `NoOneKnowsThisScheme opaque-data=here`, 401},
		{"another realm", `Digest username="2001", realm="other", nonce="x", uri="sip:x", response="y"`, 401},
		{"no nonce", `Digest username="2001", realm="pbx.example.com", uri="sip:x", response="y"`, 400},
		{"given twice", `Digest username="2001", username="2002", realm="pbx.example.com", nonce="x", uri="sip:x", response="y"`, 400},
		{"quote without end", `Digest username="2001`, 400},
		{"qop without nc", `Digest username="2001", realm="pbx.example.com", nonce="x", uri="sip:x", response="y", qop=auth, cnonce="z"`, 400},
		{"nc that is no number", `Digest username="2001", realm="pbx.example.com", nonce="x", uri="sip:x", response="y", nc=zz`, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			if res := b.send(tcp(), b.raw(req{}, "Authorization: "+tt.header+"\n")); res.StatusCode != tt.want {
				t.Errorf("answer %d, want %d", res.StatusCode, tt.want)
			}
		})
	}
}

func TestEncryptedModeNeedsItsCertificate(t *testing.T) {
	for _, tt := range []struct {
		name, transport, cert, line string
		want                        int
	}{
		{"over TCP", "TCP", "", "2002", 403},
		{"over UDP", "UDP", "", "2002", 403},
		{"TLS without certificate", "TLS", "", "2002", 403},
		{"TLS with another phone's", "TLS", device, "2002", 403},
		{"TLS with its own", "TLS", "SEP02AA11BB22C2", "2002", 200},
		{"non-secure phone over TLS without certificate", "TLS", "", "2001", 200},
		{"non-secure phone with another's certificate", "TLS", "SEP02AA11BB22C2", "2001", 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			f := siptest.NewFlow("a", tt.transport)
			f.Dev = tt.cert
			res := b.do(f, req{line: tt.line})
			if res.StatusCode != tt.want {
				t.Errorf("REGISTER: %d, want %d", res.StatusCode, tt.want)
			}
			if res := b.do(f, req{method: "SUBSCRIBE", line: tt.line}); res.StatusCode != tt.want {
				t.Errorf("SUBSCRIBE: %d, want %d", res.StatusCode, tt.want)
			}
			if (len(b.notes) > 0 && strings.HasSuffix(b.notes[0], "true")) != (tt.want == 403) {
				t.Errorf("boot record %q", b.notes)
			}
		})
	}
}

func TestAuthenticate(t *testing.T) {
	for _, tt := range []struct {
		name, from, user string
		want             int
		line             string
	}{
		{"primary", "2001", "2001", 200, "2001"},
		{"secondary line with the primary's credentials", "2011", "2001", 200, "2011"},
		{"secondary line with its own name", "2011", "2011", 403, ""},
		{"a line of another device", "2002", "2001", 403, ""},
		{"no line at all", "9999", "2001", 403, ""},
		{"the MAC address", "02AA11BB22C1", "2001", 200, "2001"},
		{"a softphone says it is another", "2001", "2009", 200, "2009"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			f := tcp()
			if res := b.do(f, req{method: "SUBSCRIBE", line: tt.from, user: tt.user}); res.StatusCode != tt.want || b.id.Line != tt.line {
				t.Errorf("%d as %q, want %d as %q", res.StatusCode, b.id.Line, tt.want, tt.line)
			}
			if b.id.Binding != nil {
				t.Error("binding without registration")
			}
			if tt.want != 200 || tt.user != "2001" {
				return
			}
			b.do(f, req{extra: "Expires: 3600\n"})
			b.do(f, req{method: "SUBSCRIBE", line: tt.from, user: tt.user})
			if b.id.Binding == nil || b.id.Binding.Line != tt.line || !b.id.Cisco {
				t.Errorf("identity %+v", b.id)
			}
		})
	}
}

// FuzzCredentials: whatever an Authorization header holds, the parser ends and what it takes has the needed parts.
func FuzzCredentials(f *testing.F) {
	f.Add(`Digest username="2001",realm="pbx.example.com",uri="sip:10.20.0.5",response="5616e0153bcaf88b589cb12015f09e0b",nonce="0e96c2c6",algorithm=MD5`)
	f.Add(`Digest username="a\"b", qop=auth, nc=00000001, cnonce="x", nonce="n", response=r, uri=u`)
	f.Add("Digest ,,=,")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseCredentials(s)
		if err == nil && (c.nonce == "" || c.uri == "" || c.response == "" || c.qop != "" && c.nc == 0) {
			t.Fatalf("taken without its parts: %+v", c)
		}
		c.answer(realm, "REGISTER", secret)
	})
}
