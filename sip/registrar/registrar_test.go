package registrar

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"
	"github.com/google/go-cmp/cmp"

	"ringfence/sip/cisco"
	"ringfence/sip/flow"
	"ringfence/sip/internal/siptest"
	"ringfence/sip/transaction"
)

const (
	device = "SEP02AA11BB22C1"
	realm  = "pbx.example.com"
	secret = "secret12"
)

// accounts is the declared configuration of the examples: a phone with lines 2001 and 2011, an encrypted one with 2002, and
// 2009, a softphone's line.
type accounts struct{}

func (accounts) Line(n string) (Account, bool) {
	switch n {
	case "2001":
		return Account{Number: n, Device: device, Index: 1}, true
	case "2011":
		return Account{Number: n, Device: device, Index: 2}, true
	case "2002":
		return Account{Number: n, Device: "SEP02AA11BB22C2", Index: 1}, true
	case "2009":
		return Account{Number: n, Index: 1}, true
	}
	return Account{}, false
}

func (a accounts) Device(n string) (DeviceInfo, bool) {
	l1, _ := a.Line("2001")
	l2, _ := a.Line("2011")
	l3, _ := a.Line("2002")
	switch n {
	case device:
		return DeviceInfo{Name: n, Lines: []Account{l2, l1}}, true // the order of the declaration does not matter
	case "SEP02AA11BB22C2":
		return DeviceInfo{Name: n, Lines: []Account{l3}, Encrypted: true}, true
	}
	return DeviceInfo{}, false
}

func passwords(account string) (string, bool) { return secret, true }

type local map[string]string

func (l local) Put(b, k string, v []byte) { l[b+"/"+k] = string(v) }
func (l local) Delete(b, k string)        { delete(l, b+"/"+k) }
func (l local) Scan(b, prefix string, fn func(string, []byte) bool) {
	for k, v := range l {
		if rest, ok := strings.CutPrefix(k, b+"/"); ok && strings.HasPrefix(rest, prefix) && !fn(rest, []byte(v)) {
			return
		}
	}
}

type bench struct {
	t      *testing.T
	r      *Registrar
	l      *transaction.Layer
	events []Event
	notes  []string
	seq    int
	id     Identity
	idOK   bool
}

func newBench(t *testing.T, change func(*Options)) *bench {
	t.Helper()
	b := &bench{t: t, seq: 100}
	o := Options{
		Accounts: accounts{}, Password: passwords, Realm: realm, OnChange: func(e Event) { b.events = append(b.events, e) },
		Note: func(d, step, text string, failed bool) {
			b.notes = append(b.notes, fmt.Sprint(d, " ", step, " ", text, " ", failed))
		},
	}
	if change != nil {
		change(&o)
	}
	var err error
	if b.r, err = New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.r.Stop)
	b.l = transaction.New(transaction.Options{OnRequest: func(tx *transaction.Server) {
		switch tx.Request().Method {
		case sip.REGISTER:
			b.r.Register(tx)
		case sip.REFER:
			if !b.r.Refer(tx) {
				tx.Answer(603)
			}
		default:
			if b.id, b.idOK = b.r.Authenticate(tx); b.idOK {
				tx.Answer(200)
			}
		}
	}})
	return b
}

// req describes a request; zero fields take what a Cisco phone's primary line would send.
type req struct {
	method, line, user, password, callID, contact, extra, body, ua string
	uri                                                            string
	seq                                                            int
}

func (b *bench) raw(r req, auth string) string {
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	set(&r.method, "REGISTER")
	set(&r.line, "2001")
	set(&r.callID, "02aa11bb-22c10002-0a1b2c3d-4e5f6071@10.20.4.31")
	set(&r.contact, "<sip:"+r.line+`@10.20.4.31:51234;transport=tcp>;+u.sip!devicename.ccm.cisco.com="`+device+`"`)
	set(&r.ua, "Cisco-CP8861/14.1.1")
	set(&r.uri, "sip:10.20.0.5")
	b.seq++
	if r.seq == 0 {
		r.seq = b.seq
	}
	contact := "Contact: " + r.contact + "\n"
	if r.contact == "none" {
		contact = ""
	}
	return fmt.Sprintf("%s %s SIP/2.0\nVia: SIP/2.0/TCP 10.20.4.31:51234;branch=z9hG4bK%d\nFrom: <sip:%s@10.20.0.5>;tag=t\nTo: <sip:%s@10.20.0.5>\n"+
		"Call-ID: %s\nCSeq: %d %s\nUser-Agent: %s\n%s%s%s\n%s", r.method, r.uri, b.seq, r.line, r.line, r.callID, r.seq, r.method, r.ua, contact, r.extra, auth, r.body)
}

