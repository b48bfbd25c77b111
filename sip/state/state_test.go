package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"
	"github.com/google/go-cmp/cmp"

	"ringfence/sip/cisco"
	"ringfence/sip/transaction"
)

var burst = []string{
	"REFER 2001 dnd{On:false Reject:true} hunt{On:true} bulk[{Line:1 New:0 Old:0 Target: ToVoicemail:false} {Line:2 New:0 Old:0 Target:8500 ToVoicemail:true}]",
	"NOTIFY 2001 2002 idle closed", "NOTIFY 2001 2009 idle closed", "NOTIFY 2001 381 idle closed",
}

func TestBurst(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		c.expect("burst", burst...)
		c.register("")
		c.expect("refresh")
		time.Sleep(9 * time.Second)
		c.expect("lamps once more", burst[1:]...)
		time.Sleep(50 * time.Second)
		c.expect("and never again")
		d := b.client("2001")
		d.register("")
		d.expect("burst at a new connection", burst...)
		if n := len(b.s.Watchers()); n != 3 {
			t.Errorf("%d watchers, want 3", n)
		}
		d.do("REGISTER", "<sip:2001@10.20.0.5>", "Expires: 0\n", "")
		if n := len(b.s.Watchers()); n != 0 {
			t.Errorf("%d watchers after unregistering", n)
		}
		b.s.SetLeg("2002", "x", Active)
		c.expect("after unregistering")
		d.expect("after unregistering")
	})
}

func TestLampMessage(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		c.got()
		b.s.SetLeg("2002", "x", Ringing)
		synctest.Wait()
		b.s.SetLeg("2002", "x", Active)
		synctest.Wait()
		sent := c.Sent()
		if len(sent) != 2 {
			t.Fatalf("%d messages", len(sent))
		}
		first, second := sent[0].(*sip.Request), sent[1].(*sip.Request)
		if first.StartLine() != "NOTIFY sip:2001@10.20.4.31:51234;transport=tcp SIP/2.0" || second.StartLine() != first.StartLine() {
			t.Errorf("request line %s", second.StartLine())
		}
		if got := first.To().Value(); got != "<sip:2001@10.20.4.31:51234;transport=tcp>" {
			t.Errorf("To %s: the Contact verbatim, without a tag", got)
		}
		if got := first.From().Address.String(); got != "sip:2002@10.20.0.5" {
			t.Errorf("From %s", got)
		}
		if got := transaction.Header(first, "Contact"); got != "<sip:2002@10.20.0.5:5060;transport=tcp>" {
			t.Errorf("Contact %s", got)
		}
		if transaction.Header(first, "Subscription-State") != "active" || transaction.Header(first, "Event") != "presence" {
			t.Errorf("headers\n%s", first)
		}
		if first.CallID().Value() != second.CallID().Value() || second.CSeq().SeqNo != first.CSeq().SeqNo+1 || first.From().Params.GetOr("tag", "") != second.From().Params.GetOr("tag", "") {
			t.Error("two NOTIFYs of one key are no series")
		}
		want, err := os.ReadFile("../cisco/testdata/pidf-alerting.xml")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Replace(string(first.Body()), `tuple id="1"`, `tuple id="4"`, 1); got != string(want) {
			t.Errorf("body\n%s", first.Body())
		}
	})
}

func TestLamps(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		w := b.client("2001")
		w.register("")
		w.got()
		time.Sleep(time.Minute)
		w.got()
		p := b.client("2002")
		p.register("")
		w.expect("registered", "NOTIFY 2001 2002 idle open")
		b.s.SetLeg("2002", "a", Ringing)
		w.expect("rings", "NOTIFY 2001 2002 alerting open")
		b.s.SetLeg("2002", "b", Active)
		w.expect("in use as well: alerting wins")
		b.s.SetLeg("2002", "c", Ringing)
		w.expect("a second call rings: told again", "NOTIFY 2001 2002 alerting open")
		b.s.SetLeg("2002", "c", Idle)
		w.got()
		b.s.SetLeg("2002", "a", Idle)
		w.expect("in use", "NOTIFY 2001 2002 on-the-phone open")
		b.s.SetLeg("2002", "b", Held)
		w.expect("on hold shows the same")
		ctx := context.Background()
		if err := b.s.SetDND(ctx, "SEP02AA11BB22C2", true, ByAdmin); err != nil {
			t.Fatal(err)
		}
		w.expect("DND during a call shows the same")
		b.s.SetLeg("2002", "b", Idle)
		w.expect("DND", "NOTIFY 2001 2002 dnd open")
		b.s.SetLeg("2002", "a", Ringing)
		w.expect("ring wins over DND", "NOTIFY 2001 2002 alerting open")
		b.s.SetLeg("2002", "a", Idle)
		w.expect("DND again", "NOTIFY 2001 2002 dnd open")
		b.s.SetLeg("2002", "a", Idle)
		b.s.SetLeg("2002", "never", Idle)
		w.expect("nothing new")
		_ = b.s.SetDND(ctx, "SEP02AA11BB22C2", false, ByAdmin)
		w.expect("DND off", "NOTIFY 2001 2002 idle open")
		b.s.SetSlot("381", true)
		w.expect("slot taken", "NOTIFY 2001 381 on-the-phone open")
		b.s.SetSlot("381", false)
		w.expect("slot free", "NOTIFY 2001 381 idle open")
		b.s.RemoveSlot("381")
		w.expect("slot gone", "NOTIFY 2001 381 idle closed")
		p.do("REGISTER", "<sip:2002@10.20.0.5>", "Expires: 0\n", "")
		w.expect("unregistered", "NOTIFY 2001 2002 idle closed")
	})
}

