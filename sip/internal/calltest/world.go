// Package calltest is a small world for tests of calls: a Manager with real transactions and media, flows without sockets, and
// phones with the manners of the pages. It is made for testing/synctest: nothing in it waits for real time, and any message
// can be lost on the way.
package calltest

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/config"
	"ringfence/media"
	"ringfence/sip/call"
	"ringfence/sip/cisco"
	"ringfence/sip/feature"
	"ringfence/sip/flow"
	"ringfence/sip/plan"
	"ringfence/sip/registrar"
	"ringfence/sip/state"
	"ringfence/sip/transaction"
)

// Server is the server's address in this world.
var Server = netip.MustParseAddr("192.0.2.10")

// Message is one message on the wire.
type Message struct {
	At   time.Time
	From string // number of the phone, or "server"
	To   string
	Text string
}

// Short is the start line without the URI: "301 > INVITE", "302 < 200 INVITE".
func (m Message) Short() string {
	dir, phone := ">", m.From
	if m.From == "server" {
		dir, phone = "<", m.To
	}
	first, _, _ := strings.Cut(m.Text, "\r\n")
	f := strings.Fields(first)
	if f[0] == "SIP/2.0" {
		return fmt.Sprintf("%s %s %s %s", phone, dir, f[1], m.method())
	}
	return fmt.Sprintf("%s %s %s", phone, dir, f[0])
}

func (m Message) method() string {
	f := strings.Fields(m.Header("CSeq"))
	if len(f) == 2 {
		return f[1]
	}
	return ""
}

