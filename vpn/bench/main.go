// Command bench measures the gateway beside Debian's ocserv, with openconnect as the client of both, in network namespaces,
// in alternating rounds. What counts is the server's CPU time for the same work, which says more than throughput on a machine
// that does other things too. It needs root and the packages openconnect and ocserv.
//
// Where WireGuard is measured the other server is wireguard-go, with wireguard-go as the client of both: the upper anchor, since its
// log-in is a handshake of keys and its packets are the plainest there are.
//
//	go run ./vpn/bench [-rounds 3] [-megabytes 200] [-seconds 3] [-only ours|ocserv|wireguard-go] [-work tcp-down-dtls,...] [-json FILE]
//
//	server namespace: gateway, traffic ends ──── veth, MTU 1500 ──── client namespace: openconnect, traffic ends
package main

import (
	"encoding/json"
	"errors"
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
	if len(os.Args) > 1 && os.Args[1] == "wireguard" {
		wireguard()
		return
	}
	rounds := flag.Int("rounds", 3, "rounds of each server")
	megabytes := flag.Int("megabytes", 200, "bytes of a TCP transfer")
	seconds := flag.Int("seconds", 3, "length of a packet run")
	only := flag.String("only", "", "one server only: ours or ocserv")
	work := flag.String("work", "", "comma separated list of works")
	profile := flag.String("profile", "", "write a CPU profile of our server to this file")
	results := flag.String("json", "", "write the figures to this file")
	flag.Parse()
	if err := run(*rounds, *megabytes, *seconds, *only, *work, *profile, *results); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// job is one measured work.
type job struct {
	name    string
	client  string // openconnect over dtls or cstp, or wireguard-go; none when empty
	measure func(y *yard, n sizes) (result, error)
	against string  // the other server; none when empty
	goal    float64 // of our cost to the other's
	late    float64 // goal of our p99 to the other's
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
	// cost is what counts where it is not processor time.
	cost float64
}

const (
	ocserv = "ocserv"
	anchor = "wireguard-go"
)

func download(y *yard, n sizes) (result, error) { return y.tcp(n.megabytes, true) }
func upload(y *yard, n sizes) (result, error)   { return y.tcp(n.megabytes, false) }
func packets(rate int) func(*yard, sizes) (result, error) {
	return func(y *yard, n sizes) (result, error) { return y.packets(rate, n.seconds) }
}

var jobs = []job{
	{"tcp-down-dtls", "dtls", download, ocserv, 0.6, 0},
	{"tcp-up-dtls", "dtls", upload, ocserv, 0.9, 0},
	{"tcp-down-cstp", "cstp", download, ocserv, 0.4, 0},
	{"tcp-up-cstp", "cstp", upload, ocserv, 0.9, 0},
	{"voice-8000-dtls", "dtls", packets(8000), ocserv, 1, 0},
	{"voice-4000-dtls", "dtls", packets(4000), ocserv, 0, 1}, // half of a hundred calls: what delay is added
	{"voice-1000-dtls", "dtls", packets(1000), ocserv, 0, 0},
	{"flood-dtls", "dtls", packets(60000), ocserv, 0.7, 0},
	{"logins", "", func(y *yard, n sizes) (result, error) { return y.logins(200) }, ocserv, 0, 0},
	{"memory", "", func(y *yard, n sizes) (result, error) { return y.sessions(600, 80) }, ocserv, 1.0 / 15, 0},
	{"tcp-down-wireguard", "wireguard", download, anchor, 0, 0},
	{"voice-8000-wireguard", "wireguard", packets(8000), anchor, 0, 0},
	{"crowd-2000", "", func(y *yard, n sizes) (result, error) { return y.crowd(2000, n.seconds) }, "", 0, 0},
}

// figure is what a work gave, for programs.
type figure struct {
	Work      string  `json:"work"`
	Unit      string  `json:"unit"`
	Ours      float64 `json:"ours"`
	Other     float64 `json:"other,omitempty"`
	Against   string  `json:"against,omitempty"`
	Ratio     float64 `json:"ratio,omitempty"` // of the medians
	Goal      float64 `json:"goal,omitempty"`
	P99       float64 `json:"p99_us,omitempty"`
	P99Other  float64 `json:"p99_other_us,omitempty"`
	Rate      float64 `json:"rate,omitempty"` // per second
	RateOther float64 `json:"rate_other,omitempty"`
	Loss      float64 `json:"loss"`
}

// tally is what the rounds of one server gave.
type tally struct{ cost, p99, rate, loss []float64 }

func run(rounds, megabytes, seconds int, only, work, profile, results string) error {
	y, err := newYard(profile)
	if err != nil {
		return err
	}
	defer y.close()
	fmt.Printf("%s, %d CPUs, kernel %s, %d rounds, %d MB per transfer, %d s per packet run\n", runtime.Version(), runtime.NumCPU(), kernel(), rounds, megabytes, seconds)
	fmt.Printf("%-20s %-12s %14s %14s %8s %9s %9s\n", "work", "server", "cost", "rate", "loss", "p50", "p99")
	var all []figure
	var failed []error
	for _, j := range jobs {
		if work != "" && !slices.Contains(strings.Split(work, ","), j.name) {
			continue
		}
		f, err := y.compare(j, rounds, only, sizes{megabytes, seconds})
		if err != nil {
			fmt.Println(err)
			failed = append(failed, err)
			continue
		}
		all = append(all, f)
	}
	if results != "" {
		text, err := json.MarshalIndent(all, "", "\t")
		failed = append(failed, err, os.WriteFile(results, text, 0o644))
	}
	return errors.Join(failed...)
}

// compare measures one work on both servers in turn.
func (y *yard) compare(j job, rounds int, only string, n sizes) (figure, error) {
	f := figure{Work: j.name, Against: j.against, Goal: j.goal}
	got := map[string]*tally{"ours": {}, j.against: {}}
	for range rounds {
		for _, s := range []string{"ours", j.against} {
			if s == "" || only != "" && only != s {
				continue
			}
			r, cpu, err := y.round(s, j, n)
			if err != nil {
				return f, fmt.Errorf("%s on %s: %w", j.name, s, err)
			}
			cost, rate := cpu.Seconds()/r.units, r.units/r.took.Seconds()
			showRate := fmt.Sprintf("%.0f /s", rate)
			switch r.unit {
			case "packets":
				cost, f.Unit = cost*1e6, "us/packet"
			case "logins":
				cost, f.Unit = cost*1e3, "ms/login"
			case "sessions":
				cost, f.Unit = r.cost, "KiB/session"
			default:
				f.Unit, showRate = "s/GB", fmt.Sprintf("%.0f Mbit/s", 8e3*rate)
			}
			fmt.Printf("%-20s %-12s %14s %14s %7.2f%% %9s %9s\n", j.name, s, fmt.Sprintf("%.2f %s", cost, f.Unit), showRate, 100*r.loss, r.p50.Round(time.Microsecond), r.p99.Round(time.Microsecond))
			t := got[s]
			t.cost, t.rate, t.loss, t.p99 = append(t.cost, cost), append(t.rate, rate), append(t.loss, r.loss), append(t.p99, float64(r.p99.Nanoseconds())/1e3)
		}
	}
	ours, other := got["ours"], got[j.against]
	if len(ours.cost) > 0 {
		f.Ours, f.P99, f.Rate, f.Loss = median(ours.cost), median(ours.p99), median(ours.rate), median(ours.loss)
	}
	if j.against != "" && len(other.cost) > 0 && len(ours.cost) > 0 {
		f.Other, f.P99Other, f.RateOther = median(other.cost), median(other.p99), median(other.rate)
		f.Ratio = f.Ours / f.Other
		text := fmt.Sprintf("cost %.3f", f.Ratio)
		if j.goal > 0 {
			text += fmt.Sprintf(" (goal %.3f)", j.goal)
		}
		if f.P99Other > 0 {
			text += fmt.Sprintf(", p99 %.2f", f.P99/f.P99Other)
			if j.late > 0 {
				text += fmt.Sprintf(" (goal %.2f)", j.late)
			}
		}
		fmt.Printf("%-20s ratio of medians to %s: %s, rate %.2f\n", j.name, j.against, text, f.Rate/f.RateOther)
	}
	return f, nil
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

func kernel() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
}