func (b *bench) send(f *siptest.Flow, raw string) *sip.Response {
	b.t.Helper()
	b.l.Receive(f, siptest.Message(b.t, raw))
	sent := f.Sent()
	if len(sent) != 1 {
		b.t.Fatalf("%d messages sent, want 1", len(sent))
	}
	return sent[0].(*sip.Response)
}

// do sends a request and answers one challenge.
func (b *bench) do(f *siptest.Flow, r req) *sip.Response {
	b.t.Helper()
	res := b.send(f, b.raw(r, ""))
	if res.StatusCode != 401 {
		return res
	}
	if r.user == "" {
		r.user = "2001"
		if r.line != "" {
			r.user = r.line
		}
	}
	if r.password == "" {
		r.password = secret
	}
	if r.method == "" {
		r.method = "REGISTER"
	}
	challenges := res.GetHeaders("WWW-Authenticate")
	return b.send(f, b.raw(r, "Authorization: "+siptest.Authorization(challenges[len(challenges)-1].Value(), r.method, "sip:10.20.0.5", r.user, r.password)+"\n"))
}

var flows int

// tcp returns a new connection.
func tcp() *siptest.Flow {
	flows++
	return siptest.NewFlow(fmt.Sprint("tcp", flows), "TCP")
}

func TestRegisterOfCiscoPhone(t *testing.T) {
	b := newBench(t, nil)
	f := tcp()
	reason := `Reason: SIP;cause=200;text="cisco-alarm:25 Name=` + device + ` ActiveLoad=sip88xx.14-1-1-0001-136.loads InactiveLoad=sip88xx.12-8-1-0001-455.loads Last=initialized"` + "\n"
	res := b.do(f, req{extra: reason + "Expires: 3600\nSupported: replaces,X-cisco-escapecodes\n"})
	if res.StatusCode != 200 || transaction.Header(res, "Expires") != "120" {
		t.Fatalf("answer\n%s", res)
	}
	if got := transaction.Header(res, "Contact"); got != "<sip:2001@10.20.4.31:51234;transport=tcp>;expires=120" {
		t.Errorf("Contact %s", got)
	}
	if _, err := time.Parse("Mon, 02 Jan 2006 15:04:05 GMT", transaction.Header(res, "Date")); err != nil {
		t.Error(err)
	}
	var body cisco.Response
	if err := body.Unmarshal(res.Body()); err != nil || body.Options == nil || !body.Options.BLF.Unsolicited || !body.Options.BLF.Subscribe {
		t.Errorf("body %+v, %v", body, err)
	}
	if len(b.events) != 1 || b.events[0].Kind != Fresh || b.events[0].Moved || b.events[0].Alarm.Code != 25 {
		t.Fatalf("events %+v", b.events)
	}
	var lines []string
	for _, x := range b.r.Device(device) {
		lines = append(lines, fmt.Sprint(x.Line, " ", x.Index, " ", x.ContactText, " ", x.Contact.String(), " ", x.Model, " ", x.Load, " ", x.Cisco, " ", x.Reachable()))
	}
	if d := cmp.Diff(lines, []string{
		"2001 1 sip:2001@10.20.4.31:51234;transport=tcp sip:2001@10.20.4.31:51234;transport=tcp 8861 sip88xx.14-1-1-0001-136 true true",
		"2011 2 sip:2011@10.20.4.31:51234;transport=tcp sip:2011@10.20.4.31:51234;transport=tcp 8861 sip88xx.14-1-1-0001-136 true true",
	}); d != "" {
		t.Error(d)
	}
	if x := b.r.Lookup("2011"); len(x) != 1 || x[0].CallID != "02aa11bb-22c10002-0a1b2c3d-4e5f6071@10.20.4.31" || !x[0].Supports("x-cisco-escapecodes") {
		t.Errorf("lookup %+v", x)
	}
	if id, ok := b.r.ByFlow(f); !ok || id.Device != device || id.Line != "2001" {
		t.Errorf("by flow %+v, %v", id, ok)
	}
	if id, ok := b.r.ByFlowLine(f, "2011"); !ok || id.Line != "2011" || id.Primary != "2001" {
		t.Errorf("by flow and line %+v, %v", id, ok)
	}
	if want := time.Now().Add(150 * time.Second); f.Kept().Sub(want).Abs() > 2*time.Second {
		t.Errorf("connection kept until %v, want about %v", f.Kept(), want)
	}

	// A refresh: no body, nothing new.
	res = b.do(f, req{extra: "Expires: 3600\n"})
	if res.StatusCode != 200 || len(res.Body()) != 0 || len(b.events) != 2 || b.events[1].Kind != Refreshed {
		t.Errorf("refresh: %s\nevents %+v", res, b.events[1:])
	}
	// The same again with the negotiation in it gets the negotiation back, no burst.
	res = b.do(f, req{extra: "Expires: 3600\nContent-Type: text/plain\n", body: "x"})
	if len(res.Body()) == 0 || b.events[2].Kind != Refreshed {
		t.Errorf("refresh with body: %s\nevents %+v", res, b.events[2:])
	}
	// From another connection: new, and the old connection is nobody's.
	g := siptest.NewFlow("b", "TCP")
	res = b.do(g, req{extra: "Expires: 3600\n", callID: "02aa11bb-new@10.20.4.31"})
	if len(res.Body()) == 0 || b.events[3].Kind != Fresh || !b.events[3].Moved || b.events[3].Bindings[1].CallID != "02aa11bb-new@10.20.4.31" {
		t.Errorf("moved: %s\nevents %+v", res, b.events[3:])
	}
	if _, ok := b.r.ByFlow(f); ok {
		t.Error("the connection that the phone has left still speaks for it")
	}
	if b.events[3].Bindings[0].Load == "" {
		t.Error("the firmware is forgotten by a REGISTER without Reason")
	}
}

