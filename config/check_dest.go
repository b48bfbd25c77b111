package config

import (
	"fmt"
	"slices"
	"strings"
)

func (c *checker) schedules() {
	seen := map[string]string{}
	for i, s := range c.d.Schedules {
		path := fmt.Sprintf("schedules[%d]", i)
		c.duplicate(seen, s.ID, path+".id", "schedule")
		if s.Override != "" && IsNumber(s.Override) && !slices.ContainsFunc(c.d.Schedules[:i], func(o Schedule) bool { return o.Override == s.Override }) {
			c.numbers = append(c.numbers, numbered{Digits(s.Override), path + ".override", "night switch", false})
		}
		if s.Weekly != "" {
			if _, err := parseWeekly(s.Weekly); err != nil {
				c.err(path+".weekly", err)
			}
		}
		for j, e := range s.Except {
			if _, _, err := parseDays(e); err != nil {
				c.err(fmt.Sprintf("%s.except[%d]", path, j), err)
			}
		}
	}
}

func (c *checker) routes() {
	for i, r := range c.d.RoutesIn {
		path := fmt.Sprintf("routes_in[%d]", i)
		if r.When != "" && c.whole("schedules") && !slices.ContainsFunc(c.d.Schedules, func(s Schedule) bool { return s.ID == r.When }) {
			var ids []string
			for _, s := range c.d.Schedules {
				ids = append(ids, s.ID)
			}
			c.missing(path+".when", "schedule", r.When, ids, "schedules")
		}
		if r.When == "" && r.Else != "" {
			c.bad(path+".else", "add when:, or remove else:", "else is never used without a schedule")
		}
		for j, o := range c.d.RoutesIn[:i] {
			if o.Trunk == r.Trunk && o.Number == r.Number && o.When == r.When {
				c.bad(path, fmt.Sprintf("remove one, or tell them apart by number or when; the first is in %s", c.where(fmt.Sprintf("routes_in[%d]", j))), "two entries take the same calls")
				break
			}
		}
	}
	for i, r := range c.d.RoutesOut {
		path := fmt.Sprintf("routes_out[%d]", i)
		if r.Match == "" {
			continue
		}
		if m, err := CompilePattern(r.Match); err != nil {
			c.err(path+".match", err)
		} else {
			c.ambiguous(i, m)
		}
		if j := slices.IndexFunc(c.d.RoutesOut[:i], func(o RouteOut) bool { return o.Match == r.Match }); j >= 0 {
			c.bad(path+".match", "remove one, or join them by listing both trunks under via; the first is in "+c.where(fmt.Sprintf("routes_out[%d].match", j)), "two routes match %s", clip(r.Match))
		}
		if len(r.Via) == 0 && !c.ix.faulty(c.f, path+".via") {
			c.bad(path, "add via: [TRUNK]", "the route %s leads to no trunk", clip(r.Match))
		}
	}
}

// ambiguous finds an earlier route that takes a number of route i just as well (dialplan §3 rule 6).
func (c *checker) ambiguous(i int, m *Pattern) {
	for j, o := range c.d.RoutesOut[:i] {
		p, err := CompilePattern(o.Match)
		if err != nil || o.Match == m.String() {
			continue
		}
		if n := m.Ambiguous(p); n != "" {
			c.bad(fmt.Sprintf("routes_out[%d].match", i), "make one of them narrower; the first is in "+c.where(fmt.Sprintf("routes_out[%d].match", j)),
				"%s matches %s and so does %s, and neither says more about it", n, clip(m.String()), clip(o.Match))
			return
		}
	}
}

// destination is a rule that sends a call elsewhere.
type destination struct {
	path string
	dest Dest
}

// destinationList names every rule of the document that sends a call elsewhere.
func (c *checker) destinationList() []destination {
	var out []destination
	add := func(path string, d Dest) {
		if d != "" {
			out = append(out, destination{path, d})
		}
	}
	for i, l := range c.d.Lines {
		p := fmt.Sprintf("lines[%d].", i)
		add(p+"on_busy", l.OnBusy)
		add(p+"on_no_answer", l.OnNoAnswer)
		add(p+"on_unreachable", l.OnUnreachable)
		add(p+"on_idivert", l.OnIDivert)
	}
	for i, g := range c.d.Groups {
		p := fmt.Sprintf("groups[%d].", i)
		add(p+"on_no_answer", g.OnNoAnswer)
		add(p+"on_busy", g.OnBusy)
		add(p+"on_empty", g.OnEmpty)
	}
	for i, l := range c.d.Parking {
		add(fmt.Sprintf("parking[%d].comeback.then", i), l.Comeback.Then)
	}
	for i, r := range c.d.Rules {
		add(fmt.Sprintf("rules[%d].to", i), r.To)
	}
	for i, r := range c.d.RoutesIn {
		add(fmt.Sprintf("routes_in[%d].to", i), r.To)
		add(fmt.Sprintf("routes_in[%d].else", i), r.Else)
	}
	return out
}

