package store

import (
	"fmt"
	"time"
)

// Stamp is a hybrid logical clock: 48 bits of milliseconds since 1970, 16 bits of counter. A later operation of one origin,
// and an operation that saw another one, always has the higher stamp, even when the wall clock stands still or steps back.
//
// Clock-suspect rule (libraries.md, record rule 3): a stamp of another origin more than MaxAhead ahead of our wall clock
// does not move our clock. Its operation is applied in its sequence but ordered by a stamp of ours (Op.Ordered), marked
// suspect and alarmed, so that a clock ten minutes fast cannot win over a later change.
type Stamp uint64

// MaxAhead is how far a foreign stamp may run ahead of our wall clock before it is suspect.
const MaxAhead = 60 * time.Second

const counterBits = 16

// StampAt is the lowest stamp of the millisecond of t.
func StampAt(t time.Time) Stamp {
	ms := t.UnixMilli()
	if ms < 0 {
		ms = 0
	}
	return Stamp(ms) << counterBits
}

// Time is the wall time part of s.
func (s Stamp) Time() time.Time { return time.UnixMilli(int64(s >> counterBits)) }

// Suspect tells whether s, stamped by another appliance, is too far ahead of now to be believed.
func (s Stamp) Suspect(now time.Time) bool { return s.Time().Sub(now) > MaxAhead }

// String shows time and counter.
func (s Stamp) String() string {
	return fmt.Sprintf("%s+%d", s.Time().UTC().Format("2006-01-02T15:04:05.000Z"), uint16(s))
}

// clock issues stamps. It has one owner, the committer.
type clock struct{ last Stamp }

// tick returns the stamp of an event at wall time now.
func (c *clock) tick(now time.Time) Stamp {
	c.last = max(c.last+1, StampAt(now))
	return c.last
}

// Version says which operation a value comes from. The zero Version stands for "never written".
type Version struct {
	Stamp  Stamp
	Seq    uint64
	Origin string
}

// IsZero tells whether v is no version.
func (v Version) IsZero() bool { return v == Version{} }

// After tells whether v wins over w: by stamp, then origin, then sequence.
func (v Version) After(w Version) bool {
	if v.Stamp != w.Stamp {
		return v.Stamp > w.Stamp
	}
	if v.Origin != w.Origin {
		return v.Origin > w.Origin
	}
	return v.Seq > w.Seq
}
