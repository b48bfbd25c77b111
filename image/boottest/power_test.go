package boottest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"ringfence/image/boot/release"
	"ringfence/image/vm"
)

// cuts is how many times the plug is pulled in each situation: ten, or $RINGFENCE_IMAGE_CUTS.
func cuts() int {
	if n, err := strconv.Atoi(os.Getenv("RINGFENCE_IMAGE_CUTS")); err == nil {
		return n
	}
	return 10
}

// TestPowerCuts pulls the plug at random moments of the first start, of an update, and of running with writes, and wants the file system
// whole and the appliance back each time.
func TestPowerCuts(t *testing.T) {
	l := need(t, "full")
	for _, firmware := range firmwares {
		t.Run(firmware, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, l, firmware, "first")
			s.seed(phones(20))
			factory, good := filepath.Join(s.dir, "factory.img"), filepath.Join(s.dir, "good.img")
			copySparse(t, s.disk, factory)
			began := time.Now()
			s.start()
			s.until("first start", proven("first"))
			first := time.Since(began)
			s.stop()
			copySparse(t, s.disk, good)
			seed := uint64(time.Now().UnixNano())
			random := rand.New(rand.NewPCG(seed, 0))
			t.Logf("the moments follow from %d", seed)
			moment := func(most time.Duration) time.Duration { return time.Duration(random.Int64N(int64(most))) }

			for range cuts() {
				copySparse(t, factory, s.disk)
				s.start()
				at := moment(first)
				time.Sleep(at)
				s.cut("first start", at)
				s.start()
				s.until("start after the cut", proven("first"))
				s.stop()
			}
			span := time.Duration(0)
			for i := range cuts() + 1 {
				copySparse(t, good, s.disk)
				s.offered.Store(nil)
				s.start()
				s.until("start", proven("first"))
				began := time.Now()
				s.offer(l.make(t, "next") + ".rfu")
				if i == 0 { // how long one takes
					s.until("update", proven("next"))
					span = time.Since(began)
					s.stop()
					continue
				}
				at := moment(span)
				time.Sleep(at)
				s.cut("update", at)
				s.offered.Store(nil)
				s.start()
				s.until("start after the cut", func(h vm.Health) bool { return proven("first")(h) || proven("next")(h) })
				s.stop()
			}
			copySparse(t, good, s.disk)
			s.offered.Store(nil)
			for range cuts() {
				s.start()
				s.until("start", proven("first"))
				stop := s.register(t, l, 20, "1s")
				at := moment(20 * time.Second)
				time.Sleep(at)
				s.cut("running with writes", at)
				stop()
			}
			s.start()
			s.until("start after the last cut", proven("first"))
		})
	}
}

// cut pulls the plug and looks at the file system: after the replay of its journal it has to be clean.
func (s *site) cut(when string, at time.Duration) {
	s.t.Helper()
	s.stop()
	f, p := s.open(release.PartData)
	defer f.Close()
	head := make([]byte, 4096)
	if _, err := f.ReadAt(head, p.Offset()); err != nil {
		s.t.Fatal(err)
	}
	if bytes.Equal(head, make([]byte, len(head))) {
		s.t.Logf("cut at %.1f s of %s: not formatted yet", at.Seconds(), when)
		return
	}
	data := filepath.Join(s.dir, "data.ext4")
	out, err := os.Create(data)
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, io.NewSectionReader(f, p.Offset(), p.Size())); err != nil {
		s.t.Fatal(err)
	}
	for _, args := range [][]string{{"-E", "journal_only", "-y", data}, {"-fn", data}} {
		text, err := e2fsck(args...)
		if err != nil {
			s.t.Errorf("cut at %.1f s of %s: e2fsck %v: %v: %s", at.Seconds(), when, args, err, text)
			return
		}
	}
	s.t.Logf("cut at %.1f s of %s: the file system is clean", at.Seconds(), when)
}

// e2fsck runs Debian's; that it replayed a journal is no error.
func e2fsck(args ...string) (string, error) {
	cmd := exec.Command("/usr/sbin/e2fsck", args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == 1 && args[0] == "-E" {
		err = nil
	}
	return string(out), err
}

// phones declares so many, with a line and a password each.
func phones(n int) string {
	var b bytes.Buffer
	b.WriteString("phones:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {device: SEP0011220000%02X, model: 8851, security: nonsecure, password: ExamplePhone}\n", i)
	}
	b.WriteString("numbering:\n  extensions: \"3XXX\"\nlines:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {number: \"%d\", phone: SEP0011220000%02X}\n", 3000+i, i)
	}
	return b.String()
}

// register lets so many simulated phones register, stay that long, and go, over and over, until stop.
func (s *site) register(t *testing.T, l *lab, n int, hold string) (stop func()) {
	t.Helper()
	accounts := filepath.Join(s.dir, "accounts")
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "SEP0011220000%02X %d ExamplePhone\n", i, 3000+i)
	}
	if err := os.WriteFile(accounts, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	server := fmt.Sprintf("127.0.0.1:%d", s.m.Port(sipPort))
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(l.bin), "sepsim"), "load", "--server", server, "--accounts", accounts, "--phones", strconv.Itoa(n), "--rate", "20", "--hold", hold)
			if out, err := cmd.CombinedOutput(); err != nil && ctx.Err() == nil {
				time.Sleep(time.Second) // the machine is gone, or not there yet
				_ = out
			}
		}
	}()
	return func() { cancel(); <-ended }
}
