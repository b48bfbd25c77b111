package call

import (
	"strings"

	"github.com/emiago/sipgo/sip"

	"net/netip"

	"ringfence/sip/cisco"
	"ringfence/sip/dialog"
	"ringfence/sip/plan"
	"ringfence/sip/transaction"
)

// Identity is a party as another party's phone shows it.
type Identity struct {
	Name       string // may hold phrase escapes
	Number     string // "" for a name without a number, as of a conference
	Restricted bool   // the party withholds it
	CallBack   string // number that a phone keeps in its lists instead, "" is the one shown ("sip-calls" §24.3)
}

// identityOf is a line's identity. The plan's name counts, not what a phone writes in From.
func identityOf(l *plan.Line) Identity {
	return Identity{Name: l.Name, Number: l.Number, CallBack: l.CallBack}
}

// identity is the leg's own party as others show it.
func (l *Leg) identity() Identity {
	i := identityOf(l.Line)
	if l.Incoming {
		i.Restricted = withheld(l.invite.Request())
	}
	switch {
	case l.shows.Show:
		i.Restricted = false
	case l.shows.Hide:
		i.Restricted = true
	}
	return i
}

// present takes what a code or a rule says about how the party of the leg is shown.
func (l *Leg) present(a plan.Attributes) {
	if a.Hide || a.Show {
		l.shows = a
	}
}

// withheld tells whether a caller hides its number: by Privacy (RFC 3323), by its Remote-Party-ID, or by an anonymous From
// ("sip-calls" §24.4).
func withheld(req *sip.Request) bool {
	if p := dialog.List(req, "Privacy"); p["id"] || p["id;critical"] || p["user"] || p["full"] {
		return true
	}
	rpid := strings.ToLower(transaction.Header(req, "Remote-Party-ID"))
	if strings.Contains(rpid, "privacy=full") || strings.Contains(rpid, "privacy=uri") {
		return true
	}
	a := req.From().Address
	return strings.EqualFold(a.User, "anonymous") || strings.EqualFold(a.Host, "anonymous.invalid")
}

// remotePartyID writes the header in the form of "sip-calls" §2.1. party is calling on calls to the phone, called on answers
// to its own.
func (i Identity) remotePartyID(host netip.Addr, called bool) string {
	party, privacy, name, user := "calling", "off", i.Name, i.Number
	if called {
		party = "called"
	}
	if i.Restricted {
		// Neither name nor number leaves us: the header of another phone is no place to keep a secret.
		privacy, name, user = "full", "Anonymous", "anonymous"
	}
	var b strings.Builder
	if name != "" {
		b.WriteString(dialog.Quote(name) + " ")
	}
	b.WriteString("<" + uri(user, host))
	if i.CallBack != "" && i.CallBack != i.Number && !i.Restricted && !called {
		b.WriteString(";x-cisco-callback-number=" + escapeUser(i.CallBack))
	}
	b.WriteString(">;party=" + party + ";privacy=" + privacy + ";screen=yes")
	return b.String()
}

func uri(user string, host netip.Addr) string {
	h := host.String()
	if host.Is6() {
		h = "[" + h + "]"
	}
	if user == "" {
		return "sip:" + h
	}
	return "sip:" + escapeUser(user) + "@" + h
}

// escapeUser keeps a user part within the grammar of RFC 3261 §25.1.
func escapeUser(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', strings.IndexByte("-_.!~*'()&=+$,;?/", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	return b.String()
}

// diversionHeader writes one redirection (RFC 5806); Cisco phones also get privacy and screen ("sip-calls" §22.2).
func diversionHeader(v plan.Diversion, host netip.Addr, forCisco bool) sip.Header {
	text := ""
	if v.Name != "" {
		text = dialog.Quote(v.Name) + " "
	}
	text += "<" + uri(v.Line, host) + ">;reason=" + v.Reason
	if forCisco {
		text += ";privacy=off;screen=yes"
	}
	return sip.NewHeader("Diversion", text)
}

// methods that legs take.
const methods = "INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, SUBSCRIBE, NOTIFY, INFO, PUBLISH, MESSAGE, UPDATE, PRACK"

// display is what the phone is to show, as text to compare.
func (l *Leg) display() string {
	return l.peer.remotePartyID(l.host(), l.Incoming) + "\n" + l.callInfo().Marshal()
}

// callInfo is the header that every message with an identity carries ("sip-calls" §1.4): orientation is "to" for a call that
// the phone placed.
func (l *Leg) callInfo() *cisco.CallInfo {
	if l.spec.tap != nil {
		return l.spec.tap.callInfo()
	}
	orientation := "from"
	if l.Incoming {
		orientation = "to"
	}
	ci := &cisco.CallInfo{Feature: "callinfo", Params: []cisco.Param{
		{Name: "orientation", Value: orientation}, {Name: "security", Value: levelNames[l.security]},
	}}
	ci.Params = append(ci.Params, l.spec.callInfo...)
	return ci
}

// dress adds to a message of the dialog what its kind calls for: where to reach us, what we can, and who the other party is.
func (l *Leg) dress(m sip.Message) {
	method, final := m.CSeq().MethodName, true
	if res, ok := m.(*sip.Response); ok {
		if res.StatusCode == 100 || res.StatusCode >= 300 {
			l.supported(m)
			return
		}
		final = res.StatusCode >= 200
	}
	switch method {
	case sip.INVITE, sip.UPDATE, sip.REFER, sip.NOTIFY:
		m.AppendHeader(l.contact())
	}
	l.supported(m)
	if method != sip.INVITE && method != sip.UPDATE {
		return
	}
	if final {
		m.AppendHeader(sip.NewHeader("Allow", methods))
	}
	m.AppendHeader(sip.NewHeader("Remote-Party-ID", l.peer.remotePartyID(l.host(), l.Incoming)))
	if l.Cisco {
		m.AppendHeader(sip.NewHeader("Call-Info", l.callInfo().Marshal()))
	}
}

// supported announces what we can ("sip-calls" §1.5). The fall-back tag permits an answer in clear, so it is there only where
// the policy permits that.
func (l *Leg) supported(m sip.Message) {
	tags := "replaces,timer"
	if !l.Cisco && l.reliable() {
		tags += ",100rel"
	}
	if l.Cisco {
		if l.current().Secure() && l.m.opt.SRTP != RequireSRTP {
			tags += ",X-cisco-srtp-fallback"
		}
		tags += "," + cisco.SIS
	}
	m.AppendHeader(sip.NewHeader("Supported", tags))
}

// contact is where the phone reaches us: the address it is connected to.
func (l *Leg) contact() sip.Header {
	f := l.current()
	user := l.peer.Number
	if l.peer.Restricted || user == "" {
		user = l.Line.Number
	}
	local := f.Local()
	text := "<" + uri(user, l.host())
	if local.Port() != 0 {
		text += ":" + itoa(int(local.Port()))
	}
	if t := f.Transport(); t != "UDP" {
		text += ";transport=" + strings.ToLower(t)
	}
	return sip.NewHeader("Contact", text+">")
}

// Withheld tells whether the party of the leg hides its number.
func (l *Leg) Withheld() bool { return l.identity().Restricted }
