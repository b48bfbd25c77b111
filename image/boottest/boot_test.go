package boottest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ringfence/image"
	"ringfence/image/boot/release"
	"ringfence/image/disk"
	"ringfence/image/slot"
	"ringfence/image/update"
	"ringfence/image/vm"
)

// epoch is the time of the source of the first release here; each later one is a thousand seconds younger.
var epoch = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

const (
	metricsPort = 9090
	patient     = "rf.deadline=900" // a release on trial must not be sent back because this machine is busy
	stepTime    = 12 * time.Minute  // of any one start; a quiet machine needs a twentieth of it
)

// lab is what all tests of a run share: keys, and releases that were built once.
type lab struct {
	dir, bin, cache string

	mu     sync.Mutex // guards the rest
	builds map[string]*built
}

type built struct {
	once sync.Once
	base string // path without ending
	err  error
}

var shared = sync.OnceValues(func() (*lab, error) {
	bin := os.Getenv("RINGFENCE_BIN")
	if bin == "" {
		return nil, errors.New("RINGFENCE_BIN names no folder with a built ringfence")
	}
	cache := os.Getenv("RINGFENCE_IMAGE_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		cache = filepath.Join(user, "ringfence-image")
	}
	dir, err := os.MkdirTemp("", "rfimage-")
	if err != nil {
		return nil, err
	}
	return &lab{dir: dir, bin: filepath.Join(bin, "ringfence"), cache: cache, builds: map[string]*built{}}, image.MakeKeys(filepath.Join(dir, "keys"), true)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getenv("RINGFENCE_IMAGE") != "" {
		if l, err := shared(); err == nil {
			_ = os.RemoveAll(l.dir)
		}
	}
	os.Exit(code)
}

// need skips unless this much was asked for, and fails in plain words where something is missing.
func need(t *testing.T, level string) *lab {
	t.Helper()
	if asked := os.Getenv("RINGFENCE_IMAGE"); asked != "full" && asked != level {
		t.Skipf("RINGFENCE_IMAGE is not %s: make test-image runs this", level)
	}
	l, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	for _, firmware := range []string{"bios", "uefi"} {
		if err := vm.Available("amd64", firmware); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// make builds a release, once. The name says which: "first", "short" (the same with little patience), "next", or a fault of the
// faulty release.
func (l *lab) make(t *testing.T, name string) string {
	t.Helper()
	l.mu.Lock()
	b := l.builds[name]
	if b == nil {
		b = &built{}
		l.builds[name] = b
	}
	l.mu.Unlock()
	b.once.Do(func() {
		o := image.Options{Arch: runtime.GOARCH, Binary: l.bin, Version: name, Epoch: epoch, Keys: filepath.Join(l.dir, "keys"), Sign: 1, Cache: l.cache,
			Out: filepath.Join(l.dir, name), Args: patient}
		if name == "short" {
			o.Args = "rf.watchdog=10 rf.deadline=90"
		} else if name != "first" {
			o.Epoch, o.Sign = epoch.Add(1000*time.Second), 2
		}
		if name != "first" && name != "short" && name != "next" {
			o.Binary = filepath.Join(l.dir, "faulty-"+name)
			cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w -X main.fault="+name, "-o", o.Binary, "./faulty")
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				b.err = fmt.Errorf("%w: %s", err, out)
				return
			}
		}
		m, err := image.Build(context.Background(), o)
		if err != nil {
			b.err = err
			return
		}
		b.base = filepath.Join(o.Out, fmt.Sprintf("ringfence-%s-%s", m.Version, m.Arch))
	})
	if errors.Is(b.err, image.ErrNoPackages) {
		const plain = "THE IMAGE WAS NOT TESTED: %v\n"
		fmt.Fprintf(os.Stderr, plain, b.err)
		t.Skipf(plain, b.err)
	}
	if b.err != nil {
		t.Fatalf("build of %s: %v", name, b.err)
	}
	return b.base
}

// site is one appliance: a disk, and the place where it looks for releases.
type site struct {
	t        *testing.T
	l        *lab
	dir      string
	disk     string
	firmware string
	offered  atomic.Pointer[string] // file that the server gives
	url      string
	m        *vm.Machine
	slow     atomic.Bool   // the server stops in the middle
	half     chan struct{} // and says so here
}

// newSite makes an appliance of the release of that name, switched off.
func newSite(t *testing.T, l *lab, firmware, name string) *site {
	t.Helper()
	s := &site{t: t, l: l, dir: t.TempDir(), firmware: firmware, half: make(chan struct{}, 8)}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	s.url = fmt.Sprintf("http://10.0.2.2:%d/ringfence.rfu", ln.Addr().(*net.TCPAddr).Port)
	s.disk = filepath.Join(s.dir, "disk.img")
	copySparse(t, l.make(t, name)+".img", s.disk)
	s.seed("")
	t.Cleanup(func() {
		if s.m != nil {
			s.m.Stop()
		}
	})
	return s
}

// seed writes the declared document.
func (s *site) seed(more string) {
	s.t.Helper()
	doc := fmt.Sprintf("node:\n  name: vm\n  address: 10.0.2.15\n  listen:\n    metrics: 0.0.0.0:%d\n  update:\n    url: %s\n    every: 10s\n%s", metricsPort, s.url, more)
	if err := image.WriteSeed(s.disk, map[string][]byte{"ringfence.yaml": []byte(doc)}, epoch); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	name := s.offered.Load()
	if name == nil {
		http.NotFound(w, r)
		return
	}
	f, err := os.Open(*name)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	if s.slow.Load() {
		st, _ := f.Stat()
		w.Header().Set("Content-Length", fmt.Sprint(st.Size()))
		_, _ = io.CopyN(w, f, st.Size()/2)
		if fl, ok := w.(http.Flusher); ok {
			fl.Flush()
		}
		s.half <- struct{}{}
		<-r.Context().Done()
		return
	}
	_, _ = io.Copy(w, f)
}

func (s *site) offer(file string) { s.offered.Store(&file) }

// start switches the machine on.
func (s *site) start(change ...func(*vm.Options)) {
	s.t.Helper()
	o := vm.Options{Dir: s.dir, Image: s.disk, Firmware: s.firmware, Network: true, Ports: []int{metricsPort}}
	for _, c := range change {
		c(&o)
	}
	m, err := vm.Start(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.m = m
}

// stop pulls the plug.
func (s *site) stop() {
	s.m.Stop()
	s.m = nil
}

// until waits for the appliance to be as wanted.
func (s *site) until(what string, want func(vm.Health) bool) vm.Health {
	s.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), stepTime)
	defer cancel()
	h, err := s.m.Until(ctx, metricsPort, what, want)
	if err != nil {
		s.t.Fatalf("%s: %v", s.firmware, err)
	}
	s.t.Logf("%s: %s after %.0f s (init to answer %.1f s, %d MB of memory used)", s.firmware, what, time.Since(began).Seconds(), h.Image.Ready, h.Image.MemUsed>>20)
	return h
}

// proven is an appliance that runs a release and has committed it.
func proven(version string) func(vm.Health) bool {
	return func(h vm.Health) bool { return h.OK && h.Image.Committed && h.Image.Version == version }
}

// slots is the state on the disk of a machine that is off.
func (s *site) slots() string {
	s.t.Helper()
	f, p := s.open(release.PartState)
	defer f.Close()
	_, st, err := slot.Block(io.NewSectionReader(f, p.Offset(), p.Size()), p.Size())
	if err != nil {
		s.t.Fatal(err)
	}
	return st.String()
}

func (s *site) open(part string) (*os.File, disk.Partition) {
	s.t.Helper()
	f, err := os.OpenFile(s.disk, os.O_RDWR, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		s.t.Fatal(err)
	}
	table, err := disk.Read(f, uint64(st.Size()/disk.Sector))
	if err != nil {
		s.t.Fatal(err)
	}
	i, ok := table.Find(part)
	if !ok {
		s.t.Fatalf("no partition %s", part)
	}
	return f, table.Parts[i]
}

// damage changes bytes of a partition of a machine that is off.
func (s *site) damage(part string, at int64, b []byte) {
	s.t.Helper()
	f, p := s.open(part)
	defer f.Close()
	if _, err := f.WriteAt(b, p.Offset()+at); err != nil {
		s.t.Fatal(err)
	}
}

func copySparse(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	st, err := in.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Truncate(st.Size()); err != nil {
		t.Fatal(err)
	}
	block, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); ; at += int64(len(block)) {
		n, err := io.ReadFull(in, block)
		if n > 0 && !bytes.Equal(block[:n], zero[:n]) {
			if _, err := out.WriteAt(block[:n], at); err != nil {
				t.Fatal(err)
			}
		}
		if err != nil {
			return
		}
	}
}

