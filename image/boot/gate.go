package boot

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// gate decides when a slot has proven itself. A slot on trial has a deadline after which the machine starts again, which leads
// back to the other slot; one that has proven itself before is only asked whether the daemon answers, since what it lacks now
// it lacks for another reason than the release.
//
//	observing ──enough good rounds──▶ committed
//	    └──deadline, on trial──▶ given up (reboot)
type gate struct {
	trial    bool
	deadline time.Time
	phones   []string // registered just before the update
	had      bool     // there was an address before the update
	good     int
	done     bool
}

// Rounds in a row that must be good, and the deadlines of a trial. Phones register again within their interval of 120 s.
const (
	gateRounds   = 3
	gateDeadline = 180 * time.Second
	gatePhones   = 300 * time.Second
)

// observation is what a round saw.
type observation struct {
	answers  bool
	down     []string // services
	readable error    // nil: data can be written
	address  bool     // some interface has one
	link     bool     // some interface has a carrier
	phones   []string // registered now
}

type verdict int

const (
	gateWait verdict = iota
	gateCommit
	gateGiveUp
)

// round judges one observation and says what is lacking.
func (g *gate) round(now time.Time, o observation) (verdict, string) {
	if g.done {
		return gateWait, ""
	}
	lack := g.lacks(o)
	if lack == "" {
		if g.good++; g.good >= gateRounds {
			g.done = true
			return gateCommit, ""
		}
		return gateWait, fmt.Sprintf("%d of %d good rounds", g.good, gateRounds)
	}
	g.good = 0
	if g.trial && now.After(g.deadline) {
		g.done = true
		return gateGiveUp, lack
	}
	return gateWait, lack
}

func (g *gate) lacks(o observation) string {
	if !o.answers {
		return "the daemon does not answer"
	}
	if !g.trial {
		return ""
	}
	switch {
	case len(o.down) > 0:
		return "down: " + strings.Join(o.down, ", ")
	case o.readable != nil:
		return "data: " + o.readable.Error()
	case g.had && o.link && !o.address:
		return "no address"
	}
	if len(g.phones) == 0 || !o.link {
		return ""
	}
	back := 0
	for _, p := range g.phones {
		if slices.Contains(o.phones, p) {
			back++
		}
	}
	if back*10 < len(g.phones)*9 {
		return fmt.Sprintf("%d of %d phones are back", back, len(g.phones))
	}
	return ""
}
