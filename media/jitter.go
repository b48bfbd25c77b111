package media

import "sync"

// jitter holds packets of one party until their time comes: they arrive early, late, twice, in any order, or not at all, and
// leave one after the other. It holds depth packets back, which is what a packet may be late without being missed.
//
//	filling --depth packets--> playing --empty--> filling
//
// The clock of the party and ours differ: when the buffer has grown for a while it gives a packet away.
type jitter struct {
	mu      sync.Mutex
	slots   [jitterSlots]jitterSlot
	next    uint16 // to be played
	count   int
	playing bool
	primed  bool // next means something
	high    int  // for how many packets the buffer has been longer than it need be

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
	jitterDepth = 3
	jitterHigh  = jitterDepth + 3
)

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
			return
		}
		// Still filling: the first to arrive was not the first that was sent.
		if int(ahead) <= -jitterDepth {
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

func (j *jitter) clearLocked() {
	for i := range j.slots {
		j.slots[i].used = false
	}
	j.count, j.playing, j.high = 0, false, 0
}

// get copies the next packet to buf. have is false when there is none: lost then tells that later ones are there, so that this
// one will not come any more.
func (j *jitter) get(buf []byte) (n int, kind uint8, have, lost bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.playing {
		if j.count < jitterDepth {
			return 0, 0, false, false
		}
		j.playing = true
	}
	if j.count == 0 {
		j.playing = false
		return 0, 0, false, false
	}
	if j.count > jitterHigh {
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
