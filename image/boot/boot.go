// Package boot is the role of PID 1: what happens between the kernel and the daemon, and around the daemon for as long as the
// machine runs. There is no other program in the image, and no shell.
//
//	mounts → log → watchdog → modules → disk → clock, entropy → network → configuration → daemon → commit of the slot
//
// The daemon is the only child: the same binary, unprivileged, confined, with a limit of memory. When it ends it is started
// again after a second; when that does not help, the machine starts anew, and after some of that GRUB takes the other slot.
//
// What it leaves out: network configuration beyond an address (appliance/host does that with the rights that the daemon is
// given), and checking file systems (ext4 replays its journal; what that does not mend is shown, and a reset offered).
package boot

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/image/boot/modules"
	"ringfence/image/boot/release"
	"ringfence/image/slot"
	"ringfence/internal/task"
)

// Places in the running system.
const (
	dataDir    = "/data"
	ownDir     = "/data/init"      // what init itself keeps
	StateDir   = "/data/ringfence" // of the daemon
	runDir     = "/run/ringfence"  // of the daemon too
	DaemonSock = runDir + "/ringfence.sock"
	initRun    = "/run/ringfence-init"
	Socket     = initRun + "/control.sock" // of init
	StatusFile = initRun + "/status.json"  // what init tells everybody on the machine
)

// DaemonStatus is what init wants to know of the daemon.
type DaemonStatus struct {
	Name       string   // of the appliance
	Address    string   // that phones are told
	Down       []string // services that should be up and are not, with the reason
	Phones     int      // declared
	Registered []string // devices
	Warnings   []string
	CA         string // fingerprint of the certificate authority
}

// Options of Run are what the layers above know.
type Options struct {
	Version string
	// Ask asks the daemon for its status.
	Ask func(ctx context.Context, socket string) (DaemonStatus, error)
	// Address reads the address that a document declares. An error says what is wrong with the document.
	Address func(document []byte) (string, error)
}

// IsInit tells whether this process is to be PID 1 of the appliance.
func IsInit() bool { return os.Getpid() == 1 && filepath.Base(os.Args[0]) == "init" }

// system is the machine while it runs.
type system struct {
	Options
	log     *slog.Logger
	tasks   *task.Group
	console *os.File
	args    map[string]string // rf. arguments of the kernel's command line
	about   release.Info
	loader  *modules.Loader
	began   time.Time

	disk     *bootDisk // nil when none was found
	slot     slot.ID
	recovery bool

	beat    atomic.Int64 // time of the last round of the main loop, for the watchdog
	view    view
	network network
	daemon  daemon
	ending  atomic.Bool
	resting atomic.Bool   // the daemon is to stay down for a moment
	talking atomic.Bool   // somebody is at the console; the screen waits
	updates chan struct{} // one token: an update or reset runs
}

// Run is PID 1. It does not return: what it cannot go on from ends in a reboot, which is what counts a slot's tries.
func Run(o Options) {
	runtime.LockOSThread() // so that a fault of this thread is the fault of PID 1
	s := &system{Options: o, began: time.Now(), args: map[string]string{}, updates: make(chan struct{}, 1)}
	defer func() {
		if p := recover(); p != nil {
			s.fatal("init", fmt.Errorf("%v", p))
		}
	}()
	if err := s.start(); err != nil {
		s.fatal("start", err)
	}
	s.loop()
}

// fatal says why and starts the machine again.
func (s *system) fatal(what string, err error) {
	fmt.Fprintf(os.Stderr, "ringfence init: %s: %v\n", what, err)
	if s.log != nil {
		s.log.Error("cannot go on", "step", what, "err", err)
	}
	time.Sleep(5 * time.Second) // for whoever reads the console
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	os.Exit(1) // the kernel panics, panic=5 starts again
}

