package state

import (
	"context"
	"time"

	"ringfence/internal/task"
)

// ChangeKind says what a Change is about.
type ChangeKind string

// Kinds of changes.
const (
	LineChanged     ChangeKind = "line"     // calls, hook, registration, do-not-disturb as seen from outside
	DNDChanged      ChangeKind = "dnd"      //
	ForwardChanged  ChangeKind = "forward"  //
	HuntChanged     ChangeKind = "hunt"     //
	MessagesChanged ChangeKind = "messages" //
	SwitchChanged   ChangeKind = "switch"   //
	PrivacyChanged  ChangeKind = "privacy"  //
)

// Change is one entry of the feed.
type Change struct {
	Kind   ChangeKind
	Line   string // LineChanged, ForwardChanged, MessagesChanged; name of a switch
	Device string // DNDChanged, HuntChanged, PrivacyChanged
	Origin Origin
}

// maxChanges bounds what waits for the feed; beyond, the oldest are dropped: a reader always asks for the state itself.
const maxChanges = 4096

// Watch calls f for every change, from one goroutine, soon after the change. f must not block.
func (s *State) Watch(f func(Change)) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.feedID++
	id := s.feedID
	s.feed[id] = f
	return func() {
		s.mu.Lock()
		delete(s.feed, id)
		s.mu.Unlock()
	}
}

// changedLocked notes a change for the feed and topics whose watchers are to look again. s.mu is held.
func (s *State) changedLocked(c Change, topics ...string) {
	if len(s.changes) >= maxChanges {
		s.changes = s.changes[1:]
	}
	s.changes = append(s.changes, c)
	for _, t := range topics {
		if len(s.topics[t]) > 0 {
			s.dirty[t] = true
		}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run informs watchers.
func (s *State) run(ctx context.Context) {
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-check.C:
			_ = task.Guard(s.opt.Log, "state check", func() { s.Check() })
		}
		for s.step() {
		}
	}
}

// step handles what is dirty now and reports whether there was anything.
func (s *State) step() bool {
	s.mu.Lock()
	changes, feed := s.changes, make([]func(Change), 0, len(s.feed))
	s.changes = nil
	for _, f := range s.feed {
		feed = append(feed, f)
	}
	var dialogs []*dialog
	for t := range s.dirty {
		for d := range s.topics[t] {
			dialogs = append(dialogs, d)
		}
	}
	clear(s.dirty)
	s.mu.Unlock()
	for _, d := range dialogs {
		_ = task.Guard(s.opt.Log, "lamp", func() { s.refresh(d, false) })
	}
	for _, c := range changes {
		for _, f := range feed {
			_ = task.Guard(s.opt.Log, "change feed", func() { f(c) })
		}
	}
	return len(changes)+len(dialogs) > 0
}
