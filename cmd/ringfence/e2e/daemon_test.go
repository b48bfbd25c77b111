package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
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

// inNamespace marks the process that runs in the tests' own network namespace.
const inNamespace = "RINGFENCE_E2E_NAMESPACE"

// TestMain runs the tests in a network namespace of their own, where every address of 192.0.2.0/24 is local and phones' fixed
// ports are free: nothing that is tested reaches the machine's network, and nothing there disturbs.
func TestMain(m *testing.M) {
	if os.Getenv(inNamespace) == "" {
		os.Exit(enterNamespace())
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"route", "add", "local", network + ".0/24", "dev", "lo"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "ip %s: %v\n%s", strings.Join(args, " "), err, out)
			os.Exit(1)
		}
	}
	code := m.Run()
	if tmpBins != "" {
		os.RemoveAll(tmpBins)
	}
	os.Exit(code)
}

// enterNamespace runs this program again in a new network namespace, with a user namespace around it when not root.
func enterNamespace() int {
	args := []string{"--net", "--kill-child"}
	if os.Geteuid() != 0 {
		args = append(args, "--user", "--map-root-user")
	}
	cmd := exec.Command("unshare", append(append(args, "--fork", "--", os.Args[0]), os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if ee, ok := err.(*exec.ExitError); ok {
		return ee.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the end-to-end tests need a network namespace (root, or user namespaces allowed):", err)
		return 2
	}
	return 0
}

func bin(t testing.TB, name string) string {
	t.Helper()
	dir, err := bins()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// network is the documentation network (RFC 5737) that lies on the namespace's loopback.
const network = "192.0.2"

// site is what the configurations of one daemon are filled in with.
type site struct {
	N       int    // of the daemon
	Address string // of the appliance
	Pool    string // of the VPN, first three parts
}

var siteNumber atomic.Int32

func newSite() site {
	n := int(siteNumber.Add(1))
	return site{N: n, Address: fmt.Sprintf("%s.%d", network, n), Pool: fmt.Sprintf("100.64.%d", n)}
}

// phoneAddress is where a simulated phone lives: phones of one daemon have addresses of their own.
func (s site) phoneAddress(i int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("%s.%d", network, 250-4*(s.N%30)-i))
}

// daemon is `ringfence run` as a process.
type daemon struct {
	t      testing.TB
	site   site
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

// newDaemon writes the configuration text (a template over site) and starts the daemon; the test's end stops it with SIGTERM
// and fails when that is not orderly.
func newDaemon(t testing.TB, text string, extra ...string) *daemon {
	t.Helper()
	dir := t.TempDir()
	d := &daemon{t: t, site: newSite(), config: filepath.Join(dir, "ringfence.yaml"), state: filepath.Join(dir, "state")}
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
	if err := template.Must(template.New("config").Parse(text)).Execute(&b, d.site); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(d.config, b.Bytes(), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *daemon) start(extra ...string) {
	d.t.Helper()
	d.log = &lockedBuffer{}
	args := append([]string{"run", "--state", d.state, "--log-level", "debug"}, extra...)
	if d.config != "" {
		args = append(args, "--config", d.config)
	}
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
