package call_test

import (
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"
	"github.com/google/go-cmp/cmp"

	"ringfence/config"
	"ringfence/media"
	"ringfence/sip/call"
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

// scene runs a test in a bubble with a world, and checks at the end that nothing of the calls is left.
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

func settle() { synctest.Wait() }

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// ladder compares what each phone saw. How the messages of two phones interleave is not fixed.
func ladder(t *testing.T, w *calltest.World, want ...string) {
	t.Helper()
	of := func(list []string) map[string][]string {
		m := map[string][]string{}
		for _, s := range list {
			m[s[:3]] = append(m[s[:3]], s)
		}
		return m
	}
	if d := cmp.Diff(of(want), of(w.Ladder())); d != "" {
		t.Error(d)
	}
}

// header checks one header of the last message of a kind.
func header(t *testing.T, w *calltest.World, short, name, want string) {
	t.Helper()
	if got := w.Last(short).Header(name); got != want {
		t.Errorf("%s of %q is %q, want %q", name, short, got, want)
	}
}

func line(number string, f func(*config.Line)) edit {
	return func(d *config.Document, _ *call.Options) {
		for i := range d.Lines {
			if string(d.Lines[i].Number) == number {
				f(&d.Lines[i])
			}
		}
	}
}

func status(t *testing.T, talk *calltest.Talk, want int) {
	t.Helper()
	if got := talk.Get().Status; got != want {
		t.Errorf("%s got %d, want %d", talk.P.Number, got, want)
	}
}

// TestBasicCall is the picture of "sip-calls" §2.1, with its headers.
func TestBasicCall(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP")
		c := ada.Call("302")
		after(5 * time.Second)
		c.Bye()
		settle()
		ladder(t, w,
			"301 > INVITE", "302 < INVITE", "302 > 180 INVITE", "301 < 180 INVITE", "302 > 200 INVITE", "302 < ACK", "301 < 200 INVITE",
			"301 > ACK", "301 > BYE", "301 < 200 BYE", "302 < BYE", "302 > 200 BYE")
		for _, short := range []string{"301 < 180 INVITE", "301 < 200 INVITE"} {
			header(t, w, short, "Remote-Party-ID", `"Ben" <sip:302@192.0.2.10>;party=called;privacy=off;screen=yes`)
			header(t, w, short, "Call-Info", "<urn:x-cisco-remotecc:callinfo>; orientation=to; security=NotAuthenticated")
			header(t, w, short, "Supported", "replaces,timer,X-cisco-sis-10.0.0")
			header(t, w, short, "Contact", "<sip:302@192.0.2.10:5060;transport=tcp>")
		}
		header(t, w, "302 < INVITE", "Remote-Party-ID", `"Ada" <sip:301@192.0.2.10>;party=calling;privacy=off;screen=yes`)
		header(t, w, "302 < INVITE", "Call-Info", "<urn:x-cisco-remotecc:callinfo>; orientation=from; security=NotAuthenticated")
		header(t, w, "302 < INVITE", "Supported", "replaces,timer,X-cisco-sis-10.0.0")
		if d := cmp.Diff([]string{"301 active", "302 ringing", "302 active", "302 idle", "301 idle"}, w.Phases()); d != "" {
			t.Error(d)
		}
		after(64 * time.Second)
		ended := w.Ended()
		if len(ended) != 1 || len(ended[0].Legs) != 2 || ended[0].Legs[0].RxStat.Lost != 5 || ended[0].Legs[1].RxStat.Packets != 3050 || ended[0].Legs[0].Codec != "G722" {
			t.Errorf("record %+v", ended)
		}
	})
}

// TestNoDescriptionIsCopied: what one phone says about itself never reaches the other.
func TestNoDescriptionIsCopied(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP")
		c := ada.Call("302")
		after(5 * time.Second)
		c.Hold("")
		after(time.Second)
		c.Bye()
		settle()
		for _, m := range w.Wire() {
			if m.From == "server" && (m.To == "302" && strings.Contains(m.Text, "192.0.2.51") || m.To == "301" && strings.Contains(m.Body(), "192.0.2.52")) {
				t.Errorf("to %s:\n%s", m.To, m.Text)
			}
		}
	})
}

func TestCalleeHangsUp(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben := w.Phone("301", "TCP"), w.Phone("302", "TCP")
		c := ada.Call("302")
		after(5 * time.Second)
		ben.Last().Bye()
		settle()
		if c.Get().Ended != "BYE" {
			t.Errorf("caller's call %q", c.Get().Ended)
		}
	})
}

