package plan

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/config"
)

// site is the cast of the pages: 301 Ada, 302 Ben, 303 Cleo.
func site(edit ...func(*config.Document)) *config.Document {
	d := &config.Document{
		Users: []config.User{{ID: "ada", Name: "Ada", SpeedDials: map[string]config.Digits{"1": "9011495550100", "3": "303"}}, {ID: "ben", Name: "Ben"}, {ID: "cleo", Name: "Cleo"}},
		Phones: []config.Phone{
			{Device: "SEP001122AA0001", Model: "8851", Security: config.SecurityEncrypted},
			{Device: "SEP001122AA0002", Model: "7965", Security: config.SecurityNonsecure},
		},
		Lines: []config.Line{
			line("301", "ada", "SEP001122AA0001"), line("302", "ben", "SEP001122AA0002"), line("303", "cleo", ""),
		},
		Groups: []config.Group{
			{Number: "370", Name: "Ring All", Members: []config.Digits{"301"}, LoginRequired: true, OnEmpty: "congestion", OnNoAnswer: "hangup"},
			{Number: "371", Name: "Sales", Strategy: "ordered", Members: []config.Digits{"302"}, OnEmpty: "voicemail:371"},
		},
		Parking:   []config.ParkLot{{ID: "default", Slots: "381-389"}},
		Rooms:     []config.Rooms{{Range: "360-369"}},
		Services:  config.Services{Voicemail: "399", Codes: map[string]string{"pickup": "*8", "hide_number": "*67", "last_caller": "*69", "forward_on": "*72", "dnd_toggle": "*7", "intercom": "*80"}},
		Numbering: config.Numbering{OutsidePrefix: "9", Emergency: []config.Digits{"911"}},
		RoutesOut: []config.RouteOut{
			{Match: "9NXXXXXX", Right: "local", Strip: 1, Via: []string{"main", "backup"}}, {Match: "9011X.", Right: "international", Via: []string{"main"}},
			{Match: "911", Via: []string{"main"}},
		},
	}
	for _, f := range edit {
		f(d)
	}
	return d
}

func line(number, user, phone string) config.Line {
	return config.Line{
		Number: config.Digits(number), User: user, Phone: phone, Index: 1, Rights: []string{"internal", "local"}, MaxCalls: 4,
		BusyAt: 2, RingSeconds: 30, OnBusy: "busy", OnNoAnswer: "hangup", OnUnreachable: "hangup", OnIDivert: "busy",
	}
}

// moment is a State for tests.
type moment struct {
	forward map[string]string
	dnd     map[string]bool
	calls   map[string]int
	absent  map[string]bool
	out     map[string]bool // devices that are logged out of hunt groups
	turn    int
	last    map[string]time.Time
	caller  map[string]string
	night   map[string]bool
	now     time.Time
}

func (m moment) Forward(l string) string  { return m.forward[l] }
func (m moment) Rejects(d string) bool    { return m.dnd[d] }
func (m moment) Calls(l string) int       { return m.calls[l] }
func (m moment) Registered(l string) bool { return !m.absent[l] }

func (m moment) LoggedIn(d string) bool      { return !m.out[d] }
func (m moment) Turn(string) int             { return m.turn }
func (m moment) LastCall(l string) time.Time { return m.last[l] }
func (m moment) LastCaller(l string) string  { return m.caller[l] }
func (m moment) Switch(n string) bool        { return m.night[n] }
func (m moment) Now() time.Time              { return m.now }

func on(number string, f func(*config.Line)) func(*config.Document) {
	return func(d *config.Document) {
		for i := range d.Lines {
			if string(d.Lines[i].Number) == number {
				f(&d.Lines[i])
			}
		}
	}
}

func diversions(d Decision) string {
	var parts []string
	for _, v := range d.Diversions {
		parts = append(parts, v.Line+" "+v.Reason)
	}
	return strings.Join(parts, ", ")
}

