package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// host is a network namespace beside the appliance's, joined by a cable:
//
//	appliance's namespace: every 192.0.2.0/24 on lo, 198.51.100.1/24 on the cable ──── 198.51.100.2/24 host
type host struct {
	t   *testing.T
	pid string
}

func newHost(t *testing.T) *host {
	t.Helper()
	holder := exec.Command("unshare", "--net", "sleep", "600")
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() })
	h := &host{t, strconv.Itoa(holder.Process.Pid)}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the host has a namespace of its own", func() bool {
		l, err := os.Readlink("/proc/" + h.pid + "/ns/net")
		return err == nil && l != own
	})
	for _, cmd := range [][]string{
		{"ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", h.pid},
		{"ip", "addr", "add", "198.51.100.1/24", "dev", "cable"}, {"ip", "link", "set", "cable", "up"},
	} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "cable").Run() })
	h.run("ip", "link", "set", "lo", "up")
	h.run("ip", "addr", "add", "198.51.100.2/24", "dev", "cable")
	h.run("ip", "link", "set", "cable", "up")
	h.run("ip", "route", "add", network+".0/24", "via", "198.51.100.1")
	return h
}

func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=/proc/" + h.pid + "/ns/net", "--"}, args...)...)
}

// try runs a command on the host and returns what it printed.
func (h *host) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := h.command(ctx, args...).CombinedOutput()
	return string(out), err
}

