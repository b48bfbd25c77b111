package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ringfence/appliance/admin"
)

// hmacKey and wifiSecret are what machines and devices are told.
const (
	hmacKey    = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"
	wifiSecret = "Wave4Heron91"
)

// enrolling is morning with ACME and SCEP switched on.
var enrolling = strings.NewReplacer("site:\n", `pki:
  publish_url: "http://{{.Address}}:6974"
  acme: {enabled: true, domains: ["*.example.net"], resolver: "{{.Address}}:5300", accounts: [{id: web, key: "`+hmacKey+`"}]}
  scep: {enabled: true, clients: [{name: wifi1.example.net, challenge: "`+wifiSecret+`"}]}
site:
`, "    certs: ", "    acme: {{.Address}}:6975\n    certs: ").Replace(morning)

// machine is where the names of the DNS below lead.
const machine = network + ".200"

// serveDNS answers every question for an address with that of the machine, until the test ends.
func serveDNS(t *testing.T, address string) {
	t.Helper()
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		for buf := make([]byte, 1500); ; {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Authoritative, m.Additionals = true, true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1},
					Body: &dnsmessage.AResource{A: [4]byte(net.ParseIP(machine).To4())}}}
			}
			if b, err := m.Pack(); err == nil {
				_, _ = c.WriteTo(b, from)
			}
		}
	}()
}

// tool finds a program of Debian's that a test drives the daemon with.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not installed: .ci/deps installs it", name)
	}
	return path
}

// given are the certificates of a role, as cert list shows them.
func (d *daemon) given(role string) (out []admin.CertInfo) {
	d.t.Helper()
	var all []admin.CertInfo
	d.json(&all, "cert", "list")
	for _, c := range all {
		if c.Role == role {
			out = append(out, c)
		}
	}
	return out
}

