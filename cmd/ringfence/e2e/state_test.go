package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// office is an appliance of phones in the clear, which boot quickly: two 8800 and a 7900, a line that only one of them may watch, and
// a line of another vendor's phone.
var office = strings.Replace(morning[:strings.Index(morning, "phones:\n  - device")], "users:\n", `schedules:
  - {id: open, weekly: "mon-fri 08:30-17:30", override: "*28"}
users:
`, 1) + `phones:
  - device: SEP001122AA0001
    model: "8851"
    security: nonsecure
    password: "` + adaPassword + `"
    keys: [{blf: "302"}, {blf: "305"}, {park: "381"}]
  - device: SEP001122AA0002
    model: "8841"
    security: nonsecure
    password: "` + benPassword + `"
    dnd: silent
    keys: [{blf: "301"}, {blf: "303"}, {blf: "*28"}]
  - device: SEP001122AA0003
    model: "7965"
    security: nonsecure
    password: "` + cleoPassword + `"
    keys: [{blf: "302"}, {blf: "305"}]
lines:
  - {number: "301", user: ada, phone: SEP001122AA0001, index: 1, park_lot: default, voicemail: "309", pickup: {member_of: [1], may_pick: [1]}}
  - {number: "311", user: ada, phone: SEP001122AA0001, index: 2, voicemail: "309"}
  - {number: "302", user: ben, phone: SEP001122AA0002, index: 1, ring_seconds: 20, pickup: {member_of: [1], may_pick: [1]}}
  - {number: "303", user: cleo, phone: SEP001122AA0003, index: 1, pickup: {member_of: [1], may_pick: [1]}, hunt_login_default: false}
  - {number: "304", password: "` + softPassword + `"}
  - {number: "305", password: "` + softPassword + `", watched_by: ["301"]}
  - {number: "309", password: "` + softPassword + `"}
parking:
  - {id: default, slots: "381-383"}
`

const softPassword = "r3Hv6Np9XsEdSoft"

// last is the newest request of the server that ok accepts, since a mark.
func last(p *phone.Phone, mark int, ok func(phone.WireMessage) bool) (phone.WireMessage, bool) {
	all := p.Received(mark)
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Method() != "" && ok(all[i]) {
			return all[i], true
		}
	}
	return phone.WireMessage{}, false
}

// wire waits for a request of the server after a mark.
func wire(t *testing.T, p *phone.Phone, mark int, what string, ok func(phone.WireMessage) bool) phone.WireMessage {
	t.Helper()
	var m phone.WireMessage
	err := p.Wait(within(t, 10*time.Second), func() (found bool) { m, found = last(p, mark, ok); return found })
	if err != nil {
		var seen []string
		for _, m := range p.Received(mark) {
			seen = append(seen, fmt.Sprintf("%s%d %s %.200q", m.Method(), m.Status(), m.Event(), m.Body()))
		}
		t.Fatalf("%s gets no %s; it got\n%s", p.Device(), what, strings.Join(seen, "\n"))
	}
	return m
}

func presenceOf(number string) func(phone.WireMessage) bool {
	return func(m phone.WireMessage) bool {
		return m.Method() == "NOTIFY" && m.Event() == "presence" && strings.Contains(m.Body(), `entity="sip:`+number+"@")
	}
}

func referWith(text ...string) func(phone.WireMessage) bool {
	return func(m phone.WireMessage) bool {
		for _, x := range text {
			if !strings.Contains(m.Body(), x) {
				return false
			}
		}
		return m.Method() == "REFER"
	}
}

// expect checks that a message holds all of some texts and none of others, which begin with !.
func expect(t *testing.T, m phone.WireMessage, texts ...string) {
	t.Helper()
	for _, x := range texts {
		if not, ok := strings.CutPrefix(x, "!"); ok == strings.Contains(m.Body(), strings.TrimPrefix(x, "!")) {
			t.Errorf("want %s (%v) in\n%s", x, not, m.Body())
		}
	}
}

