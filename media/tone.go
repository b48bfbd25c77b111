package media

import (
	"math"
	"time"
)

// Tone is a call-progress tone: the sum of some frequencies, on and off in turn.
type Tone struct {
	Hz      []float64
	Cadence []time.Duration // on, off, on, ...; empty: on for ever
	Repeat  bool            // begin again at the end of the cadence
}

// ToneKind is what a call-progress tone tells.
type ToneKind uint8

// Kinds of Tones.
const (
	RingBack ToneKind = iota
	BusyTone
	Congestion
)

const ms = time.Millisecond

// tones by country code (ITU-T E.180 supplement 2). Where a country is not listed the recommendation's own 425 Hz is used.
var tones = map[string][3]Tone{
	"": {
		RingBack:   {[]float64{425}, []time.Duration{1000 * ms, 4000 * ms}, true},
		BusyTone:   {[]float64{425}, []time.Duration{500 * ms, 500 * ms}, true},
		Congestion: {[]float64{425}, []time.Duration{250 * ms, 250 * ms}, true},
	},
	"1": {
		RingBack:   {[]float64{440, 480}, []time.Duration{2000 * ms, 4000 * ms}, true},
		BusyTone:   {[]float64{480, 620}, []time.Duration{500 * ms, 500 * ms}, true},
		Congestion: {[]float64{480, 620}, []time.Duration{250 * ms, 250 * ms}, true},
	},
	"44": {
		RingBack:   {[]float64{400, 450}, []time.Duration{400 * ms, 200 * ms, 400 * ms, 2000 * ms}, true},
		BusyTone:   {[]float64{400}, []time.Duration{375 * ms, 375 * ms}, true},
		Congestion: {[]float64{400}, []time.Duration{400 * ms, 350 * ms, 225 * ms, 525 * ms}, true},
	},
	"49": {
		RingBack:   {[]float64{425}, []time.Duration{1000 * ms, 4000 * ms}, true},
		BusyTone:   {[]float64{425}, []time.Duration{480 * ms, 480 * ms}, true},
		Congestion: {[]float64{425}, []time.Duration{240 * ms, 240 * ms}, true},
	},
}

// ToneOf returns the tone of a country.
func ToneOf(country string, kind ToneKind) Tone {
	list, ok := tones[country]
	if !ok {
		list = tones[""]
	}
	return list[kind]
}

const (
	sampleRate = 16000
	// toneLevel is about -13 dBm0 in all, the level of call-progress tones (ITU-T E.180 §4).
	toneLevel = 7300
	edge      = 80 // samples over which a tone fades, so that it does not click
)

// Source plays the tone from its beginning.
func (t Tone) Source() Source {
	s := &toneSource{tone: t}
	for _, d := range t.Cadence {
		s.parts = append(s.parts, int(d*sampleRate/time.Second))
	}
	return s
}

type toneSource struct {
	tone  Tone
	parts []int // samples of each part of the cadence
	part  int
	done  int // samples of the part that were played
	clock int
}

func (s *toneSource) Read(pcm []int16) int {
	for i := range pcm {
		length := -1
		if len(s.parts) > 0 {
			for s.done >= s.parts[s.part] {
				s.done = 0
				if s.part++; s.part == len(s.parts) {
					if !s.tone.Repeat {
						s.part, s.done = s.part-1, s.parts[len(s.parts)-1]
						return i
					}
					s.part = 0
				}
			}
			length = s.parts[s.part]
		}
		pcm[i] = s.sample(length)
		s.done++
		s.clock++
	}
	return len(pcm)
}

func (s *toneSource) sample(length int) int16 {
	if s.part%2 == 1 {
		return 0
	}
	gain := 1.0
	if s.done < edge {
		gain = float64(s.done) / edge
	}
	if length >= 0 && length-s.done < edge {
		gain = min(gain, float64(length-s.done)/edge)
	}
	v := 0.0
	for _, hz := range s.tone.Hz {
		v += math.Sin(2 * math.Pi * hz * float64(s.clock) / sampleRate)
	}
	return int16(v * gain * toneLevel / float64(len(s.tone.Hz)))
}

// Loop is a recording that begins again at its end: music on hold.
type Loop struct {
	Samples []int16 // at 16 kHz
	at      int
}

// Read is Source.
func (l *Loop) Read(pcm []int16) int {
	if len(l.Samples) == 0 {
		clear(pcm)
		return len(pcm)
	}
	for i := range pcm {
		pcm[i] = l.Samples[l.at]
		l.at = (l.at + 1) % len(l.Samples)
	}
	return len(pcm)
}

// Once is a recording that ends: a prompt.
type Once struct {
	Samples []int16 // at 16 kHz
	at      int
}

// Read is Source.
func (o *Once) Read(pcm []int16) int {
	n := copy(pcm, o.Samples[o.at:])
	o.at += n
	return n
}

// Melody is what parties on hold hear where no recording is configured: soft broken chords, made as they are played.
func Melody() Source { return &melody{} }

type melody struct {
	at int // samples played
}

var (
	chords = [4][4]float64{
		{261.63, 329.63, 392.00, 523.25}, {220.00, 261.63, 329.63, 440.00}, {174.61, 220.00, 261.63, 349.23}, {196.00, 246.94, 293.66, 392.00},
	}
	order = [8]int{0, 1, 2, 3, 2, 3, 2, 1}
)

const (
	note  = sampleRate / 2 // a new one begins
	rings = 3              // and this many sound at once
)

func (m *melody) Read(pcm []int16) int {
	for i := range pcm {
		v := 0.0
		for k := range min(rings, m.at/note+1) { // the latest note and those before it
			n := m.at/note - k
			hz := chords[n/len(order)%len(chords)][order[n%len(order)]]
			age := m.at - n*note
			t := float64(age) / sampleRate
			loud := math.Exp(-2.2*t) * min(1, float64(age)/160, float64(rings*note-age)/800)
			v += loud * (math.Sin(2*math.Pi*hz*t) + 0.3*math.Sin(4*math.Pi*hz*t))
		}
		pcm[i] = int16(2600 * v)
		m.at++
	}
	return len(pcm)
}
