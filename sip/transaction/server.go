package transaction

import (
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/flow"
)

// state of a transaction.
//
//	INVITE server:      proceeding --2xx--> accepted --ACK or 64*T1--> ended
//	                        |--300..699--> completed --ACK--> confirmed --T4 (UDP), 0--> ended
//	                                           |--64*T1--> ended
//	other server:       proceeding --final--> completed --64*T1 (UDP), 0--> ended
//	INVITE client:      calling --1xx--> proceeding --2xx--> accepted --64*T1--> ended
//	                        |                 |--300..699--> completed --32 s (UDP), 0--> ended
//	                        |--64*T1--> ended
//	other client:       calling --1xx--> proceeding --final--> completed --T4 (UDP), 0--> ended; 64*T1 in all
type state int8

const (
	calling state = iota
	proceeding
	accepted
	completed
	confirmed
	ended
)

func (s state) String() string {
	return [...]string{"calling", "proceeding", "accepted", "completed", "confirmed", "ended"}[s]
}

// Server is a request that was received, until it is answered and the answer has arrived.
type Server struct {
	l   *Layer
	t   *table
	key serverKey
	req *sip.Request
	tag string

	mu       sync.Mutex
	state    state
	last     *sip.Response
	timer    alarm         // retransmission, or the end of the last state
	interval time.Duration // of retransmission
	deadline time.Time     // of the state
	cancel   *sip.Request
	onCancel func(*sip.Request)
	onAck    func(*sip.Request)
	onEnd    func(error)
	endErr   error
}

func newServer(l *Layer, t *table, key serverKey, req *sip.Request) *Server {
	s := &Server{l: l, t: t, key: key, req: req, state: proceeding}
	if tag, ok := req.To().Params.Get("tag"); ok {
		s.tag = tag
	} else {
		s.tag = NewTag()
	}
	return s
}

// Request is what was received.
func (s *Server) Request() *sip.Request { return s.req }

// Flow is where it was received, and where the answers go.
func (s *Server) Flow() flow.Flow { return s.t.f }

// Tag is the tag of the To header of every answer: the request's own within a dialog, else a new one.
func (s *Server) Tag() string { return s.tag }

// Response builds an answer with the transaction's tag; an empty reason takes the usual phrase.
func (s *Server) Response(code int, reason string) *sip.Response {
	return Response(s.req, code, reason, s.tag)
}

// Answer builds and sends an answer without a body, with further headers.
func (s *Server) Answer(code int, headers ...sip.Header) {
	res := s.Response(code, "")
	for _, h := range headers {
		res.AppendHeader(h)
	}
	_ = s.Respond(res)
}

// Dismiss sends a final answer and forgets the request at once (RFC 3261 §8.2.7): for challenges and refusals of people who
// have not shown who they are. Nothing is repeated, so a forged source gets one answer, and nothing is kept, so strangers
// cannot fill the table. A repeated request is a new one. The ACK to it matches nothing.
func (s *Server) Dismiss(res *sip.Response) {
	s.l.decorate(s.t.f, res)
	s.mu.Lock()
	if s.state == proceeding {
		s.last = res
		_ = s.t.f.Send(res)
	}
	s.mu.Unlock()
	s.end(nil)
}

// Respond sends an answer. After the final one it returns ErrEnded.
func (s *Server) Respond(res *sip.Response) error {
	s.l.decorate(s.t.f, res)
	if res.StatusCode > 100 {
		if to := res.To(); to != nil && !to.Params.Has("tag") {
			to.Params.Add("tag", s.tag)
		}
	}
	s.mu.Lock()
	if s.state != proceeding {
		s.mu.Unlock()
		return ErrEnded
	}
	s.last = res
	var over bool
	if res.StatusCode >= 200 {
		over = s.finalLocked(res.StatusCode)
	}
	err := s.t.f.Send(res) // under the lock, so that answers leave in the order of the calls; it does not block
	s.mu.Unlock()
	if over {
		s.end(nil)
	}
	return err
}

// finalLocked enters the state after a final answer; true means that the transaction is over at once. s.mu is held.
func (s *Server) finalLocked(code int) bool {
	reliable := s.t.f.Transport() != "UDP"
	s.deadline = time.Now().Add(64 * s.l.opt.T1)
	invite := s.req.Method == sip.INVITE
	switch {
	case !invite && reliable:
		s.state = completed
		return true
	case !invite:
		s.state = completed
		s.setTimerLocked(64 * s.l.opt.T1)
		return false
	case code < 300:
		s.state = accepted
	default:
		s.state = completed
	}
	s.t.mu.Lock()
	put(&s.t.invites, inviteKeyOf(s.req), s)
	s.t.mu.Unlock()
	if s.interval = 0; reliable {
		s.setTimerLocked(64 * s.l.opt.T1)
	} else {
		s.interval = s.l.opt.T1
		s.setTimerLocked(s.interval)
	}
	return false
}

