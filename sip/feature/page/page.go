// Package page lets somebody speak to many phones at once: whoever dials the number of a group is heard from the speakers of its
// phones, which do not ring ("rtp-streaming" §1, §3, §4).
//
//	dialled --members told by REFER--> answered --500 ms--> streaming --caller hangs up, 10 s of nothing--> members told to stop
//	   |--group is paging, nobody is free: 486       (a phone that refuses, or says nothing for 3 s, is left out)
//
// Each phone is told in one REFER what to show, to beep, and where to listen. The sound is encoded once. A group in mode multicast is
// one stream; its phones behind the VPN, which carries no multicast, get the same stream by unicast.
//
// A phone plays one stream at a time, and is told to stop without saying which; so one that another page has is left out.
//
// Play pages a sound, as from a file, without a caller. It leaves out: G.729, priorities between pages. Anyone on the way can hear a page; phones take no encryption here.
package page

import (
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ringfence/config"
	"ringfence/media"
	"ringfence/sip/call"
	"ringfence/sip/cisco"
	"ringfence/sip/plan"
	"ringfence/sip/registrar"
	"ringfence/sip/state"
)

const (
	replyWithin = 3 * time.Second
	settleFor   = 500 * time.Millisecond // a phone needs that long to open its speaker
	giveUpAfter = 10 * time.Second
)

// Pages is every paging group of a site.
type Pages struct {
	log *slog.Logger

	mu     sync.Mutex
	groups map[string]config.PageGroup
	remote []netip.Prefix   // of the VPN
	busy   map[string]*page // groups that page; nil until it has begun
	paged  map[string]bool  // phones that play a page
	turns  uint64
}

// New makes the groups of a document.
func New(d *config.Document, log *slog.Logger) *Pages {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Pages{log: log.With("component", "page"), busy: map[string]*page{}, paged: map[string]bool{}}
	p.Reload(d)
	return p
}

// Reload takes a new document. Pages that are under way go on.
func (p *Pages) Reload(d *config.Document) {
	groups := map[string]config.PageGroup{}
	for _, g := range d.Paging {
		groups[string(g.Number)] = g
	}
	var remote []netip.Prefix
	for _, v := range d.VPN.Policies {
		remote = append(remote, v.Pool)
	}
	p.mu.Lock()
	p.groups, p.remote = groups, remote
	p.mu.Unlock()
}

// take makes a group busy with a page.
func (p *Pages) take(number string) (g config.PageGroup, ok, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if g, known = p.groups[number]; !known {
		return g, false, false
	}
	if _, taken := p.busy[number]; taken {
		return g, false, true
	}
	p.busy[number] = nil
	return g, true, true
}

func (p *Pages) free(number string) {
	p.mu.Lock()
	delete(p.busy, number)
	p.mu.Unlock()
}

// behind tells whether a phone is reached through the VPN.
func (p *Pages) behind(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.remote, func(x netip.Prefix) bool { return x.Contains(a) })
}

// page is one under way. What comes before the sound happens in one goroutine at a time: that of the caller's owner, once that is there.
type page struct {
	pages   *Pages
	m       *call.Manager
	group   config.PageGroup
	key     string // in Pages.busy
	leg     string // as what it is shown at the lines of its phones
	all     []*member
	members []*member // that have taken it
	monitor *media.Monitor

	mu     sync.Mutex
	party  *call.Solo // nil for a sound
	stream *media.Stream
	after  func() // once it is over; may be nil
	over   bool
}

// member is a phone that is paged.
type member struct {
	binding *registrar.Binding
	target  netip.AddrPort // where its stream goes
	listen  netip.Addr     // where it is told that the stream comes from, or the group
}

