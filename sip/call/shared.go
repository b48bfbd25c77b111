package call

import (
	"strings"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/cisco"
	"ringfence/sip/plan"
	"ringfence/sip/registrar"
	"ringfence/sip/sdp"
	"ringfence/sip/state"
	"ringfence/sip/transaction"
)

// A shared line is one number on several phones ("sip-calls" §26). A call to it rings on all of them that are free, each has its
// own count of calls, and every phone is told what the others do with the line: that is the state's business, which gets an
// Appearance for every change. Here is what one phone may do with a call that another one has: step into it (barge, cBarge), and
// take it back when it is on hold.
//
//	INVITE, Join: call-id;tags, Call-Info barge or cbarge    the phone becomes a third party
//	INVITE, Replaces: call-id;tags                           the phone takes the place of the other one, which holds
//
// The page is not verified on hardware. It lets the built-in bridge of the other phone mix a barge; here the server does, since
// it has the audio of both parties anyway and so every phone can take part.

// Features of an INVITE that names a call of another phone of the line.
const (
	Barge  = "barge"
	CBarge = "cbarge"
	Resume = "resume"
)

// place is a line at one of its phones.
type place struct{ line, device string }

// countAt counts a leg of a shared line at its phone.
func (m *Manager) countAt(l *Leg, n int) {
	if !l.Line.Shared() {
		return
	}
	at := place{l.Line.Number, l.Device}
	m.mu.Lock()
	if m.places[at] += n; m.places[at] <= 0 {
		delete(m.places, at)
	}
	m.mu.Unlock()
}

// callsAt is how many calls a line has at one of its phones.
func (m *Manager) callsAt(l *plan.Line, device string) int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if l.Shared() {
		return m.places[place{l.Number, device}]
	}
	return m.lines[l.Number]
}

// sharedCalls is how many calls that phone of a shared line has which has the fewest: call waiting is each phone's own.
func (m *Manager) sharedCalls(l *plan.Line) int {
	least := -1
	for _, b := range m.opt.Bindings.Lookup(l.Number) {
		if !b.Reachable() {
			continue
		}
		if n := m.callsAt(l, b.Device); least < 0 || n < least {
			least = n
		}
	}
	return max(0, least)
}

// skips tells whether one phone of a shared line is left out when the line rings: it refuses calls, is busy, or logged out of
// the group that is called.
func (c *Call) skips(line *plan.Line, b *registrar.Binding) bool {
	if !line.Shared() {
		return false
	}
	now := moment{c.m}
	return now.Rejects(b.Device) || line.BusyAt > 0 && c.m.callsAt(line, b.Device) >= line.BusyAt ||
		c.hunt != nil && c.hunt.group.LoginRequired && !now.LoggedIn(b.Device)
}

// appear tells the state about a leg of a shared line, as the other phones of the line are to see it.
func (l *Leg) appear() {
	f := l.m.opt.Appear
	if f == nil || !l.Line.Shared() || l.d == nil || l.d.Remote.Tag == "" {
		return
	}
	a := state.Appearance{
		Line: l.Line.Number, Leg: l.ID, Device: l.Device, Placed: l.Incoming, Phase: "confirmed", Held: l.isHeld && l.holdReason == "",
		Dialog: l.DialogID(), Name: l.peer.Name, Number: l.peer.Number,
	}
	if l.peer.Restricted {
		a.Name, a.Number = "", ""
	}
	switch {
	case l.state == down || l.state == ending || l.left:
		a.Phase = ""
	case !l.Incoming && !l.talking():
		return // it rings at the others themselves
	case l.waiting():
		a.Phase = "early"
	}
	f(a)
}

// joins reads from an INVITE which call of another phone it names, and what for; named false: none.
func joins(req *sip.Request) (name Replaces, feature string, named bool) {
	header := transaction.Header(req, "Replaces")
	feature = Resume
	if header == "" {
		if header = transaction.Header(req, "Join"); header == "" {
			return name, "", false
		}
		feature = Barge
	}
	for _, h := range req.GetHeaders("Call-Info") {
		var ci cisco.CallInfo
		if ci.Unmarshal(h.Value()) != nil {
			continue
		}
		switch f := strings.ToLower(ci.Feature); f {
		case Barge, CBarge, Resume:
			feature = f
		}
	}
	r, ok := parseReplaces(header)
	if !ok {
		return name, feature, true
	}
	return *r, feature, true
}

// joinCall handles an INVITE that names a call: one of another phone of the same line.
func (c *Call) joinCall(name Replaces, feature string) {
	l := c.caller
	target := c.m.find(name.CallID, name.RemoteTag, name.LocalTag)
	if target == nil {
		target = c.m.find(name.CallID, name.LocalTag, name.RemoteTag) // the order of tags is not certain ("sip-calls" §15, §34)
	}
	switch {
	case target == nil || name.CallID == "":
		l.reject(481)
	case target.Line.Number != l.Line.Number || !l.Line.Shared() || target.Device == l.Device:
		c.log.Info("call of another line is named", "line", l.Line.Number, "phone", l.Device)
		l.reject(603)
	case c.m.opt.Join == nil:
		l.reject(603)
	default:
		c.m.opt.Join(c, target, feature)
	}
}

