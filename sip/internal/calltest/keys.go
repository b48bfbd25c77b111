package calltest

import (
	"strings"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/cisco"
	"ringfence/sip/dialog"
	"ringfence/sip/transaction"
)

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

// PressTwo presses a softkey that names two calls.
func (p *Phone) PressTwo(event string, t, second *Talk, headers ...string) *Pressed {
	id := func(t *Talk) cisco.DialogID {
		d := t.Get().D
		return cisco.DialogID{CallID: d.CallID, LocalTag: d.Local.Tag, RemoteTag: d.Remote.Tag}
	}
	return p.PressEvent(cisco.SoftkeyEvent{Event: event, Dialog: id(t), Consult: id(second)}, headers...)
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
