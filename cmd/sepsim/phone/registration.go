package phone

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// registration is the one registration of the device: line 1 registers, the server brings the others along (overview §1).
//
//	idle ── Register ──► registering ── 200 ──► registered ── granted−delta ──► refresh ──► registered
//	                        │ 4xx…6xx                │ Unregister, connection lost
//	                        ▼                        ▼
//	                       idle ◄────────────────────┘
type registration struct {
	registered bool
	callID     string
	fromTag    string
	cseq       int
	contact    string // Contact URI, letter by letter
	granted    time.Duration
	refreshIn  time.Duration // granted less timerRegisterDelta
	timer      *time.Timer

	sis      string // version of the server; 1.0.0 when it says none, which switches features off
	fallback bool   // server echoed X-cisco-srtp-fallback
	blf      bool   // optionsind selected unsolicited presence
	hook     bool   // … and hook status
	bulk     bool   // bulkupdate has arrived
	date     time.Time
}

// reason is why the phone registers or unregisters (registration §8).
type reason struct {
	number int
	last   string
}

var (
	reasonInitialized = reason{25, "initialized"}
	reasonClosed      = reason{14, "cm-closed-tcp"}
	reasonFallback    = reason{18, "fallback"}
	reasonKeypad      = reason{20, "phone-keypad"}
	reasonReset       = reason{22, "reset-reset"}
	reasonRestart     = reason{23, "reset-restart"}
	reasonStamp       = reason{100, "version-stamp-mismatch"}
)

func (p *Phone) reasonHeader(r reason) string {
	loads := fmt.Sprintf("ActiveLoad=%s.loads InactiveLoad=%s.loads", p.man.load, p.man.load)
	if p.man.oneLoad {
		loads = fmt.Sprintf("Load=%s.loads", p.man.load)
	}
	return fmt.Sprintf(`SIP;cause=200;text="cisco-alarm:%d Name=%s %s Last=%s"`, r.number, p.opt.Device, loads, r.last)
}

func (p *Phone) supported() string {
	return "replaces,join,sdp-anat,norefersub,resource-priority,extended-refer,X-cisco-callinfo,X-cisco-serviceuri," +
		"X-cisco-escapecodes,X-cisco-service-control,X-cisco-srtp-fallback,X-cisco-monrec,X-cisco-config,X-cisco-sis-" +
		p.man.sis + ",X-cisco-xsi-8.5.1"
}

const registerBody = "--uniqueBoundary\r\n" +
	"Content-Type: application/x-cisco-remotecc-request+xml\r\n" +
	"Content-Disposition: session;handling=optional\r\n\r\n" +
	`<?xml version="1.0" encoding="UTF-8"?>` + "\r\n" +
	"<x-cisco-remotecc-request>\r\n<bulkregisterreq>\r\n<contact all=\"true\">\r\n<register></register>\r\n</contact>\r\n" +
	"</bulkregisterreq>\r\n</x-cisco-remotecc-request>\r\n" +
	"--uniqueBoundary\r\n" +
	"Content-Type: application/x-cisco-remotecc-request+xml\r\n" +
	"Content-Disposition: session;handling=optional\r\n\r\n" +
	`<?xml version="1.0" encoding="UTF-8"?>` + "\r\n" +
	"<x-cisco-remotecc-request>\r\n<optionsind>\r\n<combine max=\"6\">\r\n<remotecc><status></status></remotecc>\r\n" +
	"<service-control></service-control>\r\n</combine>\r\n" +
	"<dialog usage=\"hook status\"><unot></unot><sub></sub></dialog>\r\n" +
	"<dialog usage=\"shared line\"><unot></unot><sub></sub></dialog>\r\n" +
	"<presence usage=\"blf speed dial\"><unot></unot><sub></sub></presence>\r\n" +
	"<joinreq></joinreq>\r\n<cfwdall-anyline></cfwdall-anyline>\r\n" +
	"</optionsind>\r\n</x-cisco-remotecc-request>\r\n--uniqueBoundary--\r\n"

// maxCombine is the combine max that the phone announces above.
const maxCombine = 6

func (p *Phone) contactParams() string {
	return fmt.Sprintf(`;+sip.instance="<urn:uuid:00000000-0000-0000-0000-%s>";+u.sip!devicename.ccm.cisco.com="%s";+u.sip!model.ccm.cisco.com="%s"`,
		p.mac, p.opt.Device, p.man.typeID)
}

// contactUser is the user part that a line advertises: <contact>, else its name (overview §3).
func (l Line) contactUser() string {
	if l.Contact != "" {
		return l.Contact
	}
	return l.Name
}

