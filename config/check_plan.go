package config

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// numbered is a number of the plan and what it belongs to.
type numbered struct {
	num      Digits
	path     string
	what     string
	internal bool // must lie within numbering.extensions
}

func (c *checker) number(num Digits, path, what string) {
	if num != "" {
		c.numbers = append(c.numbers, numbered{num, path, what, true})
	}
}

func (c *checker) span(s, path, what string) []Digits {
	if s == "" {
		return nil
	}
	list, err := NumberRange(s)
	if err != nil {
		c.err(path, err)
	}
	for _, n := range list {
		c.number(n, path, what)
	}
	return list
}

func (c *checker) numbering() {
	n := c.d.Numbering
	for _, s := range strings.FieldsFunc(n.Extensions, func(r rune) bool { return r == ' ' || r == ',' }) {
		if _, err := CompilePattern(s); err != nil {
			c.err("numbering.extensions", err)
		}
	}
	for i, l := range c.d.Lines {
		c.number(l.Number, fmt.Sprintf("lines[%d].number", i), "line")
	}
	if strings.HasPrefix(string(n.Country), "+") || strings.ContainsAny(string(n.Country), "*#") {
		c.bad("numbering.country", `digits alone, like "49"`, "%s is not a country code", n.Country)
	}
	for i, e := range n.Emergency {
		if e != "" {
			c.numbers = append(c.numbers, numbered{e, fmt.Sprintf("numbering.emergency[%d]", i), "emergency number", false})
		}
	}
}

func (c *checker) groups() {
	for i, g := range c.d.Groups {
		path := fmt.Sprintf("groups[%d]", i)
		c.number(g.Number, path+".number", "group")
		if len(g.Members) == 0 && !c.ix.faulty(c.f, path+".members") {
			c.bad(path, `add members: ["301", "302"]`, "group %s has no members", g.Number)
		}
		for j, m := range g.Members {
			at := fmt.Sprintf("%s.members[%d]", path, j)
			if slices.Contains(g.Members[:j], m) {
				c.bad(at, "remove one", "%s is a member twice", m)
				continue
			}
			c.member(at, m, true)
		}
	}
}

// member resolves the number of a line (or of a group) that something consists of.
func (c *checker) member(path string, m Digits, groups bool) {
	if m == "" || !c.whole("lines") || groups && !c.whole("groups") {
		return
	}
	if _, ok := c.d.Line(string(m)); ok {
		return
	}
	if groups && c.group(string(m)) != nil {
		return
	}
	c.missing(path, "line", string(m), c.lineNumbers(), "lines")
}

func (c *checker) group(number string) *Group {
	for i := range c.d.Groups {
		if string(c.d.Groups[i].Number) == number {
			return &c.d.Groups[i]
		}
	}
	return nil
}

func (c *checker) lineNumbers() []string {
	var out []string
	for _, l := range c.d.Lines {
		out = append(out, string(l.Number))
	}
	return out
}

func (c *checker) parking() {
	seen := map[string]string{}
	for i, p := range c.d.Parking {
		path := fmt.Sprintf("parking[%d]", i)
		c.duplicate(seen, p.ID, path+".id", "park lot")
		slots := c.span(p.Slots, path+".slots", "park slot")
		if p.Reminder > p.Seconds {
			c.bad(path+".reminder_seconds", fmt.Sprintf("below seconds, %d, or 0 for none", p.Seconds), "the reminder comes after %d s, when the call is no longer parked", p.Reminder)
		}
		if kind, target := p.Comeback.Then.Split(); kind == "extension" && slices.Contains(slots, Digits(target)) {
			c.bad(path+".comeback.then", "a line, a group or a mailbox", "the call comes back to slot %s of the lot that it left", target)
		}
	}
}

var textVariable = regexp.MustCompile(`\{[^}]*\}?`)

func (c *checker) paging() {
	for i, p := range c.d.Paging {
		path := fmt.Sprintf("paging[%d]", i)
		c.number(p.Number, path+".number", "page")
		if len(p.Members) == 0 && !c.ix.faulty(c.f, path+".members") {
			c.bad(path, `add members: ["301", "302"]`, "page %s has no members", p.Number)
		}
		for j, m := range p.Members {
			c.member(fmt.Sprintf("%s.members[%d]", path, j), m, false)
		}
		multicast := p.Group.IsValid() && p.Group.Is4() && p.Group.IsMulticast()
		switch {
		case p.Mode == "multicast" && !p.Group.IsValid() && !c.ix.faulty(c.f, path+".group"):
			c.bad(path+".mode", "add group: 239.1.1.1, or use mode: unicast", "a multicast page needs a group")
		case p.Group.IsValid() && (!multicast || p.Group.IsLinkLocalMulticast()):
			c.bad(path+".group", "an address like 239.1.1.1", "%s is not a multicast group for use within a site", p.Group)
		case p.Group.IsValid() && !netip.MustParsePrefix("239.0.0.0/8").Contains(p.Group):
			c.note(path+".group", "an address like 239.1.1.1", "%s is not from the groups set aside for sites, 239.0.0.0/8", p.Group)
		}
		if p.Port%2 != 0 && !c.ix.faulty(c.f, path+".port") {
			c.bad(path+".port", fmt.Sprintf("port: %d", p.Port-1), "port %d is odd, and phones listen on even ones", p.Port)
		}
		for _, v := range textVariable.FindAllString(p.Text, -1) {
			if !slices.Contains([]string{"{caller.number}", "{caller.name}", "{line.number}", "{group.name}"}, v) {
				c.bad(path+".text", "{caller.number}, {caller.name}, {line.number} or {group.name}", "the text uses %s, which does not exist", clip(v))
			}
		}
	}
}