func TestKeepAliveOfStandby(t *testing.T) {
	for name, contact := range map[string]string{
		"as phones write it": `<sip:2001@10.20.4.31:51240;transport=tcp>;+sip.instance="<urn:uuid:0>";expires=0;cisco-keep-alive`,
		"other order":        `<sip:2001@10.20.4.31:51240;transport=tcp>;cisco-keep-alive;expires=0`,
		"other case":         `<sip:2001@10.20.4.31:51240;transport=tcp>;Expires=0;CISCO-Keep-Alive`,
		"unknown line":       `<sip:7777@10.20.4.31:51240;transport=tcp>;expires=0;cisco-keep-alive`,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			active, standby := tcp(), siptest.NewFlow("b", "TCP")
			b.do(active, req{extra: "Expires: 3600\n"})
			b.events = nil
			res := b.send(standby, b.raw(req{contact: contact, extra: "Expires: 0\n", callID: "other"}, ""))
			if res.StatusCode != 200 || transaction.Header(res, "Expires") != "0" || transaction.Header(res, "Contact") != "" || transaction.Header(res, "Date") == "" {
				t.Errorf("answer\n%s", res)
			}
			if len(b.events) != 0 || len(b.r.Device(device)) != 2 || standby.Kept().IsZero() {
				t.Errorf("events %+v, kept %v", b.events, standby.Kept())
			}
			if _, ok := b.r.ByFlow(standby); ok {
				t.Error("a keep-alive gave the connection an identity")
			}
		})
	}
	t.Run("expires=0 alone is an unregistration", func(t *testing.T) {
		b := newBench(t, nil)
		if res := b.send(tcp(), b.raw(req{contact: "<sip:2001@10.20.4.31>;expires=0"}, "")); res.StatusCode != 401 {
			t.Errorf("answer %d", res.StatusCode)
		}
	})
}

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

