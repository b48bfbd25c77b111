package media

import (
	"context"
	"fmt"
	"sync"
	"time"

	"ringfence/internal/task"
	"ringfence/media/codec"
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
	packet packet
	pcm    [frameSamples]int16
	pcm8   []int16
	down   codec.Downsampler
	g722   *codec.G722Encoder
	frames [playable][]byte
	fresh  [playable]bool
	list   []*Session
}

// The codecs that sounds can be encoded in; index of Player.frames.
const (
	playNothing = iota
	playULaw
	playALaw
	playG722
	playable
)

func playableOf(f Format) uint8 {
	switch {
	case f.same(Format{Name: "PCMU", Rate: 8000}):
		return playULaw
	case f.same(Format{Name: "PCMA", Rate: 8000}):
		return playALaw
	case f.same(Format{Name: "G722", Rate: 8000}):
		return playG722
	}
	return playNothing
}

// NewPlayer makes a player; done, if not nil, is called when the sound is over, from the engine's goroutine, and must not
// block.
func (e *Engine) NewPlayer(source Source, done func()) *Player {
	return &Player{engine: e, source: source, done: done, listeners: map[*Session]struct{}{}, g722: codec.NewG722Encoder()}
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
	s.tx.playing = p != nil
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

// setPlayable picks the payload type for sounds, the first that the party accepts; tx is locked.
func (s *Session) setPlayable(formats []Format) {
	s.tx.playKind = playNothing
	for _, f := range formats {
		if k := playableOf(f); k != playNothing {
			s.tx.playKind, s.tx.playPT = k, f.PT
			return
		}
	}
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
	n := p.source.Read(p.pcm[:])
	clear(p.pcm[n:])
	p.fresh = [playable]bool{}
	p.pcm8 = p.down.Append(p.pcm8[:0], p.pcm[:])
	p.frames[playG722] = p.g722.Encode(p.frames[playG722][:0], p.pcm[:]) // always: its state must follow
	p.fresh[playG722] = true
	p.packet.seq++
	p.packet.timestamp += frameSamples / 2
	for _, s := range p.list {
		s.sendFrame(p, mem, now)
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

// frame encodes the frame at hand, once per codec.
func (p *Player) frame(kind uint8) []byte {
	if !p.fresh[kind] {
		p.fresh[kind] = true
		switch kind {
		case playULaw:
			p.frames[kind] = codec.EncodeULaw(p.frames[kind][:0], p.pcm8)
		case playALaw:
			p.frames[kind] = codec.EncodeALaw(p.frames[kind][:0], p.pcm8)
		}
	}
	return p.frames[kind]
}

// sendFrame sends the frame of a player to the party.
func (s *Session) sendFrame(p *Player, mem *scratch, now int64) {
	tx := &s.tx
	tx.Lock()
	defer tx.Unlock()
	if tx.closed || !tx.playing {
		return
	}
	if tx.muted || tx.target.len == 0 || tx.playKind == playNothing {
		tx.count.Muted++
		return
	}
	const rate = 8000
	payload := p.frame(tx.playKind)
	pk := p.packet
	pk.pt = tx.playPT
	pk, ok := tx.stream.renumber(pk, p, false, rate, now)
	if !ok {
		return
	}
	pk.offset = rtpHeaderLen
	copy(mem.in[rtpHeaderLen:], payload)
	tx.rate = rate
	s.sendLocked(mem, putHeader(mem.in[:rtpHeaderLen+len(payload)], pk, false), len(payload))
}

// pacer is the clock of all players of an engine.
type pacer struct {
	engine *Engine
	wake   chan struct{}

	mu      sync.Mutex
	players map[*Player]struct{}
	list    []*Player
}

func newPacer(e *Engine) *pacer {
	return &pacer{engine: e, wake: make(chan struct{}, 1), players: map[*Player]struct{}{}}
}

func (c *pacer) add(p *Player) {
	c.mu.Lock()
	c.players[p] = struct{}{}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *pacer) remove(p *Player) {
	c.mu.Lock()
	delete(c.players, p)
	c.mu.Unlock()
}

func (c *pacer) empty() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.players) == 0
}

// run sends a frame of every player each 20 ms. It keeps to the schedule: a late tick is made up for, unless so late that
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

// settle takes a player off the clock, unless somebody has begun to listen meanwhile.
func (c *pacer) settle(p *Player) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.listeners) == 0 {
		delete(c.players, p)
	}
}