func TestOneNotifyOutstanding(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		c.got()
		c.delay = time.Second
		b.s.SetLeg("2002", "a", Ringing)
		c.expect("first", "NOTIFY 2001 2002 alerting open")
		b.s.SetLeg("2002", "a", Active)
		b.s.SetLeg("2002", "a", Held)
		b.s.SetLeg("2002", "a", Idle)
		b.s.SetLeg("2002", "a", Active)
		c.expect("while it is under way")
		time.Sleep(2 * time.Second)
		c.expect("the newest only", "NOTIFY 2001 2002 on-the-phone open")
		b.s.SetLeg("2002", "a", Idle)
		b.s.SetLeg("2002", "a", Active)
		time.Sleep(5 * time.Second)
		got := c.got()
		if len(got) > 2 || len(got) > 0 && got[len(got)-1] != "NOTIFY 2001 2002 on-the-phone open" {
			t.Errorf("after a flicker: %q", got)
		}
	})
}

func TestFirstLampsArePaced(t *testing.T) {
	var watch []string
	for i := range 30 {
		watch = append(watch, fmt.Sprint(3000+i))
	}
	run(t, func(o *Options) { o.Accounts = accounts{watch: watch} }, func(t *testing.T, b *bench) {
		c := b.client("2001")
		outstanding, most := 0, 0
		c.delay = 100 * time.Millisecond
		var mu sync.Mutex
		c.answer(func(r *sip.Request) int {
			if r.Method != sip.NOTIFY {
				return 200
			}
			mu.Lock()
			outstanding++
			most = max(most, outstanding)
			mu.Unlock()
			time.AfterFunc(99*time.Millisecond, func() { mu.Lock(); outstanding--; mu.Unlock() })
			return 200
		})
		c.register("")
		time.Sleep(2 * time.Second)
		if n := len(c.got()); n != 31 {
			t.Errorf("%d requests, want one REFER and 30 NOTIFYs", n)
		}
		if most > window+1 {
			t.Errorf("%d NOTIFYs under way at once", most)
		}
	})
}

func TestPhoneRefusesNotify(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		c.got()
		time.Sleep(time.Minute)
		c.got()
		b.s.SetLeg("2002", "a", Ringing)
		synctest.Wait()
		before := c.Sent()[0].CallID().Value()
		c.answer(func(*sip.Request) int { return 481 })
		b.s.SetLeg("2002", "a", Active)
		c.expect("refused", "NOTIFY 2001 2002 on-the-phone open")
		c.answer(func(*sip.Request) int { return 200 })
		b.s.SetLeg("2002", "a", Idle)
		synctest.Wait()
		sent := c.Sent()
		if len(sent) == 0 || sent[0].CallID().Value() == before {
			t.Errorf("after a refusal the next NOTIFY has a new Call-ID; sent %d", len(sent))
		}
	})
}

func TestPhoneAnswersNothing(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		c.got()
		c.answer(func(*sip.Request) int { return 0 })
		b.s.SetLeg("2002", "a", Ringing)
		time.Sleep(33 * time.Second)
		synctest.Wait()
		if err := c.Reason(); !errors.Is(err, transaction.ErrTimeout) {
			t.Errorf("connection closed with %v", err)
		}
	})
}

