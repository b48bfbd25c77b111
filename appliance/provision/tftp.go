package provision

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"ringfence/internal/serve"
	"ringfence/internal/task"
)

// TFTPOptions of a TFTPServer.
type TFTPOptions struct {
	Files   *Files
	Address string // host:port
	// Transfers bounds those at once in all and per source; 1024 and 256 when 0. Requests beyond are not answered, phones
	// ask again.
	Transfers, PerSource int
	// PathMTU is the largest packet to a phone; blocks become 32 bytes smaller. 1460 when nil: a tunnel may lie between.
	PathMTU func(netip.Addr) int
	Log     *slog.Logger // may be nil
}

// TFTPServer serves files over TFTP, read only (RFC 1350 with the options of 2347, 2348, 2349 and 7440; provisioning.md
// §3.3). Each transfer has a socket and a goroutine of its own; the reader of port 69 only starts them.
type TFTPServer struct {
	o    TFTPOptions
	log  *slog.Logger
	addr net.Addr
	life *serve.Life[*tftpConn]

	mu        sync.Mutex
	transfers map[netip.AddrPort]*running
	sources   map[netip.Addr]int
}

// running is what the reader of port 69 knows of a transfer.
type running struct {
	name   string
	cancel context.CancelFunc
	again  atomic.Bool // the read request came once more
	wake   func()      // interrupts the wait for a packet; nil before there is a socket
}

// NewTFTP binds the socket. Nothing is read before Run.
func NewTFTP(o TFTPOptions) (*TFTPServer, error) {
	if o.Files == nil {
		return nil, errors.New("provision: TFTP without files")
	}
	if o.Transfers <= 0 {
		o.Transfers = 1024
	}
	if o.PerSource <= 0 {
		o.PerSource = 256
	}
	if o.PathMTU == nil {
		o.PathMTU = func(netip.Addr) int { return capBlock + 32 }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	conn, err := listenTFTP(o.Address)
	if err != nil {
		return nil, fmt.Errorf("provision TFTP: %w", err)
	}
	s := &TFTPServer{o: o, addr: conn.udp.LocalAddr()}
	s.log = o.Log.With("component", "provision", "listener", "TFTP "+s.addr.String())
	s.life = serve.New(conn, serve.Options[*tftpConn]{Name: "provision TFTP", Log: s.log,
		Bind:  func() (*tftpConn, error) { return listenTFTP(s.addr.String()) },
		Close: func(conn *tftpConn) { conn.udp.Close() }})
	return s, nil
}

// Addr is the address of the socket.
func (s *TFTPServer) Addr() net.Addr { return s.addr }

// Run serves until ctx ends or Stop is called (nil), or until the socket fails. It may be called again after a failure and
// then binds the same address anew.
func (s *TFTPServer) Run(ctx context.Context) error { return s.life.Run(ctx, s.read) }

// Stop ends Run and waits for it. It may be called at any time, also twice.
func (s *TFTPServer) Stop() { s.life.Stop() }

// read takes packets from the well-known port. A failing read is tried again a few times: ICMP errors of earlier answers
// arrive here.
func (s *TFTPServer) read(conn *tftpConn, group *task.Group) error {
	s.mu.Lock()
	s.transfers, s.sources = make(map[netip.AddrPort]*running), make(map[netip.Addr]int)
	s.mu.Unlock()
	buf := make([]byte, 2048)
	for failures := 0; ; {
		n, local, peer, err := conn.read(buf)
		if err != nil {
			if failures++; errors.Is(err, net.ErrClosed) || failures > 20 {
				return err
			}
			continue
		}
		failures = 0
		if !peer.IsValid() || peer.Port() == 0 || local.IsMulticast() {
			continue
		}
		s.packet(conn, group, buf[:n], local, peer)
	}
}

// packet answers one packet on the well-known port with at most one packet, or starts a transfer.
func (s *TFTPServer) packet(conn *tftpConn, group *task.Group, b []byte, local netip.Addr, peer netip.AddrPort) {
	reply := func(code uint16, text string) { conn.write(errorPacket(code, text), local, peer) }
	if len(b) < 2 || b[0] != 0 {
		return
	}
	switch b[1] {
	case opRead:
	case opWrite:
		reply(tftpViolation, "read only")
		return
	case opData, opAck, opError, opOptAck:
		return // of no transfer; answering would let two servers talk for ever
	default:
		reply(tftpIllegal, "illegal operation")
		return
	}
	q, err := parseRead(b[2:])
	if err != nil {
		s.log.Info("request refused", "peer", peer.String(), "err", err)
		reply(tftpIllegal, "illegal request")
		return
	}
	ctx, cancel := context.WithCancel(group.Context())
	t, started := s.enter(peer, q.Name, cancel)
	if !started {
		cancel()
		if t != nil { // the same request again: our first packet was lost
			t.again.Store(true)
			s.mu.Lock()
			wake := t.wake
			s.mu.Unlock()
			if wake != nil {
				wake()
			}
		}
		return
	}
	group.Go("tftp transfer", func(context.Context) { s.transfer(ctx, conn, t, q, local, peer) }, func(error) {
		cancel()
		s.leave(peer, t)
	})
}

// enter registers a transfer. It returns the one that runs already if the peer repeats its request, and nil if there is no
// room. A peer that asks for something else has given up what it asked for before.
func (s *TFTPServer) enter(peer netip.AddrPort, name string, cancel context.CancelFunc) (t *running, started bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.transfers[peer]
	if old != nil && old.name == name {
		return old, false
	}
	if len(s.transfers) >= s.o.Transfers || s.sources[peer.Addr()] >= s.o.PerSource {
		return nil, false
	}
	if old != nil {
		old.cancel()
	}
	t = &running{name: name, cancel: cancel}
	s.transfers[peer] = t
	s.sources[peer.Addr()]++
	return t, true
}

func (s *TFTPServer) leave(peer netip.AddrPort, t *running) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.transfers[peer] == t {
		delete(s.transfers, peer)
	}
	if s.sources[peer.Addr()]--; s.sources[peer.Addr()] <= 0 {
		delete(s.sources, peer.Addr())
	}
}

