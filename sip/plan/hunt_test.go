package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/config"
)

// hunting is a site with a group of all lines.
func hunting(strategy string, edit ...func(*config.Group)) *Plan {
	g := config.Group{Number: "372", Name: "Shop", Strategy: strategy, Members: []config.Digits{"301", "373"}, RingSeconds: 20, LoginRequired: true, OnNoAnswer: "voicemail:372", OnEmpty: "extension:303", OnBusy: "busy"}
	for _, f := range edit {
		f(&g)
	}
	return Compile(site(func(d *config.Document) {
		d.Groups = append(d.Groups, g, config.Group{Number: "373", Members: []config.Digits{"302", "303", "301"}})
	}))
}

func members(d Decision) string {
	var n []string
	for _, l := range d.Members {
		n = append(n, l.Number)
	}
	return strings.Join(n, " ")
}

func TestHunt(t *testing.T) {
	early, late := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC), time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name, strategy string
		now            moment
		want           string // members, or the code
		code           int
		rings          string
	}{
		{name: "DP-12 all, members of groups too", strategy: "all", want: "301 302 303"},
		{name: "logged out", strategy: "all", now: moment{out: map[string]bool{"SEP001122AA0001": true}}, want: "302 303"},
		{name: "line without a phone is its own device", strategy: "all", now: moment{out: map[string]bool{"303": true}}, want: "301 302"},
		{name: "in a call", strategy: "all", now: moment{calls: map[string]int{"302": 1}}, want: "301 303"},
		{name: "do not disturb", strategy: "all", now: moment{dnd: map[string]bool{"SEP001122AA0002": true}}, want: "301 303"},
		{name: "forwards its calls", strategy: "all", now: moment{forward: map[string]string{"302": "303"}}, want: "301 303"},
		{name: "not registered", strategy: "all", now: moment{absent: map[string]bool{"301": true}}, want: "302 303"},
		{name: "ordered", strategy: "ordered", want: "301 302 303"},
		{name: "round robin, first", strategy: "round_robin", want: "301 302 303"},
		{name: "round robin, second", strategy: "round_robin", now: moment{turn: 1}, want: "302 303 301"},
		{name: "round robin, one is in a call", strategy: "round_robin", now: moment{turn: 4, calls: map[string]int{"302": 1}}, want: "303 301"},
		{name: "longest idle", strategy: "longest_idle", now: moment{last: map[string]time.Time{"301": late, "302": early}}, want: "303 302 301"},
		{name: "all busy", strategy: "all", now: moment{calls: map[string]int{"301": 1, "302": 1, "303": 2}}, code: 486},
		{name: "some out, the rest busy", strategy: "all", now: moment{calls: map[string]int{"301": 1}, absent: map[string]bool{"302": true, "303": true}}, code: 486},
		{name: "nobody there", strategy: "all", now: moment{absent: map[string]bool{"301": true, "302": true}, out: map[string]bool{"303": true}}, rings: "303"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := hunting(tc.strategy).Route(Query{"301", "372"}, tc.now)
			rings := ""
			if d.Line != nil {
				rings = d.Line.Number
			}
			if members(d) != tc.want || d.Code != tc.code || rings != tc.rings || (tc.want != "") != (d.Kind == Hunt) {
				t.Errorf("rings %q %q, code %d\n%v", members(d), rings, d.Code, d.Steps)
			}
		})
	}
}

func TestHuntInVain(t *testing.T) {
	p := hunting("ordered")
	d := p.Route(Query{"301", "372"}, moment{})
	if !d.Group.InTurn() || d.Group.Ring != 20*time.Second || d.Group.Each != 10*time.Second {
		t.Errorf("%+v", d.Group)
	}
	n := p.Next(d, NoAnswer, moment{})
	if n.Kind != Special || n.Object != (Object{Kind: Mailbox, Number: "372", Name: "Shop"}) || diversions(n) != "372 no-answer" || n.Group != nil {
		t.Errorf("%+v", n)
	}
	if n = p.Next(d, Busy, moment{}); n.Kind != Reject || n.Code != 486 {
		t.Errorf("%+v", n)
	}
	// A line that sends its calls to the group whose overflow it is ends the call.
	p = Compile(site(func(d *config.Document) {
		d.Groups = append(d.Groups, config.Group{Number: "372", Members: []config.Digits{"301"}, OnNoAnswer: "extension:302"})
	}, on("302", func(l *config.Line) { l.OnNoAnswer = "group:372" })))
	d = p.Route(Query{"303", "372"}, moment{})
	d = p.Next(d, NoAnswer, moment{})
	if d.Kind != Ring || d.Line.Number != "302" {
		t.Fatalf("%+v", d)
	}
	if d = p.Next(d, NoAnswer, moment{}); d.Kind != Reject || d.Code != 480 {
		t.Errorf("%+v", d)
	}
}

