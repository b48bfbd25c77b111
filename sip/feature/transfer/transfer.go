// Package transfer handles the REFER by which a phone passes its call on ("sip-calls" §4): blind, attended, and attended while
// the target rings still.
//
// The server owns both dialogs of the phone and joins the far ends itself; nothing of the REFER ever reaches another phone.
// The phone ends the leg that carried its REFER; if it does not, the server does, after a few seconds.
//
//	blind:     REFER Refer-To: <sip:303@...>             202, NOTIFY 200 OK as soon as 303 is rung, BYE of the phone
//	attended:  REFER Refer-To: <sip:303@...?Replaces=..> 202, far ends joined, BYE on the consulting leg, NOTIFY 200 OK
//	early:     the same while 303 rings                  202, the consulting INVITE ends with 500, NOTIFY 200 OK
//
// Where nobody answers and the target has no rule of its own, the call comes back to whoever has transferred it, once, for as
// long as the document says.
//
// It leaves out: transfer to a feature, a park slot say, which is that feature's.
package transfer

import (
	"errors"

	"ringfence/sip/call"
	"ringfence/sip/plan"
)

// Handle is call.Options.Refer.
func Handle(c *call.Call, l *call.Leg, r *call.Referral) {
	switch {
	case c.Moving():
		r.Refuse(491)
	case r.Replaces != nil:
		attended(c, l, r)
	default:
		blind(c, l, r)
	}
}

// blind sends the other party to a number, with the rights of the one who transfers.
func blind(c *call.Call, l *call.Leg, r *call.Referral) {
	r.Accept()
	if c.Other(l) == nil {
		r.Report(503, "")
		return
	}
	d := c.Route(l, r.Target)
	if d.Kind == plan.Service {
		if f := c.ReferService(d.Service.Name); f != nil {
			f(c, l, r, d.Service.Arg)
			return
		}
	}
	if d.Kind != plan.Ring && d.Kind != plan.Hunt && !c.Serves(d) {
		// The call stays as it was: held, and usable.
		r.Report(sipfrag(d))
		return
	}
	r.Report(200, "")
	c.RecallTo(l.Line.Number)
	c.Redirect(l, d)
}

// sipfrag is what the phone is told about a target that cannot be called ("sip-calls" §4.2).
func sipfrag(d plan.Decision) (int, string) {
	if d.Kind == plan.Service {
		return 403, ""
	}
	switch d.Code {
	case 404, 403, 503, 486, 480:
		return d.Code, ""
	}
	return 500, ""
}

// attended joins the other party with the one that the phone has consulted.
func attended(c *call.Call, l *call.Leg, r *call.Referral) {
	r.Accept()
	if c.Other(l) == nil {
		r.Report(503, "")
		return
	}
	target := c.Find(l, r.Replaces)
	if target == nil {
		r.Report(481, "")
		return
	}
	c.Hand(l, target, func(err error) {
		var refused call.ErrNotReplaceable
		switch {
		case err == nil:
			r.Report(200, "")
		case errors.As(err, &refused):
			r.Report(refused.Code, "")
		default:
			r.Report(500, "")
		}
	})
}
