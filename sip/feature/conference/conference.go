// Package conference is the ad-hoc conference of "sip-calls" §5 to §7: the key Conference makes one room of two calls of a phone
// and adds further parties, the keys ConfList and Details show who is in it and let an administrator mute and remove, RmLstC
// removes who came last.
//
//	Conference(X, Y): NOTIFY active, everybody into the room, UPDATE X "Conference", holdretrieve X, NOTIFY 200, BYE Y
//	further party:    the same on a leg that is in the room, without the UPDATE
//
// The name of the room on the phone's display is an escape, so that the phone shows it in its own language and offers the list.
// Whoever made the conference is its administrator; Options say whether others are, and whether the room outlives them. A party
// that rings still comes when it answers. Of two who are left the room makes an ordinary call.
//
// join.go is §8: calls that the user has marked, joined to one conference.
//
// barge.go is how other phones of a shared line come in (§26), meetme.go are rooms that have a number (§20).
//
// It leaves out: roster by INFO.
package conference

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"ringfence/config"
	"ringfence/media"
	"ringfence/sip/call"
	"ringfence/sip/cisco"
	"ringfence/sip/registrar"
)

// Options of conferences.
type Options struct {
	MultiAdmin bool // every Cisco phone is an administrator
	Keep       bool // the room goes on without one
	MaxGuests  int  // in one room

	Numbers map[string]bool // of meet-me rooms; true: anybody may open it
}

// OptionsOf are those that a document declares.
func OptionsOf(d *config.Document) Options {
	c := d.Features.Conference
	return Options{MultiAdmin: c.EveryoneAdmin, Keep: c.Keep, MaxGuests: c.MaxGuests, Numbers: openTo(d)}
}

// Rooms holds the conferences.
type Rooms struct {
	// Private tells whether a phone's calls are hidden from the other phones of its lines; nil: no.
	Private func(device string) bool

	log *slog.Logger

	mu     sync.Mutex
	opt    Options
	next   int
	rooms  map[int]*room
	guests map[string]seat // by leg

	selected map[string][]*call.Leg // calls that a user has marked, by device

	meetings map[string]*room // open meet-me rooms by number
}

// seat is what is known of a guest without asking its room.
type seat struct {
	room   int
	device string
	admin  bool
}

type room struct {
	*call.Room
	all    *Rooms
	opt    Options
	id     int
	choice map[string]string    // remembered menu action, by device
	shown  map[string]*call.Leg // whose phone has been shown the list, by device

	number string      // of a meet-me room
	host   *call.Leg   // who has opened it; nil: it is anybody's
	plain  bool        // a barge: nobody is shown a conference
	admins []*call.Leg // besides whoever else is one
}

// New makes the holder of conferences.
func New(o Options, log *slog.Logger) *Rooms {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	a := &Rooms{log: log.With("component", "conference"), rooms: map[int]*room{}, guests: map[string]seat{}, selected: map[string][]*call.Leg{}, meetings: map[string]*room{}}
	a.Reload(o)
	return a
}

// Reload takes other options, for conferences that are made from now on.
func (a *Rooms) Reload(o Options) {
	if o.MaxGuests <= 0 {
		o.MaxGuests = 60
	}
	a.mu.Lock()
	a.opt = o
	a.mu.Unlock()
}

// name is what phones show in their own language, and what turns on their list.
func name() call.Identity { return call.Identity{Name: cisco.Phrase('4')} }

// Key handles the keys of a phone in a call of two.
func (a *Rooms) Key(c *call.Call, l *call.Leg, k *call.Key) {
	target := k.Consult()
	if target == nil || k.Event.Event != "Conference" {
		a.refuse(l, k)
		return
	}
	k.Notify("active;expires=60", "", nil)
	a.gather(c, l, target, func(r *room, err error) {
		if err != nil {
			a.log.Info("no conference", "line", l.Line.Number, "phone", l.Device, "err", err)
			a.refuse(l, k)
			return
		}
		l.Push(nil, cisco.Request{HoldRetrieve: &cisco.HoldRetrieve{Dialog: k.Dialog()}})
		k.Done(200)
		r.Release(target)
	})
}

// gather makes a room of the call of l and of target's far end. done is called in the room's goroutine, or with an error in
// the call's.
func (a *Rooms) gather(c *call.Call, l, target *call.Leg, done func(*room, error)) {
	a.mu.Lock()
	r := &room{all: a, opt: a.opt, choice: map[string]string{}, shown: map[string]*call.Leg{}}
	a.mu.Unlock()
	c.Gather(l, target, r.hooks(), name(), func(made *call.Room, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		r.Room = made
		a.number(r)
		if g := made.GuestOf(l); g != nil {
			g.Admin = true
		}
		for _, g := range made.Guests() {
			r.admit(g)
		}
		done(r, nil)
		if made.GuestOf(l) == nil && !r.opt.Keep {
			made.End() // whoever has made it hung up in the same moment
		}
	})
}

func (r *room) hooks() call.Hooks {
	return call.Hooks{Came: r.came, Left: r.left, Key: r.key, Over: r.over}
}

// number makes a room known.
func (a *Rooms) number(r *room) {
	a.mu.Lock()
	a.next++
	r.id = a.next
	a.rooms[r.id] = r
	a.mu.Unlock()
}

