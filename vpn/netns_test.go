package vpn_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/vpn"
	"ringfence/vpn/policy"
	"ringfence/vpn/totp"
)

// yard is a pair of network namespaces. The gateway lives in the first, openconnect in the second:
//
//	gw: TUN (pools) + eth0 192.0.2.1/24 ──── veth ──── eth0 192.0.2.2/24 (and .3) + tun of openconnect: cl
type yard struct {
	gw, cl string
}

func newYard(t *testing.T) *yard {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	if _, err := exec.LookPath("openconnect"); err != nil {
		t.Skip("needs Debian's openconnect")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("needs /dev/net/tun")
	}
	t.Parallel() // each has namespaces of its own, and mostly waits
	id := fmt.Sprintf("rf%x", os.Getpid()&0xffff) + fmt.Sprintf("%x", time.Now().UnixNano()&0xffff)
	y := &yard{gw: id + "g", cl: id + "c"}
	for _, n := range []string{y.gw, y.cl} {
		if out, err := exec.Command("ip", "netns", "add", n).CombinedOutput(); err != nil {
			t.Skipf("cannot make a network namespace: %s", out)
		}
		t.Cleanup(func() { exec.Command("ip", "netns", "del", n).Run() })
	}
	for _, args := range []string{
		"-n " + y.gw + " link add eth0 type veth peer name eth0 netns " + y.cl,
		"-n " + y.gw + " addr add 192.0.2.1/24 dev eth0",
		"-n " + y.gw + " addr add 2001:db8:2::1/64 dev eth0 nodad",
		"-n " + y.gw + " link set eth0 up",
		"-n " + y.gw + " link set lo up",
		"-n " + y.cl + " addr add 192.0.2.2/24 dev eth0",
		"-n " + y.cl + " addr add 192.0.2.3/24 dev eth0",
		"-n " + y.cl + " addr add 2001:db8:2::2/64 dev eth0 nodad",
		"-n " + y.cl + " link set eth0 up",
		"-n " + y.cl + " link set lo up",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v %s", args, err, out)
		}
	}
	return y
}

// in runs f with its thread in a namespace. Sockets and devices made by f stay there.
func in(t testing.TB, ns string, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		h, err := os.Open("/run/netns/" + ns)
		if err == nil {
			err = unix.Setns(int(h.Fd()), unix.CLONE_NEWNET)
			h.Close()
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// gateway starts a real gateway on port 443 of the gw namespace, with a real TUN device.
func (y *yard) gateway(t *testing.T, change ...func(*vpn.Options)) *lab {
	t.Helper()
	l := &lab{notes: &notes{}, options: labOptions()}
	l.options.Note, l.options.Listen, l.options.TUN = l.notes.add, "[::]:443", "vpn0"
	l.options.Services = append(l.options.Services, vpn.Rule{Proto: policy.TCP, First: 6970, Last: 6970})
	for _, c := range change {
		c(&l.options)
	}
	in(t, y.gw, func() {
		g, err := vpn.New(l.options)
		if err != nil {
			t.Error(err)
			return
		}
		l.Gateway = g
	})
	if l.Gateway == nil {
		t.FailNow()
	}
	t.Cleanup(l.Stop)
	if err := l.Start(); err != nil {
		t.Fatal(err)
	}
	return l
}

// client is a running openconnect.
type client struct {
	t     *testing.T
	cmd   *exec.Cmd
	ns    string
	mu    sync.Mutex
	lines []string
	done  chan struct{}
}

// script is the vpnc-script of the tests: it sets address, MTU and routes with ip, and nothing of the machine.
const script = `#!/bin/sh
case "$reason" in
connect|reconnect)
	ip link set "$TUNDEV" up mtu "$INTERNAL_IP4_MTU"
	[ -n "$INTERNAL_IP4_ADDRESS" ] && ip addr replace "$INTERNAL_IP4_ADDRESS/32" dev "$TUNDEV"
	[ -n "$INTERNAL_IP6_NETMASK" ] && ip -6 addr replace "$INTERNAL_IP6_NETMASK" dev "$TUNDEV" nodad
	[ -n "$INTERNAL_IP4_NETMASKLEN" ] && ip route replace "$INTERNAL_IP4_NETADDR/$INTERNAL_IP4_NETMASKLEN" dev "$TUNDEV"
	i=0
	while [ "$i" -lt "${CISCO_SPLIT_INC:-0}" ]; do
		eval "ip route replace \$CISCO_SPLIT_INC_${i}_ADDR/\$CISCO_SPLIT_INC_${i}_MASKLEN dev $TUNDEV"
		i=$((i+1))
	done
	echo "SCRIPT $reason $INTERNAL_IP4_ADDRESS dns=$INTERNAL_IP4_DNS inc=$CISCO_SPLIT_INC banner=$CISCO_BANNER ip6=$INTERNAL_IP6_NETMASK"
	;;
*)
	echo "SCRIPT $reason" ;;
esac
`

// openconnect starts the client in the cl namespace. stdin is the password.
func (y *yard) openconnect(t *testing.T, url, stdin string, args ...string) *client {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "script")
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("pin-sha256:%s", pin(serverCert().Leaf))
	all := append([]string{"netns", "exec", y.cl, "openconnect", "--servercert", sum, "--script", path, "--non-inter", "-v", "--timestamp", "-i", "tun0"}, args...)
	c := &client{t: t, ns: y.cl, done: make(chan struct{})}
	c.cmd = exec.Command("ip", append(all, url)...)
	c.cmd.Stdin = strings.NewReader(stdin)
	c.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stdout, c.cmd.Stderr = w, w
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the kernel kills the client when the thread that started it ends: keep that thread
		defer runtime.UnlockOSThread()
		started <- c.cmd.Start()
		w.Close()
		sc := bufio.NewScanner(r)
		for sc.Scan() {
			c.mu.Lock()
			c.lines = append(c.lines, sc.Text())
			c.mu.Unlock()
		}
		c.cmd.Wait()
		close(c.done)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.stop(unix.SIGTERM)
		if t.Failed() {
			t.Log(c.text())
		}
	})
	return c
}

