package phone

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"

	"ringfence/trust"
	"ringfence/vpn/cstp"
)

var (
	homeAddr  = netip.MustParseAddr("198.51.100.5") // the appliance, inside
	innerAddr = netip.MustParseAddr("198.51.100.77")
)

// gateway is a VPN gateway for one phone at a time, with the appliance on a network stack behind it.
type gateway struct {
	t    *testing.T
	port int

	ready chan *tunnel
	split bool // each data frame in two records
	hosts func(*tunnel)
	login func(w io.Writer, r *http.Request) bool
}

func newGateway(t *testing.T, id trust.Signer) *gateway {
	g := &gateway{t: t, ready: make(chan *tunnel, 4)}
	g.port = listenTLS(t, id, true, g.serve)
	return g
}

// frames is the server's end of CSTP as a gate.
type frames struct {
	c     *tls.Conn
	split bool
	mu    sync.Mutex
	buf   []byte
}

func (f *frames) Address() netip.Addr { return homeAddr }
func (f *frames) MTU() int            { return 1290 }
func (f *frames) Close() error        { return f.c.Close() }

func (f *frames) WritePacket(b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := cstp.Frame{Type: cstp.Data, Payload: b}.Append(nil)
	if f.split {
		if _, err := f.c.Write(out[:8]); err != nil {
			return err
		}
		out = out[8:]
	}
	_, err := f.c.Write(out)
	return err
}

func (f *frames) ReadPacket(b []byte) (int, error) {
	for {
		frame, rest, err := cstp.Next(f.buf)
		if errors.Is(err, cstp.ErrShort) || len(f.buf) == 0 {
			more := make([]byte, 17<<10)
			n, err := f.c.Read(more)
			if err != nil {
				return 0, err
			}
			f.buf = append(f.buf, more[:n]...)
			continue
		}
		if err != nil {
			return 0, err
		}
		n := 0
		if frame.Type == cstp.Data {
			n = copy(b, frame.Payload)
		}
		f.buf = append([]byte(nil), rest...)
		if n > 0 {
			return n, nil
		}
	}
}

func (g *gateway) serve(c *tls.Conn) {
	br := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if g.login != nil && g.login(c, r) {
			continue
		}
		switch r.Method {
		case "GET":
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nSet-Cookie: webvpn=; expires=Thu, 01 Jan 1970 22:00:00 GMT; path=/; secure\r\n"+
				"Set-Cookie: webvpnlogin=1; secure\r\nX-Transcend-Version: 1\r\nContent-Length: 0\r\n\r\n")
		case "POST":
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\nSet-Cookie: webvpn=TOKEN; secure\r\nX-Transcend-Version: 1\r\n\r\n")
		case "CONNECT":
			done := make(chan struct{})
			t, err := newTunnel(&frames{c: c, split: g.split}, nil, slog.New(slog.DiscardHandler), func(*tunnel, error) { close(done) })
			if err != nil {
				g.t.Error(err)
				return
			}
			if g.hosts != nil {
				g.hosts(t)
			}
			fmt.Fprintf(c, "HTTP/1.1 200 CONNECTED\r\nX-CSTP-Version: 1\r\nX-CSTP-Address: %s\r\nX-CSTP-Netmask: 255.255.255.0\r\nX-CSTP-MTU: 1290\r\nX-CSTP-DPD: 30\r\nX-CSTP-Keepalive: 20\r\n\r\n", innerAddr)
			g.ready <- t
			<-done
			t.close()
			return
		}
	}
}

func (g *gateway) xml(hash string) string {
	return fmt.Sprintf(`<vpnGroup><mtu>1290</mtu><failConnectTime>5</failConnectTime><authMethod>2</authMethod><autoNetDetect>1</autoNetDetect>
<addresses><url1>https://127.0.0.1:%d/svc</url1></addresses><credentials><hashAlg>0</hashAlg><certHash1>%s</certHash1></credentials></vpnGroup>`, g.port, hash)
}

// outside takes a world whose phone has booted in the office once and now cannot reach its file server but by VPN.
func outside(t *testing.T, hash string) (*world, *gateway) {
	w := newWorld(t)
	g := newGateway(t, signer(t, "vpn"))
	if hash == "" {
		hash = trust.VPNHash(signer(t, "vpn").Cert.Raw)
	}
	w.xml["vpn"] = g.xml(hash)
	w.giveLSC()
	w.pbx = newPBX(t, w)
	w.publish()
	w.boot()
	w.phn.Stop()
	w.phn = nil
	w.opt.Server, w.opt.Outside, w.opt.Timers.TFTP = homeAddr, true, 5*time.Millisecond
	return w, g
}

// home puts file server, call server and echo of the world on the inner stack.
func (w *world) home(t *tunnel) {
	files, err := gonet.ListenTCP(t.stack, full(netip.AddrPortFrom(homeAddr, uint16(w.opt.HTTPPort))), ipv4.ProtocolNumber)
	if err != nil {
		w.t.Error(err)
		return
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b, ok := w.files.get("vpn " + strings.TrimPrefix(r.URL.Path, "/"))
		if !ok {
			http.NotFound(rw, r)
			return
		}
		rw.Header().Set("Content-Length", fmt.Sprint(len(b)))
		_, _ = rw.Write(b)
	})}
	t.tasks.Go("test files", func(context.Context) { _ = srv.Serve(files) })
	calls, err := gonet.ListenTCP(t.stack, full(netip.AddrPortFrom(homeAddr, 5060)), ipv4.ProtocolNumber)
	if err != nil {
		w.t.Error(err)
		return
	}
	t.tasks.Go("test calls", func(ctx context.Context) {
		var wg sync.WaitGroup
		defer wg.Wait()
		for {
			c, err := calls.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { w.pbx.serve(c) })
		}
	})
	t.tasks.Go("test end", func(ctx context.Context) {
		<-ctx.Done()
		w.pbx.shut()
		srv.Close()
		calls.Close()
	})
	rtp, err := t.ListenUDP(netip.AddrPortFrom(homeAddr, 20000))
	if err != nil {
		w.t.Error(err)
		return
	}
	w.pbx.mu.Lock()
	w.pbx.echo = echoOn(w.t, rtp)
	w.pbx.mu.Unlock()
}

