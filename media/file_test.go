package media

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"ringfence/media/codec"
)

// fileOf writes a sound file.
func fileOf(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// readAll reads up to so many samples, never faster than the file is read.
func readAll(t *testing.T, f *File, most int) (out []int16) {
	t.Helper()
	pcm := make([]int16, frameSamples)
	for len(out) < most {
		wait(t, "the file is read ahead", func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return !f.filling
		})
		n := f.Read(pcm)
		out = append(out, pcm[:n]...)
		if n < len(pcm) {
			break
		}
	}
	return out
}

func ramp(n int) []int16 {
	out := make([]int16, n)
	for i := range out {
		out[i] = int16(i * 7)
	}
	return out
}

// TestFileLoops: files follow each other, and the first the last, without a sample too many or too few.
func TestFileLoops(t *testing.T) {
	e := engine(t)
	a, b := ramp(50001), ramp(31)
	slices.Reverse(b)
	f, err := e.NewFile([]string{fileOf(t, "a.wav", wav(1, 1, 16000, 16, a...)), fileOf(t, "b.WAV", wav(1, 1, 16000, 16, b...))}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	round := slices.Concat(a, b)
	got := readAll(t, f, 3*len(round))
	for i, s := range got {
		if s != round[i%len(round)] {
			t.Fatalf("sample %d of round %d is %d, want %d", i%len(round), i/len(round), s, round[i%len(round)])
		}
	}
	if n := cap(f.ahead); n > 2*fileAhead {
		t.Errorf("%d samples are held in memory", n)
	}
}

func TestFileKinds(t *testing.T) {
	e := engine(t)
	pcm := ramp(640)
	var down codec.Downsampler
	narrow := down.Append(nil, pcm)
	var up [3]codec.Upsampler
	g722 := codec.NewG722Encoder().Encode(nil, pcm)
	ulaw, alaw := codec.EncodeULaw(nil, narrow), codec.EncodeALaw(nil, narrow)
	stereo := make([]int16, 0, 2*len(pcm))
	for _, s := range pcm {
		stereo = append(stereo, s, 0)
	}
	half := make([]int16, len(pcm))
	for i, s := range pcm {
		half[i] = s / 2
	}
	for _, c := range []struct {
		name string
		data []byte
		want []int16
	}{
		{"a.g722", g722, codec.NewG722Decoder().Decode(nil, g722)},
		{"a.ulaw", ulaw, up[0].Append(nil, codec.DecodeULaw(nil, ulaw))},
		{"a.alaw", alaw, up[1].Append(nil, codec.DecodeALaw(nil, alaw))},
		{"narrow.wav", wav(1, 1, 8000, 16, narrow...), up[2].Append(nil, narrow)},
		{"stereo.wav", wav(1, 2, 16000, 16, stereo...), half},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := e.NewFile([]string{fileOf(t, c.name, c.data)}, false)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if got := readAll(t, f, 1<<20); !slices.Equal(got, c.want) {
				t.Errorf("%d samples, want %d", len(got), len(c.want))
			}
		})
	}
}

func TestFileRefuses(t *testing.T) {
	e := engine(t)
	good := fileOf(t, "good.wav", wav(1, 1, 16000, 16, 1, 2, 3))
	for name, path := range map[string]string{
		"missing": filepath.Join(t.TempDir(), "none.wav"), "folder": t.TempDir() + "/", "mp3": fileOf(t, "a.mp3", []byte("ID3")),
		"no WAV": fileOf(t, "a.wav", []byte("RIFX")), "44.1 kHz": fileOf(t, "b.wav", wav(1, 1, 44100, 16, 1)),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := e.NewFile([]string{path, good}, true); err == nil {
				t.Error("taken")
			}
			if err := CheckSound(path); err == nil {
				t.Error("found good")
			} else if name == "mp3" && !errors.Is(err, ErrSound) || name == "44.1 kHz" && !errors.Is(err, ErrWAV) {
				t.Error(err)
			}
		})
	}
	// One that is gone later is left out.
	gone := fileOf(t, "gone.wav", wav(1, 1, 16000, 16, 9))
	f, err := e.NewFile([]string{good, gone}, true)
	if err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(gone)
	if got := readAll(t, f, 3*sampleRate); len(got) < 3*sampleRate || !slices.Contains(got, 3) {
		t.Errorf("%d samples", len(got))
	}
	// And when all are gone, it ends.
	_ = os.Remove(good)
	readAll(t, f, 1<<30)
	f.Close()
	f.Close()
}
