package media

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Key presses come as events (RFC 4733, "sip-calls" §28) or, from those who agreed to none, as two tones in the sound (ITU-T Q.23,
// Q.24).
//
//	event payload:  event (8)  E R volume (6)  duration (16), in timestamp units
const keys = "0123456789*#ABCD"

// ErrNoEvents is returned by Press where the party agreed to no telephone-event.
var ErrNoEvents = errors.New("the party takes no key presses")

// OnDigit lets f know of each key that the party presses, once, whichever way it comes. f is called from the engine's goroutines
// and must not block. The function returned ends it.
func (s *Session) OnDigit(f func(key byte)) (stop func(), err error) {
	d := &digits{got: f, ear: newEar()}
	d.heard.got = func(key byte) {
		if !d.events.Load() { // a phone that sends both means one key
			f(key)
		}
	}
	unlisten, err := s.listen(d)
	if err != nil {
		return nil, err
	}
	s.engine.pacer.add(d)
	return func() {
		d.over.Store(true)
		unlisten()
		s.engine.pacer.remove(d)
	}, nil
}

// digits is the tap and the detector of OnDigit.
type digits struct {
	ear
	got    func(byte)
	heard  detector
	over   atomic.Bool
	events atomic.Bool // some have come

	// Guarded by the session's rx.
	known bool
	ssrc  uint32
	stamp uint32
}

// take finds the first packet of each press: all packets of one have the same timestamp, so that lost ones do no harm.
func (d *digits) take(p packet, kind uint8, payload []byte, again bool, now int64) {
	if kind != playEvent {
		d.ear.take(p, kind, payload, again, now)
		return
	}
	if len(payload) < 4 || int(payload[0]) >= len(keys) || d.known && p.ssrc == d.ssrc && int32(p.timestamp-d.stamp) <= 0 {
		return
	}
	d.known, d.ssrc, d.stamp = true, p.ssrc, p.timestamp
	d.events.Store(true)
	d.got(keys[payload[0]])
}

func (d *digits) tick(*scratch, int64) bool {
	d.pull()
	d.heard.hear(d.frame[:])
	return !d.over.Load()
}

func (d *digits) unused() bool { return d.over.Load() }

// The tones of the keys: one of four low and one of four high frequencies.
var (
	lowTones  = [4]float64{697, 770, 852, 941}
	highTones = [4]float64{1209, 1336, 1477, 1633}
	keypad    = [4]string{"123A", "456B", "789C", "*0#D"}
)

const (
	detectBlock = 410 // 25.6 ms: the tones are well apart, and two blocks fit into the shortest press
	detectLevel = 100 // amplitude of the weaker tone, about -50 dBm0
	// Of the sound's power, the two tones must be so much: less is speech.
	detectShare = 0.7
	// One may be so much stronger than the other in power (Q.24: 8 dB), and than the others of its group.
	detectTwist = 6.3
	detectApart = 6.3
)

// detector finds key presses in sound (Goertzel's filter at each of the eight frequencies).
type detector struct {
	got   func(byte)
	block [detectBlock]float64
	n     int
	last  byte // of the block before
	told  byte // 0 once it was let go
}

func (d *detector) hear(pcm []int16) {
	for _, s := range pcm {
		d.block[d.n] = float64(s)
		if d.n++; d.n == detectBlock {
			d.n = 0
			d.judge(d.find())
		}
	}
}

func (d *detector) judge(key byte) {
	switch {
	case key == 0 && d.last == 0:
		d.told = 0
	case key != 0 && key == d.last && d.told != key:
		d.told = key
		d.got(key)
	}
	d.last = key
}

// find is the key in the block, or 0.
func (d *detector) find() byte {
	total := 0.0
	for _, v := range d.block {
		total += v * v
	}
	if total < detectBlock*detectLevel*detectLevel {
		return 0
	}
	low, a, ok := d.strongest(lowTones)
	high, b, ok2 := d.strongest(highTones)
	if !ok || !ok2 || a > b*detectTwist || b > a*detectTwist || a+b < detectShare*total || min(a, b) < detectBlock*detectLevel*detectLevel/2 {
		return 0
	}
	return keypad[low][high]
}

// strongest is the loudest of four tones with its power, if it stands out.
func (d *detector) strongest(tones [4]float64) (best int, most float64, ok bool) {
	var p [4]float64
	for i, hz := range tones {
		p[i] = d.goertzel(hz)
		if p[i] > p[best] {
			best = i
		}
	}
	for i, v := range p {
		if i != best && v*detectApart > p[best] {
			return 0, 0, false
		}
	}
	return best, p[best], true
}

// goertzel is the power of one frequency in the block, as a part of the sum of squares.
func (d *detector) goertzel(hz float64) float64 {
	c := 2 * math.Cos(2*math.Pi*hz/sampleRate)
	var s1, s2 float64
	for _, v := range d.block {
		s1, s2 = v+c*s1-s2, s1
	}
	return 2 * (s1*s1 + s2*s2 - c*s1*s2) / detectBlock
}

// ToneOfKey is the sound of a key: what Press says in events.
func ToneOfKey(key byte) (Tone, bool) {
	for i, row := range keypad {
		if k := strings.IndexByte(row, key); k >= 0 {
			return Tone{Hz: []float64{lowTones[i], highTones[k]}, Cadence: []time.Duration{100 * ms, 100 * ms}}, true
		}
	}
	return Tone{}, false
}

// Press sends key presses to the party, one after the other, as events; what others say is held back meanwhile. done, if not nil, is
// called from the engine's goroutine when the last one was sent, and must not block.
func (s *Session) Press(digits string, done func()) error {
	for i := range len(digits) {
		if strings.IndexByte(keys, digits[i]) < 0 {
			return errors.New("not a key: " + digits[i:i+1])
		}
	}
	s.tx.Lock()
	pt := -1
	for i, f := range s.tx.formats {
		if f.event && f.rate == 8000 {
			pt = i
		}
	}
	closed := s.tx.closed
	s.tx.Unlock()
	switch {
	case closed:
		return ErrClosed
	case pt < 0:
		return ErrNoEvents
	}
	p := &presser{session: s, pt: uint8(pt), keys: digits, done: done}
	s.tx.Lock()
	s.tx.pressing++
	s.tx.Unlock()
	s.engine.pacer.add(p)
	return nil
}

const (
	pressFrames = 6 // 120 ms
	pressEnds   = 3 // the end is said so often, since it may be lost
	pressGap    = 4
)

// presser sends the packets of key presses, one each 20 ms.
type presser struct {
	session *Session
	pt      uint8
	done    func()

	mu    sync.Mutex
	keys  string // left
	frame int
	head  packet
}

func (p *presser) unused() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.keys) == 0
}

