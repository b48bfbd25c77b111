// Package netsvc holds the small network services that phones expect of their call manager's network besides files: the time.
//
// Time is served by SNTP (RFC 5905 §14, RFC 4330), unicast, from this machine's clock. It leaves out authentication, symmetric
// and broadcast modes, and every control message: those are how time servers were turned into amplifiers.
package netsvc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// ntpSize is the length of a packet without extensions. An answer is never longer than the question.
//
//	 0      1        2     3          4           8                12
//	+------+--------+-----+----------+-----------+----------------+--------+
//	|LI VN | stratum| poll| precision| root delay| root dispersion| ref id |
//	|Mode  |        |     |          |           |                |        |
//	+------+--------+-----+----------+-----------+----------------+--------+
//	16: reference time   24: origin time   32: receive time   40: transmit time   (8 bytes each)
const ntpSize = 48

const (
	modeClient = 3
	modeServer = 4

	leapNone    = 0
	leapUnknown = 3

	stratumSynced = 3  // we do not know whom the machine follows; phones ask only whether it is below 16
	stratumAlone  = 10 // the machine's own clock: better than none, and one that is synchronised wins against it

	precision = -20 // about a microsecond

	// From 1900, where NTP counts from, to 1970.
	ntpEpoch = 2208988800
)

// NTPOptions of an NTPServer.
type NTPOptions struct {
	Address string // host:port
	// Earliest is a moment that has certainly passed, such as the day of the release. While the clock shows less, phones are
	// told that there is no time yet, and they ask again. The year of the first release when zero.
	Earliest time.Time
	Now      func() time.Time // time.Now when nil
	Synced   func() bool      // whether somebody keeps the clock right; asks the kernel when nil
	Log      *slog.Logger     // may be nil
}

// NTPServer answers phones that ask for the time.
type NTPServer struct {
	o     NTPOptions
	conn  net.PacketConn
	multi *ipv4.PacketConn // of an IPv4 socket: tells which of our addresses was asked, so that the answer comes from it

	answered, refused atomic.Uint64
}

// NewNTP binds the socket. Nothing is read before Run.
func NewNTP(o NTPOptions) (*NTPServer, error) {
	if o.Earliest.IsZero() {
		o.Earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Synced == nil {
		o.Synced = kernelSynced
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	network := "udp"
	if a, err := net.ResolveUDPAddr("udp", o.Address); err == nil && a.IP.To4() != nil {
		network = "udp4"
	}
	conn, err := net.ListenPacket(network, o.Address)
	if err != nil {
		return nil, fmt.Errorf("time service: %w", err)
	}
	s := &NTPServer{o: o, conn: conn}
	if network == "udp4" {
		s.multi = ipv4.NewPacketConn(conn)
		if err := s.multi.SetControlMessage(ipv4.FlagDst, true); err != nil {
			conn.Close()
			return nil, fmt.Errorf("time service: %w", err)
		}
	}
	return s, nil
}

// Addr is where it listens.
func (s *NTPServer) Addr() net.Addr { return s.conn.LocalAddr() }

// Counts are questions answered, and packets that were no question.
func (s *NTPServer) Counts() (answered, refused uint64) { return s.answered.Load(), s.refused.Load() }

// Run answers until ctx ends.
func (s *NTPServer) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.Stop)()
	buf := make([]byte, 512)
	for {
		n, dst, from, err := s.read(buf)
		received := s.o.Now()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			continue // an ICMP error of an earlier answer
		}
		answer, ok := s.answer(buf[:n], received)
		if !ok {
			s.refused.Add(1)
			continue
		}
		if s.write(answer[:], dst, from) == nil {
			s.answered.Add(1)
		}
	}
}

// Stop closes the socket.
func (s *NTPServer) Stop() { _ = s.conn.Close() }

func (s *NTPServer) read(buf []byte) (n int, dst net.IP, from net.Addr, err error) {
	if s.multi == nil {
		n, from, err = s.conn.ReadFrom(buf)
		return n, nil, from, err
	}
	n, cm, from, err := s.multi.ReadFrom(buf)
	if cm != nil {
		dst = cm.Dst
	}
	return n, dst, from, err
}

func (s *NTPServer) write(b []byte, src net.IP, to net.Addr) (err error) {
	if s.multi == nil {
		_, err = s.conn.WriteTo(b, to)
		return err
	}
	var cm *ipv4.ControlMessage
	if src != nil && !src.IsMulticast() {
		cm = &ipv4.ControlMessage{Src: src}
	}
	_, err = s.multi.WriteTo(b, cm, to)
	return err
}

// answer makes the server's packet for a client's; ok is false for everything that is not a client's question.
func (s *NTPServer) answer(q []byte, received time.Time) (a [ntpSize]byte, ok bool) {
	if len(q) < ntpSize {
		return a, false
	}
	version, mode := q[0]>>3&7, q[0]&7
	// Version 1 has no mode; nothing that asks so is left.
	if mode != modeClient || version < 2 || version > 4 {
		return a, false
	}
	leap, stratum := byte(leapNone), byte(stratumAlone)
	reference := [4]byte{127, 127, 1, 0} // the local clock, as time servers write it
	switch {
	case received.Before(s.o.Earliest):
		leap, stratum, reference = leapUnknown, 0, [4]byte{'I', 'N', 'I', 'T'}
	case s.o.Synced():
		stratum = stratumSynced
	}
	a[0] = leap<<6 | version<<3 | modeServer
	a[1] = stratum
	a[2] = q[2] // poll interval as asked
	p := int8(precision)
	a[3] = byte(p)
	if stratum == stratumAlone {
		binary.BigEndian.PutUint32(a[8:], 1<<16) // one second, in units of 2^-16 s
	} else {
		binary.BigEndian.PutUint32(a[8:], 1<<10) // about 16 ms
	}
	copy(a[12:16], reference[:])
	putNTP(a[16:], received.Truncate(time.Minute))
	copy(a[24:32], q[40:48]) // what the client wrote comes back untouched: it is how it knows its answer
	putNTP(a[32:], received)
	putNTP(a[40:], s.o.Now())
	return a, true
}

// putNTP writes seconds since 1900 and a fraction of 2^-32 s. The era goes round in 2036, which is how the format is.
func putNTP(b []byte, t time.Time) {
	binary.BigEndian.PutUint32(b, uint32(t.Unix()+ntpEpoch))
	binary.BigEndian.PutUint32(b[4:], uint32(uint64(t.Nanosecond())<<32/1e9))
}

// kernelSynced asks the kernel whether somebody (a time client on this machine) keeps its clock right.
func kernelSynced() bool {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return err == nil && state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0
}