func TestExpires(t *testing.T) {
	for _, tt := range []struct {
		name, line, extra, param string
		want                     string
	}{
		{"Cisco asks for an hour", "2001", "Expires: 3600\n", "", "120"},
		{"Cisco asks for too little", "2001", "Expires: 30\n", "", "60"},
		{"Cisco asks for less than granted", "2001", "Expires: 90\n", "", "90"},
		{"others get up to an hour", "2009", "Expires: 86400\n", "", "3600"},
		{"others ask for too little", "2009", "Expires: 5\n", "", "60"},
		{"nothing said", "2009", "", "", "120"},
		{"in the Contact", "2009", "", ";expires=600", "600"},
		{"the Contact counts first", "2009", "Expires: 3600\n", ";expires=600", "600"},
		{"no number", "2009", "Expires: soon\n", "", "120"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			res := b.do(tcp(), req{line: tt.line, extra: tt.extra, contact: "<sip:" + tt.line + "@10.20.4.31:5060>" + tt.param})
			if got := transaction.Header(res, "Contact"); got != "<sip:"+tt.line+"@10.20.4.31:5060>;expires="+tt.want {
				t.Errorf("%d, Contact %s, want expires=%s", res.StatusCode, got, tt.want)
			}
		})
	}
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		f := tcp()
		b.do(f, req{extra: "Expires: 3600\n"})
		time.Sleep(115 * time.Second)
		b.do(f, req{extra: "Expires: 3600\n"})
		time.Sleep(134 * time.Second) // 120 granted, 15 past that
		synctest.Wait()
		if len(b.r.Lookup("2011")) != 1 {
			t.Error("gone before its time")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		last := b.events[len(b.events)-1]
		if len(b.r.All()) != 0 || last.Kind != Gone || len(last.Bindings) != 2 {
			t.Errorf("after expiry: %d bindings, event %+v", len(b.r.All()), last)
		}
		if _, ok := b.r.ByFlow(f); ok {
			t.Error("the connection still speaks for the phone")
		}
		b.r.Stop()
	})
}

func TestUnregister(t *testing.T) {
	t.Run("all lines go", func(t *testing.T) {
		for _, contact := range []string{"", "*"} {
			b := newBench(t, nil)
			f := tcp()
			b.do(f, req{extra: "Expires: 3600\n"})
			res := b.do(f, req{contact: contact, extra: `Expires: 0` + "\n" + `Reason: SIP;cause=200;text="cisco-alarm:23 Name=` + device + ` Load=x.loads Last=reset-restart"` + "\n"})
			if res.StatusCode != 200 || transaction.Header(res, "Contact") != "" || transaction.Header(res, "Expires") != "0" {
				t.Errorf("answer\n%s", res)
			}
			last := b.events[len(b.events)-1]
			if len(b.r.All()) != 0 || last.Kind != Gone || last.Alarm.Last != "reset-restart" {
				t.Errorf("%d bindings, event %+v", len(b.r.All()), last)
			}
		}
	})
	t.Run("a late goodbye from where the phone was", func(t *testing.T) {
		b := newBench(t, nil)
		f, g := tcp(), siptest.NewFlow("b", "TCP")
		b.do(f, req{extra: "Expires: 3600\n", callID: "one"})
		b.do(g, req{extra: "Expires: 3600\n", callID: "two", contact: "<sip:2001@10.20.4.31:51299;transport=tcp>"})
		if res := b.do(f, req{extra: "Expires: 0\n", callID: "one"}); res.StatusCode != 200 || len(b.r.Lookup("2001")) != 1 {
			t.Errorf("%d, %d bindings", res.StatusCode, len(b.r.Lookup("2001")))
		}
	})
	t.Run("* needs Expires: 0", func(t *testing.T) {
		for _, line := range []string{"2001", "2009"} {
			if res := newBench(t, nil).do(tcp(), req{line: line, contact: "*", extra: "Expires: 100\n"}); res.StatusCode != 400 {
				t.Errorf("%s: answer %d", line, res.StatusCode)
			}
		}
	})
}

