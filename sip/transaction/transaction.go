// Package transaction implements the transactions of RFC 3261 §17 with the corrections of RFC 6026, over flows.
//
// The four machines are our own: sipgo's need a goroutine per client transaction, answer a CANCEL behind the user's back and
// share their timers with the whole process. Here a transaction is a value with a lock; events are messages of its flow,
// calls of its user and timers; nothing blocks and nothing has a goroutine of its own.
//
// # API
//
//	l := transaction.New(transaction.Options{OnRequest: ..., OnAck: ...})
//	flow.Options{OnMessage: l.Receive, OnClose: l.FlowClosed}
//
//	// server side
//	OnRequest(tx): tx.Request(), tx.Flow(), tx.Respond(tx.Response(200, "")), tx.OnCancel(f), tx.OnAck(f), tx.OnEnd(f)
//	tx.Dismiss(res) // to strangers: one answer, nothing kept
//	// client side
//	c, err := l.Request(f, req, func(res *sip.Response, err error) {...})
//	c.Cancel(reason...)   // INVITE only; waits for the first provisional answer by itself (RFC 3261 §9.1)
//	c.Ack(ack)            // ACK to a 2xx; the layer repeats it for repeated 2xx
//	l.Send(f, ack)        // anything outside transactions
//
// Rules that users rely on:
//
//   - OnRequest is called in the order of arrival per flow. Callbacks must not block; they come from the goroutine that reads
//     the flow, from a timer or from a closing flow, never two at once for one transaction, and never with a lock held.
//   - A retransmission never reaches the user. A response that matches nothing on its own flow is dropped.
//   - 100 Trying is sent by the layer when OnRequest returns from an INVITE without having answered it.
//   - The tag of the To header is one per server transaction (Server.Tag, Server.Response).
//   - A 2xx to an INVITE is repeated by the layer over UDP until its ACK; OnEnd(ErrTimeout) if none comes in 64*T1, on any
//     transport: the dialog is to be ended with BYE then (RFC 3261 §13.3.1.4). Every ACK to a 2xx goes to Options.OnAck.
//   - The ACK to a non-2xx is matched by branch, else by Call-ID and CSeq number; its To tag is not looked at, since Cisco
//     phones leave it out (sip-calls.md §1.6).
//   - CANCEL is answered by the layer; OnCancel tells the user, who answers 487. Without an OnCancel the layer answers 487.
//   - A non-INVITE request that its user does not answer within 64*T1 is forgotten (RFC 4320), with OnEnd(ErrTimeout).
//
// Left out: 2xx of further forks (we send requests to one connection), PRACK's reliability of provisionals.
package transaction

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/internal/task"
	"ringfence/sip/flow"
)

// Errors given to client handlers and OnEnd, or returned by Respond.
var (
	ErrTimeout    = errors.New("no answer in time")
	ErrFlowClosed = errors.New("flow closed")
	ErrEnded      = errors.New("transaction has ended")
	ErrTooMany    = errors.New("too many transactions")
)

// Timers of RFC 3261 §17.
const (
	DefaultT1 = 500 * time.Millisecond
	t2        = 4 * time.Second
	t4        = 5 * time.Second
)

// Options configure a Layer.
type Options struct {
	Log *slog.Logger
	// OnRequest gets each new server transaction. OnAck gets each ACK that belongs to a 2xx, or to nothing known.
	OnRequest func(*Server)
	OnAck     func(f flow.Flow, ack *sip.Request)
	// Decorate, when set, adds headers to every message before it is sent (Server, Date, Supported ...).
	Decorate func(f flow.Flow, m sip.Message)

	T1         time.Duration // 500 ms
	MaxPerFlow int           // 4096 transactions of one flow
	Max        int           // 100000 transactions in all
}

// Layer holds the transactions of all flows.
type Layer struct {
	opt   Options
	count atomic.Int64

	mu    sync.RWMutex
	flows map[string]*table
}

// table holds the transactions of one flow; nothing that came on another flow can touch them. Its maps are there only while they
// hold something, for most phones are silent most of the time.
type table struct {
	f flow.Flow

	mu      sync.Mutex
	servers map[serverKey]*Server
	clients map[clientKey]*Client
	invites map[inviteKey]*Server // INVITE transactions waiting for an ACK, by what the ACK shares with them
}

