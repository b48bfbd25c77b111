package calltest

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/media"
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
	// Rewrite, if set, changes the first answer to an INVITE; one with a final code is all there is.
	Rewrite func(req *sip.Request, res *sip.Response)
	// Supported are further tags that it has registered with.
	Supported []string
	// Reliable makes it send provisional answers reliably, and acknowledge those that it gets (RFC 3262).
	Reliable bool
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
	p.binding.Supported = append(p.binding.Supported, p.Supported...)
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

// Address is the phone's own.
func (p *Phone) Address() netip.Addr { return p.flow.local.Addr() }

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
	if p.Rewrite != nil {
		res := tx.Response(180, "")
		if p.Rewrite(req, res); res.StatusCode >= 300 {
			_ = tx.Respond(res)
			return
		}
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
	if p.Reliable {
		ring.AppendHeader(sip.NewHeader("Require", "100rel"))
		ring.AppendHeader(sip.NewHeader("RSeq", "4711"))
	}
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

// ack takes the answer to an offer that the phone has made in a 200.
func (p *Phone) ack(_ flow.Flow, ack *sip.Request) {
	t := p.find(ack)
	s, err := sdp.Parse(ack.Body())
	if t == nil || err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !t.Neg.Pending() {
		return
	}
	if _, err := t.Neg.Accept(s); err != nil {
		p.complain("answer in ACK: %v\n%s", err, ack.Body())
	}
}
