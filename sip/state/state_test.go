package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
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

// memory is a Store; writes can be made to fail.
type memory struct {
	mu   sync.Mutex
	m    map[string]string
	fail error
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

// client is a phone on a flow without socket. It answers every request with answer, after a delay.
type client struct {
	*siptest.Flow
	b     *bench
	line  string
	how   atomic.Pointer[func(*sip.Request) int]
	delay time.Duration
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

var burst = []string{
	"REFER 2001 dnd{On:false Reject:true} hunt{On:true} bulk[{Line:1 New:0 Old:0 Target: ToVoicemail:false} {Line:2 New:0 Old:0 Target:8500 ToVoicemail:true}]",
	"NOTIFY 2001 2002 idle closed", "NOTIFY 2001 2009 idle closed", "NOTIFY 2001 381 idle closed",
}

func TestBurst(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		c.expect("burst", burst...)
		c.register("")
		c.expect("refresh")
		time.Sleep(9 * time.Second)
		c.expect("lamps once more", burst[1:]...)
		time.Sleep(50 * time.Second)
		c.expect("and never again")
		d := b.client("2001")
		d.register("")
		d.expect("burst at a new connection", burst...)
		if n := len(b.s.Watchers()); n != 3 {
			t.Errorf("%d watchers, want 3", n)
		}
		d.do("REGISTER", "<sip:2001@10.20.0.5>", "Expires: 0\n", "")
		if n := len(b.s.Watchers()); n != 0 {
			t.Errorf("%d watchers after unregistering", n)
		}
		b.s.SetLeg("2002", "x", Active)
		c.expect("after unregistering")
		d.expect("after unregistering")
	})
}

func TestLampMessage(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		c.got()
		b.s.SetLeg("2002", "x", Ringing)
		synctest.Wait()
		b.s.SetLeg("2002", "x", Active)
		synctest.Wait()
		sent := c.Sent()
		if len(sent) != 2 {
			t.Fatalf("%d messages", len(sent))
		}
		first, second := sent[0].(*sip.Request), sent[1].(*sip.Request)
		if first.StartLine() != "NOTIFY sip:2001@10.20.4.31:51234;transport=tcp SIP/2.0" || second.StartLine() != first.StartLine() {
			t.Errorf("request line %s", second.StartLine())
		}
		if got := first.To().Value(); got != "<sip:2001@10.20.4.31:51234;transport=tcp>" {
			t.Errorf("To %s: the Contact verbatim, without a tag", got)
		}
		if got := first.From().Address.String(); got != "sip:2002@10.20.0.5" {
			t.Errorf("From %s", got)
		}
		if got := transaction.Header(first, "Contact"); got != "<sip:2002@10.20.0.5:5060;transport=tcp>" {
			t.Errorf("Contact %s", got)
		}
		if transaction.Header(first, "Subscription-State") != "active" || transaction.Header(first, "Event") != "presence" {
			t.Errorf("headers\n%s", first)
		}
		if first.CallID().Value() != second.CallID().Value() || second.CSeq().SeqNo != first.CSeq().SeqNo+1 || first.From().Params.GetOr("tag", "") != second.From().Params.GetOr("tag", "") {
			t.Error("two NOTIFYs of one key are no series")
		}
		want, err := os.ReadFile("../cisco/testdata/pidf-alerting.xml")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Replace(string(first.Body()), `tuple id="1"`, `tuple id="4"`, 1); got != string(want) {
			t.Errorf("body\n%s", first.Body())
		}
	})
}

func TestLamps(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		w := b.client("2001")
		w.register("")
		w.got()
		time.Sleep(time.Minute)
		w.got()
		p := b.client("2002")
		p.register("")
		w.expect("registered", "NOTIFY 2001 2002 idle open")
		b.s.SetLeg("2002", "a", Ringing)
		w.expect("rings", "NOTIFY 2001 2002 alerting open")
		b.s.SetLeg("2002", "b", Active)
		w.expect("in use as well: alerting wins")
		b.s.SetLeg("2002", "c", Ringing)
		w.expect("a second call rings: told again", "NOTIFY 2001 2002 alerting open")
		b.s.SetLeg("2002", "c", Idle)
		w.got()
		b.s.SetLeg("2002", "a", Idle)
		w.expect("in use", "NOTIFY 2001 2002 on-the-phone open")
		b.s.SetLeg("2002", "b", Held)
		w.expect("on hold shows the same")
		ctx := context.Background()
		if err := b.s.SetDND(ctx, "SEP02AA11BB22C2", true, ByAdmin); err != nil {
			t.Fatal(err)
		}
		w.expect("DND during a call shows the same")
		b.s.SetLeg("2002", "b", Idle)
		w.expect("DND", "NOTIFY 2001 2002 dnd open")
		b.s.SetLeg("2002", "a", Ringing)
		w.expect("ring wins over DND", "NOTIFY 2001 2002 alerting open")
		b.s.SetLeg("2002", "a", Idle)
		w.expect("DND again", "NOTIFY 2001 2002 dnd open")
		b.s.SetLeg("2002", "a", Idle)
		b.s.SetLeg("2002", "never", Idle)
		w.expect("nothing new")
		_ = b.s.SetDND(ctx, "SEP02AA11BB22C2", false, ByAdmin)
		w.expect("DND off", "NOTIFY 2001 2002 idle open")
		b.s.SetSlot("381", true)
		w.expect("slot taken", "NOTIFY 2001 381 on-the-phone open")
		b.s.SetSlot("381", false)
		w.expect("slot free", "NOTIFY 2001 381 idle open")
		b.s.RemoveSlot("381")
		w.expect("slot gone", "NOTIFY 2001 381 idle closed")
		p.do("REGISTER", "<sip:2002@10.20.0.5>", "Expires: 0\n", "")
		w.expect("unregistered", "NOTIFY 2001 2002 idle closed")
	})
}

