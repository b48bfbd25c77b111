package vpn_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ringfence/vpn"
)

// browser speaks HTTP to the gateway by hand.
type browser struct {
	t    testing.TB
	conn *tls.Conn
	br   *bufio.Reader
	jar  map[string]string
}

func (l *lab) browser(t testing.TB, cert *tls.Certificate) *browser {
	t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	c, err := tls.Dial("tcp", l.Addr().String(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &browser{t: t, conn: c, br: bufio.NewReader(c), jar: make(map[string]string)}
}

// do sends a request and returns the answer with its body and its raw Set-Cookie lines kept in the jar.
func (b *browser) do(method, path, body string, headers ...string) (*http.Response, string) {
	b.t.Helper()
	req := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n", method, path, len(body))
	for k, v := range b.jar {
		req += "Cookie: " + k + "=" + v + "\r\n"
	}
	for _, h := range headers {
		req += h + "\r\n"
	}
	if _, err := io.WriteString(b.conn, req+"\r\n"+body); err != nil {
		b.t.Fatal(err)
	}
	res, err := http.ReadResponse(b.br, &http.Request{Method: method})
	if err != nil {
		b.t.Fatal(err)
	}
	text, _ := io.ReadAll(res.Body)
	for _, c := range res.Cookies() {
		b.jar[c.Name] = c.Value
	}
	return res, string(text)
}

const xmlInit = `<?xml version="1.0"?><config-auth client="vpn" type="init"><version who="vpn">v9</version><device-id>linux-64</device-id><group-access>https://x</group-access>%s</config-auth>`

func reply(state, user, password, more string) string {
	return fmt.Sprintf(`<config-auth client="vpn" type="auth-reply"><opaque is-for="sg"><state>%s</state></opaque><auth><username>%s</username><password>%s</password></auth>%s</config-auth>`, state, user, password, more)
}

var stateIn = regexp.MustCompile(`<state>([0-9a-f]{64})</state>`)

func TestAggregateByPassword(t *testing.T) {
	l := newLab(t)
	b := l.browser(t, nil)
	res, text := b.do("POST", "/", fmt.Sprintf(xmlInit, ""), "X-Aggregate-Auth: 1")
	st := stateIn.FindStringSubmatch(text)
	if res.StatusCode != 200 || st == nil || !strings.Contains(text, `<input type="password" name="password"`) || strings.Contains(text, "group_list") {
		t.Fatalf("init answered %s\n%s", res.Status, text)
	}
	res, text = b.do("POST", "/auth", reply(st[1], "alice", "wrong", ""))
	if res.StatusCode != 200 || !strings.Contains(text, `<error id="91" param1="authentication failed"`) {
		t.Errorf("wrong password answered %s\n%s", res.Status, text)
	}
	// A new connection for the next post, the state by cookie only.
	b2 := l.browser(t, nil)
	b2.jar = b.jar
	res, text = b2.do("POST", "/auth", reply("", "alice", "correct horse", ""), "Content-Type: application/x-www-form-urlencoded")
	if res.StatusCode != 200 || !strings.Contains(text, `type="complete"`) || !strings.Contains(text, "<banner>Be kind</banner>") {
		t.Fatalf("right password answered %s\n%s", res.Status, text)
	}
	token := b2.jar["webvpn"]
	if len(token) != 64 || !strings.Contains(text, "<session-token>"+token+"</session-token>") || !regexp.MustCompile(`^bu:/&p:t&iu:1/&sh:[0-9A-F]{40}$`).MatchString(b2.jar["webvpnc"]) {
		t.Errorf("cookies %v", b2.jar)
	}
	if n := len(l.Sessions()); n != 1 {
		t.Fatalf("%d sessions", n)
	}
	res, _ = b2.do("POST", "/", `<config-auth client="vpn" type="logout"><session-token>`+token+`</session-token></config-auth>`)
	if res.StatusCode != 200 || len(l.Sessions()) != 0 {
		t.Errorf("logout answered %s, %d sessions left", res.Status, len(l.Sessions()))
	}
}

func TestAggregateThreeTries(t *testing.T) {
	l := newLab(t)
	b := l.browser(t, nil)
	_, text := b.do("POST", "/", fmt.Sprintf(xmlInit, ""))
	st := stateIn.FindStringSubmatch(text)[1]
	for i, want := range []int{200, 200, 401} {
		if res, _ := b.do("POST", "/auth", reply(st, "alice", "wrong", "")); res.StatusCode != want {
			t.Errorf("try %d answered %s, want %d", i+1, res.Status, want)
		}
	}
}

func TestAggregateCertificates(t *testing.T) {
	l := newLab(t, func(o *vpn.Options) {
		o.Policies[0].Password = false
		o.Policies[1].Password = false
	})
	res, text := l.browser(t, nil).do("POST", "/", fmt.Sprintf(xmlInit, ""))
	if res.StatusCode != 200 || !strings.Contains(text, "<client-cert-request/>") {
		t.Errorf("without certificate: %s\n%s", res.Status, text)
	}
	if res, text = l.browser(t, nil).do("POST", "/", fmt.Sprintf(xmlInit, "<client-cert-fail/>")); res.StatusCode != 401 {
		t.Errorf("a client that has none: %s\n%s", res.Status, text)
	}
	res, text = l.browser(t, testCA().issue(phone, nil, time.Hour)).do("POST", "/phones", fmt.Sprintf(xmlInit, ""))
	if res.StatusCode != 200 || !strings.Contains(text, `type="complete"`) {
		t.Errorf("device: %s\n%s", res.Status, text)
	}
	res, text = l.browser(t, testCA().issue("bob", nil, time.Hour)).do("POST", "/staff", fmt.Sprintf(xmlInit, ""))
	if res.StatusCode != 200 || !strings.Contains(text, `type="complete"`) {
		t.Errorf("user: %s\n%s", res.Status, text)
	}
	if res, text = l.browser(t, testCA().issue(phone, nil, time.Hour)).do("POST", "/staff", fmt.Sprintf(xmlInit, "")); res.StatusCode != 401 {
		t.Errorf("device in the group of users: %s\n%s", res.Status, text)
	}
	if s := l.Sessions(); len(s) != 2 || s[0].Name != phone || s[1].Name != "bob" || s[1].Kind != "user" {
		t.Errorf("sessions %+v", s)
	}
}

func TestGroupList(t *testing.T) {
	l := newLab(t, func(o *vpn.Options) {
		o.Policies[0].Listed, o.Policies[1].Listed = true, true
		o.Policies[1].Label = "Staff & friends"
	})
	b := l.browser(t, nil)
	_, text := b.do("POST", "/", fmt.Sprintf(xmlInit, "<group-select>Staff &amp; friends</group-select>"))
	first := strings.Index(text, `<option value="staff" selected="true">Staff &amp; friends</option>`)
	if first < 0 || strings.Index(text, `<option value="phones">`) < first {
		t.Errorf("the chosen group is not first:\n%s", text)
	}
	st := stateIn.FindStringSubmatch(text)[1]
	if res, text := b.do("POST", "/", reply(st, "alice", "correct horse", "<group-select>phones</group-select>")); !strings.Contains(text, "not a member") {
		t.Errorf("a group she is not in: %s\n%s", res.Status, text)
	}
	if _, text := b.do("POST", "/", reply(st, "alice", "correct horse", "<group-select>Staff &amp; friends</group-select>")); !strings.Contains(text, `type="complete"`) {
		t.Errorf("her group, by its label: %s", text)
	}
}

func TestUnlistedGroupByItsPathStandsAlone(t *testing.T) {
	l := newLab(t, func(o *vpn.Options) { o.Policies[0].Listed = true })
	b := l.browser(t, nil)
	if _, text := b.do("POST", "/", fmt.Sprintf(xmlInit, "")); !strings.Contains(text, `<option value="phones">`) {
		t.Errorf("no list of groups:\n%s", text)
	}
	if _, text := b.do("POST", "/staff", fmt.Sprintf(xmlInit, "")); strings.Contains(text, "group_list") {
		t.Errorf("a list without the group that was asked for, of which clients take the first:\n%s", text)
	}
}

func TestPhoneForm(t *testing.T) {
	l := newLab(t)
	const agent = "User-Agent: Cisco SVC IPPhone Client v1.0 (1.0)"
	b := l.browser(t, nil)
	res, text := b.do("GET", "/svc", "", agent)
	cookies := res.Header["Set-Cookie"]
	if res.StatusCode != 200 || text != "" || len(cookies) != 2 || !strings.Contains(cookies[0], "webvpn=; expires=Thu, 01 Jan 1970") || !strings.HasPrefix(cookies[1], "webvpnlogin=1;") || res.Header.Get("X-Transcend-Version") != "1" {
		t.Errorf("GET answered %s %v %q", res.Status, res.Header, text)
	}
	for _, c := range []struct {
		name, body string
		status     int
	}{
		{"no password field", "username=alice&Login=Login", 200},
		{"fields in another order with unknown ones", "x=1&password=correct+horse&y=&username=alice", 200},
		{"percent escapes", "username=%61lice&password=correct%20horse", 200},
		{"bad escape", "username=alice&password=%zz", 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := l.browser(t, nil)
			res, text := b.do("POST", "/svc", c.body, agent, "Content-Type: application/x-www-form-urlencoded")
			if res.StatusCode != c.status || text != "" {
				t.Errorf("answered %s %q", res.Status, text)
			}
			if got := b.jar["webvpn"] != ""; got != (c.status == 200 && strings.Contains(c.body, "password")) {
				t.Errorf("cookie given: %v", got)
			}
		})
	}
	res, _ = l.browser(t, nil).do("POST", "/svc", "username=alice&password=no", agent)
	if res.Status != "401 Authentication failed" || !res.Close {
		t.Errorf("wrong password answered %s, close %v", res.Status, res.Close)
	}
	// Password only, the name missing: the certificate says whose it is.
	b = l.browser(t, testCA().issue(phone, nil, time.Hour))
	if res, _ := b.do("POST", "/svc", "username=&password=phone%26word", agent); res.StatusCode != 200 || b.jar["webvpn"] == "" {
		t.Errorf("password only with certificate answered %s", res.Status)
	}
	if res, _ := l.browser(t, nil).do("POST", "/svc", "password=phone%26word", agent); res.StatusCode != 401 {
		t.Errorf("password only without any name answered %s", res.Status)
	}
}

func TestPasswordOnlyByItsOwner(t *testing.T) {
	l := newLab(t, func(o *vpn.Options) { o.UserOf = func(p string) (string, bool) { return phone, p == "phone&word" } })
	b := l.browser(t, nil)
	if res, _ := b.do("POST", "/svc", "password=phone%26word"); res.StatusCode != 200 || b.jar["webvpn"] == "" || l.Sessions()[0].Name != phone {
		t.Errorf("answered %s", res.Status)
	}
}

func TestSecondFactor(t *testing.T) {
	var used atomic.Int64
	l := newLab(t, func(o *vpn.Options) {
		o.Policies[1].SecondFactor = true
		o.CheckCode = func(user, code string) bool { return user == "alice" && code == "123456" && used.Add(1) == 1 }
	})
	b := l.browser(t, nil)
	_, text := b.do("POST", "/", fmt.Sprintf(xmlInit, ""))
	st := stateIn.FindStringSubmatch(text)[1]
	_, text = b.do("POST", "/auth", reply(st, "alice", "correct horse", ""))
	if !strings.Contains(text, `<auth id="challenge">`) || !strings.Contains(text, `name="secondary_password"`) || len(l.Sessions()) != 0 {
		t.Fatalf("after the password:\n%s", text)
	}
	code := func(c string) string {
		return `<config-auth client="vpn" type="auth-reply"><opaque><state>` + st + `</state></opaque><auth><secondary_password>` + c + `</secondary_password></auth></config-auth>`
	}
	if _, text = b.do("POST", "/auth", code("000000")); !strings.Contains(text, `param1="authentication failed"`) || !strings.Contains(text, "challenge") {
		t.Errorf("wrong code:\n%s", text)
	}
	if _, text = b.do("POST", "/auth", code("123456")); !strings.Contains(text, `type="complete"`) || len(l.Sessions()) != 1 {
		t.Errorf("right code:\n%s", text)
	}
	if _, text = b.do("POST", "/auth", code("123456")); strings.Contains(text, `type="complete"`) {
		t.Errorf("the conversation goes on after its end:\n%s", text)
	}
	for body, want := range map[string]int{"username=alice&password=correct+horse": 401, "username=alice&password=correct+horse&secondary_password=123456": 401} {
		if res, _ := l.browser(t, nil).do("POST", "/svc", body); res.StatusCode != want {
			t.Errorf("plain form %s answered %s; the code was used", body, res.Status)
		}
	}
	used.Store(0)
	if res, _ := l.browser(t, nil).do("POST", "/svc", "username=alice&password=correct+horse&secondary_password=123456"); res.StatusCode != 200 {
		t.Errorf("plain form with a fresh code answered %s", res.Status)
	}
	// A phone proves itself by its certificate alone.
	if res, _ := l.browser(t, testCA().issue(phone, nil, time.Hour)).do("POST", "/svc", ""); res.StatusCode != 200 {
		t.Errorf("phone answered %s", res.Status)
	}
}

func TestSidePaths(t *testing.T) {
	l := newLab(t)
	for path, want := range map[string]int{
		"/1/index.html": 200, "/1/Linux_64": 200, "/1/binaries/update.txt": 200, "/VPNManifest.xml": 200, "/+CSCOT+/translation-table?x=1": 200,
		"/+CSCOE+/logon.html": 302, "/logout": 200, "/admin": 404, "/phones": 200, "/../etc/passwd": 404, "/1/unknown": 404,
	} {
		if res, _ := l.browser(t, nil).do("GET", path, ""); res.StatusCode != want {
			t.Errorf("%s answered %s, want %d", path, res.Status, want)
		}
	}
}

// post is a request with an XML body.
func post(body string) string {
	return fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func TestBadRequests(t *testing.T) {
	l := newLab(t)
	for _, c := range []struct{ name, in, want string }{
		{"no HTTP", "\x16\x03\x01 hello\r\n\r\n", "HTTP/1.1 400 "},
		{"endless head", "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 1<<20), ""},
		{"many headers", "GET / HTTP/1.1\r\n" + strings.Repeat("X: y\r\n", 10000), ""},
		{"body too large", "POST /svc HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n", "HTTP/1.1 413 "},
		{"endless chunks", "POST /svc HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("10\r\n0123456789abcdef\r\n", 10000), ""},
		{"negative length", "POST /svc HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 400 "},
		{"unknown method", "BREW / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 405 "},
		{"CONNECT elsewhere", "CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404 "},
		{"CONNECT without slash", "CONNECT CSCOSSLC/tunnel HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 401 "},
		{"XML that ends early", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n<config-auth c", "HTTP/1.1 400 "},
		{"XML of another kind", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n<html>", "HTTP/1.1 400 "},
		{"entity", post("<!DOCTYPE x [<!ENTITY a \"aaaa\">]><config-auth type=\"init\"><group-access>&a;</group-access></config-auth>"), "HTTP/1.1 400 "},
		{"deep XML", post(strings.Repeat("<config-auth>", 4000)), "HTTP/1.1 400 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := l.browser(t, nil)
			go io.WriteString(b.conn, c.in)
			got, _ := io.ReadAll(io.LimitReader(b.conn, 4096))
			if !strings.HasPrefix(string(got), c.want) {
				t.Errorf("answered %.60q, want %q", got, c.want)
			}
		})
	}
	until(t, "no connection left", func() bool { return l.Stats().Pending == 0 })
}

func TestBruteForce(t *testing.T) {
	var checks, most, now atomic.Int64
	l := newLab(t, func(o *vpn.Options) {
		check := o.CheckPassword
		o.CheckPassword = func(user, password string) (string, bool) {
			checks.Add(1)
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Millisecond)
			return check(user, password)
		}
	})
	// A phone that has logged in by password from here before is known here.
	b := l.browser(t, nil)
	if res, _ := b.do("POST", "/svc", "username="+phone+"&password=phone%26word"); res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 40 {
				res, _ := l.browser(t, nil).do("POST", "/svc", fmt.Sprintf("username=guess%d-%d&password=x", w, i))
				if res.StatusCode != 401 && res.StatusCode != 503 {
					t.Errorf("wrong password answered %s", res.Status)
				}
			}
		})
	}
	wg.Wait()
	if checks.Load() > 40 || most.Load() > 2 {
		t.Errorf("%d passwords were looked at, %d at once; want few, and 2", checks.Load(), most.Load())
	}
	if st := l.Stats(); st.Throttled < 250 || st.LoginsRefused != 320 {
		t.Errorf("stats %+v", st)
	}
	if res, _ := l.browser(t, nil).do("POST", "/svc", "username=alice&password=correct+horse"); res.StatusCode != 401 || res.Header.Get("X-Reason") != "too many wrong passwords, try later" {
		t.Errorf("a stranger's right password from the banned source answered %s", res.Status)
	}
	if res, _ := l.browser(t, nil).do("POST", "/svc", "username="+phone+"&password=phone%26word"); res.StatusCode != 200 {
		t.Errorf("the phone behind the same address is locked out: %s", res.Status)
	}
	if c, err := l.browser(t, testCA().issue("SEP001122AA0002", nil, time.Hour)).do("POST", "/svc", ""); c.StatusCode != 200 {
		t.Errorf("certificates are throttled too: %s %v", c.Status, err)
	}
}

func TestConnectHeaders(t *testing.T) {
	l := newLab(t, func(o *vpn.Options) {
		p := &o.Policies[1]
		p.DPD, p.Keepalive, p.Idle, p.Session, p.Rekey = 30*time.Second, 20*time.Second, 10*time.Minute, time.Hour, 2*time.Hour
		p.Domain, p.SplitDNS, p.Banner = "lab.example", []string{"lab.example"}, "Be kind\r\nX-Evil: 1"
		p.Exclude = []netip.Prefix{netip.MustParsePrefix("198.51.100.128/25")}
	})
	b := l.browser(t, nil)
	b.do("POST", "/svc", "username=alice&password=correct+horse")
	io.WriteString(b.conn, "CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nHost: x\r\nCookie: webvpn="+b.jar["webvpn"]+"\r\n"+
		"X-CSTP-Address-Type: IPv6,IPv4\r\nX-CSTP-Full-IPv6-Capability: true\r\nX-CSTP-Base-MTU: 1420\r\nX-CSTP-Hostname: laptop.home.example\r\n\r\n")
	buf := make([]byte, 8192)
	n, err := b.conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	got := string(buf[:n])
	for _, want := range []string{
		"HTTP/1.1 200 CONNECTED\r\nX-CSTP-Version: 1\r\n", "X-CSTP-Address: 10.78.0.", "X-CSTP-Netmask: 255.255.255.0\r\n", "X-CSTP-Address-IP6: 2001:db8:78::",
		"X-CSTP-DNS: 10.78.0.1\r\n", "X-CSTP-Default-Domain: lab.example\r\n", "X-CSTP-Split-DNS: lab.example\r\n",
		"X-CSTP-Split-Include: 198.51.100.0/255.255.255.0\r\n", "X-CSTP-Split-Exclude: 198.51.100.128/255.255.255.128\r\n",
		"X-CSTP-MTU: 1354\r\n", "X-CSTP-Base-MTU: 1420\r\n", "X-CSTP-DPD: 30\r\n", "X-CSTP-Keepalive: 20\r\n", "X-CSTP-Idle-Timeout: 600\r\n",
		"X-CSTP-Disconnected-Timeout: 120\r\n", "X-CSTP-Session-Timeout: 3600\r\n", "X-CSTP-Rekey-Time: 7200\r\nX-CSTP-Rekey-Method: new-tunnel\r\n",
		"X-CSTP-Keep: true\r\n", "X-CSTP-Banner: Be kind  X-Evil: 1\r\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "\nX-Evil") || strings.Contains(got, "Content-Encoding") || !strings.HasSuffix(got, "\r\n\r\n") {
		t.Errorf("answer\n%s", got)
	}
	until(t, "session up", func() bool { return stateOf(l, "alice") == "up" })
	if s := l.Sessions()[0]; s.MTU != 1354 || s.Hostname != "laptop" {
		t.Errorf("session %+v", s)
	}
}