func TestInbound(t *testing.T) {
	p := Compile(site(func(d *config.Document) {
		d.Site.TimeZone = "Europe/Berlin"
		d.Schedules = []config.Schedule{{ID: "open", Weekly: "mon-fri 08:30-17:30", Except: []string{"2026-12-24"}, Override: "night"}}
		d.RoutesIn = []config.RouteIn{
			{To: "busy"},
			{Number: "+15550300", When: "open", To: "group:371", Else: "voicemail:371"},
			{Number: "+15550300", Trunk: "backup", To: "extension:303"},
		}
	}))
	noon := time.Date(2026, 12, 23, 11, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name, trunk, number string
		now                 moment
		want                string
	}{
		{"DP-27 open", "main", "+15550300", moment{now: noon}, "302 rings first"},
		{"DP-27 closed", "main", "+15550300", moment{now: noon.Add(24 * time.Hour)}, "mailbox 371"},
		{"night switch", "main", "+15550300", moment{now: noon, night: map[string]bool{"night": true}}, "mailbox 371"},
		{"rule of the trunk", "backup", "+15550300", moment{}, "303 rings"},
		{"any other number", "main", "+15550399", moment{}, "486"},
	} {
		d := p.Inbound(tc.trunk, tc.number, tc.now)
		if got := d.result(); got != tc.want {
			t.Errorf("%s: %s, want %s\n%v", tc.name, got, tc.want, d.Steps)
		}
	}
	if d := Compile(site()).Inbound("main", "302", moment{}); d.Code != 404 {
		t.Errorf("a call from outside without a rule: %+v", d)
	}
}

func TestOutside(t *testing.T) {
	p := Compile(site())
	d := p.Route(Query{"301", "95550100"}, moment{})
	if d.Kind != External || d.Outside.Number != "5550100" || !cmp.Equal(d.Outside.Via, []string{"main", "backup"}) || d.Outside.Emergency {
		t.Errorf("%+v %+v", d, d.Outside)
	}
	// DP-29: without rights, with and without the prefix, by every trunk there is.
	for _, number := range []string{"911", "9911"} {
		d = Compile(site(on("301", func(l *config.Line) { l.Rights = nil }))).Route(Query{"301", number}, moment{})
		if d.Kind != External || d.Outside.Number != "911" || !d.Outside.Emergency || !cmp.Equal(d.Outside.Via, []string{"main", "backup"}) || !d.Attr.Show {
			t.Errorf("%s: %+v %+v", number, d, d.Outside)
		}
	}
	if d = p.Route(Query{"", "911"}, moment{}); d.Kind != External {
		t.Errorf("%+v", d)
	}
}

func TestCodes(t *testing.T) {
	p := Compile(site())
	for dialled, want := range map[string]string{
		"*8": "pickup ", "*72303": "cfwdall 303", "*7": "dnd ", "*71": " ", "*72": " ", "%2A8": "pickup ",
	} {
		d := p.Route(Query{"301", dialled}, moment{})
		if got := d.Service.Name + " " + d.Service.Arg; got != want || (d.Kind == Service) != (want != " ") {
			t.Errorf("%s: %q, code %d, want %q", dialled, got, d.Code, want)
		}
	}
	if d := p.Route(Query{"301", "*67302"}, moment{}); !d.Attr.Hide || d.Line.Number != "302" {
		t.Errorf("%+v", d)
	}
	if d := p.Route(Query{"301", "*80302"}, moment{}); !d.Attr.AutoAnswer || d.Line.Number != "302" {
		t.Errorf("%+v", d)
	}
}

func TestExplainAt(t *testing.T) {
	p := Compile(site(func(d *config.Document) {
		d.Schedules = []config.Schedule{{ID: "open", Weekly: "mon-fri 08:30-17:30", Except: []string{"2026-12-24"}}}
		d.RoutesIn = []config.RouteIn{{When: "open", To: "extension:302", Else: "voicemail:302"}}
	}))
	at := At{moment{}, time.Date(2026, 12, 24, 18, 0, 0, 0, time.UTC)}
	want := []string{
		"number: calls to anywhere from anywhere have a rule",
		"schedule: open is closed: 2026-12-24 is excepted",
		"inbound: the call goes to voicemail:302",
		"mailbox: the mailbox of 302",
		"result: mailbox 302",
	}
	if d := cmp.Diff(want, p.ExplainInbound("main", "+15550300", at)); d != "" {
		t.Error(d)
	}
	got := hunting("ordered").Explain(Query{"301", "372"}, moment{calls: map[string]int{"302": 1}})
	want = []string{
		"number: 372 is the group Shop",
		"member: 302 is in a call",
		"ring: ring 301, 303 in turn for 10s each, 20s in all (ordered)",
		"result: 301 rings first",
		"if busy: 372 answers busy",
		"if no answer: the mailbox of 372",
		"if unreachable: ring 303 for 30s",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
