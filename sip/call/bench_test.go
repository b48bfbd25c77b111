package call_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"ringfence/config"
	"ringfence/sip/call"
	"ringfence/sip/internal/calltest"
)

// BenchmarkCalls sets calls up and ends them, INVITE to 200 of the BYE, between phones whose own stacks run in the same
// process. It reports calls per second with several under way, and the CPU time of server and phones together.
func BenchmarkCalls(b *testing.B) {
	for _, transport := range []string{"TCP", "TLS"} { // TLS here means SRTP, not the cost of TLS itself
		b.Run(transport, func(b *testing.B) { benchmarkCalls(b, transport) })
	}
}

func benchmarkCalls(b *testing.B, transport string) {
	const pairs = 16
	w := calltest.New(b, engine, func(d *config.Document, _ *call.Options) {
		for i := range 2 * pairs {
			l := d.Lines[3]
			l.Number, l.BusyAt = config.Digits(fmt.Sprint(4000+i)), 10
			d.Lines = append(d.Lines, l)
		}
	})
	w.Quiet = true
	defer w.Close()
	var callers []*calltest.Phone
	for i := range pairs {
		callers = append(callers, w.Phone(fmt.Sprint(4000+2*i), transport))
		w.Phone(fmt.Sprint(4001+2*i), transport, func(p *calltest.Phone) { p.Answer = time.Nanosecond })
	}
	todo := make(chan struct{}, b.N)
	for range b.N {
		todo <- struct{}{}
	}
	close(todo)
	var before, after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	b.ReportAllocs()
	b.ResetTimer()
	done := make(chan struct{})
	for i, p := range callers {
		go func() {
			defer func() { done <- struct{}{} }()
			for range todo {
				if err := p.Once(fmt.Sprint(4001 + 2*i)); err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	for range callers {
		<-done
	}
	b.StopTimer()
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-µs/call")
}
