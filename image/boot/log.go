package boot

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// openLog opens the console and the kernel's log. The latter is the appliance's memory of its start; the former is for whoever
// watches a serial line.
func (s *system) openLog() {
	if f, err := os.OpenFile("/dev/console", os.O_RDWR, 0); err == nil {
		s.console = f
		for fd := range 3 {
			_ = unix.Dup3(int(f.Fd()), fd, 0) // Dup2 is not on every architecture
		}
	} else {
		s.console = os.Stderr
	}
	_ = os.WriteFile("/proc/sys/kernel/printk_devkmsg", []byte("on\n"), 0) // else the kernel drops lines
	out := []io.Writer{s.console}
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		out = append(out, &kmsg{f: f})
	}
	s.log = slog.New(slog.NewTextHandler(io.MultiWriter(out...), &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && len(groups) == 0 {
			return slog.String("at", fmt.Sprintf("%.2f", sinceBoot().Seconds())) // the clock may be anything still
		}
		return a
	}})).With("component", "init")
}

// sinceBoot is how long the kernel runs.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano())
}

// kmsg writes lines into the kernel's log, which takes one record a write.
type kmsg struct {
	mu sync.Mutex
	f  *os.File
}

const kmsgMost = 900 // the kernel refuses records of more than about 1000 bytes

func (k *kmsg) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, line := range bytes.Split(bytes.TrimRight(p, "\n"), []byte("\n")) {
		line = line[:min(len(line), kmsgMost)]
		if _, err := k.f.Write(append([]byte("<6>ringfence: "), line...)); err != nil {
			break // what is not logged must not stop what is done
		}
	}
	return len(p), nil
}

// lines keeps the last lines that were written to it, and passes them on.
type lines struct {
	mu   sync.Mutex // guards the rest
	to   io.Writer
	last [][]byte
	rest []byte
}

const linesKept = 50

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			break
		}
		l.last = append(l.last, bytes.Clone(line))
		if len(l.last) > linesKept {
			l.last = l.last[1:]
		}
		l.rest = rest
	}
	if len(l.rest) > 64<<10 {
		l.rest = nil
	}
	l.mu.Unlock()
	if l.to != nil {
		_, _ = l.to.Write(p)
	}
	return len(p), nil
}

// tail is the last n lines.
func (l *lines) tail(n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, line := range l.last[max(len(l.last)-n, 0):] {
		out = append(out, string(line))
	}
	return out
}
