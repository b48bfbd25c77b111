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
	loans   map[*Leg]*loan      // legs of the calls that guests came from
	coming  map[*owner]struct{} // calls that ring still, whose party comes when it answers
	isOver  bool

	standing bool // it has a number, and stays for one or two

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
// an error in this call's, where nothing has changed then. target is left without anybody, and the feature must end it
// (Room.Release).
func (c *Call) Gather(l, target *Leg, h Hooks, name Identity, done func(*Room, error)) {
	if c.Other(l) == nil || c.Moving() || l == target {
		done(nil, errGone)
		return
	}
	c.lent = c.other(l) // nothing else may begin meanwhile
	c.waiting++
	fail := func(err error) {
		c.insist(message{run: func() { c.lent = nil; c.waiting--; done(nil, err) }})
	}
	borrow(target, c.owner, func(from *loan) {
		c.lent = nil
		c.waiting--
		other := c.other(l)
		r := c.m.newRoom(c.dialled, h, name)
		if other == nil || !l.talking() || !c.m.startOwner(&r.owner, r) {
			// A party of ours is gone meanwhile. The other call stays what it was.
			from.settle(nil)
			done(nil, errGone)
			return
		}
		c.caller, c.callee = nil, nil
		legs := []*Leg{l, other}
		c.release(l)
		c.release(other)
		if from.far != nil {
			legs = append(legs, from.far)
		} else {
			r.coming[from.owner] = struct{}{}
		}
		for _, x := range legs {
			r.owner.adopt(x)
		}
		r.loans[target] = from
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

func (m *Manager) newRoom(dialled string, h Hooks, name Identity) *Room {
	return &Room{
		m: m, mixer: m.opt.Media.NewMixer(), hooks: h, started: time.Now(), dialled: dialled, name: name,
		loans: map[*Leg]*loan{}, coming: map[*owner]struct{}{},
	}
}

// Add brings the far end of target into the room, as Gather does. done is called in the room's goroutine.
func (r *Room) Add(target *Leg, done func(error)) {
	r.waiting++
	fail := func(err error) {
		r.insist(message{run: func() { r.waiting--; done(err) }})
	}
	borrow(target, r.owner, func(from *loan) {
		r.waiting--
		if r.isOver {
			from.settle(nil)
			done(errGone)
			return
		}
		r.loans[target] = from
		if from.far != nil {
			r.adopt(from.far)
			r.enter(from.far)
		} else {
			r.coming[from.owner] = struct{}{}
		}
		done(nil)
	}, fail)
}

// Release ends a leg that Gather or Add has left without anybody.
func (r *Room) Release(target *Leg) {
	if l := r.loans[target]; l != nil {
		delete(r.loans, target)
		l.settle(r)
	}
}

// Release everything that a feature has not, so that no call waits for ever.
func (r *Room) releaseAll() {
	for target := range r.loans {
		r.Release(target)
	}
}

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
	r.isOver = true
	r.releaseAll()
	for o := range r.coming {
		delete(r.coming, o)
		o.insist(message{run: func() {
			if c, ok := o.h.(*Call); ok && c.caller == nil {
				c.withdrawAll()
			}
		}})
	}
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
	if r.isOver {
		return
	}
	switch n := len(r.guests) + len(r.coming); {
	case n == 0:
		r.over()
	case r.standing:
		r.refresh()
	case n == 1:
		r.End()
	case n == 2:
		if len(r.coming) == 0 {
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
		if g.sound != nil {
			g.sound.Remove()
		}
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