func TestOneNotifyOutstanding(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		c.got()
		c.delay = time.Second
		b.s.SetLeg("2002", "a", Ringing)
		c.expect("first", "NOTIFY 2001 2002 alerting open")
		b.s.SetLeg("2002", "a", Active)
		b.s.SetLeg("2002", "a", Held)
		b.s.SetLeg("2002", "a", Idle)
		b.s.SetLeg("2002", "a", Active)
		c.expect("while it is under way")
		time.Sleep(2 * time.Second)
		c.expect("the newest only", "NOTIFY 2001 2002 on-the-phone open")
		b.s.SetLeg("2002", "a", Idle)
		b.s.SetLeg("2002", "a", Active)
		time.Sleep(5 * time.Second)
		got := c.got()
		if len(got) > 2 || len(got) > 0 && got[len(got)-1] != "NOTIFY 2001 2002 on-the-phone open" {
			t.Errorf("after a flicker: %q", got)
		}
	})
}

func TestFirstLampsArePaced(t *testing.T) {
	var watch []string
	for i := range 30 {
		watch = append(watch, fmt.Sprint(3000+i))
	}
	run(t, func(o *Options) { o.Accounts = accounts{watch: watch} }, func(t *testing.T, b *bench) {
		c := b.client("2001")
		outstanding, most := 0, 0
		c.delay = 100 * time.Millisecond
		var mu sync.Mutex
		c.answer(func(r *sip.Request) int {
			if r.Method != sip.NOTIFY {
				return 200
			}
			mu.Lock()
			outstanding++
			most = max(most, outstanding)
			mu.Unlock()
			time.AfterFunc(99*time.Millisecond, func() { mu.Lock(); outstanding--; mu.Unlock() })
			return 200
		})
		c.register("")
		time.Sleep(2 * time.Second)
		if n := len(c.got()); n != 31 {
			t.Errorf("%d requests, want one REFER and 30 NOTIFYs", n)
		}
		if most > window+1 {
			t.Errorf("%d NOTIFYs under way at once", most)
		}
	})
}

func TestPhoneRefusesNotify(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		c.got()
		time.Sleep(time.Minute)
		c.got()
		b.s.SetLeg("2002", "a", Ringing)
		synctest.Wait()
		before := c.Sent()[0].CallID().Value()
		c.answer(func(*sip.Request) int { return 481 })
		b.s.SetLeg("2002", "a", Active)
		c.expect("refused", "NOTIFY 2001 2002 on-the-phone open")
		c.answer(func(*sip.Request) int { return 200 })
		b.s.SetLeg("2002", "a", Idle)
		synctest.Wait()
		sent := c.Sent()
		if len(sent) == 0 || sent[0].CallID().Value() == before {
			t.Errorf("after a refusal the next NOTIFY has a new Call-ID; sent %d", len(sent))
		}
	})
}

func TestPhoneAnswersNothing(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		c.got()
		c.answer(func(*sip.Request) int { return 0 })
		b.s.SetLeg("2002", "a", Ringing)
		time.Sleep(33 * time.Second)
		synctest.Wait()
		if err := c.Reason(); !errors.Is(err, transaction.ErrTimeout) {
			t.Errorf("connection closed with %v", err)
		}
	})
}

func TestInitialReferRefused(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.answer(func(r *sip.Request) int {
			if strings.Contains(transaction.Header(r, "Content-Type"), "multipart") {
				return 400
			}
			return 202
		})
		c.register("")
		got := c.got()
		want := []string{
			"REFER 2001 dnd{On:false Reject:true}", "REFER 2001 hunt{On:true}",
			"REFER 2001 bulk[{Line:1 New:0 Old:0 Target: ToVoicemail:false} {Line:2 New:0 Old:0 Target:8500 ToVoicemail:true}]",
		}
		for _, w := range want {
			if !slices.Contains(got, w) {
				t.Errorf("%s is missing in\n%s", w, strings.Join(got, "\n"))
			}
		}
	})
}

func TestTakeOverGetsCheckVersion(t *testing.T) {
	stamps := func(string) (cisco.Stamps, bool) {
		return cisco.Stamps{Config: "c1", Dialplan: "d1", Softkey: "s1"}, true
	}
	run(t, func(o *Options) { o.Stamps = stamps }, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register(`Reason: SIP;cause=200;text="cisco-alarm:25 Name=` + phone + ` Load=x.loads Last=initialized"` + "\n")
		c.expect("boot", burst...)
		d := b.client("2001")
		d.register(`Reason: SIP;cause=200;text="cisco-alarm:14 Name=` + phone + ` Load=x.loads Last=cm-closed-tcp"` + "\n")
		d.expect("take-over", append(slices.Clone(burst), "NOTIFY 2001 service-control action=check-version RegisterCallId={reg-"+d.ID()+"} ConfigVersionStamp={c1} "+
			"DialplanVersionStamp={d1} SoftkeyVersionStamp={s1} FeatureControlVersionStamp={00000000-0000-0000-0000-000000000000}")...)
	})
}

