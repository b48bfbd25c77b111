// Package prompt is what the appliance says: mailboxes, conferences, announcements. The texts are en.txt and de.txt; their sounds are
// made from them by a speech synthesiser when a text changes, and kept as wideband G.722 in assets. English is part of the program;
// other languages, and sounds of the administrator's own, are files in a folder of their language:
//
//	FOLDER/de/enter-pin.wav     16 bit PCM, mono, 8 or 16 kHz
//	FOLDER/de/enter-pin.g722    64 kbit/s
//
// A file there takes the place of ours. What a language does not have is said in English.
package prompt

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"ringfence/media"
	"ringfence/media/codec"
)

//go:generate go run ./gen en de

//go:embed assets/en/*.g722
var english embed.FS

// Set says prompts in one language.
type Set struct {
	dir      string // may be ""
	language string
}

// New makes a set. dir may be empty: then there is only English.
func New(dir, language string) *Set { return &Set{dir: dir, language: language} }

// ErrUnknown is wrapped when there is no such prompt.
var ErrUnknown = errors.New("no such prompt")

var plain = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

// maxPrompt is the size of a file: five minutes.
const maxPrompt = 16000 * 2 * 300

// Samples is a prompt at 16 kHz. A file of the administrator's that cannot be used is an error; callers say ours then, by Fallback.
func (s *Set) Samples(name string) ([]int16, error) {
	if !plain.MatchString(name) || !plain.MatchString(s.language) {
		return nil, fmt.Errorf("%w: %q", ErrUnknown, name)
	}
	if s.dir != "" {
		pcm, err := load(filepath.Join(s.dir, s.language, name))
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return pcm, err
		}
	}
	return builtIn(name)
}

func builtIn(name string) ([]int16, error) {
	b, err := english.ReadFile("assets/en/" + name + ".g722")
	if err != nil {
		return nil, fmt.Errorf("%w: %q", ErrUnknown, name)
	}
	return codec.NewG722Decoder().Decode(nil, b), nil
}

func load(base string) ([]int16, error) {
	b, err := read(base + ".wav")
	if err == nil {
		pcm, err := media.ReadWAV(bytes.NewReader(b))
		if err != nil {
			return nil, fmt.Errorf("%s.wav: %w", base, err)
		}
		return pcm, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if b, err = read(base + ".g722"); err != nil {
		return nil, err
	}
	return codec.NewG722Decoder().Decode(nil, b), nil
}

func read(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxPrompt {
		return nil, fmt.Errorf("%s: no file of at most %d octets", file, maxPrompt)
	}
	return os.ReadFile(file)
}

// Say is prompts one after the other, as one sound. One that a file spoils is said in English; one that does not exist is left out and
// named in the error, beside the sound of the others.
func (s *Set) Say(names ...string) (media.Source, error) {
	var all []int16
	var errs []error
	for _, n := range names {
		pcm, err := s.Samples(n)
		if err != nil {
			errs = append(errs, err)
			if pcm, err = builtIn(n); err != nil {
				continue
			}
		}
		all = append(all, pcm...)
		all = append(all, make([]int16, pause)...)
	}
	return &media.Once{Samples: all}, errors.Join(errs...)
}

const pause = 1600 // samples between prompts

// Digits are the prompts that say a number digit by digit; other characters are left out.
func Digits(number string) (names []string) {
	for _, r := range number {
		if r >= '0' && r <= '9' {
			names = append(names, string(r))
		}
	}
	return names
}

// Names lists every prompt that there is.
func Names() (names []string) {
	list, _ := english.ReadDir("assets/en")
	for _, f := range list {
		names = append(names, strings.TrimSuffix(f.Name(), ".g722"))
	}
	sort.Strings(names)
	return names
}
