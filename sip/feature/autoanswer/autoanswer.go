// Package autoanswer lets a phone answer certain calls by itself, on its speaker ("sip-calls" §25): those of callers that its line
// names, and those that the plan calls intercom. Once it rings it is told so, never before, since the request names the tag of its
// answer. A phone that is in another call, off-hook or in do-not-disturb rings as always.
package autoanswer

import (
	"slices"

	"ringfence/sip/call"
	"ringfence/sip/cisco"
)

// Rang is the entry for call.Options.Rang.
func Rang(c *call.Call, l *call.Leg) {
	if !l.Cisco || !l.AnswersItself() && !slices.Contains(l.Line.AutoAnswer, c.From()) {
		return
	}
	m := c.Manager()
	if m.DND(l.Device) || m.OffHook(l.Device) || !m.Idle(l.Device, c.Plan().NumbersOf(l.Device), l) {
		return
	}
	l.Push(nil, cisco.Request{Answer: &cisco.AnswerCall{Dialog: l.DialogID()}})
}