func TestServiceControl(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		ctx := t.Context()
		if err := b.s.ServiceControl(ctx, phone, "restart", nil, false); !errors.Is(err, ErrNotRegistered) {
			t.Errorf("not registered: %v", err)
		}
		if err := b.s.ServiceControl(ctx, "SEP000000000000", "restart", nil, false); !errors.Is(err, ErrUnknownDevice) {
			t.Errorf("unknown: %v", err)
		}
		c := b.client("2001")
		c.register("")
		c.got()
		if err := b.s.ServiceControl(ctx, phone, "restart", nil, false); err != nil {
			t.Error(err)
		}
		zero := "{00000000-0000-0000-0000-000000000000}"
		c.expect("restart", "NOTIFY 2001 service-control action=restart RegisterCallId={reg-"+c.ID()+"} ConfigVersionStamp="+zero+
			" DialplanVersionStamp="+zero+" SoftkeyVersionStamp="+zero+" FeatureControlVersionStamp="+zero)
		b.s.SetLeg("2011", "a", Active)
		if err := b.s.ServiceControl(ctx, phone, "reset", nil, false); !errors.Is(err, ErrInCall) {
			t.Errorf("in a call: %v", err)
		}
		if err := b.s.ServiceControl(ctx, phone, "prt-report", nil, false); err != nil {
			t.Errorf("prt-report in a call: %v", err)
		}
		c.expect("prt-report", "NOTIFY 2001 service-control action=prt-report RegisterCallId={reg-"+c.ID()+"}")
		if err := b.s.ServiceControl(ctx, phone, "reset", nil, true); err != nil {
			t.Errorf("forced: %v", err)
		}
		c.answer(func(*sip.Request) int { return 400 })
		if err := b.s.ServiceControl(ctx, phone, "check-version", nil, true); err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("refused by the phone: %v", err)
		}
		if err := b.s.ServiceControl(ctx, phone, "dance", nil, true); err == nil {
			t.Error("unknown action accepted")
		}
	})
}

func TestSettings(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		ctx := t.Context()
		c := b.client("2001")
		c.register("")
		c.got()
		time.Sleep(time.Minute)
		c.got()
		if err := b.s.SetDND(ctx, phone, true, ByAdmin); err != nil {
			t.Fatal(err)
		}
		c.expect("DND", "REFER 2001 dnd{On:true Reject:true}")
		if err := b.s.SetHuntLogin(ctx, phone, false, ByPlan); err != nil {
			t.Fatal(err)
		}
		c.expect("hunt", "REFER 2001 hunt{On:false}")
		if err := b.s.SetForward(ctx, "2011", "2003", ByPhone); err != nil {
			t.Fatal(err)
		}
		c.expect("forward of the second line, to that line's contact", "REFER 2011 forward{Line:2 Target:2003 ToVoicemail:false}")
		if err := b.s.SetForward(ctx, "2001", "8500", ByPhone); err != nil {
			t.Fatal(err)
		}
		c.expect("to voicemail", "REFER 2001 forward{Line:1 Target:8500 ToVoicemail:true}")
		if err := b.s.SetForward(ctx, "2001", "", ByPhone); err != nil {
			t.Fatal(err)
		}
		c.expect("cleared", "REFER 2001 forward{Line:1 Target: ToVoicemail:false}")
		if d := cmp.Diff(b.store.m, map[string]string{"dnd/" + phone: "yes", "hunt/" + phone: "no", "fwd/2011/all": "2003", "fwd/2001/all": ""}); d != "" {
			t.Error(d)
		}
		if err := b.s.SetForward(ctx, "2001", "2001", ByPhone); !errors.Is(err, ErrForwardLoop) {
			t.Errorf("to itself: %v", err)
		}
		for _, err := range []error{b.s.SetForward(ctx, "7777", "1", ByAdmin), b.s.ResetForward(ctx, "7777", ByAdmin)} {
			if !errors.Is(err, ErrUnknownLine) {
				t.Errorf("unknown line: %v", err)
			}
		}
		for _, err := range []error{b.s.SetDND(ctx, "7777", true, ByAdmin), b.s.SetHuntLogin(ctx, "7777", true, ByAdmin)} {
			if !errors.Is(err, ErrUnknownDevice) {
				t.Errorf("unknown device: %v", err)
			}
		}
		c.expect("after refusals")

		b.store.fail = errors.New("disk full")
		if err := b.s.SetDND(ctx, phone, false, ByAdmin); err == nil || !b.s.DND(phone) {
			t.Errorf("not durable: %v, DND %v", err, b.s.DND(phone))
		}
		c.expect("what is not durable is not shown")
		b.store.fail = nil

		// A new process knows all that.
		again := newBench(t, nil, b.store)
		if !again.s.DND(phone) || again.s.HuntLogin(phone) || again.s.Forward("2011") != "2003" || again.s.Forward("2001") != "" {
			t.Errorf("after a restart: %+v", again.s.Line("2011"))
		}
		// What is declared is only the value before somebody has set one.
		if got := again.s.Forward("2009"); got != "" {
			t.Errorf("forward of 2009 %q", got)
		}
		if err := again.s.ResetForward(ctx, "2011", ByAdmin); err != nil || again.s.Forward("2011") != "8500" {
			t.Errorf("reset: %v, %q", err, again.s.Forward("2011"))
		}
		if again.s.HuntLogin("SEP02AA11BB22C2") || !again.s.HuntLogin("2009") {
			t.Error("hunt login before anybody has set it")
		}
		again.r.Stop()
	})
}