func TestWrongRequests(t *testing.T) {
	t.Run("bad Contact", func(t *testing.T) {
		for _, c := range []string{"<sip:2001@10.20.4.31", "<http://x>", "*, <sip:a@b>", "<sip:a b@c>", `"x`, strings.Repeat("<sip:a@b>,", 20) + "<sip:a@b>"} {
			if res := newBench(t, nil).do(tcp(), req{contact: c}); res.StatusCode != 400 {
				t.Errorf("%s: answer %d", c, res.StatusCode)
			}
		}
	})
	t.Run("CSeq goes back", func(t *testing.T) {
		for _, line := range []string{"2001", "2009"} {
			b := newBench(t, nil)
			f := tcp()
			b.do(f, req{line: line, seq: 50})
			if res := b.do(f, req{line: line, seq: 49}); res.StatusCode != 500 {
				t.Errorf("%s: answer %d", line, res.StatusCode)
			}
			if res := b.do(f, req{line: line, seq: 1, callID: "another"}); res.StatusCode != 200 {
				t.Errorf("%s: another Call-ID: answer %d", line, res.StatusCode)
			}
		}
	})
	t.Run("query", func(t *testing.T) {
		b := newBench(t, nil)
		f := tcp()
		b.do(f, req{line: "2009", extra: "Expires: 600\n", contact: "<sip:2009@10.20.4.31:5060>"})
		res := b.do(f, req{line: "2009", contact: "none"})
		if res.StatusCode != 200 || transaction.Header(res, "Contact") != "<sip:2009@10.20.4.31:5060>;expires=600" {
			t.Errorf("answer\n%s", res)
		}
	})
	t.Run("line of another device", func(t *testing.T) {
		if res := newBench(t, nil).do(tcp(), req{line: "2002", user: "2001"}); res.StatusCode != 403 {
			t.Errorf("answer %d", res.StatusCode)
		}
	})
	t.Run("softphone registers another line", func(t *testing.T) {
		if res := newBench(t, nil).do(tcp(), req{line: "2001", user: "2009"}); res.StatusCode != 403 {
			t.Errorf("answer %d", res.StatusCode)
		}
	})
	t.Run("empty user name of an 8841", func(t *testing.T) {
		b := newBench(t, nil)
		f := tcp()
		res := b.send(f, b.raw(req{}, ""))
		auth := siptest.Authorization(transaction.Header(res, "WWW-Authenticate"), "REGISTER", "sip:10.20.0.5", "", secret)
		if res := b.send(f, b.raw(req{}, "Authorization: "+auth+"\n")); res.StatusCode != 200 {
			t.Errorf("answer %d", res.StatusCode)
		}
	})
}

