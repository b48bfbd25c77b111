package provision

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"sync"
	"time"
)

// Limits of the cache of signed files: those of about 800 phones.
const (
	cacheFiles = 4096
	cacheBytes = 64 << 20
)

// digest identifies content.
type digest [sha256.Size]byte

// cacheKey is all that a signed or sealed file depends on.
type cacheKey struct {
	name    string // as inside the file
	content digest
	signer  digest // certificate
	phone   digest // certificate that it is sealed to, zero if none
	hash    byte   // trust.Digest
	version byte   // of a trust list
	at      int64  // time stamp: content that returns is not served under its old one
}

// cache keeps signed files, the ones used last.
type cache struct {
	mu    sync.Mutex
	files map[cacheKey]*list.Element // of *cached
	order *list.List                 // used longest ago first
	bytes int
}

type cached struct {
	key  cacheKey
	body []byte
}

func newCache() *cache { return &cache{files: make(map[cacheKey]*list.Element), order: list.New()} }

func (c *cache) get(k cacheKey) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.files[k]
	if !ok {
		return nil, false
	}
	c.order.MoveToBack(e)
	return e.Value.(*cached).body, true
}

func (c *cache) put(k cacheKey, body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.files[k]; ok {
		c.bytes += len(body) - len(e.Value.(*cached).body)
		e.Value.(*cached).body = body
		c.order.MoveToBack(e)
	} else {
		c.files[k] = c.order.PushBack(&cached{k, body})
		c.bytes += len(body)
	}
	for len(c.files) > cacheFiles || c.bytes > cacheBytes && len(c.files) > 1 {
		e := c.order.Front()
		old := e.Value.(*cached)
		c.order.Remove(e)
		delete(c.files, old.key)
		c.bytes -= len(old.body)
	}
}

// stamps gives signed files their time stamps: one per name and content, never going backwards for a name, whatever the
// clock does (sgn.md). Kept in the local store, so that a restart signs the same bytes again.
type stamps struct {
	local Local // may be nil
	mu    sync.Mutex
	last  map[string]stamp // names are those of declared phones: bounded
}

type stamp struct {
	at      int64 // Unix seconds
	content digest
}

const stampBucket = "provision-stamps"

func (s *stamps) at(name string, content digest, now time.Time) time.Time {
	name = strings.ToLower(name)
	s.mu.Lock()
	last, ok := s.last[name]
	s.mu.Unlock()
	if !ok && s.local != nil {
		if b, found := s.local.Get(stampBucket, name); found && len(b) == 8+len(content) {
			last, ok = stamp{int64(binary.BigEndian.Uint64(b)), digest(b[8:])}, true
		}
	}
	next := last
	if !ok || last.content != content {
		next = stamp{now.Unix(), content}
		if ok {
			next.at = max(next.at, last.at+1)
		}
	}
	s.mu.Lock()
	// Another request may have stamped it in the meantime: then its stamp counts.
	if newer, raced := s.last[name]; raced && newer.content == content {
		next = newer
	} else if raced && newer.at >= next.at {
		next.at = newer.at + 1
	}
	s.last[name] = next
	s.mu.Unlock()
	if next != last && s.local != nil {
		s.local.Put(stampBucket, name, append(binary.BigEndian.AppendUint64(nil, uint64(next.at)), next.content[:]...))
	}
	return time.Unix(next.at, 0)
}