func TestReplicated(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		c.got()
		b.s.Replicated("dnd/"+phone, []byte("yes"), true)
		c.expect("from the other appliance", "REFER 2001 dnd{On:true Reject:true}")
		b.s.Replicated("dnd/"+phone, []byte("yes"), true)
		c.expect("nothing new")
		b.s.Replicated("fwd/2011/all", nil, false)
		c.expect("nothing was set")
		b.s.Replicated("hunt/"+phone, []byte("no"), true)
		c.expect("hunt", "REFER 2001 hunt{On:false}")
		b.s.Replicated("other/x", []byte("no"), true)
	})
}

func pidf(activity string) string {
	return `<presence xmlns="urn:ietf:params:xml:ns:pidf"><person><activities>` + activity + `</activities></person></presence>`
}

func TestPublish(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		w, c := b.client("2001"), b.client("2002")
		w.register("")
		c.register("")
		c.got()
		time.Sleep(time.Minute)
		w.got()
		const me = "<sip:02AA11BB22C2@10.20.0.5>" // a MAC address; what counts is the connection
		publish := func(extra, body string) *sip.Response {
			return c.do("PUBLISH", me, "Event: presence\nExpires: 2147483647\nContent-Type: application/pidf+xml\n"+extra, body)
		}
		res := publish("", pidf("<dnd/>"))
		if res.StatusCode != 200 || transaction.Header(res, "SIP-ETag") != "1" || transaction.Header(res, "Expires") != "3600" || !b.s.DND("SEP02AA11BB22C2") {
			t.Fatalf("answer\n%s", res)
		}
		c.expect("no echo to the phone itself")
		w.expect("watchers", "NOTIFY 2001 2002 dnd open")
		if res := publish("SIP-If-Match: 1\n", ""); res.StatusCode != 200 || transaction.Header(res, "SIP-ETag") != "2" || !b.s.DND("SEP02AA11BB22C2") {
			t.Errorf("refresh\n%s", res)
		}
		for name, tt := range map[string]struct {
			res  *sip.Response
			want int
		}{
			"unknown tag":     {publish("SIP-If-Match: 1\n", pidf("")), 412},
			"no tag, no body": {publish("", ""), 412},
			"no XML":          {publish("", "x"), 400},
			"no person":       {publish("", "<presence/>"), 400},
			"other event":     {c.do("PUBLISH", me, "Event: dialog\n", "x"), 489},
			"no event at all": {c.do("PUBLISH", me, "", "x"), 489},
			"too short":       {c.do("PUBLISH", me, "Event: presence\nExpires: 5\n", pidf("")), 423},
		} {
			if tt.res.StatusCode != tt.want {
				t.Errorf("%s: %d, want %d", name, tt.res.StatusCode, tt.want)
			}
		}
		if !b.s.DND("SEP02AA11BB22C2") {
			t.Error("a refused PUBLISH changed something")
		}
		if res := publish("SIP-If-Match: 2\n", pidf("")); res.StatusCode != 200 || b.s.DND("SEP02AA11BB22C2") {
			t.Errorf("off\n%s", res)
		}
		w.expect("watchers", "NOTIFY 2001 2002 idle open")
		b.store.fail = errors.New("disk full")
		if res := publish("", pidf("<dnd/>")); res.StatusCode != 500 || b.s.DND("SEP02AA11BB22C2") {
			t.Errorf("not durable: %d", res.StatusCode)
		}
	})
}

func TestHuntKey(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		c.got()
		if res := c.do("REFER", "<sip:2001@10.20.0.5>", "Refer-To: cid:1\nRequire: norefersub\n", ""); res.StatusCode != 202 {
			t.Errorf("answer %d", res.StatusCode)
		}
		c.expect("toggled", "REFER 2001 hunt{On:false}")
		if b.s.HuntLogin(phone) || b.store.m["hunt/"+phone] != "no" {
			t.Error("not logged out")
		}
		// Without norefersub the phone waits for the result in the dialog of its REFER.
		res := c.do("REFER", "<sip:2001@10.20.0.5>", "Refer-To: cid:1\n", "")
		synctest.Wait()
		sent := c.Sent()
		if len(sent) != 2 {
			t.Fatalf("%d messages, want REFER and NOTIFY", len(sent))
		}
		n := sent[1].(*sip.Request)
		if n.CallID().Value() != res.CallID().Value() || n.From().Params.GetOr("tag", "") != res.To().Params.GetOr("tag", "!") || n.To().Params.GetOr("tag", "") != "ft" ||
			transaction.Header(n, "Subscription-State") != "terminated;reason=noresource" || !strings.Contains(string(n.Body()), "<code>200</code>") {
			t.Errorf("result:\n%s", n)
		}
	})
}

