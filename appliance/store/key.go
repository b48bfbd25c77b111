package store

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// Bounds of what is stored.
const (
	MaxKey        = 256       // bytes of a key
	MaxValue      = 64 << 10  // bytes of a value; larger things are files named by their content
	MaxGroup      = 4096      // operations of one Write
	MaxGroupBytes = 8 << 20   // bytes of one Write
	maxOrigin     = 96        // bytes of an origin
	maxBatchBytes = 16 << 20  // bytes of one commit
	maxQueue      = 256       // groups that wait for a commit; further writers wait to enter
	scanChunk     = 1024      // entries that Scan and Ops read in one transaction
	scanBytes     = 512 << 10 // and bytes
)

// ErrKey is wrapped by the error of a Write whose key, value or size is not allowed.
var ErrKey = errors.New("not a storable key or value")

// CheckKey tells whether key may be written: segments of printable text joined by slashes, none empty, 256 bytes at most.
func CheckKey(key string) error {
	if key == "" || len(key) > MaxKey {
		return fmt.Errorf("key %.40q has %d bytes, want 1 to %d: %w", key, len(key), MaxKey, ErrKey)
	}
	if !utf8.ValidString(key) {
		return fmt.Errorf("key %.40q is not UTF-8: %w", key, ErrKey)
	}
	last := rune('/')
	for _, r := range key {
		if r < 0x20 || r == 0x7f {
			return fmt.Errorf("key %.40q has a control character: %w", key, ErrKey)
		}
		if r == '/' && last == '/' {
			return fmt.Errorf("key %.40q has an empty segment: %w", key, ErrKey)
		}
		last = r
	}
	if last == '/' {
		return fmt.Errorf("key %.40q ends with a slash: %w", key, ErrKey)
	}
	return nil
}