func (c *checker) destinations() {
	for _, d := range c.destinationList() {
		c.destination(d.path, d.dest)
	}
	for i, l := range c.d.Lines {
		if l.Forward != "" {
			c.forward(fmt.Sprintf("lines[%d].forward", i), l)
		}
	}
}

// destination judges whether what a rule names exists.
func (c *checker) destination(path string, d Dest) {
	kind, target := d.Split()
	switch kind {
	case "extension":
		c.member(path, Digits(target), false)
	case "voicemail":
		c.member(path, Digits(target), true)
	case "group":
		if c.whole("groups") && c.group(target) == nil {
			var names []string
			for _, g := range c.d.Groups {
				names = append(names, string(g.Number))
			}
			c.missing(path, "group", target, names, "groups")
		}
	case "room":
		if c.whole("rooms") && !slices.ContainsFunc(c.numbers, func(n numbered) bool { return n.what == "room" && string(n.num) == target }) {
			c.missing(path, "room", target, nil, "rooms")
		}
	case "page":
		if c.whole("paging") && !slices.ContainsFunc(c.d.Paging, func(p PageGroup) bool { return string(p.Number) == target || strings.EqualFold(p.Name, target) }) {
			c.missing(path, "page", target, nil, "paging")
		}
	case "external":
		if c.whole("routes_out") && c.routeFor(target) == nil {
			c.bad(path, "add a routes_out entry that matches it", "no route takes %s out of the house", clip(target))
		}
	case "queue", "ivr", "announce":
		c.bad(path, "extension:, group: or hangup for now", "this release has no destination of kind %s", kind)
	case "repeat":
		c.bad(path, "busy, congestion, hangup or another destination", "repeat belongs to menus, which this release does not have")
	}
}

// forward judges an initial forward-all target with the rights of the line (dialplan §2.1).
func (c *checker) forward(path string, l Line) {
	if l.Forward == l.Number {
		c.bad(path, "another number, or none", "line %s forwards to itself", l.Number)
		return
	}
	if !c.plan() || !c.whole("routes_out") {
		return
	}
	need := "internal"
	if !c.known(l.Forward) {
		r := c.routeFor(string(l.Forward))
		if r == nil {
			c.missing(path, "number", string(l.Forward), c.lineNumbers(), "lines, or a routes_out entry that matches it")
			return
		}
		need = r.Right
	}
	if !slices.Contains(l.Rights, need) {
		c.bad(path, "add "+need+" to its rights, or forward elsewhere", "line %s forwards to %s without the right %s", l.Number, l.Forward, need)
	}
}

// loops finds rules that send a call round in a circle, and groups that contain themselves.
func (c *checker) loops() {
	next := map[string][]destination{}
	key := func(d Dest) string {
		if kind, target := d.Split(); kind == "extension" || kind == "group" {
			return kind + ":" + target
		}
		return ""
	}
	add := func(from, path string, d Dest) {
		if k := key(d); k != "" {
			next[from] = append(next[from], destination{path, Dest(k)})
		}
	}
	var order []string
	for i, l := range c.d.Lines {
		from, p := "extension:"+string(l.Number), fmt.Sprintf("lines[%d].", i)
		order = append(order, from)
		add(from, p+"on_busy", l.OnBusy)
		add(from, p+"on_no_answer", l.OnNoAnswer)
		add(from, p+"on_unreachable", l.OnUnreachable)
	}
	for i, g := range c.d.Groups {
		from, p := "group:"+string(g.Number), fmt.Sprintf("groups[%d].", i)
		order = append(order, from)
		for j, m := range g.Members {
			if c.group(string(m)) != nil {
				add(from, fmt.Sprintf("%smembers[%d]", p, j), Dest("group:"+string(m)))
			}
		}
		add(from, p+"on_no_answer", g.OnNoAnswer)
		add(from, p+"on_busy", g.OnBusy)
		add(from, p+"on_empty", g.OnEmpty)
	}
	c.circles(order, next)
}

const maxChain = 10 // dialplan §3 rule 4

// circles walks the rules depth first. State: 0 not seen, 1 on the way, 2 done.
func (c *checker) circles(order []string, next map[string][]destination) {
	state := map[string]int{}
	depth := map[string]int{} // longest chain of rules from here
	var trail []string
	var visit func(at string)
	visit = func(at string) {
		state[at] = 1
		trail = append(trail, at)
		for _, d := range next[at] {
			switch to := string(d.dest); state[to] {
			case 0:
				visit(to)
				fallthrough
			case 2:
				depth[at] = max(depth[at], depth[to]+1)
				if depth[at] == maxChain+1 {
					c.bad(d.path, fmt.Sprintf("at most %d follow each other", maxChain), "from %s a call can be sent on more than %d times", at, maxChain)
				}
			case 1:
				circle := append(slices.Clone(trail[slices.Index(trail, to):]), to)
				c.bad(d.path, "end the chain with a mailbox, busy or hangup", "these rules send a call round in a circle: %s", strings.Join(circle, ", "))
			}
		}
		trail = trail[:len(trail)-1]
		state[at] = 2
	}
	for _, at := range order {
		if state[at] == 0 {
			visit(at)
		}
	}
}
