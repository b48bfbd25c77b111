package call_test

import (
	"strings"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"
	"github.com/google/go-cmp/cmp"

	"ringfence/config"
	"ringfence/media"
	"ringfence/sip/call"
	"ringfence/sip/internal/calltest"
	"ringfence/sip/sdp"
	"ringfence/sip/transaction"
)

func connected(t *testing.T, w *calltest.World) (ada, ben *calltest.Phone, c *calltest.Talk) {
	t.Helper()
	ada, ben = w.Phone("301", "TCP"), w.Phone("302", "TCP")
	c = ada.Call("302")
	after(3 * time.Second)
	status(t, c, 200)
	return ada, ben, c
}

// TestHold is the picture of "sip-calls" §3.
func TestHold(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, ben, c := connected(t, w)
		c.Hold("")
		after(time.Second)
		if body := w.Last("301 < 200 INVITE").Body(); !strings.Contains(body, "a=recvonly") {
			t.Errorf("hold answered with %s", body)
		}
		if i := w.Manager.Snapshot(); !i[0].Legs[0].Held || i[0].Legs[1].Held {
			t.Errorf("%+v", i)
		}
		ben.Last().Hold("transfer")
		after(time.Second)
		c.Resume()
		after(time.Second)
		if body := w.Last("301 < 200 INVITE").Body(); !strings.Contains(body, "a=sendrecv") {
			t.Errorf("resume answered with %s", body)
		}
		ben.Last().Reinvite(media.Inactive, "")
		after(time.Second)
		if body := w.Last("302 < 200 INVITE").Body(); !strings.Contains(body, "a=inactive") {
			t.Errorf("inactive answered with %s", body)
		}
		ben.Last().Resume()
		after(time.Second)
		c.Bye()
		settle()
		// A hold for a transfer is no hold of the user.
		want := []string{"301 active", "302 ringing", "302 active", "301 held", "301 active", "302 held", "302 active", "302 idle", "301 idle"}
		if d := cmp.Diff(want, w.Phases()); d != "" {
			t.Error(d)
		}
	})
}

func TestHeldCallEndsAsIdle(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, ben, c := connected(t, w)
		c.Hold("")
		after(time.Second)
		ben.Last().Bye()
		settle()
		if p := w.Phases(); p[len(p)-1] != "301 idle" && p[len(p)-2] != "301 idle" {
			t.Errorf("%v", p)
		}
	})
}

func TestUnusableReofferLeavesTheCall(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, _, c := connected(t, w)
		ada.Codecs = []sdp.Codec{}
		c.Reinvite(media.Both, "")
		after(time.Second)
		status(t, c, 488)
		ada.Codecs = sdp.DefaultCodecs()
		c.Hold("")
		after(time.Second)
		status(t, c, 200)
		c.Bye()
		settle()
	})
}

// TestCodecChangesWithAnOffer: a phone that drops the codec in use gets another one, and its partner is asked for it.
func TestCodecChangesWithAnOffer(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, _, c := connected(t, w)
		ada.Codecs = []sdp.Codec{sdp.PCMA}
		c.Reinvite(media.Both, "")
		after(time.Second)
		status(t, c, 200)
		i := w.Manager.Snapshot()
		if i[0].Legs[0].Codec != "PCMA" || i[0].Legs[1].Codec != "PCMA" {
			t.Errorf("%+v", i)
		}
		c.Bye()
		settle()
	})
}

// TestGlare: both ends offer at the same time (RFC 3261 §14). The server's offer is refused with 491 and made again.
func TestGlare(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, c := connected(t, w)
		refused := 0
		ben.Intercept = func(req *sip.Request) int {
			if req.Method == sip.INVITE && refused == 0 {
				refused++
				return 491
			}
			return 0
		}
		ada.Codecs = []sdp.Codec{sdp.PCMA} // makes the server ask ben
		c.Reinvite(media.Both, "")
		after(5 * time.Second)
		i := w.Manager.Snapshot()
		if refused != 1 || i[0].Legs[1].Codec != "PCMA" {
			t.Errorf("refused %d times, %+v", refused, i)
		}
		c.Bye()
		settle()
	})
}

