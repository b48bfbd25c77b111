package record

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/config"
)

// shelf is a store in memory.
type shelf map[string][]byte

func (s shelf) Scan(prefix string, fn func(string, []byte) bool) {
	var keys []string
	for k := range s {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if !fn(k, s[k]) {
			return
		}
	}
}

func (s shelf) Write(_ context.Context, set map[string][]byte, del ...string) error {
	for k, v := range set {
		s[k] = v
	}
	for _, k := range del {
		delete(s, k)
	}
	return nil
}

// put makes an entry with what a recorder has left in its folder.
func (s shelf) put(t *testing.T, dir string, e Entry, file string, octets int) {
	t.Helper()
	b, _ := json.Marshal(e)
	s[Prefix+e.ID] = b
	if err := os.MkdirAll(filepath.Join(dir, e.ID), 0o700); err != nil {
		t.Fatal(err)
	}
	if file != "" {
		if err := os.WriteFile(filepath.Join(dir, e.ID, file), make([]byte, octets), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func open(t *testing.T, dir string, s shelf, days int) *Recordings {
	t.Helper()
	r, err := New(t.Context(), Options{Dir: dir, Store: s, Policy: func() config.Recording { return config.Recording{KeepDays: days} }})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// After a crash, what was being recorded is whole, what holds nothing is gone, and so are folders that belong to no entry.
func TestAfterACrash(t *testing.T) {
	dir, s := t.TempDir(), shelf{}
	now := time.Now()
	const second = 64000
	s.put(t, dir, Entry{ID: "a", Line: "301", Party: "302", At: now, Pending: true}, "0a.part", 44+3*second)
	s.put(t, dir, Entry{ID: "b", Line: "301", At: now, Pending: true}, "0b.part", 44)
	s.put(t, dir, Entry{ID: "c", Line: "303", At: now, Pending: true}, "whole.wav", 44+2*second)
	s.put(t, dir, Entry{ID: "d", Line: "303", At: now, File: "d/x.wav", Seconds: 1}, "x.wav", 44+second)
	s[Prefix+"evil"] = []byte(`{"id":"../../etc"}`)
	if err := os.Mkdir(filepath.Join(dir, "orphan"), 0o700); err != nil {
		t.Fatal(err)
	}
	r := open(t, dir, s, 0)
	var got []string
	for _, e := range r.List("") {
		if e.Pending || e.File == "" {
			t.Errorf("%+v", e)
		}
		got = append(got, e.ID+" "+(time.Duration(e.Seconds)*time.Second).String())
	}
	if want := "a 3s,c 2s,d 1s"; strings.Join(got, ",") != want {
		t.Errorf("recordings %q, want %s", got, want)
	}
	folders, _ := os.ReadDir(dir)
	if len(folders) != 3 {
		t.Errorf("folders left: %v", folders)
	}
	if n := len(r.List("302")); n != 1 {
		t.Errorf("%d recordings with 302, want 1", n)
	}
}

func TestRetention(t *testing.T) {
	dir, s := t.TempDir(), shelf{}
	s.put(t, dir, Entry{ID: "old", At: time.Now().AddDate(0, 0, -8), File: "old/x.wav"}, "x.wav", 100)
	s.put(t, dir, Entry{ID: "young", At: time.Now().AddDate(0, 0, -6), File: "young/x.wav"}, "x.wav", 100)
	open(t, dir, s, 0).purge(t.Context())
	if len(s) != 2 {
		t.Fatal("without an end something was deleted")
	}
	r := open(t, dir, s, 7)
	r.purge(t.Context())
	if l := r.List(""); len(l) != 1 || l[0].ID != "young" || len(s) != 1 {
		t.Errorf("left: %+v", l)
	}
	if _, err := os.Stat(filepath.Join(dir, "old")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file of the old one: %v", err)
	}
}

func TestExportAndDelete(t *testing.T) {
	dir, s := t.TempDir(), shelf{}
	at := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	s.put(t, dir, Entry{ID: "a", Line: "301", Party: "../302", At: at, Incoming: true, File: "a/x.wav"}, "x.wav", 100)
	r := open(t, dir, s, 0)
	r.update(Entry{ID: "p", Pending: true})
	to := t.TempDir()
	name, size, err := r.Export("a", to)
	if err != nil || size != 100 || name != filepath.Join(to, "20260302-090000_301_from____302_a.wav") {
		t.Errorf("exported %s, %d, %v", name, size, err)
	}
	if _, _, err := r.Export("a", name); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over another file: %v", err)
	}
	for _, f := range []func(string) error{
		func(id string) error { _, _, err := r.Export(id, filepath.Join(to, "y")); return err },
		func(id string) error { return r.Delete(t.Context(), id) },
	} {
		if err := f("none"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("unknown: %v", err)
		}
		if err := f("p"); !errors.Is(err, ErrRunning) {
			t.Errorf("one that is being made: %v", err)
		}
	}
	if err := r.Delete(t.Context(), "a"); err != nil || len(s) != 0 {
		t.Errorf("delete: %v, left %d", err, len(s))
	}
}
