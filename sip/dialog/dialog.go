// Package dialog keeps the state of a SIP dialog (RFC 3261 §12): who speaks to whom under which names, in which order requests
// follow, and where they go. It is a value with rules and has no goroutine, timer or socket; its owner sends what it builds.
//
// Towards Cisco phones the remote target matters literally: a request whose URI is not their Contact, letter for letter, is
// refused ("sip-calls" §1.2). Requests travel over the phone's connection whatever the target says.
//
// It leaves out: strict routing (RFC 2543), dialogs of forks beyond the first (requests go to one connection), subscriptions.
package dialog

import (
	"errors"
	"fmt"
	"strings"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/transaction"
)

// State of a Dialog.
//
//	New --1xx with tag--> Early --2xx--> Confirmed --BYE, failure--> Ended
//	 |-------2xx---------------------------^   Early --3xx..6xx, CANCEL--> Ended
type State uint8

// States.
const (
	New State = iota
	Early
	Confirmed
	Ended
)

func (s State) String() string { return [...]string{"new", "early", "confirmed", "ended"}[s] }

// Faults of a request within a dialog.
var (
	ErrTags  = errors.New("tags are not those of the dialog")   // 481
	ErrOrder = errors.New("request is older than the last one") // 500, RFC 3261 §12.2.2
	ErrNoTag = errors.New("answer without a tag makes no dialog")
)

// Party is one end of a dialog as it stands in From and To.
type Party struct {
	Name string // display name without quotes, not escaped
	URI  sip.Uri
	Tag  string
}

// Dialog is one end's view. It is not safe for concurrent use.
type Dialog struct {
	CallID string
	Local  Party
	Remote Party
	Target sip.Uri // where requests are addressed to
	State  State

	caller     bool // we sent the INVITE
	routes     []sip.Uri
	localSeq   uint32
	remoteSeq  uint32
	remoteSeen bool

	// Allow and Supported are what the other end said last.
	Allow     map[string]bool
	Supported map[string]bool
}

// FirstCSeq is the number of our first request; Cisco phones and the seed begin with the same ("sip-calls" §2.1).
const FirstCSeq = 101

// Incoming makes the dialog of a received INVITE; tag is the one that all answers carry. The dialog is early at once: its
// names are fixed with the first answer.
func Incoming(req *sip.Request, tag string) (*Dialog, error) {
	d := &Dialog{CallID: req.CallID().Value(), State: Early}
	from, to := req.From(), req.To()
	d.Remote = Party{Name: unquote(from.DisplayName), URI: *from.Address.Clone()}
	d.Remote.Tag, _ = from.Params.Get("tag")
	d.Local = Party{Name: unquote(to.DisplayName), URI: *to.Address.Clone(), Tag: tag}
	d.remoteSeq, d.remoteSeen = req.CSeq().SeqNo, true
	d.localSeq = FirstCSeq - 1
	for _, h := range req.GetHeaders("Record-Route") {
		if rr, ok := h.(*sip.RecordRouteHeader); ok {
			d.routes = append(d.routes, *rr.Address.Clone())
		}
	}
	var err error
	if d.Target, err = Contact(req); err != nil {
		return nil, err
	}
	d.learn(req)
	return d, nil
}

// Outgoing makes the dialog of an INVITE to be sent.
func Outgoing(callID string, local, remote Party, target sip.Uri) *Dialog {
	return &Dialog{CallID: callID, Local: local, Remote: remote, Target: target, caller: true, localSeq: FirstCSeq - 1}
}

// Caller tells whether we sent the INVITE of the dialog.
func (d *Dialog) Caller() bool { return d.caller }

// Request builds the next request of the dialog, without Via, Contact and body.
func (d *Dialog) Request(method sip.RequestMethod) *sip.Request {
	d.localSeq++
	return d.build(method, d.localSeq)
}

// Ack builds the ACK to a 2xx of the INVITE with the given number (RFC 3261 §13.2.2.4).
func (d *Dialog) Ack(seq uint32) *sip.Request { return d.build(sip.ACK, seq) }

func (d *Dialog) build(method sip.RequestMethod, seq uint32) *sip.Request {
	req := sip.NewRequest(method, d.Target)
	for _, r := range d.routes {
		req.AppendHeader(&sip.RouteHeader{Address: *r.Clone()})
	}
	req.AppendHeader(&sip.FromHeader{DisplayName: quote(d.Local.Name), Address: *d.Local.URI.Clone(), Params: tagged(d.Local.Tag)})
	req.AppendHeader(&sip.ToHeader{DisplayName: quote(d.Remote.Name), Address: *d.Remote.URI.Clone(), Params: tagged(d.Remote.Tag)})
	id := sip.CallIDHeader(d.CallID)
	req.AppendHeader(&id)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: seq, MethodName: method})
	return req
}

func tagged(tag string) sip.HeaderParams {
	if tag == "" {
		return nil
	}
	return sip.HeaderParams{{K: "tag", V: tag}}
}