func TestSecondaryLineRegistersItself(t *testing.T) {
	b := newBench(t, nil)
	f := tcp()
	alias := req{line: "2011", user: "2001", extra: "Expires: 3600\n", callID: "alias"}
	if res := b.do(f, alias); res.StatusCode != 403 {
		t.Errorf("before the primary: %d", res.StatusCode)
	}
	b.do(f, req{extra: "Expires: 3600\n"})
	if res := b.do(f, alias); res.StatusCode != 200 || transaction.Header(res, "Contact") != "<sip:2011@10.20.4.31:51234;transport=tcp>;expires=120" {
		t.Errorf("answer\n%s", res)
	}
	if res := b.do(siptest.NewFlow("b", "TCP"), alias); res.StatusCode != 403 {
		t.Errorf("from another connection: %d", res.StatusCode)
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

func TestSeveralPlacesOfALine(t *testing.T) {
	b := newBench(t, nil)
	var flows []*siptest.Flow
	register := func(i int, call, extra string) {
		f := siptest.NewFlow(fmt.Sprint("f", i), "TCP")
		flows = append(flows, f)
		if res := b.do(f, req{line: "2009", callID: call, contact: fmt.Sprintf("<sip:2009@10.20.4.%d:5060>%s", i, extra), extra: "Expires: 600\n"}); res.StatusCode != 200 {
			t.Fatalf("answer %d", res.StatusCode)
		}
	}
	for i := range MaxContacts + 2 {
		register(i, fmt.Sprint("call", i), "")
	}
	all := b.r.Lookup("2009")
	if len(all) != MaxContacts || all[0].ContactText != fmt.Sprintf("sip:2009@10.20.4.%d:5060", MaxContacts+1) {
		t.Errorf("%d places, first %s", len(all), all[0].ContactText)
	}
	// The same instance from a new address takes the old one's place, as does the same Call-ID.
	register(50, "i1", `;+sip.instance="<urn:uuid:1>"`)
	register(51, "i2", `;+sip.instance="<urn:uuid:1>"`)
	register(52, "i2", "")
	n := 0
	for _, x := range b.r.Lookup("2009") {
		if strings.HasPrefix(x.CallID, "i") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d places of one softphone", n)
	}
	last := b.events[len(b.events)-1]
	if last.Kind != Fresh || !last.Moved || last.Device != "" {
		t.Errorf("event %+v", last)
	}
	b.do(flows[len(flows)-1], req{line: "2009", contact: "*", extra: "Expires: 0\n"})
	if len(b.r.Lookup("2009")) != 0 || len(b.r.records) != 0 || len(b.r.byFlow) != 0 {
		t.Errorf("left: %d by line, %d records, %d by flow", len(b.r.Lookup("2009")), len(b.r.records), len(b.r.byFlow))
	}
}

func TestLostConnection(t *testing.T) {
	b := newBench(t, nil)
	f := tcp()
	b.do(f, req{extra: "Expires: 3600\n"})
	f.Close(nil)
	b.r.FlowClosed(f)
	x := b.r.Lookup("2001")
	if len(x) != 1 || x[0].Reachable() {
		t.Errorf("binding %+v", x)
	}
	if _, ok := b.r.ByFlow(f); ok {
		t.Error("a dead connection has an identity")
	}
	if last := b.events[len(b.events)-1]; last.Kind != Lost || last.Device != device {
		t.Errorf("event %+v", last)
	}
}

func TestRestart(t *testing.T) {
	kept := local{}
	first := newBench(t, func(o *Options) { o.Local = kept })
	first.do(tcp(), req{extra: "Expires: 3600\n"})
	first.do(siptest.NewFlow("b", "TCP"), req{line: "2009", contact: "<sip:2009@10.20.4.40>", extra: "Expires: 600\n", callID: "soft"})
	first.r.Stop()

	b := newBench(t, func(o *Options) { o.Local = kept })
	x := b.r.Lookup("2011")
	if len(x) != 1 || x[0].Reachable() || x[0].Index != 2 || x[0].ContactText != "sip:2011@10.20.4.31:51234;transport=tcp" || len(b.r.Lookup("2009")) != 1 {
		t.Fatalf("restored %+v", x)
	}
	res := b.do(tcp(), req{extra: "Expires: 3600\n"})
	if len(res.Body()) == 0 || len(b.events) != 1 || b.events[0].Kind != Fresh {
		t.Errorf("first REGISTER after a restart:\n%s\nevents %+v", res, b.events)
	}
	b.do(tcp(), req{extra: "Expires: 0\n"})
	b.do(siptest.NewFlow("b", "TCP"), req{line: "2009", contact: "*", extra: "Expires: 0\n", callID: "soft2"})
	if len(kept) != 0 {
		t.Errorf("kept after unregistering: %v", kept)
	}
}

func TestRestartOverUDP(t *testing.T) {
	kept := local{}
	first := newBench(t, func(o *Options) { o.Local = kept })
	was := siptest.NewFlow("u", "UDP")
	first.do(was, req{line: "2009", contact: "<sip:2009@10.20.4.31:51234>", extra: "Expires: 600\n"})
	first.do(tcp(), req{extra: "Expires: 3600\n", callID: "tcp"})
	first.r.Stop()
	b := newBench(t, func(o *Options) { o.Local = kept })
	again := siptest.NewFlow("again", "UDP")
	b.r.Reopen(func(remote, local netip.AddrPort) (flow.Flow, error) {
		if remote != was.To || local != was.From {
			t.Errorf("opened %v -> %v", local, remote)
		}
		return again, nil
	})
	if x := b.r.Lookup("2009"); len(x) != 1 || !x[0].Reachable() {
		t.Errorf("after the restart %+v", x)
	}
	if x := b.r.Lookup("2001"); len(x) != 1 || x[0].Reachable() {
		t.Errorf("a connection outlived its process: %+v", x)
	}
	if id, ok := b.r.ByFlow(again); !ok || id.Line != "2009" || again.Kept().IsZero() {
		t.Errorf("identity %+v, %v", id, ok)
	}
	b.r.Reopen(func(_, _ netip.AddrPort) (flow.Flow, error) { t.Error("opened twice"); return nil, nil })
}

// changing is a configuration that changes.
type changing struct {
	accounts
	lines map[string]bool // still declared
}

func (c *changing) Line(n string) (Account, bool) {
	a, ok := c.accounts.Line(n)
	return a, ok && c.lines[n]
}

func (c *changing) Device(n string) (DeviceInfo, bool) {
	d, ok := c.accounts.Device(n)
	var kept []Account
	for _, l := range d.Lines {
		if c.lines[l.Number] {
			kept = append(kept, l)
		}
	}
	d.Lines = kept
	return d, ok && len(kept) > 0
}

func TestReload(t *testing.T) {
	c := &changing{lines: map[string]bool{"2001": true, "2009": true}}
	b := newBench(t, func(o *Options) { o.Accounts = c })
	b.do(tcp(), req{extra: "Expires: 3600\n"})
	b.do(tcp(), req{line: "2009", extra: "Expires: 600\n", callID: "soft", contact: "<sip:2009@10.20.4.40>"})
	b.events = nil
	b.r.Reload()
	if len(b.events) != 0 {
		t.Errorf("nothing changed: %+v", b.events)
	}
	kinds := func() string {
		var s []string
		for _, e := range b.events {
			x := e.Kind.String()
			for _, y := range e.Bindings {
				x += " " + y.Line
			}
			s = append(s, x)
		}
		b.events = nil
		slices.Sort(s)
		return strings.Join(s, ", ")
	}
	c.lines["2011"] = true
	b.r.Reload()
	if got := kinds(); got != "fresh 2001 2011" || len(b.r.Lookup("2011")) != 1 {
		t.Errorf("line added: %s", got)
	}
	delete(c.lines, "2011")
	b.r.Reload()
	if got := kinds(); got != "fresh 2001, gone 2011" || len(b.r.Lookup("2011")) != 0 {
		t.Errorf("line removed: %s", got)
	}
	clear(c.lines)
	b.r.Reload()
	if got := kinds(); got != "gone 2001, gone 2009" || len(b.r.All()) != 0 {
		t.Errorf("all removed: %s", got)
	}
}

func TestRestartWithoutReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := local{}
		first := newBench(t, func(o *Options) { o.Local = kept })
		first.do(tcp(), req{extra: "Expires: 3600\n"})
		first.r.Stop()
		b := newBench(t, func(o *Options) { o.Local = kept })
		time.Sleep(140 * time.Second)
		synctest.Wait()
		if len(b.r.All()) != 0 || len(b.events) != 1 || b.events[0].Kind != Gone || len(kept) != 0 {
			t.Errorf("%d bindings, events %+v, kept %v", len(b.r.All()), b.events, kept)
		}
		b.r.Stop()
		kept["sip_bindings/x"] = "no JSON"
		kept["sip_bindings/y"] = `{"line":"7777","contact":"sip:x@y","until":"2999-01-01T00:00:00Z","granted":60}`
		if c := newBench(t, func(o *Options) { o.Local = kept }); len(c.r.All()) != 0 || len(kept) != 0 {
			t.Errorf("rubbish restored: %v", kept)
		}
	})
}

