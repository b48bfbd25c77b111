package call

import (
	"slices"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/media"
	"ringfence/sip/plan"
	"ringfence/sip/sdp"
)

// Call is a call of two parties: one that called, or was transferred to where it is, and one that is rung or has answered.
//
//	calling --plan--> ringing --answer--> talking --hang up--> ending
//	   |                 |--rule of the line--^ (rings elsewhere)  ^
//	   |--refusal--------|-----------------------------------------|
//	talking --transfer--> ringing, with a caller that was answered already
type Call struct {
	*owner
	m    *Manager
	plan *plan.Plan

	from    string // line whose rights count
	dialled string
	started time.Time

	caller   *Leg   // nil once gone
	callee   *Leg   // who answered
	branches []*Leg // who ring
	leaving  *Leg   // has transferred the call and is about to hang up
	lent     *Leg   // under way to another call
	decision plan.Decision
	failures []failure
	hunt     *hunt // while a group is rung
	talking  time.Time
	attempts int        // to find a codec both can
	divert   func(*Leg) // who answers goes there instead of to the caller, who is gone
	recallTo string     // line that the call comes back to if nobody answers; "" is none
	passage             // of the audio
}

// begin is the first event of a call.
func (c *Call) begin(req *sip.Request) {
	l := c.caller
	if !l.waiting() {
		return // cancelled before we looked
	}
	use := c.m.useLine(l.Line.Number)
	use.join(l)
	if n := c.m.callsAt(l.Line, l.Device); l.Line.MaxCalls > 0 && n > l.Line.MaxCalls {
		c.log.Info("too many calls of the line", "line", l.Line.Number)
		l.reject(480)
		return
	}
	l.report()
	if len(req.Body()) > 0 {
		offer, err := sdp.Parse(req.Body())
		if err != nil || len(sdp.Common(c.m.opt.Codecs, offer.AudioCodecs())) == 0 {
			c.log.Info("offer cannot be used", "line", l.Line.Number, "err", err)
			c.note(l, "call refused: no codec in common", true)
			l.reject(488)
			return
		}
		l.offer, l.can = offer, offer.AudioCodecs()
	}
	if name, feature, named := joins(req); named {
		c.joinCall(name, feature)
		return
	}
	d := c.plan.Route(plan.Query{From: c.from, Dialled: c.dialled}, moment{c.m})
	c.apply(d)
}

func (c *Call) note(l *Leg, text string, failed bool) {
	if c.m.opt.Note != nil && l.Device != "" {
		c.m.opt.Note(l.Device, "call", text, failed)
	}
}

// apply does what the plan has decided.
func (c *Call) apply(d plan.Decision) {
	redirected := len(d.Diversions) > len(c.decision.Diversions)
	c.setFields(d.Set)
	d.Set = nil
	c.decision, c.failures, c.hunt = d, nil, nil
	if c.caller != nil {
		c.caller.present(d.Attr)
	}
	switch d.Kind {
	case plan.Ring, plan.Hunt:
		if redirected && c.caller != nil && c.caller.waiting() {
			c.caller.peer = target(d)
			c.caller.ring(181, diversionHeader(d.Diversions[0], c.caller.host(), c.caller.Cisco))
		}
		if d.Kind == plan.Hunt {
			c.startHunt(d)
			return
		}
		c.ring([]*plan.Line{d.Line}, d.Line.Ring)
	case plan.Service:
		c.service(d.Service)
	case plan.External:
		if c.m.opt.Outside != nil {
			c.m.opt.Outside(c, d)
			return
		}
		c.log.Info("call refused: no trunk is served", "line", c.from, "dialled", c.dialled)
		c.refuse(d.Code)
	case plan.Special:
		if d.Object.Kind == plan.NightSwitch && c.caller != nil && c.caller.waiting() {
			c.nightSwitch(d.Object.Number)
			return
		}
		if f := c.m.opt.Numbers[d.Object.Kind]; f != nil {
			f(c, d.Object)
			return
		}
		c.log.Info("number is not served", "line", c.from, "dialled", c.dialled)
		c.refuse(d.Code)
	default:
		last := d.Steps[len(d.Steps)-1]
		c.log.Info("call refused", "line", c.from, "dialled", c.dialled, "code", d.Code, "rule", last.Rule, "why", last.Text)
		c.refuse(d.Code)
	}
}

// refuse ends the call with a code, or, for a caller that was answered already, with BYE.
func (c *Call) refuse(code int) {
	if c.caller == nil {
		return
	}
	if c.caller.waiting() {
		if f := c.m.opt.Busy; f != nil && code == 486 {
			f(c, c.caller)
		}
		c.caller.reject(code)
		return
	}
	if back := c.recall(); back > 0 {
		to := c.recallTo
		c.recallTo = "" // once
		c.log.Info("transferred call comes back", "line", to, "dialled", c.dialled, "code", code)
		c.apply(c.plan.Send(to, back, "hangup", moment{c.m}))
		return
	}
	c.caller.Hangup()
}

