package state

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"
	"github.com/google/go-cmp/cmp"

	"ringfence/sip/cisco"
	"ringfence/sip/transaction"
)

func TestSubscribe(t *testing.T) {
	mayWatch := func(watcher, number string) bool { return number != "2011" }
	run(t, func(o *Options) { o.MayWatch = mayWatch }, func(t *testing.T, b *bench) {
		c := b.client("2009")
		c.register("")
		subscribe := func(to, extra string) *sip.Response { return c.do("SUBSCRIBE", "<sip:"+to+"@10.20.0.5>", extra, "") }
		for name, tt := range map[string]struct {
			to, extra string
			want      int
		}{
			"number without state":    {"5550100", "Event: presence\n", 404},
			"may not watch":           {"2011", "Event: presence\n", 403},
			"too short":               {"2002", "Event: presence\nExpires: 10\n", 423},
			"unknown event":           {"2002", "Event: kpml\n", 489},
			"no event":                {"2002", "", 489},
			"another's mailbox":       {"2002", "Event: message-summary\n", 403},
			"another's settings":      {"2002", "Event: as-feature-event\n", 403},
			"dialog that is not ours": {"2002>;tag=x", "Event: presence\n", 481},
		} {
			to := tt.to
			if strings.Contains(to, ">") {
				if res := c.do("SUBSCRIBE", "<sip:2002@10.20.0.5>;tag=x", tt.extra, ""); res.StatusCode != tt.want {
					t.Errorf("%s: %d, want %d", name, res.StatusCode, tt.want)
				}
				continue
			}
			if res := subscribe(to, tt.extra); res.StatusCode != tt.want {
				t.Errorf("%s: %d, want %d", name, res.StatusCode, tt.want)
			}
		}
		c.expect("refusals notify nobody")

		res := subscribe("2002", "Event: presence\nAccept: application/cpim-pidf+xml\nExpires: 3600\n")
		if res.StatusCode != 200 || transaction.Header(res, "Expires") != "3600" {
			t.Fatalf("answer\n%s", res)
		}
		synctest.Wait()
		sent := c.Sent()
		if len(sent) != 1 {
			t.Fatalf("%d messages after the 200, want one NOTIFY", len(sent))
		}
		n := sent[0].(*sip.Request)
		if n.From().Params.GetOr("tag", "") != res.To().Params.GetOr("tag", "!") || n.To().Params.GetOr("tag", "") != "ft" || n.CallID().Value() != res.CallID().Value() {
			t.Errorf("the NOTIFY is not in the dialog:\n%s", n)
		}
		if got := transaction.Header(n, "Subscription-State"); got != "active;expires=3600" {
			t.Errorf("Subscription-State %s", got)
		}
		tag := res.To().Params.GetOr("tag", "")
		b.s.SetLeg("2002", "a", Ringing)
		c.expect("change", "NOTIFY 2009 2002 alerting open")
		time.Sleep(30 * time.Minute)
		refresh := "Call-ID: " + res.CallID().Value() + "\nEvent: presence\nExpires: 600\n"
		if res := c.do("SUBSCRIBE", "<sip:2002@10.20.0.5>;tag="+tag, refresh, ""); res.StatusCode != 200 || transaction.Header(res, "Expires") != "600" {
			t.Errorf("refresh\n%s", res)
		}
		c.expect("refresh", "NOTIFY 2009 2002 alerting open")
		time.Sleep(11 * time.Minute)
		c.expect("not renewed", "NOTIFY 2009 2002 alerting open terminated")
		if n := len(b.s.Watchers()); n != 0 || len(b.s.byKey) != 0 || len(b.s.byFlow) != 0 || len(b.s.topics) != 0 {
			t.Errorf("%d watchers left, %d keys, %d flows, %d topics", n, len(b.s.byKey), len(b.s.byFlow), len(b.s.topics))
		}

		subscribe("2002", "Event: presence\nExpires: 0\n")
		c.expect("poll", "NOTIFY 2009 2002 alerting open terminated")
		res = subscribe("2002", "Event: dialog\nExpires: 600\n")
		c.expect("lamps of other vendors", "NOTIFY 2009 dialog early")
		end := "Call-ID: " + res.CallID().Value() + "\nEvent: dialog\nExpires: 0\n"
		c.do("SUBSCRIBE", "<sip:2002@10.20.0.5>;tag="+res.To().Params.GetOr("tag", ""), end, "")
		c.expect("ended", "NOTIFY 2009 dialog early terminated")

		subscribe("2009", "Event: message-summary\nExpires: 600\n")
		c.expect("messages", "NOTIFY 2009 message-summary Messages-Waiting: no Voice-Message: 0/0 (0/0)")
		b.s.SetMessages("2009", 2, 1)
		c.expect("new messages", "NOTIFY 2009 message-summary Messages-Waiting: yes Voice-Message: 2/1 (0/0)")
		b.s.SetMessages("2009", 2, 1)
		c.expect("nothing new")
		c.Close(nil)
		b.s.FlowClosed(c)
		if n := len(b.s.Watchers()); n != 0 {
			t.Errorf("%d watchers after the connection's end", n)
		}
	})
}