var firmwares = []string{"bios", "uefi"}

// TestGate is what every change has to pass: a first start under BIOS and one under UEFI, a good update, a release that panics,
// a slot that was damaged, and two builds that are the same.
func TestGate(t *testing.T) {
	l := need(t, "gate")
	l.make(t, "first")
	t.Run("bios", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, l, "bios", "first")
		s.start()
		first := s.until("first start", proven("first"))
		if first.Image.Slot != "a" || first.Image.Slots != "slot=a a=3 b=0" || first.Image.Firmware != "pc" || first.Image.Watchdog == "" {
			t.Errorf("after the first start: %s", first.Raw)
		}
		s.offer(l.make(t, "next") + ".rfu")
		s.until("good update", func(h vm.Health) bool {
			return proven("next")(h) && h.Image.Slot == "b" && h.Image.Update == "committed"
		})
		s.stop()
		if got, want := s.slots(), "slot=b a=3 b=3"; got != want {
			t.Errorf("after the update: %s, want %s", got, want)
		}
		s.offered.Store(nil)
		s.damage(release.PartSlotB, 20<<20, bytes.Repeat([]byte{0x55}, 4096)) // inside the initramfs
		s.start()
		s.until("start with a damaged slot", func(h vm.Health) bool { return proven("first")(h) && h.Image.Slot == "a" })
		s.stop()
		if got, want := s.slots(), "slot=a a=3 b=0"; got != want {
			t.Errorf("after the damage: %s, want %s", got, want)
		}
	})
	t.Run("uefi", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, l, "uefi", "first")
		s.start()
		first := s.until("first start", proven("first"))
		if first.Image.Firmware != "efi" {
			t.Errorf("after the first start: %s", first.Raw)
		}
		s.offer(l.make(t, "exit") + ".rfu")
		s.until("release that panics", func(h vm.Health) bool {
			return proven("first")(h) && h.Image.Boot != first.Image.Boot && h.Image.Update == "returned"
		})
		s.stop()
		if got, want := s.slots(), "slot=a a=3 b=0"; got != want {
			t.Errorf("after the panic: %s, want %s", got, want)
		}
	})
	t.Run("reproducible", func(t *testing.T) {
		t.Parallel()
		first := l.make(t, "first")
		o := image.Options{Arch: runtime.GOARCH, Binary: l.bin, Version: "first", Epoch: epoch, Keys: filepath.Join(l.dir, "keys"), Sign: 1, Cache: l.cache,
			Out: filepath.Join(t.TempDir(), "another", "place"), Args: patient}
		if _, err := image.Build(context.Background(), o); err != nil {
			t.Fatal(err)
		}
		for _, ending := range []string{".img", ".rfu", ".manifest.json"} {
			same(t, first+ending, filepath.Join(o.Out, filepath.Base(first)+ending))
		}
	})
}

