package state

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"
	"github.com/google/go-cmp/cmp"

	"ringfence/sip/cisco"
	"ringfence/sip/transaction"
)

func TestServiceControl(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		ctx := t.Context()
		if err := b.s.ServiceControl(ctx, phone, "restart", nil, false); !errors.Is(err, ErrNotRegistered) {
			t.Errorf("not registered: %v", err)
		}
		if err := b.s.ServiceControl(ctx, "SEP000000000000", "restart", nil, false); !errors.Is(err, ErrUnknownDevice) {
			t.Errorf("unknown: %v", err)
		}
		c := b.client("2001")
		c.register("")
		c.got()
		if err := b.s.ServiceControl(ctx, phone, "restart", nil, false); err != nil {
			t.Error(err)
		}
		zero := "{00000000-0000-0000-0000-000000000000}"
		c.expect("restart", "NOTIFY 2001 service-control action=restart RegisterCallId={reg-"+c.ID()+"} ConfigVersionStamp="+zero+
			" DialplanVersionStamp="+zero+" SoftkeyVersionStamp="+zero+" FeatureControlVersionStamp="+zero)
		b.s.SetLeg("2011", "a", Active)
		if err := b.s.ServiceControl(ctx, phone, "reset", nil, false); !errors.Is(err, ErrInCall) {
			t.Errorf("in a call: %v", err)
		}
		if err := b.s.ServiceControl(ctx, phone, "prt-report", nil, false); err != nil {
			t.Errorf("prt-report in a call: %v", err)
		}
		c.expect("prt-report", "NOTIFY 2001 service-control action=prt-report RegisterCallId={reg-"+c.ID()+"}")
		if err := b.s.ServiceControl(ctx, phone, "reset", nil, true); err != nil {
			t.Errorf("forced: %v", err)
		}
		c.answer(func(*sip.Request) int { return 400 })
		if err := b.s.ServiceControl(ctx, phone, "check-version", nil, true); err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("refused by the phone: %v", err)
		}
		if err := b.s.ServiceControl(ctx, phone, "dance", nil, true); err == nil {
			t.Error("unknown action accepted")
		}
	})
}