// put and take keep a map of a table; t.mu is held.
func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[k] = v
}

func take[K comparable, V any](m *map[K]V, k K) {
	if delete(*m, k); len(*m) == 0 {
		*m = nil
	}
}

// alarm is the timer of a transaction. It lets go of the transaction when it is stopped: Go keeps what a stopped timer refers to
// until it gets round to removing it, half a minute later here, and a transaction holds its request and answer.
type alarm struct {
	t *time.Timer
	f *atomic.Pointer[func()]
}

// set makes the alarm call f after d, and forgets what it was set to before.
func (a *alarm) set(d time.Duration, f func()) {
	a.stop()
	p := new(atomic.Pointer[func()])
	p.Store(&f)
	a.f = p
	a.t = time.AfterFunc(d, func() {
		if f := p.Load(); f != nil {
			(*f)()
		}
	})
}

func (a *alarm) stop() {
	if a.t != nil {
		a.t.Stop()
		a.f.Store(nil)
		a.t, a.f = nil, nil
	}
}

type serverKey struct{ branch, sentBy, method string }
type clientKey struct{ branch, method string }
type inviteKey struct {
	callID, fromTag string
	cseq            uint32
}

// New returns an empty layer.
func New(o Options) *Layer {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.T1 <= 0 {
		o.T1 = DefaultT1
	}
	if o.MaxPerFlow <= 0 {
		o.MaxPerFlow = 4096
	}
	if o.Max <= 0 {
		o.Max = 100000
	}
	return &Layer{opt: o, flows: make(map[string]*table)}
}

// Count is the number of transactions that exist.
func (l *Layer) Count() int { return int(l.count.Load()) }

