// Package sip is the PBX: the server that phones register with, made of the rooms below it.
//
//	flow          connections            transaction   RFC 3261 §17
//	registrar     who is where           state         what phones show, and who watches it
//	cisco         codecs                 trace         messages of recent calls
//	dialog, sdp, call, plan, feature     calls
//
// Server builds flow, transaction, registrar and state, and hands each request to whom it concerns. Calls are an interface
// (Calls), set before Start.
//
// # Who may do what
//
//	REGISTER                 digest; a standby's keep-alive without
//	INVITE, SUBSCRIBE        digest, outside of a dialog
//	REFER, PUBLISH, NOTIFY   outside of a dialog only on the live connection of an authenticated registration, else 403
//	                         (design §1 rule 6); alarms, tokens, location reports and responses always 202
//	OPTIONS                  everybody
//	in a dialog              whoever owns the dialog checks that the request came on its connection; 481 if nobody does
//
// sipgo's message types do not leave this package and those below.
package sip

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	sipgo "github.com/emiago/sipgo/sip"

	"ringfence/sip/cisco"
	"ringfence/sip/flow"
	"ringfence/sip/registrar"
	"ringfence/sip/state"
	"ringfence/sip/trace"
	"ringfence/sip/transaction"
)

// Calls is what has to do with calls.
type Calls interface {
	// Invite gets an authenticated INVITE outside of a dialog.
	Invite(tx *transaction.Server, id registrar.Identity)
	// InDialog gets a request with a To tag; false: no such dialog on that connection.
	InDialog(tx *transaction.Server) bool
	// Ack gets the ACK to a 2xx.
	Ack(f flow.Flow, ack *sipgo.Request)
}

// RemoteControl is what Calls may implement besides: softkeys and menu choices of Cisco phones. The request is understood and
// from the device's own connection. RemoteControl answers 202 or 603 and returns true; false: not its business, 603.
type RemoteControl interface {
	RemoteControl(tx *transaction.Server, id registrar.Identity, requests []cisco.Request, cm string) bool
}

// LegKeeper is what Calls may implement besides: the legs of all dialogs that exist, so that the self-check can put out lamps
// of calls that nobody has any more, and light those that were forgotten.
type LegKeeper interface {
	Legs() map[state.Leg]state.Phase
}

// Options configure a Server.
type Options struct {
	Log     *slog.Logger
	Product string // in Server and User-Agent, default "Ringfence"
	// Fallback tells phones in encrypted mode that their offers of SRTP may be answered in clear ("sip-overview" §3).
	Fallback bool

	Listen       []flow.Listen
	Certificate  func() (*tls.Certificate, error)
	VerifyClient func(cert *x509.Certificate, chain []*x509.Certificate) (device string, err error)
	MaxMessage   int
	MaxFlows     int
	MaxPerSource int

	Accounts registrar.Accounts
	Password func(account string) (string, bool)
	Realm    string
	Expires  time.Duration // granted to Cisco phones
	Store    state.Store
	Local    registrar.Local // may be nil

	Note     func(device, step, text string, failed bool) // may be nil
	Stamps   func(device string) (cisco.Stamps, bool)     // may be nil
	MayWatch func(watcher, number string) bool            // may be nil
	Ready    func() bool                                  // may be nil
	Declared func(line, field string) (string, bool)      // fields of state.Field that are declared; may be nil
	Trace    func(f flow.Flow, out bool, m sipgo.Message) // besides the server's own; may be nil
}

// Server is the PBX without its calls.
type Server struct {
	opt    Options
	log    *slog.Logger
	calls  Calls
	flows  *flow.Manager
	layer  *transaction.Layer
	reg    *registrar.Registrar
	state  *state.State
	traces *trace.Ring

	mu     sync.Mutex
	recent map[string][]string // device -> Call-ID and CSeq of its last REFERs
}

