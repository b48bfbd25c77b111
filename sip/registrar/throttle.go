package registrar

import (
	"net/netip"
	"strings"
	"sync"
	"time"
)

// throttle counts failed digests in leaky buckets, per source and per source and account. What is full is refused without
// looking at the credentials; it empties with time. There is no bucket per account alone: a stranger could lock a phone out.
type throttle struct {
	mu      sync.Mutex
	buckets map[string]*bucket
	max     int
}

type bucket struct {
	level float64
	at    time.Time
}

// Sizes of the buckets and how fast they empty. An office behind one address has many phones; a phone has one password.
const (
	sourceFailures  = 60
	accountFailures = 10
	sourceDrain     = 2 * time.Second  // one failure of a source is forgotten in this time
	accountDrain    = 30 * time.Second // one of an account from that source
	maxBuckets      = 20000
)

func newThrottle() *throttle { return &throttle{buckets: make(map[string]*bucket), max: maxBuckets} }

func bucketKeys(from netip.Addr, account string) (source, both string) {
	from = from.Unmap()
	if from.Is6() {
		if p, err := from.Prefix(64); err == nil {
			source = p.String()
		}
	} else {
		source = from.String()
	}
	return source, source + " " + account
}

func (b *bucket) drained(now time.Time, drain time.Duration) float64 {
	return max(0, b.level-float64(now.Sub(b.at))/float64(drain))
}

// blocked reports whether attempts of account from there are refused now.
func (t *throttle) blocked(from netip.Addr, account string, now time.Time) bool {
	source, both := bucketKeys(from, account)
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.buckets[both]; b != nil && b.drained(now, accountDrain) >= accountFailures {
		return true
	}
	b := t.buckets[source]
	return b != nil && b.drained(now, sourceDrain) >= sourceFailures
}

// failed counts a wrong password; true when that filled a bucket.
func (t *throttle) failed(from netip.Addr, account string, now time.Time) bool {
	source, both := bucketKeys(from, account)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.buckets) >= t.max {
		t.sweepLocked(now)
	}
	full := t.addLocked(source, sourceFailures, sourceDrain, now)
	return t.addLocked(both, accountFailures, accountDrain, now) || full
}

func (t *throttle) addLocked(key string, size float64, drain time.Duration, now time.Time) bool {
	b := t.buckets[key]
	if b == nil {
		if len(t.buckets) >= t.max {
			return false // cannot be: failed made room
		}
		b = &bucket{}
		t.buckets[key] = b
	}
	before := b.drained(now, drain)
	b.level, b.at = min(before+1, size+1), now
	return before < size && b.level >= size
}

// succeeded forgets the failures of account from there.
func (t *throttle) succeeded(from netip.Addr, account string) {
	_, both := bucketKeys(from, account)
	t.mu.Lock()
	delete(t.buckets, both)
	t.mu.Unlock()
}

// sweepLocked drops what is empty, and if that is not enough everything about single accounts and a quarter of the sources.
// t.mu is held.
func (t *throttle) sweepLocked(now time.Time) {
	for k, b := range t.buckets {
		if b.drained(now, accountDrain) == 0 {
			delete(t.buckets, k)
		}
	}
	if len(t.buckets) < t.max {
		return
	}
	for k := range t.buckets {
		if strings.ContainsRune(k, ' ') || len(t.buckets) > t.max*3/4 {
			delete(t.buckets, k)
		}
	}
}
