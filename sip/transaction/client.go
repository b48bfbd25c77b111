package transaction

import (
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/flow"
)

// Client is a request that was sent, until its final answer and what may follow it.
type Client struct {
	l   *Layer
	t   *table
	key clientKey
	req *sip.Request
	h   func(*sip.Response, error)

	mu       sync.Mutex
	state    state
	timer    alarm
	interval time.Duration // of retransmission, 0 on streams
	deadline time.Time     // of the state, zero for none
	toTag    string        // of the 2xx
	ack      *sip.Request  // sent for the final answer
	cancel   []sip.Header  // of a CANCEL that waits for the first provisional answer
	wants    bool          // such a CANCEL is wanted
	sent     bool          // and was sent

	telling sync.Mutex // serialises h
	told    bool       // h has had the final answer or the error
}

// Request sends req over f and calls h with each provisional answer and then with the final one, or with one error:
// ErrTimeout, ErrFlowClosed. The top Via is the layer's and is added here, as is Max-Forwards when missing. A returned error
// means that nothing was sent and h is never called. h may be called before Request has returned.
func (l *Layer) Request(f flow.Flow, req *sip.Request, h func(res *sip.Response, err error)) (*Client, error) {
	t := l.table(f)
	if t == nil {
		return nil, ErrFlowClosed
	}
	branch := NewBranch()
	via := &sip.ViaHeader{
		ProtocolName: "SIP", ProtocolVersion: "2.0", Transport: f.Transport(),
		Host: f.Local().Addr().Unmap().String(), Port: int(f.Local().Port()), Params: sip.HeaderParams{{K: "branch", V: branch}},
	}
	if f.Transport() == "UDP" {
		via.Params = append(via.Params, sip.HeaderKV{K: "rport"})
	}
	front := []sip.Header{via}
	if req.MaxForwards() == nil {
		hops := sip.MaxForwardsHeader(70)
		front = append(front, &hops)
	}
	req.PrependHeader(front...)
	l.decorate(f, req)

	c := &Client{l: l, t: t, key: clientKey{branch, string(req.Method)}, req: req, h: h, state: calling}
	c.deadline = time.Now().Add(64 * l.opt.T1)
	t.mu.Lock()
	if !l.roomLocked(t) {
		t.mu.Unlock()
		return nil, ErrTooMany
	}
	put(&t.clients, c.key, c)
	l.count.Add(1)
	t.mu.Unlock()

	c.mu.Lock()
	if f.Transport() == "UDP" {
		c.interval = l.opt.T1
		c.setTimerLocked(c.interval)
	} else {
		c.setTimerLocked(64 * l.opt.T1)
	}
	c.mu.Unlock()
	if err := f.Send(req); err != nil {
		if c.remove() {
			return nil, ErrFlowClosed
		}
	}
	select {
	case <-f.Done(): // FlowClosed may have run before the transaction was in the table
		c.fail(ErrFlowClosed)
	default:
	}
	return c, nil
}

// Request is what was sent.
func (c *Client) Request() *sip.Request { return c.req }

// Flow is where it was sent.
func (c *Client) Flow() flow.Flow { return c.t.f }

func (c *Client) setTimerLocked(d time.Duration) {
	c.timer.set(d, func() { _ = c.l.guard("sip client timer", c.tick) })
}

func (c *Client) tick() {
	c.mu.Lock()
	now := time.Now()
	invite := c.req.Method == sip.INVITE
	switch c.state {
	case ended:
	case accepted, completed:
		c.mu.Unlock()
		c.remove()
		return
	default:
		if !c.deadline.IsZero() && !now.Before(c.deadline) {
			c.mu.Unlock()
			c.fail(ErrTimeout)
			return
		}
		if c.interval > 0 && !(invite && c.state == proceeding) {
			_ = c.t.f.Send(c.req)
			// Timer A doubles without limit, timer E up to T2 and stays there once the peer has said something.
			c.interval *= 2
			if !invite && (c.interval > t2 || c.state == proceeding) {
				c.interval = t2
			}
			c.setTimerLocked(min(c.interval, c.deadline.Sub(now)))
		} else if !c.deadline.IsZero() {
			c.setTimerLocked(c.deadline.Sub(now))
		}
	}
	c.mu.Unlock()
}

// receive takes an answer that matched.
func (c *Client) receive(res *sip.Response) {
	invite := c.req.Method == sip.INVITE
	c.mu.Lock()
	switch {
	case c.state == ended:
		c.mu.Unlock()
		return
	case c.state == accepted || c.state == completed:
		c.repeatedLocked(res)
		c.mu.Unlock()
		return
	case res.StatusCode < 200:
		c.state = proceeding
		if invite && !c.sent {
			c.deadline = time.Time{} // ringing may last; its limit is the user's
			c.timer.stop()
		}
		cancel := c.wants && !c.sent
		c.sent = c.sent || cancel
		c.mu.Unlock()
		if cancel {
			c.sendCancel()
		}
		c.tell(res, nil)
		return
	}
	over := false
	reliable := c.t.f.Transport() != "UDP"
	switch {
	case invite && res.StatusCode < 300:
		c.state = accepted
		c.toTag, _ = res.To().Params.Get("tag")
		c.setTimerLocked(64 * c.l.opt.T1)
	case invite:
		c.state = completed
		c.ack = ackTo(c.req, res)
		c.l.decorate(c.t.f, c.ack)
		_ = c.t.f.Send(c.ack)
		if over = reliable; !over {
			c.setTimerLocked(32 * time.Second)
		}
	default:
		c.state = completed
		if over = reliable; !over {
			c.setTimerLocked(t4)
		}
	}
	c.mu.Unlock()
	if over {
		c.remove()
	}
	c.tell(res, nil)
}