// Dialled is called when a group's number was dialled.
func (p *Pages) Dialled(c *call.Call, o plan.Object) {
	g, ok, known := p.take(o.Number)
	switch {
	case !known:
		c.Refuse(404)
		return
	case !ok:
		c.Refuse(486)
		return
	}
	caller := c.Caller()
	if caller == nil {
		p.free(o.Number)
		c.Refuse(486)
		return
	}
	x := p.page(c.Manager(), c.Plan(), g, o.Number, caller.Device)
	if len(x.members) == 0 {
		x.end()
		c.Refuse(486)
		return
	}
	p.log.Info("page", "line", caller.Number, "dialled", o.Number, "phones", len(x.members))
	x.start(text(g, caller), func() { x.begin(c) })
}

// page is a new one to the phones of a group that can be paged now. Its key is taken.
func (p *Pages) page(m *call.Manager, pl *plan.Plan, g config.PageGroup, key, except string) *page {
	x := &page{pages: p, m: m, group: g, key: key}
	x.members = p.members(m, pl, g, except)
	x.all = x.members
	p.mu.Lock()
	p.turns++
	x.leg = "page-" + strconv.FormatUint(p.turns, 10)
	p.busy[key] = x
	p.mu.Unlock()
	if g.MarkBusy {
		for _, b := range x.all {
			m.State().SetLeg(b.binding.Line, x.leg, state.Active)
		}
	}
	return x
}

// members are the phones of a group that can be paged now, each once; they are taken.
func (p *Pages) members(m *call.Manager, pl *plan.Plan, g config.PageGroup, except string) (list []*member) {
	for _, number := range g.Members {
		for _, b := range m.Reachable(string(number)) {
			if !b.Cisco || except != "" && except == b.Device || !g.IncludeBusy && m.Engaged(pl, b.Device) || !p.takePhone(b.Device) {
				continue
			}
			x := &member{binding: b, listen: b.Flow.Local().Addr().Unmap()}
			x.target = netip.AddrPortFrom(b.Flow.Remote().Addr().Unmap(), uint16(g.Port))
			if g.Mode == "multicast" && !p.behind(x.target.Addr()) {
				x.listen, x.target = g.Group, netip.AddrPortFrom(g.Group, uint16(g.Port))
			}
			list = append(list, x)
		}
	}
	return list
}

// takePhone tells whether no page has the phone; it has one then.
func (p *Pages) takePhone(device string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paged[device] {
		return false
	}
	p.paged[device] = true
	return true
}

// text is what the phones show.
func text(g config.PageGroup, caller *plan.Line) string {
	return strings.NewReplacer("{caller.number}", caller.Number, "{line.number}", caller.Number, "{caller.name}", caller.Name,
		"{group.name}", g.Name).Replace(g.Text)
}

// start tells every member to listen; then is called once all have answered, or have taken too long. Those that did not take it are
// left out.
func (x *page) start(text string, then func()) {
	var mu sync.Mutex
	waiting, done := len(x.members), false
	var took []*member
	finish := func() { // mu is held
		if !done {
			done = true
			x.members = took
			go then()
		}
	}
	timer := time.AfterFunc(replyWithin, func() {
		mu.Lock()
		defer mu.Unlock()
		finish()
	})
	for _, m := range x.members {
		var parts []cisco.Part
		request := func(r cisco.Request) { parts = append(parts, cisco.Part{Type: cisco.TypeRequest, Body: r.Marshal()}) }
		if text != "" {
			request(cisco.Request{StatusLine: &cisco.StatusLine{Text: text, Seconds: 10, Priority: 1}})
		}
		if x.group.Beep {
			request(cisco.Request{PlayTone: &cisco.PlayTone{Tone: "DtZipZip"}})
		}
		start := &cisco.StartMedia{Volume: x.group.Volume, Codec: codecOf(x.group), Address: m.listen, Port: x.group.Port}
		if err := start.Check(); err != nil {
			x.pages.log.Info("phone is not paged", "phone", m.binding.Device, "err", err)
			mu.Lock()
			if waiting--; waiting == 0 {
				timer.Stop()
				finish()
			}
			mu.Unlock()
			continue
		}
		x.m.State().PushParts(m.binding, func(code int, err error) {
			mu.Lock()
			defer mu.Unlock()
			waiting--
			switch {
			case err == nil && code < 300 && !done:
				took = append(took, m)
			case err == nil && code < 300:
				x.tellStop(m) // too late
			default:
				x.pages.log.Info("phone is not paged", "phone", m.binding.Device, "code", code, "err", err)
			}
			if waiting == 0 {
				timer.Stop()
				finish()
			}
		}, append(parts, withData(start.Marshal())...)...)
	}
}

