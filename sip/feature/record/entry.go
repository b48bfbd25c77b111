package record

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"ringfence/media"
)

// Entry is one recording.
type Entry struct {
	ID        string    `json:"id"`
	Line      string    `json:"line"` // whose call it is; the left channel
	Name      string    `json:"name,omitempty"`
	Device    string    `json:"device,omitempty"`
	Party     string    `json:"party,omitempty"` // the other one when it began; the right channel
	PartyName string    `json:"party_name,omitempty"`
	Incoming  bool      `json:"incoming"` // the other one has called
	Call      string    `json:"call"`
	At        time.Time `json:"at"`
	Seconds   float64   `json:"seconds"`
	Lost      float64   `json:"lost_seconds,omitempty"` // of it, for which the disk was too slow
	By        string    `json:"by,omitempty"`           // phone or appliance
	Auto      bool      `json:"automatic,omitempty"`
	File      string    `json:"file,omitempty"` // below the folder of recordings; its name is the SHA-256 of its content
	Pending   bool      `json:"pending,omitempty"`
}

// Prefix of the entries' keys.
const Prefix = "recording/"

const storeWithin = 5 * time.Second

func (r *Recordings) folder(e Entry) string { return filepath.Join(r.o.Dir, e.ID) }

// nameLocked makes a name that sorts by time.
func (r *Recordings) nameLocked() string {
	r.last = max(time.Now().UnixMilli(), r.last+1)
	return strconv.FormatInt(r.last, 36)
}

func (r *Recordings) write(ctx context.Context, set map[string][]byte, del ...string) error {
	ctx, cancel := context.WithTimeout(ctx, storeWithin)
	defer cancel()
	return r.o.Store.Write(ctx, set, del...)
}

// begin writes the entry of a recording that is about to be made, and makes its folder.
func (r *Recordings) begin(ctx context.Context, e Entry) error {
	if err := os.MkdirAll(r.folder(e), 0o700); err != nil {
		return err
	}
	return r.put(ctx, e)
}

// put writes an entry, and then makes it count.
func (r *Recordings) put(ctx context.Context, e Entry) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := r.write(ctx, map[string][]byte{Prefix + e.ID: b}); err != nil {
		return fmt.Errorf("keep recording: %w", err)
	}
	r.update(e)
	return nil
}

// update changes the entry that is listed.
func (r *Recordings) update(e Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.IndexFunc(r.list, func(x Entry) bool { return x.ID == e.ID }); i >= 0 {
		r.list[i] = e
	} else {
		r.list = append(r.list, e)
	}
}

// finish ends a recording: it is kept, or, if nothing came, forgotten.
func (r *Recordings) finish(ctx context.Context, e Entry, rec media.Recording) {
	if rec.File == "" {
		r.drop(e)
		return
	}
	e.Pending, e.Seconds, e.Lost = false, rec.Length.Seconds(), rec.Lost.Seconds()
	e.File = filepath.Join(e.ID, filepath.Base(rec.File))
	if err := r.put(ctx, e); err != nil {
		r.log.Error("recording", "line", e.Line, "err", err) // the next start finds the file
		return
	}
	r.log.Info("recording is kept", "line", e.Line, "call", e.Call, "took", rec.Length)
}

// drop forgets a recording that has come to nothing.
func (r *Recordings) drop(e Entry) {
	if err := r.remove(context.Background(), e); err != nil {
		r.log.Error("recording", "line", e.Line, "err", err)
	}
}

func (r *Recordings) remove(ctx context.Context, e Entry) error {
	// The entry goes first: a folder that stays after a crash is found at the next start.
	if err := r.write(ctx, nil, Prefix+e.ID); err != nil {
		return err
	}
	r.mu.Lock()
	r.list = slices.DeleteFunc(r.list, func(x Entry) bool { return x.ID == e.ID })
	r.mu.Unlock()
	return os.RemoveAll(r.folder(e))
}