// stop ends the process and waits for it.
func (c *client) stop(sig unix.Signal) {
	select {
	case <-c.done:
		return
	default:
	}
	c.cmd.Process.Signal(sig)
	select {
	case <-c.done:
	case <-time.After(5 * time.Second):
		c.cmd.Process.Kill()
		<-c.done
	}
}

func (c *client) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.lines, "\n")
}

// says waits for text in the output.
func (c *client) says(text string) string {
	c.t.Helper()
	for range 600 {
		c.mu.Lock()
		for _, l := range c.lines {
			if strings.Contains(l, text) {
				c.mu.Unlock()
				return l
			}
		}
		c.mu.Unlock()
		select {
		case <-c.done:
			if !strings.Contains(c.text(), text) {
				c.t.Fatalf("openconnect ended without %q:\n%s", text, c.text())
			}
		case <-time.After(25 * time.Millisecond):
		}
	}
	c.t.Fatalf("openconnect does not say %q:\n%s", text, c.text())
	return ""
}

// ended waits for the end of the process.
func (c *client) ended() string {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(15 * time.Second):
		c.t.Fatalf("openconnect goes on:\n%s", c.text())
	}
	return c.text()
}

// ping pings from the client's side.
func (y *yard) ping(addr string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	all := append([]string{"netns", "exec", y.cl, "ping", "-n", "-c", "3", "-i", "0.1", "-W", "3"}, args...)
	out, err := exec.CommandContext(ctx, "ip", append(all, addr)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ping %s: %v\n%s", addr, err, out)
	}
	return nil
}

// serve answers TCP connections in the gateway's namespace by echoing.
func (y *yard) serve(t *testing.T, addr string) {
	t.Helper()
	in(t, y.gw, func() {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					io.Copy(c, c)
				}()
			}
		}()
	})
}