func TestOffHook(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		w, c := b.client("2001"), b.client("2002")
		w.register("")
		c.register("")
		c.got()
		time.Sleep(time.Minute)
		w.got()
		hook := func(from, entity, state string) int {
			body := string((&cisco.DialogInfo{Entity: entity, Dialogs: []cisco.Dialog{{ID: "x", State: state}}}).Marshal())
			c.line = from
			res := c.do("NOTIFY", "<sip:"+from+"@10.20.0.5>", "Event: dialog\nSubscription-State: active\n", body)
			c.line = "2002"
			return res.StatusCode
		}
		if got := hook("2002", "sip:2002@10.20.0.5", "trying"); got != 200 {
			t.Errorf("answer %d", got)
		}
		w.expect("off-hook", "NOTIFY 2001 2002 on-the-phone open")
		// The INVITE comes, then the phone says that the dial tone has ended.
		b.s.SetLeg("2002", "a", Active)
		hook("2002", "sip:2002@10.20.0.5", "terminated")
		w.expect("no flicker")
		b.s.SetLeg("2002", "a", Idle)
		w.expect("on-hook", "NOTIFY 2001 2002 idle open")
		hook("2002", "sip:2002@10.20.0.5", "terminated")
		hook("2002", "sip:2002@10.20.0.5", "terminated")
		hook("2002", "sip:2002@10.20.0.5", "trying")
		w.expect("never below zero", "NOTIFY 2001 2002 on-the-phone open")
		hook("2002", "sip:2002@10.20.0.5", "terminated")
		w.got()
		for name, tt := range map[string]struct {
			code, want int
		}{
			"unknown line":       {hook("2002", "sip:7777@10.20.0.5", "trying"), 489},
			"another's line":     {hook("2002", "sip:2001@10.20.0.5", "trying"), 489},
			"other state":        {hook("2002", "sip:2002@10.20.0.5", "confirmed"), 200},
			"no XML":             {c.do("NOTIFY", "<sip:2002@10.20.0.5>", "Event: dialog\n", "x").StatusCode, 400},
			"other event":        {c.do("NOTIFY", "<sip:2002@10.20.0.5>", "Event: kpml\n", "x").StatusCode, 489},
			"result of a REFER":  {c.do("NOTIFY", "<sip:2002@10.20.0.5>", "Event: refer;id=1\n", "x").StatusCode, 200},
			"two hook positions": {hook("2002", "sip:2002@10.20.0.5", "trying") + 0, 200},
		} {
			if tt.code != tt.want {
				t.Errorf("%s: %d, want %d", name, tt.code, tt.want)
			}
		}
		w.expect("off-hook again", "NOTIFY 2001 2002 on-the-phone open")
		d := b.client("2002") // the phone reconnects: the counter starts anew
		d.register("")
		w.expect("new registration", "NOTIFY 2001 2002 idle open")
	})
}

func TestConnectionLost(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		w, c := b.client("2001"), b.client("2002")
		w.register("")
		c.register("")
		time.Sleep(time.Minute)
		w.got()
		lose := func(c *client) {
			c.Close(errors.New("reset"))
			b.l.FlowClosed(c, nil)
			b.r.FlowClosed(c)
			b.s.FlowClosed(c)
		}
		lose(c)
		time.Sleep(2 * time.Second)
		d := b.client("2002")
		d.register("")
		time.Sleep(10 * time.Second)
		w.expect("a phone that comes back at once does not flicker")
		lose(d)
		time.Sleep(5 * time.Second)
		w.expect("gone within 5 s", "NOTIFY 2001 2002 idle closed")
		e := b.client("2002")
		e.register("")
		w.expect("back", "NOTIFY 2001 2002 idle open")
	})
}