func TestSettings(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		ctx := t.Context()
		c := b.client("2001")
		c.register("")
		c.got()
		time.Sleep(time.Minute)
		c.got()
		if err := b.s.SetDND(ctx, phone, true, ByAdmin); err != nil {
			t.Fatal(err)
		}
		c.expect("DND", "REFER 2001 dnd{On:true Reject:true}")
		if err := b.s.SetHuntLogin(ctx, phone, false, ByPlan); err != nil {
			t.Fatal(err)
		}
		c.expect("hunt", "REFER 2001 hunt{On:false}")
		if err := b.s.SetForward(ctx, "2011", "2003", ByPhone); err != nil {
			t.Fatal(err)
		}
		c.expect("forward of the second line, to that line's contact", "REFER 2011 forward{Line:2 Target:2003 ToVoicemail:false}")
		if err := b.s.SetForward(ctx, "2001", "8500", ByPhone); err != nil {
			t.Fatal(err)
		}
		c.expect("to voicemail", "REFER 2001 forward{Line:1 Target:8500 ToVoicemail:true}")
		if err := b.s.SetForward(ctx, "2001", "", ByPhone); err != nil {
			t.Fatal(err)
		}
		c.expect("cleared", "REFER 2001 forward{Line:1 Target: ToVoicemail:false}")
		if d := cmp.Diff(b.store.m, map[string]string{"dnd/" + phone: "yes", "hunt/" + phone: "no", "fwd/2011/all": "2003", "fwd/2001/all": ""}); d != "" {
			t.Error(d)
		}
		if err := b.s.SetForward(ctx, "2001", "2001", ByPhone); !errors.Is(err, ErrForwardLoop) {
			t.Errorf("to itself: %v", err)
		}
		for _, err := range []error{b.s.SetForward(ctx, "7777", "1", ByAdmin), b.s.ResetForward(ctx, "7777", ByAdmin)} {
			if !errors.Is(err, ErrUnknownLine) {
				t.Errorf("unknown line: %v", err)
			}
		}
		for _, err := range []error{b.s.SetDND(ctx, "7777", true, ByAdmin), b.s.SetHuntLogin(ctx, "7777", true, ByAdmin)} {
			if !errors.Is(err, ErrUnknownDevice) {
				t.Errorf("unknown device: %v", err)
			}
		}
		c.expect("after refusals")

		b.store.fail = errors.New("disk full")
		if err := b.s.SetDND(ctx, phone, false, ByAdmin); err == nil || !b.s.DND(phone) {
			t.Errorf("not durable: %v, DND %v", err, b.s.DND(phone))
		}
		c.expect("what is not durable is not shown")
		b.store.fail = nil

		// A new process knows all that.
		again := newBench(t, nil, b.store)
		if !again.s.DND(phone) || again.s.HuntLogin(phone) || again.s.Forward("2011") != "2003" || again.s.Forward("2001") != "" {
			t.Errorf("after a restart: %+v", again.s.Line("2011"))
		}
		// What is declared is only the value before somebody has set one.
		if got := again.s.Forward("2009"); got != "" {
			t.Errorf("forward of 2009 %q", got)
		}
		if err := again.s.ResetForward(ctx, "2011", ByAdmin); err != nil || again.s.Forward("2011") != "8500" {
			t.Errorf("reset: %v, %q", err, again.s.Forward("2011"))
		}
		if again.s.HuntLogin("SEP02AA11BB22C2") || !again.s.HuntLogin("2009") {
			t.Error("hunt login before anybody has set it")
		}
		again.r.Stop()
	})
}

func TestReplicated(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		c.got()
		b.s.Replicated("dnd/"+phone, []byte("yes"), true)
		c.expect("from the other appliance", "REFER 2001 dnd{On:true Reject:true}")
		b.s.Replicated("dnd/"+phone, []byte("yes"), true)
		c.expect("nothing new")
		b.s.Replicated("fwd/2011/all", nil, false)
		c.expect("nothing was set")
		b.s.Replicated("hunt/"+phone, []byte("no"), true)
		c.expect("hunt", "REFER 2001 hunt{On:false}")
		b.s.Replicated("other/x", []byte("no"), true)
	})
}

func pidf(activity string) string {
	return `<presence xmlns="urn:ietf:params:xml:ns:pidf"><person><activities>` + activity + `</activities></person></presence>`
}

