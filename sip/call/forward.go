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
	c.m.tasks.Go("forward", func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, storeWithin)
		defer cancel()
		err := c.m.opt.State.SetForward(ctx, line, target, state.ByPhone)
		l.post(func() { c.forwarded(l, err) })
	})
}

const storeWithin = 5 * time.Second

func (c *Call) forwarded(l *Leg, err error) {
	if !l.waiting() {
		return
	}
	if err != nil {
		c.log.Error("forward", "line", l.Line.Number, "err", err)
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
