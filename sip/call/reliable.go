package call

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/dialog"
	"ringfence/sip/transaction"
)

// Reliable provisional responses, RFC 3262. Cisco phones do not know them; others that ask for them, or take them, get them for what carries
// a description, and those that insist for everything above 100.
//
//	nothing out --183 with RSeq--> out --PRACK--> nothing out, the next one goes
//	                                |--64*T1 without PRACK--> the INVITE is refused with 504
//
// A 2xx waits while a description is out (§3): the phone would not know whether it answers that description or another one.

// Times of RFC 3262 §3.
const (
	firstRepeat = 500 * time.Millisecond
	prackWithin = 64 * firstRepeat
	maxWaiting  = 4 // responses that wait for the PRACK of another; older ones are dropped
)

// provisional is what a leg knows of reliable responses.
type provisional struct {
	rseq    uint32          // of the last one that we sent, or that was received
	out     *sip.Response   // waits for its PRACK
	waiting []*sip.Response // go after it
	final   *sip.Response   // 2xx that waits
	settled bool            // a description in it was acknowledged
	repeat  timer
	since   time.Time
	every   time.Duration
}

// reliable tells whether the phone may be told of them: it has said so in its INVITE, or in its registration.
func (l *Leg) reliable() bool {
	if l.Incoming {
		return l.d != nil && l.d.Supported["100rel"]
	}
	return l.spec.binding != nil && l.spec.binding.Supports("100rel")
}

// wantsReliable tells whether a provisional response to an INVITE has to be, or should be, sent reliably.
func wantsReliable(req *sip.Request, res *sip.Response) bool {
	return dialog.List(req, "Require")["100rel"] || len(res.Body()) > 0 && dialog.List(req, "Supported", "k")["100rel"]
}

// provide sends a provisional response to the waiting caller.
func (l *Leg) provide(res *sip.Response) error {
	if !wantsReliable(l.invite.Request(), res) {
		return l.invite.Respond(res)
	}
	if l.prov.out != nil {
		if len(l.prov.waiting) >= maxWaiting {
			l.prov.waiting = l.prov.waiting[1:]
		}
		l.prov.waiting = append(l.prov.waiting, res)
		return nil
	}
	return l.sendReliably(res)
}

func (l *Leg) sendReliably(res *sip.Response) error {
	p := &l.prov
	if p.rseq == 0 {
		p.rseq = 1 + rand.Uint32N(1<<30) // §3: random, and room to count up
	} else {
		p.rseq++
	}
	res.AppendHeader(sip.NewHeader("Require", "100rel"))
	res.AppendHeader(sip.NewHeader("RSeq", strconv.FormatUint(uint64(p.rseq), 10)))
	p.out, p.since, p.every = res, time.Now(), firstRepeat
	l.after(&p.repeat, p.every, l.repeatProvisional)
	return l.invite.Respond(res)
}

func (l *Leg) repeatProvisional() {
	p := &l.prov
	if p.out == nil || l.state == ending || l.state == down {
		return
	}
	if time.Since(p.since) >= prackWithin {
		l.log.Info("no PRACK", "phone", l.Device, "took", prackWithin)
		p.out, p.waiting = nil, nil
		l.why = "no PRACK"
		l.giveUp(504)
		return
	}
	if l.invite.Respond(p.out) != nil {
		p.out = nil
		return
	}
	p.every *= 2
	l.after(&p.repeat, min(p.every, prackWithin-time.Since(p.since)+time.Millisecond), l.repeatProvisional)
}

// giveUp refuses a caller to whom something did not get through, answered or not.
func (l *Leg) giveUp(code int) {
	res := l.invite.Response(code, "")
	l.dress(res)
	_ = l.invite.Respond(res)
	h := l.h
	if l.waiting() {
		h.canceled(l)
	} else {
		l.prov.final, l.acking = nil, nil
		l.state = ending
		h.ended(l)
	}
	l.finish()
}

// pracked takes the acknowledgement.
func (l *Leg) pracked(tx *transaction.Server) {
	p := &l.prov
	if p.out == nil || !acknowledges(tx.Request(), p.rseq, l.invite.Request()) {
		l.respond(tx, 481)
		return
	}
	described := len(p.out.Body()) > 0
	res := tx.Response(200, "")
	l.dress(res)
	if body := tx.Request().Body(); len(body) > 0 {
		if !described && !p.settled {
			tx.Answer(488) // nothing was described yet that an offer could change
			return
		}
		answer, err := l.negotiate(tx.Request())
		if err != nil {
			tx.Answer(488)
			return
		}
		transaction.SetBody(res, typeSDP, answer)
	}
	p.out, p.settled = nil, p.settled || described
	p.repeat.stop()
	_ = tx.Respond(res)
	switch {
	case p.final != nil:
		final := p.final
		p.final, p.waiting = nil, nil
		l.sendFinal(final)
	case len(p.waiting) > 0 && l.waiting():
		next := p.waiting[0]
		p.waiting = p.waiting[1:]
		_ = l.sendReliably(next)
	}
}

// acknowledges tells whether a PRACK is for the response with a number.
func acknowledges(req *sip.Request, rseq uint32, invite *sip.Request) bool {
	f := strings.Fields(transaction.Header(req, "RAck"))
	return len(f) == 3 && f[0] == strconv.FormatUint(uint64(rseq), 10) &&
		f[1] == strconv.FormatUint(uint64(invite.CSeq().SeqNo), 10) && strings.EqualFold(f[2], string(sip.INVITE))
}

// prack acknowledges a reliable response of the phone that is called. It reports false for one that was had before, or is ahead
// of one that is missing.
func (l *Leg) prack(res *sip.Response) bool {
	if !dialog.List(res, "Require")["100rel"] {
		return true
	}
	n, err := strconv.ParseUint(strings.TrimSpace(transaction.Header(res, "RSeq")), 10, 32)
	if err != nil || n == 0 || l.d.Remote.Tag == "" || l.prov.rseq != 0 && uint32(n) != l.prov.rseq+1 {
		return false
	}
	l.prov.rseq = uint32(n)
	req := l.d.Request(sip.PRACK)
	req.AppendHeader(sip.NewHeader("RAck", strconv.FormatUint(n, 10)+" "+strconv.FormatUint(uint64(l.inviteSeq), 10)+" INVITE"))
	l.supported(req)
	if f := l.connection(); f != nil {
		_, _ = l.m.opt.Transactions.Request(f, req, nil)
	}
	return true
}
