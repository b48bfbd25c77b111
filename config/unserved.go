package config

import "fmt"

// unserved tells the administrator what is checked but not acted upon in this release, so that nothing is accepted silently.
// When a feature comes, its line here goes.
func (c *checker) unserved() {
	section := func(name string, n int, what string) {
		if n > 0 {
			c.note(name, "it can stay; it takes effect with a later release", "%s: checked, but this release does not serve %s", name, what)
		}
	}
	d := c.d
	section("intercom", len(d.Intercom), "intercom")
	for i, r := range d.Rooms {
		if r.Record {
			c.note(fmt.Sprintf("rooms[%d].record", i), "it can stay; it takes effect with a later release", "rooms[%d].record: checked, but this release does not record rooms", i)
		}
	}
	section("routes_in", len(d.RoutesIn), "trunks")
	section("routes_out", len(d.RoutesOut), "trunks")
	section("numbering.emergency", len(d.Numbering.Emergency), "calls to the outside, emergency calls included")
	for _, s := range []struct {
		name string
		num  Digits
	}{{"time", d.Services.Time}, {"directory", d.Services.Directory}} {
		if s.num != "" {
			c.note("services."+s.name, "it can stay; it takes effect with a later release", "services.%s: checked, but this release answers no call to %s", s.name, s.num)
		}
	}
	if d.Services.Codes["record_toggle"] != "" {
		c.note("services.codes[record_toggle]", "it can stay; the Record key of phones and lines[].record work", "services.codes: record_toggle is checked, but this release has no code that records")
	}
	c.unservedRules()
}

// unservedRules notes rules whose destination nobody answers yet.
func (c *checker) unservedRules() {
	count := map[string]int{}
	first := map[string]string{}
	var order []string
	for _, d := range c.destinationList() {
		switch kind, _ := d.dest.Split(); kind {
		case "external":
			if count[kind]++; count[kind] == 1 {
				first[kind] = d.path
				order = append(order, kind)
			}
		}
	}
	for _, kind := range order {
		more := ""
		if n := count[kind] - 1; n > 0 {
			more = fmt.Sprintf(" (and %d more)", n)
		}
		c.note(first[kind], "until then such a call ends as if the rule were not there", "%s%s: destinations of kind %s are not served by this release", first[kind], more, kind)
	}
}
