// Package bounded keeps records that users make by a key from growing without end.
package bounded

// Scanner reads records in the order of their keys, which begin with the time.
type Scanner interface {
	Scan(prefix string, fn func(key string, value []byte) bool)
}

// Max is how many records of a kind are kept.
const Max = 1000

// Surplus names the oldest records that must go before another one is written.
func Surplus(s Scanner, prefix string, most int) []string {
	var keys []string
	s.Scan(prefix, func(key string, _ []byte) bool {
		keys = append(keys, key)
		return true
	})
	if n := len(keys) + 1 - most; n > 0 {
		return keys[:n]
	}
	return nil
}
