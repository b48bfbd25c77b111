package phone

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// hook tells the server that a line is off-hook without a call yet, or no longer (state §3).
func (p *Phone) hook(ctx context.Context, line Line, up bool) error {
	p.mu.Lock()
	l, ok := p.link, p.reg.registered && p.reg.hook
	p.hookSeq++
	seq := p.hookSeq
	p.mu.Unlock()
	if l == nil || !ok {
		return nil
	}
	user := line.Name
	if p.man.oneChar && user != "" {
		user = user[:1]
	}
	server := l.remote.Addr()
	state := "terminated"
	if up {
		state = "trying"
	}
	m := &message{method: "NOTIFY", uri: fmt.Sprintf("sip:%s@%s", user, server)}
	m.add("To", "<sip:%s@%s>", user, server)
	m.add("From", "<sip:%s@%s>;tag=%s", user, server, p.tag())
	m.add("Call-ID", "%s-%s@%s", hexString(4), hexString(4), l.local.Addr())
	m.add("Date", "%s", dateNow())
	m.add("CSeq", "%d NOTIFY", seq)
	m.add("Event", "dialog")
	m.add("Subscription-State", "active")
	m.add("Max-Forwards", "70")
	m.add("Contact", "<%s>", l.contactURI(line))
	m.add("Allow", "ACK,BYE,CANCEL,INVITE,NOTIFY,OPTIONS,REFER,REGISTER,UPDATE,SUBSCRIBE")
	m.add("Content-Disposition", "session;handling=required")
	m.with(typeDialog, fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>
<dialog-info xmlns="urn:ietf:params:xml:ns:dialog-info" version="1" state="partial" entity="sip:%s@%s">
<dialog id="%s">
<state>%s</state>
</dialog>
</dialog-info>
`, line.Name, server, line.Name, state))
	res, err := l.roundTrip(ctx, m)
	if err != nil {
		return err
	}
	if res.status != 200 {
		p.remark("off-hook NOTIFY answered %d", res.status)
		return fmt.Errorf("off-hook: %d %s", res.status, res.reason)
	}
	return nil
}

// OffHook lifts the handset on a line without dialling; OnHook puts it back.
func (p *Phone) OffHook(ctx context.Context, index int) error { return p.lift(ctx, index, true) }

// OnHook puts the handset back.
func (p *Phone) OnHook(ctx context.Context, index int) error { return p.lift(ctx, index, false) }

func (p *Phone) lift(ctx context.Context, index int, up bool) error {
	p.mu.Lock()
	conf, ok := p.config, p.reg.registered && p.reg.hook
	p.mu.Unlock()
	if !ok {
		return errors.New("off-hook: hook status was not agreed")
	}
	for _, l := range conf.Lines {
		if l.Index == index {
			return p.hook(ctx, l, up)
		}
	}
	return fmt.Errorf("off-hook: no line %d", index)
}

// SetDND publishes do-not-disturb (state §4.1): each time a new Call-ID, with SIP-If-Match once a tag is known. The server
// echoes nothing, so the phone shows what it has published.
func (p *Phone) SetDND(ctx context.Context, on bool) error {
	p.mu.Lock()
	l, conf, ok := p.link, p.config, p.reg.registered
	tag := p.pubTag
	p.mu.Unlock()
	if l == nil || !ok {
		return errors.New("dnd: not registered")
	}
	mac := strings.ToUpper(p.mac)
	server := l.member.Host
	from, callID := p.tag(), p.callID(l.local.Addr().String())
	activity := "<ce:available/>"
	if on {
		activity = "<ce:dnd/>"
	}
	build := func(cseq int, auth string) *message {
		m := &message{method: "PUBLISH", uri: fmt.Sprintf("sip:%s@%s", mac, server)}
		m.add("To", "<sip:%s@%s>", mac, server)
		m.add("From", "<sip:%s@%s>;tag=%s", mac, server, from)
		m.add("Call-ID", "%s", callID)
		m.add("Contact", "<sip:%s@%s>", p.mac, l.local)
		m.add("CSeq", "%d PUBLISH", cseq)
		m.add("User-Agent", "%s", p.man.agent)
		m.add("Event", "presence")
		m.add("Expires", "2147483647")
		m.add("Max-Forwards", "70")
		if tag != "" {
			m.add("SIP-If-Match", "%s", tag)
		}
		if auth != "" {
			m.add("Authorization", "%s", auth)
		}
		return m.with(typePIDF, fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>
<presence xmlns="urn:ietf:params:xml:ns:pidf" xmlns:dm="urn:ietf:params:xml:ns:pidf:data-model" xmlns:e="urn:ietf:params:xml:ns:pidf:status:rpid" xmlns:ce="urn:cisco:params:xml:ns:pidf:rpid" entity="sip:%s@%s">
<dm:person>
<e:activities>
%s
</e:activities>
</dm:person>
<tuple id="1"><status><basic>open</basic></status></tuple>
</presence>
`, mac, server, activity))
	}
	res, err := l.exchange(ctx, conf, build, func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.pubSeq++
		return p.pubSeq
	})
	if err != nil {
		return fmt.Errorf("dnd: %w", err)
	}
	p.mu.Lock()
	p.pubTag = ""
	if res.status == 200 {
		p.pubTag = res.get("SIP-ETag")
		p.display.dnd = on
		p.changedLocked()
	}
	p.mu.Unlock()
	switch {
	case res.status == 200:
		return nil
	case res.status == 412 && tag != "":
		// state §4.1: above 299 the tag is forgotten; 412 says that the server has started anew.
		return p.SetDND(ctx, on)
	}
	return fmt.Errorf("dnd: %d %s", res.status, res.reason)
}

