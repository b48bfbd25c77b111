package media

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ringfence/internal/task"
)

// RecordOptions say where a recording goes.
type RecordOptions struct {
	Dir string // exists
	// Done is called once, when the file is whole, from a goroutine of the recorder's. If the disk was full, err says so, and the
	// recording is what was written until then; without anything written there is no recording.
	Done func(r Recording, err error)

	create func(name string) (recordFile, error) // for tests
}

// Recording is a finished one. Its name is the SHA-256 of its content, so that what was recorded cannot be changed unnoticed.
type Recording struct {
	File   string
	Hash   string
	Length time.Duration
	Lost   time.Duration // of it, silence in place of what the disk was too slow for
}

// Recorder writes what two parties say into a WAV file of 16 kHz, the first left and the second right.
//
//	recording --Stop, the engine's end--> closing --file whole, renamed--> done
//	    |-------------- disk full ----------^
//
// While it is written the file is called after nothing but chance and ends in ".part"; Recover makes whole what a crash left.
type Recorder struct {
	engine  *Engine
	opt     RecordOptions
	monitor *Monitor
	file    recordFile
	part    string
	blocks  chan []byte
	failed  atomic.Bool
	stopped atomic.Bool
	paused  atomic.Bool

	// Of the pacer's goroutine.
	block []byte
	gap   int // octets that the disk was too slow for, to be made up with silence

	closing sync.Once
}

type recordFile interface {
	io.Writer
	io.WriterAt
	Sync() error
	Close() error
}

const (
	recordRate  = sampleRate * 2 * 2        // octets per second
	recordBlock = recordRate / 2            // is written at once
	recordQueue = 8                         // blocks that wait for the disk
	recordSync  = 10                        // blocks between two syncs
	frameOctets = frameSamples * 2 * 2      // of both channels
	partSuffix  = ".part"                   // of files that are not whole
	maxRecord   = 0xffffffff - 36 - 1000000 // what a WAV file can say, less what may be under way
)

// Record begins to record; right may be nil.
func (e *Engine) Record(o RecordOptions, left, right *Session) (*Recorder, error) {
	sessions := []*Session{left}
	if right != nil {
		sessions = append(sessions, right)
	}
	return e.record(o, func() (*Monitor, error) { return Listen(sessions...) })
}

// RecordParty begins to record one party: left is what it says, right what it hears, whoever or whatever that is.
func (e *Engine) RecordParty(o RecordOptions, s *Session) (*Recorder, error) {
	return e.record(o, func() (*Monitor, error) { return listenBoth(s) })
}

func (e *Engine) record(o RecordOptions, listen func() (*Monitor, error)) (*Recorder, error) {
	var id [8]byte
	_, _ = rand.Read(id[:])
	r := &Recorder{engine: e, opt: o, part: filepath.Join(o.Dir, hex.EncodeToString(id[:])+partSuffix), blocks: make(chan []byte, recordQueue)}
	create := o.create
	if create == nil {
		create = func(name string) (recordFile, error) {
			return os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		}
	}
	var err error
	if r.file, err = create(r.part); err != nil {
		return nil, fmt.Errorf("media: record: %w", err)
	}
	if r.monitor, err = listen(); err == nil {
		_, err = r.file.Write(wavHeader(2, sampleRate, 0))
	}
	if err != nil {
		r.file.Close()
		_ = os.Remove(r.part)
		if r.monitor != nil {
			r.monitor.Stop()
		}
		return nil, fmt.Errorf("media: record: %w", err)
	}
	e.group.Go("recorder", r.write)
	e.pacer.add(r)
	return r, nil
}

// Stop ends the recording; Done is called when the file is whole. It may be called again.
func (r *Recorder) Stop() { r.stopped.Store(true) }

// Pause puts silence into the file instead of what is said, until it is told otherwise.
func (r *Recorder) Pause(on bool) { r.paused.Store(on) }

func (r *Recorder) unused() bool { return r.stopped.Load() || r.failed.Load() }

// tick takes the next frame of both parties. It never waits for the disk.
func (r *Recorder) tick(*scratch, int64) bool {
	if r.unused() {
		r.finish()
		return false
	}
	at := len(r.block)
	r.block = append(r.block, make([]byte, frameOctets)...)
	for c, e := range r.monitor.ears {
		e.pull()
		if !e.sounds || r.paused.Load() {
			continue
		}
		for i, s := range e.frame {
			binary.LittleEndian.PutUint16(r.block[at+4*i+2*c:], uint16(s))
		}
	}
	if len(r.block) >= recordBlock {
		r.hand()
	}
	return true
}

// hand gives the block to the disk. One that finds the queue full is replaced by as much silence once there is room.
func (r *Recorder) hand() {
	select {
	case r.blocks <- r.block:
		r.block = make([]byte, 0, recordBlock+frameOctets)
	default:
		r.gap += len(r.block)
		r.block = r.block[:0]
		return
	}
	for ; r.gap > 0; r.gap -= min(r.gap, recordBlock) {
		select {
		case r.blocks <- nil: // silence
		default:
			return
		}
	}
}

