package call

import (
	"math/rand/v2"
	"strconv"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/cisco"
	"ringfence/sip/sdp"
	"ringfence/sip/transaction"
)

// reinvited takes an INVITE within the dialog: hold, resume, other media, or a refresh.
func (l *Leg) reinvited(tx *transaction.Server) {
	switch {
	case !l.talking():
		// RFC 3261 §14.2 for one that is early; an ending one has nothing left to agree on.
		tx.Answer(491)
		return
	case l.op != nil && l.op.offering():
		tx.Answer(491)
		return
	case tooShort(tx.Request()):
		tx.Answer(422, minimum())
		return
	case l.acking != nil && l.acking.Request().CSeq().SeqNo != tx.Request().CSeq().SeqNo && l.neg.Pending():
		tx.Answer(500, sip.NewHeader("Retry-After", strconv.Itoa(rand.IntN(10))))
		return
	}
	l.readStats(tx.Request())
	wasHeld := l.isHeld
	body, err := l.negotiate(tx.Request())
	if err != nil {
		l.log.Info("offer refused", "phone", l.Device, "err", err)
		tx.Answer(488) // what was agreed before stays in force ("sip-calls" §3)
		return
	}
	res := tx.Response(200, "")
	l.dress(res)
	l.timersAccept(tx.Request(), res)
	transaction.SetBody(res, typeSDP, body)
	l.acking = tx
	l.watchAck(tx)
	_ = tx.Respond(res)
	l.afterOffer(wasHeld)
}

func (l *Leg) updated(tx *transaction.Server) {
	req := tx.Request()
	res := tx.Response(200, "")
	if tooShort(req) {
		tx.Answer(422, minimum())
		return
	}
	if len(req.Body()) == 0 {
		l.dress(res)
		l.timersAccept(req, res)
		_ = tx.Respond(res)
		return
	}
	switch {
	case !l.talking() && !(l.waiting() && l.early && l.prov.settled) || l.op != nil && l.op.offering() || l.neg.Pending():
		tx.Answer(491)
		return
	}
	wasHeld := l.isHeld
	body, err := l.negotiate(req)
	if err != nil {
		l.log.Info("offer refused", "phone", l.Device, "err", err)
		tx.Answer(488)
		return
	}
	l.dress(res)
	l.timersAccept(req, res)
	transaction.SetBody(res, typeSDP, body)
	_ = tx.Respond(res)
	l.afterOffer(wasHeld)
}

// negotiate answers the offer in a request, or makes one if there is none.
func (l *Leg) negotiate(req *sip.Request) ([]byte, error) {
	prefer := l.usable()
	if len(req.Body()) == 0 {
		return l.neg.Offer(l.local(prefer, 0)).Marshal(), nil
	}
	offer, err := sdp.Parse(req.Body())
	if err != nil {
		return nil, err
	}
	answer, agreed, err := l.neg.Answer(offer, l.local(prefer, 0))
	if err != nil {
		return nil, err
	}
	l.can = offer.AudioCodecs()
	l.holdReason = holdReason(req)
	if err := l.apply(agreed); err != nil {
		return nil, err
	}
	l.away, l.home = nil, false
	return answer.Marshal(), nil
}

// usable are the codecs of a later offer or answer, the one in use first: the other party of the call need not be asked then.
func (l *Leg) usable() []sdp.Codec {
	if a, ok := l.neg.Agreed(); ok {
		return first(a.Codec, l.m.opt.Codecs)
	}
	return l.m.opt.Codecs
}

// asking tells whether an offer of other codecs is under way or about to be.
func (l *Leg) asking() bool { return l.reoffer != nil || l.op != nil && l.op.reoffer }

// afterOffer tells the owner what an offer of the phone has changed.
func (l *Leg) afterOffer(wasHeld bool) {
	if l.isHeld != wasHeld {
		l.h.held(l)
	}
	l.h.agreed(l)
}

// holdReason reads why a phone holds ("sip-calls" §1.4, §3): transfer, conference, or nothing.
func holdReason(req *sip.Request) string {
	for _, h := range req.GetHeaders("Call-Info") {
		var ci cisco.CallInfo
		if ci.Unmarshal(h.Value()) == nil && ci.Feature == "hold" {
			r, _ := ci.Get("reason")
			return r
		}
	}
	return ""
}
