package flow_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"
	"go.uber.org/goleak"

	"ringfence/sip/flow"
	"ringfence/sip/internal/siptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options(n int, extra string) string {
	return siptest.Wire(fmt.Sprintf("OPTIONS sip:a@10.20.0.5 SIP/2.0\nVia: SIP/2.0/TCP 10.20.4.31:51234;branch=z9hG4bK%d;rport\n"+
		"From: <sip:b@10.20.0.5>;tag=1\nTo: <sip:a@10.20.0.5>\nCall-ID: c\nCSeq: %d OPTIONS\n%s", n, n, extra))
}

// echo answers requests with 200 and counts closed flows.
type echo struct {
	mu     sync.Mutex
	seqs   []uint32
	flows  map[string]flow.Flow
	closed chan error
}

func (e *echo) message(f flow.Flow, m sip.Message) {
	req, ok := m.(*sip.Request)
	if !ok {
		return
	}
	e.mu.Lock()
	e.seqs = append(e.seqs, req.CSeq().SeqNo)
	e.flows[f.ID()] = f
	e.mu.Unlock()
	_ = f.Send(sip.NewResponseFromRequest(req, 200, "OK", nil))
}

func (e *echo) only(t *testing.T) flow.Flow {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.flows) != 1 {
		t.Fatalf("%d flows, want 1", len(e.flows))
	}
	for _, f := range e.flows {
		return f
	}
	return nil
}

func serve(t *testing.T, o flow.Options) (*flow.Manager, *echo) {
	t.Helper()
	e := &echo{flows: make(map[string]flow.Flow), closed: make(chan error, 5000)}
	if o.Listen == nil {
		o.Listen = []flow.Listen{{Transport: "TCP", Addr: netip.MustParseAddrPort("127.0.0.1:0")}}
	}
	if o.OnMessage == nil {
		o.OnMessage = e.message
	}
	o.OnClose = func(_ flow.Flow, err error) { e.closed <- err }
	m, err := flow.New(o)
	if err != nil {
		t.Fatal(err)
	}
	m.Start()
	m.Start()
	t.Cleanup(func() { m.Stop(); m.Stop() })
	return m, e
}

func (e *echo) reason(t *testing.T) error {
	t.Helper()
	select {
	case err := <-e.closed:
		return err
	case <-time.After(siptest.Wait):
		t.Fatal("flow not closed")
		return nil
	}
}

