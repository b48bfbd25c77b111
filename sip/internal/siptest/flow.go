// Package siptest holds what the tests of the SIP rooms share: a flow without a socket, and a client that speaks raw SIP.
package siptest

import (
	"crypto/x509"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/flow"
)

// Flow is a flow.Flow that keeps what is sent.
type Flow struct {
	Name, Proto, Dev string
	From, To         netip.AddrPort
	Cert             *x509.Certificate
	// OnSend, when set, sees each message that is sent, in order.
	OnSend func(m sip.Message)
	// Refuse makes Send fail.
	Refuse error

	done chan struct{}
	once sync.Once

	mu     sync.Mutex
	sent   []sip.Message
	reason error
	kept   time.Time
}

// NewFlow returns a flow between the addresses of the examples.
func NewFlow(name, transport string) *Flow {
	return &Flow{
		Name: name, Proto: transport, From: netip.MustParseAddrPort("10.20.0.5:5060"), To: netip.MustParseAddrPort("10.20.4.31:51234"),
		done: make(chan struct{}),
	}
}

// The methods of flow.Flow.
func (f *Flow) ID() string                     { return f.Name }
func (f *Flow) Transport() string              { return f.Proto }
func (f *Flow) Local() netip.AddrPort          { return f.From }
func (f *Flow) Remote() netip.AddrPort         { return f.To }
func (f *Flow) Secure() bool                   { return f.Proto == "TLS" }
func (f *Flow) Certificate() *x509.Certificate { return f.Cert }
func (f *Flow) Device() string                 { return f.Dev }
func (f *Flow) Done() <-chan struct{}          { return f.done }
func (f *Flow) Opened() time.Time              { return time.Time{} }

// Send keeps the message.
func (f *Flow) Send(m sip.Message) error {
	select {
	case <-f.done:
		return flow.ErrClosed
	default:
	}
	if f.Refuse != nil {
		return f.Refuse
	}
	f.mu.Lock()
	f.sent = append(f.sent, m)
	f.mu.Unlock()
	if f.OnSend != nil {
		f.OnSend(m)
	}
	return nil
}

// Close ends the flow.
func (f *Flow) Close(reason error) {
	f.once.Do(func() {
		f.mu.Lock()
		f.reason = reason
		f.mu.Unlock()
		close(f.done)
	})
}

// Keep is remembered for Kept.
func (f *Flow) Keep(until time.Time) {
	f.mu.Lock()
	f.kept = until
	f.mu.Unlock()
}

// Allow is remembered like Keep.
func (f *Flow) Allow(until time.Time) { f.Keep(until) }

// Kept is the last argument of Keep or Allow.
func (f *Flow) Kept() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.kept
}

// Reason is what Close was given.
func (f *Flow) Reason() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reason
}

// Sent takes what was sent since the last call.
func (f *Flow) Sent() []sip.Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sent
	f.sent = nil
	return s
}

// Again puts a message back for the next Sent.
func (f *Flow) Again(m sip.Message) {
	f.mu.Lock()
	f.sent = append(f.sent, m)
	f.mu.Unlock()
}

// Lines describes messages by start line and CSeq method, for comparisons.
func Lines(ms []sip.Message) []string {
	var out []string
	for _, m := range ms {
		switch m := m.(type) {
		case *sip.Request:
			out = append(out, string(m.Method))
		case *sip.Response:
			out = append(out, strings.TrimSpace(m.StartLine()[8:11])+" "+string(m.CSeq().MethodName))
		}
	}
	return out
}

// Message parses raw SIP; single line ends become CRLF and a missing Content-Length is added.
func Message(t testing.TB, raw string) sip.Message {
	t.Helper()
	m, err := flow.Parse([]byte(Wire(raw)))
	if err != nil {
		t.Fatalf("parse %q: %v", raw, err)
	}
	return m
}

// Request parses a raw request.
func Request(t testing.TB, raw string) *sip.Request { return Message(t, raw).(*sip.Request) }

// Response parses a raw response.
func Response(t testing.TB, raw string) *sip.Response { return Message(t, raw).(*sip.Response) }

// Wire turns single line ends into CRLF, adds the empty line if missing, and sets Content-Length.
func Wire(raw string) string {
	raw = strings.ReplaceAll(strings.ReplaceAll(strings.TrimLeft(raw, "\n"), "\r\n", "\n"), "\n", "\r\n")
	head, body, _ := strings.Cut(raw, "\r\n\r\n")
	head = strings.TrimRight(head, "\r\n")
	if !strings.Contains(strings.ToLower(head), "\r\ncontent-length:") && !strings.Contains(head, "\r\nl:") {
		head += "\r\nContent-Length: " + itoa(len(body))
	}
	return head + "\r\n\r\n" + body
}

func itoa(n int) string {
	if n == 0 {
		return "0"
	}
	s := ""
	for ; n > 0; n /= 10 {
		s = string(rune('0'+n%10)) + s
	}
	return s
}
