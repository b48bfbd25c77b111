// Package record keeps recordings of calls ("sip-calls" §15): on the Record key, or of every call of a line.
//
//	idle --key, answer--> starting --entry written--> asked --both copies--> recording --key, end of the call--> idle, file whole
//	                          |                         |--refused: the appliance records, or a text says that it failed
//
// The phone's built-in bridge copies both directions of its call to the appliance (call.Tap), so that the call itself is not
// touched. Where the document says so, or where the phone has no bridge and the document allows it, the appliance records what
// passes through it. Either way the file has the user of the line left and whoever he hears right, and what is not heard, as in a
// hold, is silence: the file runs as the clock does.
//
// A recording is a WAV file in a folder of its own and an entry in the store. The entry is made, as pending, before anything is
// recorded: a crash leaves a file that the next start makes whole, and an entry that says whose it is.
//
// It leaves out: handing copies to a recorder of somebody else's, calls whose codec cannot be decoded here (G.729, Opus, iLBC),
// and a warning tone for the other party where phones talk directly (the phone that records is asked to play it to both).
package record

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync"
	"time"

	"ringfence/config"
	"ringfence/media"
	"ringfence/sip/call"
	"ringfence/sip/cisco"
)

// Store keeps what may not be lost; *store.Store is one.
type Store interface {
	Scan(prefix string, fn func(key string, value []byte) bool)
	Write(ctx context.Context, set map[string][]byte, del ...string) error
}

// Options of Recordings.
type Options struct {
	Dir    string // of the files; made if it is not there
	Store  Store
	Policy func() config.Recording
	// Refer notes in the record of a call that there is a recording. May be nil.
	Refer func(call, text string)
	Log   *slog.Logger
}

// Recordings are all of them, those that are being made included.
type Recordings struct {
	o   Options
	log *slog.Logger

	mu      sync.Mutex
	running map[*call.Leg]*session
	list    []Entry // the oldest first
	last    int64   // of names given out
}

// session is one that is being made. Its fields belong to the goroutine of the leg's owner, but for those below mu.
type session struct {
	r     *Recordings
	leg   *call.Leg
	entry Entry
	auto  bool

	mu      sync.Mutex
	tap     *call.Tap
	here    *media.Recorder
	release func() // lets the phones talk directly again
	stopped bool   // by key, or with the call
	failed  bool   // nothing of it is to stay
	paused  bool
	warn    *time.Timer
}

// Names of ways to record, as the document has them.
const (
	byPhone     = "phone"
	byAppliance = "appliance"
)

// Key is the entry for the keys StartRecording and StopRecording.
func (r *Recordings) Key(l *call.Leg, k *call.Key) {
	s := r.of(l)
	switch {
	case k.Event.Event == "StopRecording":
		if s != nil {
			s.stop()
		}
	case s != nil && s.isHere():
		s.stop() // the phone does not know that it is recorded, so its key says start
	case s == nil:
		r.start(l, false)
	}
	k.Done(200)
}

// MayPress refuses keys that mean nothing: recording a line that is not to be recorded, or the end of what has not begun.
func (r *Recordings) MayPress(l *call.Leg, event string) bool {
	switch event {
	case "StartRecording":
		return l.Line.Record != config.RecordNever
	case "StopRecording":
		return r.of(l) != nil
	}
	return true
}

// Up is told that a phone talks: calls of some lines are always recorded.
func (r *Recordings) Up(l *call.Leg) {
	if l.Line.Record == config.RecordAlways {
		r.start(l, true)
	}
}

// Down is told that a leg is over.
func (r *Recordings) Down(l *call.Leg) {
	if s := r.of(l); s != nil {
		s.stop()
		r.forget(s)
	}
}

func (r *Recordings) of(l *call.Leg) *session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running[l]
}

func (r *Recordings) forget(s *session) {
	r.mu.Lock()
	if r.running[s.leg] == s {
		delete(r.running, s.leg)
	}
	r.mu.Unlock()
}

