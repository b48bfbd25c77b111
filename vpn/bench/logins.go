package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ringfence/vpn/anyconnect/phoneclient"
)

const initPost = `<?xml version="1.0" encoding="UTF-8"?><config-auth client="vpn" type="init" aggregate-auth-version="2"><version who="vpn">v9</version><device-id>linux-64</device-id><group-access>https://192.0.2.1/</group-access></config-auth>`

// logins logs in n times by certificate, some at once, as AnyConnect does; no tunnel is made.
func (y *yard) logins(n int) (result, error) {
	cert, err := tls.LoadX509KeyPair(y.path("client.pem"), y.path("client.pem"))
	if err != nil {
		return result{}, err
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	began := time.Now()
	for range cap(errs) {
		wg.Go(func() {
			e := in(y.cl, func() {
				for next.Add(1) <= int64(n) {
					if err := login(&cert); err != nil {
						errs <- err
						return
					}
				}
			})
			if e != nil {
				errs <- e
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return result{}, err
	default:
	}
	return result{units: float64(n), unit: "logins", took: time.Since(began)}, nil
}

func login(cert *tls.Certificate) error {
	c, _, err := loggedIn(cert)
	if err == nil {
		c.Close()
	}
	return err
}

// loggedIn is a connection on which the client has logged in, and its cookie.
func loggedIn(cert *tls.Certificate) (c *tls.Conn, cookie string, err error) {
	c, err = tls.Dial("tcp", "192.0.2.1:443", &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*cert}})
	if err != nil {
		return nil, "", err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nUser-Agent: Open AnyConnect VPN Agent v9\r\nX-Transcend-Version: 1\r\nX-Aggregate-Auth: 1\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s", len(initPost), initPost)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(res.Body)
	if err == nil && !strings.Contains(string(body), `type="complete"`) {
		err = fmt.Errorf("log-in answered %s %s", res.Status, body)
	}
	for _, k := range res.Cookies() {
		if k.Name == "webvpn" {
			cookie = k.Value
		}
	}
	return c, cookie, err
}

// sessions makes sessions with a tunnel over TCP, which say nothing, and counts what each costs in memory: ours n, so that the garbage
// of their log-ins does not count for much, ocserv's few, since each is a process.
func (y *yard) sessions(n, few int) (result, error) {
	if running.ocserv.Load() {
		n = few
	}
	cert, err := tls.LoadX509KeyPair(y.path("client.pem"), y.path("client.pem"))
	if err != nil {
		return result{}, err
	}
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	pid := serverPID()
	began := time.Now()
	before := 0
	const warm = 10 // what the first ones make is for all
	for i := range n + warm {
		if i == warm {
			time.Sleep(time.Second)
			before = resident(pid)
		}
		e := in(y.cl, func() {
			var c *tls.Conn
			var cookie string
			if c, cookie, err = loggedIn(&cert); err != nil {
				return
			}
			conns = append(conns, c)
			fmt.Fprintf(c, "CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nHost: x\r\nUser-Agent: Open AnyConnect VPN Agent v9\r\nCookie: webvpn=%s\r\nX-CSTP-Version: 1\r\nX-CSTP-Hostname: bench\r\nX-CSTP-Base-MTU: 1500\r\nX-CSTP-MTU: 1400\r\nX-CSTP-Address-Type: IPv4\r\n\r\n", cookie)
			var status string
			if status, err = bufio.NewReader(c).ReadString('\n'); err == nil && !strings.Contains(status, " 200 ") {
				err = fmt.Errorf("CONNECT answered %s", status)
			}
		})
		if err = errors.Join(e, err); err != nil {
			return result{}, fmt.Errorf("session %d: %w", i, err)
		}
	}
	time.Sleep(time.Second)
	each := float64(resident(pid)-before) / float64(n)
	return result{units: float64(n), unit: "sessions", took: time.Since(began), cost: max(each, 0.1)}, nil
}

// resident is the memory of a process and all its descendants in KiB, pages that they share divided among them.
func resident(pid int) (sum int) {
	for _, p := range family(pid) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p))
		for l := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(l, "Pss:"); ok {
				n, _ := strconv.Atoi(strings.Fields(v)[0])
				sum += n
			}
		}
	}
	return sum
}

