// Package pickup lets a phone take a call that rings elsewhere ("sip-calls" §12): of its own groups, of a given extension or
// group, of its other groups, and of a lamp key. The phone dials a name of the product; nothing to pick up is 503, which it
// shows in its own words.
//
// Who may: a line takes calls of lines that are in one of the groups that it may pick from, or in its other groups. A line that
// is in no group may be picked by whoever names it, since there is no rule about it.
//
// It leaves out: the notice to the other members of a group (§13), and the priority that CUCM gives to such calls.
package pickup

import (
	"slices"
	"strconv"

	"ringfence/sip/call"
	"ringfence/sip/plan"
)

// Services are the entries for call.Options.Services.
func Services() map[string]func(*call.Call, string) {
	return map[string]func(*call.Call, string){
		"pickup":    func(c *call.Call, _ string) { pick(c, own) },
		"opickup":   func(c *call.Call, _ string) { pick(c, other) },
		"gpickup":   func(c *call.Call, arg string) { number(c, arg) },
		"blfpickup": func(c *call.Call, arg string) { pick(c, extension(arg)) },
	}
}

// rule tells whether a line may take a call that rings at another.
type rule func(who, rings *plan.Line) bool

func own(who, rings *plan.Line) bool { return share(who.MayPick, rings.MemberOf) }

func other(who, rings *plan.Line) bool { return share(who.Other, rings.MemberOf) }

func extension(number string) rule {
	return func(who, rings *plan.Line) bool {
		return rings.Number == number && (len(rings.MemberOf) == 0 || own(who, rings) || other(who, rings))
	}
}

func group(n int) rule {
	return func(who, rings *plan.Line) bool {
		return slices.Contains(rings.MemberOf, n) && (slices.Contains(who.MayPick, n) || slices.Contains(who.Other, n))
	}
}

func share(a, b []int) bool {
	return slices.ContainsFunc(a, func(n int) bool { return slices.Contains(b, n) })
}

// number takes the call of an extension, else that of a group.
func number(c *call.Call, arg string) {
	if _, ok := c.Plan().Line(arg); ok {
		pick(c, extension(arg))
		return
	}
	n, err := strconv.Atoi(arg)
	if err != nil {
		c.Refuse(503)
		return
	}
	pick(c, group(n))
}

// pick takes the oldest call that the rule allows; the others stand by in case somebody is faster.
func pick(c *call.Call, may rule) {
	who := c.Caller()
	if who == nil {
		return
	}
	alerts := c.Manager().Alerts()
	alerts = slices.DeleteFunc(alerts, func(a call.Alert) bool { return a.Line.Number == who.Number || !may(who, a.Line) })
	c.PickUp(alerts)
}
