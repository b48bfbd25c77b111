package store

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Reader is the reading half of a Store.
type Reader interface {
	Get(key string) ([]byte, bool)
}

// Field is a family of keys, PREFIX/NAME or PREFIX/NAME/SUFFIX, whose values are of one type. It makes the group for a
// Write and reads values back; a value that a later release wrote otherwise is an error, not a zero.
type Field[T any] struct {
	prefix, suffix string
	encode         func(T) ([]byte, error)
	decode         func([]byte) (T, error)
}

// TextField is a family of texts.
func TextField(prefix, suffix string) Field[string] {
	return Field[string]{prefix, suffix,
		func(v string) ([]byte, error) { return []byte(v), nil },
		func(b []byte) (string, error) { return string(b), nil }}
}

// BoolField is a family of switches, stored as true or false.
func BoolField(prefix, suffix string) Field[bool] {
	return Field[bool]{prefix, suffix,
		func(v bool) ([]byte, error) { return strconv.AppendBool(nil, v), nil },
		func(b []byte) (bool, error) { return strconv.ParseBool(string(b)) }}
}

// JSONField is a family of small records. It is for values that change as a whole; what changes apart gets fields apart.
func JSONField[T any](prefix, suffix string) Field[T] {
	return Field[T]{prefix, suffix,
		func(v T) ([]byte, error) { return json.Marshal(v) },
		func(b []byte) (v T, err error) { err = json.Unmarshal(b, &v); return v, err }}
}

// Key is the key of name.
func (f Field[T]) Key(name string) string {
	if f.suffix == "" {
		return f.prefix + "/" + name
	}
	return f.prefix + "/" + name + "/" + f.suffix
}

// Name is the inverse of Key.
func (f Field[T]) Name(key string) (string, bool) {
	name, ok := strings.CutPrefix(key, f.prefix+"/")
	if ok && f.suffix != "" {
		name, ok = strings.CutSuffix(name, "/"+f.suffix)
	}
	return name, ok && name != "" && !strings.Contains(name, "/")
}

// Get reads the value of name.
func (f Field[T]) Get(r Reader, name string) (v T, ok bool, err error) {
	b, ok := r.Get(f.Key(name))
	if !ok {
		return v, false, nil
	}
	if v, err = f.decode(b); err != nil {
		return v, false, fmt.Errorf("stored %s: %w", f.Key(name), err)
	}
	return v, true, nil
}

// Put adds the value of name to the group set.
func (f Field[T]) Put(set map[string][]byte, name string, v T) error {
	b, err := f.encode(v)
	if err != nil {
		return fmt.Errorf("store %s: %w", f.Key(name), err)
	}
	set[f.Key(name)] = b
	return nil
}
