package phone

import "fmt"

// serve handles a request of the server, in the reader's goroutine and so in order.
func (p *Phone) serve(l *link, m *message) {
	if m.method == "ACK" {
		p.serveAck(m)
		return
	}
	if status, text, r := p.target(l, m); r != nil {
		p.refused(StepSIP, r)
		p.respond(l, m, status, text, r.Text)
		return
	}
	if m.method == "CANCEL" {
		p.serveCancel(l, m)
		return
	}
	if nameAddrOf(m.get("To")).param("tag") != "" {
		if c := p.callOf(m); c != nil {
			c.serveInDialog(l, m)
			return
		}
		if m.method == "NOTIFY" && (p.serveKeyReport(l, m) || p.historyNotice(l, m)) {
			return
		}
		if m.method != "NOTIFY" {
			p.refused(StepSIP, refuse(DialogUnknown, nil, "%s in a dialog that the phone does not have", m.method))
			p.respond(l, m, 481, "Call Leg/Transaction Does Not Exist", "")
			return
		}
	}
	switch m.method {
	case "INVITE":
		p.serveInvite(l, m)
	case "REFER":
		p.serveRefer(l, m)
	case "NOTIFY":
		p.serveNotify(l, m)
	case "OPTIONS":
		p.respond(l, m, 200, "OK", "")
	default:
		p.remark("%s outside a dialog", clip(m.method))
		res := m.answer(501, "Not Implemented", "")
		_ = l.send(res)
	}
}

// target checks the Request-URI: the user must be a line's name or contact, else 404; on strict models host and port must
// be those that the phone advertises, else 400 (overview §3).
func (p *Phone) target(l *link, m *message) (status int, text string, r *Refusal) {
	u, err := sipURIOf(m.uri)
	if err != nil {
		return 400, "Bad Request", refuse(RequestURI, err, "%s", m.method)
	}
	p.mu.Lock()
	known := false
	for _, line := range p.config.Lines {
		known = known || u.user == line.Name || u.user == line.contactUser()
	}
	p.mu.Unlock()
	switch {
	case !known:
		return 404, "Not Found", refuse(RequestURI, nil, "%s: unknown address in Request-URI %s", m.method, clip(m.uri))
	case p.man.strict && (u.host != l.local.Addr().String() || u.port != int(l.local.Port())):
		return 400, "Bad Request", refuse(RequestURI, nil, "%s: Request-URI %s is not the phone's own %s", m.method, clip(m.uri), l.local)
	}
	return 0, "", nil
}

// respond answers a request outside of dialogs. Phones add no To tag to the answers to unsolicited requests (state §1).
func (p *Phone) respond(l *link, m *message, status int, text, warning string) {
	res := m.answer(status, text, "")
	res.add("Server", "%s", p.man.agent)
	if warning != "" {
		res.add("Warning", "399 %s %s", l.local.Addr(), quote(warning))
	}
	if err := l.send(res); err != nil {
		p.log.Debug("answer not sent", "err", fmt.Errorf("%d to %s: %w", status, m.method, err))
	}
}
