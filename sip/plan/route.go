package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ringfence/config"
	"ringfence/sip/cisco"
)

// MaxRedirections is how often one call may be sent on ("dialplan" §3 rule 4).
const MaxRedirections = 10

// Kind of a Decision.
type Kind uint8

// Kinds.
const (
	Reject  Kind = iota // tell the caller Code
	Ring                // ring Line for Line.Ring
	Service             // a feature called by a name of the product's own
	Special             // a number that is no line: Object says what; Code is for whoever cannot serve it
)

// Diversion is one redirection on the way (RFC 5806).
type Diversion struct {
	Line   string
	Name   string
	Reason string
}

// Reasons of diversions.
const (
	Unconditional = "unconditional"
	UserBusy      = "user-busy"
	ReasonDND     = "do-not-disturb"
	NotAnswered   = "no-answer"
	Unavailable   = "unavailable"
	Deflection    = "deflection"
)

var reasonOf = [causes]string{Busy: UserBusy, NoAnswer: NotAnswered, Unreachable: Unavailable}

// Step is one consideration on the way to a decision.
type Step struct{ Rule, Text string }

// Decision is what becomes of a call.
type Decision struct {
	Kind       Kind
	Code       int // of Reject: 403, 404, 480, 486, 503
	Line       *Line
	Service    cisco.ServiceURI
	Object     Object
	Diversions []Diversion // newest first
	Steps      []Step

	visited []string // lines that were considered
}

func (d *Decision) step(rule, format string, args ...any) {
	d.Steps = append(d.Steps, Step{rule, fmt.Sprintf(format, args...)})
}

func (d *Decision) reject(code int, rule, format string, args ...any) {
	d.step(rule, format, args...)
	d.Kind, d.Code, d.Line = Reject, code, nil
}

// Query is somebody's wish to call.
type Query struct {
	From    string // number of the line whose rights count; "" is nobody, who may call internal numbers alone
	Dialled string // user part of the Request-URI
}

// Route decides on a call. s is asked for the state of the lines on the way.
func (p *Plan) Route(q Query, s State) Decision {
	var d Decision
	from, known := p.lines[q.From]
	if q.From != "" && !known {
		d.reject(403, "caller", "%s is no line of the plan", q.From)
		return d
	}
	if u, ok := cisco.ParseServiceURI(q.Dialled); ok {
		if !known {
			// "dialplan" §3 rule 13: never reachable from outside.
			d.reject(404, "service", "%s is for phones alone", u)
			return d
		}
		d.step("service", "%s is the service %s", q.Dialled, u.Name)
		d.Kind, d.Service = Service, u
		return d
	}
	p.toNumber(&d, from, Normalize(q.Dialled), s)
	return d
}

// toNumber resolves a number for a caller: exact before pattern, internal before outside (rule 6).
func (p *Plan) toNumber(d *Decision, from *Line, number string, s State) {
	mayInternal := from == nil || from.May(rightInternal)
	if l, ok := p.lines[number]; ok {
		if !mayInternal {
			d.reject(403, "rights", "%s may not call internal numbers", from.Number)
			return
		}
		d.step("number", "%s is the line of %s", number, orNumber(l))
		p.toLine(d, l, s)
		return
	}
	if p.emergency[number] {
		d.reject(503, "emergency", "%s is an emergency number, and no trunk is served", number)
		return
	}
	if o, ok := p.numbers[number]; ok {
		if !mayInternal {
			d.reject(403, "rights", "%s may not call internal numbers", from.Number)
			return
		}
		d.reject(503, "number", "%s is a %s", number, strings.TrimSpace(string(o.Kind)+" "+o.Name))
		d.Kind, d.Object = Special, o
		d.Object.Number = number
		return
	}
	for _, r := range p.routes {
		if !r.match.Match(number) {
			continue
		}
		if from == nil || !from.May(r.right) {
			d.reject(403, "rights", "%s matches %s, which needs the right %s", number, r.match, r.right)
			return
		}
		d.reject(503, "route", "%s matches %s, and no trunk is served", number, r.match)
		return
	}
	d.reject(404, "number", "%s is no number of the plan", number)
}

