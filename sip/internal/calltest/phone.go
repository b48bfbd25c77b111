package calltest

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/media"
	"ringfence/sip/cisco"
	"ringfence/sip/dialog"
	"ringfence/sip/flow"
	"ringfence/sip/registrar"
	"ringfence/sip/sdp"
	"ringfence/sip/transaction"
)

// Phone is a simulated phone.
type Phone struct {
	Number, Device string
	Contact        string
	Codecs         []sdp.Codec
	Security       sdp.Security // of its own offers and answers
	// Answer is how long it rings before it answers; 0 is never.
	Answer time.Duration
	// Refuse is what it answers an INVITE with, instead of ringing.
	Refuse int
	// Stay makes it wait for the server's BYE after a transfer.
	Stay bool
	// Redirect is the Contact of a 302.
	Redirect string
	// Mute makes it ignore INVITEs altogether.
	Mute bool
	// Before an INVITE, UPDATE or other request is answered, with the dialog it belongs to; a code other than 0 is the answer.
	Intercept func(req *sip.Request) int
	// Early is sent as 183 with a description.
	Early bool
	// Extra headers of INVITEs.
	Extra []string
	Plain bool // no UPDATE, no Cisco header: a phone of RFC 3261
	// Audio is where it receives, when that is to be real.
	Audio netip.AddrPort
	// Deaf makes it refuse what the server pushes.
	Deaf bool
	// Model is what it calls itself.
	Model string
	// NoFallback keeps it from announcing X-cisco-srtp-fallback; Suites replaces the names of the suites it offers.
	NoFallback bool
	Suites     string

	w       *World
	flow    *pipe
	layer   *transaction.Layer
	binding *registrar.Binding

	mu          sync.Mutex
	talks       []*Talk
	keys        []*Pressed
	pushed      []string
	pushedAlive []int // calls that it had when each push came
}

// Pressed is a softkey that was pressed, and what the server has told about it since.
type Pressed struct {
	Status  int
	Reports []string // Subscription-State and body of NOTIFYs
	d       *dialog.Dialog
}

// Press presses a softkey in a call.
func (p *Phone) Press(event string, t *Talk, headers ...string) *Pressed {
	x := t.Get()
	return p.PressDialog(event, cisco.DialogID{CallID: x.D.CallID, LocalTag: x.D.Local.Tag, RemoteTag: x.D.Remote.Tag}, headers...)
}

// PressDialog presses a softkey for a call that is named.
func (p *Phone) PressDialog(event string, id cisco.DialogID, headers ...string) *Pressed {
	return p.PressEvent(cisco.SoftkeyEvent{Event: event, Dialog: id}, headers...)
}

// PressEvent sends a softkey event.
func (p *Phone) PressEvent(ev cisco.SoftkeyEvent, headers ...string) *Pressed {
	me, to := sip.Uri{Scheme: "sip", User: p.Number, Host: Server.String()}, sip.Uri{Scheme: "sip", Host: Server.String()}
	k := &Pressed{d: dialog.Outgoing(transaction.NewCallID(p.flow), dialog.Party{URI: me, Tag: transaction.NewTag()}, dialog.Party{URI: to}, to)}
	p.mu.Lock()
	p.keys = append(p.keys, k)
	req := k.d.Request(sip.REFER)
	p.mu.Unlock()
	p.dress(req)
	req.AppendHeader(sip.NewHeader("Refer-To", "cid:3e940001@192.0.2.51"))
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.AppendHeader(sip.NewHeader(name, value))
	}
	body := (&cisco.Request{Softkey: &ev}).Marshal()
	transaction.SetBody(req, cisco.TypeRequest, body)
	p.send(req, k)
	return k
}

// pushedTo takes what the server pushes, and does what a phone does by itself: it resumes a call that it is told to.
func (p *Phone) pushedTo(parts []cisco.Part) int {
	p.mu.Lock()
	if p.Deaf {
		p.mu.Unlock()
		return 481
	}
	alive := 0
	for _, t := range p.talks {
		if t.Ended == "" {
			alive++
		}
	}
	p.pushedAlive = append(p.pushedAlive, alive)
	var resume *Talk
	for _, part := range parts {
		p.pushed = append(p.pushed, string(part.Body))
		var r cisco.Request
		if r.Unmarshal(part.Body) == nil && r.HoldRetrieve != nil {
			for _, t := range p.talks {
				if t.D.CallID == r.HoldRetrieve.Dialog.CallID && t.Ended == "" {
					resume = t
				}
			}
		}
	}
	p.mu.Unlock()
	if resume != nil {
		resume.Resume()
	}
	return 200
}

