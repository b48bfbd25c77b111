package call

import (
	"slices"
	"time"

	"ringfence/media"
	"ringfence/sip/sdp"
)

// Room is a call of any number of parties who all hear each other. It has an owner of its own; its functions and those of its
// Hooks are called in that goroutine, and Do gets there from elsewhere.
type Room struct {
	*owner
	m       *Manager
	mixer   *media.Mixer
	guests  []*Guest // in the order in which they came
	numbers int
	pending int // parties who ring still and come when they answer
	hooks   Hooks
	started time.Time
	dialled string
	name    Identity // what those see who are shown the room itself
}

// Guest is a party of a Room.
type Guest struct {
	Leg    *Leg
	Number int  // of the room, never used twice
	Admin  bool // for whoever makes rules; the room has none

	sound *media.Member
	asked bool // for a codec that can be mixed
}

// Mute keeps the others from hearing the guest.
func (g *Guest) Mute(on bool) {
	if g.sound != nil {
		g.sound.Mute(on)
	}
}

// Muted tells whether it is.
func (g *Guest) Muted() bool { return g.sound != nil && g.sound.Muted() }

// Talking tells whether the guest says something now.
func (g *Guest) Talking() bool { return g.sound != nil && g.sound.Talking() }

// Hooks are what a feature makes of a room.
type Hooks struct {
	Came func(g *Guest)         // a party has come
	Left func(g *Guest)         // a party has hung up, or was dropped; the room decides nothing about the others
	Key  func(g *Guest, k *Key) // a softkey was pressed
	Over func()                 // nobody is left, or two are and talk directly
}

// RoomCodecs are those that a room can mix, preferred first.
var RoomCodecs = []sdp.Codec{sdp.G722, sdp.PCMU, sdp.PCMA}

// Gather makes a room of the party of l, the one that it talks with, and the far end of target, another leg of the same phone
// whose call it is. If target rings still, its far end comes when it answers. done is called in the room's goroutine, or with
// an error in this call's, where nothing has changed then. target is left without anybody, for the feature to end
// (Room.Release).
func (c *Call) Gather(l, target *Leg, h Hooks, name Identity, done func(*Room, error)) {
	if c.Other(l) == nil || c.Moving() || l == target {
		done(nil, errGone)
		return
	}
	fail := func(err error) { c.insist(message{run: func() { c.lent = nil; done(nil, err) }}) }
	c.lent = c.other(l) // nothing else may begin meanwhile
	ask(target, c.owner, func(far *Leg, pending func(*Room)) {
		c.lent = nil
		other := c.other(l)
		r := &Room{m: c.m, mixer: c.m.opt.Media.NewMixer(), hooks: h, started: time.Now(), dialled: c.dialled, name: name}
		if other == nil || !l.talking() || !c.m.startOwner(&r.owner, r) {
			// Our own party is gone meanwhile: the far end goes back to nobody.
			if far != nil {
				far.abandon()
			}
			done(nil, errGone)
			return
		}
		c.caller, c.callee = nil, nil
		legs := []*Leg{l, other}
		c.release(l)
		c.release(other)
		if far != nil {
			legs = append(legs, far)
		}
		for _, x := range legs {
			r.owner.adopt(x)
		}
		if pending != nil {
			r.pending++
			pending(r)
		}
		_ = r.send(message{run: func() {
			for _, x := range legs {
				r.enter(x)
			}
			done(r, nil)
			r.settle() // somebody may have hung up on the way
		}})
		c.m.tasks.Go("room", r.run, r.cleanup)
	}, fail)
}

// Add brings the far end of target into the room, as Gather does. done is called in the room's goroutine.
func (r *Room) Add(target *Leg, done func(error)) {
	ask(target, r.owner, func(far *Leg, pending func(*Room)) {
		if far != nil {
			r.adopt(far)
			r.enter(far)
		}
		if pending != nil {
			r.pending++
			pending(r)
		}
		done(nil)
	}, func(err error) { r.insist(message{run: func() { done(err) }}) })
}

