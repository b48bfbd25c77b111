package media

import (
	"sync"
	"time"
)

// jitter holds packets of one party until their time comes: they arrive early, late, twice, in any order, or not at all, and
// leave one after the other. It holds depth packets back, which is what a packet may be late without being missed.
//
//	filling --depth packets--> playing --empty--> filling
//
// The depth follows what arrives: the time that packets take is measured against the fastest, and depth is as many packets as the
// slowest of late have been behind. A packet that comes too late makes the buffer wait for one frame; when it has been longer
// than need be for a second, which a clock of the party that runs fast does too, it gives a packet away.
type jitter struct {
	mu      sync.Mutex
	slots   [jitterSlots]jitterSlot
	next    uint16 // to be played
	count   int
	depth   int // 0 is jitterDepth
	playing bool
	primed  bool // next means something
	wait    bool // let one frame pass, to gain time
	high    int  // for how many frames the buffer has been longer than it need be

	// How long packets take, in nanoseconds, against an origin that means nothing.
	timed   bool
	stamp   uint32 // of the last packet
	at      int64  // its time by the party's clock
	fastest int64
	spread  int64 // of the slowest of late

	late, lost, dropped uint64
}

type jitterSlot struct {
	used bool
	kind uint8
	n    int
	data [jitterBytes]byte
}

const (
	jitterSlots = 32
	jitterBytes = 960 // 120 ms of G.711 or G.722, 30 ms of L16
	jitterDepth = 3   // at first
	jitterLeast = 2
	jitterMost  = 12
	jitterSlack = 2 // packets more than depth that are no harm
)

// arrive measures a packet and takes it.
func (j *jitter) arrive(p packet, kind uint8, payload []byte, again bool, now int64) {
	c := codecs[kind]
	long := int64(len(payload)) * int64(c.samples) * int64(time.Second) / int64(c.octets) / int64(c.sampling)
	if long > 0 {
		j.mu.Lock()
		j.measureLocked(p.timestamp, int64(c.rate), long, again, now)
		j.mu.Unlock()
	}
	j.put(p.seq, kind, payload, again)
}

func (j *jitter) measureLocked(stamp uint32, rate, long int64, again bool, now int64) {
	j.at += int64(int32(stamp-j.stamp)) * int64(time.Second) / rate
	j.stamp = stamp
	took := now - j.at
	if !j.timed || again || took < j.fastest || took > j.fastest+int64(10*time.Second) {
		if !j.timed || again || took < j.fastest-int64(time.Second) || took > j.fastest {
			j.spread = 0 // another stream
		}
		j.timed, j.fastest = true, took
	}
	j.fastest += (took - j.fastest) / 1024 // the clocks differ
	if behind := took - j.fastest; behind > j.spread {
		j.spread = behind
	} else {
		j.spread -= (j.spread - behind) / 256
	}
	j.depth = int(min(max((j.spread+long-1)/long+1, jitterLeast), jitterMost))
}

// put takes a packet. again says that the party's stream begins anew.
func (j *jitter) put(seq uint16, kind uint8, payload []byte, again bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(payload) == 0 || len(payload) > jitterBytes {
		j.dropped++
		return
	}
	ahead := int16(seq - j.next)
	if again || !j.primed || ahead >= jitterSlots {
		j.clearLocked()
		j.next, j.primed, ahead = seq, true, 0
	}
	if ahead < 0 {
		if j.playing || j.count == 0 {
			j.late++
			j.wait = j.playing && j.count < j.wanted()
			return
		}
		// Still filling: the first to arrive was not the first that was sent.
		if int(ahead) <= -j.wanted() {
			j.late++
			return
		}
		j.next = seq
	}
	s := &j.slots[seq%jitterSlots]
	if !s.used {
		j.count++
	}
	s.used, s.kind, s.n = true, kind, copy(s.data[:], payload)
}

func (j *jitter) wanted() int {
	if j.depth == 0 {
		return jitterDepth
	}
	return j.depth
}

func (j *jitter) clearLocked() {
	for i := range j.slots {
		j.slots[i].used = false
	}
	j.count, j.playing, j.high, j.wait = 0, false, 0, false
}

// get copies the next packet to buf. have is false when there is none: lost then tells that later ones are there, so that this
// one will not come any more.
func (j *jitter) get(buf []byte) (n int, kind uint8, have, lost bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.playing {
		if j.count < j.wanted() {
			return 0, 0, false, false
		}
		j.playing = true
	}
	if j.count == 0 {
		j.playing = false
		return 0, 0, false, false
	}
	if j.wait {
		j.wait = false
		return 0, 0, false, true
	}
	if j.count > j.wanted()+jitterSlack {
		if j.high++; j.high > 50 {
			j.high = 0
			j.dropped++
			j.takeLocked(nil)
		}
	} else {
		j.high = 0
	}
	n, kind, have = j.takeLocked(buf)
	if !have {
		j.lost++
	}
	return n, kind, have, !have
}

func (j *jitter) takeLocked(buf []byte) (n int, kind uint8, have bool) {
	s := &j.slots[j.next%jitterSlots]
	j.next++
	if !s.used {
		return 0, 0, false
	}
	s.used = false
	j.count--
	if buf != nil {
		n = copy(buf, s.data[:s.n])
	}
	return n, s.kind, true
}
