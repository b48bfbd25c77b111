package call

import "time"

// This file describes calls and legs for listings and records.

func (c *Call) info() Info {
	i := Info{ID: c.id, Dialled: c.dialled, From: c.from, Started: c.started, Answered: c.talking, Ways: c.decision.Diversions, Legs: c.list()}
	switch {
	case c.caller == nil:
		i.State = "ending"
	case c.callee != nil:
		i.State = "talking"
	case len(c.branches) > 0:
		i.State = "ringing"
	default:
		i.State = "calling"
	}
	if c.lent != nil {
		i.State = "transferring"
	}
	return i
}

func (l *Leg) describe() LegInfo {
	i := LegInfo{
		ID: l.ID, Line: l.Line.Number, Name: l.Line.Name, Device: l.Device, Incoming: l.Incoming, State: l.state.String(), Held: l.isHeld,
		CallID: l.callID, Created: l.created, Answered: l.answered, Through: l.through,
		End: l.why, RxStat: l.rxStat, TxStat: l.txStat, HasStats: l.hasStats, session: l.media,
	}
	i.Direct = l.roamed
	i.Shows = l.peer.Name
	if i.Shows == "" {
		i.Shows = l.peer.Number
	}
	if a, ok := l.neg.Agreed(); ok {
		i.Codec, i.Secure = a.Codec.String(), a.Secure
	}
	if l.state == down {
		i.Ended = time.Now()
		if l.media != nil {
			i.Media = l.media.Stats()
		}
	}
	return i
}
