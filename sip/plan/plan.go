// Package plan is the dial plan: the declared numbers, lines and rules compiled to an immutable snapshot, and the decision what
// becomes of a call ("dialplan" §2 to §4, design §8 "Order on an incoming call").
//
// A Plan answers two questions. Route: somebody dials a number, what now? Next: the phones of a line were rung without
// success, what now? Both return a Decision, which carries the way it came about, so that the same code explains itself to an
// administrator. What changes while calls go on (forwards, do-not-disturb, registrations, number of calls) is asked of a State;
// a reload makes a new Plan, and a running call keeps the one it began with.
//
// It leaves out what slots, rooms, mailboxes, services and trunks do: what stands for one of these is named (Special, External)
// and served by whoever can, else answered 503.
package plan

import (
	"maps"
	"slices"
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
	LoggedIn(device string) bool    // to hunt groups
	Turn(group string) int          // calls that a group had
	LastCall(line string) time.Time // when the line's last call ended
	LastCaller(line string) string  // who called the line last, or ""
	Switch(name string) bool        // manual switch of a schedule: on is closed by hand
	Now() time.Time
}

// At is a State at another time.
type At struct {
	State
	Time time.Time
}

// Now is the other time.
func (a At) Now() time.Time { return a.Time }

// Line is a line with what a call needs to know of it.
type Line struct {
	Number    string
	Name      string   // shown to others
	Device    string   // "" for a line without a phone
	Devices   []string // all that show it: more than one for a shared line
	Barge     string   // of a shared line: off, barge or cbarge
	Encrypted bool     // its phone is in encrypted mode
	MaxCalls  int
	BusyAt    int
	Ring      time.Duration
	Voicemail string
	Music     string // what those hear whom it puts on hold

	SpeedDials map[string]string // of the user, by index

	// Pickup groups: those the line is in, those it may pick from, those its "other" key picks from.
	MemberOf, MayPick, Other []int

	Notify     []string      // what is told of a call that rings in the group: from, to, beep
	NotifyFor  time.Duration // how long it is shown, and the least time between two
	IDivert    config.Dest   // where the iDivert key sends a call
	AutoAnswer []string      // numbers whose calls the phone answers by itself
	Record     config.RecordMode
	CallBack   string // number that the phones it calls keep in their lists; "" is its own
	Direct     bool   // audio may go to the other phone directly

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

// Shared tells whether several phones show the line ("sip-calls" §26).
func (l *Line) Shared() bool { return len(l.Devices) > 1 }

// Rejects tells whether do-not-disturb refuses calls to the line: of a shared one, that of all its phones.
func (l *Line) Rejects(s State) bool {
	if !l.Shared() {
		return s.Rejects(l.device())
	}
	return !slices.ContainsFunc(l.Devices, func(d string) bool { return !s.Rejects(d) })
}

// LoggedIn tells whether a phone of the line takes calls of hunt groups.
func (l *Line) LoggedIn(s State) bool {
	if !l.Shared() {
		return s.LoggedIn(l.device())
	}
	return slices.ContainsFunc(l.Devices, s.LoggedIn)
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
	onDevice  map[string][]*Line
	numbers   map[string]Object // every internal number that is no line
	groups    map[string]*HuntGroup
	routes    []route
	inbound   []entry
	trunks    []string
	codes     []code
	prefix    string
	emergency map[string]bool
	decisions []planRule
	zone      *time.Location // of the site
}

// Object is what a number stands for that is no line's.
type Object struct {
	Kind   ObjectKind
	Name   string // of the thing: the lot of a slot, the name of a page
	Number string
	Busy   bool // of a mailbox: it greets as one whose owner is busy, else as one whose owner is away
}

// ObjectKind is the kind of an Object.
type ObjectKind string

// Kinds of objects.
const (
	Page        ObjectKind = "page"
	Intercom    ObjectKind = "intercom"
	ParkSlot    ObjectKind = "park slot"
	Room        ObjectKind = "room"
	Built       ObjectKind = "service"
	NightSwitch ObjectKind = "night switch"
	Mailbox     ObjectKind = "mailbox" // Number is whose
)

const rightInternal = "internal"

// Compile compiles a document that has passed its checks.
func Compile(d *config.Document) *Plan {
	p := &Plan{
		lines: map[string]*Line{}, onDevice: map[string][]*Line{}, numbers: map[string]Object{}, groups: map[string]*HuntGroup{}, emergency: map[string]bool{},
		prefix: string(d.Numbering.OutsidePrefix),
	}
	for i := range d.Lines {
		l := &d.Lines[i]
		c := compileLine(d, l)
		p.lines[c.Number] = c
		for _, device := range c.Devices {
			p.onDevice[device] = append(p.onDevice[device], c)
		}
	}
	add := func(number config.Digits, kind ObjectKind, name string) {
		if _, ok := p.lines[string(number)]; number != "" && !ok {
			p.numbers[string(number)] = Object{Kind: kind, Name: name}
		}
	}
	for i := range d.Groups {
		g := &d.Groups[i]
		p.groups[string(g.Number)] = compileGroup(d, g)
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
	for name, digits := range d.Services.Codes {
		if digits != "" {
			p.codes = append(p.codes, code{digits, name})
		}
	}
	p.sortCodes()
	for _, n := range d.Numbering.Emergency {
		p.emergency[string(n)] = true
	}
	for i := range d.RoutesOut {
		r, ok := compileRoute(&d.RoutesOut[i])
		if !ok {
			continue // the document's checks have refused it
		}
		p.routes = append(p.routes, r)
		for _, t := range r.via {
			if !slices.Contains(p.trunks, t) {
				p.trunks = append(p.trunks, t)
			}
		}
	}
	if p.zone, _ = time.LoadLocation(d.Site.TimeZone); p.zone == nil {
		p.zone = time.UTC
	}
	p.compileInbound(d)
	return p
}

func (p *Plan) compileInbound(d *config.Document) {
	hours := map[string]*config.Hours{}
	for i := range d.Schedules {
		s := &d.Schedules[i]
		h, err := s.Hours(d.Site.TimeZone)
		if err != nil {
			continue // the document's checks have refused it
		}
		hours[s.ID] = h
		if config.IsNumber(s.Override) {
			p.numbers[s.Override] = Object{Kind: NightSwitch, Name: s.ID}
		}
	}
	for i := range d.Rules {
		if r, ok := compileRule(i, &d.Rules[i], hours); ok {
			p.decisions = append(p.decisions, r)
		}
	}
	for _, r := range d.RoutesIn {
		p.inbound = append(p.inbound, entry{trunk: r.Trunk, number: string(r.Number), when: hours[r.When], to: r.To, other: r.Else})
	}
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
		Number: string(l.Number), Name: l.CallerID.Name, CallBack: string(l.CallerID.CallBack), Device: l.Phone, MaxCalls: l.MaxCalls, BusyAt: l.BusyAt,
		MemberOf: l.Pickup.MemberOf, MayPick: l.Pickup.MayPick, Other: l.Pickup.Other,
		Notify: l.Pickup.Notify, NotifyFor: time.Duration(l.Pickup.Seconds) * time.Second, IDivert: l.OnIDivert, Record: l.Record,
		Direct: l.DirectMedia == "on" || l.DirectMedia != "off" && d.SIP.DirectMedia,
		Ring:   time.Duration(l.RingSeconds) * time.Second, Voicemail: string(l.Voicemail), Music: l.Music, rights: map[string]bool{},
		rules: [causes]config.Dest{Busy: l.OnBusy, NoAnswer: l.OnNoAnswer, Unreachable: l.OnUnreachable},
	}
	if c.Device != "" {
		c.Devices, c.Barge = []string{c.Device}, l.Barge
		for _, s := range l.Shared {
			c.Devices = append(c.Devices, s.Phone)
		}
	}
	if u, ok := d.User(l.User); ok {
		if c.Name == "" {
			c.Name = u.Name
		}
		c.SpeedDials = map[string]string{}
		for index, number := range u.SpeedDials {
			c.SpeedDials[index] = string(number)
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
	for _, n := range l.AutoAnswer {
		c.AutoAnswer = append(c.AutoAnswer, string(n))
	}
	return c
}

// Group finds a hunt group.
func (p *Plan) Group(number string) (*HuntGroup, bool) {
	g, ok := p.groups[number]
	return g, ok
}

// Line finds a line.
func (p *Plan) Line(number string) (*Line, bool) {
	l, ok := p.lines[number]
	return l, ok
}

// LinesOf lists the lines of a device.
func (p *Plan) LinesOf(device string) []*Line { return p.onDevice[device] }

// Lines lists all lines, by number.
func (p *Plan) Lines() []*Line {
	return slices.SortedFunc(maps.Values(p.lines), func(a, b *Line) int { return strings.Compare(a.Number, b.Number) })
}

// NumbersOf lists the numbers of a device.
func (p *Plan) NumbersOf(device string) []string {
	var out []string
	for n, l := range p.lines {
		if slices.Contains(l.Devices, device) {
			out = append(out, n)
		}
	}
	return out
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
