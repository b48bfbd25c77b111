package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
)

// Verb describes one command to the running daemon; client and server share it.
type Verb struct {
	Name   string // "phone show"
	Args   string // "DEVICE", for help; empty when there are none
	Min    int    // arguments at least
	Max    int    // and at most
	Short  string // one line for help
	Help   string // more of it, may be empty
	Flags  []Flag
	Change bool // it changes something: POST
	// Prepare runs at the client before the request is sent, as for a file whose content goes with it. May be nil.
	Prepare func(req *Request) error
	// Print renders the daemon's answer for humans. Nil: the JSON answer is shown.
	Print func(w io.Writer, answer json.RawMessage) error
}

// Flag of a verb, besides --json, which every verb has.
type Flag struct {
	Name  string
	Usage string
	Bool  bool // takes no value
}

// Usage is the verb as typed.
func (v Verb) Usage() string {
	u := v.Name
	if v.Args != "" {
		u += " " + v.Args
	}
	for _, f := range v.Flags {
		if f.Bool {
			u += " [--" + f.Name + "]"
		} else {
			u += " [--" + f.Name + " VALUE]"
		}
	}
	return u + " [--json]"
}

// path of the verb on the control socket.
func (v Verb) path() string { return "/v1/" + strings.ReplaceAll(v.Name, " ", "/") }

func (v Verb) method() string {
	if v.Change {
		return http.MethodPost
	}
	return http.MethodGet
}

// Request is what a handler gets.
type Request struct {
	Args  []string          `json:"args"`
	Flags map[string]string `json:"flags,omitempty"` // "true" for a Bool one
	Peer  Peer              `json:"-"`
}

// Peer is who asks, by the kernel's word.
type Peer struct {
	UID int
	PID int
}

// Handler answers a verb with a value that becomes JSON. An error's text goes to the administrator.
type Handler func(ctx context.Context, r Request) (any, error)

// Error is a refusal with its kind.
type Error struct {
	Status int // of HTTP; 400 makes the client end with 2, others with 1
	Text   string
}

// Error returns the text.
func (e *Error) Error() string { return e.Text }

// Usage is the refusal of arguments that make no sense.
func Usage(format string, args ...any) error {
	return &Error{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// Refuse is the refusal of what cannot be done now.
func Refuse(format string, args ...any) error {
	return &Error{http.StatusConflict, fmt.Sprintf(format, args...)}
}

// Undeclared is the refusal of a name that the configuration does not have. It names some that it has.
func Undeclared(kind, name string, declared []string) error {
	const most = 8
	text := fmt.Sprintf("%s %s is not declared; ", kind, name)
	switch n := len(declared); {
	case n == 0:
		text += "none is declared"
	case n <= most:
		text += "declared are " + strings.Join(declared, ", ")
	default:
		text += fmt.Sprintf("declared are %s and %d more", strings.Join(declared[:most], ", "), n-most)
	}
	return &Error{http.StatusNotFound, text}
}

// Verbs are those that this package answers itself.
func Verbs() []Verb {
	return []Verb{
		{Name: "status", Short: "the appliance at a glance: services, phones, calls", Print: printer(printStatus)},
		{Name: "phone list", Short: "every phone and where it stands", Print: printer(printPhones),
			Flags: []Flag{{Name: "waiting", Usage: "those that ask and are not declared, all of them", Bool: true}}},
		{Name: "phone show", Args: "DEVICE", Min: 1, Max: 1, Short: "one phone: registration, certificate, boot record, and what to do when it is stuck",
			Help: "DEVICE is the phone's name, SEP and its MAC address; the MAC address alone will do, in any spelling.", Print: printer(printPhone)},
		{Name: "line list", Short: "every line", Print: printer(printLines)},
		{Name: "line show", Args: "NUMBER", Min: 1, Max: 1, Short: "one line: where it is registered, forward, calls", Print: printer(printLine)},
		{Name: "cert list", Short: "every certificate with its expiry", Print: printer(printCerts)},
		{Name: "vpn sessions", Short: "who is connected by VPN", Print: printer(printVPNSessions)},
		{Name: "call list", Short: "the calls of this moment", Print: printer(printCalls)},
	}
}

// printer adapts a typed renderer.
func printer[T any](f func(w io.Writer, v T)) func(io.Writer, json.RawMessage) error {
	return func(w io.Writer, answer json.RawMessage) error {
		var v T
		if err := json.Unmarshal(answer, &v); err != nil {
			return fmt.Errorf("read the daemon's answer: %w", err)
		}
		f(w, v)
		return nil
	}
}

// Handlers answer Verbs from s.
func (s Sources) Handlers() map[string]Handler {
	return map[string]Handler{
		"status": func(context.Context, Request) (any, error) {
			st := s.Status()
			st.Services = list(st.Services)
			return st, nil
		},
		"phone list": func(_ context.Context, r Request) (any, error) {
			phones := list(s.Phones(r.Flags["waiting"] != ""))
			for i := range phones {
				phones[i].Lines = list(phones[i].Lines)
			}
			return phones, nil
		},
		"phone show": func(_ context.Context, r Request) (any, error) {
			name := deviceName(r.Args[0])
			p, ok := s.Phone(name)
			if !ok {
				var declared []string
				for _, p := range s.Phones(false) {
					if p.Declared {
						declared = append(declared, p.Device)
					}
				}
				return nil, Undeclared("phone", name, declared)
			}
			p.Lines = list(p.Lines)
			return p, nil
		},
		"line list": func(context.Context, Request) (any, error) { return list(s.Lines()), nil },
		"line show": func(_ context.Context, r Request) (any, error) {
			l, ok := s.Line(r.Args[0])
			if !ok {
				var declared []string
				for _, l := range s.Lines() {
					declared = append(declared, l.Number)
				}
				return nil, Undeclared("line", r.Args[0], declared)
			}
			return l, nil
		},
		"cert list":    func(context.Context, Request) (any, error) { return list(s.Certs()), nil },
		"vpn sessions": func(context.Context, Request) (any, error) { return list(s.VPNSessions()), nil },
		"call list": func(context.Context, Request) (any, error) {
			calls := list(s.Calls())
			for i := range calls {
				calls[i].Legs = list(calls[i].Legs)
			}
			return calls, nil
		},
	}
}

// list makes an empty list of nil, so that JSON shows [] and not null.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

var macAddress = regexp.MustCompile(`^(?:SEP)?([0-9A-F]{12})$`)

// deviceName completes a MAC address to a device name; what is none stays as typed.
func deviceName(typed string) string {
	if m := macAddress.FindStringSubmatch(strings.NewReplacer(":", "", "-", "", ".", "").Replace(strings.ToUpper(typed))); m != nil {
		return "SEP" + m[1]
	}
	return typed
}
