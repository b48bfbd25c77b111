package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// lines collects the output of a program.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) wait(s string, d time.Duration) bool {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if strings.Contains(l.text(), s) {
			return true
		}
	}
	return false
}

// tcp moves bytes through the tunnel, down is from the server's side to the client's.
func (y *yard) tcp(megabytes int, down bool) (result, error) {
	var ln net.Listener
	var err error
	if e := in(y.gw, func() { ln, err = net.Listen("tcp", fmt.Sprintf("%s:%d", inner, trafficPort)) }); e != nil || err != nil {
		return result{}, fmt.Errorf("listen: %v %v", e, err)
	}
	defer ln.Close()
	size := int64(megabytes) << 20
	var far net.Conn
	accepted := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		far = c
		accepted <- err
	}()
	var near net.Conn
	if e := in(y.cl, func() { near, err = net.DialTimeout("tcp", ln.Addr().String(), 5*time.Second) }); e != nil || err != nil {
		return result{}, fmt.Errorf("dial: %v %v", e, err)
	}
	defer near.Close()
	if err := <-accepted; err != nil {
		return result{}, err
	}
	defer far.Close()
	from, to := far, near
	if !down {
		from, to = near, far
	}
	from.SetDeadline(time.Now().Add(2 * time.Minute))
	to.SetDeadline(time.Now().Add(2 * time.Minute))
	began := time.Now()
	sent := make(chan error, 1)
	go func() {
		buf := make([]byte, 256<<10)
		for left := size; left > 0; {
			n, err := from.Write(buf[:min(left, int64(len(buf)))])
			if err != nil {
				sent <- err
				return
			}
			left -= int64(n)
		}
		sent <- nil
	}()
	if _, err := io.CopyN(io.Discard, to, size); err != nil {
		return result{}, err
	}
	return result{units: float64(size) / 1e9, unit: "GB", took: time.Since(began)}, <-sent
}

const payload = 200 - 28

// packets sends packets of 200 bytes at a rate in both directions at once, as calls do, and measures loss and transit time.
func (y *yard) packets(rate, seconds int) (result, error) {
	var far, near *net.UDPConn
	var err error
	_ = in(y.gw, func() {
		far, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(fmt.Sprintf("%s:%d", inner, trafficPort))))
	})
	if err != nil {
		return result{}, err
	}
	defer far.Close()
	_ = in(y.cl, func() {
		near, err = net.DialUDP("udp4", nil, far.LocalAddr().(*net.UDPAddr))
	})
	if err != nil {
		return result{}, err
	}
	defer near.Close()
	_ = far.SetReadBuffer(4 << 20)
	_ = near.SetReadBuffer(4 << 20)
	peer := netip.MustParseAddrPort(near.LocalAddr().String())
	stop := time.Now().Add(time.Duration(seconds) * time.Second)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var delays []time.Duration
	sent := 0
	base := time.Now()
	send := func(write func([]byte) error) {
		b := make([]byte, payload)
		n := 0
		const tick = 5 * time.Millisecond
		step := time.Duration(float64(time.Second) / float64(rate))
		for next := time.Now(); time.Now().Before(stop); {
			if now := time.Now(); now.Before(next) {
				time.Sleep(min(next.Sub(now), tick))
				continue
			}
			binary.BigEndian.PutUint64(b, uint64(time.Since(base)))
			if write(b) == nil {
				n++
			}
			next = next.Add(step)
		}
		mu.Lock()
		sent += n
		mu.Unlock()
	}
	receive := func(c *net.UDPConn) {
		b := make([]byte, 2048)
		var mine []time.Duration
		c.SetReadDeadline(stop.Add(300 * time.Millisecond))
		for {
			n, err := c.Read(b)
			if err != nil {
				break
			}
			if n == payload {
				mine = append(mine, time.Since(base)-time.Duration(binary.BigEndian.Uint64(b)))
			}
		}
		mu.Lock()
		delays = append(delays, mine...)
		mu.Unlock()
	}
	wg.Go(func() { receive(far) })
	wg.Go(func() { receive(near) })
	wg.Go(func() { send(func(b []byte) error { _, err := near.Write(b); return err }) })
	wg.Go(func() { send(func(b []byte) error { _, err := far.WriteToUDPAddrPort(b, peer); return err }) })
	wg.Wait()
	if len(delays) == 0 {
		return result{}, fmt.Errorf("no packet of %d came through", sent)
	}
	slices.Sort(delays)
	return result{units: float64(len(delays)), unit: "packets", loss: 1 - float64(len(delays))/float64(sent),
		p50: delays[len(delays)/2], p99: delays[len(delays)*99/100], took: time.Duration(seconds) * time.Second}, nil
}
