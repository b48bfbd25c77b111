package phone

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// serveInDialog handles a request of the other side within the call, in the reader's goroutine.
func (c *Call) serveInDialog(l *link, m *message) {
	p := c.p
	n, _ := m.cseq()
	p.mu.Lock()
	old := n <= c.remoteSeq && c.remoteSeq != 0
	if !old {
		c.remoteSeq = n
	}
	p.mu.Unlock()
	if old {
		p.remark("%s with CSeq %d after a higher one", m.method, n)
		_ = l.send(c.response(m, 500, "Server Internal Error"))
		return
	}
	switch m.method {
	case "BYE":
		res := c.response(m, 200, "OK")
		c.addStats(res)
		_ = l.send(res)
		reason := "hung up by the other side"
		if r := m.get("Reason"); r != "" {
			reason += " (" + clip(r) + ")"
		}
		c.end(reason)
	case "INVITE", "UPDATE":
		c.serveOffer(l, m)
	case "NOTIFY":
		c.serveReport(l, m)
	case "OPTIONS", "INFO":
		_ = l.send(c.response(m, 200, "OK"))
	default:
		p.remark("%s within a call", clip(m.method))
		_ = l.send(c.response(m, 501, "Not Implemented"))
	}
}

// serveOffer takes a re-INVITE or UPDATE: a new description, new identities, or both (calls §3, §24.2).
func (c *Call) serveOffer(l *link, m *message) {
	p := c.p
	p.mu.Lock()
	glare := c.offering && len(m.body) > 0
	early := c.state != Connected && c.state != Held
	holding := c.state == Held
	p.mu.Unlock()
	switch {
	case glare:
		_ = l.send(c.response(m, 491, "Request Pending"))
		return
	case early && (m.method == "INVITE" || len(m.body) > 0):
		_ = l.send(c.response(m, 500, "Server Internal Error"))
		return
	}
	res := c.response(m, 200, "OK")
	switch {
	case len(m.body) > 0:
		a, o, offer, err := c.answerTo(m.body, holding, p.fallback())
		if err == nil {
			err = c.media.set(a)
		}
		if err != nil {
			if r, ok := err.(*Refusal); ok {
				p.refused(StepCall, r)
			} else {
				p.event(StepCall, c.text("new offer"), err)
			}
			_ = l.send(c.response(m, 488, "Not Acceptable Here"))
			return
		}
		p.mu.Lock()
		if c.peerHeld != offer.held() {
			c.peerHeld = offer.held()
			p.changedLocked()
		}
		p.mu.Unlock()
		res.with("application/sdp", o.String())
	case m.method == "INVITE":
		direction := "sendrecv"
		if holding {
			direction = "sendonly"
		}
		o := c.offer(direction)
		res.with("application/sdp", o.String())
		p.mu.Lock()
		c.pendingOffer, c.ownOffer = true, o
		p.mu.Unlock()
	}
	p.mu.Lock()
	before := c.remote
	c.noteLocked(m)
	if ct := m.get("Contact"); ct != "" {
		c.target = nameAddrOf(ct).uri
	}
	after := c.remote
	p.mu.Unlock()
	if m.method == "INVITE" {
		c.sentOK(res)
	}
	_ = l.send(res)
	if before != after {
		p.event(StepCall, fmt.Sprintf("display shows %q <%s>", after.Name, after.Number), nil)
	}
}

// serveReport takes the report of a transfer (calls §4).
func (c *Call) serveReport(l *link, m *message) {
	event, _, _ := strings.Cut(m.get("Event"), ";")
	if !strings.EqualFold(strings.TrimSpace(event), "refer") {
		c.p.refused(StepCall, refuse(NotifyEvent, nil, "NOTIFY %q within a call", clip(event)))
		_ = l.send(c.response(m, 489, "Bad Event"))
		return
	}
	if m.get("Subscription-State") == "" {
		c.p.refused(StepCall, refuse(NotifyState, nil, "transfer report without Subscription-State"))
		_ = l.send(c.response(m, 400, "Bad Request"))
		return
	}
	_ = l.send(c.response(m, 200, "OK"))
	if kind, _, _ := strings.Cut(m.get("Content-Type"), ";"); strings.EqualFold(strings.TrimSpace(kind), "message/sipfrag") {
		line, _, _ := strings.Cut(strings.TrimSpace(string(m.body)), "\r\n")
		c.p.mu.Lock()
		c.sipfrag = strings.TrimSpace(line)
		c.p.changedLocked()
		c.p.mu.Unlock()
	}
}