// HLog presses the HLog key (overview §6.4). The server answers with an hlogupdate.
func (p *Phone) HLog(ctx context.Context) error { return p.SoftKey(ctx, "HLog", nil, nil) }

// SoftKey presses a soft key, about a call and a consultation or about the phone (both nil), and forgets about it.
func (p *Phone) SoftKey(ctx context.Context, name string, call, consult *Call) error {
	_, err := p.Press(ctx, name, call, consult)
	return err
}

// referOut is a REFER of remote call control that the phone sends. The From user is the MAC for the phone as a whole and the
// line's name for calls.
type referOut struct {
	callID, tag       string
	line              int // index; 0 is the phone
	silent            bool
	contentType, body string
}

func (p *Phone) referOut(ctx context.Context, r referOut, final ...func(*message)) (*message, error) {
	p.mu.Lock()
	l, conf, ok := p.link, p.config, p.reg.registered
	p.mu.Unlock()
	if l == nil || !ok {
		return nil, errors.New("not registered")
	}
	line, user := conf.Lines[0], strings.ToUpper(p.mac)
	for _, x := range conf.Lines {
		if x.Index == r.line {
			line, user = x, x.Name
		}
	}
	cid := hexString(4) + "@" + l.local.Addr().String()
	m := &message{method: "REFER", uri: fmt.Sprintf("sip:%s@%s", line.Name, l.member.Host)}
	m.add("From", "<sip:%s@%s>;tag=%s", user, l.member.Host, r.tag)
	m.add("To", "<sip:%s@%s>", line.Name, l.member.Host)
	m.add("Call-ID", "%s", r.callID)
	m.add("CSeq", "1000 REFER")
	m.add("User-Agent", "%s", p.man.agent)
	m.add("Accept", "%s", typeResponse)
	m.add("Expires", "60")
	m.add("Max-Forwards", "70")
	m.add("Contact", "<%s>", l.contactURI(line))
	if r.silent {
		m.add("Require", "norefersub")
	}
	m.add("Referred-By", "%s <sip:%s@%s>", quote(line.shown()), line.Name, l.member.Host)
	m.add("Refer-To", "cid:%s", cid)
	m.add("Content-Id", "<%s>", cid)
	m.add("Content-Disposition", "session;handling=required")
	m.with(r.contentType, r.body)
	return l.roundTrip(ctx, m, final...)
}

// softKey sends the event of a key.
func (p *Phone) softKey(ctx context.Context, k *Press, call, consult *Call) error {
	line := 0
	if call != nil {
		line = call.line.Index
	}
	dialog := func(tag string, c *Call) string {
		id := dialogID{}
		if c != nil {
			p.mu.Lock()
			id = dialogID{c.callID, c.localTag, c.remoteTag}
			p.mu.Unlock()
		}
		return fmt.Sprintf("<%s><callid>%s</callid><localtag>%s</localtag><remotetag>%s</remotetag></%s>",
			tag, id.callID, id.localTag, id.remoteTag, tag)
	}
	res, err := p.referOut(ctx, referOut{
		callID: k.callID, tag: k.localTag, line: line, silent: k.silent, contentType: typeRequest,
		body: strings.ReplaceAll(fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>
<x-cisco-remotecc-request>
  <softkeyeventmsg>
    <softkeyevent>%s</softkeyevent>
    %s
    <linenumber>0</linenumber>
    <participantnum>0</participantnum>
    %s
    <state>false</state>
    <joindialogid><callid></callid><localtag></localtag><remotetag></remotetag></joindialogid>
    <eventdata><invocationtype>explicit</invocationtype></eventdata>
    <userdata></userdata><softkeyid>0</softkeyid><applicationid>0</applicationid>
  </softkeyeventmsg>
</x-cisco-remotecc-request>
`, k.name, dialog("dialogid", call), dialog("consultdialogid", consult)), "\n", "\r\n"),
	}, func(res *message) {
		p.mu.Lock()
		k.remoteTag = nameAddrOf(res.get("To")).param("tag")
		p.mu.Unlock()
	})
	if err != nil {
		return fmt.Errorf("%s: %w", k.name, err)
	}
	if res.status != 202 {
		return fmt.Errorf("%s: %d %s (the key is not active)", k.name, res.status, res.reason)
	}
	return nil
}

// SetForward calls the service that sets forward all of a line to a number, or clears it with an empty one (state §5). The
// lamp follows only with the server's cfwdallupdate; wait for Forward.
func (p *Phone) SetForward(ctx context.Context, index int, number string) error {
	p.mu.Lock()
	conf := p.config
	p.mu.Unlock()
	if conf == nil {
		return errors.New("forward: no configuration")
	}
	user := conf.Forward
	if number != "" {
		user += "-" + number
	}
	c, err := p.CallFrom(ctx, index, user)
	if err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	if err := c.WaitState(ctx, Ended); err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	if code := c.Code(); code != 0 {
		return fmt.Errorf("forward: not allowed (%s)", c.Reason())
	}
	return nil
}