func orNumber(l *Line) string {
	if l.Name != "" {
		return l.Name
	}
	return l.Number
}

// toLine considers a line in the order of design §8.
func (p *Plan) toLine(d *Decision, l *Line, s State) {
	if slices.Contains(d.visited, l.Number) {
		d.step("loop", "%s was on the way already", l.Number)
		p.rule(d, l, Busy, UserBusy, s)
		return
	}
	d.visited = append(d.visited, l.Number)
	if target := s.Forward(l.Number); target != "" {
		d.step("forward all", "%s forwards to %s", l.Number, target)
		if p.forward(d, l, target, Unconditional, s) {
			return
		}
		p.rule(d, l, Busy, UserBusy, s)
		return
	}
	if device := l.device(); s.Rejects(device) {
		d.step("do not disturb", "%s refuses calls", device)
		p.rule(d, l, Busy, ReasonDND, s)
		return
	}
	if n := s.Calls(l.Number); l.BusyAt > 0 && n >= l.BusyAt {
		d.step("busy limit", "%s has %d calls and is busy at %d", l.Number, n, l.BusyAt)
		p.rule(d, l, Busy, UserBusy, s)
		return
	}
	if !s.Registered(l.Number) {
		d.step("registration", "%s is not registered", l.Number)
		p.rule(d, l, Unreachable, Unavailable, s)
		return
	}
	d.step("ring", "ring %s for %s", l.Number, l.Ring)
	d.Kind, d.Line, d.Code = Ring, l, 0
}

// forward sends the call on to a number, with the rights of the line that forwards. It reports false if the number cannot be
// called, so that another rule may take the call.
func (p *Plan) forward(d *Decision, l *Line, target, reason string, s State) bool {
	if len(d.Diversions) >= MaxRedirections {
		d.step("limit", "the call was sent on %d times", len(d.Diversions))
		return false
	}
	// The target alone first: may it be called at all?
	if code, why := p.Callable(l.Number, target); code != 0 {
		d.step("forward", "%s", why)
		return false
	}
	p.divert(d, l, reason)
	p.toNumber(d, l, Normalize(target), s)
	return true
}

func (p *Plan) divert(d *Decision, l *Line, reason string) {
	d.Diversions = append([]Diversion{{l.Number, l.Name, reason}}, d.Diversions...)
}

// Callable tells whether a line may call a number at all, as is checked when a forward is set and when it is used (rule 1 of
// §2.1): 0, or the code of the refusal with its reason.
func (p *Plan) Callable(from, number string) (code int, why string) {
	l, ok := p.lines[from]
	if !ok {
		return 403, from + " is no line of the plan"
	}
	if _, ok := cisco.ParseServiceURI(number); ok {
		return 404, number + " is a service"
	}
	var d Decision
	p.toNumber(&d, l, Normalize(number), anyone{})
	if d.Kind != Ring {
		return d.Code, d.Steps[len(d.Steps)-1].Text
	}
	return 0, ""
}

// anyone is a State in which every line can be rung.
type anyone struct{}

func (anyone) Forward(string) string  { return "" }
func (anyone) Rejects(string) bool    { return false }
func (anyone) Calls(string) int       { return 0 }
func (anyone) Registered(string) bool { return true }

// Next decides what becomes of a call after ringing d.Line came to nothing.
func (p *Plan) Next(d Decision, c Cause, s State) Decision {
	d.Steps, d.Diversions, d.visited = slices.Clone(d.Steps), slices.Clone(d.Diversions), slices.Clone(d.visited)
	if d.Kind != Ring || d.Line == nil {
		d.reject(c.code(), c.String(), "no line was rung")
		return d
	}
	l := d.Line
	d.step(c.String(), "%s was rung in vain", l.Number)
	p.rule(&d, l, c, reasonOf[c], s)
	return d
}

