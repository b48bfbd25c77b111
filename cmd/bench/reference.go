package main

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"
)

//go:embed testdata/kamailio.cfg
var kamailioConfig []byte

const rtpengineControl = referenceAddress + ":2223"

// startRTPEngine starts Debian's rtpengine as the reference for relayed audio, in user space with as many threads as there are cores;
// nil when it is not installed.
func (b *bench) startRTPEngine(ctx context.Context) (*daemon, error) {
	program, err := exec.LookPath("rtpengine")
	if err != nil {
		return nil, nil
	}
	d := &daemon{name: "rtpengine", ended: make(chan error, 1), cmd: exec.CommandContext(ctx, program, "--config-file=none", "--foreground", "--log-stderr",
		"--log-level=3", "--table=-1", fmt.Sprintf("--num-threads=%d", runtime.NumCPU()), "--interface="+referenceAddress, "--listen-ng="+rtpengineControl,
		"--port-min=30000", "--port-max=40000", "--pidfile="+filepath.Join(b.tmp, "rtpengine.pid"))}
	d.cmd.Stderr, d.cmd.Stdout = &d.log, &d.log
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	d.process = process{pids: []int{d.cmd.Process.Pid}}
	go func() { d.ended <- d.cmd.Wait() }()
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err = ng(rtpengineControl, "d7:command4:pinge"); err == nil {
			return d, nil
		}
		if time.Now().After(until) {
			d.kill()
			return nil, fmt.Errorf("rtpengine does not answer: %w: %s", err, d.tail())
		}
	}
}

// referenceCalls relays a number of calls through rtpengine; secret ones have SRTP on the caller's leg.
func (b *bench) referenceCalls(ctx context.Context, d *daemon, n int, secret bool) (audioResult, error) {
	return b.relay(ctx, d, n, func(i int, x, y *stream) (func() error, error) {
		id := fmt.Sprintf("7:call-id%s8:from-tag1:a", bencoded(fmt.Sprintf("c%d-%d-%t", n, i, secret)))
		key, as := "", ""
		if secret {
			key, as = x.makeKey(), "18:transport-protocol7:RTP/AVP"
		}
		// What the offer becomes is what the callee is told, and the other way round.
		toY, err := ng(rtpengineControl, "d"+id+"7:command5:offer3:sdp"+bencoded(sdp(x.local, key))+as+"e")
		if err == nil {
			y.remote, _, err = audioOf(toY)
		}
		if err != nil {
			return nil, err
		}
		toX, err := ng(rtpengineControl, "d"+id+"7:command6:answer3:sdp"+bencoded(sdp(y.local, ""))+"6:to-tag1:be")
		var theirs string
		if err == nil {
			x.remote, theirs, err = audioOf(toX)
		}
		if err == nil && secret {
			err = x.protect(key, theirs)
		}
		return func() error { _, err := ng(rtpengineControl, "d"+id+"7:command6:deletee"); return err }, err
	})
}

func bencoded(s string) string { return fmt.Sprintf("%d:%s", len(s), s) }

// ng sends a command of rtpengine's control protocol, a cookie and a bencoded dictionary in one datagram, and returns the session
// description of the answer, if it has one.
func ng(address, command string) (sdp []byte, err error) {
	c, err := net.Dial("udp", address)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	cookie := fmt.Sprintf("%x ", branches.Add(1))
	if _, err := c.Write([]byte(cookie + command)); err != nil {
		return nil, err
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 65536)
	n, err := c.Read(buf)
	if err != nil {
		return nil, err
	}
	answer, ok := bytes.CutPrefix(buf[:n], []byte(cookie))
	if !ok || bytes.Contains(answer, []byte("6:result5:error")) {
		return nil, fmt.Errorf("rtpengine answers %q", buf[:n])
	}
	if _, after, ok := bytes.Cut(answer, []byte("3:sdp")); ok {
		length, text, _ := bytes.Cut(after, []byte(":"))
		if k, err := strconv.Atoi(string(length)); err == nil && k <= len(text) {
			return text[:k], nil
		}
	}
	return nil, nil
}

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
