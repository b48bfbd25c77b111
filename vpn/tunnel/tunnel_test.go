package tunnel

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"
)

// device is a Device of prepared batches.
type device struct {
	in      chan [][]byte
	written [][]byte
	closed  chan struct{}
}

func (d *device) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case batch := <-d.in:
		for i, p := range batch {
			sizes[i] = copy(bufs[i][offset:], p)
		}
		return len(batch), nil
	case <-d.closed:
		return 0, os.ErrClosed
	}
}

func (d *device) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		d.written = append(d.written, bytes.Clone(b[offset:]))
	}
	return len(bufs), nil
}
func (d *device) BatchSize() int { return 16 }
func (d *device) Close() error {
	select {
	case <-d.closed:
	default:
		close(d.closed)
	}
	return nil
}

// peer collects what it is given; it panics when told to.
type peer struct {
	got   chan [][]byte
	panic bool
}

func (p *peer) Deliver(pkts []Packet) {
	if p.panic {
		panic("broken session")
	}
	var run [][]byte
	for _, k := range pkts {
		if cap(k.Buf) < Headroom+k.Len+Tailroom {
			panic("no room behind")
		}
		run = append(run, bytes.Clone(k.Bytes()))
	}
	p.got <- run
}

func packet(dst string, id byte) []byte {
	b := make([]byte, 21)
	b[0], b[3], b[20] = 0x45, 21, id
	a := netip.MustParseAddr(dst).As4()
	copy(b[16:], a[:])
	return b
}

func TestDispatch(t *testing.T) {
	d := &device{in: make(chan [][]byte), closed: make(chan struct{})}
	tn := New(d, slog.New(slog.DiscardHandler), nil)
	a, b, bad := &peer{got: make(chan [][]byte, 9)}, &peer{got: make(chan [][]byte, 9)}, &peer{panic: true}
	tn.Attach(netip.MustParseAddr("10.9.0.2"), a)
	tn.Attach(netip.MustParseAddr("10.9.0.3"), b)
	tn.Attach(netip.MustParseAddr("10.9.0.4"), bad)
	done := make(chan error, 1)
	go func() { done <- tn.Run(t.Context()) }()
	d.in <- [][]byte{packet("10.9.0.2", 1), packet("10.9.0.2", 2), packet("10.9.0.4", 9), packet("10.9.0.9", 9), {1, 2}, packet("10.9.0.3", 3), packet("10.9.0.2", 4)}
	for _, want := range []struct {
		p   *peer
		ids []byte
	}{{a, []byte{1, 2}}, {b, []byte{3}}, {a, []byte{4}}} {
		select {
		case run := <-want.p.got:
			var ids []byte
			for _, k := range run {
				ids = append(ids, k[20])
			}
			if !bytes.Equal(ids, want.ids) {
				t.Errorf("got packets %v, want %v", ids, want.ids)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("packets did not arrive")
		}
	}
	other := &peer{got: make(chan [][]byte, 9)}
	tn.Attach(netip.MustParseAddr("10.9.0.2"), other)
	tn.Detach(netip.MustParseAddr("10.9.0.2"), a) // late: the address has a new owner
	d.in <- [][]byte{packet("10.9.0.2", 5)}
	<-other.got
	d.Close()
	if err := <-done; err != nil {
		t.Errorf("run ended with %v", err)
	}
	if s := tn.Stats(); s.NoSession != 2 || s.ToClients != 6 {
		t.Errorf("stats %+v", s)
	}
}

func TestBatch(t *testing.T) {
	d := &device{}
	tn := New(d, slog.New(slog.DiscardHandler), nil)
	b := NewBatch()
	defer b.Free()
	for i := 0; !b.Full(); i++ {
		b.Add(copy(b.Space(), packet("10.9.0.1", byte(i))))
	}
	tn.Write(b)
	if b.Len() != 0 || len(d.written) != batchLen {
		t.Fatalf("%d written, %d left", len(d.written), b.Len())
	}
	for i, p := range d.written {
		if !bytes.Equal(p, packet("10.9.0.1", byte(i))) {
			t.Errorf("packet %d is %x", i, p)
		}
	}
}

func TestNoRights(t *testing.T) {
	for _, err := range []error{os.ErrNotExist, os.ErrPermission} {
		if got := errors.Is(rights(&os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}), ErrNoRights); !got {
			t.Errorf("%v is not told as missing rights", err)
		}
	}
	if errors.Is(rights(errors.New("busy")), ErrNoRights) {
		t.Error("another error is told as missing rights")
	}
}
