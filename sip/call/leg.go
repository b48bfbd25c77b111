package call

import (
	"errors"
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/media"
	"ringfence/sip/cisco"
	"ringfence/sip/dialog"
	"ringfence/sip/flow"
	"ringfence/sip/plan"
	"ringfence/sip/registrar"
	"ringfence/sip/sdp"
	"ringfence/sip/state"
	"ringfence/sip/transaction"
)

// legState is where a leg stands.
//
//	incoming: calling --200 sent--> answering --ACK--> up --BYE--> ending --> down
//	             |--refused, cancelled--> down     |--no ACK: BYE--^
//	outgoing: calling --18x--> ringing --2xx, ACK--> up
//	             |----cancel----|--> ending (waits for the final answer) --> down
type legState uint8

const (
	calling legState = iota
	ringing
	answering
	up
	ending
	down
)

func (s legState) String() string {
	return [...]string{"calling", "ringing", "answering", "up", "ending", "down"}[s]
}

// errGone is returned for a call or leg that has ended.
var errGone = errors.New("the call has ended")

// Leg is one phone's part in a call: a dialog with the phone and one audio stream. Except where a method says otherwise, it is
// touched only in the goroutine of its owner.
type Leg struct {
	ID       string
	Line     *plan.Line // of the phone
	Device   string     // "" for a line that is no Cisco phone's
	Cisco    bool
	Model    string
	Incoming bool // the phone placed the call

	m   *Manager
	log *slog.Logger
	h   handler

	phase atomic.Int32 // as told to the lamps

	mu        sync.Mutex
	owner     *owner // nil while it moves
	queue     []func()
	queued    bool
	flooded   bool
	gone      bool
	unread    []*transaction.Server // requests in the queue
	flow      flow.Flow
	remoteTag string // copy for those who look for a dialog
	callID    string
	localTag  string

	state    legState
	d        *dialog.Dialog
	neg      *sdp.Negotiation
	can      []sdp.Codec // of the phone, by its last own offer; nil: not known
	media    *media.Session
	use      *lineUse
	created  time.Time
	answered time.Time

	// Of an incoming leg, until it is answered.
	invite *transaction.Server
	prov   provisional
	offer  *sdp.Session // nil: the phone wants our offer
	early  bool         // an answer was sent in a provisional response
	rang   bool         // 180 was sent

	alerted bool // of an outgoing leg: its phone rings, and whoever wants to know it was told

	// Of an outgoing leg.
	client    *transaction.Client
	inviteSeq uint32
	spec      inviteSpec
	plain     bool          // asked again without encryption
	longer    time.Duration // session interval that the phone insists on
	noReply   timer
	ringLimit timer

	session // what happens within the dialog once it is up
	roaming // where its audio goes

	peer     Identity // shown to the phone
	security int      // shown to the phone: least of all parties
	shown    string   // what was sent last of these two

	shows plan.Attributes // how the party wants to be shown, and more that rules have said

	left    bool // has transferred its call and counts as free
	leaveBy timer

	hears      sound
	tune       string // of the music that it hears
	isHeld     bool
	holdReason string
	rxStat     cisco.Stats // what the phone says it received, from BYE or the answer to it
	txStat     cisco.Stats
	hasStats   bool
	why        string   // of the end, for the log and the record
	last       string   // owner that it has, or had
	through    []string // owners that it had before that
}

// inviteSpec is what an outgoing leg asks for.
type inviteSpec struct {
	binding    *registrar.Binding
	codecs     []sdp.Codec
	more       []sdp.Codec // once the phone has refused codecs; nil if there are no others
	ptime      int
	diversions []plan.Diversion
	callInfo   []cisco.Param
	autoAnswer bool
	tap        *tapSpec // it is a copy of a conversation; nil if not
}

// failure is why an outgoing leg came to nothing.
type failure struct {
	cause  plan.Cause
	code   int    // the phone's answer, 0 if there was none
	target string // 3xx: where the phone sends the caller
}

// timer fires in the goroutine of the leg's owner, and not at all once it was stopped or set anew.
type timer struct {
	t     *time.Timer
	token *int
}

func (l *Leg) after(t *timer, d time.Duration, f func()) {
	t.stop()
	token := new(int)
	t.token = token
	t.t = time.AfterFunc(d, func() {
		l.post(func() {
			if t.token == token {
				t.token = nil
				f()
			}
		})
	})
}

func (t *timer) stop() {
	if t.t != nil {
		t.t.Stop()
	}
	t.token = nil
}