// TestOffice goes through what phones show and set, on one appliance: lamps, hook, do-not-disturb, forwarding, hunt login, messages.
func TestOffice(t *testing.T) {
	d := newDaemon(t, office)
	ada, ben, cleo := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2), d.newPhone("SEP001122AA0003", "7965", 3)
	ctx := within(t, 170*time.Second)
	d.ready(ada)
	t.Run("who is not there", func(t *testing.T) {
		feature.Proves(t, "BLF-6", "BLF-1")
		m := wire(t, ada, 0, "lamp of 302", presenceOf("302"))
		expect(t, m, "<basic>closed</basic>", "!on-the-phone")
		if m.Get("Subscription-State") != "active" || m.Count("Subscription-State") != 1 || strings.Contains(m.Get("To"), "tag=") || !strings.Contains(m.Get("From"), "sip:302@") {
			t.Errorf("unsolicited NOTIFY has state %q, To %q, From %q", m.Get("Subscription-State"), m.Get("To"), m.Get("From"))
		}
		if ada.BLF("302") != phone.LampUnknown {
			t.Errorf("the lamp of a phone that is not there is %q", ada.BLF("302"))
		}
	})
	t.Run("initial state", func(t *testing.T) {
		feature.Proves(t, "CFS-5", "DNS-4", "HLG-2", "MLN-5", "MLN-7", "BLF-11")
		m := wire(t, ada, 0, "bulk update", referWith("<bulkupdate>"))
		if !strings.HasPrefix(m.Get("Content-Type"), "multipart/mixed") || m.Get("Require") != "norefersub" {
			t.Errorf("bulk REFER has type %q, Require %q", m.Get("Content-Type"), m.Get("Require"))
		}
		order := regexp.MustCompile(`(?s)<dndupdate>.*<hlogupdate>.*<bulkupdate>.*<contact line="1">.*<contact line="2">`)
		if !order.MatchString(m.Body()) {
			t.Errorf("parts or lines are missing or out of order:\n%s", m.Body())
		}
		expect(t, m, "<state>disable</state>", "<status>on</status>", "<mwi>no</mwi>", "<fwdaddress></fwdaddress>", "!<contact line=\"3\">")
		wire(t, ada, 0, "lamp of the slot", presenceOf("381"))
	})
	d.ready(ben)
	// One of cleo's keys stays dark, so that the phone never is as ready as others.
	if err := cleo.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	if err := cleo.Register(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "cleo's first key is lit", func() bool { return cleo.BLF("302") != phone.LampPlain })
	eventually(t, 10*time.Second, "lamps are idle", func() bool { return ada.BLF("302") == phone.LampIdle && ben.BLF("301") == phone.LampIdle })

	t.Run("a refresh says nothing", func(t *testing.T) {
		feature.Proves(t, "BLF-8")
		mark := ada.Mark()
		if err := ada.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		d.verb("line", "messages", "302", "1", "0") // something for another phone, so that whatever was under way is through
		wire(t, ben, 0, "message lamp", func(m phone.WireMessage) bool { return m.Event() == "message-summary" })
		for _, m := range ada.Received(mark) {
			// The lamps of a new registration come once more some seconds later, with the same content.
			if m.Method() != "" && m.Event() != "presence" {
				t.Errorf("a refresh brings %s %s %.100q", m.Method(), m.Event(), m.Body())
			}
		}
	})
	t.Run("rights to watch", func(t *testing.T) {
		feature.Proves(t, "BLF-12")
		wire(t, ada, 0, "lamp of 305", presenceOf("305"))
		if m, ok := last(cleo, 0, presenceOf("305")); ok {
			t.Errorf("cleo may not watch 305 and is told\n%s", m.Body())
		}
		for _, c := range []struct {
			p    *phone.Phone
			want int
		}{{ada, 200}, {cleo, 403}} {
			if code, err := c.p.WatchHistory(ctx, "305"); err != nil || code != c.want {
				t.Errorf("%s subscribes to 305: %d %v, want %d", c.p.Device(), code, err, c.want)
			}
		}
		if code, err := cleo.WatchHistory(ctx, "00441234567"); err != nil || code != 404 {
			t.Errorf("a number outside is answered %d %v, want 404", code, err)
		}
	})
	t.Run("call history", func(t *testing.T) {
		feature.Proves(t, "BLF-10")
		if code, err := cleo.WatchHistory(ctx, "301"); err != nil || code != 200 {
			t.Fatalf("SUBSCRIBE: %d %v", code, err)
		}
		if err := cleo.Wait(ctx, func() bool { l, known, _ := cleo.History("301"); return known && l == phone.LampIdle }); err != nil {
			t.Fatal("no state in the call list")
		}
		mark := cleo.Mark()
		if err := ada.OffHook(ctx, 1); err != nil {
			t.Fatal(err)
		}
		m := wire(t, cleo, mark, "NOTIFY in the subscription", presenceOf("301"))
		expect(t, m, "on-the-phone", "<basic>open</basic>")
		if m.Get("Content-Type") != "application/pidf+xml" || !strings.HasPrefix(m.Get("Subscription-State"), "active") || !strings.Contains(m.Get("To"), "tag=") {
			t.Errorf("NOTIFY has type %q, state %q, To %q", m.Get("Content-Type"), m.Get("Subscription-State"), m.Get("To"))
		}
		if err := ada.OnHook(ctx, 1); err != nil {
			t.Fatal(err)
		}
		if err := cleo.Wait(ctx, func() bool { l, _, _ := cleo.History("301"); return l == phone.LampIdle }); err != nil {
			t.Fatal("the call list stays busy")
		}
	})
	t.Run("off-hook", func(t *testing.T) {
		feature.Proves(t, "OHN-1", "OHN-2", "OHN-3", "OHN-4")
		for _, c := range []struct {
			p, watcher *phone.Phone
			index      int
			number     string
		}{{ada, ben, 1, "301"}, {cleo, ben, 1, "303"}} { // the 7965 writes one character of its name
			if err := c.p.OffHook(ctx, c.index); err != nil {
				t.Fatal(err)
			}
			eventually(t, 5*time.Second, "the lamp of "+c.number+" is busy", func() bool { return c.watcher.BLF(c.number) == phone.LampBusy })
			if err := c.p.OnHook(ctx, c.index); err != nil {
				t.Fatal(err)
			}
			eventually(t, 5*time.Second, "the lamp of "+c.number+" is idle", func() bool { return c.watcher.BLF(c.number) == phone.LampIdle })
			if err := c.p.OnHook(ctx, c.index); err != nil { // once more than it was lifted
				t.Fatal(err)
			}
			if err := c.p.OffHook(ctx, c.index); err != nil {
				t.Fatal(err)
			}
			eventually(t, 5*time.Second, "the counter did not go below zero", func() bool { return c.watcher.BLF(c.number) == phone.LampBusy })
			if err := c.p.OnHook(ctx, c.index); err != nil {
				t.Fatal(err)
			}
			eventually(t, 5*time.Second, "the lamp of "+c.number+" is idle again", func() bool { return c.watcher.BLF(c.number) == phone.LampIdle })
		}
		var line struct {
			OffHook bool `json:"off_hook"`
		}
		if d.json(&line, "line", "show", "301"); line.OffHook {
			t.Error("line show says that 301 is off-hook")
		}
	})
	t.Run("do not disturb", func(t *testing.T) {
		feature.Proves(t, "DNS-3", "DNS-5", "DNS-7", "MLN-6", "BLF-7")
		mark := ben.Mark()
		d.verb("phone", "dnd", "SEP001122AA0002", "on")
		expect(t, wire(t, ben, mark, "dndupdate", referWith("<dndupdate>")), "<state>enable</state>", "<option>ringeroff</option>")
		expect(t, wire(t, ada, 0, "lamp in do-not-disturb", func(m phone.WireMessage) bool { return presenceOf("302")(m) && strings.Contains(m.Body(), "<ce:dnd") }), "<basic>open</basic>")
		// silent: the call is shown, and ringing wins over do-not-disturb on the lamp.
		mark = ada.Mark()
		c, err := cleo.Call(ctx, "302")
		if err != nil {
			t.Fatal(err)
		}
		in, err := ben.WaitIncoming(ctx)
		if err != nil {
			t.Fatal("a silent phone gets no call: ", err)
		}
		m := wire(t, ada, mark, "ringing lamp", func(m phone.WireMessage) bool {
			return presenceOf("302")(m) && strings.Contains(m.Body(), "<ce:alerting")
		})
		expect(t, m, "!<ce:dnd", "!on-the-phone")
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, c, in)
		// callreject, for all lines of the device.
		mark = ada.Mark()
		if err := ada.SetDND(ctx, true); err != nil {
			t.Fatal(err)
		}
		for _, number := range []string{"301", "311"} {
			c, err := cleo.Call(ctx, number)
			if err != nil {
				t.Fatal(err)
			}
			over(t, c)
			if c.Code() != 486 {
				t.Errorf("call to %s in do-not-disturb ends with %d, want 486", number, c.Code())
			}
		}
		for _, m := range ada.Received(mark) {
			if m.Method() == "INVITE" || strings.Contains(m.Body(), "<dndupdate>") {
				t.Errorf("after its PUBLISH the phone gets %s %s", m.Method(), m.Body())
			}
		}
		d.verb("line", "dnd", "311", "off") // any line means the device
		eventually(t, 5*time.Second, "ada's phone shows it off", func() bool { on, _ := ada.DND(); return !on })
		d.verb("phone", "dnd", "SEP001122AA0002", "off")
	})
	t.Run("forward", func(t *testing.T) {
		feature.Proves(t, "CFS-3", "CFS-4", "CFS-7", "CFS-10", "DP-25")
		mark := ada.Mark()
		if err := ada.SetForward(ctx, 2, "302"); err != nil {
			t.Fatal(err)
		}
		m := wire(t, ada, mark, "cfwdallupdate", referWith("<cfwdallupdate>"))
		expect(t, m, "<linenumber>2</linenumber>", "<fwdaddress>302</fwdaddress>", "<tovoicemail>off</tovoicemail>")
		if !strings.HasPrefix(m.URI(), "sip:311@") {
			t.Errorf("the update of line 2 goes to %s", m.URI())
		}
		if err := ada.SetForward(ctx, 2, "398"); err == nil || !strings.Contains(err.Error(), "503") {
			t.Errorf("a forward to a number that does not exist: %v, want 503", err)
		}
		if got := ada.Forward(2); got != "302" {
			t.Errorf("after a refused target the phone shows %q, want the old 302", got)
		}
		mark = ada.Mark()
		d.verb("line", "set", "301", "callforward", "309")
		expect(t, wire(t, ada, mark, "cfwdallupdate", referWith("<cfwdallupdate>")), "<linenumber>1</linenumber>", "<fwdaddress>309</fwdaddress>", "<tovoicemail>on</tovoicemail>")
		d.verb("line", "forward", "301", "off")
		d.verb("line", "forward", "311", "off")
		eventually(t, 5*time.Second, "both are off", func() bool { return ada.Forward(1) == "" && ada.Forward(2) == "" })
	})
	t.Run("hunt login", func(t *testing.T) {
		feature.Proves(t, "HLG-1", "HLG-5")
		if in, known := cleo.HuntLogin(); in || !known {
			t.Errorf("cleo is logged in %v (%v), but declared logged out", in, known)
		}
		mark := cleo.Mark()
		if err := cleo.HLog(ctx); err != nil {
			t.Fatal(err)
		}
		expect(t, wire(t, cleo, mark, "hlogupdate", referWith("<hlogupdate>")), "<status>on</status>")
		mark = cleo.Mark()
		d.verb("line", "hunt", "303", "off")
		expect(t, wire(t, cleo, mark, "hlogupdate", referWith("<hlogupdate>")), "<status>off</status>")
	})
	t.Run("messages per line", func(t *testing.T) {
		feature.Proves(t, "MLN-5")
		mark := ada.Mark()
		d.verb("line", "messages", "311", "2", "1")
		m := wire(t, ada, mark, "message lamp", func(m phone.WireMessage) bool { return m.Event() == "message-summary" })
		expect(t, m, "Messages-Waiting: yes", "Voice-Message: 2/1\r\n", "Message-Account: sip:309@")
		if !strings.HasPrefix(m.URI(), "sip:311@") {
			t.Errorf("the message lamp of line 2 goes to %s", m.URI())
		}
		if l := ada.Line(2); !l.Message || l.New != 2 || l.Old != 1 || ada.Line(1).Message {
			t.Errorf("lines show %+v and %+v", ada.Line(1), l)
		}
	})
	t.Run("park slot", func(t *testing.T) {
		feature.Proves(t, "BLF-11", "PRK-9")
		ca, cb := connect(t, ben, cleo, "303")
		mark := ada.Mark()
		if err := ca.BlindTransfer(ctx, "x-cisco-serviceuri-dpark-381"); err != nil {
			t.Fatal(err)
		}
		expect(t, wire(t, ada, mark, "lamp of the slot", presenceOf("381")), "on-the-phone")
		eventually(t, 5*time.Second, "the slot is busy", func() bool { return ada.BLF("381") == phone.LampBusy })
		if err := cb.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, ca, cb)
		eventually(t, 5*time.Second, "the slot is free", func() bool { return ada.BLF("381") == phone.LampIdle })
	})
	t.Run("pickup by lamp key", func(t *testing.T) {
		feature.Proves(t, "BLF-13")
		ca, err := cleo.Call(ctx, "302")
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, "ada's lamp of 302 flashes", func() bool { return ada.BLF("302") == phone.LampAlerting })
		c, err := ada.Call(ctx, "x-cisco-serviceuri-blfpickup-302")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.WaitState(ctx, phone.Connected); err != nil {
			t.Fatalf("pickup: %v (%d)", err, c.Code())
		}
		hear(t, ca, c)
		if err := ca.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, ca, c)
		d.quiet()
	})
	t.Run("switch", func(t *testing.T) {
		d.verb("switch", "set", "*28", "on")
		eventually(t, 5*time.Second, "ben's key of the switch is lit", func() bool { return ben.BLF("*28") == phone.LampBusy })
		d.verb("switch", "set", "*28", "off")
		eventually(t, 5*time.Second, "and dark", func() bool { return ben.BLF("*28") == phone.LampIdle })
	})
	t.Run("commands", func(t *testing.T) { officeCommands(t, d, ada, ben) })
	t.Run("goodbye", func(t *testing.T) {
		feature.Proves(t, "MLN-4")
		if err := ben.Unregister(ctx); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, "ada's lamp of 302 is dark", func() bool { return ada.BLF("302") == phone.LampUnknown })
		if err := ada.Unregister(ctx); err != nil {
			t.Fatal(err)
		}
		var lines []struct {
			Number     string `json:"number"`
			Registered bool   `json:"registered"`
		}
		d.json(&lines, "line", "list")
		for _, l := range lines {
			if l.Registered && l.Number != "303" {
				t.Errorf("line %s is still registered", l.Number)
			}
		}
		// It said goodbye: that is no fault.
		if out := d.verb("phone", "show", "SEP001122AA0001"); !strings.Contains(out, "goodbye") || strings.Contains(out, "stuck") {
			t.Errorf("phone show of a phone that said goodbye:\n%s", out)
		}
	})
	unharmed(t, ada, ben, cleo)
	t.Run("power cut", func(t *testing.T) {
		feature.Proves(t, "DNS-8", "HLG-4", "CFS-6")
		d.verb("line", "dnd", "302", "on")
		d.verb("line", "hunt", "302", "off")
		d.verb("line", "forward", "302", "303")
		for _, p := range []*phone.Phone{ada, ben, cleo} {
			p.Stop()
		}
		d.kill()
		d.start()
		ada, ben := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2)
		d.ready(ada)
		d.ready(ben)
		m := wire(t, ben, 0, "initial state", referWith("<bulkupdate>"))
		expect(t, m, "<state>enable</state>", "<status>off</status>", "<fwdaddress>303</fwdaddress>")
		eventually(t, 10*time.Second, "ada's lamp of 302 shows do-not-disturb", func() bool { return ada.BLF("302") == phone.LampDND })
		unharmed(t, ada, ben)
	})
}