// Choose sends what the user has chosen in a menu.
func (p *Phone) Choose(application, conf int, choice string) *Pressed {
	me, to := sip.Uri{Scheme: "sip", User: p.Number, Host: Server.String()}, sip.Uri{Scheme: "sip", Host: Server.String()}
	k := &Pressed{d: dialog.Outgoing(transaction.NewCallID(p.flow), dialog.Party{URI: me, Tag: transaction.NewTag()}, dialog.Party{URI: to}, to)}
	p.mu.Lock()
	p.keys = append(p.keys, k)
	req := k.d.Request(sip.REFER)
	p.mu.Unlock()
	p.dress(req)
	req.AppendHeader(sip.NewHeader("Refer-To", "cid:3e940001@192.0.2.51"))
	data := (&cisco.Request{Data: &cisco.DataPassthrough{Application: application, ConfID: conf}}).Marshal()
	ct, body := cisco.Join(cisco.Part{Type: cisco.TypeRequest, Body: data}, cisco.Part{Type: cisco.TypeCM, Body: []byte(choice)})
	transaction.SetBody(req, ct, body)
	p.send(req, k)
	return k
}

func (p *Phone) send(req *sip.Request, k *Pressed) {
	if _, err := p.layer.Request(p.flow, req, func(res *sip.Response, err error) {
		if err == nil && res.StatusCode >= 200 {
			p.mu.Lock()
			k.Status = res.StatusCode
			p.mu.Unlock()
		}
	}); err != nil {
		p.w.T.Error(err)
	}
}

// Told is a safe copy of what a key has led to.
func (p *Phone) Told(k *Pressed) (status int, reports []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return k.Status, append([]string(nil), k.Reports...)
}

// Pushed is what the server has pushed, and how many calls the phone had each time.
func (p *Phone) Pushed() ([]string, []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.pushed...), append([]int(nil), p.pushedAlive...)
}

// Talk is a dialog as the phone sees it.
type Talk struct {
	P       *Phone
	D       *dialog.Dialog
	Neg     *sdp.Negotiation
	Invite  *sip.Request
	client  *transaction.Client
	server  *transaction.Server
	seq     uint32
	Status  int // last answer to our INVITE, or what we answered
	Ended   string
	Shows   string   // last Remote-Party-ID
	Info    string   // last Call-Info
	Reports []string // bodies of NOTIFYs
	refer   uint32
	acked   bool
	tick    chan struct{} // after each answer
}

// Phone plugs a phone in. transport is TCP, TLS or UDP.
func (w *World) Phone(number, transport string, edit ...func(*Phone)) *Phone {
	w.T.Helper()
	device := ""
	if l, ok := w.Doc.Line(number); ok {
		device = l.Phone
	}
	w.mu.Lock()
	w.flows++
	n := w.flows
	w.mu.Unlock()
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(50 + n)}), uint16(50000+n))
	p := &Phone{
		Model: "8851", Number: number, Device: device, w: w, Codecs: sdp.DefaultCodecs(), Answer: 2 * time.Second, Plain: device == "",
		Contact: fmt.Sprintf("sip:8a854224-0000-93da-8e71-6a2796f2%04d@%s;transport=%s", n, at, strings.ToLower(transport)),
	}
	if transport == "TLS" {
		p.Security = sdp.Prefer
	}
	for _, f := range edit {
		f(p)
	}
	p.plug(at, transport, n)
	return p
}