func TestRoute(t *testing.T) {
	for _, tc := range []struct {
		name, dialled string
		from          string // 301 unless set
		edit          func(*config.Document)
		now           moment
		rings         string
		code          int
		diversions    string
	}{
		{name: "DP-01 idle", dialled: "302", rings: "302"},
		{name: "DP-03 unregistered", dialled: "302", now: moment{absent: map[string]bool{"302": true}}, code: 480},
		{name: "DP-04 forward all", dialled: "302", now: moment{forward: map[string]string{"302": "303"}}, rings: "303", diversions: "302 unconditional"},
		{name: "DP-05 forward all, unregistered", dialled: "302",
			now:   moment{forward: map[string]string{"302": "303"}, absent: map[string]bool{"302": true}},
			rings: "303", diversions: "302 unconditional"},
		{name: "forward before do-not-disturb", dialled: "302",
			now:   moment{forward: map[string]string{"302": "303"}, dnd: map[string]bool{"SEP001122AA0002": true}},
			rings: "303", diversions: "302 unconditional"},
		{name: "DP-07 loop of forwards", dialled: "301", from: "303",
			now: moment{forward: map[string]string{"301": "302", "302": "301"}}, code: 486, diversions: "302 unconditional, 301 unconditional"},
		{name: "loop of forwards, busy rule", dialled: "301", from: "303",
			edit: on("301", func(l *config.Line) { l.OnBusy = "extension:303" }),
			now:  moment{forward: map[string]string{"301": "302", "302": "301"}}, rings: "303",
			diversions: "301 user-busy, 302 unconditional, 301 unconditional"},
		{name: "forward to itself", dialled: "302", now: moment{forward: map[string]string{"302": "302"}}, code: 486, diversions: "302 unconditional"},
		{name: "DP-08 do not disturb", dialled: "302", now: moment{dnd: map[string]bool{"SEP001122AA0002": true}}, code: 486},
		{name: "do not disturb, busy rule", dialled: "302", edit: on("302", func(l *config.Line) { l.OnBusy = "extension:303" }),
			now: moment{dnd: map[string]bool{"SEP001122AA0002": true}}, rings: "303", diversions: "302 do-not-disturb"},
		{name: "DP-10 busy limit", dialled: "302", now: moment{calls: map[string]int{"302": 2}}, code: 486},
		{name: "below the busy limit", dialled: "302", now: moment{calls: map[string]int{"302": 1}}, rings: "302"},
		{name: "busy rule congestion", dialled: "302", edit: on("302", func(l *config.Line) { l.OnBusy = "congestion" }),
			now: moment{calls: map[string]int{"302": 2}}, code: 503},
		{name: "busy rule to an absent line with its own rule", dialled: "302",
			edit: func(d *config.Document) {
				d.Lines[1].OnBusy = "extension:303"
				d.Lines[2].OnUnreachable = "extension:301"
			},
			now: moment{calls: map[string]int{"302": 2}, absent: map[string]bool{"303": true}}, rings: "301", diversions: "303 unavailable, 302 user-busy"},
		{name: "busy rule not served", dialled: "302", edit: on("302", func(l *config.Line) { l.OnBusy = "voicemail:302" }),
			now: moment{calls: map[string]int{"302": 2}}, code: 486, diversions: "302 user-busy"},
		{name: "unreachable rule not served", dialled: "302", edit: on("302", func(l *config.Line) { l.OnUnreachable = "voicemail:302" }),
			now: moment{absent: map[string]bool{"302": true}}, code: 480, diversions: "302 unavailable"},
		{name: "unknown number", dialled: "355", code: 404},
		{name: "empty number", dialled: "", code: 404},
		{name: "name", dialled: "ada", code: 404},
		{name: "written with marks", dialled: "3-0.2", rings: "302"},
		{name: "escaped", dialled: "%33%30%32", rings: "302"},
		{name: "no right to internal numbers", dialled: "302", edit: on("301", func(l *config.Line) { l.Rights = nil }), code: 403},
		{name: "DP-13 group, nobody there", dialled: "370", now: moment{out: map[string]bool{"SEP001122AA0001": true}}, code: 503},
		{name: "group to its mailbox, not served", dialled: "371", now: moment{absent: map[string]bool{"302": true}}, code: 503, diversions: "371 unavailable"},
		{name: "DP-06 forward to the own voicemail", dialled: "302", now: moment{forward: map[string]string{"302": "399"}}, code: 503, diversions: "302 unconditional"},
		{name: "DP-24 speed dial without right", dialled: "x-cisco-serviceuri-abbrdial-1", code: 403},
		{name: "unknown speed dial", dialled: "x-cisco-serviceuri-abbrdial-2", code: 404},
		{name: "speed dial", dialled: "x-cisco-serviceuri-abbrdial-3", rings: "303"},
		{name: "DP-29 emergency with the prefix", dialled: "9911", edit: on("301", func(l *config.Line) { l.Rights = nil }), code: 503},
		{name: "code of the last caller", dialled: "*69", now: moment{caller: map[string]string{"301": "303"}}, rings: "303"},
		{name: "nobody has called", dialled: "*69", code: 404},
		{name: "code that needs a number, without", dialled: "*67", code: 404},
		{name: "code before a code", dialled: "*67*8", code: 404},
		{name: "code from outside", dialled: "*67302", from: "-", code: 404},
		{name: "hidden number", dialled: "*67302", rings: "302"},
		{name: "park slot, not served", dialled: "381", code: 503},
		{name: "room, not served", dialled: "365", code: 503},
		{name: "voicemail, not served", dialled: "399", code: 503},
		{name: "outside with right", dialled: "95550100", code: 503},
		{name: "outside without right", dialled: "9011495550100", code: 403},
		{name: "emergency, whatever the rights", dialled: "911", edit: on("301", func(l *config.Line) { l.Rights = nil }), code: 503},
		{name: "forward to a forbidden number", dialled: "302", now: moment{forward: map[string]string{"302": "9011495550100"}}, code: 486},
		{name: "forward to a number that is gone", dialled: "302", now: moment{forward: map[string]string{"302": "355"}}, code: 486},
		{name: "forward to a service", dialled: "302", now: moment{forward: map[string]string{"302": "x-cisco-serviceuri-pickup"}}, code: 486},
		{name: "caller unknown", dialled: "302", from: "399", code: 403},
		{name: "DP-26 service from outside", dialled: "x-cisco-serviceuri-pickup", from: "-", code: 404},
		{name: "line from outside", dialled: "302", from: "-", rings: "302"},
		{name: "outside from outside", dialled: "95550100", from: "-", code: 403},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var edits []func(*config.Document)
			if tc.edit != nil {
				edits = append(edits, tc.edit)
			}
			p := Compile(site(edits...))
			from := tc.from
			switch from {
			case "":
				from = "301"
			case "-":
				from = ""
			}
			d := p.Route(Query{From: from, Dialled: tc.dialled}, tc.now)
			rings := ""
			if d.Kind == Ring {
				rings = d.Line.Number
			}
			if rings != tc.rings || d.Code != tc.code {
				t.Errorf("rings %q, code %d; want %q, %d\n%v", rings, d.Code, tc.rings, tc.code, d.Steps)
			}
			if got := diversions(d); got != tc.diversions {
				t.Errorf("diversions %q, want %q", got, tc.diversions)
			}
		})
	}
}

