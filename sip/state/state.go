// Package state is the one model of everything that phones show: hook, calls, ringing, held, do-not-disturb, forwarding, hunt
// login, messages, registration, park slots; and it keeps those who watch it informed (sip-state.md).
//
// # API
//
//	s, err := state.New(state.Options{...}); s.Start(); s.Stop()
//	registrar.Options{OnChange: s.Registration}; s.FlowClosed(f)
//	s.SetLeg(line, leg, phase)            // from the owner of a call; lamps follow
//	s.DND(device), s.SetDND(ctx, device, on, origin)           // durable, pushed to the phone
//	s.Forward(line), s.SetForward(ctx, line, target, origin)
//	s.HuntLogin(device), s.SetHuntLogin(ctx, device, on, origin)
//	s.SetMessages(line, new, old), s.SetSlot(number, busy), s.RemoveSlot(number)
//	s.Switch(name), s.SetSwitch(ctx, name, on, origin)         // durable; a lamp like a slot's where keys can watch the name
//	s.Line(number), s.Watch(f)            // snapshot, change feed
//	s.Field(line, name), s.SetField(ctx, line, name, value, origin)   // by the names that dial plans know (fields.go)
//	s.Subscribe(tx, id), s.Resubscribe(tx), s.Publish(tx, id), s.Notify(tx, id), s.HuntKey(tx, id)   // requests of phones
//	s.Push(binding, done, requests...)    // remotecc REFER to a phone
//	s.FinishRefer(tx, code)               // result of a phone's REFER, if it waits for one
//	s.ServiceControl(ctx, device, ...), s.ServiceControlAll(ctx, ...), s.Resync(device), s.Check()
//
// A line that is no Cisco phone's is its own device: its number stands where a device name is asked for (DeviceOf).
//
// # How a change reaches the lamps
//
// A setter changes the model under one lock and marks topics as dirty: "p/302" (presence of 302), "m/301" (messages), "f/301"
// (feature events). One goroutine takes dirty topics, computes what they show now, and sends a NOTIFY to each dialog that
// showed something else. A dialog has at most one NOTIFY outstanding; when its answer comes, the newest state is compared
// again. So a burst of changes costs one NOTIFY more than the first, and nobody polls.
//
// Durable settings are written through Options.Store before anything is answered or shown; one key per field (`dnd/DEVICE`,
// `fwd/LINE/all`, `hunt/DEVICE`). A reload of the configuration never touches them: what is declared is only the value before
// somebody has set one.
package state

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"ringfence/internal/task"
	"ringfence/sip/cisco"
	"ringfence/sip/flow"
	"ringfence/sip/registrar"
	"ringfence/sip/transaction"
)

// Phase of a call leg at a line.
type Phase int

// Phases.
const (
	Idle Phase = iota
	Ringing
	Active
	Held
)

func (p Phase) String() string { return [...]string{"idle", "ringing", "active", "held"}[p] }

// Leg names one leg of a call at a line.
type Leg struct{ Line, ID string }

// Origin says who changed a setting.
type Origin string

// Origins.
const (
	ByPhone  Origin = "phone"
	ByAdmin  Origin = "admin" // command line, API, page
	ByPlan   Origin = "plan"
	ByPeer   Origin = "peer" // the other appliance
	ByDevice Origin = "declared"
)

// Store is durable state (store.Store).
type Store interface {
	Get(key string) ([]byte, bool)
	Scan(prefix string, fn func(key string, value []byte) bool)
	Write(ctx context.Context, set map[string][]byte, del ...string) error
}

// Options configure a State.
type Options struct {
	Log          *slog.Logger
	Accounts     registrar.Accounts
	Registrar    *registrar.Registrar
	Transactions *transaction.Layer
	Store        Store

	// Stamps returns the versions of what provisioning would give a device now; ok false: check-version is not sent.
	Stamps func(device string) (cisco.Stamps, bool)
	// MayWatch says whether a line may see the state of a number; nil is yes.
	MayWatch func(watcher, number string) bool
	// Legs returns the legs of all dialogs that exist, with what each is doing; nil: nobody can tell.
	Legs func() map[Leg]Phase
	// Declared returns fields of a line that only the configuration knows, for Field; may be nil.
	Declared func(line, field string) (string, bool)
	// Note adds to the boot record of a device; may be nil.
	Note func(device, step, text string, failed bool)

	// Grace is how long a phone whose connection broke still counts as there, so that a reconnect does not flicker; 4 s.
	Grace time.Duration
	// Repeat is when the first lamps are sent once more, for phones that dropped them while booting; 7 s.
	Repeat time.Duration
}

// Errors of setters.
var (
	ErrUnknownLine   = errors.New("no such line")
	ErrUnknownDevice = errors.New("no such device")
	ErrUnknownSwitch = errors.New("no such switch")
	ErrNotRegistered = errors.New("not registered")
	ErrForwardLoop   = errors.New("forwarding to itself")
	ErrInCall        = errors.New("the device is in a call")
)

