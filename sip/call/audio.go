package call

import (
	"cmp"

	"ringfence/media"
)

// sounds are what a call plays to a party that cannot hear the other one.
type sounds struct {
	melody *media.Player // for all who wait and have no music of their own
	ring   media.Tone
}

// sound is what a leg hears instead of the other party.
type sound uint8

const (
	nothing sound = iota
	music
	ringBack
)

// hold lets the leg's party wait with a music; one that does not exist is the built-in melody.
func (l *Leg) hold(name string) {
	if l.media == nil || l.hears == music && l.tune == name {
		return
	}
	l.hears, l.tune = music, name
	var p *media.Player
	if f := l.m.opt.Music; f != nil {
		p = f(cmp.Or(name, "default"))
	}
	if p == nil {
		p = l.m.sounds.melody
	}
	if err := l.media.Play(p); err != nil {
		l.log.Debug("play", "err", err)
	}
}

// hear changes what the leg's party hears.
func (l *Leg) hear(s sound) {
	if l.hears == s || l.media == nil {
		return
	}
	l.hears = s
	var p *media.Player
	if s == ringBack {
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
			l.hold(c.music(l, other))
		case other == nil && l == c.caller && len(c.branches) > 0:
			l.hear(ringBack)
		default:
			l.hear(nothing)
		}
	}
}

// music is what a party hears whom the other one has put on hold: that of the group it has called, else that of the line.
func (c *Call) music(l, other *Leg) string {
	if g, ok := c.plan.Group(c.dialled); ok && g.Music != "" && l == c.caller {
		return g.Music
	}
	if other.Line == nil {
		return ""
	}
	return other.Line.Music
}