func TestPublish(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		w, c := b.client("2001"), b.client("2002")
		w.register("")
		c.register("")
		c.got()
		time.Sleep(time.Minute)
		w.got()
		const me = "<sip:02AA11BB22C2@10.20.0.5>" // a MAC address; what counts is the connection
		publish := func(extra, body string) *sip.Response {
			return c.do("PUBLISH", me, "Event: presence\nExpires: 2147483647\nContent-Type: application/pidf+xml\n"+extra, body)
		}
		res := publish("", pidf("<dnd/>"))
		if res.StatusCode != 200 || transaction.Header(res, "SIP-ETag") != "1" || transaction.Header(res, "Expires") != "3600" || !b.s.DND("SEP02AA11BB22C2") {
			t.Fatalf("answer\n%s", res)
		}
		c.expect("no echo to the phone itself")
		w.expect("watchers", "NOTIFY 2001 2002 dnd open")
		if res := publish("SIP-If-Match: 1\n", ""); res.StatusCode != 200 || transaction.Header(res, "SIP-ETag") != "2" || !b.s.DND("SEP02AA11BB22C2") {
			t.Errorf("refresh\n%s", res)
		}
		for name, tt := range map[string]struct {
			res  *sip.Response
			want int
		}{
			"unknown tag":     {publish("SIP-If-Match: 1\n", pidf("")), 412},
			"no tag, no body": {publish("", ""), 412},
			"no XML":          {publish("", "x"), 400},
			"no person":       {publish("", "<presence/>"), 400},
			"other event":     {c.do("PUBLISH", me, "Event: dialog\n", "x"), 489},
			"no event at all": {c.do("PUBLISH", me, "", "x"), 489},
			"too short":       {c.do("PUBLISH", me, "Event: presence\nExpires: 5\n", pidf("")), 423},
		} {
			if tt.res.StatusCode != tt.want {
				t.Errorf("%s: %d, want %d", name, tt.res.StatusCode, tt.want)
			}
		}
		if !b.s.DND("SEP02AA11BB22C2") {
			t.Error("a refused PUBLISH changed something")
		}
		if res := publish("SIP-If-Match: 2\n", pidf("")); res.StatusCode != 200 || b.s.DND("SEP02AA11BB22C2") {
			t.Errorf("off\n%s", res)
		}
		w.expect("watchers", "NOTIFY 2001 2002 idle open")
		b.store.fail = errors.New("disk full")
		if res := publish("", pidf("<dnd/>")); res.StatusCode != 500 || b.s.DND("SEP02AA11BB22C2") {
			t.Errorf("not durable: %d", res.StatusCode)
		}
	})
}

func TestHuntKey(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		c.got()
		if res := c.do("REFER", "<sip:2001@10.20.0.5>", "Refer-To: cid:1\nRequire: norefersub\n", ""); res.StatusCode != 202 {
			t.Errorf("answer %d", res.StatusCode)
		}
		c.expect("toggled", "REFER 2001 hunt{On:false}")
		if b.s.HuntLogin(phone) || b.store.m["hunt/"+phone] != "no" {
			t.Error("not logged out")
		}
		// Without norefersub the phone waits for the result in the dialog of its REFER.
		res := c.do("REFER", "<sip:2001@10.20.0.5>", "Refer-To: cid:1\n", "")
		synctest.Wait()
		sent := c.Sent()
		if len(sent) != 2 {
			t.Fatalf("%d messages, want REFER and NOTIFY", len(sent))
		}
		n := sent[1].(*sip.Request)
		if n.CallID().Value() != res.CallID().Value() || n.From().Params.GetOr("tag", "") != res.To().Params.GetOr("tag", "!") || n.To().Params.GetOr("tag", "") != "ft" ||
			transaction.Header(n, "Subscription-State") != "terminated;reason=noresource" || !strings.Contains(string(n.Body()), "<code>200</code>") {
			t.Errorf("result:\n%s", n)
		}
	})
}