func (p *Phone) plug(at netip.AddrPort, transport string, n int) {
	w := p.w
	port := uint16(5060)
	if transport == "TLS" {
		port = 5061
	}
	toPhone := func(text string, later func(string)) string { return w.note("server", p.Number, text, later) }
	toServer := func(text string, later func(string)) string { return w.note(p.Number, "server", text, later) }
	server, phone, run := connect(w.T, fmt.Sprintf("f%d", n), transport, netip.AddrPortFrom(Server, port), at, toPhone, toServer)
	p.flow = phone
	p.layer = transaction.New(transaction.Options{OnRequest: p.request, OnAck: p.ack})
	target, err := transaction.VerbatimURI(p.Contact)
	if err != nil {
		w.T.Fatal(err)
	}
	p.binding = &registrar.Binding{
		Line: p.Number, Device: p.Device, Index: 1, Contact: target, ContactText: p.Contact, Flow: server, Cisco: p.Device != "",
		Secure: transport == "TLS",
	}
	if !p.Plain {
		p.binding.Supported = []string{"replaces", "x-cisco-callinfo"}
		p.binding.Model = p.Model
	}
	w.mu.Lock()
	w.phones[p.Number] = append(w.phones[p.Number], p)
	w.byFlow[server.id] = p
	w.mu.Unlock()
	run(w.Layer.Receive, p.layer.Receive)
}

// Unplug ends the phone's connection and takes it out of the registrations.
func (p *Phone) Unplug() {
	p.flow.close()
	w := p.w
	w.mu.Lock()
	list := w.phones[p.Number][:0:0]
	for _, x := range w.phones[p.Number] {
		if x != p {
			list = append(list, x)
		}
	}
	w.phones[p.Number] = list
	w.mu.Unlock()
	w.Layer.FlowClosed(p.binding.Flow, flow.ErrRemote)
	p.layer.FlowClosed(p.flow, flow.ErrRemote)
}

func (p *Phone) complain(format string, args ...any) {
	if !p.w.forgiving {
		p.w.T.Errorf(p.Number+": "+format, args...)
	}
}

// Reconnect gives the phone a new connection, as after a cut.
func (p *Phone) Reconnect() {
	at, transport := p.flow.local, p.flow.proto
	p.Unplug()
	p.w.mu.Lock()
	p.w.flows++
	n := p.w.flows
	p.w.mu.Unlock()
	p.plug(netip.AddrPortFrom(at.Addr(), at.Port()+100), transport, n)
}

// Talks are the phone's dialogs, ended ones included.
func (p *Phone) Talks() []*Talk {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*Talk(nil), p.talks...)
}

// Alive counts dialogs that have not ended.
func (p *Phone) Alive() int {
	n := 0
	for _, t := range p.Talks() {
		p.mu.Lock()
		if t.Ended == "" {
			n++
		}
		p.mu.Unlock()
	}
	return n
}

// Last is the newest dialog; the test fails if there is none.
func (p *Phone) Last() *Talk {
	p.w.T.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.talks) == 0 {
		p.w.T.Fatalf("%s has no call", p.Number)
	}
	return p.talks[len(p.talks)-1]
}

// Get reads fields of a talk safely.
func (t *Talk) Get() Talk {
	t.P.mu.Lock()
	defer t.P.mu.Unlock()
	return *t
}

func (p *Phone) local(d media.Direction) sdp.Local {
	at := netip.AddrPortFrom(p.flow.local.Addr(), 17904)
	if p.Audio.IsValid() {
		at = p.Audio
	}
	return sdp.Local{
		Address: at.Addr(), Port: int(at.Port()), Codecs: p.Codecs, Events: true, Direction: d, Security: p.Security,
	}
}

// dress adds the headers of a phone's request or answer.
func (p *Phone) dress(m sip.Message) {
	m.AppendHeader(sip.NewHeader("Contact", "<"+p.Contact+">"))
	if p.Plain {
		return
	}
	m.AppendHeader(sip.NewHeader("Allow", "ACK,BYE,CANCEL,INVITE,NOTIFY,OPTIONS,REFER,REGISTER,UPDATE,SUBSCRIBE,INFO"))
	tags := "replaces,join,sdp-anat,norefersub,X-cisco-callinfo"
	if !p.NoFallback {
		tags += ",X-cisco-srtp-fallback"
	}
	m.AppendHeader(sip.NewHeader("Supported", tags))
}

// Call dials a number.
func (p *Phone) Call(number string) *Talk { return p.call(number, true) }

