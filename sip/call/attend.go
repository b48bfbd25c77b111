package call

import (
	"errors"
	"slices"
	"time"

	"ringfence/media"
	"ringfence/sip/plan"
	"ringfence/sip/sdp"
)

// Attend lets the server itself talk with the caller, who is answered if it waits: a mailbox, an announcement. shows is what the
// phone displays. The call ends, since the party goes on alone. With an error the caller was refused, or is gone.
func (c *Call) Attend(state string, shows Identity) (*Solo, error) {
	l := c.caller
	// A party that is leaving has nothing to do with it: it may have sent the other one here.
	if l == nil || c.callee != nil || c.lent != nil || len(c.branches) > 0 {
		return nil, errGone
	}
	var body []byte
	if l.waiting() {
		codecs, ptime := c.codecs()
		list := sdp.Common(RoomCodecs, codecs)
		if len(list) == 0 {
			c.refuse(488)
			return nil, sdp.ErrNoCodec
		}
		var err error
		if body, err = l.prepare(list[0], ptime); err != nil {
			c.refuse(488)
			return nil, err
		}
	}
	s := &Solo{m: c.m, leg: l, started: c.started, attended: time.Now(), state: state, dialled: c.dialled, ways: c.decision.Diversions}
	if !c.m.startOwner(&s.owner, s) {
		c.refuse(503)
		return nil, errors.New("too many calls")
	}
	c.caller = nil
	c.release(l)
	s.adopt(l)
	l.hear(nothing)
	if l.waiting() {
		l.peer, l.security = shows, l.level()
		l.accept(body)
	} else {
		l.media.Part()
		l.Show(shows, l.level())
		if a, ok := l.neg.Agreed(); ok && !slices.Contains(RoomCodecs, a.Codec) {
			l.Reoffer(RoomCodecs)
		}
	}
	c.m.tasks.Go(state, s.run, s.cleanup)
	return s, nil
}

// Play lets the party hear a sound; done, if not nil, is called when it is over, but not when something else is played before
// that, nor when the party leaves.
func (s *Solo) Play(sound media.Source, done func()) {
	s.playing++
	token := s.playing
	p := s.m.opt.Media.NewPlayer(sound, func() {
		_ = s.Do(func() {
			if s.playing == token && s.leg != nil && done != nil {
				done()
			}
		})
	})
	if s.leg == nil {
		return
	}
	if err := s.leg.media.Play(p); err != nil {
		s.log.Debug("play", "err", err)
	}
}

// Hush ends what is played.
func (s *Solo) Hush() {
	s.playing++
	if s.leg != nil {
		_ = s.leg.media.Play(nil)
	}
}

// Digits lets f know of the keys that the party presses.
func (s *Solo) Digits(f func(key byte)) error {
	if s.leg == nil {
		return errGone
	}
	stop, err := s.leg.media.OnDigit(func(key byte) {
		_ = s.Do(func() {
			if s.leg != nil {
				f(key)
			}
		})
	})
	if err == nil {
		s.stopDigits = stop
	}
	return err
}

// Record writes what the party says into a file of a folder. done is called in the party's goroutine, or, when the party is gone
// by then, in another.
func (s *Solo) Record(dir string, done func(media.Recording, error)) (stop func(), err error) {
	if s.leg == nil {
		return nil, errGone
	}
	r, err := s.m.opt.Media.Record(media.RecordOptions{Dir: dir, Done: func(rec media.Recording, err error) {
		if s.Do(func() { done(rec, err) }) != nil {
			done(rec, err)
		}
	}}, s.leg.media, nil)
	if err != nil {
		return nil, err
	}
	return r.Stop, nil
}

// Echo lets the party hear itself.
func (s *Solo) Echo() error {
	if s.leg == nil {
		return errGone
	}
	m, err := media.Listen(s.leg.media)
	if err != nil {
		return err
	}
	s.stopDigits = m.Stop
	s.Play(m, nil)
	return nil
}

// Hangup ends the party's call. Left is not called.
func (s *Solo) Hangup() {
	if l := s.leg; l != nil {
		s.leg = nil
		s.quiet()
		l.Hangup()
	}
}

// quiet ends what listens to the party.
func (s *Solo) quiet() {
	s.playing++
	if s.stopDigits != nil {
		s.stopDigits()
		s.stopDigits = nil
	}
}

// Caller is the party as others see it.
func (s *Solo) Caller() Identity {
	if s.leg == nil {
		return Identity{}
	}
	return s.leg.identity()
}

// Ways are the redirections by which the party came, the last first.
func (s *Solo) Ways() []plan.Diversion { return s.ways }
