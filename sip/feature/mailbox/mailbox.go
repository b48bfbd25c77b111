// Package mailbox takes messages for lines and groups, and plays them ("dialplan" §1 rows 6 to 8, §3 rules 1 and 2).
//
//	deposit:   greeting --over, or any key--> beep --> recording --# , hangs up, too long--> kept
//	retrieval: [PIN #] --> message --over--> waits for a key --> ...
//
// A message is a WAV file of the recorder's in a folder of its own, and an entry in the store. The entry is made, as pending,
// before the recording begins: a crash leaves a file that the next start makes whole and an entry that says whose it is. The lamp
// of a line follows its entries.
//
// There are no spoken prompts: whoever has recorded no greeting is announced by a chime, falling for busy and rising for away, and
// the phone's display says what the keys do.
//
// It leaves out: mail, a web player, forwarding of messages, callers who log in from elsewhere.
package mailbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ringfence/media"
)

// Store keeps what may not be lost; *store.Store is one.
type Store interface {
	Get(key string) ([]byte, bool)
	Scan(prefix string, fn func(key string, value []byte) bool)
	Write(ctx context.Context, set map[string][]byte, del ...string) error
}

// Options of Boxes.
type Options struct {
	Dir   string // of the recordings; made if it is not there
	Store Store
	// Messages reports the contents of a mailbox, for its lamp.
	Messages func(number string, unheard, heard int)
	// PIN of the owner of a line; "" is none. May be nil.
	PIN func(line string) string
	// Room tells whether something may be recorded. May be nil.
	Room func() error
	Log  *slog.Logger

	MaxLength   time.Duration // of a message; 3 minutes
	MaxMessages int           // of a mailbox; 100
}

// Message is an entry of a mailbox.
type Message struct {
	ID      string    `json:"id"`
	Box     string    `json:"box"`
	From    string    `json:"from,omitempty"`
	Name    string    `json:"name,omitempty"`
	At      time.Time `json:"at"`
	Seconds float64   `json:"seconds"`
	File    string    `json:"file,omitempty"` // below Dir
	Heard   bool      `json:"heard,omitempty"`
	Pending bool      `json:"pending,omitempty"` // is being recorded
}

// Boxes are all mailboxes.
type Boxes struct {
	o   Options
	log *slog.Logger

	mu   sync.Mutex
	list map[string][]Message // by mailbox, the oldest first
	last int64                // of names given out
}

const (
	shortest  = time.Second // what is shorter is no message
	writeTime = 5 * time.Second
)

func messageKey(box, id string) string    { return "vm/" + box + "/" + id }
func greetingKey(box, kind string) string { return "vm-greeting/" + box + "/" + kind }

// New opens the mailboxes and makes whole what a crash has left.
func New(ctx context.Context, o Options) (*Boxes, error) {
	if o.Dir == "" || o.Store == nil || o.Messages == nil {
		return nil, errors.New("mailbox: Dir, Store and Messages are required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxLength <= 0 {
		o.MaxLength = 3 * time.Minute
	}
	if o.MaxMessages <= 0 {
		o.MaxMessages = 100
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("mailbox: %w", err)
	}
	b := &Boxes{o: o, log: o.Log.With("component", "mailbox"), list: map[string][]Message{}}
	o.Store.Scan("vm/", func(_ string, value []byte) bool {
		var m Message
		if json.Unmarshal(value, &m) == nil {
			b.list[m.Box] = append(b.list[m.Box], m)
		}
		return true
	})
	for box, list := range b.list {
		for _, m := range slices.Clone(list) {
			if m.Pending {
				b.recover(ctx, m)
			}
		}
		b.report(box)
	}
	return b, nil
}

// recover makes a message of what was recorded when the appliance stopped, or forgets it.
func (b *Boxes) recover(ctx context.Context, m Message) {
	found, err := media.Recover(b.folder(m))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.log.Error("recording", "line", m.Box, "err", err)
	}
	if len(found) == 0 {
		found = b.whole(m)
	}
	var rec media.Recording
	if len(found) > 0 {
		rec = found[0]
	}
	b.finish(ctx, m, rec)
	b.log.Info("message was cut when the appliance stopped", "line", m.Box, "took", rec.Length)
}

// whole finds a recording that was complete before its entry was.
func (b *Boxes) whole(m Message) []media.Recording {
	files, _ := filepath.Glob(filepath.Join(b.folder(m), "*.wav"))
	if len(files) == 0 {
		return nil
	}
	samples, err := readWAV(files[0])
	if err != nil {
		return nil
	}
	return []media.Recording{{File: files[0], Length: time.Duration(len(samples)) * time.Second / 16000}}
}

func (b *Boxes) folder(m Message) string { return filepath.Join(b.o.Dir, safe(m.Box), safe(m.ID)) }

// safe keeps a number from being a path.
func safe(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '-':
			return r
		case r == '*':
			return 's'
		case r == '#':
			return 'h'
		case r == '+':
			return 'p'
		}
		return '_'
	}, s)
}

func (b *Boxes) write(ctx context.Context, set map[string][]byte, del ...string) error {
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	return b.o.Store.Write(ctx, set, del...)
}

