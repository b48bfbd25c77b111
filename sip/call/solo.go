package call

import (
	"errors"
	"strconv"
	"time"

	"ringfence/sip/plan"
)

// Solo is a party that is alone for a while: parked, later queued or in a mailbox. It has an owner of its own. Its functions are
// called in that goroutine, and Do gets there from elsewhere.
type Solo struct {
	*owner
	m       *Manager
	leg     *Leg // nil once it has left
	started time.Time
	state   string
	dialled string
	// Left is called when the party has hung up by itself.
	Left func()

	// Of a party that the server talks with (attend.go).
	attended   time.Time
	ways       []plan.Diversion
	playing    int // counts what was played
	stopDigits func()
}

// Split takes the party that l talks with out of the call and lets it wait alone, with music. l stays, without anybody.
func (c *Call) Split(l *Leg, state string) (*Solo, error) {
	keep := c.Other(l)
	if keep == nil || c.Moving() {
		return nil, errGone
	}
	s := &Solo{m: c.m, leg: keep, started: time.Now(), state: state, dialled: c.dialled}
	if !c.m.startOwner(&s.owner, s) {
		return nil, errors.New("too many calls")
	}
	if c.caller == keep {
		c.caller = nil
	} else {
		c.callee = nil
	}
	c.release(keep)
	keep.media.Part()
	s.adopt(keep)
	keep.hold("")
	c.m.tasks.Go(state, s.run, s.cleanup)
	return s, nil
}

// Music lets the party wait with a music of a name.
func (s *Solo) Music(name string) {
	if s.leg != nil {
		s.leg.hold(name)
	}
}

// Party is who waits; nil once it has left.
func (s *Solo) Party() *Leg { return s.leg }

// Do runs f in the party's goroutine; an error means that the party is gone.
func (s *Solo) Do(f func()) error { return s.send(message{run: f}) }

// After runs f later, unless the party has left by then.
func (s *Solo) After(d time.Duration, f func()) {
	time.AfterFunc(d, func() {
		err := s.Do(func() {
			if s.leg != nil {
				f()
			}
		})
		if errors.Is(err, errOwnerFull) {
			s.After(time.Second, f)
		}
	})
}

// Redirect makes the party the caller of a new call, which goes where d says, with the rights of a line.
func (s *Solo) Redirect(from, dialled string, d plan.Decision, p *plan.Plan) error {
	l := s.leg
	if l == nil {
		return errGone
	}
	c := &Call{m: s.m, plan: p, from: from, dialled: dialled, caller: l}
	if !s.m.startCall(c) {
		return errors.New("too many calls")
	}
	s.leg = nil
	s.release(l)
	c.adopt(l)
	l.post(func() {
		if d.Line != nil {
			l.Show(identityOf(d.Line), l.security)
		}
		c.apply(d)
	})
	s.m.tasks.Go("call", c.run, c.cleanup)
	return nil
}

// Fetch connects the caller of c, who waits for an answer, with the party of s. It is called in c's goroutine; taken is called
// in s's, once the party has left. If the party is gone, or somebody else was faster, missed is called, in c's goroutine.
func (c *Call) Fetch(s *Solo, taken, missed func()) {
	miss := func() { c.insist(message{run: missed}) }
	if s.send(message{run: func() { s.give(c, taken, miss) }, drop: miss}) != nil {
		missed()
	}
}

// give sends the party to a call that waits for it. If that call has ended meanwhile, the party comes back and waits on.
func (s *Solo) give(c *Call, taken, miss func()) {
	l := s.leg
	if l == nil {
		miss()
		return
	}
	s.leg = nil
	s.release(l)
	s.waiting++
	back := func() {
		s.waiting--
		s.leg = l
		s.adopt(l)
	}
	gone := func() {
		s.waiting--
		taken()
	}
	home := func() { s.insist(message{run: back, drop: l.abandon}) }
	err := c.send(message{drop: home, run: func() {
		if c.connect(l) != nil {
			home()
			return
		}
		s.insist(message{run: gone})
	}})
	if err != nil {
		back()
	}
}

// connect answers the waiting caller with a party that talks already.
func (c *Call) connect(l *Leg) error {
	if c.caller == nil || !c.caller.waiting() || c.callee != nil {
		return errGone
	}
	a, ok := l.neg.Agreed()
	if !ok {
		return errGone
	}
	list := first(a.Codec, c.m.opt.Codecs)
	var body []byte
	err := errGone
	for _, codec := range list { // the party's codec if the caller has it, else any: join brings them together
		if body, err = c.caller.prepare(codec, 0); err == nil {
			break
		}
	}
	if err != nil {
		c.refuse(488)
		return err
	}
	c.adopt(l)
	c.callee = l
	c.talking = time.Now()
	c.caller.peer, c.caller.security = l.identity(), min(c.caller.level(), l.level())
	c.caller.accept(body)
	c.join()
	return nil
}

// startOwner makes an owner with a handler, if there is room.
func (m *Manager) startOwner(o **owner, h handler) bool {
	*o = newOwner(m, "C"+strconv.FormatUint(m.ids.Add(1), 10), h)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped || len(m.owners) >= m.opt.MaxCalls {
		return false
	}
	m.owners[*o] = &Info{ID: (*o).id, Started: time.Now(), State: "calling"}
	return true
}

// What happens to a party that is alone.

func (s *Solo) ringing(*Leg, int)         {}
func (s *Solo) answered(*Leg)             {}
func (s *Solo) failed(*Leg, failure)      {}
func (s *Solo) canceled(*Leg)             {}
func (s *Solo) agreed(*Leg)               {}
func (s *Solo) held(*Leg)                 {}
func (s *Solo) refer(_ *Leg, r *Referral) { r.Refuse(603) }
func (s *Solo) key(_ *Leg, k *Key)        { k.Done(500) }
func (s *Solo) down(*Leg)                 {}

func (s *Solo) ended(l *Leg) {
	if s.leg == l {
		s.leg = nil
		s.quiet()
		if s.Left != nil {
			s.Left()
		}
	}
}

func (s *Solo) stop() {
	if s.leg != nil {
		s.ended(s.leg)
	}
}

func (s *Solo) info() Info {
	answered := s.attended
	if answered.IsZero() {
		answered = s.started
	}
	return Info{ID: s.id, State: s.state, Dialled: s.dialled, Started: s.started, Answered: answered, Ways: s.ways, Legs: s.list()}
}