func TestOfferWhileOursIsUnderWay(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, c := connected(t, w)
		w.Drop = func(m calltest.Message) bool { return m.Short() == "302 > 200 INVITE" } // keeps ours open
		ada.Codecs = []sdp.Codec{sdp.PCMA}
		c.Reinvite(media.Both, "")
		after(time.Second)
		b := ben.Last()
		b.Hold("")
		after(time.Second)
		status(t, b, 491)
		w.Drop = nil
		c.Bye()
		settle()
	})
}

func TestUpdateOfThePhone(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, _, c := connected(t, w)
		var codes []int
		note := func(res *sip.Response) { codes = append(codes, res.StatusCode) }
		c.Send(sip.UPDATE, nil, note)
		after(time.Second)
		c.Send(sip.UPDATE, func(r *sip.Request) {
			transaction.SetBody(r, "application/sdp", []byte("v=0\r\nc=IN IP4 192.0.2.51\r\nm=audio 17904 RTP/AVP 9\r\na=sendonly\r\n"))
		}, note)
		after(time.Second)
		if i := w.Manager.Snapshot(); !i[0].Legs[0].Held {
			t.Errorf("%+v", i)
		}
		c.Send(sip.UPDATE, func(r *sip.Request) { transaction.SetBody(r, "application/sdp", []byte("x")) }, note)
		after(time.Second)
		if d := cmp.Diff([]int{200, 200, 488}, codes); d != "" {
			t.Error(d)
		}
		c.Bye()
		settle()
	})
}

func TestOtherRequestsInTheDialog(t *testing.T) {
	for _, tc := range []struct {
		method sip.RequestMethod
		body   string
		want   int
	}{
		{sip.OPTIONS, "", 200}, {sip.INFO, "", 200}, {sip.INFO, "application/media_control+xml", 200}, {sip.INFO, "application/dtmf-relay", 415},
		{sip.NOTIFY, "", 200}, {sip.PRACK, "", 481}, {sip.SUBSCRIBE, "", 489}, {sip.MESSAGE, "", 405}, {sip.REFER, "", 400}, {"FOO", "", 405},
	} {
		t.Run(string(tc.method)+tc.body, func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				_, _, c := connected(t, w)
				got := 0
				c.Send(tc.method, func(r *sip.Request) {
					if tc.body != "" {
						transaction.SetBody(r, tc.body, []byte("x"))
					}
				}, func(res *sip.Response) { got = res.StatusCode })
				after(time.Second)
				if got != tc.want {
					t.Errorf("got %d, want %d", got, tc.want)
				}
				c.Bye()
				settle()
			})
		})
	}
}

// TestForeignRequests: tags must be right, and the connection must be the phone's (design §1 rule 6).
func TestForeignRequests(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, ben, c := connected(t, w)
		cleo := w.Phone("303", "TCP")
		got := 0
		note := func(res *sip.Response) { got = res.StatusCode }
		x := c.Get()
		cleo.Steal(&x, sip.BYE, nil, note)
		after(time.Second)
		if got != 403 {
			t.Errorf("from another phone: %d, want 403", got)
		}
		for _, tags := range [][2]string{{x.D.Remote.Tag, x.D.Local.Tag}, {"invented", x.D.Remote.Tag}, {x.D.Local.Tag, "invented"}} {
			y := *x.D
			y.Local.Tag, y.Remote.Tag = tags[0], tags[1]
			z := x
			z.D = &y
			x.P.Steal(&z, sip.BYE, nil, note)
			after(time.Second)
			if got != 481 {
				t.Errorf("tags %v: %d, want 481", tags, got)
			}
		}
		if ben.Alive() != 1 {
			t.Error("the call was ended")
		}
		c.Bye()
		settle()
	})
}

// TestVanishedPhone: a phone that is gone without a word is found, and its partner released.
func TestVanishedPhone(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, c := connected(t, w)
		ada.Unplug()
		after(64 * time.Second)
		if ben.Alive() != 0 {
			t.Error("the other one is left alone")
		}
		_ = c
	})
}

