package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tunnel measures CSTP with a real TUN device on both sides and Debian's openconnect as the client:
//
//	this namespace: daemon 198.18.0.1, stream 198.18.0.9 ─ TUN bench0 ─ CSTP over the cable ─ openconnect ─ TUN oc0: host
//	                                     198.51.100.1/24 ────────────── cable ────────────── 198.51.100.2/24
//
// A TCP stream runs through it, one way and then the other.
func (b *bench) tunnel(ctx context.Context) (err error) {
	if _, err := exec.LookPath("openconnect"); err != nil {
		b.report.add(row{Name: "CSTP", Beside: "openconnect is not installed"})
		return nil
	}
	d, err := b.newDaemon(ctx, "tunnel", site{tunnels: true, stream: streamAddress})
	if err != nil {
		return err
	}
	defer also(&err, d)
	h, err := newHost(ctx)
	if err != nil {
		return err
	}
	defer h.close()
	oc, err := h.openconnect(ctx, b.tmp)
	if err != nil {
		return err
	}
	defer oc.hangUp()
	ln, err := net.Listen("tcp4", streamAddress+":5001")
	if err != nil {
		return err
	}
	defer ln.Close()
	for _, way := range []struct {
		name string
		down bool
	}{{"CSTP download (TCP through openconnect)", true}, {"CSTP upload (TCP through openconnect)", false}} {
		near, far, err := h.connect(ctx, ln)
		if err != nil {
			return fmt.Errorf("%s: %w: %s", way.name, err, oc)
		}
		from, to := near, far
		if !way.down {
			from, to = far, near
		}
		_, _, err = pump(from, to, b.span()/5) // the window opens
		var n int64
		var took time.Duration
		before, client := d.cpu(), oc.cpu()
		if err == nil {
			n, took, err = pump(from, to, b.span())
		}
		used, theirs := d.cpu()-before, oc.cpu()-client
		near.Close()
		far.Close()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", way.name, err, oc)
		}
		mb := float64(n) / 1e6
		b.report.add(row{Name: way.name, Value: float64(used) / float64(time.Millisecond) / mb, Unit: "ms CPU/MB",
			Beside: fmt.Sprintf("%s Mbit/s of payload; openconnect itself %s ms/MB", figure(8*mb/took.Seconds()), figure(float64(theirs)/float64(time.Millisecond)/mb))})
	}
	return nil
}

// pump sends from one connection to the other for a time and returns what arrived.
func pump(from, to net.Conn, span time.Duration) (n int64, took time.Duration, err error) {
	began := time.Now()
	end := began.Add(span)
	var wg sync.WaitGroup
	var werr error
	wg.Go(func() {
		block := make([]byte, 64<<10)
		_ = from.SetWriteDeadline(end.Add(5 * time.Second))
		for time.Now().Before(end) && werr == nil {
			_, werr = from.Write(block)
		}
	})
	block := make([]byte, 64<<10)
	for time.Now().Before(end) {
		_ = to.SetReadDeadline(end)
		k, err := to.Read(block)
		n += int64(k)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, time.Since(began), err
		}
	}
	took = time.Since(began)
	// What is under way is read off, so that the sender ends.
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for {
		_ = to.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, err := to.Read(block)
		select {
		case <-done:
			if err != nil {
				return n, took, werr
			}
		default:
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return n, took, err
			}
		}
	}
}

// host is a network namespace beside this one, held by a process that sleeps.
type host struct {
	holder *exec.Cmd
	ns     string
}

func newHost(ctx context.Context) (*host, error) {
	h := &host{holder: exec.CommandContext(ctx, "unshare", "--net", "sleep", "300")}
	if err := h.holder.Start(); err != nil {
		return nil, err
	}
	pid := strconv.Itoa(h.holder.Process.Pid)
	h.ns = "/proc/" + pid + "/ns/net"
	own, err := os.Readlink("/proc/self/ns/net")
	for until := time.Now().Add(5 * time.Second); err == nil; time.Sleep(5 * time.Millisecond) {
		if its, _ := os.Readlink(h.ns); its != "" && its != own {
			break
		}
		if time.Now().After(until) {
			err = errors.New("no namespace for the host")
		}
	}
	commands := [][]string{
		{"ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", pid},
		{"ip", "addr", "add", "198.51.100.1/24", "dev", "cable"},
		{"ip", "link", "set", "cable", "up"},
	}
	for _, c := range []string{"ip link set lo up", "ip addr add 198.51.100.2/24 dev cable", "ip link set cable up",
		"ip route add " + daemonAddress + "/32 via 198.51.100.1"} {
		commands = append(commands, append([]string{"nsenter", "--net=" + h.ns, "--"}, strings.Fields(c)...))
	}
	for _, c := range commands {
		if err != nil {
			break
		}
		var out []byte
		if out, err = exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput(); err != nil {
			err = fmt.Errorf("%v: %w: %s", c, err, out)
		}
	}
	if err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *host) close() {
	_ = h.holder.Process.Kill()
	_ = h.holder.Wait()
}

