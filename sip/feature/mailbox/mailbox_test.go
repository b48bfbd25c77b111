package mailbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/media"
)

// lamps remembers what mailboxes were reported to hold.
type lamps struct {
	mu sync.Mutex
	at map[string]string
}

func (l *lamps) set(box string, unheard, heard int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at[box] = fmt.Sprintf("%d/%d", unheard, heard)
}

func (l *lamps) of(box string) string { l.mu.Lock(); defer l.mu.Unlock(); return l.at[box] }

func boxes(t *testing.T, dir string, s Store) (*Boxes, *lamps) {
	t.Helper()
	l := &lamps{at: map[string]string{}}
	b, err := New(t.Context(), Options{Dir: filepath.Join(dir, "voicemail"), Store: s, Messages: l.set})
	if err != nil {
		t.Fatal(err)
	}
	return b, l
}

// memory is a Store.
type memory map[string][]byte

func (m memory) Get(key string) ([]byte, bool) { v, ok := m[key]; return v, ok }

func (m memory) Scan(prefix string, fn func(string, []byte) bool) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if strings.HasPrefix(k, prefix) && !fn(k, m[k]) {
			return
		}
	}
}

func (m memory) Write(_ context.Context, set map[string][]byte, del ...string) error {
	maps.Copy(m, set)
	for _, k := range del {
		delete(m, k)
	}
	return nil
}

// sound writes a recording as the recorder leaves it: two channels of 16 kHz, the second silent.
func sound(t *testing.T, dir, name string, d time.Duration) media.Recording {
	t.Helper()
	frames := int(d * rate / time.Second)
	b := []byte("RIFF\x00\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x02\x00\x80>\x00\x00\x00\xfa\x00\x00\x04\x00\x10\x00data")
	b = binary.LittleEndian.AppendUint32(b, uint32(4*frames))
	for range frames {
		b = append(b, 0x10, 0x27, 0, 0) // 10000 and silence
	}
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-8))
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return media.Recording{File: file, Length: d}
}

func TestMessages(t *testing.T) {
	dir := t.TempDir()
	s := memory{}
	b, l := boxes(t, dir, s)
	ctx := t.Context()
	m, err := b.begin(ctx, "302", "301", "Ada")
	if err != nil {
		t.Fatal(err)
	}
	if len(b.List("302")) != 0 || l.of("302") != "0/0" {
		t.Errorf("a message that is being recorded counts: %s", l.of("302"))
	}
	b.finish(ctx, m, sound(t, b.folder(m), "a.wav", 3*time.Second))
	list := b.List("302")
	if len(list) != 1 || list[0].From != "301" || list[0].Seconds != 3 || l.of("302") != "1/0" {
		t.Fatalf("%+v, lamp %s", list, l.of("302"))
	}
	samples, err := readWAV(b.File(list[0]))
	if err != nil || len(samples) != 3*rate || samples[100] < 9990 || samples[100] > 10010 {
		t.Errorf("%d samples of %v, %v", len(samples), samples[100:101], err)
	}
	list[0].Heard = true
	if err := b.put(ctx, list[0]); err != nil || l.of("302") != "0/1" {
		t.Errorf("%v, lamp %s", err, l.of("302"))
	}
	// Nothing said.
	if m, err = b.begin(ctx, "302", "", ""); err != nil {
		t.Fatal(err)
	}
	b.finish(ctx, m, sound(t, b.folder(m), "b.wav", 400*time.Millisecond))
	if _, err := os.Stat(b.folder(m)); len(b.List("302")) != 1 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%d messages, folder %v", len(b.List("302")), err)
	}
	// It is all there after a start, and gone after a deletion.
	b, l = boxes(t, dir, s)
	if l.of("302") != "0/1" || len(b.Numbers()) != 1 {
		t.Errorf("lamp %s, boxes %v", l.of("302"), b.Numbers())
	}
	list = b.List("302")
	if err := b.Delete(ctx, "302", list[0].ID); err != nil || l.of("302") != "0/0" {
		t.Errorf("%v, lamp %s", err, l.of("302"))
	}
	if _, err := os.Stat(b.File(list[0])); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file stays: %v", err)
	}
}