// State is the model and its watchers.
type State struct {
	opt   Options
	tasks *task.Group
	wake  chan struct{}

	mu       sync.Mutex
	legs     map[string]map[string]Phase // line -> leg -> phase
	hook     map[string]int              // line -> times off-hook
	present  map[string]bool             // line -> registered
	slots    map[string]bool             // park slots and the like -> busy
	messages map[string][2]int           // line -> new, old
	dnd      map[string]bool             // device; absent: off
	forward  map[string]string           // line; absent: as declared
	hunt     map[string]bool             // device; absent: as declared
	etags    map[string]uint64           // device -> last SIP-ETag
	dirty    map[string]bool             // topics
	changes  []Change                    // for the feed
	feed     map[int]func(Change)
	feedID   int
	topics   map[string]map[*dialog]bool
	byKey    map[dialogKey]*dialog // subscriptions
	byFlow   map[string]map[*dialog]bool
	devices  map[string]*device
	graces   map[string]*time.Timer
	started  bool
	stopped  bool

	hookSince map[string]time.Time // line -> when it was last taken off-hook
	switches  map[string]bool      // manual switches by name; absent: off

	appear  map[string]map[string]Appearance // shared line -> leg
	privacy map[string]bool                  // device; absent: off

	checking sync.Mutex    // one Check at a time
	doubted  map[Leg]Phase // under checking: legs that the last look found otherwise, and what they were there
}

// New returns the state as Store knows it.
func New(o Options) (*State, error) {
	if o.Accounts == nil || o.Registrar == nil || o.Transactions == nil || o.Store == nil {
		return nil, errors.New("state: Accounts, Registrar, Transactions and Store are required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Grace <= 0 {
		o.Grace = 4 * time.Second
	}
	if o.Repeat <= 0 {
		o.Repeat = 7 * time.Second
	}
	s := &State{
		opt: o, tasks: task.NewGroup(context.Background(), o.Log), wake: make(chan struct{}, 1),
		legs: make(map[string]map[string]Phase), hook: make(map[string]int), present: make(map[string]bool),
		slots: make(map[string]bool), messages: make(map[string][2]int), dnd: make(map[string]bool),
		forward: make(map[string]string), hunt: make(map[string]bool), etags: make(map[string]uint64),
		dirty: make(map[string]bool), feed: make(map[int]func(Change)), topics: make(map[string]map[*dialog]bool),
		byKey: make(map[dialogKey]*dialog), byFlow: make(map[string]map[*dialog]bool), devices: make(map[string]*device),
		graces: make(map[string]*time.Timer), hookSince: make(map[string]time.Time), switches: make(map[string]bool),
		appear: make(map[string]map[string]Appearance), privacy: make(map[string]bool),
	}
	for _, prefix := range []string{"dnd/", "fwd/", "hunt/", "switch/", "privacy/"} {
		o.Store.Scan(prefix, func(key string, value []byte) bool {
			s.loadLocked(key, value, true)
			return true
		})
	}
	return s, nil
}

// Start begins to inform watchers. It is idempotent.
func (s *State) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.started {
		return
	}
	s.started = true
	// Bindings kept over a restart: their phones are on the way back.
	for _, b := range s.opt.Registrar.All() {
		s.present[b.Line] = true
	}
	s.tasks.Go("sip lamps", s.run)
}

// SetLegs sets Options.Legs: calls are made after state. It must come before Start.
func (s *State) SetLegs(f func() map[Leg]Phase) { s.opt.Legs = f }

// Stop ends timers and watchers. It is idempotent.
func (s *State) Stop() {
	s.mu.Lock()
	s.stopped = true
	for _, t := range s.graces {
		t.Stop()
	}
	for _, d := range s.devices {
		d.stop()
	}
	s.mu.Unlock()
	s.tasks.Stop()
}

// DeviceOf returns whose do-not-disturb and hunt login count for a line: its device's, or its own.
func (s *State) DeviceOf(line string) string {
	if a, ok := s.opt.Accounts.Line(line); ok && a.Device != "" {
		return a.Device
	}
	return line
}

// linesOf returns the lines of a device, or the line that is one.
func (s *State) linesOf(device string) []registrar.Account {
	if d, ok := s.opt.Accounts.Device(device); ok {
		return d.Lines
	}
	if a, ok := s.opt.Accounts.Line(device); ok && a.Device == "" {
		return []registrar.Account{a}
	}
	return nil
}

// host is the name of this appliance towards a phone: the address that the phone reached.
func host(f flow.Flow) string {
	a := f.Local().Addr().Unmap()
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// transportParam is the URI parameter that names a flow's transport.
func transportParam(f flow.Flow) string { return ";transport=" + strings.ToLower(f.Transport()) }
