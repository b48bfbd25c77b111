package phone

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// serveNotify handles a NOTIFY outside of any call: state pushed without a subscription (overview §9).
func (p *Phone) serveNotify(l *link, m *message) {
	event, _, _ := strings.Cut(m.get("Event"), ";")
	event = strings.ToLower(strings.TrimSpace(event))
	to := nameAddrOf(m.get("To"))
	bad := func(kind Kind, err error, format string, args ...any) {
		r := p.refused(StepSIP, refuse(kind, err, format, args...))
		p.respond(l, m, 400, "Bad Request", r.Text)
	}
	switch {
	case to.param("tag") != "":
		p.refused(StepSIP, refuse(NotifyDialog, nil, "NOTIFY %s with a To tag, and no such subscription", event))
		p.respond(l, m, 481, "Subscription Does Not Exist", "")
		return
	case userOf(to.uri) == "":
		bad(NotifyBody, nil, "NOTIFY %s: no user in To", event)
		return
	case event == "presence" || event == "service-control" || event == "dialog":
		// message-summary goes without in the reference, and phones take it (state §7).
		if n := count(m, "Subscription-State"); n == 0 {
			bad(NotifyState, nil, "NOTIFY %s without Subscription-State", event)
			return
		} else if n > 1 {
			p.remark("NOTIFY %s with Subscription-State %d times", event, n)
		}
	}
	var err error
	switch event {
	case "presence":
		err = p.presence(m)
	case "message-summary":
		err = p.messages(m)
	case "dialog":
		err = p.remoteUse(m)
	case "service-control":
		p.serviceControl(l, m)
		return
	case "check-sync", "refer":
	default:
		p.refused(StepSIP, refuse(NotifyEvent, nil, "NOTIFY %q", clip(event)))
		p.respond(l, m, 489, "Bad Event", "")
		return
	}
	if err != nil {
		bad(NotifyBody, err, "NOTIFY %s", event)
		return
	}
	p.respond(l, m, 200, "OK", "")
}

func count(m *message, name string) int {
	n := 0
	for _, h := range m.headers {
		if strings.EqualFold(h.name, name) {
			n++
		}
	}
	return n
}

// lampOf reads the number and its lamp out of a presence document.
func lampOf(m *message) (number string, lamp Lamp, err error) {
	root, err := parseXML(m.body)
	if err != nil {
		return "", "", err
	}
	if root.name != "presence" {
		return "", "", fmt.Errorf("root element <%s>", root.name)
	}
	if number = userOf(root.attrs["entity"]); number == "" {
		return "", "", fmt.Errorf("entity %q", clip(root.attrs["entity"]))
	}
	lamp = LampIdle
	if strings.EqualFold(root.get("tuple/status/basic"), "closed") {
		lamp = LampUnknown
	}
	for _, a := range kidsOf(root.at("person/activities")) {
		switch {
		case a.name == "alerting":
			lamp = LampAlerting
		case a.name == "on-the-phone" && lamp != LampAlerting:
			lamp = LampBusy
		case a.name == "dnd" && lamp != LampAlerting && lamp != LampBusy:
			lamp = LampDND
		}
	}
	return number, lamp, nil
}

// presence lights a lamp key (state §1).
func (p *Phone) presence(m *message) error {
	number, lamp, err := lampOf(m)
	if err != nil {
		return err
	}
	if from := userOf(nameAddrOf(m.get("From")).uri); from != number {
		p.remark("NOTIFY presence of %s comes From %s", number, clip(from))
	}
	p.mu.Lock()
	if !p.reg.blf {
		p.mu.Unlock()
		return nil // the server did not select unsolicited presence: the keys stay speed dials
	}
	for _, k := range p.config.Keys {
		if (k.Feature == 21 || k.Feature == 22) && k.Number == number {
			if lamp == LampAlerting && k.OptionMask&1 == 0 {
				lamp = LampIdle
			}
			p.display.lamps[number] = lamp
			p.changedLocked()
			p.mu.Unlock()
			p.event(StepSIP, fmt.Sprintf("lamp of %s: %s", number, lamp), nil)
			return nil
		}
	}
	p.mu.Unlock()
	p.remark("NOTIFY presence of %s, which no key watches", number)
	return nil
}

func kidsOf(e *element) []*element {
	if e == nil {
		return nil
	}
	return e.kids
}