func (s *Server) setTimerLocked(d time.Duration) {
	s.timer.set(d, func() { _ = s.l.guard("sip server timer", s.tick) })
}

// tick is a retransmission of the final answer, or the end of a state.
func (s *Server) tick() {
	s.mu.Lock()
	now := time.Now()
	switch {
	case s.state == ended:
		s.mu.Unlock()
		return
	case s.interval > 0 && (s.state == accepted || s.state == completed) && now.Before(s.deadline):
		_ = s.t.f.Send(s.last)
		s.interval = min(2*s.interval, t2)
		s.setTimerLocked(min(s.interval, s.deadline.Sub(now)))
		s.mu.Unlock()
		return
	}
	err := error(ErrTimeout) // proceeding: never answered; accepted, completed: never acknowledged
	if s.state == confirmed || s.state == completed && s.req.Method != sip.INVITE {
		err = nil
	}
	s.mu.Unlock()
	s.end(err)
}

// returned is called when OnRequest has returned.
func (s *Server) returned() {
	s.mu.Lock()
	if s.state != proceeding {
		s.mu.Unlock()
		return
	}
	if s.req.Method != sip.INVITE {
		s.setTimerLocked(64 * s.l.opt.T1)
		s.mu.Unlock()
		return
	}
	answered := s.last != nil
	s.mu.Unlock()
	if !answered {
		_ = s.Respond(s.Response(100, ""))
	}
}

// repeat answers a retransmission.
func (s *Server) repeat() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil && (s.state == proceeding || s.state == completed) {
		_ = s.t.f.Send(s.last)
	}
}

// acked takes an ACK and reports whether it was for a non-2xx, that is, nobody else's business.
func (s *Server) acked(ack *sip.Request) bool {
	s.mu.Lock()
	switch s.state {
	case completed:
		s.state = confirmed
		onAck := s.onAck
		reliable := s.t.f.Transport() != "UDP"
		if !reliable {
			s.setTimerLocked(t4)
		}
		s.mu.Unlock()
		if onAck != nil {
			_ = s.l.guard("sip ack", func() { onAck(ack) })
		}
		if reliable {
			s.end(nil)
		}
		return true
	case confirmed:
		s.mu.Unlock()
		return true
	case accepted:
		s.mu.Unlock()
		s.end(nil)
		return false
	}
	s.mu.Unlock()
	return false
}

// cancelled tells the user of a CANCEL, or answers for him.
func (s *Server) cancelled(req *sip.Request) {
	s.mu.Lock()
	if s.state != proceeding || s.cancel != nil {
		s.mu.Unlock()
		return
	}
	s.cancel = req
	f := s.onCancel
	s.mu.Unlock()
	if f == nil {
		_ = s.Respond(s.Response(487, ""))
		return
	}
	_ = s.l.guard("sip cancel", func() { f(req) })
}

// OnCancel sets what is called when the request is cancelled; at once if it was already.
func (s *Server) OnCancel(f func(cancel *sip.Request)) {
	s.mu.Lock()
	s.onCancel = f
	c := s.cancel
	if s.state != proceeding {
		c = nil
	}
	s.mu.Unlock()
	if c != nil {
		f(c)
	}
}

// OnAck sets what is called with the ACK to a non-2xx.
func (s *Server) OnAck(f func(ack *sip.Request)) {
	s.mu.Lock()
	s.onAck = f
	s.mu.Unlock()
}

// OnEnd sets what is called once when the transaction has ended: nil, ErrTimeout or ErrFlowClosed. At once if it has already.
func (s *Server) OnEnd(f func(error)) {
	s.mu.Lock()
	if s.state == ended {
		err := s.endErr
		s.mu.Unlock()
		f(err)
		return
	}
	s.onEnd = f
	s.mu.Unlock()
}

func (s *Server) end(err error) {
	s.mu.Lock()
	if s.state == ended {
		s.mu.Unlock()
		return
	}
	s.state, s.endErr = ended, err
	s.timer.stop()
	f := s.onEnd
	s.mu.Unlock()
	s.t.mu.Lock()
	if s.t.servers[s.key] == s {
		take(&s.t.servers, s.key)
		s.l.count.Add(-1)
	}
	if s.req.Method == sip.INVITE {
		if k := inviteKeyOf(s.req); s.t.invites[k] == s {
			take(&s.t.invites, k)
		}
	}
	s.t.mu.Unlock()
	if f != nil {
		_ = s.l.guard("sip transaction end", func() { f(err) })
	}
}
