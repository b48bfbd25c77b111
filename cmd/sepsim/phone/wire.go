package phone

import "strings"

// WireMessage is a SIP message as it came from the server, for those who look at the wire and not at the display.
type WireMessage struct{ m *message }

// Method is that of a request; empty for an answer.
func (m WireMessage) Method() string { return m.m.method }

// Status is that of an answer; 0 for a request.
func (m WireMessage) Status() int { return m.m.status }

// URI is the Request-URI.
func (m WireMessage) URI() string { return m.m.uri }

// Get is the first value of a header, Count how often it stands there.
func (m WireMessage) Get(name string) string { return m.m.get(name) }

// Count is how often a header occurs.
func (m WireMessage) Count(name string) int { return count(m.m, name) }

// Body is the body, with the line ends as they came.
func (m WireMessage) Body() string { return string(m.m.body) }

// Event is the event package of a NOTIFY.
func (m WireMessage) Event() string {
	event, _, _ := strings.Cut(m.m.get("Event"), ";")
	return strings.ToLower(strings.TrimSpace(event))
}

const maxWire = 400

// keepWire remembers a message for Received.
func (p *Phone) keepWire(m *message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.wire) >= maxWire {
		p.wire = append(p.wire[:0], p.wire[maxWire/4:]...)
		p.wireLost += maxWire / 4
	}
	p.wire = append(p.wire, m)
	p.changedLocked()
}

// Received are the last few hundred messages of the server, oldest first, requests and answers. from is how many to leave out: the
// Mark of an earlier moment.
func (p *Phone) Received(from int) []WireMessage {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []WireMessage
	for i := max(0, from-p.wireLost); i < len(p.wire); i++ {
		out = append(out, WireMessage{p.wire[i]})
	}
	return out
}

// Mark is the number of messages received until now.
func (p *Phone) Mark() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wireLost + len(p.wire)
}