// transfer serves one request from a socket of its own, bound to the address that was asked: a phone takes answers of no
// other (provisioning.md §3.3).
func (s *TFTPServer) transfer(ctx context.Context, well *tftpConn, r *running, q readRequest, local netip.Addr, peer netip.AddrPort) {
	file, err := s.o.Files.Get(Request{Name: q.Name, Transport: TFTP, Source: peer.Addr()})
	if err != nil {
		well.write(errorPacket(tftpNotFound, "not found"), local, peer)
		return
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0)))
	if err != nil {
		s.log.Error("no socket for a transfer", "peer", peer.String(), "err", err)
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	s.mu.Lock()
	r.wake = func() { _ = conn.SetReadDeadline(time.Now()) }
	s.mu.Unlock()

	t := newTransfer(q, file.Body, min(s.o.PathMTU(peer.Addr())-32, maxBlock))
	done := s.exchange(ctx, conn, r, t, peer)
	switch {
	case done:
		file.Delivered()
	case ctx.Err() == nil && t.acked+1 < t.last: // if only the last ACK is missing, the phone has it all
		file.Lost(t.bytes())
	}
}

// exchange drives t until the phone has everything (true), refuses, goes silent or takes too long.
func (s *TFTPServer) exchange(ctx context.Context, conn *net.UDPConn, r *running, t *transfer, peer netip.AddrPort) bool {
	send := func(packets [][]byte) {
		for _, b := range packets {
			_, _ = conn.WriteToUDPAddrPort(b, peer) // lost like any packet
		}
	}
	// However slowly acknowledgements come, there is an end: 2 minutes and a second for each 4 KiB.
	end := time.Now().Add(2*time.Minute + time.Duration(len(t.body)/4096)*time.Second)
	strangers := 0
	buf := make([]byte, 600)
	send(t.start())
	due := time.Now().Add(t.wait)
	for {
		if time.Now().After(end) {
			return false
		}
		if err := conn.SetReadDeadline(due); err != nil {
			return false
		}
		// A repeated request sets again and then the deadline. One that came before the line above has lost its deadline there, so
		// it is looked for here; one that comes later interrupts the read.
		if r.again.Swap(false) {
			send(t.nudge())
		}
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if r.again.Swap(false) {
			send(t.nudge())
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if time.Now().Before(due) {
				continue // woken by a repeated request
			}
			packets, ok := t.timeout()
			if !ok {
				return false
			}
			send(packets)
			due = time.Now().Add(t.wait)
			continue
		case err != nil:
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return false
			}
			continue // an ICMP error; the deadline ends it
		}
		if netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != peer {
			if strangers++; strangers <= 4 {
				_, _ = conn.WriteToUDPAddrPort(errorPacket(tftpUnknownID, "unknown transfer"), from)
			}
			continue
		}
		if n >= 2 && buf[0] == 0 && buf[1] == opError {
			return false
		}
		number, ok := ackNumber(buf[:n])
		if !ok {
			continue
		}
		before := t.acked
		packets, done := t.ack(number)
		if done {
			return true
		}
		if len(packets) > 0 || t.acked != before {
			send(packets)
			due = time.Now().Add(t.wait)
		}
	}
}
