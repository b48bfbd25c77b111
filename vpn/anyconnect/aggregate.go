package anyconnect

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"strings"

	"ringfence/vpn/policy"
	"ringfence/vpn/session"
)

// xmlHead begins each document.
const xmlHead = `<?xml version="1.0" encoding="UTF-8"?>` + "\n"

// configAuth is what clients post in aggregate authentication (§3).
//
//	<config-auth client="vpn" type="init">       version, device-id, group-access, group-select?, client-cert-fail?, capabilities?
//	<config-auth client="vpn" type="auth-reply"> opaque?, session-token?, group-select?, auth(username, password, ...)
//	<config-auth client="vpn" type="logout">     session-token
type configAuth struct {
	XMLName      xml.Name  `xml:"config-auth"`
	Client       string    `xml:"client,attr"`
	Type         string    `xml:"type,attr"`
	DeviceID     deviceID  `xml:"device-id"`
	GroupAccess  string    `xml:"group-access"`
	GroupSelect  string    `xml:"group-select"`
	CertFail     *struct{} `xml:"client-cert-fail"`
	AuthMethods  []string  `xml:"capabilities>auth-method"`
	State        string    `xml:"opaque>state"`
	SessionToken string    `xml:"session-token"`
	Auth         struct {
		Fields []field `xml:",any"`
	} `xml:"auth"`
}

type deviceID struct {
	Platform string `xml:",chardata"`
	Computer string `xml:"computer-name,attr"`
	Unique   string `xml:"unique-id,attr"`
}

// field is one input of a form: an element named after it.
type field struct {
	XMLName xml.Name
	Value   string `xml:",chardata"`
}

// parseConfigAuth reads a posted document. Its size is bounded by the request's.
func parseConfigAuth(b []byte) (*configAuth, error) {
	var m configAuth
	d := xml.NewDecoder(strings.NewReader(string(b)))
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("config-auth: %w", err)
	}
	return &m, nil
}

// field returns the first input of one of these names.
func (m *configAuth) field(names ...string) (string, bool) {
	for _, n := range names {
		for _, f := range m.Auth.Fields {
			if f.XMLName.Local == n {
				return f.Value, true
			}
		}
	}
	return "", false
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder takes everything
	return b.String()
}

// xmlAnswer wraps a config-auth document.
func xmlAnswer(doc string, headers ...string) answer {
	return answer{status: "200 OK", kind: "text/xml; charset=utf-8", headers: headers, body: xmlHead + doc}
}

// aggregate serves one post of aggregate authentication.
func (c *conn) aggregate(ctx context.Context, m *message, group string) answer {
	msg, err := parseConfigAuth(m.body)
	if err != nil {
		return answer{status: "400 Bad Request", close: true}
	}
	if g := msg.GroupSelect; g != "" && group == "" {
		group = c.s.chosen(g)
	}
	k := credentials{group: group, agent: agent(m)}
	switch msg.Type {
	case "init":
		return c.aggregateInit(ctx, m, msg, k)
	case "auth-reply":
		return c.aggregateReply(ctx, m, msg, k)
	case "logout":
		if s, ok := c.s.o.Sessions.ByToken(msg.SessionToken); ok {
			c.s.o.Sessions.End(s, "logged out", session.Farewell{Final: true, Text: "logged out"})
		}
		return answer{status: "200 OK", headers: []string{cookieExpired}, close: true}
	}
	return answer{status: "400 Bad Request", close: true}
}

// aggregateInit lets a good certificate in at once, asks for one where nothing else will do, and else sends the form.
func (c *conn) aggregateInit(ctx context.Context, m *message, msg *configAuth, k credentials) answer {
	if id := c.certificate(); id.ok() {
		who, err := c.byCertificate(k)
		if err == nil {
			return c.complete(ctx, m, who)
		}
		if !errors.Is(err, errWrong) {
			return c.refused(k, err)
		}
	}
	if !c.s.takesPasswords(k.group) {
		if msg.CertFail == nil && c.certificate().err == nil {
			return xmlAnswer(`<config-auth client="vpn" type="auth-request" aggregate-auth-version="2"><client-cert-request/></config-auth>`)
		}
		return c.refused(k, fmt.Errorf("%w: a certificate is needed", errWrong))
	}
	st := c.s.states.create(c.peer.Addr(), k.group)
	return c.form(st, k.group, "")
}

// takesPasswords tells whether a password can help: in this group, or in any.
func (s *Server) takesPasswords(group string) bool {
	for _, p := range s.o.Sessions.Policies() {
		if p.Password && (group == "" || group == p.ID) {
			return true
		}
	}
	return false
}

// aggregateReply takes the filled form.
func (c *conn) aggregateReply(ctx context.Context, m *message, msg *configAuth, k credentials) answer {
	st := c.stateOf(m, msg)
	if st == nil { // a stranger, or a client that was too slow
		return c.form(c.s.states.create(c.peer.Addr(), k.group), k.group, "The log-in took too long, please try again.")
	}
	if g, ok := msg.field("group_list"); ok && k.group == "" {
		k.group = c.s.chosen(g)
	}
	if k.group == "" {
		k.group = st.group
	}
	if st.who.Name != "" {
		return c.secondFactor(ctx, m, msg, st, k)
	}
	k.user, _ = msg.field("username")
	k.password, k.given = msg.field("password", "passwd")
	if !k.given {
		return c.form(st, k.group, "")
	}
	who, err := c.byPassword(ctx, k)
	if err == nil && c.s.needsCode(who) {
		st.who, st.failed = who, 0
		c.s.states.store(st)
		return c.challenge(st, "")
	}
	if err == nil {
		c.s.states.drop(st)
		return c.complete(ctx, m, who)
	}
	if st.failed++; st.failed >= maxTries || errors.Is(err, errBusy) {
		c.s.states.drop(st)
		return c.refused(k, err)
	}
	c.s.states.store(st)
	c.refuse(k, err)
	return c.form(st, k.group, reason(err))
}

