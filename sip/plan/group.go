package plan

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"ringfence/config"
)

// HuntGroup is a group of lines that ring for one number ("dialplan" §2.1, "sip-calls" §19).
type HuntGroup struct {
	Number        string
	Name          string
	Strategy      Strategy
	LoginRequired bool
	ShowPilot     bool
	Music         string        // what callers hear when a member puts them on hold; "": as the member's line has it
	Ring          time.Duration // in all
	Each          time.Duration // one member, where they ring in turn

	members []string // numbers of lines, those of nested groups in their place
	busy    config.Dest
	noReply config.Dest
	empty   config.Dest
}

// Strategy is the order in which members ring.
type Strategy string

// Strategies.
const (
	RingAll     Strategy = "all"
	Ordered     Strategy = "ordered"
	RoundRobin  Strategy = "round_robin"  // each call begins one member later
	LongestIdle Strategy = "longest_idle" // whoever has not talked for longest is first
	Random      Strategy = "random"
)

// InTurn tells whether members ring one after the other.
func (g *HuntGroup) InTurn() bool { return g.Strategy != RingAll }

func compileGroup(d *config.Document, g *config.Group) *HuntGroup {
	c := &HuntGroup{
		Number: string(g.Number), Name: g.Name, Strategy: Strategy(g.Strategy), LoginRequired: g.LoginRequired, ShowPilot: g.ShowPilot, Music: g.Music,
		Ring: time.Duration(g.RingSeconds) * time.Second, Each: time.Duration(g.MemberSeconds) * time.Second,
		busy: g.OnBusy, noReply: g.OnNoAnswer, empty: g.OnEmpty,
	}
	if c.Strategy == "" {
		c.Strategy = RingAll
	}
	if c.Ring <= 0 {
		c.Ring = 30 * time.Second
	}
	if c.Each <= 0 {
		c.Each = 10 * time.Second
	}
	if c.busy == "" {
		c.busy = c.noReply
	}
	c.flatten(d, g, nil)
	return c
}

// maxMembers bounds what nested groups add up to.
const maxMembers = 500

// flatten lists the lines of a group. The document's checks have refused circles; on guards against them all the same.
func (g *HuntGroup) flatten(d *config.Document, from *config.Group, on []string) {
	if slices.Contains(on, string(from.Number)) {
		return
	}
	on = append(on, string(from.Number))
	for _, m := range from.Members {
		if _, ok := d.Line(string(m)); ok {
			if !slices.Contains(g.members, string(m)) && len(g.members) < maxMembers {
				g.members = append(g.members, string(m))
			}
			continue
		}
		for i := range d.Groups {
			if d.Groups[i].Number == m {
				g.flatten(d, &d.Groups[i], on)
			}
		}
	}
}

// toGroup considers a hunt group: who of its members can be rung, and in which order. A member that is logged out, does not
// want to be disturbed, forwards its calls, is in a call or is not there is left out.
func (p *Plan) toGroup(d *Decision, g *HuntGroup, s State) {
	if slices.Contains(d.visited, g.Number) {
		d.step("loop", "%s was on the way already", g.Number)
		d.reject(Busy.code(), "loop", "the call ends")
		return
	}
	d.visited = append(d.visited, g.Number)
	var here, busy []string
	var free []*Line
	for _, number := range g.members {
		l, ok := p.lines[number]
		switch {
		case !ok:
		case g.LoginRequired && !l.LoggedIn(s):
			d.step("member", "%s is logged out", number)
		case !s.Registered(number):
			d.step("member", "%s is not registered", number)
		case l.Rejects(s):
			d.step("member", "%s refuses calls", number)
		case s.Forward(number) != "":
			d.step("member", "%s forwards its calls", number)
		case s.Calls(number) > 0:
			d.step("member", "%s is in a call", number)
			here, busy = append(here, number), append(busy, number)
		default:
			here, free = append(here, number), append(free, l)
		}
	}
	switch {
	case len(here) == 0:
		d.step("group", "nobody of %s is there", g.Number)
		p.groupRule(d, g, g.empty, "empty", Unavailable, 503, s)
		return
	case len(free) == 0:
		d.step("group", "all of %s are busy: %s", g.Number, strings.Join(busy, ", "))
		p.groupRule(d, g, g.busy, "busy", UserBusy, Busy.code(), s)
		return
	}
	p.order(free, g, s)
	var names []string
	for _, l := range free {
		names = append(names, l.Number)
	}
	if g.InTurn() && len(free) > 1 {
		d.step("ring", "ring %s in turn for %s each, %s in all (%s)", strings.Join(names, ", "), g.Each, g.Ring, g.Strategy)
	} else {
		d.step("ring", "ring %s for %s", strings.Join(names, ", "), g.Ring)
	}
	d.Kind, d.Group, d.Members, d.Line, d.Code = Hunt, g, free, nil, 0
}

// order sorts the members that can be rung by the strategy.
func (p *Plan) order(free []*Line, g *HuntGroup, s State) {
	switch g.Strategy {
	case RoundRobin:
		// The turn counts all members, so that somebody who is away for a call does not shift the others.
		start := 0
		if n := len(g.members); n > 0 {
			start = s.Turn(g.Number) % n
		}
		place := func(l *Line) int {
			return (slices.Index(g.members, l.Number) - start + len(g.members)) % len(g.members)
		}
		slices.SortStableFunc(free, func(a, b *Line) int { return cmp.Compare(place(a), place(b)) })
	case LongestIdle:
		slices.SortStableFunc(free, func(a, b *Line) int { return s.LastCall(a.Number).Compare(s.LastCall(b.Number)) })
	case Random:
		rand.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	}
}

// groupRule sends a call on that a group could not take.
func (p *Plan) groupRule(d *Decision, g *HuntGroup, to config.Dest, why, reason string, code int, s State) {
	p.destination(d, to, rule{name: "on " + why, from: g.Number, fromName: g.Name, reason: reason, code: code, may: func(string) bool { return true }}, s)
}
