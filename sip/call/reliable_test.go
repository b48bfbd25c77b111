package call_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/internal/calltest"
	"ringfence/sip/transaction"
)

// insists is a phone of another vendor that wants every provisional response acknowledged.
func insists(p *calltest.Phone) {
	p.Reliable, p.Extra = true, []string{"Require: 100rel", "Supported: 100rel,timer"}
}

// TestReliableProvisionals: the caller insists (RFC 3262 §3). It gets its ringing with a number, acknowledges it, and is answered.
func TestReliableProvisionals(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		dan := w.Phone("304", "UDP", insists)
		w.Phone("302", "TCP", func(p *calltest.Phone) { p.Early = true })
		c := dan.Call("302")
		after(5 * time.Second)
		status(t, c, 200)
		ring := w.Last("304 < 183 INVITE")
		if ring.Header("Require") != "100rel" || ring.Header("RSeq") == "" || !strings.Contains(ring.Body(), "m=audio") {
			t.Errorf("183 is\n%s", ring.Text)
		}
		if got := w.Last("304 > PRACK").Header("RAck"); got != ring.Header("RSeq")+" 101 INVITE" {
			t.Errorf("RAck %q", got)
		}
		if len(w.Find("304 < 200 PRACK")) != 1 || len(w.Find("304 < 183 INVITE")) != 1 {
			t.Error(strings.Join(w.Ladder(), "\n"))
		}
		c.Bye()
		settle()
	})
}

// TestReliableProvisionalIsRepeated until its PRACK comes; the 200 waits for that, since a description is out (§3).
func TestReliableProvisionalIsRepeated(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		dan := w.Phone("304", "UDP", insists)
		ben := w.Phone("302", "TCP", func(p *calltest.Phone) { p.Early = true })
		begin := time.Now()
		w.Drop = func(m calltest.Message) bool { return m.Short() == "304 > PRACK" && time.Since(begin) < 5*time.Second }
		c := dan.Call("302")
		after(3 * time.Second)
		if len(w.Find("304 < 200 INVITE")) != 0 || ben.Last().Get().Status != 200 {
			t.Errorf("answered before the PRACK:\n%s", strings.Join(w.Ladder(), "\n"))
		}
		after(10 * time.Second)
		status(t, c, 200)
		first := w.Find("304 < 183 INVITE")
		if len(first) < 3 || first[0].Header("RSeq") != first[len(first)-1].Header("RSeq") {
			t.Errorf("%d responses", len(first))
		}
		c.Bye()
		settle()
	})
}

// TestNoPrackEndsTheCall, also one that was answered meanwhile, and one whose caller gives up.
func TestNoPrackEndsTheCall(t *testing.T) {
	for _, cancel := range []bool{false, true} {
		t.Run(strconv.FormatBool(cancel), func(t *testing.T) {
			scene(t, func(t *testing.T, w *calltest.World) {
				dan := w.Phone("304", "TCP", insists, func(p *calltest.Phone) { p.Reliable = false })
				ben := w.Phone("302", "TCP", func(p *calltest.Phone) { p.Early = true })
				c := dan.Call("302")
				after(5 * time.Second)
				want := 504
				if cancel {
					want = 487
					c.Cancel()
				}
				after(40 * time.Second)
				status(t, c, want)
				if ben.Alive() != 0 {
					t.Error("the callee is left alone")
				}
			})
		})
	}
}

// TestReliableProvisionalsOfTheCallee are acknowledged, a repeated one once, and only after the one before it.
func TestReliableProvisionalsOfTheCallee(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		dan := w.Phone("304", "UDP", func(p *calltest.Phone) { p.Reliable, p.Early = true, true })
		c := ada.Call("304")
		after(5 * time.Second)
		status(t, c, 200)
		if got := w.Last("304 < PRACK").Header("RAck"); got != "4711 101 INVITE" || len(w.Find("304 < PRACK")) != 1 {
			t.Errorf("RAck %q\n%s", got, strings.Join(w.Ladder(), "\n"))
		}
		_ = dan
		c.Bye()
		settle()
	})
}

// TestStrayPrack acknowledges nothing.
func TestStrayPrack(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		_, _, c := connected(t, w)
		got := 0
		c.Send(sip.PRACK, func(r *sip.Request) { r.AppendHeader(sip.NewHeader("RAck", "1 101 INVITE")) }, func(res *sip.Response) { got = res.StatusCode })
		after(time.Second)
		if got != 481 {
			t.Errorf("got %d, want 481", got)
		}
		c.Bye()
		settle()
	})
}

// TestLongerSession: a callee that finds our interval too small is asked again with its own (RFC 4028 §7.3).
func TestLongerSession(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada := w.Phone("301", "TCP")
		refused := 0
		w.Phone("302", "TCP", func(p *calltest.Phone) {
			p.Supported = []string{"timer"}
			p.Rewrite = func(req *sip.Request, res *sip.Response) {
				if req.Method == sip.INVITE && transaction.Header(req, "Session-Expires") == "1800" {
					refused++
					res.StatusCode, res.Reason = 422, "Session Interval Too Small"
					res.AppendHeader(sip.NewHeader("Min-SE", "3600"))
				}
			}
		})
		c := ada.Call("302")
		after(5 * time.Second)
		status(t, c, 200)
		header(t, w, "302 < INVITE", "Session-Expires", "3600")
		if refused != 1 {
			t.Errorf("refused %d times", refused)
		}
		c.Bye()
		settle()
	})
}
