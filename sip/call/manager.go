// Package call is the back-to-back user agent: it takes calls of phones, asks the plan what becomes of them, rings other phones
// and joins the two ("sip-calls" §1 to §4, §22 to §24, §27, §30).
//
// A Call is one goroutine (owner.go) that owns its legs. A Leg (leg.go) is one phone's part: dialog, offer and answer, one
// audio stream. Whatever happens to a leg, an answer, a request, a timer, is put into the leg's queue and handled by the owner
// of the leg, one thing after the other; owners never wait for each other. The two legs of a call share no message: requests,
// answers and descriptions are made anew for each.
//
// The operations that features are made of are methods of Call and Leg (operations.go): hang up, join, transfer, hand a party
// over to another call, change what a phone shows. Features live in packages under sip/feature and are given to the Manager as
// functions.
//
// Every leg ends: a phone that says nothing, or is gone without a word, is found by the limit of its transaction, by the ring
// time of its line, or, once it talks, by a question when neither audio nor signalling was heard for a while.
//
// It leaves out: video.
package call

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/internal/task"
	"ringfence/media"
	"ringfence/sip/cisco"
	"ringfence/sip/flow"
	"ringfence/sip/plan"
	"ringfence/sip/registrar"
	"ringfence/sip/sdp"
	"ringfence/sip/state"
	"ringfence/sip/transaction"
)

// Bindings tells where phones are; *registrar.Registrar is one.
type Bindings interface {
	Lookup(line string) []*registrar.Binding
	ByFlowLine(f flow.Flow, line string) (registrar.Identity, bool)
}

// State is what calls read and report; *state.State is one.
type State interface {
	SetLeg(line, leg string, p state.Phase)
	DND(device string) bool
	OffHook(device string) bool
	DNDReject(device string) bool
	Forward(line string) string
	SetForward(ctx context.Context, line, target string, by state.Origin) error
	SetDND(ctx context.Context, device string, on bool, by state.Origin) error
	HuntLogin(device string) bool
	SetHuntLogin(ctx context.Context, device string, on bool, by state.Origin) error
	Switch(name string) bool
	SetSwitch(ctx context.Context, name string, on bool, by state.Origin) error
	SetSlot(number string, busy bool)
	Push(b *registrar.Binding, done func(code int, err error), requests ...cisco.Request)
	PushParts(b *registrar.Binding, done func(code int, err error), parts ...cisco.Part)
}

// SRTP is the policy for encrypted audio (the document's sip.srtp).
type SRTP uint8

// Policies.
const (
	PreferSRTP SRTP = iota
	RequireSRTP
	NeverSRTP
)