// connect opens a connection from the host to ln: a socket belongs to the namespace that its thread was in.
func (h *host) connect(ctx context.Context, ln net.Listener) (near, far net.Conn, err error) {
	type result struct {
		c   net.Conn
		err error
	}
	dialled := make(chan result, 1)
	go func() {
		// The thread is not given back: it ends with this goroutine.
		runtime.LockOSThread()
		ns, err := os.Open(h.ns)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			ns.Close()
		}
		var c net.Conn
		if err == nil {
			c, err = (&net.Dialer{Timeout: answerTime}).DialContext(ctx, "tcp4", ln.Addr().String())
		}
		dialled <- result{c, err}
	}()
	accepted := make(chan result, 1)
	_ = ln.(*net.TCPListener).SetDeadline(time.Now().Add(answerTime))
	go func() { c, err := ln.Accept(); accepted <- result{c, err} }()
	r, a := <-dialled, <-accepted
	if err := errors.Join(r.err, a.err); err != nil {
		return nil, nil, err
	}
	return a.c, r.c, nil
}

// openconnect is the client, as a process on the host.
type openconnect struct {
	process
	cmd   *exec.Cmd
	ended chan error

	mu  sync.Mutex
	log bytes.Buffer
}

func (o *openconnect) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.log.Write(p)
}

func (o *openconnect) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.log.String()
	return s[max(0, len(s)-1500):]
}

const connectScript = `#!/bin/sh
[ "$reason" = connect ] || exit 0
ip link set dev $TUNDEV mtu $INTERNAL_IP4_MTU up
ip addr add $INTERNAL_IP4_ADDRESS/32 dev $TUNDEV
ip route replace ` + streamAddress + `/32 dev $TUNDEV src $INTERNAL_IP4_ADDRESS
echo $TUNDEV is up
`

// openconnect logs in with user and password and returns when the tunnel is up.
func (h *host) openconnect(ctx context.Context, dir string) (*openconnect, error) {
	script := filepath.Join(dir, "openconnect-script")
	if err := os.WriteFile(script, []byte(connectScript), 0o700); err != nil {
		return nil, err
	}
	enter := []string{"--net=" + h.ns, "--", "openconnect"}
	probe, _ := exec.CommandContext(ctx, "nsenter", append(enter, "--authenticate", "--non-inter", daemonAddress)...).CombinedOutput()
	_, after, ok := strings.Cut(string(probe), "--servercert ")
	if !ok {
		return nil, fmt.Errorf("openconnect names no certificate: %s", probe)
	}
	pin := strings.Fields(after)[0]
	o := &openconnect{ended: make(chan error, 1)}
	o.cmd = exec.CommandContext(ctx, "nsenter", append(enter, "--user", vpnUser, "--passwd-on-stdin", "--servercert", pin, "--no-dtls",
		"--script", script, "--interface", "oc0", daemonAddress)...)
	o.cmd.Stdin = strings.NewReader(password + "\n")
	o.cmd.Stdout, o.cmd.Stderr = o, o
	if err := o.cmd.Start(); err != nil {
		return nil, err
	}
	o.process = process{pids: []int{o.cmd.Process.Pid}} // nsenter becomes openconnect
	go func() { o.ended <- o.cmd.Wait() }()
	for until := time.Now().Add(20 * time.Second); !strings.Contains(o.String(), "oc0 is up"); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-o.ended:
			return nil, fmt.Errorf("openconnect: %v: %s", err, o)
		default:
		}
		if time.Now().After(until) {
			o.hangUp()
			return nil, fmt.Errorf("openconnect does not connect: %s", o)
		}
	}
	return o, nil
}

func (o *openconnect) hangUp() {
	_ = o.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-o.ended:
	case <-time.After(10 * time.Second):
		_ = o.cmd.Process.Kill()
		<-o.ended
	}
}