// New binds the listeners and reads what was kept.
func New(o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Product == "" {
		o.Product = "Ringfence"
	}
	s := &Server{opt: o, log: o.Log, traces: trace.New(), recent: make(map[string][]string)}
	s.layer = transaction.New(transaction.Options{Log: o.Log, OnRequest: s.request, OnAck: s.ack, Decorate: s.decorate})
	var err error
	s.reg, err = registrar.New(registrar.Options{
		Log: o.Log, Accounts: o.Accounts, Password: o.Password, Realm: o.Realm, Expires: o.Expires, Note: o.Note, Local: o.Local,
		OnChange: func(e registrar.Event) { s.state.Registration(e) }, Ready: o.Ready,
	})
	if err != nil {
		return nil, err
	}
	s.state, err = state.New(state.Options{
		Log: o.Log, Accounts: o.Accounts, Registrar: s.reg, Transactions: s.layer, Store: o.Store, Stamps: o.Stamps,
		MayWatch: o.MayWatch, Note: o.Note, Declared: o.Declared,
	})
	if err != nil {
		s.reg.Stop()
		return nil, err
	}
	s.flows, err = flow.New(flow.Options{
		Listen: o.Listen, Log: o.Log, OnMessage: s.layer.Receive, OnClose: s.flowClosed, Certificate: o.Certificate,
		VerifyClient: o.VerifyClient, MaxMessage: o.MaxMessage, MaxFlows: o.MaxFlows, MaxPerSource: o.MaxPerSource,
		Trace: func(f flow.Flow, out bool, m sipgo.Message, wire []byte) {
			if id, ok := s.reg.ByFlow(f); ok { // strangers cannot push calls out of the ring
				s.traces.Record(f, id.Line, out, m, wire)
			}
			if o.Trace != nil {
				o.Trace(f, out, m)
			}
		},
	})
	if err != nil {
		s.reg.Stop()
		s.state.Stop()
		return nil, err
	}
	s.reg.Reopen(s.flows.Open)
	return s, nil
}

// Reload makes a changed configuration count: Accounts answers by it already.
func (s *Server) Reload() { s.state.Reload() }

// SetCalls says who handles calls. It must come before Start.
func (s *Server) SetCalls(c Calls) {
	s.calls = c
	if k, ok := c.(LegKeeper); ok {
		s.state.SetLegs(k.Legs)
	}
}

// Start serves the listeners. It is idempotent.
func (s *Server) Start() {
	s.state.Start()
	s.flows.Start()
}

// Stop closes the listeners and all connections. It is idempotent.
func (s *Server) Stop() {
	s.flows.Stop()
	s.state.Stop()
	s.reg.Stop()
}

// Flows returns the connections' owner.
func (s *Server) Flows() *flow.Manager { return s.flows }

// Transactions returns the transaction layer.
func (s *Server) Transactions() *transaction.Layer { return s.layer }

// Registrar returns the registrar.
func (s *Server) Registrar() *registrar.Registrar { return s.reg }

// State returns the model of what phones show.
func (s *Server) State() *state.State { return s.state }

// Traces returns the messages of recent calls.
func (s *Server) Traces() *trace.Ring { return s.traces }

// Addr returns where the first listener of a transport ("TCP", "TLS", "UDP") listens, or the zero value.
func (s *Server) Addr(transport string) netip.AddrPort { return s.flows.Addr(transport) }

func (s *Server) flowClosed(f flow.Flow, reason error) {
	if id, ok := s.reg.ByFlow(f); ok {
		s.log.Info("connection closed", "phone", id.Device, "line", id.Line, "peer", f.Remote().String(), "err", reason)
	}
	s.layer.FlowClosed(f, reason)
	s.reg.FlowClosed(f)
	s.state.FlowClosed(f)
}

// allow is what the server takes.
const allow = "INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, SUBSCRIBE, NOTIFY, INFO, PUBLISH, UPDATE, PRACK"

// decorate adds what every message of ours carries (sip-registration.md §3, sip-overview.md §3): the level of features only
// towards devices that are known.
func (s *Server) decorate(f flow.Flow, m sipgo.Message) {
	id, known := s.reg.ByFlow(f)
	tags := "replaces,timer"
	if known && id.Cisco {
		if s.opt.Fallback && f.Secure() {
			tags += ",X-cisco-srtp-fallback"
		}
		tags += "," + cisco.SIS
	}
	switch m := m.(type) {
	case *sipgo.Response:
		if m.StatusCode == 100 {
			return
		}
		add(m, "Server", s.opt.Product)
		if m.StatusCode < 300 || m.StatusCode == 405 {
			add(m, "Allow", allow)
			if known && id.Cisco || m.CSeq().MethodName == sipgo.OPTIONS || m.CSeq().MethodName == sipgo.INVITE {
				add(m, "Supported", tags)
			}
		}
	case *sipgo.Request:
		if m.Method == sipgo.ACK || m.Method == sipgo.CANCEL {
			return
		}
		add(m, "User-Agent", s.opt.Product)
		if m.Method == sipgo.INVITE || m.Method == sipgo.REFER || m.Method == sipgo.UPDATE {
			add(m, "Allow", allow)
			add(m, "Supported", tags)
		}
	}
}