// Header returns the value of the first header with a name.
func (m Message) Header(name string) string {
	head, _, _ := strings.Cut(m.Text, "\r\n\r\n")
	for line := range strings.SplitSeq(head, "\r\n") {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(k, name) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// Body returns what follows the headers.
func (m Message) Body() string {
	_, body, _ := strings.Cut(m.Text, "\r\n\r\n")
	return body
}

// World is a server with its phones.
type World struct {
	T       testing.TB
	Manager *call.Manager
	// Features are those that are installed; Kept is what they have stored.
	Features *feature.Features
	Kept     map[string][]byte
	Layer    *transaction.Layer
	Engine   *media.Engine
	Doc      *config.Document

	// Drop, when set, loses messages on the way.
	Drop func(m Message) bool
	// Quiet keeps no messages, for benchmarks.
	Quiet bool
	// Rewrite, when set, changes them.
	Rewrite func(m Message) string

	sessions  int // of the engine, before
	fault     *faulty
	forgiving bool // phones may see what the rules forbid, since messages are tampered with

	mu       sync.Mutex
	phones   map[string][]*Phone // by number
	byFlow   map[string]*Phone
	wire     []Message
	legs     map[string]map[string]state.Phase
	phases   []string        // "301 active", in order
	lit      map[string]bool // legs that were shown at some time
	ended    []call.Info
	dnd      map[string]bool
	out      map[string]bool // of hunt groups
	switches map[string]bool
	fwd      map[string]string
	slots    map[string]bool
	flows    int
}

// Lines is the cast: 301 Ada and 302 Ben with phones, 303 Cleo and 304 Dan.
func Lines() *config.Document {
	line := func(number, user, phone string) config.Line {
		return config.Line{
			Number: config.Digits(number), User: user, Phone: phone, Index: 1, Rights: []string{"internal"}, MaxCalls: 4, BusyAt: 2,
			RingSeconds: 30, OnBusy: "busy", OnNoAnswer: "hangup", OnUnreachable: "hangup", OnIDivert: "busy",
		}
	}
	return &config.Document{
		Users: []config.User{{ID: "ada", Name: "Ada"}, {ID: "ben", Name: "Ben"}, {ID: "cleo", Name: "Cleo"}, {ID: "dan", Name: `Dan "D" <&>`}},
		Phones: []config.Phone{
			{Device: "SEP001122AA0001", Model: "8851", Security: config.SecurityEncrypted},
			{Device: "SEP001122AA0002", Model: "7965", Security: config.SecurityNonsecure},
			{Device: "SEP001122AA0003", Model: "7841", Security: config.SecurityNonsecure},
		},
		Lines: []config.Line{
			line("301", "ada", "SEP001122AA0001"), line("302", "ben", "SEP001122AA0002"), line("303", "cleo", "SEP001122AA0003"), line("304", "dan", ""),
		},
	}
}

// NewEngine makes the media engine of a test binary. It must be made outside of any bubble, in TestMain.
func NewEngine() (*media.Engine, func()) {
	e, err := media.New(media.Options{Address: netip.MustParseAddr("127.0.0.1"), First: 30000, Last: 39999, Workers: 1})
	if err != nil {
		panic(err)
	}
	e.Start()
	return e, e.Stop
}

// New makes a world with the given engine.
func New(t testing.TB, e *media.Engine, edit ...func(*config.Document, *call.Options)) *World {
	t.Helper()
	w := &World{
		T: t, Engine: e, Doc: Lines(), sessions: e.Totals().Sessions, phones: map[string][]*Phone{}, byFlow: map[string]*Phone{},
		legs: map[string]map[string]state.Phase{}, lit: map[string]bool{}, dnd: map[string]bool{}, fwd: map[string]string{}, out: map[string]bool{}, switches: map[string]bool{}, slots: map[string]bool{},
		Kept: map[string][]byte{},
	}
	w.Layer = transaction.New(transaction.Options{
		OnRequest: w.request, OnAck: func(f flow.Flow, ack *sip.Request) { w.Manager.Ack(f, ack) },
	})
	var compiled *plan.Plan
	o := call.Options{
		Transactions: w.Layer, Bindings: w, State: worldState{w}, Media: e, Plan: func() *plan.Plan { return compiled }, Address: Server,
		SessionExpires: 1800 * time.Second,
		Ended: func(i call.Info) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if !w.Quiet {
				w.ended = append(w.ended, i)
			}
		},
	}
	for _, f := range edit {
		f(w.Doc, &o)
	}
	refer := o.Refer
	w.Features = feature.Install(&o, feature.Options{Doc: w.Doc, Store: w, Lamp: w.SetSlot, Free: w.Free})
	if refer != nil {
		o.Refer = refer // a test's own
	}
	compiled = plan.Compile(w.Doc)
	m, err := call.New(o)
	if err != nil {
		t.Fatal(err)
	}
	w.Manager = m
	w.Features.Attach(m)
	return w
}

// Close stops the server and takes the phones away.
func (w *World) Close() {
	w.Manager.Stop()
	w.Features.Stop()
	w.mu.Lock()
	var all []*Phone
	for _, list := range w.phones {
		all = append(all, list...)
	}
	w.mu.Unlock()
	for _, p := range all {
		p.Unplug()
	}
}

// request is what the root of sip does with requests.
func (w *World) request(tx *transaction.Server) {
	req := tx.Request()
	if _, in := req.To().Params.Get("tag"); in {
		if !w.Manager.InDialog(tx) {
			tx.Answer(481)
		}
		return
	}
	p := w.phoneOf(tx.Flow())
	if p == nil {
		tx.Answer(403)
		return
	}
	id := registrar.Identity{Device: p.Device, Primary: p.Number, Line: p.Number, Binding: p.binding, Cisco: p.Device != ""}
	switch req.Method {
	case sip.INVITE:
		w.Manager.Invite(tx, id)
	case sip.REFER:
		requests, choice, err := cisco.Requests(transaction.Header(req, "Content-Type"), req.Body())
		if err != nil || !w.Manager.RemoteControl(tx, id, requests, choice) {
			tx.Answer(603)
		}
	default:
		tx.Answer(481)
	}
}

func (w *World) phoneOf(f flow.Flow) *Phone {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.byFlow[f.ID()]
}

// Lookup is call.Bindings.
func (w *World) Lookup(line string) []*registrar.Binding {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []*registrar.Binding
	for _, p := range w.phones[line] {
		list = append(list, p.binding)
	}
	return list
}

// ByFlowLine is call.Bindings.
func (w *World) ByFlowLine(f flow.Flow, _ string) (registrar.Identity, bool) {
	p := w.phoneOf(f)
	if p == nil {
		return registrar.Identity{}, false
	}
	return registrar.Identity{Device: p.Device, Line: p.Number, Primary: p.Number, Binding: p.binding}, true
}

// Write is feature.Store.
func (w *World) Write(_ context.Context, set map[string][]byte, del ...string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.Copy(w.Kept, set)
	for _, k := range del {
		delete(w.Kept, k)
	}
	return nil
}

// Scan is feature.Store.
func (w *World) Scan(prefix string, fn func(key string, value []byte) bool) {
	w.mu.Lock()
	kept := maps.Clone(w.Kept)
	w.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(kept)) {
		if strings.HasPrefix(k, prefix) && !fn(k, kept[k]) {
			return
		}
	}
}

// Free tells whether a line has neither calls nor do-not-disturb.
func (w *World) Free(line string) bool {
	l, _ := w.Doc.Line(line)
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.legs[line]) == 0 && len(w.phones[line]) > 0 && (l == nil || !w.dnd[l.Phone])
}

