package conference_test

import (
	"encoding/xml"
	"fmt"
	"os"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/config"
	"ringfence/media"
	"ringfence/sip/call"
	"ringfence/sip/cisco"
	"ringfence/sip/internal/calltest"
	"ringfence/sip/sdp"
)

var engine *media.Engine

func TestMain(m *testing.M) {
	e, stop := calltest.NewEngine()
	engine = e
	code := m.Run()
	stop()
	os.Exit(code)
}

type edit = func(*config.Document, *call.Options)

func scene(t *testing.T, f func(t *testing.T, w *calltest.World), edits ...edit) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := calltest.New(t, engine, edits...)
		f(t, w)
		after(64 * time.Second)
		if left := w.Left(); left != "" {
			t.Errorf("left over: %s\n%s", left, strings.Join(w.Ladder(), "\n"))
		}
		w.Close()
		synctest.Wait()
	})
}

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

type people struct{ ada, ben, cleo, dan *calltest.Phone }

// meet makes a conference of 301 Ada, who talks with 302 Ben and consults 303 Cleo.
func meet(t *testing.T, w *calltest.World, edit ...func(*calltest.Phone)) (p people, x, y *calltest.Talk, k *calltest.Pressed) {
	t.Helper()
	p = people{w.Phone("301", "TCP"), w.Phone("302", "TCP"), w.Phone("303", "TCP", edit...), w.Phone("304", "TCP")}
	x = p.ada.Call("302")
	after(3 * time.Second)
	x.Hold("conference")
	after(time.Second)
	y = p.ada.Call("303")
	after(3 * time.Second)
	k = press(p.ada, "Conference", x, y)
	after(2 * time.Second)
	return
}

func press(p *calltest.Phone, key string, x, y *calltest.Talk) *calltest.Pressed {
	id := func(t *calltest.Talk) cisco.DialogID {
		if t == nil {
			return cisco.DialogID{}
		}
		d := t.Get().D
		return cisco.DialogID{CallID: d.CallID, LocalTag: d.Local.Tag, RemoteTag: d.Remote.Tag}
	}
	return p.PressEvent(cisco.SoftkeyEvent{Event: key, Dialog: id(x), Consult: id(y)})
}

func state(w *calltest.World) []string {
	var out []string
	for _, i := range w.Manager.Snapshot() {
		s := i.State
		for _, l := range i.Legs {
			if l.State != "down" {
				s += " " + l.Line
			}
		}
		out = append(out, s)
	}
	sort.Strings(out)
	return out
}

func wantState(t *testing.T, w *calltest.World, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, state(w)); d != "" {
		t.Error(d)
	}
}

const roomName = "\"\x804\" <sip:192.0.2.10>;party=called;privacy=off;screen=yes"

// TestConference is the picture of "sip-calls" §5 (CNF-1 to CNF-5).
func TestConference(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		p, x, y, k := meet(t, w)
		wantState(t, w, "conference 301 302 303")
		status, reports := p.ada.Told(k)
		if status != 202 || len(reports) != 2 || reports[0] != "active;expires=60 " || !strings.Contains(reports[1], "terminated;reason=noresource") ||
			!strings.Contains(reports[1], "<code>200</code>") {
			t.Errorf("%d %q", status, reports)
		}
		if got := x.Get(); got.Shows != roomName || got.Ended != "" {
			t.Errorf("the conference leg shows %q, %q", got.Shows, got.Ended)
		}
		if y.Get().Ended != "BYE" {
			t.Errorf("the consulting call: %q", y.Get().Ended)
		}
		pushed, _ := p.ada.Pushed()
		if len(pushed) != 1 || !strings.Contains(pushed[0], "<holdretrievereq>") || !strings.Contains(pushed[0], x.Get().D.CallID) {
			t.Errorf("pushed %q", pushed)
		}
		// The phone has resumed by itself, and only it is shown the conference.
		if i := w.Manager.Snapshot(); i[0].Legs[0].Held {
			t.Error("still held")
		}
		if strings.Contains(p.ben.Last().Get().Shows, "\x804") || strings.Contains(p.cleo.Last().Get().Shows, "\x804") {
			t.Error("a guest without rights is shown the conference")
		}
		var ada []string
		for _, s := range w.Ladder() {
			if strings.HasPrefix(s, "301") {
				ada = append(ada, s)
			}
		}
		i := slicesIndex(ada, "301 > REFER")
		want := map[string]bool{"301 < 202 REFER": true, "301 < NOTIFY": true, "301 < UPDATE": true, "301 < BYE": true}
		for _, s := range ada[i:] {
			delete(want, s)
		}
		if len(want) != 0 {
			t.Errorf("missing %v in %v", want, ada[i:])
		}

		// CNF-7: the initiator leaves, everybody is released.
		x.Bye()
		after(time.Second)
		if p.ben.Alive()+p.cleo.Alive() != 0 {
			t.Error("somebody is left")
		}
	})
}

