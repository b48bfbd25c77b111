package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ringfence/config/script"
)

// LineFields are the fields of lines that rules may ask about (sip-options.md §4); the registrar and the state answer them.
var LineFields = []string{
	"activeload", "busylevel", "callerid_name", "callerid_number", "callforward", "callgroup", "codecs", "contact", "context", "devicename",
	"donotdisturb", "dynamic", "expire", "huntgroup", "inactiveload", "inuse", "ipaddr", "language", "lastreset", "lineindex", "mailbox",
	"maxcalls", "messages", "mwiexten", "offhook", "onhold", "pickupgroup", "port", "presence", "register", "register_callid", "ringing",
	"srtp", "status", "subscribe", "transport", "useragent",
}

// rules judges decisions about calls: every fault with the place where it stands, in a script too.
func (c *checker) rules() {
	for i := range c.d.Rules {
		r := &c.d.Rules[i]
		path := fmt.Sprintf("rules[%d]", i)
		if r.Match != "" {
			if _, err := CompilePattern(r.Match); err != nil {
				c.err(path+".match", err)
			}
		}
		for j, n := range r.From {
			c.member(fmt.Sprintf("%s.from[%d]", path, j), n, false)
		}
		c.ruleSchedule(path+".when", r.When)
		c.ruleSchedule(path+".unless", r.Unless)
		c.ruleFields(path+".if", r.If)
		c.ruleFields(path+".if_called", r.Called)
		for _, name := range slices.Sorted(maps.Keys(r.Set)) {
			c.ruleSet(path+".set["+name+"]", name, r.Set[name])
		}
		c.script(path+".script", r.Script)
		switch {
		case r.To == "" && r.Script == "" && len(r.Set) == 0 && c.whole("rules"):
			c.bad(path, "add to:, set: or script:", "the rule decides nothing")
		case r.To != "" && r.Script != "":
			c.bad(path+".to", "let route return it, or leave script: out", "the rule says in two ways where calls go")
		}
	}
}

func (c *checker) ruleSchedule(path, id string) {
	if id == "" || !c.whole("schedules") || slices.ContainsFunc(c.d.Schedules, func(s Schedule) bool { return s.ID == id }) {
		return
	}
	var ids []string
	for _, s := range c.d.Schedules {
		ids = append(ids, s.ID)
	}
	c.missing(path, "schedule", id, ids, "schedules")
}

func (c *checker) ruleFields(path string, fields map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(LineFields, name) {
			c.missing(path+"["+name+"]", "field", name, LineFields, "the fields of lines")
		}
	}
}

func (c *checker) ruleSet(path, name, value string) {
	switch {
	case name == "callforward":
		if _, err := parseDigits(value); value != "" && err != nil {
			c.err(path, err)
		}
	case value != "yes" && value != "no":
		c.bad(path, `"yes" or "no", in quotes`, "%s is switched %s", name, clip(value))
	}
}

// script compiles a function of the plan. A fault is told at its own line where the text stands line by line in the file.
func (c *checker) script(path, text string) {
	if text == "" {
		return
	}
	_, err := script.Compile(text)
	var e *script.Error
	if !errors.As(err, &e) {
		return
	}
	m, _ := c.ix.find(path)
	at, message := m.val, e.Text
	if line, ok := at.literalLine(e.Line); ok {
		at.line, at.col = line, at.indent(line)+max(1, e.Column)
	} else {
		message = e.Error()
	}
	c.f.add(at, path, message, e.Hint)
}

// literalLine is where line n of a block of text stands that begins at p with | or >.
func (p pos) literalLine(n int) (int, bool) {
	if n < 1 || p.src == nil || p.line < 1 || p.line+n > len(p.src.lines) {
		return 0, false
	}
	head := p.src.lines[p.line-1]
	if i := strings.LastIndexByte(head, '|'); i < 0 || strings.Trim(head[i:], "|+-0123456789 \t\r") != "" {
		return 0, false
	}
	return p.line + n, true
}

// indent is by how much the text of the line's block is indented.
func (p pos) indent(line int) int {
	first := line
	for l := p.line + 1; l <= line; l++ {
		if strings.TrimSpace(p.src.lines[l-1]) != "" {
			first = l
			break
		}
	}
	text := p.src.lines[first-1]
	return len(text) - len(strings.TrimLeft(text, " "))
}