// Once makes one call, hangs up as soon as it is answered, and waits for the end. It is for benchmarks.
func (p *Phone) Once(number string) error {
	t := p.Call(number)
	for range 5000 {
		switch x := t.Get(); {
		case x.Ended != "":
			return fmt.Errorf("call of %s ended with %s", p.Number, x.Ended)
		case x.D.State == dialog.Confirmed && x.acked:
			over := make(chan int, 1)
			t.request(sip.BYE, nil, func(res *sip.Response) { over <- res.StatusCode })
			code := <-over
			t.end("hung up")
			p.mu.Lock()
			p.talks = p.talks[:0]
			p.mu.Unlock()
			if code != 200 {
				return fmt.Errorf("BYE of %s: %d", p.Number, code)
			}
			return nil
		}
		select {
		case <-t.tick:
		case <-time.After(5 * time.Second):
			return fmt.Errorf("call of %s hangs", p.Number)
		}
	}
	return fmt.Errorf("call of %s goes round", p.Number)
}

// CallWithoutOffer dials with an INVITE without a description.
func (p *Phone) CallWithoutOffer(number string) *Talk { return p.call(number, false) }

func (p *Phone) call(number string, offer bool) *Talk {
	me := sip.Uri{Scheme: "sip", User: p.Number, Host: Server.String()}
	to := sip.Uri{Scheme: "sip", User: number, Host: Server.String()}
	t := &Talk{P: p, Neg: sdp.NewNegotiation(), tick: make(chan struct{}, 100)}
	t.D = dialog.Outgoing(transaction.NewCallID(p.flow), dialog.Party{Name: "anything", URI: me, Tag: transaction.NewTag()}, dialog.Party{URI: to}, to)
	p.mu.Lock()
	p.talks = append(p.talks, t)
	req := t.D.Request(sip.INVITE)
	t.Invite, t.seq = req, req.CSeq().SeqNo
	p.dress(req)
	for _, h := range p.Extra {
		name, value, _ := strings.Cut(h, ": ")
		req.AppendHeader(sip.NewHeader(name, value))
	}
	if offer {
		body := string(t.Neg.Offer(p.local(media.Both)).Marshal())
		if p.Suites != "" {
			for _, s := range media.Suites() {
				body = strings.ReplaceAll(body, s.String(), p.Suites)
			}
		}
		transaction.SetBody(req, "application/sdp", []byte(body))
	}
	p.mu.Unlock()
	ready := make(chan struct{})
	c, err := p.layer.Request(p.flow, req, func(res *sip.Response, err error) {
		if err != nil { // perhaps before Request has returned
			t.end(err.Error())
			return
		}
		<-ready
		t.answered(res)
		select {
		case t.tick <- struct{}{}:
		default:
		}
	})
	p.mu.Lock()
	t.client = c
	p.mu.Unlock()
	close(ready)
	if err != nil {
		p.w.T.Errorf("%s calls: %v", p.Number, err)
		t.end("not sent")
	}
	return t
}

// Raw sends an INVITE as change makes it and tells the final answer.
func (p *Phone) Raw(number string, change func(*sip.Request), done func(code int)) {
	me, to := sip.Uri{Scheme: "sip", User: p.Number, Host: Server.String()}, sip.Uri{Scheme: "sip", User: number, Host: Server.String()}
	d := dialog.Outgoing(transaction.NewCallID(p.flow), dialog.Party{URI: me, Tag: transaction.NewTag()}, dialog.Party{URI: to}, to)
	req := d.Request(sip.INVITE)
	p.dress(req)
	transaction.SetBody(req, "application/sdp", sdp.NewNegotiation().Offer(p.local(media.Both)).Marshal())
	change(req)
	if _, err := p.layer.Request(p.flow, req, func(res *sip.Response, err error) {
		if err == nil && res.StatusCode >= 200 {
			done(res.StatusCode)
		}
	}); err != nil {
		p.w.T.Error(err)
	}
}

func (t *Talk) end(why string) {
	t.P.mu.Lock()
	defer t.P.mu.Unlock()
	if t.Ended == "" {
		t.Ended = why
	}
	t.D.End()
}

func (t *Talk) see(m sip.Message) {
	if v := transaction.Header(m, "Remote-Party-ID"); v != "" {
		t.Shows = v
	}
	if v := transaction.Header(m, "Call-Info"); v != "" {
		t.Info = v
	}
}