// echo sends n bytes through an echo service from the client's side and compares.
func (y *yard) echo(t *testing.T, addr string, n int) error {
	t.Helper()
	var res error
	in(t, y.cl, func() {
		c, err := net.DialTimeout("tcp", addr, 3*time.Second)
		if err != nil {
			res = err
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		want := bytes.Repeat([]byte("0123456789abcdef"), n/16)
		go func() {
			c.Write(want)
			c.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil {
			res = err
		} else if !bytes.Equal(got, want) {
			res = errors.New("bytes changed on the way")
		}
	})
	return res
}

func TestOpenconnectByPassword(t *testing.T) {
	y := newYard(t)
	l := y.gateway(t)
	y.serve(t, "10.78.0.1:5060")
	y.serve(t, "10.78.0.1:8443")
	c := y.openconnect(t, "https://192.0.2.1/", "correct horse\n", "--user", "alice", "--passwd-on-stdin", "--no-dtls")
	line := c.says("SCRIPT connect")
	if !strings.Contains(line, "dns=10.78.0.1") || !strings.Contains(line, "inc=1") || !strings.Contains(line, "banner=Be kind") {
		t.Errorf("openconnect was told %q", line)
	}
	if err := y.ping("10.78.0.1"); err != nil {
		t.Error(err)
	}
	if err := y.ping("10.78.0.1", "-s", "1372", "-M", "do"); err != nil {
		t.Error(err)
	}
	if err := y.echo(t, "10.78.0.1:5060", 4<<20); err != nil {
		t.Error(err)
	}
	if err := y.echo(t, "10.78.0.1:8443", 16); err == nil {
		t.Error("a port that the policy does not permit is reached")
	}
	s := l.Sessions()[0]
	if s.Forbidden == 0 || s.RxBytes < 4<<20 || s.TxBytes < 4<<20 || s.Name != "alice" {
		t.Errorf("session %+v", s)
	}
	c.stop(unix.SIGINT)
	until(t, "session away", func() bool { return len(l.Sessions()) == 0 || l.Sessions()[0].State == "away" })
}

func TestOpenconnectByCertificate(t *testing.T) {
	y := newYard(t)
	l := y.gateway(t)
	file := pemFile(t, testCA().issue(phone, nil, time.Hour))
	for _, c := range []struct {
		name string
		args []string
	}{
		{"XML", nil},
		{"plain form", []string{"--no-xmlpost"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			oc := y.openconnect(t, "https://192.0.2.1/svc", "", append(c.args, "-c", file, "--no-dtls")...)
			oc.says("SCRIPT connect")
			if err := y.ping("10.77.0.1"); err != nil {
				t.Error(err)
			}
			if err := y.ping("192.0.2.1", "-I", "tun0"); err != nil {
				t.Error(err) // the address that phones know
			}
			if s := l.Sessions()[0]; s.Name != phone || s.Method != "certificate" {
				t.Errorf("session %+v", s)
			}
			oc.stop(unix.SIGTERM)
		})
	}
}

func TestOpenconnectReconnects(t *testing.T) {
	y := newYard(t)
	l := y.gateway(t, func(o *vpn.Options) { o.Policies[0].DPD = 2 * time.Second })
	oc := y.openconnect(t, "https://192.0.2.1/svc", "", "-c", pemFile(t, testCA().issue(phone, nil, time.Hour)), "--no-dtls", "--reconnect-timeout", "20")
	oc.says("SCRIPT connect")
	before := l.Sessions()[0]
	// The network goes away for longer than dead peer detection waits, and comes back.
	exec.Command("ip", "-n", y.cl, "link", "set", "eth0", "down").Run()
	until(t, "the gateway notices", func() bool { return l.Sessions()[0].State == "away" })
	exec.Command("ip", "-n", y.cl, "link", "set", "eth0", "up").Run()
	oc.says("SCRIPT reconnect")
	if err := y.ping("10.77.0.1"); err != nil {
		t.Error(err)
	}
	after := l.Sessions()
	if len(after) != 1 || after[0].ID != before.ID || after[0].Address != before.Address || after[0].Connects < 2 {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
	if !l.Kick(before.ID) {
		t.Error("session to kick not found")
	}
	if text := oc.ended(); !strings.Contains(text, "administrator") {
		t.Error("openconnect does not show why it was put out")
	}
}

func TestOpenconnectRefused(t *testing.T) {
	y := newYard(t)
	l := y.gateway(t, func(o *vpn.Options) { o.Policies = o.Policies[:1]; o.Policies[0].Password = false })
	for _, c := range []struct {
		name, url, stdin, want string
		args                   []string
	}{
		{"password where a certificate is needed", "https://192.0.2.1/phones", "correct horse\n", "401", []string{"--user", "alice", "--passwd-on-stdin"}},
		{"wrong password, plain form", "https://192.0.2.1/svc", "wrong\n", "401", []string{"--no-xmlpost", "--user", "alice", "--passwd-on-stdin"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if text := y.openconnect(t, c.url, c.stdin, c.args...).ended(); !strings.Contains(text, c.want) || strings.Contains(text, "SCRIPT connect") {
				t.Errorf("openconnect says:\n%s", text)
			}
		})
	}
	if n := len(l.Sessions()); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

func TestOpenconnectDatagrams(t *testing.T) {
	y := newYard(t)
	l := y.gateway(t)
	y.serve(t, "10.78.0.1:5060")
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		{"PSK", "DTLS 1.2 PSK", nil},
		{"resumption ECDHE-RSA-AES256-GCM", "DTLS 1.2 ECDHE-RSA-AES256-GCM-SHA384", []string{"--dtls-ciphers=NONE", "--dtls12-ciphers=ECDHE-RSA-AES256-GCM-SHA384"}},
		{"resumption ECDHE-RSA-AES128-GCM", "DTLS 1.2 ECDHE-RSA-AES128-GCM-SHA256", []string{"--dtls-ciphers=NONE", "--dtls12-ciphers=ECDHE-RSA-AES128-GCM-SHA256"}},
		{"resumption AES256-GCM", "DTLS 1.2 AES256-GCM-SHA384", []string{"--dtls-ciphers=NONE", "--dtls12-ciphers=AES256-GCM-SHA384"}},
		{"resumption AES128-GCM", "DTLS 1.2 AES128-GCM-SHA256", []string{"--dtls-ciphers=NONE", "--dtls12-ciphers=AES128-GCM-SHA256"}},
		{"resumption AES256-SHA", "DTLS 1.2 AES256-SHA", []string{"--dtls-ciphers=NONE", "--dtls12-ciphers=AES256-SHA"}},
		{"legacy AES256-SHA", "DTLS 0.9 AES256-SHA", []string{"--dtls-ciphers=AES256-SHA", "--dtls12-ciphers=NONE"}},
		{"legacy AES128-SHA", "DTLS 0.9 AES128-SHA", []string{"--dtls-ciphers=AES128-SHA", "--dtls12-ciphers=NONE"}},
		{"legacy DHE-RSA-AES256-SHA", "DTLS 0.9 DHE-RSA-AES256-SHA", []string{"--dtls-ciphers=DHE-RSA-AES256-SHA", "--dtls12-ciphers=NONE"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			oc := y.openconnect(t, "https://192.0.2.1/", "correct horse\n", append(c.args, "--user", "alice", "--passwd-on-stdin")...)
			oc.says("SCRIPT connect")
			oc.says("Established DTLS connection")
			until(t, "payload on UDP", func() bool { return l.Sessions()[0].Payload == "udp" })
			if s := l.Sessions()[0]; !strings.HasPrefix(s.Datagrams, c.want+" ") {
				t.Errorf("channel %q, want %s", s.Datagrams, c.want)
			}
			if err := y.ping("10.78.0.1"); err != nil {
				t.Error(err)
			}
			if err := y.ping("10.78.0.1", "-s", fmt.Sprint(l.Sessions()[0].MTU-28), "-M", "do"); err != nil {
				t.Error(err)
			}
			if err := y.echo(t, "10.78.0.1:5060", 4<<20); err != nil {
				t.Error(err)
			}
			st := l.Stats().UDP
			if st.Bad > 0 || st.Channels != 1 || st.Datagrams < 1000 {
				t.Errorf("UDP %+v", st)
			}
			oc.stop(unix.SIGINT)
			l.Kick(l.Sessions()[0].ID)
		})
	}
}

func TestOpenconnectSecondFactor(t *testing.T) {
	y := newYard(t)
	secret := totp.NewSecret()
	var last atomic.Uint64
	l := y.gateway(t, func(o *vpn.Options) {
		o.Policies[1].SecondFactor = true
		o.CheckCode = func(user, code string) bool {
			c, ok := totp.Verify(secret, code, time.Now(), last.Load())
			if ok {
				last.Store(c)
			}
			return ok && user == "alice"
		}
	})
	oc := y.alice(t, "https://192.0.2.1/", "--token-mode=totp", "--token-secret=base32:"+totp.Text(secret))
	if s := l.Sessions(); len(s) != 1 || s[0].Name != "alice" {
		t.Errorf("sessions %+v", s)
	}
	if !strings.Contains(oc.text(), "authenticator") {
		t.Error("openconnect was not asked for the code")
	}
}

func TestOpenconnectLogsOut(t *testing.T) {
	y := newYard(t)
	l := y.gateway(t)
	oc := y.alice(t, "https://192.0.2.1/staff", "--no-dtls")
	oc.stop(unix.SIGINT)
	until(t, "session away after the goodbye", func() bool { return len(l.Sessions()) == 0 || l.Sessions()[0].State == "away" })
}
