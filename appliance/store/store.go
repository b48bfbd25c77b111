package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"ringfence/internal/task"
)

// Errors of a running store that callers tell apart.
var (
	// ErrClosed: the store was closed before the write was queued.
	ErrClosed = errors.New("store is closed")
	// ErrFailed: the disk did not take an earlier write, so nothing is promised any more until a restart reads the file anew.
	ErrFailed = errors.New("store has failed")
	// ErrCompacted: operations after the asked sequence are gone from the log; whoever needs them needs a snapshot.
	ErrCompacted = errors.New("operations are no longer in the log")
)

// Options of a Store.
type Options struct {
	Dir       string        // state directory; made with mode 0700 when missing
	Appliance string        // name of this appliance; becomes part of the origin when the file is made, later ignored
	Retention time.Duration // how long superseded operations stay in the log; 7 days when 0
	MaxBytes  int           // of the file; unbounded when 0
	Log       *slog.Logger
}

// Store is the durable state. All methods may be called from any goroutine.
type Store struct {
	path      string
	db        *bbolt.DB
	lock      *os.File
	log       *slog.Logger
	retention time.Duration
	origin    string

	tasks     *task.Group
	queue     chan *request
	closing   chan struct{}
	stopped   chan struct{}
	closeOnce sync.Once
	closeErr  error

	failed atomic.Pointer[error]
	seq    atomic.Uint64
	counts struct{ groups, ops, commits, fields, records atomic.Uint64 }

	clock clock // owned by the committer

	watches watches
}

// Open opens the state of o.Dir, makes it when there is none, and reads every record once. It fails with ErrInUse,
// ErrDamaged or ErrNewer in the error's chain.
func Open(o Options) (*Store, error) {
	if o.Dir == "" {
		return nil, errors.New("no state directory given")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Retention <= 0 {
		o.Retention = 7 * 24 * time.Hour
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory %s: %w", o.Dir, err)
	}
	lock, err := takeLock(o.Dir)
	if err != nil {
		return nil, err
	}
	s := &Store{
		path: filepath.Join(o.Dir, stateFile), lock: lock, log: o.Log.With("component", "store"), retention: o.Retention,
		tasks: task.NewGroup(context.Background(), o.Log), queue: make(chan *request, maxQueue),
		closing: make(chan struct{}), stopped: make(chan struct{}),
	}
	if s.db, err = openFile(s.path, o.MaxBytes); err != nil {
		lock.Close()
		return nil, err
	}
	if err := s.load(o.Appliance); err != nil {
		s.db.Close()
		lock.Close()
		return nil, err
	}
	s.tasks.Go("store committer", s.run, func(error) { close(s.stopped) })
	return s, nil
}

// load makes the buckets of a new file, or checks those of an old one.
func (s *Store) load(appliance string) error {
	fresh := false
	if err := guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			k, _ := tx.Cursor().First()
			fresh = k == nil
			return nil
		})
	}); err != nil {
		return damaged(s.path, err)
	}
	if fresh {
		if err := s.create(appliance); err != nil {
			return fmt.Errorf("make %s: %w", s.path, err)
		}
	}
	stale := false
	err := guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			a, err := audit(tx)
			if err != nil {
				return err
			}
			s.origin, stale = a.origin, a.layout != projectionLayout
			s.seq.Store(a.seq)
			s.clock.last = a.stamp
			s.counts.fields.Store(a.fields)
			s.counts.records.Store(a.records)
			return nil
		})
	})
	if errors.Is(err, ErrNewer) {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	if err != nil {
		return damaged(s.path, err)
	}
	if stale {
		if err := guard(func() error { return s.db.Update(rebuild) }); err != nil {
			return fmt.Errorf("%s: make the projection anew: %w", s.path, err)
		}
	}
	return nil
}

func (s *Store) create(appliance string) error {
	if appliance == "" {
		appliance = "ringfence"
	}
	if len(appliance) > 63 {
		appliance = appliance[:63]
	}
	var incarnation [8]byte
	rand.Read(incarnation[:])
	origin := appliance + "." + hex.EncodeToString(incarnation[:])
	return s.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketFields, bucketLog} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		if _, err := tx.Bucket(bucketLog).CreateBucket([]byte(origin)); err != nil {
			return err
		}
		meta := tx.Bucket(bucketMeta)
		return errors.Join(
			putMeta(meta, metaFormat, []byte{formatMajor, formatMinor}),
			putMeta(meta, metaLayout, []byte{projectionLayout}),
			putMeta(meta, metaOrigin, []byte(origin)),
			putNumbers(meta, metaCounts, 0, 0),
		)
	})
}

