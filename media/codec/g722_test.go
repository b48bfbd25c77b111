package codec

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os/exec"
	"testing"
)

func pcmBytes(pcm []int16) []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, pcm)
	return b.Bytes()
}

func pcmOf(b []byte) []int16 {
	pcm := make([]int16, len(b)/2)
	_ = binary.Read(bytes.NewReader(b), binary.LittleEndian, pcm)
	return pcm
}

// speech is a signal with the spread of speech: gliding tones in both bands, changing loudness, noise, silence.
func speech(n int) []int16 {
	r := rand.New(rand.NewPCG(1, 2))
	pcm := make([]int16, n)
	phase := 0.0
	for i := range pcm {
		t := float64(i) / 16000
		phase += 2 * math.Pi * (300 + 3200*(1+math.Sin(2*math.Pi*0.7*t))) / 16000
		v := 9000 * math.Sin(phase) * (0.55 + 0.45*math.Sin(2*math.Pi*3*t))
		v += 2500*math.Sin(2*math.Pi*180*t) + 300*r.NormFloat64()
		if i/8000%5 == 4 {
			v = 0
		}
		pcm[i] = int16(v)
	}
	return pcm
}

func ffmpegG722(t *testing.T, in []byte, decode bool) []byte {
	t.Helper()
	args := []string{"-v", "error", "-f", "s16le", "-ar", "16000", "-ac", "1", "-i", "pipe:0", "-c:a", "g722", "-f", "g722", "pipe:1"}
	if decode {
		args = []string{"-v", "error", "-f", "g722", "-i", "pipe:0", "-f", "s16le", "-ac", "1", "-ar", "16000", "pipe:1"}
	}
	cmd := exec.Command("ffmpeg", args...)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ffmpeg: %v", err)
	}
	return out
}

// TestG722AgainstFFmpeg: octets that a foreign encoder made are decoded to exactly the samples of a foreign decoder, and so are
// random octets, which visit every state.
func TestG722AgainstFFmpeg(t *testing.T) {
	if _, err := exec.LookPath("ffmpeg"); err != nil {
		t.Skip("ffmpeg is not installed")
	}
	pcm := speech(64000)
	theirs := ffmpegG722(t, pcmBytes(pcm), false)
	ours := NewG722Encoder().Encode(nil, pcm)
	if n := min(len(ours), len(theirs)); !bytes.Equal(ours[:n], theirs[:n]) || n < 30000 {
		d := 0
		for i := range n {
			if ours[i] != theirs[i] {
				d++
			}
		}
		t.Errorf("%d of %d octets differ from the foreign encoder's", d, n)
	}
	r := rand.New(rand.NewPCG(3, 4))
	random := make([]byte, 32000)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	for name, octets := range map[string][]byte{"encoded": theirs, "random": random} {
		want := pcmOf(ffmpegG722(t, octets, true))
		got := NewG722Decoder().Decode(nil, octets)
		if len(got) < len(want) {
			t.Fatalf("%s: %d samples, want %d", name, len(got), len(want))
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s: sample %d is %d, foreign decoder has %d", name, i, got[i], want[i])
				break
			}
		}
	}
}

// TestG722Quality: what comes back is what went in, 22 samples later, at least 20 dB above the noise in both bands.
func TestG722Quality(t *testing.T) {
	for _, hz := range []float64{300, 1000, 3000, 5000, 6500} {
		pcm := make([]int16, 16000)
		for i := range pcm {
			pcm[i] = int16(8000 * math.Sin(2*math.Pi*hz*float64(i)/16000))
		}
		back := NewG722Decoder().Decode(nil, NewG722Encoder().Encode(nil, pcm))
		const delay = 22
		var signal, noise float64
		for i := 4000; i < 15000; i++ {
			s, d := float64(pcm[i]), float64(back[i+delay])-float64(pcm[i])
			signal += s * s
			noise += d * d
		}
		if db := 10 * math.Log10(signal/noise); db < 20 {
			t.Errorf("%v Hz: %.1f dB", hz, db)
		}
	}
}

func TestG722Silence(t *testing.T) {
	back := NewG722Decoder().Decode(nil, NewG722Encoder().Encode(nil, make([]int16, 3200)))
	for i, s := range back {
		if abs(int(s)) > 4 {
			t.Fatalf("sample %d of silence is %d", i, s)
		}
	}
}

func BenchmarkG722(b *testing.B) {
	pcm := speech(320)
	e, d := NewG722Encoder(), NewG722Decoder()
	var octets []byte
	var out []int16
	b.ReportAllocs()
	for b.Loop() { // one frame of 20 ms both ways
		octets = e.Encode(octets[:0], pcm)
		out = d.Decode(out[:0], octets)
	}
}
