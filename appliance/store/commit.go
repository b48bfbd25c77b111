package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// request is what waits for the committer: an atomic group of changes, or one step of maintenance.
type request struct {
	group []change
	size  int
	step  func(tx *bbolt.Tx) error // maintenance when not nil; has a transaction of its own
	done  chan error               // buffered
}

type change struct {
	key    string
	value  []byte
	delete bool
}

// Write applies one atomic group: every key of set gets its value, every key of del goes. It returns after the fsync that
// holds the group; groups that wait at the same time share one. Deleting what does not exist is no operation. After an
// error nothing was written, with one exception: when ctx ends while the group waits for the disk, it may still be written.
func (s *Store) Write(ctx context.Context, set map[string][]byte, del ...string) error {
	r := &request{done: make(chan error, 1), group: make([]change, 0, len(set)+len(del))}
	for key, value := range set {
		if len(value) > MaxValue {
			return fmt.Errorf("write %s: value of %d bytes, at most %d: %w", key, len(value), MaxValue, ErrKey)
		}
		r.group = append(r.group, change{key: key, value: bytes.Clone(value)})
		r.size += len(key) + len(value)
	}
	for _, key := range del {
		r.group = append(r.group, change{key: key, delete: true})
		r.size += len(key)
	}
	slices.SortFunc(r.group, func(a, b change) int { return strings.Compare(a.key, b.key) })
	for i, c := range r.group {
		if err := CheckKey(c.key); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if i > 0 && c.key == r.group[i-1].key {
			if c.delete && r.group[i-1].delete {
				continue
			}
			return fmt.Errorf("write: key %s is both set and deleted: %w", c.key, ErrKey)
		}
	}
	if len(r.group) > MaxGroup || r.size > MaxGroupBytes {
		return fmt.Errorf("write: %d operations of %d bytes in one group, at most %d and %d: %w", len(r.group), r.size, MaxGroup, MaxGroupBytes, ErrKey)
	}
	if len(r.group) == 0 {
		return ctx.Err()
	}
	return s.submit(ctx, r)
}

func (s *Store) submit(ctx context.Context, r *request) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	select {
	case <-s.closing:
		return ErrClosed
	default:
	}
	select {
	case s.queue <- r:
	case <-ctx.Done():
		return fmt.Errorf("write: %w", ctx.Err())
	case <-s.closing:
		return ErrClosed
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("write: not acknowledged: %w", ctx.Err())
	case <-s.stopped:
		select {
		case err := <-r.done:
			return err
		default:
			return ErrClosed
		}
	}
}

// run is the committer, the only writer of the file.
func (s *Store) run(ctx context.Context) {
	chores := time.NewTimer(time.Minute)
	defer chores.Stop()
	for {
		select {
		case r := <-s.queue:
			s.commit(s.gather(r))
		case <-chores.C:
			// One step at a time, with room between the steps, so that writers never wait for more than one.
			if s.housekeep() {
				chores.Reset(100 * time.Millisecond)
			} else {
				chores.Reset(time.Hour)
			}
		case <-s.closing:
			for {
				select {
				case r := <-s.queue:
					s.commit(s.gather(r))
				default:
					return
				}
			}
		}
	}
}

// gather takes what else is waiting, so that all of it shares one fsync.
func (s *Store) gather(first *request) []*request {
	batch, size := []*request{first}, first.size
	for len(batch) < 2*maxQueue && size < maxBatchBytes {
		select {
		case r := <-s.queue:
			batch, size = append(batch, r), size+r.size
		default:
			return batch
		}
	}
	return batch
}

// commit writes the batch and answers each of its requests.
func (s *Store) commit(batch []*request) {
	for len(batch) > 0 {
		n := 1
		if batch[0].step == nil {
			for n < len(batch) && batch[n].step == nil {
				n++
			}
		}
		part := batch[:n]
		batch = batch[n:]
		err := s.Err()
		if err == nil {
			err = s.transact(part)
		}
		for _, r := range part {
			r.done <- err
		}
	}
}

func (s *Store) transact(part []*request) error {
	var t *txn
	var events []event
	began := time.Now()
	err := guard(func() error {
		return s.db.Update(func(tx *bbolt.Tx) (err error) {
			if t, err = begin(tx, s.origin, s.seq.Load()); err != nil {
				return err
			}
			for _, r := range part {
				if r.step != nil {
					if err := r.step(tx); err != nil {
						return err
					}
					return t.reload()
				}
				made, err := t.write(&s.clock, r.group, time.Now())
				if err != nil {
					return err
				}
				events = append(events, event{changes: made})
			}
			return t.finish()
		})
	})
	if err != nil {
		return s.fail(err)
	}
	s.seq.Store(t.seq)
	s.counts.fields.Store(t.fieldCount)
	s.counts.records.Store(t.recordCount)
	s.counts.commits.Add(1)
	for _, e := range events {
		s.counts.groups.Add(1)
		s.counts.ops.Add(uint64(len(e.changes)))
		s.watches.publish(e)
	}
	if took := time.Since(began); took > time.Second {
		s.log.Info("slow commit", "took", took, "groups", len(part))
	}
	return nil
}

// fail decides what a failed transaction means. A full disk is told to the writers and may pass. Anything else, a failed
// fsync above all, leaves open what is on the disk: writes end until a restart has read the file anew.
func (s *Store) fail(err error) error {
	err = fmt.Errorf("commit %s: %w", s.path, err)
	for _, full := range []error{unix.ENOSPC, unix.EDQUOT, bberrors.ErrMaxSizeReached} {
		// bbolt passes some errors on as text only.
		if errors.Is(err, full) || strings.Contains(err.Error(), full.Error()) {
			s.log.Error("state not written, disk is full", "err", err)
			return err
		}
	}
	err = fmt.Errorf("%w, restart needed: %w", ErrFailed, err)
	s.failed.Store(&err)
	s.log.Error("state not written, no further writes", "err", err)
	return err
}