func TestTwoPhonesWithOneName(t *testing.T) {
	b := newBench(t, nil)
	f, g := tcp(), siptest.NewFlow("b", "TCP")
	g.To = netip.MustParseAddrPort("10.20.4.99:51234")
	for range 3 {
		b.do(f, req{callID: "one"})
		b.do(g, req{callID: "two", contact: "<sip:2001@10.20.4.99:51234>"})
	}
	n := 0
	for _, note := range b.notes {
		if strings.Contains(note, "two phones use this name") {
			n++
		}
	}
	if n == 0 {
		t.Errorf("not noticed: %q", b.notes)
	}
	if id, ok := b.r.ByFlow(g); !ok || id.Device != device {
		t.Error("the last one does not have the registration")
	}
	if _, ok := b.r.ByFlow(f); ok {
		t.Error("both connections speak for the device")
	}
}

func refer(target, contentType, body string) string {
	x := "REFER sip:10.20.0.5 SIP/2.0\nVia: SIP/2.0/TCP 10.20.4.31:51234;branch=z9hG4bK" + transaction.NewTag() +
		"\nFrom: <sip:2001@10.20.0.5>;tag=t\nTo: <sip:10.20.0.5>\nCall-ID: r\nCSeq: 1000 REFER\nRefer-To: " + target + "\n"
	if contentType != "" {
		x += "Content-Type: " + contentType + "\n"
	}
	return x + "\n" + body
}