func (l *link) contactURI(line Line) string {
	return fmt.Sprintf("sip:%s@%s;transport=%s", line.contactUser(), l.local, l.transport())
}

// Register connects to the first member that can be reached and registers line 1. The answer is checked; the server's
// initial burst arrives later (WaitReady).
func (p *Phone) Register(ctx context.Context) error { return p.register(ctx, reasonInitialized) }

func (p *Phone) register(ctx context.Context, why reason) error {
	p.mu.Lock()
	c, old := p.config, p.link
	p.link = nil
	p.mu.Unlock()
	if c == nil {
		return errors.New("register: no configuration")
	}
	if old != nil {
		old.close(errors.New("registering anew"))
	}
	var errs []error
	for _, m := range c.Members {
		l, err := p.connect(ctx, c, m)
		if err != nil {
			p.event(StepRegister, fmt.Sprintf("call server %s", m.Host), err)
			errs = append(errs, err)
			if ctx.Err() != nil {
				break
			}
			continue
		}
		p.mu.Lock()
		p.link = l
		p.reg = registration{
			callID: "", fromTag: p.tag(), cseq: 100, contact: l.contactURI(c.Lines[0]),
			sis: "1.0.0",
		}
		p.display.reset(c)
		p.mu.Unlock()
		id := p.callID(l.local.Addr().String())
		p.mu.Lock()
		p.reg.callID = id
		p.mu.Unlock()
		p.tasks.Go("phone link", l.run, func(err error) {
			if err != nil {
				l.close(err)
			}
		})
		p.alarm(l, c)
		if err = p.sendRegister(ctx, l, c, why, c.RegisterExpires); err != nil {
			l.close(err)
			// A rejection never causes fail-over; only silence and a lost connection do (registration §4).
			if RefusedAs(err, RegisterDenied) || RefusedAs(err, RegisterAnswer) || RefusedAs(err, ChallengeAgain) {
				return err
			}
			errs = append(errs, err)
			continue
		}
		if len(c.Members) > 1 && !p.opt.StayDown {
			p.tasks.Go("phone standby", func(ctx context.Context) { p.watchMembers(ctx, l, c) })
		}
		return nil
	}
	return fmt.Errorf("register: %w", errors.Join(errs...))
}

// sendRegister registers (why set: with Reason and body), refreshes (why zero) or unregisters (expires 0).
func (p *Phone) sendRegister(ctx context.Context, l *link, c *Config, why reason, expires int) error {
	line := c.Lines[0]
	p.mu.Lock()
	callID, fromTag, contact := p.reg.callID, p.reg.fromTag, p.reg.contact
	p.mu.Unlock()
	host := l.member.Host
	first := why.number != 0 && expires > 0
	build := func(cseq int, auth string) *message {
		m := &message{method: "REGISTER", uri: "sip:" + host}
		m.add("From", "<sip:%s@%s>;tag=%s", line.Name, host, fromTag)
		m.add("To", "<sip:%s@%s>", line.Name, host)
		m.add("Call-ID", "%s", callID)
		m.add("Max-Forwards", "70")
		m.add("Date", "%s", dateNow())
		m.add("CSeq", "%d REGISTER", cseq)
		m.add("User-Agent", "%s", p.man.agent)
		m.add("Contact", "<%s>%s", contact, p.contactParams())
		m.add("Supported", "%s", p.supported())
		if why.number != 0 {
			m.add("Reason", "%s", p.reasonHeader(why))
		}
		m.add("Expires", "%d", expires)
		if auth != "" {
			m.add("Authorization", "%s", auth)
		}
		if first {
			m.add("Mime-Version", "1.0")
			m.with("multipart/mixed;boundary=uniqueBoundary", registerBody)
		}
		return m
	}
	res, err := l.exchange(ctx, c, build, func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.reg.cseq++
		return p.reg.cseq
	}, func(res *message) {
		if res.status == 200 && expires > 0 {
			p.applyRegister(res, first)
		}
	})
	if err != nil {
		p.event(StepRegister, "REGISTER", err)
		return err
	}
	if res.status != 200 {
		text := fmt.Sprintf("%d %s", res.status, res.reason)
		if w := res.get("Warning"); w != "" {
			text += " (" + w + ")"
		}
		return p.refused(StepRegister, refuse(RegisterDenied, nil, "registration rejected: %s", text))
	}
	if expires == 0 {
		p.mu.Lock()
		p.endRegistrationLocked()
		p.mu.Unlock()
		p.event(StepRegister, "unregistered: "+why.last, nil)
		return nil
	}
	return p.registerAnswer(ctx, l, c, res, first)
}

