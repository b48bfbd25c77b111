package vpn_test

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/vpn"
)

// lose drops, on arrival, datagrams of the channel that match; the senders learn nothing of it. The returned function ends it.
func (y *yard) lose(t *testing.T, match string) (undo func()) {
	t.Helper()
	a := y.nft(t, y.cl, "chain in { type filter hook input priority 0; udp sport 443 "+match+" drop; }")
	b := y.nft(t, y.gw, "chain in { type filter hook input priority 0; udp dport 443 "+match+" drop; }")
	return func() { a(); b() }
}

// nft loads rules into a namespace; the returned function takes them out.
func (y *yard) nft(t *testing.T, ns, rules string) (undo func()) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs Debian's nftables")
	}
	run := func(text string) error {
		cmd := exec.Command("ip", "netns", "exec", ns, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("nft: %v %s", err, out)
		}
		return nil
	}
	if err := run("table ip fault {\n" + rules + "\n}\n"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := run("delete table ip fault\n"); err != nil {
			t.Error(err)
		}
	}
}

// alice connects as a user with the given arguments.
func (y *yard) alice(t *testing.T, url string, args ...string) *client {
	t.Helper()
	oc := y.openconnect(t, url, "correct horse\n", append(args, "--user", "alice", "--passwd-on-stdin")...)
	oc.says("SCRIPT connect")
	return oc
}

// staffDPD shortens dead peer detection of the second policy.
func staffDPD(d time.Duration) func(*vpn.Options) {
	return func(o *vpn.Options) { o.Policies[1].DPD = d }
}

func TestDatagramsFallBackAndReturn(t *testing.T) {
	y := newYard(t)
	l := y.gateway(t, staffDPD(2*time.Second))
	oc := y.alice(t, "https://192.0.2.1/")
	oc.says("Established DTLS connection")
	until(t, "payload on UDP", func() bool { return l.Sessions()[0].Payload == "udp" })
	undo := y.lose(t, "")
	until(t, "payload on TCP", func() bool { return l.Sessions()[0].Payload == "tcp" })
	if err := y.ping("10.78.0.1"); err != nil {
		t.Error(err)
	}
	undo()
	oc.cmd.Process.Signal(unix.SIGUSR2) // reconnect at once instead of after a minute
	until(t, "payload on UDP again", func() bool { return l.Sessions()[0].Payload == "udp" })
	if err := y.ping("10.78.0.1"); err != nil {
		t.Error(err)
	}
	if s := l.Sessions(); len(s) != 1 || s[0].State != "up" {
		t.Errorf("sessions %+v", s)
	}
}

func TestAddressTranslationForgets(t *testing.T) {
	y := newYard(t)
	l := y.gateway(t)
	oc := y.alice(t, "https://192.0.2.1/")
	oc.says("Established DTLS connection")
	until(t, "payload on UDP", func() bool { return l.Sessions()[0].Payload == "udp" })
	at := func() netip.AddrPort {
		d := l.Sessions()[0].Datagrams
		return netip.MustParseAddrPort(d[strings.LastIndex(d, " ")+1:])
	}
	was := at()
	for i := range 3 {
		port := 40001 + i
		undo := y.nft(t, y.cl, fmt.Sprintf("chain out { type filter hook output priority -400; udp sport %d udp sport set %d; }\nchain in { type filter hook prerouting priority -400; udp dport %d udp dport set %d; }", was.Port(), port, port, was.Port()))
		if err := y.ping("10.78.0.1"); err != nil {
			t.Error(err)
		}
		if got := at(); int(got.Port()) != port || l.Sessions()[0].Payload != "udp" {
			t.Errorf("channel at %v, payload on %s; want port %d on udp", got, l.Sessions()[0].Payload, port)
		}
		undo()
	}
	if st := l.Stats().UDP; st.Roamed < 3 || st.Handshakes != 1 {
		t.Errorf("UDP %+v", st)
	}
}

func TestClientMovesToAnotherAddress(t *testing.T) {
	y := newYard(t)
	l := y.gateway(t, staffDPD(2*time.Second))
	oc := y.alice(t, "https://192.0.2.1/")
	before := l.Sessions()[0]
	for _, a := range []string{"192.0.2.2/24", "192.0.2.3/24"} { // deleting the first takes the second along
		exec.Command("ip", "-n", y.cl, "addr", "del", a, "dev", "eth0").Run()
	}
	exec.Command("ip", "-n", y.cl, "addr", "add", "192.0.2.77/24", "dev", "eth0").Run()
	until(t, "session from the new address", func() bool {
		s := l.Sessions()
		return len(s) == 1 && s[0].State == "up" && strings.HasPrefix(s[0].Remote, "192.0.2.77:")
	})
	oc.says("SCRIPT reconnect")
	if err := y.ping("10.78.0.1"); err != nil {
		t.Error(err)
	}
	if s := l.Sessions()[0]; s.ID != before.ID || s.Address != before.Address {
		t.Errorf("before %+v\nafter %+v", before, s)
	}
}

