// Package vm starts images in QEMU with software emulation, for tests and for make boot: no root, no hardware acceleration,
// every port on 127.0.0.1. A machine is a process of the caller's and ends with Stop; nothing is left behind.
package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Options of Start.
type Options struct {
	Dir      string // for logs and the firmware's variables
	Image    string // raw disk, which is written to
	Arch     string // amd64 or arm64
	Firmware string // bios, uefi, or secureboot: UEFI that starts nothing but what Microsoft's keys have signed (amd64)
	Memory   int    // MB, 512 when 0
	CPUs     int    // 1 when 0
	Ports    []int  // of the guest (TCP), forwarded from free ports of 127.0.0.1
	Disk     string // virtio, nvme, ahci, usb; virtio when empty
	NIC      string // virtio-net-pci when empty
	Network  bool   // false: no network card
	Tap      string // TUN device of this machine that the card hangs on, instead of a network of QEMU's own
	Address  string // of the guest, where a Tap leads to it
	Args     []string
}

// Machine is a virtual machine that runs.
type Machine struct {
	o      Options
	cmd    *exec.Cmd
	ports  map[int]int
	Serial string // file with what the serial line said
	ended  chan struct{}
}

// ErrNoQEMU is returned where the emulator or its firmware is missing.
var ErrNoQEMU = errors.New("QEMU is not here")

// Available says what is missing to run machines of an architecture and firmware, in the words of a package to install.
func Available(arch, firmware string) error {
	program, pkg := programOf(arch)
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("%w: install the Debian package %s", ErrNoQEMU, pkg)
	}
	if firmware != "bios" {
		code, _, pkg := firmwareOf(arch, firmware)
		if _, err := os.Stat(code); err != nil {
			return fmt.Errorf("%w: install the Debian package %s", ErrNoQEMU, pkg)
		}
	}
	return nil
}

func programOf(arch string) (program, pkg string) {
	if arch == "arm64" {
		return "qemu-system-aarch64", "qemu-system-arm"
	}
	return "qemu-system-x86_64", "qemu-system-x86"
}

func firmwareOf(arch, firmware string) (code, vars, pkg string) {
	if firmware == "secureboot" {
		return "/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd", "ovmf"
	}
	if arch == "arm64" {
		return "/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd", "qemu-efi-aarch64"
	}
	return "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd", "ovmf"
}