func TestInitialReferRefused(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.answer(func(r *sip.Request) int {
			if strings.Contains(transaction.Header(r, "Content-Type"), "multipart") {
				return 400
			}
			return 202
		})
		c.register("")
		got := c.got()
		want := []string{
			"REFER 2001 dnd{On:false Reject:true}", "REFER 2001 hunt{On:true}",
			"REFER 2001 bulk[{Line:1 New:0 Old:0 Target: ToVoicemail:false} {Line:2 New:0 Old:0 Target:8500 ToVoicemail:true}]",
		}
		for _, w := range want {
			if !slices.Contains(got, w) {
				t.Errorf("%s is missing in\n%s", w, strings.Join(got, "\n"))
			}
		}
	})
}

func TestTakeOverGetsCheckVersion(t *testing.T) {
	stamps := func(string) (cisco.Stamps, bool) {
		return cisco.Stamps{Config: "c1", Dialplan: "d1", Softkey: "s1"}, true
	}
	run(t, func(o *Options) { o.Stamps = stamps }, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register(`Reason: SIP;cause=200;text="cisco-alarm:25 Name=` + phone + ` Load=x.loads Last=initialized"` + "\n")
		c.expect("boot", burst...)
		d := b.client("2001")
		d.register(`Reason: SIP;cause=200;text="cisco-alarm:14 Name=` + phone + ` Load=x.loads Last=cm-closed-tcp"` + "\n")
		d.expect("take-over", append(slices.Clone(burst), "NOTIFY 2001 service-control action=check-version RegisterCallId={reg-"+d.ID()+"} ConfigVersionStamp={c1} "+
			"DialplanVersionStamp={d1} SoftkeyVersionStamp={s1} FeatureControlVersionStamp={00000000-0000-0000-0000-000000000000}")...)
	})
}

func TestConnectionLost(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		w, c := b.client("2001"), b.client("2002")
		w.register("")
		c.register("")
		time.Sleep(time.Minute)
		w.got()
		lose := func(c *client) {
			c.Close(errors.New("reset"))
			b.l.FlowClosed(c, nil)
			b.r.FlowClosed(c)
			b.s.FlowClosed(c)
		}
		lose(c)
		time.Sleep(2 * time.Second)
		d := b.client("2002")
		d.register("")
		time.Sleep(10 * time.Second)
		w.expect("a phone that comes back at once does not flicker")
		lose(d)
		time.Sleep(5 * time.Second)
		w.expect("gone within 5 s", "NOTIFY 2001 2002 idle closed")
		e := b.client("2002")
		e.register("")
		w.expect("back", "NOTIFY 2001 2002 idle open")
	})
}

func TestFeed(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		var got []Change
		stop := b.s.Watch(func(c Change) { got = append(got, c) })
		b.s.Watch(func(Change) { panic("a bad listener harms nobody") })
		b.s.SetLeg("2001", "a", Active)
		_ = b.s.SetDND(t.Context(), phone, true, ByPlan)
		_ = b.s.SetForward(t.Context(), "2001", "5", ByAdmin)
		b.s.SetMessages("2001", 1, 0)
		synctest.Wait()
		if d := cmp.Diff(got, []Change{
			{Kind: LineChanged, Line: "2001"}, {Kind: DNDChanged, Device: phone, Origin: ByPlan},
			{Kind: ForwardChanged, Line: "2001", Origin: ByAdmin}, {Kind: MessagesChanged, Line: "2001"},
		}); d != "" {
			t.Error(d)
		}
		stop()
		b.s.SetLeg("2001", "a", Idle)
		synctest.Wait()
		if len(got) != 4 {
			t.Error("told after it had stopped watching")
		}
	})
}

func TestResync(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		if err := b.s.Resync("SEP000000000000"); !errors.Is(err, ErrUnknownDevice) {
			t.Error(err)
		}
		if err := b.s.Resync(phone); !errors.Is(err, ErrNotRegistered) {
			t.Error(err)
		}
		c := b.client("2001")
		c.register("")
		c.got()
		if err := b.s.Resync(phone); err != nil {
			t.Error(err)
		}
		c.expect("resync", burst...)
	})
}

func TestManyWatchersOfOneNumber(t *testing.T) {
	run(t, nil, func(t *testing.T, b *bench) {
		var all []*client
		for range 500 {
			c := b.client("2009")
			c.register("")
			c.do("SUBSCRIBE", "<sip:2002@10.20.0.5>", "Event: presence\nExpires: 600\n", "")
			all = append(all, c)
		}
		synctest.Wait()
		for _, c := range all {
			c.Sent()
		}
		b.s.SetLeg("2002", "a", Ringing)
		synctest.Wait()
		told := 0
		for _, c := range all {
			told += len(c.Sent())
		}
		if told != 500 {
			t.Errorf("%d watchers told, want 500", told)
		}
	})
}

