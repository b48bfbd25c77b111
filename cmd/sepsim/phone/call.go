package phone

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// CallState is where a call stands.
type CallState int

// The states of a call.
//
//	outgoing: Dialing ──180──► RingOut ──200──► Connected ◄──► Held ──► Ended
//	incoming: RingIn ──────answered──────────► Connected
//
// Any state goes to Ended. Held is this phone's own hold; PeerHeld tells about the other side.
const (
	Dialing CallState = iota
	RingOut
	RingIn
	Connected
	Held
	Ended
)

// String names the state.
func (s CallState) String() string {
	return [...]string{"dialing", "ringing out", "ringing", "connected", "held", "ended"}[s]
}

// Party is what the display shows about the other side.
type Party struct {
	Name, Number string
	Callback     string // x-cisco-callback-number, if it differs from the number
}

// Call is one call of the phone. What it tells is guarded by Phone.mu; its methods may be called from any goroutine.
type Call struct {
	p        *Phone
	l        *link
	conf     *Config
	line     Line
	incoming bool
	media    *media
	op       chan struct{} // one re-INVITE, REFER or BYE of this side at a time

	state    CallState
	peerHeld bool
	silent   bool // rings without a sound: DND with ringeroff
	remote   Party
	info     map[string]string // Call-Info parameters: orientation, security, huntpiloturi, …
	code     int               // final status of a call that never connected
	reason   string            // why it ended
	began    time.Time

	callID              string
	localURI, remoteURI string // From and To of this phone's requests, without tags
	localTag, remoteTag string
	target              string // remote target: Contact of the other side
	cseq, remoteSeq     int
	invite              *message // the INVITE that is open: this side's until answered, the other's until answered
	authorization       string
	hungUp, cancelSent  bool
	offering            bool     // a re-INVITE of this side is open
	answered            *message // 200 sent and waiting for its ACK
	ackTimer            *time.Timer
	ownOffer            offered       // what the ACK answers
	pendingOffer        bool          // the ACK must bring the answer (offerless INVITE)
	names               []headerField // of the INVITE, about a call of another phone

	sessionID  string // Session-ID header of newer loads
	session    uint64 // own o= line
	version    int
	remoteSess string
	remoteVer  string
	remoteBody string
	sipfrag    string // last transfer result
	lastOK     *message

	of    *Call // of a copy by the built-in bridge: the call
	label string
}

func (p *Phone) newCall(l *link, c *Config, line Line) *Call {
	call := &Call{
		p: p, l: l, conf: c, line: line, op: make(chan struct{}, 1),
		info: make(map[string]string), sessionID: hexString(16), session: uint64(randomUint32()), began: time.Now(),
		media: newMedia(p),
	}
	return call
}

func (p *Phone) addCallLocked(c *Call) {
	p.calls = append(p.calls, c)
	p.changedLocked()
}

// Calls are the calls that have not ended, oldest first.
func (p *Phone) Calls() []*Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls)
}

// callOf finds the call of a request within a dialog.
func (p *Phone) callOf(m *message) *Call {
	id := dialogID{m.get("Call-ID"), nameAddrOf(m.get("To")).param("tag"), nameAddrOf(m.get("From")).param("tag")}
	p.mu.Lock()
	for _, c := range p.copies {
		if c.callID == id.callID && c.localTag == id.localTag && c.remoteTag == id.remoteTag {
			p.mu.Unlock()
			return c
		}
	}
	p.mu.Unlock()
	return p.callByDialog(id)
}

func (p *Phone) callByDialog(id dialogID) *Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.calls {
		if c.callID == id.callID && c.localTag == id.localTag && (c.remoteTag == id.remoteTag || c.remoteTag == "") {
			return c
		}
	}
	return nil
}

// State is where the call stands.
func (c *Call) State() CallState {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return c.state
}

// Incoming says who called.
func (c *Call) Incoming() bool { return c.incoming }

// Line is the index of the line that has the call.
func (c *Call) Line() int { return c.line.Index }

// ID is the Call-ID.
func (c *Call) ID() string { return c.callID }

// Remote is what the display shows about the other side.
func (c *Call) Remote() Party {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return c.remote
}

// CallInfo is a parameter of the last Call-Info: orientation, security, huntpiloturi, …
func (c *Call) CallInfo(name string) string {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return c.info[name]
}

// PeerHeld says that the other side holds the call.
func (c *Call) PeerHeld() bool {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return c.peerHeld
}

// Code is the final status of a call that never connected, 0 otherwise; Reason says why the call ended.
func (c *Call) Code() int {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return c.code
}

// Reason says why the call ended.
func (c *Call) Reason() string {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return c.reason
}

// TransferResult is the status line of the last transfer's report, such as "SIP/2.0 200 OK".
func (c *Call) TransferResult() string {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return c.sipfrag
}