func TestSubscribe(t *testing.T) {
	mayWatch := func(watcher, number string) bool { return number != "2011" }
	run(t, func(o *Options) { o.MayWatch = mayWatch }, func(t *testing.T, b *bench) {
		c := b.client("2009")
		c.register("")
		subscribe := func(to, extra string) *sip.Response { return c.do("SUBSCRIBE", "<sip:"+to+"@10.20.0.5>", extra, "") }
		for name, tt := range map[string]struct {
			to, extra string
			want      int
		}{
			"number without state":    {"5550100", "Event: presence\n", 404},
			"may not watch":           {"2011", "Event: presence\n", 403},
			"too short":               {"2002", "Event: presence\nExpires: 10\n", 423},
			"unknown event":           {"2002", "Event: kpml\n", 489},
			"no event":                {"2002", "", 489},
			"another's mailbox":       {"2002", "Event: message-summary\n", 403},
			"another's settings":      {"2002", "Event: as-feature-event\n", 403},
			"dialog that is not ours": {"2002>;tag=x", "Event: presence\n", 481},
		} {
			to := tt.to
			if strings.Contains(to, ">") {
				if res := c.do("SUBSCRIBE", "<sip:2002@10.20.0.5>;tag=x", tt.extra, ""); res.StatusCode != tt.want {
					t.Errorf("%s: %d, want %d", name, res.StatusCode, tt.want)
				}
				continue
			}
			if res := subscribe(to, tt.extra); res.StatusCode != tt.want {
				t.Errorf("%s: %d, want %d", name, res.StatusCode, tt.want)
			}
		}
		c.expect("refusals notify nobody")

		res := subscribe("2002", "Event: presence\nAccept: application/cpim-pidf+xml\nExpires: 3600\n")
		if res.StatusCode != 200 || transaction.Header(res, "Expires") != "3600" {
			t.Fatalf("answer\n%s", res)
		}
		synctest.Wait()
		sent := c.Sent()
		if len(sent) != 1 {
			t.Fatalf("%d messages after the 200, want one NOTIFY", len(sent))
		}
		n := sent[0].(*sip.Request)
		if n.From().Params.GetOr("tag", "") != res.To().Params.GetOr("tag", "!") || n.To().Params.GetOr("tag", "") != "ft" || n.CallID().Value() != res.CallID().Value() {
			t.Errorf("the NOTIFY is not in the dialog:\n%s", n)
		}
		if got := transaction.Header(n, "Subscription-State"); got != "active;expires=3600" {
			t.Errorf("Subscription-State %s", got)
		}
		tag := res.To().Params.GetOr("tag", "")
		b.s.SetLeg("2002", "a", Ringing)
		c.expect("change", "NOTIFY 2009 2002 alerting open")
		time.Sleep(30 * time.Minute)
		refresh := "Call-ID: " + res.CallID().Value() + "\nEvent: presence\nExpires: 600\n"
		if res := c.do("SUBSCRIBE", "<sip:2002@10.20.0.5>;tag="+tag, refresh, ""); res.StatusCode != 200 || transaction.Header(res, "Expires") != "600" {
			t.Errorf("refresh\n%s", res)
		}
		c.expect("refresh", "NOTIFY 2009 2002 alerting open")
		time.Sleep(11 * time.Minute)
		c.expect("not renewed", "NOTIFY 2009 2002 alerting open terminated")
		if n := len(b.s.Watchers()); n != 0 || len(b.s.byKey) != 0 || len(b.s.byFlow) != 0 || len(b.s.topics) != 0 {
			t.Errorf("%d watchers left, %d keys, %d flows, %d topics", n, len(b.s.byKey), len(b.s.byFlow), len(b.s.topics))
		}

		subscribe("2002", "Event: presence\nExpires: 0\n")
		c.expect("poll", "NOTIFY 2009 2002 alerting open terminated")
		res = subscribe("2002", "Event: dialog\nExpires: 600\n")
		c.expect("lamps of other vendors", "NOTIFY 2009 dialog early")
		end := "Call-ID: " + res.CallID().Value() + "\nEvent: dialog\nExpires: 0\n"
		c.do("SUBSCRIBE", "<sip:2002@10.20.0.5>;tag="+res.To().Params.GetOr("tag", ""), end, "")
		c.expect("ended", "NOTIFY 2009 dialog early terminated")

		subscribe("2009", "Event: message-summary\nExpires: 600\n")
		c.expect("messages", "NOTIFY 2009 message-summary Messages-Waiting: no Voice-Message: 0/0 (0/0)")
		b.s.SetMessages("2009", 2, 1)
		c.expect("new messages", "NOTIFY 2009 message-summary Messages-Waiting: yes Voice-Message: 2/1 (0/0)")
		b.s.SetMessages("2009", 2, 1)
		c.expect("nothing new")
		c.Close(nil)
		b.s.FlowClosed(c)
		if n := len(b.s.Watchers()); n != 0 {
			t.Errorf("%d watchers after the connection's end", n)
		}
	})
}

func TestSubscriptionsAreBounded(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2009")
		c.register("")
		codes := make(map[int]int)
		for range maxPerFlow + 5 {
			codes[c.do("SUBSCRIBE", "<sip:2002@10.20.0.5>", "Event: presence\nExpires: 600\n", "").StatusCode]++
		}
		if d := cmp.Diff(codes, map[int]int{200: maxPerFlow, 403: 5}); d != "" {
			t.Error(d)
		}
	})
}

func TestMessagesOfCiscoPhone(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		c.got()
		b.s.SetMessages("2011", 2, 0)
		c.expect("lamp of line 2", "NOTIFY 2011 message-summary Messages-Waiting: yes Message-Account: sip:8500@10.20.0.5 Voice-Message: 2/0")
		if u, h := b.s.Messages("2011"); u != 2 || h != 0 {
			t.Errorf("messages %d/%d", u, h)
		}
	})
}

