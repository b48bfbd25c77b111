package call

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/media"
	"ringfence/sip/dialog"
	"ringfence/sip/plan"
	"ringfence/sip/sdp"
	"ringfence/sip/transaction"
)

// This file begins legs: an incoming one is answered, an outgoing one is asked.

// replyWithin is how long a phone may take for any answer to an INVITE before it counts as unreachable ("dialplan" §3 rule 3).
const replyWithin = 5 * time.Second

// ring tells a waiting caller how far the call is: 180, 181 or 183.
func (l *Leg) ring(code int, headers ...sip.Header) {
	if !l.waiting() {
		return
	}
	res := l.invite.Response(code, "")
	l.dress(res)
	for _, h := range headers {
		res.AppendHeader(h)
	}
	l.shown = l.display()
	l.state = ringing
	if l.provide(res) != nil {
		l.log.Debug("caller is gone", "peer", l.current().Remote().String())
	}
}

// preview answers a waiting caller's offer before the call is answered, so that it hears what the other end plays.
func (l *Leg) preview(codec sdp.Codec, ptime int) bool {
	if !l.waiting() || l.offer == nil || l.early {
		return false
	}
	body, err := l.answerOffer(codec, ptime)
	if err != nil {
		return false
	}
	l.early = true
	res := l.invite.Response(183, "")
	l.dress(res)
	transaction.SetBody(res, typeSDP, body)
	l.shown = l.display()
	l.state = ringing
	_ = l.provide(res)
	return true
}

const typeSDP = "application/sdp"

// answerOffer answers the offer of the INVITE with one codec.
func (l *Leg) answerOffer(codec sdp.Codec, ptime int) ([]byte, error) {
	if err := l.openMedia(); err != nil {
		return nil, err
	}
	answer, agreed, err := l.neg.Answer(l.offer, l.local([]sdp.Codec{codec}, ptime))
	if err != nil {
		return nil, err
	}
	if err := l.apply(agreed); err != nil {
		return nil, err
	}
	return answer.Marshal(), nil
}

// prepare agrees on the media of a waiting caller, so that accept can only succeed. Without an offer in the INVITE ours is
// made, and its answer comes with the ACK (RFC 3261 §14.2).
func (l *Leg) prepare(codec sdp.Codec, ptime int) ([]byte, error) {
	if a, ok := l.neg.Agreed(); ok && l.early && a.Codec == codec {
		return l.neg.Sent().Marshal(), nil
	}
	if l.offer != nil {
		return l.answerOffer(codec, ptime)
	}
	if err := l.openMedia(); err != nil {
		return nil, err
	}
	return l.neg.Offer(l.local([]sdp.Codec{codec}, ptime)).Marshal(), nil
}

// accept answers a waiting caller with 200.
func (l *Leg) accept(body []byte) {
	res := l.invite.Response(200, "")
	l.dress(res)
	l.timersAccept(l.invite.Request(), res)
	transaction.SetBody(res, typeSDP, body)
	l.state = answering
	l.answered = time.Now()
	l.d.Confirm()
	l.shown = l.display()
	l.acking = l.invite
	if l.prov.waiting = nil; l.prov.out != nil && len(l.prov.out.Body()) > 0 {
		l.prov.final = res
	} else {
		l.prov.out = nil
		l.sendFinal(res)
	}
	l.report()
}

func (l *Leg) sendFinal(res *sip.Response) {
	if err := l.invite.Respond(res); err != nil {
		// Its CANCEL has won; the event is on its way.
		l.log.Debug("caller is gone", "err", err)
	}
}

// reject refuses a waiting caller.
func (l *Leg) reject(code int, headers ...sip.Header) {
	if !l.waiting() {
		return
	}
	l.why = strconv.Itoa(code)
	res := l.invite.Response(code, "")
	l.dress(res)
	for _, h := range headers {
		res.AppendHeader(h)
	}
	_ = l.invite.Respond(res)
	l.finish()
}

// cancelled: the caller has given up.
func (l *Leg) cancelled() {
	if l.prov.final != nil { // answered, but it was not told yet
		l.why = "cancelled"
		l.giveUp(487)
		return
	}
	if !l.waiting() {
		return // it was answered before the CANCEL came; a BYE will follow
	}
	l.why = "cancelled"
	_ = l.invite.Respond(l.invite.Response(487, ""))
	h := l.h
	h.canceled(l)
	l.finish()
}

// inviteLost: an INVITE of the phone ended without its ACK, or with its connection.
func (l *Leg) inviteLost(tx *transaction.Server) {
	switch {
	case tx == l.invite && l.waiting():
		l.why = "connection lost"
		l.h.canceled(l)
		l.finish()
	case tx == l.acking:
		// RFC 3261 §13.3.1.4: the dialog is up, but the phone did not say so.
		l.acking = nil
		l.why = "no ACK"
		l.h.ended(l)
		if l.state == answering {
			l.state = up
		}
		l.Hangup()
	}
}