// answered takes answers to our INVITE.
func (t *Talk) answered(res *sip.Response) {
	t.P.mu.Lock()
	t.Status = res.StatusCode
	t.see(res)
	_ = t.D.Answered(res)
	over := t.Ended != ""
	t.P.mu.Unlock()
	switch {
	case res.StatusCode < 200:
		return
	case res.StatusCode >= 300:
		t.end(fmt.Sprint(res.StatusCode))
		return
	}
	t.P.mu.Lock()
	ack := t.D.Ack(t.seq)
	if s, err := sdp.Parse(res.Body()); err == nil {
		if t.Neg.Pending() {
			_, err = t.Neg.Accept(s)
		} else {
			var answer *sdp.Session
			if answer, _, err = t.Neg.Answer(s, t.P.local(media.Both)); err == nil {
				transaction.SetBody(ack, "application/sdp", answer.Marshal())
			}
		}
		if err != nil {
			t.P.complain("answer to its INVITE: %v\n%s", err, res.Body())
		}
	}
	client := t.client
	t.acked = true
	t.P.mu.Unlock()
	_ = client.Ack(ack)
	if over {
		t.Bye()
	}
}

// Cancel gives up.
func (t *Talk) Cancel() {
	t.P.mu.Lock()
	c := t.client
	t.P.mu.Unlock()
	c.Cancel()
}

// request sends a request in the dialog and waits for nothing.
func (t *Talk) request(method sip.RequestMethod, f func(*sip.Request), done func(*sip.Response)) {
	t.P.mu.Lock()
	if t.D.State != dialog.Confirmed {
		t.P.mu.Unlock()
		return // no phone lets its user do this
	}
	req := t.D.Request(method)
	if f != nil {
		f(req)
	}
	t.P.mu.Unlock()
	var c *transaction.Client
	var err error
	ready := make(chan struct{})
	c, err = t.P.layer.Request(t.P.flow, req, func(res *sip.Response, err error) {
		if err != nil { // perhaps before Request has returned
			t.end(err.Error())
			return
		}
		<-ready
		switch {
		case res.StatusCode < 200:
			return
		case res.StatusCode == 481 || res.StatusCode == 408:
			t.end(fmt.Sprint(res.StatusCode))
		}
		if method == sip.INVITE && res.StatusCode < 300 {
			t.P.mu.Lock()
			ack := t.D.Ack(req.CSeq().SeqNo)
			t.P.mu.Unlock()
			_ = c.Ack(ack)
		}
		if done != nil {
			done(res)
		}
	})
	close(ready)
	if err != nil {
		t.end(err.Error())
	}
}

// Forget makes the phone forget the call, as after a restart.
func (t *Talk) Forget() { t.end("forgotten") }

// Steal sends a request with the names of a talk that may be another phone's.
func (p *Phone) Steal(t *Talk, method sip.RequestMethod, f func(*sip.Request), done func(*sip.Response)) {
	req := t.D.Request(method)
	if f != nil {
		f(req)
	}
	if _, err := p.layer.Request(p.flow, req, func(res *sip.Response, err error) {
		if err == nil && res.StatusCode >= 200 {
			done(res)
		}
	}); err != nil {
		p.w.T.Error(err)
	}
}

// Stats are what the phone reports with BYE.
const Stats = `Dur=61,Pkt=3050,Oct=488000,LatePkt=2,LostPkt=5,AvgJit=3,VQMetrics="CCR=0.0021;MOScq=4.3010"`

// Bye hangs up.
func (t *Talk) Bye() {
	t.request(sip.BYE, func(req *sip.Request) { req.AppendHeader(sip.NewHeader("RTP-RxStat", Stats)) }, func(*sip.Response) {})
	t.end("hung up")
}

// Hold puts the call on hold; reason may be "", transfer or conference.
func (t *Talk) Hold(reason string) {
	info := "<urn:x-cisco-remotecc:hold>"
	if reason != "" {
		info += "; reason= " + reason
	}
	t.Reinvite(media.Send, info)
}

// Resume takes it back.
func (t *Talk) Resume() { t.Reinvite(media.Both, "<urn:x-cisco-remotecc:resume>") }

