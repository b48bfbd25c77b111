package media

import (
	"math"

	"ringfence/media/codec"
)

// transcoder turns packets of one codec into packets of another, one for one, on their way through the relay: numbers and gaps stay,
// so that whoever hears it conceals what is missing as if it had come so. It adds no delay but that of the filters (about 1 ms).
type transcoder struct {
	to     uint8 // codec of the other party, in which its packets leave
	pt     uint8 // number there
	gain   int32 // of 4096
	dec    codec.G722Decoder
	enc    codec.G722Encoder
	up     codec.Upsampler
	down   codec.Downsampler
	narrow []int16 // at 8 kHz
	wide   []int16 // at 16 kHz

	// Timestamps where the clocks differ.
	started bool
	in, out uint32
}

const unity = 4096

// maxFrame is how much sound one packet may bring: 60 ms at 16 kHz.
const maxFrame = 960

func newTranscoder(to, pt uint8, gain int32) *transcoder {
	return &transcoder{to: to, pt: pt, gain: gain, dec: *codec.NewG722Decoder(), enc: *codec.NewG722Encoder()}
}

// CanTranscode tells whether packets of one format can be turned into packets of the other.
func CanTranscode(from, to Format) bool {
	return playableOf(from) != playNothing && playableOf(to) != playNothing
}

// work appends the payload in the other codec to dst; false if there is too much of it.
func (t *transcoder) work(dst []byte, kind uint8, payload []byte) ([]byte, bool) {
	if len(payload)*codecs[kind].samples > maxFrame*codecs[kind].octets/(16000/codecs[kind].sampling) {
		return dst, false
	}
	t.narrow, t.wide = t.narrow[:0], t.wide[:0]
	wide := codecs[kind].sampling == 16000
	if wide {
		t.wide = decode(kind, &t.dec, t.wide, payload)
	} else {
		t.narrow = decode(kind, nil, t.narrow, payload)
	}
	switch want := codecs[t.to].sampling == 16000; {
	case want && !wide:
		t.wide = t.up.Append(t.wide, t.narrow)
	case wide && !want:
		t.narrow = t.down.Append(t.narrow, t.wide)
	}
	pcm := t.narrow
	if codecs[t.to].sampling == 16000 {
		pcm = t.wide
	}
	amplify(pcm, t.gain)
	return encode(t.to, &t.enc, dst, pcm), true
}

// time turns a timestamp of the one clock into one of the other.
func (t *transcoder) time(in uint32, from, to uint32) uint32 {
	if from == to {
		return in
	}
	if !t.started {
		t.started, t.in, t.out = true, in, in
	}
	step := int64(int32(in - t.in))
	t.in = in
	t.out += uint32(step * int64(to) / int64(from))
	return t.out
}

// amplify changes the loudness in place, without wrapping around.
func amplify(pcm []int16, gain int32) {
	if gain == unity {
		return
	}
	for i, s := range pcm {
		pcm[i] = limit(int32(int64(s) * int64(gain) / unity))
	}
}

// gainOf turns decibels into a factor; what is beyond ±24 dB is cut.
func gainOf(db float64) int32 {
	return int32(math.Round(unity * math.Pow(10, min(max(db, -24), 24)/20)))
}

// SetGain makes what the party says louder or softer for whoever it is bridged with, in decibels. It needs a codec that can be
// decoded here; the others pass as they are.
func (s *Session) SetGain(db float64) error {
	s.engine.control.Lock()
	defer s.engine.control.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.gain = gainOf(db)
	if s.peer != nil {
		link(s, s.peer)
	}
	return nil
}
