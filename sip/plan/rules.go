package plan

import (
	"fmt"
	"maps"
	"slices"

	"ringfence/config"
	"ringfence/config/script"
)

// Rules decide about the calls of lines before the number is looked up (config.Rule): by what is dialled, by whom, when, and by
// the fields of the two lines; a script decides what that cannot say. The plan stays without effects: what a rule sets is part of
// the Decision, for whoever places the call.

// Fields is what a State may offer besides: the fields of lines by the names of sip-options.md §4.
type Fields interface {
	Field(line, name string) (value string, ok bool)
}

// FieldSet is a field of a line that a rule sets.
type FieldSet struct{ Line, Name, Value string }

// Field asks the state at another time.
func (a At) Field(line, name string) (string, bool) { return fieldOf(a.State, line, name) }

func fieldOf(s State, line, name string) (string, bool) {
	if f, ok := s.(Fields); ok {
		return f.Field(line, name)
	}
	return "", false
}

type planRule struct {
	name   string
	match  *config.Pattern // nil: any
	from   []config.Digits
	when   *config.Hours
	unless *config.Hours
	ifs    map[string]string
	called map[string]string
	set    map[string]string
	script *script.Script
	to     config.Dest
}

func compileRule(i int, r *config.Rule, hours map[string]*config.Hours) (planRule, bool) {
	p := planRule{
		name: fmt.Sprintf("rules[%d]", i), from: r.From, when: hours[r.When], unless: hours[r.Unless], ifs: r.If, called: r.Called, set: r.Set, to: r.To,
	}
	var err error
	if r.Match != "" {
		if p.match, err = config.CompilePattern(r.Match); err != nil {
			return p, false // the document's checks have refused it
		}
	}
	if r.Script != "" {
		if p.script, err = script.Compile(r.Script); err != nil {
			return p, false
		}
	}
	return p, true
}

// rules asks the rules in their order; true: one has decided.
func (p *Plan) rules(d *Decision, from *Line, number string, s State) bool {
	for _, r := range p.decisions {
		if !r.applies(p, from, number, s) {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(r.set)) {
			d.set(from.Number, name, r.set[name], r.name)
		}
		to := r.to
		if r.script != nil {
			to = r.run(p, d, from, number, s)
		}
		if to == "" {
			continue
		}
		p.destination(d, to, rule{name: r.name, code: 480, busy: false, may: from.May}, s)
		return true
	}
	return false
}

func (r *planRule) applies(p *Plan, from *Line, number string, s State) bool {
	if r.match != nil && !r.match.Match(number) || len(r.from) > 0 && !slices.Contains(r.from, config.Digits(from.Number)) {
		return false
	}
	if r.when != nil {
		if open, _ := p.open(r.when, s); !open {
			return false
		}
	}
	if r.unless != nil {
		if open, _ := p.open(r.unless, s); open {
			return false
		}
	}
	return holds(r.ifs, from.Number, s) && holds(r.called, number, s)
}

func holds(fields map[string]string, line string, s State) bool {
	for name, want := range fields {
		if got, ok := fieldOf(s, line, name); !ok || got != want {
			return false
		}
	}
	return true
}

func (d *Decision) set(line, name, value, rule string) {
	d.step(rule, "%s of %s is set to %q", name, line, value)
	d.Set = append(d.Set, FieldSet{line, name, value})
}

// run asks a script. One that fails is as if it were not there.
func (r *planRule) run(p *Plan, d *Decision, from *Line, number string, s State) config.Dest {
	var sets []FieldSet
	to, err := r.script.Run(script.Call{From: from.Number, Name: from.Name, Dialled: number, Time: s.Now().In(p.zone)}, script.Host{
		Field: func(line, name string) (string, bool) { return fieldOf(s, line, name) },
		Set: func(line, name, value string) error {
			if !slices.Contains([]string{"callforward", "donotdisturb", "huntgroup"}, name) {
				return fmt.Errorf("set: %s is no field that can be set", name)
			}
			if _, ok := p.lines[line]; !ok {
				return fmt.Errorf("set: %s is no line of the plan", line)
			}
			sets = append(sets, FieldSet{line, name, value})
			return nil
		},
	})
	var dest config.Dest
	if err == nil && to != "" {
		dest, err = config.ParseDest(to)
	}
	if err != nil {
		d.step(r.name, "the script failed, the call goes on: %v", err)
		return ""
	}
	for _, x := range sets {
		d.set(x.Line, x.Name, x.Value, r.name)
	}
	if dest == "" {
		d.step(r.name, "the script lets the call go on")
	} else {
		d.step(r.name, "the script sends the call to %s", dest)
	}
	return dest
}
