package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/task"
)

// runOptions are the flags of sepsim run.
type runOptions struct {
	phone   phone.Options
	server  string
	local   string
	mic     string
	passEnv string
	codecs  string
	json    bool
	call    string
	seconds int
	answer  bool
	verbose bool
}

func (o *runOptions) flags(fs *flag.FlagSet) {
	fs.StringVar(&o.phone.Device, "device", "", "device name: SEP and the MAC, SEP001122AA0001")
	fs.StringVar(&o.phone.Model, "model", "8851", "model number")
	fs.StringVar(&o.server, "server", "", "address of the provisioning server")
	fs.IntVar(&o.phone.HTTPPort, "http-port", 6970, "HTTP port of the server; real phones know 6970 only")
	fs.IntVar(&o.phone.HTTPSPort, "https-port", 6971, "HTTPS port; real phones know 6971 only")
	fs.IntVar(&o.phone.TFTPPort, "tftp-port", 69, "TFTP port; real phones know 69 only")
	fs.StringVar(&o.phone.Dir, "dir", "", "folder of the phone's flash memory: lists, certificate, configuration")
	fs.StringVar(&o.local, "local", "", "the phone's own address, when not that of the route")
	fs.BoolVar(&o.phone.Outside, "outside", false, "the phone is not in the office: open the VPN of its stored configuration")
	fs.StringVar(&o.phone.VPNUser, "vpn-user", "", "user name for a VPN that wants a password")
	fs.StringVar(&o.passEnv, "vpn-password-env", "", "environment variable that holds that password")
	fs.StringVar(&o.phone.CAPFCode, "capf-code", "", "code typed at the phone for its enrolment")
	fs.StringVar(&o.mic, "mic", "", "PEM file with manufacturing certificate and key")
	fs.StringVar(&o.codecs, "codecs", "", "codecs in order, comma separated (PCMU, PCMA, G722); the model's when empty")
	fs.Float64Var(&o.phone.ToneHz, "tone", 1004, "tone that calls send, in hertz")
	fs.BoolVar(&o.json, "json", false, "one JSON object for each line of output")
	fs.StringVar(&o.call, "call", "", "call this number after registering, and leave when the call is over")
	fs.IntVar(&o.seconds, "seconds", 5, "length of that call")
	fs.BoolVar(&o.answer, "answer", false, "answer incoming calls by itself")
	fs.BoolVar(&o.verbose, "verbose", false, "log to standard error")
}