func TestFeatureEvents(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2009")
		c.register("")
		res := c.do("SUBSCRIBE", "<sip:2009@10.20.0.5>", "Event: as-feature-event\nExpires: 600\n", "")
		synctest.Wait()
		n := c.Sent()[0].(*sip.Request)
		parts, err := cisco.Split(transaction.Header(n, "Content-Type"), n.Body())
		if err != nil || len(parts) != 2 {
			t.Fatalf("first NOTIFY: %v\n%s", err, n)
		}
		in := func(body string) *sip.Response {
			return c.do("SUBSCRIBE", "<sip:2009@10.20.0.5>;tag="+res.To().Params.GetOr("tag", ""),
				"Call-ID: "+res.CallID().Value()+"\nEvent: as-feature-event\nExpires: 600\nContent-Type: "+cisco.TypeFeatureEvent+"\n", body)
		}
		event := func(what, want string) {
			t.Helper()
			got := c.got()
			if len(got) != 1 || !strings.Contains(got[0], want) {
				t.Errorf("%s: %q, want %s", what, got, want)
			}
		}
		answer := in(string((&cisco.FeatureEvent{SetDND: &cisco.FeatureDND{Device: "2009", On: true}}).Marshal()))
		if answer.StatusCode != 200 || !strings.Contains(string(answer.Body()), "<SetDoNotDisturbResponse ") || !b.s.DND("2009") {
			t.Errorf("answer\n%s", answer)
		}
		event("DND", "<doNotDisturbOn>true</doNotDisturbOn>")
		answer = in(string((&cisco.FeatureEvent{SetForward: &cisco.FeatureForward{Type: "forwardImmediate", On: true, Target: "2003"}}).Marshal()))
		if answer.StatusCode != 200 || b.s.Forward("2009") != "2003" {
			t.Errorf("answer\n%s", answer)
		}
		event("forward", "<forwardTo>2003</forwardTo>")
		if err := b.s.SetForward(t.Context(), "2009", "", ByAdmin); err != nil {
			t.Fatal(err)
		}
		event("changed at the server", "<forwardStatus>false</forwardStatus>")
		for _, body := range []string{"x", "<Other/>", string((&cisco.FeatureEvent{SetForward: &cisco.FeatureForward{Type: "forwardBusy", On: true, Target: "1"}}).Marshal())} {
			if res := in(body); res.StatusCode != 489 {
				t.Errorf("%.40s: %d", body, res.StatusCode)
			}
		}
		c.do("SUBSCRIBE", "<sip:2009@10.20.0.5>", "Event: as-feature-event\nExpires: 600\n", "")
		if n := len(b.s.Watchers()); n != 1 {
			t.Errorf("%d subscriptions of one line, want the newest only", n)
		}
		p := b.client("2001")
		p.register("")
		p.got()
		p.do("SUBSCRIBE", "<sip:2001@10.20.0.5>", "Event: as-feature-event\nExpires: 600\n", "")
		if got := p.got(); len(got) != 1 || !strings.HasPrefix(got[0], "REFER 2001 bulk") {
			t.Errorf("a Cisco phone gets %q", got)
		}
	})
}

func TestFeed(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		var got []Change
		stop := b.s.Watch(func(c Change) { got = append(got, c) })
		b.s.Watch(func(Change) { panic("a bad listener harms nobody") })
		b.s.SetLeg("2001", "a", Active)
		_ = b.s.SetDND(t.Context(), phone, true, ByPlan)
		_ = b.s.SetForward(t.Context(), "2001", "5", ByAdmin)
		b.s.SetMessages("2001", 1, 0)
		synctest.Wait()
		if d := cmp.Diff(got, []Change{
			{Kind: LineChanged, Line: "2001"}, {Kind: DNDChanged, Device: phone, Origin: ByPlan},
			{Kind: ForwardChanged, Line: "2001", Origin: ByAdmin}, {Kind: MessagesChanged, Line: "2001"},
		}); d != "" {
			t.Error(d)
		}
		stop()
		b.s.SetLeg("2001", "a", Idle)
		synctest.Wait()
		if len(got) != 4 {
			t.Error("told after it had stopped watching")
		}
	})
}

func TestResync(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		if err := b.s.Resync("SEP000000000000"); !errors.Is(err, ErrUnknownDevice) {
			t.Error(err)
		}
		if err := b.s.Resync(phone); !errors.Is(err, ErrNotRegistered) {
			t.Error(err)
		}
		c := b.client("2001")
		c.register("")
		c.got()
		if err := b.s.Resync(phone); err != nil {
			t.Error(err)
		}
		c.expect("resync", burst...)
	})
}

func TestManyWatchersOfOneNumber(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		var all []*client
		for range 500 {
			c := b.client("2009")
			c.register("")
			c.do("SUBSCRIBE", "<sip:2002@10.20.0.5>", "Event: presence\nExpires: 600\n", "")
			all = append(all, c)
		}
		synctest.Wait()
		for _, c := range all {
			c.Sent()
		}
		b.s.SetLeg("2002", "a", Ringing)
		synctest.Wait()
		told := 0
		for _, c := range all {
			told += len(c.Sent())
		}
		if told != 500 {
			t.Errorf("%d watchers told, want 500", told)
		}
	})
}

