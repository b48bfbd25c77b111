// Package registrar knows which phone is where: it authenticates, keeps bindings, and tells who is behind a connection
// (sip-registration.md, sip-overview.md §4).
//
// # API
//
//	r, err := registrar.New(registrar.Options{...})
//	r.Register(tx)                 // a REGISTER
//	r.Refer(tx) bool               // the REFERs that come before or without authentication: alarm, token, location, response
//	id, ok := r.Authenticate(tx)   // digest by 401; has answered when !ok
//	id, ok := r.ByFlow(f)          // who registered on that connection, alive: for REFER, PUBLISH, NOTIFY (design §1 rule 6)
//	r.Lookup("301")                // bindings of a line, the one registered last first
//	r.FlowClosed(f)                // after the flow has ended
//
// Options.OnChange tells state what happened, after the answer to the phone was sent.
//
// One REGISTER of a Cisco phone's primary line registers all its lines with their index (sip-registration.md §5); a line of
// its own registers itself, from up to MaxContacts places. Bindings are values: a refresh makes a new one, readers keep the
// old one unharmed. Binding.Flow is nil after a restart of the process until the phone is back, and its Done channel tells
// whether the connection still lives: Binding.Reachable.
//
// # Authentication
//
// Everybody who asks is challenged, known or not. The kind of challenge depends on what the request looks like, not on the
// account: Cisco phones get exactly one MD5 challenge without qop, others MD5 and SHA-256 with qop (RFC 8760), in the order
// that their kind of software takes. A wrong answer is 403 for known and unknown users alike, after the same work. Failures
// are throttled per source and per account and source.
//
// # Left out
//
// GRUU, Path, RFC 5626 flow tokens: a phone is reached over the connection it registered on, nothing else.
package registrar

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/internal/task"
	"ringfence/sip/cisco"
	"ringfence/sip/flow"
	"ringfence/sip/transaction"
)

// Account is a line as declared.
type Account struct {
	Number string
	Device string // "" for a line that is no Cisco phone's: it registers with its own number and password
	Index  int    // place on the device, 1 registers

	Name      string // display name
	Voicemail string // number of the messages key
	Forward   string // forward-all before anybody has set one
	MaxCalls  int
	BusyAt    int
	Shared    bool // other phones show it too
}

// DeviceInfo is a Cisco phone as declared.
type DeviceInfo struct {
	Name      string // SEP001122AA0001
	Model     string // 8851
	Encrypted bool   // must come over TLS with a client certificate that names it
	Lines     []Account
	Watch     []string // numbers of its BLF keys
	Load      string   // declared firmware; "" leaves the phone's own
	HuntLogin bool     // before anybody has set it
	DNDReject bool     // do-not-disturb refuses calls instead of showing them silently
}

// Primary is the line that registers, index 1.
func (d DeviceInfo) Primary() (Account, bool) {
	for _, l := range d.Lines {
		if l.Index == 1 {
			return l, true
		}
	}
	return Account{}, false
}

// Accounts is the declared configuration; a reload may change the answers at any time.
type Accounts interface {
	Line(number string) (Account, bool)
	Device(name string) (DeviceInfo, bool)
}

// Local keeps bindings over a restart, lazily (store.Local).
type Local interface {
	Put(bucket, key string, value []byte)
	Delete(bucket, key string)
	Scan(bucket, prefix string, fn func(key string, value []byte) bool)
}

// Options configure a Registrar.
type Options struct {
	Log      *slog.Logger
	Accounts Accounts
	// Password returns the SIP password of a device (by name) or of a line without device (by number).
	Password func(account string) (string, bool)
	Realm    string
	// Expires is what a Cisco phone is granted at most, 60 s to 1 h; default 120 s.
	Expires time.Duration
	// Note adds to the boot record of a device; may be nil.
	Note  func(device, step, text string, failed bool)
	Local Local // may be nil: nothing is kept
	// OnChange is told about every change of a registration, in order per device, and must not block; may be nil.
	OnChange func(Event)
	// Ready says whether phones may move here from another appliance (sip-registration.md §7.3); nil is always.
	Ready func() bool
}

// MaxContacts is how many places a line that is no Cisco phone's may register from at once.
const MaxContacts = 10