func same(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.Open(a)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	defer y.Close()
	p, q := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := 0; ; at += len(p) {
		n, e1 := io.ReadFull(x, p)
		m, e2 := io.ReadFull(y, q)
		if n != m || !bytes.Equal(p[:n], q[:m]) {
			t.Errorf("%s differs within the MiB at %d", filepath.Base(a), at)
			return
		}
		if e1 != nil || e2 != nil {
			return
		}
	}
}

// TestFaults is every way a release or a disk can go wrong, in both kinds of firmware.
func TestFaults(t *testing.T) {
	l := need(t, "full")
	for _, firmware := range firmwares {
		for _, fault := range []string{"exit", "panic", "hang", "unhealthy", "crash"} {
			t.Run(firmware+"/release "+fault, func(t *testing.T) {
				s := newSite(t, l, firmware, "short")
				s.start()
				first := s.until("first start", proven("short"))
				s.offer(l.make(t, fault) + ".rfu")
				s.until("back", func(h vm.Health) bool {
					return proven("short")(h) && h.Image.Boot != first.Image.Boot && h.Image.Update == "returned"
				})
				// It is not tried again.
				time.Sleep(25 * time.Second)
				h := s.until("still there", proven("short"))
				if h.Image.Slots != "slot=a a=3 b=0" {
					t.Errorf("slots: %s", h.Image.Slots)
				}
			})
		}
		t.Run(firmware+"/signature of a stranger", func(t *testing.T) {
			s := newSite(t, l, firmware, "first")
			s.start()
			first := s.until("first start", proven("first"))
			s.offer(forged(t, l.make(t, "next")+".rfu"))
			time.Sleep(25 * time.Second)
			if h := s.until("unchanged", proven("first")); h.Image.Boot != first.Image.Boot || h.Image.Slots != "slot=a a=3 b=0" {
				t.Errorf("%s", h.Raw)
			}
		})
		t.Run(firmware+"/power cut while an update is written", func(t *testing.T) {
			s := newSite(t, l, firmware, "first")
			s.start()
			s.until("first start", proven("first"))
			s.slow.Store(true)
			s.offer(l.make(t, "next") + ".rfu")
			<-s.half
			s.stop()
			s.offered.Store(nil)
			if got, want := s.slots(), "slot=a a=3 b=0"; got != want {
				t.Errorf("slots: %s, want %s", got, want)
			}
			s.start()
			s.until("start after the cut", proven("first"))
		})
		for _, d := range []struct {
			name string
			at   int64
			size int
		}{{"beginning destroyed", 0, 1 << 20}, {"kernel changed", 4 << 20, 16}, {"initramfs changed", 20 << 20, 16}} {
			t.Run(firmware+"/slot "+d.name, func(t *testing.T) {
				s := newSite(t, l, firmware, "first")
				s.start()
				s.until("first start", proven("first"))
				s.offer(l.make(t, "next") + ".rfu")
				s.until("good update", proven("next"))
				s.stop()
				s.offered.Store(nil)
				s.damage(release.PartSlotB, d.at, bytes.Repeat([]byte{0xaa}, d.size))
				s.start()
				s.until("other slot", proven("first"))
			})
		}
	}
}