// Reinvite offers anew.
func (t *Talk) Reinvite(d media.Direction, info string) {
	t.request(sip.INVITE, func(req *sip.Request) {
		t.P.dress(req)
		if info != "" {
			req.AppendHeader(sip.NewHeader("Call-Info", info))
		}
		transaction.SetBody(req, "application/sdp", t.Neg.Offer(t.P.local(d)).Marshal())
	}, func(res *sip.Response) {
		t.P.mu.Lock()
		defer t.P.mu.Unlock()
		t.Status = res.StatusCode
		t.see(res)
		s, err := sdp.Parse(res.Body())
		if res.StatusCode >= 300 || err != nil {
			t.Neg.Reject()
			return
		}
		if _, err := t.Neg.Accept(s); err != nil {
			t.P.complain("answer to its re-INVITE: %v\n%s", err, res.Body())
		}
	})
}

// Refer transfers the call to a number.
func (t *Talk) Refer(number string, headers ...string) {
	t.referTo("<sip:"+number+"@"+Server.String()+">", headers...)
}

// ReferTo transfers the call to the party of another call of the phone.
func (t *Talk) ReferTo(other *Talk, headers ...string) {
	t.P.mu.Lock()
	// The names as the phone sees them: from-tag is the tag in From of the INVITE, whoever sent it.
	d := other.D
	from, to := d.Local.Tag, d.Remote.Tag
	if !d.Caller() {
		from, to = to, from
	}
	number := d.Remote.URI.User
	replaces := fmt.Sprintf("%s;to-tag=%s;from-tag=%s", d.CallID, to, from)
	t.P.mu.Unlock()
	t.referTo("<sip:"+number+"@"+Server.String()+"?Replaces="+url.QueryEscape(replaces)+">", headers...)
}

func (t *Talk) referTo(target string, headers ...string) {
	t.request(sip.REFER, func(req *sip.Request) {
		t.refer = req.CSeq().SeqNo
		t.P.dress(req)
		if target != "<>" {
			req.AppendHeader(sip.NewHeader("Refer-To", target))
		}
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			req.AppendHeader(sip.NewHeader(name, value))
		}
	}, func(res *sip.Response) {
		t.P.mu.Lock()
		t.Status = res.StatusCode
		t.P.mu.Unlock()
	})
}

// ReferRaw transfers with a Refer-To of the test's own.
func (t *Talk) ReferRaw(target string) { t.referTo(target) }

// Send sends any request in the dialog and gives its answer to done.
func (t *Talk) Send(method sip.RequestMethod, f func(*sip.Request), done func(*sip.Response)) {
	t.request(method, f, done)
}

// find looks for the dialog of a request of the server.
func (p *Phone) find(req *sip.Request) *Talk {
	tag, _ := req.To().Params.Get("tag")
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.talks {
		if t.D.CallID == req.CallID().Value() && t.D.Local.Tag == tag && t.Ended == "" {
			return t
		}
	}
	return nil
}

// request takes requests of the server.
func (p *Phone) request(tx *transaction.Server) {
	req := tx.Request()
	if got := req.Recipient.String(); got != p.Contact {
		// "sip-overview" §3: letter for letter.
		p.w.T.Errorf("%s: request to %s, its Contact is %s", p.Number, got, p.Contact)
		tx.Answer(404)
		return
	}
	if p.Intercept != nil {
		if code := p.Intercept(req); code != 0 {
			tx.Answer(code)
			return
		}
	}
	if _, in := req.To().Params.Get("tag"); !in {
		if req.Method == sip.INVITE {
			p.invited(tx)
		} else {
			tx.Answer(481)
		}
		return
	}
	t := p.find(req)
	if t == nil {
		if req.Method == sip.NOTIFY && p.told(req) {
			tx.Answer(200)
			return
		}
		tx.Answer(481)
		return
	}
	p.mu.Lock()
	err := t.D.Receive(req)
	if err != nil {
		p.mu.Unlock()
		if !p.w.forgiving {
			p.w.T.Errorf("%s: %s: %v", p.Number, req.Method, err)
		}
		tx.Answer(500)
		return
	}
	t.see(req)
	res := tx.Response(200, "")
	p.dress(res)
	switch req.Method {
	case sip.BYE:
		res.AppendHeader(sip.NewHeader("RTP-RxStat", Stats))
	case sip.NOTIFY:
		t.Reports = append(t.Reports, transaction.Header(req, "Event")+" "+transaction.Header(req, "Subscription-State")+" "+strings.TrimSpace(string(req.Body())))
	case sip.INVITE, sip.UPDATE:
		if len(req.Body()) > 0 {
			s, err := sdp.Parse(req.Body())
			var answer *sdp.Session
			if err == nil {
				answer, _, err = t.Neg.Answer(s, p.local(media.Both))
			}
			if err != nil {
				p.mu.Unlock()
				tx.Answer(488)
				return
			}
			transaction.SetBody(res, "application/sdp", answer.Marshal())
		}
	}
	transferred := req.Method == sip.NOTIFY && t.refer != 0 && strings.Contains(string(req.Body()), " 200 ")
	p.mu.Unlock()
	_ = tx.Respond(res)
	if req.Method == sip.BYE {
		t.end("BYE")
	}
	if transferred && !p.Stay {
		t.Bye()
	}
}

