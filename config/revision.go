package config

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Store keeps revisions; *store.Store satisfies it.
type Store interface {
	Get(key string) ([]byte, bool)
	Scan(prefix string, fn func(key string, value []byte) bool)
	Write(ctx context.Context, set map[string][]byte, del ...string) error
}

// A revision is kept as two values that never change: what a pair shares under config/revision/, and the lines of node:
// under node/config/revision/, which belong to one appliance and are not for its peer. The key ends in the number and the
// first digits of the hash, so that two revisions of one number, made on both sides of a cut, both live.
const (
	sharedPrefix = "config/revision/"
	nodePrefix   = "node/config/revision/"
	maxRevisions = 100 // the oldest go first
)

var (
	// ErrNoRevision is returned where nothing has been stored yet.
	ErrNoRevision = errors.New("no configuration is stored: apply one with \"ringfence config apply FILE\", or start with --config FILE")
	// ErrUnknownRevision is returned for the number of a revision that is not kept.
	ErrUnknownRevision = errors.New("no such revision of the configuration")
)

// Revision is one state of the stored document.
type Revision struct {
	Number  int       `json:"number"` // from 1; 0 is none
	Time    time.Time `json:"time"`
	Author  string    `json:"author"`
	Comment string    `json:"comment,omitempty"`
	SHA256  string    `json:"sha256"` // of the document as it was applied
}

// String names a revision in one line.
func (r Revision) String() string {
	s := fmt.Sprintf("revision %d by %s at %s", r.Number, r.Author, r.Time.Format(time.RFC3339))
	if r.Comment != "" {
		s += ": " + r.Comment
	}
	return s
}

// record is the stored form of the shared part.
type record struct {
	Revision
	NodeAt int    `json:"node_at"` // line before which the lines of node: stood, from 0
	Text   string `json:"text"`
}

func (r Revision) suffix() string { return fmt.Sprintf("%010d-%.12s", r.Number, r.SHA256) }

// Revisions is the stored configuration: its current document and those before it. It may be used by any goroutine.
type Revisions struct {
	store Store
	now   func() time.Time

	applying sync.Mutex // one change at a time, held over the write to the store

	mu      sync.RWMutex // guards what follows
	doc     *Document
	notices []Notice
	current Revision
}

// OpenRevisions reads the newest revision. It fails if that does not pass the checks of this release; the error then is of
// type Errors and names the lines.
func OpenRevisions(store Store, now func() time.Time) (*Revisions, error) {
	if now == nil {
		now = time.Now
	}
	r := &Revisions{store: store, now: now}
	return r, r.Refresh()
}

// Refresh takes over the newest stored revision, if it is not the current one already.
func (r *Revisions) Refresh() error {
	r.applying.Lock()
	defer r.applying.Unlock()
	list, damaged := r.list()
	if len(damaged) > 0 && (len(list) == 0 || damaged[len(damaged)-1] > sharedPrefix+list[0].suffix()) {
		// An older document must not come into force silently.
		return fmt.Errorf("read the newest revision of the configuration: the stored value %s is damaged", damaged[len(damaged)-1])
	}
	if len(list) == 0 {
		return nil
	}
	newest := list[0]
	if _, cur := r.Current(); cur == newest {
		return nil
	}
	data, err := r.text(newest)
	if err != nil {
		return err
	}
	d, notices, err := ParseStored(fmt.Sprintf("revision %d", newest.Number), data)
	if err != nil {
		return err
	}
	r.set(d, notices, newest)
	return nil
}

func (r *Revisions) set(d *Document, notices []Notice, rev Revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doc, r.notices, r.current = d, notices, rev
}

// Current gives the document in force and its revision; nil and the zero Revision before the first Apply.
func (r *Revisions) Current() (*Document, Revision) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.doc, r.current
}

// Notices of the document in force.
func (r *Revisions) Notices() []Notice {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Clone(r.notices)
}

// Apply checks a document and stores it as the next revision. Nothing is stored unless it is wholly valid; the error of a
// document with faults is of type Errors. The difference to the revision before is returned with secrets hidden. A document
// equal to the current one makes no revision.
func (r *Revisions) Apply(ctx context.Context, author, text string, data []byte) (Revision, string, error) {
	r.applying.Lock()
	defer r.applying.Unlock()
	_, before := r.Current()
	sum := sha256.Sum256(data)
	rev := Revision{
		Number: before.Number + 1, Time: r.now().UTC().Truncate(time.Second), SHA256: hex.EncodeToString(sum[:]),
		Author: oneLine(author, 64), Comment: oneLine(text, 200),
	}
	if rev.Author == "" {
		return Revision{}, "", errors.New("apply configuration: the author is not known")
	}
	if rev.SHA256 == before.SHA256 {
		return before, "", nil
	}
	name := fmt.Sprintf("revision %d", rev.Number)
	d, notices, err := ParseStored(name, data)
	if err != nil {
		return Revision{}, "", err
	}
	shared, node, at, err := splitNode(name, data)
	if err != nil {
		return Revision{}, "", err
	}
	value, err := json.Marshal(record{rev, at, shared})
	if err != nil {
		return Revision{}, "", fmt.Errorf("apply configuration: %w", err)
	}
	diff, err := r.difference(before, name, data)
	if err != nil {
		return Revision{}, "", err
	}
	set := map[string][]byte{sharedPrefix + rev.suffix(): value, nodePrefix + rev.suffix(): []byte(node)}
	if err := r.store.Write(ctx, set, r.outdated()...); err != nil {
		return Revision{}, "", fmt.Errorf("store configuration: %w", err)
	}
	r.set(d, notices, rev)
	return rev, diff, nil
}