// messages sets a message lamp (state §7). Loads of the 7900 mis-read the urgent suffix.
func (p *Phone) messages(m *message) error {
	user := userOf(m.uri)
	waiting, counted := "", false
	var fresh, old int
	for _, line := range strings.Split(string(m.body), "\n") {
		k, v, _ := strings.Cut(strings.TrimSpace(line), ":")
		v = strings.TrimSpace(v)
		switch strings.ToLower(strings.TrimSpace(k)) {
		case "messages-waiting":
			waiting = strings.ToLower(v)
		case "voice-message":
			if strings.Contains(v, "(") && p.man.series == "7900" {
				return fmt.Errorf("voice-message %q", clip(v))
			}
			a, b, _ := strings.Cut(strings.Fields(v + " ")[0], "/")
			var e1, e2 error
			fresh, e1 = strconv.Atoi(a)
			old, e2 = strconv.Atoi(b)
			if err := errors.Join(e1, e2); err != nil {
				return fmt.Errorf("voice-message: %w", err)
			}
			counted = true
		}
	}
	if waiting != "yes" && waiting != "no" {
		return fmt.Errorf("messages-waiting %q", clip(waiting))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.config.Lines {
		if line.contactUser() == user || line.Name == user {
			s := p.display.lines[line.Index]
			s.Message = waiting == "yes"
			if counted {
				s.New, s.Old = fresh, old
			}
			p.changedLocked()
			return nil
		}
	}
	return fmt.Errorf("no line %s", clip(user))
}

// serviceControl obeys restart, reset and check-version when the request names the present registration (registration §6).
func (p *Phone) serviceControl(l *link, m *message) {
	bad := func(kind Kind, format string, args ...any) {
		r := p.refused(StepSIP, refuse(kind, nil, format, args...))
		p.respond(l, m, 400, "Bad Request", r.Text)
	}
	values := make(map[string]string)
	for _, line := range strings.SplitAfter(string(m.body), "\r\n") {
		if line == "" {
			continue
		}
		body, ended := strings.CutSuffix(line, "\r\n")
		k, v, ok := strings.Cut(body, "=")
		if !ended || !ok {
			bad(NotifyBody, "service-control line %q", clip(line))
			return
		}
		values[k] = v
	}
	braced := func(key string) (string, bool) {
		v, ok := values[key]
		if !ok || len(v) < 2 || v[0] != '{' || v[len(v)-1] != '}' {
			return "", false
		}
		return v[1 : len(v)-1], true
	}
	p.mu.Lock()
	callID, c := p.reg.callID, p.config
	p.mu.Unlock()
	id, ok := braced("RegisterCallId")
	switch {
	case !ok || id == "":
		bad(NotifyBody, "service-control without RegisterCallId in braces")
		return
	case id != callID:
		bad(RegisterCallID, "service-control for registration %s, this is %s", clip(id), callID)
		return
	}
	action := values["action"]
	var stamps []string
	switch action {
	case "restart", "reset", "check-version", "apply-config":
		stamps = []string{"ConfigVersionStamp", "DialplanVersionStamp", "SoftkeyVersionStamp"}
	case "call-preservation", "prt-report":
	default:
		bad(NotifyBody, "service-control action %q", clip(action))
		return
	}
	for _, s := range stamps {
		if _, ok := braced(s); !ok {
			bad(NotifyBody, "service-control %s without %s", action, s)
			return
		}
	}
	p.respond(l, m, 200, "OK", "")
	config, _ := braced("ConfigVersionStamp")
	p.mu.Lock()
	p.services++
	p.changedLocked()
	p.mu.Unlock()
	p.event(StepSIP, "service control: "+action, nil)
	why := reason{}
	switch {
	case action == "restart":
		why = reasonRestart
	case action == "reset":
		why = reasonReset
	case (action == "check-version" || action == "apply-config") && config != c.VersionStamp:
		why = reasonStamp
	}
	if why.number == 0 || p.opt.StayDown {
		return
	}
	p.tasks.Go("phone restart", func(ctx context.Context) { p.restart(ctx, why) })
}

// ServiceControls counts the service-control notices that were obeyed.
func (p *Phone) ServiceControls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.services
}

// restart waits until no call is left, says goodbye, reads the files again and comes back.
func (p *Phone) restart(ctx context.Context, why reason) {
	err := p.Wait(ctx, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.calls) == 0
	})
	if err != nil {
		return
	}
	_ = p.unregister(ctx, why)
	if err := p.Boot(ctx); err != nil {
		p.event(StepFile, "restart", err)
		return
	}
	if err := p.register(ctx, why); err != nil {
		p.event(StepRegister, "restart", err)
	}
}
