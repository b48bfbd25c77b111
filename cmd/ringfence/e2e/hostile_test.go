package e2e

import (
	"bytes"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
)

// TestDissectors lets tshark read what the daemon says to a phone in the clear: every message dissects without a complaint.
func TestDissectors(t *testing.T) {
	d := newDaemon(t, three)
	stop := record(t)
	cleo, ada := d.newPhone("SEP001122AA0003", "7965", 3, pcmu), d.newPhone("SEP001122AA0001", "8851", 1, pcmu)
	d.ready(cleo)
	d.ready(ada)
	ca, cc := connect(t, ada, cleo, "303")
	hear(t, ca, cc)
	if err := ca.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cc)
	file := stop()
	tshark := func(filter string, fields ...string) []string {
		t.Helper()
		args := []string{"-r", file, "-Y", filter, "-T", "fields"}
		for _, f := range fields {
			args = append(args, "-e", f)
		}
		out, err := exec.Command("tshark", args...).Output()
		if err != nil {
			t.Fatalf("tshark %s: %v", filter, err)
		}
		return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' })
	}
	from := "ip.src==" + d.site.Address
	for _, protocol := range []string{"sip", "sdp", "rtp", "http", "tls"} {
		if len(tshark(from+" && "+protocol, "frame.number")) == 0 {
			t.Errorf("tshark sees no %s from the daemon", protocol)
		}
	}
	if bad := tshark(from+" && (_ws.malformed || _ws.expert.severity == 0x800000)", "frame.number", "_ws.col.Protocol", "_ws.expert.message"); len(bad) > 0 {
		t.Errorf("tshark complains:\n%s", strings.Join(bad, "\n"))
	}
}

// TestRefusalsAreExplained sees a wrong password and an unknown device refused, and both told to the administrator.
func TestRefusalsAreExplained(t *testing.T) {
	d := newDaemon(t, three)
	cleo := d.newPhone("SEP001122AA0003", "7965", 3)
	d.ready(cleo)
	if err := cleo.Unregister(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	d.write(strings.Replace(three, "    security: nonsecure\n    password: \""+cleoPassword, "    security: nonsecure\n    password: \"Other"+cleoPassword, 1))
	d.verb("config", "reload")
	if err := cleo.Register(within(t, 20*time.Second)); err == nil || !phone.RefusedAs(err, phone.RegisterDenied) {
		t.Errorf("registration with an old password: %v, want denied", err)
	}
	out := d.verb("phone", "show", "SEP001122AA0003")
	if !strings.Contains(out, "password") || !strings.Contains(out, "stuck") {
		t.Errorf("phone show does not say that the password is wrong:\n%s", out)
	}

	stranger := d.newPhone("SEP00112233DEAD", "8851", 1)
	if err := stranger.Boot(within(t, 60*time.Second)); err == nil {
		t.Error("an undeclared phone got a configuration")
	}
	if out := d.verb("phone", "list"); !strings.Contains(out, "SEP00112233DEAD") {
		t.Errorf("the undeclared phone is not shown as waiting:\n%s", out)
	}
}

// TestGarbageHarmsNobody throws junk at every port, half-open and slow, and sees a phone go through its morning meanwhile; after it
// nothing is left behind.
func TestGarbageHarmsNobody(t *testing.T) {
	d := newDaemon(t, morning)
	goroutines := func() int {
		res, err := http.Get("http://" + d.site.Address + ":9090/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		for line := range strings.SplitSeq(string(b), "\n") {
			if v, ok := strings.CutPrefix(line, "go_goroutines "); ok {
				n, _ := strconv.Atoi(v)
				return n
			}
		}
		t.Fatal("no go_goroutines in the metrics")
		return 0
	}
	before := goroutines()
	rng := rand.New(rand.NewPCG(1, 2))
	junk := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	var open []net.Conn
	for _, port := range []int{443, 2445, 3804, 5060, 5061, 6970, 6971, 9090} {
		address := net.JoinHostPort(d.site.Address, strconv.Itoa(port))
		for i := range 15 {
			c, err := net.DialTimeout("tcp", address, 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			switch i % 5 {
			case 0: // silent
			case 1:
				_, _ = c.Write(junk(2000))
			case 2:
				_, _ = io.WriteString(c, "GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("y", 100000))
			case 3:
				_, _ = io.WriteString(c, "INVITE sip:301@x SIP/2.0\r\nVia: SIP/2.0/TCP x\r\nContent-Length: 99999999\r\n\r\n")
			case 4: // inside TLS where there is some
				tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
				_ = tc.SetDeadline(time.Now().Add(time.Second))
				_, _ = tc.Write(append([]byte{0x55, 2, 0, 0, 0, 1, 0xff, 0xff}, junk(500)...))
			}
		}
	}
	for _, port := range []int{69, 443, 5060} {
		c, err := net.Dial("udp", net.JoinHostPort(d.site.Address, strconv.Itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 200 {
			_, _ = c.Write(junk(i * 7 % 1400))
		}
		_, _ = c.Write(append([]byte{0, 1}, bytes.Repeat([]byte("../"), 300)...))
		c.Close()
	}
	ada := d.newPhone("SEP001122AA0001", "8851", 1)
	d.ready(ada)
	unharmed(t, ada)
	ada.Stop()
	for _, c := range open {
		c.Close()
	}
	eventually(t, 60*time.Second, "goroutines are as few as before", func() bool { return goroutines() <= before+5 })
	var status struct {
		Services []struct {
			Name     string `json:"name"`
			Up       bool   `json:"up"`
			Restarts int    `json:"restarts"`
		} `json:"services"`
	}
	d.json(&status, "status")
	for _, s := range status.Services {
		if !s.Up || s.Restarts != 0 {
			t.Errorf("service %s: up %v, %d restarts", s.Name, s.Up, s.Restarts)
		}
	}
}