// Options configure a Manager.
type Options struct {
	Log          *slog.Logger
	Transactions *transaction.Layer
	Bindings     Bindings
	State        State
	Media        *media.Engine
	Plan         func() *plan.Plan // the plan of now; a call keeps the one it began with
	Address      netip.Addr        // ours, where a connection does not tell
	SRTP         SRTP

	SessionExpires time.Duration // offered to phones with session timers; 0 is off
	ProbeAfter     time.Duration // silence of a leg before it is asked; 20 s
	LeaveWithin    time.Duration // time for a phone to hang up what it has transferred; 4 s
	MaxCalls       int           // at once, in all; 5000
	Country        string        // code of the country whose tones are played
	Codecs         []sdp.Codec   // that may be used, preferred first; every codec that can be relayed

	// Music is what parties on hold hear, by its name, "default" where none is given; nil, or a nil player: a built-in melody. It must not
	// block for long.
	Music func(name string) *media.Player
	// DirectPath tells whether two addresses reach each other without us, for calls whose lines may have direct audio. It must not
	// block. Nil: all do.
	DirectPath func(a, b netip.Addr) bool
	// Refer handles a transfer; nil refuses it.
	Refer func(c *Call, l *Leg, r *Referral)
	// Recall tells how long the one who has transferred a call rings when nobody answers it; nil or 0 is never.
	Recall func() time.Duration
	// Services handle the features that phones call by name (x-cisco-serviceuri-NAME-ARG). They are called in the goroutine of a
	// call whose caller waits for what becomes of it. A name without handler is answered 503.
	Services map[string]func(c *Call, arg string)
	// Numbers handle numbers that are no line's, likewise. A kind without handler is answered 503.
	Numbers map[plan.ObjectKind]func(c *Call, o plan.Object)
	// Outside places calls that leave the house, likewise: d.Outside says how. Nil: they are answered 503.
	Outside func(c *Call, d plan.Decision)
	// Keys handle softkeys that are pressed in a call, by their name, in the goroutine of the call. Others are answered 603.
	Keys map[string]func(c *Call, l *Leg, k *Key)
	// LegKeys handle softkeys that are about the phone's part alone, whatever kind of call it belongs to.
	LegKeys map[string]func(l *Leg, k *Key)
	// IdleKeys handle softkeys that name no call, and those that name one that is not there any more; false refuses the key. They
	// are called while the phone waits, so they must not block.
	IdleKeys map[string]func(k *Key) bool
	// Rang is told when the phone of an outgoing leg begins to ring. May be nil.
	Rang func(c *Call, l *Leg)
	// Up is told when a leg is answered and confirmed, in the goroutine of its owner. May be nil.
	Up func(l *Leg)
	// Alerting is told when a line begins to ring for a call. It must not block. May be nil.
	Alerting func(a Alert)
	// Busy is told when a caller is about to be refused with 486. May be nil.
	Busy func(c *Call, l *Leg)
	// Down is told about each leg that is over, in the goroutine of its last owner. May be nil.
	Down func(l *Leg, i LegInfo)
	// MayPress tells whether a key means something in a leg's call; false refuses it with 603. It is called while the phone waits,
	// so it must not block, and may look at nothing of the leg that changes. May be nil.
	MayPress func(l *Leg, event string) bool
	// Choices takes what a user has chosen in a menu that a feature has pushed; false refuses it. It must not block. May be nil.
	Choices func(id registrar.Identity, d cisco.DataPassthrough, choice string) bool
	// ReferServices handle transfers to a feature that is called by name, likewise. A name without handler is refused.
	ReferServices map[string]func(c *Call, l *Leg, r *Referral, arg string)
	// Field and SetField are the fields of lines, for the rules of the plan (plan.Fields). Either may be nil.
	Field    func(line, name string) (string, bool)
	SetField func(ctx context.Context, line, name, value string) error
	// Join handles an INVITE that names a call of another phone of the same shared line: Barge, CBarge, Resume. Nil refuses it.
	Join func(c *Call, target *Leg, feature string)
	// Appear is told what a phone does with a shared line, for the line's other phones. It must not block. May be nil.
	Appear func(a state.Appearance)
	// Note adds to the boot record of a device; may be nil.
	Note func(device, step, text string, failed bool)
	// Began is told about each call as soon as its parties talk, from the call's goroutine, so it must not block. May be nil.
	Began func(Info)
	// Ended is told about each call that is over, from the call's goroutine: its legs are those that ended there; a leg that moved
	// on stands in the record of where it ended. May be nil.
	Ended func(Info)
}