// SetLeg is call.State.
func (w *World) SetLeg(line, leg string, p state.Phase) {
	defer w.changed(line)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.legs[line] == nil {
		w.legs[line] = map[string]state.Phase{}
	}
	if w.legs[line][leg] == p {
		return
	}
	if !w.Quiet {
		w.lit[leg] = true
		w.phases = append(w.phases, line+" "+p.String())
	}
	if p == state.Idle {
		delete(w.legs[line], leg)
		return
	}
	w.legs[line][leg] = p
}

// DND is call.State.
func (w *World) DND(device string) bool { w.mu.Lock(); defer w.mu.Unlock(); return w.dnd[device] }

// OffHook is call.State: nobody dials digit by digit here.
func (w *World) OffHook(string) bool { return false }

// DNDReject is call.State.
func (w *World) DNDReject(string) bool { return true }

// SetDND switches do-not-disturb of a device.
func (w *World) SetDND(device string, on bool) {
	w.mu.Lock()
	w.dnd[device] = on
	w.mu.Unlock()
	for _, l := range w.Doc.Lines {
		if l.Phone == device {
			w.changed(string(l.Number))
		}
	}
}

// changed tells the features about a line, soon, as the feed of the state does.
func (w *World) changed(line string) {
	if f := w.Features; f != nil && !w.Quiet {
		time.AfterFunc(time.Millisecond, func() { f.Changed(line) })
	}
}

// worldState is call.State, where it differs from what tests call.
type worldState struct{ *World }

// SetDND is call.State.
func (s worldState) SetDND(_ context.Context, device string, on bool, _ state.Origin) error {
	s.World.SetDND(device, on)
	return nil
}

// HuntLogin is call.State: everybody is logged in who has not logged out.
func (w *World) HuntLogin(device string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.out[device]
}

// SetHuntLogin is call.State.
func (w *World) SetHuntLogin(_ context.Context, device string, on bool, _ state.Origin) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out[device] = !on
	return nil
}

// Switch is call.State.
func (w *World) Switch(name string) bool { w.mu.Lock(); defer w.mu.Unlock(); return w.switches[name] }

// SetSwitch is call.State.
func (w *World) SetSwitch(_ context.Context, name string, to bool, _ state.Origin) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.switches[name] = to
	return nil
}

// Forward is call.State.
func (w *World) Forward(line string) string { w.mu.Lock(); defer w.mu.Unlock(); return w.fwd[line] }

// SetForward is call.State.
func (w *World) SetForward(_ context.Context, line, target string, _ state.Origin) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fwd[line] = target
	return nil
}

// SetSlot is call.State.
func (w *World) SetSlot(number string, busy bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slots[number] = busy
}

// Slot tells whether a slot is shown as busy, and whether it is known at all.
func (w *World) Slot(number string) (busy, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	busy, known = w.slots[number]
	return
}

// Push is call.State.
func (w *World) Push(b *registrar.Binding, done func(int, error), requests ...cisco.Request) {
	parts := make([]cisco.Part, len(requests))
	for i := range requests {
		parts[i] = cisco.Part{Type: cisco.TypeRequest, Body: requests[i].Marshal()}
	}
	w.PushParts(b, done, parts...)
}

// PushParts is call.State: the phone takes it after a moment.
func (w *World) PushParts(b *registrar.Binding, done func(int, error), parts ...cisco.Part) {
	if done == nil {
		done = func(int, error) {}
	}
	w.mu.Lock()
	p := w.byFlow[b.Flow.ID()]
	w.mu.Unlock()
	if done == nil {
		done = func(int, error) {}
	}
	time.AfterFunc(10*time.Millisecond, func() {
		if p == nil || !b.Reachable() {
			done(0, flow.ErrClosed)
			return
		}
		done(p.pushedTo(parts), nil)
	})
}

// Phases are the changes of lamps so far, "302 ringing".
func (w *World) Phases() []string { w.mu.Lock(); defer w.mu.Unlock(); return slices.Clone(w.phases) }

// Ended are the calls that are over.
func (w *World) Ended() []call.Info { w.mu.Lock(); defer w.mu.Unlock(); return slices.Clone(w.ended) }

// Wire is what was sent so far, lost messages included.
func (w *World) Wire() []Message { w.mu.Lock(); defer w.mu.Unlock(); return slices.Clone(w.wire) }

// Ladder is Wire in short, without 100 Trying.
func (w *World) Ladder() []string {
	var out []string
	for _, m := range w.Wire() {
		if s := m.Short(); !strings.HasSuffix(s, " 100 INVITE") {
			out = append(out, s)
		}
	}
	return out
}

// Find returns the messages whose Short is s.
func (w *World) Find(s string) []Message {
	var out []Message
	for _, m := range w.Wire() {
		if m.Short() == s {
			out = append(out, m)
		}
	}
	return out
}

