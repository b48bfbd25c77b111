package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

func TestSecondDaemonIsToldWhoHoldsTheDirectory(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := Open(Options{Dir: dir})
	if !errors.Is(err, ErrInUse) {
		t.Fatalf("got %v, want ErrInUse", err)
	}
	want := fmt.Sprintf("state directory %s is in use by another ringfence (process %d); give this one its own --state", dir, os.Getpid())
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
	write(t, s, map[string]string{"k": "v"})
	s.Close()
	open(t, dir)
}

func TestNewerFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		format byte
		minor  byte
		want   error
	}{{1, 9, nil}, {2, 0, ErrNewer}} {
		s := open(t, dir)
		if err := s.db.Update(func(tx *bbolt.Tx) error {
			return putMeta(tx.Bucket(bucketMeta), metaFormat, []byte{c.format, c.minor})
		}); err != nil {
			t.Fatal(err)
		}
		s.Close()
		again, err := Open(Options{Dir: dir})
		if !errors.Is(err, c.want) {
			t.Errorf("format %d.%d: %v, want %v", c.format, c.minor, err, c.want)
		}
		if err == nil {
			again.Close()
		} else if !strings.Contains(err.Error(), "state.db: written by a newer release (format 2.0, this one reads up to 1)") {
			t.Errorf("text: %v", err)
		}
	}
}

// Another layout of the projection, an older or a later release's, is made anew from the log.
func TestForeignProjectionIsRebuilt(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	write(t, s, map[string]string{"a": "1", "b": "2"})
	write(t, s, nil, "b")
	if err := s.db.Update(func(tx *bbolt.Tx) error {
		return errors.Join(tx.Bucket(bucketFields).Put([]byte("a"), []byte("some other layout")),
			putMeta(tx.Bucket(bucketMeta), metaLayout, []byte{77}))
	}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir)
	if d := cmp.Diff(map[string]string{"a": "1"}, contents(s)); d != "" {
		t.Errorf("contents (-want +got):\n%s", d)
	}
}

func TestFullDiskIsToldAndPasses(t *testing.T) {
	s, err := Open(Options{Dir: t.TempDir(), MaxBytes: 3 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var failed error
	n := 0
	for ; failed == nil && n < 1000; n++ {
		failed = s.Write(t.Context(), map[string][]byte{fmt.Sprint("k/", n): bytes.Repeat([]byte{1}, MaxValue)})
	}
	if failed == nil {
		t.Fatal("64 MB went into 3 MB")
	}
	if s.Err() != nil || errors.Is(failed, ErrFailed) {
		t.Errorf("a full disk ended the store: %v", s.Err())
	}
	if _, ok := s.Get(fmt.Sprint("k/", n-1)); ok {
		t.Error("the refused value is there")
	}
	s.db.MaxSize = 0 // there is room again
	if err := s.Write(t.Context(), map[string][]byte{"later": []byte("x")}); err != nil {
		t.Errorf("write when there is room again: %v", err)
	}
}

// breakFile makes every further write to path fail, under the open database.
func breakFile(t *testing.T, path string) {
	t.Helper()
	readOnly, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(readOnly)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range fds {
		var fd int
		fmt.Sscan(e.Name(), &fd)
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && target == path && fd != readOnly {
			if err := unix.Dup3(readOnly, fd, unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no descriptor of %s", path)
}

func TestFailedDiskAcknowledgesNothing(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	write(t, s, map[string]string{"before": "1"})
	breakFile(t, filepath.Join(dir, "state.db"))
	if err := s.Write(t.Context(), map[string][]byte{"lost": nil}); !errors.Is(err, ErrFailed) {
		t.Errorf("write on a failed disk: %v, want ErrFailed", err)
	}
	if _, ok := s.Get("lost"); ok || s.LastSeq() != 1 {
		t.Error("the refused write is seen")
	}
	if err := s.Write(t.Context(), map[string][]byte{"after": nil}); !errors.Is(err, ErrFailed) {
		t.Errorf("next write: %v, want ErrFailed", err)
	}
	if s.Err() == nil {
		t.Error("health does not say so")
	}
	if v, ok := s.Get("before"); !ok || string(v) != "1" {
		t.Errorf("reading what was there: %q, %v", v, ok)
	}
}
