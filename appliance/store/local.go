package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"ringfence/internal/task"
)

// LocalOptions of a Local.
type LocalOptions struct {
	Dir      string
	MaxBytes int // of the file; 512 MiB when 0. When full, new entries are dropped and said so
	Log      *slog.Logger
}

// Local is the data that a crash may cost a second of: bindings, boot records, traces. Writes go to memory and reach the
// file in one transaction a second, so that the file is whole at any time. Its methods may be called from any goroutine.
type Local struct {
	path  string
	db    *bbolt.DB
	log   *slog.Logger
	tasks *task.Group

	mu      sync.RWMutex // guards pending, writing, bytes, closed
	pending map[localKey]*localValue
	writing map[localKey]*localValue // what a running flush writes, nil when none
	bytes   int
	closed  bool

	flushMu sync.Mutex // one flush at a time; taken before mu
	said    bool       // the last flush failed and was logged; guarded by flushMu

	closeOnce sync.Once
	closeErr  error
}

type localKey struct{ bucket, key string }

// localValue is a value to write, or a deletion.
type localValue struct {
	value  []byte
	delete bool
}

// localPending bounds the bytes in memory that wait for the file; a Put that meets a full buffer writes it out itself.
const localPending = 8 << 20

// localEvery is the most that a crash costs.
const localEvery = time.Second

// OpenLocal opens the local data of o.Dir. Since nothing in it is needed to serve, a damaged file is moved aside, said so,
// and a new one begun. The caller holds the state directory by an open Store.
func OpenLocal(o LocalOptions) (*Local, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 512 << 20
	}
	l := &Local{
		path: filepath.Join(o.Dir, localFile), log: o.Log.With("component", "store"), pending: map[localKey]*localValue{},
		tasks: task.NewGroup(context.Background(), o.Log),
	}
	var err error
	if l.db, err = openLocalFile(l.path, o.MaxBytes); errors.Is(err, ErrDamaged) {
		aside, moveErr := moveAside(l.path)
		if moveErr != nil {
			return nil, fmt.Errorf("%w; moving it away: %w", err, moveErr)
		}
		l.log.Error("local data damaged, moved aside and begun anew", "err", err, "file", aside)
		l.db, err = openLocalFile(l.path, o.MaxBytes)
	}
	if err != nil {
		return nil, err
	}
	l.tasks.Go("local store", l.run)
	return l, nil
}

// openLocalFile opens the file and reads it through once, as far as bbolt's structure goes.
func openLocalFile(path string, maxBytes int) (*bbolt.DB, error) {
	db, err := openFile(path, maxBytes)
	if err != nil {
		return nil, err
	}
	err = guard(func() error {
		return db.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
				return b.ForEach(func(k, v []byte) error { return nil })
			})
		})
	})
	if err != nil {
		db.Close()
		return nil, damaged(path, err)
	}
	return db, nil
}

// moveAside renames a damaged file; nothing is overwritten and few are kept.
func moveAside(path string) (string, error) {
	for i := 1; i <= 5; i++ {
		aside := fmt.Sprintf("%s.damaged-%d", path, i)
		if _, err := os.Lstat(aside); errors.Is(err, os.ErrNotExist) {
			return aside, os.Rename(path, aside)
		}
	}
	return "", fmt.Errorf("%s.damaged-1 to -5 exist already: remove them", path)
}

func (l *Local) run(ctx context.Context) {
	tick := time.NewTicker(localEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = l.Flush()
		case <-ctx.Done():
			return
		}
	}
}

// Get returns the value of key in bucket. The value is the caller's.
func (l *Local) Get(bucket, key string) (value []byte, ok bool) {
	l.mu.RLock()
	v := l.pending[localKey{bucket, key}]
	if v == nil {
		v = l.writing[localKey{bucket, key}]
	}
	l.mu.RUnlock()
	if v != nil {
		return slices.Clone(v.value), !v.delete
	}
	_ = l.db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte(bucket)); b != nil {
			if stored := b.Get([]byte(key)); stored != nil {
				value, ok = append([]byte{}, stored...), true
			}
		}
		return nil
	})
	return value, ok
}

// Put sets key in bucket. What cannot be stored (empty name, key over 256 bytes, value over 64 KiB) is dropped and logged.
func (l *Local) Put(bucket, key string, value []byte) {
	if bucket == "" || key == "" || len(bucket) > MaxKey || len(key) > MaxKey || len(value) > MaxValue {
		l.log.Error("local value not storable", "bucket", bucket, "bytes", len(value))
		return
	}
	l.queue(localKey{bucket, key}, &localValue{value: append([]byte{}, value...)})
}

