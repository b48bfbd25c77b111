package media

import (
	"net/netip"
	"strings"
	"testing"
)

// byHand is an engine whose only worker has a batch and runs when it is told.
func byHand(t *testing.T) (*Engine, *worker) {
	t.Helper()
	e, err := New(Options{Address: loopback, First: 20000, Last: 29999, Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	w := e.workers[0]
	if w.batch, err = newBatch(); err != nil {
		t.Skipf("this kernel or container does not allow io_uring: %v", err)
	}
	return e, w
}

// beat lets a worker handle what has arrived.
func (w *worker) beat() int {
	n := epollNow(w.sockets, w.buf[:])
	w.now, w.events = w.engine.now(), w.buf[:n]
	w.serve()
	return n
}

func TestBatch(t *testing.T) {
	e, w := byHand(t)
	const calls = 70 // more than a batch holds
	var sessions []*Session
	var from, to []*party
	for i := range calls {
		a, b, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
		if i%2 == 1 { // every other with SRTP, whose packets lie in other memory
			r := pb.remote(pcmu)
			r.SendKey, r.RecvKey = NewKey(AEAD128GCM), NewKey(AEAD128GCM)
			set(t, b, r)
		}
		sessions, from, to = append(sessions, a, b), append(from, pa), append(to, pb)
	}
	for round := range 3 {
		for i, p := range from {
			p.say(0, strings.Repeat(string(rune('a'+i%26)), 100+i+round))
		}
		for n := 0; n < calls; {
			got := w.beat()
			if got == 0 {
				t.Fatalf("nothing more after %d packets of %d", n, calls)
			}
			n += got
		}
		for i, p := range to {
			want := strings.Repeat(string(rune('a'+i%26)), 100+i+round)
			if i%2 == 0 {
				p.expect(0, want)
			} else if b := p.read(); len(b) != rtpHeaderLen+len(want)+16 {
				t.Errorf("protected packet of %d octets, want %d", len(b), rtpHeaderLen+len(want)+16)
			}
		}
	}
	if w.batch == nil {
		t.Fatal("the batch was given up")
	}
	for i, s := range sessions {
		st := s.Stats()
		if i%2 == 0 && st.Rx.Packets != 3 || i%2 == 1 && st.Tx.Packets != 3 || st.Tx.Errors != 0 {
			t.Errorf("session %d counts %+v", i, st)
		}
	}
}

// TestBatchCountsWhatWasNotSent: a packet that the kernel refuses is no packet sent.
func TestBatchCountsWhatWasNotSent(t *testing.T) {
	e, w := byHand(t)
	_, b, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
	r := pb.remote(pcmu)
	r.RTP = netip.MustParseAddrPort("255.255.255.255:4000") // broadcast needs a permission that the socket has not
	set(t, b, r)
	pa.say(0, "hello")
	c, _, pc, pd := pair(t, e, []Format{pcmu}, []Format{pcmu})
	d, _, pe, pf := pair(t, e, []Format{pcmu}, []Format{pcmu})
	pc.say(0, "x")
	pe.say(0, "y")
	w.beat()
	pd.expect(0, "x")
	pf.expect(0, "y")
	if st := b.Stats().Tx; st.Errors != 1 || st.Packets != 0 || st.Octets != 0 {
		t.Errorf("refused packet counted as %+v", st)
	}
	if c.Stats().Rx.Packets != 1 || d.Stats().Rx.Packets != 1 || e.Totals().Relayed != 2 {
		t.Errorf("relayed %d, want 2", e.Totals().Relayed)
	}
}

func TestBatchAllocatesNothing(t *testing.T) {
	e, w := byHand(t)
	var from, to []*party
	for range 5 {
		_, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
		from, to = append(from, pa), append(to, pb)
	}
	packets := make([][]byte, 0, 1200)
	for range cap(packets) {
		packets = append(packets, from[0].packet(0, strings.Repeat("v", 160)))
	}
	buf := make([]byte, 2048)
	next := 0
	allocs := testing.AllocsPerRun(1000, func() {
		for _, p := range from {
			if _, err := p.data.WriteToUDPAddrPort(packets[next], p.to); err != nil {
				t.Fatal(err)
			}
		}
		next++
		w.beat()
		for _, p := range to {
			if _, _, err := p.data.ReadFromUDPAddrPort(buf); err != nil {
				t.Fatal(err)
			}
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per batch", allocs)
	}
}

// TestWithoutRing: what a batch cannot do is done packet by packet, in the same beat.
func TestWithoutRing(t *testing.T) {
	e, w := byHand(t)
	closeFD(w.batch.ring.fd)
	w.batch.ring.fd = -1
	var to []*party
	for range 4 {
		_, _, pa, pb := pair(t, e, []Format{pcmu}, []Format{pcmu})
		to = append(to, pb)
		pa.say(0, "once")
	}
	w.beat()
	for _, p := range to {
		p.expect(0, "once")
	}
	if w.batch != nil || !w.noBatch {
		t.Error("the broken ring is used on")
	}
}

// TestCloseUnderBatches closes sessions while a steady worker works on their packets.
func TestCloseUnderBatches(t *testing.T) {
	e := engine(t, func(o *Options) { o.Workers = 1 })
	_, _, pa, _ := pair(t, e, []Format{pcmu}, []Format{pcmu})
	wait(t, "the worker is steady", func() bool {
		for range 50 {
			pa.say(0, "x")
		}
		return e.Totals().Steady == 1
	})
	for range 30 {
		var all []*Session
		for range 6 {
			a, b, pc, _ := pair(t, e, []Format{pcmu}, []Format{pcmu})
			all = append(all, a, b)
			for range 10 {
				pc.say(0, "y")
			}
		}
		for _, s := range all {
			s.Close()
		}
	}
	if n := e.Totals().Sessions; n != 2 {
		t.Errorf("%d sessions are left, want 2", n)
	}
}
