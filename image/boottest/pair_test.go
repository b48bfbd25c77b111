package boottest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ringfence/image"
	"ringfence/image/vm"
)

// sharedDocument is what two appliances have in common; only node: differs.
const sharedDocument = `
site:
  appliances: [192.0.2.2, 198.51.100.2]
users:
  - {id: ada, name: Ada}
  - {id: ben, name: Ben}
phones:
  - {device: SEP001122AA0001, model: 8851, security: nonsecure, password: ExampleAda301}
  - {device: SEP001122AA0002, model: 7841, security: nonsecure, password: ExampleBen302}
numbering:
  extensions: "3XX"
lines:
  - {number: "301", user: ada, phone: SEP001122AA0001}
  - {number: "302", user: ben, phone: SEP001122AA0002}
`

const inNamespace = "RINGFENCE_IMAGE_NAMESPACE"

// TestTwoAppliances starts two machines of one document that differ in node: alone, and lets two simulated phones go from the one
// whose plug was pulled to the other, and back when it is there again: by what the phones do themselves.
func TestTwoAppliances(t *testing.T) {
	l := need(t, "full")
	if os.Getenv(inNamespace) == "" { // both machines hang on TUN devices of a network namespace of their own
		cmd := exec.Command("unshare", "--user", "--map-root-user", "--net", os.Args[0], "-test.run", "^TestTwoAppliances$", "-test.v", "-test.timeout", "60m")
		cmd.Env = append(os.Environ(), inNamespace+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	run(t, "ip", "link", "set", "lo", "up")
	run(t, "ip", "address", "add", "203.0.113.1/32", "dev", "lo") // of both phones
	type appliance struct{ name, address, gateway, tap, firmware string }
	both := []appliance{{"one", "192.0.2.2", "192.0.2.1", "rfone", "bios"}, {"two", "198.51.100.2", "198.51.100.1", "rftwo", "uefi"}}
	var sites []*site
	for _, a := range both {
		run(t, "ip", "tuntap", "add", a.tap, "mode", "tap")
		run(t, "ip", "address", "add", a.gateway+"/24", "dev", a.tap)
		run(t, "ip", "link", "set", a.tap, "up")
		s := newSite(t, l, a.firmware, "first")
		document := fmt.Sprintf("node:\n  name: %s\n  address: %s\n  listen:\n    metrics: 0.0.0.0:%d\n", a.name, a.address, metricsPort) + sharedDocument
		if err := image.WriteSeed(s.disk, map[string][]byte{"ringfence.yaml": []byte(document)}, epoch); err != nil {
			t.Fatal(err)
		}
		sites = append(sites, s)
	}
	start := func(i int) {
		a := both[i]
		sites[i].start(func(o *vm.Options) {
			o.Tap, o.Address = a.tap, a.address
			o.Args = append(o.Args, "-smbios", fmt.Sprintf("type=11,value=ringfence:address=%s/24,,%s", a.address, a.gateway))
		})
	}
	for i := range both {
		start(i)
	}
	for i := range both {
		sites[i].until("first start of "+both[i].name, proven("first"))
	}
	ada := newPhone(t, l, "SEP001122AA0001", "8851")
	ben := newPhone(t, l, "SEP001122AA0002", "7841")
	for _, p := range []*phone{ada, ben} {
		p.until("registered at 192.0.2.2", 1)
	}
	ada.say("call 302")
	ben.until(`"ringing":"301"`, 1)
	ada.say("hangup")

	sites[0].stop()
	began := time.Now()
	for _, p := range []*phone{ada, ben} {
		p.until("registered at 198.51.100.2", 1)
	}
	t.Logf("both phones are at the other appliance %.0f s after the plug of the first was pulled", time.Since(began).Seconds())

	start(0)
	sites[0].until("start of one", proven("first"))
	began = time.Now()
	for _, p := range []*phone{ada, ben} {
		p.until("registered at 192.0.2.2", 2)
	}
	t.Logf("both phones are back %.0f s after the first appliance was", time.Since(began).Seconds())
}

func run(t *testing.T, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, out)
	}
}

// phone is a simulated phone of this program's own: sepsim.
type phone struct {
	t      *testing.T
	device string
	in     interface{ Write([]byte) (int, error) }
	mu     sync.Mutex // guards the rest
	out    bytes.Buffer
}

func (p *phone) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *phone) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func newPhone(t *testing.T, l *lab, device, model string) *phone {
	t.Helper()
	p := &phone{t: t, device: device}
	cmd := exec.Command(filepath.Join(filepath.Dir(l.bin), "sepsim"), "run", "--device", device, "--model", model, "--server", "192.0.2.2", "--local", "203.0.113.1",
		"--dir", t.TempDir(), "--json", "--answer")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in, cmd.Stdout, cmd.Stderr = in, p, p
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return p
}

func (p *phone) say(command string) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.in, command); err != nil {
		p.t.Fatal(err)
	}
}

// until waits for the phone to have said something so many times.
func (p *phone) until(what string, times int) {
	p.t.Helper()
	for deadline := time.Now().Add(stepTime); strings.Count(p.said(), what) < times; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s never said %q %d times:\n%s", p.device, what, times, p.said())
		}
	}
}
