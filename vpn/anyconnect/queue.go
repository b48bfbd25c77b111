package anyconnect

import "ringfence/vpn/cstp"

// queue is the frames that wait for a full socket. Expedited packets (voice: DSCP EF and CS5 to CS7) leave before others.
// Bounds: control 8 frames, expedited 64 packets where the oldest is dropped, since old voice is worth nothing, and others 256
// packets where the newest is dropped, as routers do.
type queue struct {
	control, voice, bulk [][]byte
	dropped              int // since it was last asked
}

const (
	maxControl = 8
	maxVoice   = 64
	maxBulk    = 256
)

// expedited tells packets that voice and its signalling are made of.
func expedited(frame []byte) bool {
	if len(frame) < cstp.HeaderLen+2 {
		return false
	}
	p := frame[cstp.HeaderLen:]
	class := p[1]
	if p[0]>>4 == 6 {
		class = p[0]<<4 | p[1]>>4
	}
	return class>>2 >= 40
}

func (q *queue) push(frame []byte) {
	c := append([]byte(nil), frame...)
	switch {
	case !expedited(frame):
		if len(q.bulk) >= maxBulk {
			q.dropped++
			return
		}
		q.bulk = append(q.bulk, c)
	default:
		if len(q.voice) >= maxVoice {
			q.dropped++
			q.voice = q.voice[1:]
		}
		q.voice = append(q.voice, c)
	}
}

func (q *queue) pushFront(frame []byte) {
	if len(q.control) >= maxControl {
		q.dropped++
		return
	}
	q.control = append(q.control, append([]byte(nil), frame...))
}

// pop returns the next frame, or nil.
func (q *queue) pop() (frame []byte) {
	for _, l := range []*[][]byte{&q.control, &q.voice, &q.bulk} {
		if len(*l) > 0 {
			frame, *l = (*l)[0], (*l)[1:]
			if len(*l) == 0 {
				*l = nil
			}
			return frame
		}
	}
	return nil
}

func (q *queue) empty() bool { return len(q.control)+len(q.voice)+len(q.bulk) == 0 }
