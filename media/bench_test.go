package media

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/media/codec"
)

// BenchmarkRelay sends G.711 packets of 20 ms through bridged sessions, one at a time per leg as phones do, and reports the
// CPU time of the process per packet, kernel and parties included.
func BenchmarkRelay(b *testing.B) {
	for _, suite := range []Suite{NoSuite, CM128SHA80, AEAD256GCM} {
		for _, legs := range []int{1, 100} {
			b.Run(fmt.Sprintf("%s/calls=%d", suite, legs), func(b *testing.B) { benchmarkRelay(b, suite, legs) })
		}
	}
}

func benchmarkRelay(b *testing.B, suite Suite, calls int) {
	e := engine(b, func(o *Options) { o.Workers = 1 })
	payload := strings.Repeat("v", 160)
	var from, to []*party
	var seal func(i int, p []byte) []byte
	var contexts []func(p []byte) []byte
	for range calls {
		a, _, pa, pb := pair(b, e, []Format{pcmu}, []Format{pcmu})
		if suite != NoSuite {
			r := pa.remote(pcmu)
			r.RecvKey, r.SendKey = NewKey(suite), NewKey(suite)
			set(b, a, r)
			in := contextOf(b, r.RecvKey)
			contexts = append(contexts, func(p []byte) []byte { o, _ := in.EncryptRTP(nil, p, nil); return o })
		}
		from, to = append(from, pa), append(to, pb)
	}
	seal = func(i int, p []byte) []byte {
		if contexts != nil {
			return contexts[i](p)
		}
		return p
	}
	buf := make([]byte, 2048)
	for i, p := range to {
		from[i].write(seal(i, from[i].packet(0, payload)))
		p.hear()
		_ = p.data.SetReadDeadline(time.Time{})
	}
	before, used := e.Totals(), processTime()
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; {
		k := min(calls, b.N-n)
		for i := range k {
			if _, err := from[i].data.WriteToUDPAddrPort(seal(i, from[i].packet(0, payload)), from[i].to); err != nil {
				b.Fatal(err)
			}
		}
		for i := range k {
			if _, _, err := to[i].data.ReadFromUDPAddrPort(buf); err != nil {
				b.Fatal(err)
			}
		}
		n += k
	}
	b.StopTimer()
	wait(b, "all packets relayed", func() bool { return e.Totals().Relayed-before.Relayed >= uint64(b.N) })
	b.ReportMetric(float64(processTime()-used)/float64(b.N), "cpu-ns/packet")
}

// processTime is what the process has used. In these benchmarks that includes the parties.
func processTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestRelayAllocatesNothing drives a worker by hand, so that only the path of the packet is counted.
func TestRelayAllocatesNothing(t *testing.T) {
	e, err := New(Options{Address: loopback, First: 20000, Last: 29999, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Stop()
	a, b, pa, pb := pair(t, e, []Format{pcmu, dtmf(101)}, []Format{pcmu, dtmf(96)})
	w := e.workers[0]
	packets := make([][]byte, 0, 1200)
	for range cap(packets) {
		packets = append(packets, pa.packet(0, strings.Repeat("v", 160)))
	}
	buf := make([]byte, 2048)
	next := 0
	allocs := testing.AllocsPerRun(1000, func() {
		if _, err := pa.data.WriteToUDPAddrPort(packets[next], pa.to); err != nil {
			t.Fatal(err)
		}
		next++
		a.readData(w, e.now())
		if _, _, err := pb.data.ReadFromUDPAddrPort(buf); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per relayed packet", allocs)
	}
	if b.Stats().Tx.Packets < 1000 {
		t.Fatalf("relayed only %d", b.Stats().Tx.Packets)
	}
}

// BenchmarkMixer is one frame of a conference of 60 parties that all send G.722 and of whom three talk; at 50 frames a second the time of one
// frame times 50 is the share of a core.
func BenchmarkMixer(b *testing.B) {
	e, err := New(Options{Address: loopback, First: 20000, Last: 29999, Workers: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Stop()
	m := e.NewMixer()
	var members []*Member
	enc, talk := codec.NewG722Encoder(), codec.NewG722Encoder()
	silence, tone := make([]int16, frameSamples), make([]int16, frameSamples)
	sink := listen(b)
	for range 60 {
		s := session(b, e)
		set(b, s, Remote{RTP: addrOf(sink), Send: []Format{g722}, Receive: []Format{g722}, Direction: Both})
		mb, err := m.Add(s)
		if err != nil {
			b.Fatal(err)
		}
		members = append(members, mb)
	}
	mem := new(scratch)
	b.ReportAllocs()
	n := uint16(0)
	for b.Loop() {
		Tone{Hz: []float64{700}}.Source().Read(tone)
		quiet, voice := enc.Encode(nil, silence), talk.Encode(nil, tone)
		for i, mb := range members {
			payload := quiet
			if i < 3 {
				payload = voice
			}
			mb.take(packet{seq: n}, playG722, payload, n == 0, 0)
		}
		n++
		m.tick(mem, e.now())
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2e5, "%core")
}