func codecOf(g config.PageGroup) string {
	if g.Codec == "G.711" {
		return "G.711"
	}
	return "G.722"
}

// withData are the parts of a document of the phone's media interface.
func withData(document []byte) []cisco.Part {
	data := cisco.Request{Data: &cisco.DataPassthrough{}}
	return []cisco.Part{{Type: cisco.TypeRequest, Body: data.Marshal()}, {Type: cisco.TypeCM, Body: document}}
}

func (x *page) tellStop(m *member) {
	x.m.State().PushParts(m.binding, nil, withData(cisco.StopMedia())...)
}

// begin answers the caller, once the phones are ready.
func (x *page) begin(c *call.Call) {
	c.Later(func() {
		if len(x.members) == 0 {
			x.end()
			c.Refuse(480)
			return
		}
		party, err := c.Receive("paging", call.Identity{Name: x.group.Name, Number: string(x.group.Number)})
		if err != nil {
			x.pages.log.Info("page ends", "err", err)
			x.end()
			return
		}
		x.mu.Lock()
		x.party = party
		x.mu.Unlock()
		party.Left = x.end
		party.After(settleFor, x.sound)
	}, x.end)
}

// sound begins the stream of what the caller says.
func (x *page) sound() {
	var err error
	if x.monitor, err = x.party.Monitor(); err == nil {
		err = x.send(x.monitor, nil)
	}
	if err != nil {
		x.pages.log.Error("page", "err", err)
		x.end()
		x.party.HangUp()
		return
	}
	x.party.After(giveUpAfter, x.watch)
}

// send begins the stream to all members; done is called at the end of the sound, and may be nil.
func (x *page) send(source media.Source, done func()) error {
	var targets []netip.AddrPort
	for _, m := range x.members {
		if !slices.Contains(targets, m.target) {
			targets = append(targets, m.target)
		}
	}
	codec := map[string]string{"G.711": "PCMU", "G.722": "G722"}[codecOf(x.group)]
	s, err := x.m.Streams().NewStream(source, media.StreamOptions{Codec: codec, Targets: targets, From: x.members[0].binding.Flow.Local().Addr().Unmap(), Done: done})
	if err != nil {
		return err
	}
	x.mu.Lock()
	over := x.over
	if !over {
		x.stream = s
	}
	x.mu.Unlock()
	if over {
		s.Stop()
		return nil
	}
	s.Start()
	return nil
}

// watch ends a page whose caller's phone is silent.
func (x *page) watch() {
	if x.ended() {
		return
	}
	if quiet := x.party.Quiet(); quiet < giveUpAfter {
		x.party.After(giveUpAfter-quiet+time.Millisecond, x.watch)
		return
	}
	x.pages.log.Info("page ends: nothing is said")
	x.end()
	x.party.HangUp()
}

func (x *page) ended() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.over
}

// end stops everything that was started. The phones are told whether or not anything was heard.
func (x *page) end() {
	x.mu.Lock()
	over, stream := x.over, x.stream
	x.over = true
	x.mu.Unlock()
	if over {
		return
	}
	if stream != nil {
		stream.Stop()
	}
	if x.monitor != nil {
		x.monitor.Stop()
	}
	for _, m := range x.members {
		x.tellStop(m)
	}
	for _, m := range x.all {
		if x.group.MarkBusy {
			x.m.State().SetLeg(m.binding.Line, x.leg, state.Idle)
		}
	}
	x.pages.mu.Lock()
	for _, m := range x.all {
		delete(x.pages.paged, m.binding.Device)
	}
	x.pages.mu.Unlock()
	x.pages.free(x.key)
	if x.after != nil {
		x.after()
	}
}
