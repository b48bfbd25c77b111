package calltest

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/emiago/sipgo/sip"

	"ringfence/media"
	"ringfence/sip/dialog"
	"ringfence/sip/sdp"
	"ringfence/sip/transaction"
)

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

// Get reads fields of a talk safely.
func (t *Talk) Get() Talk {
	t.P.mu.Lock()
	defer t.P.mu.Unlock()
	return *t
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
		if n := transaction.Header(res, "RSeq"); n != "" && t.P.Reliable {
			t.P.mu.Lock()
			if s, err := sdp.Parse(res.Body()); err == nil && t.Neg.Pending() {
				_, _ = t.Neg.Preview(s)
			}
			prack := t.D.Request(sip.PRACK)
			t.P.mu.Unlock()
			prack.AppendHeader(sip.NewHeader("RAck", n+" "+fmt.Sprint(t.seq)+" INVITE"))
			_, _ = t.P.layer.Request(t.P.flow, prack, nil)
		}
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
		} else if req.Method == sip.INVITE {
			transaction.SetBody(res, "application/sdp", t.Neg.Offer(p.local(media.Both)).Marshal())
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

// Port is where the server takes the phone's audio.
func (t *Talk) Port() int {
	t.P.mu.Lock()
	defer t.P.mu.Unlock()
	a, _ := t.Neg.Agreed()
	return int(a.Remote.RTP.Port())
}
