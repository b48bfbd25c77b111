package call

import (
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/media"
	"ringfence/sip/sdp"
	"ringfence/sip/transaction"
)

// This file lets two phones send their audio to each other instead of through us ("sip-calls" §27.2). Each is given a
// description that is ours in name and the other one's in address, numbers and key:
//
//	in clear:   UPDATE to the one we called, with the other's address; then UPDATE to the other, with the first one's
//	encrypted:  INVITE without offer to the one we called, which offers new keys; UPDATE with these to the other, which
//	            answers with its own; these go to the first in the ACK. So no key is ever out of date, though phones
//	            make a new one with every description.
//
// Nobody asks for it and nobody has to end it: after whatever has happened to a call, chooseWay compares what should be with what is.
// A phone that offers anew by itself (hold) is answered with our own address, and then the other one is brought home too; so
// is a leg that goes to another owner (transfer, conference, park), or whose sound is needed here (Leg.Anchor).
//
//	home --chooseWay--> turning --both have agreed--> apart
//	 ^                     |--refused: not again in this call--|   |
//	 |--------------------------------comeHome-----------------<---|

// Times and limits of direct media.
const (
	turnRetry  = 3 * time.Second // after a collision
	maxTurns   = 4
	maxStrays  = 3
	offerLimit = 8 * time.Second // for the other phone to agree, while the first one's offer waits for its answer
)

// passage is what a call knows of the way of its audio.
type passage struct {
	turn    *turn
	cooling bool // after a collision
	turns   int  // that came to nothing
}

// turn is an attempt to send the phones to each other.
type turn struct{ first, second *Leg }

// roaming is what a leg knows of it.
type roaming struct {
	away   *Leg // whom its phone exchanges audio with directly; nil is us
	roamed bool // was away at some time
	home   bool // wanted: our own description again
	strays int  // times that the phone has refused to come home
	pins   int  // who needs the sound here
	ackBy  timer
}

// Anchor keeps the audio of the leg's call here until release is called, in the goroutine of the leg's owner like Anchor itself. It takes
// effect when both phones have agreed, a moment later.
func (l *Leg) Anchor() (release func()) {
	l.pins++
	released := false
	return func() {
		if !released {
			released = true
			l.pins--
		}
	}
}

// Direct tells whether the leg's phone exchanges audio with another phone directly.
func (l *Leg) Direct() bool { return l.away != nil }

// settled runs after everything that has happened to an owner's legs.
func (o *owner) settled() {
	c, _ := o.h.(*Call)
	if c != nil {
		c.chooseWay()
	}
	for l := range o.legs {
		if c != nil && (c.turn != nil && (l == c.turn.first || l == c.turn.second) || c.apart()) {
			continue
		}
		if l.op != nil && l.op.offer != nil {
			l.ackHome()
		}
		if l.away != nil {
			l.comeHome()
		}
	}
}

// apart tells whether the parties of the call exchange their audio directly.
func (c *Call) apart() bool {
	return c.caller != nil && c.callee != nil && c.caller.away == c.callee && c.callee.away == c.caller
}

func (c *Call) chooseWay() {
	a, b := c.caller, c.callee
	if t := c.turn; t != nil && (t.first != a && t.first != b || t.second != a && t.second != b) {
		c.turn = nil
	}
	if a == nil || b == nil || c.turn != nil {
		return
	}
	may := c.mayBeDirect()
	switch {
	case !may && c.apart():
		a.comeHome()
		b.comeHome()
	case may && !c.apart() && a.away == nil && b.away == nil && a.free() && b.free() && !c.cooling && c.turns < maxTurns:
		c.turnOut()
	}
}

// free tells whether nothing is under way in the leg's dialog.
func (l *Leg) free() bool {
	return l.op == nil && l.acking == nil && !l.retry.pending() && l.reoffer == nil && !l.home && !l.neg.Pending() && l.display() == l.shown
}

