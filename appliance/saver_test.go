package appliance

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ringfence/config"
)

func newTestSaver(t *testing.T, b config.Backup) *saver {
	return &saver{b: b, name: "north", log: slog.New(slog.DiscardHandler), began: time.Now(),
		write: func(file, _ string) error { return os.WriteFile(file, []byte("backup"), 0o600) },
		check: func(string, string) error { return nil }}
}

func TestSaverKeepsSome(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"notes.txt", "south-20260101-000000.backup", "north-nonsense.backup"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := newTestSaver(t, config.Backup{Folder: dir, Keep: 2, Every: config.Duration(time.Hour)})
	now := time.Date(2026, 6, 1, 3, 0, 0, 0, time.UTC)
	for i := range 4 {
		if err := s.save(context.Background(), now.Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	names := func() (out []string) {
		all, _ := os.ReadDir(dir)
		for _, e := range all {
			out = append(out, e.Name())
		}
		return out
	}
	want := []string{"north-20260601-050000.backup", "north-20260601-060000.backup", "north-nonsense.backup", "notes.txt", "south-20260101-000000.backup"}
	if got := names(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	s.check = func(string, string) error { return errors.New("half of it") }
	if err := s.save(context.Background(), now.Add(9*time.Hour)); err == nil || !strings.Contains(err.Error(), "half of it") {
		t.Error(err)
	}
	if got := names(); !slices.Equal(got, want) {
		t.Errorf("a backup that cannot be read: got %v, want %v", got, want)
	}
}

func TestSaverSends(t *testing.T) {
	status, got := http.StatusCreated, ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		got = r.Method + " " + r.URL.Path + " " + user + " " + password
		w.WriteHeader(status)
	}))
	defer srv.Close()
	b := config.Backup{URL: srv.URL + "/saved/", User: "north", Keep: 3, Every: config.Duration(24 * time.Hour)}
	s := newTestSaver(t, b)
	if err := s.save(context.Background(), time.Now()); err != nil || got != "PUT /saved/"+s.place(time.Now())+" north " {
		t.Errorf("%q, %v", got, err)
	}
	for code, want := range map[int]string{401: "password", 404: "folder", 500: "500", 301: "301"} {
		status = code
		if err := s.save(context.Background(), time.Now()); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "not sent") {
			t.Errorf("%d: %v", code, err)
		}
	}
	day := time.Date(2026, 6, 1, 3, 0, 0, 0, time.UTC)
	places := map[string]bool{}
	for i := range 10 {
		places[s.place(day.Add(time.Duration(i)*24*time.Hour))] = true
	}
	if len(places) != b.Keep {
		t.Errorf("ten days take %d places: %v", len(places), places)
	}
	s.err = errors.New("no room")
	s.began = time.Now().Add(-100 * time.Hour)
	if w := s.warnings(); len(w) != 2 || !strings.Contains(w[0], "no room") || !strings.Contains(w[1], "old") {
		t.Errorf("%v", w)
	}
}
