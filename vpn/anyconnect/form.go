package anyconnect

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"ringfence/vpn/session"
)

// groupOf is the policy that a login path names: none for / and /svc, where the identity's own is taken. ok is false for paths
// that are no login path.
func (s *Server) groupOf(path string) (id string, ok bool) {
	path = strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/")
	switch path {
	case "", "svc", "auth":
		return "", true
	}
	return path, s.o.Sessions.Policy(path) != nil
}

// route answers everything but CONNECT.
func (c *conn) route(ctx context.Context, m *message) answer {
	group, isLogin := c.s.groupOf(m.URL.Path)
	switch {
	case isLogin && (m.Method == http.MethodGet || m.Method == http.MethodHead):
		return c.formGet(ctx, m, group)
	case isLogin && m.Method == http.MethodPost && looksXML(m.body):
		return c.aggregate(ctx, m, group)
	case isLogin && m.Method == http.MethodPost:
		return c.formPost(ctx, m, group)
	case m.URL.Path == "/logout":
		return c.logout(m)
	case m.Method == http.MethodGet || m.Method == http.MethodHead || m.Method == http.MethodPost:
		return sidePath(m)
	}
	return answer{status: "405 Method Not Allowed", close: true}
}

// looksXML tells XML by its body: AnyConnect posts it with the content type of a form (§3).
func looksXML(b []byte) bool {
	return strings.HasPrefix(strings.TrimLeft(string(b[:min(len(b), 64)]), "\ufeff \t\r\n"), "<")
}

// Cookies of the form flow. A phone looks for a webvpn cookie that has an expiry date, and takes a non-empty webvpnlogin as
// the request for credentials (§4).
const (
	cookieExpired = "Set-Cookie: webvpn=; expires=Thu, 01 Jan 1970 22:00:00 GMT; path=/; secure"
	cookieLogin   = "Set-Cookie: webvpnlogin=1; secure"
)

// formGet is the first step of the form flow. A phone wants headers only; others get the bare form (§4.1), or are through when
// their certificate is enough.
func (c *conn) formGet(ctx context.Context, m *message, group string) answer {
	a := answer{status: "200 OK", headers: []string{cookieExpired, cookieLogin}}
	if isPhone(m) {
		return a
	}
	if c.certificate().ok() {
		if who, err := c.byCertificate(credentials{group: group, agent: agent(m)}); err == nil {
			return c.formDone(ctx, m, who)
		}
	}
	a.kind, a.body = "text/xml", bareForm(m.URL.EscapedPath(), "")
	return a
}

// formPost takes the credentials: fields in any order, or none at all from a client that trusts in its certificate.
func (c *conn) formPost(ctx context.Context, m *message, group string) answer {
	k := credentials{group: group, agent: agent(m)}
	fields, err := url.ParseQuery(strings.TrimSpace(string(m.body)))
	if err != nil {
		return answer{status: "400 Bad Request", close: true}
	}
	k.user, k.password = fields.Get("username"), fields.Get("password")
	k.given, k.code = fields.Has("password"), fields.Get("secondary_password")
	if g := fields.Get("group_list"); g != "" && group == "" {
		k.group = c.s.chosen(g)
	}
	var who session.Identity
	switch {
	case k.given && k.password != "":
		// There is no second round here: the code comes along, or the XML flow is used.
		if who, err = c.byPassword(ctx, k); err == nil && c.s.needsCode(who) {
			err = c.byCode(who, k.code)
		}
	case len(fields) == 0 || c.certificate().ok():
		who, err = c.byCertificate(k)
		if err != nil && c.certificate().err == nil && !c.certificate().ok() {
			return c.formGetAgain(m) // no certificate and no credentials: ask for them
		}
	default:
		return c.formGetAgain(m)
	}
	if err != nil {
		return c.refused(k, err)
	}
	return c.formDone(ctx, m, who)
}

// formGetAgain answers a post that lacks fields like the first step.
func (c *conn) formGetAgain(m *message) answer {
	a := answer{status: "200 OK", headers: []string{cookieExpired, cookieLogin}}
	if !isPhone(m) {
		a.kind, a.body = "text/xml", bareForm(m.URL.EscapedPath(), "")
	}
	return a
}