// told takes a NOTIFY about a key.
func (p *Phone) told(req *sip.Request) bool {
	tag, _ := req.To().Params.Get("tag")
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.keys {
		if k.d.CallID == req.CallID().Value() && k.d.Local.Tag == tag {
			k.Reports = append(k.Reports, transaction.Header(req, "Subscription-State")+" "+string(req.Body()))
			return true
		}
	}
	return false
}

// invited is a call for the phone.
func (p *Phone) invited(tx *transaction.Server) {
	req := tx.Request()
	if p.Mute {
		return
	}
	if p.Refuse != 0 {
		tx.Answer(p.Refuse)
		return
	}
	if p.Redirect != "" {
		tx.Answer(302, sip.NewHeader("Contact", p.Redirect))
		return
	}
	d, err := dialog.Incoming(req, tx.Tag())
	if err != nil {
		p.w.T.Errorf("%s: INVITE: %v", p.Number, err)
		tx.Answer(400)
		return
	}
	t := &Talk{P: p, D: d, Neg: sdp.NewNegotiation(), Invite: req, server: tx}
	p.mu.Lock()
	t.see(req)
	if p.w.Quiet && len(p.talks) > 32 {
		p.talks = p.talks[len(p.talks)-16:]
	}
	p.talks = append(p.talks, t)
	p.mu.Unlock()
	ring := tx.Response(180, "")
	if p.Early {
		ring = tx.Response(183, "")
		if body, ok := t.describe(); ok {
			transaction.SetBody(ring, "application/sdp", body)
		}
	}
	p.dress(ring)
	_ = tx.Respond(ring)
	tx.OnCancel(func(cancel *sip.Request) {
		t.end("CANCEL " + transaction.Header(cancel, "Reason"))
		tx.Answer(487)
	})
	tx.OnEnd(func(err error) {
		if err != nil && t.Get().Ended == "" {
			t.Bye() // no ACK
		}
	})
	if p.Answer > 0 {
		time.AfterFunc(p.Answer, t.PickUp)
	}
}

func (t *Talk) describe() ([]byte, bool) {
	t.P.mu.Lock()
	defer t.P.mu.Unlock()
	s, err := sdp.Parse(t.Invite.Body())
	if err != nil {
		return nil, false
	}
	if sent := t.Neg.Sent(); sent != nil {
		return sent.Marshal(), true
	}
	answer, _, err := t.Neg.Answer(s, t.P.local(media.Both))
	if err != nil {
		return nil, false
	}
	return answer.Marshal(), true
}

// PickUp answers the call.
func (t *Talk) PickUp() {
	if t.Get().Ended != "" {
		return
	}
	body, ok := t.describe()
	if !ok {
		t.end("488")
		t.server.Answer(488)
		return
	}
	res := t.server.Response(200, "")
	t.P.dress(res)
	transaction.SetBody(res, "application/sdp", body)
	t.P.mu.Lock()
	t.D.Confirm()
	t.Status = 200
	t.P.mu.Unlock()
	_ = t.server.Respond(res)
}

func (p *Phone) ack(_ flow.Flow, ack *sip.Request) {}

// Port is where the server takes the phone's audio.
func (t *Talk) Port() int {
	t.P.mu.Lock()
	defer t.P.mu.Unlock()
	a, _ := t.Neg.Agreed()
	return int(a.Remote.RTP.Port())
}
