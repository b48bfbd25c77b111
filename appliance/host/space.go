package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Space guards the file system that holds the state. Sound fills disks; what phones and users set, and calls, must not suffer from it.
//
//	free   ──▶ below Shed:    recordings go, the oldest first, then messages that were heard, until Shed is free again
//	       ──▶ below Refuse:  no recording and no message begins any more, said in the status
//	       ──▶ below Last:    the reserve, a file that was laid out before, is given to the database
//
// Messages that nobody has heard are never removed.
type Space struct {
	o   SpaceOptions
	log *slog.Logger

	mu   sync.Mutex // guards the rest
	view SpaceView
}

// SpaceOptions of a Space.
type SpaceOptions struct {
	Dir     string
	Shelves []Shelf // shed in this order
	Log     *slog.Logger
	// Free tells size and free bytes; of Dir's file system when nil.
	Free func() (size, free uint64)
}

// Shelf holds sound that may go.
type Shelf struct {
	Name string // as in "recordings"
	// Oldest is what goes next: a name for the log, when it was made, and how it is removed. ok is false when nothing may go.
	Oldest func() (what string, at time.Time, remove func(ctx context.Context) error, ok bool)
}

// SpaceView is how full the disk is.
type SpaceView struct {
	Size    uint64 `json:"size"`
	Free    uint64 `json:"free"`
	Refuses bool   `json:"refuses"` // no sound is recorded any more
	Shed    int    `json:"shed"`    // recordings and messages removed for room since the start
	Reserve bool   `json:"reserve"` // the reserve is in place
	What    string `json:"-"`       // the last that went
	Problem string `json:"problem,omitempty"`
}

// Bounds. They are parts of the disk, within limits that suit small and large ones.
const (
	spaceEvery  = 10 * time.Second
	reserveSize = 8 << 20
	lastFree    = 4 << 20
	shedMost    = 200 // in one round
)

// Reserve is the name of the file in the state directory.
const Reserve = "reserve"

func shedBelow(size uint64) uint64   { return min(max(size/20, 48<<20), 1<<30) }
func refuseBelow(size uint64) uint64 { return shedBelow(size) / 2 }

// NewSpace makes a guard; nothing is looked at before Run or Round.
func NewSpace(o SpaceOptions) *Space {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Free == nil {
		o.Free = func() (uint64, uint64) { h := LookAt("/nowhere", o.Dir); return h.Size, h.Free }
	}
	return &Space{o: o, log: o.Log}
}

// Run looks from time to time until ctx ends.
func (s *Space) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		s.Round(ctx)
		pause(ctx, spaceEvery)
	}
	return nil
}

// Round looks once, and makes room.
func (s *Space) Round(ctx context.Context) {
	size, free := s.o.Free()
	if size == 0 {
		return
	}
	v := s.View()
	v.Problem = ""
	for n := 0; free < shedBelow(size) && n < shedMost && ctx.Err() == nil; n++ {
		what, err := s.shed(ctx)
		if err != nil {
			v.Problem = err.Error()
			s.log.Error("room on the disk", "err", err)
			break
		}
		if what == "" {
			break
		}
		v.Shed, v.What = v.Shed+1, what
		s.log.Warn("removed for room on the disk", "what", what)
		_, free = s.o.Free()
	}
	if refuses := free < refuseBelow(size); refuses != v.Refuses {
		s.log.Warn("recording on a full disk", "refused", refuses, "free", free)
		v.Refuses = refuses
	}
	v.Size, v.Free = size, free
	v.Reserve = s.reserve(free)
	s.mu.Lock()
	s.view = v
	s.mu.Unlock()
}

// shed removes the oldest thing of the first shelf that has one.
func (s *Space) shed(ctx context.Context) (string, error) {
	for _, shelf := range s.o.Shelves {
		what, at, remove, ok := shelf.Oldest()
		if !ok {
			continue
		}
		if err := remove(ctx); err != nil {
			return "", fmt.Errorf("%s: remove %s: %w", shelf.Name, what, err)
		}
		return fmt.Sprintf("%s of %s", what, at.Local().Format(time.DateTime)), nil
	}
	return "", nil
}

// reserve lays the reserve out while there is room, and gives it up when there is none. It tells whether it is in place.
func (s *Space) reserve(free uint64) bool {
	name := filepath.Join(s.o.Dir, Reserve)
	_, err := os.Stat(name)
	there := err == nil
	switch {
	case there && free < lastFree:
		if err := os.Remove(name); err != nil {
			s.log.Error("reserve", "err", err)
			return true
		}
		s.log.Warn("the disk is full; the reserve is given to the database")
		return false
	case !there && free > 8*reserveSize:
		f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err == nil {
			err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, reserveSize), f.Close())
		}
		if err == nil {
			err = os.Rename(name+".new", name)
		}
		if err != nil {
			_ = os.Remove(name + ".new")
			s.log.Info("no reserve", "err", err)
			return false
		}
		return true
	}
	return there
}

// View tells how full the disk was when it was last looked at.
func (s *Space) View() SpaceView {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view
}

// ErrFull is returned where nothing more is recorded.
var ErrFull = errors.New("the disk is almost full; nothing more is recorded")

// Room tells whether something may be recorded.
func (s *Space) Room() error {
	if s.View().Refuses {
		return ErrFull
	}
	return nil
}

// Warnings are for the status.
func (s *Space) Warnings() []string {
	v := s.View()
	var out []string
	if v.Refuses {
		out = append(out, fmt.Sprintf("the disk is almost full, %d MiB of %d MiB are free: no call and no message is recorded; delete recordings or messages, or use a larger disk", v.Free>>20, v.Size>>20))
	} else if v.Size > 0 && v.Free < shedBelow(v.Size) {
		out = append(out, fmt.Sprintf("the disk has %d MiB of %d MiB free", v.Free>>20, v.Size>>20))
	}
	if v.Shed > 0 {
		out = append(out, fmt.Sprintf("%d recordings and heard messages were removed for room on the disk, the last was %s", v.Shed, v.What))
	}
	if v.Problem != "" {
		out = append(out, "room on the disk: "+v.Problem)
	}
	return out
}