// start asks the phone of an outgoing leg.
func (l *Leg) start(spec inviteSpec) error {
	l.spec = spec
	if err := l.openMedia(); err != nil {
		return err
	}
	f := spec.binding.Flow
	host := l.host()
	from := dialog.Party{Name: l.peer.Name, URI: sip.Uri{Scheme: "sip", User: l.peer.Number, Host: host.String()}, Tag: transaction.NewTag()}
	if l.peer.Restricted {
		from.Name, from.URI = "Anonymous", sip.Uri{Scheme: "sip", User: "anonymous", Host: "anonymous.invalid"}
	}
	l.d = dialog.Outgoing(transaction.NewCallID(f), from, dialog.Party{URI: spec.binding.Contact}, spec.binding.Contact)
	if l.spec.binding.Supports("x-cisco-srtp-fallback") {
		l.d.Supported = map[string]bool{"x-cisco-srtp-fallback": true}
	}
	l.mu.Lock()
	l.callID, l.localTag, l.remoteTag = l.d.CallID, from.Tag, ""
	l.mu.Unlock()
	if !l.m.addDialog(l) {
		return errors.New("dialog exists")
	}
	req := l.d.Request(sip.INVITE)
	l.inviteSeq = req.CSeq().SeqNo
	l.dress(req)
	for _, v := range spec.diversions {
		req.AppendHeader(diversionHeader(v, host, l.Cisco))
	}
	if spec.autoAnswer && !l.Cisco {
		req.AppendHeader(sip.NewHeader("Alert-Info", "<http://ringfence.invalid>;info=alert-autoanswer"))
		req.AppendHeader(sip.NewHeader("Call-Info", "<"+uri(l.Line.Number, host)+">;answer-after=0"))
	}
	local := l.local(spec.codecs, spec.ptime)
	if t := spec.tap; t != nil {
		req.AppendHeader(sip.NewHeader("Join", t.join))
		local.Direction, local.Events, local.Label = media.Inactive, false, t.label
	} else {
		l.timersOffer(req)
	}
	transaction.SetBody(req, typeSDP, l.neg.Offer(local).Marshal())
	l.shown = l.display()
	c, err := l.m.opt.Transactions.Request(f, req, l.onInvite(l.d))
	if err != nil {
		return fmt.Errorf("INVITE to %s: %w", l.Line.Number, err)
	}
	l.client = c
	l.after(&l.noReply, replyWithin, func() { l.unanswered() })
	return nil
}

// onInvite returns the transaction's handler. An event of an INVITE that was replaced by another attempt is dropped.
func (l *Leg) onInvite(d *dialog.Dialog) func(*sip.Response, error) {
	return func(res *sip.Response, err error) {
		l.hearTag(res)
		l.post(func() {
			if l.d == d {
				l.invited(res, err)
			}
		})
	}
}

// invited takes an answer to our INVITE.
func (l *Leg) invited(res *sip.Response, err error) {
	if l.state == down {
		return
	}
	l.noReply.stop()
	switch {
	case err != nil:
		l.fails(failure{cause: plan.Unreachable})
	case res.StatusCode < 200:
		l.progress(res)
	case res.StatusCode < 300:
		l.picked(res)
	case res.StatusCode < 400:
		f := failure{cause: plan.Unreachable, code: res.StatusCode}
		if u, err := dialog.Contact(res); err == nil {
			f.target = u.User
		}
		l.fails(f)
	case res.StatusCode == 488 && (l.tryMore() || l.tryPlain()):
	case res.StatusCode == 422 && l.tryLonger(res):
	default:
		l.logRefusal(res)
		l.fails(failure{cause: causeOf(res.StatusCode), code: res.StatusCode})
	}
}

// unanswered: the phone said nothing at all. The INVITE is withdrawn as soon as it says something.
func (l *Leg) unanswered() {
	if l.state != calling {
		return
	}
	l.log.Info("phone does not answer", "phone", l.Device, "took", replyWithin)
	h := l.h
	l.withdraw()
	h.failed(l, failure{cause: plan.Unreachable})
}

// causeOf tells which rule of the line a refusal calls for ("dialplan" §3, "sip-calls" §2.2).
func causeOf(code int) plan.Cause {
	switch code {
	case 486, 600, 603:
		return plan.Busy
	case 480, 487:
		return plan.NoAnswer
	}
	return plan.Unreachable
}

// logRefusal keeps the phone's own words ("sip-overview" §5): they name the reason.
func (l *Leg) logRefusal(res *sip.Response) {
	if w := transaction.Header(res, "Warning"); w != "" {
		l.log.Info("phone refused the call", "phone", l.Device, "err", w)
	}
}

// tryPlain asks again without encryption, if that was what the phone could not do and the policy allows it.
func (l *Leg) tryPlain() bool {
	if l.state == ending || l.protection() != sdp.Prefer {
		return false
	}
	l.plain = true
	return l.again()
}

// tryMore asks again with all codecs that can be turned into one of the caller's.
func (l *Leg) tryMore() bool {
	if l.state == ending || l.spec.more == nil {
		return false
	}
	l.spec.codecs, l.spec.more = l.spec.more, nil
	return l.again()
}

