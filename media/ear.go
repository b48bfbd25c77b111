package media

import (
	"slices"
	"sync/atomic"

	"ringfence/media/codec"
)

// ear turns the packets of one party into frames of 20 ms at 16 kHz, on the engine's clock: in order, decoded, with what is missing
// concealed. Whatever listens to a party has one: rooms, recorders, monitors, detectors of key presses.
type ear struct {
	in jitter

	// Of the pacer's goroutine.
	packet  [jitterBytes]byte
	decoder codec.G722Decoder
	up      codec.Upsampler
	conceal codec.Concealer
	pcm8    []int16
	fifo    []int16 // decoded and not yet taken
	frame   [frameSamples]int16
	sounds  bool // frame holds something
}

func newEar() ear { return ear{decoder: *codec.NewG722Decoder(), in: jitter{depth: jitterDepth}} }

// take puts a packet in; its session's rx is locked.
func (e *ear) take(p packet, kind uint8, payload []byte, again bool, now int64) {
	if kind != playNothing && kind != playEvent {
		e.in.arrive(p, kind, payload, again, now)
	}
}

// pull gets the next 20 ms.
func (e *ear) pull() {
	for len(e.fifo) < frameSamples {
		n, kind, have, lost := e.in.get(e.packet[:])
		if have {
			was := len(e.fifo)
			e.decode(kind, e.packet[:n])
			e.conceal.Good(e.fifo[was:])
			continue
		}
		if !e.sounds && !lost || e.conceal.Silent() {
			e.fifo = e.fifo[:0]
			e.sounds = false
			clear(e.frame[:])
			return
		}
		was := len(e.fifo)
		e.fifo = append(e.fifo, e.frame[:]...)
		e.conceal.Lost(e.fifo[was:])
	}
	copy(e.frame[:], e.fifo)
	e.fifo = e.fifo[:copy(e.fifo, e.fifo[frameSamples:])]
	e.sounds = true
}

func (e *ear) decode(kind uint8, payload []byte) {
	if codecs[kind].sampling == 16000 {
		e.fifo = decode(kind, &e.decoder, e.fifo, payload)
		return
	}
	e.pcm8 = decode(kind, nil, e.pcm8[:0], payload)
	e.fifo = e.up.Append(e.fifo, e.pcm8)
}

// tap is what may listen to the packets of a session.
type tap interface {
	take(p packet, kind uint8, payload []byte, again bool, now int64)
}

// listen lets a tap hear what the party says, beside wherever it goes otherwise; the function returned ends that. Closing the session
// ends it too.
func (s *Session) listen(t tap) (stop func(), err error) {
	s.rx.Lock()
	defer s.rx.Unlock()
	if s.rx.closed {
		return nil, ErrClosed
	}
	s.rx.taps = append(s.rx.taps[:len(s.rx.taps):len(s.rx.taps)], t)
	return func() {
		s.rx.Lock()
		defer s.rx.Unlock()
		var left []tap
		for _, x := range s.rx.taps {
			if x != t {
				left = append(left, x)
			}
		}
		s.rx.taps = left
	}, nil
}

// overhear lets a tap hear what the party hears: the other party, music, a room.
func (s *Session) overhear(t tap) (stop func(), err error) {
	s.tx.Lock()
	defer s.tx.Unlock()
	if s.tx.closed {
		return nil, ErrClosed
	}
	s.tx.taps = append(s.tx.taps[:len(s.tx.taps):len(s.tx.taps)], t)
	return func() {
		s.tx.Lock()
		defer s.tx.Unlock()
		s.tx.taps = slices.DeleteFunc(slices.Clone(s.tx.taps), func(x tap) bool { return x == t })
	}, nil
}

// Monitor is what the parties of a conversation say, as a sound that can be played to others, recorded, or searched for key presses: a
// fork of the conversation, of which the conversation notices nothing.
type Monitor struct {
	ears  []*ear
	stops []func()
	ended atomic.Bool
}

// Listen begins to monitor sessions. It keeps listening when they are bridged otherwise, put on hold or mixed; what a closed one says
// is silence.
func Listen(sessions ...*Session) (*Monitor, error) {
	m := &Monitor{}
	for _, s := range sessions {
		e := newEar()
		stop, err := s.listen(&e)
		if err != nil {
			m.Stop()
			return nil, err
		}
		m.ears, m.stops = append(m.ears, &e), append(m.stops, stop)
	}
	return m, nil
}

// listenBoth monitors one party: what it says, and what it hears.
func listenBoth(s *Session) (*Monitor, error) {
	m := &Monitor{}
	for _, f := range []func(tap) (func(), error){s.listen, s.overhear} {
		e := newEar()
		stop, err := f(&e)
		if err != nil {
			m.Stop()
			return nil, err
		}
		m.ears, m.stops = append(m.ears, &e), append(m.stops, stop)
	}
	return m, nil
}

// Read is Source: all parties together. Only one of Read and a Recorder may take from a monitor.
func (m *Monitor) Read(pcm []int16) int {
	if m.ended.Load() {
		return 0
	}
	clear(pcm)
	for _, e := range m.ears {
		e.pull()
		if !e.sounds {
			continue
		}
		for i := range min(len(pcm), frameSamples) {
			pcm[i] = limit(int32(pcm[i]) + int32(e.frame[i]))
		}
	}
	return len(pcm)
}

// Stop ends it; a Player that plays it is over then. It may be called again.
func (m *Monitor) Stop() {
	if m.ended.Swap(true) {
		return
	}
	for _, stop := range m.stops {
		stop()
	}
}
