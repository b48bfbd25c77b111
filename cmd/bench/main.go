// Command bench measures the built daemon: what it can do in a second, and above all what an operation costs the daemon in
// processor time and a phone in memory. docs/performance.md explains the method and holds the figures.
//
//	bench [-bin DIR] [-out DIR] [-only PART,PART] [-quick] [-fleet N] [-transport TCP|TLS] [-at-once N]
//
// It starts bin/ringfence with configurations of thousands of phones, plays the phones itself, and reads the daemon's
// processor clock and memory from the kernel; what the phones cost is not counted. Everything runs in a network namespace of
// its own, so that every address of 198.18.0.0/15 (RFC 2544) is local and fixed ports are free. Where Debian has a program of
// the same task it gets the same load in the same run: figures mean most as ratios.
//
// The parts are, in their order: start, trust, phones, watchers, lines, calls, pressure, media, tunnel, profile, gateway, micro. Each stands in a file of
// its name. "serve" is no part but the daemon itself with a door for profiles, used by profile.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() { os.Exit(run(os.Args[1:])) }

// inNamespace marks the process that measures, in the namespace that the first process made.
const inNamespace = "RINGFENCE_BENCH_NAMESPACE"

// bench is one run.
type bench struct {
	bin   string // folder of the built programs
	out   string // folder for raw output
	tmp   string // removed at the end
	only  []string
	quick bool
	// fleetSize is how many phones the parts trust and phones have.
	fleetSize int
	// atOnce is how many calls the part media makes at once; 0 is a row of numbers.
	atOnce    int
	transport string // of the part phones: TCP, TLS, or "" for both
	coming    int    // phones that come at a time
	report    report
}

// part is a group of measurements that stand together; one that fails does not keep the others from running.
type part struct {
	name   string
	inside bool // runs in the namespace
	limit  time.Duration
	run    func(*bench, context.Context) error
}

var parts = []part{
	{"start", true, 2 * time.Minute, (*bench).start},
	{"trust", true, 3 * time.Minute, (*bench).trust},
	{"phones", true, 4 * time.Minute, (*bench).phones},
	{"watchers", true, 2 * time.Minute, (*bench).watchers},
	{"lines", true, 2 * time.Minute, (*bench).lines},
	{"calls", true, 2 * time.Minute, (*bench).calls},
	{"pressure", true, 3 * time.Minute, (*bench).pressure},
	{"media", true, 3 * time.Minute, (*bench).media},
	{"tunnel", true, 2 * time.Minute, (*bench).tunnel},
	{"profile", true, 3 * time.Minute, (*bench).profile},
	{"gateway", false, 15 * time.Minute, (*bench).gateway},
	{"micro", false, 5 * time.Minute, (*bench).micro},
}

func run(args []string) int {
	if len(args) > 0 && args[0] == "serve" {
		return serve(args[1:])
	}
	b := &bench{report: report{Machine: machine(), Others: map[string]float64{}}}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&b.bin, "bin", "bin", "folder of the built programs")
	fs.StringVar(&b.out, "out", "build/bench", "folder for raw output")
	only := fs.String("only", "", "parts to run, separated by commas; all when empty")
	fs.IntVar(&b.fleetSize, "fleet", 2000, "phones of the parts trust and phones, at most 60000")
	fs.IntVar(&b.atOnce, "calls", 0, "calls at once of the part media, instead of its own row of numbers")
	fs.StringVar(&b.transport, "transport", "", "TCP or TLS: the part phones runs over that alone")
	fs.IntVar(&b.coming, "at-once", 32, "phones of the part phones that come at a time; as many as there are is a power cut that ends")
	fs.BoolVar(&b.quick, "quick", false, "a tenth of the phones and of the time: to see that it works, not for figures")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bench: unknown argument %q\n", fs.Arg(0))
		return 2
	}
	if *only != "" {
		b.only = strings.Split(*only, ",")
		for _, name := range b.only {
			if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
				fmt.Fprintf(os.Stderr, "bench: no part %q\n", name)
				return 2
			}
		}
	}
	if err := b.all(); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		return 1
	}
	return 0
}

