package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"ringfence/appliance"
)

// Besides the program itself the scripts and tests have it with another daemon inside.
func TestMain(m *testing.M) {
	with := func(serve func(context.Context, appliance.Options) error) func() {
		return func() {
			p := newProgram()
			p.serve = serve
			os.Exit(p.main(os.Args[1:]))
		}
	}
	testscript.Main(m, map[string]func(){
		"ringfence": main,
		"ringfence-idle": with(func(ctx context.Context, o appliance.Options) error {
			fmt.Printf("config=%s state=%s socket=%s\n", o.ConfigPath, o.StateDir, o.Socket)
			o.Log.Debug("idle", "phone", "SEP001122AA0001")
			<-ctx.Done()
			fmt.Println("stopping")
			return nil
		}),
		"ringfence-deaf": with(func(ctx context.Context, _ appliance.Options) error {
			fmt.Println("ready")
			<-ctx.Done()
			fmt.Println("stopping")
			select {}
		}),
		"ringfence-broken": with(func(context.Context, appliance.Options) error {
			return errors.Join(errors.New("start sip: listen tcp 192.0.2.1:5060: cannot assign requested address"), errors.New("stop store: disk"))
		}),
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: func(e *testscript.Env) error {
		e.Setenv("RINGFENCE_SOCKET", "")
		return nil
	}})
}

// daemon starts one of the test programs and returns its lines of output.
func daemon(t *testing.T, name string, args ...string) (*exec.Cmd, func(want string)) {
	t.Helper()
	cmd := exec.Command(name, append([]string{"run", "--config", "c.yaml"}, args...)...)
	cmd.Env = append(os.Environ(), "RINGFENCE_SOCKET=")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewScanner(out)
	return cmd, func(want string) {
		t.Helper()
		if !lines.Scan() || !strings.HasPrefix(lines.Text(), want) {
			t.Fatalf("the daemon said %q, want %q", lines.Text(), want)
		}
	}
}

func TestSignalStopsInOrder(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd, says := daemon(t, "ringfence-idle", "--state", "/srv/s", "--log-level", "debug", "--log-format", "json")
		says("config=c.yaml state=/srv/s socket=/srv/s/ringfence.sock")
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		says("stopping")
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v, want exit status 0", sig, err)
		}
		if log := cmd.Stderr.(*bytes.Buffer).String(); !strings.Contains(log, `"level":"DEBUG","msg":"idle","phone":"SEP001122AA0001"`) {
			t.Errorf("log as asked for: %s", log)
		}
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	cmd, says := daemon(t, "ringfence-deaf", "--log-level", "error")
	says("ready")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	says("stopping")
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	// The program lets go of the signal just after it has passed on the first, so one of the next must end it.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(10 * time.Second); ; {
		select {
		case err := <-ended:
			if err == nil {
				t.Error("exit status 0 although nothing was stopped in order")
			}
			return
		case <-tick.C:
			_ = cmd.Process.Signal(syscall.SIGTERM)
		case <-deadline:
			t.Fatal("a second signal did not end it")
		}
	}
}

func TestSocketPlace(t *testing.T) {
	for _, c := range []struct {
		args, env, want string
	}{
		{"status", "", defaultSocket},
		{"status", "/e.sock", "/e.sock"},
		{"--state /s status", "", "/s/ringfence.sock"},
		{"status --state=/s", "", "/s/ringfence.sock"},
		{"--state /s status", "/e.sock", "/e.sock"},
		{"phone --socket /x.sock list --state /s", "/e.sock", "/x.sock"},
		{"line show -- --socket", "", defaultSocket},
	} {
		g, rest, err := globals(strings.Fields(c.args))
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
			continue
		}
		p := &program{getenv: func(string) string { return c.env }}
		if got := p.socket(g); got != c.want || len(rest) == 0 {
			t.Errorf("%s with %q: socket %s, want %s", c.args, c.env, got, c.want)
		}
	}
}
