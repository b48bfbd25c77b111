package phoneclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"ringfence/internal/task"
	"ringfence/vpn/cstp"
)

// queued packets wait for ReadPacket; more are dropped, as a phone's own stack would.
const queued = 512

// Conn is a tunnel. It is safe for concurrent use.
type Conn struct {
	info   *Info
	cookie string
	raw    net.Conn
	tls    *tls.Conn
	group  *task.Group

	in   chan []byte
	done chan struct{}

	mu  sync.Mutex // guards err, and that done is closed once
	err error

	wmu  sync.Mutex // guards wbuf and the order of frames
	wbuf []byte

	heard   atomic.Int64 // when something last arrived, in nanoseconds
	stats   stats
	dropped atomic.Uint64
	udp     atomic.Pointer[udp] // nil while payload goes over TCP
}

type stats struct{ udpPackets, rxPackets, rxBytes, txPackets, txBytes, probes atomic.Uint64 }

// Stats counts payload in both directions.
type Stats struct {
	RxPackets, RxBytes, TxPackets, TxBytes uint64
	Probes                                 uint64 // dead peer detection requests answered
	Dropped                                uint64 // packets that ReadPacket was too slow for
	UDPPackets                             uint64 // of the received ones
}

func newConn(c *tls.Conn, raw net.Conn, info *Info, cookie string, o *Options, host string) *Conn {
	t := &Conn{info: info, cookie: cookie, raw: raw, tls: c, in: make(chan []byte, queued), done: make(chan struct{}),
		group: task.NewGroup(context.Background(), o.Log)}
	t.heard.Store(time.Now().UnixNano())
	ended := func(err error) {
		if err != nil {
			t.fail(err)
		}
	}
	t.group.Go("phone tunnel reader", t.read, ended)
	dpd := info.DPD
	if o.DPD > 0 {
		dpd = o.DPD
	}
	t.group.Go("phone tunnel timer", func(ctx context.Context) { t.timers(ctx, dpd, info.Keep) }, ended)
	if o.UDP {
		t.group.Go("phone tunnel datagrams", func(ctx context.Context) {
			if err := t.bringUpUDP(ctx, o, info.udp, host); err != nil && ctx.Err() == nil {
				o.Log.Info("UDP channel", "err", err)
			}
		})
	}
	return t
}

// OnUDP tells whether payload goes over UDP.
func (t *Conn) OnUDP() bool { return t.udp.Load() != nil }

// Info is what the server granted.
func (t *Conn) Info() *Info { return t.info }

// Address is the inner IPv4 address.
func (t *Conn) Address() netip.Addr { return t.info.Address.Addr() }

// MTU is the largest packet the tunnel takes.
func (t *Conn) MTU() int { return t.info.MTU }

// Cookie is the session's secret, for Reconnect.
func (t *Conn) Cookie() string { return t.cookie }

// Done is closed when the tunnel has ended; Err then says why.
func (t *Conn) Done() <-chan struct{} { return t.done }

// Err is nil while the tunnel is up.
func (t *Conn) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Stats returns the counters.
func (t *Conn) Stats() Stats {
	s := &t.stats
	return Stats{s.rxPackets.Load(), s.rxBytes.Load(), s.txPackets.Load(), s.txBytes.Load(), s.probes.Load(), t.dropped.Load(), s.udpPackets.Load()}
}

// ReadPacket waits for the next packet and copies it to b.
func (t *Conn) ReadPacket(b []byte) (int, error) {
	select {
	case p := <-t.in:
		return copy(b, p), nil
	default:
	}
	select {
	case p := <-t.in:
		return copy(b, p), nil
	case <-t.done:
		return 0, t.Err()
	}
}

// WritePacket sends one IP packet.
func (t *Conn) WritePacket(p []byte) error {
	if len(p) > t.info.MTU {
		return fmt.Errorf("%w: %d > %d", ErrTooBig, len(p), t.info.MTU)
	}
	u := t.udp.Load()
	if u == nil || u.write(cstp.Data, p) != nil {
		if err := t.write(cstp.Frame{Type: cstp.Data, Payload: p}); err != nil {
			return err
		}
	}
	t.stats.txPackets.Add(1)
	t.stats.txBytes.Add(uint64(len(p)))
	return nil
}

