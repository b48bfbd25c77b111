// Command bench measures the gateway beside Debian's ocserv, with openconnect as the client of both, in network namespaces,
// in alternating rounds. What counts is the server's CPU time for the same work, which says more than throughput on a machine
// that does other things too. It needs root and the packages openconnect and ocserv.
//
//	go run ./vpn/bench [-rounds 3] [-megabytes 200] [-seconds 3] [-only ours|ocserv] [-work tcp-down,...]
//
//	server namespace: gateway, traffic ends ──── veth, MTU 1500 ──── client namespace: openconnect, traffic ends
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		serve()
		return
	}
	rounds := flag.Int("rounds", 3, "rounds of each server")
	megabytes := flag.Int("megabytes", 200, "bytes of a TCP transfer")
	seconds := flag.Int("seconds", 3, "length of a packet run")
	only := flag.String("only", "", "one server only: ours or ocserv")
	work := flag.String("work", "", "comma separated list of works")
	profile := flag.String("profile", "", "write a CPU profile of our server to this file")
	flag.Parse()
	if err := run(*rounds, *megabytes, *seconds, *only, *work, *profile); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// job is one measured work.
type job struct {
	name    string
	client  string // openconnect over dtls or cstp; none when empty
	measure func(y *yard, n sizes) (result, error)
	alone   bool // ocserv is not asked
}

type sizes struct{ megabytes, seconds int }

// result is what a work cost and gave.
type result struct {
	units float64 // gigabytes or packets
	unit  string
	loss  float64 // part of packets lost
	p50   time.Duration
	p99   time.Duration
	took  time.Duration
}

var jobs = []job{
	{"tcp-down-dtls", "dtls", func(y *yard, n sizes) (result, error) { return y.tcp(n.megabytes, true) }, false},
	{"tcp-up-dtls", "dtls", func(y *yard, n sizes) (result, error) { return y.tcp(n.megabytes, false) }, false},
	{"tcp-down-cstp", "cstp", func(y *yard, n sizes) (result, error) { return y.tcp(n.megabytes, true) }, false},
	{"tcp-up-cstp", "cstp", func(y *yard, n sizes) (result, error) { return y.tcp(n.megabytes, false) }, false},
	{"voice-8000-dtls", "dtls", func(y *yard, n sizes) (result, error) { return y.packets(8000, n.seconds) }, false},
	{"voice-1000-dtls", "dtls", func(y *yard, n sizes) (result, error) { return y.packets(1000, n.seconds) }, false},
	{"flood-dtls", "dtls", func(y *yard, n sizes) (result, error) { return y.packets(60000, n.seconds) }, false},
	{"logins", "", func(y *yard, n sizes) (result, error) { return y.logins(200) }, false},
	{"crowd-2000", "", func(y *yard, n sizes) (result, error) { return y.crowd(2000, n.seconds) }, true},
}

func run(rounds, megabytes, seconds int, only, work, profile string) error {
	y, err := newYard(profile)
	if err != nil {
		return err
	}
	defer y.close()
	fmt.Printf("%s, %d CPUs, kernel %s, %d rounds, %d MB per transfer, %d s per packet run\n", runtime.Version(), runtime.NumCPU(), kernel(), rounds, megabytes, seconds)
	fmt.Printf("%-18s %-8s %12s %14s %8s %9s %9s\n", "work", "server", "CPU", "rate", "loss", "p50", "p99")
	for _, j := range jobs {
		if work != "" && !slices.Contains(strings.Split(work, ","), j.name) {
			continue
		}
		costs := map[string][]float64{}
		for range rounds {
			for _, s := range []string{"ours", "ocserv"} {
				if only != "" && only != s || j.alone && s != "ours" {
					continue
				}
				r, cpu, err := y.round(s, j, sizes{megabytes, seconds})
				if err != nil {
					return fmt.Errorf("%s on %s: %w", j.name, s, err)
				}
				cost := cpu.Seconds() / r.units
				costs[s] = append(costs[s], cost)
				rate := fmt.Sprintf("%.0f /s", r.units/r.took.Seconds())
				show := fmt.Sprintf("%.2f us/pkt", cost*1e6)
				if r.unit == "logins" {
					show = fmt.Sprintf("%.2f ms/login", cost*1e3)
				}
				if r.unit == "GB" {
					rate, show = fmt.Sprintf("%.0f Mbit/s", 8e3*r.units/r.took.Seconds()), fmt.Sprintf("%.2f s/GB", cost)
				}
				fmt.Printf("%-18s %-8s %12s %14s %7.2f%% %9s %9s\n", j.name, s, show, rate, 100*r.loss, r.p50.Round(time.Microsecond), r.p99.Round(time.Microsecond))
			}
		}
		if only == "" && !j.alone {
			fmt.Printf("%-18s ratio of medians: %.2f\n", j.name, median(costs["ours"])/median(costs["ocserv"]))
		}
	}
	return nil
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

func kernel() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
}
