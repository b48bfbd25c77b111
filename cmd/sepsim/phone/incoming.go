package phone

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// serveInvite takes a call.
func (p *Phone) serveInvite(l *link, m *message) {
	if m.get("Join") != "" {
		p.serveJoin(l, m)
		return
	}
	u, _ := sipURIOf(m.uri)
	p.mu.Lock()
	conf := p.config
	var line Line
	for _, k := range conf.Lines {
		if k.contactUser() == u.user || k.Name == u.user {
			line = k
		}
	}
	busy := 0
	for _, c := range p.calls {
		if c.line.Index == line.Index {
			busy++
		}
	}
	d := p.display
	p.mu.Unlock()
	reject := func(status int, text string) {
		res := m.answer(status, text, p.tag())
		res.add("Server", "%s", p.man.agent)
		_ = l.send(res)
	}
	from := nameAddrOf(m.get("From"))
	switch {
	case from.param("tag") == "" || m.get("Contact") == "":
		p.refused(StepCall, refuse(Message, nil, "INVITE without From tag or Contact"))
		reject(400, "Bad Request")
		return
	case d.dnd && d.dndMode == "callreject", busy >= line.BusyTrigger:
		p.event(StepCall, "call from "+userOf(from.uri)+" finds the line busy", nil)
		reject(486, "Busy Here")
		return
	}
	c := p.newCall(l, conf, line)
	c.incoming, c.state, c.silent = true, RingIn, d.dnd
	c.callID, c.localTag, c.remoteTag = m.get("Call-ID"), p.tag(), from.param("tag")
	c.localURI = m.get("To")
	c.remoteURI = stripTag(m.get("From"))
	c.target = nameAddrOf(m.get("Contact")).uri
	c.remoteSeq, _ = m.cseq()
	c.cseq = 100
	c.remote = Party{Name: from.display, Number: userOf(from.uri)}
	c.invite = m
	if err := c.media.open(conf, l.local.Addr()); err != nil {
		p.event(StepCall, "incoming call", err)
		reject(500, "Server Internal Error")
		return
	}
	if len(m.body) > 0 {
		// The offer is looked at before the phone rings, so that a call that cannot be had is refused at once.
		if _, _, _, err := c.answerTo(m.body, false, p.fallback()); err != nil {
			if r, ok := err.(*Refusal); ok {
				p.refused(StepCall, r)
			} else {
				p.event(StepCall, "incoming call", err)
			}
			c.media.close()
			reject(488, "Not Acceptable Here")
			return
		}
		c.version, c.remoteSess = 0, "" // Answer makes the real one
	}
	_ = l.send(m.answer(100, "Trying", ""))
	p.mu.Lock()
	c.noteLocked(m)
	p.addCallLocked(c)
	p.mu.Unlock()
	ringing := c.response(m, 180, "Ringing")
	_ = l.send(ringing)
	p.mu.Lock()
	p.fresh = append(p.fresh, c) // whoever sees it ring may press a key, which comes after the 180
	p.changedLocked()
	p.mu.Unlock()
	p.event(StepCall, c.text("rings"), nil)
	if line.AutoAnswer > 0 {
		p.tasks.Go("phone auto answer", func(ctx context.Context) { _ = c.Answer(ctx) })
	}
}

func stripTag(v string) string {
	a := nameAddrOf(v)
	if a.display == "" {
		return "<" + a.uri + ">"
	}
	return quote(a.display) + " <" + a.uri + ">"
}

// response makes an answer within the call.
func (c *Call) response(m *message, status int, text string) *message {
	res := m.answer(status, text, c.localTag)
	res.add("Date", "%s", dateNow())
	res.add("Server", "%s", c.p.man.agent)
	res.add("Contact", "%s", c.contact())
	res.add("Allow", "%s", allow)
	if m.method == "INVITE" {
		res.add("Remote-Party-ID", "%s", c.identity("called"))
		res.add("Call-Info", "<urn:x-cisco-remotecc:callinfo>; security= %s; orientation= to; gci= 1-%d", c.claim(), c.remoteSeq)
	}
	res.add("Supported", "%s", c.p.supported())
	return res
}

// WaitIncoming gives the next ringing call that it has not given before.
func (p *Phone) WaitIncoming(ctx context.Context) (*Call, error) {
	var call *Call
	err := p.Wait(ctx, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.fresh) == 0 {
			return false
		}
		call, p.fresh = p.fresh[0], p.fresh[1:]
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("no incoming call: %w", err)
	}
	return call, nil
}

