package capf

import (
	"net/netip"
	"sync"
	"time"
)

// Wrong codes and proofs: 5 in 10 minutes, per device and per address (§6.1).
const (
	guessLimit   = 5
	guessWindow  = 10 * time.Minute
	guessEntries = 8192 // devices and addresses remembered; beyond it the one that has been quiet longest is forgotten
)

// guesses counts failures.
type guesses struct {
	mu    sync.Mutex
	table map[string][]time.Time // at most guessLimit times each, oldest first
}

func newGuesses() *guesses { return &guesses{table: make(map[string][]time.Time)} }

// keys of a failure. An IPv6 host owns its /64.
func guessKeys(device string, peer netip.Addr) [2]string {
	peer = peer.Unmap()
	if peer.Is6() {
		if p, err := peer.Prefix(64); err == nil {
			peer = p.Addr()
		}
	}
	return [2]string{"device " + device, "address " + peer.String()}
}

// allowed reports whether a further proof is looked at.
func (g *guesses) allowed(device string, peer netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	since := time.Now().Add(-guessWindow)
	for _, k := range guessKeys(device, peer) {
		times := g.table[k]
		for len(times) > 0 && times[0].Before(since) {
			times = times[1:]
		}
		if len(times) == 0 {
			delete(g.table, k)
		} else {
			g.table[k] = times
		}
		if len(times) >= guessLimit {
			return false
		}
	}
	return true
}

// failed counts a failure.
func (g *guesses) failed(device string, peer netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for _, k := range guessKeys(device, peer) {
		times, known := g.table[k]
		if !known && len(g.table) >= guessEntries {
			g.forgetLocked()
		}
		if len(times) >= guessLimit {
			times = times[1:]
		}
		g.table[k] = append(append(make([]time.Time, 0, guessLimit), times...), now)
	}
}

// forgetLocked drops the entry whose last failure is oldest. The caller holds mu.
func (g *guesses) forgetLocked() {
	var oldest string
	var at time.Time
	for k, times := range g.table {
		if last := times[len(times)-1]; oldest == "" || last.Before(at) {
			oldest, at = k, last
		}
	}
	delete(g.table, oldest)
}

// succeeded forgets the failures of a device, not those of an address, which others may share.
func (g *guesses) succeeded(device string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.table, "device "+device)
}