func TestSubscriptionsAreBounded(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2009")
		c.register("")
		codes := make(map[int]int)
		for range maxPerFlow + 5 {
			codes[c.do("SUBSCRIBE", "<sip:2002@10.20.0.5>", "Event: presence\nExpires: 600\n", "").StatusCode]++
		}
		if d := cmp.Diff(codes, map[int]int{200: maxPerFlow, 403: 5}); d != "" {
			t.Error(d)
		}
	})
}

func TestMessagesOfCiscoPhone(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		c.got()
		b.s.SetMessages("2011", 2, 0)
		c.expect("lamp of line 2", "NOTIFY 2011 message-summary Messages-Waiting: yes Message-Account: sip:8500@10.20.0.5 Voice-Message: 2/0")
		if u, h := b.s.Messages("2011"); u != 2 || h != 0 {
			t.Errorf("messages %d/%d", u, h)
		}
	})
}

func TestFeatureEvents(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2009")
		c.register("")
		res := c.do("SUBSCRIBE", "<sip:2009@10.20.0.5>", "Event: as-feature-event\nExpires: 600\n", "")
		synctest.Wait()
		n := c.Sent()[0].(*sip.Request)
		parts, err := cisco.Split(transaction.Header(n, "Content-Type"), n.Body())
		if err != nil || len(parts) != 2 {
			t.Fatalf("first NOTIFY: %v\n%s", err, n)
		}
		in := func(body string) *sip.Response {
			return c.do("SUBSCRIBE", "<sip:2009@10.20.0.5>;tag="+res.To().Params.GetOr("tag", ""),
				"Call-ID: "+res.CallID().Value()+"\nEvent: as-feature-event\nExpires: 600\nContent-Type: "+cisco.TypeFeatureEvent+"\n", body)
		}
		event := func(what, want string) {
			t.Helper()
			got := c.got()
			if len(got) != 1 || !strings.Contains(got[0], want) {
				t.Errorf("%s: %q, want %s", what, got, want)
			}
		}
		answer := in(string((&cisco.FeatureEvent{SetDND: &cisco.FeatureDND{Device: "2009", On: true}}).Marshal()))
		if answer.StatusCode != 200 || !strings.Contains(string(answer.Body()), "<SetDoNotDisturbResponse ") || !b.s.DND("2009") {
			t.Errorf("answer\n%s", answer)
		}
		event("DND", "<doNotDisturbOn>true</doNotDisturbOn>")
		answer = in(string((&cisco.FeatureEvent{SetForward: &cisco.FeatureForward{Type: "forwardImmediate", On: true, Target: "2003"}}).Marshal()))
		if answer.StatusCode != 200 || b.s.Forward("2009") != "2003" {
			t.Errorf("answer\n%s", answer)
		}
		event("forward", "<forwardTo>2003</forwardTo>")
		if err := b.s.SetForward(t.Context(), "2009", "", ByAdmin); err != nil {
			t.Fatal(err)
		}
		event("changed at the server", "<forwardStatus>false</forwardStatus>")
		for _, body := range []string{"x", "<Other/>", string((&cisco.FeatureEvent{SetForward: &cisco.FeatureForward{Type: "forwardBusy", On: true, Target: "1"}}).Marshal())} {
			if res := in(body); res.StatusCode != 489 {
				t.Errorf("%.40s: %d", body, res.StatusCode)
			}
		}
		c.do("SUBSCRIBE", "<sip:2009@10.20.0.5>", "Event: as-feature-event\nExpires: 600\n", "")
		if n := len(b.s.Watchers()); n != 1 {
			t.Errorf("%d subscriptions of one line, want the newest only", n)
		}
		p := b.client("2001")
		p.register("")
		p.got()
		p.do("SUBSCRIBE", "<sip:2001@10.20.0.5>", "Event: as-feature-event\nExpires: 600\n", "")
		if got := p.got(); len(got) != 1 || !strings.HasPrefix(got[0], "REFER 2001 bulk") {
			t.Errorf("a Cisco phone gets %q", got)
		}
	})
}

func TestContactURI(t *testing.T) {
	for v, want := range map[string]string{
		"<sip:a@b;transport=tcp>;expires=600;+sip.instance=\"<urn:uuid:1>\"": "sip:a@b;transport=tcp",
		`"x <y> \" z" <sip:a@b>`: "sip:a@b",
		"sip:a@b;q=1":            "sip:a@b",
		"<sip:a@b":               "",
		"":                       "",
	} {
		if got := contactURI(v); got != want {
			t.Errorf("%s: %q, want %q", v, got, want)
		}
	}
}
