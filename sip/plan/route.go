package plan

import (
	"fmt"
	"slices"
	"strconv"
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
	Reject   Kind = iota // tell the caller Code
	Ring                 // ring Line for Line.Ring
	Hunt                 // ring Members of Group
	Service              // a feature called by a name of the product's own
	Special              // a number that is no line: Object says what; Code is for whoever cannot serve it
	External             // a number outside: Outside says how; Code is for whoever has no trunks
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
	Group      *HuntGroup
	Members    []*Line // of Group, in the order in which they ring
	Service    cisco.ServiceURI
	Object     Object
	Outside    *Outside
	Attr       Attributes
	Diversions []Diversion // newest first
	Set        []FieldSet  // what rules set, for whoever places the call
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

// Attributes are what rules and codes change about a call ("dialplan" §3 rule 10).
type Attributes struct {
	Hide       bool // the caller is not shown
	Show       bool // the caller is shown, whatever its phone says; it beats Hide
	AutoAnswer bool // the phone that is called answers by itself
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
		if u.Name == "abbrdial" {
			p.abbreviated(&d, from, u.Arg, s)
			return d
		}
		d.Kind, d.Service = Service, u
		return d
	}
	if known {
		if name, arg, ok := p.codeFor(Normalize(q.Dialled)); ok {
			p.toCode(&d, from, name, arg, s)
			return d
		}
	}
	number := Normalize(q.Dialled)
	if known && !p.isEmergency(number) && p.rules(&d, from, number, s) {
		return d
	}
	p.toNumber(&d, from, number, s)
	return d
}

// abbreviated dials a number of the user's list, with the user's rights ("sip-calls" §21).
func (p *Plan) abbreviated(d *Decision, from *Line, index string, s State) {
	number, ok := from.SpeedDials[index]
	if !ok {
		d.reject(404, "speed dial", "%s has no speed dial %s", from.Number, index)
		return
	}
	d.step("speed dial", "%s of %s is %s", index, from.Number, number)
	p.toNumber(d, from, Normalize(number), s)
}

// toNumber resolves a number for a caller: exact before pattern, internal before outside (rule 6).
func (p *Plan) toNumber(d *Decision, from *Line, number string, s State) {
	if p.toEmergency(d, number) {
		return
	}
	mayInternal := func(what string) bool {
		if from == nil || from.May(rightInternal) {
			return true
		}
		d.reject(403, "rights", "%s may not call %s", from.Number, what)
		return false
	}
	if l, ok := p.lines[number]; ok {
		if mayInternal("internal numbers") {
			d.step("number", "%s is the line of %s", number, orNumber(l))
			p.toLine(d, l, s)
		}
		return
	}
	if g, ok := p.groups[number]; ok {
		if mayInternal("internal numbers") {
			d.step("number", "%s is the group %s", number, g.Name)
			p.toGroup(d, g, s)
		}
		return
	}
	if o, ok := p.numbers[number]; ok {
		if mayInternal("internal numbers") {
			o.Number = number
			d.special(o, "number", "%s is a %s", number, strings.TrimSpace(string(o.Kind)+" "+o.Name))
		}
		return
	}
	r, ok := p.routeFor(number)
	switch {
	case !ok:
		d.reject(404, "number", "%s is no number of the plan", number)
	case from == nil || !from.May(r.right):
		d.reject(403, "rights", "%s matches %s, which needs the right %s", number, r.match, r.right)
	default:
		d.outside(r, number)
	}
}

