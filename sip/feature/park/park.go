// Package park holds calls in numbered slots until somebody dials the slot ("sip-calls" §9 to §11): the keys Park and Park
// Monitor, transfer to a slot by a lamp key, retrieval, reminder, and the way back to whoever has parked.
//
//	talking --Park--> slot --dialled--> talking with whoever dialled           retrieved
//	                   |----hangs up--------------------------------           abandoned
//	                   |----seconds over--> rings the parker --> then          forwarded
//
// A parked party has an owner of its own (call.Solo) and hears music. Slots are numbers of the plan and have lamps. The parker
// is told the slot before its call ends, since the text names that call.
//
// It leaves out: keeping slots over a restart, music per lot.
package park

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"ringfence/config"
	"ringfence/sip/call"
	"ringfence/sip/cisco"
	"ringfence/sip/plan"
)

// Lots is every slot of a site.
type Lots struct {
	log  *slog.Logger
	lamp func(slot string, busy bool)

	mu    sync.Mutex
	lots  []lot
	slots map[string]*slot // taken ones
	last  map[string]int   // index of the slot given out last, by lot
	lines map[string]string
}

type lot struct {
	config.ParkLot
	numbers []string
}

// slot is a parked call.
type slot struct {
	number string
	lot    lot
	parker *call.Leg // as it was; only what never changes is read
	party  *call.Solo
	key    *call.Key // of Park Monitor, or nil
	plan   *plan.Plan
	notes  int // version of the notices
	moment plan.State
}

// New makes the slots of a document. lamp shows a slot as free or busy.
func New(d *config.Document, lamp func(slot string, busy bool), log *slog.Logger) *Lots {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Lots{log: log.With("component", "park"), lamp: lamp, slots: map[string]*slot{}, last: map[string]int{}}
	p.Reload(d)
	return p
}

// Reload takes a new document. Calls that are parked stay where they are.
func (p *Lots) Reload(d *config.Document) {
	var lots []lot
	for _, c := range d.Parking {
		l := lot{ParkLot: c}
		numbers, err := config.NumberRange(c.Slots)
		if err != nil {
			continue // the document's checks have refused it
		}
		for _, n := range numbers {
			l.numbers = append(l.numbers, string(n))
		}
		lots = append(lots, l)
	}
	lines := map[string]string{}
	for _, l := range d.Lines {
		lines[string(l.Number)] = l.ParkLot
	}
	p.mu.Lock()
	p.lots, p.lines = lots, lines
	var free []string
	for _, l := range lots {
		for _, n := range l.numbers {
			if p.slots[n] == nil {
				free = append(free, n)
			}
		}
	}
	p.mu.Unlock()
	for _, n := range free {
		p.lamp(n, false)
	}
}

var (
	errFull  = errors.New("no free slot")
	errTaken = errors.New("slot is taken")
	errNoLot = errors.New("no such slot")
)

// take reserves a slot: the one that is named, or one of the lot of a line.
func (p *Lots) take(line, number string) (*slot, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lots {
		if number != "" {
			if !slices.Contains(l.numbers, number) {
				continue
			}
			if p.slots[number] != nil {
				return nil, errTaken
			}
			return p.fillLocked(l, number), nil
		}
		if want := p.lines[line]; want != "" && want != l.ID {
			continue
		}
		if n := p.pickLocked(l); n != "" {
			return p.fillLocked(l, n), nil
		}
		return nil, errFull
	}
	return nil, errNoLot
}

// pickLocked finds a free slot in the order of the lot: the first, the next after the last one given out, or any.
func (p *Lots) pickLocked(l lot) string {
	var free []int
	for i, n := range l.numbers {
		if p.slots[n] == nil {
			free = append(free, i)
		}
	}
	if len(free) == 0 {
		return ""
	}
	i := free[0]
	switch l.Order {
	case "rotating":
		if last, ok := p.last[l.ID]; ok {
			if j := slices.IndexFunc(free, func(i int) bool { return i > last }); j >= 0 {
				i = free[j]
			}
		}
	case "random":
		i = free[rand.IntN(len(free))]
	}
	p.last[l.ID] = i
	return l.numbers[i]
}

func (p *Lots) fillLocked(l lot, number string) *slot {
	s := &slot{number: number, lot: l}
	p.slots[number] = s
	return s
}

// free gives a slot back.
func (p *Lots) free(s *slot) {
	p.mu.Lock()
	known := p.slots[s.number] == s
	if known {
		delete(p.slots, s.number)
	}
	p.mu.Unlock()
	if known {
		p.lamp(s.number, false)
	}
}