// load reads the entries, ends those that a crash has left open, and removes folders that are nobody's.
func (r *Recordings) load(ctx context.Context) {
	known := map[string]bool{}
	r.o.Store.Scan(Prefix, func(_ string, value []byte) bool {
		var e Entry
		if json.Unmarshal(value, &e) == nil && e.ID != "" && filepath.Base(e.ID) == e.ID {
			r.list = append(r.list, e)
			known[e.ID] = true
		}
		return true
	})
	for _, e := range slices.Clone(r.list) {
		if !e.Pending {
			continue
		}
		found, err := media.Recover(r.folder(e))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			r.log.Error("recording", "line", e.Line, "err", err)
		}
		rec := r.whole(e)
		if len(found) > 0 {
			rec = found[0]
		}
		r.log.Info("recording was cut when the appliance stopped", "line", e.Line, "took", rec.Length)
		r.finish(ctx, e, rec)
	}
	folders, _ := os.ReadDir(r.o.Dir)
	for _, f := range folders {
		if !known[f.Name()] && f.IsDir() {
			_ = os.RemoveAll(filepath.Join(r.o.Dir, f.Name()))
		}
	}
}

// whole finds a file that was complete before its entry was.
func (r *Recordings) whole(e Entry) (rec media.Recording) {
	files, _ := filepath.Glob(filepath.Join(r.folder(e), "*.wav"))
	if len(files) == 0 {
		return rec
	}
	info, err := os.Stat(files[0])
	if err != nil {
		return rec
	}
	const head, second = 44, 16000 * 2 * 2
	return media.Recording{File: files[0], Length: time.Duration(max(0, info.Size()-head)) * time.Second / second}
}

// purge deletes what is too old.
func (r *Recordings) purge(ctx context.Context) {
	days := r.o.Policy().KeepDays
	if days <= 0 {
		return
	}
	before := time.Now().AddDate(0, 0, -days)
	for _, e := range r.List("") {
		if e.Pending || !e.At.Before(before) {
			continue
		}
		if err := r.remove(ctx, e); err != nil {
			r.log.Error("old recording", "err", err)
			return
		}
		r.log.Info("old recording deleted", "line", e.Line)
	}
}

// List returns the recordings of a line, or all, the oldest first.
func (r *Recordings) List(line string) []Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Entry
	for _, e := range r.list {
		if line == "" || e.Line == line || e.Party == line {
			out = append(out, e)
		}
	}
	return out
}

// Find returns one recording.
func (r *Recordings) Find(id string) (Entry, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.IndexFunc(r.list, func(e Entry) bool { return e.ID == id }); i >= 0 {
		return r.list[i], true
	}
	return Entry{}, false
}

// ErrRunning refuses what cannot be done to a recording that is being made.
var ErrRunning = errors.New("the recording is being made")

// Delete removes one.
func (r *Recordings) Delete(ctx context.Context, id string) error {
	e, ok := r.Find(id)
	switch {
	case !ok:
		return os.ErrNotExist
	case e.Pending:
		return ErrRunning
	}
	return r.remove(ctx, e)
}

// FileName is what a copy of the recording may be called: time, line, party.
func (e Entry) FileName() string {
	clean := func(s string) string {
		return strings.Map(func(c rune) rune {
			if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '+' {
				return c
			}
			return '_'
		}, s)
	}
	way := "to"
	if e.Incoming {
		way = "from"
	}
	party := e.Party
	if party == "" {
		party = e.PartyName
	}
	return e.At.Format("20060102-150405") + "_" + clean(e.Line) + "_" + way + "_" + clean(party) + "_" + e.ID + ".wav"
}

// Export writes the file of a recording to another place, or into a folder, and returns where.
func (r *Recordings) Export(id, to string) (name string, size int64, err error) {
	e, ok := r.Find(id)
	switch {
	case !ok:
		return "", 0, os.ErrNotExist
	case e.Pending || e.File == "":
		return "", 0, ErrRunning
	}
	if info, err := os.Stat(to); err == nil && info.IsDir() {
		to = filepath.Join(to, e.FileName())
	}
	from, err := os.Open(filepath.Join(r.o.Dir, e.File))
	if err != nil {
		return "", 0, err
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", 0, err
	}
	size, err = io.Copy(f, from)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(to)
	}
	return to, size, err
}
