package media

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// Mixer lets any number of parties hear each other, each all the others and not itself. It mixes at 16 kHz. Parties that say
// nothing all hear the same, which is encoded once; who talks gets a mix of its own.
type Mixer struct {
	engine *Engine

	mu      sync.Mutex
	members map[*Member]struct{}
	tone    Source // played to all over the mix

	// Of the pacer's goroutine.
	list  []*Member
	total [frameSamples]int32
	beep  [frameSamples]int16
	all   encodings // what everybody hears who says nothing
}

// Member is a party of a Mixer.
type Member struct {
	session *Session
	mixer   *Mixer
	muted   atomic.Bool
	talking atomic.Bool

	// Of the pacer's goroutine, but for what the ear says itself.
	ear
	speech  int // frames of speech in a row
	silence int // frames without, in a row
	audible int // frames for which the party counts as audible yet
	own     encodings
	owns    bool // own is in use
	quiet   int  // frames since the party was last mixed
}

// NewMixer makes a mixer without parties. It costs nothing until the first comes.
func (e *Engine) NewMixer() *Mixer {
	return &Mixer{engine: e, members: map[*Member]struct{}{}, all: newEncodings()}
}

// Add makes a session's party a member. It leaves whatever it was bridged with or listened to.
func (m *Mixer) Add(s *Session) (*Member, error) {
	if s.engine != m.engine {
		return nil, fmt.Errorf("media: session of another engine")
	}
	m.engine.control.Lock()
	defer m.engine.control.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	s.partLocked()
	s.playLocked(nil)
	s.unmixLocked()
	b := &Member{session: s, mixer: m, ear: newEar(), own: newEncodings()}
	s.member = b
	s.rx.Lock()
	s.rx.sink = b
	s.rx.Unlock()
	s.tx.Lock()
	s.tx.playing = true
	s.tx.Unlock()
	m.mu.Lock()
	m.members[b] = struct{}{}
	m.mu.Unlock()
	m.engine.pacer.add(m)
	return b, nil
}

// Remove takes the party out; nobody hears it and it hears nothing.
func (b *Member) Remove() {
	b.mixer.engine.control.Lock()
	defer b.mixer.engine.control.Unlock()
	if b.session.member == b {
		b.session.unmixLocked()
	}
}

// unmixLocked is called with engine.control held.
func (s *Session) unmixLocked() {
	b := s.member
	if b == nil {
		return
	}
	s.member = nil
	s.rx.Lock()
	s.rx.sink = nil
	s.rx.Unlock()
	s.tx.Lock()
	s.tx.playing = s.player != nil
	s.tx.Unlock()
	b.mixer.mu.Lock()
	delete(b.mixer.members, b)
	b.mixer.mu.Unlock()
}

// Mute keeps the others from hearing the party.
func (b *Member) Mute(on bool) { b.muted.Store(on) }

// Muted tells whether it is muted.
func (b *Member) Muted() bool { return b.muted.Load() }

// Talking tells whether the party says something now, muted or not.
func (b *Member) Talking() bool { return b.talking.Load() }

// Play lets all parties hear a sound over the mix; one that plays already is replaced.
func (m *Mixer) Play(s Source) {
	m.mu.Lock()
	m.tone = s
	m.mu.Unlock()
}

// tick makes and sends one frame for everybody.
func (m *Mixer) tick(mem *scratch, now int64) bool {
	m.mu.Lock()
	m.list = m.list[:0]
	for b := range m.members {
		m.list = append(m.list, b)
	}
	tone := m.tone
	m.mu.Unlock()
	if len(m.list) == 0 {
		return false
	}
	clear(m.total[:])
	for _, b := range m.list {
		b.pull()
		b.listen()
		if b.mixed() {
			for i, s := range b.frame {
				m.total[i] += int32(s)
			}
		}
	}
	if tone != nil {
		m.addTone(tone)
	}
	for _, b := range m.list {
		b.choose() // before the common mix moves on
	}
	for i, v := range m.total {
		m.all.pcm[i] = limit(v)
	}
	m.all.ready(playNothing)
	for _, b := range m.list {
		b.send(mem, now)
	}
	clear(m.list)
	return true
}

func (m *Mixer) addTone(tone Source) {
	n := tone.Read(m.beep[:])
	for i, s := range m.beep[:n] {
		m.total[i] += int32(s)
	}
	if n == frameSamples {
		return
	}
	m.mu.Lock()
	if m.tone == tone {
		m.tone = nil
	}
	m.mu.Unlock()
}

// limit keeps a sum within 16 bits.
func limit(v int32) int16 { return int16(min(max(v, -32768), 32767)) }

// unused is for the pacer; it is called with its lock held.
func (m *Mixer) unused() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.members) == 0
}

// mixed tells whether the others hear the party in this frame. In a large room the noise of those who say nothing is left out:
// it would add up, and each of them would need a mix of its own.
func (b *Member) mixed() bool {
	return b.sounds && !b.muted.Load() && (b.audible > 0 || len(b.mixer.list) <= smallRoom)
}

const (
	smallRoom   = 6
	gateLevel   = 60 // root mean square, about -55 dBm0: at once, so that no beginning of a word is lost
	gateStaysOn = 40 // frames
)

// shareAfter is for how many frames a party must have been silent before it gets the common mix. The G.722 decoder of its phone
// has to find its way into another stream then, which may be audible for a moment.
const shareAfter = 100

// choose decides between the common mix and one of the party's own.
func (b *Member) choose() {
	switch {
	case b.mixed():
		if !b.owns {
			b.own.follow(&b.mixer.all)
			b.owns = true
		}
		b.quiet = 0
	case b.owns:
		if b.quiet++; b.quiet > shareAfter {
			b.owns = false
		}
	}
}

func (b *Member) send(mem *scratch, now int64) {
	m := b.mixer
	if !b.owns {
		b.session.sendFrame(m, &m.all, mem, now)
		return
	}
	mine := b.mixed()
	for i, v := range m.total {
		if mine {
			v -= int32(b.frame[i])
		}
		b.own.pcm[i] = limit(v)
	}
	b.own.ready(b.session.playKind())
	b.session.sendFrame(m, &b.own, mem, now)
}

// Talk detection: so many frames in a row above the level, or below it, change the verdict.
const (
	talkLevel  = 330 // root mean square, about -40 dBm0
	talkBegins = 3
	talkEnds   = 25
)

func (b *Member) listen() {
	sum := int64(0)
	if b.sounds {
		for _, s := range b.frame {
			sum += int64(s) * int64(s)
		}
	}
	if sum > gateLevel*gateLevel*frameSamples {
		b.audible = gateStaysOn
	} else if b.audible > 0 {
		b.audible--
	}
	if sum > talkLevel*talkLevel*frameSamples {
		b.speech, b.silence = b.speech+1, 0
	} else {
		b.speech, b.silence = 0, b.silence+1
	}
	switch {
	case b.speech >= talkBegins:
		b.talking.Store(true)
	case b.silence >= talkEnds:
		b.talking.Store(false)
	}
}