// At home with the family: files, registration and audio go through the tunnel (anyconnect §4).
func TestThroughTheTunnel(t *testing.T) {
	w, g := outside(t, "")
	g.hosts = w.home
	s := strings.NewReplacer("<processNodeName>127.0.0.1", "<processNodeName>"+homeAddr.String(), fmt.Sprintf("<sipPort>%d", w.pbx.port), "<sipPort>5060")
	full := []byte(s.Replace(w.deviceFile()))
	w.files.put(device+".cnf.xml.sgn", w.sign(device+".cnf.xml.sgn", full))
	w.files.forget()
	p := w.boot()
	if a, ok := p.Tunnel(); !ok || a != innerAddr {
		t.Fatalf("tunnel address %v %v", a, ok)
	}
	if got := w.files.requests(); !strings.HasPrefix(got, "vpn ITL") || strings.Contains(got, "http ") || strings.Contains(got, "tftp ") {
		t.Errorf("asked outside the tunnel:\n%s", got)
	}
	ctx := w.ctx()
	if err := p.Register(ctx); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(p.Contact(), innerAddr.String()) {
		t.Errorf("contact %s", p.Contact())
	}
	c, err := p.Call(ctx, "302")
	if err == nil {
		err = c.WaitTone(ctx, 1004)
	}
	if err != nil {
		t.Fatal(err)
	}
	if a := c.Audio(); a.Remote.Addr() != homeAddr || a.Lost != 0 {
		t.Errorf("audio %+v", a)
	}
	if err := c.Hangup(ctx); err != nil {
		t.Error(err)
	}
	w.noRefusals()
	p.CloseVPN()
	if err := p.Wait(ctx, func() bool { return !p.Registered() }); err != nil {
		t.Error("registered without a tunnel")
	}
}

func TestRefusesVPN(t *testing.T) {
	for _, tc := range []struct {
		name  string
		hash  string
		wrong func(g *gateway)
		kind  Kind
	}{
		{"certificate of another gateway", trust.VPNHash(signer(t, "stranger").Cert.Raw), func(*gateway) {}, VPNCertificate},
		{"no expiring cookie", "", func(g *gateway) {
			g.login = func(w io.Writer, r *http.Request) bool {
				fmt.Fprint(w, "HTTP/1.1 200 OK\r\nSet-Cookie: webvpnlogin=1; secure\r\nContent-Length: 0\r\n\r\n")
				return true
			}
		}, VPNLogin},
		{"credentials refused", "", func(g *gateway) {
			g.login = func(w io.Writer, r *http.Request) bool {
				if r.Method == "POST" {
					fmt.Fprint(w, "HTTP/1.1 401 Authentication failed\r\nContent-Length: 0\r\n\r\n")
				}
				return r.Method == "POST"
			}
		}, VPNLogin},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, g := outside(t, tc.hash)
			tc.wrong(g)
			if err := w.phone().Boot(w.ctx()); !RefusedAs(err, tc.kind) {
				t.Errorf("boot: %v", err)
			}
			w.refused(tc.kind)
			if _, ok := w.phone().Tunnel(); ok {
				t.Error("a tunnel all the same")
			}
		})
	}
}

// A CSTP frame in two TLS records ends the tunnel (anyconnect §6).
func TestRefusesSplitFrame(t *testing.T) {
	w, g := outside(t, "")
	g.split = true
	_ = w.phone().Boot(w.ctx())
	if err := w.phone().Wait(w.ctx(), func() bool { return w.phone().Refusals()[SplitRecord] > 0 }); err != nil {
		t.Fatalf("the phone lived on: %v", w.phone().Refusals())
	}
	w.refused(SplitRecord)
	if _, ok := w.phone().Tunnel(); ok {
		t.Error("the tunnel is still there")
	}
}

// autoNetDetect: a file server that answers keeps the VPN closed.
func TestInsideOpensNoVPN(t *testing.T) {
	w, g := outside(t, "")
	w.opt.Server, w.opt.Outside = loopback, false
	w.boot()
	if _, ok := w.phone().Tunnel(); ok {
		t.Error("tunnel in the office")
	}
	select {
	case <-g.ready:
		t.Error("gateway was used")
	default:
	}
	// The same phone with a file server that is not there.
	w.opt.HTTPPort, w.opt.TFTPPort = 1, 1
	w.reboot()
	ctx, cancel := context.WithCancel(w.ctx())
	done := make(chan struct{})
	go func() { _ = w.phn.Boot(ctx); close(done) }()
	err := w.phn.Wait(w.ctx(), func() bool { _, ok := w.phn.Tunnel(); return ok })
	cancel()
	<-done
	if err != nil {
		t.Error("no tunnel although nothing answers")
	}
}