// exchange sends a request within the dialog and answers a challenge once.
func (c *Call) exchange(ctx context.Context, method string, fill func(m *message), final ...func(req, res *message)) (req, res *message, err error) {
	auth := ""
	for try := 0; ; try++ {
		req = c.request(method)
		if auth != "" {
			req.add("Authorization", "%s", auth)
		}
		fill(req)
		res, err = c.l.roundTrip(ctx, req, func(res *message) {
			if method == "INVITE" && res.status >= 300 {
				_ = c.l.send(c.ackFailure(req, res))
			}
			for _, f := range final {
				f(req, res)
			}
		})
		if err != nil {
			return req, nil, err
		}
		var again bool
		if auth, again, err = c.p.authorize(c.conf, res, method, req.uri, try > 0); err != nil || !again {
			return req, res, err
		}
	}
}

// reinvite offers a new direction with fresh keys. A refusal leaves the session as it was (calls §3).
func (c *Call) reinvite(ctx context.Context, direction, info string) error {
	p := c.p
	p.mu.Lock()
	c.offering = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		c.offering = false
		p.mu.Unlock()
	}()
	for try := 0; ; try++ {
		o := c.offer(direction)
		var settled error
		_, res, err := c.exchange(ctx, "INVITE", func(m *message) {
			m.add("Expires", "%d", c.conf.InviteExpires)
			m.add("Allow", "%s", allow)
			m.add("Remote-Party-ID", "%s", c.identity("calling"))
			m.add("Supported", "%s", p.supported())
			m.add("Call-Info", "%s", info)
			if p.man.series == "7800" || p.man.series == "8800" {
				c.addStats(m)
			}
			m.with("application/sdp", o.String())
		}, func(req, res *message) {
			if res.status < 300 {
				settled = c.reoffered(req, o, res)
			}
		})
		if err != nil {
			return err
		}
		switch {
		case res.status == 491 && try < 3:
			// RFC 3261 §14.1: the owner of the Call-ID waits longer.
			wait := time.Duration(10*rand.IntN(200)) * time.Millisecond
			if !c.incoming {
				wait += 2100 * time.Millisecond
			}
			select {
			case <-time.After(wait):
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		case res.status == 408 || res.status == 481:
			c.end(fmt.Sprintf("%d %s", res.status, res.reason))
			return fmt.Errorf("re-INVITE: %d %s", res.status, res.reason)
		case res.status >= 300:
			return fmt.Errorf("re-INVITE: %d %s", res.status, res.reason)
		}
		if _, ok := errors.AsType[*Refusal](settled); ok {
			p.tasks.Go("phone hang up", func(ctx context.Context) { _ = c.bye(ctx, "answer not usable") })
		}
		return settled
	}
}

// reoffered takes the 200 to a re-INVITE, in the reader's goroutine: the next offer may stand right behind it.
func (c *Call) reoffered(req *message, o offered, res *message) error {
	_ = c.l.send(c.ack(req))
	a, err := c.checkAnswer(o, res.body, c.p.fallback())
	if r, ok := err.(*Refusal); ok {
		return c.p.refused(StepCall, r)
	}
	if err != nil {
		return err
	}
	c.p.mu.Lock()
	c.lastOK = res
	c.noteLocked(res)
	c.p.mu.Unlock()
	return c.media.set(a)
}

// Hold puts the other side on hold.
func (c *Call) Hold(ctx context.Context) error { return c.hold(ctx, "") }

func (c *Call) hold(ctx context.Context, reason string) error {
	if err := c.begin(ctx); err != nil {
		return err
	}
	defer c.done()
	if s := c.State(); s == Held {
		return nil
	} else if s != Connected {
		return fmt.Errorf("hold: call is %s", s)
	}
	info := "<urn:x-cisco-remotecc:hold>"
	if reason != "" {
		info += "; reason= " + reason
	}
	if err := c.reinvite(ctx, "sendonly", info); err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	c.media.pause(true)
	c.become(Connected, Held)
	return nil
}

// Resume takes the call back from hold.
func (c *Call) Resume(ctx context.Context) error {
	if err := c.begin(ctx); err != nil {
		return err
	}
	defer c.done()
	if s := c.State(); s == Connected {
		return nil
	} else if s != Held {
		return fmt.Errorf("resume: call is %s", s)
	}
	if err := c.reinvite(ctx, "sendrecv", "<urn:x-cisco-remotecc:resume>"); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	c.become(Held, Connected)
	return nil
}

func (c *Call) become(from, to CallState) {
	c.p.mu.Lock()
	if c.state == from {
		c.setLocked(to)
	}
	c.p.mu.Unlock()
	c.p.event(StepCall, c.text(to.String()), nil)
}

