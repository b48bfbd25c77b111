package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/task"
)

// loadOptions are the flags of sepsim load.
type loadOptions struct {
	server    string
	local     string
	transport string
	model     string
	accounts  string
	device    string
	first     int
	passEnv   string
	certs     string
	phones    int
	rate      float64
	hold      time.Duration
	patience  time.Duration
}

const loadUsage = `sepsim load registers many phones and holds their registrations.

Accounts come from --accounts FILE, one a line: DEVICE NUMBER PASSWORD; or are counted up: device from --device-base, number
from --first, the same password for all from the environment variable that --password-env names. A phone that has
DEVICE.pem (certificate and key) in --certs shows it.

`

func runLoad(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) error {
	var o loadOptions
	fs := flag.NewFlagSet("sepsim load", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { fmt.Fprint(stderr, loadUsage); fs.PrintDefaults() }
	fs.StringVar(&o.server, "server", "", "address and port of the call server: 192.0.2.10:5060")
	fs.StringVar(&o.local, "local", "", "own address, when not that of the route")
	fs.StringVar(&o.transport, "transport", "tcp", "tcp or tls")
	fs.StringVar(&o.model, "model", "8851", "model of all phones")
	fs.StringVar(&o.accounts, "accounts", "", "file of accounts")
	fs.StringVar(&o.device, "device-base", "SEP020000000000", "first device name")
	fs.IntVar(&o.first, "first", 5000, "first number")
	fs.StringVar(&o.passEnv, "password-env", "SEPSIM_PASSWORD", "environment variable that holds the password of all")
	fs.StringVar(&o.certs, "certs", "", "folder with DEVICE.pem for TLS")
	fs.IntVar(&o.phones, "phones", 100, "how many phones")
	fs.Float64Var(&o.rate, "rate", 200, "new registrations a second")
	fs.DurationVar(&o.hold, "hold", 10*time.Second, "how long registrations are held once all are there; 0 leaves at once")
	fs.DurationVar(&o.patience, "patience", 32*time.Second, "time for one registration")
	if err := parse(fs, args); err != nil {
		return err
	}
	lights, err := o.lights()
	if err != nil {
		return err
	}
	raiseFiles(len(lights))
	return newLoad(lights, newTerminal(stdout)).run(ctx, o)
}

// raiseFiles asks for as many open files as the load needs; where that is refused, connections fail and say so.
func raiseFiles(n int) {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) == nil && l.Cur < uint64(n+256) {
		l.Cur = min(uint64(n+256), l.Max)
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
	}
}

func (o loadOptions) lights() ([]*phone.Light, error) {
	server, err := netip.ParseAddrPort(o.server)
	if err != nil {
		return nil, wrong("--server %q is no address with port", o.server)
	}
	var local netip.Addr
	if o.local != "" {
		if local, err = netip.ParseAddr(o.local); err != nil {
			return nil, wrong("--local %q is no address", o.local)
		}
	}
	if o.transport != "tcp" && o.transport != "tls" || o.phones < 1 || o.rate <= 0 {
		return nil, wrong("transport is tcp or tls, phones and rate are above 0")
	}
	accounts, err := o.list()
	if err != nil {
		return nil, err
	}
	cache := tls.NewLRUClientSessionCache(0)
	var out []*phone.Light
	for _, a := range accounts {
		l := &phone.Light{Device: a[0], Model: o.model, Number: a[1], Password: a[2], Server: server, Local: local, Patience: o.patience}
		if o.transport == "tls" {
			l.TLS = &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, ClientSessionCache: cache}
			if o.certs != "" {
				file := filepath.Join(o.certs, a[0]+".pem")
				cert, err := tls.LoadX509KeyPair(file, file)
				if err != nil {
					return nil, fmt.Errorf("certificate of %s: %w", a[0], err)
				}
				l.TLS.Certificates = []tls.Certificate{cert}
				l.TLS.ClientSessionCache = nil // sessions belong to one device
			}
		}
		out = append(out, l)
	}
	return out, nil
}