// crowd makes many phone sessions at once, lets a hundred of them send 50 packets a second each way, and counts what is lost.
// Server and clients share the machine.
func (y *yard) crowd(n, seconds int) (result, error) {
	pid := serverPID()
	idle := memory(pid)
	dial := func(ctx context.Context, network, address string) (c net.Conn, err error) {
		if e := in(y.cl, func() { c, err = (&net.Dialer{}).DialContext(ctx, network, address) }); e != nil {
			return nil, e
		}
		return c, err
	}
	conns := make([]*phoneclient.Conn, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	began := time.Now()
	for range cap(errs) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				c, err := phoneclient.Dial(context.Background(), phoneclient.Options{URL: "https://192.0.2.1/svc", CertHashes: []string{y.hash}, Auth: phoneclient.UserPassword,
					User: user, Password: password, Dial: dial, Timeout: 60 * time.Second})
				if err != nil {
					errs <- err
					return
				}
				conns[i] = c
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return result{}, err
	default:
	}
	up := time.Since(began)
	fmt.Printf("  %d sessions in %v, %.0f KiB of memory each\n", n, up.Round(time.Millisecond), float64(memory(pid)-idle)/float64(n))
	defer func() {
		for _, c := range conns {
			c.Drop()
		}
	}()
	var echo *net.UDPConn
	var err error
	_ = in(y.gw, func() {
		echo, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(inner), Port: trafficPort})
	})
	if err != nil {
		return result{}, err
	}
	defer echo.Close()
	_ = echo.SetReadBuffer(4 << 20) // who echoes is not measured
	go func() {
		b := make([]byte, 2048)
		for {
			k, from, err := echo.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = echo.WriteToUDPAddrPort(b[:k], from)
		}
	}()
	var sent, got atomic.Int64
	stop := time.Now().Add(time.Duration(seconds) * time.Second)
	const talkers = 100
	for i := range min(talkers, n) {
		c := conns[i*n/talkers]
		wg.Go(func() {
			pkt := udp(c.Address().As4(), [4]byte{10, 90, 0, 1}, payload)
			time.Sleep(time.Duration(i) * 20 * time.Millisecond / talkers)
			for next := time.Now(); time.Now().Before(stop); next = next.Add(20 * time.Millisecond) {
				time.Sleep(time.Until(next))
				if c.WritePacket(pkt) == nil {
					sent.Add(1)
				}
			}
		})
		go func() {
			b := make([]byte, 2048)
			for {
				if _, err := c.ReadPacket(b); err != nil {
					return
				}
				got.Add(1)
			}
		}()
	}
	wg.Wait()
	time.Sleep(300 * time.Millisecond)
	if sent.Load() == 0 {
		return result{}, errors.New("nothing was sent")
	}
	return result{units: float64(2 * got.Load()), unit: "packets", loss: 1 - float64(got.Load())/float64(sent.Load()), took: time.Duration(seconds) * time.Second}, nil
}

// udp is an IPv4 packet with a UDP datagram without checksum.
func udp(src, dst [4]byte, n int) []byte {
	b := make([]byte, 28+n)
	b[0], b[2], b[3], b[8], b[9] = 0x45, byte(len(b)>>8), byte(len(b)), 64, 17
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	b[20], b[21], b[22], b[23] = 0x80, 0, trafficPort>>8, trafficPort&0xff
	b[24], b[25] = byte((8+n)>>8), byte(8+n)
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	b[10], b[11] = byte(^sum>>8), byte(^sum)
	return b
}

// running is the server of this round.
var running struct {
	pid            atomic.Int64
	anchor, ocserv atomic.Bool
}

func serverPID() int { return int(running.pid.Load()) }

// memory is the private resident memory of a process, in KiB.
func memory(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for l := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(l, "RssAnon:"); ok {
			n, _ := strconv.Atoi(strings.Fields(v)[0])
			return n
		}
	}
	return 0
}
