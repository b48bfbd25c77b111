package call

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/media"
	"ringfence/sip/dialog"
	"ringfence/sip/flow"
	"ringfence/sip/sdp"
	"ringfence/sip/transaction"
)

// session is what a leg keeps while it is up. At most one INVITE or UPDATE of ours is under way; what else is wanted waits, and
// of several updates of the display only the last is sent ("sip-calls" §24.2).
type session struct {
	acking  *transaction.Server // INVITE of the phone whose 200 waits for its ACK
	op      *operation          // ours under way
	reoffer []sdp.Codec         // wanted: an offer of these
	refresh bool                // wanted: proof of life for the session timer or the probe
	bye     bool                // hang up as soon as the ACK is there
	retry   timer
	noAck   timer
	probe   timer
	expiry  timer
	spoke   time.Time // last message of the phone in this dialog

	interval time.Duration // RFC 4028, 0 is off
	weAsk    bool          // we refresh
	glares   int
}

func (s *session) stop() {
	s.retry.stop()
	s.noAck.stop()
	s.probe.stop()
	s.expiry.stop()
}

// operation is an INVITE or UPDATE of ours within the dialog.
type operation struct {
	method  sip.RequestMethod
	seq     uint32
	client  *transaction.Client
	reoffer bool
	codecs  []sdp.Codec // offered by it
	shows   string

	// Of the way of the audio (direct.go).
	offers bool // it carries an offer, whatever its method
	home   bool // our own description
	with   *Leg // the one whose description it carries
	empty  bool // an INVITE without offer
	offer  *sdp.Session
	by     handler // who has begun it and is told, as long as the leg is its
	done   func(code int)
}

// offering tells whether the phone may not offer anything meanwhile.
func (o *operation) offering() bool { return o.method == sip.INVITE || o.reoffer || o.offers }

// Times of a leg that is up.
const (
	updateRetry = 2 * time.Second // after 491 to an UPDATE ("sip-calls" §24.2)
	maxGlares   = 5
	ackGrace    = 500 * time.Millisecond
)

// receive puts a request of the phone into the queue; false if the leg is gone. A request that the leg's end overtakes is answered by that.
func (l *Leg) receive(tx *transaction.Server) bool {
	l.mu.Lock()
	if !l.gone && len(l.unread) < maxEvents {
		l.unread = append(l.unread, tx)
	}
	l.mu.Unlock()
	return l.post(func() {
		l.mu.Lock()
		if i := slices.Index(l.unread, tx); i >= 0 {
			l.unread = slices.Delete(l.unread, i, i+1)
		}
		l.mu.Unlock()
		l.request(tx)
	})
}

// request takes a request of the phone within the dialog.
func (l *Leg) request(tx *transaction.Server) {
	req := tx.Request()
	if l.state == down {
		tx.Answer(481)
		return
	}
	// A callee that answered, while the answer was lost, speaks with a tag that is new to us.
	if !l.Incoming && l.d.Remote.Tag == "" {
		l.d.Remote.Tag, _ = req.From().Params.Get("tag")
		l.noteTag()
	}
	if err := l.d.Receive(req); err != nil {
		if errors.Is(err, dialog.ErrOrder) {
			tx.Answer(500)
		} else {
			tx.Answer(481)
		}
		return
	}
	l.spoke = time.Now()
	l.adoptFlow(tx.Flow())
	switch req.Method {
	case sip.BYE:
		l.byed(tx)
	case sip.INVITE:
		l.reinvited(tx)
	case sip.UPDATE:
		l.updated(tx)
	case sip.REFER:
		l.referred(tx)
	case sip.OPTIONS, sip.NOTIFY:
		l.respond(tx, 200)
	case sip.INFO:
		l.informed(tx)
	case sip.PRACK:
		l.pracked(tx)
	case sip.SUBSCRIBE:
		tx.Answer(489)
	default:
		tx.Answer(405, sip.NewHeader("Allow", methods))
	}
}

// adoptFlow goes on over the connection that the phone uses now.
func (l *Leg) adoptFlow(f flow.Flow) {
	if l.current().ID() != f.ID() {
		l.setFlow(f)
	}
}