// RecallTo makes the call come back to a line if nobody answers it ("sip-calls" §4.3).
func (c *Call) RecallTo(line string) { c.recallTo = line }

// recall is how long that line is to ring; 0 if the call does not come back.
func (c *Call) recall() time.Duration {
	if c.recallTo == "" || c.m.opt.Recall == nil {
		return 0
	}
	return c.m.opt.Recall()
}

// target is what is shown of the place that a call goes to.
func target(d plan.Decision) Identity {
	if d.Kind == plan.Hunt {
		return Identity{Name: d.Group.Name, Number: d.Group.Number}
	}
	return identityOf(d.Line)
}

// ring asks the phones of lines.
func (c *Call) ring(lines []*plan.Line, limit time.Duration) {
	if c.m.opt.SRTP == RequireSRTP && !c.caller.current().Secure() {
		c.log.Info("call refused: encryption is required", "line", c.caller.Line.Number)
		c.refuse(488)
		return
	}
	c.failures = nil
	for _, line := range lines {
		c.ringLine(line, limit)
	}
	c.audio()
	if len(c.branches) == 0 {
		if len(c.failures) == 0 {
			c.failures = append(c.failures, failure{cause: plan.Unreachable})
		}
		c.next()
	}
}

func (c *Call) ringLine(line *plan.Line, limit time.Duration) {
	use := c.m.useLine(line.Number)
	use.legs++ // held by this function, so that a phone that fails at once does not end it
	codecs, ptime := c.codecs()
	spec := inviteSpec{codecs: codecs, more: c.more(codecs), ptime: ptime, diversions: c.decision.Diversions, autoAnswer: c.decision.Attr.AutoAnswer}
	if c.hunt != nil {
		spec.callInfo = c.hunt.pilot
	}
	for _, b := range c.m.opt.Bindings.Lookup(line.Number) {
		if !b.Reachable() || c.skips(line, b) {
			continue
		}
		if c.m.opt.SRTP == RequireSRTP && !b.Secure {
			c.failures = append(c.failures, failure{cause: plan.Unreachable, code: 488})
			continue
		}
		l := c.m.newOutgoing(b, line)
		l.peer = c.caller.identity()
		l.security = min(c.caller.level(), l.level())
		use.join(l)
		c.adopt(l)
		spec.binding = b
		err := l.start(spec)
		if err != nil {
			c.log.Info("phone cannot be called", "phone", b.Device, "err", err)
			c.drop(l)
			continue
		}
		c.branches = append(c.branches, l)
		l.after(&l.ringLimit, limit, func() { c.noAnswer(line, limit) })
	}
	if use.legs--; use.legs == 0 {
		c.m.freeLine(line.Number)
	}
}

// drop gives back a leg that never got as far as a message.
func (c *Call) drop(l *Leg) {
	delete(c.legs, l)
	l.h = frozen{}
	if l.d == nil {
		l.use.release(l)
		l.closeMedia()
		return
	}
	l.finish()
}

// withdrawAll ends the branches that still ring.
func (c *Call) withdrawAll(headers ...sip.Header) {
	c.m.quiet(c)
	branches := c.branches
	c.branches = nil
	for _, l := range branches {
		l.ringLimit.stop()
		l.withdraw(headers...)
	}
}

func (c *Call) noAnswer(line *plan.Line, limit time.Duration) {
	if len(c.branches) == 0 {
		return
	}
	c.log.Info("no answer", "line", line.Number, "took", limit)
	c.withdrawAll()
	c.failures = []failure{{cause: plan.NoAnswer}}
	c.next()
}

// next asks the plan what to do after a line was rung in vain. Busy beats all other causes, since a person has said so.
func (c *Call) next() {
	if c.caller == nil {
		if c.divert != nil {
			c.divert(nil)
		}
		return
	}
	f := c.failures[0]
	for _, g := range c.failures[1:] {
		if g.cause < f.cause {
			f = g
		}
	}
	if c.hunt != nil {
		c.huntOn(f)
		return
	}
	if f.code == 488 {
		c.note(c.caller, "call refused: no codec in common with "+c.decision.Line.Number, true)
		c.refuse(488)
		return
	}
	if f.target != "" {
		c.apply(c.plan.Deflect(c.decision, f.target, moment{c.m}))
		return
	}
	c.apply(c.plan.Next(c.decision, f.cause, moment{c.m}))
}

