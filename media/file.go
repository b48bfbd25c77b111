package media

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"ringfence/media/codec"
)

// FileKinds are the endings of the sound files that File reads: WAV as ReadWAV has it, and payload without a head of G.722, µ-law and A-law.
func FileKinds() []string { return []string{".wav", ".g722", ".ulaw", ".alaw"} }

// ErrSound is wrapped when a file is none of FileKinds.
var ErrSound = errors.New("not a sound file that can be played")

// File plays sound files of any length, one after the other without a gap between them: music on hold, announcements. Only some seconds
// are in memory. It is a Source; the files are read ahead in another goroutine, since a Source must not wait for a disk.
//
//	Read --takes--> ahead (at most fileAhead) <--fills when half empty-- one goroutine, which then ends
//
// A file that cannot be read on is left out with a word in the log. Files that loop and have all become unreadable are silent.
type File struct {
	engine *Engine
	paths  []string
	loop   bool

	mu      sync.Mutex
	ahead   []int16
	filling bool
	ended   bool // nothing more will come
	closed  bool

	// Of the one who fills.
	open *soundFile
	next int  // of paths
	some bool // this round of the files gave something
}

const (
	fileAhead = 2 * sampleRate
	fileChunk = 4096 // octets read at once
)

// NewFile opens files and reads the beginning. An error is that of the first, which must be good.
func (e *Engine) NewFile(paths []string, loop bool) (*File, error) {
	if len(paths) == 0 {
		return nil, fmt.Errorf("media: %w: no file", ErrSound)
	}
	f := &File{engine: e, paths: slices.Clone(paths), loop: loop, filling: true}
	var err error
	if f.open, err = openSound(paths[0]); err != nil {
		return nil, fmt.Errorf("media: %w", err)
	}
	f.next = 1
	f.fill()
	return f, nil
}

// Read is Source.
func (f *File) Read(pcm []int16) int {
	f.mu.Lock()
	n := copy(pcm, f.ahead)
	f.ahead = f.ahead[:copy(f.ahead, f.ahead[n:])]
	more := len(f.ahead) < fileAhead/2 && !f.filling && !f.ended && !f.closed
	if more {
		f.filling = true
	}
	over := f.ended || f.closed
	f.mu.Unlock()
	if more {
		f.engine.group.Go("read sound", func(context.Context) { f.fill() })
	}
	if over {
		return n
	}
	clear(pcm[n:]) // the disk is late
	return len(pcm)
}

// Close lets go of the files; what is read is played still. It may be called again.
func (f *File) Close() {
	f.mu.Lock()
	mine := !f.filling
	f.closed = true
	f.mu.Unlock()
	if mine {
		f.shut()
	}
}

func (f *File) shut() {
	if f.open != nil {
		f.open.file.Close()
		f.open = nil
	}
}

// fill reads until enough is there. It is called with filling set, and resets it.
func (f *File) fill() {
	var pcm []int16
	for {
		pcm = pcm[:0]
		more := f.readOn(&pcm)
		f.mu.Lock()
		f.ahead = append(f.ahead, pcm...)
		f.ended = f.ended || !more
		if done := f.closed || f.ended || len(f.ahead) >= fileAhead; done {
			f.filling = false
			shut := f.closed || f.ended
			f.mu.Unlock()
			if shut {
				f.shut()
			}
			return
		}
		f.mu.Unlock()
	}
}

// readOn appends some of the sound; false: that was all.
func (f *File) readOn(pcm *[]int16) bool {
	if f.open == nil {
		if f.next == len(f.paths) {
			if !f.loop || !f.some {
				return false
			}
			f.next, f.some = 0, false
		}
		path := f.paths[f.next]
		f.next++
		var err error
		if f.open, err = openSound(path); err != nil {
			f.engine.log.Info("sound is left out", "file", filepath.Base(path), "err", err)
			return true
		}
	}
	err := f.open.read(pcm)
	f.some = f.some || len(*pcm) > 0
	if err != nil {
		if !errors.Is(err, io.EOF) {
			f.engine.log.Info("sound ends", "file", filepath.Base(f.paths[f.next-1]), "err", err)
		}
		f.shut()
	}
	return true
}

// CheckSound tells what is wrong with a sound file, having read its head.
func CheckSound(path string) error {
	s, err := openSound(path)
	if err == nil {
		err = s.file.Close()
	}
	return err
}

// soundFile is one that is being read.
type soundFile struct {
	file   *os.File
	in     io.Reader
	format wavFormat // rate 0: G.722
	g722   *codec.G722Decoder
	up     codec.Upsampler
	raw    [fileChunk]byte
	have   int // octets in raw
	narrow []int16
}

func openSound(path string) (*soundFile, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	s := &soundFile{file: file, in: bufio.NewReaderSize(file, 1<<15)}
	switch kind := strings.ToLower(filepath.Ext(path)); kind {
	case ".wav":
		if s.format, err = readWAVFormat(s.in); err == nil {
			s.in = io.LimitReader(s.in, s.format.size)
		}
	case ".g722":
		s.g722 = codec.NewG722Decoder()
	case ".ulaw":
		s.format = wavFormat{kind: wavULaw, channels: 1, rate: 8000}
	case ".alaw":
		s.format = wavFormat{kind: wavALaw, channels: 1, rate: 8000}
	default:
		err = fmt.Errorf("%w: %s; one of %s is needed", ErrSound, filepath.Base(path), strings.Join(FileKinds(), " "))
	}
	if info, err2 := file.Stat(); err == nil && (err2 != nil || !info.Mode().IsRegular()) {
		err = fmt.Errorf("%w: %s is no file", ErrSound, filepath.Base(path))
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return s, nil
}

// read appends the next samples at 16 kHz.
func (s *soundFile) read(pcm *[]int16) error {
	n, err := s.in.Read(s.raw[s.have:])
	s.have += n
	if s.g722 != nil {
		*pcm = s.g722.Decode(*pcm, s.raw[:s.have])
		s.have = 0
		return err
	}
	whole := s.have - s.have%s.format.block()
	if s.format.rate == 8000 {
		s.narrow = s.format.mono(s.narrow[:0], s.raw[:whole])
		*pcm = s.up.Append(*pcm, s.narrow)
	} else {
		*pcm = s.format.mono(*pcm, s.raw[:whole])
	}
	s.have = copy(s.raw[:], s.raw[whole:s.have])
	return err
}
