package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// Ops calls fn with this origin's operations after sequence after, in order, until fn returns false; replication reads them
// here. It fails with ErrCompacted when some of them are gone. fn runs outside of any transaction.
func (s *Store) Ops(after uint64, fn func(op Op) bool) error {
	for {
		chunk, err := s.opsAfter(after)
		if err != nil {
			return fmt.Errorf("operations after %d: %w", after, err)
		}
		if len(chunk) == 0 {
			return nil
		}
		for _, op := range chunk {
			if !fn(op) {
				return nil
			}
			after = op.Seq
		}
	}
}

func (s *Store) opsAfter(after uint64) (chunk []Op, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		floor, err := readFloor(tx.Bucket(bucketMeta), s.origin)
		if err != nil {
			return err
		}
		if after < floor {
			return ErrCompacted
		}
		c := tx.Bucket(bucketLog).Bucket([]byte(s.origin)).Cursor()
		size := 0
		for k, record := c.Seek(seqKey(after + 1)); k != nil && len(chunk) < scanChunk && size < scanBytes; k, record = c.Next() {
			var op Op
			if err := op.UnmarshalBinary(record); err != nil {
				return err
			}
			size += len(record)
			chunk = append(chunk, op)
		}
		return nil
	})
	return chunk, err
}

// Rebuild makes the projection anew from the log.
func (s *Store) Rebuild(ctx context.Context) error {
	r := &request{done: make(chan error, 1), step: rebuild}
	if err := s.submit(ctx, r); err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	return nil
}

func rebuild(tx *bbolt.Tx) error {
	if err := tx.DeleteBucket(bucketFields); err != nil {
		return err
	}
	fields, err := tx.CreateBucket(bucketFields)
	if err != nil {
		return err
	}
	var count, records uint64
	err = eachRecord(tx, func(_ string, op *Op, record []byte) error {
		records++
		if raw := fields.Get([]byte(op.Key)); raw == nil {
			count++
		} else {
			var current Op
			if err := current.UnmarshalBinary(raw); err != nil {
				return err
			}
			if !op.Version().After(current.Version()) {
				return nil
			}
		}
		return fields.Put([]byte(op.Key), bytes.Clone(record))
	})
	if err != nil {
		return err
	}
	meta := tx.Bucket(bucketMeta)
	return errors.Join(putNumbers(meta, metaCounts, count, records), putMeta(meta, metaLayout, []byte{projectionLayout}))
}

// eachRecord calls fn for every operation of the log, origin by origin.
func eachRecord(tx *bbolt.Tx, fn func(origin string, op *Op, record []byte) error) error {
	logs := tx.Bucket(bucketLog)
	return logs.ForEachBucket(func(origin []byte) error {
		return logs.Bucket(origin).ForEach(func(k, record []byte) error {
			var op Op
			if err := op.UnmarshalBinary(record); err != nil {
				return fmt.Errorf("log of %s at %x: %w", origin, k, err)
			}
			if len(k) != 8 || binary.BigEndian.Uint64(k) != op.Seq || op.Origin != string(origin) {
				return fmt.Errorf("log of %s at %x: %w", origin, k, errRecord)
			}
			return fn(string(origin), &op, record)
		})
	})
}

// audited is what a full reading of the file tells.
type audited struct {
	origin          string
	layout          byte
	seq             uint64 // of our last operation
	stamp           Stamp  // the highest believed
	fields, records uint64
}

// audit reads every record once and compares with the counts, so that a page that went bad is found when the daemon starts
// and not in the middle of a call.
func audit(tx *bbolt.Tx) (a audited, err error) {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		return a, errors.New("not a state file")
	}
	format, err := getMeta(meta, metaFormat)
	if err != nil || len(format) < 2 {
		return a, fmt.Errorf("format: %w", cmp.Or(err, errRecord))
	}
	if format[0] > formatMajor {
		return a, fmt.Errorf("%w (format %d.%d, this one reads up to %d): install that release again, or move the file away to start without it",
			ErrNewer, format[0], format[1], formatMajor)
	}
	layout, err := getMeta(meta, metaLayout)
	if err != nil || len(layout) != 1 {
		return a, fmt.Errorf("layout: %w", cmp.Or(err, errRecord))
	}
	a.layout = layout[0]
	origin, err := getMeta(meta, metaOrigin)
	if err != nil || len(origin) == 0 || len(origin) > maxOrigin {
		return a, fmt.Errorf("origin: %w", cmp.Or(err, errRecord))
	}
	a.origin = string(origin)
	for _, b := range [][]byte{bucketLog, bucketFields} {
		if tx.Bucket(b) == nil {
			return a, fmt.Errorf("bucket %s is missing", b)
		}
	}
	if tx.Bucket(bucketLog).Bucket(origin) == nil {
		return a, errors.New("our own log is missing")
	}
	if err := a.log(tx); err != nil {
		return a, err
	}
	return a, a.projection(tx)
}

