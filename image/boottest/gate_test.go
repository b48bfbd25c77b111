package boottest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"ringfence/image"
	"ringfence/image/boot/release"
	"ringfence/image/vm"
)

var firmwares = []string{"bios", "uefi"}

// TestReproducibleSource builds the program itself from a copy of the source in another place, with an empty build cache and one
// processor, and the image from that.
func TestReproducibleSource(t *testing.T) {
	need(t, "full")
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	elsewhere := filepath.Join(dir, "quite", "another", "source")
	list, err := exec.Command("git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Fatalf("which files are the source: %v", err)
	}
	copying := exec.Command("cp", "--parents", "-t", elsewhere)
	copying.Dir = root
	for _, name := range strings.Split(strings.Trim(string(list), "\x00"), "\x00") {
		if _, err := os.Stat(filepath.Join(root, name)); err == nil {
			copying.Args = append(copying.Args, name)
		}
	}
	if err := os.MkdirAll(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := copying.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var built []string
	for _, b := range []struct {
		dir string
		env []string
	}{{root, nil}, {elsewhere, []string{"GOMAXPROCS=1", "GOCACHE=" + filepath.Join(dir, "cache"), "GOFLAGS=-p=1 -tags=nobadger,nomysql,nopgx", "TZ=Pacific/Kiritimati"}}} {
		name := filepath.Join(t.TempDir(), "ringfence")
		cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-tags=nobadger,nomysql,nopgx", "-ldflags", "-s -w -buildid=", "-o", name, "./cmd/ringfence")
		cmd.Dir = b.dir
		cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), b.env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		built = append(built, name)
	}
	same(t, built[0], built[1])
}

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
		l.again(t, l.bin)
	})
}

// again builds the first release once more, with everything different that must not matter: another place for results and packages, one
// processor instead of all, another day where Debian's programs look for it, another time zone, language and umask. binary is the
// program that goes into it. What comes out has to be the same bit for bit, signatures included.
func (l *lab) again(t *testing.T, binary string) {
	t.Helper()
	first := l.make(t, "first")
	dir := filepath.Join(t.TempDir(), "another", "place")
	cache := filepath.Join(dir, "cache")
	if err := os.MkdirAll(filepath.Join(cache, "debs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-r", filepath.Join(l.cache, "debs", runtime.GOARCH), filepath.Join(cache, "debs")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out := filepath.Join(dir, "out")
	cmd := exec.Command("sh", "-c", `umask 077; exec "$@"`, "sh", l.bin, "image", "build", "--keys", filepath.Join(l.dir, "keys"), "--cache", cache, "--binary", binary, "--version", "first",
		"--kernel-args", patient, "--out", out)
	if _, err := exec.LookPath("taskset"); err == nil {
		cmd.Args = append([]string{"taskset", "-c", "0"}, cmd.Args...)
		cmd.Path, _ = exec.LookPath("taskset")
	}
	cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", epoch.Unix()), "GOMAXPROCS=1", "TZ=Pacific/Kiritimati", "LC_ALL=C.UTF-8", "HOME="+dir)
	if found, _ := filepath.Glob("/usr/lib/*-linux-gnu/faketime/libfaketime.so.1"); len(found) > 0 {
		cmd.Env = append(cmd.Env, "LD_PRELOAD="+found[0], "FAKETIME=+400d")
	} else {
		t.Log("without libfaketime: the day is the same")
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, text)
	}
	for _, ending := range []string{".img", ".rfu", ".manifest.json"} {
		same(t, first+ending, filepath.Join(out, filepath.Base(first)+ending))
	}
	bill(t, out, filepath.Base(first))
}

// bill compares the bill of materials with what it is about.
func bill(t *testing.T, dir, base string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, base+".manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m image.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	for _, ending := range []string{".img", ".rfu"} {
		b, err := os.ReadFile(filepath.Join(dir, base+ending))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		if d := m.Files[base+ending]; d.Size != int64(len(b)) || d.SHA256 != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: the manifest says %+v", ending, d)
		}
	}
	have := map[string]bool{}
	for _, p := range m.Packages {
		have[p.Name] = len(p.SHA256) == 64 && p.Version != "" && p.Arch != ""
	}
	for _, k := range m.Kernel {
		have[k] = true
	}
	for _, g := range m.Modules {
		have[g.Path] = g.Version != ""
	}
	for _, want := range []string{"grub-pc-bin", "grub-efi-amd64-bin", "squashfs-tools", "ext4", "virtio_net", "tun", "go.etcd.io/bbolt"} {
		if !have[want] {
			t.Errorf("the manifest has no %s, or not whole", want)
		}
	}
	if len(m.Keys) != 2 || !m.TestKeys || m.Go != runtime.Version() || m.Epoch != epoch.Unix() {
		t.Errorf("%d keys, for tests %v, Go %s, time %d", len(m.Keys), m.TestKeys, m.Go, m.Epoch)
	}
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
