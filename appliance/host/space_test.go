package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestSpace fills a disk of 1 GiB and empties it again.
func TestSpace(t *testing.T) {
	const mib = 1 << 20
	free := uint64(500 * mib)
	var gone []string
	items := map[string][]string{"recordings": {"r1", "r2"}, "messages": {"m1"}}
	var fault error
	shelf := func(name string) Shelf {
		return Shelf{Name: name, Oldest: func() (string, time.Time, func(context.Context) error, bool) {
			if len(items[name]) == 0 {
				return "", time.Time{}, nil, false
			}
			x := items[name][0]
			return x, time.Now(), func(context.Context) error {
				if fault != nil {
					return fault
				}
				items[name] = items[name][1:]
				gone = append(gone, x)
				free += 10 * mib
				return nil
			}, true
		}}
	}
	dir := t.TempDir()
	s := NewSpace(SpaceOptions{Dir: dir, Shelves: []Shelf{shelf("recordings"), shelf("messages")}, Free: func() (uint64, uint64) { return 1024 * mib, free }})
	reserve := func() bool {
		st, err := os.Stat(filepath.Join(dir, Reserve))
		return err == nil && st.Size() == reserveSize
	}
	s.Round(bg)
	if s.Room() != nil || len(s.Warnings()) != 0 || !reserve() || !s.View().Reserve {
		t.Errorf("with room: %v %v, reserve %v", s.Room(), s.Warnings(), reserve())
	}
	free = 45 * mib // below a twentieth: the oldest goes until that is free again
	s.Round(bg)
	if !slices.Equal(gone, []string{"r1"}) || s.Room() != nil || len(s.Warnings()) != 1 {
		t.Errorf("gone %v, %v, %v", gone, s.Room(), s.Warnings())
	}
	free = 5 * mib
	s.Round(bg)
	if !slices.Equal(gone, []string{"r1", "r2", "m1"}) {
		t.Errorf("gone %v: recordings before messages", gone)
	}
	if !errors.Is(s.Room(), ErrFull) || !strings.Contains(strings.Join(s.Warnings(), "\n"), "almost full") {
		t.Errorf("recorded with %d MiB: %v", free/mib, s.Warnings())
	}
	free = 3 * mib
	s.Round(bg)
	if reserve() || s.View().Reserve {
		t.Error("the reserve was kept from the database")
	}
	free = 400 * mib
	s.Round(bg)
	if s.Room() != nil || !reserve() {
		t.Errorf("room again: %v, reserve %v", s.Room(), reserve())
	}
	items["recordings"], fault, free = []string{"r9"}, fmt.Errorf("a fault"), 30*mib
	s.Round(bg)
	if w := strings.Join(s.Warnings(), "\n"); !strings.Contains(w, "remove r9: a fault") {
		t.Errorf("%q", w)
	}
}