func (l *Leg) respond(tx *transaction.Server, code int, headers ...sip.Header) {
	res := tx.Response(code, "")
	l.dress(res)
	for _, h := range headers {
		res.AppendHeader(h)
	}
	_ = tx.Respond(res)
}

// informed answers an INFO: nothing in it is acted upon yet but that a request for a key frame is no fault.
func (l *Leg) informed(tx *transaction.Server) {
	switch ct := transaction.Header(tx.Request(), "Content-Type", "c"); ct {
	case "", "application/media_control+xml":
		l.respond(tx, 200)
	default:
		tx.Answer(415, sip.NewHeader("Accept", "application/media_control+xml"))
	}
}

// byed: the phone hung up. A BYE that crosses ours is answered like any.
func (l *Leg) byed(tx *transaction.Server) {
	l.readStats(tx.Request())
	switch {
	case l.state == ending: // our own BYE ends the leg
	case l.client != nil && l.state < up:
		// A callee that was answered in its own view.
		l.why = "hung up"
		h := l.h
		l.withdraw()
		h.failed(l, failure{})
	default:
		// The answer goes out last: a phone that calls again at once must not find its line busy with this call.
		l.why = "hung up"
		l.state = ending
		l.closeMedia()
		l.use.release(l)
		l.h.ended(l)
		l.respond(tx, 200)
		l.finish()
		return
	}
	l.respond(tx, 200)
}

// readStats keeps what the phone says about the audio ("sip-calls" §31).
func (l *Leg) readStats(m sip.Message) {
	if v := transaction.Header(m, "RTP-RxStat"); v != "" {
		l.rxStat.Unmarshal(v)
		l.hasStats = true
	}
	if v := transaction.Header(m, "RTP-TxStat"); v != "" {
		l.txStat.Unmarshal(v)
		l.hasStats = true
	}
}

// watchAck follows an INVITE of the phone to its end. One that ended well was acknowledged; if the ACK did not find the dialog,
// because its tags are wrong or missing, it counts all the same, without what it may have carried.
func (l *Leg) watchAck(tx *transaction.Server) {
	tx.OnEnd(func(err error) {
		l.post(func() {
			switch {
			case err != nil:
				l.inviteLost(tx)
			case l.acking == tx:
				l.after(&l.noAck, ackGrace, func() {
					if l.acking == tx {
						l.confirmed(nil)
					}
				})
			}
		})
	})
}

// acked takes the ACK to a 2xx of ours.
func (l *Leg) acked(ack *sip.Request) {
	if l.acking == nil || l.acking.Request().CSeq().SeqNo != ack.CSeq().SeqNo {
		return // late, or repeated
	}
	l.confirmed(ack.Body())
}

func (l *Leg) confirmed(body []byte) {
	l.noAck.stop()
	initial := l.acking == l.invite
	l.acking = nil
	l.spoke = time.Now()
	if l.state == answering {
		l.state = up
	}
	if l.bye {
		l.Hangup()
		return
	}
	if l.neg.Pending() && l.op == nil {
		wasHeld := l.isHeld
		s, err := sdp.Parse(body)
		var agreed sdp.Agreed
		if err == nil {
			agreed, err = l.neg.Accept(s)
		}
		if err == nil {
			err = l.apply(agreed)
		}
		if err != nil {
			l.neg.Reject()
			l.log.Info("answer in ACK cannot be used", "phone", l.Device, "err", err)
			if initial {
				l.why = "488"
				l.h.ended(l)
				l.Hangup()
				return
			}
		} else {
			l.afterOffer(wasHeld)
		}
	}
	if initial && l.state == up {
		l.arm()
		l.nowUp()
	}
	l.pump()
}

// Show changes what the phone displays as the other party and its security.
func (l *Leg) Show(peer Identity, security int) {
	changed := l.peer != peer
	l.peer, l.security = peer, security
	if changed {
		l.appear()
	}
	switch {
	case l.display() == l.shown:
	case l.waiting() && l.state == ringing:
		if !l.early {
			l.ring(180)
		}
	default:
		l.pump()
	}
}