func (t *timer) pending() bool { return t.token != nil }

// newIncoming makes the leg of an INVITE.
func (m *Manager) newIncoming(tx *transaction.Server, id registrar.Identity, line *plan.Line) (*Leg, error) {
	d, err := dialog.Incoming(tx.Request(), tx.Tag())
	if err != nil {
		return nil, err
	}
	l := &Leg{
		ID: "L" + strconv.FormatUint(m.legs.Add(1), 10), Line: line, Device: id.Device, Cisco: id.Cisco, Incoming: true,
		m: m, log: m.log, h: frozen{}, flow: tx.Flow(), callID: d.CallID, localTag: d.Local.Tag, remoteTag: d.Remote.Tag, d: d,
		neg: sdp.NewNegotiation(), invite: tx, created: time.Now(),
	}
	if id.Binding != nil {
		l.Model = id.Binding.Model
	}
	if !m.addDialog(l) {
		return nil, errors.New("dialog exists")
	}
	tx.OnCancel(func(*sip.Request) { l.post(l.cancelled) })
	l.watchAck(tx)
	return l, nil
}

// newOutgoing makes a leg towards a binding of a line.
func (m *Manager) newOutgoing(b *registrar.Binding, line *plan.Line) *Leg {
	return &Leg{
		ID: "L" + strconv.FormatUint(m.legs.Add(1), 10), Line: line, Device: b.Device, Cisco: b.Cisco, Model: b.Model,
		m: m, log: m.log, h: frozen{}, flow: b.Flow, neg: sdp.NewNegotiation(), created: time.Now(),
	}
}

// connection returns the flow to send on. If the phone has come back on another one, that is it; nil if it has not.
func (l *Leg) connection() flow.Flow {
	l.mu.Lock()
	f := l.flow
	l.mu.Unlock()
	select {
	case <-f.Done():
	default:
		return f
	}
	for _, b := range l.m.opt.Bindings.Lookup(l.Line.Number) {
		if b.Device == l.Device && b.Reachable() {
			l.setFlow(b.Flow)
			return b.Flow
		}
	}
	return nil
}

func (l *Leg) setFlow(f flow.Flow) {
	l.mu.Lock()
	l.flow = f
	l.mu.Unlock()
}

// current is the flow that the leg used last, dead or alive.
func (l *Leg) current() flow.Flow {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flow
}

// host is our address as the phone reaches it, which is also where it may send media.
func (l *Leg) host() netip.Addr {
	a := l.current().Local().Addr().Unmap()
	if !a.IsValid() || a.IsUnspecified() {
		return l.m.opt.Address
	}
	return a
}

// talking tells whether the leg's party can take part in a conversation.
func (l *Leg) talking() bool { return l.state == answering || l.state == up }

// Talking is talking for features.
func (l *Leg) Talking() bool { return l.talking() }

// waiting tells whether the leg is a caller that has not been answered.
func (l *Leg) waiting() bool { return l.Incoming && (l.state == calling || l.state == ringing) }

// Held tells whether the phone has put the call on hold.
func (l *Leg) Held() bool { return l.isHeld }

// openMedia gets the leg its ports, once.
func (l *Leg) openMedia() error {
	if l.media != nil {
		return nil
	}
	s, err := l.m.opt.Media.NewSession(media.SessionOptions{Label: l.ID})
	if err != nil {
		return err
	}
	l.media = s
	return nil
}

// local is what we want of the leg's next description.
func (l *Leg) local(codecs []sdp.Codec, ptime int) sdp.Local {
	f := l.current()
	return sdp.Local{
		Address: l.host(), Port: l.media.LocalPort(), Codecs: codecs, Events: true, PTime: ptime, Direction: media.Both,
		Security: l.protection(), Suites: suitesOf(l.Model), Fallback: l.fallback(), Origin: f.Remote().Addr().Unmap(),
	}
}

// protection is what the policy asks of the leg's stream.
func (l *Leg) protection() sdp.Security {
	secure := l.current().Secure()
	if t := l.spec.tap; t != nil {
		if t.secure {
			return sdp.Require
		}
		return sdp.Accept
	}
	switch l.m.opt.SRTP {
	case RequireSRTP:
		return sdp.Require
	case NeverSRTP:
		return sdp.Plain
	}
	if secure && !l.plain {
		return sdp.Prefer
	}
	return sdp.Accept
}

