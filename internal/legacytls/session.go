package legacytls

import (
	"container/list"
	"crypto/rand"
	"sync"
	"time"
)

// Sessions keeps sessions for resumption. Beyond its limit the one that was used longest ago goes.
type Sessions struct {
	max  int
	life time.Duration

	mu    sync.Mutex
	byID  map[sessionID]*list.Element
	order *list.List // of *session, last used first
}

type sessionID [32]byte

// session is what both sides need to go on without RSA.
type session struct {
	id             sessionID
	made           time.Time
	version, suite uint16
	master         []byte
	chain          [][]byte // of the client
}

// maxKept is the largest client chain that is kept, so that strangers' certificates do not fill the memory.
const maxKept = 8 << 10

// NewSessions makes a cache for max sessions that live for life. Zeros are 4096 and 24 hours.
func NewSessions(max int, life time.Duration) *Sessions {
	if max <= 0 {
		max = 4096
	}
	if life <= 0 {
		life = 24 * time.Hour
	}
	return &Sessions{max: max, life: life, byID: make(map[sessionID]*list.Element), order: list.New()}
}

// Len is the number of sessions kept.
func (s *Sessions) Len() int {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.order.Len()
}

// Forget drops all sessions, so that every phone shows its certificate again.
func (s *Sessions) Forget() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.byID)
	s.order.Init()
}

func newSessionID() (id sessionID) {
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return id
}

func (s *Sessions) put(v *session) {
	size := 0
	for _, c := range v.chain {
		size += len(c)
	}
	if s == nil || size > maxKept {
		return
	}
	v.made = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[v.id] = s.order.PushFront(v)
	for s.order.Len() > s.max {
		s.removeLocked(s.order.Back())
	}
}

func (s *Sessions) get(id []byte) (*session, bool) {
	if s == nil || len(id) != len(sessionID{}) {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.byID[sessionID(id)]
	if !ok {
		return nil, false
	}
	v := e.Value.(*session)
	if time.Since(v.made) > s.life {
		s.removeLocked(e)
		return nil, false
	}
	s.order.MoveToFront(e)
	return v, true
}

// drop forgets a session of which a connection ended in a fatal alert (RFC 2246 §7.2.2).
func (s *Sessions) drop(id sessionID) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.byID[id]; ok {
		s.removeLocked(e)
	}
}

// removeLocked needs s.mu.
func (s *Sessions) removeLocked(e *list.Element) {
	delete(s.byID, e.Value.(*session).id)
	s.order.Remove(e)
}