func TestBothHangUpAtOnce(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben := w.Phone("301", "TCP"), w.Phone("302", "TCP")
		c := ada.Call("302")
		after(5 * time.Second)
		c.Bye()
		ben.Last().Bye()
		settle()
		// Our BYE may reach ben before he hangs up; then he sends none, and answers ours.
		sent := len(w.Find("302 > BYE"))
		if sent == 0 && len(w.Find("302 > 200 BYE")) != 1 {
			t.Error("ben's end stays up")
		}
		if len(w.Find("301 < 200 BYE")) != 1 || len(w.Find("302 < 200 BYE"))+len(w.Find("302 < 481 BYE")) != sent {
			t.Error(strings.Join(w.Ladder(), "\n"))
		}
	})
}

func TestCallerGivesUp(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben := w.Phone("301", "TCP"), w.Phone("302", "TCP")
		c := ada.Call("302")
		after(time.Second)
		c.Cancel()
		settle()
		ladder(t, w,
			"301 > INVITE", "302 < INVITE", "302 > 180 INVITE", "301 < 180 INVITE", "301 > CANCEL", "301 < 200 CANCEL",
			"301 < 487 INVITE", "302 < CANCEL", "301 > ACK", "302 > 200 CANCEL", "302 > 487 INVITE", "302 < ACK")
		status(t, c, 487)
		if got := ben.Last().Get().Ended; got != "CANCEL " {
			t.Errorf("callee's call ended by %q; a missed call has no Reason", got)
		}
	})
}

// TestAnswerCrossesCancel: the callee picks up while the CANCEL is on its way.
func TestAnswerCrossesCancel(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben := w.Phone("301", "TCP"), w.Phone("302", "TCP", func(p *calltest.Phone) { p.Answer = 0 })
		w.Drop = func(m calltest.Message) bool { return m.Short() == "302 < CANCEL" }
		c := ada.Call("302")
		after(time.Second)
		c.Cancel()
		after(time.Second)
		ben.Last().PickUp()
		settle()
		if got := ben.Last().Get().Ended; got != "BYE" {
			t.Errorf("callee's call %q", got)
		}
		if len(w.Find("302 < ACK")) != 1 {
			t.Error("the answer was not acknowledged")
		}
	})
}

func TestRefusals(t *testing.T) {
	for _, tc := range []struct {
		name, dial string
		want       int
		edits      []edit
		set        func(w *calltest.World)
		ben        func(*calltest.Phone)
		invites    int // that reach 302
	}{
		{name: "unknown number", dial: "355", want: 404},
		{name: "no right", dial: "302", want: 403, edits: []edit{line("301", func(l *config.Line) { l.Rights = nil })}},
		{name: "busy", dial: "302", want: 486, ben: func(p *calltest.Phone) { p.Refuse = 486 }, invites: 1},
		{name: "declined", dial: "302", want: 486, ben: func(p *calltest.Phone) { p.Refuse = 603 }, invites: 1},
		{name: "do not disturb", dial: "302", want: 486, set: func(w *calltest.World) { w.SetDND("SEP001122AA0002", true) }},
		{name: "phone fails", dial: "302", want: 480, ben: func(p *calltest.Phone) { p.Refuse = 500 }, invites: 1},
		{name: "phone does not know its number", dial: "302", want: 480, ben: func(p *calltest.Phone) { p.Refuse = 404 }, invites: 1},
		{name: "phone is silent", dial: "302", want: 480, set: func(w *calltest.World) {
			w.Drop = func(m calltest.Message) bool { return m.From == "302" }
		}, invites: 1},
		{name: "not registered", dial: "303", want: 480},
		{name: "no answer", dial: "302", want: 480, ben: func(p *calltest.Phone) { p.Answer = 0 }, invites: 1},
		{name: "no common codec", dial: "302", want: 488, ben: func(p *calltest.Phone) { p.Codecs = []sdp.Codec{sdp.Opus} }, invites: 1},
		{name: "pickup, not served", dial: "x-cisco-serviceuri-pickup", want: 503},
		{name: "call limit", dial: "302", want: 480, edits: []edit{line("301", func(l *config.Line) { l.MaxCalls = 1 })},
			set: func(w *calltest.World) {
				w.Phone("303", "TCP", func(p *calltest.Phone) { p.Answer = time.Hour })
			}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				if tc.set != nil {
					tc.set(w)
				}
				ben := tc.ben
				if ben == nil {
					ben = func(*calltest.Phone) {}
				}
				ada := w.Phone("301", "TCP")
				w.Phone("302", "TCP", ben)
				if tc.name == "call limit" {
					first := ada.Call("303")
					after(time.Second)
					defer func() { first.Cancel(); settle() }()
				}
				c := ada.Call(tc.dial)
				after(6 * time.Second)
				if tc.name != "no answer" {
					status(t, c, tc.want)
				}
				after(64 * time.Second)
				status(t, c, tc.want)
				if got := len(w.Find("302 < INVITE")); got != tc.invites {
					t.Errorf("%d INVITEs, want %d", got, tc.invites)
				}
			}, append(tc.edits, func(d *config.Document, o *call.Options) {
				for i := range d.Lines {
					d.Lines[i].RingSeconds = max(d.Lines[i].RingSeconds, 60)
				}
			})...)
		})
	}
}