func TestRefersWithoutRegistration(t *testing.T) {
	alarm := func(name string) string {
		return string((&cisco.Alarm{Name: "LastOutOfServiceInformation", Params: []cisco.Param{{Name: "DeviceName", Value: name}, {Name: "ReasonForOutOfService", Value: "25"}}}).Marshal())
	}
	for _, tt := range []struct {
		name, raw string
		want      int
		note      string
	}{
		{"alarm", refer("cid:1", cisco.TypeAlarm, alarm(device)), 202,
			device + " register alarm LastOutOfServiceInformation, ReasonForOutOfService 25 (before registration, from 10.20.4.31) false"},
		{"alarm of nobody we know", refer("cid:1", cisco.TypeAlarm, alarm("SEP000000000000")), 202, ""},
		{"broken alarm", refer("cid:1", cisco.TypeAlarm, "<x"), 202, ""},
		{"response", refer("cid:1", cisco.TypeResponse, "whatever"), 202, ""},
		{"location", refer("cid:1", cisco.TypeRequest, "<x-cisco-location/>"), 202, ""},
		{"token", refer("<urn:X-cisco-remotecc:token-registration>", "", ""), 202, ""},
		{"token in other case", refer("<URN:x-CISCO-remotecc:TOKEN-registration>", "", ""), 202, ""},
		{"anything else is not for here", refer("cid:1", cisco.TypeRequest, "<x-cisco-remotecc-request><a/></x-cisco-remotecc-request>"), 603, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			if res := b.send(tcp(), tt.raw); res.StatusCode != tt.want {
				t.Errorf("answer %d, want %d", res.StatusCode, tt.want)
			}
			if got := strings.Join(b.notes, "|"); got != tt.note {
				t.Errorf("note %q, want %q", got, tt.note)
			}
		})
	}
}

func TestTokensAreRationed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ready := true
		b := newBench(t, func(o *Options) { o.Ready = func() bool { return ready } })
		ask := func() *sip.Response { return b.send(tcp(), refer("<urn:X-cisco-remotecc:token-registration>", "", "")) }
		for i := range tokensPerSecond {
			if res := ask(); res.StatusCode != 202 {
				t.Fatalf("token %d: %d", i, res.StatusCode)
			}
		}
		res := ask()
		if res.StatusCode != 503 || transaction.Header(res, "Retry-After") == "" {
			t.Errorf("too many: %s", res)
		}
		time.Sleep(time.Second)
		if res := ask(); res.StatusCode != 202 {
			t.Errorf("a second later: %d", res.StatusCode)
		}
		ready = false
		if res := ask(); res.StatusCode != 503 {
			t.Errorf("not in sync: %d", res.StatusCode)
		}
		b.r.Stop()
	})
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

// FuzzContact: what is taken for a Contact can be sent to, letter by letter.
func FuzzContact(f *testing.F) {
	f.Add(`<sip:2001@10.20.4.31:51234;transport=tcp>;+sip.instance="<urn:uuid:0>";expires=0;cisco-keep-alive`)
	f.Add(`"a,b" <sip:a@[::1]:5060?x=y>;q=1, *`)
	f.Add("sip:a@b;expires=5")
	f.Fuzz(func(t *testing.T, s string) {
		for _, v := range splitList(s, ',') {
			c, err := parseContact(v)
			if err != nil || c.star {
				continue
			}
			u := c.uri
			if u.String() != c.text {
				t.Fatalf("%q prints as %q", c.text, u.String())
			}
			if w := withUser(c.text, "2011"); !strings.Contains(w, ":2011@") {
				t.Fatalf("%q with another user is %q", c.text, w)
			}
			c.standby()
			c.deviceName()
		}
	})
}
