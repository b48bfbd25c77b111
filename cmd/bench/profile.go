package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ringfence/appliance"
)

// serve is the daemon itself, composed as in cmd/ringfence, with a door for profiles that the product does not have: commands
// on standard input, one answer each on standard output.
//
//	cpu FILE      begins a processor profile        cpu           ends it
//	heap FILE     collects garbage, writes the heap's profile, answers with a held
func serve(args []string) int {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	config, state := fs.String("config", "", "the declared document"), fs.String("state", "", "state directory")
	rate := fs.Int("memrate", 0, "bytes per sample of the heap profile; 0 is none, which costs no time")
	if fs.Parse(args) != nil {
		return 2
	}
	runtime.MemProfileRate = *rate
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			answer, err := profileCommand(in.Text())
			if err != nil {
				answer = []byte(`{"error":` + fmt.Sprintf("%q", err.Error()) + `}`)
			}
			fmt.Printf("%s\n", answer)
		}
	}()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := appliance.Run(ctx, appliance.Options{ConfigPath: *config, StateDir: *state, Socket: filepath.Join(*state, "ringfence.sock"), Log: log, PaceMemory: true}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// held is what the runtime holds after a collection.
type held struct {
	Heap, Objects, Stacks, Goroutines, Sys uint64
	Error                                  string `json:"error,omitempty"`
}

var cpuProfile *os.File

func profileCommand(line string) ([]byte, error) {
	word, file, _ := strings.Cut(line, " ")
	switch {
	case word == "cpu" && file == "":
		pprof.StopCPUProfile()
		return []byte("{}"), cpuProfile.Close()
	case word == "cpu":
		var err error
		if cpuProfile, err = os.Create(file); err != nil {
			return nil, err
		}
		return []byte("{}"), pprof.StartCPUProfile(cpuProfile)
	case word == "heap":
		debug.FreeOSMemory() // collects, and so lets stacks shrink; each collection halves them at most
		for range 3 {
			runtime.GC()
		}
		f, err := os.Create(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if err := pprof.Lookup("heap").WriteTo(f, 0); err != nil {
			return nil, err
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return json.Marshal(held{Heap: m.HeapAlloc, Objects: m.HeapObjects, Stacks: m.StackInuse, Goroutines: uint64(runtime.NumGoroutine()), Sys: m.Sys})
	}
	return nil, fmt.Errorf("unknown command %q", line)
}

// profiled is a daemon with the door.
type profiled struct {
	*daemon
	answers *bufio.Reader
}

func (b *bench) newProfiled(ctx context.Context, name string, s site, rate int) (*profiled, error) {
	dir := filepath.Join(b.tmp, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "ringfence.yaml")
	if err := os.WriteFile(config, []byte(s.document()), 0o600); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	d, err := startProgram(ctx, "profiled daemon", filepath.Join(dir, "state"), "msg=ready", self, "serve", "-config", config,
		"-state", filepath.Join(dir, "state"), "-memrate", strconv.Itoa(rate))
	if err != nil {
		return nil, err
	}
	return &profiled{d, bufio.NewReader(d.out)}, nil
}

func (p *profiled) command(line string) (h held, err error) {
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		return h, err
	}
	text, err := p.answers.ReadBytes('\n')
	if err != nil {
		return h, err
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return h, err
	}
	if h.Error != "" {
		return h, errors.New(h.Error)
	}
	return h, nil
}

// heapRate is the bytes per sample of heap profiles, finer than usual: what one phone holds is small.
const heapRate = 8 << 10

// profile says where processor time and memory go: profiles of the daemon under the loads of the other parts, and their
// summaries, in the folder for raw output.
func (b *bench) profile(ctx context.Context) error {
	for _, transport := range []string{"TCP", "TLS"} {
		if b.transport != "" && b.transport != transport {
			continue
		}
		for _, rate := range []int{heapRate, 0} {
			if err := b.profileFleet(ctx, transport, rate); err != nil {
				return fmt.Errorf("%s: %w", transport, err)
			}
		}
	}
	p, err := b.newProfiled(ctx, "profile-lines", b.linesSite(), 0)
	if err != nil {
		return err
	}
	err = b.cpuProfile(ctx, p, "calls", func() error { _, _, err := b.callLoad(ctx, p.daemon, daemonAddress); return err })
	if err == nil {
		n := b.scale(100)
		err = b.cpuProfile(ctx, p, "media", func() error { _, err := b.relayCalls(ctx, p.daemon, n, false); return err })
	}
	also(&err, p.daemon)
	if err != nil {
		return err
	}
	if p, err = b.newProfiled(ctx, "profile-trust", b.enrolledSite(), 0); err != nil {
		return err
	}
	kept := b.report.Rows
	err = b.cpuProfile(ctx, p, "tvs", func() error { return b.tvs(ctx, p.daemon, time.Millisecond) })
	if err == nil {
		err = b.cpuProfile(ctx, p, "capf", func() error { return b.enrol(ctx, p.daemon, filepath.Join(b.tmp, "profile-trust")) })
	}
	b.report.Rows = kept // the profiled daemon's figures are not the product's
	also(&err, p.daemon)
	return err
}

// cpuProfile profiles the daemon while f runs.
func (b *bench) cpuProfile(ctx context.Context, p *profiled, name string, f func() error) error {
	file := filepath.Join(b.out, "cpu-"+name+".pprof")
	if _, err := p.command("cpu " + file); err != nil {
		return err
	}
	err := f()
	if _, stopped := p.command("cpu"); err == nil {
		err = stopped
	}
	if err != nil {
		return err
	}
	return errors.Join(b.summary(ctx, "cpu-"+name, "-cum", file), b.summary(ctx, "cpu-"+name+"-flat", "-flat", file))
}

// summary writes the upper part of a profile as text.
func (b *bench) summary(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, "go", append([]string{"tool", "pprof", "-top", "-nodecount", "80"}, args...)...).Output()
	if err != nil {
		return fmt.Errorf("go tool pprof: %w", err)
	}
	return os.WriteFile(filepath.Join(b.out, name+".txt"), out, 0o644)
}

// profileFleet registers thousands of phones and profiles either the heap and stacks that they leave behind after a collection
// of garbage, or the time of the registrations and refreshes: the one would disturb the other.
func (b *bench) profileFleet(ctx context.Context, transport string, rate int) (err error) {
	n := b.scale(b.fleetSize)
	s, name := site{phones: n}, strings.ToLower(transport)
	dir := fmt.Sprintf("profile-%s-%d", name, rate)
	var certificates []tls.Certificate
	if transport == "TLS" {
		s = b.enrolledSite()
		if certificates, err = b.certificates(); err != nil {
			return err
		}
		if err := copyState(filepath.Join(b.tmp, "trust", "state"), filepath.Join(b.tmp, dir, "state")); err != nil {
			return err
		}
	}
	p, err := b.newProfiled(ctx, dir, s, rate)
	if err != nil {
		return err
	}
	defer also(&err, p.daemon)
	var all []*client
	connect := func() (err error) { all, _, err = b.connectPhones(ctx, n, certificates); return err }
	defer func() { closeAll(all) }()
	if rate == 0 {
		if err := b.cpuProfile(ctx, p, "first-"+name, connect); err != nil {
			return err
		}
		kept := b.report.Rows
		err = b.cpuProfile(ctx, p, "refresh-"+name, func() error { return b.refresh(ctx, p.daemon, "refresh", all) })
		if err == nil {
			sleep(ctx, b.settle())
			err = b.cpuProfile(ctx, p, "steady-"+name, func() error { return b.steady(ctx, p.daemon, transport, all) })
		}
		b.report.Rows = kept
		return err
	}
	before, after := filepath.Join(b.out, "heap-"+name+"-before.pprof"), filepath.Join(b.out, "heap-"+name+"-after.pprof")
	empty, err := p.command("heap " + before)
	if err != nil {
		return err
	}
	if err := connect(); err != nil {
		return err
	}
	sleep(ctx, b.settle())
	full, err := p.command("heap " + after)
	if err != nil {
		return err
	}
	each := func(a, b uint64) float64 { return (float64(b) - float64(a)) / float64(n) / kib }
	b.report.add(row{Name: "live memory per phone over " + transport, Value: each(empty.Heap+empty.Stacks, full.Heap+full.Stacks), Unit: "KiB",
		Beside: fmt.Sprintf("after a collection: heap %s KiB in %.0f objects, stacks %s KiB in %.1f goroutines", figure(each(empty.Heap, full.Heap)),
			float64(full.Objects-empty.Objects)/float64(n), figure(each(empty.Stacks, full.Stacks)), float64(full.Goroutines-empty.Goroutines)/float64(n))})
	return b.summary(ctx, "heap-"+name, "-inuse_space", "-base", before, after)
}

// copyState copies the files of a state directory.
func copyState(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return fmt.Errorf("phones over TLS need the part trust before them: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		text, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, e.Name()), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}
