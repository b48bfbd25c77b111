package sip

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	sipgo "github.com/emiago/sipgo/sip"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"ringfence/sip/cisco"
	"ringfence/sip/flow"
	"ringfence/sip/internal/siptest"
	"ringfence/sip/registrar"
	"ringfence/sip/transaction"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// declared is a configuration: n phones with lines 1001.. and 2001.. (index 2), the ones from encrypted on in encrypted mode,
// and soft lines 9001...
type declared struct{ n, encrypted int }

func number(base, i int) string { return fmt.Sprint(base + i) }

func name(i int) string { return fmt.Sprintf("SEP0011%08X", i) }

func (d declared) Line(n string) (registrar.Account, bool) {
	var v int
	if _, err := fmt.Sscan(n, &v); err != nil || fmt.Sprint(v) != n {
		return registrar.Account{}, false
	}
	switch {
	case v > 10000 && v <= 10000+d.n:
		return registrar.Account{Number: n, Device: name(v - 10000), Index: 1}, true
	case v > 20000 && v <= 20000+d.n:
		return registrar.Account{Number: n, Device: name(v - 20000), Index: 2}, true
	case v > 90000 && v < 95000:
		return registrar.Account{Number: n, Index: 1}, true
	}
	return registrar.Account{}, false
}

func (d declared) Device(n string) (registrar.DeviceInfo, bool) {
	var i int
	if _, err := fmt.Sscanf(n, "SEP0011%08X", &i); err != nil || i < 1 || i > d.n {
		return registrar.DeviceInfo{}, false
	}
	a, _ := d.Line(number(10000, i))
	b, _ := d.Line(number(20000, i))
	return registrar.DeviceInfo{
		Name: n, Lines: []registrar.Account{a, b}, Watch: []string{number(10000, i%d.n+1), "90001"}, Encrypted: d.encrypted > 0 && i >= d.encrypted,
	}, true
}

type memory struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (s *memory) Get(k string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.m[k]
	return v, ok
}
func (s *memory) Scan(string, func(string, []byte) bool) {}
func (s *memory) Write(_ context.Context, set map[string][]byte, del ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range set {
		s.m[k] = v
	}
	for _, k := range del {
		delete(s.m, k)
	}
	return nil
}

// calls answers every INVITE with 486.
type calls struct {
	mu      sync.Mutex
	from    []string
	acks    int
	control []string
}

func (c *calls) Invite(tx *transaction.Server, id registrar.Identity) {
	c.mu.Lock()
	c.from = append(c.from, id.Line)
	c.mu.Unlock()
	tx.Answer(486)
}
func (c *calls) InDialog(tx *transaction.Server) bool { return false }
func (c *calls) Ack(flow.Flow, *sipgo.Request)        { c.mu.Lock(); c.acks++; c.mu.Unlock() }
func (c *calls) RemoteControl(tx *transaction.Server, id registrar.Identity, r []cisco.Request, cm string) bool {
	if r[0].Softkey == nil || r[0].Softkey.Event != "Park" {
		return false
	}
	c.mu.Lock()
	c.control = append(c.control, id.Line)
	c.mu.Unlock()
	tx.Answer(202)
	return true
}

