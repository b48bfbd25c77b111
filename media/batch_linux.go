package media

import (
	"golang.org/x/sys/unix"

	"ringfence/internal/task"
)

// batch is how a steady worker handles the packets of a beat: all sockets that have one are read in one system call, the packets
// are worked on one after the other as ever, and what they became is sent in a second call.
//
//	epoll: these have something -> read all -> for each: receive, forward -> send all
//
// Between reading and sending only descriptors are held, and no lock of a session. So that none of them is closed meanwhile, and its number
// given to a stranger, Session.Close waits for the end of the batch at hand (settle) before it closes any.
type batch struct {
	ring  *ring
	slots [batchSize]slot
	used  int
	next  int // which is worked on
}

// slot is one packet of a batch and what became of it.
type slot struct {
	scratch
	endpoint *endpoint
	read     message
	out      outgoing
}

// outgoing is a packet that waits for the end of the batch.
type outgoing struct {
	session *Session // nil: none
	to      sockaddr
	message message
	payload int
}

const (
	// batchSize bounds the packets of a batch: so many are there when a worker comes late.
	batchSize = 64
	// batchLeast is from how many packets on it is worth while.
	batchLeast = 3
)

func newBatch() (*batch, error) {
	r, err := newRing(batchSize)
	if err != nil {
		return nil, err
	}
	return &batch{ring: r}, nil
}

// serveBatch handles the first events of those that are left. It tells false when that cannot be done in this way, with no event handled.
func (w *worker) serveBatch() bool {
	b := w.batch
	w.batching.Lock()
	defer w.batching.Unlock()
	b.used = 0
	taken := 0
	for ; taken < len(w.events) && b.used < batchSize; taken++ {
		ep := w.engine.socks[w.events[taken].Fd].Load()
		if ep == nil || ep.worker != w {
			continue
		}
		if ep.control {
			ep.session.readControl(w, w.now)
			continue
		}
		s := &b.slots[b.used]
		s.endpoint, s.got, s.later, s.out.session = ep, notRead, &s.out, nil
		s.read.point(&s.from, unix.SizeofSockaddrInet6, s.in[:])
		b.ring.put(ringOpRecvmsg, ep.fd, &s.read, unix.MSG_DONTWAIT, uint64(b.used))
		b.used++
	}
	if err := b.ring.submit(w.haveRead); err != nil {
		w.dropBatch(err)
		return false
	}
	w.events = w.events[taken:]
	own := w.mem
	for b.next = 0; b.next < b.used; b.next++ {
		if s := &b.slots[b.next]; s.got >= 0 {
			w.mem = &s.scratch
			_ = task.Guard(w.engine.log, "media packet", w.oneOfBatch)
		}
	}
	w.mem = own
	for i := range b.used {
		if o := &b.slots[i].out; o.session != nil {
			b.ring.put(ringOpSendmsg, o.session.data.fd, &o.message, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, uint64(i))
		}
	}
	if err := b.ring.submit(w.haveSent); err != nil {
		w.dropBatch(err)
	}
	return true
}

// workOnOne handles the packet that is next.
func (w *worker) workOnOne() {
	w.batch.slots[w.batch.next].endpoint.session.readData(w, w.now)
}

func (w *worker) noteRead(i uint64, res int32) { w.batch.slots[i].got = int(res) }

// noteSent takes back what was counted when the packet was put into the batch, if it has not gone out.
func (w *worker) noteSent(i uint64, res int32) {
	o := &w.batch.slots[i].out
	if res >= 0 {
		return
	}
	w.relayed.Add(^uint64(0))
	tx := &o.session.tx
	tx.Lock()
	tx.count.Errors++
	tx.count.Packets--
	tx.count.Octets -= uint64(o.payload)
	tx.Unlock()
}

// dropBatch ends the use of the ring.
func (w *worker) dropBatch(err error) {
	w.engine.log.Info("media worker sends packets one by one", "err", err)
	w.batch.ring.close()
	w.batch, w.noBatch = nil, true
}

// send keeps a packet for the end of the batch.
func (o *outgoing) send(s *Session, b []byte, to *sockaddr, payload int) {
	o.session, o.to, o.payload = s, *to, payload
	o.message.point(&o.to, o.to.len, b)
}

// settle waits until no worker is in the middle of a batch that began before.
func (e *Engine) settle() {
	for _, w := range e.workers {
		w.batching.Lock()
		//lint:ignore SA2001 the wait is all that is wanted
		w.batching.Unlock()
	}
}
