package appliance

import (
	"context"
	"strings"
	"time"

	"ringfence/appliance/admin"
	"ringfence/sip/plan"
)

// This file answers the verbs about the plan.

func (a *appliance) planExplain(_ context.Context, r admin.Request) (any, error) {
	if r.Flags["dial"] == "" {
		return nil, admin.Usage("plan explain needs --dial NUMBER, and --from LINE unless nobody calls")
	}
	from := r.Flags["from"]
	if from != "" {
		if _, ok := a.doc().Line(from); !ok {
			return nil, admin.Refuse("line %s is not declared", from)
		}
	}
	now := a.calls.Moment()
	if text := r.Flags["at"]; text != "" {
		at, err := a.timeOf(text)
		if err != nil {
			return nil, err
		}
		now = plan.At{State: now, Time: at}
	}
	var steps []string
	if trunk := r.Flags["trunk"]; trunk != "" {
		if from != "" {
			return nil, admin.Usage("a call comes from a line or from a trunk: --from or --trunk")
		}
		steps = a.plan.Load().ExplainInbound(trunk, r.Flags["dial"], now)
	} else {
		steps = a.plan.Load().Explain(plan.Query{From: from, Dialled: r.Flags["dial"]}, now)
	}
	return textAnswer{strings.Join(steps, "\n")}, nil
}

// timeOf reads a time as people write it; without a zone it is the site's.
func (a *appliance) timeOf(text string) (time.Time, error) {
	zone, err := time.LoadLocation(a.doc().Site.TimeZone)
	if err != nil {
		zone = time.UTC
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, admin.Usage("%q is no time; write 2026-12-24T18:00", text)
}