// StepInto lets the waiting caller of c take part in the call of target. If that is no room yet it becomes one, made by hooks,
// and room is called in its goroutine; of a room there is, old is asked in its goroutine whether there is a place. shows is what
// the phone of the caller displays.
func (c *Call) StepInto(target *Leg, shows Identity, hooks func() Hooks, made func(r *Room, first, last *Leg), old func(r *Room, l *Leg) bool) {
	l := c.caller
	if l == nil || !l.waiting() || c.callee != nil || c.Moving() {
		return
	}
	codecs, ptime := c.codecs()
	list := sdp.Common(RoomCodecs, codecs)
	if len(list) == 0 {
		c.refuse(488)
		return
	}
	body, err := l.prepare(list[0], ptime)
	if err != nil {
		c.refuse(488)
		return
	}
	c.give(l, target, func(o *owner) error {
		switch h := o.h.(type) {
		case *Call:
			return h.widen(target, l, body, shows, hooks(), made)
		case *Room:
			if h.isOver || h.GuestOf(target) == nil || !old(h, l) {
				return errGone
			}
			h.adopt(l)
			l.peer, l.security = shows, l.level()
			l.accept(body)
			h.enter(l)
			return nil
		}
		return errGone
	})
}

// widen makes a room of the two parties of a call and a third. It runs in the goroutine of that call.
func (c *Call) widen(target, l *Leg, body []byte, shows Identity, hooks Hooks, made func(r *Room, first, last *Leg)) error {
	other := c.Other(target)
	if other == nil || c.Moving() || !target.talking() {
		return errGone
	}
	r := c.m.newRoom(c.dialled, hooks, Identity{Name: cisco.Phrase('4')})
	if !c.m.startOwner(&r.owner, r) {
		return errGone
	}
	if shows == (Identity{}) {
		shows = other.identity()
	}
	c.caller, c.callee = nil, nil
	c.release(target)
	c.release(other)
	for _, x := range []*Leg{target, other, l} {
		r.owner.adopt(x)
	}
	_ = r.send(message{run: func() {
		made(r, target, l)
		l.peer, l.security = shows, min(target.level(), other.level(), l.level())
		l.accept(body)
		for _, x := range []*Leg{target, other, l} {
			r.enter(x)
		}
		r.settle() // somebody may have hung up on the way
	}})
	c.m.tasks.Go("room", r.run, r.cleanup)
	return nil
}

// TakeOver puts the waiting caller of c in the place of target, which holds its call.
func (c *Call) TakeOver(target *Leg) {
	l := c.caller
	if l == nil || !l.waiting() || c.callee != nil || c.Moving() {
		return
	}
	c.give(l, target, func(o *owner) error {
		switch h := o.h.(type) {
		case *Call:
			return h.takenOver(target, l)
		case *Room:
			return h.takenOver(target, l)
		}
		return errGone
	})
}

func (c *Call) takenOver(target, l *Leg) error {
	other := c.Other(target)
	if other == nil || c.Moving() || !target.talking() || !target.isHeld || target.holdReason != "" {
		return errGone
	}
	a, ok := other.neg.Agreed()
	if !ok {
		return errGone
	}
	body, err := l.prepareFirst(first(a.Codec, c.m.opt.Codecs))
	if err != nil {
		return err
	}
	c.adopt(l)
	if c.caller == target {
		c.caller = l
	} else {
		c.callee = l
	}
	target.h = departing{c}
	target.media.Part()
	l.peer, l.security = other.identity(), min(other.level(), l.level())
	l.accept(body)
	c.join()
	target.Hangup()
	return nil
}

func (r *Room) takenOver(target, l *Leg) error {
	g := r.GuestOf(target)
	if g == nil || r.isOver || !target.isHeld {
		return errGone
	}
	body, err := l.prepareFirst(RoomCodecs)
	if err != nil {
		return err
	}
	r.adopt(l)
	l.peer, l.security = target.peer, l.level()
	l.accept(body)
	r.enter(l)
	r.Drop(g)
	return nil
}

// prepareFirst is prepare with the first codec that the phone can.
func (l *Leg) prepareFirst(list []sdp.Codec) (body []byte, err error) {
	err = sdp.ErrNoCodec
	for _, codec := range list {
		if body, err = l.prepare(codec, 0); err == nil {
			return body, nil
		}
	}
	return nil, err
}

// give sends the waiting caller to the owner of target, where take puts it into its place or returns an error; then it comes back
// and is refused with 603.
func (c *Call) give(l, target *Leg, take func(o *owner) error) {
	target.mu.Lock()
	o := target.owner
	target.mu.Unlock()
	if o == nil || o == c.owner {
		l.reject(603)
		return
	}
	c.giveTo(l, o, 603, func(o *owner) error {
		if _, mine := o.legs[target]; !mine {
			return errGone
		}
		return take(o)
	})
}

// giveTo is give for any owner and code.
func (c *Call) giveTo(l *Leg, o *owner, code int, take func(o *owner) error) {
	c.caller, c.lent = nil, l
	c.release(l)
	c.waiting++
	back := func(err error) {
		c.waiting--
		c.lent = nil
		if err == nil {
			return // the caller is the other's now, and this call ends
		}
		c.log.Info("caller cannot go there", "line", l.Line.Number, "phone", l.Device, "err", err)
		c.adopt(l)
		c.caller = l
		c.refuse(code)
	}
	reply := func(err error) {
		c.insist(message{run: func() { back(err) }, drop: func() { strand(l, err) }})
	}
	if o.send(message{run: func() { reply(take(o)) }, drop: func() { reply(errGone) }}) != nil {
		back(errGone)
	}
}