func TestNext(t *testing.T) {
	p := Compile(site(
		on("302", func(l *config.Line) { l.OnNoAnswer = "extension:303"; l.OnBusy = "extension:301" }),
		on("303", func(l *config.Line) { l.OnNoAnswer = "extension:302" }),
	))
	first := p.Route(Query{"301", "302"}, moment{})
	d := p.Next(first, NoAnswer, moment{})
	if d.Kind != Ring || d.Line.Number != "303" || diversions(d) != "302 no-answer" {
		t.Fatalf("%+v", d)
	}
	if d = p.Next(d, NoAnswer, moment{}); d.Kind != Reject || d.Code != 480 {
		t.Errorf("back to a line that was on the way: %+v", d)
	}
	if d = p.Next(first, Busy, moment{}); d.Kind != Ring || d.Line.Number != "301" || diversions(d) != "302 user-busy" {
		t.Errorf("%+v", d)
	}
	if d = p.Next(first, Unreachable, moment{}); d.Kind != Reject || d.Code != 480 || diversions(d) != "" {
		t.Errorf("%+v", d)
	}
	if len(first.Steps) != 2 || len(first.Diversions) != 0 {
		t.Errorf("the first decision was changed: %+v", first)
	}
	if d = p.Next(Decision{}, Busy, moment{}); d.Kind != Reject || d.Code != 486 {
		t.Errorf("%+v", d)
	}
}