func TestSelfCheck(t *testing.T) {
	var owned sync.Map
	owned.Store("2002/a", true)
	hasLeg := func(line, leg string) bool { _, ok := owned.Load(line + "/" + leg); return ok }
	run(t, func(o *Options) { o.HasLeg = hasLeg }, func(t *testing.T, b *bench) {
		w, c := b.client("2001"), b.client("2002")
		w.register("")
		c.register("")
		time.Sleep(time.Minute)
		w.got()
		c.got()

		b.s.SetLeg("2002", "a", Active)
		w.expect("in a call", "NOTIFY 2001 2002 on-the-phone open")
		time.Sleep(time.Minute)
		w.expect("an owned leg stays")
		owned.Delete("2002/a")
		time.Sleep(2*checkEvery + time.Second)
		w.expect("a leg without owner goes", "NOTIFY 2001 2002 idle open")

		w.answer(func(*sip.Request) int { return 500 })
		b.s.SetLeg("2002", "b", Ringing)
		owned.Store("2002/b", true)
		w.expect("refused", "NOTIFY 2001 2002 alerting open")
		w.answer(func(*sip.Request) int { return 200 })
		time.Sleep(time.Minute)
		w.expect("sent again until acknowledged", "NOTIFY 2001 2002 alerting open")
		w.answer(func(*sip.Request) int { return 500 })
		b.s.SetLeg("2002", "b", Idle)
		time.Sleep(10 * time.Minute)
		if n := len(w.got()); n != maxTries {
			t.Errorf("%d tries at a phone that refuses, want %d", n, maxTries)
		}
		w.answer(func(*sip.Request) int { return 200 })
		w.register("")
		c.register("")

		b.s.mu.Lock()
		b.s.hook["2002"], b.s.hookSince["2002"] = 1, time.Now()
		delete(b.s.present, "2001")
		b.s.present["2009"] = true
		b.s.mu.Unlock()
		time.Sleep(time.Minute)
		if l := b.s.Line("2001"); !l.Registered {
			t.Error("a registered line shows as absent")
		}
		if l := b.s.Line("2009"); l.Registered {
			t.Error("an absent line shows as registered")
		}
		if l := b.s.Line("2002"); !l.OffHook {
			t.Error("put down too soon")
		}
		time.Sleep(offHookMost)
		if l := b.s.Line("2002"); l.OffHook {
			t.Error("off-hook for ever")
		}
	})
}

func TestRollout(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		a, c := b.client("2001"), b.client("2002")
		a.register("")
		c.register("")
		a.got()
		c.got()
		b.s.SetLeg("2001", "x", Active)
		time.AfterFunc(20*time.Second, func() { b.s.SetLeg("2001", "x", Idle) })
		type result struct {
			device string
			err    error
			at     time.Duration
		}
		var got []result
		started := time.Now()
		devices := []string{phone, "SEP02AA11BB22C2", "SEP000000000000"}
		n, err := b.s.ServiceControlAll(t.Context(), devices, Rollout{
			Action: "restart", Wait: time.Minute, Report: func(d string, err error) { got = append(got, result{d, err, time.Since(started).Round(time.Second)}) },
		})
		want := []result{{"SEP02AA11BB22C2", nil, 0}, {"SEP000000000000", ErrUnknownDevice, 0}, {phone, nil, 20 * time.Second}}
		if n != 2 || err != nil || len(got) != 3 {
			t.Fatalf("%d obeyed, %v: %v", n, err, got)
		}
		for i := range want {
			if got[i].device != want[i].device || !errors.Is(got[i].err, want[i].err) || got[i].at < want[i].at || got[i].at > want[i].at+time.Second {
				t.Errorf("%d: %v, want %v", i, got[i], want[i])
			}
		}
		a.register("")
		b.s.SetLeg("2001", "x", Active)
		got = nil
		if n, _ := b.s.ServiceControlAll(t.Context(), devices[:1], Rollout{Action: "reset", Wait: 5 * time.Second, Report: func(d string, err error) { got = append(got, result{d, err, 0}) }}); n != 0 || len(got) != 1 || !errors.Is(got[0].err, ErrInCall) {
			t.Errorf("a phone that talks on: %v", got)
		}
		if n, _ := b.s.ServiceControlAll(t.Context(), devices[:1], Rollout{Action: "reset", Force: true}); n != 1 {
			t.Errorf("forced: %d", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := b.s.ServiceControlAll(ctx, devices[:1], Rollout{Action: "reset", Wait: time.Hour}); !errors.Is(err, context.Canceled) {
			t.Errorf("interrupted: %v", err)
		}
	})
}

func TestReloadOfKeys(t *testing.T) {
	c := &changing{accounts{watch: []string{"2002"}}}
	run(t, func(o *Options) { o.Accounts = c }, func(t *testing.T, b *bench) {
		p := b.client("2001")
		p.register("")
		p.got()
		time.Sleep(time.Minute)
		p.got()
		b.s.Reload()
		p.expect("nothing changed")
		c.watch = []string{"2009", "2002"}
		b.s.Reload()
		p.expect("a key more", burst[0], "NOTIFY 2001 2009 idle closed", "NOTIFY 2001 2002 idle closed")
		if n := len(b.s.Watchers()); n != 2 {
			t.Errorf("%d watchers, want 2", n)
		}
	})
}

func TestContactURI(t *testing.T) {
	for v, want := range map[string]string{
		"<sip:a@b;transport=tcp>;expires=600;+sip.instance=\"<urn:uuid:1>\"": "sip:a@b;transport=tcp",
		`"x <y> \" z" <sip:a@b>`: "sip:a@b",
		"sip:a@b;q=1":            "sip:a@b",
		"<sip:a@b":               "",
		"":                       "",
	} {
		if got := contactURI(v); got != want {
			t.Errorf("%s: %q, want %q", v, got, want)
		}
	}
}