// applyRegister takes from a 200 what decides how everything after it is understood. It runs in the reader's goroutine: the
// burst may stand right behind the 200.
func (p *Phone) applyRegister(res *message, first bool) {
	opt, err := optionsOf(res)
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &p.reg
	r.registered = true
	for _, v := range res.list("Supported") {
		if s, ok := strings.CutPrefix(v, "X-cisco-sis-"); ok {
			r.sis = s
		}
	}
	r.fallback = res.token("Supported", "X-cisco-srtp-fallback")
	if first && err == nil {
		r.blf, r.hook = opt.blf, opt.hook
	}
	p.changedLocked()
}

// registerAnswer checks a 200 to REGISTER (registration §3) and arms the refresh.
func (p *Phone) registerAnswer(ctx context.Context, l *link, c *Config, res *message, first bool) error {
	p.mu.Lock()
	contact := p.reg.contact
	p.mu.Unlock()
	granted, found := -1, false
	for _, v := range res.list("Contact") {
		a := nameAddrOf(v)
		if a.uri == contact {
			found = true
			if n, err := strconv.Atoi(a.param("expires")); err == nil {
				granted = n
			}
		}
	}
	if !found {
		p.remark("200 to REGISTER does not list the phone's Contact")
	}
	if granted < 0 {
		if n, err := strconv.Atoi(strings.TrimSpace(res.get("Expires"))); err == nil {
			granted = n
		}
	}
	if granted-c.RegisterDelta < 20 {
		r := p.refused(StepRegister, refuse(RegisterAnswer, nil, "%d s granted: too short to refresh", granted))
		_ = p.sendRegister(ctx, l, c, reasonKeypad, 0)
		return r
	}
	date, err := time.Parse(dateLayout, res.get("Date"))
	if err != nil {
		p.remark("200 to REGISTER without a Date that sets the clock")
	}
	opt, err := optionsOf(res)
	if err != nil {
		return p.refused(StepRegister, refuse(RegisterAnswer, err, "optionsind"))
	}
	p.mu.Lock()
	r := &p.reg
	r.granted, r.date = time.Duration(granted)*time.Second, date
	if r.timer != nil {
		r.timer.Stop()
	}
	r.refreshIn = r.granted - time.Duration(c.RegisterDelta)*time.Second
	r.timer = time.AfterFunc(r.refreshIn, func() {
		p.tasks.Go("phone refresh", func(ctx context.Context) { p.refresh(ctx, l, c) })
	})
	sis := r.sis
	p.changedLocked()
	p.mu.Unlock()
	if !first {
		p.event(StepRegister, fmt.Sprintf("registration refreshed for %d s", granted), nil)
		return nil
	}
	if sis == "1.0.0" {
		p.remark("200 to REGISTER names no X-cisco-sis version: features are off")
	}
	text := fmt.Sprintf("%s registered at %s by %s for %d s", c.Lines[0].Name, l.remote, strings.ToUpper(l.transport()), granted)
	if !opt.blf {
		text += ", lamps off (no optionsind)"
	}
	p.event(StepRegister, text, nil)
	return nil
}

// options are what the server selected in its optionsind.
type options struct {
	blf, hook bool
}

func optionsOf(res *message) (options, error) {
	var o options
	if len(res.body) == 0 {
		return o, nil
	}
	parts, err := partsOf(res)
	if err != nil {
		return o, err
	}
	for _, part := range parts {
		if part.kind != typeResponse {
			continue
		}
		root, err := parseXML(part.body)
		if err != nil {
			return o, err
		}
		ind := root.at("response/optionsind")
		for _, e := range ind.all("presence") {
			o.blf = o.blf || e.attrs["usage"] == "blf speed dial" && e.child("unot") != nil
		}
		for _, e := range ind.all("dialog") {
			o.hook = o.hook || e.attrs["usage"] == "hook status" && e.child("unot") != nil
		}
	}
	return o, nil
}

// refresh renews the registration. A rejection ends it; silence and a lost connection end the link, which starts it anew.
func (p *Phone) refresh(ctx context.Context, l *link, c *Config) {
	err := p.sendRegister(ctx, l, c, reason{}, c.RegisterExpires)
	switch {
	case err == nil, ctx.Err() != nil:
	case errors.Is(err, errNoAnswer):
		l.close(err)
	default:
		p.mu.Lock()
		p.endRegistrationLocked()
		p.mu.Unlock()
	}
}

// Refresh renews the registration now instead of when it is due.
func (p *Phone) Refresh(ctx context.Context) error {
	p.mu.Lock()
	l, c := p.link, p.config
	p.mu.Unlock()
	if l == nil {
		return errors.New("refresh: not registered")
	}
	return p.sendRegister(ctx, l, c, reason{}, c.RegisterExpires)
}

