package call

import (
	"errors"
	"time"

	"ringfence/media"
	"ringfence/sip/plan"
	"ringfence/sip/registrar"
	"ringfence/sip/sdp"
)

// Receive answers the caller on behalf of nobody: it speaks, and hears silence, until it hangs up (Solo.Left) or is hung up on. shows is what
// its phone displays. With an error the caller was refused, or is gone.
func (c *Call) Receive(state string, shows Identity) (*Solo, error) {
	l := c.caller
	if l == nil || !l.waiting() || c.callee != nil || c.Moving() || len(c.branches) > 0 {
		return nil, errGone
	}
	codecs, ptime := c.codecs()
	list := sdp.Common(RoomCodecs, codecs)
	body, err := []byte(nil), error(sdp.ErrNoCodec)
	if len(list) > 0 {
		body, err = l.prepare(list[0], ptime)
	}
	if err != nil {
		c.refuse(488)
		return nil, err
	}
	s := &Solo{m: c.m, leg: l, started: c.started, state: state, dialled: c.dialled}
	if !c.m.startOwner(&s.owner, s) {
		c.refuse(503)
		return nil, errors.New("too many calls")
	}
	c.caller = nil
	c.release(l)
	s.adopt(l)
	l.peer, l.security = shows, l.level()
	l.accept(body)
	c.m.tasks.Go(state, s.run, s.cleanup)
	return s, nil
}

// HangUp ends the party's call.
func (s *Solo) HangUp() {
	if l := s.leg; l != nil {
		s.leg = nil
		l.Hangup()
	}
}

// Monitor is what the party says.
func (s *Solo) Monitor() (*media.Monitor, error) {
	if s.leg == nil {
		return nil, errGone
	}
	return media.Listen(s.leg.media)
}

// Quiet is for how long nothing has come from the party's phone.
func (s *Solo) Quiet() time.Duration {
	if s.leg == nil {
		return 0
	}
	return s.leg.media.Stats().Silent
}

// Reachable lists where a line is registered at this moment, Cisco phones and others.
func (m *Manager) Reachable(line string) (list []*registrar.Binding) {
	for _, b := range m.opt.Bindings.Lookup(line) {
		if b.Reachable() {
			list = append(list, b)
		}
	}
	return list
}

// OffHook tells whether the receiver of a phone is lifted.
func (m *Manager) OffHook(device string) bool { return m.opt.State.OffHook(device) }

// Engaged tells whether a phone has a call, on whichever of its lines, is off-hook, or wants no calls.
func (m *Manager) Engaged(p *plan.Plan, device string) bool {
	if m.opt.State.DND(device) || m.opt.State.OffHook(device) {
		return true
	}
	for _, line := range p.LinesOf(device) {
		if m.callsAt(line, device) > 0 {
			return true
		}
	}
	return false
}

// Streams is the engine that streams come from.
func (m *Manager) Streams() *media.Engine { return m.opt.Media }

// State is where phones are told something.
func (m *Manager) State() State { return m.opt.State }

// Later runs f in the call's goroutine, or gone, in any, if the call has ended.
func (c *Call) Later(f, gone func()) {
	if c.send(message{run: f, drop: gone}) != nil {
		gone()
	}
}
