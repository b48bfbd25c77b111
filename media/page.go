package media

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"ringfence/internal/task"
)

// StreamOptions describe a Stream.
type StreamOptions struct {
	Codec   string           // PCMU, PCMA or G722
	Targets []netip.AddrPort // of phones, or one multicast group
	TTL     int              // of multicast; 0 is 1, which does not leave the network
	From    netip.Addr       // multicast: address of the interface it leaves by; zero is the system's choice
	Done    func()           // called once when the sound is over, from the engine's goroutine; may be nil
}

// Stream sends a sound to many without a call: a page ("rtp-streaming" §3). Each frame is encoded once and goes to every target from one
// port, the same packet for all; what they send back is not read. There is no RTCP and no encryption, since phones take neither here:
// anyone on the way can hear it.
type Stream struct {
	engine *Engine
	opt    StreamOptions
	source Source
	kind   uint8
	port   uint16
	stats  StreamStats // of the pacer's goroutine, but for the copy that Stats makes under mu

	mu      sync.Mutex
	fd      int // -1 once closed
	targets []sockaddr
	over    bool

	// Of the pacer's goroutine.
	out  encodings
	head packet
}

// StreamStats counts what a stream has sent.
type StreamStats struct{ Frames, Packets, Octets, Errors uint64 }

// NewStream opens the port of a stream; Start lets it sound.
func (e *Engine) NewStream(source Source, o StreamOptions) (*Stream, error) {
	kind := playableOf(Format{Name: o.Codec, Rate: 8000})
	if kind != playULaw && kind != playALaw && kind != playG722 {
		return nil, fmt.Errorf("media: no stream in %q", o.Codec)
	}
	if len(o.Targets) == 0 {
		return nil, errors.New("media: stream without a target")
	}
	s := &Stream{engine: e, opt: o, source: source, kind: kind, fd: -1, out: newEncodings()}
	// The payload types are static for all three.
	s.head = packet{
		pt: map[uint8]uint8{playULaw: 0, playALaw: 8, playG722: 9}[kind], marker: true, seq: uint16(rand.Uint32()), timestamp: rand.Uint32(),
		ssrc: rand.Uint32(), offset: rtpHeaderLen,
	}
	s.targets = make([]sockaddr, len(o.Targets))
	for i, t := range o.Targets {
		if s.targets[i].set(unmapped(t)); s.targets[i].len == 0 {
			return nil, fmt.Errorf("media: no target %v", t)
		}
	}
	var last error = ErrNoPorts
	for range maxBindTries {
		p, ok := e.takePort()
		if !ok {
			break
		}
		fd, err := bindUDP(netip.AddrPortFrom(e.opts.Address, p))
		if err == nil {
			if err = s.multicast(fd); err == nil {
				s.fd, s.port = fd, p
				return s, nil
			}
			closeFD(fd)
		}
		e.givePort(p)
		last = err
	}
	return nil, fmt.Errorf("media: stream: %w", last)
}

func (s *Stream) multicast(fd int) error {
	if !slices.ContainsFunc(s.opt.Targets, func(t netip.AddrPort) bool { return t.Addr().IsMulticast() }) {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, max(s.opt.TTL, 1)); err != nil {
		return fmt.Errorf("multicast TTL: %w", err)
	}
	if s.opt.From.Is4() {
		if err := unix.SetsockoptInet4Addr(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, s.opt.From.As4()); err != nil {
			return fmt.Errorf("multicast from %v: %w", s.opt.From, err)
		}
	}
	return nil
}

// LocalPort is where the packets come from.
func (s *Stream) LocalPort() int { return int(s.port) }

// Start begins to send. It may be called once more without effect.
func (s *Stream) Start() { s.engine.pacer.add(s) }

// Drop takes a target out.
func (s *Stream) Drop(target netip.AddrPort) {
	var a sockaddr
	a.set(unmapped(target))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.targets = slices.DeleteFunc(slices.Clone(s.targets), func(t sockaddr) bool { return t == a })
}

// Stop ends the stream and frees its port. It may be called again.
func (s *Stream) Stop() {
	s.mu.Lock()
	fd := s.fd
	s.fd, s.over = -1, true
	s.mu.Unlock()
	if fd < 0 {
		return
	}
	s.engine.pacer.remove(s)
	closeFD(fd)
	s.engine.givePort(s.port)
}

// Stats counts what was sent yet.
func (s *Stream) Stats() StreamStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

func (s *Stream) unused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// tick sends the next frame to all.
func (s *Stream) tick(mem *scratch, _ int64) bool {
	if s.unused() {
		return false
	}
	n := s.source.Read(s.out.pcm[:])
	clear(s.out.pcm[n:])
	s.out.ready(s.kind)
	payload := s.out.frame(s.kind)
	copy(mem.in[rtpHeaderLen:], payload)
	s.mu.Lock()
	packet := putHeader(mem.in[:rtpHeaderLen+len(payload)], s.head, false)
	for i := range s.targets {
		if s.fd < 0 {
			break
		}
		if !sendTo(s.fd, packet, &s.targets[i]) {
			s.stats.Errors++ // one that cannot be reached does not hold up the others
			continue
		}
		s.stats.Packets++
		s.stats.Octets += uint64(len(payload))
	}
	s.stats.Frames++
	s.over = s.over || n < frameSamples
	over := s.over
	s.mu.Unlock()
	s.head.seq++
	s.head.timestamp += frameSamples / 2
	s.head.marker = false
	if over && n < frameSamples && s.opt.Done != nil {
		_ = task.Guard(s.engine.log, "end of a stream", s.opt.Done)
	}
	return !over
}
