package appliance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"

	"ringfence/appliance/admin"
	"ringfence/media"
	"ringfence/sip/feature/page"
)

// sounds are the sound files of the administrator, each with a name: music on hold, and what is played to phones.
//
//	FOLDER/NAME.wav      one file, of one of media.FileKinds
//	FOLDER/NAME/*.wav    several, played in the order of their names
type sounds struct {
	dir    string
	engine *media.Engine
	log    *slog.Logger

	mu      sync.Mutex
	players map[string]*music // by name
}

// music is a sound that is played to all who wait.
type music struct {
	of     string // the files and their times, as they were
	player *media.Player
}

var soundName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// maxSounds bounds the files of one name.
const maxSounds = 100

func newSounds(dir string, engine *media.Engine, log *slog.Logger) *sounds {
	return &sounds{dir: dir, engine: engine, log: log.With("component", "sounds"), players: map[string]*music{}}
}

// files are those of a name; none is no error.
func (s *sounds) files(name string) (paths []string, stamp string, err error) {
	if !soundName.MatchString(name) {
		return nil, "", fmt.Errorf("%q is no name of a sound: letters in lower case, digits and -", name)
	}
	add := func(path string, info fs.FileInfo) {
		if info.Mode().IsRegular() && slices.Contains(media.FileKinds(), strings.ToLower(filepath.Ext(path))) && len(paths) < maxSounds {
			paths = append(paths, path)
			stamp += path + info.ModTime().String() + strconv.FormatInt(info.Size(), 10) + "\n"
		}
	}
	list, err := os.ReadDir(filepath.Join(s.dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, "", err
	}
	for _, e := range list {
		if info, err := e.Info(); err == nil {
			add(filepath.Join(s.dir, name, e.Name()), info)
		}
	}
	for _, kind := range media.FileKinds() {
		if len(paths) > 0 {
			break
		}
		path := filepath.Join(s.dir, name+kind)
		if info, err := os.Stat(path); err == nil {
			add(path, info)
		}
	}
	return paths, stamp, nil
}

// music is the player of a name; nil where there is no such sound. Files that have changed are played to those who are put on hold from
// then on.
func (s *sounds) music(name string) *media.Player {
	paths, stamp, err := s.files(name)
	if err != nil {
		s.log.Error("music on hold", "sound", name, "err", err)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.players[name]
	switch {
	case len(paths) == 0:
		delete(s.players, name)
		return nil
	case m != nil && m.of == stamp:
		return m.player
	}
	f, err := s.engine.NewFile(paths, true)
	if err != nil {
		s.log.Error("music on hold", "sound", name, "err", err)
		return nil
	}
	m = &music{of: stamp, player: s.engine.NewPlayer(f, nil)}
	s.players[name] = m
	return m.player
}

// soundInfo is a line of "sound list".
type soundInfo struct {
	Name   string   `json:"name"`
	Files  []string `json:"files"`
	Octets int64    `json:"octets"`
}

func (s *sounds) list() ([]soundInfo, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return []soundInfo{}, nil
	}
	if err != nil {
		return nil, err
	}
	out := []soundInfo{}
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() {
			name = strings.TrimSuffix(name, filepath.Ext(name))
		}
		paths, _, err := s.files(name)
		if err != nil || len(paths) == 0 || slices.ContainsFunc(out, func(x soundInfo) bool { return x.Name == name }) {
			continue
		}
		info := soundInfo{Name: name}
		for _, p := range paths {
			info.Files = append(info.Files, filepath.Base(p))
			if i, err := os.Stat(p); err == nil {
				info.Octets += i.Size()
			}
		}
		out = append(out, info)
	}
	return out, nil
}

// maxSoundFile is the size of a file: five hours of wideband.
const maxSoundFile = 600 << 20

