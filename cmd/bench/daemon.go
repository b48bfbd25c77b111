package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// daemon is a program under measurement, as a process.
type daemon struct {
	process
	name  string
	state string // folder
	cmd   *exec.Cmd
	in    io.WriteCloser // of the profiled daemon
	out   io.Reader
	ended chan error
	took  time.Duration // until every service was ready

	mu  sync.Mutex
	log bytes.Buffer
}

// newDaemon writes the site's document and starts the built daemon.
func (b *bench) newDaemon(ctx context.Context, name string, s site) (*daemon, error) {
	dir := filepath.Join(b.tmp, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "ringfence.yaml")
	if err := os.WriteFile(config, []byte(s.document()), 0o600); err != nil {
		return nil, err
	}
	return b.startDaemon(ctx, name, config, filepath.Join(dir, "state"))
}

func (b *bench) startDaemon(ctx context.Context, name, config, state string) (*daemon, error) {
	return startProgram(ctx, name, state, "msg=ready", filepath.Join(b.bin, "ringfence"), "run", "--config", config, "--state", state)
}

// startProgram starts a daemon and returns when its log has the line that says that it serves.
func startProgram(ctx context.Context, name, state, ready string, program string, args ...string) (*daemon, error) {
	d := &daemon{name: name, state: state, cmd: exec.Command(program, args...), ended: make(chan error, 1)}
	logs, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	d.cmd.Stderr = w
	if d.in, err = d.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if d.out, err = d.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	up := make(chan time.Time, 1)
	from := time.Now()
	err = d.cmd.Start()
	w.Close()
	if err != nil {
		logs.Close()
		return nil, err
	}
	d.process = process{pids: []int{d.cmd.Process.Pid}}
	go d.follow(logs, ready, up)
	go func() { d.ended <- d.cmd.Wait() }()
	select {
	case at := <-up:
		d.took = at.Sub(from)
		return d, nil
	case err := <-d.ended:
		d.ended <- err
		return nil, fmt.Errorf("%s ended at its start: %v: %s", name, err, d.tail())
	case <-ctx.Done():
	case <-time.After(time.Minute):
	}
	d.kill()
	return nil, fmt.Errorf("%s was not ready in time: %s", name, d.tail())
}

// follow reads the log, keeps its end, and tells when the line came that says that the daemon serves.
func (d *daemon) follow(logs io.ReadCloser, ready string, up chan<- time.Time) {
	defer logs.Close()
	told := false
	for r := bufio.NewReader(logs); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if !told && strings.Contains(line, ready) {
			told = true
			up <- time.Now()
		}
		d.mu.Lock()
		if d.log.Len() > 1<<20 {
			d.log.Next(d.log.Len() / 2)
		}
		d.log.WriteString(line)
		d.mu.Unlock()
	}
}

// tail is the end of the log.
func (d *daemon) tail() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.log.String()
	return s[max(0, len(s)-1500):]
}

// stop ends the daemon in order.
func (d *daemon) stop() error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-d.ended:
		if err != nil {
			return fmt.Errorf("%s did not stop in order: %w: %s", d.name, err, d.tail())
		}
		return nil
	case <-time.After(20 * time.Second):
	}
	d.kill()
	return errors.New(d.name + " did not stop within 20 s of SIGTERM")
}

func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	d.ended <- <-d.ended
}

// also joins the end of a daemon to the error of the part that used it.
func also(err *error, d *daemon) { *err = errors.Join(*err, d.stop()) }

// sleep waits, or less when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