func add(m sipgo.Message, name, value string) {
	if !transaction.Has(m, name) {
		m.AppendHeader(sipgo.NewHeader(name, value))
	}
}

func (s *Server) ack(f flow.Flow, ack *sipgo.Request) {
	if s.calls != nil {
		s.calls.Ack(f, ack)
	}
}

// request is the dispatch table.
func (s *Server) request(tx *transaction.Server) {
	req := tx.Request()
	if scheme := req.Recipient.Scheme; scheme != "sip" && scheme != "sips" && scheme != "tel" {
		tx.Answer(416)
		return
	}
	if tags := unsupported(req); tags != "" {
		tx.Answer(420, sipgo.NewHeader("Unsupported", tags))
		return
	}
	if _, in := req.To().Params.Get("tag"); in && req.Method != sipgo.REGISTER {
		s.inDialog(tx)
		return
	}
	switch req.Method {
	case sipgo.REGISTER:
		s.reg.Register(tx)
	case sipgo.INVITE:
		if id, ok := s.reg.Authenticate(tx); ok {
			if s.calls == nil {
				tx.Answer(480)
				return
			}
			s.calls.Invite(tx, id)
		}
	case sipgo.SUBSCRIBE:
		if id, ok := s.reg.Authenticate(tx); ok {
			s.state.Subscribe(tx, id)
		}
	case sipgo.OPTIONS:
		tx.Answer(200, sipgo.NewHeader("Accept", "application/sdp"), sipgo.NewHeader("Accept-Encoding", "identity"))
	case sipgo.REFER:
		s.refer(tx)
	case sipgo.PUBLISH:
		if id, ok := s.sender(tx); ok {
			s.state.Publish(tx, id)
		}
	case sipgo.NOTIFY:
		if id, ok := s.sender(tx); ok {
			s.state.Notify(tx, id)
		}
	case sipgo.BYE, sipgo.UPDATE, sipgo.INFO, sipgo.PRACK:
		tx.Answer(481)
	case sipgo.MESSAGE:
		tx.Answer(405)
	default:
		tx.Answer(501)
	}
}

// unsupported returns the tags of Require that this server does not know (RFC 3261 §8.2.2.3). An extension that is only about
// what the answer may be is known by not using it.
func unsupported(req *sipgo.Request) string {
	var out []string
	for h := range transaction.Headers(req, "Require") {
		for tag := range strings.SplitSeq(h.Value(), ",") {
			switch tag = strings.TrimSpace(tag); strings.ToLower(tag) {
			case "", "norefersub", "extended-refer", "replaces", "timer", "100rel", "join", "sdp-anat", "resource-priority", "outbound":
			default:
				if len(out) < 8 {
					out = append(out, tag)
				}
			}
		}
	}
	return strings.Join(out, ", ")
}

func (s *Server) inDialog(tx *transaction.Server) {
	if tx.Request().Method == sipgo.SUBSCRIBE {
		if !s.state.Resubscribe(tx) {
			tx.Answer(481)
		}
		return
	}
	if s.calls == nil || !s.calls.InDialog(tx) {
		tx.Answer(481)
	}
}

// sender returns who is registered on the connection of a request that phones cannot be challenged for; otherwise it answers
// 403. The line is the one in From if it is one of theirs: a softphone may have registered several on one connection. A request
// whose From names somebody else who is declared is refused too: whoever sent it does not speak for himself.
func (s *Server) sender(tx *transaction.Server) (registrar.Identity, bool) {
	user, why := tx.Request().From().Address.User, "not the connection of a registration"
	id, ok := s.reg.ByFlowLine(tx.Flow(), user)
	if !ok {
		id, ok = s.reg.ByFlow(tx.Flow())
	}
	if ok && s.foreign(id, user) {
		ok, why = false, "From names another phone"
	}
	if !ok {
		s.log.Info("request refused", "phone", id.Device, "peer", tx.Flow().Remote().String(), "method", string(tx.Request().Method), "err", why)
		tx.Answer(403)
	}
	return id, ok
}

// foreign tells whether a user part names a declared line or phone (by its name or MAC address) that is not id's. One
// character names nobody: some 7900 loads write no more of their line (sip-state.md §3).
func (s *Server) foreign(id registrar.Identity, user string) bool {
	if len(user) < 2 {
		return false
	}
	if a, ok := s.opt.Accounts.Line(user); ok {
		return user != id.Line && (a.Device == "" || a.Device != id.Device)
	}
	name := strings.ToUpper(user)
	if len(name) == 12 {
		name = "SEP" + name
	}
	_, ok := s.opt.Accounts.Device(name)
	return ok && name != id.Device
}