// table returns the table of f, or nil when f has ended.
func (l *Layer) table(f flow.Flow) *table {
	l.mu.RLock()
	t := l.flows[f.ID()]
	l.mu.RUnlock()
	if t != nil {
		return t
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.flows[f.ID()]; t != nil {
		return t
	}
	select {
	case <-f.Done(): // FlowClosed came or will come; it must find nothing new
		return nil
	default:
	}
	t = &table{f: f}
	l.flows[f.ID()] = t
	return t
}

// room reports whether one more transaction may exist. t.mu is held.
func (l *Layer) roomLocked(t *table) bool {
	return len(t.servers)+len(t.clients) < l.opt.MaxPerFlow && int(l.count.Load()) < l.opt.Max
}

// FlowClosed ends the transactions of f. It is flow.Options.OnClose.
func (l *Layer) FlowClosed(f flow.Flow, _ error) {
	l.mu.Lock()
	t := l.flows[f.ID()]
	delete(l.flows, f.ID())
	l.mu.Unlock()
	if t == nil {
		return
	}
	t.mu.Lock()
	servers := make([]*Server, 0, len(t.servers))
	for _, s := range t.servers {
		servers = append(servers, s)
	}
	clients := make([]*Client, 0, len(t.clients))
	for _, c := range t.clients {
		clients = append(clients, c)
	}
	t.mu.Unlock()
	for _, s := range servers {
		s.end(ErrFlowClosed)
	}
	for _, c := range clients {
		c.fail(ErrFlowClosed)
	}
}

// Send sends m outside of any transaction (an ACK to a 2xx).
func (l *Layer) Send(f flow.Flow, m sip.Message) error {
	l.decorate(f, m)
	return f.Send(m)
}

func (l *Layer) decorate(f flow.Flow, m sip.Message) {
	if l.opt.Decorate != nil {
		l.opt.Decorate(f, m)
	}
	if m.ContentLength() == nil {
		m.SetBody(m.Body())
	}
}

// guard keeps a user's panic from ending the flow's reader or the process.
func (l *Layer) guard(name string, f func()) error { return task.Guard(l.opt.Log, name, f) }

// Receive takes the next message of f. It is flow.Options.OnMessage.
func (l *Layer) Receive(f flow.Flow, m sip.Message) {
	switch m := m.(type) {
	case *sip.Response:
		l.response(f, m)
	case *sip.Request:
		switch m.Method {
		case sip.ACK:
			l.ack(f, m)
		case sip.CANCEL:
			l.cancel(f, m)
		default:
			l.request(f, m)
		}
	}
}

func (l *Layer) response(f flow.Flow, res *sip.Response) {
	branch, _ := res.Via().Params.Get("branch")
	l.mu.RLock()
	t := l.flows[f.ID()]
	l.mu.RUnlock()
	if t == nil {
		return
	}
	t.mu.Lock()
	c := t.clients[clientKey{branch, string(res.CSeq().MethodName)}]
	t.mu.Unlock()
	if c != nil {
		c.receive(res)
	}
}

func (l *Layer) request(f flow.Flow, req *sip.Request) {
	if req.SipVersion != "SIP/2.0" {
		l.stateless(f, req, 505, "Version Not Supported")
		return
	}
	t := l.table(f)
	if t == nil {
		return
	}
	key := serverKeyOf(req, string(req.Method))
	t.mu.Lock()
	if s := t.servers[key]; s != nil {
		t.mu.Unlock()
		s.repeat()
		return
	}
	if !l.roomLocked(t) {
		t.mu.Unlock()
		res := Response(req, 503, "Service Unavailable", NewTag())
		res.AppendHeader(sip.NewHeader("Retry-After", strconv.Itoa(5+rand.IntN(20))))
		l.decorate(f, res)
		_ = f.Send(res)
		return
	}
	s := newServer(l, t, key, req)
	put(&t.servers, key, s)
	l.count.Add(1)
	t.mu.Unlock()
	if err := l.guard("sip request", func() { l.opt.OnRequest(s) }); err != nil {
		_ = s.Respond(s.Response(500, ""))
	}
	s.returned()
}

// ack finds the INVITE that an ACK belongs to.
func (l *Layer) ack(f flow.Flow, ack *sip.Request) {
	l.mu.RLock()
	t := l.flows[f.ID()]
	l.mu.RUnlock()
	var s *Server
	if t != nil {
		t.mu.Lock()
		if s = t.servers[serverKeyOf(ack, "INVITE")]; s == nil {
			s = t.invites[inviteKeyOf(ack)]
		}
		t.mu.Unlock()
	}
	if s != nil && s.acked(ack) {
		return // it was for a non-2xx
	}
	if l.opt.OnAck != nil {
		_ = l.guard("sip ack", func() { l.opt.OnAck(f, ack) })
	}
}

func (l *Layer) cancel(f flow.Flow, req *sip.Request) {
	l.mu.RLock()
	t := l.flows[f.ID()]
	l.mu.RUnlock()
	var s *Server
	if t != nil {
		t.mu.Lock()
		s = t.servers[serverKeyOf(req, "INVITE")]
		t.mu.Unlock()
	}
	if s == nil {
		l.stateless(f, req, 481, "Call/Transaction Does Not Exist")
		return
	}
	// RFC 3261 §9.2: the tag of the answer to the CANCEL is that of the answers to the INVITE.
	res := Response(req, 200, "OK", s.tag)
	l.decorate(f, res)
	_ = f.Send(res)
	s.cancelled(req)
}

// stateless answers a request for which no transaction is made. A repetition is answered again.
func (l *Layer) stateless(f flow.Flow, req *sip.Request, code int, reason string) {
	res := Response(req, code, reason, NewTag())
	l.decorate(f, res)
	_ = f.Send(res)
}

// serverKeyOf is RFC 3261 §17.2.3; without the magic cookie the parts that RFC 2543 clients keep over a retransmission.
func serverKeyOf(req *sip.Request, method string) serverKey {
	via := req.Via()
	branch, _ := via.Params.Get("branch")
	if !strings.HasPrefix(branch, sip.RFC3261BranchMagicCookie) || len(branch) == len(sip.RFC3261BranchMagicCookie) {
		tag, _ := req.From().Params.Get("tag")
		branch = fmt.Sprintf("%s %s %s %d", branch, req.CallID().Value(), tag, req.CSeq().SeqNo)
	}
	return serverKey{branch: branch, sentBy: via.Host + ":" + strconv.Itoa(via.Port), method: method}
}

func inviteKeyOf(req *sip.Request) inviteKey {
	tag, _ := req.From().Params.Get("tag")
	return inviteKey{callID: req.CallID().Value(), fromTag: tag, cseq: req.CSeq().SeqNo}
}