// Delete removes key from bucket.
func (l *Local) Delete(bucket, key string) {
	if bucket == "" || key == "" || len(bucket) > MaxKey || len(key) > MaxKey {
		return
	}
	l.queue(localKey{bucket, key}, &localValue{delete: true})
}

func (l *Local) queue(k localKey, v *localValue) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	if old := l.pending[k]; old != nil {
		l.bytes -= len(k.bucket) + len(k.key) + len(old.value)
	}
	l.pending[k] = v
	l.bytes += len(k.bucket) + len(k.key) + len(v.value)
	full := l.bytes > localPending
	l.mu.Unlock()
	if full {
		_ = l.Flush()
	}
}

// Scan calls fn for each key of bucket with the prefix, in key order until fn returns false. Key and value are the
// caller's; fn runs outside of any lock and may write.
func (l *Local) Scan(bucket, prefix string, fn func(key string, value []byte) bool) {
	from, skip := prefix, false
	for {
		chunk, last, more := l.chunk(bucket, prefix, from, skip)
		for _, e := range chunk {
			if !e.delete && !fn(e.key, e.value) {
				return
			}
		}
		if !more {
			return
		}
		from, skip = last, true
	}
}

type localEntry struct {
	key string
	localValue
}

// chunk merges the next entries of the file with those that wait. While a flush runs, its entries are in writing until they
// are in the file, so none is missed.
func (l *Local) chunk(bucket, prefix, from string, skip bool) (chunk []localEntry, last string, more bool) {
	waiting := map[string]localValue{}
	l.mu.RLock()
	for _, layer := range []map[localKey]*localValue{l.writing, l.pending} {
		for k, v := range layer {
			if k.bucket == bucket && strings.HasPrefix(k.key, prefix) && (k.key > from || k.key == from && !skip) {
				waiting[k.key] = *v
			}
		}
	}
	l.mu.RUnlock()
	_ = l.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		c, bytes := b.Cursor(), 0
		for k, v := c.Seek([]byte(from)); k != nil && strings.HasPrefix(string(k), prefix); k, v = c.Next() {
			key := string(k)
			if skip && key == from {
				continue
			}
			if len(chunk) == scanChunk || bytes > scanBytes {
				more = true
				return nil
			}
			last = key
			bytes += len(v)
			if w, ok := waiting[key]; ok {
				chunk = append(chunk, localEntry{key, w})
				delete(waiting, key)
			} else {
				chunk = append(chunk, localEntry{key, localValue{value: append([]byte{}, v...)}})
			}
		}
		return nil
	})
	for key, v := range waiting {
		if !more || key < last {
			chunk = append(chunk, localEntry{key, v})
		}
	}
	slices.SortFunc(chunk, func(a, b localEntry) int { return strings.Compare(a.key, b.key) })
	return chunk, last, more
}

// Flush writes what waits and returns after the fsync.
func (l *Local) Flush() error {
	l.flushMu.Lock()
	defer l.flushMu.Unlock()
	l.mu.Lock()
	if len(l.pending) == 0 {
		l.mu.Unlock()
		return nil
	}
	batch := l.pending
	l.writing, l.pending, l.bytes = batch, map[localKey]*localValue{}, 0
	l.mu.Unlock()

	err := guard(func() error { return l.db.Update(func(tx *bbolt.Tx) error { return writeBatch(tx, batch) }) })

	l.mu.Lock()
	l.writing = nil
	l.mu.Unlock()
	if err != nil {
		// Said once until it works again: this runs every second. The batch is dropped, or memory would fill instead.
		if !l.said {
			l.log.Error("local data not written, entries dropped", "err", err, "entries", len(batch))
		}
		l.said = true
		return fmt.Errorf("write %s: %w", l.path, err)
	}
	l.said = false
	return nil
}

func writeBatch(tx *bbolt.Tx, batch map[localKey]*localValue) error {
	keys := make([]localKey, 0, len(batch))
	for k := range batch {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b localKey) int {
		if c := strings.Compare(a.bucket, b.bucket); c != 0 {
			return c
		}
		return strings.Compare(a.key, b.key)
	})
	for _, k := range keys {
		v := batch[k]
		b := tx.Bucket([]byte(k.bucket))
		if b == nil {
			if v.delete {
				continue
			}
			var err error
			if b, err = tx.CreateBucket([]byte(k.bucket)); err != nil {
				return err
			}
		}
		if v.delete {
			if err := b.Delete([]byte(k.key)); err != nil {
				return err
			}
			continue
		}
		if err := b.Put([]byte(k.key), v.value); err != nil {
			return err
		}
	}
	return nil
}

// Close writes what waits and closes the file. It may be called again; later writes are ignored.
func (l *Local) Close() error {
	l.closeOnce.Do(func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		l.tasks.Stop()
		l.closeErr = errors.Join(l.Flush(), l.db.Close())
	})
	return l.closeErr
}
