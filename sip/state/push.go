package state

import (
	"fmt"
	"strings"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/cisco"
	"ringfence/sip/flow"
	"ringfence/sip/registrar"
	"ringfence/sip/transaction"
)

// request builds an out-of-dialog request to a phone: Request-URI and To are its Contact verbatim, without a To tag
// (sip-overview.md §3, §6.3). from is the user part of From and Contact.
func request(method sip.RequestMethod, b *registrar.Binding, from string) *sip.Request {
	f := b.Flow
	req := sip.NewRequest(method, b.Contact)
	req.AppendHeader(&sip.FromHeader{
		Address: sip.Uri{Scheme: "sip", User: from, Host: host(f)}, Params: sip.HeaderParams{{K: "tag", V: transaction.NewTag()}},
	})
	req.AppendHeader(&sip.ToHeader{Address: b.Contact})
	req.AppendHeader(sip.NewHeader("Contact", contact(f, from)))
	id := sip.CallIDHeader(transaction.NewCallID(f))
	req.AppendHeader(&id)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: 101, MethodName: method})
	return req
}

// contact is the value of our own Contact header on a flow.
func contact(f flow.Flow, user string) string {
	return fmt.Sprintf("<sip:%s@%s:%d%s>", user, host(f), f.Local().Port(), transportParam(f))
}

// Push sends remotecc requests to a phone in one REFER, several as parts of one body. done, if not nil, gets the answer's
// code, or 0 with an error. Nothing is sent to a binding that is not reachable or no Cisco phone's.
func (s *State) Push(b *registrar.Binding, done func(code int, err error), requests ...cisco.Request) {
	parts := make([]cisco.Part, len(requests))
	for i := range requests {
		parts[i] = cisco.Part{Type: cisco.TypeRequest, Body: requests[i].Marshal()}
	}
	s.PushParts(b, done, parts...)
}

// PushParts is Push for parts of any type: a datapassthrough request goes with an object of the phone's XML interface.
func (s *State) PushParts(b *registrar.Binding, done func(code int, err error), parts ...cisco.Part) {
	if done == nil {
		done = func(int, error) {}
	}
	if b == nil || !b.Cisco || !b.Reachable() {
		done(0, ErrNotRegistered)
		return
	}
	req := request(sip.REFER, b, "server")
	token := transaction.NewTag()
	req.AppendHeader(sip.NewHeader("Require", "norefersub"))
	req.AppendHeader(sip.NewHeader("Refer-To", "cid:"+token))
	req.AppendHeader(sip.NewHeader("Content-Id", token))
	req.AppendHeader(sip.NewHeader("Expires", "0"))
	contentType, body := cisco.Join(parts...)
	transaction.SetBody(req, contentType, body)
	_, err := s.opt.Transactions.Request(b.Flow, req, func(res *sip.Response, err error) {
		switch {
		case err != nil:
			done(0, err)
		case res.StatusCode >= 200:
			if res.StatusCode >= 300 {
				s.opt.Log.Info("REFER refused", "phone", b.Device, "line", b.Line, "code", res.StatusCode,
					"warning", transaction.Header(res, "Warning"))
			}
			done(res.StatusCode, nil)
		}
	})
	if err != nil {
		done(0, err)
	}
}

// FinishRefer tells a phone how its remotecc REFER ended, if it waits for that: without Require: norefersub the REFER made a
// subscription, which one terminating NOTIFY ends (sip-calls.md §1.1 rule 6). code is 200, or 500 for failed. The REFER has been
// answered.
func (s *State) FinishRefer(tx *transaction.Server, code int) {
	req, f := tx.Request(), tx.Flow()
	for h := range transaction.Headers(req, "Require") {
		if strings.Contains(strings.ToLower(h.Value()), "norefersub") {
			return
		}
	}
	target, err := transaction.VerbatimURI(contactURI(transaction.Header(req, "Contact", "m")))
	if err != nil {
		return
	}
	to := sip.HeaderClone(req.From()).(*sip.FromHeader)
	from := sip.HeaderClone(req.To()).(*sip.ToHeader)
	from.Params.Add("tag", tx.Tag())
	n := sip.NewRequest(sip.NOTIFY, target)
	n.AppendHeader(&sip.FromHeader{DisplayName: from.DisplayName, Address: from.Address, Params: from.Params})
	n.AppendHeader(&sip.ToHeader{DisplayName: to.DisplayName, Address: to.Address, Params: to.Params})
	n.AppendHeader(sip.NewHeader("Contact", contact(f, "server")))
	n.AppendHeader(sip.HeaderClone(req.CallID()))
	n.AppendHeader(&sip.CSeqHeader{SeqNo: 101, MethodName: sip.NOTIFY})
	n.AppendHeader(sip.NewHeader("Event", "refer"))
	n.AppendHeader(sip.NewHeader("Subscription-State", "terminated;reason=noresource"))
	transaction.SetBody(n, cisco.TypeResponse, (&cisco.Response{Code: code}).Marshal())
	_, _ = s.opt.Transactions.Request(f, n, nil) // nothing hangs on its answer
}

// pushMessages tells a Cisco phone about a line's mailbox (sip-state.md §7). Its answer is not needed.
func (s *State) pushMessages(line string) {
	unheard, heard := s.Messages(line)
	a, _ := s.opt.Accounts.Line(line)
	for _, b := range s.opt.Registrar.Lookup(line) {
		if !b.Cisco || !b.Reachable() {
			continue
		}
		m := cisco.MessageSummary{New: unheard, Old: heard}
		if a.Voicemail != "" {
			m.Account = "sip:" + a.Voicemail + "@" + host(b.Flow)
		}
		req := request(sip.NOTIFY, b, "server")
		req.AppendHeader(sip.NewHeader("Event", "message-summary"))
		req.AppendHeader(sip.NewHeader("Subscription-State", "active"))
		transaction.SetBody(req, cisco.TypeMessageSummary, m.Marshal())
		_, _ = s.opt.Transactions.Request(b.Flow, req, nil)
	}
}
