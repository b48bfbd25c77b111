package call

import (
	"slices"
	"time"

	"ringfence/sip/plan"
	"ringfence/sip/sdp"
)

// Alert is a call that rings somewhere and may be picked up.
type Alert struct {
	Line   *plan.Line // that rings
	Caller Identity
	Since  time.Time
	By     []string // devices of whoever has begun the call, or sent it here

	call *Call
}

// alert notes that a call rings; the first time counts.
func (m *Manager) alert(c *Call, line *plan.Line) {
	a := Alert{Line: line, Caller: c.caller.identity(), Since: time.Now(), By: []string{c.caller.Device}, call: c}
	if l, ok := c.plan.Line(c.from); ok && l.Device != "" {
		a.By = append(a.By, l.Device)
	}
	m.mu.Lock()
	known := slices.ContainsFunc(m.alerts[c], func(old Alert) bool { return old.Line == line })
	if !known {
		m.alerts[c] = append(m.alerts[c], a)
	}
	m.mu.Unlock()
	if f := m.opt.Alerting; f != nil && !known {
		f(a)
	}
}

// quiet notes that a call rings no more.
func (m *Manager) quiet(c *Call) {
	m.mu.Lock()
	delete(m.alerts, c)
	m.mu.Unlock()
}

// Alerts lists what rings, the oldest first.
func (m *Manager) Alerts() []Alert {
	m.mu.RLock()
	list := make([]Alert, 0, len(m.alerts))
	for _, alerts := range m.alerts {
		list = append(list, alerts...)
	}
	m.mu.RUnlock()
	slices.SortFunc(list, func(a, b Alert) int { return a.Since.Compare(b.Since) })
	return list
}

// Caller is the line of the calling party; nil if that has gone.
func (c *Call) Caller() *plan.Line {
	if c.caller == nil {
		return nil
	}
	return c.caller.Line
}

// CallerLeg is the leg of the calling party; nil if that has gone.
func (c *Call) CallerLeg() *Leg { return c.caller }

// Plan is the plan by which the call is routed.
func (c *Call) Plan() *plan.Plan { return c.plan }

// Refuse ends the call with a code; phones that ring are told first.
func (c *Call) Refuse(code int) {
	c.withdrawAll()
	c.refuse(code)
}

// PickUp takes the caller of this call to the call of an alert, which it answers in place of the phones that ring. If another
// was faster, the next alert is tried, and after the last the caller is refused with 503, which phones show as there being
// nothing to pick up ("sip-calls" §12).
func (c *Call) PickUp(alerts []Alert) {
	l := c.caller
	if l == nil || !l.waiting() {
		return
	}
	if len(alerts) == 0 {
		c.refuse(503)
		return
	}
	a := alerts[0]
	c.caller, c.lent = nil, l
	c.release(l)
	c.waiting++
	back := func(err error) {
		c.waiting--
		c.lent = nil
		if err == nil {
			return // the caller is the other call's now, and this one ends
		}
		c.adopt(l)
		c.caller = l
		c.PickUp(alerts[1:])
	}
	reply := func(err error) {
		c.insist(message{run: func() { back(err) }, drop: func() { strand(l, err) }})
	}
	if a.call.send(message{run: func() { reply(a.call.pickedUp(l, a.Line)) }, drop: func() { reply(errGone) }}) != nil {
		back(errGone)
	}
}

// pickedUp answers a ringing call with a leg that was not rung. It runs in the goroutine of the ringing call.
func (c *Call) pickedUp(l *Leg, line *plan.Line) error {
	if c.caller == nil || c.lent != nil || !l.waiting() ||
		!slices.ContainsFunc(c.branches, func(b *Leg) bool { return b.Line == line }) {
		return errGone
	}
	// Look before anything is changed: a pick-up that cannot work must not cost the caller its call.
	common := l.m.opt.Codecs
	if l.offer != nil {
		common = sdp.Common(common, l.can)
	}
	theirs, _ := c.codecs()
	their, our, ok := pairOf(theirs, common)
	if !ok {
		return sdp.ErrNoCodec
	}
	body, err := l.prepare(our, 0)
	if err != nil {
		return err
	}
	c.adopt(l)
	c.withdrawAll(elsewhere())
	c.callee = l
	c.talking = time.Now()
	answer := func() {
		l.peer, l.security = c.caller.identity(), min(c.caller.level(), l.level())
		l.accept(body)
	}
	if !c.caller.waiting() {
		answer()
		c.join()
		return nil
	}
	body2, err := c.caller.prepare(their, 0)
	if err != nil {
		c.callee = nil
		l.reject(488)
		c.refuse(488)
		return nil
	}
	answer()
	c.caller.peer, c.caller.security = l.identity(), min(c.caller.level(), l.level())
	c.caller.accept(body2)
	c.bridge(c.caller, l)
	c.audio()
	l.Show(l.peer, min(c.caller.level(), l.level()))
	c.log.Info("call picked up", "line", l.Line.Number, "phone", l.Device, "took", time.Since(c.started))
	return nil
}

// pairOf finds codecs for two parties: one that both have, else two that can be turned into each other.
func pairOf(a, b []sdp.Codec) (x, y sdp.Codec, ok bool) {
	if common := sdp.Common(a, b); len(common) > 0 {
		return common[0], common[0], true
	}
	for _, x := range a {
		for _, y := range b {
			if sdp.Bridges(x, y) {
				return x, y, true
			}
		}
	}
	return x, y, false
}