// formDone hands out the cookie.
func (c *conn) formDone(ctx context.Context, m *message, who session.Identity) answer {
	_, token, err := c.login(ctx, who)
	if err != nil {
		return c.refused(credentials{user: who.Name, agent: who.Agent}, err)
	}
	a := answer{status: "200 OK", headers: []string{"Set-Cookie: webvpn=" + token + "; secure"}}
	if !isPhone(m) {
		a.kind, a.body = "text/xml", bareSuccess
	}
	return a
}

// refused is the answer to credentials that are not good: 401 and the end of the connection, which phones want (§4), or 503
// when it is not the client's fault.
func (c *conn) refused(k credentials, err error) answer {
	c.refuse(k, err)
	if errors.Is(err, errBusy) || errors.Is(err, session.ErrTooMany) || errors.Is(err, context.Canceled) {
		return answer{status: "503 Service Unavailable", headers: []string{"X-Reason: " + printable(err.Error(), 120)}, close: true}
	}
	return answer{status: "401 Authentication failed", headers: []string{"X-Reason: " + reason(err)}, close: true}
}

// reason is the part of a refusal that the client may know: not which half of the credentials was wrong.
func reason(err error) string {
	for _, e := range []error{errThrottled, errBusy, errGroup, session.ErrTooMany} {
		if errors.Is(err, e) {
			return e.Error()
		}
	}
	return errWrong.Error()
}

// chosen finds the policy of a choice in the list of groups: some clients send the label instead of the value (§3). What is
// not in the list is returned as it is, to be refused.
func (s *Server) chosen(choice string) string {
	for _, p := range s.o.Sessions.Policies() {
		if p.Listed && (choice == p.ID || choice == p.Name()) {
			return p.ID
		}
	}
	if s.o.Sessions.Policy(choice) != nil {
		return choice
	}
	return printable(choice, 60)
}

// bareForm is the form without config-auth (§4.1).
func bareForm(action, problem string) string {
	var b strings.Builder
	b.WriteString(xmlHead + `<auth id="main"><message>Please enter your user name and password.</message>`)
	if problem != "" {
		fmt.Fprintf(&b, "<error>%s</error>", escape(problem))
	}
	fmt.Fprintf(&b, `<form method="post" action="%s">`, escape(action))
	b.WriteString(`<input type="text" name="username" label="Username:"/><input type="password" name="password" label="Password:"/></form></auth>`)
	return b.String()
}

const bareSuccess = xmlHead + `<auth id="success"><title>SSL VPN Service</title></auth>`

// logout ends the session of the cookie.
func (c *conn) logout(m *message) answer {
	if s, ok := c.sessionOf(m); ok {
		c.s.o.Sessions.End(s, "logged out", session.Farewell{Final: true, Text: "logged out"})
	}
	return answer{status: "200 OK", headers: []string{cookieExpired}, close: true}
}

// sidePath answers what AnyConnect asks for besides the log-in (§3).
func sidePath(m *message) answer {
	ok := func(kind, body string) answer { return answer{status: "200 OK", kind: kind, body: body} }
	path := m.URL.Path
	switch {
	case path == "/1/index.html", path == "/1/binaries/vpndownloader.sh":
		return ok("text/html", "")
	case path == "/1/Linux", path == "/1/Linux_64", path == "/1/Windows", path == "/1/Windows_ARM64", path == "/1/Darwin_i386":
		return ok("text/html", "")
	case path == "/1/binaries/update.txt":
		return ok("text/plain", "0,0,0000\n")
	case path == "/1/VPNManifest.xml", path == "/VPNManifest.xml":
		return ok("text/xml", xmlHead+`<vpn rev="1.0"></vpn>`)
	case strings.HasPrefix(path, "/+CSCOT+/"):
		return ok("text/plain", "")
	case path == "/+CSCOE+/logon.html":
		return answer{status: "302 Found", headers: []string{"Location: /"}}
	}
	return answer{status: "404 Not Found", close: true}
}