// secondFactor takes the one-time password of a user whose password was right.
func (c *conn) secondFactor(ctx context.Context, m *message, msg *configAuth, st *state, k credentials) answer {
	code, given := msg.field("secondary_password", "answer", "password")
	if !given {
		return c.challenge(st, "")
	}
	err := c.byCode(st.who, code)
	if err == nil {
		c.s.states.drop(st)
		return c.complete(ctx, m, st.who)
	}
	k.user = st.who.Name
	if st.failed++; st.failed >= maxTries {
		c.s.states.drop(st)
		return c.refused(k, err)
	}
	c.s.states.store(st)
	c.refuse(k, err)
	return c.challenge(st, reason(err))
}

// challenge asks for the one-time password. openconnect fills a field of this name in a form of this id by itself when it has
// the secret.
func (c *conn) challenge(st *state, problem string) answer {
	doc := fmt.Sprintf(`<config-auth client="vpn" type="auth-request" aggregate-auth-version="2"><opaque is-for="sg"><state>%s</state></opaque>`+
		`<auth id="challenge"><title>Login</title><message>Please enter the code that your authenticator shows.</message>`, st.id)
	if problem != "" {
		doc += fmt.Sprintf(`<error id="91" param1="%s" param2="">%%s</error>`, escape(problem))
	}
	doc += `<form method="post" action="/auth"><input type="password" name="secondary_password" label="Code:"/></form></auth></config-auth>`
	return xmlAnswer(doc, "Set-Cookie: webvpncontext="+st.id+"; Secure; HttpOnly")
}

// maxTries is how often the form comes again after a wrong password.
const maxTries = 3

// stateOf finds the conversation that a reply belongs to, by the cookie or by what the form carried.
func (c *conn) stateOf(m *message, msg *configAuth) *state {
	if st := c.s.states.find(msg.State, c.peer.Addr()); st != nil {
		return st
	}
	if k, err := m.Cookie("webvpncontext"); err == nil {
		return c.s.states.find(k.Value, c.peer.Addr())
	}
	return nil
}

// form asks for name and password. The chosen group stands first in the list, where several clients expect it.
func (c *conn) form(st *state, group, problem string) answer {
	var b strings.Builder
	fmt.Fprintf(&b, `<config-auth client="vpn" type="auth-request" aggregate-auth-version="2"><opaque is-for="sg"><state>%s</state></opaque>`, st.id)
	b.WriteString(`<auth id="main"><title>Login</title><message>Please enter your user name and password.</message>`)
	if problem != "" {
		fmt.Fprintf(&b, `<error id="91" param1="%s" param2="">%%s</error>`, escape(problem))
	}
	b.WriteString(`<form method="post" action="/auth">`)
	var list []*policy.Policy
	for _, p := range c.s.o.Sessions.Policies() {
		switch {
		case !p.Listed || !p.Password:
		case p.ID == group:
			list = append([]*policy.Policy{p}, list...)
		default:
			list = append(list, p)
		}
	}
	// A group that was asked for by its path and is not in the list stands alone: clients would take the first of the list instead.
	if asked := c.s.o.Sessions.Policy(group); asked != nil && !asked.Listed {
		list = nil
	}
	if len(list) > 0 {
		b.WriteString(`<select name="group_list" label="GROUP:">`)
		for _, p := range list {
			selected := ""
			if p.ID == group {
				selected = ` selected="true"`
			}
			fmt.Fprintf(&b, `<option value="%s"%s>%s</option>`, escape(p.ID), selected, escape(p.Name()))
		}
		b.WriteString(`</select>`)
	}
	b.WriteString(`<input type="text" name="username" label="Username:"/><input type="password" name="password" label="Password:"/></form></auth></config-auth>`)
	return xmlAnswer(b.String(), "Set-Cookie: webvpncontext="+st.id+"; Secure; HttpOnly")
}

// complete ends the conversation with the cookie. AnyConnect compares the hash of the certificate in it with the one it saw.
func (c *conn) complete(ctx context.Context, m *message, who session.Identity) answer {
	s, token, err := c.login(ctx, who)
	if err != nil {
		return c.refused(credentials{user: who.Name, agent: who.Agent}, err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<config-auth client="vpn" type="complete" aggregate-auth-version="2"><session-id>%s</session-id><session-token>%s</session-token>`, s.ID(), token)
	b.WriteString(`<auth id="success">`)
	if p := s.Policy(); p.Banner != "" {
		fmt.Fprintf(&b, `<banner>%s</banner>`, escape(p.Banner))
	}
	fmt.Fprintf(&b, `<message id="0" param1="" param2=""/></auth><config client="vpn" type="private"><vpn-base-config><server-cert-hash>%s</server-cert-hash></vpn-base-config></config></config-auth>`, c.leafHash())
	return xmlAnswer(b.String(),
		"Set-Cookie: webvpncontext=; expires=Thu, 01 Jan 1970 22:00:00 GMT; path=/; Secure",
		"Set-Cookie: webvpn="+token+"; Secure; HttpOnly",
		"Set-Cookie: webvpnc=; expires=Thu, 01 Jan 1970 22:00:00 GMT; path=/; Secure",
		"Set-Cookie: webvpnc=bu:/&p:t&iu:1/&sh:"+c.leafHash()+"; path=/; Secure")
}
