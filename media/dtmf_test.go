package media

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"ringfence/media/codec"
)

// TestDetector finds every key in its tones, in both laws, at several levels and twists, and none in speech, music or one tone alone.
func TestDetector(t *testing.T) {
	listen := func(pcm []int16) string {
		var got []byte
		d := detector{got: func(k byte) { got = append(got, k) }}
		d.hear(pcm)
		return string(got)
	}
	for _, tc := range []struct {
		name      string
		low, high float64 // amplitudes
		noise     float64
		long      time.Duration
		want      string
	}{
		{"loud", 9000, 9000, 0, 100 * time.Millisecond, keys},
		{"soft", 300, 300, 0, 100 * time.Millisecond, keys},
		{"short", 4000, 4000, 0, 80 * time.Millisecond, keys},
		{"twisted", 6000, 2600, 0, 100 * time.Millisecond, keys},
		{"in noise", 4000, 4000, 1200, 100 * time.Millisecond, keys},
		{"twisted too far", 8000, 1500, 0, 100 * time.Millisecond, ""},
		{"too short", 8000, 8000, 0, 20 * time.Millisecond, ""},
		{"low tone alone", 8000, 0, 0, 100 * time.Millisecond, ""},
		{"too soft", 40, 40, 0, 100 * time.Millisecond, ""},
	} {
		r := rand.New(rand.NewPCG(3, 4))
		var pcm []int16
		for i := range len(keys) {
			tone, ok := ToneOfKey(keys[i])
			if !ok {
				t.Fatal("no tone of ", keys[i:i+1])
			}
			n := int(tc.long * 16000 / time.Second)
			for k := range n {
				w := 2 * math.Pi * float64(k) / 16000
				pcm = append(pcm, int16(tc.low*math.Sin(tone.Hz[0]*w)+tc.high*math.Sin(tone.Hz[1]*w)+tc.noise*(2*r.Float64()-1)))
			}
			pcm = append(pcm, make([]int16, 1600)...)
		}
		if got := listen(pcm); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	song := make([]int16, 16000*20)
	Melody().Read(song)
	if got := listen(song); got != "" {
		t.Errorf("heard %q in music", got)
	}
	if _, ok := ToneOfKey('x'); ok {
		t.Error("x is a key")
	}
}

// TestDigits: each press counts once, although its packets are repeated, lost and out of order, and whether it comes as an event or in
// the sound.
func TestDigits(t *testing.T) {
	e := engine(t)
	s := session(t, e)
	p := newParty(t, s)
	set(t, s, p.remote(pcmu, dtmf(101)))
	got := make(chan byte, 100)
	stop, err := s.OnDigit(func(k byte) { got <- k })
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		for i := range len(want) {
			select {
			case k := <-got:
				if k != want[i] {
					t.Fatalf("key %c, want %c of %s", k, want[i], want)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("no %c of %s", want[i], want)
			}
		}
		if len(got) > 0 {
			t.Errorf("%d keys too many", len(got))
		}
	}
	// In the sound, as real time: 100 ms on, 100 ms off.
	tone, _ := ToneOfKey('5')
	source := tone.Source()
	var down codec.Downsampler
	for range 15 {
		pcm := make([]int16, frameSamples)
		clear(pcm[source.Read(pcm):])
		p.say(0, string(codec.EncodeULaw(nil, down.Append(nil, pcm))))
		time.Sleep(20 * time.Millisecond)
	}
	expect("5")
	event := func(key byte, stamp uint32, flags byte) {
		b := p.packet(101, string([]byte{key, flags | 10, 0, 160}))
		b[4], b[5], b[6], b[7] = byte(stamp>>24), byte(stamp>>16), byte(stamp>>8), byte(stamp)
		p.write(b)
	}
	for _, end := range []byte{0, 0, 0x80, 0x80, 0x80} {
		event(1, 1000000, end)
	}
	event(2, 1001600, 0x80) // its beginning was lost
	event(1, 1000000, 0x80) // late
	event(11, 1003200, 0)
	event(16, 1004800, 0) // flash is no key
	p.say(101, "\x01")    // too short
	event(1, 1006400, 0)
	expect("12#1")
	stop()
	event(7, 1010000, 0)
	wait(t, "the last packet was read", func() bool { return s.Stats().Rx.Packets == 15+11 })
	if len(got) > 0 {
		t.Error("a key after the end")
	}
}

// TestPress sends keys to a party: one event each with a stamp of its own, the end three times, sound held back.
func TestPress(t *testing.T) {
	e := engine(t)
	a, b, pa, pb := pair(t, e, []Format{pcmu, dtmf(101)}, []Format{pcmu, dtmf(96)})
	pa.say(0, "before")
	before := pb.expect(0, "before")
	done := make(chan struct{})
	if err := b.Press("4#", func() { close(done) }); err != nil {
		t.Fatal(err)
	}
	pa.say(0, "held back")
	var keysHeard []byte
	var stamps []uint32
	last := before
	for ends := 0; ends < 2*pressEnds; {
		h, payload := pb.hear()
		if h.pt != 96 || len(payload) != 4 || h.seq != last.seq+1 || int32(h.timestamp-last.timestamp) < 0 {
			t.Fatalf("%+v %x after %+v", h, payload, last)
		}
		last = h
		if len(stamps) == 0 || stamps[len(stamps)-1] != h.timestamp {
			stamps, keysHeard = append(stamps, h.timestamp), append(keysHeard, keys[payload[0]])
			if !h.marker {
				t.Error("the first packet of a key has no marker")
			}
		}
		if payload[1]&0x80 != 0 {
			ends++
		}
	}
	if string(keysHeard) != "4#" || len(stamps) != 2 || stamps[1]-stamps[0] != 160*(pressFrames+pressGap) {
		t.Errorf("keys %q at %v", keysHeard, stamps)
	}
	<-done
	pa.say(0, "after")
	pb.expect(0, "after")
	if err := b.Press("x", nil); err == nil {
		t.Error("x was pressed")
	}
	set(t, b, pb.remote(pcmu))
	if err := b.Press("1", nil); err != ErrNoEvents {
		t.Error(err)
	}
	a.Close()
	if err := a.Press("1", nil); err != ErrClosed {
		t.Error(err)
	}
}
