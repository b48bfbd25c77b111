package host

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const inNamespace = "RINGFENCE_HOST_NAMESPACE"

// TestMain runs the tests in a network and host name namespace of their own: what is tested changes the machine.
func TestMain(m *testing.M) {
	if os.Getenv(inNamespace) != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "ip link set lo up: %v\n%s", err, out)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	args := []string{"--net", "--uts", "--mount", "--kill-child"}
	if os.Geteuid() != 0 {
		args = append(args, "--user", "--map-root-user")
	}
	cmd := exec.Command("unshare", append(append(args, "--fork", "--", os.Args[0]), os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if ee, ok := err.(*exec.ExitError); ok {
		os.Exit(ee.ExitCode())
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "these tests need namespaces (root, or user namespaces allowed):", err)
		os.Exit(2)
	}
}

// yard is a machine and somebody who administers it over a cable:
//
//	this namespace: port0 ──── veth ──── admin0 192.0.2.1/24, 2001:db8::1/64: another namespace
type yard struct {
	t   *testing.T
	pid string
}

func newYard(t *testing.T) *yard {
	t.Helper()
	holder := exec.Command("unshare", "--net", "sleep", "300")
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	y := &yard{t: t, pid: fmt.Sprint(holder.Process.Pid)}
	t.Cleanup(func() {
		for _, l := range []string{"port0", "port1"} {
			if x, err := netlink.LinkByName(l); err == nil {
				_ = netlink.LinkDel(x)
			}
		}
		_ = remove()
		holder.Process.Kill()
		holder.Wait()
	})
	own, _ := os.Readlink("/proc/self/ns/net")
	eventually(t, "the namespace", func() bool {
		its, err := os.Readlink("/proc/" + y.pid + "/ns/net")
		return err == nil && its != own
	})
	y.cable("port0", "admin0", "address add 192.0.2.1/24 dev admin0", "address add 2001:db8::1/64 dev admin0 nodad")
	return y
}

// cable joins a port of this namespace with one of the other, which is set up by commands of ip. The kernel takes devices of a namespace
// that has just ended away in its own time, and may be in the middle of it: then once more.
func (y *yard) cable(here, there string, commands ...string) {
	y.t.Helper()
	commands = append([]string{"link set lo up"}, append(commands, "link set "+there+" up")...)
	var said string
	for range 5 {
		out, err := exec.Command("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", y.pid).CombinedOutput()
		if err == nil {
			batch := exec.Command("nsenter", "--net=/proc/"+y.pid+"/ns/net", "ip", "-batch", "-")
			batch.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
			if out, err = batch.CombinedOutput(); err == nil {
				return
			}
		}
		said = fmt.Sprintf("%v: %s", err, out)
		_ = exec.Command("ip", "link", "del", here).Run()
		time.Sleep(100 * time.Millisecond)
	}
	y.t.Fatalf("no cable from %s to %s: %s", here, there, said)
}

func (y *yard) ip(args string) {
	y.t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		y.t.Fatalf("ip %s: %v\n%s", args, err, out)
	}
}

// there runs a program in the other namespace.
func (y *yard) there(args string) {
	y.t.Helper()
	if out, err := exec.Command("nsenter", append([]string{"--net=/proc/" + y.pid + "/ns/net"}, strings.Fields(args)...)...).CombinedOutput(); err != nil {
		y.t.Fatalf("%s: %v\n%s", args, err, out)
	}
}

// dial connects from the other namespace.
func (y *yard) dial(network, address string) (c net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		f, e := os.Open("/proc/" + y.pid + "/ns/net")
		if e == nil {
			e = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
			f.Close()
		}
		if err = e; err == nil {
			c, err = net.DialTimeout(network, address, 400*time.Millisecond)
		}
	}()
	<-done
	return c, err
}

// reaches tells whether the other namespace gets a TCP connection.
func (y *yard) reaches(address string) bool {
	c, err := y.dial("tcp", address)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// listen accepts connections on a port of this namespace.
func (y *yard) listen(port int) {
	y.t.Helper()
	ln, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		y.t.Fatal(err)
	}
	y.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 64)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					c.Write(b[:n])
				}
			}()
		}
	}()
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(until) {
			t.Fatalf("%s: not within 30 s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// keeper runs on a yard until the test ends, or stop is called.
type running struct {
	*Keeper
	spec *Spec
	stop func()
}

func run(t *testing.T, dir string, spec Spec, change ...func(*Options)) *running {
	t.Helper()
	r := &running{spec: &spec}
	o := Options{Dir: dir, Declared: func() Spec { return *r.spec }, Needs: func() []Rule { return nil }, Tunnel: "tun7", Resolv: dir + "/resolv.conf"}
	for _, c := range change {
		c(&o)
	}
	k, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r.Keeper = k
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	stopped := false
	r.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(r.stop)
	return r
}

func (r *running) show(t *testing.T) View {
	t.Helper()
	v, err := r.Show(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// addresses of a link, without link-local ones.
func addresses(t *testing.T, link string) []string {
	t.Helper()
	l, err := netlink.LinkByName(link)
	if err != nil {
		t.Fatal(err)
	}
	all, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, a := range all {
		if !a.IP.IsLinkLocalUnicast() {
			out = append(out, prefixOf(a).String())
		}
	}
	slices.Sort(out)
	return out
}

// routes of a link that are not the kernel's own, as text.
func routesOf(t *testing.T, link string) []string {
	t.Helper()
	l, err := netlink.LinkByName(link)
	if err != nil {
		t.Fatal(err)
	}
	all, err := netlink.RouteList(l, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, r := range all {
		if r.Protocol != unix.RTPROT_KERNEL {
			b := routeThere(r, link)
			out = append(out, fmt.Sprintf("%s via %s metric %d protocol %d", b.To, b.Via, b.Metric, b.Protocol))
		}
	}
	slices.Sort(out)
	return out
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