// officeCommands checks what the command line tells and refuses.
func officeCommands(t *testing.T, d *daemon, ada, ben *phone.Phone) {
	feature.Proves(t, "CMD-4", "CMD-5", "OPT-1", "OPT-2", "OPT-3", "CMD-6")
	var p struct {
		Registration struct {
			Load, InactiveLoad, LastReset, RegisterCallID string
		} `json:"registration"`
		Watches []struct {
			Number, Shows string
			Confirmed     bool
		} `json:"watches"`
	}
	out := d.verb("phone", "show", "SEP001122AA0001")
	for _, want := range []string{ada.RegisterCallID(), "sip88xx.14-2-1-0101-58", "1: 301", "2: 311", "302 idle", "305 closed", "initialized (25)"} {
		if !strings.Contains(out, want) {
			t.Errorf("phone show does not say %q:\n%s", want, out)
		}
	}
	if d.json(&p, "phone", "show", "SEP001122AA0001"); len(p.Watches) != 3 || !p.Watches[0].Confirmed {
		t.Errorf("phone show --json says %+v", p)
	}
	var watchers []struct {
		Number, Shows, Watcher, Device, By string
		Confirmed                          bool
	}
	d.json(&watchers, "watch", "list", "302")
	keys := 0
	for _, w := range watchers {
		if w.Number != "302" {
			t.Errorf("watch list 302 shows who watches %s", w.Number)
		}
		if w.By == "key" && w.Shows == "idle" && w.Confirmed {
			keys++
		}
	}
	if keys != 2 {
		t.Errorf("watch list 302 says %+v, want two confirmed idle keys", watchers)
	}
	mark := ada.Mark()
	d.verb("watch", "refresh", "302")
	wire(t, ada, mark, "lamp again", presenceOf("302"))
	mark = ada.Mark()
	d.verb("watch", "refresh", "SEP001122AA0001")
	wire(t, ada, mark, "initial state again", referWith("<bulkupdate>"))
	var check struct {
		Lines, Lamps int
		Repaired     []string
	}
	if d.json(&check, "watch", "check"); check.Lines != 4 || check.Lamps < 8 || len(check.Repaired) > 0 {
		t.Errorf("watch check says %+v, want 4 lines, 8 lamps or more, and nothing to repair", check)
	}
	for name, want := range map[string]string{
		"ciscodevicename": "SEP001122AA0001", "ciscolineindex": "2", "regcallid": ada.RegisterCallID(), "vmexten": "309", "callforward": "",
		"donotdisturb": "no", "huntgroup": "yes", "status": "OK",
	} {
		if got := strings.TrimSpace(d.verb("line", "get", "311", name)); got != want {
			t.Errorf("field %s of 311 is %q, want %q", name, got, want)
		}
	}
	mark = ben.Mark()
	d.verb("line", "set", "302", "donotdisturb", "yes")
	wire(t, ben, mark, "dndupdate", referWith("<dndupdate>", "enable"))
	d.verb("line", "set", "302", "donotdisturb", "no")
	for _, c := range []struct {
		code int
		args []string
	}{
		{1, []string{"line", "get", "999", "callforward"}}, {1, []string{"line", "get", "301", "shoesize"}}, {1, []string{"line", "set", "301", "vmexten", "1"}},
		{1, []string{"line", "set", "301", "callforward", "999"}}, {2, []string{"line", "dnd", "301", "maybe"}}, {1, []string{"watch", "list", "999"}},
		{1, []string{"watch", "refresh", "999"}}, {1, []string{"switch", "set", "moon", "on"}}, {2, []string{"line", "messages", "301", "many"}},
		{2, []string{"phone", "restart"}}, {1, []string{"phone", "restart", "--group", "999"}}, {2, []string{"phone", "restart", "--all", "--every", "soon"}},
		{1, []string{"phone", "rollout", "77"}}, {1, []string{"phone", "report", "SEP001122AA0003"}},
	} {
		if out, code := d.try(c.args...); code != c.code || !strings.HasPrefix(out, "ringfence: ") {
			t.Errorf("ringfence %v: status %d, want %d, and a reason\n%s", c.args, code, c.code, out)
		}
	}
}