func TestOfferlessInvite(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		dan := w.Phone("304", "TCP")
		w.Phone("302", "TCP", func(p *calltest.Phone) { p.Codecs = []sdp.Codec{sdp.PCMA} })
		c := dan.CallWithoutOffer("302")
		after(5 * time.Second)
		status(t, c, 200)
		if body := w.Last("304 > ACK").Body(); !strings.Contains(body, "m=audio 17904 RTP/AVP 8 101") {
			t.Errorf("ACK has %q", body)
		}
		if i := w.Manager.Snapshot(); len(i) != 1 || i[0].Legs[0].Codec != "PCMA" || i[0].Legs[1].Codec != "PCMA" {
			t.Errorf("%+v", i)
		}
		c.Bye()
		settle()
	})
}

// TestPartiesWithoutACommonCodec: the phone is asked with the caller's codecs first, then with those that can be turned into one of
// them; the caller keeps its own.
func TestPartiesWithoutACommonCodec(t *testing.T) {
	for _, transport := range []string{"TCP", "TLS"} {
		t.Run(transport, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				ada := w.Phone("301", transport, func(p *calltest.Phone) { p.Codecs = []sdp.Codec{sdp.PCMA, sdp.G729} })
				w.Phone("302", transport, func(p *calltest.Phone) { p.Codecs = []sdp.Codec{sdp.G722} })
				c := ada.Call("302")
				after(5 * time.Second)
				status(t, c, 200)
				i := w.Manager.Snapshot()
				if len(i) != 1 || i[0].State != "talking" || i[0].Legs[0].Codec != "PCMA" || i[0].Legs[1].Codec != "G722" {
					t.Errorf("%+v", i)
				}
				if i[0].Legs[0].Secure != (transport == "TLS") || i[0].Legs[1].Secure != (transport == "TLS") {
					t.Error("encryption was given up for the codec")
				}
				if got := len(w.Find("302 < INVITE")); got != 2 {
					t.Errorf("%d INVITEs, want 2", got)
				}
				// A hold and what follows must not begin to ask for codecs.
				c.Hold("")
				after(time.Second)
				c.Resume()
				after(5 * time.Second)
				if i := w.Manager.Snapshot(); len(i) != 1 || i[0].State != "talking" {
					t.Errorf("after a hold: %+v", i)
				}
				c.Bye()
				settle()
			})
		})
	}
}

func TestEarlyMedia(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("304", "TCP", func(p *calltest.Phone) { p.Early = true })
		c := ada.Call("304")
		after(time.Second)
		early := w.Last("301 < 183 INVITE")
		if !strings.Contains(early.Body(), "m=audio") {
			t.Error("no description in 183")
		}
		after(4 * time.Second)
		if final := w.Last("301 < 200 INVITE"); final.Body() != early.Body() {
			t.Errorf("description changed from\n%s to\n%s", early.Body(), final.Body())
		}
		c.Bye()
		settle()
	})
}

func TestCodecIsWhatBothCan(t *testing.T) {
	for _, tc := range []struct {
		name     string
		ada, ben []sdp.Codec
		want     string
	}{
		{"wideband", sdp.DefaultCodecs(), sdp.DefaultCodecs(), "G722"},
		{"A-law alone", sdp.DefaultCodecs(), []sdp.Codec{sdp.PCMA}, "PCMA"},
		{"caller without wideband", []sdp.Codec{sdp.PCMU, sdp.G729}, sdp.DefaultCodecs(), "PCMU"},
		{"relay of what nobody here can decode", []sdp.Codec{sdp.G729, sdp.AMRWB1}, []sdp.Codec{sdp.AMRWB1}, "AMR-WB/1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				ada := w.Phone("301", "TCP", func(p *calltest.Phone) { p.Codecs = tc.ada })
				w.Phone("302", "TCP", func(p *calltest.Phone) { p.Codecs = tc.ben })
				c := ada.Call("302")
				after(5 * time.Second)
				i := w.Manager.Snapshot()
				if len(i) != 1 || i[0].State != "talking" || i[0].Legs[0].Codec != tc.want || i[0].Legs[1].Codec != tc.want {
					t.Errorf("%+v", i)
				}
				if formats := strings.Fields(strings.SplitN(w.Last("301 < 200 INVITE").Body(), "m=audio", 2)[1])[1:4]; formats[2] == "0" && tc.want != "PCMU" {
					t.Errorf("answer %q", formats)
				}
				c.Bye()
				settle()
			})
		})
	}
}

