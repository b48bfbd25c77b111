// Package trace keeps the last SIP messages of each recent call, for ladder diagrams and for finding faults. Secrets never
// enter: digest credentials and SDES keys are cut out before a message is kept.
//
// A call is known from its INVITE on; what comes with the same Call-ID is kept beside it. Registrations and lamps are not
// calls and are not kept. Everything is bounded; the oldest go first.
package trace

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/flow"
)

// Bounds.
const (
	MaxCalls    = 5000
	MaxMessages = 200 // of one call
	MaxBytes    = 48 << 20
	maxText     = 8 << 10
	overhead    = 256 // of an entry besides its text
)

// Entry is one message.
type Entry struct {
	At        time.Time
	Out       bool // sent by us
	Flow      string
	Transport string // TCP, TLS or UDP
	Local     netip.AddrPort
	Peer      string
	Remote    netip.AddrPort
	CallID    string
	Party     string // who is at the other end: the number of the line, as the flow is known
	StartLine string
	Text      string // whole, secrets removed
}

// Ring holds the calls.
type Ring struct {
	mu    sync.Mutex
	calls map[string]*[]Entry
	order []string // Call-IDs, oldest first
	bytes int
	tap   func(Entry)
}

// New returns an empty ring.
func New() *Ring { return &Ring{calls: make(map[string]*[]Entry)} }

// Tap makes f see every entry as well. It must come before the first message, and f must not block.
func (r *Ring) Tap(f func(Entry)) { r.tap = f }

// Record keeps a message if it belongs to a call. party is the line at the other end, wire how the message is
// written. It is for flow.Options.Trace.
func (r *Ring) Record(f flow.Flow, party string, out bool, m sip.Message, wire []byte) {
	id, cseq := m.CallID(), m.CSeq()
	if id == nil || cseq == nil {
		return
	}
	switch cseq.MethodName {
	case sip.REGISTER, sip.OPTIONS, sip.SUBSCRIBE, sip.PUBLISH:
		return
	}
	r.mu.Lock()
	known := r.calls[id.Value()] != nil
	r.mu.Unlock()
	if !known && cseq.MethodName != sip.INVITE {
		return
	}
	e := Entry{
		At: time.Now(), Out: out, Flow: f.ID(), Transport: f.Transport(), Local: f.Local(), Peer: f.Remote().String(), Remote: f.Remote(),
		CallID: id.Value(), Party: party, Text: Redact(wire),
	}
	e.StartLine, _, _ = strings.Cut(e.Text, "\r\n")
	if len(e.Text) > maxText {
		e.Text = strings.Clone(e.Text[:maxText])
	}
	r.keep(e)
	if r.tap != nil {
		r.tap(e)
	}
}

func (r *Ring) keep(e Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.calls[e.CallID]
	if list == nil {
		list = new([]Entry)
		r.calls[e.CallID] = list
		r.order = append(r.order, e.CallID)
	}
	if len(*list) >= MaxMessages {
		r.bytes -= (*list)[0].size()
		*list = append((*list)[:0:0], (*list)[1:]...)
	}
	*list = append(*list, e)
	r.bytes += e.size()
	for (r.bytes > MaxBytes || len(r.order) > MaxCalls) && len(r.order) > 1 {
		for _, old := range *r.calls[r.order[0]] {
			r.bytes -= old.size()
		}
		delete(r.calls, r.order[0])
		r.order = r.order[1:]
	}
}

func (e *Entry) size() int { return len(e.Text) + overhead }

// Call returns the messages of a call, oldest first.
func (r *Ring) Call(callID string) []Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	if list := r.calls[callID]; list != nil {
		return append([]Entry(nil), *list...)
	}
	return nil
}

// Merged returns the messages of several dialogs, such as the legs of one call, in the order of time.
func (r *Ring) Merged(callIDs ...string) []Entry {
	var all []Entry
	for i, id := range callIDs {
		if !slices.Contains(callIDs[:i], id) {
			all = append(all, r.Call(id)...)
		}
	}
	slices.SortStableFunc(all, func(a, b Entry) int { return a.At.Compare(b.At) })
	return all
}

// Calls returns the Call-IDs that are known, oldest first.
func (r *Ring) Calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.order...)
}

const redacted = "[redacted]"

// Redact cuts digest credentials and SDES keys out of a message as it is written.
func Redact(wire []byte) string {
	var b strings.Builder
	b.Grow(len(wire))
	rest, folded := wire, false
	kept := 0 // wire[:kept] is in b
	for at := 0; at < len(wire); {
		end := bytes.IndexByte(rest, '\n') + 1
		if end == 0 {
			end = len(rest)
		}
		line := rest[:end]
		rest = rest[end:]
		switch {
		case folded && (line[0] == ' ' || line[0] == '\t'): // a header may go on in the next line
			b.Write(wire[kept:at])
			kept = at + end
		case suspicious(line[0]):
			folded = false
			if clean, secret, whole := redactLine(string(line)); secret {
				b.Write(wire[kept:at])
				b.WriteString(clean)
				kept = at + end
				folded = whole
			}
		default:
			folded = false
		}
		at += end
	}
	b.Write(wire[kept:])
	return b.String()
}

// suspicious tells lines that may hold a secret by their first letter: Authorization, a=crypto, Proxy-Authorization, k=.
func suspicious(c byte) bool {
	switch c {
	case 'a', 'A', 'p', 'P', 'k', 'K', ' ', '\t':
		return true
	}
	return false
}

// redactLine returns a line without its secret, if it has one; whole is true for a header, which may be folded.
func redactLine(line string) (clean string, secret, whole bool) {
	name, _, ok := strings.Cut(line, ":")
	switch lower := strings.ToLower(strings.TrimSpace(name)); {
	case !ok:
	case lower == "authorization" || lower == "proxy-authorization":
		return name + ": " + redacted + end(line), true, true
	case lower == "a=crypto" || lower == "a=key" || lower == "k=":
		if i := strings.Index(line, "inline:"); i >= 0 {
			return line[:i] + "inline:" + redacted + end(line), true, false
		}
		return name + ":" + redacted + end(line), true, false
	}
	if strings.HasPrefix(line, "k=") {
		return "k=" + redacted + end(line), true, false
	}
	return line, false, false
}

// end returns what a line ends in.
func end(line string) string {
	switch {
	case strings.HasSuffix(line, "\r\n"):
		return "\r\n"
	case strings.HasSuffix(line, "\n"):
		return "\n"
	}
	return ""
}
