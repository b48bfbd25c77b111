package page

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"ringfence/config"
	"ringfence/media"
	"ringfence/sip/call"
	"ringfence/sip/plan"
)

// Sound is what Play plays.
type Sound struct {
	To     []string // the number or name of one group, or numbers of lines
	Text   string   // shown on the phones; "" is none
	Volume int      // percent; 0 is the group's
	Source media.Source
	Close  func() // called once when the page is over, or was none
}

// Errors of Play.
var (
	// ErrPaging: the group is paging already.
	ErrPaging = errors.New("a page is under way")
	// ErrNobody: no phone can be paged, or none has taken it.
	ErrNobody = errors.New("no phone to page")
)

// lastSound is how long phones play on what they have, before they are told to stop.
const lastSound = 300 * time.Millisecond

// Play pages a sound and returns the phones that have taken it, once they have; the sound goes on by itself. All phones are told to stop at
// its end.
func (p *Pages) Play(m *call.Manager, pl *plan.Plan, o Sound) (phones []string, err error) {
	closing := o.Close
	if closing == nil {
		closing = func() {}
	}
	g, key, err := p.target(pl, o)
	if err != nil {
		closing()
		return nil, err
	}
	if o.Volume > 0 {
		g.Volume = o.Volume
	}
	x := p.page(m, pl, g, key, "")
	x.after = closing
	if len(x.members) == 0 {
		x.end()
		return nil, ErrNobody
	}
	ready := make(chan struct{})
	x.start(o.Text, func() { close(ready) })
	<-ready // start bounds that
	if len(x.members) == 0 {
		x.end()
		return nil, ErrNobody
	}
	for _, b := range x.members {
		phones = append(phones, b.binding.Device)
	}
	p.log.Info("page from a command", "to", key, "phones", len(phones))
	time.AfterFunc(settleFor, func() {
		if err := x.send(o.Source, func() { time.AfterFunc(lastSound, x.end) }); err != nil {
			p.log.Error("page", "err", err)
			x.end()
		}
	})
	return phones, nil
}

// target finds out who is meant, and takes it.
func (p *Pages) target(pl *plan.Plan, o Sound) (g config.PageGroup, key string, err error) {
	if len(o.To) == 1 {
		if number, ok := p.number(o.To[0]); ok {
			g, ok, _ := p.take(number)
			if !ok {
				return g, "", fmt.Errorf("group %s: %w", number, ErrPaging)
			}
			return g, number, nil
		}
	}
	g = config.PageGroup{Mode: "unicast", Port: 20480, Codec: "G.722"}
	for _, n := range o.To {
		if _, ok := pl.Line(n); !ok {
			return g, "", fmt.Errorf("%q is neither a paging group nor a line", n)
		}
		g.Members = append(g.Members, config.Digits(n))
	}
	key = "lines " + strings.Join(o.To, ",")
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, taken := p.busy[key]; taken {
		return g, "", ErrPaging
	}
	p.busy[key] = nil
	return g, key, nil
}

// number finds a group by its number or name.
func (p *Pages) number(group string) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.groups[group]; ok {
		return group, true
	}
	for n, g := range p.groups {
		if g.Name != "" && strings.EqualFold(g.Name, group) {
			return n, true
		}
	}
	return "", false
}

// Stop ends the page of a group, or of lines as they were named, and tells whether one was to be heard.
func (p *Pages) Stop(to []string) bool {
	key := "lines " + strings.Join(to, ",")
	if len(to) == 1 {
		if n, ok := p.number(to[0]); ok {
			key = n
		}
	}
	p.mu.Lock()
	x := p.busy[key]
	p.mu.Unlock()
	if x == nil {
		return false
	}
	x.mu.Lock()
	party, stream := x.party, x.stream
	x.mu.Unlock()
	switch {
	case stream == nil: // it is just beginning
		return false
	case party != nil:
		return party.Do(func() { x.end(); party.HangUp() }) == nil
	}
	x.end()
	return true
}