// begin makes the entry of a message that is about to be recorded, and its folder.
func (b *Boxes) begin(ctx context.Context, box, from, name string) (Message, error) {
	b.mu.Lock()
	now := time.Now().UTC()
	id := max(now.UnixMilli(), b.last+1)
	b.last = id
	b.mu.Unlock()
	m := Message{ID: strconv.FormatInt(id, 36), Box: box, From: from, Name: name, At: now, Pending: true}
	if err := os.MkdirAll(b.folder(m), 0o700); err != nil {
		return m, err
	}
	return m, b.put(ctx, m)
}

// put writes an entry, and then makes it count.
func (b *Boxes) put(ctx context.Context, m Message) error {
	value, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := b.write(ctx, map[string][]byte{messageKey(m.Box, m.ID): value}); err != nil {
		return fmt.Errorf("keep message: %w", err)
	}
	b.mu.Lock()
	list := b.list[m.Box]
	if i := slices.IndexFunc(list, func(x Message) bool { return x.ID == m.ID }); i >= 0 {
		list = slices.Clone(list)
		list[i] = m
	} else {
		list = append(slices.Clip(list), m)
	}
	b.list[m.Box] = list
	b.mu.Unlock()
	b.report(m.Box)
	return nil
}

// finish ends a message: it is kept, or, if nothing was said, forgotten.
func (b *Boxes) finish(ctx context.Context, m Message, rec media.Recording) {
	if rec.File == "" || rec.Length < shortest {
		if err := b.Delete(ctx, m.Box, m.ID); err != nil {
			b.log.Error("empty message", "line", m.Box, "err", err)
		}
		return
	}
	m.Pending, m.Seconds = false, rec.Length.Seconds()
	m.File = filepath.Join(safe(m.Box), safe(m.ID), filepath.Base(rec.File))
	if err := b.put(ctx, m); err != nil {
		b.log.Error("message", "line", m.Box, "err", err)
		return
	}
	b.log.Info("message left", "line", m.Box, "took", rec.Length)
}

// Oldest is the heard message that was left first. ok is false when there is none.
func (b *Boxes) Oldest() (m Message, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, list := range b.list {
		for _, x := range list {
			if x.Heard && !x.Pending && (!ok || x.At.Before(m.At)) {
				m, ok = x, true
			}
		}
	}
	return m, ok
}

// Delete removes a message.
func (b *Boxes) Delete(ctx context.Context, box, id string) error {
	if err := b.write(ctx, nil, messageKey(box, id)); err != nil {
		return err
	}
	b.mu.Lock()
	b.list[box] = slices.DeleteFunc(slices.Clone(b.list[box]), func(m Message) bool { return m.ID == id })
	b.mu.Unlock()
	b.report(box)
	// The entry has gone first: a folder that stays after a crash is only room on the disk.
	return os.RemoveAll(b.folder(Message{Box: box, ID: id}))
}

// List returns the messages of a mailbox, the oldest first, without those that are being recorded.
func (b *Boxes) List(box string) []Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(b.list[box]), func(m Message) bool { return m.Pending })
}

// Numbers are the mailboxes that have messages.
func (b *Boxes) Numbers() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for box, list := range b.list {
		if len(list) > 0 {
			out = append(out, box)
		}
	}
	slices.Sort(out)
	return out
}

// File is where the sound of a message is.
func (b *Boxes) File(m Message) string { return filepath.Join(b.o.Dir, m.File) }

// report shows how full a mailbox is.
func (b *Boxes) report(box string) {
	unheard, heard := 0, 0
	for _, m := range b.List(box) {
		if m.Heard {
			heard++
		} else {
			unheard++
		}
	}
	b.o.Messages(box, unheard, heard)
}

// Kinds of greetings. The temporary one beats the others.
const (
	unavailable = "unavailable"
	busy        = "busy"
	temporary   = "temporary"
)

// greeting is what callers hear first.
func (b *Boxes) greeting(box string, isBusy bool) []int16 {
	kind := unavailable
	if isBusy {
		kind = busy
	}
	for _, k := range []string{temporary, kind} {
		name, ok := b.o.Store.Get(greetingKey(box, k))
		if !ok {
			continue
		}
		samples, err := readWAV(filepath.Join(b.o.Dir, string(name)))
		if err == nil {
			return samples
		}
		b.log.Error("greeting", "line", box, "err", err)
	}
	if isBusy {
		return chime(880, 660, 440)
	}
	return chime(440, 660, 880)
}

// setGreeting keeps a recording as a greeting; one without a file ends it.
func (b *Boxes) setGreeting(ctx context.Context, box, kind string, rec media.Recording) error {
	if rec.File == "" || rec.Length < shortest {
		return b.write(ctx, nil, greetingKey(box, kind))
	}
	name, err := filepath.Rel(b.o.Dir, rec.File)
	if err != nil {
		return err
	}
	return b.write(ctx, map[string][]byte{greetingKey(box, kind): []byte(name)})
}

// readWAV reads a recording. The recorder keeps a second channel for another party, which is silent here: what is mixed from both
// has half its loudness, which is made up for.
func readWAV(name string) ([]int16, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	samples, err := media.ReadWAV(f)
	if err != nil {
		return nil, err
	}
	for i, s := range samples {
		samples[i] = int16(min(max(2*int(s), -32768), 32767))
	}
	return samples, nil
}
