package boottest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"ringfence/image"
	"ringfence/image/vm"
)

// epoch is the time of the source of the first release here; each later one is a thousand seconds younger.
var epoch = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

const (
	metricsPort = 9090
	sipPort     = 5060
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
			user = os.TempDir() // nobody has said where home is
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

// make builds a release, once. The name says which: "first", "stick" (one that installs), "shim" (for Secure Boot), "short" (the same with
// little patience), "next", or a fault of the
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
		} else if name == "stick" {
			o.Formats = []string{"installer"}
		} else if name == "shim" {
			o.SecureBoot = true
		} else if name != "first" {
			o.Epoch, o.Sign = epoch.Add(1000*time.Second), 2
		}
		if name != "first" && name != "short" && name != "next" && name != "stick" && name != "shim" {
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
