package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ringfence/internal/feature"
)

// vpnSite is morning with policies of every kind, reached from the host at the other end of the cable by IPv4 and IPv6.
var vpnSite = strings.NewReplacer(
	"    vpn: {{.Address}}:443\n", "    vpn: \"[::]:443\"\n",
	`  policies:
    - id: phones
      pool: {{.Pool}}.0/24
`, `  policies:
    - {id: phones, pool: {{.Pool}}.0/27, dpd: 2s}
    - id: staff
      label: Our staff
      listed: true
      pool: {{.Pool}}.64/26
      pool6: "fd00:{{.N}}::/64"
      mtu: 1400
      dpd: 2s
      routes: [198.18.0.0/16, {{.Address}}/32, {{.Pool}}.0/24, "fd00:{{.N}}::/64"]
      exclude: [198.18.9.0/24]
      dns: [{{.Address}}]
      domain: example.net
      split_dns: [corp.example.net, example.org]
      banner: Be kind
      allow: [{to: {{.Address}}/32, protocol: tcp, ports: 8081}]
    - {id: short, pool: {{.Pool}}.128/26, rekey: 2s, session_timeout: 10s}
    - {id: careful, pool: {{.Pool}}.192/26, auth: [password], second_factor: true}
    - {id: typed, pool: {{.Pool}}.32/27, auth: [password]}
`,
	`vpn: phones}
  - {id: ben`, `vpn: staff}
  - {id: sue, password: "`+suePassword+`", vpn: short}
  - {id: tom, password: "`+tomPassword+`", vpn: careful, totp: "`+tomSecret+`"}
  - {id: uma, password: "`+umaPassword+`", vpn: typed}
  - {id: ben`,
	`    password: "`+benPassword+`"
`, `    password: "`+benPassword+`"
    vpn: typed
    vpn_password: "`+doorPassword+`"
`,
).Replace(morning) + `  - {number: "304", user: uma, phone: SEP001122AA0004, index: 1}
`

const (
	suePassword  = "Lantern3Osprey77"
	tomPassword  = "Harbour9Plover18"
	umaPassword  = "Meadow5Dunlin63"
	doorPassword = "Cellar8Wigeon29"
	tomSecret    = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
)

type vpnSession struct {
	ID       string `json:"id"`
	Device   string `json:"device"`
	User     string `json:"user"`
	Policy   string `json:"policy"`
	Method   string `json:"method"`
	State    string `json:"state"`
	Address  string `json:"address"`
	Address6 string `json:"address6"`
	Remote   string `json:"remote"`
	Link     string `json:"link"`
	UDP      string `json:"datagrams"`
	Payload  string `json:"payload"`
	Connects int    `json:"connects"`
	In       uint64 `json:"packets_in"`
	Out      uint64 `json:"packets_out"`
	Dropped  struct {
		Forbidden uint64 `json:"forbidden"`
		Foreign   uint64 `json:"foreign_source"`
	} `json:"dropped"`
}

func (d *daemon) sessions() []vpnSession {
	d.t.Helper()
	var all []vpnSession
	d.json(&all, "vpn", "sessions")
	return all
}