func (s *system) start() error {
	if err := mounts(); err != nil {
		return err
	}
	s.openLog()
	s.tasks = task.NewGroup(context.Background(), s.log)
	s.readCommandLine()
	var err error
	if s.about, err = release.Read(); err != nil {
		return err
	}
	s.log.Info("starting", "version", s.about.Version, "slot", s.slot, "test_keys", s.about.TestKeys())
	s.view.set(func(v *Status) {
		v.Version, v.Slot, v.TestKeys, v.Recovery, v.Phase = s.about.Version, s.slot, s.about.TestKeys(), s.recovery, "starting"
	})
	// The kernel never asks for a module by itself: every one of them comes from here.
	_ = os.WriteFile("/proc/sys/kernel/modprobe", []byte("\n"), 0)
	if err := s.openModules(); err != nil {
		return err
	}
	s.coldplug()
	s.startWatchdog()
	for _, m := range earlyModules {
		if err := s.loader.Load(m); err != nil {
			s.log.Error("module not loaded", "err", err)
		}
	}
	_ = unix.Mount("efivarfs", "/sys/firmware/efi/efivars", "efivarfs", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, "")
	if b, err := os.ReadFile("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"); err == nil && len(b) == 5 && b[4] == 1 {
		s.log.Info("secure boot") // four bytes of attributes, one of value (UEFI specification 2.10, section 3.3)
		s.view.set(func(v *Status) { v.Secure = true })
	}
	s.tasks.Go("reap", s.reap)
	s.tasks.Go("power button", s.powerButton)
	if s.args["install"] == "1" {
		s.install()
	}
	s.startNetwork()
	s.openDisk()
	s.openClock()
	if err := s.serveControl(); err != nil {
		s.log.Error("no control socket", "err", err)
	}
	s.tasks.Go("screen", s.screen)
	s.tasks.Go("late modules", func(context.Context) { s.lateModules() })
	s.configure()
	if link, _ := s.network.state(); link {
		s.waitAddress(addressWait) // a listener may be declared on it
	}
	s.tasks.Go("consoles", s.talk)
	return nil
}

// readCommandLine takes what GRUB says.
func (s *system) readCommandLine() {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		s.log.Error("command line", "err", err)
	}
	s.args = arguments(string(b))
	s.slot = slot.A
	if s.args["slot"] == "b" {
		s.slot = slot.B
	}
	s.recovery = s.args["recovery"] == "1"
}

// arguments are those of a command line that begin with rf.
func arguments(line string) map[string]string {
	out := map[string]string{}
	for _, word := range strings.Fields(line) {
		if rest, ok := strings.CutPrefix(word, "rf."); ok {
			key, value, _ := strings.Cut(rest, "=")
			out[key] = value
		}
	}
	return out
}

// earlyModules are loaded before the disk is looked for, lateModules beside the daemon.
var (
	earlyModules = []string{"ext4", "vfat", "nls_cp437", "nls_ascii", "tun", "evdev", "button"}
	lateModules  = []string{"8021q", "bonding", "nf_tables", "nft_ct", "nft_chain_nat", "nft_masq", "nft_log", "nft_limit", "nft_reject_inet", "nft_fib_inet",
		"nf_log_syslog", "cls_bpf", "sch_ingress", "dm_mod"}
)

func (s *system) lateModules() {
	for _, m := range lateModules {
		if err := s.loader.Load(m); err != nil {
			s.log.Info("module not loaded", "err", err)
		}
	}
}

// mounts makes the folders that every Linux program expects.
func mounts() error {
	const plain = unix.MS_NOSUID | unix.MS_NOEXEC
	for _, m := range []struct {
		kind, at string
		flags    uintptr
		options  string
	}{
		{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755"},
		{"proc", "/proc", plain | unix.MS_NODEV, ""},
		{"sysfs", "/sys", plain | unix.MS_NODEV, ""},
		{"tmpfs", "/run", plain | unix.MS_NODEV, "mode=0755,size=16m"},
		{"tmpfs", "/tmp", plain | unix.MS_NODEV, "mode=1777,size=25%"},
		{"securityfs", "/sys/kernel/security", plain | unix.MS_NODEV, ""},
		{"cgroup2", "/sys/fs/cgroup", plain | unix.MS_NODEV, ""},
	} {
		_ = os.MkdirAll(m.at, 0o755)
		if err := unix.Mount(m.kind, m.at, m.kind, m.flags, m.options); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	if err := os.MkdirAll(runDir, 0o750); err != nil {
		return err
	}
	if err := os.MkdirAll(initRun, 0o755); err != nil {
		return err
	}
	_ = unix.Sethostname([]byte("ringfence"))
	// The daemon writes it too, where servers for names are declared.
	if f, err := os.OpenFile(resolvConf, os.O_CREATE|os.O_WRONLY, 0o644); err == nil {
		_ = f.Chown(release.UID, release.UID)
		f.Close()
	}
	return os.Chown(runDir, release.UID, release.UID)
}