// Answered takes an answer to our INVITE: a provisional one with a tag makes the dialog early, a 2xx confirms it. The tag of
// a 2xx counts even if another provisional answer came first, as happens when something on the way forks.
func (d *Dialog) Answered(res *sip.Response) error {
	if d.State == Ended || res.StatusCode <= 100 || res.StatusCode >= 300 {
		return nil
	}
	tag, _ := res.To().Params.Get("tag")
	final := res.StatusCode >= 200
	if tag == "" {
		if final {
			return ErrNoTag
		}
		return nil
	}
	if d.Remote.Tag != "" && d.Remote.Tag != tag && !final {
		return nil // a second fork that rings
	}
	d.Remote.Tag = tag
	if final || d.State == New {
		d.routes = nil
		for _, h := range res.GetHeaders("Record-Route") {
			if rr, ok := h.(*sip.RecordRouteHeader); ok {
				d.routes = append([]sip.Uri{*rr.Address.Clone()}, d.routes...)
			}
		}
	}
	target, err := Contact(res)
	switch {
	case err == nil:
		d.Target = target
	case final:
		return err
	}
	if final {
		d.State = Confirmed
	} else if d.State == New {
		d.State = Early
	}
	d.learn(res)
	return nil
}

// Refreshed takes a 2xx to a re-INVITE or UPDATE of ours.
func (d *Dialog) Refreshed(res *sip.Response) {
	if target, err := Contact(res); err == nil {
		d.Target = target
	}
	d.learn(res)
}

// Confirm notes that our own 2xx was sent.
func (d *Dialog) Confirm() {
	if d.State != Ended {
		d.State = Confirmed
	}
}

// End ends the dialog.
func (d *Dialog) End() { d.State = Ended }

// Matches tells whether the three names are those of the dialog, as its own end sees them.
func (d *Dialog) Matches(callID, localTag, remoteTag string) bool {
	return d.CallID == callID && d.Local.Tag == localTag && d.Remote.Tag == remoteTag
}

// Receive takes a request within the dialog and checks its tags and its order. INVITE and UPDATE may move the target.
func (d *Dialog) Receive(req *sip.Request) error {
	from, _ := req.From().Params.Get("tag")
	to, _ := req.To().Params.Get("tag")
	if from != d.Remote.Tag || to != d.Local.Tag || d.State == Ended {
		return ErrTags
	}
	seq := req.CSeq().SeqNo
	if req.Method == sip.ACK {
		return nil
	}
	if d.remoteSeen && seq <= d.remoteSeq {
		return fmt.Errorf("%w: %d after %d", ErrOrder, seq, d.remoteSeq)
	}
	d.remoteSeq, d.remoteSeen = seq, true
	if req.Method == sip.INVITE || req.Method == sip.UPDATE {
		if target, err := Contact(req); err == nil {
			d.Target = target
		}
		d.learn(req)
	}
	return nil
}

// learn notes what the other end can do; a message that does not say leaves what it said before.
func (d *Dialog) learn(m sip.Message) {
	if set := List(m, "Allow"); len(set) > 0 {
		d.Allow = set
	}
	if set := List(m, "Supported", "k"); len(set) > 0 {
		d.Supported = set
	}
}

// Allows tells whether the other end takes a method. One that never said is taken to know the methods of RFC 3261.
func (d *Dialog) Allows(method sip.RequestMethod) bool {
	if d.Allow == nil {
		return method != sip.UPDATE && method != sip.PRACK && method != sip.INFO
	}
	return d.Allow[strings.ToLower(string(method))]
}

// List reads a header of comma-separated tokens, over all its lines, in lower case.
func List(m sip.Message, names ...string) map[string]bool {
	set := map[string]bool{}
	for _, name := range names {
		for _, h := range m.GetHeaders(name) {
			for tok := range strings.SplitSeq(h.Value(), ",") {
				if tok = strings.ToLower(strings.TrimSpace(tok)); tok != "" && len(set) < maxTokens {
					set[tok] = true
				}
			}
		}
	}
	return set
}

const maxTokens = 64

// Contact reads the URI of a message's Contact so that it prints as it was written.
func Contact(m sip.Message) (sip.Uri, error) {
	text := transaction.Header(m, "Contact", "m")
	if text == "" {
		return sip.Uri{}, errors.New("no Contact")
	}
	u, err := transaction.VerbatimURI(addressOf(text))
	if err != nil {
		return sip.Uri{}, fmt.Errorf("contact: %w", err)
	}
	if u.Host == "" {
		return sip.Uri{}, errors.New("contact is no SIP URI")
	}
	return u, nil
}

// addressOf finds the URI of a name-addr or addr-spec.
func addressOf(text string) string {
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && c == '<':
			uri, _, _ := strings.Cut(text[i+1:], ">")
			return strings.TrimSpace(uri)
		}
	}
	uri, _, _ := strings.Cut(text, ";")
	return strings.TrimSpace(uri)
}

// quote escapes a display name for a quoted string; sipgo writes the quotes. Line ends would begin a new header.
func quote(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c >= ' ' && c != 0x7f:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func unquote(name string) string {
	if !strings.Contains(name, `\`) {
		return name
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] == '\\' && i+1 < len(name) {
			i++
		}
		b.WriteByte(name[i])
	}
	return b.String()
}

// Quote is quote for other headers that carry a display name.
func Quote(name string) string { return `"` + quote(name) + `"` }