// Key handles Park and ParkMonitor.
func (p *Lots) Key(c *call.Call, l *call.Leg, k *call.Key) {
	monitor := k.Event.Event == "ParkMonitor"
	s, err := p.take(l.Line.Number, "")
	if err == nil {
		err = p.park(c, l, s, k, monitor)
	}
	if err != nil {
		p.log.Info("call cannot be parked", "line", l.Line.Number, "phone", l.Device, "err", err)
		if monitor {
			k.Notify("terminated;reason=noresource", cisco.TypeDialogInfo, notice("0", hostOf(c), "error", 1))
		} else {
			k.Done(500)
		}
		l.Push(nil, status(k, cisco.Phrase('^')))
		return
	}
	if !monitor {
		k.Done(200)
	}
	if monitor {
		l.Hangup()
		return
	}
	// The text first: it names the call, and would not be shown once that has ended ("sip-calls" §9). A phone that does not
	// answer is not waited for.
	c.Leave(l)
	l.Push(func() { l.Hangup() }, status(k, cisco.Phrase('!')+" "+s.number))
}

func status(k *call.Key, text string) cisco.Request {
	return cisco.Request{StatusLine: &cisco.StatusLine{Dialog: k.Dialog(), Text: text, Seconds: 10, Priority: 1}}
}

// park moves the party that l talks with into a slot.
func (p *Lots) park(c *call.Call, l *call.Leg, s *slot, k *call.Key, monitor bool) error {
	party, err := c.Split(l, "parked")
	if err != nil {
		p.free(s)
		return err
	}
	_ = party.Do(func() { party.Music(s.lot.Music) })
	p.mu.Lock()
	s.parker, s.party, s.plan, s.moment = l, party, c.Plan(), c.Manager().Moment()
	if monitor {
		s.key = k
	}
	p.mu.Unlock()
	p.lamp(s.number, true)
	p.log.Info("call parked", "line", l.Line.Number, "phone", l.Device, "slot", s.number)
	s.note("parked", hostOf(c))
	err = party.Do(func() {
		party.Left = func() {
			p.free(s)
			s.note("abandoned", hostOf(c))
		}
		if leg := party.Party(); leg != nil {
			leg.ShowAlone(call.Identity{Name: cisco.Phrase('5'), Number: s.number})
		} else {
			party.Left()
		}
	})
	if err != nil {
		p.free(s)
		s.note("abandoned", hostOf(c))
		return nil // parked, and gone in the same moment
	}
	host := hostOf(c)
	if r := s.lot.Reminder; s.key != nil && r > 0 && r < s.lot.Seconds {
		party.After(time.Duration(r)*time.Second, func() { s.note("reminder", host) })
	}
	party.After(time.Duration(s.lot.Seconds)*time.Second, func() { p.back(s, host) })
	return nil
}

// back: nobody has dialled the slot in time.
func (p *Lots) back(s *slot, host string) {
	number := s.parker.Line.Number
	c := s.lot.Comeback
	d := s.plan.Follow(number, c.Then, s.moment)
	if c.ToParker {
		d = s.plan.Send(number, time.Duration(max(c.Seconds, 1))*time.Second, c.Then, s.moment)
	}
	p.free(s)
	s.note("forwarded", host)
	p.log.Info("parked call comes back", "line", number, "slot", s.number)
	if err := s.party.Redirect(number, s.number, d, s.plan); err != nil {
		p.log.Info("parked call is lost", "slot", s.number, "err", err)
	}
}

// Retrieve connects whoever dials a slot with the party in it. An empty slot is refused before anything is answered, so that no
// phone lists it as a call ("sip-calls" §11).
func (p *Lots) Retrieve(c *call.Call, o plan.Object) {
	p.mu.Lock()
	s := p.slots[o.Number]
	var party *call.Solo
	if s != nil {
		party = s.party
	}
	p.mu.Unlock()
	if party == nil {
		c.Refuse(404)
		return
	}
	host := hostOf(c)
	c.Fetch(party, func() {
		p.free(s)
		s.note("retrieved", host)
	}, func() { c.Refuse(404) })
}

// Directed handles a transfer to the name of a slot, which a lamp key sends: that slot or none.
func (p *Lots) Directed(c *call.Call, l *call.Leg, r *call.Referral, number string) {
	s, err := p.take(l.Line.Number, number)
	if err == nil {
		err = p.park(c, l, s, nil, false)
	}
	switch {
	case err == nil:
		if number == "" { // the phone does not know which: the text says it, as after the key
			l.Push(nil, cisco.Request{StatusLine: &cisco.StatusLine{Text: cisco.Phrase('!') + " " + s.number, Seconds: 10, Priority: 1}})
		}
		r.Report(200, "")
		c.Leave(l)
	case errors.Is(err, errTaken):
		r.Report(486, "")
	case errors.Is(err, errNoLot):
		r.Report(404, "")
	default:
		r.Report(503, "")
	}
}