func (o *runOptions) finish(stderr io.Writer) error {
	var err error
	if o.phone.Server, err = netip.ParseAddr(o.server); err != nil {
		return wrong("--server %q is no address", o.server)
	}
	if o.local != "" {
		if o.phone.Local, err = netip.ParseAddr(o.local); err != nil {
			return wrong("--local %q is no address", o.local)
		}
	}
	if o.passEnv != "" {
		o.phone.VPNPassword = os.Getenv(o.passEnv)
	}
	if o.codecs != "" {
		o.phone.Codecs = strings.Split(o.codecs, ",")
	}
	if o.phone.Dir == "" {
		return wrong("--dir is missing: where does the phone keep its certificate?")
	}
	if o.mic != "" {
		cert, err := tls.LoadX509KeyPair(o.mic, o.mic)
		if err != nil {
			return fmt.Errorf("manufacturing certificate: %w", err)
		}
		o.phone.MIC = &cert
	}
	if o.verbose {
		o.phone.Log = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return nil
}

// reporter prints what happens, for people or for programs.
type reporter struct {
	term *terminal
	json bool
}

func (r *reporter) event(e phone.Event) {
	if !r.json {
		if e.Err != nil {
			r.term.failed(e.String())
		} else {
			r.term.done(e.String())
		}
		return
	}
	v := map[string]string{"time": e.Time.UTC().Format(time.RFC3339Nano), "step": e.Step, "text": e.Text}
	if e.Err != nil {
		v["error"] = e.Err.Error()
	}
	r.value(v)
}

// value prints one object as JSON; say prints text, or the object in JSON mode.
func (r *reporter) value(v any) {
	b, err := json.Marshal(v)
	if err == nil {
		r.term.line("%s", b)
	}
}

func (r *reporter) say(v map[string]any, format string, args ...any) {
	if r.json {
		r.value(v)
		return
	}
	r.term.line("%s", printable(fmt.Sprintf(format, args...)))
}

func runPhone(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	var o runOptions
	fs := flag.NewFlagSet("sepsim run", flag.ContinueOnError)
	fs.SetOutput(stderr)
	o.flags(fs)
	if err := parse(fs, args); err != nil {
		return err
	}
	if err := o.finish(stderr); err != nil {
		return err
	}
	r := &reporter{term: newTerminal(stdout), json: o.json}
	o.phone.Events = r.event
	p, err := phone.New(o.phone)
	if err != nil {
		return wrong("%v", err)
	}
	defer p.Stop()
	if err := p.Boot(ctx); err != nil {
		return err
	}
	if err := p.Register(ctx); err != nil {
		return err
	}
	c := &console{p: p, r: r, answer: o.answer}
	stop := c.watch(ctx)
	defer stop()
	if o.call != "" {
		err = c.oneCall(ctx, o.call, time.Duration(o.seconds)*time.Second)
	} else {
		err = c.loop(ctx, stdin)
	}
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	for _, call := range p.Calls() {
		_ = call.Hangup(bye)
	}
	_ = p.Unregister(bye)
	p.CloseVPN()
	if n := p.Refusals(); len(n) > 0 {
		r.say(map[string]any{"refusals": n}, "refused: %v", n)
	}
	return err
}

// console obeys commands and answers calls.
type console struct {
	p      *phone.Phone
	r      *reporter
	answer bool

	mu      sync.Mutex
	current *phone.Call
	consult *phone.Call
}

func (c *console) call() *phone.Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil && c.current.State() == phone.Ended {
		c.current = nil
	}
	if c.current == nil {
		if calls := c.p.Calls(); len(calls) > 0 {
			c.current = calls[len(calls)-1]
		}
	}
	return c.current
}

// watch answers incoming calls when told to.
func (c *console) watch(ctx context.Context) (stop func()) {
	g := task.NewGroup(ctx, nil)
	g.Go("sepsim answer", func(ctx context.Context) {
		for {
			call, err := c.p.WaitIncoming(ctx)
			if err != nil {
				return
			}
			from := call.Remote()
			c.r.say(map[string]any{"ringing": from.Number, "name": from.Name}, "rings: %s <%s>", from.Name, from.Number)
			c.mu.Lock()
			c.current = call
			c.mu.Unlock()
			if c.answer {
				if err := call.Answer(ctx); err != nil {
					c.r.say(map[string]any{"error": err.Error()}, "answer: %v", err)
				}
			}
		}
	})
	return g.Stop
}

// oneCall calls, listens, hangs up and judges.
func (c *console) oneCall(ctx context.Context, number string, length time.Duration) error {
	call, err := c.p.Call(ctx, number)
	if err != nil {
		return err
	}
	if err := call.WaitState(ctx, phone.Connected); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	err = call.WaitState(wait, phone.Ended)
	a := call.Audio()
	c.r.say(map[string]any{"audio": a}, "%s", a)
	if err != nil { // the time is over, as it should be
		if err := call.Hangup(ctx); err != nil {
			return err
		}
	}
	if a.Received == 0 {
		return errors.New("nothing was heard")
	}
	return nil
}

const commands = `call NUMBER [LINE]   answer   reject   hold   resume   hangup
transfer NUMBER      consult NUMBER, then complete
dnd on|off           forward NUMBER|off [LINE]    hlog
keys DIGITS          tone HERTZ   audio   state    quit
`

func (c *console) loop(ctx context.Context, stdin io.Reader) error {
	lines := make(chan string)
	// It ends with the input; a read from a terminal cannot be called back, so nobody waits for it.
	task.NewGroup(ctx, nil).Go("sepsim input", func(ctx context.Context) {
		defer close(lines)
		s := bufio.NewScanner(stdin)
		for s.Scan() {
			select {
			case lines <- s.Text():
			case <-ctx.Done():
				return
			}
		}
	})
	if !c.r.json {
		c.r.term.line("%s", strings.TrimSpace(commands))
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case line, ok := <-lines:
			if !ok {
				if c.answer {
					// Without a terminal an answering phone stays up until it is told to go.
					<-ctx.Done()
				}
				return nil
			}
			f := strings.Fields(line)
			if len(f) == 0 {
				continue
			}
			if f[0] == "quit" || f[0] == "exit" {
				return nil
			}
			step, cancel := context.WithTimeout(ctx, 60*time.Second)
			if err := c.obey(step, f[0], f[1:]); err != nil {
				c.r.say(map[string]any{"command": f[0], "error": err.Error()}, "%s: %v", f[0], err)
			} else if c.r.json {
				c.r.value(map[string]any{"command": f[0], "ok": true})
			}
			cancel()
		}
	}
}