func (a *audited) log(tx *bbolt.Tx) error {
	next := map[string]uint64{}
	floors := map[string]uint64{}
	err := eachRecord(tx, func(origin string, op *Op, _ []byte) error {
		if _, ok := next[origin]; !ok {
			floor, err := readFloor(tx.Bucket(bucketMeta), origin)
			if err != nil {
				return err
			}
			floors[origin], next[origin] = floor, floor+1
		}
		if op.Seq > floors[origin] {
			if op.Seq != next[origin] {
				return fmt.Errorf("log of %s: operation %d is missing", origin, next[origin])
			}
			next[origin]++
		}
		a.records++
		a.stamp = max(a.stamp, op.Version().Stamp)
		return nil
	})
	if err != nil {
		return err
	}
	a.seq = tx.Bucket(bucketLog).Bucket([]byte(a.origin)).Sequence()
	if n, ok := next[a.origin]; ok && n != max(a.seq, floors[a.origin])+1 {
		return fmt.Errorf("log of %s: operations after %d are missing", a.origin, n-1)
	}
	counts, err := numbers(tx.Bucket(bucketMeta), metaCounts, 2)
	if err != nil {
		return err
	}
	if counts[1] != a.records {
		return fmt.Errorf("%d operations in the log, want %d", a.records, counts[1])
	}
	return nil
}

func (a *audited) projection(tx *bbolt.Tx) error {
	if a.layout != projectionLayout {
		return nil // about to be rebuilt
	}
	err := tx.Bucket(bucketFields).ForEach(func(k, record []byte) error {
		var op Op
		if err := op.UnmarshalBinary(record); err != nil {
			return fmt.Errorf("field %.40q: %w", k, err)
		}
		if op.Key != string(k) {
			return fmt.Errorf("field %.40q holds %.40q: %w", k, op.Key, errRecord)
		}
		a.fields++
		return nil
	})
	if err != nil {
		return err
	}
	counts, err := numbers(tx.Bucket(bucketMeta), metaCounts, 2)
	if err != nil {
		return err
	}
	if counts[0] != a.fields {
		return fmt.Errorf("%d fields, want %d", a.fields, counts[0])
	}
	return nil
}

// compactStep bounds the operations that one transaction of Compact looks at.
const compactStep = 2048

// Compact removes from this origin's log what no longer matters up to and including sequence upTo: operations whose field
// has a later value, and deletions. What is left still rebuilds the same projection. Ops before upTo is then refused.
//
// Deletions of one log may only go when no other log holds an older value of the field, so with a second origin in the file
// they stay.
func (s *Store) Compact(ctx context.Context, upTo uint64) error {
	upTo = min(upTo, s.LastSeq())
	for more := true; more; {
		r := &request{done: make(chan error, 1), step: func(tx *bbolt.Tx) (err error) {
			more, err = compact(tx, s.origin, upTo)
			return err
		}}
		if err := s.submit(ctx, r); err != nil {
			return fmt.Errorf("compact: %w", err)
		}
	}
	return nil
}

func compact(tx *bbolt.Tx, origin string, upTo uint64) (more bool, err error) {
	t, err := begin(tx, origin, 0)
	if err != nil {
		return false, err
	}
	floor, err := t.floor(origin)
	if err != nil || floor >= upTo {
		return false, err
	}
	alone := true
	if err := t.logs.ForEachBucket(func(k []byte) error { alone = alone && string(k) == origin; return nil }); err != nil {
		return false, err
	}
	var gone []Op
	c, seen := t.own.Cursor(), 0
	for k, record := c.Seek(seqKey(floor + 1)); k != nil; k, record = c.Next() {
		if seq := binary.BigEndian.Uint64(k); seq > upTo {
			break
		}
		if seen++; seen > compactStep {
			more = true
			break
		}
		var op Op
		if err := op.UnmarshalBinary(record); err != nil {
			return false, err
		}
		floor = op.Seq
		current, err := t.current(op.Key)
		if err != nil {
			return false, err
		}
		winner := current != nil && current.Origin == op.Origin && current.Seq == op.Seq
		if !winner || op.Delete && alone {
			op.Delete = op.Delete && winner
			gone = append(gone, op)
		}
	}
	for _, op := range gone {
		if err := t.own.Delete(seqKey(op.Seq)); err != nil {
			return false, err
		}
		t.recordCount--
		if op.Delete {
			if err := t.fields.Delete([]byte(op.Key)); err != nil {
				return false, err
			}
			t.fieldCount--
		}
	}
	if !more {
		floor = upTo
	}
	return more, errors.Join(writeFloor(t.meta, origin, floor), putNumbers(t.meta, metaCounts, t.fieldCount, t.recordCount))
}

// housekeep forgets what is older than the retention. It runs in the committer, does one step and tells whether there may
// be more to do.
func (s *Store) housekeep() (more bool) {
	upTo, full, err := s.expired(StampAt(time.Now().Add(-s.retention)))
	if err != nil {
		s.log.Error("log not compacted", "err", err)
		return false
	}
	if upTo == 0 || s.Err() != nil {
		return false
	}
	r := &request{done: make(chan error, 1), step: func(tx *bbolt.Tx) error { _, err := compact(tx, s.origin, upTo); return err }}
	s.commit([]*request{r})
	if err := <-r.done; err != nil {
		s.log.Error("log not compacted", "err", err)
		return false
	}
	return full
}

// expired finds the last operation, at most one step away, that is not younger than bound; 0 when there is none.
func (s *Store) expired(bound Stamp) (upTo uint64, full bool, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		floor, err := readFloor(tx.Bucket(bucketMeta), s.origin)
		if err != nil {
			return err
		}
		c, seen := tx.Bucket(bucketLog).Bucket([]byte(s.origin)).Cursor(), 0
		for k, record := c.Seek(seqKey(floor + 1)); k != nil; k, record = c.Next() {
			var op Op
			if err := op.UnmarshalBinary(record); err != nil {
				return err
			}
			if op.Stamp > bound {
				return nil
			}
			upTo = op.Seq
			if seen++; seen == compactStep {
				full = true
				return nil
			}
		}
		return nil
	})
	return upTo, full, err
}