func TestDisplayOfNames(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		dan := w.Phone("304", "TCP")
		w.Phone("302", "TCP")
		c := dan.Call("302")
		after(5 * time.Second)
		header(t, w, "302 < INVITE", "Remote-Party-ID", `"Dan \"D\" <&>" <sip:304@192.0.2.10>;party=calling;privacy=off;screen=yes`)
		if m := w.Last("304 < 200 INVITE"); m.Header("Call-Info") != "" || m.Header("Remote-Party-ID") == "" {
			t.Errorf("a phone of RFC 3261 got\n%s", m.Text)
		}
		c.Bye()
		settle()
	})
}

// TestWithheldNumber: neither name nor number of the caller leaves the server (CAL-4).
func TestWithheldNumber(t *testing.T) {
	for _, h := range []string{"Privacy: id", `Remote-Party-ID: "Ada" <sip:301@192.0.2.10>;party=calling;privacy=full;screen=yes`} {
		scene(t, func(t *testing.T, w *calltest.World) {
			ada := w.Phone("301", "TCP", func(p *calltest.Phone) { p.Extra = []string{h} })
			w.Phone("302", "TCP")
			c := ada.Call("302")
			after(5 * time.Second)
			c.Bye()
			settle()
			header(t, w, "302 < INVITE", "Remote-Party-ID", `"Anonymous" <sip:anonymous@192.0.2.10>;party=calling;privacy=full;screen=yes`)
			for _, m := range w.Wire() {
				if m.To == "302" && (strings.Contains(m.Text, ":301") || strings.Contains(m.Text, "Ada")) {
					t.Errorf("the number is in\n%s", m.Text)
				}
			}
		})
	}
}

func TestTooManyCalls(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP")
		c := ada.Call("302")
		d := ada.Call("302")
		after(3 * time.Second)
		status(t, c, 200)
		status(t, d, 503)
		c.Bye()
		settle()
	}, func(_ *config.Document, o *call.Options) { o.MaxCalls = 1 })
}

func TestStopHangsUp(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, cleo := w.Phone("301", "TCP"), w.Phone("302", "TCP"), w.Phone("303", "TCP", func(p *calltest.Phone) { p.Answer = 0 })
		c := ada.Call("302")
		after(3 * time.Second)
		d := ada.Call("303")
		after(time.Second)
		w.Manager.Stop()
		w.Manager.Stop()
		settle()
		if c.Get().Ended != "BYE" || ben.Alive() != 0 || cleo.Alive() != 0 {
			t.Errorf("%q, %d, %d", c.Get().Ended, ben.Alive(), cleo.Alive())
		}
		status(t, d, 503)
		e := ada.Call("302")
		settle()
		status(t, e, 503)
	})
}

func TestUnusableInvites(t *testing.T) {
	for _, tc := range []struct {
		name  string
		extra []string
		want  int
	}{
		{"interval too short", []string{"Session-Expires: 30"}, 422},
		{"ordinary", nil, 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				dan := w.Phone("304", "TCP", func(p *calltest.Phone) { p.Extra = tc.extra })
				w.Phone("302", "TCP")
				c := dan.Call("302")
				after(3 * time.Second)
				status(t, c, tc.want)
				if tc.want == 200 {
					c.Bye()
					settle()
				}
			})
		})
	}
	t.Run("no Contact, wrong body, bad description", func(t *testing.T) {
		scene(t, func(t *testing.T, w *calltest.World) {
			dan := w.Phone("304", "TCP")
			w.Phone("302", "TCP")
			for want, change := range map[int]func(*sip.Request){
				400: func(r *sip.Request) { r.RemoveHeader("Contact") },
				415: func(r *sip.Request) {
					r.RemoveHeader("Content-Type")
					r.AppendHeader(sip.NewHeader("Content-Type", "text/plain"))
				},
				488: func(r *sip.Request) { r.SetBody([]byte("v=1\r\n")) },
			} {
				got := 0
				dan.Raw("302", change, func(code int) { got = code })
				settle()
				if got != want {
					t.Errorf("got %d, want %d", got, want)
				}
			}
		})
	})
}
