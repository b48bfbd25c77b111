package e2e

import (
	"context"
	"errors"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// elsewhere is a network where the appliance's gateway answers and nothing else of it does.
type elsewhere struct{ local netip.Addr }

func (e elsewhere) DialTCP(ctx context.Context, remote netip.AddrPort) (net.Conn, error) {
	if remote.Port() != 443 && remote.Port() != 444 {
		return nil, errors.New("no route to the house")
	}
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(e.local, 0))}
	return d.DialContext(ctx, "tcp", remote.String())
}

// silent is a socket whose packets get lost.
type silent struct{ net.PacketConn }

func (silent) WriteTo(b []byte, _ net.Addr) (int, error) { return len(b), nil }

func (e elsewhere) ListenUDP(local netip.AddrPort) (net.PacketConn, error) {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(local))
	return silent{c}, err
}

func (e elsewhere) Local(netip.Addr) (netip.Addr, error) { return e.local, nil }

func (e elsewhere) Lookup(_ context.Context, host string) (netip.Addr, error) {
	return netip.ParseAddr(host)
}

// TestPhonesLogIn takes phones home that log in by user and password, by password only, and by certificate. At the first address of
// the gateway nobody answers. The one with a certificate finds out by itself that it is not in the house.
func TestPhonesLogIn(t *testing.T) {
	feature.Proves(t, "VPN-1", "VPN-2", "VPN-3", "VPN-4", "VPN-6", "VPN-7")
	text := strings.Replace(vpnSite, "lines:\n", "  - {device: SEP001122AA0004, model: \"8851\", vpn: typed}\nlines:\n", 1)
	d := newDaemon(t, strings.Replace(text, `hosts: ["{{.Address}}"]`, `hosts: ["{{.Address}}:444", "{{.Address}}"]`, 1))
	for i, c := range []struct {
		name, device, model string
		change              func(*phone.Options)
		user, method        string
	}{
		{"user and password", "SEP001122AA0004", "8851", func(o *phone.Options) { o.Outside, o.VPNUser, o.VPNPassword = true, "uma", umaPassword }, "uma", "password"},
		{"password only", "SEP001122AA0002", "8841", func(o *phone.Options) { o.Outside, o.VPNPassword = true, doorPassword }, "", "password"},
		{"certificate", "SEP001122AA0001", "8851", func(o *phone.Options) { o.Net = elsewhere{o.Local} }, "", "certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			here := *d
			here.t = t
			flash := t.TempDir()
			office := here.newPhoneAt(flash, c.device, c.model, i+1)
			here.ready(office)
			office.Stop()
			wrong := here.newPhoneAt(flash, c.device, c.model, i+1, c.change, func(o *phone.Options) { o.VPNPassword = "wrong" + o.VPNPassword })
			if c.method == "password" {
				if err := wrong.Boot(within(t, 30*time.Second)); err == nil {
					t.Error("a wrong password is let in")
				}
			}
			wrong.Stop()
			home := here.newPhoneAt(flash, c.device, c.model, i+1, c.change)
			here.ready(home)
			inner, ok := home.Tunnel()
			if !ok {
				t.Fatal("no tunnel")
			}
			who := c.user
			if who == "" {
				who = c.device
			}
			eventually(t, 10*time.Second, "payload goes over UDP", func() bool { return here.session(who).Payload == "udp" })
			s := here.session(who)
			if s.Address != inner.String() || s.Method != c.method || !strings.HasPrefix(s.UDP, "DTLS 1.2 ECDHE-RSA-AES") {
				t.Errorf("session %+v, tunnel %v", s, inner)
			}
			home.Stop()
		})
	}
}

