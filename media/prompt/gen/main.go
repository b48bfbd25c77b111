// Command gen speaks the texts of the prompts with espeak-ng and writes them as G.722. Only whoever changes a text needs it, and with
// it espeak-ng and ffmpeg; the sounds are kept in the tree.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"ringfence/media/codec"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(languages []string) error {
	voices := map[string]string{"en": "en-us", "de": "de"}
	for _, language := range languages {
		text, err := os.ReadFile(language + ".txt")
		if err != nil {
			return err
		}
		dir := filepath.Join("assets", language)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			name, words, ok := strings.Cut(strings.TrimSpace(line), "\t")
			if !ok || strings.HasPrefix(name, "#") {
				continue
			}
			octets, err := speak(voices[language], words)
			if err != nil {
				return fmt.Errorf("%s %s: %w", language, name, err)
			}
			if err := os.WriteFile(filepath.Join(dir, name+".g722"), octets, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// speak is the sound of words: no silence around them, as loud as speech on the telephone is.
func speak(voice, words string) ([]byte, error) {
	wav, err := exec.Command("espeak-ng", "-v", voice, "-s", "150", "--stdout", words).Output()
	if err != nil {
		return nil, fmt.Errorf("espeak-ng: %w", err)
	}
	cmd := exec.Command("ffmpeg", "-v", "error", "-i", "pipe:0", "-f", "s16le", "-ac", "1", "-ar", "16000", "pipe:1")
	cmd.Stdin = bytes.NewReader(wav)
	raw, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("ffmpeg: %w", err)
	}
	pcm := make([]int16, len(raw)/2&^1)
	if err := binary.Read(bytes.NewReader(raw), binary.LittleEndian, pcm); err != nil {
		return nil, err
	}
	return codec.NewG722Encoder().Encode(nil, level(trim(pcm))), nil
}

// trim leaves 20 ms of the silence around the words.
func trim(pcm []int16) []int16 {
	const quiet, margin = 300, 320
	loud := func(s int16) bool { return s > quiet || s < -quiet }
	first, last := slices.IndexFunc(pcm, loud), len(pcm)-1
	for last > first && !loud(pcm[last]) {
		last--
	}
	return pcm[max(first-margin, 0):min(last+margin, len(pcm))]
}

// level makes all prompts equally loud: about -20 dBm0, as speech on the telephone is.
func level(pcm []int16) []int16 {
	const power, most = 2500, 26000
	sum, peak := 1.0, 1.0
	for _, s := range pcm {
		sum += float64(s) * float64(s)
		peak = max(peak, math.Abs(float64(s)))
	}
	gain := min(power/math.Sqrt(sum/float64(len(pcm))), most/peak)
	for i, s := range pcm {
		pcm[i] = int16(gain * float64(s))
	}
	return pcm
}