func (h *host) run(args ...string) string {
	h.t.Helper()
	out, err := h.try(args...)
	if err != nil {
		h.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

// openconnectScript does for openconnect what Debian's vpnc-script does, without touching the machine's resolver.
const openconnectScript = `#!/bin/sh
case "$reason" in connect|reconnect) ;; *) exit 0;; esac
ip link set dev $TUNDEV mtu $INTERNAL_IP4_MTU up
[ -n "$INTERNAL_IP4_ADDRESS" ] && ip addr replace $INTERNAL_IP4_ADDRESS/32 dev $TUNDEV
[ -n "$INTERNAL_IP6_ADDRESS" ] && ip -6 addr replace $INTERNAL_IP6_ADDRESS/128 dev $TUNDEV nodad
i=0; routes=; out=
while [ $i -lt ${CISCO_SPLIT_INC:-0} ]; do
	eval "n=\$CISCO_SPLIT_INC_${i}_ADDR/\$CISCO_SPLIT_INC_${i}_MASKLEN"
	ip route replace $n dev $TUNDEV; routes="$routes $n"; i=$((i+1))
done
i=0
while [ $i -lt ${CISCO_IPV6_SPLIT_INC:-0} ]; do
	eval "n=\$CISCO_IPV6_SPLIT_INC_${i}_ADDR/\$CISCO_IPV6_SPLIT_INC_${i}_MASKLEN"
	ip -6 route replace $n dev $TUNDEV; routes="$routes $n"; i=$((i+1))
done
i=0
while [ $i -lt ${CISCO_SPLIT_EXC:-0} ]; do eval "out=\"\$out \$CISCO_SPLIT_EXC_${i}_ADDR/\$CISCO_SPLIT_EXC_${i}_MASKLEN\""; i=$((i+1)); done
echo "TOLD routes=$routes exclude=$out dns=$INTERNAL_IP4_DNS domain=$CISCO_DEF_DOMAIN split=$CISCO_SPLIT_DNS banner=$CISCO_BANNER"
echo "CONNECTED $INTERNAL_IP4_ADDRESS $INTERNAL_IP6_ADDRESS $reason"
`

// openconnect connects and returns what it printed so far, and how to end it.
func (h *host) openconnect(input string, args ...string) (log *lockedBuffer, hangUp func()) {
	h.t.Helper()
	log, hangUp, _ = h.startOpenconnect(input, args...)
	return log, hangUp
}

func (h *host) startOpenconnect(input string, args ...string) (log *lockedBuffer, hangUp func(), process *os.Process) {
	h.t.Helper()
	script := filepath.Join(h.t.TempDir(), "script")
	if err := os.WriteFile(script, []byte(openconnectScript), 0o700); err != nil {
		h.t.Fatal(err)
	}
	cmd := h.command(context.Background(), append([]string{"openconnect", "--script", script, "--interface", "oc0"}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	log = &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	over := false
	hangUp = func() {
		if over {
			return
		}
		over = true
		_ = cmd.Process.Signal(syscall.SIGINT)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
		}
	}
	h.t.Cleanup(hangUp)
	return log, hangUp, cmd.Process
}

// TestOpenconnect logs in to the gateway with Debian's openconnect: with the certificate that a phone was enrolled with, and with
// user and password; with a wrong password it stays out.
func TestOpenconnect(t *testing.T) {
	feature.Proves(t, "VPN-1", "VPN-3")
	d := newDaemon(t, morning)
	p := d.newPhone("SEP001122AA0001", "8851", 1)
	d.ready(p)
	p.Stop()
	h := newHost(t)
	gateway := d.site.Pool + ".1"
	pin := func() string {
		out, _ := h.try("openconnect", "--authenticate", "--non-inter", d.site.Address)
		_, after, ok := strings.Cut(out, "--servercert ")
		if !ok {
			t.Fatalf("openconnect names no certificate:\n%s", out)
		}
		f := strings.Fields(after)
		return f[0]
	}()
	lsc := filepath.Join(filepath.Dir(d.config), "SEP001122AA0001", "lsc.pem")
	for name, c := range map[string]struct {
		input string
		args  []string
		who   string
	}{
		"certificate": {"", []string{"-c", lsc}, "SEP001122AA0001"},
		"password":    {vpnPassword + "\n", []string{"--user", "ada", "--passwd-on-stdin"}, "ada"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &host{t, h.pid}
			log, hangUp := h.openconnect(c.input, append(c.args, "--servercert", pin, "--no-dtls", d.site.Address)...)
			eventually(t, 20*time.Second, "openconnect is connected", func() bool { return strings.Contains(log.String(), "CONNECTED "+d.site.Pool) })
			h.run("ip", "route", "replace", gateway+"/32", "dev", "oc0")
			if out, err := h.try("ping", "-c", "2", "-W", "2", gateway); err != nil {
				t.Errorf("no ping through the tunnel: %v\n%s\n%s", err, out, log)
			}
			// Telephony is open, pages and metrics are not (VPN-9).
			if out, err := h.try("curl", "-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "http://"+gateway+":9090/metrics"); err == nil {
				t.Errorf("metrics are reachable through the tunnel: %s", out)
			}
			var sessions []struct {
				Device string `json:"device"`
				User   string `json:"user"`
			}
			d.json(&sessions, "vpn", "sessions")
			if len(sessions) != 1 || sessions[0].Device+sessions[0].User != c.who {
				t.Errorf("vpn sessions says %+v, want %s", sessions, c.who)
			}
			hangUp()
			// Some clients say goodbye and come right back, so a session outlives a goodbye for a while (anyconnect.md §8).
			eventually(t, 25*time.Second, "the session is over", func() bool { d.json(&sessions, "vpn", "sessions"); return len(sessions) == 0 })
		})
	}
	out, err := func() (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		cmd := h.command(ctx, "openconnect", "--authenticate", "--user", "ada", "--passwd-on-stdin", "--non-inter", "--servercert", pin, d.site.Address)
		cmd.Stdin = strings.NewReader("wrong\n")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}()
	if err == nil {
		t.Errorf("a wrong password is let in:\n%s", out)
	}
}

// baresip runs Debian's baresip on the host, registered as line 303. As an echo it says what it hears, decoded, so that a caller
// hears himself if both directions work; else it says a tone of 1500 Hz. (Its bridge device, which makes the echo, often sends nothing
// after a call of its own was ringing for a while.)
func (h *host) baresip(d *daemon, transport string, echo bool) {
	h.t.Helper()
	h.baresipWith(d, transport, "PCMU/8000/1", echo)
}

func (h *host) baresipWith(d *daemon, transport, codec string, echo bool) {
	h.t.Helper()
	h.baresipAt("198.51.100.2", "cable", d, transport, codec, echo)
}

// baresipAt is baresip at another address of the host.
func (h *host) baresipAt(address, device string, d *daemon, transport, codec string, echo bool) {
	t := h.t
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	audio := "audio_source aufile," + dir + "/tone.wav\naudio_player aubridge,sink\n"
	if echo {
		audio = "audio_source aubridge,loop\naudio_player aubridge,loop\n"
	}
	writeTone(t, filepath.Join(dir, "tone.wav"), 1500, 60*time.Second)
	write("config", `sip_listen `+address+`:5070
net_interface `+device+`
module_path /usr/lib/baresip/modules
module g711.so
module g722.so
module aubridge.so
module aufile.so
module_app account.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen 198.51.100.2:4444
`+audio)
	write("accounts", fmt.Sprintf("<sip:303@%s;transport=%s>;auth_user=303;auth_pass=%s;answermode=auto;regint=120;audio_codecs=%s\n", d.site.Address, transport, cleoPassword, codec))
	write("contacts", "")
	cmd := h.command(context.Background(), "baresip", "-f", dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		stdin.Close()
		if t.Failed() {
			t.Logf("baresip:\n%s", tail(log.String(), 4000))
		}
	})
	eventually(t, 20*time.Second, "303 is registered", func() bool {
		var line struct {
			Registered bool `json:"registered"`
		}
		d.json(&line, "line", "show", "303")
		return line.Registered
	})
}

// TestBaresip registers Debian's baresip as an ordinary line and lets it be called by a Cisco phone, and call one.
func TestBaresip(t *testing.T) {
	feature.Proves(t, "CAL-1", "CAL-6")
	d := newDaemon(t, morning)
	ada := d.newPhone("SEP001122AA0001", "8851", 1)
	d.ready(ada)
	h := newHost(t)
	hears := func(t *testing.T, c *phone.Call, hz float64) {
		t.Helper()
		c.SetTone(600)
		ctx := within(t, 20*time.Second)
		if err := c.WaitState(ctx, phone.Connected); err != nil {
			t.Fatal(err)
		}
		eventually(t, 20*time.Second, "ada hears baresip", func() bool {
			a := c.Audio()
			return math.Abs(a.Hz-hz) < hz/100 && a.Share > 0.5
		})
		if c.Audio().Suite == "" {
			t.Error("ada's leg is not encrypted")
		}
		if err := c.Hangup(ctx); err != nil {
			t.Fatal(err)
		}
		over(t, c)
		d.quiet()
	}
	for _, transport := range []string{"udp", "tcp"} {
		t.Run("called over "+transport, func(t *testing.T) {
			(&host{t, h.pid}).baresip(d, transport, true)
			c, err := ada.Call(within(t, 10*time.Second), "303") // baresip answers by itself
			if err != nil {
				t.Fatal(err)
			}
			hears(t, c, 600)
		})
		t.Run("calls over "+transport, func(t *testing.T) {
			(&host{t, h.pid}).baresip(d, transport, false)
			control(t, "198.51.100.2:4444", "dial", "301")
			ctx := within(t, 20*time.Second)
			c, err := ada.WaitIncoming(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Remote(); got.Number != "303" || got.Name != "Cleo" {
				t.Errorf("ada sees %+v, want Cleo at 303", got)
			}
			if err := c.Answer(ctx); err != nil {
				t.Fatal(err)
			}
			hears(t, c, 1500)
		})
	}
	unharmed(t, ada)
}

// writeTone writes a WAV file with a tone, 8 kHz, 16 bits, mono.
func writeTone(t *testing.T, name string, hz float64, long time.Duration) {
	t.Helper()
	n := uint32(long.Seconds() * 8000)
	b := []byte("RIFF")
	b = binary.LittleEndian.AppendUint32(b, 36+2*n)
	b = append(b, "WAVEfmt "...)
	for _, v := range []uint32{16, 1 | 1<<16, 8000, 16000, 2 | 16<<16} { // PCM, one channel; rates; block and bits
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	b = append(b, "data"...)
	b = binary.LittleEndian.AppendUint32(b, 2*n)
	for i := range n {
		b = binary.LittleEndian.AppendUint16(b, uint16(int16(8000*math.Sin(2*math.Pi*hz*float64(i)/8000))))
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// control sends a command to baresip's control socket.
func control(t *testing.T, address, command, params string) {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text := fmt.Sprintf(`{"command":%q,"params":%q}`, command, params)
	fmt.Fprintf(c, "%d:%s,", len(text), text)
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 512)); err != nil {
		t.Fatalf("baresip does not answer %s: %v", command, err)
	}
}