// session is the only session of a phone or person.
func (d *daemon) session(who string) vpnSession {
	d.t.Helper()
	var found []vpnSession
	for _, s := range d.sessions() {
		if s.User == who || s.Device == who {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		d.t.Fatalf("%s has the sessions %+v, want one", who, found)
	}
	return found[0]
}

// home is the daemon of the tests of the VPN with a host outside, and what openconnect needs there.
type home struct {
	*host
	d   *daemon
	pin string
	lsc string // file with certificate and key of the first phone
}

// outer and outer6 are the gateway's addresses on the cable.
const outer, outer6 = "198.51.100.1", "2001:db8:51::1"

func newHome(t *testing.T) *home {
	t.Helper()
	d := newDaemon(t, strings.Replace(vpnSite, "lines:\n", "  - {device: SEP001122AA0004, model: \"8851\", vpn: typed}\nlines:\n", 1))
	p := d.newPhone("SEP001122AA0001", "8851", 1)
	d.ready(p)
	p.Stop()
	h := newHost(t)
	h.run("ip", "addr", "add", "2001:db8:51::2/64", "dev", "cable", "nodad")
	if out, err := exec.Command("ip", "addr", "add", outer6+"/64", "dev", "cable", "nodad").CombinedOutput(); err != nil {
		t.Fatalf("address of the cable: %v\n%s", err, out)
	}
	out, _ := h.try("openconnect", "--authenticate", "--non-inter", d.site.Address)
	_, after, ok := strings.Cut(out, "--servercert ")
	if !ok {
		t.Fatalf("openconnect names no certificate:\n%s", out)
	}
	return &home{host: h, d: d, pin: strings.Fields(after)[0], lsc: filepath.Join(filepath.Dir(d.config), "SEP001122AA0001", "lsc.pem")}
}

// on is the same for a part of the test.
func (h *home) on(t *testing.T) *home {
	d := *h.d
	d.t = t
	return &home{&host{t, h.pid}, &d, h.pin, h.lsc}
}

// dial logs in, waits for the tunnel and returns what openconnect prints. The session ends with the test.
func (h *home) dial(who, input, url string, args ...string) *lockedBuffer {
	h.t.Helper()
	log, _ := h.connect(who, input, url, args...)
	return log
}

func (h *home) connect(who, input, url string, args ...string) (*lockedBuffer, *os.Process) {
	h.t.Helper()
	log, hangUp, process := h.startOpenconnect(input, append(args, "--servercert", h.pin, "-v", url)...)
	h.t.Cleanup(func() {
		h.d.try("vpn", "kick", who)
		hangUp()
		if h.t.Failed() {
			h.t.Logf("openconnect:\n%s", tail(log.String(), 6000))
		}
	})
	says(h.t, log, "CONNECTED ")
	return log, process
}

// ada logs in with her password.
func (h *home) ada(url string, args ...string) *lockedBuffer {
	h.t.Helper()
	return h.dial("ada", vpnPassword+"\n", url, append(args, "--user", "ada", "--passwd-on-stdin")...)
}

func says(t *testing.T, log *lockedBuffer, what string) {
	t.Helper()
	eventually(t, 30*time.Second, "openconnect says "+what, func() bool { return strings.Contains(log.String(), what) })
}

func (h *home) pings(address string, args ...string) {
	h.t.Helper()
	if out, err := h.try(append(append([]string{"ping", "-c", "2", "-i", "0.2", "-W", "5"}, args...), address)...); err != nil {
		h.t.Errorf("no ping of %s through the tunnel: %v\n%s", address, err, out)
	}
}

// TestVPN leads Debian's openconnect through everything that the gateway does, against one daemon on port 443.
func TestVPN(t *testing.T) {
	feature.Proves(t, "VPN-6", "VPN-9")
	h := newHome(t)
	staff := h.d.site.Pool + ".65"
	address := h.d.site.Address
	t.Run("password in XML, routes, DNS, banner", func(t *testing.T) {
		h := h.on(t)
		log := h.ada(outer, "--no-dtls", "--authgroup", "Our staff")
		told := ""
		for line := range strings.Lines(log.String()) {
			if strings.HasPrefix(line, "TOLD ") {
				told = line
			}
		}
		for _, want := range []string{"198.18.0.0/16", address + "/32", fmt.Sprintf("fd00:%d::/64", h.d.site.N), "exclude= 198.18.9.0/24", "dns=" + address, "domain=example.net",
			"corp.example.net", "example.org", "banner=Be kind"} {
			if !strings.Contains(told, want) {
				t.Errorf("openconnect was told %q, want %s in it", told, want)
			}
		}
		s := h.d.session("ada")
		if s.Policy != "staff" || s.Method != "password" || s.UDP != "" || s.Payload != "tcp" || s.State != "up" {
			t.Errorf("session %+v", s)
		}
		h.pings(staff)
	})
	t.Run("password in the plain form", func(t *testing.T) {
		h := h.on(t)
		h.ada(outer+"/staff", "--no-xmlpost", "--no-dtls")
		h.pings(staff)
	})
	for name, args := range map[string][]string{"XML": nil, "plain form": {"--no-xmlpost"}} {
		t.Run("certificate, "+name, func(t *testing.T) {
			h := h.on(t)
			h.dial("SEP001122AA0001", "", outer+"/svc", append(args, "--no-dtls", "-c", h.lsc)...)
			if s := h.d.session("SEP001122AA0001"); s.Policy != "phones" || s.Method != "certificate" {
				t.Errorf("session %+v", s)
			}
			h.pings(h.d.site.Pool+".1", "-I", "oc0")
		})
	}
	t.Run("other people's group", func(t *testing.T) {
		h := h.on(t)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		cmd := h.command(ctx, "openconnect", "--authenticate", "--user", "ada", "--passwd-on-stdin", "--non-inter", "--servercert", h.pin, outer+"/short")
		cmd.Stdin = strings.NewReader(vpnPassword + "\n")
		if out, err := cmd.CombinedOutput(); err == nil || strings.Contains(string(out), "COOKIE=") {
			t.Errorf("ada is let into the group of others:\n%s", out)
		}
	})
	t.Run("second factor", func(t *testing.T) {
		h := h.on(t)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		cmd := h.command(ctx, "openconnect", "--user", "tom", "--passwd-on-stdin", "--non-inter", "--servercert", h.pin, "--authenticate", outer+"/careful")
		cmd.Stdin = strings.NewReader(tomPassword + "\n")
		if out, err := cmd.CombinedOutput(); err == nil || strings.Contains(string(out), "COOKIE=") {
			t.Errorf("tom is let in without a code:\n%s", out)
		}
		h.dial("tom", tomPassword+"\n", outer+"/careful", "--user", "tom", "--passwd-on-stdin", "--token-mode=totp", "--token-secret=base32:"+tomSecret, "--no-dtls")
		h.pings(h.d.site.Pool+".193", "-I", "oc0")
	})
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"PSK":           {nil, "DTLS 1.2 PSK"},
		"AES-256-GCM":   {[]string{"--dtls-ciphers=NONE", "--dtls12-ciphers=ECDHE-RSA-AES256-GCM-SHA384"}, "DTLS 1.2 ECDHE-RSA-AES256-GCM-SHA384"},
		"AES-128-GCM":   {[]string{"--dtls-ciphers=NONE", "--dtls12-ciphers=AES128-GCM-SHA256"}, "DTLS 1.2 AES128-GCM-SHA256"},
		"CBC in 1.2":    {[]string{"--dtls-ciphers=NONE", "--dtls12-ciphers=AES256-SHA"}, "DTLS 1.2 AES256-SHA"},
		"legacy, AES":   {[]string{"--dtls-ciphers=AES256-SHA", "--dtls12-ciphers=NONE"}, "DTLS 0.9 AES256-SHA"},
		"legacy, short": {[]string{"--dtls-ciphers=AES128-SHA", "--dtls12-ciphers=NONE"}, "DTLS 0.9 AES128-SHA"},
	} {
		t.Run("DTLS "+name, func(t *testing.T) {
			h := h.on(t)
			log := h.ada(outer, c.args...)
			says(t, log, "Established DTLS connection")
			eventually(t, 10*time.Second, "payload goes over UDP", func() bool { return h.d.session("ada").Payload == "udp" })
			if s := h.d.session("ada"); !strings.HasPrefix(s.UDP, c.want+" ") {
				t.Errorf("channel %q, want %s", s.UDP, c.want)
			}
			h.pings(staff, "-s", "1300", "-M", "do")
		})
	}
	t.Run("UDP is cut, then back", func(t *testing.T) {
		h := h.on(t)
		log := h.ada(outer)
		says(t, log, "Established DTLS connection")
		eventually(t, 10*time.Second, "payload goes over UDP", func() bool { return h.d.session("ada").Payload == "udp" })
		h.run("nft", "add table inet cut; add chain inet cut out { type filter hook output priority 0; }; add rule inet cut out udp dport 443 drop")
		eventually(t, 20*time.Second, "payload goes over TCP", func() bool { return h.d.session("ada").Payload == "tcp" })
		h.pings(staff)
		h.run("nft", "delete", "table", "inet", "cut")
	})
	t.Run("IPv6 inside and outside", func(t *testing.T) {
		h := h.on(t)
		log := h.ada("[" + outer6 + "]")
		says(t, log, "Established DTLS connection")
		s := h.d.session("ada")
		if !strings.HasPrefix(s.Address6, fmt.Sprintf("fd00:%d:", h.d.site.N)) || !strings.HasPrefix(s.Remote, "[2001:db8:51::2]") {
			t.Errorf("session %+v", s)
		}
		h.pings(fmt.Sprintf("fd00:%d::1", h.d.site.N))
		h.pings(staff)
	})
	t.Run("rekey and expiry", func(t *testing.T) {
		h := h.on(t)
		log := h.dial("sue", suePassword+"\n", outer+"/short", "--user", "sue", "--passwd-on-stdin", "--no-dtls")
		first := h.d.session("sue")
		eventually(t, 10*time.Second, "a new tunnel with the same address", func() bool {
			for _, s := range h.d.sessions() {
				if s.User == "sue" {
					return s.Connects >= 2 && s.ID == first.ID && s.Address == first.Address
				}
			}
			t.Fatal("the session is gone")
			return false
		})
		h.pings(h.d.site.Pool+".129", "-I", "oc0")
		says(t, log, "session time is over")
	})
	t.Run("the address changes", func(t *testing.T) {
		h := h.on(t)
		_, process := h.connect("ada", vpnPassword+"\n", outer, "--user", "ada", "--passwd-on-stdin")
		first := h.d.session("ada")
		h.readdress("198.51.100.2", "198.51.100.3")
		if err := process.Signal(syscall.SIGUSR2); err != nil { // as network managers do
			t.Fatal(err)
		}
		eventually(t, 20*time.Second, "the session is back from the new address", func() bool {
			s := h.d.session("ada")
			return s.ID == first.ID && s.Address == first.Address && s.Connects > 1 && strings.HasPrefix(s.Remote, "198.51.100.3:")
		})
		h.pings(staff)
		h.readdress("198.51.100.3", "198.51.100.2")
	})
	t.Run("kick", func(t *testing.T) {
		h := h.on(t)
		log := h.ada(outer, "--no-dtls")
		h.d.verb("vpn", "kick", h.d.session("ada").ID)
		says(t, log, "ended by the administrator")
		if _, code := h.d.try("vpn", "kick", "ada"); code == 0 {
			t.Error("a session that is gone can be ended")
		}
	})
	t.Run("what a phone reaches", func(t *testing.T) { h.on(t).reach() })
	t.Run("foreign source address", func(t *testing.T) {
		h := h.on(t)
		h.ada(outer, "--no-dtls")
		h.run("ip", "addr", "add", "100.64.250.9/32", "dev", "oc0")
		if out, err := h.try("ping", "-c", "1", "-W", "1", "-I", "100.64.250.9", staff); err == nil {
			t.Errorf("a ping from a foreign address is answered:\n%s", out)
		}
		eventually(t, 5*time.Second, "the packet is counted", func() bool { return h.d.session("ada").Dropped.Foreign > 0 })
	})
}