// Origin names this appliance and the incarnation of its disk in operations.
func (s *Store) Origin() string { return s.origin }

// LastSeq is the sequence of this origin's last committed operation.
func (s *Store) LastSeq() uint64 { return s.seq.Load() }

// Err tells why the store takes no writes any more, nil while it does. It is the store's health.
func (s *Store) Err() error {
	if err := s.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Stats are counts since the store was opened, and sizes.
type Stats struct {
	Groups, Ops, Commits uint64 // written: atomic groups, their operations, transactions with one fsync each
	Fields, Records      uint64 // stored now: fields (deleted ones included while remembered), operations in the log
	Bytes                int64  // of the file
}

// Stats returns the counts of the store.
func (s *Store) Stats() Stats {
	c := &s.counts
	st := Stats{Groups: c.groups.Load(), Ops: c.ops.Load(), Commits: c.commits.Load(), Fields: c.fields.Load(), Records: c.records.Load()}
	if info, err := os.Stat(s.path); err == nil {
		st.Bytes = info.Size()
	}
	return st
}

// Get returns the value of key. The value is the caller's.
func (s *Store) Get(key string) (value []byte, ok bool) {
	_ = s.db.View(func(tx *bbolt.Tx) error {
		record := tx.Bucket(bucketFields).Get([]byte(key))
		if record == nil {
			return nil
		}
		v, deleted := peek(record)
		if ok = !deleted; ok {
			value = append([]byte{}, v...)
		}
		return nil
	})
	return value, ok
}

// Version returns the version of key's last operation. A deleted key has one too, for as long as its deletion is
// remembered, with exists false.
func (s *Store) Version(key string) (v Version, exists bool) {
	_ = s.db.View(func(tx *bbolt.Tx) error {
		record := tx.Bucket(bucketFields).Get([]byte(key))
		var op Op
		if record == nil || op.UnmarshalBinary(record) != nil {
			return nil
		}
		v, exists = op.Version(), !op.Delete
		return nil
	})
	return v, exists
}

// Scan calls fn for each key with the prefix, a plain string of bytes, in key order until fn returns false. Key and value
// are the caller's. Up to 1024 keys (512 KiB) are seen as of one moment; a longer scan goes on with the then present state,
// so that no slow fn holds back the file. fn runs outside of any transaction.
func (s *Store) Scan(prefix string, fn func(key string, value []byte) bool) {
	type entry struct {
		key   string
		value []byte
	}
	var chunk []entry
	from, skip, done := []byte(prefix), false, false
	for !done {
		chunk, done = chunk[:0], true
		_ = s.db.View(func(tx *bbolt.Tx) error {
			c := tx.Bucket(bucketFields).Cursor()
			size, read := 0, 0
			for k, record := c.Seek(from); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, record = c.Next() {
				if skip && bytes.Equal(k, from) {
					continue
				}
				if read++; read > scanChunk || size > scanBytes {
					done = false
					return nil
				}
				size += len(record)
				from = append(from[:0:0], k...)
				if v, deleted := peek(record); !deleted {
					chunk = append(chunk, entry{string(k), append([]byte{}, v...)})
				}
			}
			return nil
		})
		skip = true
		for _, e := range chunk {
			if !fn(e.key, e.value) {
				return
			}
		}
	}
}

// Snapshot hands a copy of the whole file, as of this moment, to fn: its size and a function that writes it. Writers go on
// meanwhile. What was acknowledged before is in it.
func (s *Store) Snapshot(fn func(size int64, write func(io.Writer) error) error) error {
	return guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			return fn(tx.Size(), func(w io.Writer) error {
				_, err := tx.WriteTo(w)
				return err
			})
		})
	})
}

// Close commits what is queued and closes the files. It may be called again.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		close(s.closing)
		<-s.stopped
		s.tasks.Stop()
		s.watches.close()
		s.closeErr = errors.Join(s.db.Close(), s.lock.Close())
	})
	return s.closeErr
}