func (c *checker) intercom() {
	for i, ic := range c.d.Intercom {
		path := fmt.Sprintf("intercom[%d]", i)
		c.number(ic.Number, path+".number", "intercom")
		if len(ic.Members) == 0 && !c.ix.faulty(c.f, path+".members") {
			c.bad(path, `add members: {"301": "391"}`, "intercom %s has no members", ic.Number)
		}
		for _, m := range slices.Sorted(maps.Keys(ic.Members)) {
			at := path + ".members[" + m + "]"
			c.member(at, Digits(m), false)
			c.number(ic.Members[m], at, "intercom line")
		}
	}
}

func (c *checker) rooms() {
	for i, r := range c.d.Rooms {
		path := fmt.Sprintf("rooms[%d].range", i)
		c.span(r.Range, path, "room")
	}
}

func (c *checker) services() {
	s := c.d.Services
	c.number(s.Voicemail, "services.voicemail", "voicemail number")
	c.number(s.EchoTest, "services.echo_test", "echo test")
	c.number(s.Time, "services.time", "time of day")
	c.number(s.Directory, "services.directory", "directory")
	for _, k := range slices.Sorted(maps.Keys(s.Codes)) {
		if v := s.Codes[k]; v != "" {
			c.numbers = append(c.numbers, numbered{Digits(v), "services.codes[" + k + "]", "code " + k, false})
		}
	}
}

// overlaps finds numbers that mean two things (dialplan §3 rule 6: ambiguity is an error at load).
func (c *checker) overlaps() {
	patterns := c.d.Numbering.Patterns()
	first := make(map[Digits]numbered, len(c.numbers))
	c.owned = make(map[Digits]bool, len(c.numbers))
	for _, n := range c.numbers {
		c.owned[n.num] = true
		if o, ok := first[n.num]; ok {
			m, _ := c.ix.find(o.path)
			both := "both " + article(o.what) + " and " + article(n.what)
			if o.what == n.what {
				both = o.what + " twice"
			}
			c.bad(n.path, "give one of them another number; the first is "+m.val.position().String(), "number %s is %s", n.num, both)
			continue
		}
		first[n.num] = n
		if n.internal && len(patterns) > 0 && !slices.ContainsFunc(patterns, func(p *Pattern) bool { return p.Match(string(n.num)) }) {
			c.bad(n.path, "choose a number that fits, or add a pattern there", "%s %s lies outside numbering.extensions, %s", n.what, n.num, clip(c.d.Numbering.Extensions))
		}
	}
}

func article(what string) string {
	if strings.ContainsRune("aeiou", rune(what[0])) {
		return "an " + what
	}
	return "a " + what
}

// known tells whether a number belongs to something of this plan.
func (c *checker) known(num Digits) bool {
	return c.owned[num]
}

// plan tells whether every section that owns numbers is whole.
func (c *checker) plan() bool {
	for _, s := range []string{"lines", "groups", "parking", "paging", "intercom", "rooms", "services", "numbering"} {
		if !c.whole(s) {
			return false
		}
	}
	return true
}

// keys judges what the keys of phones point at, and speed dials.
func (c *checker) keys() {
	slots := map[Digits]bool{}
	for _, p := range c.d.Parking {
		list, _ := NumberRange(p.Slots)
		for _, n := range list {
			slots[n] = true
		}
	}
	for i, p := range c.d.Phones {
		for j, k := range p.Keys {
			path := fmt.Sprintf("phones[%d].keys[%d]", i, j)
			set := 0
			for _, on := range []bool{k.BLF != "", k.Speed != "", k.Park != "", k.URL != ""} {
				if on {
					set++
				}
			}
			switch {
			case set != 1 && c.whole("phones"):
				c.bad(path, "one of blf, speed, park and url", "a key has exactly one function, this one has %d", set)
			case k.BLF != "" && c.plan() && !c.known(k.BLF) && !c.isSwitch(k.BLF):
				c.missing(path+".blf", "number", string(k.BLF), c.lineNumbers(), "lines (blf watches numbers of this plan; use speed: for others)")
			case k.Park != "" && c.whole("parking") && !slots[k.Park]:
				c.missing(path+".park", "park slot", string(k.Park), nil, "parking")
			}
		}
	}
}

// emergency makes sure that help can be called: each number must leave by some route.
func (c *checker) emergency() {
	if !c.whole("routes_out") {
		return
	}
	for i, e := range c.d.Numbering.Emergency {
		if e != "" && c.routeFor(string(e)) == nil && c.routeFor(string(c.d.Numbering.OutsidePrefix+e)) == nil {
			c.bad(fmt.Sprintf("numbering.emergency[%d]", i), "add a routes_out entry with match: "+string(e), "no route takes emergency number %s out of the house", e)
		}
	}
}

func (c *checker) routeFor(number string) *RouteOut {
	for i := range c.d.RoutesOut {
		if p, err := CompilePattern(c.d.RoutesOut[i].Match); err == nil && p.Match(number) {
			return &c.d.RoutesOut[i]
		}
	}
	return nil
}
