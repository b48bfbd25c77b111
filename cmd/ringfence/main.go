// Command ringfence is the daemon and every verb that talks to it.
//
// main parses flags, makes the logger, turns signals into a context and calls appliance.Run; what the daemon is stands
// there. The verbs are appliance/admin's, the config verbs are config's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"ringfence/appliance"
	"ringfence/appliance/admin"
	"ringfence/config"
	"ringfence/image/boot"
)

func main() {
	if boot.IsInit() {
		initRole()
	}
	os.Exit(newProgram().main(os.Args[1:]))
}

// Where things lie when nobody says otherwise.
const (
	defaultState  = "/var/lib/ringfence"
	defaultSocket = "/run/ringfence/ringfence.sock"
	socketEnv     = "RINGFENCE_SOCKET"
)

// program is one invocation.
type program struct {
	stdout, stderr io.Writer
	getenv         func(string) string
	terminal       func() bool // standard input is one
	serve          func(ctx context.Context, o appliance.Options) error
	verbs          []admin.Verb
}

func newProgram() *program {
	return &program{stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, terminal: stdinTerminal, serve: appliance.Run, verbs: appliance.Verbs()}
}

func (p *program) main(args []string) int {
	global, args, err := globals(args)
	if err != nil {
		return p.wrong("%v", err)
	}
	if len(args) == 0 {
		p.help(p.stderr)
		return admin.ExitUsage
	}
	switch args[0] {
	case "run":
		return p.run(global, args[1:])
	case "image":
		return p.image(args[1:])
	case "config":
		if localConfig(args) {
			return config.Command(args[1:], p.stdout, p.stderr)
		}
		return p.configure(global, args)
	case "restore":
		return p.restore(global, args[1:])
	case "backup":
		if client := (admin.Client{Socket: p.socket(global), Verbs: p.verbs}); global.state != "" && !client.Answers() {
			return p.backupOffline(global, args[1:])
		}
	case "version", "-version", "--version":
		if len(args) > 1 {
			return p.wrong("version takes no arguments")
		}
		fmt.Fprintf(p.stdout, "ringfence %s\n", appliance.Version)
		return admin.ExitOK
	case "help", "-h", "-help", "--help":
		return p.helpOn(args[1:])
	}
	return admin.Client{Socket: p.socket(global), Verbs: p.verbs}.Command(args, p.stdout, p.stderr)
}

// places are the flags that say where the daemon is; every command takes them.
type places struct{ socket, state string }

// localConfig tells the config verbs that know no daemon and keep their flags.
func localConfig(args []string) bool {
	if len(args) < 2 {
		return true
	}
	switch args[1] {
	case "apply", "edit", "show", "history", "diff", "reload":
		return false
	}
	return true
}

// globals takes --socket and --state out of args, wherever they stand before "--".
func globals(args []string) (g places, rest []string, err error) {
	if len(args) > 0 && args[0] == "config" && localConfig(args) {
		return g, args, nil
	}
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			return g, append(rest, args[i:]...), nil
		}
		name, value, given := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if !strings.HasPrefix(a, "-") || name != "socket" && name != "state" {
			rest = append(rest, a)
			continue
		}
		if !given {
			if i++; i == len(args) {
				return g, nil, fmt.Errorf("--%s needs a path", name)
			}
			value = args[i]
		}
		if value == "" {
			return g, nil, fmt.Errorf("--%s needs a path", name)
		}
		if name == "socket" {
			g.socket = value
		} else {
			g.state = value
		}
	}
	return g, rest, nil
}

// socket is where the control socket is: as said, from the environment, in the state directory when that was said, else the
// system's place.
func (p *program) socket(g places) string {
	switch env := p.getenv(socketEnv); {
	case g.socket != "":
		return g.socket
	case env != "":
		return env
	case g.state != "":
		return filepath.Join(g.state, "ringfence.sock")
	}
	return defaultSocket
}

// run is the daemon in the foreground. SIGTERM and SIGINT stop it in order, a second one at once.
func (p *program) run(g places, args []string) int {
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	file := fs.String("config", "", "")
	format := fs.String("log-format", "text", "")
	level := fs.String("log-level", "info", "")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(p.stdout, runHelp)
		return admin.ExitOK
	} else if err != nil {
		return p.wrong("run: %v; ringfence help run lists the flags", err)
	}
	if fs.NArg() > 0 {
		return p.wrong("run takes no %q; ringfence help run lists the flags", fs.Arg(0))
	}
	log, err := logger(p.stderr, *format, *level)
	if err != nil {
		return p.wrong("run: %v", err)
	}
	if err := boot.Confine(); err != nil {
		return p.broken(err)
	}
	o := appliance.Options{ConfigPath: *file, StateDir: g.state, Socket: p.socket(g), Log: log, Version: appliance.Version}
	if o.StateDir == "" {
		o.StateDir = defaultState
	}
	signal.Ignore(syscall.SIGHUP) // a terminal that closes is no order
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	// After the first signal the next one has its usual effect, which is the end.
	context.AfterFunc(ctx, stop)
	o.PaceMemory = p.getenv("GOGC") == ""
	if err := p.serve(ctx, o); err != nil {
		p.fail(*file, err)
		return admin.ExitError
	}
	return admin.ExitOK
}

// fail says in one line why the daemon ended. Only the faults of a document take more: each has its place and remedy.
func (p *program) fail(file string, err error) {
	if faults, ok := errors.AsType[config.Errors](err); ok {
		if file == "" {
			fmt.Fprintf(p.stderr, "%v\nringfence: the stored configuration has %s, not started; apply a better one with ringfence config apply FILE\n", faults, count(len(faults), "fault"))
			return
		}
		fmt.Fprintf(p.stderr, "%v\nringfence: %s has %s, not started; ringfence config check %s shows them again\n", faults, file, count(len(faults), "fault"), file)
		return
	}
	fmt.Fprintf(p.stderr, "ringfence: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func logger(w io.Writer, format, level string) (*slog.Logger, error) {
	var o slog.HandlerOptions
	switch level {
	case "debug":
		o.Level = slog.LevelDebug
	case "info":
		o.Level = slog.LevelInfo
	case "warn":
		o.Level = slog.LevelWarn
	case "error":
		o.Level = slog.LevelError
	default:
		return nil, fmt.Errorf("--log-level %q is none of debug, info, warn, error", level)
	}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, &o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, &o)), nil
	}
	return nil, fmt.Errorf("--log-format %q is none of text, json", format)
}

// wrong says in one line what is wrong with the command.
func (p *program) wrong(format string, args ...any) int {
	fmt.Fprintf(p.stderr, "ringfence: "+format+"\n", args...)
	return admin.ExitUsage
}
