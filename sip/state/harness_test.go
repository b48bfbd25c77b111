package state

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"
	"github.com/google/go-cmp/cmp"

	"ringfence/sip/cisco"
	"ringfence/sip/internal/siptest"
	"ringfence/sip/registrar"
	"ringfence/sip/transaction"
)

const phone = "SEP02AA11BB22C1"

// accounts: a phone with lines 2001 and 2011 that watches 2002, 2009 and slot 381; a phone with 2002; softphone line 2009.
type accounts struct{ watch []string }

// changing is a configuration that changes.
type changing struct{ accounts }

// memory is a Store; writes can be made to fail.
type memory struct {
	mu   sync.Mutex
	m    map[string]string
	fail error
}

// bench is a registrar and a state without sockets, in a bubble of synctest.
type bench struct {
	t     *testing.T
	s     *State
	r     *registrar.Registrar
	l     *transaction.Layer
	store *memory
	seq   int
	flows int
}

// client is a phone on a flow without socket. It answers every request with answer, after a delay.
type client struct {
	*siptest.Flow
	b     *bench
	line  string
	how   atomic.Pointer[func(*sip.Request) int]
	delay time.Duration
}

func (c *changing) Line(n string) (registrar.Account, bool)      { return c.accounts.Line(n) }
func (c *changing) Device(n string) (registrar.DeviceInfo, bool) { return c.accounts.Device(n) }

func (a accounts) Line(n string) (registrar.Account, bool) {
	switch n {
	case "2001":
		return registrar.Account{Number: n, Device: phone, Index: 1, Voicemail: "8500"}, true
	case "2011":
		return registrar.Account{Number: n, Device: phone, Index: 2, Voicemail: "8500", Forward: "8500"}, true
	case "2002":
		return registrar.Account{Number: n, Device: "SEP02AA11BB22C2", Index: 1}, true
	case "2009":
		return registrar.Account{Number: n, Index: 1}, true
	}
	return registrar.Account{}, false
}

func (a accounts) Device(n string) (registrar.DeviceInfo, bool) {
	l1, _ := a.Line("2001")
	l2, _ := a.Line("2011")
	l3, _ := a.Line("2002")
	switch n {
	case phone:
		return registrar.DeviceInfo{Name: n, Lines: []registrar.Account{l1, l2}, Watch: a.watch, HuntLogin: true, DNDReject: true}, true
	case "SEP02AA11BB22C2":
		return registrar.DeviceInfo{Name: n, Lines: []registrar.Account{l3}}, true
	}
	return registrar.DeviceInfo{}, false
}

func (s *memory) Get(k string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.m[k]
	return []byte(v), ok
}

func (s *memory) Scan(prefix string, fn func(string, []byte) bool) {
	for k, v := range s.m {
		if strings.HasPrefix(k, prefix) && !fn(k, []byte(v)) {
			return
		}
	}
}

func (s *memory) Write(_ context.Context, set map[string][]byte, del ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	for k, v := range set {
		s.m[k] = string(v)
	}
	for _, k := range del {
		delete(s.m, k)
	}
	return nil
}

// run runs f in a bubble with a started bench.
func run(t *testing.T, change func(*Options), f func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, change, &memory{m: make(map[string]string)})
		b.s.Start()
		b.s.Start()
		f(t, b)
		b.s.Stop()
		b.s.Stop()
		b.r.Stop()
		time.Sleep(2 * time.Minute) // transactions end
	})
}