// readdress gives the host another address on the cable.
func (h *home) readdress(from, to string) {
	h.t.Helper()
	h.run("ip", "addr", "add", to+"/24", "dev", "cable")
	h.run("ip", "addr", "del", from+"/24", "dev", "cable")
	h.run("ip", "addr", "replace", to+"/24", "dev", "cable") // the kernel takes the later ones of a network with the first
	h.run("ip", "route", "replace", network+".0/24", "via", "198.51.100.1")
}

// open tries a TCP connection from the host.
func (h *home) open(address, port string) bool {
	_, err := h.try("timeout", "2", "bash", "-c", "exec 3<>/dev/tcp/"+address+"/"+port)
	return err == nil
}

// reach logs in with a phone's certificate and tries what the phone needs and what it must not reach (VPN-9).
func (h *home) reach() {
	t, address := h.t, h.d.site.Address
	h.dial("SEP001122AA0001", "", outer+"/svc", "-c", h.lsc)
	h.run("ip", "route", "replace", address+"/32", "dev", "oc0")
	for _, port := range []string{"8443", "8081"} { // pages, and a service that is not the daemon's
		ln, err := net.Listen("tcp", net.JoinHostPort(address, port))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
	}
	refused := h.d.session("SEP001122AA0001").Dropped.Forbidden
	for _, c := range []struct {
		name, port string
		open       bool
	}{
		{"device files", "6970", true}, {"SIP", "5060", true}, {"SIP over TLS", "5061", true}, {"CAPF", "3804", true}, {"TVS", "2445", true},
		{"metrics", "9090", false}, {"pages", "8443", false}, {"another service", "8081", false},
	} {
		if h.open(address, c.port) != c.open {
			t.Errorf("%s at port %s: open is %v, want %v", c.name, c.port, !c.open, c.open)
		}
		var answer struct {
			Reach []struct {
				Permitted bool   `json:"permitted"`
				Session   string `json:"session"`
			} `json:"reach"`
		}
		h.d.json(&answer, "vpn", "policy", "--explain", "SEP001122AA0001", address, "tcp/"+c.port)
		if len(answer.Reach) != 1 || answer.Reach[0].Permitted != c.open || answer.Reach[0].Session == "" {
			t.Errorf("%s: vpn policy says %+v, want %v", c.name, answer.Reach, c.open)
		}
	}
	if now := h.d.session("SEP001122AA0001").Dropped.Forbidden; now < refused+3 {
		t.Errorf("%d packets are counted as forbidden, want at least three", now-refused)
	}
	if out := h.d.verb("vpn", "policy", "--for", "SEP001122AA0001"); !strings.Contains(out, "5060") || strings.Contains(out, "9090") {
		t.Errorf("vpn policy --for says\n%s", out)
	}
}
