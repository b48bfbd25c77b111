package phone

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// watchMembers keeps an eye on the other members while the phone is registered at one (registration §7): the next one that can be
// reached is its standby and gets keep-alives; when one of higher priority answers again, the phone asks it for the token, says
// goodbye where it is, and goes there.
//
//	registered ── every timerKeepAliveExpires: keep-alive to each other member ── higher one answers, no call ──► token
//	    ▲                                                                                                 202 │ 503, 486: Retry-After
//	    └──────────────────────── REGISTER there ◄── unregister here ◄──────────────────────────────────────────┘
func (p *Phone) watchMembers(ctx context.Context, active *link, c *Config) {
	every := p.opt.Timers.KeepAlive
	if every == 0 {
		every = time.Duration(c.KeepAlive) * time.Second
	}
	links := make(map[string]*link)
	defer func() {
		for _, l := range links {
			l.close(errStopped)
		}
		p.setStandby("")
	}()
	wait := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-active.done:
			return
		case <-time.After(wait):
		}
		wait = every
		standby := ""
		for _, m := range c.Members {
			if m.Host == active.member.Host {
				continue
			}
			l := p.keepAlive(ctx, c, m, links)
			if l == nil {
				continue
			}
			if standby == "" {
				standby = m.Host
			}
			if m.Priority < active.member.Priority && len(p.Calls()) == 0 {
				after, ok := p.token(ctx, l, c)
				if ok {
					p.event(StepRegister, "call server "+m.Host+" is back", nil)
					_ = p.unregister(ctx, reasonFallback)
					_ = p.register(ctx, reasonFallback)
					return
				}
				wait = after
			}
		}
		p.setStandby(standby)
	}
}

func (p *Phone) setStandby(host string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.standby = host
	p.changedLocked()
}

// Standby is the member that answers keep-alives, empty when none does.
func (p *Phone) Standby() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.standby
}

// Member is the call server that the phone is registered at, empty when it is at none.
func (p *Phone) Member() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link == nil || !p.reg.registered {
		return ""
	}
	return p.link.member.Host
}

// keepAlive sends the keep-alive of a standby. Every answer counts; the connection is kept for the next.
func (p *Phone) keepAlive(ctx context.Context, c *Config, m Member, links map[string]*link) *link {
	l := links[m.Host]
	if l == nil {
		var err error
		if l, err = p.connect(ctx, c, m); err != nil {
			return nil
		}
		links[m.Host] = l
		p.tasks.Go("phone standby link", l.run, func(err error) {
			if err != nil {
				l.close(err)
			}
		})
	}
	line := c.Lines[0]
	host := m.Host
	r := &message{method: "REGISTER", uri: "sip:" + host}
	r.add("From", "<sip:%s@%s>;tag=%s", line.Name, host, p.tag())
	r.add("To", "<sip:%s@%s>", line.Name, host)
	r.add("Call-ID", "%s", p.callID(l.local.Addr().String()))
	r.add("Max-Forwards", "70")
	r.add("CSeq", "101 REGISTER")
	r.add("User-Agent", "%s", p.man.agent)
	r.add("Contact", "<%s>%s;expires=0;cisco-keep-alive", l.contactURI(line), p.contactParams())
	r.add("Supported", "%s", p.supported())
	r.add("Expires", "0")
	res, err := l.roundTrip(ctx, r)
	if err != nil {
		l.close(err)
		delete(links, m.Host)
		return nil
	}
	if res.status != 200 {
		p.remark("keep-alive answered %d", res.status)
	} else if res.has("Contact") {
		p.remark("200 to a keep-alive with a Contact")
	}
	return l
}

// token asks a member whether the phone may come; otherwise it says when to ask again.
func (p *Phone) token(ctx context.Context, l *link, c *Config) (time.Duration, bool) {
	host, line := l.member.Host, c.Lines[0]
	m := &message{method: "REFER", uri: "sip:" + host}
	m.add("From", "<sip:%s@%s>;tag=%s", line.Name, host, p.tag())
	m.add("To", "<sip:%s>", host)
	m.add("Call-ID", "%s", p.callID(l.local.Addr().String()))
	m.add("CSeq", "1000 REFER")
	m.add("Max-Forwards", "70")
	m.add("Referred-By", "<sip:%s@%s>", line.Name, l.local.Addr())
	m.add("Refer-To", "<urn:X-cisco-remotecc:token-registration>")
	m.add("Contact", "<%s>", l.contactURI(line))
	res, err := l.roundTrip(ctx, m)
	if err != nil {
		l.close(err)
		return time.Second, false
	}
	if res.status/100 == 2 {
		return 0, true
	}
	p.event(StepRegister, fmt.Sprintf("call server %s says %d to the token", host, res.status), nil)
	if n, err := strconv.Atoi(strings.TrimSpace(res.get("Retry-After"))); err == nil && n > 0 {
		return time.Duration(n) * time.Second, false
	}
	return 30 * time.Second, false
}