// TestReconnect: the phone comes back on another connection and goes on with its call.
func TestReconnect(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben, c := connected(t, w)
		ada.Reconnect()
		c.Hold("")
		after(time.Second)
		status(t, c, 200)
		ada.Reconnect()
		after(64 * time.Second)
		if ben.Alive() != 1 {
			t.Fatal("the call is gone")
		}
		ben.Last().Bye()
		settle()
		if c.Get().Ended != "BYE" {
			t.Errorf("call %q", c.Get().Ended)
		}
	})
}

// TestProbe: a phone that forgot its call answers 481.
func TestProbe(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, ben, c := connected(t, w)
		after(60 * time.Second)
		if ben.Alive() != 1 || len(w.Find("302 < UPDATE")) < 2 {
			t.Fatalf("a silent call ended, or was not asked for:\n%s", strings.Join(w.Ladder(), "\n"))
		}
		c.Forget()
		after(30 * time.Second)
		if ben.Alive() != 0 {
			t.Error("the other one is left alone")
		}
	})
}

func TestLostAck(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben := w.Phone("301", "TCP"), w.Phone("302", "TCP")
		w.Drop = func(m calltest.Message) bool { return m.Short() == "301 > ACK" }
		c := ada.Call("302")
		after(40 * time.Second)
		if c.Get().Ended != "BYE" || ben.Alive() != 0 {
			t.Errorf("caller %q, callee has %d", c.Get().Ended, ben.Alive())
		}
	})
}

// TestAckThatMissesItsDialog: it belongs to the transaction by its numbers, but its tag is wrong. The call is up all the same.
func TestAckThatMissesItsDialog(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben := w.Phone("301", "TCP"), w.Phone("302", "TCP")
		w.Rewrite = func(m calltest.Message) string {
			if m.Short() == "301 > ACK" {
				return strings.Replace(m.Text, "To: <sip:302@192.0.2.10>;tag=", "To: <sip:302@192.0.2.10>;x=", 1)
			}
			return m.Text
		}
		c := ada.Call("302")
		after(40 * time.Second)
		if i := w.Manager.Snapshot(); len(i) != 1 || i[0].Legs[0].State != "up" || ben.Alive() != 1 {
			t.Errorf("%+v", i)
		}
		c.Bye()
		settle()
	})
}

// TestHangupBeforeAck: the callee hangs up while the caller's ACK is late. No BYE goes out before the ACK (RFC 3261 §15).
func TestHangupBeforeAck(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben := w.Phone("301", "UDP"), w.Phone("302", "TCP")
		lost := 0
		w.Drop = func(m calltest.Message) bool {
			if m.Short() == "301 > ACK" && lost == 0 {
				lost++
				return true
			}
			return false
		}
		c := ada.Call("302")
		after(2 * time.Second)
		ben.Last().Bye()
		settle()
		if len(w.Find("301 < BYE")) != 0 {
			t.Error("BYE before ACK")
		}
		after(2 * time.Second)
		if c.Get().Ended != "BYE" {
			t.Errorf("caller %q", c.Get().Ended)
		}
	})
}

