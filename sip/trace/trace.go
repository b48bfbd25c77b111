// Package trace keeps the last SIP messages of each recent call, for ladder diagrams and for finding faults. Secrets never
// enter: digest credentials and SDES keys are cut out before a message is kept.
//
// A call is known from its INVITE on; what comes with the same Call-ID is kept beside it. Registrations and lamps are not
// calls and are not kept. Everything is bounded; the oldest go first.
package trace

import (
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/flow"
)

// Bounds.
const (
	MaxCalls    = 500
	MaxMessages = 200 // of one call
	maxText     = 8 << 10
)

// Entry is one message.
type Entry struct {
	At        time.Time
	Out       bool // sent by us
	Flow      string
	Peer      string
	StartLine string
	Text      string // whole, secrets removed
}

// Ring holds the calls.
type Ring struct {
	mu    sync.Mutex
	calls map[string]*[]Entry
	order []string // Call-IDs, oldest first
}

// New returns an empty ring.
func New() *Ring { return &Ring{calls: make(map[string]*[]Entry)} }

// Record keeps a message if it belongs to a call. It is flow.Options.Trace.
func (r *Ring) Record(f flow.Flow, out bool, m sip.Message) {
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
	e := Entry{At: time.Now(), Out: out, Flow: f.ID(), Peer: f.Remote().String(), Text: Redact(m.String())}
	e.StartLine, _, _ = strings.Cut(e.Text, "\r\n")
	if len(e.Text) > maxText {
		e.Text = e.Text[:maxText]
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.calls[id.Value()]
	if list == nil {
		if len(r.order) >= MaxCalls {
			delete(r.calls, r.order[0])
			r.order = r.order[1:]
		}
		list = new([]Entry)
		r.calls[id.Value()] = list
		r.order = append(r.order, id.Value())
	}
	if len(*list) >= MaxMessages {
		*list = append((*list)[:0:0], (*list)[1:]...)
	}
	*list = append(*list, e)
}

// Call returns the messages of a call, oldest first.
func (r *Ring) Call(callID string) []Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	if list := r.calls[callID]; list != nil {
		return append([]Entry(nil), *list...)
	}
	return nil
}

// Calls returns the Call-IDs that are known, oldest first.
func (r *Ring) Calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.order...)
}

const redacted = "[redacted]"

// Redact cuts digest credentials and SDES keys out of the text of a message.
func Redact(text string) string {
	var b strings.Builder
	b.Grow(len(text))
	for len(text) > 0 {
		line, rest, found := strings.Cut(text, "\n")
		b.WriteString(redactLine(line))
		if found {
			b.WriteByte('\n')
		}
		text = rest
	}
	return b.String()
}

func redactLine(line string) string {
	name, _, ok := strings.Cut(line, ":")
	switch lower := strings.ToLower(strings.TrimSpace(name)); {
	case !ok:
	case lower == "authorization" || lower == "proxy-authorization":
		return name + ": " + redacted + end(line)
	case lower == "a=crypto" || lower == "a=key" || lower == "k=":
		if i := strings.Index(line, "inline:"); i >= 0 {
			return line[:i] + "inline:" + redacted + end(line)
		}
		return name + ":" + redacted + end(line)
	}
	if strings.HasPrefix(line, "k=") {
		return "k=" + redacted + end(line)
	}
	return line
}

// end returns the carriage return that a line ends in.
func end(line string) string {
	if strings.HasSuffix(line, "\r") {
		return "\r"
	}
	return ""
}