func (c *console) obey(ctx context.Context, verb string, args []string) error {
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	line := func(i int) int {
		n, err := strconv.Atoi(arg(i))
		if err != nil || n < 1 {
			return 1
		}
		return n
	}
	switch verb {
	case "call":
		if arg(0) == "" {
			return errors.New("call whom?")
		}
		call, err := c.p.CallFrom(ctx, line(1), arg(0))
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.current = call
		c.mu.Unlock()
		return nil
	case "dnd":
		return c.p.SetDND(ctx, arg(0) != "off")
	case "forward":
		if arg(0) == "" {
			return errors.New("forward whither? a number, or off")
		}
		return c.p.SetForward(ctx, line(1), strings.TrimPrefix(arg(0), "off"))
	case "hlog":
		return c.p.HLog(ctx)
	case "state":
		c.state()
		return nil
	case "help", "?":
		c.r.term.line("%s", strings.TrimSpace(commands))
		return nil
	}
	call := c.call()
	if call == nil {
		return errors.New("there is no call")
	}
	return c.obeyCall(ctx, call, verb, arg)
}

func (c *console) obeyCall(ctx context.Context, call *phone.Call, verb string, arg func(int) string) error {
	switch verb {
	case "answer":
		return call.Answer(ctx)
	case "reject":
		return call.Reject(ctx, 0)
	case "hold":
		return call.Hold(ctx)
	case "resume":
		return call.Resume(ctx)
	case "hangup":
		return call.Hangup(ctx)
	case "transfer":
		return call.BlindTransfer(ctx, arg(0))
	case "consult":
		other, err := call.Consult(ctx, arg(0))
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.current, c.consult = call, other
		c.mu.Unlock()
		return nil
	case "complete":
		c.mu.Lock()
		other := c.consult
		c.mu.Unlock()
		if other == nil {
			return errors.New("there is no consultation")
		}
		return call.Transfer(ctx, other)
	case "keys":
		return call.Press(arg(0))
	case "tone":
		hz, err := strconv.ParseFloat(arg(0), 64)
		if err != nil || hz < 50 || hz > 3800 {
			return fmt.Errorf("tone %q: 50 to 3800 hertz", arg(0))
		}
		call.SetTone(hz)
		return nil
	case "audio":
		a := call.Audio()
		c.r.say(map[string]any{"audio": a}, "%s", a)
		return nil
	}
	return errors.New("no such command; help lists them")
}

// state prints what the phone's screen would show.
func (c *console) state() {
	conf := c.p.Config()
	dnd, _ := c.p.DND()
	hunt, _ := c.p.HuntLogin()
	v := map[string]any{"registered": c.p.Registered(), "dnd": dnd, "hunt_login": hunt, "missed": c.p.Missed()}
	lamps := make(map[string]phone.Lamp)
	for _, k := range conf.Keys {
		if k.Feature == 21 {
			lamps[k.Number] = c.p.BLF(k.Number)
		}
	}
	var lines []phone.LineState
	for _, l := range conf.Lines {
		lines = append(lines, c.p.Line(l.Index))
	}
	type callState struct{ Number, Name, State string }
	var calls []callState
	for _, call := range c.p.Calls() {
		r := call.Remote()
		calls = append(calls, callState{r.Number, r.Name, call.State().String()})
	}
	v["lamps"], v["lines"], v["calls"] = lamps, lines, calls
	c.r.say(v, "registered %v, do not disturb %v, logged in to hunt groups %v, missed calls %d\nlamps %v\nlines %+v\ncalls %+v",
		c.p.Registered(), dnd, hunt, c.p.Missed(), lamps, lines, calls)
}