// add copies a file into a name.
func (s *sounds) add(name, file string) error {
	if !soundName.MatchString(name) {
		return fmt.Errorf("%q is no name of a sound: letters in lower case, digits and -", name)
	}
	if err := media.CheckSound(file); err != nil {
		return err
	}
	paths, _, err := s.files(name)
	if err != nil {
		return err
	}
	if len(paths) >= maxSounds {
		return fmt.Errorf("sound %s has %d files already", name, len(paths))
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	if info, err := in.Stat(); err != nil || info.Size() > maxSoundFile {
		return fmt.Errorf("%s is larger than %d MB", file, maxSoundFile>>20)
	}
	dir := filepath.Join(s.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	out, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(in, maxSoundFile))
	err = cmp.Or(err, out.Sync())
	if err = cmp.Or(err, out.Close()); err == nil {
		err = os.Rename(out.Name(), filepath.Join(dir, strings.ToLower(filepath.Base(file))))
	}
	if err != nil {
		_ = os.Remove(out.Name())
	}
	return err
}

func (s *sounds) remove(name string) error {
	paths, _, err := s.files(name)
	if err == nil && len(paths) == 0 {
		err = fmt.Errorf("there is no sound %s; ringfence sound list shows them", name)
	}
	for _, p := range paths {
		err = cmp.Or(err, os.Remove(p))
	}
	_ = os.Remove(filepath.Join(s.dir, name)) // where it is a folder, and empty
	return err
}

func soundVerbs() []admin.Verb {
	return []admin.Verb{
		{Name: "sound list", Short: "sound files, for music on hold and for page play", Print: printSounds},
		{Name: "sound add", Args: "NAME FILE", Min: 2, Max: 2, Short: "take a sound file; several of one name follow each other", Change: true, Print: printText,
			Help: "FILE is one that the daemon can read: WAV of 16 bit, A-law or µ-law with 8 or 16 kHz (or a multiple of 16), or the bare payload of G.722, µ-law or\n" +
				"A-law, named .g722, .ulaw or .alaw. The sound named default is the music of every line that names no other.", Prepare: absoluteSecond},
		{Name: "sound remove", Args: "NAME", Min: 1, Max: 1, Short: "remove the files of a sound", Change: true, Print: printText},
		{Name: "page play", Args: "GROUP|LINE,LINE... SOUND", Min: 2, Max: 2, Short: "play a sound, or a file, from the speakers of phones", Change: true, Print: printText,
			Flags:   []admin.Flag{{Name: "text", Usage: "shown on the phones"}, {Name: "volume", Usage: "percent of the loudest, 1 to 100; what the group says, or the user of the phone"}},
			Help:    "SOUND is the name of one (ringfence sound list), or the path of a file that the daemon can read, with a /.",
			Prepare: absoluteSecond},
		{Name: "page stop", Args: "GROUP|LINE,LINE...", Min: 1, Max: 1, Short: "end a page", Change: true, Print: printText},
	}
}

// absoluteSecond makes the second argument independent of where the administrator is, if it is a path.
func absoluteSecond(r *admin.Request) (err error) {
	if len(r.Args) > 1 && strings.ContainsAny(r.Args[1], "/.") {
		r.Args[1], err = filepath.Abs(r.Args[1])
	}
	return err
}

func (a *appliance) soundHandlers() map[string]admin.Handler {
	done := func(err error, format string, args ...any) (any, error) {
		if err != nil {
			return nil, admin.Refuse("%v", err)
		}
		return say(format, args...)
	}
	return map[string]admin.Handler{
		"sound list": func(context.Context, admin.Request) (any, error) { return a.sounds.list() },
		"sound add": func(_ context.Context, r admin.Request) (any, error) {
			return done(a.sounds.add(r.Args[0], r.Args[1]), "%s belongs to sound %s now", filepath.Base(r.Args[1]), r.Args[0])
		},
		"sound remove": func(_ context.Context, r admin.Request) (any, error) {
			return done(a.sounds.remove(r.Args[0]), "sound %s is removed", r.Args[0])
		},
		"page play": a.pagePlay,
		"page stop": func(_ context.Context, r admin.Request) (any, error) {
			if !a.features.Pages.Stop(strings.Split(r.Args[0], ",")) {
				return nil, admin.Refuse("%s hears no page", r.Args[0])
			}
			return say("the page has ended")
		},
	}
}

func (a *appliance) pagePlay(ctx context.Context, r admin.Request) (any, error) {
	o := page.Sound{To: strings.Split(r.Args[0], ","), Text: r.Flags["text"]}
	if v := r.Flags["volume"]; v != "" {
		var err error
		if o.Volume, err = strconv.Atoi(v); err != nil || o.Volume < 1 || o.Volume > 100 {
			return nil, admin.Usage("volume is a number from 1 to 100")
		}
	}
	paths := []string{r.Args[1]}
	if !filepath.IsAbs(r.Args[1]) {
		var err error
		if paths, _, err = a.sounds.files(r.Args[1]); err != nil {
			return nil, admin.Refuse("%v", err)
		}
		if len(paths) == 0 {
			return nil, admin.Refuse("there is no sound %s; ringfence sound list shows them", r.Args[1])
		}
	}
	f, err := a.media.NewFile(paths, false)
	if err != nil {
		return nil, admin.Refuse("%v", err)
	}
	o.Source, o.Close = f, f.Close
	phones, err := a.features.Pages.Play(a.calls, a.plan.Load(), o)
	if err != nil {
		return nil, admin.Refuse("%v", err)
	}
	return say("%d phones play it: %s", len(phones), strings.Join(phones, ", "))
}

func printSounds(w io.Writer, answer json.RawMessage) error {
	var all []soundInfo
	if err := json.Unmarshal(answer, &all); err != nil {
		return err
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no sound; parties on hold hear the built-in melody")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SOUND\tKB\tFILES")
	for _, s := range all {
		fmt.Fprintf(tw, "%s\t%d\t%s\n", s.Name, s.Octets>>10, strings.Join(s.Files, ", "))
	}
	return tw.Flush()
}
