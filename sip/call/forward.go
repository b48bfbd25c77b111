package call

import (
	"context"
	"time"

	"ringfence/sip/plan"
	"ringfence/sip/state"
)

// forwardAll sets or clears the forwarding of the caller's line ("sip-calls" §22.1): stored first, then answered, then the phone
// is told by the state, then the call ends. A target that the line may not call is refused with 503, which phones show as the
// feature not being available, and the old target stays (dialplan DP-25).
func (c *Call) forwardAll(target string) {
	l := c.caller
	if target != "" {
		target = plan.Normalize(target)
		if code, why := c.plan.Callable(l.Line.Number, target); code != 0 && target != l.Line.Voicemail || target == l.Line.Number {
			c.log.Info("forward refused", "line", l.Line.Number, "dialled", target, "why", why)
			l.reject(503)
			return
		}
	}
	// The store may take its time, the call's goroutine may not be needed meanwhile: nothing else can happen to this call but
	// its end, which the events of the leg will tell.
	line := l.Line.Number
	c.Store("forward", func(ctx context.Context) error { return c.m.opt.State.SetForward(ctx, line, target, state.ByPhone) })
}

// toggle switches do-not-disturb or the log-in to hunt groups of the caller's phone: what its key does, or a code where it has
// none ("dialplan" §2). A phone that has not asked itself is told, so that its display follows.
func (c *Call) toggle(what string) {
	st, d := c.m.opt.State, device(c.caller.Line)
	if c.caller.Device != "" {
		d = c.caller.Device // of a shared line it is this phone's
	}
	c.Store(what, func(ctx context.Context) error {
		if what == "dnd" {
			return st.SetDND(ctx, d, !st.DND(d), state.ByPlan)
		}
		return st.SetHuntLogin(ctx, d, !st.HuntLogin(d), state.ByPlan)
	})
}

// nightSwitch turns a manual switch by its number: on closes by hand ("dialplan" §2.1).
func (c *Call) nightSwitch(name string) {
	st := c.m.opt.State
	to := !st.Switch(name)
	c.log.Info("night switch", "line", c.from, "dialled", name, "on", to)
	c.Store("switch", func(ctx context.Context) error { return st.SetSwitch(ctx, name, to, state.ByPhone) })
}

// Store changes a setting and answers the caller when it is kept.
func (c *Call) Store(what string, set func(ctx context.Context) error) {
	l := c.caller
	c.m.tasks.Go(what, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, storeWithin)
		defer cancel()
		err := set(ctx)
		l.post(func() { c.stored(l, err) })
	})
}

const storeWithin = 5 * time.Second

func (c *Call) stored(l *Leg, err error) {
	if !l.waiting() {
		return
	}
	if err != nil {
		c.log.Error("setting", "line", l.Line.Number, "err", err)
		l.reject(503)
		return
	}
	body, err := l.prepare(c.ownCodec(), 0)
	if err != nil {
		l.reject(488)
		return
	}
	l.peer, l.security = Identity{Number: c.dialled}, l.level()
	l.accept(body)
	l.Hangup()
}

// setFields does what rules of the plan have set. The call does not wait for it.
func (c *Call) setFields(list []plan.FieldSet) {
	set := c.m.opt.SetField
	if len(list) == 0 || set == nil {
		return
	}
	c.m.tasks.Go("fields", func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, storeWithin)
		defer cancel()
		for _, x := range list {
			if err := set(ctx, x.Line, x.Name, x.Value); err != nil {
				c.log.Info("field is not set by the rule", "line", x.Line, "err", err)
			}
		}
	})
}
