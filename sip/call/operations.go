package call

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/cisco"
	"ringfence/sip/dialog"
	"ringfence/sip/plan"
	"ringfence/sip/sdp"
	"ringfence/sip/transaction"
)

// This file is what features are made of. Everything here is called in the goroutine of the call's owner.

func isSDP(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(kind), typeSDP)
}

// Referral is a REFER within a dialog: the phone wants the party it talks with to talk with somebody else.
type Referral struct {
	Target   string // user part of Refer-To
	Replaces *Replaces

	leg    *Leg
	tx     *transaction.Server
	silent bool // Require: norefersub: nothing is to be reported
}

// Replaces names a dialog, as the phone that wrote it sees it (RFC 3891).
type Replaces struct{ CallID, LocalTag, RemoteTag string }

// referred takes a REFER of the phone.
func (l *Leg) referred(tx *transaction.Server) {
	r := &Referral{leg: l, tx: tx, silent: dialog.List(tx.Request(), "Require")["norefersub"]}
	if l.state != up {
		r.Refuse(603)
		return
	}
	text := transaction.Header(tx.Request(), "Refer-To", "r")
	if text == "" {
		r.Refuse(400)
		return
	}
	var ok bool
	if r.Target, r.Replaces, ok = parseReferTo(text); !ok {
		r.Refuse(603)
		return
	}
	l.h.refer(l, r)
}

// parseReferTo reads <sip:303@192.0.2.10?Replaces=CALLID%3Bto-tag%3DA%3Bfrom-tag%3DB>. The phone that refers has the call that
// is named: of a call it placed, from-tag is its own and to-tag ours; of one that it received the other way round, which is
// for whoever looks the dialog up to find out.
func parseReferTo(text string) (target string, rep *Replaces, ok bool) {
	if i := strings.IndexByte(text, '<'); i >= 0 {
		text, _, _ = strings.Cut(text[i+1:], ">")
	} else {
		text, _, _ = strings.Cut(text, ";")
	}
	text = strings.TrimSpace(text)
	base, headers, _ := strings.Cut(text, "?")
	scheme, rest, _ := strings.Cut(base, ":")
	if s := strings.ToLower(scheme); s != "sip" && s != "sips" || rest == "" {
		return "", nil, false
	}
	if user, _, at := strings.Cut(rest, "@"); at {
		target, _, _ = strings.Cut(user, ";")
	}
	for h := range strings.SplitSeq(headers, "&") {
		name, value, _ := strings.Cut(h, "=")
		if !strings.EqualFold(name, "Replaces") {
			continue
		}
		v, err := url.PathUnescape(value)
		if err != nil {
			return "", nil, false
		}
		if rep, ok = parseReplaces(v); !ok {
			return "", nil, false
		}
	}
	return target, rep, target != "" || rep != nil
}

// parseReplaces reads a Replaces value as its writer's view, taking from-tag for the writer's own.
func parseReplaces(v string) (*Replaces, bool) {
	parts := strings.Split(v, ";")
	r := &Replaces{CallID: strings.TrimSpace(parts[0])}
	for _, p := range parts[1:] {
		k, val, _ := strings.Cut(strings.TrimSpace(p), "=")
		switch strings.ToLower(k) {
		case "to-tag":
			r.RemoteTag = val
		case "from-tag":
			r.LocalTag = val
		}
	}
	return r, r.CallID != "" && r.LocalTag != "" && r.RemoteTag != ""
}

// Refuse answers the REFER; nothing has happened.
func (r *Referral) Refuse(code int) { r.leg.respond(r.tx, code) }

// Accept answers the REFER with 202: the work begins.
func (r *Referral) Accept() { r.leg.respond(r.tx, 202) }

// Report tells the phone how its transfer went, once, unless it asked not to be told (RFC 3515, "sip-calls" §4.2).
func (r *Referral) Report(code int, reason string) {
	l := r.leg
	if r.silent || l.state != up {
		return
	}
	f := l.connection()
	if f == nil {
		return
	}
	if reason == "" {
		reason = transaction.Phrase(code)
	}
	req := l.d.Request(sip.NOTIFY)
	l.dress(req)
	req.AppendHeader(sip.NewHeader("Event", "refer;id="+strconv.FormatUint(uint64(r.tx.Request().CSeq().SeqNo), 10)))
	req.AppendHeader(sip.NewHeader("Subscription-State", "terminated;reason=noresource"))
	transaction.SetBody(req, "message/sipfrag;version=2.0", []byte("SIP/2.0 "+strconv.Itoa(code)+" "+reason+"\r\n"))
	_, _ = l.m.opt.Transactions.Request(f, req, nil)
}

