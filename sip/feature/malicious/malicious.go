// Package malicious is the key MCID ("sip-calls" §16): the call is traced in a record that holds the caller's number even if it
// was withheld, and the user is told that it was. One record per call, however often the key is pressed.
//
// It leaves out: passing the wish on to a trunk.
package malicious

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"ringfence/sip/call"
	"ringfence/sip/cisco"
	"ringfence/sip/feature/internal/bounded"
)

// Store is where records are kept.
type Store interface {
	Write(ctx context.Context, set map[string][]byte, del ...string) error
	Scan(prefix string, fn func(key string, value []byte) bool)
}

// Record is what is known about a call of that kind.
type Record struct {
	Time     time.Time `json:"time"`
	Line     string    `json:"line"` // that complains
	Device   string    `json:"device,omitempty"`
	Party    string    `json:"party"` // the other one, as it is, not as it wants to be shown
	Name     string    `json:"name,omitempty"`
	Withheld bool      `json:"withheld,omitempty"`
	Incoming bool      `json:"incoming"` // the other one has called
	Call     string    `json:"call"`
	CallIDs  []string  `json:"call_ids"` // of both legs
}

// Prefix of the records' keys.
const Prefix = "mcid/"

// Traces writes the records.
type Traces struct {
	store Store
	refer func(call, text string)
	log   *slog.Logger

	mu     sync.Mutex
	traced map[*call.Leg]bool
}

// New returns the holder of records. refer, if not nil, notes in the record of a call that there is one about it.
func New(s Store, refer func(call, text string), log *slog.Logger) *Traces {
	return &Traces{store: s, refer: refer, log: log.With("component", "malicious call"), traced: map[*call.Leg]bool{}}
}

// Down forgets a leg that is over.
func (t *Traces) Down(l *call.Leg) {
	t.mu.Lock()
	delete(t.traced, l)
	t.mu.Unlock()
}

// storeWithin bounds writing a record.
const storeWithin = 5 * time.Second

// Key is the entry for call.Options.Keys.
func (t *Traces) Key(c *call.Call, l *call.Leg, k *call.Key) {
	other := c.Other(l)
	if other == nil {
		t.told(l, k, false)
		return
	}
	t.mu.Lock()
	again := t.traced[l]
	t.traced[l] = true
	t.mu.Unlock()
	if again {
		t.told(l, k, true)
		return
	}
	r := Record{
		Time: time.Now().UTC(), Line: l.Line.Number, Device: l.Device, Party: other.Line.Number, Name: other.Line.Name,
		Withheld: other.Withheld(), Incoming: other.Incoming, Call: c.ID(), CallIDs: []string{l.DialogID().CallID, other.DialogID().CallID},
	}
	b, err := json.Marshal(r)
	if err != nil || t.store == nil {
		t.told(l, k, false)
		return
	}
	key := Prefix + r.Time.Format("20060102T150405.000000000") + "-" + l.ID
	l.Manager().Go("malicious call", func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, storeWithin)
		defer cancel()
		err := t.store.Write(ctx, map[string][]byte{key: b}, bounded.Surplus(t.store, Prefix, bounded.Max)...)
		if err != nil {
			t.log.Error("record", "line", r.Line, "err", err)
		} else {
			if t.refer != nil {
				t.refer(r.Call, "malicious call, reported by "+r.Line)
			}
			t.log.Info("malicious call", "line", r.Line, "phone", r.Device, "party", r.Party, "call", r.Call)
		}
		if !l.Do(func() { t.told(l, k, err == nil) }) {
			k.Done(200)
		}
	})
}

// told confirms a record, or says that there is none.
func (t *Traces) told(l *call.Leg, k *call.Key, written bool) {
	if !written {
		k.Done(500)
		l.Push(nil, cisco.Request{StatusLine: &cisco.StatusLine{Dialog: k.Dialog(), Text: cisco.Phrase('-'), Seconds: 10, Priority: 1}})
		return
	}
	k.Done(200)
	l.Push(nil,
		cisco.Request{StatusLine: &cisco.StatusLine{Dialog: k.Dialog(), Text: cisco.Phrase('T'), Seconds: 10, Priority: 1}},
		cisco.Request{PlayTone: &cisco.PlayTone{Dialog: k.Dialog(), Tone: "DtZipZip"}})
}

// List reads the records, the oldest first.
func (t *Traces) List() []Record {
	var out []Record
	t.store.Scan(Prefix, func(_ string, v []byte) bool {
		var r Record
		if json.Unmarshal(v, &r) == nil {
			out = append(out, r)
		}
		return true
	})
	return out
}