// Start starts a machine.
func Start(o Options) (*Machine, error) {
	if o.Arch == "" {
		o.Arch = "amd64"
	}
	if err := Available(o.Arch, o.Firmware); err != nil {
		return nil, err
	}
	m := &Machine{o: o, ports: map[int]int{}, ended: make(chan struct{}), Serial: filepath.Join(o.Dir, "serial.log")}
	_ = os.Remove(m.Serial) // that of an earlier machine here would be taken for this one's
	args, err := m.arguments()
	if err != nil {
		return nil, err
	}
	program, _ := programOf(o.Arch)
	m.cmd = exec.Command(program, args...)
	log, err := os.Create(filepath.Join(o.Dir, "qemu.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	m.cmd.Stdout, m.cmd.Stderr = log, log
	// A machine must not outlive the process that owns it. The kernel sends that signal when the thread ends that started it, so
	// the thread waits for it.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := m.cmd.Start()
		started <- err
		if err == nil {
			_ = m.cmd.Wait()
			close(m.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Machine) arguments() ([]string, error) {
	o := m.o
	memory, cpus := max(o.Memory, 128), max(o.CPUs, 1)
	if o.Memory == 0 {
		memory = 512
	}
	a := []string{"-accel", "tcg,thread=multi", "-m", strconv.Itoa(memory), "-smp", strconv.Itoa(cpus), "-display", "none", "-monitor", "unix:" + m.monitor() + ",server=on,wait=off",
		"-chardev", "socket,id=serial,path=" + m.serialSocket() + ",server=on,wait=off,logfile=" + option(m.Serial), "-serial", "chardev:serial", "-nodefaults", "-no-user-config"}
	if o.Arch == "arm64" {
		a = append(a, "-M", "virt", "-cpu", "cortex-a57")
	} else {
		// The chip set's watchdog may start the machine again only when this is off.
		chipset := "q35"
		if o.Firmware == "secureboot" {
			chipset = "q35,smm=on"
			a = append(a, "-global", "driver=cfi.pflash01,property=secure,value=on")
		}
		a = append(a, "-M", chipset, "-cpu", "max", "-global", "ICH9-LPC.noreboot=false", "-vga", "std")
	}
	if o.Firmware != "bios" {
		code, vars, _ := firmwareOf(o.Arch, o.Firmware)
		own := filepath.Join(o.Dir, "vars.fd")
		if _, err := os.Stat(own); err != nil {
			b, err := os.ReadFile(vars)
			if err != nil {
				return nil, err
			}
			if err := os.WriteFile(own, b, 0o644); err != nil {
				return nil, err
			}
		}
		a = append(a, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+option(code), "-drive", "if=pflash,format=raw,unit=1,file="+option(own))
	}
	drive := "if=none,id=disk,format=raw,cache=writeback,file=" + option(o.Image)
	device := map[string]string{"": "virtio-blk-pci,drive=disk,bootindex=0", "virtio": "virtio-blk-pci,drive=disk,bootindex=0", "nvme": "nvme,drive=disk,serial=rf,bootindex=0",
		"ahci": "ide-hd,drive=disk,bootindex=0", "usb": "usb-storage,drive=disk,bootindex=0,removable=on"}[o.Disk]
	if device == "" {
		return nil, fmt.Errorf("no disk of kind %q", o.Disk)
	}
	if o.Disk == "usb" {
		a = append(a, "-device", "qemu-xhci")
	}
	a = append(a, "-drive", drive, "-device", device)
	nic := o.NIC
	if nic == "" {
		nic = "virtio-net-pci"
	}
	if o.Tap != "" {
		a = append(a, "-netdev", "tap,id=net,script=no,downscript=no,ifname="+option(o.Tap), "-device", nic+",netdev=net,mac=52:54:00:12:34:56,romfile=")
	} else if o.Network {
		network := "user,id=net"
		for _, p := range o.Ports {
			free, err := freePort()
			if err != nil {
				return nil, err
			}
			m.ports[p] = free
			network += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:%d", free, p)
		}
		a = append(a, "-netdev", network, "-device", nic+",netdev=net,mac=52:54:00:12:34:56,romfile=")
	}
	return append(a, o.Args...), nil
}

// option is a path as a value of one of QEMU's options, in which a comma ends the value.
func option(path string) string { return strings.ReplaceAll(path, ",", ",,") }

func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}

// Port is the port of 127.0.0.1 that leads to a port of the guest.
func (m *Machine) Port(guest int) int { return m.ports[guest] }

// monitor has a short path: a socket's may have 107 bytes.
func (m *Machine) monitor() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("rfvm-%d-%x", os.Getpid(), hash(m.o.Dir)))
}

func (m *Machine) serialSocket() string { return m.monitor() + "s" }

// Type writes to the serial line, as somebody at a terminal would.
func (m *Machine) Type(text string) error {
	c, err := net.DialTimeout("unix", m.serialSocket(), 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	time.Sleep(time.Second) // QEMU gives the guest as much as its line takes, and drops the rest when this end closes
	return nil
}

func hash(s string) (h uint32) {
	for _, c := range []byte(s) {
		h = h*16777619 ^ uint32(c)
	}
	return h
}

// Monitor gives an order to QEMU itself: system_powerdown, system_reset, quit.
func (m *Machine) Monitor(order string) error {
	c, err := net.DialTimeout("unix", m.monitor(), 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintln(c, order); err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, c, 1)
	time.Sleep(100 * time.Millisecond) // it reads the line when it comes round
	return nil
}

// Ended is closed when the machine has ended.
func (m *Machine) Ended() <-chan struct{} { return m.ended }

// Stop pulls the plug: the process is killed, and what it had written stays.
func (m *Machine) Stop() {
	_ = m.cmd.Process.Kill()
	<-m.ended
	_ = os.Remove(m.monitor())
	_ = os.Remove(m.serialSocket())
}

// Console is what the serial line has said so far.
func (m *Machine) Console() string {
	b, _ := os.ReadFile(m.Serial)
	return strings.ToValidUTF8(string(b), "?")
}

// Health is what the appliance in the machine says of itself at its listener for metrics and health.
type Health struct {
	OK       bool `json:"ok"`
	Services []struct {
		Name  string `json:"name"`
		State string `json:"state"`
		Up    bool   `json:"up"`
	} `json:"services"`
	Image struct {
		Version   string  `json:"version"`
		Slot      string  `json:"slot"`
		Slots     string  `json:"slots"`
		Committed bool    `json:"committed"`
		Recovery  bool    `json:"recovery"`
		Firmware  string  `json:"firmware"`
		Update    string  `json:"update"`
		Boot      string  `json:"boot"`
		Ready     float64 `json:"ready_after"`
		DataSize  uint64  `json:"data_size"`
		DataFree  uint64  `json:"data_free"`
		Memory    uint64  `json:"memory"`
		MemUsed   uint64  `json:"memory_used"`
		Disk      string  `json:"disk"`
		Watchdog  string  `json:"watchdog"`
		TestKeys  bool    `json:"test_keys"`
		Secure    bool    `json:"secure_boot"`
	} `json:"image"`
	Raw []byte `json:"-"`
}

// Health asks the appliance; port is that of the guest.
func (m *Machine) Health(ctx context.Context, port int) (Health, error) {
	var h Health
	at := fmt.Sprintf("127.0.0.1:%d", m.Port(port))
	if m.o.Address != "" {
		at = fmt.Sprintf("%s:%d", m.o.Address, port)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+"/healthz", nil)
	if err != nil {
		return h, err
	}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(r)
	if err != nil {
		return h, err
	}
	defer res.Body.Close()
	if h.Raw, err = io.ReadAll(io.LimitReader(res.Body, 1<<20)); err != nil {
		return h, err
	}
	return h, json.Unmarshal(h.Raw, &h)
}

// Until asks for the health until it is as wanted. Otherwise the error tells what the machine said last.
func (m *Machine) Until(ctx context.Context, port int, what string, want func(Health) bool) (Health, error) {
	var h Health
	var err error
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if h, err = m.Health(ctx, port); err == nil && want(h) {
			return h, nil
		}
		select {
		case <-tick.C:
		case <-m.ended:
			return h, fmt.Errorf("%s: the machine has ended; its console said last:\n%s", what, tail(m.Console()))
		case <-ctx.Done():
			return h, fmt.Errorf("%s: not in time (last answer: %s, %w); its console said last:\n%s", what, h.Raw, errors.Join(err, ctx.Err()), tail(m.Console()))
		}
	}
}

func tail(s string) string { return s[max(0, len(s)-3000):] }
