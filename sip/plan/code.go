package plan

import (
	"slices"
	"strings"

	"ringfence/sip/cisco"
)

// Feature codes are for phones without keys: what is dialled stands for what the key of a Cisco phone does ("dialplan" §2).
//
//	code             followed by   does
//	forward_on       number        forwards the line's calls
//	forward_off                    ends that
//	dnd_toggle                     do-not-disturb of the phone
//	hunt_toggle                    log-in to hunt groups
//	pickup                         takes a call that rings in the own group
//	pickup_number    number        takes the call that rings at a line, or in a group
//	park                           as the target of a transfer: parks
//	hide_number      number        calls without showing who
//	show_number      number        calls and shows who, also where the phone hides it
//	intercom         number        calls, and the phone there answers by itself
//	last_caller                    calls whoever called last
//	record_toggle                  in a call only
var codes = map[string]struct {
	service string // that it stands for
	arg     bool
	prefix  bool // of an ordinary number
}{
	"forward_on": {service: "cfwdall", arg: true}, "forward_off": {service: "cfwdall"},
	"dnd_toggle": {service: "dnd"}, "hunt_toggle": {service: "hunt"}, "privacy_toggle": {service: "privacy"},
	"pickup": {service: "pickup"}, "pickup_number": {service: "gpickup", arg: true}, "park": {service: "park"},
	"hide_number": {prefix: true}, "show_number": {prefix: true}, "intercom": {prefix: true},
	"last_caller": {}, "record_toggle": {service: "record"},
}

// code is a feature code of the document.
type code struct{ digits, name string }

// codeFor finds the longest code that a dialled string begins with, and what follows it.
func (p *Plan) codeFor(dialled string) (name, arg string, ok bool) {
	best := 0
	for _, c := range p.codes {
		rest, has := strings.CutPrefix(dialled, c.digits)
		if !has || len(c.digits) <= best {
			continue
		}
		k := codes[c.name]
		if takes := k.arg || k.prefix; takes == (rest != "") {
			name, arg, ok, best = c.name, rest, true, len(c.digits)
		}
	}
	return name, arg, ok
}

// toCode decides on a feature code.
func (p *Plan) toCode(d *Decision, from *Line, name, arg string, s State) {
	k := codes[name]
	switch {
	case name == "last_caller":
		last := s.LastCaller(from.Number)
		if last == "" {
			d.reject(404, "code", "nobody has called %s", from.Number)
			return
		}
		d.step("code", "%s called %s last", last, from.Number)
		p.toNumber(d, from, last, s)
	case k.prefix:
		d.step("code", "%s, then %s", name, arg)
		switch name {
		case "hide_number":
			d.Attr.Hide = true
		case "show_number":
			d.Attr.Show = true
		case "intercom":
			d.Attr.AutoAnswer = true
		}
		if _, _, again := p.codeFor(arg); again {
			d.reject(404, "code", "no code may follow another")
			return
		}
		p.toNumber(d, from, Normalize(arg), s)
	default:
		d.step("code", "%s stands for the service %s", name, k.service)
		d.Kind, d.Service = Service, cisco.ServiceURI{Name: k.service, Arg: arg}
	}
}

// sortCodes puts codes in a fixed order.
func (p *Plan) sortCodes() {
	slices.SortFunc(p.codes, func(a, b code) int { return strings.Compare(a.digits, b.digits) })
}