// mayBeDirect are the conditions of "sip-calls" §27.2.
func (c *Call) mayBeDirect() bool {
	a, b := c.caller, c.callee
	if !a.Line.Direct || !b.Line.Direct || c.Moving() {
		return false
	}
	x, ok1 := a.mayRoam()
	y, ok2 := b.mayRoam()
	if !ok1 || !ok2 || x.Codec != y.Codec || x.Secure != y.Secure {
		return false
	}
	may := c.m.opt.DirectPath
	return may == nil || may(x.Remote.RTP.Addr(), y.Remote.RTP.Addr())
}

// mayRoam tells whether nothing keeps the audio of a leg here. A phone whose signalling comes from another address than it wants
// its audio at is behind a translator, where the other phone does not reach it.
func (l *Leg) mayRoam() (sdp.Agreed, bool) {
	a, ok := l.neg.Agreed()
	return a, ok && l.state == up && l.pins == 0 && !l.isHeld && l.hears == nothing && l.strays == 0 && a.Remote.Direction == media.Both &&
		a.Remote.RTP.IsValid() && a.Remote.RTP.Addr().Unmap() == l.current().Remote().Addr().Unmap()
}

// turnOut begins a turn, with the phone that we have called.
func (c *Call) turnOut() {
	t := &turn{first: c.callee, second: c.caller}
	if t.first.Incoming && !t.second.Incoming {
		t.first, t.second = t.second, t.first
	}
	c.turn = t
	a, _ := t.first.neg.Agreed()
	if a.Secure {
		op := &operation{method: sip.INVITE, empty: true, by: c}
		op.done = func(code int) { c.turnSecure(t, op, code) }
		t.first.operate(op, nil)
		return
	}
	c.sendThere(t, t.first, t.second, t.second.neg.Remote().Elsewhere([]sdp.Codec{a.Codec}), func() {
		c.sendThere(t, t.second, t.first, t.first.neg.Remote().Elsewhere([]sdp.Codec{a.Codec}), func() { c.turned(t) })
	})
}

// sendThere gives a phone the description of another one.
func (c *Call) sendThere(t *turn, l, with *Leg, e *sdp.Elsewhere, then func()) {
	if e == nil || e.Secure() != l.secure() {
		c.turnFailed(t, 488)
		return
	}
	op := &operation{method: l.offerBy(), offers: true, with: with, by: c}
	op.done = func(code int) {
		switch {
		case c.turn != t:
		case code >= 300:
			c.turnFailed(t, code)
		case !c.mayBeDirect():
			c.turnFailed(t, 491) // something has happened meanwhile
		default:
			then()
		}
	}
	local := l.local(nil, 0)
	local.Elsewhere = e
	l.operate(op, l.neg.Offer(local))
}

func (l *Leg) secure() bool {
	a, ok := l.neg.Agreed()
	return ok && a.Secure
}

// offerBy is how the phone is offered something: without a third message where it can.
func (l *Leg) offerBy() sip.RequestMethod {
	if l.d.Allows(sip.UPDATE) {
		return sip.UPDATE
	}
	return sip.INVITE
}

// turnSecure has the offer of the first phone, with its keys.
func (c *Call) turnSecure(t *turn, op *operation, code int) {
	if c.turn != t {
		return
	}
	if code < 300 && !c.mayBeDirect() {
		code = 491
	}
	if code >= 300 {
		c.turnFailed(t, code)
		return
	}
	a, _ := t.first.neg.Agreed()
	codec := []sdp.Codec{a.Codec}
	c.sendThere(t, t.second, t.first, op.offer.Elsewhere(codec), func() {
		if !t.first.ackThere(t.second, t.second.neg.Remote().Elsewhere(codec)) {
			c.turnFailed(t, 488)
			return
		}
		c.turned(t)
	})
}