// outdated lists the keys of revisions that make room for one more.
func (r *Revisions) outdated() []string {
	var out []string
	for i, rev := range r.List() {
		if i >= maxRevisions-1 {
			out = append(out, sharedPrefix+rev.suffix(), nodePrefix+rev.suffix())
		}
	}
	return out
}

// List names the kept revisions, newest first.
func (r *Revisions) List() []Revision {
	list, _ := r.list()
	return list
}

// list also gives the keys, in order, of values that are no revisions.
func (r *Revisions) list() (out []Revision, damaged []string) {
	r.store.Scan(sharedPrefix, func(key string, value []byte) bool {
		var rec struct{ Revision } // the text is left where it is
		if json.Unmarshal(value, &rec) == nil && rec.Number > 0 {
			out = append(out, rec.Revision)
		} else {
			damaged = append(damaged, key)
		}
		return true
	})
	slices.SortStableFunc(out, func(a, b Revision) int {
		if a.Number != b.Number {
			return b.Number - a.Number
		}
		return b.Time.Compare(a.Time)
	})
	return out, damaged
}

// Raw is the text of a revision with its secrets, for editing by those who may.
func (r *Revisions) Raw(number int) ([]byte, error) {
	rev, err := r.find(number)
	if err != nil {
		return nil, err
	}
	return r.text(rev)
}

// Show is the text of a revision with its secrets hidden.
func (r *Revisions) Show(number int) (string, error) {
	data, err := r.Raw(number)
	if err != nil {
		return "", err
	}
	return strings.Join(redactable("", data).redactedText(), "\n"), nil
}

// Difference is what a revision changed, with secrets hidden.
func (r *Revisions) Difference(number int) (string, error) {
	rev, err := r.find(number)
	if err != nil {
		return "", err
	}
	data, err := r.text(rev)
	if err != nil {
		return "", err
	}
	before, err := r.find(number - 1)
	if err != nil && number > 1 {
		return "", fmt.Errorf("difference to revision %d: %w", number-1, err)
	}
	return r.difference(before, fmt.Sprintf("revision %d", number), data)
}

func (r *Revisions) difference(before Revision, name string, data []byte) (string, error) {
	var old []byte
	if before.Number > 0 {
		var err error
		if old, err = r.text(before); err != nil {
			return "", err
		}
	}
	return unifiedDiff(fmt.Sprintf("revision %d", before.Number), name, redactable("", old), redactable("", data)), nil
}

func (r *Revisions) find(number int) (Revision, error) {
	for _, rev := range r.List() {
		if rev.Number == number {
			return rev, nil
		}
	}
	return Revision{}, fmt.Errorf("%w: %d", ErrUnknownRevision, number)
}

// text puts a revision together again. One that came from the peer has no node: of ours; the newest that we have is taken.
func (r *Revisions) text(rev Revision) ([]byte, error) {
	value, ok := r.store.Get(sharedPrefix + rev.suffix())
	if !ok {
		return nil, fmt.Errorf("%w: %d", ErrUnknownRevision, rev.Number)
	}
	var rec record
	if err := json.Unmarshal(value, &rec); err != nil {
		return nil, fmt.Errorf("read revision %d: %w", rev.Number, err)
	}
	node, own := r.store.Get(nodePrefix + rev.suffix())
	if !own {
		r.store.Scan(nodePrefix, func(_ string, value []byte) bool {
			node = slices.Clone(value)
			return true
		})
	}
	data := joinNode(rec.Text, string(node), rec.NodeAt)
	if sum := sha256.Sum256(data); own && hex.EncodeToString(sum[:]) != rev.SHA256 {
		return nil, fmt.Errorf("read revision %d: the stored text does not have the hash that was stored with it", rev.Number)
	}
	return data, nil
}

// oneLine makes text fit for a line of a list.
func oneLine(s string, limit int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if r := []rune(s); len(r) > limit {
		s = string(r[:limit])
	}
	return s
}