// Last returns the last message whose Short is s; the test fails if there is none.
func (w *World) Last(s string) Message {
	w.T.Helper()
	list := w.Find(s)
	if len(list) == 0 {
		w.T.Fatalf("no %q in\n%s", s, strings.Join(w.Ladder(), "\n"))
	}
	return list[len(list)-1]
}

// Left describes what the server still has; empty when everything is over.
func (w *World) Left() string {
	var left []string
	calls, dialogs, lines := w.Manager.Counts()
	add := func(n int, what string) {
		if n != 0 {
			left = append(left, fmt.Sprintf("%d %s", n, what))
		}
	}
	add(calls, "calls")
	add(dialogs, "dialogs")
	add(lines, "busy lines")
	add(w.Layer.Count(), "transactions")
	add(w.Engine.Totals().Sessions-w.sessions, "media sessions")
	w.mu.Lock()
	for _, line := range slices.Sorted(maps.Keys(w.legs)) {
		for leg, p := range w.legs[line] {
			left = append(left, fmt.Sprintf("leg %s of %s %s", leg, line, p))
		}
	}
	w.mu.Unlock()
	return strings.Join(left, ", ")
}

// note records a message and returns what arrives of it at once.
func (w *World) note(from, to string, text string, later func(string)) string {
	if w.Quiet {
		return text
	}
	m := Message{At: time.Now(), From: from, To: to, Text: text}
	w.mu.Lock()
	n := len(w.wire)
	w.wire = append(w.wire, m)
	drop, rewrite := w.Drop, w.Rewrite
	w.mu.Unlock()
	if drop != nil && drop(m) {
		return ""
	}
	if rewrite != nil {
		text = rewrite(m)
	}
	return w.apply(n, text, later)
}

// pipe is one end of a connection without sockets.
type pipe struct {
	id          string
	proto       string
	local, peer netip.AddrPort
	out         chan []byte
	send        func(text string, later func(string)) string
	done        chan struct{}
	close       func()
}

func (p *pipe) ID() string                     { return p.id }
func (p *pipe) Transport() string              { return p.proto }
func (p *pipe) Local() netip.AddrPort          { return p.local }
func (p *pipe) Remote() netip.AddrPort         { return p.peer }
func (p *pipe) Secure() bool                   { return p.proto == "TLS" }
func (p *pipe) Certificate() *x509.Certificate { return nil }
func (p *pipe) Device() string                 { return "" }
func (p *pipe) Opened() time.Time              { return time.Time{} }
func (p *pipe) Done() <-chan struct{}          { return p.done }
func (p *pipe) Close(error)                    { p.close() }

func (p *pipe) Send(m sip.Message) error {
	select {
	case <-p.done:
		return flow.ErrClosed
	default:
	}
	deliver := func(text string) {
		select {
		case p.out <- []byte(text):
		default:
			p.close()
		}
	}
	if text := p.send(m.String(), deliver); text != "" {
		deliver(text)
	}
	return nil
}

// connect makes both ends of a connection; each end's messages go to the other's layer.
func connect(t testing.TB, id, proto string, server, phone netip.AddrPort, toPhone, toServer func(string, func(string)) string) (s, p *pipe, run func(serve func(flow.Flow, sip.Message), phone func(flow.Flow, sip.Message))) {
	done := make(chan struct{})
	var once sync.Once
	closeAll := func() { once.Do(func() { close(done) }) }
	s = &pipe{id: id, proto: proto, local: server, peer: phone, out: make(chan []byte, 1000), send: toPhone, done: done, close: closeAll}
	p = &pipe{id: id + " phone", proto: proto, local: phone, peer: server, out: make(chan []byte, 1000), send: toServer, done: done, close: closeAll}
	run = func(serve, ring func(flow.Flow, sip.Message)) {
		read := func(from, to *pipe, deliver func(flow.Flow, sip.Message)) {
			for {
				select {
				case <-done:
					return
				case b := <-from.out:
					m, err := parser().ParseSIP(b)
					if err != nil {
						t.Errorf("sent %q: %v", b, err)
						continue
					}
					deliver(to, m)
				}
			}
		}
		go read(p, s, serve)
		go read(s, p, ring)
	}
	return s, p, run
}

// parser leaves as text what the flows leave as text.
func parser() *sip.Parser {
	headers := maps.Clone(sip.DefaultHeadersParser())
	for _, name := range []string{"contact", "m", "refer-to", "r", "referred-by", "b"} {
		delete(headers, name)
	}
	return sip.NewParser(sip.WithHeadersParsers(headers))
}
