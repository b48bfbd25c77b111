package plan

import (
	"slices"
	"testing"

	"ringfence/config"
)

func TestSharedLine(t *testing.T) {
	p := Compile(site(on("302", func(l *config.Line) {
		l.Shared = []config.Shared{{Phone: "SEP001122AA0001", Index: 2}}
	})))
	l, _ := p.Line("302")
	if !l.Shared() || !slices.Equal(l.Devices, []string{"SEP001122AA0002", "SEP001122AA0001"}) {
		t.Fatalf("%+v", l)
	}
	if got := p.LinesOf("SEP001122AA0001"); len(got) != 2 || got[1] != l {
		t.Errorf("lines of the other phone: %v", got)
	}
	if got := p.NumbersOf("SEP001122AA0001"); !slices.Contains(got, "302") {
		t.Errorf("numbers of the other phone: %v", got)
	}
	// Do-not-disturb of one phone leaves the line to the other.
	one := map[string]bool{"SEP001122AA0002": true}
	if d := p.Route(Query{"303", "302"}, moment{dnd: one}); d.Kind != Ring {
		t.Errorf("one phone in do-not-disturb: %+v", d)
	}
	both := map[string]bool{"SEP001122AA0002": true, "SEP001122AA0001": true}
	if d := p.Route(Query{"303", "302"}, moment{dnd: both}); d.Kind != Reject || d.Code != 486 {
		t.Errorf("both in do-not-disturb: %+v", d)
	}
	if !l.LoggedIn(moment{out: one}) || l.LoggedIn(moment{out: both}) {
		t.Error("log-in to hunt groups")
	}
}
