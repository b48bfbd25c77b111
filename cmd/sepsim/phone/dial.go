package phone

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Call dials a number on line 1 and returns as soon as the INVITE is sent; WaitState tells how it goes on.
func (p *Phone) Call(ctx context.Context, number string) (*Call, error) {
	return p.CallFrom(ctx, 1, number)
}

// CallFrom dials a number on the line with that index. The digits go through the dial template first. The phone is off-hook
// from before the INVITE until after it, and tells the server so where hook status was agreed (state §3).
func (p *Phone) CallFrom(ctx context.Context, index int, number string) (*Call, error) {
	return p.callWith(ctx, index, number)
}

// callWith is CallFrom with further headers in the INVITE.
func (p *Phone) callWith(ctx context.Context, index int, number string, names ...headerField) (*Call, error) {
	p.mu.Lock()
	l, conf, ok := p.link, p.config, p.reg.registered
	p.mu.Unlock()
	if l == nil || !ok {
		return nil, errors.New("call: not registered")
	}
	var line *Line
	for i := range conf.Lines {
		if conf.Lines[i].Index == index {
			line = &conf.Lines[i]
		}
	}
	if line == nil {
		return nil, fmt.Errorf("call: no line %d", index)
	}
	if conf.KPML != 0 {
		// provisioning: with kpml on, the phone sends an INVITE with the first digit alone.
		number = number[:min(1, len(number))]
	}
	number = p.dialled(index, number)
	c := p.newCall(l, conf, *line)
	c.names = names
	if err := c.media.open(conf, l.local.Addr()); err != nil {
		return nil, fmt.Errorf("call %s: %w", number, err)
	}
	host := l.member.Host
	c.callID = p.callID(l.local.Addr().String())
	c.localTag = p.tag()
	c.localURI = fmt.Sprintf("%s <sip:%s@%s>", quote(line.shown()), line.Name, host)
	c.remoteURI = fmt.Sprintf("<sip:%s@%s>", number, host)
	c.target = fmt.Sprintf("sip:%s@%s;user=phone", number, host)
	c.remote.Number = number
	c.cseq = 100
	service := strings.HasPrefix(number, "x-cisco-serviceuri-")
	if !service {
		_ = p.hook(ctx, *line, true)
	}
	o := c.offer("sendrecv")
	p.mu.Lock()
	p.addCallLocked(c)
	p.mu.Unlock()
	if err := c.sendInvite(o); err != nil {
		c.end(err.Error())
		return nil, fmt.Errorf("call %s: %w", number, err)
	}
	p.event(StepCall, c.text("dialled"), nil)
	if !service {
		_ = p.hook(ctx, *line, false)
	}
	return c, nil
}

// sendInvite sends the first INVITE, with credentials when the challenge has been answered.
func (c *Call) sendInvite(o offered) error {
	p := c.p
	p.mu.Lock()
	c.cseq++
	m := &message{method: "INVITE", uri: c.target}
	m.add("From", "%s;tag=%s", c.localURI, c.localTag)
	m.add("To", "%s", c.remoteURI)
	m.add("Call-ID", "%s", c.callID)
	m.add("Max-Forwards", "70")
	if p.man.series == "7800" || p.man.series == "8800" {
		m.add("Session-ID", "%s;remote=00000000000000000000000000000000", c.sessionID)
	}
	m.add("Date", "%s", dateNow())
	m.add("CSeq", "%d INVITE", c.cseq)
	m.add("User-Agent", "%s", p.man.agent)
	m.add("Contact", "%s", c.contact())
	m.add("Expires", "%d", c.conf.InviteExpires)
	m.add("Accept", "application/sdp")
	m.add("Allow", "%s", allow)
	m.add("Remote-Party-ID", "%s", c.identity("calling"))
	m.add("Supported", "%s", p.supported())
	m.add("Allow-Events", "kpml,dialog")
	m.add("Recv-Info", "conference")
	m.add("Recv-Info", "x-cisco-conference")
	if c.authorization != "" {
		m.add("Authorization", "%s", c.authorization)
	}
	if p.man.series != "7800" && p.man.series != "8800" {
		m.add("Call-Info", "<urn:x-cisco-remotecc:callinfo>; security= %s; orientation= from; gci= 1-%d", c.claim(), p.seq&0xffff)
	}
	m.headers = append(m.headers, c.names...)
	m.with("application/sdp", o.String())
	m.add("Content-Disposition", "session;handling=optional")
	c.invite = m
	p.mu.Unlock()
	return c.l.start(m, func(res *message, err error) { c.inviteAnswer(m, o, res, err) })
}