func slicesIndex(list []string, s string) int {
	for i, x := range list {
		if x == s {
			return i
		}
	}
	return 0
}

// TestLastTwoTalkDirectly is CNF-12.
func TestLastTwoTalkDirectly(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		p, x, _, _ := meet(t, w)
		p.cleo.Last().Bye()
		after(2 * time.Second)
		wantState(t, w, "talking 301 302")
		if got := x.Get().Shows; got != `"Ben" <sip:302@192.0.2.10>;party=called;privacy=off;screen=yes` {
			t.Errorf("ada sees %s", got)
		}
		x.Hold("")
		after(time.Second)
		x.Resume()
		after(time.Second)
		p.ben.Last().Bye()
		after(time.Second)
		if p.ada.Alive() != 0 {
			t.Error("ada is left alone")
		}
	})
}

// TestFourthParty is CNF-4: no second display.
func TestFourthParty(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		p, x, _, _ := meet(t, w)
		updates := len(w.Find("301 < UPDATE"))
		x.Hold("conference")
		after(time.Second)
		z := p.ada.Call("304")
		after(3 * time.Second)
		k := press(p.ada, "Conference", x, z)
		after(2 * time.Second)
		wantState(t, w, "conference 301 302 303 304")
		if _, reports := p.ada.Told(k); len(reports) != 2 || !strings.Contains(reports[1], "<code>200</code>") {
			t.Errorf("%q", reports)
		}
		if z.Get().Ended != "BYE" {
			t.Errorf("consulting call %q", z.Get().Ended)
		}
		if n := len(w.Find("301 < UPDATE")); n != updates {
			t.Errorf("%d updates more", n-updates)
		}
		x.Bye()
		after(time.Second)
	})
}

// TestThirdPartyRings is CNF-11: the first two are together at once, the third comes when it answers.
func TestThirdPartyRings(t *testing.T) {
	for _, answers := range []bool{true, false} {
		t.Run(fmt.Sprint(answers), func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				p, x, y, _ := meet(t, w, func(p *calltest.Phone) {
					p.Answer = 0
					if answers {
						p.Answer = 10 * time.Second
					}
				})
				wantState(t, w, "conference 301 302", "ending 303")
				if y.Get().Status != 500 {
					t.Errorf("consulting call: %d", y.Get().Status)
				}
				after(30 * time.Second)
				if answers {
					wantState(t, w, "conference 301 302 303")
				} else {
					wantState(t, w, "talking 301 302")
				}
				x.Bye()
				after(time.Second)
				if p.ben.Alive()+p.cleo.Alive() != 0 {
					t.Error("somebody is left")
				}
			})
		})
	}
}

// TestNoConference is CNF-10: a consulting call that is not there. The calls are as they were.
func TestNoConference(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		p := people{ada: w.Phone("301", "TCP"), ben: w.Phone("302", "TCP")}
		x := p.ada.Call("302")
		after(3 * time.Second)
		k := press(p.ada, "Conference", x, nil)
		after(time.Second)
		status, reports := p.ada.Told(k)
		if status != 202 || len(reports) != 1 || !strings.Contains(reports[0], "<code>500</code>") {
			t.Errorf("%d %q", status, reports)
		}
		if pushed, _ := p.ada.Pushed(); len(pushed) != 1 || !strings.Contains(pushed[0], "\x80&amp;") {
			t.Errorf("pushed %q", pushed)
		}
		wantState(t, w, "talking 301 302")
		x.Bye()
		after(time.Second)
	})
}

// TestCodecOfGuests: a guest with a codec that cannot be mixed is asked for another, and cannot stay without.
func TestCodecOfGuests(t *testing.T) {
	for _, codecs := range [][]sdp.Codec{{sdp.G729, sdp.PCMA}, {sdp.G729}} {
		t.Run(fmt.Sprint(codecs), func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				g729 := func(p *calltest.Phone) { p.Codecs = []sdp.Codec{sdp.G729, sdp.PCMA} }
				ada, dan := w.Phone("301", "TCP", g729), w.Phone("304", "TCP", func(p *calltest.Phone) { p.Codecs = codecs })
				w.Phone("302", "TCP")
				x := ada.Call("302")
				after(3 * time.Second)
				x.Hold("conference")
				after(time.Second)
				y := ada.Call("304")
				after(3 * time.Second)
				press(ada, "Conference", x, y)
				after(3 * time.Second)
				if len(codecs) > 1 {
					wantState(t, w, "conference 301 302 304")
				} else {
					wantState(t, w, "talking 301 302")
				}
				for _, i := range w.Manager.Snapshot() {
					for _, l := range i.Legs {
						if l.State != "down" && l.Codec == "G729" {
							t.Errorf("%s has %s", l.Line, l.Codec)
						}
					}
				}
				x.Bye()
				after(time.Second)
				if dan.Alive() != 0 {
					t.Error("dan is left")
				}
			})
		})
	}
}