// fallback tells whether both ends have announced that an encrypted offer may be answered in clear ("sip-calls" §30).
func (l *Leg) fallback() bool {
	return l.m.opt.SRTP != RequireSRTP && l.d != nil && l.d.Supported["x-cisco-srtp-fallback"]
}

// suitesOf limits the suites of models that misbehave with others: the 79x1 take the short tag alone ("sip-calls" §30).
func suitesOf(model string) []media.Suite {
	if len(model) == 4 && model[:2] == "79" && model[3] == '1' {
		return []media.Suite{media.CM128SHA32}
	}
	return nil
}

// Levels of security as phones show them, the least first ("sip-calls" §1.4).
const (
	notAuthenticated = iota
	authenticated
	encrypted
)

var levelNames = [...]string{"NotAuthenticated", "Authenticated", "Encrypted"}

// level is what the leg alone has.
func (l *Leg) level() int {
	if !l.current().Secure() {
		return notAuthenticated
	}
	if a, ok := l.neg.Agreed(); ok && a.Secure {
		return encrypted
	}
	return authenticated
}

// apply gives the media what was agreed.
func (l *Leg) apply(a sdp.Agreed) error {
	if err := l.media.SetRemote(a.Remote); err != nil {
		return err
	}
	if a.Held != l.isHeld {
		l.isHeld = a.Held
		if !a.Held {
			l.holdReason = ""
		}
	}
	l.report()
	return nil
}

// report tells the lamps what the leg is doing.
func (l *Leg) report() {
	l.appear()
	p := state.Active
	switch {
	case l.state == down || l.state == ending || l.left:
		p = state.Idle
	case !l.Incoming && (l.state == calling || l.state == ringing):
		p = state.Ringing
		if l.state == calling {
			return // nothing rings before the phone says so
		}
	case l.isHeld && l.holdReason == "":
		// A hold for a transfer or a conference is a step of that, not a hold of the user ("sip-calls" §3).
		p = state.Held
	}
	l.phase.Store(int32(p))
	l.m.opt.State.SetLeg(l.Line.Number, l.ID, p)
}

// Legs returns what the leg of each dialog that exists is doing, for the self-check of lamps.
func (m *Manager) Legs() map[state.Leg]state.Phase {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make(map[state.Leg]state.Phase, len(m.dialogs))
	for _, l := range m.dialogs {
		if p := state.Phase(l.phase.Load()); p != state.Idle {
			out[state.Leg{Line: l.Line.Number, ID: l.ID}] = p
		}
	}
	return out
}

// finish is the end of a leg: everything it had is given back. Whoever owns it is told with down.
func (l *Leg) finish() {
	if l.state == down {
		return
	}
	l.state = down
	l.noReply.stop()
	l.ringLimit.stop()
	l.leaveBy.stop()
	l.prov.repeat.stop()
	l.session.stop()
	l.ackBy.stop()
	l.dropOffer()
	l.d.End()
	l.report()
	l.closeMedia()
	l.use.release(l)
	l.m.removeDialog(l)
	l.mu.Lock()
	l.gone = true
	o := l.owner
	unread := l.unread
	l.owner, l.queue, l.unread = nil, nil, nil
	l.mu.Unlock()
	for _, tx := range unread {
		tx.Answer(481) // as one that comes a moment later
	}
	if o != nil {
		o.remember(l)
	}
	if f := l.m.opt.Down; f != nil {
		f(l, l.describe())
	}
	l.h.down(l)
}

func (l *Leg) closeMedia() {
	if l.media != nil {
		l.media.Close()
	}
}

// overrun ends a leg whose queue was full: events are missing, perhaps the very one that it waits for.
func (l *Leg) overrun() {
	if l.state != ending {
		l.why = "sent too much"
		l.h.ended(l)
	}
	l.lastWord()
	l.finish()
}

// abandon ends a leg whose owner cannot wait any more: one last word to the phone, and everything is given back.
func (l *Leg) abandon() {
	l.h = frozen{}
	if l.d == nil { // never sent anything
		l.use.release(l)
		l.closeMedia()
		return
	}
	l.lastWord()
	l.finish()
}

// lastWord tells the phone that the leg is over, without waiting for an answer.
func (l *Leg) lastWord() {
	switch {
	case l.waiting():
		_ = l.invite.Respond(l.invite.Response(503, ""))
	case l.state == up || l.state == answering:
		if f := l.connection(); f != nil {
			_, _ = l.m.opt.Transactions.Request(f, l.d.Request(sip.BYE), nil)
		}
	case l.client != nil && l.state != ending:
		l.client.Cancel()
	}
}