func (b *bench) all() (err error) {
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	for _, dir := range []*string{&b.bin, &b.out} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv(inNamespace) != "" {
		return b.inside(ctx)
	}
	var failed []error
	if b.wants(true) {
		failed = append(failed, b.enterNamespace(ctx))
	}
	failed = append(failed, b.runParts(ctx, false))
	if err := b.report.write(filepath.Join(b.out, "results.json")); err != nil {
		return err
	}
	table := b.report.table()
	if err := os.WriteFile(filepath.Join(b.out, "table.txt"), []byte(table), 0o644); err != nil {
		return err
	}
	fmt.Print(table)
	return errors.Join(failed...)
}

// wants tells whether a part of one side of the namespace is to run.
func (b *bench) wants(inside bool) bool {
	return slices.ContainsFunc(parts, func(p part) bool { return p.inside == inside && b.chosen(p) })
}

func (b *bench) chosen(p part) bool { return len(b.only) == 0 || slices.Contains(b.only, p.name) }

// runParts runs the parts of one side of the namespace.
func (b *bench) runParts(ctx context.Context, inside bool) error {
	var failed []error
	for _, p := range parts {
		if p.inside != inside || !b.chosen(p) || ctx.Err() != nil {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s ...\n", p.name)
		b.report.part = p.name
		others := watchOthers()
		limited, cancel := context.WithTimeout(ctx, p.limit)
		err := p.run(b, limited)
		cancel()
		b.report.Others[p.name] = others()
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", p.name, err)
			failed = append(failed, fmt.Errorf("%s: %w", p.name, err))
			b.report.add(row{Name: p.name, Beside: "FAILED: " + strings.ReplaceAll(err.Error(), "\n", "; ")})
		}
	}
	return errors.Join(failed...)
}

// enterNamespace runs this program again in a new network namespace, with a user namespace around it when not root, and takes
// over what it found.
func (b *bench) enterNamespace(ctx context.Context) error {
	args := []string{"--net", "--kill-child"}
	if os.Geteuid() != 0 {
		args = append(args, "--user", "--map-root-user")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args = append(args, "--fork", "--", self, "-bin", b.bin, "-out", b.out, "-only", strings.Join(b.only, ","), fmt.Sprintf("-quick=%t", b.quick),
		fmt.Sprintf("-fleet=%d", min(max(b.fleetSize, 10), 60000)), fmt.Sprintf("-calls=%d", min(max(b.atOnce, 0), 500)), "-transport="+b.transport,
		fmt.Sprintf("-at-once=%d", max(b.coming, 1)))
	cmd := exec.CommandContext(ctx, "unshare", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	ran := cmd.Run()
	text, err := os.ReadFile(filepath.Join(b.out, "inside.json"))
	if err != nil {
		return errors.Join(fmt.Errorf("measurements in a network namespace (they need root, or user namespaces allowed): %w", ran), err)
	}
	if err := json.Unmarshal(text, &b.report); err != nil {
		return err
	}
	if ran != nil {
		return errors.New("some measurements failed")
	}
	return nil
}

// inside is the process in the namespace.
func (b *bench) inside(ctx context.Context) (err error) {
	result := filepath.Join(b.out, "inside.json")
	_ = os.Remove(result)
	if err := prepareNamespace(); err != nil {
		return err
	}
	if b.tmp, err = os.MkdirTemp("", "ringfence-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.tmp)
	failed := b.runParts(ctx, true)
	return errors.Join(failed, b.report.write(result))
}

// scale is n, or a tenth of it in a quick run.
func (b *bench) scale(n int) int {
	if b.quick {
		return max(n/10, 1)
	}
	return n
}

// span is how long a steady load runs.
func (b *bench) span() time.Duration {
	if b.quick {
		return time.Second
	}
	return 5 * time.Second
}

// settle is how long the daemon is left alone before its memory is read.
func (b *bench) settle() time.Duration {
	if b.quick {
		return 500 * time.Millisecond
	}
	return 3 * time.Second
}
