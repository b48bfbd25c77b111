// Package media carries voice: RTP and RTCP sockets, SRTP, and the relay between two parties. It implements RFC 3550 (RTP,
// reports), RFC 3711 and RFC 7714 (SRTP with the four suites that SDES names), the media half of "sip-calls" §27, §28 and
// §30, and "libraries" Media.
//
// An Engine owns the port range and a few workers. A Session is one stream of one party: a pair of local ports, the address
// of the party, keys, payload types and direction, all of it neutral parameters that its user learnt from whatever
// signalling it speaks. Bridge joins two sessions; from then on packets go from one to the other without waking anyone else.
//
// The relay is built for legs that carry one packet every 20 ms: each worker has one epoll set, from which it reads one
// datagram per event without blocking and sends it on at once, without allocating; under load it looks there in short beats, and the
// packets of a beat are read and sent in one system call each. What leaves a session always has the
// session's own SSRC and one unbroken sequence, whoever is the source at the moment; so a transfer, music or a tone never
// looks like a new stream to the phone, and RTCP is answered here and not passed through.
//
// Sounds of our own (Player) and rooms of many parties (Mixer) are made by one clock per engine; there payloads are decoded and
// encoded, which the relay never does.
//
// It leaves out platforms other than Linux.
package media

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"ringfence/internal/task"
)

var (
	// ErrNoPorts is returned when every pair of the port range is in use.
	ErrNoPorts = errors.New("no free media port")
	// ErrClosed is returned for a session or engine that was closed.
	ErrClosed = errors.New("media closed")
)

// Options configure an Engine.
type Options struct {
	Address     netip.Addr // local address of all sockets; unspecified addresses are fine
	First, Last uint16     // range of ports, First even; an RTP port is even, its RTCP port the next
	Workers     int        // loops that relay; 0 is one per CPU
	// Quality, if not nil, is told of each session's quality whenever it sends its RTCP report, and at its end. It is called from the
	// engine's goroutines and must not block.
	Quality     func(QualityReport)
	ReportEvery time.Duration // mean interval of RTCP reports; 0 is 5 s (RFC 3550 §6.2)
	Log         *slog.Logger  // may be nil
}

func (o *Options) validate() error {
	if !o.Address.IsValid() {
		return errors.New("media: no local address")
	}
	if o.First%2 != 0 || o.First < 2 || o.Last <= o.First {
		return fmt.Errorf("media: port range %d-%d must begin with an even port and hold a pair", o.First, o.Last)
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.ReportEvery <= 0 {
		o.ReportEvery = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Engine owns ports, workers and sessions.
type Engine struct {
	opts    Options
	log     *slog.Logger
	base    time.Time // origin of the engine's clock
	workers []*worker
	pacer   *pacer
	group   *task.Group
	socks   []atomic.Pointer[endpoint] // by local port minus Options.First; how a worker finds the owner of an event

	// control serialises changes of bridges and formats, which concern two sessions at once. It is never held while a
	// packet is handled, and is taken before any session's own locks.
	control sync.Mutex

	ports struct {
		sync.Mutex
		free []uint16 // even ports, the longest unused first
	}
	state struct {
		sync.Mutex
		started, stopped bool
		sessions         map[*Session]struct{}
	}
}

// New makes an engine; Start sets it to work. Sessions may be made before.
func New(o Options) (*Engine, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	e := &Engine{opts: o, log: o.Log.With("component", "media"), base: time.Now()}
	e.socks = make([]atomic.Pointer[endpoint], int(o.Last)-int(o.First)+1)
	for p := int(o.First); p+1 <= int(o.Last); p += 2 {
		e.ports.free = append(e.ports.free, uint16(p))
	}
	rand.Shuffle(len(e.ports.free), func(i, j int) {
		e.ports.free[i], e.ports.free[j] = e.ports.free[j], e.ports.free[i]
	})
	e.state.sessions = make(map[*Session]struct{})
	e.pacer = newPacer(e)
	e.group = task.NewGroup(context.Background(), e.log)
	for range o.Workers {
		w, err := newWorker(e)
		if err != nil {
			for _, w := range e.workers {
				w.close()
			}
			return nil, fmt.Errorf("media: make worker: %w", err)
		}
		e.workers = append(e.workers, w)
	}
	return e, nil
}

// Start starts the workers. It may be called once more without effect.
func (e *Engine) Start() {
	e.state.Lock()
	defer e.state.Unlock()
	if e.state.started || e.state.stopped {
		return
	}
	e.state.started = true
	for _, w := range e.workers {
		e.group.Go("media worker", w.run)
	}
	e.group.Go("media pacer", e.pacer.run)
}

// Stop closes every session and ends the workers. It may be called at any time, and again.
func (e *Engine) Stop() {
	e.state.Lock()
	if e.state.stopped {
		e.state.Unlock()
		return
	}
	e.state.stopped = true
	sessions := make([]*Session, 0, len(e.state.sessions))
	for s := range e.state.sessions {
		sessions = append(sessions, s)
	}
	e.state.Unlock()
	for _, s := range sessions {
		s.Close()
	}
	for _, w := range e.workers {
		w.stop()
	}
	e.group.Stop()
	for _, w := range e.workers {
		w.close()
	}
}

// now is the engine's clock in nanoseconds.
func (e *Engine) now() int64 { return int64(time.Since(e.base)) }

// Totals are counters of the whole engine.
type Totals struct {
	Sessions  int    // open now
	FreePorts int    // pairs left
	Packets   uint64 // datagrams read
	Relayed   uint64 // packets sent on to another session
	Steady    int    // workers that look for packets in beats, since there are so many
}

// Totals returns the counters of the engine.
func (e *Engine) Totals() Totals {
	var t Totals
	e.state.Lock()
	t.Sessions = len(e.state.sessions)
	e.state.Unlock()
	e.ports.Lock()
	t.FreePorts = len(e.ports.free)
	e.ports.Unlock()
	for _, w := range e.workers {
		t.Packets += w.packets.Load()
		t.Relayed += w.relayed.Load()
		if w.steady.Load() {
			t.Steady++
		}
	}
	return t
}

// takePort hands out an even port. The order is random, and a port just released comes last, so that late packets of an old
// call do not reach a new one.
func (e *Engine) takePort() (uint16, bool) {
	e.ports.Lock()
	defer e.ports.Unlock()
	n := len(e.ports.free)
	if n == 0 {
		return 0, false
	}
	// Any of the older half: unpredictable for an attacker, yet never one of the most recently used.
	i := rand.IntN((n + 1) / 2)
	p := e.ports.free[i]
	e.ports.free[i] = e.ports.free[0]
	e.ports.free = e.ports.free[1:]
	return p, true
}

func (e *Engine) givePort(p uint16) {
	e.ports.Lock()
	e.ports.free = append(e.ports.free, p)
	e.ports.Unlock()
}