// claim is the security that the phone can say for its own leg.
func (c *Call) claim() string {
	switch {
	case c.conf.secure():
		return "Encrypted"
	case c.l.secure:
		return "Authenticated"
	}
	return "NotAuthenticated"
}

// inviteAnswer takes a response to the first INVITE, in the reader's goroutine.
func (c *Call) inviteAnswer(req *message, o offered, res *message, err error) {
	if err != nil {
		c.end(err.Error())
		return
	}
	p := c.p
	switch {
	case res.status < 200:
		p.mu.Lock()
		if tag := nameAddrOf(res.get("To")).param("tag"); tag != "" {
			c.remoteTag = tag
			if ct := res.get("Contact"); ct != "" {
				c.target = nameAddrOf(ct).uri
			}
		}
		c.noteLocked(res)
		if res.status > 100 && c.state == Dialing {
			c.setLocked(RingOut)
		}
		cancel := c.hungUp && !c.cancelSent
		p.mu.Unlock()
		if cancel {
			c.sendCancel()
			return
		}
		if res.status > 100 {
			p.event(StepCall, c.text(fmt.Sprintf("%d %s", res.status, res.reason)), nil)
		}
		if len(res.body) > 0 {
			c.earlyMedia(o, res)
		}
	case res.status < 300:
		c.accepted(req, o, res)
	default:
		c.rejected(req, o, res)
	}
}

func (c *Call) earlyMedia(o offered, res *message) {
	if a, err := c.checkAnswer(o, res.body, c.p.fallback()); err == nil {
		if err := c.media.set(a); err != nil {
			c.p.log.Debug("early media", "err", err)
		}
	}
}

// accepted handles the 200 to the first INVITE: ACK, and BYE at once if the answer is none that a phone can live with.
func (c *Call) accepted(req *message, o offered, res *message) {
	p := c.p
	a, err := c.checkAnswer(o, res.body, p.fallback())
	contact := res.get("Contact")
	if contact == "" {
		p.remark("200 to INVITE without Contact")
	}
	p.mu.Lock()
	c.remoteTag = nameAddrOf(res.get("To")).param("tag")
	if contact != "" {
		c.target = nameAddrOf(contact).uri
	}
	c.noteLocked(res)
	hung := c.hungUp || c.state == Ended
	c.invite, c.lastOK = nil, res
	p.mu.Unlock()
	_ = c.l.send(c.ack(req))
	if err == nil {
		err = c.media.set(a)
	} else if r, ok := err.(*Refusal); ok {
		err = p.refused(StepCall, r)
	}
	if err != nil || hung {
		p.tasks.Go("phone hang up", func(ctx context.Context) { _ = c.bye(ctx, "answer not usable") })
		return
	}
	p.mu.Lock()
	if c.state != Ended {
		c.setLocked(Connected)
	}
	p.mu.Unlock()
	p.event(StepCall, c.text(fmt.Sprintf("connected, %s", a.codec)), nil)
}