// forged signs an update with a key that nobody knows.
func forged(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	head, err := update.Head(update.Info{Product: update.Product, Version: "forged", Arch: "amd64", Serial: epoch.Unix() + 5000, Size: int64(len(b) - update.HeadSize), SHA512: strings.Repeat("00", 64)}, key)
	if err != nil {
		t.Fatal(err)
	}
	copy(b, head)
	out := filepath.Join(t.TempDir(), "forged.rfu")
	if err := os.WriteFile(out, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestPowerCuts pulls the plug at moments spread over the first start and over running, and wants the appliance back each time.
func TestPowerCuts(t *testing.T) {
	l := need(t, "full")
	s := newSite(t, l, "bios", "first")
	for _, seconds := range []int{3, 6, 8, 10, 12, 14, 17, 20, 26, 35} {
		s.start()
		time.Sleep(time.Duration(seconds) * time.Second)
		s.stop()
		// A cut is no fault of the slot: in the field there is a start between two of them.
		s.start()
		s.until(fmt.Sprintf("start after a cut at %d s", seconds), proven("first"))
		s.stop()
	}
}

// TestCircumstances are machines that are not as they should be.
func TestCircumstances(t *testing.T) {
	l := need(t, "full")
	t.Run("no network", func(t *testing.T) {
		s := newSite(t, l, "bios", "first")
		s.start(func(o *vm.Options) { o.Network = false })
		s.untilConsole("this slot has proven itself")
	})
	for _, year := range []string{"1970-01-01T00:00:00", "2099-06-01T00:00:00"} {
		t.Run("clock "+year[:4], func(t *testing.T) {
			s := newSite(t, l, "bios", "first")
			s.start(func(o *vm.Options) { o.Args = append(o.Args, "-rtc", "base="+year) })
			s.until("first start", proven("first"))
			if !strings.Contains(s.m.Console(), "the time is doubtful") {
				t.Errorf("nothing was said about the clock:\n%s", s.m.Console())
			}
		})
	}
	t.Run("data partition damaged", func(t *testing.T) {
		s := newSite(t, l, "bios", "first")
		s.start()
		s.until("first start", proven("first"))
		s.stop()
		s.damage(release.PartData, 0, bytes.Repeat([]byte{0x5a}, 1<<20))
		s.start()
		s.untilConsole("the data partition is damaged")
	})
	for _, kind := range []string{"nvme", "ahci", "usb"} {
		t.Run("disk "+kind, func(t *testing.T) {
			s := newSite(t, l, "uefi", "first")
			s.start(func(o *vm.Options) { o.Disk = kind })
			s.until("first start", proven("first"))
		})
	}
	t.Run("two disks of one image", func(t *testing.T) {
		s := newSite(t, l, "bios", "first")
		second := filepath.Join(s.dir, "stick.img")
		copySparse(t, l.make(t, "first")+".img", second)
		s.start(func(o *vm.Options) {
			o.Args = append(o.Args, "-device", "qemu-xhci", "-drive", "if=none,id=stick,format=raw,file="+second, "-device", "usb-storage,drive=stick,removable=on")
		})
		h := s.until("first start", proven("first"))
		if h.Image.Disk != "vda" {
			t.Errorf("the appliance lives on %s, want the disk that is built in", h.Image.Disk)
		}
	})
	t.Run("larger disk and orderly end", func(t *testing.T) {
		s := newSite(t, l, "uefi", "first")
		if err := os.Truncate(s.disk, 2<<30); err != nil {
			t.Fatal(err)
		}
		s.start()
		h := s.until("first start", proven("first"))
		if h.Image.DataSize < 1500<<20 {
			t.Errorf("the data partition has %d MB of a disk of 2048", h.Image.DataSize>>20)
		}
		if err := s.m.Monitor("system_powerdown"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-s.m.Ended():
		case <-time.After(stepTime):
			t.Error("the power button does nothing")
		}
		if !strings.Contains(s.m.Console(), "power button") {
			t.Errorf("ended by something else:\n%s", s.m.Console())
		}
	})
}

func (s *site) untilConsole(what string) {
	s.t.Helper()
	deadline := time.Now().Add(stepTime)
	for !strings.Contains(s.m.Console(), what) {
		if time.Now().After(deadline) {
			s.t.Fatalf("the console never said %q:\n%s", what, s.m.Console())
		}
		time.Sleep(time.Second)
	}
}
