package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/config"
	"ringfence/internal/task"
	"ringfence/trust"
)

const morningUsage = `sepsim morning starts a ringfence daemon with its example configuration in a temporary folder and leads the first two
phones of it through their first morning: files, trust, certificate, VPN, registration, a call. Then it keeps serving until
Ctrl-C.

`

// The two phones and the tones by which they are told apart.
const (
	firstTone, secondTone = 700.0, 1300.0
	listenFor             = 3 * time.Second
)

func runMorning(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) (err error) {
	fs := flag.NewFlagSet("sepsim morning", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { fmt.Fprint(stderr, morningUsage); fs.PrintDefaults() }
	program := fs.String("ringfence", "bin/ringfence", "the daemon's program")
	keep := fs.Bool("keep", false, "leave the folder with configuration, state and log behind")
	once := fs.Bool("once", false, "end after the morning, with status 1 when a step failed")
	if err := parse(fs, args); err != nil {
		return err
	}
	path, err := filepath.Abs(*program)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ringfence-morning-")
	if err != nil {
		return err
	}
	t := newTerminal(stdout)
	defer func() {
		if *keep {
			t.line("kept: %s", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	d, err := startDaemon(ctx, path, dir)
	if err != nil {
		return err
	}
	defer func() {
		if e := d.stop(); e != nil {
			err = errors.Join(err, fmt.Errorf("stop the daemon: %w", e))
		}
	}()
	m := &morning{d: d, t: t, once: *once}
	defer m.close()
	return m.run(ctx)
}

// morning is one run.
type morning struct {
	d    *daemon
	t    *terminal
	once bool
	doc  *config.Document
	vpn  string // why there is no VPN, empty when there is
	all  []*guest
	over atomic.Bool // what the phones tell is of no interest any more
}

// guest is one of the phones, with what has become of its six steps.
type guest struct {
	conf  config.Phone
	line  string
	tone  float64
	phone *phone.Phone

	mu    sync.Mutex
	steps map[string]verdict
	moved bool // it is at home now
}

type verdict int

const (
	pending verdict = iota
	good
	passed // does not apply here
	bad
)

// The six steps of the main job; tvs counts to trust.
var six = []struct{ step, title string }{
	{phone.StepFile, "files"}, {phone.StepTrust, "trust"}, {phone.StepCAPF, "certificate"}, {phone.StepVPN, "vpn"},
	{phone.StepRegister, "registration"}, {phone.StepCall, "call"},
}

func title(step string) string {
	for _, s := range six {
		if s.step == step {
			return s.title
		}
	}
	return step
}

func (m *morning) run(ctx context.Context) error {
	begin := time.Now()
	status, err := m.d.ready(ctx)
	if err != nil {
		return err
	}
	m.t.title(fmt.Sprintf("ringfence %s is ready after %.1f s (process %d)", status.Version, time.Since(begin).Seconds(), m.d.cmd.Process.Pid))
	for _, w := range status.Warnings {
		if why, ok := strings.CutPrefix(w, "no VPN: "); ok {
			m.vpn = why
		}
	}
	if m.doc, _, err = config.Load(m.d.config); err != nil {
		return fmt.Errorf("read the example: %w", err)
	}
	if m.vpn == "" && m.doc.Node.Address.IsLoopback() {
		if err := localThrough(m.doc.Node.Tunnel.Device); err != nil {
			m.vpn = fmt.Sprintf("the example's address %s cannot be reached through a tunnel: %v", m.doc.Node.Address, err)
		}
	}
	if len(m.doc.Phones) < 2 {
		return errors.New("the example declares fewer than two phones")
	}
	for i, tone := range []float64{firstTone, secondTone} {
		g := &guest{conf: m.doc.Phones[i], tone: tone, steps: make(map[string]verdict)}
		for _, l := range m.doc.Lines {
			if l.Phone == g.conf.Device && l.Index == 1 {
				g.line = string(l.Number)
			}
		}
		m.all = append(m.all, g)
	}
	// The one that moves home goes first: what it needs for that it gets in the office.
	if err := m.lead(ctx); err != nil {
		return err
	}
	m.over.Store(m.once)
	failures := m.summary()
	if m.once {
		if failures > 0 {
			return fmt.Errorf("%d steps failed; the daemon's log: %s", failures, m.d.tail())
		}
		return nil
	}
	m.next()
	return m.serve(ctx)
}

// localThrough lets packets for a loopback address through the daemon's TUN device: the example lives at 127.0.0.1, which
// the kernel otherwise accepts from the loopback device alone. The setting goes with the device when the daemon ends; what
// may pass is for the VPN's policy to say.
func localThrough(device string) error {
	return os.WriteFile("/proc/sys/net/ipv4/conf/"+filepath.Base(device)+"/route_localnet", []byte("1"), 0)
}

// lead takes both phones through the morning. Only an interruption ends it early; what fails is told and the rest goes on.
func (m *morning) lead(ctx context.Context) error {
	for _, g := range m.all {
		m.t.title(fmt.Sprintf("%s, a Cisco %s with line %s, in the office", g.conf.Device, g.conf.Model, g.line))
		if err := m.office(ctx, g); err != nil {
			g.settle(phone.StepFile, bad)
			m.t.failed(err.Error())
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	for _, g := range m.all {
		m.home(ctx, g)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	m.call(ctx)
	return ctx.Err()
}

// office boots and registers a phone.
func (m *morning) office(ctx context.Context, g *guest) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	if err := m.make(g, false); err != nil {
		return err
	}
	if err := g.phone.Boot(ctx); err != nil {
		return err
	}
	secure := g.conf.Security == config.SecurityEncrypted
	if secure {
		m.askTVS(ctx, g)
		if g.phone.LSC() == nil {
			g.settle(phone.StepCAPF, bad)
		}
	} else {
		g.settle(phone.StepCAPF, passed)
		m.t.passed(label(phone.StepCAPF) + "not due: the phone is declared non-secure")
	}
	if g.conf.VPN == "" {
		m.t.passed(label(phone.StepVPN) + "not declared for this phone")
	}
	if err := g.phone.Register(ctx); err != nil {
		g.settle(phone.StepRegister, bad)
		m.t.failed(label(phone.StepRegister) + err.Error())
		return nil
	}
	return nil
}

// askTVS has the phone verify the call server's certificate, which its list names too.
func (m *morning) askTVS(ctx context.Context, g *guest) {
	listed := g.phone.Listed(trust.CCM)
	if len(listed) == 0 {
		g.settle(phone.StepTrust, bad)
		m.t.failed(label(phone.StepTVS) + "the list names no call server")
		return
	}
	roles, err := g.phone.VerifyCertificate(ctx, listed[0])
	if err != nil || !slices.Contains(roles, trust.CCM) {
		g.settle(phone.StepTrust, bad)
		m.t.failed(label(phone.StepTVS) + fmt.Sprintf("roles %v, %v", roles, err))
	}
}

// home takes a phone home, if it has a VPN: it comes back through the tunnel.
func (m *morning) home(ctx context.Context, g *guest) {
	switch {
	case g.conf.VPN == "":
		g.settle(phone.StepVPN, passed)
		return
	case m.vpn != "":
		m.t.title(g.conf.Device + " stays in the office")
		m.t.passed(label(phone.StepVPN) + m.vpn)
		m.t.note("sudo make run, or make run-tunnel, gives it the right")
		g.settle(phone.StepVPN, passed)
		return
	case g.phone == nil || g.phone.Config() == nil:
		g.settle(phone.StepVPN, bad)
		return
	}
	m.t.title(g.conf.Device + " goes home: its file server is out of reach, so it opens the VPN")
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	_ = g.phone.Unregister(ctx)
	g.phone.Stop()
	g.settle(phone.StepVPN, bad) // until the tunnel is up
	err := m.make(g, true)
	if err == nil {
		err = g.phone.Boot(ctx)
	}
	if err == nil {
		err = g.phone.Register(ctx)
	}
	if _, ok := g.phone.Tunnel(); err != nil || !ok {
		m.t.failed(label(phone.StepVPN) + fmt.Sprint(err))
		g.settle(phone.StepVPN, bad)
		return
	}
	g.moved = true
	g.settle(phone.StepVPN, good)
}

// make makes the phone, with the flash memory that it had before.
func (m *morning) make(g *guest, outside bool) error {
	l := m.doc.Node.Listen
	o := phone.Options{
		Device: g.conf.Device, Model: g.conf.Model, Server: m.doc.Node.Address, Dir: filepath.Join(m.d.dir, "phones", g.conf.Device),
		HTTPPort: int(l.ProvisionHTTP.Port()), HTTPSPort: int(l.ProvisionHTTPS.Port()), TFTPPort: int(l.TFTP.Port()),
		Outside: outside, Codecs: []string{"PCMU", "PCMA"}, ToneHz: g.tone,
		Timers: phone.Timers{TFTP: 200 * time.Millisecond},
		Events: func(e phone.Event) { m.event(g, e) },
	}
	p, err := phone.New(o)
	if err == nil {
		g.phone = p
	}
	return err
}

// event prints what the phone tells, and judges its steps by it. Optional files that are missing are of no interest.
func (m *morning) event(g *guest, e phone.Event) {
	if m.over.Load() || strings.HasSuffix(e.Text, "none on the server") || e.Step == phone.StepSIP && e.Err == nil {
		return
	}
	if e.Step == phone.StepCall {
		e.Text = g.line + ": " + e.Text
	}
	step := e.Step
	if step == phone.StepTVS {
		step = phone.StepTrust
	}
	if e.Err != nil {
		g.settle(step, bad)
		m.t.failed(label(e.Step) + e.Text + ": " + e.Err.Error())
		return
	}
	if e.Step != phone.StepVPN && e.Step != phone.StepCall {
		g.settle(step, good)
	}
	m.t.done(label(e.Step) + e.Text)
}

func label(step string) string { return fmt.Sprintf("%-13s", title(step)) }

// settle records how a step went; what went wrong once stays wrong, except the VPN, which is tried in its own time.
func (g *guest) settle(step string, v verdict) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.steps[step] != bad || step == phone.StepVPN {
		g.steps[step] = v
	}
}

// call lets the second phone call the first and measures what each hears of the other.
func (m *morning) call(ctx context.Context) {
	to, from := m.all[0], m.all[1]
	m.t.title(fmt.Sprintf("%s calls %s", from.line, to.line))
	fail := func(err error) {
		to.settle(phone.StepCall, bad)
		from.settle(phone.StepCall, bad)
		m.t.failed(label(phone.StepCall) + err.Error())
	}
	if from.phone == nil || to.phone == nil || !from.phone.Registered() || !to.phone.Registered() {
		fail(errors.New("not both phones are registered"))
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := from.phone.Call(ctx, to.line)
	if err != nil {
		fail(err)
		return
	}
	in, err := to.phone.WaitIncoming(ctx)
	if err == nil {
		err = out.WaitState(ctx, phone.RingOut)
	}
	if err == nil {
		err = in.Answer(ctx)
	}
	if err == nil {
		err = out.WaitState(ctx, phone.Connected)
	}
	if err != nil {
		fail(err)
		_ = out.Hangup(ctx)
		return
	}
	select {
	case <-time.After(listenFor):
	case <-ctx.Done():
	}
	m.heard(to, in.Audio(), from)
	m.heard(from, out.Audio(), to)
	if err := out.Hangup(ctx); err != nil {
		fail(err)
		return
	}
	if err := in.WaitState(ctx, phone.Ended); err != nil {
		fail(err)
	}
}

// heard judges the audio that one side has received from the other.
func (m *morning) heard(by *guest, a phone.Audio, from *guest) {
	text := fmt.Sprintf("%s hears %s: sent %.0f Hz, measured %.0f Hz (%.0f %% of the sound), %d packets, %d lost, %s",
		by.line, from.line, from.tone, a.Hz, 100*a.Share, a.Received, a.Lost, a.Codec)
	if a.Suite != "" {
		text += " in SRTP " + a.Suite
	}
	if by.moved {
		text += ", through the tunnel"
	}
	if math.Abs(a.Hz-from.tone) > 10 || a.Share < 0.9 || a.AuthFailures > 0 || a.Lost > 0 {
		by.settle(phone.StepCall, bad)
		m.t.failed(label("audio") + text)
		return
	}
	by.settle(phone.StepCall, good)
	m.t.done(label("audio") + text)
}

// summary prints the six steps of both phones and counts what failed.
func (m *morning) summary() (failures int) {
	m.t.title("The morning in six steps")
	for _, g := range m.all {
		var b strings.Builder
		g.mu.Lock()
		for _, s := range six {
			mark := m.t.paint(red, "✗")
			switch g.steps[s.step] {
			case good:
				mark = m.t.paint(green, "✓")
			case passed:
				mark = m.t.paint(yellow, "–")
			default:
				failures++
			}
			fmt.Fprintf(&b, "  %s %s", mark, s.title)
		}
		g.mu.Unlock()
		m.t.line("  %s%s", g.conf.Device, b.String())
		if g.phone == nil {
			continue
		}
		for k, n := range g.phone.Refusals() {
			m.t.failed(fmt.Sprintf("%s refused %s %d times", g.conf.Device, k, n))
		}
		for _, r := range g.phone.Remarks() {
			m.t.note("remark: " + r)
		}
	}
	return failures
}

// next says where to look.
func (m *morning) next() {
	l := m.doc.Node.Listen
	m.t.title("Where to look")
	short := func(p string) string {
		if wd, err := os.Getwd(); err == nil {
			if r, err := filepath.Rel(wd, p); err == nil && !strings.HasPrefix(r, "..") {
				return "." + string(filepath.Separator) + r
			}
		}
		return p
	}
	program := short(m.d.program)
	m.t.line("  address   SIP %s (TCP, UDP) and %s (TLS); files http://%s/; metrics http://%s/metrics", l.SIPTCP, l.SIPTLS, l.ProvisionHTTP, l.Metrics)
	m.t.line("  command   %s --state %s phone show %s", program, m.d.state, m.all[0].conf.Device)
	m.t.line("            (also: status, phone list, line list, cert list, vpn sessions, call list)")
	m.t.line("  file      %s", m.d.config)
	m.t.line("  log       %s", m.d.log)
	for _, line := range m.doc.Lines {
		if line.Phone == "" {
			m.t.line("  softphone register %s at %s with the password in that file, then call %s: it answers with a tone",
				line.Number, l.SIPTCP, m.all[0].line)
			break
		}
	}
}

// serve keeps phones and daemon up until the context ends. The phones answer whoever calls.
func (m *morning) serve(ctx context.Context) error {
	m.t.line("\nServing. Ctrl-C ends it.")
	g := task.NewGroup(ctx, nil)
	defer g.Stop()
	for _, guest := range m.all {
		if guest.phone == nil {
			continue
		}
		g.Go("sepsim answer", func(ctx context.Context) {
			for {
				c, err := guest.phone.WaitIncoming(ctx)
				if err != nil {
					return
				}
				_ = c.Answer(ctx)
			}
		})
	}
	select {
	case <-ctx.Done():
		m.over.Store(true)
		m.t.line("\nEnding.")
		return nil
	case err := <-m.d.ended:
		m.d.ended <- err
		return fmt.Errorf("the daemon has ended: %v\n%s", err, m.d.tail())
	}
}

func (m *morning) close() {
	m.over.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, g := range m.all {
		if g.phone != nil {
			_ = g.phone.Unregister(ctx)
			g.phone.Stop()
		}
	}
}