func TestSessionTimers(t *testing.T) {
	t.Run("the phone refreshes", func(t *testing.T) {
		scene(t, func(t *testing.T, w *calltest.World) {
			dan := w.Phone("304", "TCP", func(p *calltest.Phone) { p.Extra = []string{"Session-Expires: 100;refresher=uac", "Supported: timer"} })
			ben := w.Phone("302", "TCP")
			c := dan.Call("302")
			after(3 * time.Second)
			header(t, w, "304 < 200 INVITE", "Session-Expires", "100;refresher=uac")
			header(t, w, "304 < 200 INVITE", "Require", "timer")
			after(50 * time.Second)
			c.Send(sip.UPDATE, func(r *sip.Request) { r.AppendHeader(sip.NewHeader("Session-Expires", "100;refresher=uac")) }, nil)
			after(50 * time.Second)
			if ben.Alive() != 1 {
				t.Error("ended in spite of the refresh")
			}
			after(50 * time.Second)
			if c.Get().Ended != "BYE" || ben.Alive() != 0 {
				t.Errorf("no refresh came, caller %q", c.Get().Ended)
			}
		}, quiet)
	})
	t.Run("we refresh", func(t *testing.T) {
		scene(t, func(t *testing.T, w *calltest.World) {
			dan := w.Phone("304", "TCP", func(p *calltest.Phone) { p.Extra = []string{"Session-Expires: 100;refresher=uas", "Supported: timer"} })
			w.Phone("302", "TCP")
			c := dan.Call("302")
			after(3 * time.Second)
			header(t, w, "304 < 200 INVITE", "Session-Expires", "100;refresher=uas")
			after(150 * time.Second)
			// Dan's phone has no UPDATE: the refresh is an INVITE with the same description.
			re := w.Find("304 < INVITE")
			if len(re) != 3 || !strings.Contains(re[0].Body(), " 1 IN IP4") || re[0].Body() != w.Last("304 < 200 INVITE").Body() {
				t.Errorf("%d refreshes\n%v", len(re), re)
			}
			header(t, w, "304 < INVITE", "Session-Expires", "100;refresher=uac")
			c.Bye()
			settle()
		}, quiet)
	})
}

// quiet switches the probes off, so that only the timers of a test speak.
func quiet(_ *config.Document, o *call.Options) { o.ProbeAfter = time.Hour }

// TestFlood: a phone that sends more than its call takes loses that call, and nobody else notices.
func TestFlood(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, ben, c := connected(t, w)
		cleo, dan := w.Phone("303", "TCP"), w.Phone("304", "TCP")
		d := cleo.Call("304")
		after(3 * time.Second)
		for range 2000 {
			c.Send(sip.OPTIONS, nil, nil)
		}
		after(time.Second)
		// However fast the call was, it either took them all or ended as a whole.
		if ben.Alive() != len(c.P.Talks())-1 && ben.Alive() != 1 {
			t.Errorf("%d calls", ben.Alive())
		}
		if dan.Alive() != 1 {
			t.Error("another call ended")
		}
		d.Bye()
		if ben.Alive() == 1 {
			c.Bye()
		}
		settle()
	})
}

// TestPanicEndsOneCall: a fault in a feature costs the call it happens in.
func TestPanicEndsOneCall(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, ben, c := connected(t, w)
		cleo, dan := w.Phone("303", "TCP"), w.Phone("304", "TCP")
		d := cleo.Call("304")
		after(3 * time.Second)
		c.Refer("303")
		after(2 * time.Second)
		if c.Get().Ended != "BYE" || ben.Alive() != 0 {
			t.Errorf("caller %q, callee has %d", c.Get().Ended, ben.Alive())
		}
		if dan.Alive() != 1 {
			t.Error("another call ended")
		}
		d.Bye()
		settle()
	}, func(_ *config.Document, o *call.Options) {
		o.Refer = func(*call.Call, *call.Leg, *call.Referral) { panic("a fault in a feature") }
	})
}

func TestSnapshot(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		w.Phone("302", "TCP")
		c := ada.Call("302")
		after(time.Second)
		i := w.Manager.Snapshot()
		if len(i) != 1 || i[0].State != "ringing" || i[0].Dialled != "302" || len(i[0].Legs) != 2 || i[0].Legs[0].Line != "301" ||
			!i[0].Legs[0].Incoming || i[0].Legs[1].State != "ringing" || i[0].Legs[1].Shows != "Ada" {
			t.Errorf("%+v", i)
		}
		after(2 * time.Second)
		if i = w.Manager.Snapshot(); i[0].State != "talking" || i[0].Legs[0].State != "up" || i[0].Answered.IsZero() || i[0].Legs[0].Shows != "Ben" {
			t.Errorf("%+v", i)
		}
		c.Bye()
		settle()
		if i = w.Manager.Snapshot(); len(i) != 0 {
			t.Errorf("%+v", i)
		}
	})
}
