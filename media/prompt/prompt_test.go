package prompt

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ringfence/media/codec"
)

func texts(t *testing.T, language string) (names []string) {
	t.Helper()
	b, err := os.ReadFile(language + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if name, words, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && !strings.HasPrefix(name, "#") && words != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// TestEveryTextIsSpoken holds texts and sounds together: each text of both languages has a sound that can be heard and begins at once.
func TestEveryTextIsSpoken(t *testing.T) {
	if got, want := Names(), texts(t, "en"); !slices.Equal(got, want) {
		t.Errorf("sounds %v\ntexts %v", got, want)
	}
	if got, want := texts(t, "de"), texts(t, "en"); !slices.Equal(got, want) {
		t.Errorf("German has %v\nEnglish %v", got, want)
	}
	for _, language := range []string{"en", "de"} {
		set := New("assets", language)
		for _, name := range Names() {
			pcm, err := set.Samples(name)
			if err != nil {
				t.Fatal(language, err)
			}
			seconds := float64(len(pcm)) / 16000
			sum, peak, lead := 0.0, 0, -1
			for i, s := range pcm {
				sum += float64(s) * float64(s)
				peak = max(peak, int(s), -int(s))
				if lead < 0 && (s > 500 || s < -500) {
					lead = i
				}
			}
			if rms := sum / float64(len(pcm)); seconds < 0.15 || seconds > 12 || rms < 500*500 || peak >= 32000 || lead < 0 || lead > 3200 {
				t.Errorf("%s %s: %.1f s, power %.0f, peak %d, silence at first %d", language, name, seconds, rms, peak, lead)
			}
		}
	}
}

func TestFilesTakeThePlaceOfOurs(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "fr"), 0o755); err != nil {
		t.Fatal(err)
	}
	own := make([]int16, 1600)
	for i := range own {
		own[i] = int16(8000 * (i % 2))
	}
	put := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, "fr", name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("goodbye.g722", codec.NewG722Encoder().Encode(nil, own))
	put("deleted.wav", []byte("RIFF but no more"))
	set := New(dir, "fr")
	if pcm, err := set.Samples("goodbye"); err != nil || len(pcm) != len(own) {
		t.Errorf("%d samples, %v", len(pcm), err)
	}
	if _, err := set.Samples("deleted"); err == nil {
		t.Error("a spoilt file was taken")
	}
	ours, err := New("", "en").Samples("saved")
	if err != nil {
		t.Fatal(err)
	}
	if pcm, err := set.Samples("saved"); err != nil || len(pcm) != len(ours) {
		t.Errorf("English instead: %d samples, %v", len(pcm), err)
	}
	for _, name := range []string{"../fr/goodbye", "", "nothing", "Goodbye"} {
		if _, err := set.Samples(name); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: %v", name, err)
		}
	}
	// A sentence of which one part is spoilt and one does not exist is said as far as it goes.
	sound, err := set.Say("goodbye", "deleted", "nothing")
	if !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	deleted, _ := New("", "en").Samples("deleted")
	pcm := make([]int16, 1<<20)
	if n := sound.Read(pcm); n != len(own)+len(deleted)+2*pause {
		t.Errorf("%d samples", n)
	}
	if got := Digits("3-01x"); !slices.Equal(got, []string{"3", "0", "1"}) {
		t.Error(got)
	}
}
