package phone

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// subscription is a number of a call list whose lamp the phone has asked for (state §2).
type subscription struct {
	number   string
	fromTag  string
	toTag    string
	lamp     Lamp
	notified bool
	ended    string // Subscription-State that ended it
}

// WatchHistory subscribes to the state of a number as for an entry of a call list, and returns the final status.
func (p *Phone) WatchHistory(ctx context.Context, number string) (int, error) {
	p.mu.Lock()
	l, conf, ok := p.link, p.config, p.reg.registered
	p.mu.Unlock()
	if l == nil || !ok {
		return 0, errors.New("history: not registered")
	}
	line, host := conf.Lines[0], l.member.Host
	callID := p.callID(l.local.Addr().String())
	s := &subscription{number: number, fromTag: p.tag()}
	p.mu.Lock()
	if p.history == nil {
		p.history = make(map[string]*subscription)
	}
	p.history[callID] = s
	p.mu.Unlock()
	seq := 113
	build := func(cseq int, auth string) *message {
		m := &message{method: "SUBSCRIBE", uri: fmt.Sprintf("sip:%s@%s", number, host)}
		m.add("From", "<sip:%s@%s>;tag=%s", line.Name, host, s.fromTag)
		m.add("To", "<sip:%s@%s>", number, host)
		m.add("Call-ID", "%s", callID)
		m.add("CSeq", "%d SUBSCRIBE", cseq)
		m.add("User-Agent", "%s", p.man.agent)
		m.add("Max-Forwards", "70")
		m.add("Event", "presence")
		m.add("Accept", "application/cpim-pidf+xml")
		m.add("Expires", "3600")
		m.add("Contact", "<%s>", l.contactURI(line))
		if auth != "" {
			m.add("Authorization", "%s", auth)
		}
		return m
	}
	res, err := l.exchange(ctx, conf, build, func() int { seq++; return seq }, func(res *message) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if res.status == 200 {
			s.toTag = nameAddrOf(res.get("To")).param("tag")
		}
	})
	if err != nil {
		return 0, fmt.Errorf("history: %w", err)
	}
	if res.status != 200 {
		p.mu.Lock()
		delete(p.history, callID)
		p.mu.Unlock()
	}
	return res.status, nil
}

// History is the lamp beside a number in the call lists; known is false before the first notice. ended is why the server ended it.
func (p *Phone) History(number string) (lamp Lamp, known bool, ended string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.history {
		if s.number == number {
			return s.lamp, s.notified, s.ended
		}
	}
	return LampPlain, false, ""
}

// historyNotice takes a NOTIFY of a subscription; false: it is of none.
func (p *Phone) historyNotice(l *link, m *message) bool {
	p.mu.Lock()
	s := p.history[strings.TrimSpace(m.get("Call-ID"))]
	ok := s != nil && nameAddrOf(m.get("To")).param("tag") == s.fromTag && (s.toTag == "" || nameAddrOf(m.get("From")).param("tag") == s.toTag)
	p.mu.Unlock()
	if !ok {
		return false
	}
	state := m.get("Subscription-State")
	var number string
	lamp := LampUnknown
	if len(m.body) > 0 {
		var err error
		if number, lamp, err = lampOf(m); err != nil || number != s.number {
			r := p.refused(StepSIP, refuse(NotifyBody, err, "NOTIFY presence of %s in the subscription of %s", number, s.number))
			p.respond(l, m, 400, "Bad Request", r.Text)
			return true
		}
	} else if !strings.HasPrefix(state, "terminated") {
		p.remark("NOTIFY presence without a body")
	}
	p.mu.Lock()
	if s.notified = true; len(m.body) > 0 {
		s.lamp = lamp
	}
	if strings.HasPrefix(state, "terminated") {
		s.ended = state
	}
	p.changedLocked()
	p.mu.Unlock()
	p.respond(l, m, 200, "OK", "")
	return true
}