// write sends one frame in one record.
func (t *Conn) write(f cstp.Frame) error {
	t.wmu.Lock()
	defer t.wmu.Unlock()
	if err := t.Err(); err != nil {
		return err
	}
	t.wbuf = f.Append(t.wbuf[:0])
	t.raw.SetWriteDeadline(time.Now().Add(30 * time.Second))
	if _, err := t.tls.Write(t.wbuf); err != nil {
		t.fail(fmt.Errorf("tunnel write: %w", err))
		return t.Err()
	}
	return nil
}

// Close says goodbye with the code of the user's wish, which ends the session at the server.
func (t *Conn) Close() error {
	_ = t.write(cstp.Frame{Type: cstp.Disconnect, Payload: append([]byte{cstp.UserWish}, "phone goes away"...)})
	t.fail(ErrClosed)
	t.group.Stop()
	return nil
}

// Drop breaks the outer connection without a word, as a lost network does. The session lives on at the server.
func (t *Conn) Drop() {
	t.fail(ErrClosed)
	t.group.Stop()
}

func (t *Conn) fail(err error) {
	t.mu.Lock()
	first := t.err == nil
	if first {
		t.err = err
	}
	t.mu.Unlock()
	if first {
		close(t.done)
		t.raw.Close()
	}
}

// read takes records: tls.Conn gives at most one per Read when the buffer holds the largest one.
func (t *Conn) read(context.Context) {
	buf := make([]byte, 1<<14+1)
	for {
		n, err := t.tls.Read(buf)
		if err != nil {
			t.fail(fmt.Errorf("tunnel read: %w", err))
			return
		}
		if n == 0 {
			continue
		}
		t.heard.Store(time.Now().UnixNano())
		f, rest, err := cstp.Next(buf[:n])
		if err == nil && len(rest) > 0 || errors.Is(err, cstp.ErrShort) {
			err = fmt.Errorf("%w: %d bytes", ErrRecord, n)
		}
		if err == nil {
			err = t.frame(f)
		}
		if err != nil {
			t.fail(err)
			return
		}
	}
}

func (t *Conn) frame(f cstp.Frame) error {
	switch f.Type {
	case cstp.Data:
		if len(f.Payload) == 0 || len(f.Payload) > t.info.MTU {
			return fmt.Errorf("%w: server sent %d bytes", ErrTooBig, len(f.Payload))
		}
		t.stats.rxPackets.Add(1)
		t.stats.rxBytes.Add(uint64(len(f.Payload)))
		select {
		case t.in <- append([]byte(nil), f.Payload...):
		default:
			t.dropped.Add(1)
		}
	case cstp.DPDRequest:
		t.stats.probes.Add(1)
		return t.write(cstp.Frame{Type: cstp.DPDResponse, Payload: f.Payload})
	case cstp.DPDResponse, cstp.Keepalive:
	case cstp.Disconnect, cstp.Terminate:
		_, text := cstp.DisconnectReason(f.Payload)
		return fmt.Errorf("%w: %s %s", ErrPutOut, f.Type, text)
	default:
		return fmt.Errorf("frame of %v was not agreed", f.Type)
	}
	return nil
}

// timers keeps the way through address translation open and notices a dead server (§8).
func (t *Conn) timers(ctx context.Context, dpd, keep time.Duration) {
	step := time.Second
	for _, d := range []time.Duration{dpd / 4, keep} {
		if d > 0 && d < step {
			step = d
		}
	}
	tick := time.NewTicker(step)
	defer tick.Stop()
	kept, probed := time.Now(), time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.done:
			return
		case now := <-tick.C:
			heard := time.Unix(0, t.heard.Load())
			if keep > 0 && now.Sub(kept) >= keep {
				kept = now
				_ = t.write(cstp.Frame{Type: cstp.Keepalive})
			}
			if dpd <= 0 || now.Sub(heard) < dpd {
				continue
			}
			if now.Sub(heard) >= 2*dpd {
				t.fail(fmt.Errorf("%w for %v", ErrDead, now.Sub(heard).Round(time.Second)))
				return
			}
			if now.Sub(probed) >= dpd/2 {
				probed = now
				_ = t.write(cstp.Frame{Type: cstp.DPDRequest})
			}
		}
	}
}
