package plan

import (
	"slices"
	"strings"

	"ringfence/config"
)

// Outside is a call that leaves the house: which trunks may carry it, and the number as they are given it.
type Outside struct {
	Number         string // digits that are stripped are gone
	Via            []string
	Route          string // pattern that matched
	Right          string // that was needed
	CallbackPrefix string
	Emergency      bool // rights, do-not-disturb and privacy do not count, and nothing may queue it ("dialplan" §3 rule 12)
}

type route struct {
	match    *config.Pattern
	right    string
	strip    int
	via      []string
	callback string
}

func compileRoute(r *config.RouteOut) (route, bool) {
	m, err := config.CompilePattern(r.Match)
	return route{m, r.Right, r.Strip, r.Via, string(r.CallbackPrefix)}, err == nil
}

// routeFor finds the narrowest route for a number.
func (p *Plan) routeFor(number string) (best route, ok bool) {
	for _, r := range p.routes {
		if r.match.Match(number) && (!ok || r.match.Narrower(best.match, number)) {
			best, ok = r, true
		}
	}
	return best, ok
}

func (r route) outside(number string) Outside {
	return Outside{Number: number[min(r.strip, len(number)):], Via: r.via, Route: r.match.String(), Right: r.right, CallbackPrefix: r.callback}
}

func (p *Plan) isEmergency(number string) bool {
	return p.emergency[number] || p.emergency[strings.TrimPrefix(number, p.prefix)]
}

// toEmergency sends a call for help out, whoever makes it: with or without the outside prefix, by whatever route takes it.
func (p *Plan) toEmergency(d *Decision, number string) bool {
	bare := number
	if !p.emergency[bare] {
		if bare = strings.TrimPrefix(number, p.prefix); !p.emergency[bare] || bare == number {
			return false
		}
	}
	d.step("emergency", "%s calls for help: rights, schedules and privacy do not count", number)
	d.Attr.Show = true
	for _, n := range []string{bare, p.prefix + bare} {
		if r, ok := p.routeFor(n); ok {
			d.outside(r, n)
			d.Outside.Emergency, d.Outside.Number = true, bare
			// Every trunk may carry it, those of the route first.
			for _, t := range p.trunks {
				if !slices.Contains(d.Outside.Via, t) {
					d.Outside.Via = append(slices.Clone(d.Outside.Via), t)
				}
			}
			return true
		}
	}
	d.reject(503, "emergency", "no route takes %s out of the house", bare)
	return true
}

func (d *Decision) outside(r route, number string) {
	out := r.outside(number)
	d.step("route", "%s matches %s: %s goes out by %s", number, r.match, out.Number, strings.Join(out.Via, ", then "))
	d.Kind, d.Line, d.Code, d.Outside = External, nil, 503, &out
}

// entry is a rule for calls that come from trunks.
type entry struct {
	trunk, number string
	when          *config.Hours
	to, other     config.Dest
}

// Inbound decides on a call from a trunk: the rule that names most about it counts ("dialplan" §2). A call from outside reaches
// neither services nor routes out, unless a rule names them (rule 13).
func (p *Plan) Inbound(trunk, number string, s State) Decision {
	var d Decision
	best, score := -1, -1
	for i, e := range p.inbound {
		if e.trunk != "" && e.trunk != trunk || e.number != "" && e.number != number {
			continue
		}
		n := 0
		if e.number != "" {
			n += 2
		}
		if e.trunk != "" {
			n++
		}
		if n > score {
			best, score = i, n
		}
	}
	if best < 0 {
		d.reject(404, "number", "no rule takes calls to %s from %s", number, orAny(trunk))
		return d
	}
	e := p.inbound[best]
	to := e.to
	d.step("number", "calls to %s from %s have a rule", orAny(e.number), orAny(e.trunk))
	if e.when != nil {
		open, why := p.open(e.when, s)
		d.step("schedule", "%s is %s: %s", e.when.ID, openClosed(open), why)
		if !open {
			to = e.other
		}
	}
	p.destination(&d, to, rule{name: "inbound", code: 480, may: func(string) bool { return true }}, s)
	return d
}

func orAny(s string) string {
	if s == "" {
		return "anywhere"
	}
	return s
}

func openClosed(open bool) string {
	if open {
		return "open"
	}
	return "closed"
}

// open tells whether a schedule is open: its manual switch closes by hand.
func (p *Plan) open(h *config.Hours, s State) (bool, string) {
	if h.Switch != "" && s.Switch(h.Switch) {
		return false, "the switch " + h.Switch + " is on"
	}
	return h.Open(s.Now())
}