func (o *Options) validate() error {
	switch {
	case o.Transactions == nil || o.Bindings == nil || o.State == nil || o.Media == nil || o.Plan == nil:
		return errors.New("call: Transactions, Bindings, State, Media and Plan are required")
	case !o.Address.IsValid():
		return errors.New("call: Address is required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.ProbeAfter <= 0 {
		o.ProbeAfter = 20 * time.Second
	}
	if o.LeaveWithin <= 0 {
		o.LeaveWithin = 4 * time.Second
	}
	if o.MaxCalls <= 0 {
		o.MaxCalls = 5000
	}
	if len(o.Codecs) == 0 {
		o.Codecs = []sdp.Codec{sdp.G722, sdp.PCMU, sdp.PCMA, sdp.G729, sdp.Opus, sdp.ILBC20, sdp.ILBC30, sdp.AMRWB1, sdp.AMRWB0}
	}
	return nil
}

// Manager holds the calls.
type Manager struct {
	opt    Options
	log    *slog.Logger
	tasks  *task.Group
	sounds sounds
	legs   atomic.Uint64
	ids    atomic.Uint64

	mu      sync.RWMutex
	stopped bool
	dialogs map[dialogKey]*Leg
	lines   map[string]int // calls that a line has
	places  map[place]int  // legs of a shared line at each of its phones
	alerts  map[*Call][]Alert
	owners  map[*owner]*Info
	past    past
}

type dialogKey struct{ callID, localTag string }

// New returns a Manager without calls.
func New(o Options) (*Manager, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	m := &Manager{
		opt: o, log: o.Log.With("component", "call"), dialogs: map[dialogKey]*Leg{}, lines: map[string]int{}, places: map[place]int{}, owners: map[*owner]*Info{},
		alerts: map[*Call][]Alert{}, past: past{turns: map[string]int{}, last: map[string]time.Time{}, callers: map[string]string{}},
	}
	m.sounds = sounds{melody: o.Media.NewPlayer(media.Melody(), nil), ring: media.ToneOf(o.Country, media.RingBack)}
	m.tasks = task.NewGroup(context.Background(), m.log)
	return m, nil
}

// Stop ends all calls with a BYE to each phone, without waiting for the answers. It is idempotent.
func (m *Manager) Stop() {
	m.mu.Lock()
	m.stopped = true
	m.mu.Unlock()
	m.tasks.Stop()
}

// Invite takes an INVITE outside of a dialog, from a phone that has proved who it is. It answers in any case and does not
// block.
func (m *Manager) Invite(tx *transaction.Server, id registrar.Identity) {
	p := m.opt.Plan()
	line, ok := p.Line(id.Line)
	if !ok {
		tx.Answer(403)
		return
	}
	if refused := m.unacceptable(tx); refused {
		return
	}
	l, err := m.newIncoming(tx, id, line)
	if err != nil {
		m.log.Info("INVITE cannot be answered", "line", id.Line, "peer", tx.Flow().Remote().String(), "err", err)
		tx.Answer(400, sip.NewHeader("Warning", `399 ringfence "no usable Contact"`))
		return
	}
	l.d.Allow, l.d.Supported = orEmpty(l.d.Allow), orEmpty(l.d.Supported)
	c := &Call{m: m, plan: p, from: line.Number, caller: l}
	if !m.startCall(c) {
		m.removeDialog(l)
		tx.Answer(503, sip.NewHeader("Retry-After", "10"))
		return
	}
	c.dialled = tx.Request().Recipient.User
	l.post(func() { c.begin(tx.Request()) })
	c.adopt(l)
	m.tasks.Go("call", c.run, c.cleanup)
}

func orEmpty(set map[string]bool) map[string]bool {
	if set == nil {
		return map[string]bool{}
	}
	return set
}

// unacceptable refuses an INVITE for what it asks of its receiver (RFC 4028 §9). Extensions that are required and unknown are
// refused before it comes here.
func (m *Manager) unacceptable(tx *transaction.Server) bool {
	req := tx.Request()
	if tooShort(req) {
		tx.Answer(422, minimum())
		return true
	}
	if len(req.Body()) > 0 {
		if ct := transaction.Header(req, "Content-Type", "c"); ct != "" && !isSDP(ct) {
			tx.Answer(415, sip.NewHeader("Accept", typeSDP))
			return true
		}
	}
	return false
}

// startCall gives a call its owner, if there is room for it.
func (m *Manager) startCall(c *Call) bool {
	c.started = time.Now()
	return m.startOwner(&c.owner, c)
}

// InDialog takes a request with a To tag. It returns false if no leg has such a dialog. A request that does not come from the
// phone of that leg is refused.
func (m *Manager) InDialog(tx *transaction.Server) bool {
	req := tx.Request()
	tag, _ := req.To().Params.Get("tag")
	from, _ := req.From().Params.Get("tag")
	l := m.find(req.CallID().Value(), tag, from)
	if l == nil {
		return false
	}
	if !m.mayUse(l, tx.Flow()) {
		m.log.Info("request for another phone's dialog", "line", l.Line.Number, "peer", tx.Flow().Remote().String())
		tx.Answer(403)
		return true
	}
	return l.receive(tx)
}

// mayUse tells whether a connection is the phone's: the one the leg was made on, or another live one of the same device (design
// §1 rule 6).
func (m *Manager) mayUse(l *Leg, f flow.Flow) bool {
	if l.current().ID() == f.ID() {
		return true
	}
	id, ok := m.opt.Bindings.ByFlowLine(f, l.Line.Number)
	if !ok || id.Device != l.Device {
		return false
	}
	return l.Device != "" || id.Line == l.Line.Number
}

// Ack takes the ACK to a 2xx.
func (m *Manager) Ack(f flow.Flow, ack *sip.Request) {
	tag, _ := ack.To().Params.Get("tag")
	from, _ := ack.From().Params.Get("tag")
	if l := m.find(ack.CallID().Value(), tag, from); l != nil && m.mayUse(l, f) {
		l.post(func() { l.acked(ack) })
	}
}

// find looks for the leg of a dialog by all three of its names. A callee whose tag is not known yet is found without it.
func (m *Manager) find(callID, localTag, remoteTag string) *Leg {
	m.mu.RLock()
	l := m.dialogs[dialogKey{callID, localTag}]
	m.mu.RUnlock()
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.remoteTag != remoteTag && l.remoteTag != "" {
		return nil
	}
	return l
}

// FindDialog finds the leg of a dialog of a device, as a Replaces header or a remotecc request names it: tags as the phone sees
// them, ours is remoteTag. Both must be right ("sip-calls" §1.1 rule 2).
func (m *Manager) FindDialog(device, line, callID, localTag, remoteTag string) *Leg {
	l := m.find(callID, remoteTag, localTag)
	if l == nil || l.Device != device || device == "" && l.Line.Number != line {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.remoteTag == "" {
		return nil
	}
	return l
}

func (m *Manager) addDialog(l *Leg) bool {
	k := dialogKey{l.callID, l.localTag}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dialogs[k] != nil {
		return false
	}
	m.dialogs[k] = l
	return true
}

func (m *Manager) removeDialog(l *Leg) {
	k := dialogKey{l.callID, l.localTag}
	m.mu.Lock()
	if m.dialogs[k] == l {
		delete(m.dialogs, k)
	}
	m.mu.Unlock()
}

// lineUse is one call of a line, however many of its phones ring for it.
type lineUse struct {
	m    *Manager
	line string
	legs int
}

// useLine counts a call of a line.
func (m *Manager) useLine(line string) *lineUse {
	m.mu.Lock()
	m.lines[line]++
	m.mu.Unlock()
	return &lineUse{m: m, line: line}
}

func (u *lineUse) join(l *Leg) {
	u.legs++
	l.use = u
	u.m.countAt(l, 1)
}

func (u *lineUse) release(l *Leg) {
	if u == nil || l.use != u {
		return
	}
	l.use = nil
	u.m.countAt(l, -1)
	if u.legs--; u.legs == 0 {
		u.m.freeLine(u.line)
	}
}

func (m *Manager) freeLine(line string) {
	m.mu.Lock()
	if m.lines[line]--; m.lines[line] <= 0 {
		delete(m.lines, line)
		m.past.last[line] = time.Now()
	}
	m.mu.Unlock()
}

// Moment returns the state of now as the plan asks for it, for explanations.
func (m *Manager) Moment() plan.State { return moment{m} }

// Info is a call as listings show it.
type Info struct {
	ID       string
	State    string // calling, ringing, talking, transferring, ending
	Dialled  string
	From     string // line whose rights counted
	Started  time.Time
	Answered time.Time        // zero: not yet
	Ways     []plan.Diversion // how it was sent on, the last first
	Legs     []LegInfo
}

// LegInfo is one leg of it.
type LegInfo struct {
	ID       string
	Line     string
	Name     string
	Device   string
	Incoming bool // the phone placed the call
	State    string
	Held     bool
	Codec    string
	Secure   bool
	Shows    string // what the phone displays as the other party
	End      string // why it ended
	CallID   string // of its dialog
	Created  time.Time
	Answered time.Time // zero: not yet
	Ended    time.Time // zero: not yet
	Through  []string  // calls that the leg was in before
	Media    media.Stats
	RxStat   cisco.Stats // what the phone reported at the end
	TxStat   cisco.Stats
	HasStats bool
	Direct   bool // its phone exchanged audio with the other one directly, at least for a while

	session *media.Session
}

func (m *Manager) publish(o *owner) {
	i := o.h.info()
	m.mu.Lock()
	if m.owners[o] != nil {
		m.owners[o] = &i
	}
	m.mu.Unlock()
	if !o.began && !i.Answered.IsZero() && m.opt.Began != nil {
		o.began = true
		_ = task.Guard(o.log, "call record", func() { m.opt.Began(i) })
	}
}

func (m *Manager) gone(o *owner) {
	m.mu.Lock()
	delete(m.owners, o)
	if c, ok := o.h.(*Call); ok {
		delete(m.alerts, c)
	}
	m.mu.Unlock()
}

// Snapshot lists the calls, the oldest first.
func (m *Manager) Snapshot() []Info {
	m.mu.RLock()
	list := make([]Info, 0, len(m.owners))
	for _, i := range m.owners {
		list = append(list, *i)
	}
	m.mu.RUnlock()
	for i := range list {
		list[i].Legs = slices.Clone(list[i].Legs)
		for j := range list[i].Legs {
			if s := list[i].Legs[j].session; s != nil {
				list[i].Legs[j].Media = s.Stats()
			}
		}
	}
	slices.SortFunc(list, func(a, b Info) int {
		if c := a.Started.Compare(b.Started); c != 0 {
			return c
		}
		return len(a.ID) - len(b.ID)
	})
	return list
}

// Counts tells how much there is, for metrics and for tests that nothing stays.
func (m *Manager) Counts() (calls, dialogs, busyLines int) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.owners), len(m.dialogs), len(m.lines)
}

