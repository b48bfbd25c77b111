package callrecord

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"ringfence/internal/task"
	"ringfence/sip/call"
)

// Store is where records are kept; *store.Store is one.
type Store interface {
	Get(key string) ([]byte, bool)
	Scan(prefix string, fn func(key string, value []byte) bool)
	Write(ctx context.Context, set map[string][]byte, del ...string) error
}

// Options of a Keeper.
type Options struct {
	Store Store
	Node  string               // name of this appliance
	Keep  func() time.Duration // how long; 0 is for ever
	Log   *slog.Logger
}

// Keys of the store: the name of the record follows, which begins with its time, so that keys are in the order of time.
const (
	prefix = "cdr/"
	open   = "cdr-open/"
)

func key(id string) string { return prefix + id }

// Bounds.
const (
	maxQueue  = 8192     // changes that wait for the store
	maxBatch  = 64       // written in one operation
	maxBytes  = 60 << 10 // of one record
	writeTime = 10 * time.Second
	purgeTime = time.Hour
)

// Keeper writes and finds records. Its methods may be called from any goroutine.
type Keeper struct {
	o     Options
	tasks *task.Group
	wake  chan struct{}

	mu    sync.Mutex
	queue []change
	ids   map[string]string // short name of a call of this run to its record
	order []string
	notes map[string][]string // references by short name
	talks map[string]Record   // open records by short name

	flushing sync.Mutex // one flush at a time; taken before mu
}

// change is one record to write: open, or over.
type change struct {
	id   string
	open bool
	r    Record
}