func TestDeflect(t *testing.T) {
	p := Compile(site(on("302", func(l *config.Line) { l.OnBusy = "extension:301" })))
	first := p.Route(Query{"301", "302"}, moment{})
	if d := p.Deflect(first, "303", moment{}); d.Kind != Ring || d.Line.Number != "303" || diversions(d) != "302 deflection" {
		t.Errorf("%+v", d)
	}
	if d := p.Deflect(first, "9011495550100", moment{}); d.Kind != Ring || d.Line.Number != "301" || diversions(d) != "302 user-busy" {
		t.Errorf("to a forbidden number: %+v", d)
	}
	if d := p.Deflect(Decision{}, "303", moment{}); d.Kind != Reject || d.Code != 480 {
		t.Errorf("%+v", d)
	}
}

func TestRedirectionsAreLimited(t *testing.T) {
	forward := map[string]string{}
	p := Compile(site(func(d *config.Document) {
		for i := range 15 {
			d.Lines = append(d.Lines, line(number(i), "", ""))
			forward[number(i)] = number(i + 1)
		}
	}))
	d := p.Route(Query{"301", number(0)}, moment{forward: forward})
	if d.Kind != Reject || d.Code != 486 || len(d.Diversions) != MaxRedirections {
		t.Errorf("%d %d after %d redirections", d.Kind, d.Code, len(d.Diversions))
	}
	delete(forward, number(MaxRedirections))
	if d = p.Route(Query{"301", number(0)}, moment{forward: forward}); d.Kind != Ring || d.Line.Number != number(MaxRedirections) {
		t.Errorf("the last allowed target: %+v", d)
	}
}

func number(i int) string { return strconv.Itoa(3100 + i) }

func TestService(t *testing.T) {
	d := Compile(site()).Route(Query{"301", "x-cisco-serviceuri-cfwdall-5550100"}, moment{})
	if d.Kind != Service || d.Service.Name != "cfwdall" || d.Service.Arg != "5550100" {
		t.Errorf("%+v", d)
	}
}

func TestCallable(t *testing.T) {
	p := Compile(site())
	for number, want := range map[string]int{"302": 0, "301": 0, "355": 404, "9011495550100": 403, "370": 0, "399": 0, "381": 503, "95550100": 503, "x-cisco-serviceuri-park": 404} {
		if got, why := p.Callable("301", number); got != want {
			t.Errorf("%s: %d (%s), want %d", number, got, why, want)
		}
	}
	if got, _ := p.Callable("999", "302"); got != 403 {
		t.Errorf("unknown line: %d", got)
	}
}

func TestLine(t *testing.T) {
	p := Compile(site(on("301", func(l *config.Line) { l.CallerID.Name = "Ada B." }), on("303", func(l *config.Line) { l.RingSeconds = 0 })))
	a, _ := p.Line("301")
	c, _ := p.Line("303")
	b, _ := p.Line("302")
	if a.Name != "Ada B." || !a.Encrypted || a.Voicemail != "399" || a.Ring != 30*time.Second {
		t.Errorf("%+v", a)
	}
	if b.Name != "Ben" || b.Encrypted || c.Name != "Cleo" || c.Device != "" || c.Ring != 30*time.Second {
		t.Errorf("%+v %+v", b, c)
	}
	if _, ok := p.Line("399"); ok {
		t.Error("a service is a line")
	}
}

func TestExplain(t *testing.T) {
	p := Compile(site(on("303", func(l *config.Line) { l.OnBusy = "extension:301" })))
	got := p.Explain(Query{"301", "302"}, moment{forward: map[string]string{"302": "303"}})
	want := []string{
		"number: 302 is the line of Ben",
		"forward all: 302 forwards to 303",
		"number: 303 is the line of Cleo",
		"ring: ring 303 for 30s",
		"result: 303 rings",
		"if busy: ring 301 for 30s",
		"if no answer: 303 ends the call",
		"if unreachable: 303 ends the call",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got := p.Explain(Query{"301", "355"}, moment{}); got[len(got)-1] != "result: 404" {
		t.Errorf("%q", got)
	}
}
