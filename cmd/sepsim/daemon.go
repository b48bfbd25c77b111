package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ringfence/internal/task"
)

// daemon is a ringfence process that this program has started and will end, by its id.
type daemon struct {
	program string
	dir     string // everything of this morning
	config  string
	state   string
	log     string
	cmd     *exec.Cmd
	ended   chan error
}

// startDaemon writes the example configuration into dir and runs the daemon on it. It is a process group of its own, so
// that Ctrl-C reaches it only through stop.
func startDaemon(ctx context.Context, program, dir string) (*daemon, error) {
	d := &daemon{program: program, dir: dir, config: filepath.Join(dir, "ringfence.yaml"), state: filepath.Join(dir, "state"),
		log: filepath.Join(dir, "ringfence.log"), ended: make(chan error, 1)}
	example, err := exec.CommandContext(ctx, program, "config", "example").Output()
	if err != nil {
		return nil, fmt.Errorf("%s config example: %w", program, explain(err))
	}
	if err := os.WriteFile(d.config, example, 0o600); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d.cmd = exec.Command(program, "run", "--config", d.config, "--state", d.state)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	task.NewGroup(context.Background(), nil).Go("wait for the daemon", func(context.Context) { d.ended <- d.cmd.Wait() })
	return d, nil
}

func explain(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return err
}

// status is what the morning needs of `ringfence status --json`.
type status struct {
	Version  string   `json:"version"`
	Warnings []string `json:"warnings"`
	Services []struct {
		Name  string `json:"name"`
		Up    bool   `json:"up"`
		State string `json:"state"`
	} `json:"services"`
}

// ready waits until the daemon answers its control socket.
func (d *daemon) ready(ctx context.Context) (status, error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		var s status
		out, err := exec.CommandContext(ctx, d.program, "--state", d.state, "status", "--json").Output()
		if err == nil {
			err = json.Unmarshal(out, &s)
		}
		if err == nil {
			return s, nil
		}
		select {
		case err := <-d.ended:
			d.ended <- err
			return s, fmt.Errorf("the daemon ended at its start: %v\n%s", err, d.tail())
		case <-ctx.Done():
			return s, fmt.Errorf("the daemon is not ready: %w\n%s", explain(err), d.tail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// tail is the end of the daemon's log.
func (d *daemon) tail() string {
	b, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(len(lines)-10, 0):], "\n")
}

// stop ends the daemon in order, and by force after a while.
func (d *daemon) stop() error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-d.ended:
		d.ended <- err
		return err
	case <-time.After(15 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.ended
		return errors.New("the daemon did not stop within 15 s")
	}
}