// ask begs the owner of target for its far end. Either got is called in the goroutine of to, with the far end as a frozen leg,
// or, if it rings still, with a function that says which room it shall come to; or refused, in any goroutine.
func ask(target *Leg, to *owner, got func(far *Leg, pending func(*Room)), refused func(error)) {
	target.mu.Lock()
	o := target.owner
	target.mu.Unlock()
	if o == nil || o == to {
		refused(ErrNotReplaceable{481})
		return
	}
	no := func() { refused(ErrNotReplaceable{481}) }
	err := o.send(message{drop: no, run: func() {
		c, ok := o.h.(*Call)
		if _, mine := o.legs[target]; !ok || !mine || c.lent != nil || c.leaving != nil {
			no()
			return
		}
		if far := c.Other(target); far != nil && target.talking() {
			c.leave(target)
			c.caller, c.callee = nil, nil
			c.release(far)
			to.insist(message{run: func() { got(far, nil) }, drop: far.abandon})
			return
		}
		if target == c.caller && target.waiting() && len(c.branches) > 0 {
			// The phone's early call ends as in a transfer ("sip-calls" §4.3, §5): whoever answers goes to the room.
			var room *Room
			c.caller = nil
			target.h = departing{c}
			c.divert = func(l *Leg) {
				switch {
				case l == nil && room != nil:
					room.insist(message{run: func() { room.pending--; room.settle() }})
				case l == nil:
				case room == nil:
					l.Hangup()
				default:
					c.release(l)
					room.insist(message{run: func() { room.pending--; room.adopt(l); room.enter(l) }, drop: l.abandon})
				}
			}
			target.reject(500)
			set := func(r *Room) { _ = c.send(message{run: func() { room = r }}) }
			to.insist(message{run: func() { got(nil, set) }, drop: func() { _ = c.send(message{run: func() { c.withdrawAll() }}) }})
			return
		}
		refused(ErrNotReplaceable{503})
	}})
	if err != nil {
		no()
	}
}

// Release hangs up a leg that Gather or Add has left without anybody.
func (r *Room) Release(target *Leg) { target.post(func() { target.Hangup() }) }

// enter makes an adopted leg a guest.
func (r *Room) enter(l *Leg) {
	if !l.talking() {
		return // gone on the way; its events tell
	}
	r.numbers++
	g := &Guest{Leg: l, Number: r.numbers}
	l.hear(nothing)
	sound, err := r.mixer.Add(l.media)
	if err != nil {
		r.log.Error("mixer", "err", err)
	}
	g.sound = sound
	r.guests = append(r.guests, g)
	r.mixable(g)
	if r.hooks.Came != nil {
		r.hooks.Came(g)
	}
	r.refresh()
}

// mixable asks a phone for a codec that can be mixed, if it uses another. One that refuses cannot stay: it would hear nothing.
func (r *Room) mixable(g *Guest) {
	a, ok := g.Leg.neg.Agreed()
	switch {
	case !ok || g.Leg.asking():
	case slices.Contains(RoomCodecs, a.Codec):
		g.asked = false
	case !g.asked:
		g.asked = true
		g.Leg.Reoffer(RoomCodecs)
	default:
		r.log.Info("guest has no codec that can be mixed", "line", g.Leg.Line.Number, "err", a.Codec.String())
		r.Drop(g)
	}
}

// refresh shows everybody the security of the room, the least of all.
func (r *Room) refresh() {
	security := encrypted
	for _, g := range r.guests {
		security = min(security, g.Leg.level())
	}
	for _, g := range r.guests {
		g.Leg.Show(g.Leg.peer, security)
	}
}

// ShowRoom lets a guest's phone display the room instead of the party it had before.
func (r *Room) ShowRoom(g *Guest) { g.Leg.Show(r.name, g.Leg.security) }