// tryLonger asks again with the session interval that the phone insists on (RFC 4028 §7.3).
func (l *Leg) tryLonger(res *sip.Response) bool {
	d := minSE(res)
	if l.state == ending || d <= l.offers() || d > maxSession {
		return false
	}
	l.longer = d
	return l.again()
}

func (l *Leg) again() bool {
	l.neg.Reject()
	l.prov = provisional{}
	l.m.removeDialog(l)
	l.d.End()
	l.state = calling
	if err := l.start(l.spec); err != nil {
		l.log.Info("second attempt", "phone", l.Device, "err", err)
		return false
	}
	return true
}

func (l *Leg) progress(res *sip.Response) {
	if err := l.d.Answered(res); err != nil || res.StatusCode == 100 {
		return
	}
	l.noteTag()
	if !l.prack(res) {
		return
	}
	if l.state == calling {
		l.state = ringing
		l.report()
	}
	if l.state != ringing {
		return
	}
	if len(res.Body()) > 0 {
		if s, err := sdp.Parse(res.Body()); err == nil {
			if a, err := l.neg.Preview(s); err == nil {
				_ = l.apply(a)
			}
		}
	}
	l.h.ringing(l, res.StatusCode)
}

// hearTag makes the phone's tag known in the order of its connection, ahead of what the leg's owner makes of the answer: a key that is
// pressed while it begins to ring names it. Events of that key are then behind the answer in the leg's queue.
func (l *Leg) hearTag(res *sip.Response) {
	if res == nil || res.StatusCode <= 100 || res.StatusCode >= 300 || res.From() == nil || res.To() == nil {
		return
	}
	from, _ := res.From().Params.Get("tag")
	to, _ := res.To().Params.Get("tag")
	l.mu.Lock()
	if l.localTag == from && l.remoteTag == "" {
		l.remoteTag = to
	}
	l.mu.Unlock()
}

// noteTag makes the phone's tag known to those who look for the dialog.
func (l *Leg) noteTag() {
	l.mu.Lock()
	l.remoteTag = l.d.Remote.Tag
	l.mu.Unlock()
}

// picked takes a 2xx: it is acknowledged whatever comes next.
func (l *Leg) picked(res *sip.Response) {
	wanted := l.state != ending
	err := l.d.Answered(res)
	l.noteTag()
	if err != nil {
		l.log.Info("answer makes no dialog", "phone", l.Device, "err", err)
		l.fails(failure{cause: plan.Unreachable, code: 500})
		return
	}
	_ = l.client.Ack(l.d.Ack(l.inviteSeq))
	if !wanted {
		// Cancelled, but the phone was faster.
		l.state = up
		l.Hangup()
		return
	}
	l.state = up
	agreed, err := l.takeAnswer(res.Body())
	if err != nil {
		l.log.Info("answer cannot be used", "phone", l.Device, "err", err)
		h := l.h
		l.why = "488"
		l.Hangup()
		h.failed(l, failure{cause: plan.Unreachable, code: 488})
		return
	}
	l.answered = time.Now()
	l.timersAnswered(res)
	if err := l.apply(agreed); err != nil {
		l.log.Error("media", "err", err)
	}
	l.arm()
	l.nowUp()
	l.h.answered(l) // the leg may be another owner's from here on
}

// nowUp tells whoever wants to know that the leg's phone talks, or thinks so.
func (l *Leg) nowUp() {
	if f := l.m.opt.Up; f != nil && l.spec.tap == nil {
		f(l)
	}
}

func (l *Leg) takeAnswer(body []byte) (sdp.Agreed, error) {
	if len(body) == 0 {
		if a, ok := l.neg.Agreed(); ok && l.neg.Pending() {
			l.neg.Reject() // the provisional answer counts
			return a, nil
		}
	}
	s, err := sdp.Parse(body)
	if err != nil {
		return sdp.Agreed{}, err
	}
	return l.neg.Accept(s)
}

// fails ends an outgoing leg that was never up.
func (l *Leg) fails(f failure) {
	h, wanted := l.h, l.state != ending
	if l.why == "" && f.code != 0 {
		l.why = strconv.Itoa(f.code)
	}
	if wanted {
		h.failed(l, f)
	}
	l.finish()
}

// withdraw ends an outgoing leg that was not answered yet. The leg lives until the phone has confirmed; an answer that comes
// first is followed by BYE.
func (l *Leg) withdraw(headers ...sip.Header) {
	if l.state != calling && l.state != ringing {
		return
	}
	l.state = ending
	l.noReply.stop()
	l.report()
	l.use.release(l)
	l.closeMedia()
	l.client.Cancel(headers...)
}

// elsewhere keeps a call out of the list of missed calls ("sip-calls" §2.4).
func elsewhere() sip.Header {
	return sip.NewHeader("Reason", `SIP;cause=200;text="Call completed elsewhere"`)
}