// Deflect decides what becomes of a call that the phone of d.Line sent on by itself ("sip-calls" §22.2: a 302). A target that
// the line may not call counts as busy.
func (p *Plan) Deflect(d Decision, target string, s State) Decision {
	d.Steps, d.Diversions, d.visited = slices.Clone(d.Steps), slices.Clone(d.Diversions), slices.Clone(d.visited)
	if d.Kind != Ring || d.Line == nil {
		d.reject(480, "deflection", "no line was rung")
		return d
	}
	l := d.Line
	d.step("deflection", "the phone of %s sends the call to %s", l.Number, target)
	if !p.forward(&d, l, target, Deflection, s) {
		p.rule(&d, l, Busy, UserBusy, s)
	}
	return d
}

// rule applies the rule of a line for a cause.
func (p *Plan) rule(d *Decision, l *Line, c Cause, reason string, s State) {
	dest := l.rules[c]
	kind, target := dest.Split()
	name := "on " + c.String()
	switch kind {
	case "extension":
		next, ok := p.lines[target]
		switch {
		case !ok:
			d.reject(c.code(), name, "%s is no line of the plan", target)
		case slices.Contains(d.visited, target):
			d.reject(c.code(), name, "%s was on the way already", target)
		case len(d.Diversions) >= MaxRedirections:
			d.reject(c.code(), name, "the call was sent on %d times", len(d.Diversions))
		case !l.May(rightInternal):
			d.reject(c.code(), name, "%s may not call internal numbers", l.Number)
		default:
			d.step(name, "%s sends the call to %s", l.Number, target)
			p.divert(d, l, reason)
			p.toLine(d, next, s)
		}
	case "busy":
		d.reject(486, name, "%s answers busy", l.Number)
	case "congestion":
		d.reject(503, name, "%s answers congestion", l.Number)
	case "", "hangup", "repeat":
		d.reject(c.code(), name, "%s ends the call", l.Number)
	default:
		d.reject(c.code(), name, "%s is not served yet, the call ends", dest)
	}
}

// Send rings a line for a time, whatever its own rules are: in every case in which nobody answers, then follows. It is for what
// comes back to somebody, as a parked call does.
func (p *Plan) Send(number string, ring time.Duration, then config.Dest, s State) Decision {
	var d Decision
	l, ok := p.lines[number]
	if !ok {
		d.reject(480, "send", "%s is no line of the plan", number)
		return d
	}
	l = l.with(then)
	l.Ring = ring
	d.step("send", "back to %s", number)
	p.toLine(&d, l, s)
	return d
}

// Follow sends a call to a destination on behalf of a line.
func (p *Plan) Follow(number string, to config.Dest, s State) Decision {
	var d Decision
	l, ok := p.lines[number]
	if !ok {
		d.reject(480, "follow", "%s is no line of the plan", number)
		return d
	}
	p.rule(&d, l.with(to), NoAnswer, NotAnswered, s)
	return d
}

// with is the line with one destination for every cause.
func (l *Line) with(to config.Dest) *Line {
	c := *l
	for i := range c.rules {
		c.rules[i] = to
	}
	return &c
}

// Explain prints the decision chain without placing a call.
func (p *Plan) Explain(q Query, s State) []string {
	d := p.Route(q, s)
	var lines []string
	for _, st := range d.Steps {
		lines = append(lines, st.Rule+": "+st.Text)
	}
	switch d.Kind {
	case Ring:
		lines = append(lines, fmt.Sprintf("result: %s rings", d.Line.Number))
		for c := range causes {
			next := p.Next(d, c, s)
			last := next.Steps[len(next.Steps)-1]
			lines = append(lines, fmt.Sprintf("if %s: %s", c, last.Text))
		}
	case Service:
		lines = append(lines, "result: the phone's feature "+d.Service.Name)
	default:
		lines = append(lines, fmt.Sprintf("result: %d", d.Code))
	}
	return lines
}