func (p *presser) tick(mem *scratch, now int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.session
	if len(p.keys) > 0 && p.send(mem, now) {
		return true
	}
	p.keys = ""
	s.tx.Lock()
	s.tx.pressing--
	s.tx.Unlock()
	if p.done != nil {
		p.done()
	}
	return false
}

// send sends the next packet; false when there is none left, or nobody to send it to.
func (p *presser) send(mem *scratch, now int64) bool {
	tx := &p.session.tx
	tx.Lock()
	defer tx.Unlock()
	if tx.closed {
		return false
	}
	if p.frame < pressFrames {
		last := p.frame == pressFrames-1
		times := 1
		if last {
			times = pressEnds
		}
		for range times {
			payload := mem.in[rtpHeaderLen : rtpHeaderLen+4]
			payload[0] = byte(strings.IndexByte(keys, p.keys[0]))
			payload[1] = 10 // -10 dBm0
			if last {
				payload[1] |= 0x80
			}
			binary.BigEndian.PutUint16(payload[2:], uint16(160*(p.frame+1)))
			p.head.seq++
			h := p.head
			h.pt, h.marker = p.pt, p.frame == 0
			if tx.muted || tx.target.len == 0 {
				tx.count.Muted++
				continue
			}
			if h, ok := tx.stream.renumber(h, p, false, 8000, now); ok {
				h.offset, tx.rate = rtpHeaderLen, 8000
				p.session.sendLocked(mem, putHeader(mem.in[:rtpHeaderLen+4], h, false), 4)
			}
		}
	}
	if p.frame++; p.frame == pressFrames+pressGap {
		p.frame, p.keys = 0, p.keys[1:]
		p.head.timestamp += 160 * (pressFrames + pressGap)
	}
	return len(p.keys) > 0
}