// Manager returns where the call lives.
func (c *Call) Manager() *Manager { return c.m }

// Other is the party that l talks with, or nil if it is alone, or the other one rings still.
func (c *Call) Other(l *Leg) *Leg {
	if o := c.other(l); o != nil && o.talking() {
		return o
	}
	return nil
}

// Moving tells whether a party of the call is under way to another call, so that nothing else may be done to it.
func (c *Call) Moving() bool { return c.lent != nil || c.leaving != nil }

// Route asks the plan what becomes of a number, with the rights of a leg's line.
func (c *Call) Route(l *Leg, number string) plan.Decision {
	return c.plan.Route(plan.Query{From: l.Line.Number, Dialled: number}, moment{c.m})
}

// ReferService is what handles a transfer to a feature; nil if nothing does.
func (c *Call) ReferService(name string) func(*Call, *Leg, *Referral, string) {
	return c.m.opt.ReferServices[name]
}

// Serves tells whether a party that was answered already can be sent to a number that is no line's. Slots and features are not
// places to send somebody to, their own handlers see to that.
func (c *Call) Serves(d plan.Decision) bool {
	switch {
	case d.Kind == plan.External:
		return c.m.opt.Outside != nil
	case d.Kind != plan.Special || d.Object.Kind == plan.ParkSlot:
		return false
	}
	return c.m.opt.Numbers[d.Object.Kind] != nil
}

// Find looks for another dialog of the phone of l. The tags of a Replaces header may be either way round: of a call that the
// phone received, from-tag is ours.
func (c *Call) Find(l *Leg, r *Replaces) *Leg {
	if x := c.m.FindDialog(l.Device, l.Line.Number, r.CallID, r.LocalTag, r.RemoteTag); x != nil {
		return x
	}
	return c.m.FindDialog(l.Device, l.Line.Number, r.CallID, r.RemoteTag, r.LocalTag)
}

// Redirect sends the party that l talks with to where d says. l counts as free at once and is left to its phone, which hangs
// it up; if it does not, we do ("sip-calls" §4.1).
func (c *Call) Redirect(l *Leg, d plan.Decision) {
	keep := c.other(l)
	c.leave(l)
	c.caller, c.callee, c.from = keep, nil, l.Line.Number
	c.decision = plan.Decision{}
	if d.Kind == plan.Ring || d.Kind == plan.Hunt {
		keep.Show(target(d), keep.security)
	}
	c.apply(d)
}

// Decline ends the ringing of one phone of the call, which counts as busy. It reports false if that phone does not ring.
func (c *Call) Decline(l *Leg) bool {
	if !slices.Contains(c.branches, l) {
		return false
	}
	l.withdraw()
	c.failed(l, failure{cause: plan.Busy})
	return true
}

// AnswersItself tells whether a rule has said that the leg's phone is to answer by itself.
func (l *Leg) AnswersItself() bool { return l.spec.autoAnswer }

// Ringing lists the phones that ring.
func (c *Call) Ringing() []*Leg { return slices.Clone(c.branches) }

// Dialled is the number as the caller has dialled it.
func (c *Call) Dialled() string { return c.dialled }

// From is the line whose rights count.
func (c *Call) From() string { return c.from }

// Target is the line that rings, or was the last to be rung in vain; nil if none was.
func (c *Call) Target() *plan.Line { return c.decision.Line }

// ID names the call in listings and records.
func (c *Call) ID() string { return c.id }

// Leave gives up a leg whose phone is about to hang up; if it does not, we do.
func (c *Call) Leave(l *Leg) { c.leave(l) }

// leave gives up a leg whose phone is about to hang up.
func (c *Call) leave(l *Leg) {
	c.leaving = l
	if c.caller == l {
		c.caller = nil
	}
	if c.callee == l {
		c.callee = nil
	}
	l.media.Part()
	l.hear(nothing)
	l.use.release(l)
	l.h = departing{c}
	l.left = true
	l.report()
	l.after(&l.leaveBy, l.m.opt.LeaveWithin, func() { l.Hangup() })
}

// departing is the handler of a leg that has left its call: what its phone does concerns nobody else.
type departing struct{ c *Call }