func TestSelfCheck(t *testing.T) {
	var owned sync.Map
	legs := func() map[Leg]Phase {
		out := map[Leg]Phase{}
		owned.Range(func(l, p any) bool { out[l.(Leg)] = p.(Phase); return true })
		return out
	}
	run(t, func(o *Options) { o.Legs = legs }, func(t *testing.T, b *bench) {
		w, c := b.client("2001"), b.client("2002")
		w.register("")
		c.register("")
		time.Sleep(time.Minute)
		w.got()
		c.got()

		owned.Store(Leg{"2002", "a"}, Active)
		b.s.SetLeg("2002", "a", Active)
		w.expect("in a call", "NOTIFY 2001 2002 on-the-phone open")
		time.Sleep(time.Minute)
		w.expect("an owned leg stays")
		owned.Delete(Leg{"2002", "a"})
		time.Sleep(2*checkEvery + time.Second)
		w.expect("a leg without dialog goes", "NOTIFY 2001 2002 idle open")
		owned.Store(Leg{"2002", "c"}, Ringing)
		time.Sleep(2*checkEvery + time.Second)
		w.expect("a leg that was never told comes", "NOTIFY 2001 2002 alerting open")
		owned.Store(Leg{"2002", "c"}, Active)
		time.Sleep(2*checkEvery + time.Second)
		w.expect("a leg that does something else is told", "NOTIFY 2001 2002 on-the-phone open")
		owned.Delete(Leg{"2002", "c"})
		time.Sleep(2*checkEvery + time.Second)
		w.expect("and goes", "NOTIFY 2001 2002 idle open")
		if r := b.s.Check(); r.Lines != 3 || r.Legs != 0 || r.Lamps != 3 || len(r.Repaired)+len(r.Unsure) > 0 {
			t.Errorf("report %+v, want 3 lines and 3 lamps and nothing to repair", r)
		}

		w.answer(func(*sip.Request) int { return 500 })
		b.s.SetLeg("2002", "b", Ringing)
		owned.Store(Leg{"2002", "b"}, Ringing)
		w.expect("refused", "NOTIFY 2001 2002 alerting open")
		w.answer(func(*sip.Request) int { return 200 })
		time.Sleep(time.Minute)
		w.expect("sent again until acknowledged", "NOTIFY 2001 2002 alerting open")
		w.answer(func(*sip.Request) int { return 500 })
		owned.Delete(Leg{"2002", "b"})
		b.s.SetLeg("2002", "b", Idle)
		time.Sleep(10 * time.Minute)
		if n := len(w.got()); n != maxTries {
			t.Errorf("%d tries at a phone that refuses, want %d", n, maxTries)
		}
		w.answer(func(*sip.Request) int { return 200 })
		w.register("")
		c.register("")

		b.s.mu.Lock()
		b.s.hook["2002"], b.s.hookSince["2002"] = 1, time.Now()
		delete(b.s.present, "2001")
		b.s.present["2009"] = true
		b.s.mu.Unlock()
		time.Sleep(time.Minute)
		if l := b.s.Line("2001"); !l.Registered {
			t.Error("a registered line shows as absent")
		}
		if l := b.s.Line("2009"); l.Registered {
			t.Error("an absent line shows as registered")
		}
		if l := b.s.Line("2002"); !l.OffHook {
			t.Error("put down too soon")
		}
		time.Sleep(offHookMost)
		if l := b.s.Line("2002"); l.OffHook {
			t.Error("off-hook for ever")
		}
	})
}

func TestReloadOfKeys(t *testing.T) {
	c := &changing{accounts{watch: []string{"2002"}}}
	run(t, func(o *Options) { o.Accounts = c }, func(t *testing.T, b *bench) {
		p := b.client("2001")
		p.register("")
		p.got()
		time.Sleep(time.Minute)
		p.got()
		b.s.Reload()
		p.expect("nothing changed")
		c.watch = []string{"2009", "2002"}
		b.s.Reload()
		p.expect("a key more", burst[0], "NOTIFY 2001 2009 idle closed", "NOTIFY 2001 2002 idle closed")
		if n := len(b.s.Watchers()); n != 2 {
			t.Errorf("%d watchers, want 2", n)
		}
	})
}
