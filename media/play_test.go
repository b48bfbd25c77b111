package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"
	"time"

	"ringfence/media/codec"
)

// power is the share of a signal's power at a frequency, and its level against full scale in dB.
func power(pcm []int16, hz, rate float64) (share, level float64) {
	var re, im, sum float64
	for i, s := range pcm {
		v := float64(s) / 32768
		re += v * math.Cos(2*math.Pi*hz*float64(i)/rate)
		im += v * math.Sin(2*math.Pi*hz*float64(i)/rate)
		sum += v * v
	}
	n := float64(len(pcm))
	if sum == 0 {
		return 0, math.Inf(-1)
	}
	return 2 * (re*re + im*im) / n / sum, 10 * math.Log10(sum/n)
}

// listenTo collects frames of a session's party as samples.
func (p *party) listenTo(frames int, f Format) []int16 {
	p.t.Helper()
	var pcm []int16
	d := codec.NewG722Decoder()
	var last packet
	for i := range frames {
		h, payload := p.hear()
		if h.pt != f.PT || len(payload) != 160 {
			p.t.Fatalf("frame %d has payload type %d and %d octets", i, h.pt, len(payload))
		}
		if i > 0 && (h.seq != last.seq+1 || h.timestamp != last.timestamp+160 || h.ssrc != last.ssrc) {
			p.t.Fatalf("frame %+v after %+v", h, last)
		}
		last = h
		switch playableOf(f) {
		case playULaw:
			pcm = codec.DecodeULaw(pcm, []byte(payload))
		case playALaw:
			pcm = codec.DecodeALaw(pcm, []byte(payload))
		case playG722:
			pcm = d.Decode(pcm, []byte(payload))
		}
	}
	return pcm
}

func TestPlayTone(t *testing.T) {
	tone := Tone{Hz: []float64{425}}
	for _, tc := range []struct {
		f    Format
		rate float64
	}{{pcmu, 8000}, {pcma, 8000}, {g722, 16000}, {Format{PT: 112, Name: "PCMU", Rate: 8000}, 8000}} {
		t.Run(tc.f.Name, func(t *testing.T) {
			e := engine(t)
			s := session(t, e)
			p := newParty(t, s)
			set(t, s, p.remote(tc.f, dtmf(101)))
			if !s.CanPlay() {
				t.Fatal("cannot play")
			}
			begin := time.Now()
			if err := s.Play(e.NewPlayer(tone.Source(), nil)); err != nil {
				t.Fatal(err)
			}
			pcm := p.listenTo(25, tc.f)
			if took := time.Since(begin); took < 400*time.Millisecond || took > 3*time.Second {
				t.Errorf("25 frames took %v", took)
			}
			share, level := power(pcm[len(pcm)/5:], 425, tc.rate)
			if share < 0.98 || math.Abs(level+16) > 1 {
				t.Errorf("tone has share %.3f and %.1f dB", share, level)
			}
		})
	}
}

func TestPlayInsteadOfTheOtherParty(t *testing.T) {
	e := engine(t)
	_, b, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	pa.say(0, "before")
	before := pb.expect(0, "before")
	music := e.NewPlayer(Melody(), nil)
	if err := b.Play(music); err != nil {
		t.Fatal(err)
	}
	h, _ := pb.hear()
	if h.seq != before.seq+1 || h.ssrc != before.ssrc || !h.marker {
		t.Errorf("music begins with %+v after %+v", h, before)
	}
	pa.say(0, "meanwhile")
	wait(t, "the other party is held back", func() bool { return b.Stats().Tx.Muted == 1 })
	if err := b.Play(nil); err != nil {
		t.Fatal(err)
	}
	pa.say(0, "after")
	for {
		if _, got := pb.hear(); got == "after" {
			break
		} else if len(got) != 160 {
			t.Fatalf("heard %q", got)
		}
	}
	if !e.pacer.empty() {
		t.Error("the clock goes on without listeners")
	}
}

func TestOnePlayerManyListeners(t *testing.T) {
	e := engine(t)
	player := e.NewPlayer(Tone{Hz: []float64{1000}}.Source(), nil)
	var parties []*party
	for i := range 10 {
		s := session(t, e)
		p := newParty(t, s)
		r := p.remote([]Format{pcmu, g722}[i%2])
		if i%3 == 0 {
			r.SendKey = NewKey(CM128SHA80)
		}
		set(t, s, r)
		if err := s.Play(player); err != nil {
			t.Fatal(err)
		}
		parties = append(parties, p)
	}
	for _, p := range parties {
		for range 5 {
			p.read()
		}
	}
	e.Stop()
	if len(player.listeners) != 0 {
		t.Errorf("%d listeners of closed sessions", len(player.listeners))
	}
}

func TestPlayEnds(t *testing.T) {
	e := engine(t)
	s := session(t, e)
	p := newParty(t, s)
	set(t, s, p.remote(pcmu))
	over := make(chan struct{})
	player := e.NewPlayer(&Once{Samples: make([]int16, 3*frameSamples+100)}, func() { close(over) })
	if err := s.Play(player); err != nil {
		t.Fatal(err)
	}
	p.listenTo(4, pcmu)
	<-over
	wait(t, "the clock stops", e.pacer.empty)
	if err := s.Play(player); err != nil || !e.pacer.empty() {
		t.Errorf("a sound that is over plays again, %v", err)
	}
	if s.Close(); s.Play(player) == nil {
		t.Error("a closed session plays")
	}
}

