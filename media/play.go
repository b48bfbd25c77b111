package media

import (
	"context"
	"fmt"
	"sync"
	"time"

	"ringfence/internal/task"
)

// Source gives the sound of a Player: mono samples at 16 kHz. Read fills pcm, which holds 20 ms, and reports how many samples
// it gave; fewer than asked means that the sound is over. It is called from one goroutine and must not block.
type Source interface {
	Read(pcm []int16) int
}

const (
	frameTime    = 20 * time.Millisecond
	frameSamples = 320 // at 16 kHz
)

// Player sends one sound to any number of sessions. Each frame is encoded once per codec, however many listen. A player that
// nobody listens to stands still and costs nothing.
type Player struct {
	engine *Engine
	done   func() // called once when the sound is over; may be nil

	mu        sync.Mutex
	source    Source
	listeners map[*Session]struct{}
	over      bool

	// Of the pacer's goroutine.
	out  encodings
	list []*Session
}

// NewPlayer makes a player; done, if not nil, is called when the sound is over, from the engine's goroutine, and must not
// block.
func (e *Engine) NewPlayer(source Source, done func()) *Player {
	return &Player{engine: e, source: source, done: done, listeners: map[*Session]struct{}{}, out: newEncodings()}
}

// Play lets a session's party hear p instead of whatever it is bridged with; nil ends that. A party whose codec cannot be
// encoded here (CanPlay) hears nothing meanwhile.
func (s *Session) Play(p *Player) error {
	if p != nil && p.engine != s.engine {
		return fmt.Errorf("media: player of another engine")
	}
	s.engine.control.Lock()
	defer s.engine.control.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.playLocked(p)
	return nil
}

// playLocked is called with engine.control held.
func (s *Session) playLocked(p *Player) {
	if old := s.player; old != nil && old != p {
		old.mu.Lock()
		delete(old.listeners, s)
		empty := len(old.listeners) == 0
		old.mu.Unlock()
		if empty {
			s.engine.pacer.remove(old)
		}
	}
	s.player = p
	s.tx.Lock()
	s.tx.playing = p != nil || s.member != nil
	s.tx.Unlock()
	if p == nil {
		return
	}
	p.mu.Lock()
	over := p.over
	if !over {
		p.listeners[s] = struct{}{}
	}
	p.mu.Unlock()
	if !over {
		s.engine.pacer.add(p)
	}
}

// CanPlay tells whether the session's party agreed to a codec that sounds can be encoded in.
func (s *Session) CanPlay() bool {
	s.tx.Lock()
	defer s.tx.Unlock()
	return s.tx.playKind != playNothing
}

// setPlayable picks the payload type for sounds; tx is locked.
func (s *Session) setPlayable(formats []Format) { s.tx.playKind, s.tx.playPT = playFormat(formats) }

// playFormat is the first format that can be encoded here.
func playFormat(formats []Format) (kind, pt uint8) {
	for _, f := range formats {
		if k := playableOf(f); k != playNothing && f.PT < 128 {
			return k, f.PT
		}
	}
	return playNothing, 0
}

// tick sends the next frame to all listeners; false: nobody is left.
func (p *Player) tick(mem *scratch, now int64) bool {
	p.mu.Lock()
	p.list = p.list[:0]
	for s := range p.listeners {
		p.list = append(p.list, s)
	}
	p.mu.Unlock()
	if len(p.list) == 0 {
		return false
	}
	n := p.source.Read(p.out.pcm[:])
	clear(p.out.pcm[n:])
	p.out.ready(playNothing)
	for _, s := range p.list {
		s.sendFrame(p, &p.out, mem, now)
	}
	clear(p.list)
	if n == frameSamples {
		return true
	}
	p.mu.Lock()
	p.over = true
	clear(p.listeners)
	p.mu.Unlock()
	if p.done != nil {
		_ = task.Guard(p.engine.log, "end of a sound", p.done)
	}
	return false
}

// unused is for the pacer.
func (p *Player) unused() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.listeners) == 0
}

// paced is what needs a frame every 20 ms: players and mixers.
type paced interface {
	tick(mem *scratch, now int64) bool // false: nobody is left who listens
	unused() bool
}

// pacer is the clock of an engine.
type pacer struct {
	engine *Engine
	wake   chan struct{}

	mu      sync.Mutex
	players map[paced]struct{}
	list    []paced
}

func newPacer(e *Engine) *pacer {
	return &pacer{engine: e, wake: make(chan struct{}, 1), players: map[paced]struct{}{}}
}

func (c *pacer) add(p paced) {
	c.mu.Lock()
	c.players[p] = struct{}{}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *pacer) remove(p paced) {
	c.mu.Lock()
	delete(c.players, p)
	c.mu.Unlock()
}

func (c *pacer) empty() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.players) == 0
}

// run lets every player and mixer send a frame each 20 ms. It keeps to the schedule: a late tick is made up for, unless so late that
// phones have heard the gap already.
func (c *pacer) run(ctx context.Context) {
	mem := new(scratch)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if c.empty() {
			select {
			case <-ctx.Done():
				return
			case <-c.wake:
				continue
			}
		}
		for next := time.Now(); !c.empty(); {
			c.tick(mem)
			next = next.Add(frameTime)
			wait := time.Until(next)
			if wait < -5*frameTime {
				next, wait = time.Now(), 0
			}
			timer.Reset(max(wait, 0))
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
		}
	}
}

func (c *pacer) tick(mem *scratch) {
	c.mu.Lock()
	c.list = c.list[:0]
	for p := range c.players {
		c.list = append(c.list, p)
	}
	c.mu.Unlock()
	now := c.engine.now()
	for _, p := range c.list {
		on := false
		_ = task.Guard(c.engine.log, "player", func() { on = p.tick(mem, now) })
		if !on {
			c.settle(p)
		}
	}
	clear(c.list)
}

// settle takes a player or mixer off the clock, unless somebody has begun to listen meanwhile.
func (c *pacer) settle(p paced) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.unused() {
		delete(c.players, p)
	}
}
