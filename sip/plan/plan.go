// Package plan is the dial plan: the declared numbers, lines and rules compiled to an immutable snapshot, and the decision what
// becomes of a call ("dialplan" §2 to §4, design §8 "Order on an incoming call").
//
// A Plan answers two questions. Route: somebody dials a number, what now? Next: the phones of a line were rung without
// success, what now? Both return a Decision, which carries the way it came about, so that the same code explains itself to an
// administrator. What changes while calls go on (forwards, do-not-disturb, registrations, number of calls) is asked of a State;
// a reload makes a new Plan, and a running call keeps the one it began with.
//
// It leaves out trunks, and what groups, slots, rooms and services do: a number that stands for one of these is named (Special)
// and served by whoever can, else answered 503. A rule that leads to something else than a line ends the call as if the rule
// were not there.
package plan

import (
	"strings"
	"time"

	"ringfence/config"
)

// State is what the plan needs to know of the moment.
type State interface {
	Forward(line string) string // target of forward-all, or ""
	Rejects(device string) bool // do-not-disturb in the mode that refuses calls
	Calls(line string) int      // calls that the line has now
	Registered(line string) bool
}

// Line is a line with what a call needs to know of it.
type Line struct {
	Number    string
	Name      string // shown to others
	Device    string // "" for a line without a phone
	Encrypted bool   // its phone is in encrypted mode
	MaxCalls  int
	BusyAt    int
	Ring      time.Duration
	Voicemail string

	// Pickup groups: those the line is in, those it may pick from, those its "other" key picks from.
	MemberOf, MayPick, Other []int

	rights map[string]bool
	rules  [causes]config.Dest
}

// May tells whether the line has a right.
func (l *Line) May(right string) bool { return l.rights[right] }

// device is whose do-not-disturb counts: a line without a phone is its own device.
func (l *Line) device() string {
	if l.Device != "" {
		return l.Device
	}
	return l.Number
}

// Cause is why ringing a line came to nothing.
type Cause uint8

// Causes.
const (
	Busy Cause = iota
	NoAnswer
	Unreachable
	causes
)

func (c Cause) String() string { return [...]string{"busy", "no answer", "unreachable", ""}[c] }

// code is what the caller is told if no rule says otherwise ("dialplan" §3 rule 8).
func (c Cause) code() int {
	if c == Busy {
		return 486
	}
	return 480
}

// Plan is a compiled document.
type Plan struct {
	lines     map[string]*Line
	numbers   map[string]Object // every internal number that is no line
	routes    []route
	emergency map[string]bool
}

// Object is what a number stands for that is no line's.
type Object struct {
	Kind   ObjectKind
	Name   string // of the thing: the lot of a slot, the name of a group
	Number string
}

// ObjectKind is the kind of an Object.
type ObjectKind string

// Kinds of objects.
const (
	Group       ObjectKind = "group"
	Page        ObjectKind = "page"
	Intercom    ObjectKind = "intercom"
	ParkSlot    ObjectKind = "park slot"
	Room        ObjectKind = "room"
	Built       ObjectKind = "service"
	FeatureCode ObjectKind = "feature code"
)

type route struct {
	match *config.Pattern
	right string
}

const rightInternal = "internal"

// Compile compiles a document that has passed its checks.
func Compile(d *config.Document) *Plan {
	p := &Plan{lines: map[string]*Line{}, numbers: map[string]Object{}, emergency: map[string]bool{}}
	for i := range d.Lines {
		l := &d.Lines[i]
		p.lines[string(l.Number)] = compileLine(d, l)
	}
	add := func(number config.Digits, kind ObjectKind, name string) {
		if _, ok := p.lines[string(number)]; number != "" && !ok {
			p.numbers[string(number)] = Object{Kind: kind, Name: name}
		}
	}
	for _, g := range d.Groups {
		add(g.Number, Group, g.Name)
	}
	for _, g := range d.Paging {
		add(g.Number, Page, g.Name)
	}
	for _, g := range d.Intercom {
		add(g.Number, Intercom, "")
	}
	for _, l := range d.Parking {
		p.span(add, l.Slots, ParkSlot, l.ID)
	}
	for _, r := range d.Rooms {
		p.span(add, r.Range, Room, "")
	}
	add(d.Services.Voicemail, Built, "voicemail")
	add(d.Services.EchoTest, Built, "echo test")
	add(d.Services.Time, Built, "time")
	add(d.Services.Directory, Built, "directory")
	for name, code := range d.Services.Codes {
		add(config.Digits(code), FeatureCode, name)
	}
	for _, n := range d.Numbering.Emergency {
		p.emergency[string(n)] = true
	}
	for _, r := range d.RoutesOut {
		if m, err := config.CompilePattern(r.Match); err == nil {
			p.routes = append(p.routes, route{m, r.Right})
		}
	}
	return p
}

func (p *Plan) span(add func(config.Digits, ObjectKind, string), span string, kind ObjectKind, name string) {
	numbers, err := config.NumberRange(span)
	if err != nil {
		return // the document's checks have refused it
	}
	for _, n := range numbers {
		add(n, kind, name)
	}
}

func compileLine(d *config.Document, l *config.Line) *Line {
	c := &Line{
		Number: string(l.Number), Name: l.CallerID.Name, Device: l.Phone, MaxCalls: l.MaxCalls, BusyAt: l.BusyAt,
		MemberOf: l.Pickup.MemberOf, MayPick: l.Pickup.MayPick, Other: l.Pickup.Other,
		Ring: time.Duration(l.RingSeconds) * time.Second, Voicemail: string(l.Voicemail), rights: map[string]bool{},
		rules: [causes]config.Dest{Busy: l.OnBusy, NoAnswer: l.OnNoAnswer, Unreachable: l.OnUnreachable},
	}
	if c.Name == "" {
		if u, ok := d.User(l.User); ok {
			c.Name = u.Name
		}
	}
	if c.Voicemail == "" {
		c.Voicemail = string(d.Services.Voicemail)
	}
	if phone, ok := d.Phone(l.Phone); ok {
		c.Encrypted = phone.Security == config.SecurityEncrypted
	}
	if c.Ring <= 0 {
		c.Ring = 30 * time.Second
	}
	for _, r := range l.Rights {
		c.rights[r] = true
	}
	return c
}

// Line finds a line.
func (p *Plan) Line(number string) (*Line, bool) {
	l, ok := p.lines[number]
	return l, ok
}

// Normalize turns what was dialled into a number of the plan: escapes are undone and the marks that people write between
// digits left out (RFC 3966 §5.1.1), unless other characters tell that it is a name.
func Normalize(dialled string) string {
	s := unescape(dialled)
	if s == "" || strings.Trim(s, "0123456789*#+-.() ") != "" {
		return s
	}
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("-.() ", r) {
			return -1
		}
		return r
	}, s)
}

func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if h, l := hex(s[i+1]), hex(s[i+2]); h >= 0 && l >= 0 {
				b.WriteByte(byte(h<<4 | l))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
