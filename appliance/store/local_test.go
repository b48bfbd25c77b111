package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func openLocal(t testing.TB, dir string, log *slog.Logger) *Local {
	t.Helper()
	l, err := OpenLocal(LocalOptions{Dir: dir, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestLocalSurvivesClose(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir := t.TempDir()
	l := openLocal(t, dir, nil)
	l.Put("boot", "a", []byte("1"))
	l.Put("boot", "b", nil)
	l.Put("boot", "c", []byte("3"))
	l.Put("boot", "", []byte("no key"))
	l.Put("boot", "big", make([]byte, MaxValue+1))
	l.Delete("boot", "c")
	l.Delete("none", "x")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	l.Put("boot", "late", nil)
	l = openLocal(t, dir, nil)
	got := map[string]string{}
	l.Scan("boot", "", func(k string, v []byte) bool { got[k] = string(v); return true })
	if d := cmp.Diff(map[string]string{"a": "1", "b": ""}, got); d != "" {
		t.Errorf("contents (-want +got):\n%s", d)
	}
	l.Close()
}

// TestLocalModel compares with a plain map while entries lie in memory, in the file, or in both.
func TestLocalModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l, err := OpenLocal(LocalOptions{Dir: func() string { d, _ := os.MkdirTemp(t.TempDir(), "m"); return d }()})
		if err != nil {
			rt.Fatal(err)
		}
		defer l.Close()
		l.db.NoSync = true
		model := map[string]map[string]string{"x": {}, "y": {}}
		bucket := rapid.SampledFrom([]string{"x", "y"})
		key := rapid.SampledFrom([]string{"a", "a/1", "a/2", "ab", "b", "c/1"})
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				b, k, v := bucket.Draw(rt, "b"), key.Draw(rt, "k"), rapid.String().Draw(rt, "v")
				l.Put(b, k, []byte(v))
				model[b][k] = v
			},
			"delete": func(rt *rapid.T) {
				b, k := bucket.Draw(rt, "b"), key.Draw(rt, "k")
				l.Delete(b, k)
				delete(model[b], k)
			},
			"flush": func(rt *rapid.T) {
				if err := l.Flush(); err != nil {
					rt.Fatal(err)
				}
			},
			"": func(rt *rapid.T) {
				for b := range model {
					prefix := key.Draw(rt, "prefix")
					want, got := map[string]string{}, map[string]string{}
					for k, v := range model[b] {
						if strings.HasPrefix(k, prefix) {
							want[k] = v
						}
					}
					last := ""
					l.Scan(b, prefix, func(k string, v []byte) bool {
						if k <= last {
							rt.Fatalf("%s after %s", k, last)
						}
						last, got[k] = k, string(v)
						return true
					})
					if d := cmp.Diff(want, got); d != "" {
						rt.Fatalf("scan %s %s (-model +local):\n%s", b, prefix, d)
					}
					w, exists := model[b][prefix]
					if v, ok := l.Get(b, prefix); ok != exists || string(v) != w {
						rt.Fatalf("get: %q %v, want %q %v", v, ok, w, exists)
					}
				}
			},
		})
	})
}

func TestLocalScanCrossesChunks(t *testing.T) {
	l := openLocal(t, t.TempDir(), nil)
	const n = 2*scanChunk + 100
	for i := range n {
		if i%3 > 0 {
			l.Put("b", fmt.Sprintf("%05d", i), []byte("file"))
		}
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if i%3 == 0 {
			l.Put("b", fmt.Sprintf("%05d", i), []byte("memory"))
		}
	}
	i := 0
	l.Scan("b", "", func(k string, v []byte) bool {
		want := "file"
		if i%3 == 0 {
			want = "memory"
		}
		if k != fmt.Sprintf("%05d", i) || string(v) != want {
			t.Errorf("entry %d is %s=%s", i, k, v)
			return false
		}
		i++
		return true
	})
	if i != n {
		t.Errorf("%d entries, want %d", i, n)
	}
}

// Entries are never out of sight while a flush moves them from memory to the file.
func TestLocalReadsDuringFlush(t *testing.T) {
	l := openLocal(t, t.TempDir(), nil)
	l.db.NoSync = true
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := l.Flush(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 3000 {
		k := fmt.Sprint("k", i%50)
		l.Put("b", k, fmt.Append(nil, i))
		if v, ok := l.Get("b", k); !ok || string(v) != fmt.Sprint(i) {
			t.Fatalf("%s: got %q, %v; want %d", k, v, ok, i)
		}
		if n := 0; i >= 50 && i%10 == 0 {
			l.Scan("b", "", func(string, []byte) bool { n++; return true })
			if n != 50 {
				t.Fatalf("scan saw %d of 50", n)
			}
		}
	}
	cancel()
	wg.Wait()
}

func TestLocalBuffersAreBounded(t *testing.T) {
	l := openLocal(t, t.TempDir(), nil)
	for i := range 3 * localPending / MaxValue {
		l.Put("b", fmt.Sprint(i), make([]byte, MaxValue))
		l.mu.RLock()
		waiting := l.bytes
		l.mu.RUnlock()
		if waiting > localPending {
			t.Fatalf("%d bytes wait, bound %d", waiting, localPending)
		}
	}
}

func TestLocalDamagedFileIsMovedAside(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "local.db")
	var log bytes.Buffer
	for i := range 2 {
		if err := os.WriteFile(path, fmt.Appendf(nil, "damaged %d %s", i, strings.Repeat("-", 9000)), 0o600); err != nil {
			t.Fatal(err)
		}
		l := openLocal(t, dir, slog.New(slog.NewTextHandler(&log, nil)))
		l.Put("b", "k", nil)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 {
		b, err := os.ReadFile(fmt.Sprintf("%s.damaged-%d", path, i+1))
		if err != nil || !strings.HasPrefix(string(b), fmt.Sprint("damaged ", i)) {
			t.Errorf("damaged file %d: %.20q, %v", i, b, err)
		}
	}
	if strings.Count(log.String(), "moved aside") != 2 {
		t.Errorf("log: %s", log.String())
	}
	for i := range 5 {
		os.WriteFile(fmt.Sprintf("%s.damaged-%d", path, i+1), nil, 0o600)
	}
	os.WriteFile(path, []byte("damaged again"), 0o600)
	if _, err := OpenLocal(LocalOptions{Dir: dir}); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "remove them") {
		t.Errorf("sixth damaged file: %v", err)
	}
}

func TestLocalFullFileDropsAndSaysSo(t *testing.T) {
	var log bytes.Buffer
	l, err := OpenLocal(LocalOptions{Dir: t.TempDir(), MaxBytes: 2 << 20, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	failed := 0
	for i := range 60 {
		l.Put("b", fmt.Sprint(i), make([]byte, MaxValue))
		if l.Flush() != nil {
			failed++
		}
	}
	// Once per series of failures; a flush that finds a freed page ends one.
	if said := strings.Count(log.String(), "entries dropped"); failed < 10 || said < 1 || said > failed/3 {
		t.Errorf("%d flushes failed; log:\n%s", failed, log.String())
	}
	if _, ok := l.Get("b", "0"); !ok {
		t.Error("what was written before is gone")
	}
	if err := l.db.View(func(tx *bbolt.Tx) error { return nil }); err != nil {
		t.Error(err)
	}
}