// Hangup ends the call whatever its state: CANCEL, refusal or BYE.
func (c *Call) Hangup(ctx context.Context) error {
	p := c.p
	p.mu.Lock()
	state := c.state
	c.hungUp = true
	cancel := state == RingOut && !c.cancelSent && c.invite != nil
	p.mu.Unlock()
	switch state {
	case Ended:
		return nil
	case RingIn:
		return c.Reject(ctx, 0)
	case Dialing, RingOut:
		// Before the first answer nothing may be cancelled (RFC 3261 §9.1); inviteAnswer does it then.
		if cancel {
			c.sendCancel()
		}
		return c.WaitState(ctx, Ended)
	}
	return c.bye(ctx, "hung up")
}

// bye ends an established call.
func (c *Call) bye(ctx context.Context, reason string) error {
	if err := c.begin(ctx); err != nil {
		return err
	}
	defer c.done()
	if c.State() == Ended {
		return nil
	}
	c.media.pause(true)
	_, res, err := c.exchange(ctx, "BYE", func(m *message) { c.addStats(m) })
	if err == nil && res.status != 200 {
		c.p.remark("BYE answered %d", res.status)
		err = fmt.Errorf("BYE: %d %s", res.status, res.reason)
	}
	c.end(reason)
	return err
}

// addStats adds the RTP counters where the configuration wants them (calls §31).
func (c *Call) addStats(m *message) {
	if !c.conf.CallStats {
		return
	}
	rx, tx := c.media.stats(c.p.man)
	m.add("RTP-RxStat", "%s", rx)
	m.add("RTP-TxStat", "%s", tx)
}

// obey does what a request of the server wants of this call.
func (c *Call) obey(name string) func(ctx context.Context) {
	return func(ctx context.Context) {
		var err error
		switch name {
		case "answercallreq":
			err = c.Answer(ctx)
		case "holdretrievereq":
			err = c.Resume(ctx)
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			c.p.event(StepCall, name, err)
		}
	}
}

// Press sends keys by telephone-event.
func (c *Call) Press(keys string) error {
	for i := range len(keys) {
		if err := c.media.press(keys[i]); err != nil {
			return fmt.Errorf("press: %w", err)
		}
	}
	return nil
}

// Audio is what the call's audio measures at now.
func (c *Call) Audio() Audio { return c.media.audio() }

// ResetAudio forgets what was heard so far, so that the next tone is measured alone. Counters stay.
func (c *Call) ResetAudio() { c.media.resetSamples() }

// Samples are the last seconds of what was heard, 8000 samples a second, at most ten seconds.
func (c *Call) Samples(d time.Duration) []int16 {
	return c.media.samples(int(d.Seconds() * sampleRate))
}

// SetTone changes the tone that the call sends.
func (c *Call) SetTone(hz float64) { c.media.setTone(hz) }

// WaitPackets waits until the call has received n packets.
func (c *Call) WaitPackets(ctx context.Context, n int) error {
	if err := c.p.Wait(ctx, func() bool { return c.Audio().Received >= n || c.State() == Ended }); err != nil {
		return fmt.Errorf("%d of %d packets: %w", c.Audio().Received, n, err)
	}
	if got := c.Audio().Received; got < n {
		return fmt.Errorf("call ended after %d of %d packets", got, n)
	}
	return nil
}

// WaitStrongest waits until that tone is the strongest of what is heard, however pure it is: what comes out of a mixer has gaps
// where the packets of a busy machine were late.
func (c *Call) WaitStrongest(ctx context.Context, hz float64) error {
	var a Audio
	c.ResetAudio()
	err := c.p.Wait(ctx, func() bool {
		a = c.Audio()
		return a.Hz > hz*0.98 && a.Hz < hz*1.02 && a.Share > 0.1 || c.State() == Ended
	})
	if err != nil {
		return fmt.Errorf("tone of %.0f Hz: heard %s: %w", hz, a, err)
	}
	if c.State() == Ended {
		return fmt.Errorf("tone of %.0f Hz: call ended, heard %s", hz, a)
	}
	return nil
}

// WaitTone waits until the last second heard is that tone, within one per cent and nine tenths of the power.
func (c *Call) WaitTone(ctx context.Context, hz float64) error {
	var a Audio
	c.ResetAudio()
	err := c.p.Wait(ctx, func() bool {
		a = c.Audio()
		return a.Hz > hz*0.99 && a.Hz < hz*1.01 && a.Share > 0.9 || c.State() == Ended
	})
	if err != nil {
		return fmt.Errorf("tone of %.0f Hz: heard %s: %w", hz, a, err)
	}
	if a.Share <= 0.9 {
		return fmt.Errorf("tone of %.0f Hz: call ended, heard %s", hz, a)
	}
	return nil
}