type menu struct {
	Items []struct {
		Name string
		URL  string
	} `xml:"MenuItem"`
	Keys []struct {
		Name     string
		Position int
		URL      string
	} `xml:"SoftKeyItem"`
}

// lastMenu is the menu pushed last, with the number of its conference.
func lastMenu(t *testing.T, p *calltest.Phone) (menu, int) {
	t.Helper()
	pushed, _ := p.Pushed()
	var m menu
	if len(pushed) < 2 || xml.Unmarshal([]byte(pushed[len(pushed)-1]), &m) != nil {
		t.Fatalf("pushed %q", pushed)
	}
	id := regexp.MustCompile(`<confid>(\d+)</confid>`).FindStringSubmatch(pushed[len(pushed)-2])
	if id == nil {
		t.Fatalf("no number in %q", pushed[len(pushed)-2])
	}
	n, _ := strconv.Atoi(id[1])
	return m, n
}

func names(m menu) string {
	var out []string
	for _, i := range m.Items {
		out = append(out, i.Name)
	}
	return strings.Join(out, ", ")
}

// TestList is "sip-calls" §6: CFL-1 to CFL-8 and CFL-11.
func TestList(t *testing.T) {
	for _, model := range []string{"8851", "7965"} {
		t.Run(model, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				p := people{
					ada: w.Phone("301", "TCP", func(p *calltest.Phone) { p.Model = model }), ben: w.Phone("302", "TCP"), dan: w.Phone("304", "TCP"),
				}
				x := p.ada.Call("302")
				after(3 * time.Second)
				x.Hold("conference")
				after(time.Second)
				y := p.ada.Call("304")
				after(3 * time.Second)
				press(p.ada, "Conference", x, y)
				after(2 * time.Second)
				x = p.ada.Talks()[0]
				key := press(p.ada, "ConfList", x, nil)
				after(time.Second)
				if status, _ := p.ada.Told(key); status != 202 {
					t.Fatalf("list: %d", status)
				}
				m, id := lastMenu(t, p.ada)
				if got := names(m); got != `Dan "D" <&>, Ben, Ada` {
					t.Errorf("list %q", got)
				}
				if want := fmt.Sprintf("UserCallData:1:0:%d:0:2", id); m.Items[1].URL != want {
					t.Errorf("Ben is %s, want %s", m.Items[1].URL, want)
				}
				keys := map[string]string{}
				for _, k := range m.Keys {
					keys[fmt.Sprint(k.Position)] = k.Name + " " + k.URL
				}
				order := []string{"Exit", "Remove", "Mute", "Update"}
				if model == "7965" {
					order = []string{"Remove", "Mute", "Exit", "Update"}
				}
				urls := map[string]string{
					"Exit": "SoftKey:Exit", "Remove": fmt.Sprintf("UserCallDataSoftKey:Select:1:0:%d:0:Remove", id),
					"Mute": fmt.Sprintf("UserCallDataSoftKey:Select:1:0:%d:0:Mute", id), "Update": fmt.Sprintf("UserCallDataSoftKey:Update:1:0:%d:0:Update", id),
				}
				want := map[string]string{}
				for i, name := range order {
					want[fmt.Sprint(i+1)] = name + " " + urls[name]
				}
				if d := cmp.Diff(want, keys); d != "" {
					t.Error(d)
				}

				choose := func(what string, status int) {
					t.Helper()
					k := p.ada.Choose(1, id, what)
					after(time.Second)
					if got, _ := p.ada.Told(k); got != status {
						t.Errorf("%s: %d, want %d", what, got, status)
					}
				}
				choose("Mute", 202)
				choose("2", 202)
				m, _ = lastMenu(t, p.ada)
				if got := names(m); got != `Dan "D" <&>, - Ben, Ada` {
					t.Errorf("after mute %q", got)
				}
				choose("2", 202) // a lone choice toggles
				m, _ = lastMenu(t, p.ada)
				if got := names(m); got != `Dan "D" <&>, Ben, Ada` {
					t.Errorf("after the second choice %q", got)
				}
				choose("Update", 202)

				// CFL-10 and CFL-12: others may not, and a conference that is over is not there.
				for _, other := range []*calltest.Phone{p.ben, p.dan} {
					k := other.Choose(1, id, "2")
					after(time.Second)
					if got, _ := other.Told(k); got != 603 {
						t.Errorf("%s chooses: %d", other.Number, got)
					}
				}
				k := press(p.ben, "ConfList", p.ben.Last(), nil)
				after(time.Second)
				if got, _ := p.ben.Told(k); got != 603 {
					t.Errorf("ben lists: %d", got)
				}
				choose("Remove", 202)
				choose("3", 202)
				if p.dan.Alive() != 0 {
					t.Error("dan is still there")
				}
				wantState(t, w, "talking 301 302")
				choose("Update", 603)
				k = press(p.ada, "ConfList", x, nil)
				after(time.Second)
				if got, _ := p.ada.Told(k); got != 603 {
					t.Errorf("list of a call of two: %d", got)
				}
				x.Bye()
				after(time.Second)
			})
		})
	}
}