func newBench(t *testing.T, change func(*Options), store *memory) *bench {
	t.Helper()
	b := &bench{t: t, seq: 100, store: store}
	o := Options{Accounts: accounts{watch: []string{"2002", "2009", "381", "2002"}}, Store: store}
	if change != nil {
		change(&o)
	}
	var err error
	b.r, err = registrar.New(registrar.Options{
		Accounts: o.Accounts, Realm: "pbx.example.com", Expires: time.Hour, Password: func(string) (string, bool) { return "secret", true },
		OnChange: func(e registrar.Event) { b.s.Registration(e) },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.l = transaction.New(transaction.Options{OnRequest: b.request})
	o.Registrar, o.Transactions = b.r, b.l
	if b.s, err = New(o); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) request(tx *transaction.Server) {
	id, ok := b.r.ByFlowLine(tx.Flow(), tx.Request().From().Address.User)
	_, in := tx.Request().To().Params.Get("tag")
	switch {
	case tx.Request().Method == sip.REGISTER:
		b.r.Register(tx)
	case !ok:
		tx.Answer(403)
	case in:
		if !b.s.Resubscribe(tx) {
			tx.Answer(481)
		}
	case tx.Request().Method == sip.SUBSCRIBE:
		b.s.Subscribe(tx, id)
	case tx.Request().Method == sip.PUBLISH:
		b.s.Publish(tx, id)
	case tx.Request().Method == sip.NOTIFY:
		b.s.Notify(tx, id)
	case tx.Request().Method == sip.REFER:
		b.s.HuntKey(tx, id)
	}
}

func (b *bench) client(line string) *client {
	b.flows++
	c := &client{Flow: siptest.NewFlow(fmt.Sprint("f", b.flows), "TCP"), b: b, line: line}
	c.answer(func(*sip.Request) int { return 200 })
	c.OnSend = func(m sip.Message) {
		req, ok := m.(*sip.Request)
		if !ok {
			return
		}
		code := (*c.how.Load())(req)
		if code == 0 {
			return
		}
		res := sip.NewResponseFromRequest(req, code, "Answer", nil)
		go func() {
			time.Sleep(c.delay)
			b.l.Receive(c, res)
		}()
	}
	return c
}

// answer sets how requests are answered; 0 is never.
func (c *client) answer(f func(*sip.Request) int) { c.how.Store(&f) }

// do sends a request and returns the final answer; what else was sent meanwhile is lost.
func (c *client) do(method, to, extra, body string) *sip.Response {
	c.b.t.Helper()
	c.b.seq++
	target := strings.TrimPrefix(strings.SplitN(to, "@", 2)[0], "<sip:")
	call := fmt.Sprint("call-", c.ID(), "-", c.b.seq)
	if method == "REGISTER" {
		call = "reg-" + c.ID()
	}
	for line := range strings.SplitSeq(extra, "\n") {
		if v, ok := strings.CutPrefix(line, "Call-ID: "); ok {
			call = v
			extra = strings.Replace(extra, line+"\n", "", 1)
		}
	}
	raw := func(auth string) string {
		c.b.seq++
		return fmt.Sprintf("%s sip:%s@10.20.0.5 SIP/2.0\nVia: SIP/2.0/TCP 10.20.4.31:51234;branch=z9hG4bK%d\nFrom: <sip:%s@10.20.0.5>;tag=ft\nTo: %s\n"+
			"Call-ID: %s\nCSeq: %d %s\nContact: <sip:%s@10.20.4.31:51234;transport=tcp>\nUser-Agent: Cisco-CP8861/14.1.1\n%s%s\n%s",
			method, target, c.b.seq, c.line, to, call, c.b.seq, method, c.line, extra, auth, body)
	}
	c.Sent()
	c.b.l.Receive(c, siptest.Message(c.b.t, raw("")))
	res := c.final()
	if res != nil && res.StatusCode == 401 {
		auth := siptest.Authorization(transaction.Header(res, "WWW-Authenticate"), method, "sip:"+target+"@10.20.0.5", c.line, "secret")
		c.b.l.Receive(c, siptest.Message(c.b.t, raw("Authorization: "+auth+"\n")))
		res = c.final()
	}
	return res
}

// final takes what was sent and puts back what came after the last final answer.
func (c *client) final() *sip.Response {
	sent := c.Sent()
	for i, m := range sent {
		if res, ok := m.(*sip.Response); ok && res.StatusCode >= 200 {
			for _, later := range sent[i+1:] {
				c.Again(later)
			}
			return res
		}
	}
	return nil
}

func (c *client) register(extra string) *sip.Response {
	return c.do("REGISTER", "<sip:"+c.line+"@10.20.0.5>", "Expires: 3600\n"+extra, "")
}

// got takes the requests that were sent to the phone, described: method, event or body kind, content.
func (c *client) got() []string {
	c.b.t.Helper()
	synctest.Wait()
	var out []string
	for _, m := range c.Sent() {
		req, ok := m.(*sip.Request)
		if !ok {
			continue
		}
		s := string(req.Method) + " " + req.Recipient.User
		kind := transaction.Header(req, "Content-Type")
		switch {
		case req.Method == sip.REFER:
			requests, _, err := cisco.Requests(kind, req.Body())
			if err != nil {
				c.b.t.Errorf("REFER: %v", err)
			}
			for _, r := range requests {
				switch {
				case r.DND != nil:
					s += fmt.Sprintf(" dnd%+v", *r.DND)
				case r.HuntLogin != nil:
					s += fmt.Sprintf(" hunt%+v", *r.HuntLogin)
				case r.Privacy != nil:
					s += fmt.Sprintf(" privacy%+v", *r.Privacy)
				case r.Forward != nil:
					s += fmt.Sprintf(" forward%+v", *r.Forward)
				case r.Bulk != nil:
					s += fmt.Sprintf(" bulk%+v", r.Bulk.Lines)
				}
			}
		case kind == cisco.TypePIDF:
			var p cisco.Presence
			if err := p.Unmarshal(req.Body()); err != nil {
				c.b.t.Errorf("PIDF: %v", err)
			}
			open := "open"
			if !p.Open {
				open = "closed"
			}
			s += " " + strings.TrimSuffix(strings.TrimPrefix(p.Entity, "sip:"), "@10.20.0.5") + " " + p.Activity.String() + " " + open
		case kind == cisco.TypeDialogInfo:
			var d cisco.DialogInfo
			if err := d.Unmarshal(req.Body()); err != nil {
				c.b.t.Errorf("dialog-info: %v", err)
			}
			if x := d.Dialogs[0]; x.LocalTag != "" {
				s += " dialog " + x.ID + " " + x.State + " " + x.CallID + " " + x.LocalTag + " " + x.RemoteTag
				if x.Remote != nil {
					s += " " + userOf(x.Remote.URI)
				}
				if x.Local.Held && x.State != "terminated" {
					s += " held"
				}
				break
			}
			s += " dialog " + d.Dialogs[0].State
		default:
			s += " " + transaction.Header(req, "Event") + " " + strings.Join(strings.Fields(string(req.Body())), " ")
		}
		if st := transaction.Header(req, "Subscription-State"); strings.HasPrefix(st, "terminated") {
			s += " terminated"
		}
		out = append(out, s)
	}
	return out
}

func (c *client) expect(what string, want ...string) {
	c.b.t.Helper()
	got := c.got()
	if d := cmp.Diff(got, want); d != "" && len(got)+len(want) > 0 {
		c.b.t.Errorf("%s (-got +want):\n%s", what, d)
	}
}
