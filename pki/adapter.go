package pki

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/smallstep/nosql/database"
)

// table is the CA engine's database over a State: the row key of a table t is the field "pki/db/t/key".
//
// It satisfies database.DB of smallstep/nosql.
type table struct {
	state State
	mu    sync.Mutex // serialises what reads before it writes
}

// writeTimeout bounds one write: the engine's interface carries no context.
const writeTimeout = 10 * time.Second

func (t *table) Open(string, ...database.Option) error { return nil }
func (t *table) Close() error                          { return nil }

// CreateTable does nothing: a table is a prefix.
func (t *table) CreateTable([]byte) error { return nil }

// DeleteTable deletes every row.
func (t *table) DeleteTable(bucket []byte) error {
	var keys []string
	t.state.Scan(t.prefix(bucket), func(k string, _ []byte) bool { keys = append(keys, k); return true })
	return t.write(nil, keys)
}

func (t *table) prefix(bucket []byte) string { return "pki/db/" + fieldText(bucket) + "/" }

func (t *table) key(bucket, key []byte) string { return t.prefix(bucket) + fieldText(key) }

// fieldText makes a row key fit to stand between slashes: as it is if harmless, else a tilde and hexadecimal digits.
func fieldText(b []byte) string {
	plain := len(b) > 0
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '.', c == '_', c == '-':
		default:
			plain = false
		}
	}
	if plain {
		return string(b)
	}
	return "~" + hex.EncodeToString(b)
}

func fieldBytes(s string) ([]byte, error) {
	if h, ok := strings.CutPrefix(s, "~"); ok {
		return hex.DecodeString(h)
	}
	return []byte(s), nil
}

func (t *table) write(set map[string][]byte, del []string) error {
	if len(set) == 0 && len(del) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	return t.state.Write(ctx, set, del...)
}

func (t *table) Get(bucket, key []byte) ([]byte, error) {
	v, ok := t.state.Get(t.key(bucket, key))
	if !ok {
		return nil, database.ErrNotFound
	}
	return bytes.Clone(v), nil
}

func (t *table) Set(bucket, key, value []byte) error {
	return t.write(map[string][]byte{t.key(bucket, key): value}, nil)
}

func (t *table) Del(bucket, key []byte) error {
	return t.write(nil, []string{t.key(bucket, key)})
}

func (t *table) List(bucket []byte) ([]*database.Entry, error) {
	var rows []*database.Entry
	var bad error
	prefix := t.prefix(bucket)
	t.state.Scan(prefix, func(k string, v []byte) bool {
		var key []byte
		if key, bad = fieldBytes(strings.TrimPrefix(k, prefix)); bad != nil {
			return false
		}
		rows = append(rows, &database.Entry{Bucket: bucket, Key: key, Value: bytes.Clone(v)})
		return true
	})
	return rows, bad
}

// CmpAndSwap writes newValue if the row holds oldValue; nil stands for no row.
func (t *table) CmpAndSwap(bucket, key, oldValue, newValue []byte) ([]byte, bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.key(bucket, key)
	if current, _ := t.state.Get(k); !bytes.Equal(current, oldValue) {
		return bytes.Clone(current), false, nil
	}
	if err := t.write(map[string][]byte{k: newValue}, nil); err != nil {
		return nil, false, err
	}
	return newValue, true, nil
}

// Update does several commands as one group. Reads see the state before the group.
func (t *table) Update(tx *database.Tx) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	set, gone := make(map[string][]byte), make(map[string]bool)
	put := func(k string, v []byte) { set[k] = v; delete(gone, k) }
	for _, q := range tx.Operations {
		k := t.key(q.Bucket, q.Key)
		switch q.Cmd {
		case database.CreateTable:
		case database.Get:
			v, ok := t.state.Get(k)
			if !ok {
				return database.ErrNotFound
			}
			q.Result = bytes.Clone(v)
		case database.Set:
			put(k, q.Value)
		case database.Delete:
			delete(set, k)
			gone[k] = true
		case database.CmpAndSwap:
			current, _ := t.state.Get(k)
			if q.Swapped = bytes.Equal(current, q.CmpValue); q.Swapped {
				put(k, q.Value)
				q.Result = q.Value
			} else {
				q.Result = bytes.Clone(current)
			}
		default:
			return fmt.Errorf("pki: database command %s: %w", q.Cmd, database.ErrOpNotSupported)
		}
	}
	return t.write(set, slices.Sorted(maps.Keys(gone)))
}

// batch is a State whose writes wait, so that rows of the engine and fields of ours become one group.
type batch struct {
	State
	set map[string][]byte
	del []string
}

func newBatch(s State) *batch { return &batch{State: s, set: make(map[string][]byte)} }

// Write collects.
func (b *batch) Write(_ context.Context, set map[string][]byte, del ...string) error {
	for k, v := range set {
		b.set[k] = v
	}
	b.del = append(b.del, del...)
	return nil
}

// commit writes the group.
func (b *batch) commit(ctx context.Context) error { return b.State.Write(ctx, b.set, b.del...) }