// Times of registrations (sip-registration.md §2, §3).
const (
	minExpires     = 60 * time.Second
	maxExpires     = time.Hour
	defaultExpires = 120 * time.Second
	keepBinding    = 15 * time.Second // past expiry, as CUCM does
	standbyKeep    = 330 * time.Second
)

// Binding is one registered line at one place. It does not change.
type Binding struct {
	Line, Device string // Device "" for lines without phone
	Index        int
	Contact      sip.Uri   // target of every request to the line; prints as ContactText
	ContactText  string    // the URI verbatim
	Flow         flow.Flow // nil after a restart until the phone is back
	CallID       string    // of the REGISTER: RegisterCallId of service control
	UserAgent    string
	Model        string // number, from the User-Agent of a Cisco phone, else ""
	Cisco        bool
	Secure       bool
	Registered   time.Time // first, on this connection
	Expires      time.Time
	Supported    []string // option tags, lower case
	Load         string   // active firmware
	InactiveLoad string
	LastReset    string // reason given with the first REGISTER
}

// Reachable tells whether the connection of b lives.
func (b *Binding) Reachable() bool {
	if b == nil || b.Flow == nil {
		return false
	}
	select {
	case <-b.Flow.Done():
		return false
	default:
		return true
	}
}

// Supports tells whether the phone announced an option tag.
func (b *Binding) Supports(tag string) bool {
	for _, s := range b.Supported {
		if s == tag {
			return true
		}
	}
	return false
}

// Identity is who sent a request.
type Identity struct {
	Device  string // "" for a line without phone
	Primary string // line whose credentials were given
	Line    string // line the request is from
	Binding *Binding
	Cisco   bool
}

// Kind of an Event.
type Kind int

// Kinds of events.
const (
	Fresh     Kind = iota // new, moved, or first since the start of the process: send the initial state
	Refreshed             // nothing new
	Lost                  // the connection is gone, the binding is kept
	Gone                  // unregistered or expired
)

func (k Kind) String() string { return [...]string{"fresh", "refreshed", "lost", "gone"}[k] }

// Event is a change of one registration.
type Event struct {
	Kind     Kind
	Device   string     // "" for a line without phone
	Bindings []*Binding // of all lines, by index; the primary first
	Moved    bool       // Fresh: there was a registration before, elsewhere
	Alarm    cisco.ResetReason
}

// record is one registration: a device with all its lines, or one contact of a line without device.
type record struct {
	key       string
	device    string
	bindings  []*Binding // primary first
	cseq      uint32
	granted   time.Duration
	live      bool // the initial state was sent by this process
	lost      bool // OnChange knows that the connection is gone
	timer     *time.Timer
	rival     time.Time // last time another connection took this device over
	rivalFrom string

	remote, local netip.AddrPort // of a restored registration over UDP

	saved                     time.Time // what is on disk
	savedContact, savedCallID string
}

func (rec *record) primary() *Binding { return rec.bindings[0] }

// Registrar holds the registrations.
type Registrar struct {
	opt      Options
	nonces   *nonces
	throttle *throttle
	tokens   tokens
	dummy    string
	realm    string // parameter of challenges
	tags     tagSets

	mu      sync.RWMutex
	records map[string]*record
	byLine  map[string][]*record
	byFlow  map[string][]*record
	stopped bool
}

