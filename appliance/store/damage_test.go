package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sampleFile makes a state file of many pages and returns it with its contents.
func sampleFile(t *testing.T) (file []byte, want map[string]string) {
	t.Helper()
	dir := t.TempDir()
	s := open(t, dir)
	for g := range 20 {
		group := map[string][]byte{}
		for i := range 50 {
			group[fmt.Sprintf("fwd/%d/all", (g*37+i*11)%600)] = []byte(strings.Repeat("x", 20+i))
		}
		if err := s.Write(context.Background(), group); err != nil {
			t.Fatal(err)
		}
	}
	want = contents(s)
	s.Close()
	file, err := os.ReadFile(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	return file, want
}

func TestDamagedFileIsNamedAndLeftAlone(t *testing.T) {
	file, _ := sampleFile(t)
	for name, damage := range map[string]func([]byte) []byte{
		"other content": func(b []byte) []byte { return []byte("this is a text and no database, long enough to be looked at") },
		"one byte":      func(b []byte) []byte { return b[:1] },
		"zeros":         func(b []byte) []byte { return make([]byte, len(b)) },
		"cut off":       func(b []byte) []byte { return b[:6*4096] },
		"heads gone":    func(b []byte) []byte { clear(b[:8192]); return b },
		"log value changed": func(b []byte) []byte {
			for i := range len(b) / 4096 {
				if p := b[i*4096 : (i+1)*4096]; strings.Contains(string(p), "fwd/37/all") {
					copy(p[strings.Index(string(p), "xxxx"):], "y")
				}
			}
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "state.db")
			bad := damage(append([]byte{}, file...))
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Open(Options{Dir: dir})
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("got %v, want ErrDamaged", err)
			}
			if text := err.Error(); !strings.HasPrefix(text, path+" is damaged (") || !strings.HasSuffix(text, "move it away to start without it") || strings.Contains(text, "\n") {
				t.Errorf("text: %s", text)
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(bad) {
				t.Errorf("the file was changed (%v)", err)
			}
			if _, err := Open(Options{Dir: dir}); !errors.Is(err, ErrDamaged) {
				t.Errorf("second try: %v, want ErrDamaged and no lock left behind", err)
			}
		})
	}
}

// Any page may be lost: opening finds it, or the page was free and everything is there.
func TestLostPagesAreFoundOnOpening(t *testing.T) {
	file, want := sampleFile(t)
	// What lies beyond the pages in use is room to grow.
	pages := int(max(binary.NativeEndian.Uint64(file[16+40:]), binary.NativeEndian.Uint64(file[4096+16+40:])))
	file = file[:pages*4096]
	found, step := 0, 1
	if testing.Short() {
		step = 7
	}
	for page := 0; page < pages; page += step {
		for kind, fill := range []func([]byte){func(p []byte) { clear(p) }, func(p []byte) {
			r := rand.New(rand.NewPCG(1, uint64(page)))
			for i := range p {
				p[i] = byte(r.Uint32())
			}
		}} {
			dir := t.TempDir()
			path := filepath.Join(dir, "state.db")
			bad := append([]byte{}, file...)
			fill(bad[page*4096 : (page+1)*4096])
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Open(Options{Dir: dir})
			switch {
			case errors.Is(err, ErrDamaged):
				found++
			case err != nil:
				t.Errorf("page %d, kind %d: %v", page, kind, err)
			case page < 2:
				s.Close() // one head of two: bbolt takes the other, the state before the last commit
			default:
				if d := cmp.Diff(want, contents(s)); d != "" {
					t.Errorf("page %d, kind %d: opened, but:\n%.500s", page, kind, d)
				}
				s.Close()
			}
		}
	}
	if found == 0 {
		t.Error("no damage was found")
	}
	t.Logf("%d damages refused", found)
}