// ShowAlone is Show for a party that talks with nobody but the server.
func (l *Leg) ShowAlone(i Identity) { l.Show(i, l.level()) }

// Reoffer asks the phone to go on with one of the given codecs.
func (l *Leg) Reoffer(codecs []sdp.Codec) {
	l.reoffer = codecs
	l.pump()
}

// pump sends the next thing that is wanted, if nothing is under way.
func (l *Leg) pump() {
	early := !l.Incoming && l.state == ringing && l.d.State == dialog.Early && l.d.Allows(sip.UPDATE)
	if l.op != nil || l.acking != nil || l.retry.pending() || l.state != up && !early {
		return
	}
	show := l.display()
	switch {
	case l.reoffer != nil && l.state == up:
		codecs := l.reoffer
		l.reoffer = nil
		l.home = false
		l.operate(&operation{method: sip.INVITE, reoffer: true, codecs: codecs}, l.neg.Offer(l.local(codecs, 0)))
	case l.home && l.state == up:
		l.home = false
		l.operate(&operation{method: l.offerBy(), offers: true, home: true}, l.neg.Offer(l.local(l.usable(), 0)))
	case show != l.shown && l.d.Allows(sip.UPDATE):
		l.operate(&operation{method: sip.UPDATE}, nil)
	case early:
	case show != l.shown || l.refresh:
		if l.d.Allows(sip.UPDATE) {
			l.operate(&operation{method: sip.UPDATE}, nil)
			return
		}
		if refresh := l.neg.Refresh(); refresh != nil {
			l.operate(&operation{method: sip.INVITE, with: l.away}, refresh)
			return
		}
		l.refresh = false
		l.operate(&operation{method: sip.OPTIONS}, nil)
	}
}

// operate sends an INVITE or UPDATE of ours.
func (l *Leg) operate(op *operation, offer *sdp.Session) {
	f := l.connection()
	if f == nil {
		l.lost()
		return
	}
	req := l.d.Request(op.method)
	l.dress(req)
	op.seq, op.shows = req.CSeq().SeqNo, l.display()
	if op.method != sip.OPTIONS {
		l.timersRefresh(req)
	}
	if offer != nil {
		transaction.SetBody(req, typeSDP, offer.Marshal())
	}
	l.op, l.refresh = op, false
	l.shown = op.shows
	c, err := l.m.opt.Transactions.Request(f, req, func(res *sip.Response, err error) {
		l.post(func() { l.operated(op, res, err) })
	})
	if err != nil {
		l.op = nil
		l.neg.Reject()
		l.lost()
		return
	}
	op.client = c
}

// operated takes the answer to an INVITE or UPDATE of ours.
func (l *Leg) operated(op *operation, res *sip.Response, err error) {
	if err == nil && res.StatusCode < 200 {
		return
	}
	mine := l.op == op && l.state != down && l.state != ending
	if err == nil && op.method == sip.INVITE && res.StatusCode < 300 && !(op.empty && mine) {
		_ = op.client.Ack(l.d.Ack(op.seq))
	}
	if l.op != op || l.state == down {
		return
	}
	l.op = nil
	if l.state == ending {
		return
	}
	switch {
	case err != nil, res.StatusCode == 408, res.StatusCode == 481:
		l.neg.Reject()
		l.why = "lost"
		l.lost()
		return
	case res.StatusCode < 300:
		l.spoke = time.Now()
		l.glares = 0
		l.d.Refreshed(res)
		l.timersAnswered(res)
		switch {
		case op.empty:
			l.offered(op, res)
			return
		case op.method == sip.INVITE || op.offers:
			l.reoffered(op, res)
		}
	case res.StatusCode == 422 && minSE(res) > l.interval && minSE(res) <= maxSession:
		l.spoke = time.Now()
		l.neg.Reject()
		l.interval, l.refresh = minSE(res), true
	case res.StatusCode == 491 && l.glares < maxGlares:
		l.spoke = time.Now()
		l.neg.Reject()
		l.glares++
		if op.done != nil {
			l.tell(op, 491)
			break
		}
		l.backOff(op)
	default:
		l.spoke = time.Now()
		l.neg.Reject()
		if op.done != nil {
			l.tell(op, res.StatusCode)
			break
		}
		if op.home {
			l.refusedHome()
			break
		}
		if op.reoffer {
			l.log.Info("offer was refused", "phone", l.Device, "err", res.StatusCode)
			l.h.agreed(l) // unchanged; the owner must do without
		}
	}
	l.pump()
}

