package media

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"ringfence/media/codec"
)

// guest is a party of a conference that says a tone; the test drives the clock by hand, so nothing waits for real time.
type guest struct {
	*party
	f      Format
	s      *Session
	m      *Member
	hz     float64 // 0: says nothing at all
	t      int
	enc    *codec.G722Encoder
	dec    *codec.G722Decoder
	down   codec.Downsampler
	heard  []int16
	volume float64
}

type room struct {
	t     *testing.T
	e     *Engine
	mixer *Mixer
	mem   *scratch
	list  []*guest
}

func newRoom(t *testing.T) *room {
	t.Helper()
	e, err := New(Options{Address: loopback, First: 20000, Last: 29999, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	return &room{t: t, e: e, mixer: e.NewMixer(), mem: new(scratch)}
}

func (r *room) join(f Format, hz float64) *guest {
	r.t.Helper()
	g := &guest{f: f, hz: hz, enc: codec.NewG722Encoder(), dec: codec.NewG722Decoder(), volume: 6000}
	g.s = session(r.t, r.e)
	g.party = newParty(r.t, g.s)
	set(r.t, g.s, g.remote(f))
	var err error
	if g.m, err = r.mixer.Add(g.s); err != nil {
		r.t.Fatal(err)
	}
	r.list = append(r.list, g)
	return g
}

// speak makes the guest's next packet of 20 ms.
func (g *guest) speak() (packet, []byte) {
	pcm := make([]int16, frameSamples)
	for i := range pcm {
		pcm[i] = int16(g.volume * math.Sin(2*math.Pi*g.hz*float64(g.t)/16000))
		g.t++
	}
	p := packet{seq: g.seq, timestamp: g.ts, ssrc: g.ssrc}
	g.seq++
	g.ts += 160
	switch playableOf(g.f) {
	case playG722:
		return p, g.enc.Encode(nil, pcm)
	case playALaw:
		return p, codec.EncodeALaw(nil, g.down.Append(nil, pcm))
	}
	return p, codec.EncodeULaw(nil, g.down.Append(nil, pcm))
}

// run lets n frames pass; what each hears is kept.
func (r *room) run(n int) {
	r.t.Helper()
	for range n {
		for _, g := range r.list {
			if g.hz > 0 {
				p, payload := g.speak()
				g.m.take(p, playableOf(g.f), payload, p.seq == 100, 0)
			}
		}
		r.tick()
	}
}

func (r *room) tick() {
	r.t.Helper()
	r.mixer.tick(r.mem, r.e.now())
	for _, g := range r.list {
		if g.s.member == nil {
			continue
		}
		h, payload := g.hear()
		if h.pt != g.f.PT {
			r.t.Fatalf("payload type %d", h.pt)
		}
		switch playableOf(g.f) {
		case playG722:
			g.heard = g.dec.Decode(g.heard, []byte(payload))
		case playALaw:
			g.heard = codec.DecodeALaw(g.heard, []byte(payload))
		default:
			g.heard = codec.DecodeULaw(g.heard, []byte(payload))
		}
	}
}

// hears tells the loudness of a tone in what the guest has heard since, in dB against its volume.
func (g *guest) hears(hz float64) float64 {
	rate := 8000.0
	if playableOf(g.f) == playG722 {
		rate = 16000
	}
	pcm := g.heard[len(g.heard)/2:]
	var re, im float64
	for i, s := range pcm {
		re += float64(s) * math.Cos(2*math.Pi*hz*float64(i)/rate)
		im += float64(s) * math.Sin(2*math.Pi*hz*float64(i)/rate)
	}
	amplitude := 2 * math.Hypot(re, im) / float64(len(pcm))
	return 20 * math.Log10(amplitude/6000+1e-9)
}

func (r *room) forget() {
	for _, g := range r.list {
		g.heard = nil
	}
}

// check says who must hear whom: row hears column.
func (r *room) check(want ...string) {
	r.t.Helper()
	for i, g := range r.list {
		for j, o := range r.list {
			if o.hz == 0 {
				continue
			}
			db := g.hears(o.hz)
			if got := db > -3; got != (want[i][j] == 'x') || !got && db > -30 {
				r.t.Errorf("guest %d hears guest %d with %.1f dB, want %c", i, j, db, want[i][j])
			}
		}
	}
}

func TestEverybodyHearsEverybodyElse(t *testing.T) {
	r := newRoom(t)
	r.join(g722, 500)
	b := r.join(pcmu, 1100)
	r.join(pcma, 1700)
	r.join(g722, 0)
	r.run(100)
	r.check(".xx.", "x.x.", "xx..", "xxx.")
	for i, want := range []bool{true, true, true, false} {
		if got := r.list[i].m.Talking(); got != want {
			t.Errorf("guest %d talks %v", i, got)
		}
	}

	b.m.Mute(true)
	r.run(20)
	r.forget()
	r.run(60)
	r.check("..x.", "x.x.", "x...", "x.x.")
	if !b.m.Talking() || !b.m.Muted() {
		t.Error("a muted guest that talks is not seen")
	}
	b.m.Mute(false)

	b.hz = 0 // silent from now on, and after a while it shares the common mix
	r.run(shareAfter + 20)
	r.forget()
	r.run(60)
	r.check("..x.", "x.x.", "x...", "x.x.")
	if b.m.owns || b.m.Talking() {
		t.Errorf("silent guest: mix of its own %v, talks %v", b.m.owns, b.m.Talking())
	}
}

func TestWidebandStaysWide(t *testing.T) {
	r := newRoom(t)
	r.join(g722, 5500)
	r.join(g722, 900)
	r.run(100)
	r.check(".x", "x.")
}

func TestMixDoesNotWrap(t *testing.T) {
	r := newRoom(t)
	for i := range 5 {
		g := r.join(pcmu, 400)
		g.volume = 30000
		g.t = 0
		_ = i
	}
	quiet := r.join(pcmu, 0)
	r.run(50)
	// Five in step are a square wave: loud, but on the right side of zero.
	if db := quiet.hears(400); db < 12 {
		t.Errorf("%.1f dB", db)
	}
}

func TestSilenceStaysSilence(t *testing.T) {
	r := newRoom(t)
	a := r.join(g722, 0)
	b := r.join(pcmu, 0)
	r.run(50)
	for _, g := range []*guest{a, b} {
		for _, s := range g.heard {
			if s > 8 || s < -8 {
				t.Fatalf("sample %d in a silent room", s)
			}
		}
	}
}

func TestLeaving(t *testing.T) {
	r := newRoom(t)
	a, b, c := r.join(pcmu, 500), r.join(pcmu, 1100), r.join(pcmu, 1700)
	r.run(50)
	b.m.Remove()
	b.m.Remove()
	r.list = []*guest{a, c}
	r.run(20)
	r.forget()
	r.run(60)
	r.check(".x", "x.")
	c.s.Close()
	a.s.Close()
	if r.mixer.tick(r.mem, r.e.now()) || !r.mixer.unused() {
		t.Error("an empty room goes on")
	}
	if _, err := r.mixer.Add(a.s); err == nil {
		t.Error("a closed session joined")
	}
}

// TestBadNetwork: loss, disorder, duplicates and bursts do not keep the others from hearing the tone.
func TestBadNetwork(t *testing.T) {
	r := newRoom(t)
	a, b := r.join(pcmu, 500), r.join(pcmu, 0)
	random := rand.New(rand.NewPCG(5, 6))
	var late [][2]any
	for i := range 300 {
		p, payload := a.speak()
		switch n := random.IntN(100); {
		case n < 5: // lost
		case n < 15: // overtaken by the next
			late = append(late, [2]any{p, payload})
		default:
			a.m.take(p, playULaw, payload, i == 0, 0)
			if n > 95 {
				a.m.take(p, playULaw, payload, false, 0)
			}
			for _, l := range late {
				a.m.take(l[0].(packet), playULaw, l[1].([]byte), false, 0)
			}
			late = nil
		}
		r.tick()
	}
	if db := b.hears(500); db < -2 {
		t.Errorf("%.1f dB", db)
	}
	if a.m.in.lost == 0 {
		t.Error("no packet was missed")
	}
}

func TestToneOverTheMix(t *testing.T) {
	r := newRoom(t)
	a := r.join(g722, 500)
	r.join(pcmu, 0)
	r.run(10)
	r.forget()
	r.mixer.Play(Tone{Hz: []float64{1400}, Cadence: []time.Duration{400 * ms}}.Source())
	r.run(20)
	for i, g := range r.list {
		if db := g.hears(1400); db < -6 {
			t.Errorf("guest %d hears the tone with %.1f dB", i, db)
		}
	}
	r.run(20)
	r.forget()
	r.run(20)
	if db := a.hears(1400); db > -40 {
		t.Errorf("the tone goes on with %.1f dB", db)
	}
}

// TestMixerInRealTime: the same over the sockets and the clock.
func TestMixerInRealTime(t *testing.T) {
	e := engine(t)
	m := e.NewMixer()
	a, b := session(t, e), session(t, e)
	pa, pb := newParty(t, a), newParty(t, b)
	set(t, a, pa.remote(pcmu))
	set(t, b, pb.remote(pcma))
	for _, s := range []*Session{a, b} {
		if _, err := m.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	loud := codec.EncodeULaw(nil, []int16{8000})[0]
	payload := make([]byte, 160)
	for i := range payload {
		payload[i] = loud
		if i%8 >= 4 {
			payload[i] ^= 0x80
		}
	}
	stop := time.Now().Add(400 * time.Millisecond)
	for time.Now().Before(stop) {
		pa.say(0, string(payload))
		time.Sleep(20 * time.Millisecond)
	}
	found := false
	for range 15 {
		_, got := pb.hear()
		pcm := codec.DecodeALaw(nil, []byte(got))
		if _, db := power(pcm, 1000, 8000); db > -20 {
			found = true
		}
	}
	if !found {
		t.Error("nothing was heard")
	}
	// From the room into a call of two.
	if err := Bridge(a, b); err != nil {
		t.Fatal(err)
	}
	wait(t, "the clock stops", e.pacer.empty)
}

func TestJitterBuffer(t *testing.T) {
	var j jitter
	buf := make([]byte, jitterBytes)
	put := func(seqs ...uint16) {
		for _, s := range seqs {
			j.put(s, playULaw, []byte{byte(s)}, false)
		}
	}
	get := func() (int, bool, bool) {
		n, _, have, lost := j.get(buf)
		if !have {
			return -1, have, lost
		}
		return int(buf[n-1]), have, lost
	}
	put(65535)
	put(65534) // older, but nothing has been played yet
	if n, have, _ := get(); have {
		t.Fatalf("played %d before it was filled", n)
	}
	put(0, 2, 2)
	for _, want := range []int{254, 255, 0, -1, 2} {
		n, have, lost := get()
		if n != want || have == lost {
			t.Errorf("got %d (%v, %v), want %d", n, have, lost, want)
		}
	}
	put(1) // its time is over
	if n, have, lost := get(); have || lost {
		t.Errorf("empty buffer gave %d, %v, %v", n, have, lost)
	}
	if j.late != 1 || j.lost != 1 {
		t.Errorf("late %d, lost %d", j.late, j.lost)
	}
	j.put(9000, playULaw, []byte{1}, true)
	if j.count != 1 {
		t.Errorf("a new stream has %d packets", j.count)
	}
	j.put(9001, playULaw, make([]byte, jitterBytes+1), false)
	j.put(9001, playULaw, nil, false)
	if j.dropped != 2 {
		t.Errorf("dropped %d", j.dropped)
	}
}

// TestClocksDrift: a party whose clock is fast does not fill the buffer for ever.
func TestClocksDrift(t *testing.T) {
	var j jitter
	buf := make([]byte, jitterBytes)
	seq := uint16(0)
	for i := range 5000 {
		j.put(seq, playULaw, []byte{1}, i == 0)
		seq++
		if i%50 == 0 {
			j.put(seq, playULaw, []byte{1}, false)
			seq++
		}
		j.get(buf)
	}
	if j.count > jitterDepth+jitterSlack+5 {
		t.Errorf("%d packets wait", j.count)
	}
}
