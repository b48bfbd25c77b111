package call

import (
	"slices"

	"ringfence/sip/sdp"
)

// This file finds codecs that the parties of a call have in common, or that can be turned into each other.

// more are the codecs that a callee is offered once it has refused those of codecs: what these can be turned into.
func (c *Call) more(common []sdp.Codec) []sdp.Codec {
	wide := sdp.Common(sdp.WithTranscodable(common), c.m.opt.Codecs)
	if len(wide) == len(common) {
		return nil
	}
	return wide
}

// agree prepares the answer to a waiting caller, in the callee's codec or in one that it can be turned into.
func (c *Call) agree(a sdp.Agreed) (body []byte, err error) {
	for i, codec := range first(a.Codec, c.m.opt.Codecs) {
		if i > 0 && !sdp.Bridges(a.Codec, codec) {
			continue
		}
		b, err2 := c.caller.prepare(codec, a.PTime)
		if err2 == nil {
			return b, nil
		}
		if i == 0 {
			err = err2
		}
	}
	return nil, err
}

// codecs are those that a callee is offered: what the caller can, in our order, or for a caller that talks already the codec it
// uses first.
func (c *Call) codecs() ([]sdp.Codec, int) {
	l := c.caller
	if a, ok := l.neg.Agreed(); ok && l.talking() {
		can := l.can
		if can == nil {
			can = l.neg.Remote().AudioCodecs()
		}
		return first(a.Codec, sdp.Common(c.m.opt.Codecs, can)), a.PTime
	}
	if l.offer == nil {
		return c.m.opt.Codecs, 0
	}
	return sdp.Common(c.m.opt.Codecs, l.offer.AudioCodecs()), l.offer.Audio().PTime
}

// reconcile asks one party for a codec of the other, where they differ: first the one that is known to have it, else the callee
// with everything, and then the caller for what the callee has chosen. If that does not help, codecs that can be turned into each
// other are; parties that cannot hear each other then are released.
func (c *Call) reconcile() {
	a, b := c.caller, c.callee
	if a == nil || b == nil || a.asking() || b.asking() {
		return // whoever is being asked comes back here
	}
	x, ok1 := a.neg.Agreed()
	y, ok2 := b.neg.Agreed()
	if !ok1 || !ok2 || slices.Contains(y.Codecs, x.Codec) && slices.Contains(x.Codecs, y.Codec) {
		c.attempts = 0
		return
	}
	c.attempts++
	switch c.attempts {
	case 1:
		switch {
		case slices.Contains(a.can, y.Codec):
			a.Reoffer([]sdp.Codec{y.Codec})
		case slices.Contains(b.can, x.Codec):
			b.Reoffer([]sdp.Codec{x.Codec})
		default:
			b.Reoffer(first(x.Codec, c.m.opt.Codecs))
		}
	case 2:
		a.Reoffer([]sdp.Codec{y.Codec})
	case 3:
		b.Reoffer([]sdp.Codec{x.Codec})
	default:
		if sdp.Bridges(x.Codec, y.Codec) {
			c.attempts = 3 // asked for often enough
			return
		}
		c.log.Info("call ends: parties have no codec in common", "line", a.Line.Number, "err", x.Codec.String()+" and "+y.Codec.String())
		a.Hangup()
		b.Hangup()
	}
}

// first puts a codec in front of a list.
func first(c sdp.Codec, list []sdp.Codec) []sdp.Codec {
	out := []sdp.Codec{c}
	for _, x := range list {
		if x != c {
			out = append(out, x)
		}
	}
	return out
}
