package anyconnect

import (
	"container/list"
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"sync"
	"time"

	"ringfence/vpn/session"
)

// state is a log-in conversation between two posts: clients may make a new connection for each (§3). Requests work on a copy and
// store it back.
type state struct {
	id     string
	source netip.Addr
	group  string
	failed int
	who    session.Identity // proven by the first factor
	until  time.Time
	place  *list.Element
}

const (
	stateLife = 5 * time.Minute
	maxStates = 4096
)

// states is the conversations, oldest first. When the table is full the oldest goes.
type states struct {
	mu   sync.Mutex // guards all below
	byID map[string]*state
	age  *list.List
}

func newStates() *states { return &states{byID: make(map[string]*state), age: list.New()} }

func (t *states) create(source netip.Addr, group string) *state {
	var b [32]byte
	rand.Read(b[:])
	st := &state{id: hex.EncodeToString(b[:]), source: source, group: group, until: time.Now().Add(stateLife)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.age.Len() >= maxStates {
		t.dropLocked(t.age.Front().Value.(*state))
	}
	st.place = t.age.PushBack(st)
	t.byID[st.id] = st
	return st
}

// find returns a copy of the conversation, if it was begun from the same address.
func (t *states) find(id string, source netip.Addr) *state {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := t.byID[id]
	if st == nil || st.source != source || !time.Now().Before(st.until) {
		return nil
	}
	c := *st
	return &c
}

// store puts a copy back, unless the conversation has ended.
func (t *states) store(st *state) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.byID[st.id]; old != nil {
		*old = *st
	}
}

func (t *states) drop(st *state) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.byID[st.id]; old != nil {
		t.dropLocked(old)
	}
}

func (t *states) dropLocked(st *state) {
	t.age.Remove(st.place)
	delete(t.byID, st.id)
}

func (t *states) expire(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for e := t.age.Front(); e != nil; e = t.age.Front() {
		if st := e.Value.(*state); now.Before(st.until) {
			return
		} else {
			t.dropLocked(st)
		}
	}
}