// correlation is how much of what sounds a tone of hz explains, 1 being all, and which part of the time sounds. Silence is counted apart:
// on a busy machine the programs at the ends send less than 50 packets a second, and what they leave out nobody has lost.
func correlation(samples []int16, hz float64) (r, sounds float64) {
	const window = 160
	power := func(w []int16) (sum float64) {
		for _, v := range w {
			sum += float64(v) * float64(v)
		}
		return sum
	}
	loudest := 0.0
	for i := 0; i+window <= len(samples); i += window {
		loudest = max(loudest, power(samples[i:i+window]))
	}
	all, n := 0, 0
	for i := 0; i+window <= len(samples); i += window {
		w := samples[i : i+window]
		if all++; power(w) < loudest/2 || loudest == 0 {
			continue
		}
		var c, s float64
		for k, v := range w {
			sin, cos := math.Sincos(2 * math.Pi * hz * float64(k) / 8000)
			c, s = c+float64(v)*cos, s+float64(v)*sin
		}
		r, n = r+math.Sqrt(2*(c*c+s*s)/(power(w)*window)), n+1
	}
	return r / float64(max(n, 1)), float64(n) / float64(max(all, 1))
}

// echoed waits until a second of the call is the tone again.
func echoed(t *testing.T, c *phone.Call, hz float64) {
	t.Helper()
	c.ResetAudio()
	eventually(t, 30*time.Second, "the echo comes back", func() bool {
		r, sounds := correlation(c.Samples(time.Second), hz)
		return r > 0.9 && sounds > 0.3
	})
}

// TestCallBesideDownload makes a call through openconnect's tunnel to Debian's baresip, which sends back what it hears, while 40
// Mbit/s are downloaded through the same tunnel; then the client's address changes in the middle of the call.
func TestCallBesideDownload(t *testing.T) {
	feature.Proves(t, "VPN-8")
	h := newHome(t)
	ada := h.d.newPhone("SEP001122AA0001", "8851", 1)
	h.d.ready(ada)
	log, process := h.connect("ada", vpnPassword+"\n", outer, "--user", "ada", "--passwd-on-stdin")
	says(t, log, "Established DTLS connection")
	h.baresipAt(h.d.session("ada").Address, "oc0", h.d, "udp", "PCMU/8000/1", true)

	ln, err := net.Listen("tcp", net.JoinHostPort(h.d.site.Address, "8081"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var sent atomic.Int64
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		// 40 Mbit/s: more would be a test of how the machine shares its processors among the programs of this test.
		line := time.NewTicker(10 * time.Millisecond)
		defer line.Stop()
		for b := make([]byte, 50<<10); ; <-line.C {
			n, err := c.Write(b)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	}()

	c, err := ada.Call(within(t, 10*time.Second), "303")
	if err != nil {
		t.Fatal(err)
	}
	c.SetTone(600)
	if err := c.WaitState(within(t, 20*time.Second), phone.Connected); err != nil {
		t.Fatal(err)
	}
	echoed(t, c, 600)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	download := h.command(ctx, "bash", "-c", "exec cat < /dev/tcp/"+h.d.site.Address+"/8081 > /dev/null")
	if err := download.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = download.Wait() }()
	eventually(t, 20*time.Second, "the download runs", func() bool { return sent.Load() > 4<<20 })
	before := c.Audio()
	if err := c.WaitPackets(within(t, 30*time.Second), before.Received+200); err != nil {
		t.Fatal(err)
	}
	a := c.Audio()
	lost, got := a.Lost-before.Lost, a.Received-before.Received
	r, sounds := correlation(c.Samples(4*time.Second), 600)
	t.Logf("beside a download of %d MB: %d of %d packets lost, correlation %.3f, sounds %.2f of the time, %v", sent.Load()>>20, lost, got+lost, r, sounds, a)
	if float64(lost) > 0.02*float64(got+lost) {
		t.Errorf("%d of %d packets are lost beside the download", lost, got+lost)
	}
	if r < 0.9 || sounds < 0.3 {
		t.Errorf("correlation of what comes back is %.3f, want 0.9; it sounds %.2f of the time, want 0.3", r, sounds)
	}
	if s := h.d.session("ada"); s.Payload != "udp" {
		t.Errorf("the call went over %q", s.Payload)
	}
	cancel()

	h.readdress("198.51.100.2", "198.51.100.3")
	if err := process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the session is back from the new address", func() bool {
		return strings.HasPrefix(h.d.session("ada").Remote, "198.51.100.3:")
	})
	echoed(t, c, 600) // the call goes on
	if err := c.Hangup(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	over(t, c)
}
