package main

import (
	"context"
	_ "embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

//go:embed testdata/kamailio.cfg
var kamailioConfig []byte

// kamailio starts Debian's SIP server as the reference for lines and calls; nil when it is not installed.
func (b *bench) kamailio(ctx context.Context) (*daemon, error) {
	program, err := exec.LookPath("kamailio")
	if err != nil {
		return nil, nil
	}
	config := filepath.Join(b.tmp, "kamailio.cfg")
	if err := os.WriteFile(config, kamailioConfig, 0o600); err != nil {
		return nil, err
	}
	d := &daemon{name: "kamailio", ended: make(chan error, 1), cmd: exec.CommandContext(ctx, program, "-DD", "-E", "-m", "256", "-M", "32",
		"-w", b.tmp, "-P", filepath.Join(b.tmp, "kamailio.pid"), "-Y", b.tmp, "-f", config)}
	d.cmd.Stderr, d.cmd.Stdout = &d.log, &d.log
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { d.ended <- d.cmd.Wait() }()
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", referenceAddress, portSIP), time.Second)
		if err == nil {
			c.Close()
			break
		}
		select {
		case err := <-d.ended:
			return nil, fmt.Errorf("kamailio: %v: %s", err, d.tail())
		default:
		}
		if time.Now().After(until) {
			d.kill()
			return nil, fmt.Errorf("kamailio does not listen: %s", d.tail())
		}
	}
	time.Sleep(200 * time.Millisecond) // the last of its processes have forked
	d.process = family(d.cmd.Process.Pid)
	return d, nil
}
