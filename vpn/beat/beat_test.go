package beat

import (
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is a source of datagrams and the descriptor that they are sent to.
type pair struct {
	in, out int
	max     int // datagrams taken at one look
	took    int
	total   atomic.Int64
	fail    atomic.Bool
	served  chan int
}

func newPair(t *testing.T, most int) *pair {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return &pair{in: fds[0], out: fds[1], max: most, served: make(chan int, 1<<16)}
}

func (p *pair) FD() int { return p.in }

func (p *pair) Look() (n int, more bool) {
	if p.fail.Load() {
		return -1, false
	}
	var b [16]byte
	for p.took = 0; p.took < p.max; p.took++ {
		if _, err := unix.Read(p.in, b[:]); err != nil {
			return p.took, false
		}
	}
	return p.took, true
}

func (p *pair) Serve() error {
	if p.fail.Load() {
		return errors.New("broken")
	}
	p.total.Add(int64(p.took))
	p.served <- p.took
	return nil
}

func (p *pair) send(t *testing.T) {
	t.Helper()
	if _, err := unix.Write(p.out, []byte{1}); err != nil {
		t.Fatal(err)
	}
}

// answered waits until as many datagrams were served.
func (p *pair) answered(t *testing.T, want int64) {
	t.Helper()
	for p.total.Load() < want {
		select {
		case <-p.served:
		case <-time.After(10 * time.Second):
			t.Fatalf("%d datagrams of %d were served", p.total.Load(), want)
		}
	}
}

// run serves until the test ends.
func run(t *testing.T, sources ...Source) (w *Waiter, ended chan error) {
	t.Helper()
	w, err := New(sources...)
	if err != nil {
		t.Fatal(err)
	}
	ended = make(chan error, 9)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(func(err error) { ended <- err })
	}()
	t.Cleanup(func() {
		w.Close()
		w.Close()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("run did not end")
		}
	})
	return w, ended
}

// No packet is forgotten when the waiter changes its mode, from either source.
func TestEveryPacketIsServed(t *testing.T) {
	a, b := newPair(t, 3), newPair(t, 1)
	w, _ := run(t, a, b)
	sent := int64(0)
	both := func() {
		sent++
		a.send(t)
		b.send(t)
		a.answered(t, sent)
		b.answered(t, sent)
	}
	became := 0
	for round := range 4 {
		was := false
		for deadline := time.Now().Add(10 * time.Second); !was; was = w.Steady() { // one after another, as fast as they are answered
			if both(); time.Now().After(deadline) {
				t.Skip("this machine is too slow to be kept busy")
			}
		}
		became++
		for deadline := time.Now().Add(10 * time.Second); w.Steady(); time.Sleep(time.Millisecond) { // seldom
			if both(); time.Now().After(deadline) {
				t.Fatalf("round %d: still steady with few packets", round)
			}
		}
		for range 5 {
			both()
		}
	}
	if became != 4 {
		t.Errorf("steady %d times", became)
	}
}

// A steady waiter that nobody sends to any more becomes eager by itself.
func TestQuietEndsBeats(t *testing.T) {
	p := newPair(t, 8)
	w, _ := run(t, p)
	for sent := int64(1); !w.Steady(); sent++ {
		p.send(t)
		p.answered(t, sent)
		if sent > 1e6 {
			t.Skip("this machine is too slow to be kept busy")
		}
	}
	before := p.total.Load()
	for deadline := time.Now().Add(10 * time.Second); w.Steady(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("beats go on without packets")
		}
	}
	p.send(t)
	p.answered(t, before+1)
}

// A source that fails ends alone.
func TestSourceEnds(t *testing.T) {
	a, b := newPair(t, 8), newPair(t, 8)
	_, ended := run(t, a, b)
	a.fail.Store(true)
	a.send(t)
	select {
	case err := <-ended:
		if err == nil || errors.Is(err, os.ErrClosed) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a failing source did not end")
	}
	b.send(t)
	b.answered(t, 1)
}
