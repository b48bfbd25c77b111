package pickup

import (
	"slices"
	"sync"
	"time"

	"ringfence/sip/call"
	"ringfence/sip/cisco"
	"ringfence/sip/plan"
)

// Notices tell idle members of a pickup group about a call that rings in it ("sip-calls" §13): who calls, who is called, a beep,
// as the line of each member wants it. Whoever cannot pick the call up, has begun it, or has sent it there is left out.
type Notices struct {
	// Manager is set once the call manager is made.
	Manager *call.Manager

	mu   sync.Mutex
	last map[string]time.Time // device: its last notice
}

// NewNotices returns the sender of notices.
func NewNotices() *Notices { return &Notices{last: map[string]time.Time{}} }

// Alerting is the entry for call.Options.Alerting.
func (n *Notices) Alerting(a call.Alert) {
	m := n.Manager
	p := m.Plan()
	told := map[string]bool{}
	for _, who := range p.Lines() {
		if told[who.Device] || who.Device == "" || len(who.Notify) == 0 || !own(who, a.Line) || who.Device == a.Line.Device ||
			slices.Contains(a.By, who.Device) || m.DND(who.Device) || !m.Idle(who.Device, p.NumbersOf(who.Device)) {
			continue
		}
		b := m.Binding(who.Number, who.Device)
		if b == nil || !n.due(who) {
			continue
		}
		told[who.Device] = true
		m.Push(b, requests(who, a)...)
	}
}

// due tells whether the last notice of a phone is long enough ago, and notes this one.
func (n *Notices) due(who *plan.Line) bool {
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	if t, ok := n.last[who.Device]; ok && now.Sub(t) < who.NotifyFor {
		return false
	}
	n.last[who.Device] = now
	return true
}

// requests are the text and the tone that a line wants.
func requests(who *plan.Line, a call.Alert) []cisco.Request {
	caller := a.Caller.Number
	if a.Caller.Restricted {
		caller = "" // a withheld number is shown to nobody
	}
	text := ""
	if slices.Contains(who.Notify, "from") && caller != "" {
		text = "From " + caller
	}
	if slices.Contains(who.Notify, "to") {
		if text == "" {
			text = "To " + a.Line.Number
		} else {
			text += " to " + a.Line.Number
		}
	}
	var out []cisco.Request
	if text != "" {
		out = append(out, cisco.Request{StatusLine: &cisco.StatusLine{Text: text, Seconds: int(who.NotifyFor / time.Second), Priority: 1}})
	}
	if slices.Contains(who.Notify, "beep") {
		out = append(out, cisco.Request{PlayTone: &cisco.PlayTone{Tone: "DtZipZip"}})
	}
	return out
}
