package call

import (
	"ringfence/media"
)

// sounds are what a call plays to a party that cannot hear the other one.
type sounds struct {
	music *media.Player // one for all who wait
	ring  media.Tone
}

// sound is what a leg hears instead of the other party.
type sound uint8

const (
	nothing sound = iota
	music
	ringBack
)

// hear changes what the leg's party hears.
func (l *Leg) hear(s sound) {
	if l.hears == s || l.media == nil {
		return
	}
	l.hears = s
	var p *media.Player
	switch s {
	case music:
		p = l.m.sounds.music
	case ringBack:
		p = l.m.opt.Media.NewPlayer(l.m.sounds.ring.Source(), nil)
	}
	if err := l.media.Play(p); err != nil {
		l.log.Debug("play", "err", err)
	}
}

// audio lets each party hear what its situation calls for: music while the other one has put the call on hold, also for a
// transfer, but not for a conference, which is about to begin ("sip-calls" §3); the ring-back tone while the party was
// transferred to somebody who still rings ("sip-calls" §4.3).
func (c *Call) audio() {
	for _, l := range []*Leg{c.caller, c.callee} {
		if l == nil || !l.talking() {
			continue
		}
		other := c.other(l)
		switch {
		case other != nil && other.isHeld && other.holdReason != "conference":
			l.hear(music)
		case other == nil && l == c.caller && len(c.branches) > 0:
			l.hear(ringBack)
		default:
			l.hear(nothing)
		}
	}
}
