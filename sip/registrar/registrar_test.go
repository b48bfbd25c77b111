package registrar

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"
	"github.com/google/go-cmp/cmp"

	"ringfence/sip/cisco"
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