func (d *Decision) special(o Object, name, format string, args ...any) {
	d.reject(503, name, format, args...)
	d.Kind, d.Object = Special, o
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
	if l.Rejects(s) {
		d.step("do not disturb", "%s refuses calls", l.device())
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
	if target == l.Voicemail {
		// "dialplan" §3 rule 1: the mailbox greets as that of somebody who is busy.
		p.divert(d, l.Number, l.Name, reason)
		d.special(Object{Kind: Mailbox, Number: l.Number, Name: l.Name, Busy: true}, "forward", "%s is the voicemail of %s", target, l.Number)
		return true
	}
	if code, why := p.Callable(l.Number, target); code != 0 {
		d.step("forward", "%s", why)
		return false
	}
	p.divert(d, l.Number, l.Name, reason)
	p.toNumber(d, l, Normalize(target), s)
	return true
}

func (p *Plan) divert(d *Decision, number, name, reason string) {
	d.Diversions = append([]Diversion{{number, name, reason}}, d.Diversions...)
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
	switch {
	case d.Kind == Ring, d.Kind == Hunt, d.Kind == Special && d.Object.Kind == Built:
		return 0, ""
	}
	return d.Code, d.Steps[len(d.Steps)-1].Text
}

// anyone is a State in which every line can be rung.
type anyone struct{}

func (anyone) Forward(string) string         { return "" }
func (anyone) Rejects(string) bool           { return false }
func (anyone) Calls(string) int              { return 0 }
func (anyone) Registered(string) bool        { return true }
func (anyone) LoggedIn(string) bool          { return true }
func (anyone) Turn(string) int               { return 0 }
func (anyone) LastCall(string) (t time.Time) { return }
func (anyone) LastCaller(string) string      { return "" }
func (anyone) Switch(string) bool            { return false }
func (anyone) Now() time.Time                { return time.Now() }

// Next decides what becomes of a call after ringing d.Line, or the members of d.Group, came to nothing.
func (p *Plan) Next(d Decision, c Cause, s State) Decision {
	d = d.clone()
	switch {
	case d.Kind == Hunt:
		g := d.Group
		d.step(c.String(), "%s was rung in vain", g.Number)
		d.Group, d.Members = nil, nil
		switch c {
		case Busy:
			p.groupRule(&d, g, g.busy, "busy", UserBusy, Busy.code(), s)
		case Unreachable:
			p.groupRule(&d, g, g.empty, "empty", Unavailable, c.code(), s)
		default:
			p.groupRule(&d, g, g.noReply, "no answer", NotAnswered, c.code(), s)
		}
	case d.Kind != Ring || d.Line == nil:
		d.reject(c.code(), c.String(), "no line was rung")
	default:
		l := d.Line
		d.step(c.String(), "%s was rung in vain", l.Number)
		p.rule(&d, l, c, reasonOf[c], s)
	}
	return d
}

func (d Decision) clone() Decision {
	d.Set = nil // is done once
	d.Steps, d.Diversions, d.visited = slices.Clone(d.Steps), slices.Clone(d.Diversions), slices.Clone(d.visited)
	return d
}

// Deflect decides what becomes of a call that the phone of a line sent on by itself ("sip-calls" §22.2: a 302). A target that
// the line may not call counts as busy.
func (p *Plan) Deflect(d Decision, target string, s State) Decision {
	d = d.clone()
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
	p.destination(d, l.rules[c], rule{
		name: "on " + c.String(), from: l.Number, fromName: l.Name, reason: reason, code: c.code(), busy: c == Busy, may: l.May, line: l,
	}, s)
}

// rule is who sends a call on, and why.
type rule struct {
	name           string
	from, fromName string
	reason         string // of the Diversion
	code           int    // for the caller if the rule leads nowhere
	busy           bool   // which greeting a mailbox plays
	may            func(right string) bool
	line           *Line // nil: no line's
}

// destination sends a call where a rule says.
func (p *Plan) destination(d *Decision, dest config.Dest, r rule, s State) {
	kind, target := dest.Split()
	on := func() bool {
		if r.from != "" && len(d.Diversions) >= MaxRedirections {
			d.reject(r.code, r.name, "the call was sent on %d times", len(d.Diversions))
			return false
		}
		switch kind {
		case "extension", "group", "room", "page":
			if !r.may(rightInternal) {
				d.reject(r.code, r.name, "%s may not call internal numbers", r.from)
				return false
			}
			if slices.Contains(d.visited, target) {
				d.reject(r.code, r.name, "%s was on the way already", target)
				return false
			}
		}
		if r.from == "" {
			d.step(r.name, "the call goes to %s", dest)
			return true
		}
		d.step(r.name, "%s sends the call to %s", r.from, strings.TrimPrefix(string(dest), "extension:"))
		p.divert(d, r.from, r.fromName, r.reason)
		return true
	}
	switch kind {
	case "extension":
		next, ok := p.lines[target]
		if !ok {
			d.reject(r.code, r.name, "%s is no line of the plan", target)
		} else if on() {
			p.toLine(d, next, s)
		}
	case "group":
		g, ok := p.groups[target]
		if !ok {
			d.reject(r.code, r.name, "%s is no group of the plan", target)
		} else if on() {
			p.toGroup(d, g, s)
		}
	case "voicemail":
		if on() {
			name := ""
			if l, ok := p.lines[target]; ok {
				name = l.Name
			} else if g, ok := p.groups[target]; ok {
				name = g.Name
			}
			d.special(Object{Kind: Mailbox, Number: target, Name: name, Busy: r.busy}, "mailbox", "the mailbox of %s", target)
			d.Code = r.code // as if the rule were not there, where no mailbox is served
		}
	case "room":
		if on() {
			d.special(Object{Kind: Room, Number: target}, "room", "the conference room %s", target)
		}
	case "page":
		if on() {
			d.special(Object{Kind: Page, Number: p.pageNumber(target), Name: target}, "page", "the page %s", target)
		}
	case "external":
		rt, ok := p.routeFor(target)
		switch {
		case !ok:
			d.reject(r.code, r.name, "no route takes %s out of the house", target)
		case !r.may(rt.right):
			d.reject(r.code, r.name, "%s needs the right %s", target, rt.right)
		default:
			if on() {
				d.outside(rt, target)
			}
		}
	case "busy":
		d.reject(486, r.name, "%s answers busy", r.whoever())
	case "congestion":
		d.reject(503, r.name, "%s answers congestion", r.whoever())
	case "", "hangup", "repeat":
		d.reject(r.code, r.name, "%s ends the call", r.whoever())
	default:
		d.reject(r.code, r.name, "%s is not served yet, the call ends", dest)
	}
}

func (r rule) whoever() string {
	if r.from == "" {
		return "the rule"
	}
	return r.from
}

func (p *Plan) pageNumber(name string) string {
	for number, o := range p.numbers {
		if o.Kind == Page && (number == name || strings.EqualFold(o.Name, name)) {
			return number
		}
	}
	return name
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

// Divert sends a call that a line has on to where its iDivert key leads ("sip-calls" §14).
func (p *Plan) Divert(number string, s State) Decision {
	var d Decision
	l, ok := p.lines[number]
	if !ok {
		d.reject(480, "divert", "%s is no line of the plan", number)
		return d
	}
	p.rule(&d, l.with(l.IDivert), Busy, Deflection, s)
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
func (p *Plan) Explain(q Query, s State) []string { return p.explain(p.Route(q, s), s) }

// ExplainInbound is Explain for a call from a trunk.
func (p *Plan) ExplainInbound(trunk, number string, s State) []string {
	return p.explain(p.Inbound(trunk, number, s), s)
}

func (p *Plan) explain(d Decision, s State) []string {
	var lines []string
	for _, st := range d.Steps {
		lines = append(lines, st.Rule+": "+st.Text)
	}
	lines = append(lines, "result: "+d.result())
	if d.Kind == Ring || d.Kind == Hunt {
		for c := range causes {
			next := p.Next(d, c, s)
			last := next.Steps[len(next.Steps)-1]
			lines = append(lines, fmt.Sprintf("if %s: %s", c, last.Text))
		}
	}
	return lines
}

func (d *Decision) result() string {
	switch d.Kind {
	case Ring:
		return d.Line.Number + " rings"
	case Hunt:
		if d.Group.InTurn() {
			return d.Members[0].Number + " rings first"
		}
		return fmt.Sprintf("%d members of %s ring", len(d.Members), d.Group.Number)
	case Service:
		return "the phone's feature " + d.Service.Name
	case Special:
		return strings.TrimSpace(string(d.Object.Kind) + " " + d.Object.Number)
	case External:
		return d.Outside.Number + " goes out by " + strings.Join(d.Outside.Via, ", then ")
	}
	return strconv.Itoa(d.Code)
}