// New returns a Keeper after closing what a crash has left open.
func New(ctx context.Context, o Options) (*Keeper, error) {
	if o.Store == nil {
		return nil, errors.New("callrecord: Store is required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Log = o.Log.With("component", "callrecord")
	k := &Keeper{o: o, wake: make(chan struct{}, 1), ids: map[string]string{}, notes: map[string][]string{}, talks: map[string]Record{}}
	k.tasks = task.NewGroup(context.Background(), o.Log)
	if err := k.close(ctx); err != nil {
		return nil, err
	}
	return k, nil
}

// close ends the records that a crash of this appliance has left open.
func (k *Keeper) close(ctx context.Context) error {
	set, del := map[string][]byte{}, []string{}
	k.o.Store.Scan(open, func(at string, value []byte) bool {
		var r Record
		switch err := json.Unmarshal(value, &r); {
		case err != nil:
			del = append(del, at)
			return true
		case r.Node != k.o.Node:
			return true // the other appliance's, where it may go on
		}
		r.Open, r.Result, r.Cause = false, "answered", "appliance stopped"
		set[key(r.ID)] = r.marshal()
		del = append(del, at)
		return true
	})
	if len(del) == 0 {
		return nil
	}
	if err := k.o.Store.Write(ctx, set, del...); err != nil {
		return fmt.Errorf("close call records: %w", err)
	}
	k.o.Log.Info("calls were cut when the appliance stopped", "count", len(set))
	return nil
}

// Start begins to write.
func (k *Keeper) Start() {
	k.tasks.Go("call records", k.run)
}

// Stop writes what waits and ends.
func (k *Keeper) Stop() {
	k.tasks.Stop()
	k.flush(context.Background())
}

// Began notes a call whose parties talk. It does not block.
func (k *Keeper) Began(i call.Info) { k.add(i, true) }

// Ended notes a call that is over. It does not block.
func (k *Keeper) Ended(i call.Info) { k.add(i, false) }

// maxShort bounds the short names that are remembered, so that transfers find what they belong to.
const maxShort = 10000

func (k *Keeper) add(i call.Info, open bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	id := idOf(i, k.o.Node)
	if k.ids[i.ID] == "" {
		k.ids[i.ID] = id
		if k.order = append(k.order, i.ID); len(k.order) > maxShort {
			delete(k.ids, k.order[0])
			delete(k.notes, k.order[0])
			k.order = k.order[1:]
		}
	}
	r := of(i, k.o.Node, func(short string) string {
		if id := k.ids[short]; id != "" {
			return id
		}
		return short
	})
	r.Notes = k.notes[i.ID]
	delete(k.talks, i.ID)
	if r.Open = open; open {
		r.Result = "open"
		k.talks[i.ID] = r
	}
	k.queueLocked(r)
}

// queueLocked lets the goroutine write a record.
func (k *Keeper) queueLocked(r Record) {
	if len(k.queue) >= maxQueue {
		k.o.Log.Error("call record is lost: the store does not take it", "call", r.Call)
		return
	}
	k.queue = append(k.queue, change{r.ID, r.Open, r})
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// maxNotes bounds the references of a call.
const maxNotes = 50

// Refer notes in the record of a call of this run, by its short name, that something belongs to it: a recording, a report. The
// call may go on still. It does not block.
func (k *Keeper) Refer(short, text string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	list := k.notes[short]
	if len(list) >= maxNotes || slices.Contains(list, text) {
		return
	}
	if k.ids[short] == "" && len(k.notes) >= 2*maxShort {
		return // nothing but references to calls that never had a record
	}
	list = append(slices.Clip(list), text)
	k.notes[short] = list
	if r, ok := k.talks[short]; ok {
		r.Notes = list
		k.talks[short] = r
		k.queueLocked(r)
	}
}

func (k *Keeper) run(ctx context.Context) {
	purge := time.NewTicker(purgeTime)
	defer purge.Stop()
	k.purge(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-purge.C:
			k.purge(ctx)
		case <-k.wake:
			if !k.flush(ctx) {
				// The store does not work; what waits is tried again with the next record, or in a while.
				time.AfterFunc(writeTime, func() {
					select {
					case k.wake <- struct{}{}:
					default:
					}
				})
			}
		}
	}
}

// flush writes what waits; false if the store has refused.
func (k *Keeper) flush(ctx context.Context) bool {
	k.flushing.Lock()
	defer k.flushing.Unlock()
	for {
		k.mu.Lock()
		n := min(len(k.queue), maxBatch)
		batch := slices.Clone(k.queue[:n])
		k.mu.Unlock()
		if n == 0 {
			return true
		}
		set, del := map[string][]byte{}, []string{}
		for _, c := range batch {
			b := c.r.marshal()
			if c.open {
				set[open+c.id] = b
				continue
			}
			set[key(c.id)] = b
			if _, ok := set[open+c.id]; ok {
				delete(set, open+c.id)
			} else if _, ok := k.o.Store.Get(open + c.id); ok {
				del = append(del, open+c.id)
			}
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
		err := k.o.Store.Write(ctx, set, del...)
		cancel()
		if err != nil {
			k.o.Log.Error("call records are not kept", "count", n, "err", err)
			return false
		}
		k.mu.Lock()
		k.queue = k.queue[n:]
		k.mu.Unlock()
	}
}

// purge deletes what is older than it may be.
func (k *Keeper) purge(ctx context.Context) {
	keep := k.o.Keep()
	if keep <= 0 {
		return
	}
	before := time.Now().Add(-keep)
	for {
		var old []string
		k.o.Store.Scan(prefix, func(at string, value []byte) bool {
			var r struct{ Started time.Time }
			if json.Unmarshal(value, &r) == nil && !r.Started.Before(before) {
				return false // keys are in the order of time
			}
			old = append(old, at)
			return len(old) < maxBatch
		})
		if len(old) == 0 {
			return
		}
		if err := k.o.Store.Write(ctx, nil, old...); err != nil {
			k.o.Log.Error("old call records", "err", err)
			return
		}
		k.o.Log.Info("old call records deleted", "count", len(old))
	}
}

// Query chooses records.
type Query struct {
	Line         string // that had a part in it, or was dialled
	Device       string
	Result       string
	Since, Until time.Time
	Limit        int // the newest so many; 0 is all
}

// Find returns the records that a query chooses, the oldest first.
func (k *Keeper) Find(q Query) []Record {
	k.flush(context.Background())
	var out []Record
	k.o.Store.Scan(prefix, func(_ string, value []byte) bool {
		var r Record
		if json.Unmarshal(value, &r) == nil && q.takes(&r) {
			if q.Limit > 0 && len(out) >= 2*q.Limit {
				out = append(out[:0], out[len(out)-q.Limit:]...)
			}
			out = append(out, r)
		}
		return true
	})
	if q.Limit > 0 && len(out) > q.Limit {
		out = out[len(out)-q.Limit:]
	}
	return out
}

func (q *Query) takes(r *Record) bool {
	switch {
	case !q.Since.IsZero() && r.Started.Before(q.Since), !q.Until.IsZero() && !r.Started.Before(q.Until), q.Result != "" && r.Result != q.Result:
		return false
	case q.Line != "" && r.From != q.Line && r.Dialled != q.Line && !slices.ContainsFunc(r.Legs, func(l Leg) bool { return l.Line == q.Line }):
		return false
	case q.Device != "" && !slices.ContainsFunc(r.Legs, func(l Leg) bool { return strings.EqualFold(l.Device, q.Device) }):
		return false
	}
	return true
}

// Get finds a record by its name, or by the short name of a call, of which the newest counts.
func (k *Keeper) Get(name string) (Record, bool) {
	k.flush(context.Background())
	var r Record
	if b, ok := k.o.Store.Get(key(name)); ok {
		return r, json.Unmarshal(b, &r) == nil
	}
	if b, ok := k.o.Store.Get(open + name); ok {
		return r, json.Unmarshal(b, &r) == nil
	}
	if strings.Contains(name, ".") {
		return r, false
	}
	found := false
	k.o.Store.Scan(prefix, func(at string, value []byte) bool {
		var x Record
		if strings.Contains(at, "."+name+"@") && json.Unmarshal(value, &x) == nil {
			r, found = x, true
		}
		return true
	})
	return r, found
}

// Note adds a reference to the record of a call, such as the name of a recording.
func (k *Keeper) Note(ctx context.Context, name, text string) error {
	r, ok := k.Get(name)
	if !ok {
		return fmt.Errorf("there is no record of call %s", name)
	}
	r.Notes = append(r.Notes, text)
	b := r.marshal()
	at := key(r.ID)
	if r.Open {
		at = open + r.ID
	}
	return k.o.Store.Write(ctx, map[string][]byte{at: b})
}