func TestCannotPlay(t *testing.T) {
	e := engine(t)
	s := session(t, e)
	p := newParty(t, s)
	g729 := Format{PT: 18, Name: "G729", Rate: 8000}
	set(t, s, p.remote(g729))
	if s.CanPlay() {
		t.Error("can play G.729")
	}
	if err := s.Play(e.NewPlayer(Tone{Hz: []float64{425}}.Source(), nil)); err != nil {
		t.Fatal(err)
	}
	wait(t, "nothing goes out", func() bool { return s.Stats().Tx.Muted > 2 })
	if s.Stats().Tx.Packets != 0 {
		t.Error("something went out")
	}
}

func TestCadence(t *testing.T) {
	s := ToneOf("49", RingBack).Source()
	pcm := make([]int16, 16000*11)
	if n := s.Read(pcm); n != len(pcm) {
		t.Fatalf("%d samples", n)
	}
	for second, want := range []bool{true, false, false, false, false, true, false, false, false, false, true} {
		if _, level := power(pcm[second*16000:second*16000+16000], 425, 16000); (level > -20) != want {
			t.Errorf("second %d: %.1f dB, want sound %v", second, level, want)
		}
	}
	beep := Tone{Hz: []float64{1000}, Cadence: []time.Duration{100 * ms}}.Source()
	if n := beep.Read(make([]int16, 16000)); n != 1600 {
		t.Errorf("a tone of 100 ms has %d samples", n)
	}
	if n := beep.Read(make([]int16, 320)); n != 0 {
		t.Errorf("and %d more", n)
	}
	if got := ToneOf("999", BusyTone); got.Hz[0] != 425 {
		t.Errorf("unlisted country: %+v", got)
	}
}

func TestMelodyIsSoftAndDoesNotClick(t *testing.T) {
	m := Melody()
	peak, step, last := 0, 0, int16(0)
	pcm := make([]int16, 320)
	for range 50 * 20 {
		m.Read(pcm)
		for _, s := range pcm {
			peak, step = max(peak, int(s), -int(s)), max(step, int(s)-int(last), int(last)-int(s))
			last = s
		}
	}
	if peak > 16000 || peak < 3000 || step > 2500 {
		t.Errorf("peak %d, largest step %d", peak, step)
	}
}

func TestLoop(t *testing.T) {
	l := Loop{Samples: []int16{1, 2, 3}}
	pcm := make([]int16, 7)
	if n := l.Read(pcm); n != 7 || pcm[3] != 1 || pcm[6] != 1 {
		t.Errorf("%d: %v", n, pcm)
	}
	if n := new(Loop).Read(pcm); n != 7 || pcm[0] != 0 {
		t.Errorf("nothing in a loop: %v", pcm)
	}
}

func wav(kind, channels uint16, rate uint32, bits uint16, samples ...int16) []byte {
	var b bytes.Buffer
	b.WriteString("RIFF\x00\x00\x00\x00WAVELIST\x03\x00\x00\x00abc\x00fmt \x10\x00\x00\x00")
	for _, v := range []any{kind, channels, rate, rate * uint32(channels) * 2, channels * 2, bits} {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	b.WriteString("data")
	_ = binary.Write(&b, binary.LittleEndian, uint32(2*len(samples)))
	_ = binary.Write(&b, binary.LittleEndian, samples)
	return b.Bytes()
}

func TestReadWAV(t *testing.T) {
	got, err := ReadWAV(bytes.NewReader(wav(1, 2, 16000, 16, 100, 200, -100, -300)))
	if err != nil || len(got) != 2 || got[0] != 150 || got[1] != -200 {
		t.Errorf("stereo: %v, %v", got, err)
	}
	if got, err = ReadWAV(bytes.NewReader(wav(1, 1, 8000, 16, make([]int16, 800)...))); err != nil || len(got) != 1600 {
		t.Errorf("8 kHz: %d samples, %v", len(got), err)
	}
	if got, err = ReadWAV(bytes.NewReader(wav(1, 1, 48000, 16, 3, 6, 9, 1))); err != nil || len(got) != 1 || got[0] != 6 {
		t.Errorf("48 kHz: %v, %v", got, err)
	}
	for name, b := range map[string][]byte{
		"compressed": wav(7, 1, 8000, 16), "8 bits": wav(1, 1, 8000, 8), "three channels": wav(1, 3, 8000, 16), "44.1 kHz": wav(1, 1, 44100, 16),
		"no rate": wav(1, 1, 0, 16), "nothing": nil, "text": []byte("RIFF of something else"), "cut": wav(1, 1, 8000, 16)[:30],
	} {
		if _, err := ReadWAV(bytes.NewReader(b)); !errors.Is(err, ErrWAV) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReadWAV(f *testing.F) {
	f.Add(wav(1, 2, 16000, 16, 1, 2, 3))
	f.Add(wav(1, 1, 8000, 16, 1, 2, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		if pcm, err := ReadWAV(bytes.NewReader(b)); err == nil && len(pcm) > 2*len(b) {
			t.Errorf("%d samples of %d octets", len(pcm), len(b))
		}
	})
}
