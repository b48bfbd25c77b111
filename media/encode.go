package media

import "ringfence/media/codec"

// The codecs that can be encoded and decoded here; index of codecs and of encodings.frames.
const (
	playNothing = iota
	playULaw
	playALaw
	playG722
	playL16  // 16 kHz
	playL16n // 8 kHz
	playable
	playEvent = playable // no sound, but a key press
)

// codecs are what is known of them: the format, the rate of samples, and how many samples so many octets hold.
var codecs = [playable]struct {
	name            string
	rate            uint32 // RTP clock
	sampling        int
	samples, octets int
}{
	playNothing: {"", 1, 8000, 0, 1},
	playULaw:    {"PCMU", 8000, 8000, 1, 1},
	playALaw:    {"PCMA", 8000, 8000, 1, 1},
	playG722:    {"G722", 8000, 16000, 2, 1}, // RFC 3551 §4.5.2: the clock is not the sampling rate
	playL16:     {"L16", 16000, 16000, 1, 2},
	playL16n:    {"L16", 8000, 8000, 1, 2},
}

func playableOf(f Format) uint8 {
	for k := playNothing + 1; k < playable; k++ {
		if f.same(Format{Name: codecs[k].name, Rate: codecs[k].rate}) {
			return uint8(k)
		}
	}
	return playNothing
}

// decode appends the samples of a payload, at the codec's own rate. g is needed for G.722 alone.
func decode(kind uint8, g *codec.G722Decoder, dst []int16, payload []byte) []int16 {
	switch kind {
	case playULaw:
		return codec.DecodeULaw(dst, payload)
	case playALaw:
		return codec.DecodeALaw(dst, payload)
	case playG722:
		return g.Decode(dst, payload)
	case playL16, playL16n:
		return codec.DecodeL16(dst, payload)
	}
	return dst
}

// encode appends the payload of samples at the codec's own rate.
func encode(kind uint8, g *codec.G722Encoder, dst []byte, pcm []int16) []byte {
	switch kind {
	case playULaw:
		return codec.EncodeULaw(dst, pcm)
	case playALaw:
		return codec.EncodeALaw(dst, pcm)
	case playG722:
		return g.Encode(dst, pcm)
	case playL16, playL16n:
		return codec.EncodeL16(dst, pcm)
	}
	return dst
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
	if only == playNothing || codecs[only].sampling == 8000 {
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
	if !e.fresh[kind] && kind != playG722 {
		e.fresh[kind] = true
		pcm := e.pcm8
		if codecs[kind].sampling == 16000 {
			pcm = e.pcm[:]
		}
		e.frames[kind] = encode(kind, nil, e.frames[kind][:0], pcm)
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
	if tx.muted || tx.pressing > 0 || tx.target.len == 0 || tx.playKind == playNothing {
		tx.count.Muted++
		return
	}
	payload := e.frame(tx.playKind)
	if len(payload) == 0 || !e.fresh[tx.playKind] {
		return // the codec has just changed
	}
	p := e.head
	p.pt = tx.playPT
	rate := codecs[tx.playKind].rate
	p.timestamp *= rate / 8000
	p, ok := tx.stream.renumber(p, source, false, rate, now)
	if !ok {
		return
	}
	p.offset = rtpHeaderLen
	copy(mem.in[rtpHeaderLen:], payload)
	tx.rate = rate
	s.sendLocked(mem, putHeader(mem.in[:rtpHeaderLen+len(payload)], p, false), len(payload))
}