func TestPipelinedRequestsKeepTheirOrder(t *testing.T) {
	m, e := serve(t, flow.Options{})
	c := siptest.Dial(t, "tcp", m.Addr("TCP").String(), nil)
	const n = 2000
	var all strings.Builder
	for i := 1; i <= n; i++ {
		all.WriteString(options(i, ""))
	}
	// In pieces that end anywhere.
	for b := []byte(all.String()); len(b) > 0; {
		k := min(1459, len(b))
		if _, err := c.Net.Write(b[:k]); err != nil {
			t.Fatal(err)
		}
		b = b[k:]
	}
	for i := 1; i <= n; i++ {
		if got := c.Response().CSeq().SeqNo; got != uint32(i) {
			t.Fatalf("answer %d is for CSeq %d", i, got)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, s := range e.seqs {
		if s != uint32(i+1) {
			t.Fatalf("request %d has CSeq %d", i+1, s)
		}
	}
}

func TestKeepAlive(t *testing.T) {
	m, _ := serve(t, flow.Options{})
	c, err := net.Dial("tcp", m.Addr("TCP").String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, piece := range []string{"\r\n\r\n", "\r", "\n", "\r\n"} { // the second one byte by byte
		if _, err := io.WriteString(c, piece); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(siptest.Wait))
	buf := make([]byte, 4)
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "\r\n\r\n" {
		t.Errorf("read %q, %v; want one CRLF for each pair", buf, err)
	}
}

func TestMessageInSmallPieces(t *testing.T) {
	m, _ := serve(t, flow.Options{})
	c := siptest.Dial(t, "tcp", m.Addr("TCP").String(), nil)
	msg := options(1, "Content-Type: text/plain\nX-Long: "+strings.Repeat("x", 5000)+"\n\nbody")
	for b := msg; len(b) > 0; {
		k := min(97, len(b))
		if _, err := io.WriteString(c.Net, b[:k]); err != nil {
			t.Fatal(err)
		}
		b = b[k:]
	}
	if res := c.Response(); res.StatusCode != 200 {
		t.Errorf("answer %d", res.StatusCode)
	}
}

func TestMalformed(t *testing.T) {
	bad := strings.Replace(options(7, ""), "CSeq: 7 OPTIONS", "CSeq: 7 INVITE", 1)
	t.Run("skipped when its end is certain", func(t *testing.T) {
		m, _ := serve(t, flow.Options{})
		c := siptest.Dial(t, "tcp", m.Addr("TCP").String(), nil)
		fmt.Fprint(c.Net, bad+options(8, ""))
		if a, b := c.Response(), c.Response(); a.StatusCode != 400 || a.CSeq().SeqNo != 7 || b.StatusCode != 200 || b.CSeq().SeqNo != 8 {
			t.Errorf("answers %s, %s", a.Short(), b.Short())
		}
	})
	t.Run("not for ever", func(t *testing.T) {
		m, e := serve(t, flow.Options{})
		c := siptest.Dial(t, "tcp", m.Addr("TCP").String(), nil)
		fmt.Fprint(c.Net, strings.Repeat(bad, 20))
		if err := e.reason(t); !errors.Is(err, flow.ErrBadData) {
			t.Errorf("closed with %v", err)
		}
		if n := m.Stats().Malformed; n != 6 {
			t.Errorf("%d counted, want 6", n)
		}
	})
	for name, b := range map[string]string{
		"garbage":                    strings.Repeat("\x16\x03\x01\x02\x00garbage\r\n\r\n", 30),
		"HTTP":                       "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"no Content-Length":          strings.Replace(options(1, ""), "Content-Length: 0\r\n", "", 1),
		"negative Content-Length":    strings.Replace(options(1, ""), "Content-Length: 0", "Content-Length: -1", 1),
		"overlong Content-Length":    strings.Replace(options(1, ""), "Content-Length: 0", "Content-Length: 4294967297", 1),
		"two Content-Lengths":        strings.Replace(options(1, ""), "Content-Length: 0", "l: 4\r\nContent-Length: 0", 1),
		"endless header":             "OPTIONS sip:a@b SIP/2.0\r\nX: " + strings.Repeat("x", 200000),
		"body longer than the limit": strings.Replace(options(1, ""), "Content-Length: 0", "Content-Length: 70000", 1),
	} {
		t.Run("closed: "+name, func(t *testing.T) {
			m, e := serve(t, flow.Options{})
			c, err := net.Dial("tcp", m.Addr("TCP").String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, _ = io.WriteString(c, b)
			if err := e.reason(t); !errors.Is(err, flow.ErrBadData) {
				t.Errorf("closed with %v", err)
			}
			e.mu.Lock()
			defer e.mu.Unlock()
			if len(e.seqs) != 0 {
				t.Errorf("%d messages handed up", len(e.seqs))
			}
		})
	}
}

func TestDeadlines(t *testing.T) {
	t.Run("nobody keeps it", func(t *testing.T) {
		m, e := serve(t, flow.Options{Unregistered: 50 * time.Millisecond})
		c := siptest.Dial(t, "tcp", m.Addr("TCP").String(), nil)
		c.Write(options(1, "")) // traffic alone does not
		c.Response()
		if err := e.reason(t); !errors.Is(err, flow.ErrIdle) {
			t.Errorf("closed with %v", err)
		}
		c.Closed()
	})
	t.Run("kept", func(t *testing.T) {
		m, e := serve(t, flow.Options{Unregistered: 100 * time.Millisecond})
		c := siptest.Dial(t, "tcp", m.Addr("TCP").String(), nil)
		c.Write(options(1, ""))
		c.Response()
		opened := time.Now()
		flow.Keep(e.only(t), opened.Add(400*time.Millisecond))
		if err := e.reason(t); !errors.Is(err, flow.ErrIdle) || time.Since(opened) < 350*time.Millisecond {
			t.Errorf("closed with %v after %v", err, time.Since(opened))
		}
	})
	t.Run("message begun and not ended", func(t *testing.T) {
		m, e := serve(t, flow.Options{MessageTime: 50 * time.Millisecond})
		c := siptest.Dial(t, "tcp", m.Addr("TCP").String(), nil)
		fmt.Fprint(c.Net, "OPTIONS sip:a@b")
		if err := e.reason(t); !errors.Is(err, flow.ErrIdle) || !strings.Contains(err.Error(), "middle") {
			t.Errorf("closed with %v", err)
		}
	})
	t.Run("message that drips", func(t *testing.T) {
		m, e := serve(t, flow.Options{MessageTime: 200 * time.Millisecond})
		c := siptest.Dial(t, "tcp", m.Addr("TCP").String(), nil)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for _, b := range []byte(options(1, "X: "+strings.Repeat("x", 1000))) {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
					_, _ = c.Net.Write([]byte{b})
				}
			}
		})
		if err := e.reason(t); !errors.Is(err, flow.ErrIdle) {
			t.Errorf("closed with %v", err)
		}
		close(stop)
		wg.Wait()
	})
	t.Run("TLS handshake never begun", func(t *testing.T) {
		m, _ := serve(t, tlsOptions(t, flow.Options{Handshake: 50 * time.Millisecond}))
		c, err := net.Dial("tcp", m.Addr("TLS").String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(siptest.Wait))
		if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("still open")
		}
	})
}

