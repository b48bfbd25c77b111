package media

import "ringfence/media/codec"

// The codecs that sounds can be encoded in; index of encodings.frames.
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

// encodings is one sound on its way to any number of parties: each frame is encoded once per codec that somebody needs. The
// codecs with memory are fed every frame, so that whoever joins finds them in step.
type encodings struct {
	pcm    [frameSamples]int16
	pcm8   []int16
	down   codec.Downsampler
	g722   codec.G722Encoder
	frames [playable][]byte
	fresh  [playable]bool
	head   packet // numbers of the frame
}

func newEncodings() encodings { return encodings{g722: *codec.NewG722Encoder()} }

// ready takes over the samples in pcm. only is the one codec that is needed, or playNothing for any.
func (e *encodings) ready(only uint8) {
	e.fresh = [playable]bool{}
	if only != playG722 {
		e.pcm8 = e.down.Append(e.pcm8[:0], e.pcm[:])
	}
	if only == playG722 || only == playNothing {
		e.frames[playG722] = e.g722.Encode(e.frames[playG722][:0], e.pcm[:])
		e.fresh[playG722] = true
	}
	e.head.seq++
	e.head.timestamp += frameSamples / 2
}

func (e *encodings) frame(kind uint8) []byte {
	if !e.fresh[kind] {
		e.fresh[kind] = true
		switch kind {
		case playULaw:
			e.frames[kind] = codec.EncodeULaw(e.frames[kind][:0], e.pcm8)
		case playALaw:
			e.frames[kind] = codec.EncodeALaw(e.frames[kind][:0], e.pcm8)
		}
	}
	return e.frames[kind]
}

// follow makes e go on from where another stands, so that a party that is switched over notices nothing.
func (e *encodings) follow(o *encodings) {
	e.down, e.g722, e.head = o.down, o.g722, o.head
}

// playKind is the codec in which the party hears sounds.
func (s *Session) playKind() uint8 {
	s.tx.Lock()
	defer s.tx.Unlock()
	return s.tx.playKind
}

// sendFrame sends a frame to the party. source is who numbers it.
func (s *Session) sendFrame(source any, e *encodings, mem *scratch, now int64) {
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
	payload := e.frame(tx.playKind)
	if len(payload) == 0 {
		return // the codec has just changed
	}
	p := e.head
	p.pt = tx.playPT
	p, ok := tx.stream.renumber(p, source, false, rate, now)
	if !ok {
		return
	}
	p.offset = rtpHeaderLen
	copy(mem.in[rtpHeaderLen:], payload)
	tx.rate = rate
	s.sendLocked(mem, putHeader(mem.in[:rtpHeaderLen+len(payload)], p, false), len(payload))
}