func (c *Call) turned(t *turn) {
	c.turn, c.turns = nil, 0
	c.log.Info("phones exchange audio directly", "line", t.first.Line.Number, "peer", t.second.Line.Number)
}

// turnFailed gives a turn up; settled brings home who has left. After a collision it is tried again.
func (c *Call) turnFailed(t *turn, code int) {
	c.turn = nil
	if c.turns++; code != 491 {
		c.turns = maxTurns
		c.log.Info("phones cannot exchange audio directly", "line", t.first.Line.Number, "peer", t.second.Line.Number, "code", code)
		return
	}
	c.cooling = true
	time.AfterFunc(turnRetry, func() {
		_ = c.send(message{run: func() { c.cooling = false }}) // settled looks again
	})
}

// goAway notes that the phone has taken another one's description.
func (l *Leg) goAway(with *Leg) {
	l.away, l.roamed = with, true
	_ = l.media.SetRemote(media.Remote{Direction: media.Inactive})
}

// comeHome asks the phone to send its audio here again.
func (l *Leg) comeHome() {
	if l.home || l.op != nil && l.op.home {
		return
	}
	l.home = true
	l.pump()
}

// refusedHome follows when the phone does not want to come home. Without audio there is no call.
func (l *Leg) refusedHome() {
	if l.strays++; l.strays >= maxStrays {
		l.log.Info("phone does not send its audio here again", "phone", l.Device)
		l.why = "audio lost"
		l.lost()
		return
	}
	l.home = true
	l.after(&l.retry, updateRetry, l.pump)
}

// offered takes the answer to an INVITE of ours without an offer: the phone's offer, which is answered in the ACK.
func (l *Leg) offered(op *operation, res *sip.Response) {
	s, err := sdp.Parse(res.Body())
	if err != nil {
		_ = op.client.Ack(l.d.Ack(op.seq))
		l.tell(op, 488)
		return
	}
	l.op, op.offer = op, s
	l.after(&l.ackBy, offerLimit, l.ackHome)
	l.tell(op, 200)
}

// tell lets whoever has begun an operation know how it went, if the leg is still theirs.
func (l *Leg) tell(op *operation, code int) {
	if op.done != nil && l.h == op.by {
		op.done(code)
	}
}

// ackThere answers the phone's offer with another phone's description.
func (l *Leg) ackThere(with *Leg, e *sdp.Elsewhere) bool {
	if l.op == nil || l.op.offer == nil || e == nil {
		return false
	}
	local := l.local(nil, 0)
	local.Elsewhere = e
	answer, _, err := l.neg.Answer(l.op.offer, local)
	if err != nil {
		l.log.Info("offer cannot be answered for another phone", "phone", l.Device, "err", err)
		return false
	}
	l.ack(answer.Marshal())
	l.goAway(with)
	return true
}

// ackHome answers it with our own.
func (l *Leg) ackHome() {
	if l.op == nil || l.op.offer == nil || l.state != up {
		return
	}
	wasHeld := l.isHeld
	answer, agreed, err := l.neg.Answer(l.op.offer, l.local(l.usable(), 0))
	if err == nil {
		err = l.apply(agreed)
	}
	if err != nil {
		l.log.Info("offer refused", "phone", l.Device, "err", err)
		l.why = "488"
		l.lost() // acknowledges
		return
	}
	l.ack(answer.Marshal())
	l.away = nil
	l.afterOffer(wasHeld)
	l.pump()
}

// ack acknowledges the phone's offer.
func (l *Leg) ack(body []byte) {
	op := l.op
	l.op = nil
	l.ackBy.stop()
	ack := l.d.Ack(op.seq)
	if body != nil {
		transaction.SetBody(ack, typeSDP, body)
	}
	_ = op.client.Ack(ack)
}

// dropOffer acknowledges an offer of a leg that ends.
func (l *Leg) dropOffer() {
	if l.op != nil && l.op.offer != nil {
		l.ack(nil)
	}
}
