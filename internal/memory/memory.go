// Package memory keeps what the process holds near what it needs. Nearly all of that is held for phones that do nothing, so a
// daemon that has served a load must become as small again as it was (docs/performance.md).
//
// It does two things that the runtime leaves to its user. The room for garbage is what suits the size: a small heap gets at
// least MinRoom, so that collections are rare where they would save little, a large one half of what lives. And when a load is
// over, the pages that were needed only during it go back to the kernel at once; by itself the runtime keeps them for many
// minutes.
package memory

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// MinRoom is how much garbage may lie around in a small process before it is collected.
const MinRoom = 12 << 20

// Limits of the room, in percent of what lives.
const (
	leastPercent = 50
	mostPercent  = 300
)

// every is how often the policy looks.
const every = time.Second

// sample is what a look finds, in bytes.
type sample struct {
	live      uint64 // after the last collection, stacks and globals included: what the runtime's percentage counts from
	free      uint64 // pages that are neither used nor given back
	garbage   uint64 // at most; it may be alive
	allocated uint64 // since the start
}

// policy decides. It has no clock and no effects of its own.
type policy struct {
	percent   int
	allocated uint64
	started   bool
	peak      uint64 // bytes allocated in the busiest look since the last release
	quiet     int    // looks since then that were much calmer than that
}

// decision is what to do now; percent 0 leaves the room as it is.
type decision struct {
	percent int
	release bool
}

func (p *policy) look(s sample) (d decision) {
	want := min(max(100*MinRoom/max(s.live, 1), leastPercent), mostPercent)
	if now := uint64(p.percent); want > now+now/8 || want < now-now/8 {
		p.percent = int(want)
		d.percent = p.percent
	}
	rate := s.allocated - p.allocated
	p.allocated = s.allocated
	if !p.started {
		p.started = true
		return d
	}
	if rate*4 > p.peak {
		p.peak, p.quiet = max(p.peak, rate), 0
		return d
	}
	// Pages are worth a collection when there are many of them for the size of the process.
	if p.quiet++; p.quiet >= 2 && s.free+s.garbage > s.live/5+MinRoom/2 {
		p.peak, p.quiet = rate, 0
		d.release = true
	}
	return d
}

// Keep applies the policy until ctx ends.
func Keep(ctx context.Context) {
	var p policy
	t := time.NewTicker(every)
	defer t.Stop()
	names := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/allocs:bytes"},
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		metrics.Read(names)
		v := func(i int) uint64 { return names[i].Value.Uint64() }
		s := sample{live: v(0) + v(1) + v(2), free: v(3), allocated: v(5)}
		if v(4) > v(0) {
			s.garbage = v(4) - v(0)
		}
		d := p.look(s)
		if d.percent > 0 {
			debug.SetGCPercent(d.percent)
		}
		if d.release {
			runtime.GC() // a collection halves stacks that have grown; the next one is in FreeOSMemory
			debug.FreeOSMemory()
		}
	}
}
