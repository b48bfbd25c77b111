package vpn_test

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"ringfence/vpn"
	"ringfence/vpn/anyconnect/phoneclient"
)

// BenchmarkLogin is TCP, TLS with client certificate, the phone's form and CONNECT, all in one process.
func BenchmarkLogin(b *testing.B) {
	l := newLab(b, func(o *vpn.Options) { o.NoUDP = true })
	o := l.phone(phone)
	b.ResetTimer()
	for b.Loop() {
		c, err := phoneclient.Dial(b.Context(), o)
		if err != nil {
			b.Fatal(err)
		}
		c.Drop()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "logins/s")
}

// BenchmarkCSTPUp is packets from a client to a device that counts them.
func BenchmarkCSTPUp(b *testing.B) {
	l := newLab(b)
	c := dial(b, l.phone(phone))
	var got atomic.Int64
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case p := <-l.dev.fromClients:
				got.Add(int64(len(p)))
			case <-stop:
				return
			}
		}
	}()
	defer close(stop)
	pkt := udp4(c.Address().String(), "10.77.0.1", 20000, 16384, 1290-28)
	b.SetBytes(int64(len(pkt)))
	for b.Loop() {
		if err := c.WritePacket(pkt); err != nil {
			b.Fatal(err)
		}
	}
	until(b, "packets counted", func() bool { return l.Sessions()[0].RxPackets == uint64(b.N) })
}

// BenchmarkCSTPDown is packets from the device to a client, as fast as the client takes them.
func BenchmarkCSTPDown(b *testing.B) {
	l := newLab(b)
	c := dial(b, l.phone(phone))
	pkt := udp4("10.77.0.1", c.Address().String(), 16384, 20000, 1290-28)
	b.SetBytes(int64(len(pkt)))
	until(b, "session up", func() bool { return stateOf(l, phone) == "up" })
	buf := make([]byte, 2000)
	const ahead = 64
	for i := range b.N {
		l.dev.toClients <- pkt
		if i >= ahead {
			if _, err := c.ReadPacket(buf); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkMemory is what a session that is up and silent costs, both ends' TCP buffers in the kernel aside.
func BenchmarkMemory(b *testing.B) {
	const n = 200
	l := newLab(b)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	for b.Loop() {
		var clients []*phoneclient.Conn
		before := heap()
		for i := range n {
			o := l.phone("SEP0011220000" + string("0123456789ABCDEF"[i/16]) + string("0123456789ABCDEF"[i%16]))
			clients = append(clients, dial(b, o))
		}
		time.Sleep(100 * time.Millisecond)
		b.ReportMetric(float64(heap()-before)/n/1024, "KiB/session-both-ends")
		for _, c := range clients {
			c.Drop()
		}
	}
}