// maxRunning bounds recordings at once: each writes 64 kB a second.
const maxRunning = 500

// start begins a recording: first its entry.
func (r *Recordings) start(l *call.Leg, auto bool) {
	party := l.Peer()
	if party.Restricted {
		party = call.Identity{Name: "withheld"}
	}
	s := &session{r: r, leg: l, auto: auto}
	r.mu.Lock()
	if r.running[l] != nil || len(r.running) >= maxRunning {
		full := r.running[l] == nil
		r.mu.Unlock()
		if full {
			r.log.Error("call is not recorded: there are too many recordings", "line", l.Line.Number)
		}
		return
	}
	r.running[l] = s
	s.entry = Entry{
		ID: r.nameLocked(), Line: l.Line.Number, Name: l.Line.Name, Device: l.Device, Party: party.Number, PartyName: party.Name,
		Incoming: !l.Incoming, Call: l.CallName(), At: time.Now().UTC(), Auto: auto, Pending: true,
	}
	r.mu.Unlock()
	l.Manager().Go("recording", func(ctx context.Context) {
		err := r.begin(ctx, s.entry)
		if err != nil {
			r.log.Error("recording", "line", s.entry.Line, "err", err)
		}
		if !l.Do(func() { s.begin(err) }) {
			r.forget(s)
			r.drop(s.entry)
		}
	})
}

// begin asks the phone, or records here.
func (s *session) begin(err error) {
	s.mu.Lock()
	stopped := s.stopped
	s.mu.Unlock()
	if stopped {
		s.r.forget(s)
		s.r.drop(s.entry)
		return
	}
	by := s.r.o.Policy().By
	if err == nil && by != byAppliance {
		if err = s.ask(); err == nil {
			return
		}
	}
	if by != byPhone && s.leg.Talking() {
		err = s.recordHere()
	}
	if err != nil {
		s.giveUp(err.Error())
	}
}

func (s *session) ask() error {
	var recorded bool
	tap, err := s.leg.Tap(call.TapOptions{
		Auto: s.auto, Dir: s.r.folder(s.entry),
		Began: func() {
			recorded = true
			s.began(byPhone)
		},
		Over: func(why string, file bool) {
			if why != "" && !recorded && s.leg.Do(func() { s.refused(why, file) }) {
				return
			}
			s.over()
			if !file {
				s.r.drop(s.what())
			}
		},
		Done: s.done,
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.tap = tap
	s.mu.Unlock()
	tap.Pause(s.isPaused())
	return nil
}

// refused: the phone does not copy. The call goes on as it is.
func (s *session) refused(why string, file bool) {
	s.r.log.Info("phone does not copy its call", "phone", s.entry.Device, "line", s.entry.Line, "err", why)
	s.mu.Lock()
	stopped := s.stopped
	s.tap = nil
	s.mu.Unlock()
	if s.r.o.Policy().By == byPhone || stopped || file {
		s.mu.Lock()
		s.failed = true
		s.mu.Unlock()
		s.giveUp(why)
		return
	}
	if err := s.recordHere(); err != nil {
		s.giveUp(err.Error())
	}
}

// recordHere records what passes through the appliance.
func (s *session) recordHere() error {
	rec, err := s.leg.RecordHere(s.r.folder(s.entry), s.done)
	if err != nil {
		return err
	}
	release := s.leg.Anchor()
	s.mu.Lock()
	s.here, s.release = rec, release
	rec.Pause(s.paused)
	s.mu.Unlock()
	s.began(byAppliance)
	if !s.auto {
		s.tell("Recording")
	}
	return nil
}

// giveUp tells the user that there is no recording.
func (s *session) giveUp(why string) {
	s.r.log.Info("call is not recorded", "phone", s.entry.Device, "line", s.entry.Line, "err", why)
	s.over()
	s.r.drop(s.entry)
	s.tell("Recording failed")
}

func (s *session) tell(text string) {
	s.leg.Push(nil, cisco.Request{StatusLine: &cisco.StatusLine{Text: text, Seconds: 10, Priority: 1}})
}

// began: something comes. It may be called from anywhere.
func (s *session) began(by string) {
	s.mu.Lock()
	s.entry.By = by
	s.mu.Unlock()
	e := s.what()
	s.r.update(e)
	s.r.log.Info("call is recorded", "phone", e.Device, "line", e.Line, "call", e.Call, "by", by)
	if s.r.o.Refer != nil {
		s.r.o.Refer(e.Call, "recording "+e.ID)
	}
	s.leg.Do(s.beep)
}

// what is a copy of the entry.
func (s *session) what() Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entry
}

// beep warns both parties, again and again if the document says so.
func (s *session) beep() {
	every := time.Duration(s.r.o.Policy().WarningSeconds) * time.Second
	s.mu.Lock()
	defer s.mu.Unlock()
	if every <= 0 || s.stopped || !s.leg.Talking() {
		return
	}
	s.leg.Push(nil, cisco.Request{PlayTone: &cisco.PlayTone{Dialog: s.leg.DialogID(), Tone: "DtZipZip"}})
	s.leg.Warn(warning)
	s.warn = time.AfterFunc(every, func() { s.leg.Do(s.beep) })
}

// warning is the tone that tells people that they are recorded: 1400 Hz, as is usual, and as loud as speech.
func warning() media.Source {
	const rate, hz, length = 16000, 1400, 16000 / 4
	pcm := make([]int16, length)
	for i := range pcm {
		soft := min(1, float64(i)/160, float64(length-i)/160)
		pcm[i] = int16(6000 * soft * math.Sin(2*math.Pi*hz*float64(i)/rate))
	}
	return &media.Once{Samples: pcm}
}

func (s *session) isHere() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.here != nil
}