// list gives device, number and password of each phone.
func (o loadOptions) list() ([][3]string, error) {
	var out [][3]string
	if o.accounts != "" {
		f, err := os.Open(o.accounts)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		s := bufio.NewScanner(f)
		for n := 1; s.Scan() && len(out) < o.phones; n++ {
			text := strings.TrimSpace(s.Text())
			if text == "" || text[0] == '#' {
				continue
			}
			w := strings.Fields(text)
			if len(w) != 3 || len(w[0]) != 15 {
				return nil, fmt.Errorf("%s:%d: not DEVICE NUMBER PASSWORD", o.accounts, n)
			}
			out = append(out, [3]string(w))
		}
		return out, s.Err()
	}
	var base uint64
	if _, err := fmt.Sscanf(o.device, "SEP%012X", &base); err != nil || len(o.device) != 15 {
		return nil, wrong("--device-base %q is no device name", o.device)
	}
	password := os.Getenv(o.passEnv)
	if password == "" {
		return nil, wrong("no password in the environment variable %s", o.passEnv)
	}
	for i := range o.phones {
		out = append(out, [3]string{fmt.Sprintf("SEP%012X", base+uint64(i)), fmt.Sprint(o.first + i), password})
	}
	return out, nil
}

// load runs phones and counts.
type load struct {
	lights []*phone.Light
	term   *terminal

	registered, failed, lost atomic.Int64
	mu                       sync.Mutex
	took                     []time.Duration
	causes                   map[string]int
}

func newLoad(lights []*phone.Light, t *terminal) *load {
	return &load{lights: lights, term: t, causes: make(map[string]int)}
}

func (l *load) run(ctx context.Context, o loadOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g := task.NewGroup(ctx, nil)
	defer g.Stop()
	limit := rate.NewLimiter(rate.Limit(o.rate), max(int(o.rate/20), 1))
	var starting sync.WaitGroup
	begin := time.Now()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	g.Go("load report", func(ctx context.Context) {
		before := int64(0)
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				now := l.registered.Load()
				l.term.line("%4.0f s  registered %d (%d/s)  failed %d  lost %d", time.Since(begin).Seconds(), now, now-before, l.failed.Load(), l.lost.Load())
				before = now
			}
		}
	})
	for _, p := range l.lights {
		if limit.Wait(ctx) != nil {
			break
		}
		starting.Add(1)
		g.Go("load phone", func(ctx context.Context) {
			at := time.Now()
			err := p.Register(ctx)
			l.note(time.Since(at), err)
			starting.Done()
			if err != nil {
				return
			}
			if err := p.Serve(ctx); err != nil {
				l.lost.Add(1)
				l.cause("lost: ", err)
			}
		})
	}
	starting.Wait()
	all := time.Since(begin)
	if o.hold > 0 && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(o.hold):
		}
	}
	interrupted := ctx.Err() != nil
	cancel()
	g.Stop()
	for _, p := range l.lights {
		p.Close()
	}
	l.summary(all)
	if l.failed.Load()+l.lost.Load() > 0 && !interrupted {
		return errors.New("not all registrations held")
	}
	return nil
}

func (l *load) note(took time.Duration, err error) {
	if err != nil {
		l.failed.Add(1)
		l.cause("", err)
		return
	}
	l.registered.Add(1)
	l.mu.Lock()
	l.took = append(l.took, took)
	l.mu.Unlock()
}

// cause counts failures by what they have in common.
func (l *load) cause(what string, err error) {
	var op *net.OpError
	text := err.Error()
	if errors.As(err, &op) {
		text = op.Op + ": " + op.Err.Error()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.causes) < 50 {
		l.causes[what+text]++
	}
}

func (l *load) summary(all time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.took)
	l.term.title("load")
	l.term.line("  registered %d of %d in %.1f s: %.0f a second", n, len(l.lights), all.Seconds(), float64(n)/all.Seconds())
	if n > 0 {
		slices.Sort(l.took)
		l.term.line("  one registration: median %s, 99 %% within %s, longest %s", l.took[n/2].Round(time.Microsecond*100),
			l.took[n*99/100].Round(time.Microsecond*100), l.took[n-1].Round(time.Microsecond*100))
	}
	served := 0
	for _, p := range l.lights {
		served += p.Served()
	}
	l.term.line("  requests of the server answered: %d", served)
	for c, k := range l.causes {
		l.term.failed(fmt.Sprintf("%d × %s", k, c))
	}
}