// rejected handles a final response that is no 200: once more with credentials, or the end.
func (c *Call) rejected(req *message, o offered, res *message) {
	p := c.p
	p.mu.Lock()
	tried, hung := c.authorization != "", c.hungUp
	p.mu.Unlock()
	ack := c.ackFailure(req, res)
	_ = c.l.send(ack)
	auth, again, err := p.authorize(c.conf, res, "INVITE", req.uri, tried)
	if err == nil && again && !hung {
		p.mu.Lock()
		c.authorization = auth
		p.mu.Unlock()
		if err := c.sendInvite(o); err != nil {
			c.end(err.Error())
		}
		return
	}
	p.mu.Lock()
	c.remoteTag = nameAddrOf(res.get("To")).param("tag") // by which a key may name the call still
	c.code = res.status
	p.mu.Unlock()
	c.end(fmt.Sprintf("%d %s", res.status, res.reason))
}

// ack is the ACK of a 2xx: a request of its own (RFC 3261 §13.2.2.4).
func (c *Call) ack(invite *message) *message {
	n, _ := invite.cseq()
	c.p.mu.Lock()
	m := c.requestLocked("ACK", n)
	c.p.mu.Unlock()
	via, _ := c.l.via()
	m.headers = append([]headerField{{"Via", via}}, m.headers...)
	return m
}

// ackFailure is the ACK of any other final response, in the INVITE's transaction. After a CANCEL these phones leave the To
// tag out (calls §1.6).
func (c *Call) ackFailure(invite, res *message) *message {
	n, _ := invite.cseq()
	c.p.mu.Lock()
	cancelled := c.cancelSent
	c.p.mu.Unlock()
	m := &message{method: "ACK", uri: invite.uri}
	m.add("Via", "%s", invite.get("Via"))
	m.add("From", "%s", invite.get("From"))
	to := res.get("To")
	if cancelled && res.status == 487 {
		to = invite.get("To")
	}
	m.add("To", "%s", to)
	m.add("Call-ID", "%s", invite.get("Call-ID"))
	m.add("Max-Forwards", "70")
	m.add("CSeq", "%d ACK", n)
	return m
}

// sendCancel cancels the open INVITE.
func (c *Call) sendCancel() {
	c.p.mu.Lock()
	inv := c.invite
	c.cancelSent = true
	c.p.mu.Unlock()
	if inv == nil {
		return
	}
	n, _ := inv.cseq()
	m := &message{method: "CANCEL", uri: inv.uri}
	m.add("From", "%s", inv.get("From"))
	m.add("To", "%s", inv.get("To"))
	m.add("Call-ID", "%s", inv.get("Call-ID"))
	m.add("Max-Forwards", "70")
	m.add("CSeq", "%d CANCEL", n)
	m.add("User-Agent", "%s", c.p.man.agent)
	// A CANCEL has the branch of what it cancels (RFC 3261 §9.1), so it cannot go through link.start.
	m.headers = append([]headerField{{"Via", inv.get("Via")}}, m.headers...)
	key := txKey(branchOf(inv), "CANCEL")
	tx := &clientTx{l: c.l, key: key, on: func(res *message, err error) {
		if err == nil && res.status != 200 && res.status != 481 {
			c.p.remark("CANCEL answered %d", res.status)
		}
	}}
	c.l.mu.Lock()
	c.l.pending[key] = tx
	c.l.mu.Unlock()
	tx.mu.Lock()
	tx.timer = time.AfterFunc(c.p.opt.Timers.Transaction, func() { tx.fail(errNoAnswer) })
	tx.mu.Unlock()
	if err := c.l.send(m); err != nil {
		tx.finish()
	}
}

// repeatAck answers a 200 that came again because its ACK was lost.
func (p *Phone) repeatAck(res *message) {
	n, _ := res.cseq()
	p.mu.Lock()
	var call *Call
	for _, c := range p.calls {
		if c.callID == res.get("Call-ID") && c.lastOK != nil {
			if k, _ := c.lastOK.cseq(); k == n {
				call = c
			}
		}
	}
	p.mu.Unlock()
	if call != nil {
		_ = call.l.send(call.ack(res))
	}
}