// ringing: a phone was reached.
func (c *Call) ringing(l *Leg, code int) {
	if c.caller == nil || !slices.Contains(c.branches, l) {
		return
	}
	c.m.alert(c, l.Line)
	c.m.called(l.Line, c.caller.identity())
	if f := c.m.opt.Rang; f != nil && !l.alerted {
		l.alerted = true
		f(c, l)
	}
	security := min(c.caller.level(), l.level())
	shown := l.identity()
	if c.hunt != nil {
		shown = target(c.decision) // the group, until somebody has answered
	}
	if !c.caller.waiting() {
		c.caller.Show(shown, security)
		return
	}
	c.caller.peer, c.caller.security = shown, security
	if a, ok := l.neg.Agreed(); ok && len(c.branches) == 1 && c.caller.preview(a.Codec, a.PTime) {
		c.bridge(c.caller, l)
		return
	}
	if c.caller.early || c.caller.state == ringing && c.caller.rang && c.caller.display() == c.caller.shown {
		return
	}
	c.caller.rang = true
	c.caller.ring(180)
}

func (c *Call) bridge(a, b *Leg) {
	if a.media == nil || b.media == nil {
		return
	}
	if err := media.Bridge(a.media, b.media); err != nil {
		c.log.Error("bridge", "err", err)
	}
}

// answered: the first phone to answer has the call.
func (c *Call) answered(l *Leg) {
	i := slices.Index(c.branches, l)
	if i < 0 || c.caller == nil && c.divert == nil {
		l.Hangup()
		return
	}
	l.ringLimit.stop()
	c.hunt = nil
	c.branches = slices.Delete(c.branches, i, i+1)
	c.withdrawAll(elsewhere())
	if c.caller == nil {
		c.divert(l)
		return
	}
	c.callee = l
	a, _ := l.neg.Agreed()
	if !c.caller.waiting() {
		c.talking = time.Now()
		c.join()
		return
	}
	body, err := c.agree(a)
	if err != nil {
		c.log.Info("caller's offer cannot be used", "line", c.caller.Line.Number, "err", err)
		c.note(c.caller, "call refused: "+err.Error(), true)
		c.callee = nil
		l.Hangup()
		c.refuse(488)
		return
	}
	c.talking = time.Now()
	c.caller.peer, c.caller.security = l.identity(), min(c.caller.level(), l.level())
	c.caller.accept(body)
	c.bridge(c.caller, l)
	l.Show(l.peer, c.caller.security)
	c.log.Info("call answered", "line", l.Line.Number, "phone", l.Device, "took", time.Since(c.started))
}

// join connects two parties that both talk: audio, display, and if need be a codec that both can.
func (c *Call) join() {
	a, b := c.caller, c.callee
	if a == nil || b == nil {
		return
	}
	c.bridge(a, b)
	c.audio()
	security := min(a.level(), b.level())
	a.Show(b.identity(), security)
	b.Show(a.identity(), security)
	c.reconcile()
}

// failed: a phone refused, or could not be reached.
func (c *Call) failed(l *Leg, f failure) {
	i := slices.Index(c.branches, l)
	if i < 0 {
		return
	}
	l.ringLimit.stop()
	c.branches = slices.Delete(c.branches, i, i+1)
	c.failures = append(c.failures, f)
	if len(c.branches) == 0 {
		c.m.quiet(c)
		c.next()
	}
}

// canceled: the caller has given up. The phones show a missed call.
func (c *Call) canceled(l *Leg) {
	if l == c.caller {
		c.caller = nil
		c.withdrawAll()
	}
}

// ended: a party hung up or is lost; so does the other.
func (c *Call) ended(l *Leg) {
	switch l {
	case c.caller:
		c.caller = nil
		c.withdrawAll()
		if c.callee != nil {
			c.callee.Hangup()
			c.callee = nil
		}
	case c.callee:
		c.callee = nil
		if c.caller != nil {
			c.caller.Hangup()
			c.caller = nil
		}
	}
}

// agreed: the description of a party has changed.
func (c *Call) agreed(l *Leg) {
	other := c.other(l)
	if other == nil {
		return
	}
	security := min(l.level(), other.level())
	l.Show(l.peer, security)
	other.Show(other.peer, security)
	c.reconcile()
}

func (c *Call) held(*Leg) { c.audio() }

func (c *Call) refer(l *Leg, r *Referral) {
	if c.m.opt.Refer == nil {
		r.Refuse(603)
		return
	}
	c.m.opt.Refer(c, l, r)
}

func (c *Call) key(l *Leg, k *Key) {
	if f := c.m.opt.Keys[k.Event.Event]; f != nil {
		f(c, l, k)
		return
	}
	k.Done(500)
}

// down: nothing is left of a leg.
func (c *Call) down(l *Leg) {
	switch l {
	case c.caller:
		c.caller = nil
	case c.callee:
		c.callee = nil
	case c.leaving:
		c.leaving = nil
	}
	if len(c.legs) == 0 && c.waiting == 0 {
		c.log.Info("call ended", "line", c.from, "dialled", c.dialled, "took", time.Since(c.started), "why", l.why)
	}
}

// stop ends everything at once.
func (c *Call) stop() {
	c.caller, c.callee, c.branches = nil, nil, nil
}

// other is the party that l talks with, or nil.
func (c *Call) other(l *Leg) *Leg {
	switch l {
	case c.caller:
		return c.callee
	case c.callee:
		return c.caller
	}
	return nil
}