// Answer takes a ringing call: 200 with the answer to its offer, or with an offer if it had none. The call counts as
// connected at once; without an ACK it ends again.
func (c *Call) Answer(ctx context.Context) error {
	if err := c.begin(ctx); err != nil {
		return err
	}
	defer c.done()
	p := c.p
	p.mu.Lock()
	m := c.invite
	ok := c.state == RingIn && m != nil
	p.mu.Unlock()
	if !ok {
		return fmt.Errorf("answer: call is %s", c.State())
	}
	res := c.response(m, 200, "OK")
	var a agreed
	if len(m.body) > 0 {
		var o offered
		var err error
		if a, o, _, err = c.answerTo(m.body, false, p.fallback()); err != nil {
			return err
		}
		res.with("application/sdp", o.String())
		if err := c.media.set(a); err != nil {
			return err
		}
	} else {
		o := c.offer("sendrecv")
		res.with("application/sdp", o.String())
		p.mu.Lock()
		c.pendingOffer, c.ownOffer = true, o
		p.mu.Unlock()
	}
	c.sentOK(res)
	p.mu.Lock()
	c.invite = nil
	c.setLocked(Connected)
	p.listLocked("received", c.remote)
	p.mu.Unlock()
	p.event(StepCall, c.text("answered"), nil)
	return c.l.send(res)
}

// sentOK remembers a 200 to INVITE until its ACK.
func (c *Call) sentOK(res *message) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.answered = res
	if c.ackTimer != nil {
		c.ackTimer.Stop()
	}
	c.ackTimer = time.AfterFunc(c.p.opt.Timers.Transaction, func() {
		c.p.event(StepCall, c.text("had no ACK"), errNoAnswer)
		c.p.tasks.Go("phone hang up", func(ctx context.Context) { _ = c.bye(ctx, "no ACK") })
	})
}

// serveAck takes the ACK of a 200.
func (p *Phone) serveAck(m *message) {
	c := p.callOf(m)
	if c == nil {
		return // the ACK of a refusal, or of a call that has ended
	}
	p.mu.Lock()
	if c.ackTimer != nil {
		c.ackTimer.Stop()
	}
	waits := c.pendingOffer
	o := c.ownOffer
	c.pendingOffer, c.answered = false, nil
	p.changedLocked()
	p.mu.Unlock()
	if !waits {
		return
	}
	a, err := c.checkAnswer(o, m.body, p.fallback())
	if err == nil {
		err = c.media.set(a)
	} else if r, ok := err.(*Refusal); ok {
		p.refused(StepCall, r)
	}
	if err != nil {
		p.tasks.Go("phone hang up", func(ctx context.Context) { _ = c.bye(ctx, "answer in ACK not usable") })
	}
}

// serveCancel ends a call that still rings.
func (p *Phone) serveCancel(l *link, m *message) {
	p.mu.Lock()
	var c *Call
	n, _ := m.cseq()
	for _, k := range p.calls {
		if k.incoming && k.state == RingIn && k.callID == m.get("Call-ID") && k.remoteSeq == n {
			c = k
		}
	}
	p.mu.Unlock()
	if c == nil {
		p.respond(l, m, 481, "Call Leg/Transaction Does Not Exist", "")
		return
	}
	_ = l.send(m.answer(200, "OK", c.localTag))
	p.mu.Lock()
	inv := c.invite
	elsewhere := strings.Contains(strings.ToLower(m.get("Reason")), "call completed elsewhere")
	if p.man.series == "7800" || p.man.series == "8800" {
		// calls §2.4: later loads believe it only of a hunt-group call at a phone that is logged in.
		elsewhere = elsewhere && c.info["huntpiloturi"] != "" && p.display.hunt
	}
	if !elsewhere && !c.silent {
		p.missed++
		p.listLocked("missed", c.remote)
	}
	p.mu.Unlock()
	if inv != nil {
		_ = l.send(c.response(inv, 487, "Request Terminated"))
	}
	c.end("cancelled by the caller")
}

// Reject refuses a ringing call; 486 when status is 0.
func (c *Call) Reject(ctx context.Context, status int) error {
	if err := c.begin(ctx); err != nil {
		return err
	}
	defer c.done()
	if status == 0 {
		status = 486
	}
	c.p.mu.Lock()
	m := c.invite
	ok := c.state == RingIn && m != nil
	c.p.mu.Unlock()
	if !ok {
		return errors.New("reject: the call does not ring")
	}
	text := map[int]string{480: "Temporarily Unavailable", 486: "Busy Here", 603: "Decline"}[status]
	err := c.l.send(c.response(m, status, text))
	c.end("rejected")
	return err
}