// TestACME has Debian's lego get, renew and give back the certificate of a web server, by both kinds of proof.
func TestACME(t *testing.T) {
	lego := tool(t, "lego")
	d := newDaemon(t, enrolling)
	serveDNS(t, d.site.Address+":5300")
	dir := t.TempDir()
	roots := filepath.Join(dir, "root.pem")
	d.verb("cert", "export", "root", "--out", roots)
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(within(t, 60*time.Second), lego, append([]string{"--server", "https://" + d.site.Address + ":6975/directory", "--accept-tos",
			"--email", "ops@example.net", "--path", dir, "--key-type", "ec256"}, args...)...)
		cmd.Env = append(os.Environ(), "LEGO_CA_CERTIFICATES="+roots)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	bound := []string{"--eab", "--kid", "web", "--hmac", hmacKey}
	web := []string{"--http", "--http.port", machine + ":80"}
	if out, err := run(append(web, "--domains", "web.example.net", "run")...); err == nil || !strings.Contains(out, "External Account Binding") {
		t.Errorf("without binding: %v\n%s", err, out)
	}
	if out, err := run(append(append([]string{"--eab", "--kid", "web", "--hmac", strings.ToUpper(hmacKey)}, web...), "--domains", "web.example.net", "run")...); err == nil {
		t.Errorf("with a wrong key:\n%s", out)
	}
	if out, err := run(append(append(bound, web...), "--domains", "web.example.net", "run")...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	leaf, chain := filepath.Join(dir, "certificates", "web.example.net.crt"), filepath.Join(dir, "certificates", "web.example.net.issuer.crt")
	check := func(want string) {
		t.Helper()
		lists, _ := download(t, "http://"+d.site.Address+":6974/crl.pem")
		out, err := openssl(t, "", "verify", "-crl_check_all", "-CRLfile", lists, "-CAfile", roots, "-untrusted", chain, "-verify_hostname", "web.example.net", leaf)
		if (err == nil) != (want == "OK") || !strings.Contains(out, want) {
			t.Errorf("%v, want %s\n%s", err, want, out)
		}
	}
	check("OK")
	if list := d.given("ACME"); len(list) != 1 || list[0].State != "current" || !strings.Contains(list[0].Subject, "web.example.net") {
		t.Errorf("inventory: %+v", list)
	}
	if out, err := run(append(append(bound, web...), "--domains", "web.example.org", "run")...); err == nil || !strings.Contains(out, "rejectedIdentifier") {
		t.Errorf("a name that is not allowed: %v\n%s", err, out)
	}
	// The account lives on over a restart, and proves another way.
	d.kill()
	d.start()
	if out, err := run(append(bound, "--tls", "--tls.port", machine+":443", "--domains", "web.example.net", "renew", "--days", "900", "--no-random-sleep")...); err != nil {
		t.Fatalf("renew: %v\n%s", err, out)
	}
	if list := d.given("ACME"); len(list) != 2 {
		t.Errorf("inventory after the renewal: %+v", list)
	}
	check("OK")
	if out, err := run(append(bound, "--domains", "web.example.net", "revoke", "--keep")...); err != nil {
		t.Errorf("revoke: %v\n%s", err, out)
	}
	check("certificate revoked")
}

// TestSCEP has Debian's scepclient enrol a device.
func TestSCEP(t *testing.T) {
	scepclient := tool(t, "scepclient")
	d := newDaemon(t, enrolling)
	dir := t.TempDir()
	key := sh(t, dir, "openssl genrsa -traditional -out key.pem 2048 2>&1 && cat key.pem")
	run := func(name, challenge, folder string) (string, error) {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
		// One key for all, since making it takes longer than all else.
		if err := os.WriteFile(filepath.Join(dir, folder, "key.pem"), []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(within(t, 60*time.Second), scepclient, "-server-url", "http://"+d.site.Address+":6974/scep", "-cn", name, "-challenge", challenge,
			"-private-key", "key.pem", "-certificate", "cert.pem", "-debug")
		cmd.Dir = filepath.Join(dir, folder)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("wifi1.example.net", "guessed-it", "wrong"); err == nil {
		t.Errorf("a wrong challenge:\n%s", out)
	}
	if out, err := run("wifi2.example.net", wifiSecret, "other"); err == nil {
		t.Errorf("another's challenge:\n%s", out)
	}
	if list := d.given("SCEP"); len(list) != 0 {
		t.Fatalf("issued without leave: %+v", list)
	}
	if out, err := run("wifi1.example.net", wifiSecret, "right"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	list := d.given("SCEP")
	if len(list) != 1 || !strings.Contains(list[0].Subject, "wifi1.example.net") {
		t.Fatalf("inventory: %+v", list)
	}
	cas, _ := download(t, "http://"+d.site.Address+":6974/ca.pem")
	leaf := filepath.Join(dir, "right", "cert.pem")
	check := func(want string) {
		t.Helper()
		lists, _ := download(t, "http://"+d.site.Address+":6974/crl.pem")
		out, err := openssl(t, "", "verify", "-purpose", "sslclient", "-crl_check_all", "-CRLfile", lists, "-CAfile", cas, leaf)
		if (err == nil) != (want == "OK") || !strings.Contains(out, want) {
			t.Errorf("%v, want %s\n%s", err, want, out)
		}
	}
	check("OK")
	d.verb("cert", "revoke", list[0].Serial, "--reason", "key compromise")
	check("certificate revoked")
	// Whoever guesses on is shut out.
	for n := range 3 { // the fifth in all is the last
		if out, err := run("wifi1.example.net", "guess-guess", "guess"+string(rune('0'+n))); err == nil {
			t.Errorf("guessed:\n%s", out)
		}
	}
	if out, err := run("wifi1.example.net", wifiSecret, "after"); err == nil {
		t.Errorf("let in after so many guesses:\n%s", out)
	}
	if strings.Contains(d.log.String(), wifiSecret) || strings.Contains(d.log.String(), hmacKey) {
		t.Error("a secret is in the log")
	}
}
