package page_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/config"
	"ringfence/media"
	"ringfence/sip/call"
	"ringfence/sip/feature/page"
	"ringfence/sip/internal/calltest"
	"ringfence/sip/plan"
)

var engine *media.Engine

func TestMain(m *testing.M) {
	e, stop := calltest.NewEngine()
	engine = e
	code := m.Run()
	stop()
	os.Exit(code)
}

// groups gives 304 a phone; the groups are 391, to 302 and 303, which are shown as busy, and 392, to 303 and 304.
func groups(d *config.Document, _ *call.Options) {
	d.Lines[3].Phone, d.Lines[3].Index = "SEP001122AA0004", 1
	d.Phones = append(d.Phones, config.Phone{Device: "SEP001122AA0004", Model: "8851"})
	d.Paging = []config.PageGroup{
		{Number: "391", Name: "Floor", Members: []config.Digits{"302", "303"}, Mode: "unicast", Port: 20480, Codec: "G.711", Volume: 75, Text: "{group.name}: {caller.number} <&>",
			Beep: true, MarkBusy: true},
		{Number: "392", Members: []config.Digits{"303", "304", "305"}, Mode: "unicast", Port: 20490},
	}
}

// scene is a world with 301 to 304.
func scene(t *testing.T, f func(t *testing.T, w *calltest.World, p map[string]*calltest.Phone)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := calltest.New(t, engine, groups)
		phones := map[string]*calltest.Phone{}
		for _, n := range []string{"301", "302", "303", "304"} {
			phones[n] = w.Phone(n, "TCP")
		}
		f(t, w, phones)
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

func play(w *calltest.World, o page.Sound) ([]string, error) {
	if o.Source == nil {
		o.Source = media.Tone{Hz: []float64{600}}.Source()
	}
	return w.Features.Pages.Play(w.Manager, plan.Compile(w.Doc), o)
}

// told is everything that a phone was told, in one text.
func told(p *calltest.Phone) string {
	all, _ := p.Pushed()
	return strings.Join(all, "\n")
}

// TestDialled is a page from the dial to the end: what the phones are told, the answer to the caller, and who is busy meanwhile.
func TestDialled(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World, p map[string]*calltest.Phone) {
		x := p["301"].Call("391")
		after(time.Second)
		if x.Get().Status != 200 {
			t.Fatalf("page got %d", x.Get().Status)
		}
		for _, n := range []string{"302", "303"} {
			text := told(p[n])
			for _, want := range []string{"<statustext>Floor: 301 &lt;&amp;&gt;</statustext>", "<tonetype>DtZipZip</tonetype>", `<mediaStream receiveVolume="75">`, "<codec>G.711</codec>",
				"<mode>receive</mode>", "<address>" + calltest.Server.String() + "</address>", "<port>20480</port>"} {
				if !strings.Contains(text, want) {
					t.Errorf("%s was not told %s:\n%s", n, want, text)
				}
			}
			if strings.Contains(text, "<stopMedia>") {
				t.Errorf("%s was told to stop already", n)
			}
		}
		if phases := w.Phases(); !slices.ContainsFunc(phases, func(s string) bool { return strings.HasPrefix(s, "302 ") }) {
			t.Errorf("302 is not shown as busy: %q", phases)
		}
		// 391 is paging; 392 has 303, which listens already, and 304, which does not.
		if y := p["304"].Call("391"); true {
			after(time.Second)
			if y.Get().Status != 486 {
				t.Errorf("a second page of the group got %d", y.Get().Status)
			}
		}
		phones, err := play(w, page.Sound{To: []string{"392"}})
		if err != nil || len(phones) != 1 {
			t.Errorf("the other group: %v, %v", phones, err)
		}
		after(time.Second)
		if strings.Contains(told(p["303"]), "20490") || !strings.Contains(told(p["304"]), "<port>20490</port>") {
			t.Error("a phone is paged twice at once, or a free one not")
		}
		if !w.Features.Pages.Stop([]string{"392"}) || w.Features.Pages.Stop([]string{"392"}) {
			t.Error("the second page cannot be ended, or twice")
		}
		x.HangUp()
		after(time.Second)
		for _, n := range []string{"302", "303", "304"} {
			if strings.Count(told(p[n]), "<stopMedia>") != 1 {
				t.Errorf("%s was told to stop %d times", n, strings.Count(told(p[n]), "<stopMedia>"))
			}
		}
	})
}

// TestPlay: a sound to lines and to a group by its name, and who is left out.
func TestPlay(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World, p map[string]*calltest.Phone) {
		p["303"].Deaf = true // refuses what it is told
		closed := 0
		phones, err := play(w, page.Sound{To: []string{"floor"}, Text: "Lunch", Volume: 30, Close: func() { closed++ }})
		if err != nil || len(phones) != 1 {
			t.Fatalf("played by %v, %v; one was to take it", phones, err)
		}
		after(time.Second)
		if text := told(p["302"]); !strings.Contains(text, "<statustext>Lunch</statustext>") || !strings.Contains(text, `receiveVolume="30"`) {
			t.Errorf("302 was told %s", text)
		}
		for _, c := range []struct {
			name string
			to   []string
			want error
		}{{"the same group", []string{"391"}, page.ErrPaging}, {"a phone that listens already", []string{"302"}, page.ErrNobody}, {"nobody's number", []string{"399"}, nil},
			{"a group among lines", []string{"391", "304"}, nil}} {
			before := closed
			if _, err := play(w, page.Sound{To: c.to, Close: func() { closed++ }}); err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%s: %v", c.name, err)
			}
			if closed != before+1 {
				t.Errorf("%s: the sound was closed %d times", c.name, closed-before)
			}
		}
		closed = 0
		if !w.Features.Pages.Stop([]string{"Floor"}) {
			t.Error("no page to end")
		}
		after(time.Second)
		if closed != 1 || strings.Count(told(p["302"]), "<stopMedia>") != 1 {
			t.Errorf("closed %d times; 302 was told %s", closed, told(p["302"]))
		}

		// A phone in a call is left alone, a line of a phone with another call too.
		x := p["301"].Call("302")
		after(3 * time.Second)
		if _, err := play(w, page.Sound{To: []string{"302"}}); !errors.Is(err, page.ErrNobody) {
			t.Errorf("page of a phone in a call: %v", err)
		}
		x.HangUp()
		after(time.Second)
		if phones, err := play(w, page.Sound{To: []string{"302", "304"}}); err != nil || len(phones) != 2 {
			t.Errorf("two lines: %v, %v", phones, err)
		}
		after(time.Second)
		if !w.Features.Pages.Stop([]string{"302", "304"}) {
			t.Error("no page of lines to end")
		}
	})
}

// TestHurriedCaller: who hangs up before the phones are ready leaves none of them open.
func TestHurriedCaller(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World, p map[string]*calltest.Phone) {
		x := p["301"].Call("391")
		after(100 * time.Millisecond)
		x.HangUp()
		after(5 * time.Second)
		if a, b := strings.Count(told(p["302"]), "<startMedia>"), strings.Count(told(p["302"]), "<stopMedia>"); a != b {
			t.Errorf("started %d times, stopped %d times", a, b)
		}
		if y := p["304"].Call("391"); true {
			after(2 * time.Second)
			if y.Get().Status != 200 {
				t.Errorf("the next page got %d", y.Get().Status)
			}
			y.HangUp()
		}
	})
}
