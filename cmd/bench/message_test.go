package main

import (
	"bufio"
	"strings"
	"testing"
)

// TestAuthorization holds the digest against the example of RFC 2617 §3.5 (method and URI there are of HTTP).
func TestAuthorization(t *testing.T) {
	c := &challenge{realm: "testrealm@host.com", nonce: "dcd98b7102dd2f0e8b11d0f600bfb0c093", qop: true}
	got := c.authorization("GET", "/dir/index.html", "Mufasa", "Circle Of Life")
	if want := "6629fae49393a05397450978507c4ef1"; parameter(got, "response") != want {
		t.Errorf("response %q, want %s", parameter(got, "response"), want)
	}
}

func TestReadMessage(t *testing.T) {
	r := bufio.NewReader(strings.NewReader("\r\n\r\nSIP/2.0 401 Unauthorized\r\nVia: a\r\nVia: b\r\n" +
		"WWW-Authenticate: Digest algorithm=SHA-256, realm=\"r\", nonce=\"x\"\r\n" +
		"www-authenticate: Digest realm=\"r\", opaque=\"nonce=z\", nonce=\"n\", qop=\"auth\"\r\nContent-Length: 3\r\n\r\nabc" +
		"BYE sip:a@b SIP/2.0\r\nTo: <sip:a@b>\r\n\r\n"))
	m, err := readMessage(r)
	if err != nil || m.code != 401 || string(m.body) != "abc" || len(m.headers("via")) != 2 {
		t.Fatalf("%+v, %v", m, err)
	}
	c, err := challengeOf(m)
	if err != nil || c.nonce != "n" || c.realm != "r" || !c.qop {
		t.Errorf("challenge %+v, %v", c, err)
	}
	if m, err = readMessage(r); err != nil || m.method != "BYE" {
		t.Fatalf("%+v, %v", m, err)
	}
	if got, want := string(m.answer(200, "OK", "t", "")), "SIP/2.0 200 OK\r\nTo: <sip:a@b>;tag=t\r\nContent-Length: 0\r\n\r\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