// finish ends the work of the pacer.
func (r *Recorder) finish() {
	r.closing.Do(func() {
		r.monitor.Stop()
		if len(r.block) > 0 {
			r.hand()
		}
		close(r.blocks)
	})
}

// write is the recorder's goroutine: it alone touches the file.
func (r *Recorder) write(ctx context.Context) {
	var size, lost int64
	var failure error
	silence := make([]byte, recordBlock)
	for n := 1; ; n++ {
		b, more := r.next(ctx)
		if !more {
			break
		}
		if failure != nil {
			continue
		}
		if b == nil {
			b = silence
			lost += int64(len(b))
		}
		k, err := r.file.Write(b)
		size += int64(k)
		if err == nil && size > maxRecord {
			err = errors.New("the recording has the greatest length")
		}
		if err == nil && n%recordSync == 0 {
			err = r.file.Sync()
		}
		if err != nil {
			failure = fmt.Errorf("record: %w", err)
			r.failed.Store(true)
		}
	}
	rec, err := r.complete(size - size%4)
	if err != nil && failure == nil {
		failure = err
	}
	rec.Lost = time.Duration(lost) * time.Second / recordRate
	if failure != nil {
		r.engine.log.Error("recording ends early", "err", failure)
	}
	if r.opt.Done != nil {
		_ = task.Guard(r.engine.log, "end of a recording", func() { r.opt.Done(rec, failure) })
	}
}

// next is the next block, also of what waits when the engine stops.
func (r *Recorder) next(ctx context.Context) (b []byte, more bool) {
	select {
	case b, more = <-r.blocks:
		return b, more
	default:
	}
	select {
	case b, more = <-r.blocks:
	case <-ctx.Done():
		r.stopped.Store(true)
		r.monitor.Stop()
	}
	return b, more
}

// complete writes the lengths into the header, closes the file, and gives it its name.
func (r *Recorder) complete(size int64) (Recording, error) {
	_, err := r.file.WriteAt(wavHeader(2, sampleRate, uint32(size)), 0)
	err = errors.Join(err, r.file.Sync(), r.file.Close())
	if size == 0 || err != nil {
		if size == 0 {
			_ = os.Remove(r.part)
		}
		return Recording{}, err
	}
	return settle(r.part)
}

// settle names a whole file after its content.
func settle(part string) (Recording, error) {
	f, err := os.OpenFile(part, os.O_RDWR, 0)
	if err != nil {
		return Recording{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Recording{}, err
	}
	size := (info.Size() - wavHeaderLen) &^ 3
	if size <= 0 {
		return Recording{}, os.Remove(part)
	}
	if err := errors.Join(f.Truncate(wavHeaderLen+size), write(f, wavHeader(2, sampleRate, uint32(size)))); err != nil {
		return Recording{}, err
	}
	h := sha256.New()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Recording{}, err
	}
	if _, err := io.Copy(h, f); err != nil {
		return Recording{}, err
	}
	if err := f.Sync(); err != nil {
		return Recording{}, err
	}
	rec := Recording{Hash: hex.EncodeToString(h.Sum(nil)), Length: time.Duration(size) * time.Second / recordRate}
	rec.File = filepath.Join(filepath.Dir(part), rec.Hash+".wav")
	if err := os.Rename(part, rec.File); err != nil {
		return Recording{}, err
	}
	dir, err := os.Open(filepath.Dir(part))
	if err != nil {
		return rec, err
	}
	defer dir.Close()
	return rec, dir.Sync()
}

func write(f *os.File, head []byte) error { _, err := f.WriteAt(head, 0); return err }

// Recover makes whole recordings of what a crash has left in a folder, up to the last block that reached the disk, and returns them.
func Recover(dir string) ([]Recording, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []Recording
	var errs []error
	for _, x := range entries {
		if !strings.HasSuffix(x.Name(), partSuffix) {
			continue
		}
		r, err := settle(filepath.Join(dir, x.Name()))
		if err != nil {
			errs = append(errs, fmt.Errorf("recover %s: %w", x.Name(), err))
		} else if r.File != "" {
			list = append(list, r)
		}
	}
	return list, errors.Join(errs...)
}

const wavHeaderLen = 44

// wavHeader is the head of a file of 16 bit samples, drawn at ReadWAV.
func wavHeader(channels, rate int, size uint32) []byte {
	b := append([]byte("RIFF"), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(b[4:], wavHeaderLen-8+size)
	b = append(b, "WAVEfmt "...)
	b = binary.LittleEndian.AppendUint32(b, 16)
	b = binary.LittleEndian.AppendUint16(b, 1)
	b = binary.LittleEndian.AppendUint16(b, uint16(channels))
	b = binary.LittleEndian.AppendUint32(b, uint32(rate))
	b = binary.LittleEndian.AppendUint32(b, uint32(rate*channels*2))
	b = binary.LittleEndian.AppendUint16(b, uint16(channels*2))
	b = binary.LittleEndian.AppendUint16(b, 16)
	b = append(b, "data"...)
	return binary.LittleEndian.AppendUint32(b, size)
}
