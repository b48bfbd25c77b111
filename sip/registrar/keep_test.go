package registrar

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/cisco"
	"ringfence/sip/flow"
	"ringfence/sip/internal/siptest"
	"ringfence/sip/transaction"
)

func (l local) Put(b, k string, v []byte) { l[b+"/"+k] = string(v) }
func (l local) Delete(b, k string)        { delete(l, b+"/"+k) }
func (l local) Scan(b, prefix string, fn func(string, []byte) bool) {
	for k, v := range l {
		if rest, ok := strings.CutPrefix(k, b+"/"); ok && strings.HasPrefix(rest, prefix) && !fn(rest, []byte(v)) {
			return
		}
	}
}

func TestLostConnection(t *testing.T) {
	b := newBench(t, nil)
	f := tcp()
	b.do(f, req{extra: "Expires: 3600\n"})
	f.Close(nil)
	b.r.FlowClosed(f)
	x := b.r.Lookup("2001")
	if len(x) != 1 || x[0].Reachable() {
		t.Errorf("binding %+v", x)
	}
	if _, ok := b.r.ByFlow(f); ok {
		t.Error("a dead connection has an identity")
	}
	if last := b.events[len(b.events)-1]; last.Kind != Lost || last.Device != device {
		t.Errorf("event %+v", last)
	}
}

func TestRestart(t *testing.T) {
	kept := local{}
	first := newBench(t, func(o *Options) { o.Local = kept })
	first.do(tcp(), req{extra: "Expires: 3600\n"})
	first.do(siptest.NewFlow("b", "TCP"), req{line: "2009", contact: "<sip:2009@10.20.4.40>", extra: "Expires: 600\n", callID: "soft"})
	first.r.Stop()

	b := newBench(t, func(o *Options) { o.Local = kept })
	x := b.r.Lookup("2011")
	if len(x) != 1 || x[0].Reachable() || x[0].Index != 2 || x[0].ContactText != "sip:2011@10.20.4.31:51234;transport=tcp" || len(b.r.Lookup("2009")) != 1 {
		t.Fatalf("restored %+v", x)
	}
	res := b.do(tcp(), req{extra: "Expires: 3600\n"})
	if len(res.Body()) == 0 || len(b.events) != 1 || b.events[0].Kind != Fresh {
		t.Errorf("first REGISTER after a restart:\n%s\nevents %+v", res, b.events)
	}
	b.do(tcp(), req{extra: "Expires: 0\n"})
	b.do(siptest.NewFlow("b", "TCP"), req{line: "2009", contact: "*", extra: "Expires: 0\n", callID: "soft2"})
	if len(kept) != 0 {
		t.Errorf("kept after unregistering: %v", kept)
	}
}

func TestRestartOverUDP(t *testing.T) {
	kept := local{}
	first := newBench(t, func(o *Options) { o.Local = kept })
	was := siptest.NewFlow("u", "UDP")
	first.do(was, req{line: "2009", contact: "<sip:2009@10.20.4.31:51234>", extra: "Expires: 600\n"})
	first.do(tcp(), req{extra: "Expires: 3600\n", callID: "tcp"})
	first.r.Stop()
	b := newBench(t, func(o *Options) { o.Local = kept })
	again := siptest.NewFlow("again", "UDP")
	b.r.Reopen(func(remote, local netip.AddrPort) (flow.Flow, error) {
		if remote != was.To || local != was.From {
			t.Errorf("opened %v -> %v", local, remote)
		}
		return again, nil
	})
	if x := b.r.Lookup("2009"); len(x) != 1 || !x[0].Reachable() {
		t.Errorf("after the restart %+v", x)
	}
	if x := b.r.Lookup("2001"); len(x) != 1 || x[0].Reachable() {
		t.Errorf("a connection outlived its process: %+v", x)
	}
	if id, ok := b.r.ByFlow(again); !ok || id.Line != "2009" || again.Kept().IsZero() {
		t.Errorf("identity %+v, %v", id, ok)
	}
	b.r.Reopen(func(_, _ netip.AddrPort) (flow.Flow, error) { t.Error("opened twice"); return nil, nil })
}

func TestReload(t *testing.T) {
	c := &changing{lines: map[string]bool{"2001": true, "2009": true}}
	b := newBench(t, func(o *Options) { o.Accounts = c })
	b.do(tcp(), req{extra: "Expires: 3600\n"})
	b.do(tcp(), req{line: "2009", extra: "Expires: 600\n", callID: "soft", contact: "<sip:2009@10.20.4.40>"})
	b.events = nil
	b.r.Reload()
	if len(b.events) != 0 {
		t.Errorf("nothing changed: %+v", b.events)
	}
	kinds := func() string {
		var s []string
		for _, e := range b.events {
			x := e.Kind.String()
			for _, y := range e.Bindings {
				x += " " + y.Line
			}
			s = append(s, x)
		}
		b.events = nil
		slices.Sort(s)
		return strings.Join(s, ", ")
	}
	c.lines["2011"] = true
	b.r.Reload()
	if got := kinds(); got != "fresh 2001 2011" || len(b.r.Lookup("2011")) != 1 {
		t.Errorf("line added: %s", got)
	}
	delete(c.lines, "2011")
	b.r.Reload()
	if got := kinds(); got != "fresh 2001, gone 2011" || len(b.r.Lookup("2011")) != 0 {
		t.Errorf("line removed: %s", got)
	}
	clear(c.lines)
	b.r.Reload()
	if got := kinds(); got != "gone 2001, gone 2009" || len(b.r.All()) != 0 {
		t.Errorf("all removed: %s", got)
	}
}

func TestRestartWithoutReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := local{}
		first := newBench(t, func(o *Options) { o.Local = kept })
		first.do(tcp(), req{extra: "Expires: 3600\n"})
		first.r.Stop()
		b := newBench(t, func(o *Options) { o.Local = kept })
		time.Sleep(140 * time.Second)
		synctest.Wait()
		if len(b.r.All()) != 0 || len(b.events) != 1 || b.events[0].Kind != Gone || len(kept) != 0 {
			t.Errorf("%d bindings, events %+v, kept %v", len(b.r.All()), b.events, kept)
		}
		b.r.Stop()
		kept["sip_bindings/x"] = "no JSON"
		kept["sip_bindings/y"] = `{"line":"7777","contact":"sip:x@y","until":"2999-01-01T00:00:00Z","granted":60}`
		if c := newBench(t, func(o *Options) { o.Local = kept }); len(c.r.All()) != 0 || len(kept) != 0 {
			t.Errorf("rubbish restored: %v", kept)
		}
	})
}

func TestTwoPhonesWithOneName(t *testing.T) {
	b := newBench(t, nil)
	f, g := tcp(), siptest.NewFlow("b", "TCP")
	g.To = netip.MustParseAddrPort("10.20.4.99:51234")
	for range 3 {
		b.do(f, req{callID: "one"})
		b.do(g, req{callID: "two", contact: "<sip:2001@10.20.4.99:51234>"})
	}
	n := 0
	for _, note := range b.notes {
		if strings.Contains(note, "two phones use this name") {
			n++
		}
	}
	if n == 0 {
		t.Errorf("not noticed: %q", b.notes)
	}
	if id, ok := b.r.ByFlow(g); !ok || id.Device != device {
		t.Error("the last one does not have the registration")
	}
	if _, ok := b.r.ByFlow(f); ok {
		t.Error("both connections speak for the device")
	}
}

func refer(target, contentType, body string) string {
	x := "REFER sip:10.20.0.5 SIP/2.0\nVia: SIP/2.0/TCP 10.20.4.31:51234;branch=z9hG4bK" + transaction.NewTag() +
		"\nFrom: <sip:2001@10.20.0.5>;tag=t\nTo: <sip:10.20.0.5>\nCall-ID: r\nCSeq: 1000 REFER\nRefer-To: " + target + "\n"
	if contentType != "" {
		x += "Content-Type: " + contentType + "\n"
	}
	return x + "\n" + body
}

func TestRefersWithoutRegistration(t *testing.T) {
	alarm := func(name string) string {
		return string((&cisco.Alarm{Name: "LastOutOfServiceInformation", Params: []cisco.Param{{Name: "DeviceName", Value: name}, {Name: "ReasonForOutOfService", Value: "25"}}}).Marshal())
	}
	for _, tt := range []struct {
		name, raw string
		want      int
		note      string
	}{
		{"alarm", refer("cid:1", cisco.TypeAlarm, alarm(device)), 202,
			device + " register alarm LastOutOfServiceInformation, ReasonForOutOfService 25 (before registration, from 10.20.4.31) false"},
		{"alarm of nobody we know", refer("cid:1", cisco.TypeAlarm, alarm("SEP000000000000")), 202, ""},
		{"broken alarm", refer("cid:1", cisco.TypeAlarm, "<x"), 202, ""},
		{"response", refer("cid:1", cisco.TypeResponse, "whatever"), 202, ""},
		{"location", refer("cid:1", cisco.TypeRequest, "<x-cisco-location/>"), 202, ""},
		{"token", refer("<urn:X-cisco-remotecc:token-registration>", "", ""), 202, ""},
		{"token in other case", refer("<URN:x-CISCO-remotecc:TOKEN-registration>", "", ""), 202, ""},
		{"anything else is not for here", refer("cid:1", cisco.TypeRequest, "<x-cisco-remotecc-request><a/></x-cisco-remotecc-request>"), 603, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			if res := b.send(tcp(), tt.raw); res.StatusCode != tt.want {
				t.Errorf("answer %d, want %d", res.StatusCode, tt.want)
			}
			if got := strings.Join(b.notes, "|"); got != tt.note {
				t.Errorf("note %q, want %q", got, tt.note)
			}
		})
	}
}

func TestTokensAreRationed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ready := true
		b := newBench(t, func(o *Options) { o.Ready = func() bool { return ready } })
		ask := func() *sip.Response { return b.send(tcp(), refer("<urn:X-cisco-remotecc:token-registration>", "", "")) }
		for i := range tokensPerSecond {
			if res := ask(); res.StatusCode != 202 {
				t.Fatalf("token %d: %d", i, res.StatusCode)
			}
		}
		res := ask()
		if res.StatusCode != 503 || transaction.Header(res, "Retry-After") == "" {
			t.Errorf("too many: %s", res)
		}
		time.Sleep(time.Second)
		if res := ask(); res.StatusCode != 202 {
			t.Errorf("a second later: %d", res.StatusCode)
		}
		ready = false
		if res := ask(); res.StatusCode != 503 {
			t.Errorf("not in sync: %d", res.StatusCode)
		}
		b.r.Stop()
	})
}
