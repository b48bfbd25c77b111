package e2e

import (
	"strings"
	"testing"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// keysAndOrders is about a phone that says a key twice, one that refuses an order, and whom the appliance asks whether he is there.
func keysAndOrders(t *testing.T, d *daemon, ada *phone.Phone) {
	c := d.rawPhone("303", cleoPassword, 8)
	hlog := func(m *rawMessage) bool { return strings.Contains(m.body, "<hlogupdate>") }
	c.until("initial state", hlog)
	login := func() string { return strings.TrimSpace(d.verb("line", "get", "303", "huntgroup")) }
	t.Run("a key that is said twice", func(t *testing.T) {
		feature.Proves(t, "HLG-8")
		if got := login(); got != "no" {
			t.Fatalf("at first the login is %s, want no", got)
		}
		press := func(callID string) {
			t.Helper()
			res := c.do("REFER", "303", "Call-ID: "+callID+"\nRequire: norefersub\nRefer-To: cid:1\nContent-Id: <1>\nContent-Type: application/x-cisco-remotecc-request+xml\n", hlogDocument)
			if res.status() != 202 {
				t.Fatalf("HLog: %s, want 202", res.start)
			}
		}
		// The same Call-ID and CSeq, under branches of their own: as after an answer that was lost on the way.
		press("once@192.0.2.1")
		for range 3 {
			c.seq--
			press("once@192.0.2.1")
		}
		if m := c.until("hlogupdate", hlog); !strings.Contains(m.body, "<status>on</status>") {
			t.Errorf("the phone is told\n%s", m.body)
		}
		if res := c.do("OPTIONS", "303", "", ""); res.status() != 200 { // whatever was sent before comes before its answer
			t.Errorf("OPTIONS: %s", res.start)
		}
		for _, m := range c.queue {
			if hlog(m) {
				t.Errorf("the phone is told once more:\n%s", m.body)
			}
		}
		if got := login(); got != "yes" {
			t.Errorf("after one key, said four times, the login is %s, want yes", got)
		}
		press("again@192.0.2.1")
		if m := c.until("hlogupdate", hlog); !strings.Contains(m.body, "<status>off</status>") {
			t.Errorf("the phone is told\n%s", m.body)
		}
	})
	t.Run("a phone that refuses an order", func(t *testing.T) {
		feature.Proves(t, "RST-3")
		control := func(m *rawMessage) bool { return m.header.Get("Event") == "service-control" }
		order := func(answer string, warning ...string) (m *rawMessage, out string, code int) {
			t.Helper()
			type result struct {
				out  string
				code int
			}
			done := make(chan result, 1)
			go func() { out, code := d.try("phone", "restart", "SEP001122AA0003"); done <- result{out, code} }()
			c.mute = true
			defer func() { c.mute = false }()
			m = c.until("order", control)
			c.answer(m, answer, warning...)
			r := <-done
			return m, r.out, r.code
		}
		first, _, code := order("200 OK")
		if code != 0 {
			t.Errorf("an order that is obeyed ends with status %d", code)
		}
		id := registerCallID(first)
		// The phone has begun another registration and refuses what names the one before.
		m, out, code := order("400 Bad Request", `Warning: 399 192.0.2.9 "RegisterCallId does not match"`)
		if registerCallID(m) != id {
			t.Errorf("RegisterCallId is %q, then %q, without a registration between", id, registerCallID(m))
		}
		if code != 1 || !strings.Contains(out, "400") || !strings.Contains(out, "RegisterCallId does not match") {
			t.Errorf("the refused order ends with status %d: %s", code, out)
		}
		if out := d.verb("phone", "show", "SEP001122AA0003"); !strings.Contains(out, "refused to restart") || strings.Contains(out, "stuck") {
			t.Errorf("phone show does not tell of the refusal, or takes the phone for stuck:\n%s", out)
		}
		if got := strings.TrimSpace(d.verb("line", "get", "303", "status")); got != "OK" {
			t.Errorf("after the refusal 303 is %s", got)
		}
		c.register() // with another Call-ID
		if m, out, code := order("200 OK"); code != 0 || registerCallID(m) == id || registerCallID(m) != strings.TrimSpace(d.verb("line", "get", "303", "regcallid")) {
			t.Errorf("the order after a new registration names %q (before %q) and ends with status %d %s", registerCallID(m), id, code, out)
		}
	})
	t.Run("who is asked", func(t *testing.T) {
		feature.Proves(t, "MLN-8")
		mark := ada.Mark()
		var answers []struct {
			Line, Peer string
			Code       int
			Ms         float64
		}
		d.json(&answers, "line", "ping", "311") // line 2
		if len(answers) != 1 || answers[0].Line != "301" || answers[0].Code != 200 || !strings.HasPrefix(answers[0].Peer, d.site.phoneAddress(1).String()+":") {
			t.Errorf("line ping of line 2 says %+v", answers)
		}
		d.verb("line", "ping", "301")
		asked := 0
		for _, m := range ada.Received(mark) {
			if m.Method() == "OPTIONS" {
				asked++
				if !strings.HasPrefix(m.URI(), "sip:301@") {
					t.Errorf("OPTIONS goes to %s", m.URI())
				}
			}
		}
		if asked != 2 {
			t.Errorf("the phone was asked %d times, want 2", asked)
		}
		if out, code := d.try("line", "ping", "309"); code != 1 || !strings.Contains(out, "not registered") {
			t.Errorf("ping of a line that is not there: status %d %s", code, out)
		}
	})
	c.goodbye()
}

func registerCallID(m *rawMessage) string {
	_, rest, _ := strings.Cut(m.body, "RegisterCallId={")
	id, _, _ := strings.Cut(rest, "}")
	return id
}
