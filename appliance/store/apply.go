package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"go.etcd.io/bbolt"
)

// The file: bucket meta (each value with a checksum), bucket log with one bucket per origin (sequence, 8 bytes big-endian,
// to operation), bucket fields (key to the operation that won, the projection).
//
// A release may add fields to operations and keys to meta (minor format). What the previous release could not read is not
// done; should it ever be unavoidable, the major format goes up and older releases refuse the file with ErrNewer. Another
// layout of the projection is no change of format: whoever finds a layout that is not his own rebuilds it from the log.
const (
	formatMajor      = 1
	formatMinor      = 0
	projectionLayout = 1
)

var (
	bucketMeta   = []byte("meta")
	bucketLog    = []byte("log")
	bucketFields = []byte("fields")

	metaFormat = []byte("format") // major, minor
	metaLayout = []byte("layout") // of the projection
	metaOrigin = []byte("origin") // ours
	metaCounts = []byte("counts") // fields, records
	metaFloor  = []byte("floor/") // + origin: up to this sequence superseded operations are gone from the log
	errRecord  = errors.New("record unreadable")
)

// txn is one write transaction on the buckets.
type txn struct {
	meta, logs, own, fields *bbolt.Bucket

	origin      string
	seq         uint64
	fieldCount  uint64
	recordCount uint64
	floors      map[string]uint64
}

func begin(tx *bbolt.Tx, origin string, seq uint64) (*txn, error) {
	t := &txn{
		meta: tx.Bucket(bucketMeta), logs: tx.Bucket(bucketLog), fields: tx.Bucket(bucketFields),
		origin: origin, seq: seq, floors: map[string]uint64{},
	}
	t.own = t.logs.Bucket([]byte(origin))
	// Operations only ever come at the end of the log, so its pages need no room in their middle.
	t.own.FillPercent = 0.95
	return t, t.reload()
}

func (t *txn) reload() error {
	n, err := numbers(t.meta, metaCounts, 2)
	if err != nil {
		return err
	}
	t.fieldCount, t.recordCount = n[0], n[1]
	return nil
}

func (t *txn) finish() error {
	return errors.Join(t.own.SetSequence(t.seq), putNumbers(t.meta, metaCounts, t.fieldCount, t.recordCount))
}

// write makes the operations of one group and applies them.
func (t *txn) write(c *clock, group []change, now time.Time) ([]Change, error) {
	ops := make([]Op, 0, len(group))
	for i, ch := range group {
		if i > 0 && group[i-1].key == ch.key {
			continue // deleted twice in one group
		}
		current, err := t.current(ch.key)
		if err != nil {
			return nil, err
		}
		if ch.delete && (current == nil || current.Delete) {
			continue
		}
		op := Op{Origin: t.origin, Stamp: c.tick(now), Key: ch.key, Value: ch.value, Delete: ch.delete}
		if current != nil {
			op.Previous = current.Version()
			// The other side's clock may run a little ahead of ours; a change made in sight of its value still comes later.
			if !op.Version().After(op.Previous) {
				c.last = op.Previous.Stamp
				op.Stamp = c.tick(now)
			}
		}
		ops = append(ops, op)
	}
	made := make([]Change, 0, len(ops))
	for i := range ops {
		op := &ops[i]
		t.seq++
		op.Seq, op.More = t.seq, uint32(len(ops)-1-i)
		if _, err := t.apply(op); err != nil {
			return nil, err
		}
		made = append(made, Change{Key: op.Key, Value: op.Value, Deleted: op.Delete, Version: op.Version()})
	}
	return made, nil
}

// apply is the one way into the file, for operations of every origin: append to the origin's log, then let the higher
// version have the field. It tells whether op won. The loser stays in the log.
func (t *txn) apply(op *Op) (won bool, err error) {
	record, err := op.MarshalBinary()
	if err != nil {
		return false, fmt.Errorf("operation %d: %w", op.Seq, err)
	}
	log := t.own
	if op.Origin != t.origin {
		if log, err = t.logs.CreateBucketIfNotExists([]byte(op.Origin)); err != nil {
			return false, err
		}
	}
	if err := log.Put(seqKey(op.Seq), record); err != nil {
		return false, err
	}
	t.recordCount++
	current, err := t.current(op.Key)
	if err != nil {
		return false, err
	}
	if current != nil && !op.Version().After(current.Version()) {
		return false, nil
	}
	if current == nil {
		t.fieldCount++
	} else if err := t.forget(current); err != nil {
		return false, err
	}
	return true, t.fields.Put([]byte(op.Key), record)
}

// forget removes an operation that has just been superseded from the compacted part of the log; nobody can ask for it.
func (t *txn) forget(op *Op) error {
	floor, err := t.floor(op.Origin)
	if err != nil || op.Seq > floor {
		return err
	}
	t.recordCount--
	return t.logs.Bucket([]byte(op.Origin)).Delete(seqKey(op.Seq))
}

func (t *txn) floor(origin string) (uint64, error) {
	if floor, ok := t.floors[origin]; ok {
		return floor, nil
	}
	floor, err := readFloor(t.meta, origin)
	if err == nil {
		t.floors[origin] = floor
	}
	return floor, err
}

func (t *txn) current(key string) (*Op, error) {
	record := t.fields.Get([]byte(key))
	if record == nil {
		return nil, nil
	}
	op := new(Op)
	if err := op.UnmarshalBinary(record); err != nil {
		return nil, fmt.Errorf("field %s: %w", key, err)
	}
	return op, nil
}

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 0, 8), seq) }

func putMeta(b *bbolt.Bucket, key, value []byte) error {
	v := append([]byte{}, value...)
	return b.Put(key, binary.LittleEndian.AppendUint32(v, crc32.Checksum(v, castagnoli)))
}

// getMeta returns nil without error when key is absent.
func getMeta(b *bbolt.Bucket, key []byte) ([]byte, error) {
	raw := b.Get(key)
	if raw == nil {
		return nil, nil
	}
	v, err := checkSum(raw)
	if err != nil {
		return nil, fmt.Errorf("meta %s: %w", key, err)
	}
	return append([]byte{}, v...), nil
}

func putNumbers(b *bbolt.Bucket, key []byte, ns ...uint64) error {
	var v []byte
	for _, n := range ns {
		v = binary.AppendUvarint(v, n)
	}
	return putMeta(b, key, v)
}

// numbers reads count numbers; a later release may have put more behind them.
func numbers(b *bbolt.Bucket, key []byte, count int) ([]uint64, error) {
	v, err := getMeta(b, key)
	if err != nil {
		return nil, err
	}
	ns := make([]uint64, 0, count)
	for range count {
		n, size := uvarint(v)
		if size <= 0 {
			return nil, fmt.Errorf("meta %s: %w", key, errRecord)
		}
		ns, v = append(ns, n), v[size:]
	}
	return ns, nil
}

func readFloor(meta *bbolt.Bucket, origin string) (uint64, error) {
	key := append(append([]byte{}, metaFloor...), origin...)
	if meta.Get(key) == nil {
		return 0, nil
	}
	n, err := numbers(meta, key, 1)
	if err != nil {
		return 0, err
	}
	return n[0], nil
}

func writeFloor(meta *bbolt.Bucket, origin string, floor uint64) error {
	return putNumbers(meta, append(append([]byte{}, metaFloor...), origin...), floor)
}