// Unregister says goodbye to the call server and closes the connection.
func (p *Phone) Unregister(ctx context.Context) error { return p.unregister(ctx, reasonKeypad) }

func (p *Phone) unregister(ctx context.Context, why reason) error {
	p.mu.Lock()
	l, c := p.link, p.config
	p.mu.Unlock()
	if l == nil {
		return nil
	}
	err := p.sendRegister(ctx, l, c, why, 0)
	p.mu.Lock()
	if p.link == l {
		p.link = nil
	}
	p.mu.Unlock()
	l.close(errors.New("unregistered"))
	return err
}

func (p *Phone) endRegistrationLocked() {
	if p.reg.timer != nil {
		p.reg.timer.Stop()
	}
	p.reg.registered, p.reg.bulk = false, false
	p.changedLocked()
}

// linkLost is told when a link has ended. A phone that was registered comes back by itself.
func (p *Phone) linkLost(l *link, err error) {
	p.mu.Lock()
	if p.link != l {
		p.mu.Unlock()
		return
	}
	p.link = nil
	was := p.reg.registered
	p.endRegistrationLocked()
	p.mu.Unlock()
	if !was {
		return
	}
	p.event(StepRegister, "connection to the call server lost", err)
	if p.opt.StayDown {
		return
	}
	p.tasks.Go("phone reconnect", func(ctx context.Context) {
		wait := p.opt.Timers.KeepRetry
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			if p.Registered() || p.register(ctx, reasonClosed) == nil {
				return
			}
			wait = min(2*wait, 30*time.Second)
		}
	})
}

// Registered says whether the phone has a registration in force.
func (p *Phone) Registered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reg.registered
}

// RegisterCallID is the Call-ID of the registration, the key of service control.
func (p *Phone) RegisterCallID() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reg.callID
}

// Contact is the Contact URI that the phone advertises for line 1.
func (p *Phone) Contact() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reg.contact
}

// Granted is how long the registration was granted for.
func (p *Phone) Granted() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reg.granted
}

// WaitReady waits for the server's initial burst: bulkupdate, and a notice for each lamp key.
func (p *Phone) WaitReady(ctx context.Context) error {
	return p.Wait(ctx, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.reg.registered || !p.reg.bulk {
			return false
		}
		if !p.reg.blf {
			return true
		}
		for _, k := range p.config.Keys {
			if k.Feature == 21 && p.display.lamps[k.Number] == "" {
				return false
			}
		}
		return true
	})
}

// alarm tells the server about the trust list (registration §9). It needs no digest and is answered 202.
func (p *Phone) alarm(l *link, c *Config) {
	host := l.local.Addr().String()
	line := c.Lines[0]
	sig := "Not Installed"
	if list := p.TrustList(); list != nil {
		sig = fmt.Sprintf("%x", list.Serial)
		sig = sig[:min(len(sig), 12)]
	}
	cid := hexString(4) + "@" + host
	m := &message{method: "REFER", uri: "sip:" + l.member.Host}
	m.add("From", `%s <sip:%s@%s>;tag=%s`, quote(line.Name), line.Name, host, p.tag())
	m.add("To", "<sip:%s>", l.member.Host)
	m.add("Call-ID", "%s", p.callID(host))
	m.add("CSeq", "1000 REFER")
	m.add("User-Agent", "%s", p.man.agent)
	m.add("Expires", "10")
	m.add("Max-Forwards", "70")
	m.add("Contact", "<%s>", l.contactURI(line))
	m.add("Require", "norefersub")
	m.add("Referred-By", `%s <sip:%s@%s>`, quote(line.Name), line.Name, host)
	m.add("Refer-To", "cid:%s", cid)
	m.add("Content-Id", "<%s>", cid)
	m.add("Content-Disposition", "session;handling=required")
	m.with("application/x-cisco-alarm+xml", strings.ReplaceAll(fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>
<x-cisco-alarm>
<Alarm Name="DeviceTLInfo">
<ParameterList>
<String name="DeviceName">%s</String>
<String name="IPv4Address">%s</String>
<String name="IPv6Address"></String>
<String name="CTL_Signature">Not Installed</String>
<String name="CTL_TFTP_Server">N/A</String>
<String name="ITL_Signature">%s</String>
<String name="ITL_TFTP_Server">%s</String>
<Enum name="StatusCode">1</Enum>
</ParameterList>
</Alarm>
</x-cisco-alarm>
`, p.opt.Device, host, sig, p.opt.Server), "\n", "\r\n"))
	_ = l.start(m, func(res *message, err error) {
		if err == nil && res.status >= 200 && res.status != 202 {
			p.remark("alarm answered %d, not 202", res.status)
		}
	})
}