func TestOffHook(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		w, c := b.client("2001"), b.client("2002")
		w.register("")
		c.register("")
		c.got()
		time.Sleep(time.Minute)
		w.got()
		hook := func(from, entity, state string) int {
			body := string((&cisco.DialogInfo{Entity: entity, Dialogs: []cisco.Dialog{{ID: "x", State: state}}}).Marshal())
			c.line = from
			res := c.do("NOTIFY", "<sip:"+from+"@10.20.0.5>", "Event: dialog\nSubscription-State: active\n", body)
			c.line = "2002"
			return res.StatusCode
		}
		if got := hook("2002", "sip:2002@10.20.0.5", "trying"); got != 200 {
			t.Errorf("answer %d", got)
		}
		w.expect("off-hook", "NOTIFY 2001 2002 on-the-phone open")
		// The INVITE comes, then the phone says that the dial tone has ended.
		b.s.SetLeg("2002", "a", Active)
		hook("2002", "sip:2002@10.20.0.5", "terminated")
		w.expect("no flicker")
		b.s.SetLeg("2002", "a", Idle)
		w.expect("on-hook", "NOTIFY 2001 2002 idle open")
		hook("2002", "sip:2002@10.20.0.5", "terminated")
		hook("2002", "sip:2002@10.20.0.5", "terminated")
		hook("2002", "sip:2002@10.20.0.5", "trying")
		w.expect("never below zero", "NOTIFY 2001 2002 on-the-phone open")
		hook("2002", "sip:2002@10.20.0.5", "terminated")
		w.got()
		for name, tt := range map[string]struct {
			code, want int
		}{
			"unknown line":       {hook("2002", "sip:7777@10.20.0.5", "trying"), 489},
			"another's line":     {hook("2002", "sip:2001@10.20.0.5", "trying"), 403},
			"other state":        {hook("2002", "sip:2002@10.20.0.5", "confirmed"), 200},
			"no XML":             {c.do("NOTIFY", "<sip:2002@10.20.0.5>", "Event: dialog\n", "x").StatusCode, 400},
			"other event":        {c.do("NOTIFY", "<sip:2002@10.20.0.5>", "Event: kpml\n", "x").StatusCode, 489},
			"result of a REFER":  {c.do("NOTIFY", "<sip:2002@10.20.0.5>", "Event: refer;id=1\n", "x").StatusCode, 200},
			"two hook positions": {hook("2002", "sip:2002@10.20.0.5", "trying") + 0, 200},
		} {
			if tt.code != tt.want {
				t.Errorf("%s: %d, want %d", name, tt.code, tt.want)
			}
		}
		w.expect("off-hook again", "NOTIFY 2001 2002 on-the-phone open")
		d := b.client("2002") // the phone reconnects: the counter starts anew
		d.register("")
		w.expect("new registration", "NOTIFY 2001 2002 idle open")
	})
}

func TestRollout(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		a, c := b.client("2001"), b.client("2002")
		a.register("")
		c.register("")
		a.got()
		c.got()
		b.s.SetLeg("2001", "x", Active)
		time.AfterFunc(20*time.Second, func() { b.s.SetLeg("2001", "x", Idle) })
		type result struct {
			device string
			err    error
			at     time.Duration
		}
		var got []result
		started := time.Now()
		devices := []string{phone, "SEP02AA11BB22C2", "SEP000000000000"}
		n, err := b.s.ServiceControlAll(t.Context(), devices, Rollout{
			Action: "restart", Wait: time.Minute, Report: func(d string, err error) { got = append(got, result{d, err, time.Since(started).Round(time.Second)}) },
		})
		want := []result{{"SEP02AA11BB22C2", nil, 0}, {"SEP000000000000", ErrUnknownDevice, 0}, {phone, nil, 20 * time.Second}}
		if n != 2 || err != nil || len(got) != 3 {
			t.Fatalf("%d obeyed, %v: %v", n, err, got)
		}
		for i := range want {
			if got[i].device != want[i].device || !errors.Is(got[i].err, want[i].err) || got[i].at < want[i].at || got[i].at > want[i].at+time.Second {
				t.Errorf("%d: %v, want %v", i, got[i], want[i])
			}
		}
		a.register("")
		b.s.SetLeg("2001", "x", Active)
		got = nil
		if n, _ := b.s.ServiceControlAll(t.Context(), devices[:1], Rollout{Action: "reset", Wait: 5 * time.Second, Report: func(d string, err error) { got = append(got, result{d, err, 0}) }}); n != 0 || len(got) != 1 || !errors.Is(got[0].err, ErrInCall) {
			t.Errorf("a phone that talks on: %v", got)
		}
		if n, _ := b.s.ServiceControlAll(t.Context(), devices[:1], Rollout{Action: "reset", Force: true}); n != 1 {
			t.Errorf("forced: %d", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := b.s.ServiceControlAll(ctx, devices[:1], Rollout{Action: "reset", Wait: time.Hour}); !errors.Is(err, context.Canceled) {
			t.Errorf("interrupted: %v", err)
		}
	})
}