func certificate(t testing.TB, cn string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func serve(t testing.TB, d declared, change func(*Options)) (*Server, *calls) {
	t.Helper()
	any := netip.MustParseAddrPort("127.0.0.1:0")
	cert := certificate(t, "pbx.example.com")
	o := Options{
		Listen:       []flow.Listen{{Transport: "TCP", Addr: any}, {Transport: "UDP", Addr: any}, {Transport: "TLS", Addr: any}},
		Certificate:  func() (*tls.Certificate, error) { return cert, nil },
		VerifyClient: func(c *x509.Certificate, _ []*x509.Certificate) (string, error) { return c.Subject.CommonName, nil },
		MaxPerSource: 20000, Accounts: d, Password: func(a string) (string, bool) { return "pw" + a, true }, Realm: "pbx.example.com",
		Store: &memory{m: make(map[string][]byte)},
	}
	if change != nil {
		change(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	c := &calls{}
	s.SetCalls(c)
	s.Start()
	t.Cleanup(func() { s.Stop(); s.Stop() })
	return s, c
}

func phone(t testing.TB, s *Server, transport string, i int) *siptest.Phone {
	t.Helper()
	var c *siptest.Conn
	switch transport {
	case "TLS":
		c = siptest.Dial(t, "tcp", s.Addr("TLS").String(), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*certificate(t, name(i))}})
	case "UDP":
		c = siptest.Dial(t, "udp", s.Addr("UDP").String(), nil)
	default:
		c = siptest.Dial(t, "tcp", s.Addr("TCP").String(), nil)
	}
	return &siptest.Phone{
		Conn: c, Line: number(10000, i), Password: "pw" + name(i), Device: name(i), CallID: fmt.Sprintf("0011%08x@%s", i, c.Local()),
		Expires: 3600, UserAgent: "Cisco-CP8851/14.2.1",
	}
}

func softphone(t testing.TB, s *Server, transport, line string) *siptest.Phone {
	p := phone(t, s, transport, 1)
	p.Line, p.Password, p.Device, p.UserAgent, p.CallID = line, "pw"+line, "", "baresip v1.0.0", "soft"+line
	return p
}

// requests takes the next n requests, described by method and event.
func requests(p *siptest.Phone, n int) []string {
	var out []string
	for range n {
		r := p.Request()
		out = append(out, strings.TrimSpace(string(r.Method)+" "+transaction.Header(r, "Event")))
	}
	return out
}

func TestPhonesRegisterAndGetTheirState(t *testing.T) {
	s, _ := serve(t, declared{n: 3, encrypted: 2}, nil)
	for _, tt := range []struct {
		transport string
		i         int
	}{{"TCP", 1}, {"TLS", 2}} {
		p := phone(t, s, tt.transport, tt.i)
		res := p.Register()
		if res.StatusCode != 200 || !strings.HasSuffix(transaction.Header(res, "Supported"), "X-cisco-sis-10.0.0") || transaction.Header(res, "Server") != "Ringfence" {
			t.Fatalf("%s: answer\n%s", tt.transport, res)
		}
		if d := cmp.Diff(requests(p, 3), []string{"REFER", "NOTIFY presence", "NOTIFY presence"}); d != "" {
			t.Errorf("%s: burst\n%s", tt.transport, d)
		}
		l, err := s.Line(number(20000, tt.i))
		if err != nil || !l.Registered || len(l.Contacts) != 1 || !l.Contacts[0].Reachable || l.Contacts[0].Model != "8851" || l.Contacts[0].Transport != tt.transport {
			t.Errorf("%s: second line %+v, %v", tt.transport, l, err)
		}
	}
	if _, err := s.Line("77777"); !errors.Is(err, ErrUnknownLine) {
		t.Errorf("unknown line: %v", err)
	}
}

func TestFirst401DoesNotSayWhoWeAre(t *testing.T) {
	s, _ := serve(t, declared{n: 1}, nil)
	p := phone(t, s, "TCP", 1)
	p.Write(p.Raw("REGISTER", "sip:pbx.example.com", "sip:"+p.Line+"@pbx.example.com", "Expires: 3600\n", ""))
	if res := p.Response(); res.StatusCode != 401 || transaction.Header(res, "Supported") != "" {
		t.Errorf("answer\n%s", res)
	}
}

func TestLampsBetweenPhones(t *testing.T) {
	s, _ := serve(t, declared{n: 2}, nil)
	a, b := phone(t, s, "TCP", 1), phone(t, s, "TCP", 2)
	a.Register()
	requests(a, 3)
	b.Register()
	next := func(what string, want cisco.Activity, open bool) {
		t.Helper()
		r := a.Request()
		var p cisco.Presence
		if err := p.Unmarshal(r.Body()); err != nil || p.Activity != want || p.Open != open || r.From().Address.User != b.Line {
			t.Errorf("%s: %v\n%s", what, err, r)
		}
	}
	next("registered", cisco.Idle, true)
	requests(b, 3)

	hook := func(state string) {
		body := string((&cisco.DialogInfo{Entity: "sip:" + b.Line + "@x", Dialogs: []cisco.Dialog{{ID: "1", State: state}}}).Marshal())
		if res := b.Do("NOTIFY", "sip:"+b.Line+"@127.0.0.1", "sip:"+b.Line+"@127.0.0.1", "Event: dialog\nSubscription-State: active\n", body); res.StatusCode != 200 {
			t.Errorf("off-hook: %d", res.StatusCode)
		}
	}
	hook("trying")
	next("off-hook", cisco.OnThePhone, true)
	hook("terminated")
	next("on-hook", cisco.Idle, true)

	dnd := `<presence><person><activities><dnd/></activities></person></presence>`
	if res := b.Do("PUBLISH", "sip:001100000002@127.0.0.1", "sip:001100000002@127.0.0.1", "Event: presence\nExpires: 3600\n", dnd); res.StatusCode != 200 {
		t.Errorf("PUBLISH: %d", res.StatusCode)
	}
	next("DND", cisco.DoNotDisturb, true)
	started := time.Now()
	if err := s.State().SetDND(t.Context(), b.Device, false, "admin"); err != nil {
		t.Fatal(err)
	}
	if r := b.Request(); r.Method != sipgo.REFER || !strings.Contains(string(r.Body()), "<state>disable</state>") {
		t.Errorf("DND from the server:\n%s", r)
	}
	next("DND off", cisco.Idle, true)
	if took := time.Since(started); took > 500*time.Millisecond {
		t.Errorf("echo took %v", took)
	}
	s.State().SetLeg(b.Line, "x", 1)
	next("rings", cisco.Alerting, true)

	s.State().SetLeg(b.Line, "x", 0)
	next("rings no more", cisco.Idle, true)
	b.Close()
	started = time.Now()
	next("gone", cisco.Idle, false)
	if took := time.Since(started); took > 6*time.Second {
		t.Errorf("lamp went out after %v", took)
	}
}

// TestStrangersChangeNothing covers rule 6: REFER, PUBLISH and NOTIFY count only on the live connection of a registration.
func TestStrangersChangeNothing(t *testing.T) {
	s, c := serve(t, declared{n: 1}, nil)
	p := phone(t, s, "TCP", 1)
	p.Register()
	requests(p, 3)
	softkey := func(key string) string {
		return string((&cisco.Request{Softkey: &cisco.SoftkeyEvent{Event: key}}).Marshal())
	}
	refer := "Refer-To: cid:1\nRequire: norefersub\nContent-Type: " + cisco.TypeRequest + "\n"
	hook := string((&cisco.DialogInfo{Entity: "sip:" + p.Line + "@x", Dialogs: []cisco.Dialog{{ID: "1", State: "trying"}}}).Marshal())
	dnd := `<presence><person><activities><dnd/></activities></person></presence>`
	strangers := map[string]*siptest.Phone{"TCP": phone(t, s, "TCP", 1), "UDP": phone(t, s, "UDP", 1), "TLS": phone(t, s, "TLS", 1)}
	for transport, x := range strangers {
		to := "sip:" + p.Line + "@127.0.0.1"
		for what, res := range map[string]*sipgo.Response{
			"REFER HLog":  x.Do("REFER", to, to, refer, softkey("HLog")),
			"REFER Park":  x.Do("REFER", to, to, refer, softkey("Park")),
			"REFER other": x.Do("REFER", to, to, "Refer-To: <sip:9@x>\n", ""),
			"PUBLISH":     x.Do("PUBLISH", to, to, "Event: presence\n", dnd),
			"NOTIFY":      x.Do("NOTIFY", to, to, "Event: dialog\nSubscription-State: active\n", hook),
		} {
			if res.StatusCode != 403 {
				t.Errorf("%s over %s from a stranger: %d", what, transport, res.StatusCode)
			}
		}
	}
	st := s.State().Line(p.Line)
	if st.DND || st.OffHook || s.State().HuntLogin(p.Device) || len(c.control) != 0 {
		t.Errorf("a stranger changed something: %+v, %v", st, c.control)
	}
	p.Quiet(50 * time.Millisecond)

	to := "sip:" + p.Line + "@127.0.0.1"
	if res := p.Do("REFER", to, to, refer, softkey("HLog")); res.StatusCode != 202 || !s.State().HuntLogin(p.Device) {
		t.Errorf("the phone itself: %d", res.StatusCode)
	}
	if r := p.Request(); !strings.Contains(string(r.Body()), "<status>on</status>") {
		t.Errorf("hunt login:\n%s", r)
	}
	if res := p.Do("REFER", to, to, refer, softkey("Park")); res.StatusCode != 202 || len(c.control) != 1 {
		t.Errorf("Park: %d, %v", res.StatusCode, c.control)
	}
	for what, body := range map[string]string{"unknown key": softkey("Dance"), "no XML": "x"} {
		if res := p.Do("REFER", to, to, refer, body); res.StatusCode != 603 {
			t.Errorf("%s: %d", what, res.StatusCode)
		}
	}
	// When the connection is gone, so is what it may do.
	p.Close()
	x := phone(t, s, "TCP", 1)
	if res := x.Do("PUBLISH", to, to, "Event: presence\n", dnd); res.StatusCode != 403 {
		t.Errorf("PUBLISH from a new connection: %d", res.StatusCode)
	}
}

func TestRepeatedKeyTogglesOnce(t *testing.T) {
	s, _ := serve(t, declared{n: 1}, nil)
	p := phone(t, s, "TCP", 1)
	p.Register()
	requests(p, 3)
	to := "sip:" + p.Line + "@127.0.0.1"
	raw := p.Raw("REFER", to, to, "Refer-To: cid:1\nContent-Type: "+cisco.TypeRequest+"\n", string((&cisco.Request{Softkey: &cisco.SoftkeyEvent{Event: "HLog"}}).Marshal()))
	p.Write(raw)
	first := p.Final()
	p.Write(strings.Replace(raw, "branch=z9hG4bK", "branch=z9hG4bKagain", 1))
	second := p.Final()
	if first.StatusCode != 202 || second.StatusCode != 202 || !s.State().HuntLogin(p.Device) {
		t.Errorf("answers %d, %d; logged in %v", first.StatusCode, second.StatusCode, s.State().HuntLogin(p.Device))
	}
}

func TestDispatch(t *testing.T) {
	s, c := serve(t, declared{n: 1}, nil)
	p := softphone(t, s, "UDP", "90001")
	if res := p.Register(); res.StatusCode != 200 {
		t.Fatalf("softphone: %d", res.StatusCode)
	}
	to := "sip:10001@127.0.0.1"
	for _, tt := range []struct {
		method, uri, to, extra string
		want                   int
	}{
		{"OPTIONS", to, to, "", 200},
		{"INVITE", to, to, "", 486},
		{"INVITE", to, to + ">;tag=x<", "", 481},
		{"BYE", to, to, "", 481},
		{"MESSAGE", to, to, "", 405},
		{"DANCE", to, to, "", 501},
		{"INVITE", "http://x", to, "", 416},
		{"INVITE", to, to, "Require: nothingSupportsThis, nothingSupportsThisEither\n", 420},
		{"SUBSCRIBE", to, to, "Event: presence\n", 200},
		{"SUBSCRIBE", to, to + ">;tag=x<", "Event: presence\n", 481},
		{"NOTIFY", to, to, "Event: presence\n", 489},
		{"PUBLISH", to, to, "Event: message-summary\n", 489},
		{"REFER", to, to, "Refer-To: <sip:1@x>\n", 603},
	} {
		if res := p.Do(tt.method, tt.uri, strings.TrimSuffix(tt.to, "<"), tt.extra, ""); res.StatusCode != tt.want {
			t.Errorf("%s %s: %d, want %d", tt.method, tt.uri, res.StatusCode, tt.want)
		} else if tt.want == 420 && transaction.Header(res, "Unsupported") != "nothingSupportsThis, nothingSupportsThisEither" {
			t.Errorf("420 without its tags:\n%s", res)
		}
	}
	if d := cmp.Diff(c.from, []string{"90001"}); d != "" {
		t.Error(d)
	}
}

func TestStandbyKeepAlive(t *testing.T) {
	s, _ := serve(t, declared{n: 1}, nil)
	p := phone(t, s, "TCP", 1)
	p.Write(fmt.Sprintf("REGISTER sip:x SIP/2.0\nVia: SIP/2.0/TCP %s;branch=z9hG4bKka\nFrom: <sip:%s@x>;tag=1\nTo: <sip:%s@x>\nCall-ID: ka\nCSeq: 1 REGISTER\n"+
		"Contact: <sip:%s@%s;transport=tcp>;cisco-keep-alive;expires=0\nExpires: 0\n", p.Local(), p.Line, p.Line, p.Line, p.Local()))
	if res := p.Final(); res.StatusCode != 200 || transaction.Header(res, "Contact") != "" {
		t.Errorf("answer\n%s", res)
	}
	p.Quiet(50 * time.Millisecond)
	if l, _ := s.Line(p.Line); l.Registered {
		t.Error("a keep-alive registered the phone")
	}
}

// TestPowerCut is the small version of a storm: all phones come at once, with their bursts, and nobody is refused.
func TestPowerCut(t *testing.T) {
	n := 300
	if testing.Short() {
		n = 50
	}
	s, _ := serve(t, declared{n: n}, nil)
	var wg sync.WaitGroup
	started := time.Now()
	for i := 1; i <= n; i++ {
		wg.Go(func() {
			p := phone(t, s, "TCP", i)
			if res := p.Register(); res.StatusCode != 200 {
				t.Errorf("phone %d: %d", i, res.StatusCode)
				return
			}
			for range 3 {
				p.Request()
			}
		})
	}
	wg.Wait()
	t.Logf("%d phones with burst in %v", n, time.Since(started))
	registered := 0
	for i := 1; i <= n; i++ {
		if l, _ := s.Line(number(20000, i)); l.Registered {
			registered++
		}
	}
	if registered != n {
		t.Errorf("%d of %d registered", registered, n)
	}
}

type local struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (l *local) Put(b, k string, v []byte) { l.mu.Lock(); l.m[b+"/"+k] = v; l.mu.Unlock() }
func (l *local) Delete(b, k string)        { l.mu.Lock(); delete(l.m, b+"/"+k); l.mu.Unlock() }
func (l *local) Scan(b, prefix string, fn func(string, []byte) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, v := range l.m {
		if rest, ok := strings.CutPrefix(k, b+"/"); ok && strings.HasPrefix(rest, prefix) && !fn(rest, v) {
			return
		}
	}
}

// TestRestart: a phone on UDP is reached after a restart without doing anything, one on TCP gets its burst when it is back.
func TestRestart(t *testing.T) {
	kept := &local{m: make(map[string][]byte)}
	s, _ := serve(t, declared{n: 1}, func(o *Options) { o.Local = kept })
	udp, tcp := softphone(t, s, "UDP", "90001"), phone(t, s, "TCP", 1)
	udp.Register()
	tcp.Register()
	requests(tcp, 3)
	ports := []flow.Listen{{Transport: "TCP", Addr: s.Addr("TCP")}, {Transport: "UDP", Addr: s.Addr("UDP")}}
	s.Stop()
	tcp.Closed()

	again, _ := serve(t, declared{n: 1}, func(o *Options) { o.Local, o.Listen = kept, ports })
	if l, err := again.Line("90001"); err != nil || !l.Registered || !l.Contacts[0].Reachable {
		t.Fatalf("softphone after the restart: %+v, %v", l, err)
	}
	l, err := again.Line("20001")
	if err != nil || !l.Registered || l.Contacts[0].Reachable {
		t.Errorf("phone after the restart: %+v, %v", l, err)
	}
	b := again.Registrar().Lookup("90001")[0]
	req := sipgo.NewRequest(sipgo.OPTIONS, b.Contact)
	req.AppendHeader(&sipgo.FromHeader{Address: b.Contact, Params: sipgo.HeaderParams{{K: "tag", V: "x"}}})
	req.AppendHeader(&sipgo.ToHeader{Address: b.Contact})
	id := sipgo.CallIDHeader("after")
	req.AppendHeader(&id)
	req.AppendHeader(&sipgo.CSeqHeader{SeqNo: 1, MethodName: sipgo.OPTIONS})
	answered := make(chan int, 1)
	if _, err := again.Transactions().Request(b.Flow, req, func(res *sipgo.Response, err error) {
		if err != nil {
			t.Error(err)
		} else {
			answered <- res.StatusCode
		}
	}); err != nil {
		t.Fatal(err)
	}
	if code := <-answered; code != 200 {
		t.Errorf("softphone answered %d", code)
	}
	back := phone(t, again, "TCP", 1)
	if res := back.Register(); len(res.Body()) == 0 {
		t.Errorf("back without negotiation:\n%s", res)
	}
	requests(back, 3)
	again.Reload()
}
