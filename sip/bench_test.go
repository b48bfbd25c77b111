package sip

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sipgo "github.com/emiago/sipgo/sip"

	"ringfence/sip/flow"
	"ringfence/sip/internal/siptest"
	"ringfence/sip/state"
)

// raw is a client that costs little: it sends prepared text and looks for the end of a header.
type raw struct {
	net.Conn
	buf []byte
}

func (r *raw) exchange(b testing.TB, msg string) string {
	if _, err := io.WriteString(r.Conn, msg); err != nil {
		b.Fatal(err)
	}
	n := 0
	for {
		k, err := r.Read(r.buf[n:])
		if err != nil {
			b.Fatal(err)
		}
		n += k
		if strings.Contains(string(r.buf[:n]), "\r\n\r\n") {
			return string(r.buf[:n])
		}
	}
}

// register is one refresh as a phone does it: REGISTER, 401, REGISTER with digest, 200.
func (r *raw) register(b testing.TB, line, device string, seq int, extra string) {
	local := r.LocalAddr().String()
	msg := func(seq int, auth string) string {
		return fmt.Sprintf("REGISTER sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP %s;branch=z9hG4bK%s%d\r\nFrom: <sip:%s@127.0.0.1>;tag=t%d\r\nTo: <sip:%s@127.0.0.1>\r\n"+
			"Call-ID: %s-bench\r\nMax-Forwards: 70\r\nDate: Mon, 05 Jan 2026 08:59:58 GMT\r\nCSeq: %d REGISTER\r\nUser-Agent: Cisco-CP8861/14.1.1\r\n"+
			"Contact: <sip:%s@%s;transport=tcp>;+sip.instance=\"<urn:uuid:00000000-0000-0000-0000-02aa11bb22c1>\";+u.sip!devicename.ccm.cisco.com=\"%s\"\r\n"+
			"Supported: replaces,join,sdp-anat,norefersub,resource-priority,extended-refer,X-cisco-callinfo,X-cisco-serviceuri,X-cisco-escapecodes\r\n"+
			"Expires: 3600\r\n%s%sContent-Length: 0\r\n\r\n", local, line, seq, line, seq, line, line, seq, line, local, device, auth, extra)
	}
	res := r.exchange(b, msg(2*seq, ""))
	_, challenge, _ := strings.Cut(res, "WWW-Authenticate: ")
	challenge, _, _ = strings.Cut(challenge, "\r\n")
	auth := "Authorization: " + siptest.Authorization(challenge, "REGISTER", "sip:127.0.0.1", line, "pw"+device) + "\r\n"
	if res := r.exchange(b, msg(2*seq+1, auth)); !strings.HasPrefix(res, "SIP/2.0 200") {
		b.Fatalf("answer %.300s", res)
	}
}

// BenchmarkRegister measures authenticated refreshes (two requests, two answers) by eight phones in turn; client and server
// share the machine, so the time is that of both.
func BenchmarkRegister(b *testing.B) {
	for _, transport := range []string{"TCP", "TLS"} {
		b.Run(transport, func(b *testing.B) {
			s, _ := serve(b, declared{n: 8}, nil)
			var clients []*raw
			for i := 1; i <= 8; i++ {
				var c net.Conn
				var err error
				if transport == "TLS" {
					c, err = tls.Dial("tcp", s.Addr("TLS").String(), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*certificate(b, name(i))}})
				} else {
					c, err = net.Dial("tcp", s.Addr("TCP").String())
				}
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				r := &raw{Conn: c, buf: make([]byte, 1<<16)}
				r.register(b, number(10000, i), name(i), 1, "")
				time.Sleep(20 * time.Millisecond) // the burst
				_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
				for {
					if _, err := c.Read(r.buf); err != nil {
						break
					}
				}
				_ = c.SetReadDeadline(time.Time{})
				clients = append(clients, r)
			}
			b.ReportAllocs()
			var wg sync.WaitGroup
			b.ResetTimer()
			for i, r := range clients {
				wg.Go(func() {
					for n := i; n < b.N; n += len(clients) {
						r.register(b, number(10000, i+1), name(i+1), n+10, "")
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "registers/s")
		})
	}
}

// BenchmarkMemoryPerTLSPhone reports what a registered, idle TLS phone costs: heap and stacks of the server. The phones are
// in another process, this test binary started again.
func BenchmarkMemoryPerTLSPhone(b *testing.B) {
	const n = 500
	s, _ := serve(b, declared{n: n}, nil)
	measure := func() uint64 {
		runtime.GC()
		runtime.GC()
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := measure()
	cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=TestPhonesProcess")
	cmd.Env = append(os.Environ(), "RINGFENCE_PHONES="+s.Addr("TLS").String())
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	scan := bufio.NewScanner(out)
	for scan.Scan() && scan.Text() != "ready" {
	}
	if got := s.Flows().Stats().Flows; got != n {
		b.Fatalf("%d phones, want %d", got, n)
	}
	b.ReportMetric(float64(measure()-before)/n/1024, "KiB/phone")
	b.ReportMetric(0, "ns/op")
	in.Close()
	_ = cmd.Wait()
}

// TestPhonesProcess is the other process of BenchmarkMemoryPerTLSPhone: it registers phones and waits for the end of its input.
func TestPhonesProcess(t *testing.T) {
	addr := os.Getenv("RINGFENCE_PHONES")
	if addr == "" {
		t.Skip("only as a child of BenchmarkMemoryPerTLSPhone")
	}
	const n = 500
	for i := 1; i <= n; i++ {
		c := siptest.Dial(t, "tcp", addr, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*certificate(t, name(i))}})
		p := &siptest.Phone{
			Conn: c, Line: number(10000, i), Password: "pw" + name(i), Device: name(i), CallID: fmt.Sprint("mem", i), Expires: 3600,
			UserAgent: "Cisco-CP8851/14.2.1",
		}
		if res := p.Register(); res.StatusCode != 200 {
			t.Fatal(res.StatusCode)
		}
		for range 3 {
			p.Request()
		}
	}
	fmt.Println("ready")
	_, _ = io.ReadAll(os.Stdin)
}

