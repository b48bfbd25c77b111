package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is what is measured: one process, or one with its children.
type process struct{ pids []int }

// cpu is the processor time used so far, user and system. The kernel's clock of a process counts in nanoseconds; the fields of
// /proc/PID/stat, which are ticks of 10 ms, serve where that clock cannot be read.
func (p process) cpu() time.Duration {
	var sum time.Duration
	for _, pid := range p.pids {
		var ts unix.Timespec
		// clock_getcpuclockid(3): the process clock of pid is the complement of pid shifted by three, and 2.
		if err := unix.ClockGettime(int32((^pid)<<3|2), &ts); err == nil {
			sum += time.Duration(ts.Nano())
			continue
		}
		user, system := statTimes(pid)
		sum += user + system
	}
	return sum
}

// split is the share of system time in the processor time so far, from the ticks.
func (p process) split() (user, system time.Duration) {
	for _, pid := range p.pids {
		u, s := statTimes(pid)
		user, system = user+u, system+s
	}
	return user, system
}

const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture that Go runs on

func statTimes(pid int) (user, system time.Duration) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	// The second field is a name in parentheses that may hold blanks; counting begins after it.
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(f) < 13 {
		return 0, 0
	}
	u, _ := strconv.Atoi(f[11])
	s, _ := strconv.Atoi(f[12])
	return time.Duration(u) * tick, time.Duration(s) * tick
}

// memory is what a process holds, in bytes.
type memory struct{ RSS, PSS, Anonymous int64 }

func (p process) memory() (m memory, err error) {
	for _, pid := range p.pids {
		f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return m, err
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			name, rest, _ := strings.Cut(s.Text(), ":")
			kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			switch name {
			case "Rss":
				m.RSS += kb << 10
			case "Pss":
				m.PSS += kb << 10
			case "Anonymous":
				m.Anonymous += kb << 10
			}
		}
		f.Close()
	}
	return m, nil
}

// family is a process with all that descend from it, for servers that work in several processes.
func family(root int) process {
	children := map[int][]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(f) > 1 {
			parent, _ := strconv.Atoi(f[1])
			children[parent] = append(children[parent], pid)
		}
	}
	p := process{pids: []int{root}}
	for i := 0; i < len(p.pids); i++ {
		p.pids = append(p.pids, children[p.pids[i]]...)
	}
	return p
}

// watchOthers tells, when the func is called, how many cores' worth of processor time the whole machine used meanwhile beyond
// this program and what it has started: how much the machine was shared.
func watchOthers() func() float64 {
	busy, own, from := busyTime(), ownTime(), time.Now()
	return func() float64 {
		wall := time.Since(from)
		return max(0, float64((busyTime()-busy)-(ownTime()-own))/float64(wall))
	}
}

func busyTime() time.Duration {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var sum time.Duration
	for i, field := range strings.Fields(line)[1:] {
		n, _ := strconv.ParseInt(field, 10, 64)
		if i != 3 && i != 4 && i < 8 { // idle, iowait; what follows steal is contained in the first two
			sum += time.Duration(n) * tick
		}
	}
	return sum
}

// ownTime is the processor time of this process, its finished children and its living descendants.
func ownTime() time.Duration {
	sum := family(os.Getpid()).cpu()
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_CHILDREN, &u) == nil {
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

// machine describes what was measured on.
func machine() string {
	model := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel := "unknown"
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel, _, _ = strings.Cut(strings.TrimSpace(string(text)), "-")
	}
	return fmt.Sprintf("%d cores (%s), Linux %s, %s %s", runtime.NumCPU(), model, kernel, runtime.Version(), runtime.GOARCH)
}