// New returns a registrar with the bindings that Local has kept.
func New(o Options) (*Registrar, error) {
	if o.Accounts == nil || o.Password == nil || o.Realm == "" {
		return nil, errors.New("registrar: Accounts, Password and Realm are required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Expires < minExpires || o.Expires > maxExpires {
		o.Expires = defaultExpires
	}
	r := &Registrar{
		opt: o, nonces: newNonces(5*time.Minute, 200000), throttle: newThrottle(), tokens: newTokens(),
		dummy:   transaction.NewTag(),
		records: make(map[string]*record), byLine: make(map[string][]*record), byFlow: make(map[string][]*record),
	}
	r.realm = `realm="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(o.Realm) + `"`
	r.restore()
	return r, nil
}

// Stop ends the timers. It is idempotent.
func (r *Registrar) Stop() {
	r.mu.Lock()
	r.stopped = true
	for _, rec := range r.records {
		if rec.timer != nil {
			rec.timer.Stop()
		}
	}
	r.mu.Unlock()
}

func (r *Registrar) note(device, text string, failed bool) {
	if r.opt.Note != nil && device != "" {
		r.opt.Note(device, "register", text, failed)
	}
}

// Lookup returns the bindings of a line, the latest registration first. They may be unreachable.
func (r *Registrar) Lookup(line string) []*Binding {
	r.mu.RLock()
	defer r.mu.RUnlock()
	recs := r.byLine[line]
	out := make([]*Binding, 0, len(recs))
	for i := len(recs) - 1; i >= 0; i-- {
		for _, b := range recs[i].bindings {
			if b.Line == line {
				out = append(out, b)
			}
		}
	}
	return out
}

// Device returns the bindings of a device by index, nil when it is not registered.
func (r *Registrar) Device(name string) []*Binding {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if rec := r.records[name]; rec != nil && rec.device != "" {
		return rec.bindings
	}
	return nil
}

// ByFlow tells who has registered on f and is still registered there. On a connection that carries several lines of a
// softphone it is the first of them; see ByFlowLine.
func (r *Registrar) ByFlow(f flow.Flow) (Identity, bool) { return r.ByFlowLine(f, "") }

// ByFlowLine is ByFlow for a given line: of a Cisco phone one of its lines (the primary if line is none of them), else the
// registration of that line on f.
func (r *Registrar) ByFlowLine(f flow.Flow, line string) (Identity, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	recs := r.byFlow[f.ID()]
	for _, rec := range recs {
		for _, b := range rec.bindings {
			if b.Line == line {
				return identityOf(rec, b), true
			}
		}
	}
	if len(recs) == 0 || recs[0].device == "" && line != "" {
		return Identity{}, false
	}
	return identityOf(recs[0], recs[0].primary()), true
}

func identityOf(rec *record, b *Binding) Identity {
	return Identity{Device: rec.device, Primary: rec.primary().Line, Line: b.Line, Binding: b, Cisco: b.Cisco}
}

// All returns every binding, for listings.
func (r *Registrar) All() []*Binding {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []*Binding
	for _, rec := range r.records {
		out = append(out, rec.bindings...)
	}
	return out
}

// indexLocked and unindexLocked keep byLine and byFlow; r.mu is held.
func (r *Registrar) indexLocked(rec *record) {
	r.records[rec.key] = rec
	for _, b := range rec.bindings {
		r.byLine[b.Line] = append(without(r.byLine[b.Line], rec), rec)
	}
	if f := rec.primary().Flow; f != nil {
		r.byFlow[f.ID()] = append(without(r.byFlow[f.ID()], rec), rec)
	}
}

func (r *Registrar) unindexLocked(rec *record) {
	if r.records[rec.key] == rec {
		delete(r.records, rec.key)
	}
	for _, b := range rec.bindings {
		setOrDelete(r.byLine, b.Line, without(r.byLine[b.Line], rec))
	}
	if f := rec.primary().Flow; f != nil {
		setOrDelete(r.byFlow, f.ID(), without(r.byFlow[f.ID()], rec))
	}
}

func without(recs []*record, rec *record) []*record {
	out := make([]*record, 0, len(recs))
	for _, x := range recs {
		if x != rec {
			out = append(out, x)
		}
	}
	return out
}

func setOrDelete(m map[string][]*record, k string, v []*record) {
	if len(v) == 0 {
		delete(m, k)
	} else {
		m[k] = v
	}
}

// FlowClosed marks the registrations of f unreachable. They are kept until they expire (sip-registration.md §12 rule 10).
func (r *Registrar) FlowClosed(f flow.Flow) {
	r.mu.Lock()
	recs := r.byFlow[f.ID()]
	delete(r.byFlow, f.ID())
	var events []Event
	for _, rec := range recs {
		if !rec.lost {
			rec.lost = true
			events = append(events, Event{Kind: Lost, Device: rec.device, Bindings: rec.bindings})
		}
	}
	r.mu.Unlock()
	for _, e := range events {
		r.note(e.Device, "connection closed", false)
		r.emit(e)
	}
}

func (r *Registrar) emit(e Event) {
	if r.opt.OnChange != nil {
		_ = task.Guard(r.opt.Log, "registration change", func() { r.opt.OnChange(e) })
	}
}
