package codec

import (
	"bytes"
	"encoding/binary"
	"os/exec"
	"testing"
)

var laws = []struct {
	name   string
	encode func([]byte, []int16) []byte
	decode func([]int16, []byte) []int16
	zero   byte
	max    int16 // largest output
}{
	{"ulaw", EncodeULaw, DecodeULaw, SilenceULaw, 32124},
	{"alaw", EncodeALaw, DecodeALaw, SilenceALaw, 32256},
}

func TestG711EverySample(t *testing.T) {
	for _, law := range laws {
		t.Run(law.name, func(t *testing.T) {
			if got := law.encode(nil, []int16{0}); got[0] != law.zero {
				t.Errorf("silence is %#x, want %#x", got[0], law.zero)
			}
			last := -law.max
			for i := -32768; i <= 32767; i++ {
				code := law.encode(nil, []int16{int16(i)})
				back := law.decode(nil, code)[0]
				if back < last || back > law.max {
					t.Fatalf("sample %d became %d after %d", i, back, last)
				}
				last = back
				// A step is at most 1/16 of the value in its segment, so the error is at most 1/32 and the lowest step.
				if d, limit := abs(i-int(back)), abs(i)/32+8; d > limit && abs(i) <= int(law.max)+512 {
					t.Fatalf("sample %d became %d", i, back)
				}
				if again := law.encode(nil, []int16{back}); again[0] != code[0] && back != 0 {
					t.Fatalf("sample %d: code %#x, of its own output %#x", i, code[0], again[0])
				}
			}
			if last != law.max {
				t.Errorf("loudest output is %d, want %d", last, law.max)
			}
		})
	}
}

// Values from the tables of the recommendation: the ends of segments, and the codes of the smallest and largest samples.
func TestG711Tables(t *testing.T) {
	for _, tc := range []struct {
		law    int
		code   byte
		sample int16
	}{
		{0, 0x80, 32124}, {0, 0x00, -32124}, {0, 0xff, 0}, {0, 0xfe, 8}, {0, 0x7e, -8}, {0, 0xef, 132}, {0, 0x8f, 16764},
		{1, 0xaa, 32256}, {1, 0x2a, -32256}, {1, 0xd5, 8}, {1, 0x55, -8}, {1, 0xc5, 264}, {1, 0xa5, 16896},
	} {
		law := laws[tc.law]
		if got := law.decode(nil, []byte{tc.code})[0]; got != tc.sample {
			t.Errorf("%s %#x is %d, want %d", law.name, tc.code, got, tc.sample)
		}
		if got := law.encode(nil, []int16{tc.sample})[0]; got != tc.code {
			t.Errorf("%s of %d is %#x, want %#x", law.name, tc.sample, got, tc.code)
		}
	}
}

// TestG711AgainstFFmpeg compares with an implementation that is not ours. It decides by nearest output value where the
// recommendation has decision values, so a sample at the edge of a step may differ by one code.
func TestG711AgainstFFmpeg(t *testing.T) {
	if _, err := exec.LookPath("ffmpeg"); err != nil {
		t.Skip("ffmpeg is not installed")
	}
	var pcm bytes.Buffer
	samples := make([]int16, 0, 65536)
	for i := -32768; i <= 32767; i++ {
		samples = append(samples, int16(i))
	}
	_ = binary.Write(&pcm, binary.LittleEndian, samples)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for i, format := range []string{"mulaw", "alaw"} {
		law := laws[i]
		want := ffmpeg(t, all, format, "s16le")
		var got bytes.Buffer
		_ = binary.Write(&got, binary.LittleEndian, law.decode(nil, all))
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: samples differ", law.name)
		}
		theirs := ffmpeg(t, pcm.Bytes(), "s16le", format)
		for j, c := range law.encode(nil, samples) {
			a, b := law.decode(nil, []byte{c})[0], law.decode(nil, theirs[j:j+1])[0]
			s := int(samples[j])
			if d := abs(s-int(a)) - abs(s-int(b)); c != theirs[j] && (d > 8 && d > abs(s)/32) {
				t.Fatalf("%s of %d is %#x (%d), ffmpeg has %#x (%d)", law.name, s, c, a, theirs[j], b)
			}
		}
	}
}

func ffmpeg(t *testing.T, in []byte, from, to string) []byte {
	t.Helper()
	cmd := exec.Command("ffmpeg", "-v", "error", "-f", from, "-ar", "8000", "-ac", "1", "-i", "pipe:0", "-f", to, "-ar", "8000", "-ac", "1", "pipe:1")
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ffmpeg from %s to %s: %v", from, to, err)
	}
	return out
}

func abs(i int) int {
	if i < 0 {
		return -i
	}
	return i
}
