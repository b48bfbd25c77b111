package phone

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/appliance/store"
)

const sep = "SEP001122AA0001"

// brief is a record without its times.
func brief(record []Entry) (out []string) {
	for _, e := range record {
		line := fmt.Sprintf("%s %s", e.Step, e.Text)
		if e.Failed {
			line += " FAILED"
		}
		if e.Count > 1 {
			line += fmt.Sprintf(" ×%d every %v", e.Count, e.Every())
		}
		out = append(out, line)
	}
	return out
}

func TestRepeatsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRecorder(Options{Local: memory{}})
		for range 4 {
			r.Note(sep, "trust", "ITLFile.tlv, 200", false)
			r.Note(sep, "file", "SEP001122AA0001.cnf.xml.sgn, 200", false)
			time.Sleep(15 * time.Second)
		}
		r.Note(sep, "file", "SEP001122AA0001.cnf.xml.sgn, 200", true) // another outcome is another entry
		time.Sleep(together + time.Second)
		r.Note(sep, "file", "SEP001122AA0001.cnf.xml.sgn, 200", false) // too late to be the same boot
		r.Note(sep, "register", "registered over TLS", false)
		r.Note(sep, "register", "registered over TLS", false)
		r.Note(sep, "file", "SEP001122AA0001.cnf.xml.sgn, 200", false) // after a registration a new boot begins
		want := []string{
			"trust ITLFile.tlv, 200 ×4 every 15s",
			"file SEP001122AA0001.cnf.xml.sgn, 200 ×4 every 15s",
			"file SEP001122AA0001.cnf.xml.sgn, 200 FAILED",
			"file SEP001122AA0001.cnf.xml.sgn, 200",
			"register registered over TLS ×2 every 0s",
			"file SEP001122AA0001.cnf.xml.sgn, 200",
		}
		if d := cmp.Diff(want, brief(r.Record(sep))); d != "" {
			t.Errorf("record (-want +got):\n%s", d)
		}
	})
}

func TestRecordIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memory{}
		r := NewRecorder(Options{Local: mem})
		for i := range maxEntries + 50 {
			r.Note(sep, "file", fmt.Sprintf("file-%d.xml", i), false)
			time.Sleep(time.Second)
		}
		record := r.Record(sep)
		if len(record) != maxEntries || record[0].Text != "file-50.xml" {
			t.Errorf("%d entries from %s, want the newest %d", len(record), record[0].Text, maxEntries)
		}
		if got := len(mem[bucketEntries]); got != maxEntries {
			t.Errorf("%d entries stored", got)
		}
	})
}

func TestRecordSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	var before []string
	for range 2 {
		l, err := store.OpenLocal(store.LocalOptions{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		r := NewRecorder(Options{Local: l})
		if d := cmp.Diff(before, brief(r.Record(sep))); d != "" {
			t.Errorf("after restart (-want +got):\n%s", d)
		}
		r.Note(sep, "trust", "ITLFile.tlv, 200", false)
		r.Note(sep, "capf", "refused: wrong code", true)
		record := r.Record(sep)
		for i := range record {
			record[i].Last = record[i].First // so that the text has no real time in it
		}
		before = brief(record)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(before) != 2 || !strings.Contains(before[0], "×2") {
		t.Errorf("the second run began a new record: %v", before)
	}
	mem := memory{bucketDevices: {sep: []byte("not JSON"), "odd": []byte("{}")}}
	if r := NewRecorder(Options{Local: mem}); len(r.Devices()) != 0 || len(mem[bucketDevices]) != 0 {
		t.Errorf("unreadable index kept: %v", r.Devices())
	}
}

// Enumerating names costs the enumerator's own entries, not the record of a phone that waits to be declared.
func TestUnknownDevicesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memory{}
		declared := map[string]bool{sep: true}
		r := NewRecorder(Options{Local: mem, Facts: func(d string) Facts { return Facts{Declared: declared[d]} }})
		waiting := "SEP00AABBCCDD01"
		for i := range 70 {
			r.Note(waiting, "file", fmt.Sprintf("%s.cnf.xml try %d", waiting, i), true)
			r.Note(sep, "file", "SEP001122AA0001.cnf.xml", false)
			time.Sleep(time.Second)
		}
		for i := range 5 * maxUnknown {
			r.Note(fmt.Sprintf("SEP%012X", i), "file", "guess", true)
			time.Sleep(time.Millisecond)
		}
		r.Note("SEPnot-a-name", "file", "x", true)
		r.Note("../../etc/passwd", "file", "x", true)
		if got := len(r.Devices()); got != maxUnknown+1 {
			t.Errorf("%d devices, want %d unknown and one declared", got, maxUnknown)
		}
		if got := len(r.Record(waiting)); got != maxUnknownEntries {
			t.Errorf("the waiting phone has %d entries, want %d", got, maxUnknownEntries)
		}
		if got := len(mem[bucketEntries]); got != maxUnknown-1+maxUnknownEntries+1 {
			t.Errorf("%d entries stored: what was dropped is still there", got)
		}
		if r.Record(fmt.Sprintf("SEP%012X", 5*maxUnknown-1)) == nil {
			t.Error("the newest guess was not recorded at all")
		}
		declared[waiting] = true
		r.Note(waiting, "trust", "ITLFile.tlv", false)
		for i := range maxUnknownEntries {
			r.Note(waiting, "file", fmt.Sprint("more ", i), false)
		}
		if got := len(r.Record(waiting)); got != 2*maxUnknownEntries+1 {
			t.Errorf("a phone that was declared keeps %d entries, want %d", got, 2*maxUnknownEntries+1)
		}
		// After a restart with fewer declared the bound holds as well.
		clear(declared)
		if got := len(NewRecorder(Options{Local: mem, Facts: func(string) Facts { return Facts{} }}).Devices()); got != maxUnknown {
			t.Errorf("%d devices after a restart, want %d", got, maxUnknown)
		}
	})
}

func TestTextsAreMadeSafe(t *testing.T) {
	r := NewRecorder(Options{Local: memory{}})
	r.Note(sep, "file", "GET \x1b[2J\xff"+strings.Repeat("ä", 300), false)
	r.Note(sep, "strange step", "x", false)
	got := r.Record(sep)
	if text := got[0].Text; !strings.HasPrefix(text, "GET ?[2J?ää") || len(text) > maxText+len("…") || !strings.HasSuffix(text, "ä…") {
		t.Errorf("text %q of %d bytes", text, len(text))
	}
	if got[1].Step != SIP {
		t.Errorf("step %q", got[1].Step)
	}
}

func TestConcurrentNotes(t *testing.T) {
	r := NewRecorder(Options{Local: memory{}})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 100 {
				r.Note(fmt.Sprintf("SEP%012X", j%10), "file", fmt.Sprint("file ", i), false)
				r.Record(sep)
				r.Stand(sep)
				r.Devices()
			}
		})
	}
	wg.Wait()
	total := 0
	for _, d := range r.Devices() {
		for _, e := range r.Record(d.Device) {
			total += e.Count
		}
	}
	if total != 800 {
		t.Errorf("%d notes counted of 800", total)
	}
}

func BenchmarkNote(b *testing.B) {
	l, err := store.OpenLocal(store.LocalOptions{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	r := NewRecorder(Options{Local: l})
	for i := 0; b.Loop(); i++ {
		r.Note(fmt.Sprintf("SEP%012X", i%500), "file", fmt.Sprint("file ", i/500%15), false)
	}
}

func BenchmarkStand(b *testing.B) {
	l, err := store.OpenLocal(store.LocalOptions{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	r := NewRecorder(Options{Local: l})
	const phones = 2000
	for i := range phones {
		for j := range 20 {
			r.Note(fmt.Sprintf("SEP%012X", i), "file", fmt.Sprintf("asked for dial-%d.xml over http, got its dial template", j), false)
		}
	}
	_ = l.Flush()
	for i := 0; b.Loop(); i++ {
		r.Stand(fmt.Sprintf("SEP%012X", i%phones))
	}
}
