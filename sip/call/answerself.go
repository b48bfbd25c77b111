package call

import "ringfence/sip/cisco"

// answerBySelf lets a phone that rings answer on its speaker, if the phone is free ("sip-calls" §25): after its 180, since only
// then its tag is known.
func (c *Call) answerBySelf(l *Leg) {
	if !l.Cisco || c.m.opt.State.DND(l.Device) || c.m.opt.State.OffHook(l.Device) {
		return
	}
	calls := 0
	for _, line := range c.plan.LinesOf(l.Device) {
		calls += c.m.callsAt(line, l.Device)
	}
	if calls > 1 {
		return // this one, and another
	}
	l.Push(nil, cisco.Request{Answer: &cisco.AnswerCall{Dialog: l.DialogID()}})
}