func (s *session) isPaused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.paused
}

// stop ends the recording; it may be called from anywhere, and again.
func (s *session) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	s.stopped = true
	if s.warn != nil {
		s.warn.Stop()
	}
	if s.tap != nil {
		s.tap.Stop()
	}
	if s.here != nil {
		s.here.Stop()
		s.leg.Do(s.release)
		s.r.forget(s)
	}
}

// over: no more comes.
func (s *session) over() {
	s.mu.Lock()
	if !s.stopped && s.release != nil {
		s.leg.Do(s.release)
	}
	s.stopped = true
	if s.warn != nil {
		s.warn.Stop()
	}
	s.mu.Unlock()
	s.r.forget(s)
}

// done gets the file.
func (s *session) done(rec media.Recording, err error) {
	e := s.what()
	if err != nil {
		s.r.log.Error("recording ends early", "line", e.Line, "err", err)
	}
	s.mu.Lock()
	failed := s.failed
	s.mu.Unlock()
	if failed {
		s.r.drop(e)
		return
	}
	s.over()
	s.r.finish(context.Background(), e, rec)
}

// Pause puts silence in place of what is said in the calls of a line that are being recorded, as for the number of a card, or ends
// that. It returns how many there are.
func (r *Recordings) Pause(line string, on bool) int {
	r.mu.Lock()
	var list []*session
	for _, s := range r.running {
		if s.entry.Line == line {
			list = append(list, s)
		}
	}
	r.mu.Unlock()
	for _, s := range list {
		s.mu.Lock()
		s.paused = on
		if s.tap != nil {
			s.tap.Pause(on)
		}
		if s.here != nil {
			s.here.Pause(on)
		}
		s.mu.Unlock()
	}
	return len(list)
}

// New opens the recordings and makes whole what a crash has left.
func New(ctx context.Context, o Options) (*Recordings, error) {
	if o.Dir == "" || o.Store == nil || o.Policy == nil {
		return nil, errors.New("record: Dir, Store and Policy are required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	r := &Recordings{o: o, log: o.Log.With("component", "record"), running: map[*call.Leg]*session{}}
	r.load(ctx)
	return r, nil
}

// Run deletes recordings that are older than they may be, until ctx ends.
func (r *Recordings) Run(ctx context.Context) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		r.purge(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