func TestPeerThatDoesNotRead(t *testing.T) {
	flows := make(chan flow.Flow, 1)
	m, e := serve(t, flow.Options{WriteTime: 100 * time.Millisecond, OnMessage: func(f flow.Flow, _ sip.Message) { flows <- f }})
	c, err := net.Dial("tcp", m.Addr("TCP").String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.(*net.TCPConn).SetReadBuffer(4096)
	fmt.Fprint(c, options(1, ""))
	f := <-flows
	big := siptest.Request(t, options(1, "Content-Type: text/plain\n\n"+strings.Repeat("x", 60000)))
	full := false
	for range 1000 {
		if err := f.Send(big); err != nil {
			full = true
			if !errors.Is(err, flow.ErrFull) && !errors.Is(err, flow.ErrClosed) {
				t.Errorf("Send: %v", err)
			}
			break
		}
	}
	if !full {
		t.Fatal("60 MB were queued")
	}
	if err := e.reason(t); !errors.Is(err, flow.ErrFull) {
		t.Errorf("closed with %v", err)
	}
}

func TestLimits(t *testing.T) {
	for name, o := range map[string]flow.Options{
		"strangers":  {MaxFlows: 6}, // half
		"per source": {MaxPerSource: 3},
	} {
		t.Run(name, func(t *testing.T) {
			m, e := serve(t, o)
			var conns []*siptest.Conn
			for i := range 3 {
				c := siptest.Dial(t, "tcp", m.Addr("TCP").String(), nil)
				c.Write(options(i+1, ""))
				c.Response()
				conns = append(conns, c)
			}
			siptest.Dial(t, "tcp", m.Addr("TCP").String(), nil).Closed()
			if s := m.Stats(); s.Refused != 1 || s.Flows != 3 {
				t.Errorf("stats %+v", s)
			}
			conns[0].Close()
			e.reason(t)
			c := siptest.Dial(t, "tcp", m.Addr("TCP").String(), nil)
			c.Write(options(9, ""))
			c.Response()
		})
	}
}

func TestStrangersLeaveRoomForPhones(t *testing.T) {
	m, e := serve(t, flow.Options{MaxFlows: 4})
	dial := func() *siptest.Conn { return siptest.Dial(t, "tcp", m.Addr("TCP").String(), nil) }
	register := func(c *siptest.Conn) {
		c.Write(options(1, ""))
		c.Response()
		f := e.only(t)
		flow.Keep(f, time.Now().Add(time.Hour))
		e.mu.Lock()
		clear(e.flows)
		e.mu.Unlock()
	}
	for range 2 {
		register(dial())
	}
	a, b := dial(), dial() // two strangers
	a.Write(options(2, ""))
	a.Response()
	b.Write(options(2, ""))
	b.Response()
	dial().Closed() // full
	a.Close()
	e.reason(t)
	c := dial()
	c.Write(options(3, ""))
	c.Response()
	if got := m.Stats(); got.Flows != 4 || got.Refused != 1 {
		t.Errorf("%+v", got)
	}
}

func TestPanicEndsOneFlow(t *testing.T) {
	m, e := serve(t, flow.Options{OnMessage: func(f flow.Flow, m sip.Message) {
		if m.CSeq().SeqNo == 13 {
			panic("boom")
		}
		_ = f.Send(sip.NewResponseFromRequest(m.(*sip.Request), 200, "OK", nil))
	}})
	a := siptest.Dial(t, "tcp", m.Addr("TCP").String(), nil)
	b := siptest.Dial(t, "tcp", m.Addr("TCP").String(), nil)
	a.Write(options(1, ""))
	a.Response()
	b.Write(options(13, ""))
	b.Closed()
	if err := e.reason(t); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("closed with %v", err)
	}
	a.Write(options(2, ""))
	a.Response()
}