// TestCrash: whatever the moment of a crash, a message is kept or was not one, and nothing stays pending.
func TestCrash(t *testing.T) {
	for _, tc := range []struct {
		name, file string
		length     time.Duration
		want       string
	}{
		{"before anything was said", "", 0, "0/0"},
		{"while it is recorded", "0011223344556677.part", 2 * time.Second, "1/0"},
		{"at once", "0011223344556677.part", 100 * time.Millisecond, "0/0"},
		{"between file and entry", "whole.wav", 2 * time.Second, "1/0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			s := memory{}
			b, _ := boxes(t, dir, s)
			m, err := b.begin(t.Context(), "302", "301", "Ada")
			if err != nil {
				t.Fatal(err)
			}
			if tc.file != "" {
				sound(t, b.folder(m), tc.file, tc.length)
			}
			b, l := boxes(t, dir, s)
			if got := l.of("302"); got != tc.want {
				t.Errorf("lamp %s, want %s", got, tc.want)
			}
			for _, m := range b.List("302") {
				if _, err := readWAV(b.File(m)); err != nil || m.From != "301" || m.Pending {
					t.Errorf("%+v %v", m, err)
				}
			}
			again, l := boxes(t, dir, s)
			if got := l.of("302"); got != tc.want && got+tc.want != "0/0" || len(again.List("302")) != len(b.List("302")) {
				t.Errorf("after another start: lamp %s", got)
			}
		})
	}
}

func TestGreetings(t *testing.T) {
	dir := t.TempDir()
	s := memory{}
	b, _ := boxes(t, dir, s)
	ctx := t.Context()
	away, engaged := b.greeting("302", false), b.greeting("302", true)
	if len(away) == 0 || len(away) != len(engaged) || slices.Equal(away, engaged) {
		t.Error("the chimes do not differ")
	}
	at := filepath.Join(b.o.Dir, "302")
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := b.setGreeting(ctx, "302", busy, sound(t, at, "busy.wav", 2*time.Second)); err != nil {
		t.Fatal(err)
	}
	if got := b.greeting("302", true); len(got) != 2*rate {
		t.Errorf("%d samples", len(got))
	}
	if got := b.greeting("302", false); len(got) != len(away) {
		t.Error("the greeting for busy is played for away")
	}
	// "dialplan" §3 rule 2: a temporary greeting beats both.
	if err := b.setGreeting(ctx, "302", temporary, sound(t, at, "temp.wav", 4*time.Second)); err != nil {
		t.Fatal(err)
	}
	for _, isBusy := range []bool{true, false} {
		if got := b.greeting("302", isBusy); len(got) != 4*rate {
			t.Errorf("%d samples", len(got))
		}
	}
	if err := b.setGreeting(ctx, "302", temporary, media.Recording{}); err != nil {
		t.Fatal(err)
	}
	if got := b.greeting("302", true); len(got) != 2*rate {
		t.Errorf("%d samples after the temporary one has gone", len(got))
	}
}

// full is a store that takes nothing.
type full struct{ Store }

func (full) Write(context.Context, map[string][]byte, ...string) error {
	return errors.New("disk full")
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	b, l := boxes(t, dir, full{memory{}})
	if _, err := b.begin(t.Context(), "302", "301", "Ada"); err == nil {
		t.Error("a message begins that cannot be kept")
	}
	if l.of("302") != "" {
		t.Error("a lamp was lit")
	}
}

func TestNamesAreNoPaths(t *testing.T) {
	for in, want := range map[string]string{"302": "302", "../etc": "___etc", "*8#": "s8h", "+4930": "p4930", "a/b": "a_b"} {
		if got := safe(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