// Guests lists who is in the room, in the order in which they came.
func (r *Room) Guests() []*Guest { return slices.Clone(r.guests) }

// GuestOf finds the guest of a leg.
func (r *Room) GuestOf(l *Leg) *Guest {
	for _, g := range r.guests {
		if g.Leg == l {
			return g
		}
	}
	return nil
}

// Do runs f in the room's goroutine.
func (r *Room) Do(f func()) error { return r.send(message{run: f}) }

// Play lets everybody hear a sound over the voices.
func (r *Room) Play(s media.Source) { r.mixer.Play(s) }

// Drop hangs up on a guest.
func (r *Room) Drop(g *Guest) {
	if r.forget(g.Leg) {
		g.Leg.Hangup()
		r.left(g)
	}
}

// End hangs up on everybody.
func (r *Room) End() {
	guests := r.guests
	r.guests = nil
	for _, g := range guests {
		g.Leg.Hangup()
	}
	r.over()
}

func (r *Room) over() {
	if f := r.hooks.Over; f != nil {
		r.hooks.Over = nil
		f()
	}
}

func (r *Room) forget(l *Leg) bool {
	i := slices.IndexFunc(r.guests, func(g *Guest) bool { return g.Leg == l })
	if i < 0 {
		return false
	}
	g := r.guests[i]
	r.guests = slices.Delete(r.guests, i, i+1)
	if g.sound != nil {
		g.sound.Remove()
	}
	return true
}

func (r *Room) left(g *Guest) {
	if r.hooks.Left != nil {
		r.hooks.Left(g)
	}
	r.settle()
}

// settle looks whether a room is still needed: not for one, and not for two, who talk directly ("sip-calls" §5). A party that is
// on its way counts.
func (r *Room) settle() {
	switch len(r.guests) + r.pending {
	case 0:
		r.over()
	case 1:
		r.End()
	case 2:
		if r.pending == 0 {
			r.direct()
		}
	default:
		r.refresh()
	}
}

// direct lets the last two talk with each other without a room.
func (r *Room) direct() {
	a, b := r.guests[0].Leg, r.guests[1].Leg
	c := &Call{m: r.m, plan: r.m.opt.Plan(), from: a.Line.Number, dialled: r.dialled, caller: a, callee: b, talking: time.Now()}
	if !r.m.startCall(c) {
		return // the room goes on
	}
	for _, g := range r.guests {
		g.sound.Remove()
	}
	r.guests = nil
	r.release(a)
	r.release(b)
	c.adopt(a)
	c.adopt(b)
	_ = c.send(message{run: c.join})
	r.m.tasks.Go("call", c.run, c.cleanup)
	r.over()
}

func (r *Room) ringing(*Leg, int)         {}
func (r *Room) answered(*Leg)             {}
func (r *Room) failed(*Leg, failure)      {}
func (r *Room) canceled(l *Leg)           { r.ended(l) }
func (r *Room) held(*Leg)                 {}
func (r *Room) refer(_ *Leg, f *Referral) { f.Refuse(603) }
func (r *Room) stop()                     { r.over() }

func (r *Room) ended(l *Leg) {
	if g := r.GuestOf(l); g != nil {
		r.forget(l)
		r.left(g)
	}
}

func (r *Room) agreed(l *Leg) {
	if g := r.GuestOf(l); g != nil {
		r.mixable(g)
		r.refresh()
	}
}

func (r *Room) key(l *Leg, k *Key) {
	if g := r.GuestOf(l); g != nil && r.hooks.Key != nil {
		r.hooks.Key(g, k)
		return
	}
	k.Done(500)
}

func (r *Room) down(l *Leg) { r.ended(l) }

func (r *Room) info() Info {
	return Info{ID: r.id, State: "conference", Dialled: r.dialled, Started: r.started, Answered: r.started, Legs: r.list()}
}