// repeatedLocked answers a repeated final answer with the ACK it has lost.
func (c *Client) repeatedLocked(res *sip.Response) {
	if c.ack == nil || res.StatusCode < 200 {
		return
	}
	if c.state == accepted {
		if tag, _ := res.To().Params.Get("tag"); tag != c.toTag {
			return // another fork
		}
	}
	_ = c.t.f.Send(c.ack)
}

// tell calls the user: one call at a time, none after the last.
func (c *Client) tell(res *sip.Response, err error) {
	if c.h == nil {
		return
	}
	c.telling.Lock()
	defer c.telling.Unlock()
	if c.told {
		return
	}
	c.told = err != nil || res.StatusCode >= 200
	_ = c.l.guard("sip answer", func() { c.h(res, err) })
}

// fail ends the transaction with an error, unless it has its final answer.
func (c *Client) fail(err error) {
	c.mu.Lock()
	waiting := c.state == calling || c.state == proceeding
	c.mu.Unlock()
	if c.remove() && waiting {
		c.tell(nil, err)
	}
}

// remove takes the transaction out of the table; true for the one call that did.
func (c *Client) remove() bool {
	c.mu.Lock()
	was := c.state
	c.state = ended
	c.timer.stop()
	c.mu.Unlock()
	if was == ended {
		return false
	}
	c.t.mu.Lock()
	if c.t.clients[c.key] == c {
		take(&c.t.clients, c.key)
		c.l.count.Add(-1)
	}
	c.t.mu.Unlock()
	return true
}

// Ack sends the ACK for a 2xx and keeps it for repetitions of that 2xx. Its Via is the layer's (RFC 3261 §17: a new branch).
func (c *Client) Ack(ack *sip.Request) error {
	f := c.t.f
	via := &sip.ViaHeader{
		ProtocolName: "SIP", ProtocolVersion: "2.0", Transport: f.Transport(), Host: f.Local().Addr().Unmap().String(),
		Port: int(f.Local().Port()), Params: sip.HeaderParams{{K: "branch", V: NewBranch()}},
	}
	hops := sip.MaxForwardsHeader(70)
	ack.PrependHeader(via, &hops)
	c.l.decorate(f, ack)
	c.mu.Lock()
	c.ack = ack
	c.mu.Unlock()
	return f.Send(ack)
}

// Cancel asks for the end of an INVITE without final answer; h still gets the final answer, normally 487, or ErrTimeout. The
// CANCEL is sent after the first provisional answer (RFC 3261 §9.1) and carries the headers given, say a Reason.
func (c *Client) Cancel(headers ...sip.Header) {
	c.mu.Lock()
	if c.req.Method != sip.INVITE || c.wants || c.state != calling && c.state != proceeding {
		c.mu.Unlock()
		return
	}
	c.wants, c.cancel = true, headers
	now := c.state == proceeding
	c.sent = now
	c.mu.Unlock()
	if now {
		c.sendCancel()
	}
}

func (c *Client) sendCancel() {
	req := sip.NewRequest(sip.CANCEL, c.req.Recipient)
	req.AppendHeader(sip.HeaderClone(c.req.Via()))
	hops := sip.MaxForwardsHeader(70)
	req.AppendHeader(&hops)
	sip.CopyHeaders("Route", c.req, req)
	req.AppendHeader(sip.HeaderClone(c.req.From()))
	req.AppendHeader(sip.HeaderClone(c.req.To()))
	req.AppendHeader(sip.HeaderClone(c.req.CallID()))
	req.AppendHeader(&sip.CSeqHeader{SeqNo: c.req.CSeq().SeqNo, MethodName: sip.CANCEL})
	for _, h := range c.cancel {
		req.AppendHeader(h)
	}
	c.l.decorate(c.t.f, req)
	// A transaction of its own, with the branch of the INVITE; its answer tells nothing that matters.
	x := &Client{l: c.l, t: c.t, key: clientKey{c.key.branch, string(sip.CANCEL)}, req: req, state: calling}
	x.deadline = time.Now().Add(64 * c.l.opt.T1)
	c.t.mu.Lock()
	put(&c.t.clients, x.key, x)
	c.l.count.Add(1)
	c.t.mu.Unlock()
	x.mu.Lock()
	if c.t.f.Transport() == "UDP" {
		x.interval = c.l.opt.T1
		x.setTimerLocked(x.interval)
	} else {
		x.setTimerLocked(64 * c.l.opt.T1)
	}
	x.mu.Unlock()
	_ = c.t.f.Send(req)
	// Without a final answer 64*T1 after the CANCEL the INVITE counts as cancelled.
	c.mu.Lock()
	if c.state == calling || c.state == proceeding {
		c.deadline = time.Now().Add(64 * c.l.opt.T1)
		c.setTimerLocked(64 * c.l.opt.T1)
	}
	c.mu.Unlock()
}

// ackTo builds the ACK for a non-2xx (RFC 3261 §17.1.1.3).
func ackTo(req *sip.Request, res *sip.Response) *sip.Request {
	ack := sip.NewRequest(sip.ACK, req.Recipient)
	ack.AppendHeader(sip.HeaderClone(req.Via()))
	hops := sip.MaxForwardsHeader(70)
	ack.AppendHeader(&hops)
	sip.CopyHeaders("Route", req, ack)
	ack.AppendHeader(sip.HeaderClone(req.From()))
	ack.AppendHeader(sip.HeaderClone(res.To()))
	ack.AppendHeader(sip.HeaderClone(req.CallID()))
	ack.AppendHeader(&sip.CSeqHeader{SeqNo: req.CSeq().SeqNo, MethodName: sip.ACK})
	return ack
}