// WaitState waits for a state. It fails when the call ends and another was wanted.
func (c *Call) WaitState(ctx context.Context, want CallState) error {
	var got CallState
	err := c.p.Wait(ctx, func() bool {
		got = c.State()
		return got == want || got == Ended
	})
	if err != nil {
		return fmt.Errorf("call is %s, not %s: %w", c.State(), want, err)
	}
	if got != want {
		return fmt.Errorf("call ended (%s) before it was %s", c.Reason(), want)
	}
	return nil
}

// WaitRemote waits until the display shows that number.
func (c *Call) WaitRemote(ctx context.Context, number string) error {
	if err := c.p.Wait(ctx, func() bool { return c.Remote().Number == number || c.State() == Ended }); err != nil {
		return fmt.Errorf("display shows %q, not %q: %w", c.Remote().Number, number, err)
	}
	if got := c.Remote().Number; got != number {
		return fmt.Errorf("call ended while the display showed %q", got)
	}
	return nil
}

// end takes the call off the phone.
func (c *Call) end(reason string) {
	c.p.mu.Lock()
	if c.state == Ended {
		c.p.mu.Unlock()
		return
	}
	c.setLocked(Ended)
	c.reason = reason
	c.invite = nil
	if c.ackTimer != nil {
		c.ackTimer.Stop()
	}
	if i := slices.Index(c.p.calls, c); i >= 0 {
		c.p.calls = slices.Delete(c.p.calls, i, i+1)
	}
	c.p.copies = slices.DeleteFunc(c.p.copies, func(o *Call) bool { return o == c })
	c.p.fresh = slices.DeleteFunc(c.p.fresh, func(o *Call) bool { return o == c })
	c.p.mu.Unlock()
	c.unlink()
	c.media.close()
	c.p.event(StepCall, c.text("ended: "+reason), nil)
}

func (c *Call) setLocked(s CallState) {
	c.state = s
	c.p.changedLocked()
}

// text names the call in an event. p.mu is not held.
func (c *Call) text(what string) string {
	dir := "call to "
	if c.incoming {
		dir = "call from "
	}
	return dir + c.Remote().Number + " " + what
}

// begin takes the turn for an operation within the dialog.
func (c *Call) begin(ctx context.Context) error {
	select {
	case c.op <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Call) done() { <-c.op }

// noteLocked takes what a message says for the display: Remote-Party-ID and Call-Info (calls §1.4, §24).
func (c *Call) noteLocked(m *message) {
	if v := m.get("Remote-Party-ID"); v != "" {
		a := nameAddrOf(v)
		c.remote = Party{Name: a.display, Number: userOf(a.uri)}
		if u, err := sipURIOf(a.uri); err == nil {
			for _, f := range splitOutside(u.params, ';') {
				if k, v, _ := strings.Cut(f, "="); k == "x-cisco-callback-number" {
					c.remote.Callback = v
				}
			}
		}
		c.p.changedLocked()
	}
	for _, v := range m.list("Call-Info") {
		a := nameAddrOf(v)
		if !strings.EqualFold(a.uri, "urn:x-cisco-remotecc:callinfo") {
			continue
		}
		for _, f := range a.params {
			k, v, _ := strings.Cut(f, "=")
			c.info[strings.ToLower(strings.TrimSpace(k))] = unquote(strings.TrimSpace(v))
		}
		c.p.changedLocked()
	}
}

// request starts a message within the dialog. p.mu is not held.
func (c *Call) request(method string) *message {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.cseq++
	return c.requestLocked(method, c.cseq)
}

func (c *Call) requestLocked(method string, cseq int) *message {
	m := &message{method: method, uri: c.target}
	m.add("From", "%s;tag=%s", c.localURI, c.localTag)
	to := c.remoteURI
	if c.remoteTag != "" {
		to += ";tag=" + c.remoteTag
	}
	m.add("To", "%s", to)
	m.add("Call-ID", "%s", c.callID)
	m.add("Max-Forwards", "70")
	m.add("Date", "%s", dateNow())
	m.add("CSeq", "%d %s", cseq, method)
	m.add("User-Agent", "%s", c.p.man.agent)
	if method != "BYE" && method != "CANCEL" {
		m.add("Contact", "%s", c.contact())
	}
	return m
}

const allow = "ACK,BYE,CANCEL,INVITE,NOTIFY,OPTIONS,REFER,REGISTER,UPDATE,SUBSCRIBE,INFO"

func (c *Call) contact() string {
	return fmt.Sprintf(`<%s>;+u.sip!devicename.ccm.cisco.com="%s"`, c.l.contactURI(c.line), c.p.opt.Device)
}

// identity is the Remote-Party-ID that the phone sends about itself.
func (c *Call) identity(party string) string {
	return fmt.Sprintf("%s <sip:%s@%s>;party=%s;id-type=subscriber;privacy=off;screen=yes",
		quote(c.line.shown()), c.line.Name, c.l.member.Host, party)
}

// shown is the name that the phone puts into From.
func (l Line) shown() string {
	if l.Display != "" {
		return l.Display
	}
	return l.Name
}

func dateNow() string { return time.Now().UTC().Format(dateLayout) }

const dateLayout = "Mon, 02 Jan 2006 15:04:05 GMT"