// refer answers a REFER outside of a dialog (sip-overview.md §6.4).
func (s *Server) refer(tx *transaction.Server) {
	if s.reg.Refer(tx) {
		return
	}
	id, ok := s.sender(tx)
	if !ok {
		return
	}
	req := tx.Request()
	requests, cm, err := cisco.Requests(transaction.Header(req, "Content-Type", "c"), req.Body())
	if err != nil || !id.Cisco {
		tx.Answer(603, sipgo.NewHeader("Warning", `399 ringfence "no remotecc request"`))
		return
	}
	if s.repeated(id.Device, req) {
		tx.Answer(202)
		return
	}
	if k := requests[0].Softkey; k != nil && k.Event == "HLog" {
		s.state.HuntKey(tx, id)
		return
	}
	if rc, ok := s.calls.(RemoteControl); !ok || !rc.RemoteControl(tx, id, requests, cm) {
		tx.Answer(603)
	}
}

// repeated tells a REFER that was carried out already: many keys toggle, and must not toggle twice (sip-calls.md §1.1 rule 9).
func (s *Server) repeated(device string, req *sipgo.Request) bool {
	key := fmt.Sprintf("%s %d", req.CallID().Value(), req.CSeq().SeqNo)
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.recent[device]
	for _, k := range list {
		if k == key {
			return true
		}
	}
	if len(list) >= 8 {
		list = append(list[:0:0], list[1:]...)
	}
	s.recent[device] = append(list, key)
	return false
}

// ErrUnknownLine is returned for a line that is not declared.
var ErrUnknownLine = errors.New("no such line")

// LineInfo is one line for `line list` and `line show`.
type LineInfo struct {
	Number     string    `json:"number"`
	Device     string    `json:"device,omitempty"`
	Index      int       `json:"index"`
	Registered bool      `json:"registered"`
	Contacts   []Contact `json:"contacts,omitempty"`
	Shows      string    `json:"shows"` // as on BLF keys
	Calls      int       `json:"calls"`
	OffHook    bool      `json:"off_hook,omitempty"`
	DND        bool      `json:"dnd"`
	Forward    string    `json:"forward,omitempty"`
	HuntLogin  bool      `json:"hunt_login"`
	New        int       `json:"new_messages"`
	Old        int       `json:"old_messages"`
	Voicemail  string    `json:"voicemail,omitempty"`
	Watchers   []string  `json:"watchers,omitempty"`
}

// Contact is one place where a line is registered.
type Contact struct {
	URI            string    `json:"uri"`
	Peer           string    `json:"peer,omitempty"` // "" after a restart, until the phone is back
	Transport      string    `json:"transport,omitempty"`
	Reachable      bool      `json:"reachable"`
	UserAgent      string    `json:"user_agent,omitempty"`
	Model          string    `json:"model,omitempty"`
	Load           string    `json:"load,omitempty"`
	InactiveLoad   string    `json:"inactive_load,omitempty"`
	LastReset      string    `json:"last_reset,omitempty"`
	RegisterCallID string    `json:"register_call_id"`
	Registered     time.Time `json:"registered"`
	Expires        time.Time `json:"expires"`
}

// Line describes a line.
func (s *Server) Line(number string) (LineInfo, error) {
	a, ok := s.opt.Accounts.Line(number)
	if !ok {
		return LineInfo{}, ErrUnknownLine
	}
	st := s.state.Line(number)
	l := LineInfo{
		Number: number, Device: a.Device, Index: a.Index, Registered: st.Registered, Shows: st.Shows, Calls: st.Calls,
		OffHook: st.OffHook, DND: st.DND, Forward: st.Forward, HuntLogin: st.HuntLogin, New: st.New, Old: st.Old, Voicemail: a.Voicemail,
	}
	for _, b := range s.reg.Lookup(number) {
		c := Contact{
			URI: b.ContactText, Reachable: b.Reachable(), UserAgent: b.UserAgent, Model: b.Model, Load: b.Load,
			InactiveLoad: b.InactiveLoad, LastReset: b.LastReset, RegisterCallID: b.CallID, Registered: b.Registered, Expires: b.Expires,
		}
		if b.Flow != nil {
			c.Peer, c.Transport = b.Flow.Remote().String(), b.Flow.Transport()
		}
		l.Contacts = append(l.Contacts, c)
	}
	return l, nil
}

// Watchers lists who watches what.
func (s *Server) Watchers() []state.Watcher { return s.state.Watchers() }
