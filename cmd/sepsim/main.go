// Command sepsim is the simulated Cisco phone: one that a person can use from a terminal (run), thousands that register for
// load (load), and the first morning of an appliance with two phones (morning). What the phone does is package phone's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit statuses: it worked, it did not, the command was wrong.
const (
	exitOK    = 0
	exitFail  = 1
	exitUsage = 2
)

const usage = `sepsim: a simulated Cisco phone

  sepsim run      one phone: boots, registers, and obeys commands from standard input
  sepsim load     many registrations at once, with rates and failures
  sepsim morning  starts a ringfence daemon and leads two phones through their first morning

sepsim COMMAND -h lists the flags of each.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func command(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	var run func(context.Context, []string, io.Reader, io.Writer, io.Writer) error
	switch args[0] {
	case "run":
		run = runPhone
	case "load":
		run = runLoad
	case "morning":
		run = runMorning
	case "help", "-h", "--help":
		fmt.Fprint(stdout, usage)
		return exitOK
	default:
		fmt.Fprintf(stderr, "sepsim: no command %q\n%s", args[0], usage)
		return exitUsage
	}
	switch err := run(ctx, args[1:], stdin, stdout, stderr); {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "sepsim: interrupted")
		return exitFail
	case errors.Is(err, errUsage):
		fmt.Fprintln(stderr, "sepsim:", err)
		return exitUsage
	default:
		fmt.Fprintln(stderr, "sepsim:", err)
		return exitFail
	}
}

// errUsage marks a wrong command line.
var errUsage = errors.New("wrong command line")

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errUsage, fmt.Sprintf(format, args...))
}

// parse reads flags and refuses what is left over.
func parse(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return wrong("%v", err)
	}
	if fs.NArg() > 0 {
		return wrong("%q is too much", fs.Arg(0))
	}
	return nil
}
