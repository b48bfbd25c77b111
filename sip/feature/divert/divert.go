// Package divert is the iDivert key ("sip-calls" §14): a call that rings counts as busy at this phone, a call that is connected
// or held goes to where the document sends calls of this line (lines on_idivert), and the phone is free.
//
//	ringing:   CANCEL to the phone, the caller follows the busy rule of the line
//	connected: the far end to the destination with Diversion ;reason=deflection, BYE to the phone
//	no destination: text "key is not active", the call stays
package divert

import (
	"ringfence/sip/call"
	"ringfence/sip/cisco"
	"ringfence/sip/plan"
)

// Key is the entry for call.Options.Keys.
func Key(c *call.Call, l *call.Leg, k *call.Key) {
	if c.Decline(l) {
		k.Done(200)
		return
	}
	if c.Other(l) == nil || c.Moving() {
		k.Done(500)
		return
	}
	d := c.Plan().Divert(l.Line.Number, c.Manager().Moment())
	if d.Kind == plan.Reject {
		k.Done(500)
		l.Push(nil, cisco.Request{StatusLine: &cisco.StatusLine{Dialog: k.Dialog(), Text: cisco.Phrase('-'), Seconds: 10, Priority: 1}})
		return
	}
	k.Done(200)
	c.Redirect(l, d)
	l.Hangup()
}