// BenchmarkWatchers measures from a change of state until the last of 500 watchers, each on its own connection, was written to.
func BenchmarkWatchers(b *testing.B) {
	const n = 500
	var written atomic.Int64
	done := make(chan time.Time, 1)
	s, _ := serve(b, declared{n: n}, func(o *Options) {
		o.Trace = func(_ flow.Flow, out bool, m sipgo.Message) {
			if req, ok := m.(*sipgo.Request); ok && out && req.Method == sipgo.NOTIFY && written.Add(1) == n {
				done <- time.Now()
			}
		}
	})
	var phones []*siptest.Phone
	for i := range n {
		c := siptest.Dial(b, "tcp", s.Addr("TCP").String(), nil)
		line := fmt.Sprint(90001 + i)
		p := &siptest.Phone{Conn: c, Line: line, Password: "pw" + line, CallID: "watch" + line, Expires: 3600, UserAgent: "Vendor 1"}
		p.Register()
		if res := p.Do("SUBSCRIBE", "sip:10001@127.0.0.1", "sip:10001@127.0.0.1", "Event: presence\nExpires: 3600\n", ""); res.StatusCode != 200 {
			b.Fatal(res.StatusCode)
		}
		p.Request()
		phones = append(phones, p)
	}
	<-done
	var total, worst time.Duration
	rounds := 0
	for ; b.Loop(); rounds++ {
		written.Store(0)
		started := time.Now()
		s.State().SetLeg("10001", "x", state.Phase(1+rounds%2))
		took := (<-done).Sub(started)
		total, worst = total+took, max(worst, took)
		b.StopTimer()
		for _, p := range phones {
			p.Request()
		}
		time.Sleep(50 * time.Millisecond) // the answers
		b.StartTimer()
	}
	b.ReportMetric(float64(total.Microseconds())/float64(rounds)/1000, "ms-mean")
	b.ReportMetric(float64(worst.Microseconds())/1000, "ms-worst")
}

// BenchmarkPowerCut measures how long it takes until a thousand phones that come at once are registered and have their first
// lamps; one phone refused fails it. Clients and server share the machine.
func BenchmarkPowerCut(b *testing.B) {
	const n = 1000
	for b.Loop() {
		s, _ := serve(b, declared{n: n}, nil)
		var wg sync.WaitGroup
		started := time.Now()
		for i := 1; i <= n; i++ {
			wg.Go(func() {
				p := phone(b, s, "TCP", i)
				if res := p.Register(); res.StatusCode != 200 {
					b.Errorf("phone %d: %d", i, res.StatusCode)
					return
				}
				for range 3 {
					p.Request()
				}
			})
		}
		wg.Wait()
		b.ReportMetric(n/time.Since(started).Seconds(), "phones/s")
		s.Stop()
	}
}