func (departing) ringing(*Leg, int)         {}
func (departing) answered(*Leg)             {}
func (departing) failed(*Leg, failure)      {}
func (departing) canceled(*Leg)             {}
func (departing) ended(*Leg)                {}
func (departing) agreed(*Leg)               {}
func (departing) held(*Leg)                 {}
func (departing) refer(_ *Leg, r *Referral) { r.Refuse(491) }
func (departing) key(_ *Leg, k *Key)        { k.Done(500) }
func (d departing) down(l *Leg)             { d.c.down(l) }
func (d departing) info() Info              { return d.c.info() }
func (departing) stop()                     {}

// ErrNotReplaceable is given to the done function of Hand when the target cannot be replaced.
type ErrNotReplaceable struct{ Code int }

func (e ErrNotReplaceable) Error() string { return "leg cannot be replaced: " + strconv.Itoa(e.Code) }

// Hand gives the party that l talks with to the call of another leg of the same phone, where it takes that leg's place: the
// second half of an attended transfer. The party moves as a value; done is called in this call's goroutine, with nil once it is
// there, or with an error after it has come back.
func (c *Call) Hand(l, target *Leg, done func(error)) {
	keep := c.other(l)
	target.mu.Lock()
	o := target.owner
	target.mu.Unlock()
	if o == nil || o == c.owner {
		done(ErrNotReplaceable{481})
		return
	}
	place := &c.callee
	if c.caller == keep {
		place = &c.caller
	}
	*place, c.lent = nil, keep
	c.release(keep)
	c.waiting++
	back := func(err error) {
		c.waiting--
		c.lent = nil
		here := c.caller == l || c.callee == l
		switch {
		case err == nil && here:
			c.leave(l)
		case err != nil:
			c.adopt(keep)
			if here {
				*place = keep
			} else {
				keep.Hangup() // the phone has hung up meanwhile
			}
		}
		done(err)
	}
	reply := func(err error) {
		c.insist(message{run: func() { back(err) }, drop: func() { strand(keep, err) }})
	}
	if err := o.send(message{run: func() { reply(replace(o, target, keep)) }, drop: func() { reply(ErrNotReplaceable{481}) }}); err != nil {
		back(ErrNotReplaceable{503})
	}
}

// strand ends a party that has come back to a call that has ended.
func strand(keep *Leg, err error) {
	if err != nil {
		keep.abandon()
	}
}

// replace puts a leg in the place of another, in the goroutine of its new owner.
func replace(o *owner, target, with *Leg) error {
	c, ok := o.h.(*Call)
	if !ok {
		return ErrNotReplaceable{503}
	}
	if _, mine := o.legs[target]; !mine || c.lent != nil {
		return ErrNotReplaceable{481}
	}
	switch {
	case c.other(target) != nil && c.other(target).talking() && target.talking():
		o.adopt(with)
		if c.caller == target {
			c.caller = with
		} else {
			c.callee = with
		}
		target.h = departing{c}
		target.media.Part()
		c.join()
		target.Hangup()
		return nil
	case target == c.caller && target.waiting() && len(c.branches) > 0:
		// The target rings still ("sip-calls" §4.3): whoever rings is told who will be there, the consulting leg ends with
		// 500, since phones misbehave with other codes.
		o.adopt(with)
		c.caller = with
		c.recallTo = target.Line.Number
		target.h = departing{c}
		target.reject(500)
		for _, b := range c.branches {
			b.Show(with.identity(), min(with.level(), b.level()))
		}
		c.audio()
		with.Show(c.branches[0].identity(), min(with.level(), c.branches[0].level()))
		return nil
	}
	return ErrNotReplaceable{503}
}

// service serves a phone's feature that is called like a number. Those that are not served answer 503, which phones show as the
// feature not being available ("dialplan" §3 rule 7).
func (c *Call) service(u cisco.ServiceURI) {
	switch u.Name {
	case "cfwdall":
		c.forwardAll(u.Arg)
		return
	case "dnd", "hunt":
		c.toggle(u.Name)
		return
	}
	if f := c.m.opt.Services[u.Name]; f != nil {
		f(c, u.Arg)
		return
	}
	c.log.Info("feature is not served", "line", c.from, "feature", u.Name)
	c.refuse(503)
}

// codec for a call that nobody else takes part in.
func (c *Call) ownCodec() sdp.Codec {
	list, _ := c.codecs()
	return list[0]
}