func (l *Leg) reoffered(op *operation, res *sip.Response) {
	wasHeld := l.isHeld
	agreed, err := l.takeAnswer(res.Body())
	if op.with != nil {
		l.goAway(op.with) // whatever it has answered: it sends elsewhere now
		if err != nil || agreed.Held {
			l.tell(op, 488)
		} else {
			l.tell(op, 200)
		}
		return
	}
	if err == nil {
		err = l.apply(agreed)
		l.away = nil
	}
	if err != nil && op.home {
		l.refusedHome()
		return
	}
	if err != nil {
		l.neg.Reject()
		l.log.Info("answer cannot be used", "phone", l.Device, "err", err)
	}
	if op.reoffer || op.home || l.isHeld != wasHeld {
		l.afterOffer(wasHeld)
	}
}

// backOff waits after a collision (RFC 3261 §14.1): the owner of the Call-ID longer than the other, so that one goes first.
func (l *Leg) backOff(op *operation) {
	wait := updateRetry
	if op.method == sip.INVITE {
		wait = time.Duration(rand.IntN(200)) * 10 * time.Millisecond
		if !l.Incoming {
			wait = 2100*time.Millisecond + time.Duration(rand.IntN(190))*10*time.Millisecond
		}
	}
	switch {
	case op.reoffer:
		l.reoffer = op.codecs
	case op.home:
		l.home = true
	default:
		l.shown = ""
	}
	l.after(&l.retry, wait, l.pump)
}

// arm begins to watch over a leg that is up: a phone that is gone without a word says nothing and sends nothing.
func (l *Leg) arm() {
	l.spoke = time.Now()
	l.after(&l.probe, l.m.opt.ProbeAfter, l.look)
}

func (l *Leg) look() {
	if l.state != up {
		return
	}
	quiet := time.Since(l.spoke)
	if a, ok := l.neg.Agreed(); ok && a.Remote.Direction&media.Receive != 0 {
		quiet = min(quiet, l.media.Stats().Silent)
	}
	next := l.m.opt.ProbeAfter
	if quiet >= next {
		l.refresh = true
		l.pump()
	} else {
		next -= quiet - time.Millisecond
	}
	l.after(&l.probe, next, l.look)
}

// lost ends a leg whose phone does not know of it any more or cannot be reached.
func (l *Leg) lost() {
	if l.state == ending || l.state == down {
		return
	}
	if l.why == "" {
		l.why = "lost"
	}
	h := l.h
	h.ended(l)
	l.Hangup()
}

// Hangup ends the leg from our side, in whatever state it is.
func (l *Leg) Hangup(headers ...sip.Header) {
	switch l.state {
	case ending, down:
		return
	case calling, ringing:
		if l.Incoming {
			l.reject(480, headers...)
		} else {
			l.withdraw(headers...)
		}
		return
	case answering:
		// RFC 3261 §15: no BYE before the ACK, which comes or times out.
		l.bye = true
		l.closeMedia()
		return
	}
	l.dropOffer()
	l.state = ending
	l.session.stop()
	l.report()
	l.use.release(l)
	l.closeMedia()
	f := l.connection()
	if f == nil {
		l.finish()
		return
	}
	req := l.d.Request(sip.BYE)
	l.dress(req)
	for _, h := range headers {
		req.AppendHeader(h)
	}
	_, err := l.m.opt.Transactions.Request(f, req, func(res *sip.Response, err error) {
		if err == nil && res.StatusCode < 200 {
			return
		}
		l.post(func() {
			if res != nil {
				l.readStats(res)
			}
			l.finish()
		})
	})
	if err != nil {
		l.finish()
	}
}