func TestUDP(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::]:0"} {
		t.Run(addr, func(t *testing.T) {
			m, e := serve(t, flow.Options{
				Listen: []flow.Listen{{Transport: "UDP", Addr: netip.MustParseAddrPort(addr)}}, UDPIdle: 80 * time.Millisecond,
			})
			to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), m.Addr("UDP").Port()).String()
			c := siptest.Dial(t, "udp", to, nil)
			for i := range 100 { // junk makes no state
				fmt.Fprintf(c.Net, "junk %d", i)
			}
			fmt.Fprint(c.Net, "\r\n\r\n")
			if n := m.Stats().Flows; n != 0 {
				t.Errorf("%d flows made by junk", n)
			}
			long := options(1, "Content-Type: text/plain\n\n"+strings.Repeat("x", 9000))
			c.Write(long)
			res := c.Response()
			via := res.Via().Params
			if v, _ := via.Get("received"); v != "127.0.0.1" {
				t.Errorf("received=%s", v)
			}
			if v, _ := via.Get("rport"); c.Local() != "127.0.0.1:"+v {
				t.Errorf("rport=%s, sent from %s", v, c.Local())
			}
			f := e.only(t)
			if f.Local().Addr().String() != "127.0.0.1" || f.Remote().String() != c.Local() || f.Secure() || f.Transport() != "UDP" {
				t.Errorf("flow %v -> %v", f.Remote(), f.Local())
			}
			if err := e.reason(t); !errors.Is(err, flow.ErrIdle) {
				t.Errorf("closed with %v", err)
			}
			if err := f.Send(res); !errors.Is(err, flow.ErrClosed) {
				t.Errorf("Send after the end: %v", err)
			}
		})
	}
}

func TestIPv6(t *testing.T) {
	ln, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 loopback")
	}
	ln.Close()
	m, e := serve(t, flow.Options{Listen: []flow.Listen{{Transport: "TCP", Addr: netip.MustParseAddrPort("[::1]:0")}}})
	c := siptest.Dial(t, "tcp", m.Addr("TCP").String(), nil)
	c.Write(options(1, ""))
	if v, _ := c.Response().Via().Params.Get("received"); v != "::1" {
		t.Errorf("received=%s", v)
	}
	if got := e.only(t).Remote().Addr().String(); got != "::1" {
		t.Errorf("remote %s", got)
	}
}

// recorder counts TLS records of application data.
type recorder struct {
	net.Conn
	mu   sync.Mutex
	read bytes.Buffer
}

func TestDial(t *testing.T) {
	m, e := serve(t, flow.Options{})
	answers := make(chan sip.Message, 1)
	client, _ := serve(t, flow.Options{Listen: []flow.Listen{}, OnMessage: func(_ flow.Flow, m sip.Message) { answers <- m }})
	f, err := client.Dial(t.Context(), "TCP", m.Addr("TCP"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Send(siptest.Request(t, options(1, ""))); err != nil {
		t.Fatal(err)
	}
	if res := (<-answers).(*sip.Response); res.StatusCode != 200 {
		t.Errorf("answer %d", res.StatusCode)
	}
	f.Close(nil)
	e.reason(t)
	if _, err := client.Dial(t.Context(), "TCP", netip.MustParseAddrPort("127.0.0.1:1"), nil); err == nil {
		t.Error("dialled a closed port")
	}
}

func TestGarbageFlood(t *testing.T) {
	m, e := serve(t, flow.Options{MaxPerSource: 100000, MaxFlows: 100000})
	good := siptest.Dial(t, "tcp", m.Addr("TCP").String(), nil)
	good.Write(options(1, ""))
	good.Response()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 60 {
				c, err := net.Dial("tcp", m.Addr("TCP").String())
				if err != nil {
					t.Error(err)
					return
				}
				b := make([]byte, 3000)
				_, _ = rand.Read(b)
				copy(b[1000:], "\r\n\r\n")
				if (w+i)%2 == 0 {
					copy(b, "INVITE sip:x SIP/2.0\r\nContent-Length: 4\r\n")
				}
				_, _ = c.Write(b)
				c.Close()
			}
		})
	}
	wg.Wait()
	for range 8 * 60 {
		e.reason(t)
	}
	good.Write(options(2, ""))
	good.Response()
	if n := m.Stats().Flows; n != 1 {
		t.Errorf("%d flows left, want 1", n)
	}
}
