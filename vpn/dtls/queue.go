package dtls

import "net/netip"

// queue is the datagrams of one burst, kept in one array so that nothing is allocated per packet. Those of one size that go to
// one peer one after another are sent as one (UDP_SEGMENT). Expedited ones leave first, so that voice does not wait behind a
// download.
type queue struct {
	recs        [][]byte
	voice, bulk []entry
	out         []outbound
}

// entry is recs[start : start+n].
type entry struct {
	to       netip.AddrPort
	local    netip.Addr
	tos      byte
	start, n int
}

// expedited is the lowest traffic class of voice and its signalling: DSCP CS5.
const expedited = 40 << 2

func (q *queue) add(to netip.AddrPort, local netip.Addr, tos byte, rec []byte) {
	list := &q.bulk
	if tos >= expedited {
		list = &q.voice
	}
	q.recs = append(q.recs, rec)
	at := len(q.recs) - 1
	if k := len(*list); k > 0 {
		e := &(*list)[k-1]
		size := len(q.recs[e.start])
		// All but the last have one size, so nothing follows a shorter one.
		if e.to == to && e.tos == tos && e.start+e.n == at && len(rec) <= size && len(q.recs[at-1]) == size && e.n < maxSegs && (e.n+1)*size <= maxGSO {
			e.n++
			return
		}
	}
	*list = append(*list, entry{to, local, tos, at, 1})
}

// messages is what send takes, voice first; without gso each datagram is a message of its own.
func (q *queue) messages(gso bool) []outbound {
	q.out = q.out[:0]
	for _, list := range [][]entry{q.voice, q.bulk} {
		for _, e := range list {
			step := e.n
			if !gso {
				step = 1
			}
			for i := 0; i < e.n; i += step {
				q.out = append(q.out, outbound{e.to, e.local, e.tos, q.recs[e.start+i : e.start+i+step]})
			}
		}
	}
	return q.out
}

func (q *queue) reset() {
	clear(q.recs)
	q.recs, q.voice, q.bulk = q.recs[:0], q.voice[:0], q.bulk[:0]
}