func TestLossyLink(t *testing.T) {
	y := newYard(t)
	l := y.gateway(t)
	y.serve(t, "10.78.0.1:5060")
	undo := y.lose(t, "numgen random mod 100 < 5")
	defer undo()
	oc := y.alice(t, "https://192.0.2.1/")
	oc.says("Established DTLS connection")
	until(t, "payload on UDP", func() bool { return l.Sessions()[0].Payload == "udp" })
	if err := y.echo(t, "10.78.0.1:5060", 256<<10); err != nil {
		t.Error(err)
	}
	if s := l.Sessions()[0]; s.Payload != "udp" || s.LossIn < 0.005 || s.LossIn > 0.2 {
		t.Errorf("loss %.3f, want about 0.05; session %+v", s.LossIn, s)
	}
}

func TestTrafficClassIsCopied(t *testing.T) {
	y := newYard(t)
	l := y.gateway(t)
	oc := y.alice(t, "https://192.0.2.1/")
	oc.says("Established DTLS connection")
	until(t, "payload on UDP", func() bool { return l.Sessions()[0].Payload == "udp" })
	undo := y.nft(t, y.cl, "counter ef {}\nchain in { type filter hook input priority 0; udp sport 443 ip dscp ef counter name ef; }")
	defer undo()
	in(t, y.gw, func() {
		c, err := net.Dial("udp4", net.JoinHostPort(l.Sessions()[0].Address.String(), "20000"))
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		for _, tos := range []int{0xb8, 0, 0xb8} {
			raw, _ := c.(*net.UDPConn).SyscallConn()
			_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, tos) })
			c.Write(make([]byte, 160))
		}
	})
	until(t, "two expedited datagrams", func() bool {
		out, _ := exec.Command("ip", "netns", "exec", y.cl, "nft", "list", "counters").Output()
		return strings.Contains(string(out), "packets 2 ")
	})
}

func TestRekeyByNewTunnel(t *testing.T) {
	y := newYard(t)
	l := y.gateway(t, func(o *vpn.Options) { o.Policies[1].Rekey = 2 * time.Second })
	y.alice(t, "https://192.0.2.1/")
	before := l.Sessions()[0]
	until(t, "two rekeys", func() bool { return l.Sessions()[0].Connects >= 3 })
	if err := y.ping("10.78.0.1"); err != nil {
		t.Error(err)
	}
	if s := l.Sessions(); len(s) != 1 || s[0].ID != before.ID || s[0].Address != before.Address {
		t.Errorf("sessions %+v", s)
	}
}

func TestSessionExpires(t *testing.T) {
	y := newYard(t)
	l := y.gateway(t, func(o *vpn.Options) { o.Policies[1].Session = 3 * time.Second })
	oc := y.alice(t, "https://192.0.2.1/")
	if text := oc.ended(); !strings.Contains(text, "session time is over") {
		t.Error("openconnect does not show why its session ended")
	}
	if n := len(l.Sessions()); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

func TestIPv6OutsideAndInside(t *testing.T) {
	y := newYard(t)
	l := y.gateway(t)
	oc := y.alice(t, "https://[2001:db8:2::1]/")
	oc.says("Established DTLS connection")
	until(t, "payload on UDP", func() bool { return l.Sessions()[0].Payload == "udp" })
	for _, a := range []string{"10.78.0.1", "2001:db8:78::1"} {
		if err := y.ping(a); err != nil {
			t.Error(err)
		}
	}
	s := l.Sessions()[0]
	if !s.Address6.IsValid() || !strings.HasPrefix(s.Remote, "[2001:db8:2::2]:") || s.MTU != 1400 {
		t.Errorf("session %+v", s)
	}
	if err := y.ping("2001:db8:78::1", "-s", "1352", "-M", "do"); err != nil {
		t.Error(err)
	}
}

func TestTLS12(t *testing.T) {
	y := newYard(t)
	l := y.gateway(t)
	for _, c := range []struct{ name, priority, want string }{
		{"with extended master secret: the exporter works", "NORMAL:-VERS-TLS1.3", "DTLS 1.2 PSK"},
		{"without: resumption", "NORMAL:-VERS-TLS1.3:%COMPAT", "DTLS 1.2 ECDHE-RSA-AES128-GCM-SHA256"}, // as the TLS cipher
	} {
		t.Run(c.name, func(t *testing.T) {
			oc := y.alice(t, "https://192.0.2.1/", "--gnutls-priority="+c.priority)
			oc.says("Established DTLS connection")
			until(t, "payload on UDP", func() bool { return l.Sessions()[0].Payload == "udp" })
			if s := l.Sessions()[0]; !strings.Contains(s.Channel, "TLS 1.2") || !strings.HasPrefix(s.Datagrams, c.want) {
				t.Errorf("session %+v", s)
			}
			if err := y.ping("10.78.0.1"); err != nil {
				t.Error(err)
			}
			oc.stop(unix.SIGINT)
			l.Kick("alice")
		})
	}
}

func TestMTUDetection(t *testing.T) {
	y := newYard(t)
	l := y.gateway(t, func(o *vpn.Options) { o.Policies[1].MTU = 1500 })
	// The path takes less than both ends believe, and tells nobody.
	undo := y.lose(t, "meta length > 1400")
	defer undo()
	oc := y.alice(t, "https://192.0.2.1/")
	line := oc.says("Detected MTU of")
	var n int
	if _, err := fmt.Sscanf(line[strings.Index(line, "MTU of"):], "MTU of %d", &n); err != nil || n < 1300 || n > 1400-28-38 {
		t.Errorf("%q; want about %d", line, 1400-28-38)
	}
	if s := l.Sessions()[0]; s.MTU != 1434 {
		t.Errorf("announced %d, want 1434", s.MTU)
	}
}