// refuse tells the phone that there will be no conference; its calls are as they were.
func (a *Rooms) refuse(l *call.Leg, k *call.Key) {
	k.Done(500)
	if !l.Talking() {
		return // the text names a call that is over
	}
	l.Push(nil, cisco.Request{StatusLine: &cisco.StatusLine{Dialog: k.Dialog(), Text: cisco.Phrase('&'), Seconds: 10, Priority: 1}})
}

// admit gives a guest the display of an administrator, if it is one.
func (r *room) admit(g *call.Guest) {
	if r.number != "" {
		g.Admin = g.Leg == r.host
	} else if !r.plain && g.Leg.Cisco && (r.opt.MultiAdmin || slices.Contains(r.admins, g.Leg)) {
		g.Admin = true
	}
	if g.Admin && r.number == "" {
		r.ShowRoom(g)
	}
	r.all.mu.Lock()
	r.all.guests[g.Leg.ID] = seat{r.id, g.Leg.Device, g.Admin}
	r.all.mu.Unlock()
}

// MayPress is call.Options.MayPress: what concerns a conference is for its administrators.
func (a *Rooms) MayPress(l *call.Leg, event string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	seat, in := a.guests[l.ID]
	switch event {
	case "ConfList", "ConfDetails", "RmLastConf":
		return in && seat.admin
	case "Conference", "Join":
		return !in || seat.admin
	}
	return true
}

// came is called for each guest, for the first ones before the room has its number.
func (r *room) came(g *call.Guest) {
	if r.Room == nil {
		return
	}
	r.admit(g)
	if len(r.Guests()) > 2 {
		r.Play(joinTone.Source())
	}
}

// left: without an administrator the room ends, unless it is to be kept.
func (r *room) left(g *call.Guest) {
	r.all.mu.Lock()
	delete(r.all.guests, g.Leg.ID)
	r.all.mu.Unlock()
	guests := r.Guests()
	admins := 0
	for _, o := range guests {
		if o.Admin {
			admins++
		}
	}
	switch {
	case r.number != "" && g.Leg == r.host:
		r.End() // the room is its host's
	case g.Admin && admins == 0 && !r.opt.Keep:
		r.End()
	case len(guests) > 1:
		r.Play(leaveTone.Source())
	}
}

func (r *room) over() {
	for _, l := range r.shown {
		closeMenu(l) // what it lists is over
	}
	clear(r.shown)
	r.all.mu.Lock()
	defer r.all.mu.Unlock()
	delete(r.all.rooms, r.id)
	if r.all.meetings[r.number] == r {
		delete(r.all.meetings, r.number)
	}
	for leg, s := range r.all.guests {
		if s.room == r.id {
			delete(r.all.guests, leg)
		}
	}
}

// The tones of coming and going.
var (
	joinTone  = media.Tone{Hz: []float64{880}, Cadence: []time.Duration{100 * time.Millisecond, 40 * time.Millisecond, 100 * time.Millisecond}}
	leaveTone = media.Tone{Hz: []float64{440}, Cadence: []time.Duration{200 * time.Millisecond}}
)

// key handles the keys of a phone in a conference.
func (r *room) key(g *call.Guest, k *call.Key) {
	switch k.Event.Event {
	case "Conference":
		r.add(g, k)
	case "ConfList", "ConfDetails":
		k.Done(200)
		r.menu(g)
	case "RmLastConf":
		k.Done(200)
		r.removeLast(g)
	case "Join":
		if list := r.all.marked(g.Leg); len(list) > 0 {
			r.joinNext(g.Leg, k, list)
		} else {
			r.all.notJoined(g.Leg, k)
		}
	default:
		k.Done(500)
	}
}

// add brings the far end of another call of the phone into the room.
func (r *room) add(g *call.Guest, k *call.Key) {
	target := k.Consult()
	if target == nil || len(r.Guests()) >= r.opt.MaxGuests {
		r.all.refuse(g.Leg, k)
		return
	}
	k.Notify("active;expires=60", "", nil)
	r.Add(target, func(err error) {
		if err != nil {
			r.all.refuse(g.Leg, k)
			return
		}
		g.Leg.Push(nil, cisco.Request{HoldRetrieve: &cisco.HoldRetrieve{Dialog: k.Dialog()}})
		k.Done(200)
		r.Release(target)
	})
}

// removeLast drops who came last, but never who asks for it ("sip-calls" §7, §35).
func (r *room) removeLast(by *call.Guest) {
	guests := r.Guests()
	for i := len(guests) - 1; i >= 0; i-- {
		if guests[i] != by {
			r.Drop(guests[i])
			return
		}
	}
}

// guestOf finds the guest of a device.
func (r *room) guestOf(device string) *call.Guest {
	for _, g := range r.Guests() {
		if g.Leg.Device == device {
			return g
		}
	}
	return nil
}

// Choices is call.Options.Choices: what a user has chosen in the list.
func (a *Rooms) Choices(id registrar.Identity, d cisco.DataPassthrough, choice string) bool {
	if d.Application != listApplication {
		return false
	}
	a.mu.Lock()
	r, admin := a.rooms[d.ConfID], false
	for _, s := range a.guests {
		admin = admin || s.room == d.ConfID && s.admin && s.device == id.Device && id.Device != ""
	}
	a.mu.Unlock()
	if r == nil || !admin {
		return false
	}
	return r.Do(func() { r.chosen(id.Device, choice) }) == nil
}
