package phone

import (
	"maps"
	"slices"
	"strings"
)

// memory is a Local without a disk.
type memory map[string]map[string][]byte

func (m memory) Get(bucket, key string) ([]byte, bool) { v, ok := m[bucket][key]; return v, ok }
func (m memory) Delete(bucket, key string)             { delete(m[bucket], key) }
func (m memory) Put(bucket, key string, value []byte) {
	if m[bucket] == nil {
		m[bucket] = map[string][]byte{}
	}
	m[bucket][key] = value
}
func (m memory) Scan(bucket, prefix string, fn func(string, []byte) bool) {
	for _, k := range slices.Sorted(maps.Keys(m[bucket])) {
		if strings.HasPrefix(k, prefix) && !fn(k, m[bucket][k]) {
			return
		}
	}
}
