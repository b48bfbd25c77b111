package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/image/boot/release"
)

// daemon is the only child.
type daemon struct {
	mu       sync.Mutex // guards the rest
	cmd      *exec.Cmd
	ended    chan struct{} // closed when cmd has ended
	output   *lines
	children map[int]bool // that os/exec waits for
	crashes  []time.Time
	starts   int
}

// When the daemon does not stay up: that many ends within the time mean that starting it again does not help. A release on trial
// is given up soon. One that has proven itself fails for another reason more likely, as an address that a slow switch has not
// let through yet, so it has more time, with growing pauses.
const (
	crashPause  = time.Second
	crashMost   = 6
	crashSpan   = 90 * time.Second
	provenMost  = 12
	provenSpan  = 15 * time.Minute
	provenPause = 30 * time.Second
	stopGrace   = 15 * time.Second
)

// capabilities that the daemon has besides none: low ports, network configuration, raw sockets, the clock.
var capabilities = []uintptr{unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SYS_TIME}

// command is this binary as the daemon's user.
func (s *system) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "ringfence"
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/", "HOME=" + StateDir, "RINGFENCE_SOCKET=" + DaemonSock, confineEnv + "=1", "RINGFENCE_INIT=" + Socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: release.UID, Gid: release.UID},
		Setsid:     true, AmbientCaps: capabilities,
	}
	if limit := memoryLimit(); limit > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("GOMEMLIMIT=%d", limit*9/10))
	}
	return cmd
}

// startDaemon starts it and keeps its last lines.
func (s *system) startDaemon() error {
	s.daemon.mu.Lock()
	defer s.daemon.mu.Unlock()
	cmd := s.command("run", "--state", StateDir, "--socket", DaemonSock)
	s.daemon.output = &lines{to: s.daemonLog()}
	cmd.Stdout, cmd.Stderr = s.daemon.output, s.daemon.output
	if group := memoryGroup(); group != nil {
		defer group.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	}
	// The loop that collects orphans must know this child before it can end.
	if s.daemon.children == nil {
		s.daemon.children = map[int]bool{}
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	s.daemon.children[cmd.Process.Pid] = true
	s.daemon.cmd, s.daemon.ended = cmd, make(chan struct{})
	s.daemon.starts++
	ended := s.daemon.ended
	s.log.Info("daemon started", "pid", cmd.Process.Pid)
	s.tasks.Go("daemon", func(context.Context) {
		err := cmd.Wait()
		s.daemon.mu.Lock()
		delete(s.daemon.children, cmd.Process.Pid)
		s.daemon.mu.Unlock()
		if !s.ending.Load() {
			s.log.Error("the daemon has ended", "err", err, "last", strings.Join(s.daemon.output.tail(3), " | "))
		}
		close(ended)
	})
	return nil
}

// daemonLog is where the daemon's lines go besides memory: the kernel's log, which has a size of its own.
func (s *system) daemonLog() *kmsg {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return &kmsg{f: os.Stderr}
	}
	return &kmsg{f: f}
}

// daemonRunning tells whether the daemon runs; ended is closed when it does not any more.
func (s *system) daemonRunning() (ended chan struct{}, running bool) {
	s.daemon.mu.Lock()
	defer s.daemon.mu.Unlock()
	if s.daemon.cmd == nil {
		return nil, false
	}
	select {
	case <-s.daemon.ended:
		return s.daemon.ended, false
	default:
		return s.daemon.ended, true
	}
}

// stopDaemon asks it to end, and ends it.
func (s *system) stopDaemon() {
	ended, running := s.daemonRunning()
	if !running {
		return
	}
	s.daemon.mu.Lock()
	p := s.daemon.cmd.Process
	s.daemon.mu.Unlock()
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(stopGrace):
		s.log.Error("the daemon does not end; it is killed")
		_ = p.Kill()
		<-ended
	}
}

// killDaemon ends a daemon that no longer answers.
func (s *system) killDaemon() {
	s.daemon.mu.Lock()
	defer s.daemon.mu.Unlock()
	if s.daemon.cmd != nil {
		_ = s.daemon.cmd.Process.Kill()
	}
}

// crashed notes an end of the daemon and tells how many there were of late, whether those are too many, and how long to wait.
func (d *daemon) crashed(now time.Time, trial bool) (n int, often bool, pause time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	most, span := provenMost, provenSpan
	if trial {
		most, span = crashMost, crashSpan
	}
	d.crashes = append(d.crashes, now)
	for now.Sub(d.crashes[0]) > span {
		d.crashes = d.crashes[1:]
	}
	n = len(d.crashes)
	pause = crashPause
	if !trial {
		pause = min(crashPause<<min(n-1, 10), provenPause)
	}
	return n, n >= most, pause
}

// runChild runs this binary for a moment as the daemon's user, for what writes into its state.
func (s *system) runChild(stdin []byte, args ...string) (string, error) {
	cmd := s.command(args...)
	cmd.SysProcAttr.AmbientCaps = nil
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &out
	s.daemon.mu.Lock()
	if s.daemon.children == nil {
		s.daemon.children = map[int]bool{}
	}
	err := cmd.Start()
	if err == nil {
		s.daemon.children[cmd.Process.Pid] = true
	}
	s.daemon.mu.Unlock()
	if err != nil {
		return "", err
	}
	err = cmd.Wait()
	s.daemon.mu.Lock()
	delete(s.daemon.children, cmd.Process.Pid)
	s.daemon.mu.Unlock()
	if err != nil {
		err = errors.New(strings.TrimSpace(out.String()))
	}
	return out.String(), err
}

// reap collects processes whose parent is gone. Children of ours are waited for where they were started.
func (s *system) reap(ctx context.Context) {
	for {
		time.Sleep(reapPause)
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
			continue
		}
		// si_pid is the first word after the three of the head, on 64 bits after a gap.
		pid := int(siginfoPID(&info))
		s.daemon.mu.Lock()
		ours := pid == 0 || s.daemon.children[pid]
		s.daemon.mu.Unlock()
		if !ours {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
	}
}

// reapPause: orphans are rare here, nobody but the daemon starts anything and it starts nothing.
const reapPause = 5 * time.Second

// memory is the machine's, and what of it could still be had.
func memory() (total, available uint64) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	for _, line := range strings.Split(string(b), "\n") {
		name, value, _ := strings.Cut(line, ":")
		kb, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "MemTotal":
			total = kb << 10
		case "MemAvailable":
			available = kb << 10
		}
	}
	return total, available
}

// memoryLimit is what the daemon may have of the machine's memory, in bytes: init, page cache and the kernel must live beside it.
func memoryLimit() int64 {
	total, _ := memory()
	return max(int64(total)-96<<20, int64(total)*3/5)
}

// memoryGroup is a control group with that limit, so that a leak ends the daemon and not the machine.
func memoryGroup() *os.File {
	const root, group = "/sys/fs/cgroup", "/sys/fs/cgroup/daemon"
	limit := memoryLimit()
	if limit == 0 || os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+memory"), 0) != nil {
		return nil
	}
	_ = os.Mkdir(group, 0o755)
	if os.WriteFile(filepath.Join(group, "memory.max"), []byte(strconv.FormatInt(limit, 10)), 0) != nil {
		return nil
	}
	f, err := os.Open(group)
	if err != nil {
		return nil
	}
	return f
}