// Go runs f beside the calls; what it has found goes back to a call with Leg.Do.
func (m *Manager) Go(name string, f func(ctx context.Context)) { m.tasks.Go(name, f) }

// Idle tells whether no line of a device has a call but those of except. A call that another phone of a shared line has is none.
func (m *Manager) Idle(device string, lines []string, except ...*Leg) bool {
	mine := map[string]int{}
	for _, l := range except {
		mine[l.Line.Number]++
	}
	p := m.opt.Plan()
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, n := range lines {
		calls := m.lines[n]
		if l, ok := p.Line(n); ok && l.Shared() {
			calls = m.places[place{n, device}]
		}
		if calls > mine[n] {
			return false
		}
	}
	return true
}

// DND tells whether a device is not to be disturbed.
func (m *Manager) DND(device string) bool { return m.opt.State.DND(device) }

// Binding is where a line of a device is registered now; nil if it is not.
func (m *Manager) Binding(line, device string) *registrar.Binding { return m.bindingOf(line, device) }

// Push sends remotecc requests to a phone.
func (m *Manager) Push(b *registrar.Binding, requests ...cisco.Request) {
	if b != nil && b.Cisco {
		m.opt.State.Push(b, func(int, error) {}, requests...)
	}
}

// PushScreen sends an object of the phone's XML interface. The number comes back with the user's answer.
func (m *Manager) PushScreen(b *registrar.Binding, application, number int, object []byte) {
	if b == nil || !b.Cisco {
		return
	}
	data := (&cisco.Request{Data: &cisco.DataPassthrough{Application: application, ConfID: number}}).Marshal()
	m.opt.State.PushParts(b, func(int, error) {}, cisco.Part{Type: cisco.TypeRequest, Body: data}, cisco.Part{Type: cisco.TypeCM, Body: object})
}

// Plan is the plan of now.
func (m *Manager) Plan() *plan.Plan { return m.opt.Plan() }

// Address is the server's own, as it stands in identities that are nobody's.
func (m *Manager) Address() netip.Addr { return m.opt.Address }