// TestRemoveLast is CFL-9.
func TestRemoveLast(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		p, x, _, _ := meet(t, w)
		press(p.ada, "RmLastConf", x, nil)
		after(time.Second)
		if p.cleo.Alive() != 0 || p.ben.Alive() != 1 {
			t.Errorf("cleo has %d calls, ben %d", p.cleo.Alive(), p.ben.Alive())
		}
		x.Bye()
		after(time.Second)
	})
}

// TestSecurityOfTheRoom is CNF-14: one guest in clear opens the padlock of all.
func TestSecurityOfTheRoom(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, cleo := w.Phone("301", "TLS"), w.Phone("302", "TLS"), w.Phone("303", "TCP")
		x := ada.Call("302")
		after(3 * time.Second)
		if !strings.Contains(x.Get().Info, "security=Encrypted") {
			t.Fatalf("before: %s", x.Get().Info)
		}
		y := ada.Call("303")
		after(3 * time.Second)
		press(ada, "Conference", x, y)
		after(2 * time.Second)
		for _, talk := range []*calltest.Talk{x, ben.Last(), cleo.Last()} {
			if got := talk.Get().Info; !strings.Contains(got, "security=NotAuthenticated") {
				t.Errorf("%s sees %s", talk.P.Number, got)
			}
		}
		cleo.Last().Bye()
		after(2 * time.Second)
		if got := x.Get().Info; !strings.Contains(got, "security=Encrypted") {
			t.Errorf("after: %s", got)
		}
		x.Bye()
		after(time.Second)
	})
}

func TestGuestHangsUpWhileItIsMade(t *testing.T) {
	for _, who := range []string{"ben", "cleo", "ada"} {
		t.Run(who, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				p := people{ada: w.Phone("301", "TCP"), ben: w.Phone("302", "TCP"), cleo: w.Phone("303", "TCP")}
				x := p.ada.Call("302")
				after(3 * time.Second)
				y := p.ada.Call("303")
				after(3 * time.Second)
				press(p.ada, "Conference", x, y)
				switch who {
				case "ben":
					p.ben.Last().Bye()
				case "cleo":
					p.cleo.Last().Bye()
				case "ada":
					x.Bye()
				}
				after(8 * time.Second)
				// However it went, nobody is alone.
				for _, s := range state(w) {
					if len(strings.Fields(s)) == 2 {
						t.Errorf("state %q", s)
					}
				}
				for _, q := range []*calltest.Phone{p.ada, p.ben, p.cleo} {
					for _, talk := range q.Talks() {
						if talk.Get().Ended == "" {
							talk.Bye()
						}
					}
				}
				after(2 * time.Second)
			})
		})
	}
}

func TestTortureConference(t *testing.T) {
	calltest.Torture(t, engine, "TCP", func(w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP")
		cleo := w.Phone("303", "TCP")
		x := ada.Call("302")
		after(4 * time.Second)
		x.Hold("conference")
		after(2 * time.Second)
		y := ada.Call("303")
		after(4 * time.Second)
		if x.Get().Status == 200 && y.Get().Status == 200 {
			press(ada, "Conference", x, y)
		}
		after(5 * time.Second)
		if list := cleo.Talks(); len(list) > 0 {
			list[0].Bye()
		}
		after(3 * time.Second)
	})
}

func TestTortureThirdRings(t *testing.T) {
	calltest.Torture(t, engine, "TCP", func(w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP")
		w.Phone("303", "TCP", func(p *calltest.Phone) { p.Answer = 10 * time.Second })
		x := ada.Call("302")
		after(4 * time.Second)
		y := ada.Call("303")
		after(3 * time.Second)
		if x.Get().Status == 200 && y.Get().Status == 180 {
			press(ada, "Conference", x, y)
		}
		after(15 * time.Second)
	})
}
