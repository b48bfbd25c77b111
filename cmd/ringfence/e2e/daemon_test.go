package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/template"
	"time"
)

// bins is the folder of the built programs: RINGFENCE_BIN, or built once into a temporary folder.
var bins = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("RINGFENCE_BIN"); dir != "" {
		return dir, nil
	}
	dir, err := os.MkdirTemp("", "ringfence-bin-")
	if err != nil {
		return "", err
	}
	tmpBins = dir
	for _, p := range []string{"ringfence", "sepsim"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, p), "ringfence/cmd/"+p)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", p, err, out)
		}
	}
	return dir, nil
})

var tmpBins string

func TestMain(m *testing.M) {
	code := m.Run()
	if tmpBins != "" {
		os.RemoveAll(tmpBins)
	}
	os.Exit(code)
}

func bin(t testing.TB, name string) string {
	t.Helper()
	dir, err := bins()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// ports are the listeners of one daemon under test.
type ports struct {
	Address                                               string
	HTTP, HTTPS, TFTP, CAPF, TVS, SIP, SIPS, VPN, Metrics int
	Media, MediaLast                                      int
}

var (
	portMu   sync.Mutex
	portNext = 20000 + os.Getpid()%20*500
)

// freePorts hands out a block of ports below the kernel's ephemeral range in which nothing listens at the moment.
func freePorts(t testing.TB) ports {
	t.Helper()
	portMu.Lock()
	defer portMu.Unlock()
	for range 50 {
		base := portNext
		portNext += 300
		if portNext > 31500 {
			portNext = 20000
		}
		if !allFree(base, 10) {
			continue
		}
		return ports{"127.0.0.1", base, base + 1, base + 2, base + 3, base + 4, base + 5, base + 6, base + 7, base + 8, base + 20, base + 299}
	}
	t.Fatal("no block of free ports found")
	return ports{}
}

func allFree(base, n int) bool {
	for p := base; p < base+n; p++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			return false
		}
		l.Close()
		u, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			return false
		}
		u.Close()
	}
	return true
}

// daemon is `ringfence run` as a process.
type daemon struct {
	t      testing.TB
	ports  ports
	config string // file
	state  string // folder
	cmd    *exec.Cmd
	log    *lockedBuffer
	ended  chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newDaemon writes the configuration text (a template over ports) and starts the daemon; the test's end stops it with SIGTERM
// and fails when that is not orderly.
func newDaemon(t testing.TB, text string, extra ...string) *daemon {
	t.Helper()
	dir := t.TempDir()
	d := &daemon{t: t, ports: freePorts(t), config: filepath.Join(dir, "ringfence.yaml"), state: filepath.Join(dir, "state")}
	d.write(text)
	d.start(extra...)
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			t.Logf("log of the daemon:\n%s", tail(d.log.String(), 12000))
		}
	})
	return d
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

func (d *daemon) write(text string) {
	d.t.Helper()
	var b bytes.Buffer
	if err := template.Must(template.New("config").Parse(text)).Execute(&b, d.ports); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(d.config, b.Bytes(), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *daemon) start(extra ...string) {
	d.t.Helper()
	d.log = &lockedBuffer{}
	args := append([]string{"run", "--config", d.config, "--state", d.state, "--log-level", "debug"}, extra...)
	d.cmd = exec.Command(bin(d.t, "ringfence"), args...)
	d.cmd.Stderr, d.cmd.Stdout = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.ended = make(chan error, 1)
	go func(cmd *exec.Cmd, ended chan error) { ended <- cmd.Wait() }(d.cmd, d.ended)
	deadline := time.Now().Add(30 * time.Second)
	for {
		select {
		case err := <-d.ended:
			d.t.Fatalf("the daemon ended at its start: %v\n%s", err, d.log)
		case <-time.After(30 * time.Millisecond):
		}
		if _, code := d.try("status"); code == 0 {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("the daemon was not ready after 30 s\n%s", d.log)
		}
	}
}

// stop ends the daemon as an administrator would and checks that it leaves with status 0.
func (d *daemon) stop() {
	d.t.Helper()
	if d.cmd == nil {
		return
	}
	cmd := d.cmd
	d.cmd = nil
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-d.ended:
		if err != nil {
			d.t.Errorf("the daemon did not stop in order: %v", err)
		}
	case <-time.After(15 * time.Second):
		_ = cmd.Process.Signal(syscall.SIGQUIT)
		<-d.ended
		d.t.Error("the daemon did not stop within 15 s of SIGTERM")
	}
}

// kill ends the daemon as a power cut would.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.ended
	d.cmd = nil
}

// try runs a verb against the daemon and returns what it printed and its exit status.
func (d *daemon) try(verb ...string) (string, int) {
	out, err := exec.Command(bin(d.t, "ringfence"), append([]string{"--state", d.state}, verb...)...).CombinedOutput()
	if err != nil {
		if ee, ok := err.(*exec.ExitError); ok {
			return string(out), ee.ExitCode()
		}
		return err.Error(), -1
	}
	return string(out), 0
}

// verb is try for verbs that must work.
func (d *daemon) verb(verb ...string) string {
	d.t.Helper()
	out, code := d.try(verb...)
	if code != 0 {
		d.t.Fatalf("ringfence %s: status %d\n%s", strings.Join(verb, " "), code, out)
	}
	return out
}

// json runs a verb with --json and decodes what it printed.
func (d *daemon) json(into any, verb ...string) {
	d.t.Helper()
	out := d.verb(append(verb, "--json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		d.t.Fatalf("ringfence %s --json: %v\n%s", strings.Join(verb, " "), err, out)
	}
}

// eventually waits until ok holds; what it waits for is told by the message.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("after %v still not so: %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
